package drillrecovery_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// whole is a drill from its first to its last step.
var whole = []string{
	configuration.ResolveTarget, postgres.TakeBackup, postgres.CheckStored, postgres.PrepareScratch, postgres.CreateDatabase,
	postgres.LoadRows, postgres.Compare, postgres.DropCopy, store.WriteRun,
}

func result(t *testing.T, doc *run.Document) api.Result {
	t.Helper()
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

func TestDrillOfAFreshBackup(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	doc := r.Do(api.WorkflowType, `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, whole, w.Calls())
	got := result(t, doc)
	require.Equal(t, run.Pass, got.Verdict)
	require.Equal(t, int64(42), got.Rows)
	require.Len(t, got.Checks, 2)
	require.Equal(t, w.Backups()[0].BackupID, got.BackupID)
	require.Regexp(t, `^\d{8}T\d{6}Z-[0-9a-f]{8}$`, got.BackupID)
	require.Equal(t, "file:///var/lib/upkeep/runs/"+proceduretest.WorkflowID+"/report.html", doc.Report)
	for _, s := range doc.Steps {
		require.Equal(t, run.Pass, s.Verdict, s.Name)
	}
	require.Equal(t, run.Succeeded, w.Records()[0].Document.Outcome)
	require.Empty(t, doc.Left)
}

func TestDrillOfABackupThatIsThere(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"backup":"latest"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, proceduretest.BackupID, result(t, doc).BackupID)
	require.NotContains(t, w.Calls(), postgres.TakeBackup)
}

func TestDryRunChangesNothing(t *testing.T) {
	for input, look := range map[string]string{`{"dryRun":true}`: postgres.PlanBackup, `{"dryRun":true,"backup":"latest"}`: postgres.FindBackup} {
		w := &proceduretest.World{}
		doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
		require.Equal(t, run.Succeeded, doc.Outcome)
		require.True(t, doc.DryRun)
		require.Contains(t, doc.Summary, "dry run")
		require.Equal(t, []string{configuration.ResolveTarget, look, store.WriteRun}, w.Calls())
	}
}

// TestChecksDecide gives every check every verdict but PASS.
func TestChecksDecide(t *testing.T) {
	for _, c := range []struct {
		check    string
		finds    run.Verdict
		outcome  run.Outcome
		restored bool
	}{
		{postgres.CheckStored, run.Fail, run.Failed, false},
		{postgres.Compare, run.Fail, run.Failed, true},
		{postgres.Compare, run.NotProven, run.PartiallySucceeded, true},
	} {
		t.Run(c.check+string(c.finds), func(t *testing.T) {
			w := &proceduretest.World{}
			w.Find(c.check, c.finds, "one row differs")
			doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
			require.Equal(t, c.outcome, doc.Outcome)
			require.Equal(t, c.finds, result(t, doc).Verdict)
			require.Contains(t, doc.Summary, "one row differs")
			require.Equal(t, c.restored, slices.Contains(w.Calls(), postgres.LoadRows))
			require.Equal(t, c.restored, slices.Contains(w.Calls(), postgres.DropCopy), "what was made is removed")
		})
	}
}

func TestNothingLeftOutPasses(t *testing.T) {
	w := &proceduretest.World{LeftOut: []string{"foreign data"}}
	require.Equal(t, run.PartiallySucceeded, proceduretest.New(t, w).Do(api.WorkflowType, `{}`).Outcome)
}

func TestDamageIsAFailedDrill(t *testing.T) {
	for _, step := range []string{postgres.TakeBackup, postgres.CheckStored, postgres.LoadRows, postgres.Compare} {
		t.Run(step, func(t *testing.T) {
			w := &proceduretest.World{}
			w.Fail(step, failure.New(failure.BackupDamaged, "a chunk is not what was written"))
			doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Failed, doc.Outcome)
			require.Equal(t, run.Fail, result(t, doc).Verdict)
			require.Equal(t, slices.Contains(w.Calls(), postgres.PrepareScratch), slices.Contains(w.Calls(), postgres.DropCopy))
		})
	}
}

// TestCancelledAtEveryStep cancels while the step runs. What was made is removed, and the report is
// written.
func TestCancelledAtEveryStep(t *testing.T) {
	for at, step := range whole[:7] {
		t.Run(step, func(t *testing.T) {
			w := &proceduretest.World{}
			r := proceduretest.New(t, w)
			began := w.Hang(step)
			go func() {
				<-began
				r.CancelWorkflow()
			}()
			doc := r.Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Cancelled, doc.Outcome)
			require.Equal(t, "cancelled", doc.Summary)
			want := slices.Clone(whole[:at+1])
			if at > slices.Index(whole, postgres.PrepareScratch) {
				want = append(want, postgres.DropCopy)
			}
			if step != configuration.ResolveTarget { // without a target there is no store
				want = append(want, store.WriteRun)
				require.Equal(t, run.Cancelled, w.Records()[0].Document.Outcome)
			}
			require.Equal(t, want, w.Calls())
			if step == postgres.Compare {
				require.Equal(t, run.NotProven, result(t, doc).Verdict)
			}
		})
	}
}

func TestRemovalThatFailsIsTold(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.DropCopy, failure.New(failure.ScratchUnavailable, "the folder is busy"))
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Equal(t, []string{"Remove the copy: the folder is busy"}, doc.Left)
	require.Equal(t, run.Pass, result(t, doc).Verdict, "the proof stands")
}

// gone is what Temporal says of a step whose only worker does not come back.
func gone() error { return temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil) }

func TestWorkerThatDoesNotComeBackIsReplaced(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.OnActivity(postgres.LoadRows, mock.Anything, mock.Anything).Return(postgres.LoadResult{}, gone()).Once()
	r.OnActivity(postgres.LoadRows, mock.Anything, mock.Anything).Return(postgres.LoadResult{Rows: 42}, nil).Once()
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Len(t, w.Copies(), 2)
	require.Equal(t, w.Copies()[0], w.Copies()[1], "the next one takes over")
}

// TestWorkerThatComesBackEmptyStartsAgain loses the private server's folder at each step that needs it.
func TestWorkerThatComesBackEmptyStartsAgain(t *testing.T) {
	for _, step := range []string{postgres.LoadRows, postgres.Compare} {
		t.Run(step, func(t *testing.T) {
			w := &proceduretest.World{}
			w.Fail(step, failure.New(failure.CopyLost, "the server is new"))
			doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Succeeded, doc.Outcome)
			require.Len(t, w.Copies(), 2)
			calls := w.Calls()
			require.Equal(t, []string{postgres.Compare, postgres.DropCopy, store.WriteRun}, calls[len(calls)-3:], "the same server is removed once")
		})
	}
}

func TestSummaryOfADamagedBackupClaimsNoRestore(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.CheckStored, run.Fail, "a chunk is gone")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"backup":"latest"}`)
	require.Contains(t, doc.Summary, "nothing was restored")
}

func TestNoWorkerAtAllIsWaitedFor(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.OnActivity(postgres.LoadRows, mock.Anything, mock.Anything).Return(postgres.LoadResult{}, gone()).Times(3)
	r.OnActivity(postgres.LoadRows, mock.Anything, mock.Anything).Return(postgres.LoadResult{Rows: 42}, nil).Once()
	waited := false
	r.WhenWaiting(func(d run.Document) {
		waited = true
		require.Contains(t, d.WaitingFor, "the worker that holds the scratch server has not come back")
		r.Decide(run.RetryUpdate, run.Decision{})
	})
	require.Equal(t, run.Succeeded, r.Do(api.WorkflowType, `{}`).Outcome)
	require.True(t, waited)
}

// TestScratchWorkStaysOnItsWorker checks the queue of every step that needs the private server.
func TestScratchWorkStaysOnItsWorker(t *testing.T) {
	r := proceduretest.New(t, &proceduretest.World{})
	queues := make(map[string]string)
	r.OnStarted(func(activity, queue string) { queues[activity] = queue })
	require.Equal(t, run.Succeeded, r.Do(api.WorkflowType, `{}`).Outcome)
	for _, activity := range whole {
		want := run.DatabaseQueue
		if slices.Contains([]string{postgres.CreateDatabase, postgres.LoadRows, postgres.Compare, postgres.DropCopy}, activity) {
			want = proceduretest.PrivateQueue
		}
		require.Equal(t, want, queues[activity], activity)
	}
}

// TestKeysOutliveAttempts runs the same workflow twice: backup and copy have the same names.
func TestKeysOutliveAttempts(t *testing.T) {
	start := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	drill := func() *proceduretest.World {
		w := &proceduretest.World{}
		r := proceduretest.New(t, w)
		r.SetStartTime(start)
		require.Equal(t, run.Succeeded, r.Do(api.WorkflowType, `{}`).Outcome)
		return w
	}
	one, two := drill(), drill()
	require.Equal(t, one.Backups(), two.Backups())
	require.Equal(t, one.Copies(), two.Copies())
	require.Contains(t, one.Backups()[0].BackupID, "20260506T070809Z-")
}
