package postgres_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

func TestALimitOfConnectionsHasItsOwnRemedy(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
	_, err := postgres.Config{URL: server.DSN("limited", name)}.Connect(t.Context())
	require.Equal(t, "53300", postgres.State(err), "%v", err)
	require.True(t, failure.Is(err, failure.ServerUnreachable), "it may pass by itself: %v", err)
	for _, part := range []string{"limited", "CONNECTION LIMIT", "max_connections", "connections:"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "whether the server is up")
}
