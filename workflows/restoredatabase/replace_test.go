package restoredatabase_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// replacing is a replacement from its first to its last step.
var replacing = []string{
	configuration.ResolveTarget, postgres.FindBackup, postgres.CheckReplaceable, postgres.PlanRestore, postgres.CheckStored, postgres.CreateDatabase,
	postgres.LoadRows, postgres.Compare, postgres.SealCopy, postgres.PlanSwap, store.WritePlan, postgres.ApplySwap, store.WriteRun,
}

const replace = `{"mode":"replace","confirm":"shop"}`

// yes approves the plan that a run waits with.
func yes(doc run.Document) run.PlanDecision {
	return run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"}
}

func TestReplaceAppliesWhatWasApproved(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.True(t, doc.AsksApproval())
		require.Contains(t, doc.WaitingFor, "an approval of its plan "+doc.Approval.Hash[:12]+": put the copy of backup "+proceduretest.BackupID+" in the place of database shop, end the 3 sessions in it")
		require.Empty(t, w.Swaps(), "nothing is done before")
		require.Equal(t, []string{"asks for shared backups", "gives back"}, w.Turns(), "a decision may take days")
		r.DecideOnPlan(run.ApproveUpdate, yes(doc))
	})
	doc := r.Do(api.WorkflowType, replace)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, replacing, w.Calls(), "what was put in place is not removed")
	require.Equal(t, []string{"asks for shared backups", "gives back", "asks for exclusive database", "gives back"}, w.Turns())
	require.Len(t, w.Swaps(), 1)
	applied, err := json.Marshal(w.Swaps()[0].Plan)
	require.NoError(t, err)
	require.JSONEq(t, string(doc.Approval.Plan), string(applied), "what runs is what was approved")
	require.Equal(t, run.Approved, doc.Approval.Decision)
	require.Equal(t, "ann", doc.Approval.By)
	got := result(t, doc)
	require.Equal(t, "shop", got.Database)
	require.Equal(t, w.Swaps()[0].Plan.Kept, got.Kept)
	require.Contains(t, doc.Summary, "stays as database "+got.Kept)
}

func TestReplaceMustBeWrittenOut(t *testing.T) {
	for input, says := range map[string]string{
		`{"mode":"replace"}`: "must be written out",
		`{"mode":"replace","confirm":"shop","database":"other"}`: "takes no other database",
		`{"confirm":"shop"}`:                  "goes with mode replace",
		`{"mode":"beside","confirm":"shop"}`:  "goes with mode replace",
		`{"mode":"Replace","confirm":"shop"}`: `did you mean "replace"?`,
	} {
		w := &proceduretest.World{}
		doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
		require.Equal(t, run.Refused, doc.Outcome, input)
		require.Contains(t, doc.Summary, says, input)
		require.Equal(t, []string{configuration.ResolveTarget, store.WriteRun}, w.Calls(), input)
	}
}

func TestADryRunOfReplaceAsksNobody(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"mode":"replace","confirm":"shop","dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Nil(t, doc.Approval)
	require.Equal(t, []string{configuration.ResolveTarget, postgres.FindBackup, postgres.CheckReplaceable, postgres.PlanRestore, store.WriteRun}, w.Calls())
}

// TestDecisionsOnAPlan that are not about it, or say too little, change nothing.
func TestDecisionsOnAPlan(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	var refused []*proceduretest.Answer
	var late *proceduretest.Answer
	r.WhenWaiting(func(doc run.Document) {
		good := yes(doc)
		other, nobody, silent := good, good, good
		other.Plan, nobody.By, silent.Reason = strings.Repeat("0", 64), "", ""
		for _, d := range []run.PlanDecision{other, nobody, silent, {}} {
			refused = append(refused, r.DecideOnPlan(run.ApproveUpdate, d), r.DecideOnPlan(run.RejectUpdate, d))
		}
		refused = append(refused, r.Decide(run.RetryUpdate, run.Decision{By: "ann"}))
		r.DecideOnPlan(run.RejectUpdate, good)
		late = r.DecideOnPlan(run.ApproveUpdate, good)
	})
	doc := r.Do(api.WorkflowType, replace)
	for i, a := range refused {
		require.Error(t, a.Refused, i)
	}
	require.ErrorContains(t, late.Refused, "does not wait for an approval")
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "was rejected by ann (the incident)")
	require.Contains(t, w.Calls(), postgres.DropCopy, "what was restored is removed")
	require.Empty(t, w.Swaps())
}

func TestNobodyDecides(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	began := r.Now()
	doc := r.Do(api.WorkflowType, replace)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "nobody decided")
	require.GreaterOrEqual(t, r.Now().Sub(began), 7*24*time.Hour)
	require.Contains(t, w.Calls(), postgres.DropCopy)
	require.Empty(t, w.Swaps())
}

func TestAWaitingPlanIsGivenUp(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
	doc := r.Do(api.WorkflowType, replace)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Contains(t, w.Calls(), postgres.DropCopy)
	require.Empty(t, w.Swaps())

	w = &proceduretest.World{}
	r = proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.CancelWorkflow() })
	require.Equal(t, run.Cancelled, r.Do(api.WorkflowType, replace).Outcome)
	require.Contains(t, w.Calls(), postgres.DropCopy)
	require.Empty(t, w.Swaps())
}

// TestAPlanWhoseFactsHaveChanged is void: the copy is compared again, and another plan is to be approved.
func TestAPlanWhoseFactsHaveChanged(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.ApplySwap, failure.New(failure.PlanVoid, "the plan is void: another has the name"))
	r := proceduretest.New(t, w)
	var hashes []string
	approve := func(doc run.Document) {
		hashes = append(hashes, doc.Approval.Hash)
		r.DecideOnPlan(run.ApproveUpdate, yes(doc))
	}
	r.WhenWaiting(func(doc run.Document) {
		approve(doc)
		r.WhenWaiting(approve)
	})
	doc := r.Do(api.WorkflowType, replace)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, hashes, 2)
	require.Len(t, w.Swaps(), 1)
	compared := 0
	for _, call := range w.Calls() {
		if call == postgres.Compare {
			compared++
		}
	}
	require.Equal(t, 2, compared)
}

// TestAnApprovalExpires when the run's turn comes too late for it.
func TestAnApprovalExpires(t *testing.T) {
	w := &proceduretest.World{}
	w.Keep(target.Answer{Granted: true}) // of the backups
	for range 40 {
		w.Keep(target.Answer{Why: "waits for other"})
	}
	r := proceduretest.New(t, w)
	asked := 0
	var approve func(run.Document)
	approve = func(doc run.Document) {
		asked++
		r.DecideOnPlan(run.ApproveUpdate, yes(doc))
		if asked == 1 { // an hour or two before the turn comes
			r.RegisterDelayedCallback(func() { r.WhenWaiting(approve) }, 33*time.Hour)
		}
	}
	r.WhenWaiting(approve)
	doc := r.Do(api.WorkflowType, replace)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, 2, asked)
	require.Len(t, w.Swaps(), 1)
}

// TestOnlyWhatIsProvenReplaces anything.
func TestOnlyWhatIsProvenReplaces(t *testing.T) {
	for verdict, outcome := range map[run.Verdict]run.Outcome{run.Fail: run.Failed, run.NotProven: run.Refused} {
		w := &proceduretest.World{}
		w.Find(postgres.Compare, verdict, "a table")
		doc := proceduretest.New(t, w).Do(api.WorkflowType, replace)
		require.Equal(t, outcome, doc.Outcome)
		require.Nil(t, doc.Approval)
		require.Contains(t, w.Calls(), postgres.DropCopy)
		require.Empty(t, w.Swaps())
	}
}

// A swap whose answer is lost may have been made. Whoever gives the run up then must learn what is so.
func TestAReplacementIsGivenUpAfterItsSwap(t *testing.T) {
	for name, c := range map[string]struct {
		made    bool
		asked   error
		outcome run.Outcome
		says    string
	}{
		"it was made":         {true, nil, run.Succeeded, "database shop is now backup"},
		"it was not made":     {false, nil, run.Cancelled, "given up by ann"},
		"nobody can be asked": {false, failure.New(failure.MissingRight, "the server turns us away"), run.Cancelled, "given up by ann"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &proceduretest.World{Swapped: c.made}
			w.Fail(postgres.ApplySwap, failure.New(failure.LockHeld, "the connection broke, and then somebody held a lock"))
			if c.asked != nil {
				w.Fail(postgres.IsSwapped, c.asked)
			}
			r := proceduretest.New(t, w)
			r.WhenWaiting(func(doc run.Document) {
				r.DecideOnPlan(run.ApproveUpdate, yes(doc))
				r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
			})
			doc := r.Do(api.WorkflowType, replace)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Contains(t, doc.Summary, c.says)
			if c.made {
				require.NotEmpty(t, result(t, doc).Kept)
				require.NotContains(t, w.Calls(), postgres.DropCopy, "it is the database now")
			}
			if c.asked != nil {
				require.Contains(t, doc.Left[0], "it is not known whether database shop was replaced")
			}
		})
	}
}
