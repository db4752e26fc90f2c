// Package leases lets runs of one target meet on a real server: what excludes waits, says why, and goes
// on when its turn comes, however the other run ended.
package leases

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/lease"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

func newStack(t *testing.T) *harness.Stack {
	t.Helper()
	_, url := pgservertest.Database(t, pgservertest.Server(t, pgservertest.Default))
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY)")
	s := harness.New(t, harness.Target("shop", url, ""))
	s.Worker(t, "w")
	return s
}

// hold starts a run that nobody works on, and gets it the database alone.
func hold(t *testing.T, s *harness.Stack, id string) {
	t.Helper()
	_, err := s.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: "nobody"}, "Other")
	require.NoError(t, err)
	require.True(t, ask(t, s, id, lease.Exclusive).Granted)
}

func ask(t *testing.T, s *harness.Stack, holder string, mode lease.Mode) target.Answer {
	t.Helper()
	answer, err := (&runs.Activities{Client: s.Client}).AskLease(t.Context(), runs.Request{Target: "shop", Lease: lease.Lease{
		Holder: holder, Claims: []lease.Claim{{Resource: target.Database, Mode: mode}}, Purpose: "Other"}})
	require.NoError(t, err)
	return answer
}

func status(t *testing.T, s *harness.Stack) (status target.Status) {
	t.Helper()
	answer, err := s.Client.QueryWorkflow(t.Context(), target.ID("shop"), "", target.StatusQuery)
	require.NoError(t, err)
	require.NoError(t, answer.Get(&status))
	return status
}

func waits(d *run.Document) bool { return d.WaitingFor != "" }

func TestARunWaitsUntilTheOtherGivesBack(t *testing.T) {
	s := newStack(t)
	hold(t, s, "other")
	id := s.Start(t, "BackupDatabase", `{"target":"shop"}`)
	doc := s.Until(t, id, waits)
	require.Equal(t, run.Running, doc.Outcome)
	require.Contains(t, doc.WaitingFor, "waits for other (Other), at work since")
	require.Contains(t, s.Upkeep(t, "show", id).Out, "It waits for other (Other)")
	require.Equal(t, id, status(t, s).Waiting[0].Holder)
	require.NoError(t, s.Client.SignalWorkflow(t.Context(), target.ID("shop"), "", target.ReleaseSignal, "other"))
	doc = s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Eventually(t, func() bool { return len(status(t, s).Held) == 0 }, 10*time.Second, 20*time.Millisecond, "what has ended holds nothing")
}

func TestARunThatWasTerminatedHoldsNothing(t *testing.T) {
	s := newStack(t)
	hold(t, s, "other")
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), "other", "", "by a person"))
	require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{"target":"shop"}`).Outcome)
}

// TestABookThatIsLost is written anew by those who wait.
func TestABookThatIsLost(t *testing.T) {
	s := newStack(t)
	hold(t, s, "other")
	id := s.Start(t, "DrillRecovery", `{"target":"shop"}`)
	s.Until(t, id, waits)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), target.ID("shop"), "", "by a person"))
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
}

func TestARunThatIsCancelledLeavesTheQueue(t *testing.T) {
	s := newStack(t)
	hold(t, s, "other")
	id := s.Start(t, "BackupDatabase", `{"target":"shop"}`)
	s.Until(t, id, waits)
	require.NoError(t, s.Client.CancelWorkflow(t.Context(), id, ""))
	require.Equal(t, run.Cancelled, s.Await(t, id).Outcome)
	require.Eventually(t, func() bool { return len(status(t, s).Waiting) == 0 }, 10*time.Second, 20*time.Millisecond)
	require.False(t, ask(t, s, "next", lease.Exclusive).Granted, "the other still has it")
}
