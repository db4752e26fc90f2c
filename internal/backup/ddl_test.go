package backup_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// movingSQL has one of each thing that somebody may change while a backup is taken. The gate is only
// there to be locked: its name makes it the first that a backup locks.
const movingSQL = `
CREATE ROLE worker; CREATE ROLE bystander;
CREATE SCHEMA side; CREATE TABLE side.s (a int); INSERT INTO side.s SELECT g FROM generate_series(1, 50) g;
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE COLLATION plain FROM "C";
CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE TABLE aaa_gate (a int);
CREATE SEQUENCE counter; SELECT nextval('counter'), nextval('counter');
CREATE TABLE t (id int PRIMARY KEY, m mood, v text COLLATE plain, p positive DEFAULT public.twice(2), n int DEFAULT nextval('counter'));
INSERT INTO t SELECT g, 'ok', repeat('v' || g, 10) FROM generate_series(1, 500) g; DELETE FROM t WHERE id % 5 = 0;
CREATE INDEX by_twice ON t (public.twice(id)); CREATE INDEX by_v ON t (v COLLATE plain); COMMENT ON INDEX by_v IS 'by value';
CREATE STATISTICS about_t ON id, v FROM t;
CREATE TABLE u (id int PRIMARY KEY, m mood, v text COLLATE plain, p positive, n int, w text); INSERT INTO u SELECT g, 'sad', 'u', 1, 1, 'w' FROM generate_series(1, 30) g;
CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
INSERT INTO parts SELECT g, 'p' FROM generate_series(50, 150) g;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END $f$;
CREATE TRIGGER stamp BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE VIEW base AS SELECT id, m FROM t; CREATE VIEW above AS SELECT * FROM base WHERE m = 'ok';
GRANT SELECT ON t TO worker; ALTER TABLE u OWNER TO worker;
`

// locked are changes that a lock on the table keeps out.
var locked = map[string]string{
	"TRUNCATE":             "TRUNCATE t",
	"VACUUM FULL":          "VACUUM FULL t",
	"CLUSTER":              "CLUSTER t USING t_pkey",
	"ALTER TYPE":           "ALTER TABLE t ALTER n TYPE bigint",
	"drop and create":      "DROP TABLE u; CREATE TABLE u (id int, w text); INSERT INTO u VALUES (1, 'new')",
	"drop":                 "DROP TABLE u",
	"rename table":         "ALTER TABLE u RENAME TO z",
	"swap tables":          "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u",
	"rename column":        "ALTER TABLE t RENAME v TO w",
	"swap columns":         "ALTER TABLE u RENAME v TO x; ALTER TABLE u RENAME w TO v; ALTER TABLE u RENAME x TO w",
	"drop column":          "ALTER TABLE u DROP w",
	"drop trigger":         "DROP TRIGGER stamp ON t",
	"drop index":           "DROP INDEX by_v",
	"drop constraint":      "ALTER TABLE t DROP CONSTRAINT t_pkey",
	"add column":           "ALTER TABLE t ADD extra text DEFAULT 'x'",
	"detach partition":     "ALTER TABLE parts DETACH PARTITION parts_2",
	"drop partition":       "DROP TABLE parts_1",
	"drop schema":          "DROP SCHEMA side CASCADE",
	"drop function in use": "DROP FUNCTION twice CASCADE",
	"move to schema":       "ALTER TABLE u SET SCHEMA side",
}

// loose are changes that no lock on a table keeps out.
var loose = map[string]string{
	"rename enum label":    "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
	"rename enum":          "ALTER TYPE mood RENAME TO temper",
	"rename domain":        "ALTER DOMAIN positive RENAME TO above_zero",
	"rename schema":        "ALTER SCHEMA side RENAME TO aside",
	"rename function":      "ALTER FUNCTION twice RENAME TO double",
	"replace function":     "CREATE OR REPLACE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $1'",
	"rename view":          "ALTER VIEW base RENAME TO foundation",
	"replace view":         "CREATE OR REPLACE VIEW base AS SELECT id, m FROM t WHERE id > 7",
	"drop views":           "DROP VIEW base CASCADE",
	"rename sequence":      "ALTER SEQUENCE counter RENAME TO meter",
	"rename index":         "ALTER INDEX by_v RENAME TO by_value",
	"reindex concurrently": "REINDEX INDEX CONCURRENTLY by_v",
	"rename collation":     "ALTER COLLATION plain RENAME TO simple",
	"drop statistics":      "DROP STATISTICS about_t",
	"rename role":          "ALTER ROLE worker RENAME TO laborer",
	"rename label back":    "ALTER TYPE mood RENAME VALUE 'ok' TO 'x'; ALTER TYPE mood RENAME VALUE 'x' TO 'ok'",
}

// moving is a database that can be had again and again as it was.
type moving struct {
	server   *pgserver.Server
	template string
	clones   atomic.Int64
}

func newMoving(t *testing.T) *moving {
	m := &moving{server: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, m.server)
	pgservertest.Exec(t, url, "DROP ROLE IF EXISTS worker, laborer, bystander")
	pgservertest.Exec(t, url, movingSQL)
	t.Cleanup(func() { pgservertest.Exec(t, url, "DROP OWNED BY worker CASCADE; DROP ROLE worker, bystander") })
	m.template = name
	return m
}

// clone is the database as it was, with a store for its backups.
func (m *moving) clone(t *testing.T) (*drill, string) {
	name := fmt.Sprintf("%s_%d", m.template, m.clones.Add(1))
	admin := m.server.DSN("", "postgres")
	pgservertest.Exec(t, admin, "CREATE DATABASE "+name+" TEMPLATE "+m.template)
	t.Cleanup(func() {
		pgservertest.Exec(t, admin, "DROP DATABASE "+name+" WITH (FORCE)")
		pgservertest.Exec(t, admin, "DO $$ BEGIN ALTER ROLE laborer RENAME TO worker; EXCEPTION WHEN undefined_object THEN NULL; END $$")
	})
	return newDrill(t, m.server, name), m.server.DSN("", name)
}

// content is all that a backup says of the database, but for what another reading of the same
// database may say otherwise.
func content(t *testing.T, m *format.Manifest) string {
	t.Helper()
	require.NotNil(t, m)
	type table struct {
		Name    format.Name
		Owner   string
		Columns []string
		Rows    int64
		RowHash string
	}
	all := struct {
		Schema    string
		Tables    []table
		Sequences []format.Sequence
		Objects   map[string]int64
		Roles     []format.Role
	}{Schema: m.Schema.TextSHA256, Sequences: m.Sequences, Objects: m.Census.Objects, Roles: m.Roles}
	for _, x := range m.Tables {
		all.Tables = append(all.Tables, table{format.Name{Schema: x.Schema, Name: x.Name}, x.Owner, x.Columns, x.Rows, x.RowHash})
	}
	text, err := json.MarshalIndent(all, "", " ")
	require.NoError(t, err)
	return string(text)
}

// differences are the lines of one text that another lacks, and the other way round.
func differences(want, have string) string {
	missing := lines(want, have)
	extra := lines(have, want)
	return fmt.Sprintf("missing %q, extra %q", missing, extra)
}

func lines(of, without string) (only []string) {
	known := strings.Split(without, "\n")
	for _, l := range strings.Split(of, "\n") {
		if !slices.Contains(known, l) {
			only = append(only, strings.TrimSpace(l))
		}
	}
	return only
}

// strike runs a change in a session of its own and returns when it is done or waits for the backup.
// The result says how it ended.
func strike(t testing.TB, url, sql string) (ended <-chan error) {
	ctx := deadline(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Error(err)
		return nil
	}
	pid := conn.PgConn().PID()
	result, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = conn.Close(context.Background()) }()
		for _, statement := range strings.Split(sql, "; ") { // each by itself: some run in no transaction
			if _, err := conn.Exec(ctx, statement); err != nil {
				result <- fmt.Errorf("%s: %w", statement, err)
				return
			}
		}
		result <- nil
	}()
	watch, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Error(err)
		return result
	}
	defer func() { _ = watch.Close(context.Background()) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return result
		case <-ctx.Done():
			t.Error("the change neither ends nor waits")
			return result
		case <-tick.C:
		}
		var waits bool
		if err := watch.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')", pid).Scan(&waits); err != nil {
			t.Error(err)
			return result
		}
		if waits {
			return result
		}
	}
}

// A stop is a place in a backup. Arm makes the next backup call act there once, while it stands still.
type stop struct {
	name string
	arm  func(t *testing.T, d *drill, url string, ctx context.Context, act func()) context.Context
}

// heldAt is where a backup waits for a lock on a relation: it is known that it has come there, and it
// cannot go on before the lock is given up.
func heldAt(name, relation string) stop {
	return stop{name, func(t *testing.T, d *drill, url string, ctx context.Context, act func()) context.Context {
		holder, watch := session(t, url), session(t, url) // within a transaction, what others do is seen only once
		_, err := holder.Exec(ctx, "BEGIN")
		require.NoError(t, err)
		_, err = holder.Exec(ctx, "LOCK TABLE "+relation+" IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
		go func() {
			defer func() { _, _ = holder.Exec(ctx, "ROLLBACK") }()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for waits := false; !waits; {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				err := watch.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = $1::text::regclass AND NOT l.granted AND a.application_name LIKE 'upkeep-backup%')`,
					relation).Scan(&waits)
				if err != nil {
					t.Error(err)
					return
				}
			}
			act()
		}()
		return ctx
	}}
}

// atConnection is before a backup's n-th session begins: 1 is the keeper's, the next are those of two
// readers and of pg_dump, the fifth lists the indexes, the sixth looks for drift.
func atConnection(n int64) stop {
	return stop{fmt.Sprintf("connection %d", n), func(t *testing.T, d *drill, url string, ctx context.Context, act func()) context.Context {
		var seen atomic.Int64
		d.options.Source.Password = func(context.Context) (string, error) {
			if seen.Add(1) == n {
				act()
			}
			return "", nil
		}
		return ctx
	}}
}

// atWrite is before the store's first write of an object whose key fits the pattern.
func atWrite(pattern string) stop {
	return stop{"write " + path.Base(pattern), func(t *testing.T, d *drill, url string, ctx context.Context, act func()) context.Context {
		d.options.Store = &watchedStore{Store: d.options.Store, pattern: pattern, act: act}
		return ctx
	}}
}

// atProgress is when a backup first says that it is in a phase.
func atProgress(phase string) stop {
	return stop{phase, func(t *testing.T, d *drill, url string, ctx context.Context, act func()) context.Context {
		var once sync.Once
		return progress.With(ctx, func(p progress.Progress) {
			if p.Phase == phase {
				once.Do(act)
			}
		})
	}}
}

// watchedStore acts before the first write of a key.
type watchedStore struct {
	objstore.Store
	pattern string
	act     func()
	once    sync.Once
}

func (s *watchedStore) Create(ctx context.Context, key string, data []byte) error {
	if fits, _ := path.Match(s.pattern, key); fits {
		s.once.Do(s.act)
	}
	return s.Store.Create(ctx, key, data)
}

var (
	early = []stop{heldAt("after the snapshot", "pg_extension"), heldAt("before the lock", "aaa_gate")}
	late  = []stop{
		heldAt("after the lock", "pg_auth_members"), atConnection(2), atConnection(4), atConnection(6), atProgress("counting"),
		atWrite("shop/chunks/*/*"), atWrite("shop/backups/*/RESTORE.md"), atWrite("shop/backups/*/manifest.json"),
	}
)

// struck takes a backup with changes at a place and requires it to be that of the database as it was
// before or as it was after, and nothing to be left over.
func (m *moving) struck(t *testing.T, before string, at stop, changes ...string) {
	d, url := m.clone(t)
	quiet := d.options
	var acted atomic.Bool
	var ended []<-chan error
	acts := make(chan struct{})
	ctx, cancel := context.WithTimeout(deadline(t), 40*time.Second)
	defer cancel()
	ctx = at.arm(t, d, url, ctx, func() {
		acted.Store(true)
		for _, sql := range changes {
			ended = append(ended, strike(t, url, sql))
		}
		close(acts)
	})
	began := time.Now()
	got, err := takeIn(ctx, d)
	require.NoError(t, err)
	require.True(t, acted.Load(), "the backup never came to that place")
	<-acts
	for _, e := range ended {
		require.NoError(t, <-e)
	}
	t.Logf("%v", time.Since(began).Round(time.Millisecond))
	requireNobodyLeft(t, url)

	have := content(t, got)
	if have == before {
		return
	}
	d.options = quiet
	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	after := content(t, d.manifest)
	if have != after && len(changes) > 1 { // between two of the changes, which are transactions of their own
		for line := range strings.Lines(have) {
			require.True(t, strings.Contains(before, line) || strings.Contains(after, line), "%s is neither of the database before nor after", line)
		}
		return
	}
	require.True(t, have == after, "the backup is neither of the database before (%s) nor after (%s)", differences(before, have), differences(after, have))
}

// requireNobodyLeft waits for the ends of a backup's sessions, which the server hears of a little later.
func requireNobodyLeft(t *testing.T, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return query[int](t, url, "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^(upkeep|pg_dump)' AND datname = current_database()") == 0
	}, 10*time.Second, 10*time.Millisecond, "a session is left")
}

// A reader plans its query with the table's indexes, so REINDEX keeps it waiting, for longer than it
// would wait for a change that waits for the backup. It is no reason to begin anew.
func TestAReaderWaitsForAReindex(t *testing.T) {
	t.Parallel() // it waits
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)")
	d := newDrill(t, server, name)
	d.options.Connections = 1
	other := session(t, url)
	var connections atomic.Int64
	d.options.Source.Password = func(ctx context.Context) (string, error) {
		switch connections.Add(1) {
		case 1:
			_, err := other.Exec(ctx, "BEGIN; REINDEX INDEX a_pkey", pgx.QueryExecModeSimpleProtocol)
			return "", err
		case 5: // after those of the keeper, a reader, pg_dump and the list of indexes: a reader that looks who is in its way
			_, err := other.Exec(ctx, "COMMIT")
			return "", err
		}
		return "", nil
	}
	require.NoError(t, d.take(t))
	require.Greater(t, connections.Load(), int64(5), "no reader was held up")
	require.EqualValues(t, 1, d.manifest.Totals.Rows)
}

// The first long value opens the index of the TOAST table: a reader that waits for that one has read
// rows already, and must not count them twice.
func TestAReaderThatIsHeldUpAfterRowsBeginsAnew(t *testing.T) {
	t.Parallel() // it waits
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE a (id int, v text); ALTER TABLE a ALTER v SET STORAGE EXTERNAL;
		INSERT INTO a SELECT g, CASE WHEN g > 1000 THEN repeat('x', 10000) ELSE 'short' END FROM generate_series(1, 1010) g`)
	index := query[string](t, url, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'a'::regclass)")
	d := newDrill(t, server, name)
	d.options.Connections = 1
	other := session(t, url)
	var one sync.Mutex
	connections := 0
	d.options.Source.Password = func(ctx context.Context) (string, error) {
		one.Lock() // no reader begins before the index is locked
		defer one.Unlock()
		connections++
		switch connections {
		case 2: // the keeper has looked at the sizes
			_, err := other.Exec(ctx, "BEGIN; REINDEX INDEX "+index, pgx.QueryExecModeSimpleProtocol)
			return "", err
		case 5: // a reader that looks who is in its way
			_, err := other.Exec(ctx, "COMMIT")
			return "", err
		}
		return "", nil
	}
	require.NoError(t, d.take(t))
	require.Greater(t, connections, 5, "no reader was held up")
	require.EqualValues(t, 1010, d.manifest.Totals.Rows)
}

func TestChangesBetweenTwoStepsOfABackup(t *testing.T) {
	m := newMoving(t)
	d, _ := m.clone(t)
	require.NoError(t, d.take(t))
	d.prove(t)
	before := content(t, d.manifest)

	// A sample each time; with FAILPOINTS=all, every change at every place.
	all := os.Getenv("FAILPOINTS") == "all"
	for i, at := range early {
		for j, name := range slices.Sorted(maps.Keys(locked)) {
			if all || (i+j)%4 == 0 {
				t.Run(at.name+"/"+name, func(t *testing.T) { m.struck(t, before, at, locked[name]) })
			}
		}
	}
	// From here on a table's lock keeps such changes out: all of them wait for the backup's end.
	for _, at := range late {
		t.Run(at.name+"/tables", func(t *testing.T) {
			m.struck(t, before, at, locked["TRUNCATE"], locked["drop and create"], locked["drop partition"], locked["drop schema"])
		})
	}
	for i, at := range append(early[:1:1], late...) {
		for j, name := range slices.Sorted(maps.Keys(loose)) {
			if all || (i+j)%16 == 0 {
				t.Run(at.name+"/"+name, func(t *testing.T) { m.struck(t, before, at, loose[name]) })
			}
		}
	}
}
