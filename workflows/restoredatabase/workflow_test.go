package restoredatabase_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// whole is a restore from its first to its last step.
var whole = []string{
	configuration.ResolveTarget, postgres.FindBackup, postgres.PlanRestore, postgres.CheckStored, postgres.CreateDatabase,
	postgres.LoadRows, postgres.Compare, postgres.Publish, store.WriteRun,
}

func result(t *testing.T, doc *run.Document) api.Result {
	t.Helper()
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

func TestRestoreBesideTheOriginal(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"database":"shop_copy"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, whole, w.Calls(), "what is published is not removed")
	got := result(t, doc)
	require.Equal(t, "shop_copy", got.Database)
	require.Equal(t, run.Pass, got.Verdict)
	c := w.Copies()[0]
	require.Equal(t, "shop_copy", c.Final)
	require.NotEqual(t, c.Final, c.Database, "it is built under another name")
	require.Equal(t, postgres.PlaceTarget, c.Place.Kind)
}

func TestNameIsGeneratedFromBackup(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, "shop_restored_20260102_030405", result(t, doc).Database)
}

func TestNameThatIsTooLongIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"database":"`+strings.Repeat("é", 32)+`"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "64 bytes")
	require.NotContains(t, w.Calls(), postgres.CreateDatabase)
}

func TestDryRunChangesNothing(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, append(slices.Clone(whole[:3]), store.WriteRun), w.Calls())
	var plan postgres.RestorePlan
	require.NoError(t, json.Unmarshal(doc.Result, &plan))
	require.Equal(t, int64(42), plan.Rows)
}

func TestDamagedBackupIsNotRestored(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.CheckStored, run.Fail, "a chunk is gone")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, append(slices.Clone(whole[:4]), store.WriteRun), w.Calls())
	require.Contains(t, doc.Summary, "nothing was restored")
}

func TestCopyThatDiffersIsNotKept(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.Compare, run.Fail, "one row differs")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, run.Fail, result(t, doc).Verdict)
	require.Equal(t, append(slices.Clone(whole[:7]), postgres.DropCopy, store.WriteRun), w.Calls())
}

func TestCopyThatCouldNotBeProvenIsKept(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.Compare, run.NotProven, "amcheck is not installed")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Equal(t, whole, w.Calls())
	require.Contains(t, doc.Summary, "amcheck is not installed")
}

func TestTakenNameIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.PlanRestore, failure.New(failure.DatabaseExists, "database shop_copy exists"))
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"database":"shop_copy"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, append(slices.Clone(whole[:3]), store.WriteRun), w.Calls())
}

// TestNameThatIsTakenAtTheEndWaits keeps the whole copy until somebody has made room for it.
func TestNameThatIsTakenAtTheEndWaits(t *testing.T) {
	for update, want := range map[string][]string{
		run.RetryUpdate:   append(slices.Clone(whole[:8]), postgres.Publish, store.WriteRun),
		run.AbandonUpdate: append(slices.Clone(whole[:8]), postgres.DropCopy, store.WriteRun),
	} {
		t.Run(update, func(t *testing.T) {
			w := &proceduretest.World{}
			w.Fail(postgres.Publish, failure.New(failure.NameTaken, "database shop_copy exists"))
			r := proceduretest.New(t, w)
			r.WhenWaiting(func(d run.Document) {
				require.Contains(t, d.WaitingFor, "shop_copy exists")
				r.Decide(update, run.Decision{By: "ann"})
			})
			doc := r.Do(api.WorkflowType, `{"database":"shop_copy"}`)
			require.Equal(t, update == run.RetryUpdate, doc.Outcome == run.Succeeded, doc.Outcome)
			require.Equal(t, want, w.Calls())
		})
	}
}

// TestCancelledAtEveryStep cancels while the step runs; half a database does not stay.
func TestCancelledAtEveryStep(t *testing.T) {
	for at, step := range whole[:slices.Index(whole, postgres.Publish)] {
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
			want := slices.Clone(whole[:at+1])
			if at >= slices.Index(whole, postgres.CreateDatabase) {
				want = append(want, postgres.DropCopy)
			}
			if step != configuration.ResolveTarget {
				want = append(want, store.WriteRun)
			}
			require.Equal(t, want, w.Calls())
		})
	}
}

// TestNamingIsNotCutOff cancels while the copy gets its name: nobody could say whether it has it.
func TestNamingIsNotCutOff(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.OnStarted(func(activity, _ string) {
		if activity == postgres.Publish {
			r.CancelWorkflow()
		}
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, whole, w.Calls())
}

// TestParkedNamingIsCancelled parks the naming itself, which then has not happened.
func TestParkedNamingIsCancelled(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.Publish, failure.New(failure.LockHeld, "sessions keep coming"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.CancelWorkflow() })
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, append(slices.Clone(whole[:8]), postgres.DropCopy, store.WriteRun), w.Calls())
}

func TestParkedRestoreIsGivenUp(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.LoadRows, failure.New(failure.DiskFull, "no space left"))
	w.Fail(postgres.DropCopy, failure.New(failure.MissingRight, "may not drop it"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, "given up by ann", doc.Summary)
	require.Equal(t, []string{"Remove the half database: may not drop it"}, doc.Left)
	require.Equal(t, doc.Left, w.Records()[0].Document.Left, "the report says what is left")
}

// A backup of which not everything is proven may be all that there is: it is restored beside, and replaces
// nothing.
func TestFilesThatAreNotProvenAreRestoredBeside(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.CheckStored, run.NotProven, "something was left out")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"database":"copy"}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "is restored as database copy")
	require.Contains(t, doc.Summary, "something was left out")

	w = &proceduretest.World{}
	w.Find(postgres.CheckStored, run.NotProven, "something was left out")
	doc = proceduretest.New(t, w).Do(api.WorkflowType, `{"mode":"replace","confirm":"shop"}`)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Equal(t, string(failure.NotProvenEqual), doc.Error.Code)
	require.NotContains(t, w.Calls(), postgres.CreateDatabase)
}
