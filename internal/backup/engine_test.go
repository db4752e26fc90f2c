package backup_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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
	"github.com/upkeep-run/upkeep/internal/verify"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// drill is a backup of one database, and its copy on a private server.
type drill struct {
	options  backup.Options
	manifest *format.Manifest
	copied   restore.Options // with the copy's server
}

// newDrill opens an empty store for backups of a database, which the server's superuser reads.
func newDrill(t testing.TB, server *pgserver.Server, database string) *drill {
	t.Helper()
	store, err := objstore.Open(deadline(t), "file://"+filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &drill{options: backup.Options{
		Source: postgres.Config{URL: server.DSN("", database)}, Store: store, Target: "shop", BackupID: "b1", Connections: 2, Engine: "test",
	}}
}

// takeAndProve backs a database up, checks what is stored, restores it into a private server and
// requires every check of the copy to pass.
func takeAndProve(t testing.TB, server *pgserver.Server, database string) *drill {
	t.Helper()
	d := newDrill(t, server, database)
	require.NoError(t, d.take(t))
	d.prove(t)
	return d
}

// take takes the backup, or finds the one that was taken before.
func (d *drill) take(t testing.TB) (err error) {
	t.Helper()
	d.manifest, err = backup.Take(deadline(t), d.options)
	return err
}

// takeIn takes the backup in a context of the caller's.
func takeIn(ctx context.Context, d *drill) (*format.Manifest, error) {
	return backup.Take(ctx, d.options)
}

// prove requires the backup to be sound as stored and equal as restored.
func (d *drill) prove(t testing.TB) {
	t.Helper()
	checks, err := verify.Decoded(deadline(t), d.options.Store, d.options.Target, d.options.BackupID, d.options.Keys)
	require.NoError(t, err)
	requirePass(t, checks)
	d.restore(t)
	requirePass(t, d.compare(t))
}

var scratches atomic.Int64

// scratch starts a fresh private server for the copy.
func (d *drill) scratch(t testing.TB) {
	t.Helper()
	binaries, err := pgservertest.Binaries(deadline(t), d.manifest.Server.VersionNum/10000)
	require.NoError(t, err)
	server, err := pgserver.Start(deadline(t), pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("copy-%d-%d", os.Getpid(), scratches.Add(1))), Binaries: binaries,
		Superuser: restore.ScratchSuperuser(d.manifest),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Remove(context.Background())) })
	d.copied = restore.Options{
		Manifest: d.manifest, Open: d.open, Server: postgres.Config{URL: server.DSN("", "postgres")}, Private: true,
		Database: "copy", Final: "copy", Owner: "run-1", Connections: 2,
	}
}

// restore makes the copy, on a private server unless another place is set.
func (d *drill) restore(t testing.TB) {
	t.Helper()
	if d.copied.Manifest == nil {
		d.scratch(t)
	}
	var err error
	d.copied.Oid, err = restore.Create(deadline(t), d.copied)
	require.NoError(t, err)
	result, err := restore.Load(deadline(t), d.copied)
	require.NoError(t, err)
	require.Equal(t, d.manifest.Totals.Rows, result.Rows)
}

func (d *drill) open(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
	key, err := d.options.Keys.Key(ctx, d.manifest.Key)
	if err != nil {
		return nil, err
	}
	return chunk.Open(ctx, d.options.Store, d.options.Target, c, key)
}

// compare holds the copy against the backup with every check there is.
func (d *drill) compare(t testing.TB) []run.Check {
	t.Helper()
	r, err := d.open(deadline(t), d.manifest.Schema.Archive)
	require.NoError(t, err)
	archive, err := io.ReadAll(r)
	require.NoError(t, err)
	checks, err := proof.Compare(deadline(t), proof.Options{
		Copy: d.copied.Server, Database: d.copied.Database, Manifest: d.manifest, Archive: archive, Connections: 2,
		Amcheck: d.copied.Private, Properties: true,
	})
	require.NoError(t, err)
	return checks
}

func requirePass(t testing.TB, checks []run.Check) {
	t.Helper()
	require.NotEmpty(t, checks)
	for _, c := range checks {
		// What is elsewhere is named; a copy beside the original gets no amcheck; the golden backup is old.
		known := c.Name == "not compared" || strings.Contains(c.Detail, "into a database that stays") || strings.Contains(c.Detail, "an older Upkeep took")
		if !c.Optional || !known {
			require.Equal(t, run.Pass, c.Verdict, "%s: %s", c.Name, c.Detail)
		}
	}
}

// session is a connection that ends with the test.
func session(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // a test may have ended it
	return conn
}

// query reads one value.
func query[T any](t testing.TB, url, sql string) (out T) {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, conn.QueryRow(deadline(t), sql).Scan(&out))
	return out
}
