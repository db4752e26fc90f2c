package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// maxWindow bounds the memory that one stored frame can make a reader use, in bytes.
const maxWindow = 16 << 20

// decoders are kept between chunks: each holds buffers of the size of a window.
var decoders = sync.Pool{New: func() any {
	// The options are constants, so no error can come of them.
	d, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	return d
}}

// Open streams the plain bytes of a chunk, which the key decrypts where it is encrypted. Nothing of it is
// believed: the stored bytes and the plain ones must have the sizes and checksums that the manifest
// declares, or the last Read fails with BackupDamaged; no more than the declared size is ever unpacked.
func Open(ctx context.Context, store objstore.Store, target string, c format.Chunk, key *keyring.Key) (io.ReadCloser, error) {
	return open(ctx, store, target, c, key)
}

// open is Open, and takes a chunk whose stored checksum is not known: its StoredSize is a bound then.
func open(ctx context.Context, store objstore.Store, target string, c format.Chunk, key *keyring.Key) (*reader, error) {
	if (c.Name != "") != (key != nil) {
		return nil, failure.New(failure.Internal, "chunk %.80s and the key that is given for it do not fit", c.Object())
	}
	place := format.ChunkKey(target, c.Object())
	raw, err := openStored(ctx, store, place)
	if err != nil {
		return nil, err
	}
	stored := newHashing(io.LimitReader(raw, c.StoredSize+1))
	r := &reader{ctx: ctx, key: place, want: c, raw: raw, stored: stored, decoder: decoders.Get().(*zstd.Decoder)}
	packed := io.Reader(stored)
	if key != nil {
		if packed, err = key.Decrypt(stored); err != nil {
			return nil, errors.Join(r.blame("cannot be decrypted"), r.Close())
		}
	}
	if err := r.decoder.Reset(packed); err != nil {
		return nil, errors.Join(r.blame("cannot be unpacked"), r.Close())
	}
	r.plain = newHashing(io.LimitReader(r.decoder, c.Size+1))
	return r, nil
}

func openStored(ctx context.Context, store objstore.Store, key string) (io.ReadCloser, error) {
	raw, err := store.Open(ctx, key)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, damaged(key, "is missing")
	}
	return raw, err
}

// hashing is a reader that counts and hashes what passes, and keeps its error.
type hashing struct {
	r   io.Reader
	h   hash.Hash
	n   int64
	err error // other than EOF
}

func newHashing(r io.Reader) *hashing { return &hashing{r: r, h: sha256.New()} }

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
	decoder       *zstd.Decoder // nil when closed
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.plain.Read(p)
	if r.plain.n > r.want.Size {
		return 0, damaged(r.key, "unpacks to more than was written")
	}
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, r.blame("cannot be unpacked")
	}
	if _, err := io.Copy(io.Discard, r.stored); err != nil { // what may follow the frame
		return n, err
	}
	switch {
	case r.plain.n != r.want.Size || r.plain.sum() != r.want.SHA256:
		return n, damaged(r.key, "does not unpack to what was written")
	case r.want.StoredSHA256 == "" && r.stored.n <= r.want.StoredSize:
		return n, io.EOF
	case r.stored.n != r.want.StoredSize || r.stored.sum() != r.want.StoredSHA256:
		return n, damaged(r.key, "is not packed as it was written")
	}
	return n, io.EOF
}

// blame tells a store that could not be read from a chunk that is wrong.
func (r *reader) blame(what string) error {
	if r.stored.err != nil {
		return r.stored.err
	}
	return damaged(r.key, what)
}

// Close frees the reader. It may be called more than once.
func (r *reader) Close() error {
	if r.decoder == nil {
		return nil
	}
	_ = r.decoder.Reset(nil) // lets go of the stream; what it says is of no more use
	decoders.Put(r.decoder)
	r.decoder = nil
	return r.raw.Close()
}

// CheckStored reads a chunk's stored bytes and compares them with what is known of them, without unpacking.
func CheckStored(ctx context.Context, store objstore.Store, target string, o format.Object) error {
	key := format.ChunkKey(target, o.Name)
	raw, err := openStored(ctx, store, key)
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	stored := newHashing(io.LimitReader(raw, o.Size+1))
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return err
	}
	switch {
	case stored.n != o.Size:
		return damaged(key, "has another size than was written")
	case stored.sum() != o.SHA256:
		return damaged(key, "has other bytes than were written")
	}
	return nil
}

func damaged(key, what string) error {
	return failure.New(failure.BackupDamaged, "%s %s", key, what).
		Do("take a new backup; to save this one, bring the file back from a copy of the store")
}

// isDamage reports whether an error says that something stored is wrong, and not that it could not be
// looked at.
func isDamage(err error) bool {
	f, ok := failure.As(err)
	return ok && f.Class() == failure.Damaged
}
