package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

// one reads the one JSON value on stdout, which is a line, and checks that nothing else is there.
func one(t *testing.T, c harness.Called) any {
	t.Helper()
	require.Equal(t, 1, strings.Count(c.Out, "\n"), "stdout %q, stderr %q", c.Out, c.Err)
	d := json.NewDecoder(strings.NewReader(c.Out))
	var value any
	require.NoError(t, d.Decode(&value), "stdout %q, stderr %q", c.Out, c.Err)
	_, err := d.Token()
	require.ErrorIs(t, err, io.EOF)
	return value
}

// TestPromises holds the command line to what the README says of it, where TestCommandLine does not.
func TestPromises(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
	s := &shell{Stack: harness.New(t, harness.Target("shop", url, ""))}
	s.address = s.Temporal.Address

	t.Run("without a worker an id comes at once", func(t *testing.T) {
		for _, id := range []string{"early", "early-text"} {
			args := []string{"run", "BackupDatabase", "--id", id} // the only target need not be named
			if id == "early" {
				args = append(args, "-o", "json")
			}
			got := s.within3s(t, args...)
			require.Zero(t, got.Code, got.Err)
			if id == "early" {
				require.Equal(t, map[string]any{"runId": "early"}, one(t, got))
			} else {
				require.Equal(t, "early-text\n", got.Out)
			}
			doc := s.quickly(t, id)
			require.Equal(t, run.Running, doc.Outcome)
			require.Equal(t, "waiting for a worker", doc.Summary)
			require.Contains(t, s.call(t, "show", id).Out, "waiting for a worker")
		}
	})

	t.Run("what a person says to a run that nobody works on", func(t *testing.T) {
		got := s.call(t, "resume", "early", "-o", "json")
		require.Equal(t, starter.ExitFailed, got.Code, "%s\n%s", got.Out, got.Err)
		require.Contains(t, got.Err, "see that upkeep-worker runs")
		one(t, got)
		got = s.call(t, "cancel", "early-text", "-o", "json")
		require.Zero(t, got.Code, got.Err)
		require.Equal(t, map[string]any{"runId": "early-text"}, one(t, got))
	})

	t.Run("procedures and their fields", func(t *testing.T) {
		got := s.call(t, "procedures")
		require.Zero(t, got.Code, got.Err)
		listed := s.call(t, "procedures", "-o", "json")
		require.Zero(t, listed.Code, listed.Err)
		require.Len(t, one(t, listed), len(procedures.All()))
		var all []procedures.Procedure
		require.NoError(t, json.Unmarshal([]byte(listed.Out), &all))
		for i, name := range []string{"BackupDatabase", "ContainIncident", "DrillRecovery", "FollowPullRequest", "PruneBackups", "RecoverData", "RecoverService", "RestoreDatabase", "ReviewAccess", "RolloutRelease", "RotateSecret", "UpdateDependencies", "ValidateNetwork", "VerifyBackup"} {
			require.Equal(t, name, all[i].Name)
			for _, text := range append([]string{name, all[i].Purpose}, words(all[i])...) {
				require.NotEmpty(t, text)
				require.Contains(t, got.Out, text)
			}
		}
	})

	s.Worker(t, "w")
	s.until(t, "early", run.Succeeded)
	s.until(t, "early-text", run.Cancelled)

	t.Run("input from a file, with fields over it", func(t *testing.T) {
		input := filepath.Join(s.Dir, "input.json")
		require.NoError(t, os.WriteFile(input, []byte(`{"target": "nowhere", "grade": "restored", "dryRun": true}`), 0o600))
		got := s.call(t, "run", "VerifyBackup", "--input", input, "--set", "grade=stored", "--set", "dryRun=false", "--set", "target=shop", "--wait", "-o", "json")
		require.Zero(t, got.Code, got.Err)
		doc := document(t, got)
		require.False(t, doc.DryRun)
		require.Equal(t, "shop", doc.Target)
		require.Contains(t, doc.Summary, "at grade stored: PASS")
		require.JSONEq(t, got.Out, s.call(t, "show", doc.RunID, "-o", "json").Out)

		require.NoError(t, os.WriteFile(input, []byte(`{"backup": "postgres://me:hunter2@host/db"}`), 0o600))
		got = s.call(t, "run", "VerifyBackup", "--input", input, "-o", "json")
		require.Equal(t, starter.ExitUsage, got.Code)
		require.Contains(t, got.Err, "holds a password")
		require.NotContains(t, got.Out+got.Err, "hunter2")
		require.NoError(t, os.WriteFile(input, []byte(`{"dry_run": true}`), 0o600))
		got = s.call(t, "run", "BackupDatabase", "--input", input)
		require.Equal(t, starter.ExitUsage, got.Code)
		require.Contains(t, got.Err, `did you mean "dryRun"?`)
	})

	t.Run("every exit code for real", func(t *testing.T) {
		runs := filepath.Join(s.Store, "runs")
		require.NoError(t, os.Rename(runs, runs+".aside"))
		require.NoError(t, os.WriteFile(runs, nil, 0o600)) // so that no report can be written
		got := s.call(t, "run", "VerifyBackup", "--set", "grade=stored", "--id", "no-report", "--wait", "-o", "json")
		require.NoError(t, os.Remove(runs))
		require.NoError(t, os.Rename(runs+".aside", runs))
		require.Equal(t, starter.ExitPartially, got.Code, "%s\n%s", got.Out, got.Err)
		doc := document(t, got)
		require.Equal(t, run.PartiallySucceeded, doc.Outcome)
		require.Contains(t, doc.Left[0], "the report could not be written")
		require.Empty(t, doc.Report)
		require.JSONEq(t, got.Out, s.call(t, "show", "no-report", "-o", "json").Out)
		require.Equal(t, starter.ExitPartially, s.call(t, "show", "no-report", "--wait").Code)

		chunks, err := filepath.Glob(filepath.Join(s.Store, "shop", "chunks", "*", "*.zst"))
		require.NoError(t, err)
		whole, err := os.ReadFile(chunks[0])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(chunks[0], append(whole[:len(whole):len(whole)], 0), 0o600))
		got = s.call(t, "run", "VerifyBackup", "--set", "grade=stored", "--id", "damaged", "--wait", "-o", "json")
		require.NoError(t, os.WriteFile(chunks[0], whole, 0o600))
		require.Equal(t, starter.ExitFailed, got.Code, "%s\n%s", got.Out, got.Err)
		doc = document(t, got)
		require.Equal(t, run.Failed, doc.Outcome)
		require.Contains(t, doc.Summary, filepath.Base(chunks[0]), "the file is named")
		require.JSONEq(t, got.Out, s.call(t, "show", "damaged", "-o", "json").Out)
		require.Zero(t, s.call(t, "show", "damaged").Code, "it could be shown")
		require.Equal(t, starter.ExitFailed, s.call(t, "show", "damaged", "--wait").Code)
	})

	t.Run("JSON is one document whatever happens", func(t *testing.T) {
		for _, c := range []struct {
			exit    int
			outcome run.Outcome
			args    []string
		}{
			{starter.ExitRefused, run.Refused, []string{"show", "never-was"}},
			{starter.ExitRefused, run.Refused, []string{"show", "never-was", "--wait"}},
			{starter.ExitRefused, run.Refused, []string{"resume", "never-was"}},
			{starter.ExitRefused, run.Refused, []string{"abandon", "never-was"}},
			{starter.ExitRefused, run.Refused, []string{"cancel", "never-was"}},
			{starter.ExitRefused, run.Refused, []string{"resume", "early"}},
			{starter.ExitRefused, run.Refused, []string{"run", "DrillRecovery", "--id", "early"}},
			{starter.ExitUsage, run.Refused, []string{"show"}},
			{starter.ExitUsage, run.Refused, []string{"runs", "--procedure", "Backup"}},
			{starter.ExitUsage, run.Refused, []string{"run", "Backup"}},
			{starter.ExitUsage, run.Refused, []string{"procedures", "more"}},
			{starter.ExitUsage, run.Refused, []string{"shwo", "early"}},
			{starter.ExitUsage, run.Refused, []string{"runs", "--config", "/nowhere/upkeep.yaml"}},
			{starter.ExitUsage, run.Refused, []string{"run", "BackupDatabase", "--set", "target=postgres://me:hunter2@host/db"}},
		} {
			got := s.call(t, append(c.args, "-o", "json")...)
			require.Equal(t, c.exit, got.Code, "%v: %s", c.args, got.Err)
			one(t, got)
			doc := document(t, got)
			require.Equal(t, c.outcome, doc.Outcome, "%v", c.args)
			require.NotEmpty(t, doc.Error.Code)
			require.Contains(t, got.Err, "upkeep: ")
			require.NotContains(t, got.Out+got.Err, "hunter2")
		}
		for _, args := range [][]string{{"runs"}, {"runs", "--outcome", "Succeeded"}, {"show", "early"}, {"show", "early", "--wait"}, {"run", "BackupDatabase", "--id", "early", "--wait"}} {
			got := s.call(t, append(args, "-o", "json")...)
			require.Zero(t, got.Code, "%v: %s", args, got.Err)
			one(t, got)
		}
	})

	t.Run("SIGTERM detaches too", func(t *testing.T) {
		lock := filepath.Join(s.Dir, "absent")
		s.Configure(t, harness.Target("shop", url, "      passwordFrom: {file: "+lock+"}\n"))
		cmd, out, errOut := s.command(t, "run", "BackupDatabase", "--id", "left", "--wait")
		require.NoError(t, cmd.Start())
		s.until(t, "left", run.Waiting)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		got := harness.Finish(t, cmd.Wait(), cmd, out, errOut)
		require.Equal(t, starter.ExitDetached, got.Code)
		require.Empty(t, got.Out)
		require.Contains(t, got.Err, "detached; the run goes on")
		require.Equal(t, run.Waiting, s.quickly(t, "left").Outcome)
		require.Equal(t, starter.ExitCancelled, s.call(t, "abandon", "left", "--wait").Code)
		s.Configure(t, harness.Target("shop", url, ""))
	})

	t.Run("Temporal by a profile", func(t *testing.T) {
		profiles := filepath.Join(s.Dir, "temporal.toml")
		require.NoError(t, os.WriteFile(profiles, []byte(fmt.Sprintf("[profile.default]\naddress = %q\n[profile.night]\naddress = %q\nnamespace = \"default\"\n", "127.0.0.1:1", s.address)), 0o600))
		call := func(more ...string) harness.Called {
			cmd, out, errOut := s.command(t, "runs", "-o", "json")
			cmd.Env = append([]string{"HOME=" + s.Dir, "UPKEEP_CONFIG=" + s.Config}, more...)
			return harness.Finish(t, cmd.Run(), cmd, out, errOut)
		}
		got := call("TEMPORAL_CONFIG_FILE="+profiles, "TEMPORAL_PROFILE=night")
		require.Zero(t, got.Code, got.Err)
		require.Contains(t, got.Out, `"early"`)
		require.Zero(t, call("TEMPORAL_CONFIG_FILE="+profiles, "TEMPORAL_ADDRESS="+s.address).Code, "the environment rules over the file")
		got = call("TEMPORAL_CONFIG_FILE="+profiles, "TEMPORAL_PROFILE=nihgt")
		require.Equal(t, starter.ExitUsage, got.Code)
		require.Contains(t, got.Err, "nihgt")
		one(t, got)
	})

	t.Run("Temporal that does not answer", func(t *testing.T) {
		deaf, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
		require.NoError(t, err)
		defer func() { require.NoError(t, deaf.Close()) }()
		for _, address := range []string{deaf.Addr().String(), "127.0.0.1:1"} {
			s.address = address
			require.Equal(t, run.Succeeded, s.quickly(t, "early").Outcome, "the store has it")
			got := s.within3s(t, "show", "not-in-the-store", "-o", "json")
			require.Equal(t, starter.ExitFailed, got.Code)
			require.Contains(t, got.Err, "TEMPORAL_ADDRESS")
			one(t, got)
		}
		for _, args := range [][]string{{"runs"}, {"run", "BackupDatabase"}, {"resume", "early"}, {"cancel", "other"}} {
			got := s.call(t, append(args, "-o", "json")...)
			require.Equal(t, starter.ExitFailed, got.Code, "%v: %s", args, got.Err)
			require.Contains(t, got.Err, "TEMPORAL_ADDRESS")
			require.Equal(t, run.Failed, document(t, got).Outcome)
			one(t, got)
		}
		require.Zero(t, s.call(t, "procedures").Code, "it asks nobody")
		s.address = s.Temporal.Address
	})
}

// words are what is said of a procedure's fields.
func words(p procedures.Procedure) []string {
	var all []string
	for _, f := range p.Input {
		all = append(all, f.Name, f.Type, f.Help)
	}
	return all
}
