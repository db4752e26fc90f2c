// Package chunk stores pieces of a backup by the SHA-256 of their plain bytes, each as one zstd
// frame. A piece that is there already is used again, but only when what is stored is known to be
// right; one that is not is set aside and stored anew.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// trustFor is how long a chunk counts as checked after its stored bytes were written or read
	// back whole; within it a look at its size is enough.
	trustFor = 24 * time.Hour
	// maxWindow bounds the memory that one stored frame can make a reader use, in bytes.
	maxWindow = 16 << 20
)

var (
	pointQuarantineBefore = fault.NewPoint("chunk/quarantine/before")
	pointQuarantineAfter  = fault.NewPoint("chunk/quarantine/after")
)

// Totals count what a pool has stored and used again.
type Totals struct {
	Stored      int   // new chunks
	StoredBytes int64 // of the new chunks, as stored
	Reused      int
}

// Minus is what has come since an earlier count.
func (t Totals) Minus(earlier Totals) Totals {
	return Totals{t.Stored - earlier.Stored, t.StoredBytes - earlier.StoredBytes, t.Reused - earlier.Reused}
}

// Pool is a target's chunks. It is safe for concurrent use.
type Pool struct {
	store   objstore.Store
	target  string
	encoder *zstd.Encoder
	now     func() time.Time

	mu     sync.Mutex
	known  map[string]format.Chunk // by SHA-256, as newer manifests and this pool's own work have them
	totals Totals
}

// NewPool opens the chunks of a target. Known are the chunks of a recent manifest; the newer of two
// mentions counts.
func NewPool(store objstore.Store, target string, known []format.Chunk) *Pool {
	// The options are constants, so no error can come of them. EncodeAll uses as many encoders as
	// there are callers at once, up to the concurrency.
	encoder, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(true), zstd.WithWindowSize(512<<10))
	p := &Pool{store: store, target: target, encoder: encoder, now: time.Now, known: make(map[string]format.Chunk, len(known))}
	for _, c := range known {
		c.Rows, c.RowHash = 0, ""
		if old, ok := p.known[c.SHA256]; !ok || old.CheckedAt.Before(c.CheckedAt) {
			p.known[c.SHA256] = c
		}
	}
	return p
}

// Totals are the counts so far.
func (p *Pool) Totals() Totals {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.totals
}

// Write makes sure that the bytes are in the store, right and durable, and describes them. Rows and
// their hash are the caller's to fill in. Reused says that they were there.
func (p *Pool) Write(ctx context.Context, plain []byte) (c format.Chunk, reused bool, err error) {
	if len(plain) > format.MaxChunk {
		return c, false, failure.New(failure.RowTooLong, "a piece of %d bytes is larger than a chunk can be", len(plain)).Do("make the row smaller")
	}
	sum := sha256.Sum256(plain)
	name := hex.EncodeToString(sum[:])
	c, err = p.reuse(ctx, name, int64(len(plain)))
	if err != nil {
		return c, false, err
	}
	if c.SHA256 != "" {
		p.remember(c, Totals{Reused: 1})
		return c, true, nil
	}
	stored := p.encoder.EncodeAll(plain, make([]byte, 0, len(plain)/3+512))
	c, err = p.create(ctx, name, int64(len(plain)), stored)
	if err != nil {
		return c, false, err
	}
	p.remember(c, Totals{Stored: 1, StoredBytes: c.StoredSize})
	return c, false, nil
}

func (p *Pool) create(ctx context.Context, name string, size int64, stored []byte) (format.Chunk, error) {
	sum := sha256.Sum256(stored)
	err := p.store.Create(ctx, format.ChunkKey(p.target, name), stored)
	if errors.Is(err, objstore.ErrExist) {
		// A twin, or another backup, stored it between the look and now. What is there counts.
		c, err := p.inspect(ctx, name, size)
		if err != nil || c.SHA256 != "" {
			return c, err
		}
		return format.Chunk{}, failure.New(failure.StoreUnreachable, "chunk %s was damaged and stored again at the same time", name)
	}
	return format.Chunk{
		SHA256: name, Size: size, StoredSHA256: hex.EncodeToString(sum[:]), StoredSize: int64(len(stored)), CheckedAt: p.now().UTC(),
	}, err
}

func (p *Pool) remember(c format.Chunk, count Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[c.SHA256] = c
	p.totals.Stored += count.Stored
	p.totals.StoredBytes += count.StoredBytes
	p.totals.Reused += count.Reused
}

// reuse returns the chunk if the store has it and it is right, and the zero chunk if it must be
// stored.
func (p *Pool) reuse(ctx context.Context, name string, size int64) (format.Chunk, error) {
	p.mu.Lock()
	known, ok := p.known[name]
	p.mu.Unlock()
	info, err := p.store.Stat(ctx, format.ChunkKey(p.target, name))
	if errors.Is(err, objstore.ErrNotExist) {
		if ok {
			return format.Chunk{}, p.mark(ctx, name, "is missing")
		}
		return format.Chunk{}, nil
	}
	if err != nil {
		return format.Chunk{}, err
	}
	if ok && known.Size == size && known.StoredSize == info.Size && p.now().Sub(known.CheckedAt) < trustFor {
		return known, nil
	}
	return p.inspect(ctx, name, size)
}

// inspect reads a stored chunk back whole. A right one is described; a wrong one is set aside.
func (p *Pool) inspect(ctx context.Context, name string, size int64) (format.Chunk, error) {
	key := format.ChunkKey(p.target, name)
	raw, err := p.store.Read(ctx, key, size+(1<<20))
	if errors.Is(err, objstore.ErrNotExist) {
		return format.Chunk{}, nil
	}
	if err != nil && !failure.Is(err, failure.UnsafeArchive) {
		return format.Chunk{}, err
	}
	if err == nil {
		sum := sha256.Sum256(raw)
		c := format.Chunk{
			SHA256: name, Size: size, StoredSHA256: hex.EncodeToString(sum[:]), StoredSize: int64(len(raw)), CheckedAt: p.now().UTC(),
		}
		if p.decodes(ctx, c) {
			return c, nil
		}
		if ctx.Err() != nil {
			return format.Chunk{}, ctx.Err()
		}
	}
	if err := p.mark(ctx, name, "is damaged"); err != nil {
		return format.Chunk{}, err
	}
	pointQuarantineBefore.Hit()
	err = p.store.Move(ctx, key, format.QuarantineKey(p.target, name, p.now().UnixNano()))
	if errors.Is(err, objstore.ErrNotExist) {
		err = nil // a twin was faster
	}
	pointQuarantineAfter.Hit()
	return format.Chunk{}, err
}

func (p *Pool) decodes(ctx context.Context, c format.Chunk) bool {
	r, err := Open(ctx, p.store, p.target, c)
	if err != nil {
		return false
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(io.Discard, r)
	return err == nil
}

// mark notes every backup that needs the chunk as damaged.
func (p *Pool) mark(ctx context.Context, name, what string) error {
	return catalog.MarkUsers(ctx, p.store, p.target, name, "chunk "+format.ChunkKey(p.target, name)+" "+what)
}

// Open streams the plain bytes of a chunk. Nothing of it is believed: the stored bytes and the plain
// ones must have the sizes and checksums that the manifest declares, or the last Read fails with
// BackupDamaged; no more than the declared size is ever unpacked.
func Open(ctx context.Context, store objstore.Store, target string, c format.Chunk) (io.ReadCloser, error) {
	key := format.ChunkKey(target, c.SHA256)
	raw, err := store.Open(ctx, key)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, damaged(key, "is missing")
	}
	if err != nil {
		return nil, err
	}
	stored := &hashing{r: io.LimitReader(raw, c.StoredSize+1), h: sha256.New()}
	unpacked, err := zstd.NewReader(stored, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		_ = raw.Close()
		return nil, damaged(key, "cannot be unpacked")
	}
	return &reader{ctx: ctx, key: key, want: c, raw: raw, stored: stored, unpacked: unpacked,
		plain: &hashing{r: io.LimitReader(unpacked, c.Size+1), h: sha256.New()}}, nil
}

// hashing is a reader that counts and hashes what passes.
type hashing struct {
	r   io.Reader
	h   hash.Hash
	n   int64
	err error // other than EOF
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.n += int64(n)
	h.h.Write(p[:n])
	if err != nil && !errors.Is(err, io.EOF) {
		h.err = err
	}
	return n, err
}

func (h *hashing) sum() string { return hex.EncodeToString(h.h.Sum(nil)) }

type reader struct {
	ctx           context.Context
	key           string
	want          format.Chunk
	raw           io.Closer
	stored, plain *hashing
	unpacked      *zstd.Decoder
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.plain.Read(p)
	if r.plain.n > r.want.Size {
		return 0, damaged(r.key, "unpacks to more than the manifest declares")
	}
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		if r.stored.err != nil { // the store failed, not the chunk
			return n, failure.New(failure.StoreUnreachable, "could not read %s", r.key).Because(r.stored.err).Do("see to the store")
		}
		return n, damaged(r.key, "cannot be unpacked")
	}
	if _, err := io.Copy(io.Discard, r.stored); err != nil { // what may follow the frame
		return n, failure.New(failure.StoreUnreachable, "could not read %s", r.key).Because(err).Do("see to the store")
	}
	if r.stored.n != r.want.StoredSize || r.stored.sum() != r.want.StoredSHA256 || r.plain.n != r.want.Size || r.plain.sum() != r.want.SHA256 {
		return n, damaged(r.key, "is not what was written")
	}
	return n, io.EOF
}

func (r *reader) Close() error {
	r.unpacked.Close()
	return r.raw.Close()
}

// CheckStored reads a chunk's stored bytes and compares them with the manifest, without unpacking.
func CheckStored(ctx context.Context, store objstore.Store, target string, c format.Chunk) error {
	key := format.ChunkKey(target, c.SHA256)
	raw, err := store.Open(ctx, key)
	if errors.Is(err, objstore.ErrNotExist) {
		return damaged(key, "is missing")
	}
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	stored := &hashing{r: io.LimitReader(raw, c.StoredSize+1), h: sha256.New()}
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return failure.New(failure.StoreUnreachable, "could not read %s", key).Because(err).Do("see to the store")
	}
	switch {
	case stored.n != c.StoredSize:
		return damaged(key, "has another size than was written")
	case stored.sum() != c.StoredSHA256:
		return damaged(key, "has other bytes than were written")
	}
	return nil
}

func damaged(key, what string) error {
	return failure.New(failure.BackupDamaged, "%s %s", key, what).
		Do("take a new backup; to save this one, bring the file back from a copy of the store")
}
