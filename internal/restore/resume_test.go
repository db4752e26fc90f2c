package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// spread is a database of several chunks.
const spread = `
CREATE TABLE big (id int PRIMARY KEY, v text, w text); CREATE INDEX ON big (v); CREATE INDEX ON big (w);
INSERT INTO big SELECT g, md5(g::text), repeat(md5(g::text), 20) FROM generate_series(1, 30000) g;
CREATE TABLE small (id int PRIMARY KEY, big int REFERENCES big); INSERT INTO small SELECT g, g FROM generate_series(1, 100) g;
CREATE TABLE loose (v text); INSERT INTO loose VALUES ('a'), ('a'), (NULL);
SELECT lo_from_bytea(0, 'x');
`

func create(t *testing.T, o restore.Options) restore.Options {
	oid, err := restore.Create(deadline(t), o)
	require.NoError(t, err)
	o.Oid = oid
	return o
}

// TestALateAttemptDoesNotOpenAFinishedCopy creates a copy once more that another attempt has found
// unfinished, and finished since.
func TestALateAttemptDoesNotOpenAFinishedCopy(t *testing.T) {
	r := newRig(t, pgservertest.Default, everythingSQL)
	beside := r.beside(t)
	beside.Private = false
	for _, o := range []restore.Options{r.options(r.scratch(t, pgservertest.Default)), beside} {
		o = create(t, o)
		require.NoError(t, o.Prepare(deadline(t)), "done twice, it is done")
		_, err := restore.Load(deadline(t), o)
		require.NoError(t, err)
		require.NoError(t, o.Prepare(deadline(t)))
		r.requireEqual(t, o, o.Database)
	}
}

func TestARestoreGoesOnWhereItWasInterrupted(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	chunks := len(r.manifest.Chunks())
	require.Greater(t, chunks, 6)
	o := create(t, r.beside(t))
	skipped := 0
	for n := 1; ; n++ { // each attempt gets a little further: the schema's archive and one chunk
		ctx, cancel := context.WithCancel(deadline(t))
		attempt := o
		attempt.Owner = fmt.Sprintf("run-%d", n/3) // later runs take over from earlier ones
		attempt.Connections = 1
		var opened atomic.Int64
		attempt.Open = func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
			if opened.Add(1) > 2 {
				cancel()
			}
			return r.open(ctx, c)
		}
		result, err := restore.Load(ctx, attempt)
		cancel()
		require.GreaterOrEqual(t, result.Skipped, skipped)
		skipped = result.Skipped
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, n, 3*chunks, "no attempt gets further")
	}
	require.Greater(t, skipped, 3)
	r.requireEqual(t, o, o.Database)
}

func TestABuildGoesOnWhereItWasInterrupted(t *testing.T) {
	r := newRig(t, pgservertest.Default, everythingSQL)
	s := r.scratch(t, pgservertest.Default)
	o := create(t, r.options(s))
	for n := int64(1); ; n++ {
		ctx, cancel := context.WithCancel(deadline(t))
		var seen atomic.Int64
		listening := progress.With(ctx, func(progress.Progress) {
			if seen.Add(1) >= n*4 {
				cancel()
			}
		})
		_, err := restore.Load(listening, o)
		cancel()
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, n, int64(100), "it never ends")
	}
	r.requireEqual(t, o, o.Database)
}

func TestATwinIsFencedOff(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	o := create(t, r.beside(t))
	stale := o
	frozen, thaw := make(chan struct{}), make(chan struct{})
	var opened atomic.Int64
	stale.Open = func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
		if opened.Add(1) == 3 {
			close(frozen)
			<-thaw
		}
		return r.open(ctx, c)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := restore.Load(deadline(t), stale)
		ended <- err
	}()
	<-frozen
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	close(thaw)
	err = <-ended
	f, ok := failure.As(err)
	require.True(t, ok, "%v", err)
	require.Equal(t, failure.Transient, f.Class(), "%v", err)
	r.requireEqual(t, o, o.Database)
}

func TestALivingRunIsLeftAlone(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	o := create(t, r.beside(t))
	first := o
	frozen, thaw := make(chan struct{}), make(chan struct{})
	var opened atomic.Int64
	first.Open = func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
		if opened.Add(1) == 3 {
			close(frozen)
			<-thaw
		}
		return r.open(ctx, c)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := restore.Load(deadline(t), first)
		ended <- err
	}()
	<-frozen
	second := o
	second.Owner = "run-2"
	_, err := restore.Load(deadline(t), second)
	require.True(t, failure.Is(err, failure.RestoreBusy), "%v", err)
	require.ErrorContains(t, err, "run-1")
	require.NoError(t, restore.Drop(deadline(t), second))
	close(thaw)
	require.NoError(t, <-ended)
	r.requireEqual(t, o, o.Database)
	require.NoError(t, restore.Drop(deadline(t), second))
	require.NoError(t, restore.Drop(deadline(t), second))
	require.Zero(t, query[int](t, r.source.DSN("", "postgres"), "SELECT count(*) FROM pg_database WHERE datname = '"+o.Database+"'"))
}

func TestABadChunkIsNotLoaded(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	o := create(t, r.beside(t))
	bad := errors.New("the checksum is wrong")
	broken := o
	broken.Open = func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
		plain, err := r.open(ctx, c)
		if c.SHA256 == r.manifest.Schema.Archive.SHA256 {
			return plain, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(plain, failing{bad}), plain}, err
	}
	_, err := restore.Load(deadline(t), broken)
	require.ErrorIs(t, err, bad)
	require.Zero(t, query[int](t, r.source.DSN("", o.Database), "SELECT count(*) FROM big"))
	_, err = restore.Load(deadline(t), o)
	require.NoError(t, err)
	r.requireEqual(t, o, o.Database)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestARestoreBesideTheOriginal(t *testing.T) {
	r := newRig(t, pgservertest.Default, everythingSQL)
	url := r.source.DSN("", "postgres")
	o := restore.Options{
		Manifest: r.manifest, Open: r.open, Server: postgres.Config{URL: url}, Owner: "run 'é' with a very long name that does not fit into a session's name",
		Database: restore.BuildName("shop", "b1", "New \"shop"), Final: `New "shop`, Connections: 2,
	}
	_, err := restore.Plan(deadline(t), o)
	require.NoError(t, err)
	o = create(t, o)
	t.Cleanup(func() { pgservertest.Exec(t, url, `DROP DATABASE IF EXISTS "New ""shop"`) })
	err = restore.Publish(deadline(t), o)
	require.ErrorContains(t, err, "not finished")
	_, err = restore.Load(deadline(t), o)
	require.NoError(t, err)
	r.requireEqual(t, o, o.Database)
	require.NoError(t, restore.Publish(deadline(t), o))
	require.NoError(t, restore.Publish(deadline(t), o), "done twice")
	require.NoError(t, restore.Drop(deadline(t), o), "what was published stays")
	r.requireEqual(t, o, o.Final)

	_, err = restore.Plan(deadline(t), o)
	require.True(t, failure.Is(err, failure.DatabaseExists), "%v", err)
}

func TestARoleWithoutPowersRestoresItsOwn(t *testing.T) {
	r := newRig(t, pgservertest.Default, `
		CREATE TABLE mine (id int PRIMARY KEY, v text); INSERT INTO mine SELECT g, 'v' FROM generate_series(1, 100) g;
		CREATE ROLE plain LOGIN CREATEDB; ALTER TABLE mine OWNER TO plain;
		DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || ' OWNER TO plain'; END $$`)
	o := restore.Options{
		Manifest: r.manifest, Open: r.open, Server: postgres.Config{URL: r.source.DSN("plain", "postgres")}, Owner: "run-1",
		Database: restore.BuildName("shop", "b1", "mine"), Final: "mine", Connections: 2,
	}
	o = create(t, o)
	require.False(t, query[bool](t, r.source.DSN("", "postgres"), "SELECT has_database_privilege('public', '"+o.Database+"', 'CONNECT')"), "nobody looks into a half database")
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	r.requireEqual(t, o, o.Database)
	reload := proof.ReloadName(o.Database)
	pgservertest.Exec(t, r.source.DSN("plain", "postgres"), "CREATE DATABASE "+reload) // as a comparison leaves it that was killed
	require.NoError(t, restore.Drop(deadline(t), o))
	require.Zero(t, query[int](t, r.source.DSN("", "postgres"), "SELECT count(*) FROM pg_database WHERE datname = '"+reload+"'"))
	pgservertest.Exec(t, r.source.DSN("", "postgres"), "DO $$ BEGIN EXECUTE (SELECT 'ALTER DATABASE ' || quote_ident(datname) || ' OWNER TO postgres' FROM pg_database WHERE datdba = 'plain'::regrole); END $$")
}

// asPlain are options to restore on a server of its own as a role without powers, of its own database.
func asPlain(t *testing.T, settings map[string]string) (restore.Options, *pgserver.Server) {
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	s, err := pgserver.Start(deadline(t), pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("plain-%d-%d", os.Getpid(), time.Now().UnixNano())), Binaries: binaries, Settings: settings,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Remove(context.Background())) })
	pgservertest.Exec(t, s.DSN("", "postgres"), "CREATE ROLE plain LOGIN CREATEDB")
	pgservertest.Exec(t, s.DSN("", "postgres"), "CREATE DATABASE original OWNER plain")
	pgservertest.Exec(t, s.DSN("plain", "original"), "CREATE TABLE mine (id int PRIMARY KEY, v text); INSERT INTO mine SELECT g, repeat('v', 300) FROM generate_series(1, 20000) g")
	r := (&rig{source: s}).backUp(t, "original")
	return restore.Options{
		Manifest: r.manifest, Open: r.open, Server: postgres.Config{URL: s.DSN("plain", "postgres")}, Owner: "run-1",
		Database: restore.BuildName("shop", "b1", "mine"), Final: "mine", Connections: 2,
	}, s
}

func TestASessionThatTheRoleMayNotEndIsNamed(t *testing.T) {
	o, s := asPlain(t, nil)
	o = create(t, o)
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	theirs, err := pgx.Connect(deadline(t), s.DSN("", o.Database))
	require.NoError(t, err)
	session := fmt.Sprintf("the session with pid %d of postgres", theirs.PgConn().PID())
	for _, work := range []func(context.Context, restore.Options) error{restore.Publish, restore.Drop} {
		err = work(deadline(t), o)
		require.True(t, failure.Is(err, failure.LockHeld), "%v", err)
		require.ErrorContains(t, err, session)
	}
	require.NoError(t, theirs.Close(deadline(t)))
	own, err := pgx.Connect(deadline(t), s.DSN("plain", o.Database))
	require.NoError(t, err)
	require.NoError(t, restore.Publish(deadline(t), o))
	require.Error(t, own.Ping(deadline(t)), "its own are ended")
}

func TestAutovacuumDoesNotKeepACopyFromItsName(t *testing.T) {
	o, s := asPlain(t, map[string]string{
		"autovacuum": "on", "autovacuum_naptime": "1", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1", "autovacuum_analyze_threshold": "10",
	})
	o = create(t, o)
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	busy := func() bool {
		return query[int](t, s.DSN("", "postgres"), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = '"+o.Database+"'") > 0
	}
	require.Eventually(t, busy, time.Minute, 50*time.Millisecond)
	require.NoError(t, restore.Publish(deadline(t), o))
}

func TestMissingRolesAreNamed(t *testing.T) {
	r := newRig(t, pgservertest.Default, everythingSQL)
	s := r.scratch(t, pgservertest.Default)
	o := r.options(s)
	o.Private = false
	p, err := restore.Plan(deadline(t), o)
	require.NoError(t, err)
	require.Contains(t, p.MissingRoles, "shop owner")
	_, err = restore.Create(deadline(t), o)
	require.True(t, failure.Is(err, failure.MissingRole), "%v", err)
	f, _ := failure.As(err)
	require.Contains(t, f.Remedy, `CREATE ROLE "shop owner"; GRANT "helper" TO "shop owner";`)
	require.NotContains(t, f.Remedy, "SUPERUSER LOGIN;\n")
}

func TestOtherEncodings(t *testing.T) {
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "EUC_JP"} {
		t.Run(encoding, func(t *testing.T) {
			r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
			admin, name := r.source.DSN("", "postgres"), "test_"+encoding
			pgservertest.Exec(t, admin, fmt.Sprintf(`CREATE DATABASE "%s" TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'`, name, encoding))
			t.Cleanup(func() { pgservertest.Exec(t, admin, fmt.Sprintf(`DROP DATABASE "%s"`, name)) })
			word, column := "日本", "文字"
			if encoding == "LATIN1" {
				word, column = "é", "größe"
			}
			pgservertest.Exec(t, r.source.DSN("", name), fmt.Sprintf(`CREATE TABLE "%[2]s" ("%[2]s" text DEFAULT '%[1]s' CHECK ("%[2]s" <> '%[1]s!'));
				COMMENT ON TABLE "%[2]s" IS '%[1]s'; INSERT INTO "%[2]s" DEFAULT VALUES; CREATE INDEX "i%[2]s" ON "%[2]s" (("%[2]s" || '%[1]s')); CREATE SEQUENCE "s%[2]s"`, word, column))
			r.backUp(t, name)
			o := r.options(r.scratch(t, pgservertest.Default))
			restoreAll(t, o)
			r.requireEqual(t, o, "copy")
		})
	}
}

func TestOtherVersions(t *testing.T) {
	for _, major := range []int{13, 14} { // those that the client programs of the default version can dump
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			r := newRig(t, major, spread)
			o := r.beside(t)
			restoreAll(t, o)
			r.requireEqual(t, o, o.Database)
		})
	}
}

// The client programs of the default version cannot read newer servers, so nothing but the rows is
// compared.
func TestANewerServerTakesTheBackup(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	const content = "SELECT count(*) || ' ' || sum(hashtext(big::text)) || ' ' || (SELECT count(*) FROM pg_index WHERE indrelid >= 16384 AND indisvalid) FROM big"
	want := query[string](t, r.source.DSN("", r.manifest.Database.Name), content)
	for _, major := range []int{16, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := r.scratch(t, major)
			restoreAll(t, r.options(s))
			require.Equal(t, want, query[string](t, s.DSN("", "copy"), content))
		})
	}
}

func TestAnOlderServerIsRefused(t *testing.T) {
	r := newRig(t, pgservertest.Default, spread)
	older := r.options(pgservertest.Server(t, 14))
	_, err := restore.Create(deadline(t), older)
	require.True(t, failure.Is(err, failure.ServerTooOld), "%v", err)
}

func TestACopyWithASubscriptionIsDropped(t *testing.T) {
	r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, `CREATE TABLE a (id int PRIMARY KEY); CREATE SUBSCRIPTION news CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)`)
	t.Cleanup(func() {
		pgservertest.Exec(t, url, `ALTER SUBSCRIPTION news SET (slot_name = NONE)`)
		pgservertest.Exec(t, url, `DROP SUBSCRIPTION news`)
	})
	r.backUp(t, name)
	o := r.options(r.scratch(t, pgservertest.Default))
	o = create(t, o)
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	require.Equal(t, 1, query[int](t, o.Server.URL, "SELECT count(*) FROM pg_subscription"))
	for range 2 {
		require.NoError(t, restore.Drop(deadline(t), o))
	}
	require.Zero(t, query[int](t, o.Server.URL, "SELECT (SELECT count(*) FROM pg_subscription) + (SELECT count(*) FROM pg_database WHERE oid = "+fmt.Sprint(o.Oid)+")"))
}

// The bookkeeping's tables are published too as long as they are there.
func TestAPublicationOfAllTablesLetsARestoreGoOn(t *testing.T) {
	r := newRig(t, pgservertest.Default, `CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 1000); CREATE PUBLICATION everything FOR ALL TABLES`)
	o := create(t, r.beside(t))
	loadUntil(t, o, "finishing")
	require.Equal(t, 1, query[int](t, r.source.DSN("", o.Database), "SELECT count(*) FROM pg_publication"))
	restoreAll(t, o)
	r.requireEqual(t, o, o.Database)
}

// A generated column can depend on where it is computed, whatever its function claims.
func TestGeneratedColumnsAreCompared(t *testing.T) {
	r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, `CREATE FUNCTION here(int) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT current_database() || $1';
		CREATE TABLE honest (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED, c text); INSERT INTO honest (a, c) SELECT g, CASE WHEN g % 2 = 0 THEN 'x' END FROM generate_series(1, 100) g;
		CREATE FUNCTION turned(int) RETURNS bool IMMUTABLE LANGUAGE sql AS $$SELECT ($1 % 2 = 0) = (current_database() LIKE 'test%')$$;
		CREATE TABLE turned (a int, b bool GENERATED ALWAYS AS (turned(a)) STORED); INSERT INTO turned SELECT g FROM generate_series(1, 100) g; -- as many are true in the copy, but others
		CREATE TABLE placed (a int PRIMARY KEY, b text GENERATED ALWAYS AS (here(a)) STORED); INSERT INTO placed SELECT g FROM generate_series(1, 100) g`)
	r.backUp(t, name)
	o := create(t, r.options(r.scratch(t, pgservertest.Default)))
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	for _, c := range r.compare(t, o, o.Database) {
		if c.Name == "generated columns" {
			require.Equal(t, run.Fail, c.Verdict)
			require.Contains(t, c.Detail, `"placed"`)
			require.Contains(t, c.Detail, `"turned"`)
			require.NotContains(t, c.Detail, `"honest"`)
			return
		}
	}
	require.Fail(t, "nothing was said of generated columns")
}

func TestTheSystemsOwnRolesCanOwnTables(t *testing.T) {
	r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, "CREATE TABLE shared (a int); INSERT INTO shared SELECT generate_series(1, 10); ALTER TABLE shared OWNER TO pg_database_owner")
	r.backUp(t, name)
	o := create(t, r.options(r.scratch(t, pgservertest.Default)))
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	r.requireEqual(t, o, o.Database)
}

// A check that is cut off, at any moment, leaves the copy as it was restored.
func TestAComparisonThatWasCutOffIsDoneAgain(t *testing.T) {
	r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, everythingSQL)
	r.backUp(t, name)
	o := create(t, r.options(r.scratch(t, pgservertest.Default)))
	_, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	cut, cancel := context.WithCancel(deadline(t))
	defer cancel()
	archive, err := r.open(deadline(t), r.manifest.Schema.Archive)
	require.NoError(t, err)
	plain, err := io.ReadAll(archive)
	require.NoError(t, err)
	cut = progress.With(cut, func(p progress.Progress) {
		if p.Phase == "amcheck" && p.Done == 3 {
			cancel()
		}
	})
	_, err = proof.Compare(cut, proof.Options{Copy: o.Server, Database: o.Database, Manifest: r.manifest, Archive: plain, Connections: 2, Amcheck: true})
	require.ErrorIs(t, err, context.Canceled)
	r.requireEqual(t, o, o.Database)
}
