package rotation

import (
	"context"
	"fmt"
	neturl "net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

// asking makes a server ask everybody but its superuser for a password.
func asking(t *testing.T, major int) (Roles, string) {
	t.Helper()
	s := pgservertest.Server(t, major)
	name, url := pgservertest.Database(t, s)
	var file string
	require.NoError(t, one(t, url, "SHOW hba_file").Scan(&file))
	was, err := os.ReadFile(file)
	require.NoError(t, err)
	var super string
	require.NoError(t, one(t, url, "SELECT current_user::text").Scan(&super))
	require.NoError(t, os.WriteFile(file, []byte("local all "+super+" trust\nlocal all all scram-sha-256\n"), 0o600))
	reload(t, url)
	t.Cleanup(func() {
		require.NoError(t, os.WriteFile(file, was, 0o600))
		reload(t, url)
	})
	for _, sql := range []string{
		"DROP ROLE IF EXISTS shop_a, shop_b, shop", "CREATE ROLE shop LOGIN PASSWORD 'old' CONNECTION LIMIT 7", "ALTER ROLE shop SET statement_timeout = '61s'",
		"ALTER ROLE shop SET search_path = app, \"$user\", public", "ALTER ROLE shop IN DATABASE " + name + " SET work_mem = '5MB'", "CREATE SCHEMA app AUTHORIZATION shop",
	} {
		pgservertest.Exec(t, url, sql)
	}
	t.Cleanup(func() {
		pgservertest.Exec(t, url, "DROP SCHEMA IF EXISTS app CASCADE")
		pgservertest.Exec(t, url, "DROP ROLE IF EXISTS shop_a, shop_b, shop")
	})
	return Roles{Server: postgres.Config{URL: url, App: "upkeep"}}, url
}

func reload(t *testing.T, url string) {
	t.Helper()
	var before, after time.Time
	require.NoError(t, one(t, url, "SELECT pg_conf_load_time()").Scan(&before))
	pgservertest.Exec(t, url, "SELECT pg_reload_conf()")
	require.Eventually(t, func() bool {
		return one(t, url, "SELECT pg_conf_load_time()").Scan(&after) == nil && after.After(before)
	}, 30*time.Second, 20*time.Millisecond)
}

type scanner struct {
	conn *pgx.Conn
	row  pgx.Row
}

func (s scanner) Scan(into ...any) error {
	defer func() { _ = s.conn.Close(context.Background()) }()
	return s.row.Scan(into...)
}

func one(t *testing.T, url, sql string, args ...any) scanner {
	t.Helper()
	ctx := context.Background() // also of what tidies up
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	return scanner{conn, conn.QueryRow(ctx, sql, args...)}
}

// decided is an order, the later the higher.
func decided(e Entry, from, to string, moment int) (Order, *pending) {
	o := Order{Entry: e, From: from, To: to, Order: held.Order{Key: "run", Target: "shop", At: time.Date(2026, 3, 1, 12, moment, 0, 0, time.UTC)}}
	before := map[string][]byte{"password": []byte("old")}
	if e.Overlap() {
		before["user"] = []byte(from)
	}
	return o, &pending{object: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "p1"}}, role: to, password: "the-new-one", before: before}
}

func text(t *testing.T, url, sql string) (out string) {
	t.Helper()
	require.NoError(t, one(t, url, sql).Scan(&out))
	return out
}

func TestTwoRolesInTurn(t *testing.T) {
	r, url := asking(t, pgservertest.Default)
	plan, err := r.Look(t.Context(), inTurn, "shop", "shop_a", false)
	require.NoError(t, err)
	require.True(t, plan.Makes)

	o, p := decided(inTurn, "shop", "shop_a", 1)
	for range 2 { // twice is once
		require.NoError(t, r.prepare(t.Context(), o, p))
	}
	checks, err := r.proveLogin(t.Context(), o, p)
	require.NoError(t, err)
	require.Equal(t, run.Pass, checks[0].Verdict)
	require.NotContains(t, checks[0].Detail, p.password)
	// It works as the one before: its settings, its limit, and what it makes is the owner's.
	require.NoError(t, r.login(t.Context(), "shop_a", p.password, func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), "CREATE TABLE app.made ()")
		return err
	}))
	require.Equal(t, "shop", text(t, url, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'made'"))
	require.Equal(t, "7", text(t, url, "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = 'shop_a'"))
	settings := text(t, url, "SELECT string_agg(o, '; ' ORDER BY s.setdatabase, n) FROM pg_db_role_setting s, unnest(s.setconfig) WITH ORDINALITY u(o, n) WHERE s.setrole = 'shop_a'::regrole")
	require.Equal(t, `statement_timeout=61s; search_path=app, "$user", public; role=shop; work_mem=5MB`, settings)
	// The old one works as long as it is not withdrawn, which waits for its sessions.
	c := r.Server
	c.Password = func(context.Context) (string, error) { return "old", nil }
	session, err := c.Connect(t.Context(), postgres.WithUser("shop"))
	require.NoError(t, err)
	_, err = r.withdraw(t.Context(), o, p, false)
	require.True(t, failure.Is(err, failure.LockHeld), "%v", err)
	left, who, err := r.Sessions(t.Context(), o, 0, func(string) {})
	require.NoError(t, err)
	require.Equal(t, 1, left)
	require.Equal(t, "1 from the server itself", who)
	ended, err := r.withdraw(t.Context(), o, p, true)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Error(t, session.Ping(t.Context()))
	checks, err = r.proveWithdrawn(t.Context(), o, p)
	require.NoError(t, err)
	require.Equal(t, run.Pass, checks[0].Verdict)
	is, err := r.IsWithdrawn(t.Context(), o)
	require.NoError(t, err)
	require.True(t, is)

	// A twin that comes late changes nothing, whatever it was about to do.
	require.True(t, failure.Is(r.prepare(t.Context(), o, p), failure.PlanVoid))
	_, err = r.retire(t.Context(), o, p)
	require.NoError(t, err)
	_, err = r.proveWithdrawn(t.Context(), o, p)
	require.NoError(t, err, "the new one still logs in")

	// The next time it is the other's turn, and then the first's again.
	next, np := decided(inTurn, "shop_a", "shop_b", 2)
	np.object.UID, np.before["password"], np.password = "p2", []byte(p.password), "the-third"
	_, err = r.Look(t.Context(), inTurn, "shop_a", "shop_b", false)
	require.NoError(t, err)
	require.NoError(t, r.prepare(t.Context(), next, np))
	require.True(t, failure.Is(r.prepare(t.Context(), o, p), failure.PlanVoid), "an earlier order's")
	_, err = r.withdraw(t.Context(), o, p, false)
	require.True(t, failure.Is(err, failure.PlanVoid), "%v", err)
	_, err = r.withdraw(t.Context(), next, np, false)
	require.NoError(t, err)
	require.Equal(t, "f t", text(t, url, "SELECT string_agg(left(rolcanlogin::text, 1), ' ' ORDER BY rolname) FROM pg_roles WHERE rolname IN ('shop_a', 'shop_b')"))
	plan, err = r.Look(t.Context(), inTurn, "shop_b", "shop_a", false)
	require.NoError(t, err)
	require.False(t, plan.Makes)
}

func TestUndone(t *testing.T) {
	r, url := asking(t, pgservertest.Default)
	o, p := decided(inTurn, "shop", "shop_a", 1)
	require.NoError(t, r.prepare(t.Context(), o, p))
	for range 2 {
		remark, err := r.retire(t.Context(), o, p)
		require.NoError(t, err)
		require.Empty(t, remark)
	}
	require.Equal(t, "0", text(t, url, "SELECT count(*)::text FROM pg_roles WHERE rolname = 'shop_a'"), "it is gone")
	require.NoError(t, r.login(t.Context(), "shop", "old", nil))
	require.True(t, failure.Is(r.prepare(t.Context(), o, p), failure.PlanVoid), "a late twin makes it not again")

	// One that something is the own of by now stays, and lets nobody in.
	o, p = decided(inTurn, "shop", "shop_a", 2)
	require.NoError(t, r.prepare(t.Context(), o, p))
	pgservertest.Exec(t, url, "CREATE TABLE owned (); ALTER TABLE owned OWNER TO shop_a")
	remark, err := r.retire(t.Context(), o, p)
	require.NoError(t, err)
	require.Contains(t, remark, "has objects of its own")
	require.Equal(t, "false", text(t, url, "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = 'shop_a'"))
	_, err = r.Look(t.Context(), inTurn, "shop", "shop_a", false)
	require.True(t, failure.Is(err, failure.NotRotatable), "%v", err)
	require.ErrorContains(t, err, "REASSIGN OWNED BY")
	pgservertest.Exec(t, url, "DROP TABLE owned")

	// What was never prepared is not taken back, and cannot be prepared any more.
	o, p = decided(inTurn, "shop", "shop_a", 3)
	p.object.UID = "p3"
	_, err = r.retire(t.Context(), o, p)
	require.NoError(t, err)
	require.True(t, failure.Is(r.prepare(t.Context(), o, p), failure.PlanVoid))
}

func TestOneRoleWithoutOverlap(t *testing.T) {
	r, url := asking(t, pgservertest.Default)
	_, err := r.Look(t.Context(), alone, "shop", "shop", false)
	require.NoError(t, err)
	c := r.Server
	c.Password = func(context.Context) (string, error) { return "old", nil }
	session, err := c.Connect(t.Context(), postgres.WithUser("shop"))
	require.NoError(t, err)
	o, p := decided(alone, "shop", "shop", 1)
	require.NoError(t, r.prepare(t.Context(), o, p))
	first := text(t, url, "SELECT substr(o, 17)::jsonb->>'changed' FROM pg_db_role_setting, unnest(setconfig) o WHERE setrole = 'shop'::regrole AND o LIKE 'upkeep.rotation=%'")
	require.NoError(t, r.prepare(t.Context(), o, p))
	require.Equal(t, first, text(t, url, "SELECT substr(o, 17)::jsonb->>'changed' FROM pg_db_role_setting, unnest(setconfig) o WHERE setrole = 'shop'::regrole AND o LIKE 'upkeep.rotation=%'"))
	require.NoError(t, session.Ping(t.Context()), "sessions stay")
	require.True(t, failure.Is(r.login(t.Context(), "shop", "old", nil), failure.WrongPassword))
	again := r.Server
	again.Password = func(context.Context) (string, error) { return p.password, nil }
	newer, err := again.Connect(t.Context(), postgres.WithUser("shop"))
	require.NoError(t, err)
	left, _, err := r.Sessions(t.Context(), o, 0, func(string) {})
	require.NoError(t, err)
	require.Equal(t, 1, left, "those that logged in since do not count")
	ended, err := r.withdraw(t.Context(), o, p, true)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Error(t, session.Ping(t.Context()))
	require.NoError(t, newer.Ping(t.Context()))
	require.NoError(t, newer.Close(t.Context()))

	pgservertest.Exec(t, url, "ALTER ROLE shop PASSWORD 'old'")
	o, p = decided(alone, "shop", "shop", 2)
	p.object.UID = "p2"
	require.NoError(t, r.prepare(t.Context(), o, p))
	_, err = r.retire(t.Context(), o, p)
	require.NoError(t, err)
	require.NoError(t, r.login(t.Context(), "shop", "old", nil), "undone, the old one is good again")
	require.True(t, failure.Is(r.login(t.Context(), "shop", p.password, nil), failure.WrongPassword))
}

func TestRolesThatAreNotRotated(t *testing.T) {
	r, url := asking(t, pgservertest.Default)
	look := func(from, to string) error {
		_, err := r.Look(t.Context(), inTurn, from, to, false)
		return err
	}
	for _, c := range []struct {
		do, undo, says string
		code           failure.Code
	}{
		{"ALTER ROLE shop SUPERUSER", "ALTER ROLE shop NOSUPERUSER", "superuser", failure.NotRotatable},
		{"ALTER ROLE shop REPLICATION", "ALTER ROLE shop NOREPLICATION", "replication", failure.NotRotatable},
		{"ALTER ROLE shop NOLOGIN", "ALTER ROLE shop LOGIN", "may not log in", failure.NotRotatable},
		{"CREATE ROLE shop_a LOGIN", "DROP ROLE shop_a", "may log in already", failure.NotRotatable},
		{"CREATE ROLE shop_a CREATEROLE", "DROP ROLE shop_a", "may create roles", failure.NotRotatable},
		{"CREATE ROLE shop_a; GRANT pg_monitor TO shop_a", "DROP ROLE shop_a", "member of pg_monitor", failure.NotRotatable},
		{"CREATE SCHEMA temporal; CREATE TABLE temporal.executions (); CREATE TABLE temporal.history_node (); CREATE TABLE temporal.namespaces (); CREATE TABLE temporal.schema_version ()",
			"DROP SCHEMA temporal CASCADE", "Temporal", failure.NotItself},
	} {
		pgservertest.Exec(t, url, c.do)
		err := look("shop", "shop_a")
		pgservertest.Exec(t, url, c.undo)
		require.True(t, failure.Is(err, c.code), "%s: %v", c.do, err)
		require.ErrorContains(t, err, c.says, c.do)
	}
	require.NoError(t, look("shop", "shop_a"))
	require.True(t, failure.Is(look("nobody", "shop_a"), failure.MissingRole))
	self := text(t, url, "SELECT current_user::text")
	own := inTurn
	own.Owner = self
	_, err := r.Look(t.Context(), own, self, "shop_a", false)
	require.True(t, failure.Is(err, failure.NotItself), "%v", err)
}

// TestWithoutASuperuser: what the documentation says is enough for Upkeep's role, in the versions whose rules
// differ.
func TestWithoutASuperuser(t *testing.T) {
	for _, major := range []int{13, pgservertest.Default, 16, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			r, url := asking(t, major)
			pgservertest.Exec(t, url, "CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeps'; GRANT shop TO keeper WITH ADMIN OPTION; GRANT pg_read_all_stats TO keeper")
			t.Cleanup(func() {
				pgservertest.Exec(t, url, "DROP OWNED BY keeper")
				pgservertest.Exec(t, url, "DROP ROLE IF EXISTS shop_a, shop_b")
				pgservertest.Exec(t, url, "DROP ROLE keeper")
			})
			u, err := neturl.Parse(url)
			require.NoError(t, err)
			u.User = neturl.User("keeper")
			r.Server.URL = u.String()
			r.Server.Password = func(context.Context) (string, error) { return "keeps", nil }
			_, err = r.Look(t.Context(), inTurn, "shop", "shop_a", false)
			require.NoError(t, err)
			o, p := decided(inTurn, "shop", "shop_a", 1)
			require.NoError(t, r.prepare(t.Context(), o, p))
			_, err = r.proveLogin(t.Context(), o, p)
			require.NoError(t, err)
			_, err = r.retire(t.Context(), o, p)
			require.NoError(t, err)
			o, p = decided(inTurn, "shop", "shop_a", 2)
			require.NoError(t, r.prepare(t.Context(), o, p))
			_, err = r.withdraw(t.Context(), o, p, false)
			require.NoError(t, err)
			_, err = r.proveWithdrawn(t.Context(), o, p)
			require.NoError(t, err)
			pgservertest.Exec(t, url, "ALTER ROLE shop LOGIN PASSWORD 'old'")
			o, p = decided(alone, "shop", "shop", 3)
			p.object.UID = "p2"
			require.NoError(t, r.prepare(t.Context(), o, p))
			left, _, err := r.Sessions(t.Context(), o, 0, func(string) {})
			require.NoError(t, err)
			require.Zero(t, left)
			_, err = r.retire(t.Context(), o, p)
			require.NoError(t, err)
			require.NoError(t, r.login(t.Context(), "shop", "old", nil))
		})
	}
}

// TestAServerThatAsksForNoPassword proves no login, so nothing is begun.
func TestAServerThatAsksForNoPassword(t *testing.T) {
	s := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, s)
	pgservertest.Exec(t, url, "CREATE ROLE shop LOGIN PASSWORD 'old'")
	t.Cleanup(func() { pgservertest.Exec(t, url, "DROP ROLE shop") })
	_, err := Roles{Server: postgres.Config{URL: url}}.Look(t.Context(), inTurn, "shop", "shop_a", false)
	require.True(t, failure.Is(err, failure.NotRotatable), "%v", err)
	require.ErrorContains(t, err, "with any password")
}
