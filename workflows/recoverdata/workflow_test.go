package recoverdata_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const confirmed = `{"confirm":"shop"}`

var (
	looking = []string{
		configuration.ResolveTarget, kubernetes.FindService, postgres.FindBackup, postgres.CheckReplaceable, postgres.PlanRestore, postgres.CheckStored, postgres.LookSessions,
		kubernetes.PlanStop, store.WritePlan,
	}
	doing = []string{
		kubernetes.SuspendOwners, kubernetes.StopClients, postgres.DrainSessions, postgres.CreateDatabase, postgres.LoadRows, postgres.Compare,
		postgres.SealCopy, postgres.PlanSwap, postgres.ApplySwap, postgres.CheckForeignKeys, kubernetes.StartClients, kubernetes.StartClients,
		kubernetes.ResumeOwners, kubernetes.ProveRecovered,
	}
)

func world() *proceduretest.World {
	return &proceduretest.World{Cluster: &config.Kubernetes{Namespace: "shop", Release: "shop"}}
}

// approving approves each plan that the run waits with.
func approving(r *proceduretest.Run) {
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"})
	})
}

func TestEverythingInItsOrder(t *testing.T) {
	w := world()
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.Equal(t, looking, w.Calls(), "nothing is done before")
		require.Contains(t, doc.WaitingFor, "stop Deployment web (3), CronJob report; put backup "+proceduretest.BackupID)
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"})
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, append(append(append([]string{}, looking...), doing...), store.WriteRun), w.Calls())
	require.Equal(t, []string{"asks for shared backups", "gives back", "asks for exclusive database exclusive release shared backups", "gives back"}, w.Turns())
	var got api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &got))
	require.Equal(t, run.Pass, got.Verdict)
	require.Equal(t, w.Swaps()[0].Plan.Kept, got.Kept)
}

func TestADryRunOnlyLooks(t *testing.T) {
	w := world()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"confirm":"shop","dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	for _, call := range w.Calls() {
		require.NotContains(t, append([]string{store.WritePlan}, doing...), call)
	}
	require.Empty(t, w.Turns())
}

func TestWhatIsRefused(t *testing.T) {
	for input, code := range map[string]failure.Code{
		`{}`: failure.BadInput,
		`{"confirm":"shop","clients":"Pod/agent"}`:                     failure.BadInput,
		`{"confirm":"shop","clients":"Deployment/web,Deployment/web"}`: failure.BadInput,
		`{"confirm":"shop","clients":"web"}`:                           failure.BadInput,
		`{"confirm":"shop","Clients":"Deployment/web"}`:                failure.BadInput,
	} {
		doc := proceduretest.New(t, world()).Do(api.WorkflowType, input)
		require.Equal(t, run.Refused, doc.Outcome, input)
		require.Equal(t, string(code), doc.Error.Code, input)
	}
	doc := proceduretest.New(t, &proceduretest.World{}).Do(api.WorkflowType, confirmed)
	require.Equal(t, string(failure.NoCluster), doc.Error.Code)
}

// TestANamespaceThatIsNotItsIsRefused before a Secret is missed there, which would be waited for. One that is
// missing in its own is.
func TestANamespaceThatIsNotItsIsRefused(t *testing.T) {
	missing := failure.New(failure.MissingSecret, "there is no Secret")
	w := world()
	w.Fail(kubernetes.FindService, failure.New(failure.MissingRelease, "nothing is of release shop"))
	w.Fail(postgres.CheckReplaceable, missing)
	doc := proceduretest.New(t, w).Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Equal(t, []string{configuration.ResolveTarget, kubernetes.FindService, store.WriteRun}, w.Calls())
	w = world()
	w.Fail(postgres.CheckReplaceable, missing)
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.Contains(t, doc.WaitingFor, "there is no Secret")
		r.Decide(run.RetryUpdate, run.Decision{By: "ann"})
		approving(r)
	})
	require.Equal(t, run.Succeeded, r.Do(api.WorkflowType, confirmed).Outcome)
}

// TestWhatFailsIsPutBack at each step: what was stopped is started, and then the owners act again.
func TestWhatFailsIsPutBack(t *testing.T) {
	for i, activity := range doing {
		w := world()
		w.Fail(activity, failure.New(failure.BackupDamaged, "broken"))
		r := proceduretest.New(t, w)
		approving(r)
		doc := r.Do(api.WorkflowType, confirmed)
		require.Equal(t, run.Failed, doc.Outcome, activity)
		calls := w.Calls()[len(looking):]
		first := i
		for first > 0 && doing[first-1] == activity {
			first--
		}
		require.Equal(t, doing[:first+1], calls[:first+1], activity)
		tail := calls[len(calls)-3:]
		require.Equal(t, []string{kubernetes.StartClients, kubernetes.ResumeOwners, store.WriteRun}, tail, activity)
	}
}

func TestAbandonedItPutsBack(t *testing.T) {
	w := world()
	w.Fail(kubernetes.StopClients, failure.New(failure.LockHeld, "the clients have not ended"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"})
		r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
	require.Equal(t, []string{kubernetes.SuspendOwners, kubernetes.StopClients, kubernetes.StartClients, kubernetes.ResumeOwners, store.WriteRun}, w.Calls()[len(looking):])
}

func TestCancelledItPutsBack(t *testing.T) {
	w := world()
	w.Hang(postgres.LoadRows)
	r := proceduretest.New(t, w)
	approving(r)
	r.OnStarted(func(activity, _ string) {
		if activity == postgres.LoadRows {
			r.CancelWorkflow()
		}
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
	calls := slices.DeleteFunc(w.Calls(), func(call string) bool { return call == postgres.LoadRows }) // it may note late that it was cut off
	require.Equal(t, []string{postgres.DropCopy, kubernetes.StartClients, kubernetes.ResumeOwners, store.WriteRun}, calls[len(calls)-4:])
	require.Empty(t, w.Swaps())
}

func TestAVoidPlanIsMadeAnew(t *testing.T) {
	w := world()
	w.Fail(kubernetes.StopClients, failure.New(failure.PlanVoid, "it had 3, and has 4"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"})
		approving(r)
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{
		kubernetes.SuspendOwners, kubernetes.StopClients, kubernetes.StartClients, kubernetes.StartClients, kubernetes.ResumeOwners,
		postgres.LookSessions, kubernetes.PlanStop, store.WritePlan,
	}, w.Calls()[len(looking):len(looking)+8])
}

func TestARejectedPlanTouchesNothing(t *testing.T) {
	w := world()
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "no"})
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, append(append([]string{}, looking...), store.WriteRun), w.Calls())
}

// owned has somebody else own the clients, and does about it what the policy says.
func owned(policy string) *proceduretest.World {
	w := world()
	w.Cluster.Owners = policy
	flux := ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	switch policy {
	case ownership.PolicySuspend:
		w.Owners.Suspend = []ownership.Image{{Owner: flux, UID: "f", Before: json.RawMessage("null")}}
	case ownership.PolicyPropose:
		_, w.Owners.Propose, _ = ownership.Decide(policy, []ownership.Change{{Words: "stop Deployment web", Command: "kubectl scale deployment web -n shop --replicas=0", Owners: []ownership.Owner{flux}}})
	}
	return w
}

func TestOwnersAreSuspendedMeanwhile(t *testing.T) {
	w := owned(ownership.PolicySuspend)
	r := proceduretest.New(t, w)
	approving(r)
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Approval.Words, "suspend Flux (HelmRelease web in namespace shop), stop Deployment web")
	require.Equal(t, w.Suspended(), w.Resumed())
	require.Equal(t, "shop", w.Suspended()[0].Order.Target)
}

func TestWhatIsOnlyProposed(t *testing.T) {
	for _, input := range []string{confirmed, `{"confirm":"shop","dryRun":true}`} {
		w := owned(ownership.PolicyPropose)
		doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
		require.Equal(t, run.Refused, doc.Outcome)
		require.Equal(t, string(failure.OwnedByOther), doc.Error.Code)
		require.Contains(t, doc.Error.Remedy, "kubectl scale deployment web -n shop --replicas=0")
		var got api.Result
		require.NoError(t, json.Unmarshal(doc.Result, &got))
		require.Contains(t, got.Proposed[0], "flux suspend helmrelease web -n shop; kubectl scale deployment web -n shop --replicas=0; flux resume helmrelease web -n shop")
		for _, call := range w.Calls() {
			require.NotContains(t, append([]string{store.WritePlan}, doing...), call)
		}
	}
}

// TestAnApprovalExpires: the turn comes two days after it was given, so the plan is looked at, and asked for,
// again.
func TestAnApprovalExpires(t *testing.T) {
	w := world()
	r := proceduretest.New(t, w)
	asked := []time.Time{}
	r.WhenWaiting(func(doc run.Document) {
		asked = append(asked, doc.Approval.AskedAt)
		w.Keep(proceduretest.NotYet(48 * time.Hour)...)
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the incident"})
		r.WhenWaiting(func(doc run.Document) {
			asked = append(asked, doc.Approval.AskedAt)
			require.NotContains(t, w.Calls(), kubernetes.StopClients)
			r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "still"})
		})
	})
	doc := r.Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, asked, 2)
	require.Greater(t, asked[1].Sub(asked[0]), 24*time.Hour)
}

func TestAPlanThatNobodyDecidesOnTouchesNothing(t *testing.T) {
	w := world()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, confirmed)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "nobody decided")
	require.Equal(t, append(append([]string{}, looking...), store.WriteRun), w.Calls())
}
