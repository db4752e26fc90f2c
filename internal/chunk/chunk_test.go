package chunk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

const target = "shop"

// counting is a store that counts its operations.
type counting struct {
	*objstoretest.Faulty
	mu  sync.Mutex
	ops map[string]int
}

func folder(t testing.TB) (store *counting, dir string) {
	t.Helper()
	dir = t.TempDir()
	inner, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, inner.Close()) })
	store = &counting{ops: map[string]int{}}
	store.Faulty = &objstoretest.Faulty{Store: inner, Before: func(_ context.Context, op, _ string) error {
		store.mu.Lock()
		defer store.mu.Unlock()
		store.ops[op]++
		return nil
	}}
	return store, dir
}

// took returns the counts since the last call.
func (c *counting) took() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	ops := c.ops
	c.ops = map[string]int{}
	return ops
}

func write(t testing.TB, p *Pool, plain string) (format.Chunk, bool) {
	t.Helper()
	c, reused, err := p.Write(objstoretest.Context(t), []byte(plain))
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(plain))
	require.Equal(t, hex.EncodeToString(sum[:]), c.SHA256)
	require.EqualValues(t, len(plain), c.Size)
	return c, reused
}

func read(t testing.TB, store objstore.Store, c format.Chunk) (string, error) {
	t.Helper()
	r, err := Open(objstoretest.Context(t), store, target, c, nil)
	if err != nil {
		return "", err
	}
	data, err := objstoretest.ReadAll(r)
	return string(data), err
}

func path(dir string, c format.Chunk) string {
	return filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, c.SHA256)))
}

func change(t testing.TB, path string, how func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, how(data), 0o600))
}

func flipLast(data []byte) []byte { data[len(data)-1] ^= 1; return data }

func requireDamaged(t testing.TB, err error, c format.Chunk) {
	t.Helper()
	require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
	require.ErrorContains(t, err, format.ChunkKey(target, c.SHA256))
}

var texts = map[string]string{
	"empty": "", "a byte": "x", "rows": strings.Repeat("42\tsome text\t\\N\n", 5000), "larger than the window": strings.Repeat("0123456789", 300_000),
	"random": random(1 << 20),
}

func random(n int) string {
	source := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	_, _ = source.Read(data) // never fails
	return string(data)
}

func TestWrittenIsRead(t *testing.T) {
	store, _ := folder(t)
	p := NewPool(store, target, nil, nil, nil)
	for name, text := range texts {
		c, reused := write(t, p, text)
		require.False(t, reused, name)
		got, err := read(t, store, c)
		require.NoError(t, err)
		require.True(t, text == got, name)
		require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
		require.WithinDuration(t, time.Now(), c.CheckedAt, time.Minute)

		raw, err := store.Read(t.Context(), format.ChunkKey(target, c.SHA256), 1<<30)
		require.NoError(t, err)
		var head zstd.Header
		require.NoError(t, head.Decode(raw))
		require.True(t, len(text) < 256 || head.HasFCS && head.FrameContentSize == uint64(len(text)), "%s: no content size", name)
		require.LessOrEqual(t, head.WindowSize, uint64(8<<20), "the zstd program unpacks it without an option")
	}
	require.Equal(t, len(texts), p.Totals().Stored)
}

func TestUsedAgain(t *testing.T) {
	store, _ := folder(t)
	first := NewPool(store, target, nil, nil, nil)
	c, _ := write(t, first, "rows")
	require.Equal(t, map[string]int{"stat": 1, "create": 1}, store.took())
	again, reused := write(t, first, "rows")
	require.True(t, reused)
	require.Equal(t, c, again)
	require.Equal(t, map[string]int{"stat": 1}, store.took(), "what this pool wrote itself is not read")
	require.Equal(t, Totals{Stored: 1, StoredBytes: c.StoredSize, Reused: 1}, first.Totals())

	c.Rows, c.RowHash = 1, "x"
	next := NewPool(store, target, nil, []format.Chunk{c}, nil)
	again, reused = write(t, next, "rows")
	require.True(t, reused)
	require.Equal(t, map[string]int{"stat": 1}, store.took(), "checked lately: its size is enough")
	require.Empty(t, again.RowHash, "rows and their hash are the caller's")

	late := NewPool(store, target, nil, []format.Chunk{c}, nil)
	late.now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	again, reused = write(t, late, "rows")
	require.True(t, reused)
	require.Equal(t, map[string]int{"stat": 1, "open": 1}, store.took(), "checked long ago: its stored bytes are read")
	require.Greater(t, again.CheckedAt.Sub(c.CheckedAt), 24*time.Hour)

	early := NewPool(store, target, nil, []format.Chunk{c}, nil)
	early.now = func() time.Time { return c.CheckedAt.Add(-time.Hour) }
	_, reused = write(t, early, "rows")
	require.True(t, reused)
	require.Equal(t, map[string]int{"stat": 1, "open": 1}, store.took(), "checked by a clock that was ahead: its stored bytes are read")

	// What a killed attempt left is known to nobody: it is read back and unpacked.
	stranger := NewPool(store, target, nil, nil, nil)
	again, reused = write(t, stranger, "rows")
	require.True(t, reused)
	require.Equal(t, map[string]int{"stat": 1, "open": 1}, store.took())
	require.Equal(t, c.StoredSHA256, again.StoredSHA256)
	require.Equal(t, c.StoredSize, again.StoredSize)
}

func TestTheNewerOfTwoMentionsCounts(t *testing.T) {
	store, _ := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), "rows")
	old := c
	old.CheckedAt = old.CheckedAt.Add(-48 * time.Hour)
	for _, known := range [][]format.Chunk{{old, c}, {c, old}} {
		store.took()
		write(t, NewPool(store, target, nil, known, nil), "rows")
		require.Equal(t, map[string]int{"stat": 1}, store.took())
	}
}

// damages are ways in which a stored chunk can be wrong.
var damages = map[string]func([]byte) []byte{
	"a bit":     flipLast,
	"first bit": func(d []byte) []byte { d[0] ^= 1; return d },
	"cut":       func(d []byte) []byte { return d[:len(d)-1] },
	"emptied":   func([]byte) []byte { return nil },
	"junk more": func(d []byte) []byte { return append(d, 0) },
	"another":   func([]byte) []byte { return frame("other rows") },
	"not zstd":  func([]byte) []byte { return []byte("not zstd at all") },
	"a bomb":    func([]byte) []byte { return frame(strings.Repeat("\x00", 64<<20)) },
	"huge":      func([]byte) []byte { return make([]byte, 3<<20) },
}

func frame(text string) []byte {
	e, _ := zstd.NewWriter(nil)
	return e.EncodeAll([]byte(text), nil)
}

func TestDamageIsSeen(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			store, dir := folder(t)
			c, _ := write(t, NewPool(store, target, nil, nil, nil), strings.Repeat("a row\n", 100))
			change(t, path(dir, c), damage)
			requireDamaged(t, CheckStored(t.Context(), store, target, c.Stored()), c)
			_, err := read(t, store, c)
			requireDamaged(t, err, c)
		})
	}
	store, dir := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), "rows")
	require.NoError(t, os.Remove(path(dir, c)))
	requireDamaged(t, CheckStored(t.Context(), store, target, c.Stored()), c)
	_, err := read(t, store, c)
	requireDamaged(t, err, c)
}

// Every bit of a small chunk.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	store, dir := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), "1\tAnn\n2\t\\N\n")
	for at := range int(c.StoredSize) {
		for bit := range 8 {
			flip := func(d []byte) []byte { d[at] ^= 1 << bit; return d }
			change(t, path(dir, c), flip)
			requireDamaged(t, CheckStored(t.Context(), store, target, c.Stored()), c)
			_, err := read(t, store, c)
			requireDamaged(t, err, c)
			change(t, path(dir, c), flip)
		}
	}
	require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
}

// A manifest that lies about a bomb: no more is unpacked than it declares.
func TestBombIsNotUnpacked(t *testing.T) {
	store, _ := folder(t)
	bomb := frame(strings.Repeat("\x00", 256<<20))
	require.Less(t, len(bomb), 64<<10)
	packed := sha256.Sum256(bomb)
	c := format.Chunk{SHA256: strings.Repeat("ab", 32), Size: 1000, StoredSHA256: hex.EncodeToString(packed[:]), StoredSize: int64(len(bomb))}
	require.NoError(t, store.Create(t.Context(), format.ChunkKey(target, c.SHA256), bomb))
	require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()), "its stored bytes are as declared")
	got, err := read(t, store, c)
	requireDamaged(t, err, c)
	require.Less(t, len(got), 1<<20)

	wide := wideWindow(t)
	c.StoredSize, c.SHA256 = int64(len(wide)), strings.Repeat("cd", 32)
	require.NoError(t, store.Create(t.Context(), format.ChunkKey(target, c.SHA256), wide))
	_, err = read(t, store, c)
	requireDamaged(t, err, c)
}

// wideWindow is a frame that asks its reader for 512 MiB.
func wideWindow(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	e, err := zstd.NewWriter(&out, zstd.WithWindowSize(512<<20))
	require.NoError(t, err)
	_, err = io.Copy(e, io.LimitReader(zeros{}, 1<<20))
	require.NoError(t, err)
	require.NoError(t, e.Close())
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A bad chunk is kept aside, the backups that need it are marked, and good bytes are stored again.
func TestDamageIsMended(t *testing.T) {
	for name, damage := range damages {
		for _, knowing := range []string{"nothing", "checked long ago", "checked lately"} {
			t.Run(name+", "+knowing, func(t *testing.T) {
				store, dir := folder(t)
				text := strings.Repeat("a row\n", 100)
				c, _ := write(t, NewPool(store, target, nil, nil, nil), text)
				needs := backupOf(t, store, "needs-it", c)
				other, _ := write(t, NewPool(store, target, nil, nil, nil), "other\n")
				backupOf(t, store, "needs-it-not", other)
				change(t, path(dir, c), damage)
				wrong, err := os.ReadFile(path(dir, c))
				require.NoError(t, err)

				p := NewPool(store, target, nil, nil, nil)
				switch knowing {
				case "checked long ago":
					c.CheckedAt = c.CheckedAt.Add(-25 * time.Hour)
					p = NewPool(store, target, nil, []format.Chunk{c}, nil)
				case "checked lately":
					if int64(len(wrong)) == c.StoredSize {
						t.Skip("a look at its size does not show it: a backup of tomorrow, or a verification, will see it")
					}
					p = NewPool(store, target, nil, []format.Chunk{c}, nil)
				}
				again, reused := write(t, p, text)
				require.False(t, reused)
				got, err := read(t, store, again)
				require.NoError(t, err)
				require.Equal(t, text, got)
				require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()), "older backups have their chunk back")

				kept := objstoretest.Keys(t, store, target+"/quarantine/")
				require.Len(t, kept, 1)
				evidence, err := store.Read(t.Context(), kept[0], 1<<30)
				require.NoError(t, err)
				require.True(t, bytes.Equal(wrong, evidence))
				require.Equal(t, []string{format.MarkKey(target, needs)}, objstoretest.Keys(t, store, target+"/marks/"))
				mark, err := catalog.ReadMark(t.Context(), store, target, needs)
				require.NoError(t, err)
				require.Equal(t, catalog.FoundByBackup, mark.FoundBy)
				require.Contains(t, mark.What[0], format.ChunkKey(target, c.SHA256))
			})
		}
	}
}

// backupOf writes a manifest whose one table has one chunk.
func backupOf(t *testing.T, store objstore.Store, id string, c format.Chunk) string {
	t.Helper()
	var sum rowhash.Sum
	sum.Add([]byte("a row"))
	c.Rows, c.RowHash = 1, sum.Hex()
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	m := &format.Manifest{
		Format: format.Plain, Backup: id, Target: target, StartedAt: at, SnapshotAt: at, FinishedAt: at,
		Server: format.Server{VersionNum: 150018, BlockSize: 8192}, Database: format.Database{Encoding: "UTF8"},
		Schema:       format.Schema{Archive: format.Chunk{SHA256: strings.Repeat("0", 64), StoredSHA256: strings.Repeat("0", 64), StoredSize: 1}, TextSHA256: strings.Repeat("0", 64)},
		Tables:       []format.Table{{Schema: "public", Name: "t", Rows: 1, RowHash: sum.Hex(), Bytes: c.Size, Ranges: []format.Range{{End: -1, Chunks: []format.Chunk{c}}}}},
		LargeObjects: format.LargeObjects{RowHash: rowhash.Sum{}.Hex()},
	}
	data, err := format.Encode(m)
	require.NoError(t, err)
	require.NoError(t, store.Create(t.Context(), format.ManifestKey(target, id), data))
	return id
}

func TestMissingIsStoredAgainAndMarked(t *testing.T) {
	store, dir := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), "rows")
	id := backupOf(t, store, "b1", c)
	require.NoError(t, os.Remove(path(dir, c)))
	_, reused := write(t, NewPool(store, target, nil, []format.Chunk{c}, nil), "rows")
	require.False(t, reused)
	require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
	mark, err := catalog.ReadMark(t.Context(), store, target, id)
	require.NoError(t, err)
	require.Contains(t, mark.What[0], "missing")
	require.Empty(t, objstoretest.Keys(t, store, target+"/quarantine/"))
}

// A whole store of chunks gone bad costs one look at each manifest, not one a chunk.
func TestMarkingIsCheap(t *testing.T) {
	store, dir := folder(t)
	var known []format.Chunk
	p := NewPool(store, target, nil, nil, nil)
	for i := range 50 {
		c, _ := write(t, p, fmt.Sprintf("rows %d", i))
		known = append(known, c)
		if i == 0 {
			backupOf(t, store, "b1", c)
		}
	}
	require.NoError(t, os.RemoveAll(filepath.Join(dir, target, "chunks")))
	store.took()
	p = NewPool(store, target, nil, known, nil)
	for i := range 50 {
		write(t, p, fmt.Sprintf("rows %d", i))
	}
	require.Equal(t, 1, store.took()["read"], "one manifest, read once")
}

// stale is a twin that was frozen right before an operation and wakes up after another has finished.
func TestStaleTwinDoesNoHarm(t *testing.T) {
	text := strings.Repeat("a row\n", 100)
	for _, frozenAt := range []string{"create quarantine", "replace chunks", "create chunks"} {
		t.Run(frozenAt, func(t *testing.T) {
			store, dir := folder(t)
			var c format.Chunk
			if frozenAt != "create chunks" {
				c, _ = write(t, NewPool(store, target, nil, nil, nil), text)
				change(t, path(dir, c), flipLast)
			}
			frozen, wake := make(chan struct{}), make(chan struct{})
			var once sync.Once
			slow := &objstoretest.Faulty{Store: store, Before: func(_ context.Context, op, key string) error {
				if want := strings.Fields(frozenAt); op == want[0] && strings.Contains(key, want[1]) {
					once.Do(func() { close(frozen); <-wake })
				}
				return nil
			}}
			stale := make(chan error, 1)
			go func() {
				_, _, err := NewPool(slow, target, nil, nil, nil).Write(context.Background(), []byte(text))
				stale <- err
			}()
			<-frozen
			c, _ = write(t, NewPool(store, target, nil, nil, nil), text)
			close(wake)
			require.NoError(t, <-stale)
			require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
			got, err := read(t, store, c)
			require.NoError(t, err)
			require.Equal(t, text, got)
			require.LessOrEqual(t, len(objstoretest.Keys(t, store, target+"/quarantine/")), 1)
		})
	}
}

func TestManyWriteAtOnce(t *testing.T) {
	store, _ := folder(t)
	pools := []*Pool{NewPool(store, target, nil, nil, nil), NewPool(store, target, nil, nil, nil)}
	var stored atomic.Int32
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for n := range 20 {
				c, reused, err := pools[i%2].Write(t.Context(), fmt.Appendf(nil, "chunk %d", n))
				if err != nil {
					t.Error(err)
					return
				}
				if !reused {
					stored.Add(1)
				}
				if err := CheckStored(t.Context(), store, target, c.Stored()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	require.EqualValues(t, 20, stored.Load())
	require.Equal(t, 20, pools[0].Totals().Stored+pools[1].Totals().Stored)
}

func TestStoreThatFails(t *testing.T) {
	for _, op := range []string{"stat", "create"} {
		store, _ := folder(t)
		broken := &objstoretest.Faulty{Store: store, Before: func(_ context.Context, did, _ string) error {
			if did == op {
				return objstoretest.Full()
			}
			return nil
		}}
		_, _, err := NewPool(broken, target, nil, nil, nil).Write(t.Context(), []byte("rows"))
		require.True(t, failure.Is(err, failure.DiskFull), "%s: %v", op, err)
		require.Empty(t, objstoretest.Keys(t, store, ""))
	}
	// The bytes arrived and the answer was lost: the next attempt finds and checks them.
	store, _ := folder(t)
	lossy := &objstoretest.Faulty{Store: store, After: func(_ context.Context, op, _ string) error {
		if op == "create" {
			return objstoretest.Unreachable()
		}
		return nil
	}}
	p := NewPool(lossy, target, nil, nil, nil)
	_, _, err := p.Write(t.Context(), []byte("rows"))
	require.True(t, failure.Is(err, failure.StoreUnreachable))
	_, reused := write(t, p, "rows")
	require.True(t, reused)
	// A store that cannot be read is no reason to call a chunk damaged.
	unreadable := &objstoretest.Faulty{Store: store, Before: func(_ context.Context, op, _ string) error {
		if op == "open" {
			return objstoretest.Unreachable()
		}
		return nil
	}}
	_, _, err = NewPool(unreadable, target, nil, nil, nil).Write(t.Context(), []byte("rows"))
	require.True(t, failure.Is(err, failure.StoreUnreachable))
	require.Empty(t, objstoretest.Keys(t, store, target+"/quarantine/"))
}

func TestSomethingElseInTheWay(t *testing.T) {
	store, dir := folder(t)
	sum := sha256.Sum256([]byte("rows"))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, hex.EncodeToString(sum[:])))), 0o700))
	_, _, err := NewPool(store, target, nil, nil, nil).Write(t.Context(), []byte("rows"))
	require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
}

func TestLinkInAChunksPlace(t *testing.T) {
	store, dir := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), "rows")
	outside := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(path(dir, c))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(outside, data, 0o600))
	require.NoError(t, os.Remove(path(dir, c)))
	require.NoError(t, os.Symlink(outside, path(dir, c)))
	_, err = read(t, store, c)
	require.True(t, failure.Is(err, failure.UnsafeArchive), "%v", err)
	require.True(t, failure.Is(CheckStored(t.Context(), store, target, c.Stored()), failure.UnsafeArchive))
	_, reused := write(t, NewPool(store, target, nil, []format.Chunk{c}, nil), "rows")
	require.False(t, reused)
	require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
}

func TestCancelled(t *testing.T) {
	store, _ := folder(t)
	c, _ := write(t, NewPool(store, target, nil, nil, nil), texts["random"])
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Open(ctx, store, target, c, nil)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 10))
	require.NoError(t, err)
	cancel()
	_, err = io.Copy(io.Discard, r)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close(), "twice is once")
	_, _, err = NewPool(store, target, nil, nil, nil).Write(ctx, []byte("rows"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestTooLarge(t *testing.T) {
	store, _ := folder(t)
	_, _, err := NewPool(store, target, nil, nil, nil).Write(t.Context(), make([]byte, format.MaxChunk+1))
	require.True(t, failure.Is(err, failure.RowTooLong), "%v", err)
}

func BenchmarkOpen(b *testing.B) {
	store, _ := folder(b)
	text := strings.Repeat("42\tsome text that is as long as rows are\t\\N\n", 200_000)
	c, _, err := NewPool(store, target, nil, nil, nil).Write(b.Context(), []byte(text))
	require.NoError(b, err)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := Open(b.Context(), store, target, c, nil)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(b, err)
		require.NoError(b, r.Close())
	}
}
