// Package pgservertest gives tests real PostgreSQL servers: one of each version per test binary, and
// a fresh database per test.
package pgservertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/pgserver"
)

const (
	// Default is the major version that tests use when the version does not matter.
	Default = 15
	timeout = 6 * time.Minute // of what is done once: installing, starting
)

// servers are those of this test binary, by major version.
var servers = struct {
	sync.Mutex
	running map[int]*pgserver.Server
}{running: map[int]*pgserver.Server{}}

// Main runs a package's tests and removes their servers. Use it as TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }
//
// Without it the servers still die with the test binary; their folders are removed by the next one.
func Main(m *testing.M) int {
	code := m.Run()
	servers.Lock()
	defer servers.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for major, s := range servers.running {
		if err := s.Remove(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "remove the test server %d: %v\n", major, err)
			code = 1
		}
	}
	return code
}

// Root is the folder in which this user's test servers live.
func Root() string { return filepath.Join(os.TempDir(), fmt.Sprintf("upkeep-test-%d", os.Geteuid())) }

// Server returns the test binary's server of the major version, started at its first use.
func Server(t testing.TB, major int) *pgserver.Server {
	t.Helper()
	servers.Lock()
	defer servers.Unlock()
	if s := servers.running[major]; s != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout) // it outlives the test
	defer cancel()
	if len(servers.running) == 0 {
		_, err := pgserver.Reap(ctx, Root(), 0) // what killed test binaries left
		require.NoError(t, err)
	}
	binaries, err := Binaries(ctx, major)
	require.NoError(t, err)
	s, err := pgserver.Start(ctx, pgserver.Options{
		Dir: filepath.Join(Root(), fmt.Sprintf("%d-%d", major, os.Getpid())), Binaries: binaries,
		Settings: map[string]string{"max_prepared_transactions": "10"},
	})
	require.NoError(t, err)
	servers.running[major] = s
	return s
}

var databases atomic.Int64

// Database makes an empty database for the test, dropped when the test ends, and returns its name
// and the superuser's URL of it.
func Database(t testing.TB, s *pgserver.Server) (name, url string) {
	t.Helper()
	name = fmt.Sprintf("test_%d", databases.Add(1))
	Exec(t, s.DSN("", "postgres"), `CREATE DATABASE `+name+` TEMPLATE template0`)
	t.Cleanup(func() {
		Exec(t, s.DSN("", "postgres"), `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`)
	})
	return name, s.DSN("", name)
}

// Exec runs SQL, one or more statements, in a session of its own.
func Exec(t testing.TB, url, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	cfg.RuntimeParams["client_encoding"] = "UTF8" // as Go's strings are, whatever the database's is
	conn, err := pgx.ConnectConfig(ctx, cfg)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}
