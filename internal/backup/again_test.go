package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// steadySQL makes a table of several page ranges that hardly compress, and a small one.
const steadySQL = `
CREATE TABLE big (id int PRIMARY KEY, v text) WITH (fillfactor = 90);
INSERT INTO big SELECT g, md5(g::text) || md5((g + 1)::text) || md5((g + 2)::text) || md5((g + 3)::text) FROM generate_series(1, 120000) g;
CREATE TABLE small (id int PRIMARY KEY, v text); INSERT INTO small SELECT g, 'v' || g FROM generate_series(1, 100) g;
CREATE TABLE empty_one (a int);
`

func steady(t *testing.T) (d *drill, url string) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, steadySQL)
	return newDrill(t, server, name), url
}

func TestWhatDidNotChangeIsNotStoredAgain(t *testing.T) {
	d, url := steady(t)
	require.NoError(t, d.take(t))
	first := d.manifest
	require.Greater(t, len(first.Tables[0].Ranges), 2, "the table is too small for this test")
	require.Equal(t, first.Totals.BytesTotal, first.Totals.BytesStored)

	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	require.Less(t, d.manifest.Totals.BytesStored*100, first.Totals.BytesStored)
	require.Equal(t, len(d.manifest.Chunks()), d.manifest.Totals.ChunksStored+d.manifest.Totals.ChunksReused)
	require.LessOrEqual(t, d.manifest.Totals.ChunksStored, 1, "only the archive of the schema, in which its time stands")

	pgservertest.Exec(t, url, "UPDATE small SET v = 'other' WHERE id = 7")
	d.options.BackupID = "b3"
	require.NoError(t, d.take(t))
	require.LessOrEqual(t, d.manifest.Totals.ChunksStored, 2, "the small table and the schema")
	require.Less(t, d.manifest.Totals.BytesStored*100, first.Totals.BytesStored)

	pgservertest.Exec(t, url, "UPDATE big SET v = upper(v) WHERE id = 60000")
	d.options.BackupID = "b4"
	require.NoError(t, d.take(t))
	require.LessOrEqual(t, d.manifest.Totals.ChunksStored, 3, "one range of the big table, perhaps two, and the schema")
	require.Less(t, d.manifest.Totals.BytesStored*2, first.Totals.BytesStored)
	d.prove(t)
}

// Tables that are read in one piece have no fixed cuts: their rows say where a chunk ends.
func TestARowLessMovesNoChunkButItsOwn(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	for _, table := range []string{"one", "two"} {
		pgservertest.Exec(t, url, "CREATE TABLE "+table+` (id int PRIMARY KEY, v text);
			INSERT INTO `+table+` SELECT g, md5('`+table+`' || g) || md5((g + 1)::text) || md5((g + 2)::text) || md5((g + 3)::text) FROM generate_series(1, 200000) g`)
	}
	d := newDrill(t, server, name)
	require.NoError(t, d.take(t))
	first := d.manifest
	for _, table := range first.Tables {
		require.Len(t, table.Ranges, 1)
		require.Greater(t, len(table.Ranges[0].Chunks), 3)
	}
	pgservertest.Exec(t, url, "DELETE FROM one WHERE id = 5")
	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	require.LessOrEqual(t, d.manifest.Totals.ChunksStored, 2, "the first chunk and the schema")
	d.prove(t)
}

func TestABackupIsTakenOncePerID(t *testing.T) {
	d, url := steady(t)
	var twins [2]*format.Manifest
	var errs [2]error
	var both sync.WaitGroup
	ctx := deadline(t)
	for i := range twins {
		both.Go(func() { twins[i], errs[i] = takeIn(ctx, d) })
	}
	both.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.Equal(t, encoded(t, twins[0]), encoded(t, twins[1]), "one of them takes over the other's result")

	pgservertest.Exec(t, url, "TRUNCATE small")
	require.NoError(t, d.take(t))
	require.Equal(t, encoded(t, twins[0]), encoded(t, d.manifest))
	checks, err := verify.Decoded(deadline(t), d.options.Store, "shop", "b1", nil)
	require.NoError(t, err)
	requirePass(t, checks)
	requireNobodyLeft(t, url)
}

// A worker that is frozen keeps its sessions and their locks. The next attempt ends them, and nobody else's.
func TestTheSessionsOfAnEarlierAttemptAreEnded(t *testing.T) {
	backup.Impatient(t)
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE a (id int)")
	frozen, other := session(t, url), session(t, url)
	for conn, sql := range map[*pgx.Conn]string{
		frozen: "SET application_name = 'upkeep-backup b1'; BEGIN; LOCK TABLE a", other: "SET application_name = 'upkeep-backup b2'",
	} {
		_, err := conn.Exec(deadline(t), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	}
	d := newDrill(t, server, name)
	_, err := backup.Plan(deadline(t), d.options)
	require.True(t, failure.Is(err, failure.LockHeld), "a plan ends nothing: %v", err)
	require.NoError(t, d.take(t))
	require.Error(t, frozen.Ping(deadline(t)))
	require.NoError(t, other.Ping(deadline(t)))
}

func encoded(t *testing.T, m *format.Manifest) string {
	t.Helper()
	data, err := format.Encode(m)
	require.NoError(t, err)
	return string(data)
}

// The keeper is the oldest of a backup's sessions.
const (
	terminateKeeper = `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'upkeep-backup b1' ORDER BY backend_start LIMIT 1) s`
	terminateReader = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'upkeep-backup b1' AND query LIKE 'COPY%'`
)

// A snapshot dies with its session. What was stored of it stays useful, but nothing of it may count
// for the next one.
func TestALostSessionEndsTheAttempt(t *testing.T) {
	for name, terminate := range map[string]string{"keeper": terminateKeeper, "reader": terminateReader} {
		t.Run(name, func(t *testing.T) {
			d, url := steady(t)
			d.options.Connections = 1 // nobody else reads the rest
			hit := 0
			ctx := atProgress("reading rows").arm(t, d, url, deadline(t), func() { hit = query[int](t, url, terminate) })
			_, err := takeIn(ctx, d)
			require.Positive(t, hit, "nothing was ended")
			f, ok := failure.As(err)
			require.True(t, ok, "%v", err)
			require.Equal(t, failure.Transient, f.Class(), "%v", err)
			requireNoObject(t, d.options.Store, "shop/backups/")
			requireNobodyLeft(t, url)
			requireRightAfterChange(t, d, url)
		})
	}
}

// requireRightAfterChange changes the database after a failed attempt and requires the next one to be
// the same as one that knows nothing of the first.
func requireRightAfterChange(t *testing.T, d *drill, url string) {
	t.Helper()
	pgservertest.Exec(t, url, "UPDATE big SET v = id::text WHERE id % 2 = 0; DELETE FROM big WHERE id % 10 = 0; INSERT INTO empty_one VALUES (1)")
	require.NoError(t, d.take(t))
	have := d.manifest
	checks, err := verify.Decoded(deadline(t), d.options.Store, "shop", "b1", nil)
	require.NoError(t, err)
	requirePass(t, checks)
	clean, err := objstore.Open(deadline(t), "file://"+filepath.Join(t.TempDir(), "clean"))
	require.NoError(t, err)
	defer func() { require.NoError(t, clean.Close()) }()
	fresh := d.options
	fresh.Store = clean
	want, err := backup.Take(deadline(t), fresh)
	require.NoError(t, err)
	require.Equal(t, content(t, want), content(t, have))
	require.EqualValues(t, 108101, have.Totals.Rows)
}

func TestAKilledServerEndsTheAttempt(t *testing.T) {
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	options := pgserver.Options{Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("killed-%d", os.Getpid())), Binaries: binaries, Durable: true}
	server, err := pgserver.Start(deadline(t), options)
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Remove(context.Background())) }()
	url := server.DSN("", "postgres")
	pgservertest.Exec(t, url, steadySQL)
	d := newDrill(t, server, "postgres")
	good := d.options.Store
	d.options.Store = &watchedStore{Store: good, pattern: "shop/chunks/*/*", act: func() {
		_ = syscall.Kill(server.Pid(), syscall.SIGKILL)
		<-server.Done()
	}}
	err = d.take(t)
	require.True(t, failure.Is(err, failure.ServerUnreachable), "%v", err)
	requireNoObject(t, good, "shop/backups/")
	d.options.Store = good
	require.True(t, failure.Is(d.take(t), failure.ServerUnreachable), "while it is down")

	require.NoError(t, server.Stop(deadline(t)))
	server, err = pgserver.Start(deadline(t), options)
	require.NoError(t, err)
	requireRightAfterChange(t, d, url)
}
