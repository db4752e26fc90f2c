// Package backup takes a consistent logical backup of a PostgreSQL database: one exported snapshot
// without holes, rows by parallel COPY over page ranges, content-addressed chunks, a census by
// other means, and a manifest written last.
package backup

import (
	"cmp"
	"context"
	"fmt"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

const (
	// snapshotTries is how often a snapshot that DDL crossed is taken anew before a person is asked.
	snapshotTries = 6
	// lockTimeout is how long a lock on one table is waited for.
	lockTimeout = 10 * time.Second
	// shareTimeout is how long the other sessions wait for a lock that the keeper has already: what
	// stands between is somebody's change that waits for the keeper, which waits for them.
	shareTimeout = 5 * time.Second
	// minVersion is the oldest server whose backups are tested, as server_version_num.
	minVersion = 130000
)

// patience is how long a lock is waited for that nobody waits for behind the backup itself, such as an
// index's that REINDEX has: it may be at work, or forgotten in a transaction that nobody ends.
var patience = 10 * time.Minute

// staleAfter is how much older than an attempt the sessions are that it ends as an earlier attempt's.
var staleAfter = 5 * time.Second

// Options say what to back up and where to.
type Options struct {
	Source      postgres.Config
	Store       objstore.Store
	Target      string
	BackupID    string        // the business key: a backup of this id is taken at most once
	Connections int           // sessions that read rows at once
	Engine      string        // the version of Upkeep, for the manifest
	Keys        *keyring.Ring // says whether the backup is encrypted, and by which key; nil: it is not

	endStale bool // the sessions of earlier attempts are in the way
}

// app is the application_name of the backup's sessions, by which they know each other.
func (o Options) app() string { return "upkeep-backup " + o.BackupID }

// Preview is what a backup would read.
type Preview struct {
	Server    format.Server
	Database  format.Database
	Tables    int
	Rows      int64 // as the server's statistics estimate them
	LeftOut   []string
	Elsewhere []string
}

// Plan looks at the source as a backup would and changes nothing. It refuses what Take would refuse.
func Plan(ctx context.Context, o Options) (*Preview, error) {
	if err := o.Keys.Ready(); err != nil {
		return nil, err
	}
	k, err := openSnapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	defer k.close(ctx)
	p := &Preview{Server: k.server, Database: k.database, LeftOut: k.leftOut, Elsewhere: k.elsewhere}
	for _, r := range k.relations {
		if !r.Partitioned {
			p.Tables++
			p.Rows += r.EstRows
		}
	}
	return p, nil
}

// Take takes the backup, or returns the manifest of the one that was taken under this id before. A
// snapshot that DDL crosses is given up for a new one; the chunks that were stored stay useful.
func Take(ctx context.Context, o Options) (*format.Manifest, error) {
	m, err := catalog.Load(ctx, o.Store, o.Target, o.BackupID, o.Keys)
	if err == nil {
		return m, nil
	}
	if !failure.Is(err, failure.UnknownBackup) {
		return nil, err
	}
	switch r, noted := catalog.ReadRemoval(ctx, o.Store, o.Target, o.BackupID); {
	case noted != nil:
		return nil, noted
	case r != nil:
		return nil, catalog.WasRemoved(r)
	}
	started := time.Now().UTC()
	pool, key, newest, err := openPool(ctx, o)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		o.endStale = try == 1 // later, an older session may be that of a newer attempt
		m, err = takeOnce(ctx, o, pool, key, newest, started)
		if !failure.Is(err, failure.ConcurrentDDL) {
			break
		}
		if try == snapshotTries {
			f, _ := failure.As(err)
			return nil, failure.New(failure.SchemaKeepsMoving, "in %d snapshots one after another, %s", try, f.What).
				Do("wait for the migration to end, or take the backup at a calmer time, then resume the run")
		}
	}
	if err != nil {
		return nil, err
	}
	return commit(ctx, o, m)
}

// openPool opens the chunk store with what the newest backup knows, so that unchanged chunks are
// recognised, and the key that chunks are encrypted with. That backup is nil where there is none of use.
func openPool(ctx context.Context, o Options) (pool *chunk.Pool, key *keyring.Key, newest *format.Manifest, err error) {
	var known []format.Chunk
	newest, err = catalog.Load(ctx, o.Store, o.Target, catalog.Latest, o.Keys)
	switch {
	case err == nil:
		known = newest.Chunks()
		found, err := catalog.LastFound(ctx, o.Store, o.Target)
		if err != nil {
			return nil, nil, nil, err
		}
		for i := range known {
			if known[i].CheckedAt.Before(found) {
				known[i].CheckedAt = time.Time{} // it may be what was found damaged since: it is read before it is trusted
			}
		}
	case failure.Is(err, failure.UnknownBackup), failure.Is(err, failure.BackupDamaged), failure.Is(err, failure.NoIdentity):
		// The first backup, or one that is no help: every chunk that is there is read before it is trusted.
	case failure.Is(err, failure.KeyLost) && len(o.Keys.Trusted()) > 0:
		// The configuration says which key is for new backups, and it need not be that.
	default:
		return nil, nil, nil, err
	}
	used := ""
	if newest != nil {
		used = newest.Key
	}
	if key, err = o.Keys.Current(ctx, used); err != nil {
		return nil, nil, nil, err
	}
	if key.Fingerprint() != used {
		known = nil // other keys, other chunks
	}
	condemned, err := catalog.ReadCondemned(ctx, o.Store, o.Target)
	if err != nil {
		return nil, nil, nil, err
	}
	return chunk.NewPool(o.Store, o.Target, key, known, condemned), key, newest, nil
}

// takeOnce reads everything in one snapshot and returns the manifest that describes it.
func takeOnce(ctx context.Context, o Options, pool *chunk.Pool, key *keyring.Key, before *format.Manifest, started time.Time) (*format.Manifest, error) {
	k, err := openSnapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	defer k.close(ctx)

	m := &format.Manifest{
		Format: format.Plain, Key: key.Fingerprint(), Backup: o.BackupID, Target: o.Target, Engine: o.Engine,
		StartedAt: started, SnapshotAt: k.at, Server: k.server, Database: k.database, Roles: k.roles,
		Session: postgres.Pins(k.database.Encoding), Elsewhere: k.elsewhere,
	}
	if key != nil {
		m.Format = format.Sealed
	}
	stored := pool.Totals()
	rows, err := k.plan(ctx, o.Connections, before)
	if err != nil {
		return nil, k.blame(ctx, o, err)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { // the keeper's own session counts while others read
		m.Census, err = k.census(gctx)
		if postgres.State(err) == lockTimedOut {
			return cmp.Or(k.heldUp(gctx, o, "a table"), err)
		}
		return err
	})
	group.Go(func() (err error) {
		m.Schema, err = k.dumpSchema(gctx, o, pool)
		return err
	})
	group.Go(func() (err error) {
		m.Tables, m.LargeObjects, err = k.readRows(gctx, o, pool, rows)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, k.blame(ctx, o, err)
	}
	k.place(m)
	m.LeftOut = append(k.leftOut, k.warned...)
	if m.Sequences, err = k.readSequences(ctx); err != nil {
		return nil, k.blame(ctx, o, err)
	}
	if err := k.drift(ctx, o); err != nil {
		return nil, err
	}
	if err := m.Agrees(); err != nil {
		return nil, err
	}
	m.Scope = scope(m)
	m.FinishedAt = time.Now().UTC()
	m.Totals = totals(m, pool.Totals().Minus(stored))
	return m, nil
}

// commit writes the folder's other files and, last, the manifest.
func commit(ctx context.Context, o Options, m *format.Manifest) (*format.Manifest, error) {
	files, err := writeGuide(ctx, o.Store, m)
	if err != nil {
		return nil, err
	}
	m.Files = files
	return catalog.Commit(ctx, o.Store, m, o.Keys, time.Now)
}

func totals(m *format.Manifest, written chunk.Totals) format.Totals {
	t := format.Totals{Tables: len(m.Tables), ChunksStored: written.Stored, ChunksReused: written.Reused, BytesStored: written.StoredBytes}
	for _, table := range m.Tables {
		t.Rows += table.Rows
		t.BytesRead += table.Bytes
	}
	t.BytesRead += m.Schema.Archive.Size
	for _, c := range m.Distinct() {
		t.BytesTotal += c.StoredSize
	}
	for _, c := range m.LargeObjects.Chunks {
		t.BytesRead += c.Size
	}
	return t
}

// scope says for people what is in the backup and what is not.
func scope(m *format.Manifest) string {
	return fmt.Sprintf("PostgreSQL database %q of server version %s, logical, as of %s: schema, rows, sequences, large objects, "+
		"grants, the database's own settings, and the roles it refers to without their passwords. Not in it: other databases of the server, "+
		"the server's configuration, write-ahead log (no point in time in between), replication slots, statistics, files outside the database.",
		m.Database.Name, m.Server.Version, m.SnapshotAt.Format(time.RFC3339))
}

func sortedTables(tables []format.Table) {
	sort.Slice(tables, func(i, j int) bool {
		a, b := tables[i], tables[j]
		if a.Schema != b.Schema {
			return a.Schema < b.Schema
		}
		return a.Name < b.Name
	})
}
