package objstore_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

func folder(t *testing.T, dir string) objstore.Store {
	t.Helper()
	s, err := objstore.Open(objstoretest.Context(t), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "with its parents")
	s, err := objstore.Open(objstoretest.Context(t), "file://"+filepath.Dir(dir)+"/with%20its%20parents")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	objstoretest.Conform(t, s, "file://"+dir+"/")
	noTemporary(t, dir)
}

func TestFolderWithoutUnnamedFiles(t *testing.T) {
	dir := t.TempDir()
	s := folder(t, dir)
	objstore.WithoutUnnamed(s)
	objstoretest.Conform(t, s, "file://"+dir+"/")
	noTemporary(t, dir)
}

func noTemporary(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NotContains(t, path, ".upkeep-tmp-")
		return err
	}))
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{
		"", "/var/lib/upkeep", "file://relative/path", "file:relative", "file:///x?y=z", "ftp://host/x", "s3://user:secret-word@bucket", "://", "http://bucket",
	} {
		_, err := objstore.Open(objstoretest.Context(t), url)
		require.True(t, failure.Is(err, failure.BadConfig), "%s: %v", url, err)
		require.NotContains(t, err.Error(), "secret-word")
	}
}

func TestLinksLeadNowhere(t *testing.T) {
	ctx, dir, outside := objstoretest.Context(t), t.TempDir(), t.TempDir()
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "a/inside", []byte("inside")))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("outside"), 0o600))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "a", "file")))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "folder")))
	require.NoError(t, os.Symlink("self", filepath.Join(dir, "self")))
	for _, key := range []string{"a/file", "folder/secret", "self"} {
		_, err := s.Read(ctx, key, 100)
		require.True(t, failure.Is(err, failure.UnsafeArchive), "%s: %v", key, err)
		require.ErrorContains(t, err, key)
		_, err = s.Stat(ctx, key)
		require.True(t, failure.Is(err, failure.UnsafeArchive), "%s: %v", key, err)
	}
	require.True(t, failure.Is(s.Create(ctx, "folder/new", nil), failure.UnsafeArchive))
	require.True(t, failure.Is(s.Replace(ctx, "folder/secret", nil), failure.UnsafeArchive))
	require.True(t, failure.Is(s.Delete(ctx, "folder/secret"), failure.UnsafeArchive))
	require.Equal(t, []string{"a/inside"}, objstoretest.Keys(t, s, ""), "a listing does not follow links")

	require.NoError(t, s.Replace(ctx, "a/file", []byte("new")), "the link itself is replaced")
	require.NoError(t, s.Delete(ctx, "self"), "the link itself is deleted")
	got, err := os.ReadFile(filepath.Join(outside, "secret"))
	require.NoError(t, err)
	require.Equal(t, "outside", string(got))
}

func TestWhatIsNoFileIsNotThere(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	s := folder(t, dir)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	for _, key := range []string{"pipe", "folder"} {
		_, err := s.Read(ctx, key, 100)
		require.ErrorIs(t, err, objstore.ErrNotExist)
		_, err = s.Stat(ctx, key)
		require.ErrorIs(t, err, objstore.ErrNotExist)
		require.ErrorIs(t, s.Create(ctx, key, nil), objstore.ErrExist)
	}
	require.Empty(t, objstoretest.Keys(t, s, ""))
}

// What a dead writer leaves is never an object, and is removed when it is old.
func TestTemporaryFilesAreSwept(t *testing.T) {
	ctx, dir := objstoretest.Context(t), t.TempDir()
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "shop/backups/b/x", nil))
	require.NoError(t, s.Create(ctx, "shop/chunks/ab/x", nil))
	leave := func(folder, name string, age time.Duration) string {
		path := filepath.Join(dir, folder, ".upkeep-tmp-"+name)
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
		require.NoError(t, os.Chtimes(path, time.Now().Add(-age), time.Now().Add(-age)))
		return path
	}
	stale, staleChunk, fresh := leave("shop/backups/b", "old", 25*time.Hour), leave("shop/chunks/ab", "old", 25*time.Hour), leave("shop/backups/b", "new", time.Hour)
	require.NoError(t, s.Create(ctx, "shop/backups/b/y", nil))
	require.NoFileExists(t, stale, "swept with the next object beside it")
	require.Equal(t, []string{"shop/backups/b/x", "shop/backups/b/y", "shop/chunks/ab/x"}, objstoretest.Keys(t, s, ""))
	require.NoFileExists(t, staleChunk, "swept when listed")
	require.FileExists(t, fresh, "its writer may live")
}

func TestDiskFull(t *testing.T) {
	ctx, dir := objstoretest.Context(t), small(t)
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "a/x", []byte("fits")))
	for _, err := range []error{s.Create(ctx, "a/y", make([]byte, 1<<20)), s.Replace(ctx, "a/x", make([]byte, 1<<20))} {
		require.True(t, failure.Is(err, failure.DiskFull), "%v", err)
		f, _ := failure.As(err)
		require.Equal(t, failure.NeedsPerson, f.Class())
		require.NotEmpty(t, f.Remedy)
	}
	got, err := s.Read(ctx, "a/x", 100)
	require.NoError(t, err)
	require.Equal(t, "fits", string(got), "what was there is untouched")
	require.Equal(t, []string{"a/x"}, objstoretest.Keys(t, s, ""))
	noTemporary(t, dir)
	require.NoError(t, s.Create(ctx, "a/y", []byte("fits too")), "the space of what failed is free again")
}

// small mounts a file system of 256 KiB.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("upkeep-test", dir, "tmpfs", 0, "size=256k")
	if err == syscall.EPERM || err == syscall.EACCES {
		t.Skip("only root may mount a small file system")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestReadOnly(t *testing.T) {
	ctx, dir := objstoretest.Context(t), small(t)
	s := folder(t, dir)
	require.NoError(t, s.Create(ctx, "a/x", []byte("there")))
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=256k"))
	for _, err := range []error{
		s.Create(ctx, "a/y", nil), s.Create(ctx, "b/y", nil), s.Replace(ctx, "a/x", nil), s.Delete(ctx, "a/x"),
	} {
		require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
		f, _ := failure.As(err)
		require.NotEmpty(t, f.Remedy)
	}
	got, err := s.Read(ctx, "a/x", 100)
	require.NoError(t, err)
	require.Equal(t, "there", string(got))
}

func BenchmarkFolderCreate(b *testing.B) {
	s, err := objstore.Open(b.Context(), "file://"+b.TempDir())
	require.NoError(b, err)
	defer func() { _ = s.Close() }()
	data := bytes.Repeat([]byte("x"), 2<<20)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		require.NoError(b, s.Create(b.Context(), "chunks/"+time.Duration(i).String(), data))
	}
}
