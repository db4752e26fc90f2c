package backup_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// requireRefused requires a failure of the code, and nothing to be left in the store or on the server.
func requireRefused(t *testing.T, d *drill, url string, code failure.Code, says ...string) {
	t.Helper()
	if code != failure.LockHeld { // that one costs patience
		_, err := backup.Plan(deadline(t), d.options)
		require.True(t, failure.Is(err, code), "the plan says: %v", err)
	}
	err := d.take(t)
	require.True(t, failure.Is(err, code), "%v", err)
	f, _ := failure.As(err)
	require.NotEmpty(t, f.Remedy)
	for _, s := range says {
		require.Contains(t, f.Error(), s)
	}
	requireNoObject(t, d.options.Store, "")
	if url != "" {
		requireNobodyLeft(t, url)
	}
}

// requireNoObject requires nothing to be under a prefix of the store.
func requireNoObject(t *testing.T, store objstore.Store, prefix string) {
	t.Helper()
	require.NoError(t, store.List(deadline(t), prefix, func(i objstore.Info) error {
		require.Fail(t, "something is in the store", i.Key)
		return nil
	}))
}

// limitedSQL makes a database and a role that may read what README says it needs to.
const limitedSQL = `
CREATE ROLE limited LOGIN;
CREATE TABLE open_to_all (a int); CREATE TABLE "Own's" (a int); CREATE TABLE plain (a int PRIMARY KEY); INSERT INTO plain VALUES (1), (2);
ALTER TABLE open_to_all ENABLE ROW LEVEL SECURITY; ALTER TABLE "Own's" ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON open_to_all USING (true);
CREATE SEQUENCE counter;
SELECT lo_from_bytea(4711, 'x');
`

func limited(t *testing.T) (d *drill, url string) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, limitedSQL)
	t.Cleanup(func() { pgservertest.Exec(t, url, "DROP OWNED BY limited; DROP ROLE limited") })
	d = newDrill(t, server, name)
	d.options.Source.URL = server.DSN("limited", name)
	return d, url
}

func TestARoleThatMayNotReadEverythingIsToldWhat(t *testing.T) {
	d, url := limited(t)
	pgservertest.Exec(t, url, `GRANT SELECT ON open_to_all, "Own's" TO limited`)
	requireRefused(t, d, url, failure.RowSecurity, `"public"."open_to_all"`, `"public"."Own's"`, "BYPASSRLS")
	pgservertest.Exec(t, url, "ALTER ROLE limited BYPASSRLS")
	requireRefused(t, d, url, failure.MissingRight, `"public"."plain"`, "pg_read_all_data")

	pgservertest.Exec(t, url, "GRANT pg_read_all_data TO limited")
	err := d.take(t)
	require.True(t, failure.Is(err, failure.MissingRight), "of the large object: %v", err)
	requireNoObject(t, d.options.Store, "shop/backups/")
	requireNobodyLeft(t, url)

	pgservertest.Exec(t, url, "GRANT SELECT ON LARGE OBJECT 4711 TO limited")
	require.NoError(t, d.take(t), "all that README asks for is granted")
	d.prove(t)
}

func TestWhatNoDumpReadsIsNamed(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE EXTENSION citext; CREATE TABLE orders (id serial, v text); CREATE TABLE quiet (a int)`)
	d := newDrill(t, server, name)
	require.NoError(t, d.take(t))
	require.Empty(t, d.manifest.LeftOut)

	pgservertest.Exec(t, url, `INSERT INTO orders (v) VALUES ('one');
		ALTER EXTENSION citext ADD TABLE orders; ALTER EXTENSION citext ADD TABLE quiet;
		ALTER TABLE orders ALTER id DROP DEFAULT; ALTER SEQUENCE orders_id_seq OWNED BY NONE; ALTER EXTENSION citext ADD SEQUENCE orders_id_seq;
		CREATE FUNCTION pg_catalog.legacy(int) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
		CREATE DOMAIN pg_catalog.old AS int`)
	pgservertest.Exec(t, url, "ALTER DATABASE "+name+" SET zero_damaged_pages = on")
	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	for _, part := range []string{`what is in "public"."orders"`, `what is in "public"."orders_id_seq"`, "function legacy(integer) stands in the schema pg_catalog",
		"type old stands in the schema pg_catalog", "the setting zero_damaged_pages is on"} {
		require.Contains(t, strings.Join(d.manifest.LeftOut, "\n"), part)
	}
	require.Len(t, d.manifest.LeftOut, 5)
	for _, grade := range []func(context.Context, objstore.Store, string, string, *keyring.Ring) ([]run.Check, error){verify.Stored, verify.Decoded} {
		checks, err := grade(deadline(t), d.options.Store, "shop", "b2", nil)
		require.NoError(t, err)
		require.Equal(t, run.NotProven, proof.Verdict(checks), "%v", checks)
	}
}

// An index's lock is none of its table's: it is waited for by who looks at sizes, who counts and who
// reads, and by none of them for ever.
func TestAnIndexLockThatNobodyGivesUpIsNamed(t *testing.T) {
	backup.Hurry(t, time.Second)
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE a (id int PRIMARY KEY, v text); ALTER TABLE a ALTER v SET STORAGE EXTERNAL; INSERT INTO a VALUES (1, repeat('x', 10000))`)
	toast := query[string](t, url, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'a'::regclass)")
	for _, c := range []struct {
		who, index, said string
		connection       int // before which the lock is taken
	}{
		{"who looks at sizes", toast, toast, 1},
		{"who counts", "a_pkey", "public.a_pkey", 1},
		{"who reads", toast, toast, 2},
	} {
		t.Run(c.who, func(t *testing.T) {
			d, holder := newDrill(t, server, name), session(t, url)
			var one sync.Mutex
			connections := 0
			d.options.Source.Password = func(ctx context.Context) (_ string, err error) {
				one.Lock()
				defer one.Unlock()
				if connections++; connections == c.connection {
					_, err = holder.Exec(ctx, "BEGIN; REINDEX INDEX "+c.index, pgx.QueryExecModeSimpleProtocol)
				}
				return "", err
			}
			err := d.take(t)
			require.True(t, failure.Is(err, failure.LockHeld), "%v", err)
			require.ErrorContains(t, err, fmt.Sprintf("the session with pid %d of postgres holds an exclusive lock on %s, which belongs to public.a", holder.PgConn().PID(), c.said))
			requireNoObject(t, d.options.Store, "shop/backups/")
			requireNobodyLeft(t, url)
			require.NoError(t, holder.Close(deadline(t)))
		})
	}
}

func TestALockThatIsHeldIsNamed(t *testing.T) {
	t.Parallel() // it waits
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE free (a int); CREATE TABLE "hel""d" (a int); CREATE TABLE more (a int)`)
	holder := session(t, url)
	_, err := holder.Exec(deadline(t), "BEGIN")
	require.NoError(t, err)
	_, err = holder.Exec(deadline(t), `LOCK TABLE "hel""d" IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	d := newDrill(t, server, name)
	requireRefused(t, d, url, failure.LockHeld, fmt.Sprintf(`the session with pid %d of postgres`, holder.PgConn().PID()), `holds an exclusive lock on public."hel""d"`)
	_, err = holder.Exec(deadline(t), "PREPARE TRANSACTION 'half''way'")
	require.NoError(t, err)
	requireRefused(t, d, url, failure.LockHeld, `the prepared transaction 'half''way' holds an exclusive lock on public."hel""d"`, "ROLLBACK PREPARED")
	_, err = holder.Exec(deadline(t), "ROLLBACK PREPARED 'half''way'")
	require.NoError(t, err)
	require.NoError(t, d.take(t))
}

func TestAWrongPasswordIsOneForAPerson(t *testing.T) {
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	server, err := pgserver.Start(deadline(t), pgserver.Options{Dir: filepath.Join(pgservertest.Root(), filepath.Base(t.TempDir())+"-password"), Binaries: binaries, TCPPort: port})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Remove(context.Background())) })
	pgservertest.Exec(t, server.DSN("", "postgres"), "CREATE TABLE a (b int); INSERT INTO a VALUES (1)")
	d := newDrill(t, server, "postgres")
	password := "a wrong secret"
	d.options.Source = postgres.Config{URL: server.TCPURL("postgres"), Password: func(context.Context) (string, error) { return password, nil }}
	requireRefused(t, d, server.DSN("", "postgres"), failure.WrongPassword)
	require.NotContains(t, d.take(t).Error(), "secret")
	password = server.Password()
	require.NoError(t, d.take(t), "the secret is read anew: pg_dump and every session need it")
	require.EqualValues(t, 1, d.manifest.Totals.Rows)
}

func TestAServerNewerThanPgDumpIsRefused(t *testing.T) {
	server := pgservertest.Server(t, 18)
	if tool, err := postgres.FindTool(deadline(t), "pg_dump", 18); err == nil {
		t.Skip("the machine has " + tool.Version)
	}
	name, url := pgservertest.Database(t, server)
	requireRefused(t, newDrill(t, server, name), url, failure.ServerTooNew, "PostgreSQL 18", "apt-get install postgresql-client-18")
}

func TestAMissingDatabaseIsOneForAPerson(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	requireRefused(t, newDrill(t, server, "no such"), "", failure.MissingDatabase, `"no such"`)
}
