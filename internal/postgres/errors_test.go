package postgres_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

func TestALimitOfConnectionsHasItsOwnRemedy(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
	_, err := postgres.Config{URL: server.DSN("limited", name)}.Connect(t.Context())
	require.Equal(t, "53300", postgres.State(err), "%v", err)
	require.True(t, failure.Is(err, failure.ServerUnreachable), "it may pass by itself: %v", err)
	for _, part := range []string{"limited", "CONNECTION LIMIT", "max_connections", "connections:"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "whether the server is up")
}

func TestShortageOfMemoryHasItsOwnRemedy(t *testing.T) {
	err := postgres.Classify(&pgconn.PgError{Code: "53200", Message: "out of shared memory"}, "lock the tables")
	require.True(t, failure.Is(err, failure.ServerUnreachable), "it may pass by itself: %v", err)
	require.ErrorContains(t, err, "out of shared memory")
	require.ErrorContains(t, err, "max_locks_per_transaction")
}

func TestAProgramThatLosesItsServerMayTryAgain(t *testing.T) {
	tool, err := postgres.FindTool(t.Context(), "pg_dump", pgservertest.Default)
	require.NoError(t, err)
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	dump := func(source postgres.Config) error {
		_, _, err := postgres.DumpSchema(t.Context(), tool, source, name, "", 10*time.Second)
		return err
	}
	err = dump(postgres.Config{URL: "postgres://postgres@127.0.0.1:1/" + name})
	require.True(t, failure.Is(err, failure.ServerUnreachable), "nobody listens: %v", err)

	// A session that the server ends while pg_dump waits for a lock in it.
	pgservertest.Exec(t, url, "CREATE TABLE locked (id int)")
	holder, err := postgres.Config{URL: url}.Connect(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Close(context.Background()) }()
	_, err = holder.Exec(t.Context(), "BEGIN; LOCK TABLE public.locked")
	require.NoError(t, err)
	watcher, err := postgres.Config{URL: url}.Connect(t.Context()) // a transaction sees one state of the sessions for all its time
	require.NoError(t, err)
	defer func() { _ = watcher.Close(context.Background()) }()
	ended := make(chan error, 1)
	go func() { ended <- dump(postgres.Config{URL: url, App: "dumps"}) }()
	require.Eventually(t, func() bool {
		var n int
		err := watcher.QueryRow(t.Context(), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dumps' AND wait_event_type = 'Lock'").Scan(&n)
		return err == nil && n > 0
	}, time.Minute, 20*time.Millisecond)
	err = <-ended
	require.True(t, failure.Is(err, failure.ServerUnreachable), "ended: %v", err)

	name = "nowhere"
	err = dump(postgres.Config{URL: url})
	require.ErrorContains(t, err, "does not exist")
	require.False(t, failure.Is(err, failure.ServerUnreachable), "waiting makes no database: %v", err)
}
