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
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

// maxNamed bounds how many bad files one check names.
const maxNamed = 5

// Stored compares every file of a backup with the sizes and checksums of its manifest. A backup that
// is damaged is marked, and the mark of one that is whole is taken away. An error means that the
// check could not be carried out.
func Stored(ctx context.Context, store objstore.Store, target, backup string) ([]run.Check, error) {
	return look(ctx, store, target, backup, grade{
		name: catalog.FoundByStored, good: "%d files (%d bytes) have the sizes and checksums of the manifest",
		one: func(ctx context.Context, c format.Chunk) error { return chunk.CheckStored(ctx, store, target, c) },
	})
}

// Decoded does what Stored does, and unpacks every chunk, counts its rows and hashes them.
func Decoded(ctx context.Context, store objstore.Store, target, backup string) ([]run.Check, error) {
	return look(ctx, store, target, backup, grade{
		name: catalog.FoundByDecoded, good: "%d files (%d bytes) are what was written; every chunk unpacks to the rows that were counted and hashed",
		one: func(ctx context.Context, c format.Chunk) error { return decode(ctx, store, target, c) },
	})
}

// grade is how thoroughly every chunk is looked at.
type grade struct {
	name, good string
	one        func(context.Context, format.Chunk) error
}

func look(ctx context.Context, store objstore.Store, target, backup string, g grade) ([]run.Check, error) {
	m, err := catalog.Load(ctx, store, target, backup)
	if f, ok := failure.As(err); ok && f.Class() == failure.Damaged {
		checks := []run.Check{{Name: "manifest", Verdict: run.Fail, Detail: f.What}}
		return note(ctx, store, target, backup, g, checks, []string{f.What})
	}
	if err != nil {
		return nil, err
	}
	checks := []run.Check{{Name: "manifest", Verdict: run.Pass, Detail: "the manifest has its checksum, and its tables add up to their chunks"}}
	found := m.Disagreements()
	if len(found) > 0 {
		checks = append(checks, run.Check{Name: "census", Verdict: run.Fail, Detail: summary(found)})
	}
	if len(m.LeftOut) > 0 {
		checks = append(checks, run.Check{Name: "complete", Verdict: run.NotProven, Detail: "not in the backup: " + summary(m.LeftOut)})
	}
	bad, bytes, files, err := g.run(ctx, store, m)
	if err != nil {
		return nil, err
	}
	check := run.Check{Name: g.name, Verdict: run.Pass, Detail: fmt.Sprintf(g.good, files, bytes)}
	if len(bad) > 0 {
		check.Verdict, check.Detail = run.Fail, summary(bad)
	}
	return note(ctx, store, target, m.Backup, g, append(checks, check), append(bad, found...))
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
func (g grade) run(ctx context.Context, store objstore.Store, m *format.Manifest) (bad []string, bytes int64, files int, err error) {
	chunks, bad := distinct(m)
	total := int64(len(m.Files) + len(chunks))
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
	for _, f := range m.Files {
		group.Go(func() error { return count(f.Size, checkFile(gctx, store, m, f)) })
	}
	for _, c := range chunks {
		group.Go(func() error { return count(c.StoredSize, g.one(gctx, c)) })
	}
	err = group.Wait()
	sort.Strings(bad)
	return bad, bytes, int(total) + 1, err
}

// distinct lists each chunk once, and complains of one that is described in two ways.
func distinct(m *format.Manifest) (chunks []format.Chunk, bad []string) {
	seen := make(map[string]format.Chunk)
	for _, c := range m.Chunks() {
		c.CheckedAt = time.Time{}
		if other, ok := seen[c.SHA256]; !ok {
			chunks = append(chunks, c)
			seen[c.SHA256] = c
		} else if other != c {
			bad = append(bad, format.ManifestKey(m.Target, m.Backup)+" describes chunk "+c.SHA256+" in two ways")
		}
	}
	return chunks, bad
}

func checkFile(ctx context.Context, store objstore.Store, m *format.Manifest, f format.File) error {
	key := format.BackupKey(m.Target, m.Backup, f.Name)
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
