// Package objstoretest says what every store must do, and makes stores that fail.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Context ends long after any test of a store should have.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Keys lists the keys under a prefix.
func Keys(t testing.TB, s objstore.Store, prefix string) []string {
	t.Helper()
	var keys []string
	require.NoError(t, s.List(Context(t), prefix, func(o objstore.Info) error {
		keys = append(keys, o.Key)
		return nil
	}))
	return keys
}

// Conform checks a store that is empty. The URL of an object must begin with the given prefix.
func Conform(t *testing.T, s objstore.Store, url string) {
	t.Run("what was created is there", func(t *testing.T) {
		ctx := Context(t)
		for key, data := range map[string][]byte{
			"a/b/c.txt": []byte("some bytes"), "empty": nil, "a/B-c_d.%41": []byte("odd but plain"), "a/large": bytes.Repeat([]byte("0123456789abcdef"), 12<<16),
		} {
			require.NoError(t, s.Create(ctx, key, data))
			got, err := s.Read(ctx, key, int64(len(data)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got), key)
			info, err := s.Stat(ctx, key)
			require.NoError(t, err)
			require.Equal(t, key, info.Key)
			require.EqualValues(t, len(data), info.Size)
			require.WithinDuration(t, time.Now(), info.ModTime, time.Minute)
			require.Equal(t, url+key, s.URL(key))
			err = s.Create(ctx, key, []byte("other"))
			require.ErrorIs(t, err, objstore.ErrExist)
			again, err := s.Read(ctx, key, int64(len(data)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, again), "creating again changed %s", key)
		}
	})
	t.Run("what is not there is said not to be", func(t *testing.T) {
		ctx := Context(t)
		for _, key := range []string{"nothing", "no/such/folder/x", "a/b"} {
			_, err := s.Read(ctx, key, 10)
			require.ErrorIs(t, err, objstore.ErrNotExist, key)
			_, err = s.Open(ctx, key)
			require.ErrorIs(t, err, objstore.ErrNotExist, key)
			_, err = s.Stat(ctx, key)
			require.ErrorIs(t, err, objstore.ErrNotExist, key)
		}
		require.NoError(t, s.Delete(ctx, "nothing"))
		require.NoError(t, s.Delete(ctx, "no/such/folder/x"))
		require.Empty(t, Keys(t, s, "no/such/folder/"))
	})
	t.Run("more than the limit is refused", func(t *testing.T) {
		_, err := s.Read(Context(t), "a/b/c.txt", 9)
		require.True(t, failure.Is(err, failure.UnsafeArchive), "%v", err)
	})
	t.Run("replaced atomically", func(t *testing.T) { replaced(t, s) })
	t.Run("listed in order", func(t *testing.T) {
		ctx := Context(t)
		for _, key := range []string{"list/z", "list/a/2", "list/a/1", "list/a-b", "lister"} {
			require.NoError(t, s.Create(ctx, key, []byte(key)))
		}
		require.Equal(t, []string{"list/a-b", "list/a/1", "list/a/2", "list/z"}, Keys(t, s, "list/"))
		require.Equal(t, []string{"list/a-b", "list/a/1", "list/a/2"}, Keys(t, s, "list/a"))
		stop := errors.New("enough")
		require.ErrorIs(t, s.List(ctx, "list/", func(objstore.Info) error { return stop }), stop)
		require.NoError(t, s.Delete(ctx, "list/a/1"))
		require.NoError(t, s.Delete(ctx, "list/a/1"))
		require.Equal(t, []string{"list/a/2"}, Keys(t, s, "list/a/"))
		require.Contains(t, Keys(t, s, ""), "lister")
		require.Equal(t, []string{"lister"}, Keys(t, s, "liste"), "beside the folders")
	})
	t.Run("one creator wins", func(t *testing.T) { race(t, s, 1) })
	t.Run("one creator of a large object wins", func(t *testing.T) { race(t, s, 6<<20) })
	t.Run("what was removed is created again", func(t *testing.T) { // in a bucket with versions, over a mark of the removal
		ctx := Context(t)
		for _, data := range []string{"first", "second"} {
			require.NoError(t, s.Create(ctx, "again/x", []byte(data)))
			require.ErrorIs(t, s.Create(ctx, "again/x", []byte("other")), objstore.ErrExist)
			got, err := s.Read(ctx, "again/x", 100)
			require.NoError(t, err)
			require.Equal(t, data, string(got))
			require.Equal(t, []string{"again/x"}, Keys(t, s, "again/"))
			require.NoError(t, s.Delete(ctx, "again/x"))
			_, err = s.Stat(ctx, "again/x")
			require.ErrorIs(t, err, objstore.ErrNotExist)
			require.Empty(t, Keys(t, s, "again/"))
		}
	})
	t.Run("odd names", func(t *testing.T) { oddNames(t, s) })
	t.Run("keys that are no names", func(t *testing.T) { badKeys(t, s) })
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(Context(t))
		cancel()
		require.ErrorIs(t, s.Create(ctx, "cancelled", []byte("x")), context.Canceled)
		require.ErrorIs(t, s.Replace(ctx, "cancelled", []byte("x")), context.Canceled)
		_, err := s.Read(ctx, "a/b/c.txt", 100)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, s.List(ctx, "a/", func(objstore.Info) error { return nil }), context.Canceled)
		require.Empty(t, Keys(t, s, "cancelled"))
	})
}

// replaced reads an object while it is replaced: every reader sees one version whole.
func replaced(t *testing.T, s objstore.Store) {
	ctx := Context(t)
	version := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%20)}, 100_000+i) }
	require.NoError(t, s.Replace(ctx, "doc/x", version(0)))
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				data, err := s.Read(ctx, "doc/x", 1<<20)
				if err != nil || len(data) < 100_000 || !bytes.Equal(data, version(len(data)-100_000)) {
					t.Errorf("read half a version: %d bytes, %v", len(data), err)
					return
				}
			}
		})
	}
	for i := 1; i < 40; i++ {
		require.NoError(t, s.Replace(ctx, "doc/x", version(i)))
	}
	done.Store(true)
	readers.Wait()
	require.Equal(t, []string{"doc/x"}, Keys(t, s, "doc/"))
}

// race lets several create the same objects at once.
func race(t *testing.T, s objstore.Store, size int) {
	ctx := Context(t)
	for round := range 10 {
		key := fmt.Sprintf("race/%d/%d", size, round)
		var winners atomic.Int32
		var winner atomic.Int32
		var creators sync.WaitGroup
		for i := range 6 {
			creators.Go(func() {
				data := bytes.Repeat([]byte{byte('a' + i)}, size)
				err := s.Create(ctx, key, data)
				// A server may turn a loser away while it still sends, and the answer is lost with the
				// connection: like a step of a run, it tries again.
				for try := 0; try < 5 && failure.Is(err, failure.StoreUnreachable); try++ {
					err = s.Create(ctx, key, data)
				}
				switch {
				case err == nil:
					winners.Add(1)
					winner.Store(int32('a' + i))
				case !errors.Is(err, objstore.ErrExist):
					t.Errorf("create %s: %v", key, err)
				}
			})
		}
		creators.Wait()
		require.EqualValues(t, 1, winners.Load(), key)
		got, err := s.Read(ctx, key, int64(size))
		require.NoError(t, err)
		require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(winner.Load())}, size), got), "the bytes are not the winner's")
		require.NoError(t, s.Delete(ctx, key))
		if size > 1 && round == 2 {
			return // large ones take long
		}
	}
}

// oddNames keeps each of these apart from what it would be if it were escaped or unescaped once more.
func oddNames(t *testing.T, s objstore.Store) {
	ctx := Context(t)
	keys := []string{
		"odd/ ", "odd/ a", "odd/%2f", "odd/+", "odd/..a", "odd/.a", "odd/__0x2f__", "odd/a ", "odd/a b+c&d=e?f#g;h:i@j,k'l\"m<n>o|p*q~r`s^t{u}[v]$!()",
		"odd/b/__0x2e____0x2e__", "odd/c", "odd/c%", "odd/d...", "odd/\u00e9", "odd/\u65e5\u672c", "odd/\U0001f427",
	}
	slices.Sort(keys)
	for _, key := range keys {
		require.NoError(t, s.Create(ctx, key, []byte(key)), "%q", key)
		require.ErrorIs(t, s.Create(ctx, key, nil), objstore.ErrExist, "%q", key)
	}
	require.Equal(t, keys, Keys(t, s, "odd/"))
	for _, key := range keys {
		got, err := s.Read(ctx, key, 1000)
		require.NoError(t, err, "%q", key)
		require.Equal(t, key, string(got))
		require.NoError(t, s.Delete(ctx, key), "%q", key)
	}
	require.Empty(t, Keys(t, s, "odd/"))
}

func badKeys(t *testing.T, s objstore.Store) {
	ctx := Context(t)
	for _, key := range []string{
		"", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a/./b", "a//b", "a/", `a\b`, `..\x`, "a\x00b", "a\nb", "\x7f",
		strings.Repeat("x", 300), strings.Repeat("x/", 600) + "x", ".upkeep-tmp-1", "a/.upkeep-tmp-1/b",
	} {
		refused := func(err error) {
			t.Helper()
			require.True(t, failure.Is(err, failure.UnsafeArchive), "%q: %v", key, err)
		}
		refused(s.Create(ctx, key, []byte("x")))
		refused(s.Replace(ctx, key, []byte("x")))
		_, err := s.Read(ctx, key, 10)
		refused(err)
		_, err = s.Open(ctx, key)
		refused(err)
		_, err = s.Stat(ctx, key)
		refused(err)
		refused(s.Delete(ctx, key))
	}
}

// ReadAll reads an object to its end and closes it.
func ReadAll(r io.ReadCloser) ([]byte, error) {
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}
