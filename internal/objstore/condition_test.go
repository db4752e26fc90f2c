package objstore_test

import (
	"context"
	"net/http"
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

// TestS3WithoutConditions has servers and proxies by which a create could overwrite: the store is refused
// before anything is, and what is there stays as it is.
func TestS3WithoutConditions(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	for i, c := range []struct {
		name   string
		status int
		answer string
		says   string
	}{
		{"501, as S3 says it", http.StatusNotImplemented, "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented.</Message><Header>If-None-Match</Header></Error>", "refuses"},
		{"501 of a proxy", http.StatusNotImplemented, "", "refuses"},
		{"400, and nothing of why", http.StatusBadRequest, "<Error><Code>InvalidArgument</Code></Error>", "refuses"},
		{"400 of a proxy", http.StatusBadRequest, "<html>no</html>", "refuses"},
		{"it is lost", 0, "", "ignores"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := "bucket" + string(rune('a'+i))
			require.NoError(t, os.MkdirAll(filepath.Join(server.Folder, bucket), 0o750))
			way := server.Unconditional(t, c.status, c.answer)
			s := open(t, way.URL(bucket))
			require.NoError(t, s.Replace(ctx, "shop/there", []byte("first")), "what may overwrite needs no condition")
			for range 2 { // it is not believed the second time either
				for _, key := range []string{"shop/there", "shop/new"} {
					err := s.Create(ctx, key, []byte("second"))
					require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
					require.ErrorContains(t, err, c.says)
					require.ErrorContains(t, err, "If-None-Match")
					require.ErrorContains(t, err, "use a store that knows conditional writes")
				}
			}
			got, err := s.Read(ctx, "shop/there", 10)
			require.NoError(t, err)
			require.Equal(t, "first", string(got))
			require.Equal(t, []string{"shop/there"}, objstoretest.Keys(t, s, ""))
		})
	}
	t.Run("a request that is wrong otherwise is not taken for one", func(t *testing.T) {
		way := server.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusBadRequest)
			}
			return r.Method == http.MethodPut
		})
		err := open(t, way.URL("bucketa")).Create(ctx, "x", nil)
		require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
	})
	t.Run("a proxy that hands everything on is none", func(t *testing.T) {
		way := server.Behind(t, func(http.ResponseWriter, *http.Request) bool { return false })
		objstoretest.Conform(t, open(t, way.Bucket(t, "fine")), "s3://fine/")
	})
}

// TestS3ProvesItOnce counts what the proof that a store knows conditions costs.
func TestS3ProvesItOnce(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	var puts atomic.Int32
	way := server.Behind(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			puts.Add(1)
		}
		return false
	})
	url := way.Bucket(t, "once")
	s := open(t, url)
	var creators sync.WaitGroup
	for _, key := range []string{"a", "b", "c"} {
		creators.Go(func() { require.NoError(t, s.Create(ctx, key, nil)) })
	}
	creators.Wait()
	require.EqualValues(t, 5, puts.Load(), "it is created, and not created again")
	require.NoError(t, open(t, url).Create(ctx, "d", nil))
	require.EqualValues(t, 6, puts.Load(), "this process knows")
}

// TestS3OverAMark creates, by several at once, what was removed from a bucket with versions: one wins.
func TestS3OverAMark(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	for name, url := range map[string]string{
		"versions": server.Versioned(t, "versions"), "lock": server.Locked(t, "lock", types.ObjectLockRetentionModeGovernance, 1),
		"prefix": server.Versioned(t, "prefix") + "&prefix=a/b",
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, url)
			for round := range 5 {
				require.NoError(t, s.Create(ctx, "x", []byte{'r', byte(round)}))
				require.NoError(t, s.Delete(ctx, "x"))
				winner := race(ctx, t, s)
				got, err := s.Read(ctx, "x", 10)
				require.NoError(t, err)
				require.Equal(t, []byte{winner}, got)
				require.NoError(t, s.Delete(ctx, "x"))
			}
		})
	}
}

func race(ctx context.Context, t *testing.T, s objstore.Store) byte {
	t.Helper()
	var winners, winner atomic.Int32
	var creators sync.WaitGroup
	for i := range 4 {
		creators.Go(func() {
			switch err := s.Create(ctx, "x", []byte{byte('a' + i)}); {
			case err == nil:
				winners.Add(1)
				winner.Store(int32('a' + i))
			default:
				require.ErrorIs(t, err, objstore.ErrExist)
			}
		})
	}
	creators.Wait()
	require.EqualValues(t, 1, winners.Load())
	return byte(winner.Load())
}
