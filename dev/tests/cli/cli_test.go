// Package cli tests the command line as a person or a script meets it: the program itself, against a
// Temporal server, a worker and a database.
package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// shell calls the command line.
type shell struct {
	*harness.Stack
	address string // of Temporal
}

func (s *shell) command(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	return s.Command(t, []string{"TEMPORAL_ADDRESS=" + s.address}, args...)
}

func (s *shell) call(t *testing.T, args ...string) harness.Called {
	t.Helper()
	cmd, out, errOut := s.command(t, args...)
	return harness.Finish(t, cmd.Run(), cmd, out, errOut)
}

// document reads the one document on stdout.
func document(t *testing.T, c harness.Called) *run.Document { t.Helper(); return c.Document(t) }

func (s *shell) until(t *testing.T, id string, outcome run.Outcome) *run.Document {
	t.Helper()
	return s.Until(t, id, func(d *run.Document) bool { return d.Outcome == outcome })
}

func TestCommandLine(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
	secret := filepath.Join(t.TempDir(), "password")
	s := &shell{}
	s.Stack = harness.New(t, harness.Target("shop", url, "")+harness.Target("locked", url, "      passwordFrom: {file: "+secret+"}\n"))
	s.address = s.Temporal.Address
	worker := s.Worker(t, "w")

	t.Run("mistakes start nothing", func(t *testing.T) {
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"run", "DrilRecovery", "--target", "shop"}, `did you mean "DrillRecovery"?`},
			{[]string{"run", "BackupDatabase", "--target", "shop", "--set", "dry_run=true"}, `did you mean "dryRun"?`},
			{[]string{"run", "BackupDatabase", "--target", "shop", "--set", "dryRun=maybe"}, "true or false"},
			{[]string{"run", "BackupDatabase", "--target", "shop", "--set", "dryRun"}, "name=value"},
			{[]string{"run", "BackupDatabase", "--input", "absent.json"}, "absent.json"},
			{[]string{"run", "BackupDatabase"}, "shop, locked"},
			{[]string{"run"}, "needs the name of a procedure"},
			{[]string{"run", "BackupDatabase", "--taget", "shop"}, "--taget"},
			{[]string{"rnu"}, "run"},
			{[]string{"runs", "-o", "yaml"}, "text or json"},
			{[]string{"run", "RestoreDatabase", "--target", "shop", "--set", "database=postgres://me:hunter2@host/db"}, "everybody on the machine"},
		} {
			got := s.call(t, c.args...)
			require.Contains(t, []int{starter.ExitUsage, starter.ExitRefused}, got.Code, "%v: %s", c.args, got.Err)
			require.Contains(t, got.Err, c.want)
			require.Empty(t, got.Out)
			require.NotContains(t, got.Err, "hunter2")
		}
		got := s.call(t, "runs", "-o", "json")
		require.Zero(t, got.Code, got.Err)
		require.Equal(t, "[]\n", got.Out)
		got = s.call(t, "run", "BackupDatabase", "--nope", "-o", "json")
		require.Equal(t, starter.ExitUsage, got.Code)
		require.Equal(t, "BadInput", document(t, got).Error.Code)
	})

	t.Run("a run with --wait is one document", func(t *testing.T) {
		got := s.call(t, "run", "BackupDatabase", "--target", "shop", "--id", "nightly", "--wait", "-o", "json")
		require.Zero(t, got.Code, got.Err)
		doc := document(t, got)
		require.Equal(t, run.Succeeded, doc.Outcome)
		require.Contains(t, got.Err, "Back up the database")
		shown := s.call(t, "show", "nightly", "-o", "json")
		require.Zero(t, shown.Code, shown.Err)
		require.JSONEq(t, got.Out, shown.Out)
		require.FileExists(t, strings.TrimPrefix(doc.Report, "file://"))

		again := s.call(t, "run", "BackupDatabase", "--target", "shop", "--id", "nightly", "--wait", "-o", "json")
		require.Zero(t, again.Code, again.Err)
		require.JSONEq(t, got.Out, again.Out, "given twice, done once")
		other := s.call(t, "run", "DrillRecovery", "--target", "shop", "--id", "nightly")
		require.Equal(t, starter.ExitRefused, other.Code, other.Err)
		for _, word := range []string{"resume", "abandon", "cancel"} {
			over := s.call(t, word, "nightly")
			require.Equal(t, starter.ExitRefused, over.Code, over.Err)
			require.Contains(t, over.Err, "has ended: Succeeded")
		}
		// The server takes its time for this; it is looked at in the end.
		_, err := s.Client.WorkflowService().DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{
			Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "nightly"},
		})
		require.NoError(t, err)
	})

	t.Run("input from stdin, dry run, and an id at once", func(t *testing.T) {
		cmd, out, errOut := s.command(t, "run", "VerifyBackup", "--input", "-", "--set", "grade=decoded", "--dry-run", "-o", "json")
		cmd.Stdin = strings.NewReader(`{"target":"shop","backup":"latest"}`)
		require.NoError(t, cmd.Run(), errOut.String())
		var started map[string]string
		require.NoError(t, json.Unmarshal(out.Bytes(), &started))
		require.Len(t, started, 1)
		require.Regexp(t, `^verify-backup-shop-\d{8}-\d{6}-[a-z0-9]{4}$`, started["runId"])
		doc := s.until(t, started["runId"], run.Succeeded)
		require.True(t, doc.DryRun)
		require.Equal(t, "shop", doc.Target)
	})

	t.Run("an unknown target is refused with the nearest", func(t *testing.T) {
		got := s.call(t, "run", "BackupDatabase", "--target", "shpo", "--wait", "-o", "json")
		require.Equal(t, starter.ExitRefused, got.Code)
		doc := document(t, got)
		require.Equal(t, run.Refused, doc.Outcome)
		require.Equal(t, "UnknownTarget", doc.Error.Code)
		require.Contains(t, doc.Summary, `"shop"`)
	})

	t.Run("bad input that only the run can see is bad input", func(t *testing.T) {
		got := s.call(t, "run", "VerifyBackup", "--target", "shop", "--set", "grade=deep", "--wait", "-o", "json")
		require.Equal(t, starter.ExitUsage, got.Code)
		require.Equal(t, run.Refused, document(t, got).Outcome)
	})

	t.Run("a parked run is mended and resumed", func(t *testing.T) {
		got := s.call(t, "run", "BackupDatabase", "--target", "locked", "--id", "parked")
		require.Zero(t, got.Code, got.Err)
		require.Equal(t, "parked\n", got.Out)
		doc := s.until(t, "parked", run.Waiting)
		require.Contains(t, doc.WaitingFor, secret)
		shown := s.call(t, "show", "parked")
		require.Zero(t, shown.Code)
		require.Contains(t, shown.Out, "upkeep resume parked")
		listed := s.call(t, "runs", "--outcome", "Waiting")
		require.Contains(t, listed.Out, "parked")
		require.NotContains(t, listed.Out, "nightly")

		require.NoError(t, os.WriteFile(secret, []byte("not needed by trust\n"), 0o600))
		resumed := s.call(t, "resume", "parked", "--reason", "the file is there", "--wait", "-o", "json")
		require.Zero(t, resumed.Code, resumed.Err)
		require.Equal(t, run.Succeeded, document(t, resumed).Outcome)
		require.NoError(t, os.Remove(secret))
	})

	t.Run("a parked run is given up", func(t *testing.T) {
		require.Zero(t, s.call(t, "run", "BackupDatabase", "--target", "locked", "--id", "given-up").Code)
		s.until(t, "given-up", run.Waiting)
		got := s.call(t, "abandon", "given-up", "--by", "anna", "--reason", "not today", "--wait", "-o", "json")
		require.Equal(t, starter.ExitCancelled, got.Code, got.Err)
		require.Contains(t, document(t, got).Summary, "anna (not today)")
	})

	t.Run("detached by Ctrl-C, then cancelled", func(t *testing.T) {
		cmd, out, errOut := s.command(t, "run", "BackupDatabase", "--target", "locked", "--id", "left-alone", "--wait", "-o", "json")
		require.NoError(t, cmd.Start())
		s.until(t, "left-alone", run.Waiting)
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, starter.ExitDetached, exit.ExitCode())
		require.Contains(t, errOut.String(), "upkeep show left-alone --wait")
		require.Equal(t, run.Waiting, document(t, harness.Called{Out: out.String(), Err: errOut.String()}).Outcome)

		got := s.call(t, "cancel", "left-alone", "--wait", "-o", "json")
		require.Equal(t, starter.ExitCancelled, got.Code, got.Err)
		require.Equal(t, run.Cancelled, document(t, got).Outcome)
	})

	t.Run("terminated from outside", func(t *testing.T) {
		require.Zero(t, s.call(t, "run", "BackupDatabase", "--target", "locked", "--id", "terminated").Code)
		s.until(t, "terminated", run.Waiting)
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), "terminated", "", "by the test"))
		doc := document(t, s.call(t, "show", "terminated", "-o", "json"))
		require.Equal(t, run.Cancelled, doc.Outcome)
		require.Contains(t, doc.Summary, "by the test")
		require.Empty(t, doc.WaitingFor)
		got := s.call(t, "show", "terminated", "--wait")
		require.Equal(t, starter.ExitCancelled, got.Code)
	})

	t.Run("runs are listed, the newest first", func(t *testing.T) {
		got := s.call(t, "runs", "--procedure", "BackupDatabase", "--target", "locked", "--limit", "3", "-o", "json")
		require.Zero(t, got.Code, got.Err)
		var listed []starter.Listed
		require.NoError(t, json.Unmarshal([]byte(got.Out), &listed))
		var ids []string
		for _, l := range listed {
			ids = append(ids, l.RunID)
		}
		require.Equal(t, []string{"terminated", "left-alone", "given-up"}, ids)
	})

	t.Run("without a worker", func(t *testing.T) {
		worker.Stop()
		require.Zero(t, s.call(t, "run", "BackupDatabase", "--target", "shop", "--id", "unserved").Code)
		doc := s.quickly(t, "unserved")
		require.Equal(t, run.Running, doc.Outcome)
		require.Equal(t, "shop", doc.Target)
		require.Equal(t, "Succeeded", string(s.quickly(t, "nightly").Outcome))
	})

	t.Run("after the history is gone, and without Temporal", func(t *testing.T) {
		require.Eventually(t, func() bool {
			_, err := s.Client.DescribeWorkflowExecution(t.Context(), "nightly", "")
			return err != nil
		}, harness.Patience, 100*time.Millisecond)
		require.Equal(t, run.Succeeded, s.quickly(t, "nightly").Outcome)
		s.address = "127.0.0.1:1"
		require.Equal(t, run.Succeeded, s.quickly(t, "nightly").Outcome)
		got := s.call(t, "show", "unserved")
		require.Equal(t, starter.ExitFailed, got.Code)
		require.Contains(t, got.Err, "TEMPORAL_ADDRESS")
		s.address = s.Temporal.Address
		require.Equal(t, starter.ExitRefused, s.call(t, "show", "never-was").Code)
	})
}

// quickly shows a run within the time that "show" has.
func (s *shell) quickly(t *testing.T, id string) *run.Document {
	t.Helper()
	got := s.within3s(t, "show", id, "-o", "json")
	require.Zero(t, got.Code, got.Err)
	return document(t, got)
}

// within3s makes a call that has 3 s. A machine that is busy with other tests may be late, but not
// three times.
func (s *shell) within3s(t *testing.T, args ...string) harness.Called {
	t.Helper()
	for try := 1; ; try++ {
		began := time.Now()
		got := s.call(t, args...)
		if took := time.Since(began); took < 3*time.Second || try == 3 {
			require.Less(t, took, 3*time.Second)
			return got
		}
	}
}
