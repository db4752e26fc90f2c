package restore_test

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// everythingSQL makes a database with one of most things.
//
//go:embed testdata/everything.sql
var everythingSQL string

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// rig is a source with a backup, and a private server to restore it on.
type rig struct {
	source   *pgserver.Server
	url      string // of the store
	store    objstore.Store
	manifest *format.Manifest
}

func newRig(t *testing.T, major int, sql string) *rig {
	r := &rig{source: pgservertest.Server(t, major)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, sql)
	return r.backUp(t, name)
}

func (r *rig) backUp(t *testing.T, database string) *rig {
	var err error
	r.url = "file://" + filepath.Join(t.TempDir(), "store")
	r.store, err = objstore.Open(deadline(t), r.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.store.Close()) })
	r.manifest, err = backup.Take(deadline(t), backup.Options{
		Source: postgres.Config{URL: r.source.DSN("", database)}, Store: r.store, Target: "shop", BackupID: "b1", Connections: 2, Engine: "test",
	})
	require.NoError(t, err)
	return r
}

func (r *rig) open(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
	return chunk.Open(ctx, r.store, "shop", c, nil)
}

// scratch is a fresh private server of the source's version.
func (r *rig) scratch(t *testing.T, major int) *pgserver.Server {
	binaries, err := pgservertest.Binaries(deadline(t), major)
	require.NoError(t, err)
	s, err := pgserver.Start(deadline(t), pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("scratch-%d-%d", os.Getpid(), time.Now().UnixNano())), Binaries: binaries,
		Superuser: restore.ScratchSuperuser(r.manifest),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Remove(context.Background())) })
	return s
}

func (r *rig) options(s *pgserver.Server) restore.Options {
	return restore.Options{
		Manifest: r.manifest, Open: r.open, Server: postgres.Config{URL: s.DSN("", "postgres")}, Private: true,
		Database: "copy", Final: "copy", Owner: "run-1", Connections: 2,
	}
}

// beside are options to restore on the source's own server, as if it were a private one.
func (r *rig) beside(t *testing.T) restore.Options {
	o := r.options(r.source)
	o.Database = r.manifest.Database.Name + "_copy"
	o.Final = o.Database
	t.Cleanup(func() { pgservertest.Exec(t, o.Server.URL, "DROP DATABASE IF EXISTS "+o.Database+" WITH (FORCE)") })
	return o
}

func restoreAll(t *testing.T, o restore.Options) restore.Result {
	oid, err := restore.Create(deadline(t), o)
	require.NoError(t, err)
	o.Oid = oid
	result, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	return result
}

// requireEqual holds the copy against the backup with every check there is.
func (r *rig) requireEqual(t *testing.T, o restore.Options, database string) {
	t.Helper()
	checks := r.compare(t, o, database)
	for _, c := range checks {
		if c.Name != "not compared" && (c.Name != "amcheck" || o.Private) {
			require.Equal(t, run.Pass, c.Verdict, "%s: %s", c.Name, c.Detail)
		}
	}
}

func (r *rig) compare(t *testing.T, o restore.Options, database string) []run.Check {
	archive, err := r.open(deadline(t), r.manifest.Schema.Archive)
	require.NoError(t, err)
	plain, err := io.ReadAll(archive)
	require.NoError(t, err)
	checks, err := proof.Compare(deadline(t), proof.Options{
		Copy: o.Server, Database: database, Manifest: r.manifest, Archive: plain, Connections: 2, Amcheck: o.Private, Properties: true,
	})
	require.NoError(t, err)
	return checks
}

func query[T any](t *testing.T, url, sql string) (out T) {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, conn.QueryRow(deadline(t), sql).Scan(&out))
	return out
}

func TestACopyEqualsItsOriginal(t *testing.T) {
	r := newRig(t, pgservertest.Default, everythingSQL)
	s := r.scratch(t, pgservertest.Default)
	o := r.options(s)
	p, err := restore.Plan(deadline(t), o)
	require.NoError(t, err)
	require.Empty(t, p.MissingRoles)
	result := restoreAll(t, o)
	require.Equal(t, r.manifest.Totals.Rows, result.Rows)
	require.Zero(t, result.Skipped)
	r.requireEqual(t, o, "copy")
	again := restoreAll(t, o)
	require.Equal(t, result.Chunks, again.Skipped, "what is whole is left alone")
}

// A new database has a schema and an extension that its original may have dropped.
func TestWhatTheOriginalDroppedIsDropped(t *testing.T) {
	r := newRig(t, pgservertest.Default, `DROP SCHEMA public; CREATE SCHEMA app; CREATE TABLE app.t (a int PRIMARY KEY); INSERT INTO app.t VALUES (1); DROP EXTENSION plpgsql; SELECT lo_from_bytea(0, 'x')`)
	o := r.options(r.scratch(t, pgservertest.Default))
	restoreAll(t, o)
	r.requireEqual(t, o, "copy")
}
