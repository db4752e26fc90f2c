// Package verify checks a backup where it lies: grade "stored" compares every file with what the
// manifest recorded, grade "decoded" unpacks every chunk and counts and hashes its rows. Neither
// proves that it can be restored; only a restore does.
package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

// maxNamed bounds how many bad files one check names.
const maxNamed = 5

// Stored compares every file of a backup with the sizes and checksums of its manifest. A backup that
// is damaged is marked, and the mark of one that is whole is taken away. An error means that the
// check could not be carried out. It needs no key; with one, what is sealed is looked at too.
func Stored(ctx context.Context, store objstore.Store, target, backup string, keys *keyring.Ring) ([]run.Check, error) {
	return look(ctx, store, target, backup, keys, grade{
		name: catalog.FoundByStored, good: "%d files (%d bytes) have the sizes and checksums of the manifest",
		one: func(ctx context.Context, o format.Object, _ format.Chunk, _ *keyring.Key) error {
			return chunk.CheckStored(ctx, store, target, o)
		},
	})
}

// Decoded does what Stored does, and unpacks every chunk, counts its rows and hashes them. Of a sealed
// backup, without its key, it proves nothing.
func Decoded(ctx context.Context, store objstore.Store, target, backup string, keys *keyring.Ring) ([]run.Check, error) {
	return look(ctx, store, target, backup, keys, grade{
		name: catalog.FoundByDecoded, good: "%d files (%d bytes) are what was written; every chunk unpacks to the rows that were counted and hashed",
		one: func(ctx context.Context, _ format.Object, c format.Chunk, key *keyring.Key) error {
			return decode(ctx, store, target, c, key)
		},
		inside: true,
	})
}

// grade is how thoroughly every chunk is looked at.
type grade struct {
	name, good string
	one        func(context.Context, format.Object, format.Chunk, *keyring.Key) error
	inside     bool // it looks at what is in the chunks
}

func look(ctx context.Context, store objstore.Store, target, backup string, keys *keyring.Ring, g grade) ([]run.Check, error) {
	b, err := load(ctx, store, target, backup, keys)
	if f, ok := failure.As(err); ok && f.Class() == failure.Damaged {
		checks := []run.Check{{Name: "manifest", Verdict: run.Fail, Detail: f.What}}
		return note(ctx, store, target, backup, g, checks, []string{f.What})
	}
	if err != nil {
		return nil, err
	}
	checks, found := b.contents()
	if b.closed == nil && !keys.Ours(b.Key) {
		checks = append(checks, Foreign())
	}
	if b.closed != nil && g.inside {
		return append(checks, run.Check{Name: g.name, Verdict: run.NotProven, Detail: b.closed.Error()}), nil
	}
	bad, bytes, files, err := g.run(ctx, store, b)
	if err != nil {
		return nil, err
	}
	check := run.Check{Name: g.name, Verdict: run.Pass, Detail: fmt.Sprintf(g.good, files, bytes)}
	if len(bad) > 0 {
		check.Verdict, check.Detail = run.Fail, summary(bad)
	}
	return note(ctx, store, target, b.Backup, g, append(checks, check), append(bad, found...))
}

// looked is a backup as far as it can be looked at.
type looked struct {
	*format.Index
	m      *format.Manifest // nil where it is sealed and closed
	closed error            // why it cannot be opened here
	key    *keyring.Key
}

func load(ctx context.Context, store objstore.Store, target, backup string, keys *keyring.Ring) (b looked, err error) {
	b.m, err = catalog.Load(ctx, store, target, backup, keys)
	if failure.Is(err, failure.NoIdentity) {
		b.closed = err
		b.Index, err = catalog.LoadIndex(ctx, store, target, backup, keys)
		return b, err
	}
	if err != nil {
		return b, err
	}
	b.Index = b.m.Index()
	b.key, err = keys.Key(ctx, b.Key)
	return b, err
}

// contents checks what the manifest says of itself, and returns what does not agree in it.
func (b looked) contents() (checks []run.Check, found []string) {
	said := "the manifest has its checksum, and its tables add up to their chunks"
	if b.closed != nil {
		said = "the manifest has its checksum"
	}
	checks = []run.Check{{Name: "manifest", Verdict: run.Pass, Detail: said}}
	if b.m == nil {
		checks = append(checks, run.Check{Name: "sealed", Verdict: run.NotProven, Optional: true, Detail: b.closed.Error()})
		if b.LeftOut > 0 {
			checks = append(checks, run.Check{Name: "complete", Verdict: run.NotProven, Detail: fmt.Sprintf("not in the backup: %d things, whose names are sealed", b.LeftOut)})
		}
		return checks, nil
	}
	if found = b.m.Disagreements(); len(found) > 0 {
		checks = append(checks, run.Check{Name: "census", Verdict: run.Fail, Detail: summary(found)})
	}
	if len(b.m.LeftOut) > 0 {
		checks = append(checks, run.Check{Name: "complete", Verdict: run.NotProven, Detail: "not in the backup: " + summary(b.m.LeftOut)})
	}
	return checks, found
}

// Foreign is the check of a backup that may be anybody's: it is in clear though the target is encrypted.
func Foreign() run.Check {
	return run.Check{
		Name: "encrypted", Verdict: run.NotProven,
		Detail: "the backup is in clear although the target is encrypted: it is from before, or whoever can write to the store has made it",
	}
}

// note marks a backup in which something bad was found, and takes the mark from one without. The
// verdict stands also where the store takes no notes.
func note(ctx context.Context, store objstore.Store, target, backup string, g grade, checks []run.Check, bad []string) ([]run.Check, error) {
	var err error
	if len(bad) > 0 {
		err = catalog.SetMark(ctx, store, target, backup, g.name, bad...)
	} else {
		err = catalog.ClearMark(ctx, store, target, backup, g.name)
	}
	if err != nil && ctx.Err() == nil {
		checks = append(checks, run.Check{
			Name: "mark", Verdict: run.NotProven, Optional: true, Detail: "the result could not be noted beside the backup: " + err.Error(),
		})
	}
	return checks, ctx.Err()
}

func summary(found []string) string {
	text := strings.Join(found[:min(len(found), maxNamed)], "; ")
	if len(found) > maxNamed {
		text += fmt.Sprintf("; and %d more", len(found)-maxNamed)
	}
	return text
}

// run looks at every file of the backup, many at once, and names the bad ones.
func (g grade) run(ctx context.Context, store objstore.Store, b looked) (bad []string, bytes int64, files int, err error) {
	chunks := make(map[string]format.Chunk)
	if b.m != nil {
		chunks, bad = distinct(b.m)
	}
	total := int64(len(b.Files) + len(b.Chunks))
	if b.Key != "" {
		err := keyring.CheckWrapped(ctx, store, b.Target, b.Key)
		if f, ok := failure.As(err); ok && f.Class() == failure.Damaged {
			bad = append(bad, f.What)
		} else if err != nil {
			return nil, 0, 0, err
		}
	}
	var mu sync.Mutex
	done := int64(0)
	count := func(size int64, err error) error {
		f, isFailure := failure.As(err)
		damaged := isFailure && f.Class() == failure.Damaged
		if err != nil && !damaged {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if damaged {
			bad = append(bad, f.What)
		}
		done++
		bytes += size
		progress.Report(ctx, progress.Progress{Phase: "checking files", Done: done, Total: total, Unit: "files"})
		return nil
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, f := range b.Files {
		group.Go(func() error { return count(f.Size, checkFile(gctx, store, b.Index, f)) })
	}
	for _, o := range b.Chunks {
		group.Go(func() error { return count(o.Size, g.one(gctx, o, chunks[o.Name], b.key)) })
	}
	err = group.Wait()
	sort.Strings(bad)
	return bad, bytes, int(total) + 1, err
}

// distinct has each chunk once, by its object's name, and complains of one that is described in two ways.
func distinct(m *format.Manifest) (chunks map[string]format.Chunk, bad []string) {
	chunks = make(map[string]format.Chunk)
	for _, c := range m.Chunks() {
		c.CheckedAt = time.Time{}
		if other, ok := chunks[c.Object()]; !ok {
			chunks[c.Object()] = c
		} else if other != c {
			bad = append(bad, format.ManifestKey(m.Target, m.Backup)+" describes chunk "+c.Object()+" in two ways")
		}
	}
	return chunks, bad
}

func checkFile(ctx context.Context, store objstore.Store, i *format.Index, f format.File) error {
	key := format.BackupKey(i.Target, i.Backup, f.Name)
	damaged := func(what string) error {
		return failure.New(failure.BackupDamaged, "%s %s", key, what).Do("bring the file back from a copy of the store, or take a new backup")
	}
	data, err := store.Read(ctx, key, f.Size)
	if errors.Is(err, objstore.ErrNotExist) {
		return damaged("is missing")
	}
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); int64(len(data)) != f.Size || hex.EncodeToString(sum[:]) != f.SHA256 {
		return damaged("is not what was written")
	}
	return nil
}

func decode(ctx context.Context, store objstore.Store, target string, c format.Chunk, key *keyring.Key) error {
	r, err := chunk.Open(ctx, store, target, c, key)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if c.RowHash == "" { // the schema's archive
		_, err := io.Copy(io.Discard, r)
		return err
	}
	var rows rowhash.Counter
	if _, err := io.Copy(&rows, r); err != nil {
		return err
	}
	if rows.Close() != nil || rows.Rows() != c.Rows || rows.Sum().Hex() != c.RowHash {
		return failure.New(failure.BackupDamaged, "%s holds other rows than were counted", format.ChunkKey(target, c.Object())).
			Do("take a new backup")
	}
	return nil
}
