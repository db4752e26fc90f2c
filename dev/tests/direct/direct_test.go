// Package direct restores without Temporal: the command line alone, killed and called again.
package direct

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site has a backup of a database that is gone.
func site(t *testing.T) (*harness.Stack, *pgserver.Server) {
	t.Helper()
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY, name text); INSERT INTO goods SELECT g, repeat('x', 100) || g FROM generate_series(1, 120000) g")
	s := harness.New(t, harness.Target("shop", url, ""))
	w := s.Worker(t, "w")
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	w.Stop()
	pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE "+name)
	t.Cleanup(func() { pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE IF EXISTS back") })
	return s, server
}

// command is a call that reaches no Temporal.
func command(t *testing.T, s *harness.Stack, more ...string) harness.Called {
	t.Helper()
	cmd, out, errOut := s.Command(t, []string{"TEMPORAL_ADDRESS=127.0.0.1:1", "PATH=" + os.Getenv("PATH")}, append([]string{"restore", "--direct", "--database", "back"}, more...)...)
	return harness.Finish(t, cmd.Run(), cmd, out, errOut)
}

func TestRestoreWithoutTemporal(t *testing.T) {
	s, server := site(t)
	require.Equal(t, starter.ExitUsage, s.Upkeep(t, "restore", "--database", "back").Code, "without --direct")
	require.Equal(t, starter.ExitRefused, command(t, s, "--backup", "20200101T000000Z-00000000").Code)
	called := command(t, s, "-o", "json")
	require.Zero(t, called.Code, called.Err)
	doc := called.Document(t)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	require.Equal(t, run.Pass, r.Verdict)
	require.Equal(t, []string{"120000"}, harness.Ask(t, server.DSN("", "back"), "SELECT count(*)::text FROM goods"))
	require.Equal(t, starter.ExitRefused, command(t, s).Code, "nothing is restored over a database")
	s.NothingLeft(t, server)
}

// TestBrokenOff kills the command in the middle, and calls it again.
func TestBrokenOff(t *testing.T) {
	s, server := site(t)
	killed := exec.Command(harness.Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep", "fault"), "restore", "--direct", "--database", "back", "--config", s.Config)
	killed.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "UPKEEP_FAULT=point=restore/chunk/after:kill"}
	require.Error(t, killed.Run())
	require.Equal(t, []string{"1"}, harness.Ask(t, server.DSN("", "postgres"), `SELECT count(*)::text FROM pg_database WHERE datname LIKE 'upkeep\_restore\_%'`))
	called := command(t, s)
	require.Zero(t, called.Code, called.Err)
	require.Regexp(t, `[1-9][0-9]* of them were there already`, called.Out)
	require.Equal(t, []string{"120000"}, harness.Ask(t, server.DSN("", "back"), "SELECT count(*)::text FROM goods"))
	s.NothingLeft(t, server)
}

func TestADamagedBackupIsNotKept(t *testing.T) {
	s, server := site(t)
	chunks, err := filepath.Glob(filepath.Join(s.Store, "shop", "chunks", "*", "*.zst"))
	require.NoError(t, err)
	for _, path := range chunks {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, info.Size()-1))
	}
	called := command(t, s)
	require.Equal(t, starter.ExitFailed, called.Code, called.Err)
	require.Contains(t, called.Out, "FAIL")
	s.NothingLeft(t, server)
}
