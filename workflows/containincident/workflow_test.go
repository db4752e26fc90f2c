package containincident_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const input = `{"reason":"it talks to the database","pods":"web-1"}`

func incident() *proceduretest.World {
	return &proceduretest.World{
		Cluster:    &config.Kubernetes{Namespace: "shop", Release: "shop", Incidents: &quarantine.Policy{Reader: quarantine.Reader{Image: "upkeep:test"}}},
		Quarantine: quarantine.Plan{Pods: []quarantine.Pod{{Ref: quarantine.Ref{Namespace: "shop", Name: "web-1"}, UID: "u"}}, Deny: []string{"shop"}},
	}
}

// say gives the run these decisions on its plans, one after the other.
func say(t *testing.T, r *proceduretest.Run, updates ...string) {
	t.Helper()
	if len(updates) == 0 {
		return
	}
	r.WhenWaiting(func(doc run.Document) {
		require.True(t, doc.AsksApproval(), doc.WaitingFor)
		r.DecideOnPlan(updates[0], run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
		say(t, r, updates[1:]...)
	})
}

func TestASuspectIsCutOffAndDeleted(t *testing.T) {
	w := incident()
	r := proceduretest.New(t, w)
	say(t, r, run.ApproveUpdate)
	recovered := false
	r.OnWorkflow(recoverservice.WorkflowType, mock.Anything, mock.Anything, mock.Anything).Return(func(workflow.Context, converter.RawValue, converter.RawValue) (*run.Document, error) {
		recovered = true
		return &run.Document{RunID: "recover", Outcome: run.Succeeded}, nil
	})
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.True(t, recovered)
	got := result(t, doc)
	require.False(t, got.RecoveredAt.IsZero())
	require.Equal(t, got.ContainedAt.UTC(), w.Tried().CutAt.UTC(), "how old what answered before may be counts from there")
	require.Equal(t, []string{"shop/web-1"}, got.Contained)
	require.Equal(t, api.Deleted, got.Ended)
	require.Equal(t, 3, got.EvidenceItems)
	require.Len(t, got.Decisions, 1)
	require.Contains(t, got.Decisions[0], "ann, as claimed, approved to delete them (seen to)")
	require.Len(t, w.Quarantines(), 1)
	require.True(t, w.Quarantines()[0].Plan.Delete)
	calls := w.Calls()
	before := func(a, b string) {
		t.Helper()
		require.Less(t, index(t, calls, a), index(t, calls, b))
	}
	before(kubernetes.Contain, kubernetes.CheckContained)
	before(kubernetes.CheckContained, kubernetes.ReadSuspects)
	before(kubernetes.ReadSuspects, kubernetes.CollectEvidence)
	before(kubernetes.CollectEvidence, kubernetes.TryContained)
	before(kubernetes.TryContained, store.WritePlan)
	require.Contains(t, w.Turns(), "asks for shared database shared backups exclusive release", "backups go on, and what would be in the way waits")
}

func TestContainmentWaitsForNobodysTurn(t *testing.T) {
	w := incident()
	w.Keep(proceduretest.NotYet(24 * time.Hour)...)
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, api.Released, result(t, doc).Ended)
}

func TestASuspectIsLetGoOfAfterItsDeletionWasRejected(t *testing.T) {
	w := incident()
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.RejectUpdate, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	got := result(t, doc)
	require.Equal(t, api.Released, got.Ended)
	require.Len(t, got.Decisions, 4)
	require.False(t, w.Quarantines()[0].Plan.Delete)
	require.Equal(t, run.Pass, got.Verdict)
}

func TestNobodysSilenceLetsGoOfAnything(t *testing.T) {
	w := incident()
	r := proceduretest.New(t, w)
	asked := map[time.Time]bool{}
	var again func()
	again = func() {
		r.RegisterDelayedCallback(func() {
			doc := r.Status()
			if doc.AsksApproval() {
				asked[doc.Approval.AskedAt] = true
			}
			if len(asked) < 5 {
				again()
				return
			}
			require.Empty(t, w.Quarantines())
			r.CancelWorkflow()
		}, 24*time.Hour)
	}
	again()
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Empty(t, w.Quarantines(), "cancelled, they stay in quarantine too")
	require.Len(t, doc.Left, 1)
	require.Contains(t, doc.Left[0], "shop/web-1 stay in quarantine")
}

// TestTwoPeopleEndACase by their signatures. What one of them has signed is void when the week is over: asked
// again, both sign again.
func TestTwoPeopleEndACase(t *testing.T) {
	ann, bob := approvaltest.New(t, "ann"), approvaltest.New(t, "bob")
	w := incident()
	w.Approvals = &approval.Policy{Quorum: 2, Signed: true, Keys: []approval.Key{ann.Key(), bob.Key()}, Procedures: []string{api.WorkflowType}}
	w.Cluster.Release = ""
	r := proceduretest.New(t, w)
	var old, unsigned *proceduretest.Answer
	r.WhenWaiting(func(first run.Document) {
		require.NotEmpty(t, result(t, &first).Contained, "they are cut off before anybody is asked")
		unsigned = r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: first.Approval.Hash, By: "ann", Reason: "seen to"})
		r.DecideOnPlan(run.ApproveUpdate, ann.Decide(first, run.Approved, "seen to"))
		r.RegisterDelayedCallback(func() {
			second := r.Status()
			require.True(t, second.Approval.AskedAt.After(first.Approval.AskedAt))
			require.Contains(t, second.WaitingFor, "0 of 2 approved")
			require.Empty(t, w.Quarantines())
			old = r.DecideOnPlan(run.ApproveUpdate, ann.Decide(first, run.Approved, "seen to"))
			r.DecideOnPlan(run.ApproveUpdate, bob.Decide(second, run.Approved, "it is evil"))
			r.DecideOnPlan(run.ApproveUpdate, ann.Decide(second, run.Approved, "seen to"))
		}, 8*24*time.Hour)
	})
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.ErrorContains(t, unsigned.Refused, "needs a signature")
	require.ErrorContains(t, old.Refused, "of something else")
	got := result(t, doc)
	require.Equal(t, api.Deleted, got.Ended)
	require.Len(t, got.Decisions, 1)
	require.Contains(t, got.Decisions[0], "bob and ann, by signature, approved to delete them (bob: it is evil; ann: seen to)")
}

func TestMoreThanThePolicyLetsIsAskedFor(t *testing.T) {
	w := incident()
	w.Quarantine.Over = []string{"9 pods in one case, where the policy lets 1"}
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Refused, doc.Outcome)
	require.NotContains(t, w.Calls(), kubernetes.Contain)
	require.Empty(t, doc.Left)

	w = incident()
	w.Quarantine.Over = []string{"9 pods in one case, where the policy lets 1"}
	r = proceduretest.New(t, w)
	say(t, r, run.ApproveUpdate, run.RejectUpdate, run.ApproveUpdate)
	require.Equal(t, api.Released, result(t, r.Do(api.WorkflowType, input)).Ended)
}

func TestWhatSomebodyUndoesIsDoneAgain(t *testing.T) {
	w := incident()
	w.Find(kubernetes.CheckContained, run.Fail, "somebody has taken the label")
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Failed, doc.Outcome, "it was never seen to hold")
	require.Contains(t, result(t, doc).Remarks, "it was undone meanwhile, and done again: somebody has taken the label")
}

func TestANetworkThatLetsThemThroughIsSaidToWhoeverDecides(t *testing.T) {
	w := incident()
	w.Enforced = run.Fail
	r := proceduretest.New(t, w)
	asked := ""
	r.WhenWaiting(func(doc run.Document) {
		asked = doc.Approval.Words
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
		say(t, r, run.ApproveUpdate)
	})
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, asked, "what goes out: tried")
	require.Contains(t, result(t, doc).FollowUps[0], "the network does not hold the suspects off")
	once := 0
	for _, call := range w.Calls() {
		if call == kubernetes.Contain {
			once++
		}
	}
	require.Equal(t, 1, once, "to do the same again would not help")
}

func TestADryRunChangesNothing(t *testing.T) {
	w := incident()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true,"reason":"x","pods":"web-1"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Contains(t, doc.Summary, "dry run: it would cut off shop/web-1")
	require.NotContains(t, w.Calls(), kubernetes.Contain)
	require.Empty(t, w.Turns())
	require.NotContains(t, doc.Summary, "prober")

	w = incident()
	w.Quarantine.Prober = "the standing prober, pod watch-0, is there and ready"
	doc = proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true,"reason":"x","pods":"web-1"}`)
	require.Contains(t, doc.Summary, "shop/web-1; the standing prober, pod watch-0, is there and ready")
}

func TestBadInputIsRefusedBeforeAnythingIsLookedAt(t *testing.T) {
	for name, in := range map[string]string{
		"no reason": `{"pods":"web-1"}`, "no suspect": `{"reason":"x"}`, "a severity": `{"reason":"x","pods":"a","severity":"bad"}`, "a kind": `{"reason":"x","workload":"Pod/a"}`,
	} {
		w := incident()
		doc := proceduretest.New(t, w).Do(api.WorkflowType, in)
		require.Equal(t, run.Refused, doc.Outcome, name)
		require.Equal(t, string(failure.BadInput), doc.Error.Code, name)
		require.NotContains(t, w.Calls(), kubernetes.PlanContainment, name)
	}
	w := &proceduretest.World{}
	require.Equal(t, string(failure.NoCluster), proceduretest.New(t, w).Do(api.WorkflowType, input).Error.Code)
}

func TestTheSameEventIsTheSameCase(t *testing.T) {
	a, b := api.Input{Event: "e1", Pods: "web-1"}, api.Input{Event: "e1", Pods: "web-1,web-2"}
	require.Equal(t, a.Case("shop"), b.Case("shop"))
	require.NotEqual(t, a.Case("shop"), a.Case("other"))
	require.NotEqual(t, api.Input{Pods: "a"}.Case("shop"), api.Input{Workload: "a"}.Case("shop"))
}

// TestAPlanOfManyPodsIsNotInTheMemo, of which every version stays in the history; the run itself shows it.
func TestAPlanOfManyPodsIsNotInTheMemo(t *testing.T) {
	for _, pods := range []int{1, 5000} {
		w := incident()
		w.Cluster.Release = ""
		for n := range pods - 1 {
			w.Quarantine.Pods = append(w.Quarantine.Pods, quarantine.Pod{Ref: quarantine.Ref{Namespace: "shop", Name: fmt.Sprintf("web-%d", n+2)}, UID: "u"})
		}
		r := proceduretest.New(t, w)
		memos, asked, shown := 0, 0, 0
		r.OnUpsertMemo(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
			memos++
			doc, ok := args.Get(0).(map[string]any)[run.MemoDocument].(run.Document)
			require.True(t, ok)
			data, err := json.Marshal(doc)
			require.NoError(t, err)
			require.Less(t, len(data), 100<<10)
			if doc.AsksApproval() {
				if asked++; doc.Approval.HasPlan() {
					shown++
				}
			}
		})
		r.WhenWaiting(func(doc run.Document) {
			require.True(t, doc.Approval.HasPlan())
			r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
		})
		doc := r.Do(api.WorkflowType, input)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.NotZero(t, memos)
		require.Equal(t, 1, asked)
		require.Equal(t, map[bool]int{true: 1, false: 0}[pods == 1], shown)
	}
}
