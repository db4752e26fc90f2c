package objstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

// unwritable checks that a person is told what to do.
func unwritable(t *testing.T, err error) {
	t.Helper()
	require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
	f, _ := failure.As(err)
	require.NotEmpty(t, f.Remedy)
}

// asNobody works on a thread that has lost root's rights to files, and is gone with its goroutine.
func asNobody(t *testing.T, work func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		work()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends
		if err := unix.Setfsuid(65534); err != nil {
			t.Errorf("setfsuid: %v", err)
			return
		}
		work()
	}()
	<-done
}

func TestPermissionDenied(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "a/x", []byte("there")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a"), 0o500))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a", "x"), 0o000))
	require.NoError(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "a"), 0o700); _ = os.Chmod(dir, 0o700) })
	var opening, reading error
	writing := make(map[string]error)
	asNobody(t, func() {
		_, opening = objstore.Open(ctx, "file://"+dir+"/new")
		_, reading = s.Read(ctx, "a/x", 100)
		writing["create"], writing["replace"] = s.Create(ctx, "a/y", nil), s.Replace(ctx, "a/x", nil)
		writing["new folder"], writing["delete"] = s.Create(ctx, "b/y", nil), s.Delete(ctx, "a/x")
		writing["list"] = s.List(ctx, "a/", func(objstore.Info) error { return nil })
	})
	unwritable(t, opening)
	unwritable(t, reading)
	for op, err := range writing {
		if op == "list" && os.Geteuid() != 0 {
			continue // it is the owner, and may list
		}
		require.Error(t, err, op)
		unwritable(t, err)
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "a", "x"), 0o400))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a"), 0o700))
	got, err := s.Read(ctx, "a/x", 100)
	require.NoError(t, err)
	require.Equal(t, "there", string(got))
	noTemporary(t, dir)
}

// TestFolderRemovedInTheMiddle removes the store under its writers. Nobody is told that what they
// wanted to write does not exist, and nothing is made anew in a place that nobody sees.
func TestFolderRemovedInTheMiddle(t *testing.T) {
	for name, prepare := range map[string]func(objstore.Store){"unnamed": func(objstore.Store) {}, "named": objstore.WithoutUnnamed} {
		t.Run(name, func(t *testing.T) {
			ctx, dir := objstoretest.Context(t), filepath.Join(t.TempDir(), "store")
			s := folder(t, dir)
			prepare(s)
			require.NoError(t, s.Create(ctx, "a/x", []byte("there")))
			require.NoError(t, os.RemoveAll(dir))
			unwritable(t, s.Create(ctx, "a/y", []byte("x")))
			unwritable(t, s.Create(ctx, "y", []byte("x")))
			unwritable(t, s.Replace(ctx, "a/x", []byte("x")))
			unwritable(t, s.Replace(ctx, "x", []byte("x")))
			_, err := s.Read(ctx, "a/x", 10)
			require.ErrorIs(t, err, objstore.ErrNotExist)
			require.NoDirExists(t, dir)
		})
	}
}

// TestFoldersRemovedUnderWriters removes the folder that several write into, over and over: each write
// is there or failed in words.
func TestFoldersRemovedUnderWriters(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	s := folder(t, dir)
	var done atomic.Bool
	var working sync.WaitGroup
	working.Go(func() {
		for !done.Load() {
			_ = os.RemoveAll(filepath.Join(dir, "a")) // writers fill it meanwhile
		}
	})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				err := s.Replace(ctx, fmt.Sprintf("a/b/%d-%d", w, i), []byte("x"))
				if err != nil && !failure.Is(err, failure.StoreUnwritable) {
					t.Errorf("not in words: %v", err)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	working.Wait()
	noTemporary(t, dir)
}

// TestDiskThatCannotBeRead reads from a file that the kernel answers with EIO.
func TestDiskThatCannotBeRead(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "a/x", []byte("there")))
	path := filepath.Join(dir, "a", "x")
	if err := unix.Mount("/proc/self/mem", path, "", unix.MS_BIND, ""); errors.Is(err, fs.ErrPermission) {
		t.Skip("only root may mount")
	} else {
		require.NoError(t, err)
	}
	defer func() { require.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) }()
	_, err := s.Read(ctx, "a/x", 100)
	require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
	require.ErrorContains(t, err, "input/output error")
}

// TestDiskFullInTheMiddle fills the disk until nothing fits, folders included.
func TestDiskFullInTheMiddle(t *testing.T) {
	ctx, dir := objstoretest.Context(t), small(t)
	for name, prepare := range map[string]func(objstore.Store){"unnamed": func(objstore.Store) {}, "named": objstore.WithoutUnnamed} {
		s := folder(t, dir)
		prepare(s)
		var kept []string
		var err error
		for i := 0; err == nil; i++ {
			key := fmt.Sprintf("%s/%d/x", name, i) // with folders of its own
			if err = s.Create(ctx, key, bytes.Repeat([]byte("x"), 5000)); err == nil {
				kept = append(kept, key)
			}
		}
		require.True(t, failure.Is(err, failure.DiskFull), "%v", err)
		require.ElementsMatch(t, kept, objstoretest.Keys(t, s, name+"/"))
		for _, key := range kept {
			err := s.Replace(ctx, key, bytes.Repeat([]byte("y"), 200_000))
			require.True(t, failure.Is(err, failure.DiskFull), "%v", err)
			got, err := s.Read(ctx, key, 5000)
			require.NoError(t, err)
			require.Len(t, got, 5000)
		}
		noTemporary(t, dir)
		for _, key := range kept {
			require.NoError(t, s.Delete(ctx, key), "a full disk can be made empty")
		}
	}
}

// TestTwinsOfOtherProcesses has several processes create the same keys at once.
func TestTwinsOfOtherProcesses(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	const keys, twins = 200, 4
	if os.Getenv("UPKEEP_TWIN") != "" {
		s := folder(t, os.Getenv("UPKEEP_TWIN"))
		for i := range keys {
			if err := s.Create(ctx, fmt.Sprintf("a/%d", i), fmt.Appendf(nil, "%d", os.Getpid())); err == nil {
				fmt.Printf("won %d by %d\n", i, os.Getpid())
			} else {
				require.ErrorIs(t, err, objstore.ErrExist)
			}
		}
		return
	}
	s := folder(t, dir)
	won := make([]string, twins)
	var working sync.WaitGroup
	for i := range twins {
		working.Go(func() {
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestTwinsOfOtherProcesses$", "-test.v")
			cmd.Env = append(os.Environ(), "UPKEEP_TWIN="+dir)
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("a twin: %v\n%s", err, out)
			}
			won[i] = string(out)
		})
	}
	working.Wait()
	for i := range keys {
		owner, err := s.Read(ctx, fmt.Sprintf("a/%d", i), 20)
		require.NoError(t, err)
		said := 0
		for _, out := range won {
			said += bytes.Count([]byte(out), fmt.Appendf(nil, "won %d by ", i))
		}
		require.Equal(t, 1, said, "one winner of %d", i)
		require.Contains(t, fmt.Sprint(won), fmt.Sprintf("won %d by %s\n", i, owner))
	}
	noTemporary(t, dir)
}
