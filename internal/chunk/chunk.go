// Package chunk stores pieces of a backup by the SHA-256 of their plain bytes, each as one zstd
// frame. A piece that is there already is used again, but only when what is stored is known to be
// right; one that is not is set aside and stored anew. With a key, pieces are encrypted, and their names
// are made with the key.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	// trustFor is how long a chunk counts as checked after its stored bytes were written or read
	// back whole; within it a look at its size is enough.
	trustFor = 24 * time.Hour
	// tries bounds how often a chunk is looked for and created in turns.
	tries = 3
	// places is how many places an encrypted chunk can be in: where something wrong lies in one, the next
	// is taken. It is never replaced, because encrypting again makes other bytes: a stale twin that did
	// would take from a manifest what that says of them.
	places = 8
	// maxBuffer is the largest buffer that is kept for the next chunk, in bytes.
	maxBuffer = 16 << 20
	// maxEvidence bounds what is kept of a damaged chunk, in bytes.
	maxEvidence = 32 << 20
)

var (
	pointCreateBefore     = fault.NewPoint("chunk/create/before")
	pointCreateAfter      = fault.NewPoint("chunk/create/after")
	pointQuarantineBefore = fault.NewPoint("chunk/quarantine/before")
	pointQuarantineAfter  = fault.NewPoint("chunk/quarantine/after")
	pointMendAfter        = fault.NewPoint("chunk/quarantine/mended")
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
	key     *keyring.Key // nil: chunks are not encrypted
	packer  *packer
	buffers sync.Pool // of *[]byte, for packed chunks of the usual size
	now     func() time.Time

	mu     sync.Mutex
	known  map[string]format.Chunk // by SHA-256, as newer manifests and this pool's own work have them
	doomed map[string]bool         // the objects that are condemned and not yet renewed
	totals Totals

	marking sync.Mutex
	marked  map[string]bool // the backups that this pool has marked
}

// NewPool opens the chunks of a target; with a key they are encrypted. Known are the chunks of a recent
// manifest that was written with the same key; the newer of two mentions counts. Condemned are those that
// are soon to be removed: one that is used again is renewed.
func NewPool(store objstore.Store, target string, key *keyring.Key, known []format.Chunk, condemned catalog.Condemned) *Pool {
	p := &Pool{
		store: store, target: target, key: key, packer: newPacker(), now: time.Now,
		known: make(map[string]format.Chunk, len(known)), doomed: make(map[string]bool, len(condemned)), marked: make(map[string]bool),
	}
	for name := range condemned {
		p.doomed[name] = true
	}
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
		return format.Chunk{}, false, failure.New(failure.RowTooLong, "a piece of %d bytes is larger than a chunk can be", len(plain)).Do("make the row smaller")
	}
	want := format.Chunk{Size: int64(len(plain))}
	sum := sha256.Sum256(plain)
	want.SHA256 = hex.EncodeToString(sum[:])
	p.mu.Lock()
	known := p.known[want.SHA256]
	p.mu.Unlock()
	place := byte(0)
	if want.Name = known.Name; want.Name == "" && p.key != nil {
		want.Name = p.key.Name(sum, place)
	}
	var stored []byte
	for try := 0; try < tries; {
		c, found, err := p.look(ctx, want)
		if err != nil {
			return format.Chunk{}, false, err
		}
		if found == right {
			if err = p.renew(ctx, c); err == nil {
				p.remember(c, Totals{Reused: 1})
				return c, true, nil
			}
			if errors.Is(err, objstore.ErrNotExist) || isDamage(err) {
				try++
				continue // it was removed, or stored again, since the look
			}
			return format.Chunk{}, false, err
		}
		if found == wrong && p.key != nil {
			if err := p.mark(ctx, want.Name, "is damaged"); err != nil {
				return format.Chunk{}, false, err
			}
			// The place of a known chunk may be any; the others are gone through from the first.
			if place++; place > places {
				break
			}
			want.Name = p.key.Name(sum, place-1)
			continue
		}
		if stored == nil {
			buffer := p.buffer()
			if stored, err = p.pack(buffer, plain); err != nil {
				return format.Chunk{}, false, err
			}
			defer p.giveBack(buffer, stored)
		}
		if found == wrong {
			err = p.mend(ctx, want.Object(), stored)
		} else {
			err = p.create(ctx, want.Object(), stored)
		}
		if errors.Is(err, objstore.ErrExist) {
			try++
			continue // a twin, or another backup, stored it after the look: what is there counts
		}
		if err != nil {
			return format.Chunk{}, false, err
		}
		packed := sha256.Sum256(stored)
		want.StoredSHA256, want.StoredSize, want.CheckedAt = hex.EncodeToString(packed[:]), int64(len(stored)), p.now().UTC()
		p.remember(want, Totals{Stored: 1, StoredBytes: want.StoredSize})
		return want, false, nil
	}
	key := format.ChunkKey(p.target, want.Object())
	return format.Chunk{}, false, failure.New(failure.StoreUnwritable, "something that is no chunk lies in the place of %s", key).
		Do("see what is at that place in the store and remove it, then resume the run")
}

// pack makes the bytes that are stored, in the lent memory where that is large enough.
func (p *Pool) pack(buffer *[]byte, plain []byte) ([]byte, error) {
	if p.key == nil {
		return p.packer.pack(*buffer, plain)
	}
	second := p.buffer()
	packed, err := p.packer.pack(*second, plain)
	if err != nil {
		return nil, err
	}
	defer p.giveBack(second, packed)
	return p.key.Encrypt((*buffer)[:0], packed)
}

// buffer lends memory for a packed chunk.
func (p *Pool) buffer() *[]byte {
	if b, ok := p.buffers.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

// giveBack takes the memory again with what became of it, unless an unusual chunk has made it large.
func (p *Pool) giveBack(b *[]byte, grown []byte) {
	if cap(grown) <= maxBuffer {
		*b = grown[:0]
		p.buffers.Put(b)
	}
}

func (p *Pool) create(ctx context.Context, name string, stored []byte) error {
	pointCreateBefore.Hit()
	if err := p.store.Create(ctx, format.ChunkKey(p.target, name), stored); err != nil {
		return err
	}
	pointCreateAfter.Hit()
	return nil
}

// renew writes a condemned chunk's own bytes again, so that its age says that somebody needs it. Others
// are as they should be.
func (p *Pool) renew(ctx context.Context, c format.Chunk) error {
	p.mu.Lock()
	doomed := p.doomed[c.Object()]
	p.mu.Unlock()
	if !doomed {
		return nil
	}
	if err := catalog.Renew(ctx, p.store, p.target, c.Stored()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.doomed, c.Object())
	return nil
}

func (p *Pool) remember(c format.Chunk, count Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[c.SHA256] = c
	p.totals.Stored += count.Stored
	p.totals.StoredBytes += count.StoredBytes
	p.totals.Reused += count.Reused
}

// found is what a look at a chunk's place in the store found.
type found int

const (
	absent found = iota
	right
	wrong
)

// look says whether the store has the chunk in its place, as cheaply as can be answered for.
func (p *Pool) look(ctx context.Context, want format.Chunk) (format.Chunk, found, error) {
	p.mu.Lock()
	known, ok := p.known[want.SHA256]
	p.mu.Unlock()
	ok = ok && known.Name == want.Name
	info, err := p.store.Stat(ctx, format.ChunkKey(p.target, want.Object()))
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		if !ok {
			return format.Chunk{}, absent, nil
		}
		if p.key != nil { // it may be brought back, and would be other bytes than those that are stored now
			return format.Chunk{}, wrong, p.mark(ctx, want.Object(), "is missing")
		}
		return format.Chunk{}, absent, p.mark(ctx, want.Object(), "is missing")
	case failure.Is(err, failure.UnsafeArchive):
		return format.Chunk{}, wrong, nil
	case err != nil:
		return format.Chunk{}, absent, err
	case !ok || known.Size != want.Size || known.StoredSize != info.Size:
		return p.inspect(ctx, want)
	}
	// A time to come is from a clock that was wrong, and says nothing.
	if age := p.now().Sub(known.CheckedAt); age >= 0 && age < trustFor {
		return known, right, nil
	}
	err = CheckStored(ctx, p.store, p.target, known.Stored())
	switch {
	case err == nil:
		known.CheckedAt = p.now().UTC()
		return known, right, nil
	case isDamage(err):
		return p.inspect(ctx, want) // it may have been stored again meanwhile, packed otherwise
	}
	return format.Chunk{}, absent, err
}

// inspect reads a stored chunk that nothing is known of and unpacks it.
func (p *Pool) inspect(ctx context.Context, want format.Chunk) (format.Chunk, found, error) {
	want.StoredSHA256, want.StoredSize = "", format.MaxStored(want.Size)
	r, err := open(ctx, p.store, p.target, want, p.key)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	switch {
	case err == nil:
		want.StoredSHA256, want.StoredSize, want.CheckedAt = r.stored.sum(), r.stored.n, p.now().UTC()
		return want, right, nil
	case isDamage(err):
		return format.Chunk{}, wrong, nil
	}
	return format.Chunk{}, absent, err
}

// mend puts the right bytes in the place of wrong ones. Every backup that needs them is marked first,
// and the wrong bytes are kept. The place is never empty: a stale twin that mends what is mended
// already writes the same bytes again, and harms nothing.
func (p *Pool) mend(ctx context.Context, name string, stored []byte) error {
	if err := p.mark(ctx, name, "is damaged"); err != nil {
		return err
	}
	key := format.ChunkKey(p.target, name)
	pointQuarantineBefore.Hit()
	if err := p.setAside(ctx, name); err != nil {
		return err
	}
	pointQuarantineAfter.Hit()
	if err := p.store.Replace(ctx, key, stored); err != nil {
		return err
	}
	pointMendAfter.Hit()
	return nil
}

// setAside keeps what lies in a chunk's place, as far as it can be read.
func (p *Pool) setAside(ctx context.Context, name string) error {
	r, err := p.store.Open(ctx, format.ChunkKey(p.target, name))
	if errors.Is(err, objstore.ErrNotExist) || isDamage(err) {
		return nil // gone, or nothing that can be read
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxEvidence))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	err = p.store.Create(ctx, format.QuarantineKey(p.target, name, hex.EncodeToString(sum[:])), data)
	if errors.Is(err, objstore.ErrExist) {
		return nil // it was set aside before
	}
	return err
}

// mark notes every backup that needs the chunk as damaged; one that this pool has marked before stays
// as it is.
func (p *Pool) mark(ctx context.Context, name, what string) error {
	p.marking.Lock()
	defer p.marking.Unlock()
	users, err := catalog.Users(ctx, p.store, p.target, name, p.marked)
	if err != nil {
		return err
	}
	for _, id := range users {
		if err := catalog.SetMark(ctx, p.store, p.target, id, catalog.FoundByBackup, format.ChunkKey(p.target, name)+" "+what); err != nil {
			return err
		}
		p.marked[id] = true
	}
	return nil
}
