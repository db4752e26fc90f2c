package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

const (
	slowDown = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	conflict = "HTTP/1.1 409 Conflict\r\nContent-Type: application/xml\r\nContent-Length: 64\r\nConnection: close\r\n\r\n<Error><Code>ConditionalRequestConflict</Code></Error>          "
	cutShort = "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\nConnection: close\r\n\r\nhalf of it"
	page     = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
)

// bytesOf is larger than what any fault lets through.
func bytesOf(key string) []byte { return bytes.Repeat([]byte(key), 2_000_000/len(key)) }

// all does each operation once, at once, each on an object of its own.
func all(ctx context.Context, s objstore.Store) map[string]error {
	ops := map[string]func() error{
		"create":  func() error { return s.Create(ctx, "created", bytesOf("created")) },
		"replace": func() error { return s.Replace(ctx, "replaced", bytesOf("replaced")) },
		"read": func() error {
			data, err := s.Read(ctx, "there", 3_000_000)
			if err == nil && !bytes.Equal(data, bytesOf("there")) {
				return errors.New("a short read was a success")
			}
			return err
		},
		"open": func() error {
			r, err := s.Open(ctx, "there")
			if err != nil {
				return err
			}
			data, err := objstoretest.ReadAll(r)
			if err == nil && !bytes.Equal(data, bytesOf("there")) {
				return errors.New("a short stream was a success")
			}
			return err
		},
		"stat": func() error {
			info, err := s.Stat(ctx, "there")
			if err == nil && info.Size != int64(len(bytesOf("there"))) {
				return fmt.Errorf("of %d bytes", info.Size)
			}
			return err
		},
		"list": func() error {
			found := false
			err := s.List(ctx, "th", func(o objstore.Info) error {
				found = found || o.Key == "there"
				return nil
			})
			if err == nil && !found {
				return errors.New("a listing left out what is there")
			}
			return err
		},
		"delete": func() error { return s.Delete(ctx, "deleted") },
	}
	results := make(map[string]error)
	var mu sync.Mutex
	var working sync.WaitGroup
	for name, op := range ops {
		working.Go(func() {
			err := op()
			mu.Lock()
			defer mu.Unlock()
			results[name] = err
		})
	}
	working.Wait()
	return results
}

// broken is a way to the store that has a fault.
type broken struct {
	name  string
	fault objstoretest.Fault
	fail  []string // these cannot succeed; what is not named may

	server  *objstoretest.S3
	store   objstore.Store
	results map[string]error
	took    time.Duration
}

// TestS3ThatFails does everything while the way to the store is broken: what ends ends in time, with
// success or as unreachable, and what is there afterwards is whole.
func TestS3ThatFails(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	every := []string{"create", "replace", "read", "open", "stat", "list", "delete"}
	ways := []*broken{
		{name: "no connection", fault: objstoretest.Fault{Refuse: true}, fail: every},
		{name: "no answer", fault: objstoretest.Fault{Silent: true}, fail: every},
		{name: "answers that are lost", fault: objstoretest.Fault{Mute: true}, fail: every},
		{name: "an error for each request", fault: objstoretest.Fault{Answer: slowDown}, fail: every},
		{name: "a page of something else", fault: objstoretest.Fault{Answer: page}, fail: every},
		{name: "an answer that ends early", fault: objstoretest.Fault{Answer: cutShort}, fail: []string{"read", "open", "list"}},
		{name: "a thousand bytes a second", fault: objstoretest.Fault{Rate: 1000}, fail: []string{"create", "replace", "read", "open"}},
		{name: "never silent, and slow", fault: objstoretest.Fault{Rate: 20_000}, fail: []string{"create", "replace", "read", "open"}},
		{name: "resets in what is sent", fault: objstoretest.Fault{CutSent: 100_000}, fail: []string{"create", "replace"}},
		{name: "resets in what is answered", fault: objstoretest.Fault{CutAnswer: 100_000}, fail: []string{"read", "open"}},
		{name: "resets in the answer's head", fault: objstoretest.Fault{CutAnswer: 20}, fail: every},
	}
	for i, w := range ways {
		w.server = server.Way(t)
		w.store = open(t, w.server.Bucket(t, fmt.Sprintf("bucket%d", i)))
		for _, key := range []string{"there", "replaced", "deleted"} {
			require.NoError(t, w.store.Create(ctx, key, bytesOf(key)))
		}
		w.server.Set(w.fault)
	}
	t.Run("at once", func(t *testing.T) {
		objstore.Hurry(t, 2*time.Second, 1<<20)
		var working sync.WaitGroup
		for _, w := range ways {
			working.Go(func() {
				began := time.Now()
				w.results = all(ctx, w.store)
				w.took = time.Since(began)
			})
		}
		working.Wait()
	})
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { w.check(t) })
	}
}

func (w *broken) check(t *testing.T) {
	require.Less(t, w.took, 20*time.Second)
	require.NotZero(t, w.server.Harmed())
	require.Len(t, w.results, 7)
	for op, err := range w.results {
		if err == nil || op == "create" && errors.Is(err, objstore.ErrExist) { // by a request whose answer was lost
			require.NotContains(t, w.fail, op, "%s cannot have succeeded", op)
			continue
		}
		require.True(t, failure.Is(err, failure.StoreUnreachable), "%s: %v", op, err)
		require.NotErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.NotContains(t, err.Error(), "context canceled", "it says what was wrong")
	}

	w.server.Set(objstoretest.Fault{})
	ctx := objstoretest.Context(t)
	for _, key := range []string{"there", "replaced", "created"} {
		data, err := w.store.Read(ctx, key, 3_000_000)
		if key == "created" && errors.Is(err, objstore.ErrNotExist) {
			continue
		}
		require.NoError(t, err, key)
		require.True(t, bytes.Equal(bytesOf(key), data), "%s is whole", key)
	}
	// A server may turn a create away while it is still sent, and its answer is lost with the connection:
	// that is tried again, as in a run.
	unreachable := func(results map[string]error) bool {
		for _, err := range results {
			if failure.Is(err, failure.StoreUnreachable) {
				return true
			}
		}
		return false
	}
	results := all(ctx, w.store)
	for try := 1; try < 5 && unreachable(results); try++ {
		results = all(ctx, w.store)
	}
	for op, err := range results {
		if op != "create" || !errors.Is(err, objstore.ErrExist) {
			require.NoError(t, err, op)
		}
	}
}

// TestS3AnswerWithoutALength has answers that would be whole objects, if their end were one.
func TestS3AnswerWithoutALength(t *testing.T) {
	server := objstoretest.StartS3(t)
	s, ctx := open(t, server.Bucket(t, "bucket")), objstoretest.Context(t)
	server.Set(objstoretest.Fault{Answer: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it"})
	_, err := s.Read(ctx, "x", 100)
	require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
	r, err := s.Open(ctx, "x")
	require.NoError(t, err)
	_, err = objstoretest.ReadAll(r)
	require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
}

// TestS3ThatStumbles has faults that pass: nobody hears of them.
func TestS3ThatStumbles(t *testing.T) {
	server := objstoretest.StartS3(t)
	for name, f := range map[string]objstoretest.Fault{
		"an error":             {Answer: slowDown, Times: 1},
		"a conflict":           {Answer: conflict, Times: 2}, // of two that create at once; S3 wants to be asked again
		"a broken connection":  {Refuse: true, Times: 1},
		"a reset in an upload": {CutSent: 100_000, Times: 1},
		"resets in downloads":  {CutAnswer: 1_000_000, Times: 3},
		"latency":              {Latency: 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := open(t, server.Bucket(t, fmt.Sprintf("b%d", time.Now().UnixNano()))), objstoretest.Context(t)
			require.NoError(t, s.Create(ctx, "before", nil)) // now it is known to be a store that overwrites nothing
			server.Set(f)
			defer server.Set(objstoretest.Fault{})
			require.NoError(t, s.Create(ctx, "x", bytesOf("x")))
			require.NotZero(t, server.Harmed())
			server.Set(f)
			if f.Answer != conflict { // only creating can have one
				data, err := s.Read(ctx, "x", 3_000_000)
				require.NoError(t, err)
				require.True(t, bytes.Equal(bytesOf("x"), data))
				require.NotZero(t, server.Harmed())
			}
		})
	}
	t.Run("a create whose answer is lost has happened once", func(t *testing.T) {
		s, ctx := open(t, server.Bucket(t, "lost")), objstoretest.Context(t)
		require.NoError(t, s.Create(ctx, "before", nil))
		server.Set(objstoretest.Fault{CutAnswer: 1, Times: 1})
		require.ErrorIs(t, s.Create(ctx, "x", []byte("mine")), objstore.ErrExist, "the second try met the first")
		data, err := s.Read(ctx, "x", 10)
		require.NoError(t, err)
		require.Equal(t, "mine", string(data))
	})
}

// TestS3IsLeftWithoutATrace counts goroutines after stores that failed were closed.
func TestS3IsLeftWithoutATrace(t *testing.T) {
	server := objstoretest.StartS3(t)
	url := server.Bucket(t, "traces")
	require.NoError(t, open(t, url).Create(objstoretest.Context(t), "there", bytesOf("there")))
	objstore.Hurry(t, 500*time.Millisecond, 8<<20)
	server.Set(objstoretest.Fault{}) // connections end
	var before int
	require.Eventually(t, func() bool {
		was := before
		before = runtime.NumGoroutine()
		return before == was
	}, 10*time.Second, 100*time.Millisecond, "goroutines keep coming and going")
	for _, f := range []objstoretest.Fault{{Silent: true}, {Mute: true}, {CutAnswer: 100_000}, {CutSent: 100_000}, {Rate: 1000}} {
		server.Set(f)
		s, err := objstore.Open(t.Context(), url)
		require.NoError(t, err)
		all(t.Context(), s)
		require.NoError(t, s.Close())
	}
	server.Set(objstoretest.Fault{})
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before }, 10*time.Second, 50*time.Millisecond, "%d were, %d are", before, runtime.NumGoroutine())
}

// TestS3GoesOnWithTheSameObjectOnly replaces an object while its reader's connection breaks.
func TestS3GoesOnWithTheSameObjectOnly(t *testing.T) {
	server, ctx := objstoretest.StartS3(t), objstoretest.Context(t)
	url := server.Bucket(t, "bucket")
	s, other := open(t, url), open(t, server.Way(t).URL("bucket"))
	for name, after := range map[string][]byte{"the same bytes": bytesOf("x"), "other bytes": bytesOf("other")} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, other.Replace(ctx, "x", bytesOf("x")))
			server.Set(objstoretest.Fault{CutAnswer: 1_000_000, Times: 1})
			r, err := s.Open(ctx, "x")
			require.NoError(t, err)
			first := make([]byte, 1000)
			_, err = io.ReadFull(r, first)
			require.NoError(t, err)
			require.NoError(t, other.Replace(ctx, "x", after))
			rest, err := objstoretest.ReadAll(r)
			if bytes.Equal(after, bytesOf("x")) {
				require.NoError(t, err)
				require.True(t, bytes.Equal(bytesOf("x"), append(first, rest...)))
				return
			}
			require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
		})
	}
}
