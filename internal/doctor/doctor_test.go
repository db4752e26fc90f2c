package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/doctor"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// findings are what was found, by subject and check.
type findings map[string]doctor.Finding

// examine looks at a configuration with the given store and targets, as a worker that keeps its scratch
// servers where others can pass.
func examine(t *testing.T, storeURL, targets string) findings {
	t.Helper()
	c, err := config.Parse("upkeep.yaml", []byte("version: 1\nstore: "+storeURL+"\ntargets:\n"+targets))
	require.NoError(t, err)
	found := doctor.Examine(deadline(t), doctor.Options{Config: c, Targets: c.Targets, DataDir: filepath.Join(pgservertest.Root(), "doctor")})
	byName := make(findings)
	for _, f := range found {
		require.NotContains(t, byName, f.Subject+", "+f.Name, "said twice")
		require.NotEmpty(t, f.Detail, "%+v", f)
		if f.Verdict != run.Pass && !strings.HasPrefix(f.Detail, "not looked at") {
			require.NotEmpty(t, f.Remedy, "%+v", f)
		}
		require.NotContains(t, f.Remedy, "resume", "%+v", f)
		byName[f.Subject+", "+f.Name] = f
	}
	return byName
}

// of the target "shop" and its database.
func (f findings) of(t *testing.T, check string) doctor.Finding {
	t.Helper()
	return f.named(t, "target shop: database, "+check)
}

func (f findings) named(t *testing.T, name string) doctor.Finding {
	t.Helper()
	require.Contains(t, f, name)
	return f[name]
}

func requireFail(t *testing.T, f doctor.Finding, code failure.Code, says ...string) {
	t.Helper()
	require.Equal(t, run.Fail, f.Verdict, "%+v", f)
	require.Equal(t, code, f.Code, "%+v", f)
	requireSays(t, f, says...)
}

func requireUnproven(t *testing.T, f doctor.Finding, optional bool, says ...string) {
	t.Helper()
	require.Equal(t, run.NotProven, f.Verdict, "%+v", f)
	require.Equal(t, optional, f.Optional, "%+v", f)
	requireSays(t, f, says...)
}

func requireSays(t *testing.T, f doctor.Finding, says ...string) {
	t.Helper()
	for _, s := range says {
		require.Contains(t, f.Detail+"\n"+f.Remedy, s)
	}
}

func shop(url, more string) string {
	return fmt.Sprintf("  - name: shop\n    database:\n      url: %q\n%s", url, more)
}

// newStore makes the folder of a store.
func newStore(t *testing.T) (folder, url string) {
	t.Helper()
	folder = t.TempDir()
	return folder, "file://" + folder
}

func requireEmpty(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestAGoodConfigurationPassesAndNothingIsLeft(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE EXTENSION citext; CREATE TABLE t (id serial PRIMARY KEY, v citext); INSERT INTO t (v) VALUES ('x'); SELECT lo_from_bytea(0, 'y')")
	folder, store := newStore(t)
	found := examine(t, store, shop(url, ""))
	for name, f := range found {
		require.Equal(t, run.Pass, f.Verdict, "%s: %+v", name, f)
	}
	requireSays(t, found.of(t, "connection"), "PostgreSQL 15", "a primary")
	requireSays(t, found.of(t, "a backup can read it"), "1 tables")
	requireSays(t, found.of(t, "rights on sequences and large objects"), "1 sequences and 1 large objects")
	requireSays(t, found.of(t, "what Upkeep itself runs on"), "nothing of it")
	requireEmpty(t, folder)
	_, err := os.Stat(filepath.Join(pgservertest.Root(), "doctor"))
	require.ErrorIs(t, err, os.ErrNotExist, "looking makes no folder")
	var sessions int
	conn := connect(t, url)
	require.NoError(t, conn.QueryRow(deadline(t), "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'upkeep-doctor%'").Scan(&sessions))
	require.Zero(t, sessions)
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestAMissingSecretIsNamedAndNothingElseIsGuessed(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	_, store := newStore(t)
	found := examine(t, store, shop(url, "      passwordFrom: {env: UPKEEP_DOCTOR_ABSENT}\n      scratch: {server: '"+server.DSN("", "postgres")+"', passwordFrom: {file: /nowhere/password}}\n"))
	requireFail(t, found.of(t, "password"), failure.MissingSecret, "UPKEEP_DOCTOR_ABSENT")
	requireUnproven(t, found.of(t, "connection"), false, "its password is missing")
	requireUnproven(t, found.of(t, "a backup can read it"), false, "its password is missing")
	requireFail(t, found.named(t, "target shop: scratch server, password"), failure.MissingSecret, "/nowhere/password")
	requireUnproven(t, found.named(t, "target shop: scratch server, connection"), false, "its password is missing")
	require.Equal(t, run.Pass, found.named(t, "store, keeps what is written").Verdict, "it does not need the database")
	requireUnproven(t, found.named(t, "store, free space"), false, "shop")
}

// guarded starts a server that wants the superuser's password.
func guarded(t *testing.T) *pgserver.Server {
	t.Helper()
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	server, err := pgserver.Start(deadline(t), pgserver.Options{Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("doctor-%d", os.Getpid())), Binaries: binaries, TCPPort: port})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Remove(context.Background())) })
	return server
}

func TestAWrongPasswordAndAScratchServer(t *testing.T) {
	server, other := guarded(t), pgservertest.Server(t, pgservertest.Default)
	pgservertest.Exec(t, server.DSN("", "postgres"), "CREATE ROLE lowly LOGIN PASSWORD 'a lowly secret'")
	_, store := newStore(t)
	t.Setenv("UPKEEP_DOCTOR_WRONG", "a wrong secret")
	t.Setenv("UPKEEP_DOCTOR_LOWLY", "a lowly secret")
	found := examine(t, store, shop(server.TCPURL("postgres"), "      passwordFrom: {env: UPKEEP_DOCTOR_WRONG}\n"))
	require.Equal(t, run.Pass, found.of(t, "password").Verdict)
	requireFail(t, found.of(t, "connection"), failure.WrongPassword, "pg_hba.conf", "127.0.0.1")
	require.NotContains(t, fmt.Sprint(found), "secret")

	right := "      passwordFrom: {file: " + server.PasswordFile() + "}\n"
	found = examine(t, store, shop(server.TCPURL("postgres"), right+"      scratch: {server: '"+other.DSN("", "postgres")+"'}\n"))
	require.Equal(t, run.Pass, found.of(t, "connection").Verdict)
	requireSays(t, found.of(t, "encryption"), "does not leave this machine")
	for _, check := range []string{"connection", "version and rights", "is another server", "extensions"} {
		require.Equal(t, run.Pass, found.named(t, "target shop: scratch server, "+check).Verdict)
	}
	lowly := strings.Replace(server.TCPURL("postgres"), "postgres@", "lowly@", 1)
	found = examine(t, store, shop(server.TCPURL("postgres"), right+"      scratch: {server: '"+lowly+"', passwordFrom: {env: UPKEEP_DOCTOR_LOWLY}}\n"))
	requireFail(t, found.named(t, "target shop: scratch server, is another server"), failure.BadConfig, "the server of the target itself")
	requireFail(t, found.named(t, "target shop: scratch server, version and rights"), failure.MissingRight, `ALTER ROLE "lowly" CREATEDB`)
	require.NotContains(t, fmt.Sprint(found), "secret")
}

func TestAServerThatIsSilentOrAwayFailsInTime(t *testing.T) {
	doctor.Hurry(t, time.Second)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connection, and nobody answers
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	_, store := newStore(t)
	for _, address := range []string{silent.Addr().String(), "127.0.0.1:1"} {
		found := examine(t, store, shop("postgres://me@"+address+"/db?sslmode=disable", ""))
		requireFail(t, found.of(t, "connection"), failure.ServerUnreachable, address)
		requireUnproven(t, found.of(t, "no old transactions"), false, "there is no connection")
		requireUnproven(t, found.named(t, "target shop: scratch server, server programs"), false, "there is no connection")
		require.Equal(t, run.Pass, found.named(t, "target shop: scratch server, folder").Verdict)
	}
}

func TestAStoreThatCannotBeUsed(t *testing.T) {
	doctor.Hurry(t, time.Second)
	target := shop("postgres://me@127.0.0.1:1/db", "")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	found := examine(t, "file://"+file+"/store", target)
	requireFail(t, found.named(t, "store, opens"), failure.StoreUnwritable, file)
	requireUnproven(t, found.named(t, "store, keeps what is written"), false, "the store is not open")

	missing := filepath.Join(t.TempDir(), "not", "there")
	found = examine(t, "file://"+missing, target)
	requireUnproven(t, found.named(t, "store, opens"), false, "the first run makes it", missing)
	_, err := os.Stat(filepath.Dir(missing))
	require.ErrorIs(t, err, os.ErrNotExist, "looking makes no folder")

	t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "nothing")
	found = examine(t, "s3://bucket?region=eu-central-1&endpoint=http://127.0.0.1:1&use_path_style=true", target)
	require.Equal(t, run.Fail, found.named(t, "store, keeps what is written").Verdict)
	require.NotContains(t, found, "store, free space")
}

func TestTheProbe(t *testing.T) {
	folder, url := newStore(t)
	store, err := objstore.Open(deadline(t), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	key := format.ProbeKey("a host.example")
	for _, c := range []struct {
		name  string
		store objstore.Store
		says  string
	}{
		{"one that overwrites", &overwriting{store}, "there already"},
		{"one that forgets", &objstoretest.Faulty{Store: store, After: func(ctx context.Context, op, key string) error {
			if op == "create" {
				return store.Delete(ctx, key)
			}
			return nil
		}}, "there already"},
		{"one that cannot list", &objstoretest.Faulty{Store: store, Before: func(_ context.Context, op, _ string) error {
			if op == "list" {
				return objstoretest.Unreachable()
			}
			return nil
		}}, "does not answer"},
		{"one that says nothing of what it took", &objstoretest.Faulty{Store: store, After: func(_ context.Context, op, _ string) error {
			if op == "create" {
				return objstoretest.Unreachable()
			}
			return nil
		}}, "does not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.ErrorContains(t, doctor.Probe(deadline(t), c.store, key), c.says)
			requireEmpty(t, folder)
		})
	}
	t.Run("what a doctor that was killed left is taken away", func(t *testing.T) {
		require.NoError(t, store.Create(deadline(t), key, []byte("upkeep doctor 1")))
		require.NoError(t, doctor.Probe(deadline(t), store, key))
		requireEmpty(t, folder)
	})
	t.Run("one that was crossed tries again", func(t *testing.T) {
		crossed := false
		require.NoError(t, doctor.Probe(deadline(t), &objstoretest.Faulty{Store: store, Before: func(ctx context.Context, op, key string) error {
			if op == "read" && !crossed {
				crossed = true
				return errors.Join(store.Delete(ctx, key), store.Create(ctx, key, []byte("upkeep doctor 2")))
			}
			return nil
		}}, key))
		require.True(t, crossed)
		requireEmpty(t, folder)
	})
}

// overwriting is a store that creates what is there already.
type overwriting struct{ objstore.Store }

func (o *overwriting) Create(ctx context.Context, key string, data []byte) error {
	return o.Replace(ctx, key, data)
}

// role makes a role that may read all of the database, and gives its URL.
func role(t *testing.T, name, more string) (url, super, database string) {
	t.Helper()
	server := pgservertest.Server(t, pgservertest.Default)
	database, super = pgservertest.Database(t, server)
	pgservertest.Exec(t, super, "CREATE ROLE "+name+" LOGIN; GRANT pg_read_all_data, pg_monitor TO "+name+";"+more)
	t.Cleanup(func() { pgservertest.Exec(t, super, "DROP OWNED BY "+name+"; DROP ROLE "+name) })
	return server.DSN(name, database), super, database
}

func TestARoleThatLacksRightsIsToldWhich(t *testing.T) {
	url, super, _ := role(t, "doctored", `
		REVOKE pg_read_all_data FROM doctored; CREATE TABLE open (a int); CREATE TABLE closed (a int); GRANT SELECT ON open TO doctored;
		CREATE SEQUENCE counter; SELECT lo_from_bytea(4711, 'x')`)
	_, store := newStore(t)
	found := examine(t, store, shop(url, ""))
	requireFail(t, found.of(t, "a backup can read it"), failure.MissingRight, `"public"."closed"`, "pg_read_all_data")
	requireFail(t, found.of(t, "rights on sequences and large objects"), failure.MissingRight, `"public"."counter"`)
	requireFail(t, found.of(t, "rights to restore beside it"), failure.MissingRight, `ALTER ROLE "doctored" CREATEDB`, "GRANT postgres TO", "only RestoreDatabase")
	require.Equal(t, run.Pass, found.of(t, "size").Verdict, "the others are looked at all the same")

	pgservertest.Exec(t, super, "GRANT pg_read_all_data TO doctored; ALTER TABLE closed ENABLE ROW LEVEL SECURITY")
	found = examine(t, store, shop(url, ""))
	requireFail(t, found.of(t, "a backup can read it"), failure.RowSecurity, `"public"."closed"`, "BYPASSRLS")
	requireFail(t, found.of(t, "rights on sequences and large objects"), failure.MissingRight, "1 of 1 large objects", "4711")

	pgservertest.Exec(t, super, "ALTER ROLE doctored BYPASSRLS CONNECTION LIMIT 3; GRANT SELECT ON LARGE OBJECT 4711 TO doctored")
	found = examine(t, store, shop(url, ""))
	require.Equal(t, run.Pass, found.of(t, "a backup can read it").Verdict)
	require.Equal(t, run.Pass, found.of(t, "rights on sequences and large objects").Verdict)
	requireFail(t, found.of(t, "room for sessions"), failure.ServerUnreachable, "of 3 that the role may have", "CONNECTION LIMIT")
}

func TestTheOwnerOfEverythingOnlyLacksCreatedb(t *testing.T) {
	url, super, database := role(t, "owning", "CREATE TABLE mine (a int); ALTER TABLE mine OWNER TO owning")
	pgservertest.Exec(t, super, "ALTER DATABASE "+database+" OWNER TO owning")
	t.Cleanup(func() { pgservertest.Exec(t, super, "ALTER DATABASE "+database+" OWNER TO postgres") })
	_, store := newStore(t)
	f := examine(t, store, shop(url, "")).of(t, "rights to restore beside it")
	requireFail(t, f, failure.MissingRight, "may not create databases", `ALTER ROLE "owning" CREATEDB`)
	require.NotContains(t, f.Detail, "owners")

	pgservertest.Exec(t, super, "ALTER ROLE owning CREATEDB")
	for name, f := range examine(t, store, shop(url, "")) {
		require.Equal(t, run.Pass, f.Verdict, "%s: %+v", name, f)
	}
	pgservertest.Exec(t, super, "CREATE EXTENSION pageinspect")
	requireFail(t, examine(t, store, shop(url, "")).of(t, "rights to restore beside it"), failure.MissingRight, "pageinspect")
}

func TestAForgottenTransactionIsNamed(t *testing.T) {
	doctor.Old(t, 0)
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (a int)")
	pgservertest.Exec(t, url, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'half''way'")
	defer pgservertest.Exec(t, url, "ROLLBACK PREPARED 'half''way'")
	holder := connect(t, url)
	_, err := holder.Exec(deadline(t), "BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
	require.NoError(t, err)
	_, store := newStore(t)
	f := examine(t, store, shop(url, "")).of(t, "no old transactions")
	requireUnproven(t, f, true, "'half''way'", fmt.Sprintf("the session with pid %d", holder.PgConn().PID()), "ROLLBACK PREPARED")
	require.Equal(t, run.Pass, doctor.Verdict([]doctor.Finding{f}))
}

func TestWhatUpkeepRunsOnIsNamed(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, store := newStore(t)
	_, shopURL := pgservertest.Database(t, server)
	for _, c := range []struct {
		tables []string
		holds  bool
	}{
		{[]string{"executions", "namespaces", "schema_version"}, false},
		{[]string{"executions", "history_node", "namespaces", "schema_version"}, true},
		{[]string{"executions_visibility"}, false},
		{[]string{"executions_visibility", "schema_version"}, true},
	} {
		name, url := pgservertest.Database(t, server)
		for _, table := range c.tables {
			pgservertest.Exec(t, url, "CREATE TABLE "+table+" (a int)")
		}
		here, beside := examine(t, store, shop(url, "")).of(t, "what Upkeep itself runs on"), examine(t, store, shop(shopURL, "")).of(t, "what Upkeep itself runs on")
		require.Equal(t, run.Pass, here.Verdict)
		require.Equal(t, c.holds, strings.Contains(here.Detail, "Upkeep's own Temporal keeps its state here, as its tables say: in this database"), here.Detail)
		require.Equal(t, c.holds, strings.Contains(beside.Detail, "in database \""+name+"\" of this server"), beside.Detail)
		pgservertest.Exec(t, url, "DROP TABLE "+strings.Join(c.tables, ", "))
	}
	requireFail(t, examine(t, "file://"+server.Dir()+"/data/backups", shop(shopURL, "")).of(t, "what Upkeep itself runs on"), failure.BadConfig, "takes its backups along")
}

func TestExtensionsThatAScratchServerLacksAreNamed(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	// As an extension whose package only the source's machine has.
	pgservertest.Exec(t, url, "SET allow_system_table_mods = on; INSERT INTO pg_extension VALUES (999999, 'from_elsewhere', 10, 2200, false, '1', null, null)")
	_, store := newStore(t)
	found := examine(t, store, shop(url, ""))
	requireFail(t, found.named(t, "target shop: scratch server, extensions"), failure.MissingProgram, "from_elsewhere")
	found = examine(t, store, shop(url, "      scratch: {server: '"+server.DSN("", "postgres")+"'}\n"))
	requireFail(t, found.named(t, "target shop: scratch server, extensions"), failure.MissingProgram, "from_elsewhere")
}

func TestAServerThatNoProgramHereReads(t *testing.T) {
	if _, err := pgserver.Find(deadline(t), 18); err == nil {
		t.Skip("the machine has PostgreSQL 18")
	}
	server := pgservertest.Server(t, 18)
	_, url := pgservertest.Database(t, server)
	_, store := newStore(t)
	found := examine(t, store, shop(url, ""))
	requireFail(t, found.of(t, "version and client programs"), failure.ServerTooNew, "postgresql-client-18")
	requireFail(t, found.named(t, "target shop: scratch server, server programs"), failure.MissingProgram, "postgresql-18")
	requireUnproven(t, found.named(t, "target shop: scratch server, extensions"), false, "there are no server programs")
	for _, check := range []string{"size", "rights on sequences and large objects", "rights to restore beside it", "room for sessions", "no old transactions", "what Upkeep itself runs on"} {
		require.Equal(t, run.Pass, found.of(t, check).Verdict, "%+v", found.of(t, check))
	}
}
