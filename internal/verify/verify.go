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

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

const (
	// maxNamed bounds how many bad files one check names.
	maxNamed = 5
	// maxFile bounds the other files in a backup's folder, in bytes.
	maxFile = 16 << 20
)

// Stored compares every file of a backup with the sizes and checksums of its manifest. A backup that
// is damaged is marked, and the mark of one that is whole is taken away. An error means that the
// check could not be carried out.
func Stored(ctx context.Context, store objstore.Store, target, backup string) ([]run.Check, error) {
	return look(ctx, store, target, backup, pass{
		name: "stored", good: "%d files (%d bytes) have the sizes and checksums of the manifest",
		one: func(ctx context.Context, c format.Chunk) error { return chunk.CheckStored(ctx, store, target, c) },
	})
}

// Decoded does what Stored does, and unpacks every chunk, counts its rows and hashes them.
func Decoded(ctx context.Context, store objstore.Store, target, backup string) ([]run.Check, error) {
	return look(ctx, store, target, backup, pass{
		name: "decoded", good: "%d files (%d bytes) are what was written; every chunk unpacks to the rows that were counted and hashed",
		one: func(ctx context.Context, c format.Chunk) error { return decode(ctx, store, target, c) },
	})
}

// pass is one look at every chunk.
type pass struct {
	name, good string
	one        func(context.Context, format.Chunk) error
}

func look(ctx context.Context, store objstore.Store, target, backup string, p pass) ([]run.Check, error) {
	m, err := catalog.Load(ctx, store, target, backup)
	if failure.Is(err, failure.BackupDamaged) {
		f, _ := failure.As(err)
		return []run.Check{{Name: "manifest", Verdict: run.Fail, Detail: f.What}}, catalog.SetMark(ctx, store, target, backup, f.What)
	}
	if err != nil {
		return nil, err
	}
	checks := []run.Check{{Name: "manifest", Verdict: run.Pass, Detail: "the manifest has its checksum, and its tables add up to their chunks"}}
	if disagreements := m.Disagreements(); len(disagreements) > 0 {
		checks = append(checks, run.Check{Name: "census", Verdict: run.Fail, Detail: strings.Join(disagreements[:min(len(disagreements), maxNamed)], "; ")})
	}
	bad, bytes, files, err := p.run(ctx, store, m)
	if err != nil {
		return nil, err
	}
	check := run.Check{Name: p.name, Verdict: run.Pass, Detail: fmt.Sprintf(p.good, files, bytes)}
	if len(bad) > 0 {
		check.Verdict, check.Detail = run.Fail, summary(bad)
	}
	checks = append(checks, check)
	if len(bad) > 0 {
		return checks, catalog.SetMark(ctx, store, target, backup, bad...)
	}
	return checks, catalog.ClearMark(ctx, store, target, backup)
}

func summary(found []string) string {
	text := strings.Join(found[:min(len(found), maxNamed)], "; ")
	if len(found) > maxNamed {
		text += fmt.Sprintf("; and %d more of %d bad files", len(found)-maxNamed, len(found))
	}
	return text
}

// run looks at every file of the backup, many at once, and names the bad ones.
func (p pass) run(ctx context.Context, store objstore.Store, m *format.Manifest) (bad []string, bytes int64, files int, err error) {
	unique := make(map[string]format.Chunk)
	var order []string
	for _, c := range m.Chunks() {
		if other, ok := unique[c.SHA256]; !ok {
			order = append(order, c.SHA256)
			unique[c.SHA256] = c
			bytes += c.StoredSize
		} else if other.StoredSHA256 != c.StoredSHA256 || other.Size != c.Size {
			bad = append(bad, "chunk "+c.SHA256+" is described in two ways")
		}
	}
	var mu sync.Mutex
	note := func(err error) error {
		f, ok := failure.As(err)
		if !ok || f.Class() != failure.Damaged {
			return err // nil too
		}
		mu.Lock()
		defer mu.Unlock()
		bad = append(bad, f.What)
		return nil
	}
	for _, f := range m.Files {
		bytes += f.Size
		if err := note(checkFile(ctx, store, m, f)); err != nil {
			return nil, 0, 0, err
		}
	}
	done := int64(0)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, name := range order {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := note(p.one(ctx, unique[name])); err != nil {
				return err
			}
			mu.Lock()
			done++
			progress.Report(ctx, progress.Progress{Phase: "checking files", Done: done, Total: int64(len(order)), Unit: "chunks"})
			mu.Unlock()
			return nil
		})
	}
	err = group.Wait()
	sort.Strings(bad)
	return bad, bytes, len(order) + len(m.Files) + 1, err
}

func checkFile(ctx context.Context, store objstore.Store, m *format.Manifest, f format.File) error {
	key := format.BackupKey(m.Target, m.Backup, f.Name)
	damaged := func(what string) error {
		return failure.New(failure.BackupDamaged, "%s %s", key, what).Do("bring the file back from a copy of the store, or take a new backup")
	}
	data, err := store.Read(ctx, key, maxFile)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return damaged("is missing")
	case failure.Is(err, failure.UnsafeArchive):
		return damaged("has another size than was written")
	case err != nil:
		return err
	}
	if sum := sha256.Sum256(data); int64(len(data)) != f.Size || hex.EncodeToString(sum[:]) != f.SHA256 {
		return damaged("is not what was written")
	}
	return nil
}

func decode(ctx context.Context, store objstore.Store, target string, c format.Chunk) error {
	r, err := chunk.Open(ctx, store, target, c)
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
		return failure.New(failure.BackupDamaged, "%s holds other rows than were counted", format.ChunkKey(target, c.SHA256)).
			Do("take a new backup")
	}
	return nil
}
