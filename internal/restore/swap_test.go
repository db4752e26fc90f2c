package restore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// swapRig is a live database, and a finished copy of its backup beside it.
type swapRig struct {
	*rig
	live string
	o    restore.Options // of the copy
}

func newSwapRig(t *testing.T, sql string) *swapRig {
	t.Helper()
	r := newRig(t, pgservertest.Default, sql)
	s := &swapRig{rig: r, live: r.manifest.Database.Name, o: r.beside(t)}
	s.o.Private = false // it is somebody's server
	restoreAll(t, s.o)
	s.o.Oid = s.oid(t, s.o.Database)
	t.Cleanup(func() { // the test's own context is over by then
		conn, err := pgx.Connect(context.Background(), s.source.DSN("", "postgres"))
		require.NoError(t, err)
		defer func() { _ = conn.Close(context.Background()) }()
		rows, err := conn.Query(context.Background(), "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)", s.live+"_")
		require.NoError(t, err)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, name := range names {
			pgservertest.Exec(t, s.source.DSN("", "postgres"), "DROP DATABASE IF EXISTS "+postgres.Quote(name)+" WITH (FORCE)")
		}
	})
	return s
}

func (s *swapRig) oid(t *testing.T, name string) uint32 {
	t.Helper()
	return query[uint32](t, s.o.Server.URL, "SELECT coalesce((SELECT oid FROM pg_database WHERE datname = "+postgres.Literal(name)+"), 0)")
}

func (s *swapRig) databases(t *testing.T) []string {
	t.Helper()
	return query[[]string](t, s.o.Server.URL, "SELECT array_agg(datname::text) FROM pg_database")
}

func (s *swapRig) url(name string) string { return s.source.DSN("", name) }

// plan seals the copy and plans the swap.
func (s *swapRig) plan(t *testing.T) *restore.Swap {
	t.Helper()
	require.NoError(t, restore.Seal(deadline(t), s.o))
	plan, err := restore.PlanSwap(deadline(t), s.o, s.manifest.Backup, s.live, time.Now())
	require.NoError(t, err)
	return plan
}

func TestACopyTakesTheLiveDatabasesPlace(t *testing.T) {
	s := newSwapRig(t, everythingSQL)
	before := s.oid(t, s.live)
	pgservertest.Exec(t, s.url(s.live), "SELECT lo_create(424242)") // after the backup
	var idle []*pgx.Conn
	for range 3 {
		conn, err := pgx.Connect(deadline(t), s.url(s.live))
		require.NoError(t, err)
		defer func() { _ = conn.Close(context.Background()) }()
		idle = append(idle, conn)
	}
	require.NoError(t, restore.CheckReplaceable(deadline(t), s.o, s.live))
	plan := s.plan(t)
	require.GreaterOrEqual(t, plan.Sessions, 3)
	require.Equal(t, restore.Named{Name: s.live, Oid: before}, plan.Live)
	require.Equal(t, restore.Named{Name: s.o.Database, Oid: s.o.Oid}, plan.Copy)
	_, err := pgx.Connect(deadline(t), s.url(s.o.Database))
	require.ErrorContains(t, err, "not currently accepting connections", "what was compared is what is put in place")

	is, err := plan.Done(deadline(t), s.o)
	require.NoError(t, err)
	require.False(t, is)
	done, err := plan.Apply(deadline(t), s.o)
	require.NoError(t, err)
	require.GreaterOrEqual(t, done.Ended, 1)
	require.Equal(t, s.o.Oid, s.oid(t, s.live))
	require.Equal(t, before, s.oid(t, plan.Kept))
	require.Zero(t, s.oid(t, s.o.Database))
	for _, conn := range idle {
		require.Error(t, conn.Ping(deadline(t)))
	}
	s.requireEqual(t, s.o, s.live) // owner, settings, grants and comment too
	require.Equal(t, 1, query[int](t, s.url(plan.Kept), "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = 424242"), "what it was is kept, and can be looked into")

	is, err = plan.Done(deadline(t), s.o)
	require.NoError(t, err)
	require.True(t, is)
	again, err := plan.Apply(deadline(t), s.o)
	require.NoError(t, err)
	require.True(t, again.Before, "done twice, it is found done")

	kept := restore.Kept{Server: plan.Server, Database: restore.Named{Name: plan.Kept, Oid: before}}
	for _, other := range []restore.Kept{{Server: "another", Database: kept.Database}, {Server: plan.Server, Database: restore.Named{Name: plan.Kept + "x", Oid: before}}} {
		gone, err := restore.DropKept(deadline(t), s.o.Server, other)
		require.NoError(t, err)
		require.False(t, gone)
		require.NotZero(t, s.oid(t, plan.Kept))
	}
	for range 2 {
		gone, err := restore.DropKept(deadline(t), s.o.Server, kept)
		require.NoError(t, err)
		require.True(t, gone)
		require.Zero(t, s.oid(t, plan.Kept))
	}
	require.Equal(t, s.o.Oid, s.oid(t, s.live))
}

// TestWhatTheSwapStandsOn changes each fact of a plan.
func TestWhatTheSwapStandsOn(t *testing.T) {
	s := newSwapRig(t, "CREATE TABLE goods (id int)")
	exec := func(sql string, args ...any) { pgservertest.Exec(t, s.o.Server.URL, fmt.Sprintf(sql, args...)) }
	for _, c := range []struct {
		name   string
		change func(p *restore.Swap)
		undo   func(p *restore.Swap)
	}{
		{"another server", func(p *restore.Swap) { p.Server = "1" }, nil},
		{"another version", func(p *restore.Swap) { p.Version = 9 }, nil},
		{"the copy is open", func(p *restore.Swap) { exec(`ALTER DATABASE "%s" ALLOW_CONNECTIONS true`, p.Copy.Name) }, nil},
		{"the copy has another name", func(p *restore.Swap) { exec(`ALTER DATABASE "%s" RENAME TO "%s_x"`, p.Copy.Name, p.Copy.Name) },
			func(p *restore.Swap) { exec(`ALTER DATABASE "%s_x" RENAME TO "%s"`, p.Copy.Name, p.Copy.Name) }},
		{"the copy is gone", func(p *restore.Swap) { p.Copy.Oid = 1 }, nil},
		{"the live one has another name", func(p *restore.Swap) { exec(`ALTER DATABASE "%s" RENAME TO "%s_x"`, p.Live.Name, p.Live.Name) },
			func(p *restore.Swap) { exec(`ALTER DATABASE "%s_x" RENAME TO "%s"`, p.Live.Name, p.Live.Name) }},
		{"another has the live one's name", func(p *restore.Swap) {
			exec(`ALTER DATABASE "%s" RENAME TO "%s_x"`, p.Live.Name, p.Live.Name)
			exec(`CREATE DATABASE "%s"`, p.Live.Name)
		}, func(p *restore.Swap) {
			exec(`DROP DATABASE "%s"`, p.Live.Name)
			exec(`ALTER DATABASE "%s_x" RENAME TO "%s"`, p.Live.Name, p.Live.Name)
		}},
		{"the kept name is taken", func(p *restore.Swap) { exec(`CREATE DATABASE "%s"`, p.Kept) }, func(p *restore.Swap) { exec(`DROP DATABASE "%s"`, p.Kept) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := s.plan(t)
			changed := *plan
			c.change(&changed)
			before := s.databases(t)
			_, err := changed.Apply(deadline(t), s.o)
			require.True(t, failure.Is(err, failure.PlanVoid), "%v", err)
			require.ElementsMatch(t, before, s.databases(t))
			if c.undo != nil {
				c.undo(&changed)
			}
			require.Equal(t, plan.Live.Oid, s.oid(t, s.live))
		})
	}
}

func TestWhatCannotBeReplaced(t *testing.T) {
	s := newSwapRig(t, "CREATE TABLE goods (id int)")
	refused := func(code failure.Code, what string) {
		t.Helper()
		err := restore.CheckReplaceable(deadline(t), s.o, s.live)
		require.True(t, failure.Is(err, code), "%v", err)
		require.ErrorContains(t, err, what)
	}
	admin, live := s.o.Server.URL, s.url(s.live)
	err := restore.CheckReplaceable(deadline(t), s.o, "no such database")
	require.True(t, failure.Is(err, failure.MissingDatabase), "%v", err)

	pgservertest.Exec(t, admin, "ALTER DATABASE "+postgres.Quote(s.live)+" IS_TEMPLATE true")
	refused(failure.NotReplaceable, "is a template")
	pgservertest.Exec(t, admin, "ALTER DATABASE "+postgres.Quote(s.live)+" IS_TEMPLATE false")

	pgservertest.Exec(t, live, "BEGIN; INSERT INTO goods VALUES (1); PREPARE TRANSACTION 'half way'")
	refused(failure.LockHeld, "half way")
	_, err = restore.PlanSwap(deadline(t), s.o, "b1", s.live, time.Now())
	require.True(t, failure.Is(err, failure.LockHeld), "%v", err)
	pgservertest.Exec(t, live, "ROLLBACK PREPARED 'half way'")

	pgservertest.Exec(t, live, "CREATE SCHEMA temporal; CREATE TABLE temporal.executions (); CREATE TABLE temporal.history_node (); CREATE TABLE temporal.namespaces (); CREATE TABLE temporal.schema_version ()")
	refused(failure.NotReplaceable, "Temporal server")
	pgservertest.Exec(t, live, "DROP SCHEMA temporal CASCADE")

	pgservertest.Exec(t, admin, "DROP ROLE IF EXISTS swapper; CREATE ROLE swapper LOGIN")
	t.Cleanup(func() { pgservertest.Exec(t, admin, "DROP OWNED BY swapper; DROP ROLE swapper") })
	as := s.o
	as.Server = postgres.Config{URL: s.source.DSN("swapper", "postgres")}
	err = restore.CheckReplaceable(deadline(t), as, s.live)
	require.True(t, failure.Is(err, failure.MissingRight), "%v", err)
	require.NoError(t, restore.CheckReplaceable(deadline(t), s.o, s.live))
}

// TestASessionThatMayNotBeEnded keeps the swap from its lock. The database is open again, and when the
// session has gone it is replaced.
func TestASessionThatMayNotBeEnded(t *testing.T) {
	s := newSwapRig(t, "CREATE TABLE goods (id int)")
	admin := s.o.Server.URL
	pgservertest.Exec(t, admin, "DROP ROLE IF EXISTS swapper; CREATE ROLE swapper LOGIN CREATEDB")
	for _, name := range []string{s.live, s.o.Database} {
		pgservertest.Exec(t, admin, "ALTER DATABASE "+postgres.Quote(name)+" OWNER TO swapper")
	}
	t.Cleanup(func() {
		pgservertest.Exec(t, admin, "REASSIGN OWNED BY swapper TO CURRENT_USER; DROP OWNED BY swapper; DROP ROLE swapper")
	})
	s.o.Server = postgres.Config{URL: s.source.DSN("swapper", "postgres")}
	plan := s.plan(t)
	conn, err := pgx.Connect(deadline(t), s.url(s.live)) // a superuser's
	require.NoError(t, err)
	_, err = plan.Apply(deadline(t), s.o)
	require.True(t, failure.Is(err, failure.LockHeld), "%v", err)
	require.ErrorContains(t, err, fmt.Sprintf("the session with pid %d of", conn.PgConn().PID()))
	require.Equal(t, plan.Live.Oid, query[uint32](t, s.url(s.live), "SELECT oid FROM pg_database WHERE datname = current_database()"), "it is open")
	require.NoError(t, conn.Close(deadline(t)))
	_, err = plan.Apply(deadline(t), s.o)
	require.NoError(t, err)
	s.o.Server = postgres.Config{URL: admin}
	require.Equal(t, plan.Copy.Oid, s.oid(t, s.live))
}

// TestTrafficDuringTheSwap lets several clients write about fifty times a second, connecting again
// whenever they are thrown out. Nothing that was acknowledged is lost: it is in the database that was
// replaced, or, if it began after the swap, in the one that took its place.
func TestTrafficDuringTheSwap(t *testing.T) {
	s := newSwapRig(t, "CREATE TABLE orders (id bigint PRIMARY KEY)")
	plan := s.plan(t)
	type written struct {
		id    int64
		began time.Time
	}
	var mu sync.Mutex
	var acknowledged []written
	var refused []error
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	ctx, stop := context.WithCancel(deadline(t))
	var clients sync.WaitGroup
	for client := range int64(5) {
		clients.Add(1)
		go func() {
			defer clients.Done()
			var conn *pgx.Conn
			defer func() {
				if conn != nil {
					_ = conn.Close(context.Background())
				}
			}()
			pace := time.NewTicker(100 * time.Millisecond) // ten a second each: what is measured is a load
			defer pace.Stop()
			for n := int64(0); ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				began := time.Now()
				var err error
				if conn == nil {
					conn, err = pgx.Connect(ctx, s.url(s.live))
				}
				if err == nil {
					_, err = conn.Exec(ctx, "INSERT INTO orders VALUES ($1)", client<<32|n)
				}
				mu.Lock()
				if err == nil {
					acknowledged = append(acknowledged, written{client<<32 | n, began})
				} else if ctx.Err() == nil {
					refused = append(refused, err)
				}
				mu.Unlock()
				if err != nil && conn != nil {
					_ = conn.Close(context.Background())
					conn = nil
				}
			}
		}()
	}
	require.Eventually(t, func() bool { return count() > 50 }, time.Minute, 10*time.Millisecond)
	done, err := plan.Apply(deadline(t), s.o)
	require.NoError(t, err)
	after, swapped := count(), time.Now()
	require.Eventually(t, func() bool { return count() > after+50 }, time.Minute, 10*time.Millisecond)
	stop()
	clients.Wait()
	t.Logf("closed for %s at most; %d sessions ended, %d requests refused of %d", done.Closed, done.Ended, len(refused), len(acknowledged)+len(refused))

	in := func(name string) map[int64]bool {
		ids := make(map[int64]bool)
		for _, id := range query[[]int64](t, s.url(name), "SELECT coalesce(array_agg(id), '{}') FROM orders") {
			ids[id] = true
		}
		return ids
	}
	kept, live := in(plan.Kept), in(s.live)
	for _, w := range acknowledged {
		require.True(t, kept[w.id] != live[w.id], "order %d is in none or both", w.id)
		if w.began.After(swapped) {
			require.True(t, live[w.id], "order %d came after the swap and is not in what took the place", w.id)
		}
	}
	for _, err := range refused {
		state := postgres.State(err)
		require.True(t, state == "57P01" || state == "3D000" || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "closed") || strings.Contains(err.Error(), "broken pipe"), "%v", err)
	}
}

// TestASealedCopyCanBeTakenOver lets a later run go on with the copy of one that waited for an approval.
func TestASealedCopyCanBeTakenOver(t *testing.T) {
	s := newSwapRig(t, "CREATE TABLE goods (id int); INSERT INTO goods VALUES (1)")
	require.NoError(t, restore.Seal(deadline(t), s.o))
	require.NoError(t, restore.Seal(deadline(t), s.o))
	next := s.o
	next.Owner, next.Oid = "run-2", 0
	oid, err := restore.Create(deadline(t), next)
	require.NoError(t, err)
	require.Equal(t, s.o.Oid, oid)
	s.requireEqual(t, next, next.Database)
	require.NoError(t, restore.Seal(deadline(t), s.o))
	require.NoError(t, restore.Drop(deadline(t), s.o))
	require.Zero(t, s.oid(t, s.o.Database))
}

func TestTheKeptNameFits(t *testing.T) {
	s := newSwapRig(t, "SELECT")
	long := strings.Repeat("ü", 31)
	pgservertest.Exec(t, s.o.Server.URL, "CREATE DATABASE "+postgres.Quote(long))
	t.Cleanup(func() { pgservertest.Exec(t, s.o.Server.URL, "DROP DATABASE IF EXISTS "+postgres.Quote(long)) })
	require.NoError(t, restore.Seal(deadline(t), s.o))
	plan, err := restore.PlanSwap(deadline(t), s.o, "b1", long, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	require.NoError(t, err)
	require.LessOrEqual(t, len(plan.Kept), 63)
	require.True(t, strings.HasSuffix(plan.Kept, "_replaced_20260102_030405"), plan.Kept)
}
