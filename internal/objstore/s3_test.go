package objstore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

// open opens a store until the test ends.
func open(t *testing.T, url string) objstore.Store {
	t.Helper()
	s, err := objstore.Open(objstoretest.Context(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestS3(t *testing.T) {
	server := objstoretest.StartS3(t)
	t.Run("a bucket", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Bucket(t, "whole")), "s3://whole/")
	})
	t.Run("a bucket that keeps versions", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Versioned(t, "versioned")), "s3://versioned/")
	})
	t.Run("a bucket that is locked", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Locked(t, "locked", types.ObjectLockRetentionModeCompliance, 30)), "s3://locked/")
	})
	t.Run("a part of a bucket", func(t *testing.T) {
		objstoretest.Conform(t, open(t, server.Bucket(t, "shared")+"&prefix=a/b/"), "s3://shared/a/b/")
	})
	t.Run("a prefix is a folder, however it is written", func(t *testing.T) {
		ctx, url := objstoretest.Context(t), server.Bucket(t, "prefixed")
		for _, prefix := range []string{"team/db", "team/db/", "/team/db"} {
			s := open(t, url+"&prefix="+prefix)
			require.NoError(t, s.Replace(ctx, "x/y", []byte(prefix)))
			require.NoError(t, s.Delete(ctx, "x/z"))
			require.NoError(t, s.Create(ctx, "x/z", []byte(prefix)))
			require.NoError(t, s.Delete(ctx, "x/z"))
			require.Equal(t, "s3://prefixed/team/db/x/y", s.URL("x/y"))
			stored, err := os.ReadFile(filepath.Join(server.Folder, "prefixed", "team", "db", "x", "y"))
			require.NoError(t, err)
			require.Equal(t, prefix, string(stored))
		}
		require.NoError(t, open(t, url+"&prefix=team/db2").Create(ctx, "z", nil))
		require.Equal(t, []string{"x/y"}, objstoretest.Keys(t, open(t, url+"&prefix=team/db"), ""), "its namesake's objects are not its own")
		require.Equal(t, []string{"team/db/_created-once", "team/db/x/y", "team/db2/_created-once", "team/db2/z"}, objstoretest.Keys(t, open(t, url+"&prefix=/"), ""))
	})
	t.Run("more keys than a page", func(t *testing.T) {
		s := open(t, server.Bucket(t, "pages"))
		var keys []string
		for i := range 2050 {
			keys = append(keys, fmt.Sprintf("shop/chunks/%02x/%06d", i/256, i))
			path := filepath.Join(server.Folder, "pages", keys[i])
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
			require.NoError(t, os.WriteFile(path, nil, 0o600))
		}
		require.Equal(t, keys, objstoretest.Keys(t, s, "shop/"))
		require.Equal(t, keys, objstoretest.Keys(t, s, ""))
	})
	t.Run("rotten bytes are handed on", func(t *testing.T) { // to who knows their hash, and says Damaged
		ctx, s := objstoretest.Context(t), open(t, server.Bucket(t, "rotten"))
		require.NoError(t, s.Create(ctx, "x", []byte("some bytes")))
		f, err := os.OpenFile(filepath.Join(server.Folder, "rotten", "x"), os.O_RDWR, 0) // the server's notes of it stay
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("E"), 3)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		data, err := s.Read(ctx, "x", 100)
		require.NoError(t, err)
		require.Equal(t, "somE bytes", string(data))
	})
	t.Run("objects of many parts", func(t *testing.T) { manyParts(t, server) })
	t.Run("who may not", func(t *testing.T) { refused(t, server) })
}

// manyParts creates objects that are uploaded in parts.
func manyParts(t *testing.T, server *objstoretest.S3) {
	ctx, s := objstoretest.Context(t), open(t, server.Bucket(t, "large"))
	const size = 20<<20 + 1
	data := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, size) }
	var winners, winner atomic.Int32
	var creators sync.WaitGroup
	for i := range 3 {
		creators.Go(func() {
			switch err := s.Create(ctx, "shop/x", data(i)); {
			case err == nil:
				winners.Add(1)
				winner.Store(int32(i))
			default:
				require.ErrorIs(t, err, objstore.ErrExist)
			}
		})
	}
	creators.Wait()
	require.EqualValues(t, 1, winners.Load())
	want := data(int(winner.Load()))
	got, err := s.Read(ctx, "shop/x", size)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the bytes are the winner's")
	require.ErrorIs(t, s.Create(ctx, "shop/x", data(7)), objstore.ErrExist)
	require.NoError(t, s.Replace(ctx, "shop/x", data(8)))
	got, err = s.Read(ctx, "shop/x", size)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data(8), got))
	_, err = s.Read(ctx, "shop/x", size-1)
	require.True(t, failure.Is(err, failure.UnsafeArchive), "%v", err)
	require.Equal(t, []string{"shop/x"}, objstoretest.Keys(t, s, ""))
}

const forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: 53\r\nConnection: close\r\n\r\n<Error><Code>InvalidAccessKeyId</Code></Error>       "

// refused uses the store without the right to. A person can mend it, and is told how.
func refused(t *testing.T, server *objstoretest.S3) {
	ctx := objstoretest.Context(t)
	url := server.Bucket(t, "private")
	require.NoError(t, open(t, url).Create(ctx, "shop/x", []byte("there")))
	for name, o := range map[string]struct {
		url    string
		env    map[string]string
		answer string // of a server that says it as S3 does
	}{
		"a wrong secret":  {url, map[string]string{"AWS_SECRET_ACCESS_KEY": "secret-of-another"}, ""},
		"an unknown key":  {url, nil, forbidden},
		"no credentials":  {url, map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ""},
		"no such bucket":  {server.URL("nowhere"), nil, ""},
		"another's login": {url + "&anonymous=true", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range o.env {
				t.Setenv(k, v)
			}
			if o.answer != "" {
				server.Set(objstoretest.Fault{Answer: o.answer})
				defer server.Set(objstoretest.Fault{})
			}
			s := open(t, o.url)
			list := func() error { return s.List(ctx, "shop/", func(objstore.Info) error { return nil }) }
			_, read := s.Read(ctx, "shop/x", 10)
			_, stat := s.Stat(ctx, "shop/x")
			for op, err := range map[string]error{
				"create": s.Create(ctx, "shop/y", []byte("x")), "replace": s.Replace(ctx, "shop/x", []byte("x")), "list": list(),
				"read": read, "stat": stat, "delete": s.Delete(ctx, "shop/x"),
			} {
				if name == "no such bucket" && (op == "read" || op == "stat" || op == "delete") {
					continue // nothing is there, and S3 does not say why
				}
				require.True(t, failure.Is(err, failure.StoreUnwritable), "%s: %v", op, err)
				f, _ := failure.As(err)
				require.NotEmpty(t, f.Remedy)
				require.NotContains(t, err.Error(), "secret-of-another")
				require.NotContains(t, err.Error(), objstoretest.SecretKey)
			}
		})
	}
	got, err := open(t, url).Read(ctx, "shop/x", 10)
	require.NoError(t, err)
	require.Equal(t, "there", string(got))
}
