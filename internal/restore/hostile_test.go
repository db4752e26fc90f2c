package restore_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// hostile is a database whose constraints run code: it looks for the worker's environment, tries to
// become the superuser, and writes down what it gets.
const hostile = `
DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mallory') THEN CREATE ROLE mallory; CREATE ROLE mighty SUPERUSER; END IF;
END $$;
CREATE TABLE seen (what text);
CREATE FUNCTION spy() RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE p text;
BEGIN
	INSERT INTO public.seen VALUES ('session ' || session_user || ' current ' || current_user);
	BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXECUTE 'SET ROLE postgres'; INSERT INTO public.seen VALUES ('became ' || current_user);
	EXCEPTION WHEN OTHERS THEN NULL; END;
	BEGIN FOR p IN SELECT 'self' UNION ALL SELECT d FROM (SELECT pg_ls_dir('/proc') AS d) q WHERE d ~ '^[0-9]+$' LOOP
		BEGIN INSERT INTO public.seen VALUES (encode(pg_read_binary_file('/proc/' || p || '/environ'), 'escape'));
		EXCEPTION WHEN OTHERS THEN NULL; END;
	END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END;
	RETURN true;
END $f$;
CREATE TABLE trap (a int CHECK (public.spy() OR a > 0));
INSERT INTO trap VALUES (1);
CREATE TABLE great_trap (a int CHECK (public.spy() OR a > 0));
INSERT INTO great_trap VALUES (1);
TRUNCATE seen;
GRANT INSERT ON seen TO PUBLIC;
ALTER TABLE trap OWNER TO mallory; ALTER TABLE great_trap OWNER TO mighty; ALTER TABLE seen OWNER TO mallory;
`

func TestCodeInADatabaseSeesNothingOfTheWorker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give the server an OS user of its own; without, the worker is closed by prctl and /proc needs no guessing")
	}
	t.Setenv("UPKEEP_CANARY", "canary-of-the-worker")
	r := newRig(t, pgservertest.Default, hostile)
	s := r.scratch(t, pgservertest.Default)
	restoreAll(t, r.options(s))
	seen := query[string](t, s.DSN("", "copy"), "SELECT coalesce(string_agg(what, E'\\n'), '') FROM seen")
	require.Contains(t, seen, "session mallory current mallory", "the trap was not sprung as its owner")
	require.Contains(t, seen, "session mighty current mighty")
	require.Contains(t, seen, "LC_ALL=C.UTF-8", "a superuser's trap can read its own server's environment")
	require.NotContains(t, seen, "canary")
	require.Equal(t, strings.Count(seen, "session mighty"), strings.Count(seen, "became"), "only the superuser's own trap can become another")
}

func TestTablespacesAreMade(t *testing.T) {
	source := pgservertest.Server(t, pgservertest.Default)
	admin := source.DSN("", "postgres")
	execEach(t, admin, "SET allow_in_place_tablespaces = on", `CREATE TABLESPACE "Fast disk" LOCATION ''`)
	t.Cleanup(func() { pgservertest.Exec(t, admin, `DROP TABLESPACE "Fast disk"`) })
	r := newRig(t, pgservertest.Default, `CREATE TABLE a (id int PRIMARY KEY USING INDEX TABLESPACE "Fast disk", v text) TABLESPACE "Fast disk";
		CREATE INDEX ON a (v); CREATE INDEX ON a (v, id) TABLESPACE "Fast disk"; INSERT INTO a VALUES (1, 'x')`)
	o := r.options(r.scratch(t, pgservertest.Default))
	restoreAll(t, o)
	r.requireEqual(t, o, "copy")

	elsewhere := r.options(r.scratch(t, pgservertest.Default))
	elsewhere.Private = false
	elsewhere = create(t, elsewhere)
	_, err := restore.Load(deadline(t), elsewhere)
	require.True(t, failure.Is(err, failure.MissingRight), "%v", err)
	require.ErrorContains(t, err, `"Fast disk"`)
}

// execEach runs statements that do not bear a transaction around them, in one session.
func execEach(t *testing.T, url string, statements ...string) {
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(deadline(t))) }()
	for _, sql := range statements {
		_, err := conn.Exec(deadline(t), sql)
		require.NoError(t, err)
	}
}
