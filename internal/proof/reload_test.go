package proof

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

// TestALateComparisonLeavesNothing compares a copy that has been published or dropped, as an attempt
// does that was frozen until then.
func TestALateComparisonLeavesNothing(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	conn, err := pgx.Connect(t.Context(), server.DSN("", "postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	source := postgres.Config{URL: server.DSN("", "postgres")}
	c := &checker{Options: Options{Copy: source, Database: "went_away", Manifest: &format.Manifest{}}}
	c.server, err = postgres.ReadServer(t.Context(), conn)
	require.NoError(t, err)
	c.Manifest.Database, err = postgres.ReadDatabase(t.Context(), conn, c.server.VersionNum)
	require.NoError(t, err)
	_, err = c.reload(t.Context(), postgres.Tool{}, postgres.Tool{})
	require.True(t, failure.Is(err, failure.Fenced), "%v", err)
	var left int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = $1", ReloadName("went_away")).Scan(&left))
	require.Zero(t, left)
}

func TestReworded(t *testing.T) {
	const head = "-- Name: t; Type: TABLE\n"
	for _, c := range []struct {
		name                     string
		missing, extra, reloaded []string
		want                     bool
	}{
		{"in other words", []string{head + "a"}, []string{head + "b"}, []string{head + "b", "other"}, true},
		{"in words of its own", []string{head + "a"}, []string{head + "c"}, []string{head + "b"}, false},
		{"missing", []string{head + "a"}, nil, []string{head + "b"}, false},
		{"too much", nil, []string{head + "b"}, []string{head + "b"}, false},
		{"of something else", []string{"-- Name: u; Type: TABLE\na"}, []string{head + "b"}, []string{head + "b"}, false},
		{"one for two", []string{head + "a", head + "a2"}, []string{head + "b", head + "b"}, []string{head + "b"}, false},
	} {
		require.Equal(t, c.want, reworded(c.missing, c.extra, c.reloaded), c.name)
	}
}
