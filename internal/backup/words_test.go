package backup_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/proof"
)

// wordsSQL makes a database whose definitions PostgreSQL writes down in other words once they have been
// reloaded, or that depend on the settings of who writes them down.
const wordsSQL = `
CREATE ROLE words_zoe; CREATE ROLE words_adam;
CREATE DOMAIN side AS varchar(10) CHECK (VALUE IN ('left', 'right'));
CREATE TABLE chosen (id serial PRIMARY KEY, s varchar(10) CHECK (s IN ('a', 'b')), t varchar(10) NOT NULL DEFAULT 'x', d side,
	made boolean GENERATED ALWAYS AS (s IN ('a', 'b')) STORED);
INSERT INTO chosen (s, d) SELECT 'a', 'left' FROM generate_series(1, 10);
CREATE INDEX chosen_some ON chosen (id) WHERE s IN ('a', 'b');
CREATE VIEW few AS SELECT * FROM chosen WHERE s IN ('a', 'b') AND t <> ALL (ARRAY['q', 'r']) AND ((id, t) IN ((1, 'a'), (2, 'b')) OR id = 7);
CREATE RULE skip AS ON INSERT TO chosen WHERE NEW.t IN ('q', 'r') DO INSTEAD NOTHING;
ALTER TABLE chosen ENABLE ROW LEVEL SECURITY;
CREATE POLICY two ON chosen FOR SELECT TO words_zoe, words_adam USING (s IN ('a', 'b'));
CREATE TABLE events (at timestamptz NOT NULL DEFAULT '2000-01-01 00:00+00', x bytea DEFAULT '\xde00', price money DEFAULT 1) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE doubled (a int); INSERT INTO doubled VALUES (1), (1);`

func TestASchemaThatComesBackInOtherWordsIsProven(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	t.Cleanup(func() {
		pgservertest.Exec(t, url, "DROP OWNED BY words_zoe, words_adam; DROP ROLE words_zoe, words_adam")
	})
	pgservertest.Exec(t, url, wordsSQL)
	_, err := session(t, url).Exec(deadline(t), "CREATE UNIQUE INDEX CONCURRENTLY invalid ON doubled (a)")
	require.Error(t, err, "it leaves an index that is not valid")
	pgservertest.Exec(t, url, "COMMENT ON INDEX invalid IS 'never mind'")
	pgservertest.Exec(t, url, `DO $$ DECLARE s text; BEGIN FOREACH s IN ARRAY ARRAY['timezone TO ''Europe/Berlin''', 'bytea_output TO escape', 'quote_all_identifiers TO on'] LOOP
		EXECUTE format('ALTER DATABASE %I SET ', current_database()) || s; END LOOP; END $$`)
	d := takeAndProve(t, server, name)
	require.Contains(t, d.manifest.Elsewhere, "index public.invalid: it is not valid, so it is not made again")
	at := slices.IndexFunc(d.compare(t), func(c run.Check) bool { return c.Name == "schema" && strings.Contains(c.Detail, "in the words that") })
	require.Positive(t, at, "nothing came back in other words")
	left := query[int](t, d.copied.Server.URL, "SELECT count(*) FROM pg_database WHERE datname = '"+proof.ReloadName("copy")+"'")
	require.Zero(t, left)

	// What differs in more than words is found all the same.
	dsn := strings.Replace(d.copied.Server.URL, "/postgres", "/copy", 1)
	for _, change := range []string{
		"ALTER TABLE chosen DROP CONSTRAINT chosen_s_check; ALTER TABLE chosen ADD CONSTRAINT chosen_s_check CHECK (s IN ('a', 'b', 'c'))",
		"CREATE OR REPLACE VIEW few AS SELECT * FROM chosen WHERE s IN ('a', 'b')",
		"DROP POLICY two ON chosen; CREATE POLICY two ON chosen FOR SELECT TO words_zoe USING (s IN ('a', 'b'))",
		"ALTER TABLE events ALTER at SET DEFAULT '2000-01-01 00:00+01'",
	} {
		pgservertest.Exec(t, dsn, change)
		checks := d.compare(t)
		require.Equal(t, run.Fail, proof.Verdict(checks), "%s", change)
		require.True(t, slices.ContainsFunc(checks, func(c run.Check) bool { return c.Name == "schema" && c.Verdict == run.Fail }), "%s: %v", change, checks)
	}
}
