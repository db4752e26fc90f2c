package rotatesecret_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

var (
	inTurn  = rotation.Entry{Name: "app", Secret: "shop-db", Keys: rotation.Keys{Username: "user", Password: "password"}, Owner: "shop", Roles: []string{"shop_a", "shop_b"}}
	alone   = rotation.Entry{Name: "alone", Secret: "shop-db", Keys: rotation.Keys{Password: "password"}, Role: "shop"}
	looking = []string{configuration.ResolveTarget, kubernetes.LookAtSecret, postgres.LookAtRoles, store.WritePlan}
	doing   = []string{
		kubernetes.MakePending, postgres.PrepareRole, postgres.ProveLogin, kubernetes.SwitchSecret, kubernetes.RestartConsumer, kubernetes.RestartConsumer,
		kubernetes.ProveRecovered, postgres.AwaitSessions, kubernetes.SealRotation,
	}
	ending  = []string{postgres.WithdrawRole, postgres.ProveWithdrawn, kubernetes.FinishRotation}
	undoing = []string{kubernetes.RestoreSecret, kubernetes.RestoreConsumers, postgres.RetireRole, kubernetes.RemovePending}
)

func world(entries ...rotation.Entry) *proceduretest.World {
	if len(entries) == 0 {
		entries = []rotation.Entry{inTurn}
	}
	return &proceduretest.World{Cluster: &config.Kubernetes{Namespace: "shop", Release: "shop"}, Secrets: entries}
}

func approving(r *proceduretest.Run) {
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
	})
}

// calls are those after the looks, without those that only suspend nobody and let nobody act again.
func calls(w *proceduretest.World) []string {
	return slices.DeleteFunc(w.Calls()[len(looking):], func(c string) bool { return c == kubernetes.SuspendOwners || c == kubernetes.ResumeOwners })
}

func TestEverythingInItsOrder(t *testing.T) {
	w := world()
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.Equal(t, looking, w.Calls(), "nothing is done before")
		require.Contains(t, doc.WaitingFor, "make role shop_a with a new password, acting as shop, and log in with it; write it into user, password of Secret shop-db, and no other key; "+
			"restart Deployment web, StatefulSet queue; wait until the 3 sessions of role shop are gone; and then withdraw role shop")
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, slices.Concat(doing, ending, []string{store.WriteRun}), calls(w))
	require.Equal(t, []string{"asks for exclusive release shared database", "gives back"}, w.Turns())
	var got api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &got))
	require.True(t, got.Withdrawn)
	require.True(t, got.Overlap)
	require.Equal(t, []string{"Deployment web", "StatefulSet queue"}, got.Consumers)
}

func TestADryRunOnlyLooks(t *testing.T) {
	w := world()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, append(slices.Clone(looking[:3]), store.WriteRun), w.Calls())
	require.Empty(t, w.Turns())
}

func TestWhatIsRefused(t *testing.T) {
	for input, c := range map[string]struct {
		code failure.Code
		says string
	}{
		`{"secret":"app","wait":-1}`:            {failure.BadInput, "wait"},
		`{"secret":"ap"}`:                       {failure.BadInput, "app"},
		`{}`:                                    {failure.BadInput, "name one of: app, alone"},
		`{"secret":"langfuse/SALT"}`:            {failure.NotRotatable, "API keys"},
		`{"secret":"langfuse/ENCRYPTION_KEY"}`:  {failure.NotRotatable, "could never be read again"},
		`{"secret":"langfuse/NEXTAUTH_SECRET"}`: {failure.NotRotatable, "logged out"},
		`{"secret":"langfuse/REDIS_PASSWORD"}`:  {failure.NotRotatable, "not known to be a password of PostgreSQL"},
		`{"secrets":"app"}`:                     {failure.BadInput, "secret"},
	} {
		doc := proceduretest.New(t, world(inTurn, alone)).Do(api.WorkflowType, input)
		require.Equal(t, run.Refused, doc.Outcome, input)
		require.Equal(t, string(c.code), doc.Error.Code, input)
		require.Contains(t, doc.Error.What+doc.Error.Remedy, c.says, input)
	}
	doc := proceduretest.New(t, &proceduretest.World{}).Do(api.WorkflowType, `{}`)
	require.Equal(t, string(failure.NoCluster), doc.Error.Code)
	w := world()
	w.Secrets = nil
	require.Equal(t, string(failure.NotRotatable), proceduretest.New(t, w).Do(api.WorkflowType, `{}`).Error.Code)
}

// TestWhatFailsIsUndone at each step until the withdrawal begins, in the order in which nobody is left outside:
// with two roles the programs get the old one back first, with one the old password is good again first.
func TestWhatFailsIsUndone(t *testing.T) {
	for entry, undo := range map[*rotation.Entry][]string{&inTurn: undoing, &alone: {postgres.RetireRole, kubernetes.RestoreSecret, kubernetes.RestoreConsumers, kubernetes.RemovePending}} {
		for _, activity := range slices.Compact(slices.Clone(doing)) {
			w := world(*entry)
			w.Fail(activity, failure.New(failure.NotReady, "broken"))
			r := proceduretest.New(t, w)
			approving(r)
			doc := r.Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Failed, doc.Outcome, activity)
			did := calls(w)
			require.Equal(t, append(slices.Clone(undo), store.WriteRun), did[len(did)-5:], activity)
			for _, e := range ending {
				require.NotContains(t, did, e, activity)
			}
		}
	}
}

// TestACheckThatFailsUndoes: a verdict of FAIL is as good as an error.
func TestACheckThatFailsUndoes(t *testing.T) {
	w := world()
	w.Find(postgres.ProveLogin, run.Fail, "it acts as another")
	r := proceduretest.New(t, w)
	approving(r)
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.NotContains(t, w.Calls(), kubernetes.SwitchSecret, "no program sees it")
	require.Contains(t, w.Calls(), postgres.RetireRole)
}

func TestNothingIsUndoneAfterTheWithdrawalHasBegun(t *testing.T) {
	for _, activity := range ending {
		w := world()
		w.Fail(activity, failure.New(failure.BadAnswer, "broken"))
		r := proceduretest.New(t, w)
		approving(r)
		doc := r.Do(api.WorkflowType, `{}`)
		require.Equal(t, run.Failed, doc.Outcome, activity)
		for _, undo := range undoing {
			require.NotContains(t, w.Calls(), undo, activity)
		}
		if activity == postgres.WithdrawRole {
			require.Contains(t, doc.Left[0], "start the run again, which withdraws it")
		}
	}
}

func TestSessionsThatStay(t *testing.T) {
	staying := func() *proceduretest.World {
		w := world()
		w.OldSessions = []postgres.OldSessions{{Left: 2, Who: "2 from 10.0.0.7"}}
		return w
	}
	t.Run("a person waits on", func(t *testing.T) {
		w := staying()
		r := proceduretest.New(t, w)
		r.WhenWaiting(func(doc run.Document) {
			r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
			r.WhenWaiting(func(doc run.Document) {
				require.Contains(t, doc.WaitingFor, "2 sessions of role shop")
				require.Contains(t, doc.WaitingFor, "2 from 10.0.0.7")
				require.Contains(t, doc.WaitingFor, "pg_terminate_backend")
				require.NotContains(t, w.Calls(), postgres.WithdrawRole)
				r.Decide(run.RetryUpdate, run.Decision{By: "ann"})
			})
		})
		doc := r.Do(api.WorkflowType, `{}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	})
	t.Run("a person undoes", func(t *testing.T) {
		w := staying()
		r := proceduretest.New(t, w)
		r.WhenWaiting(func(doc run.Document) {
			r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
			r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
		})
		doc := r.Do(api.WorkflowType, `{}`)
		require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
		did := calls(w)
		require.Equal(t, append(slices.Clone(undoing), store.WriteRun), did[len(did)-5:])
	})
	t.Run("they are ended", func(t *testing.T) {
		r := proceduretest.New(t, staying())
		approving(r)
		doc := r.Do(api.WorkflowType, `{"endSessions":true}`)
		require.Equal(t, run.PartiallySucceeded.Ended(), doc.Outcome.Ended())
		var got api.Result
		require.NoError(t, json.Unmarshal(doc.Result, &got))
		require.Equal(t, 2, got.Ended)
		require.True(t, got.Withdrawn)
	})
}

func TestCancelledItUndoes(t *testing.T) {
	w := world()
	w.Hang(postgres.AwaitSessions)
	r := proceduretest.New(t, w)
	approving(r)
	r.OnStarted(func(activity, _ string) {
		if activity == postgres.AwaitSessions {
			r.CancelWorkflow()
		}
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
	did := slices.DeleteFunc(calls(w), func(c string) bool { return c == postgres.AwaitSessions }) // it may note late that it was cut off
	require.Equal(t, append(slices.Clone(undoing), store.WriteRun), did[len(did)-5:])
}

// TestWhatAnEarlierRunHasLeft: one that had begun the withdrawal is ended, and not undone whatever happens.
func TestWhatAnEarlierRunHasLeft(t *testing.T) {
	w := world()
	w.RotationLeft = string(rotation.Withdrawing)
	w.Fail(kubernetes.RestartConsumer, failure.New(failure.NotReady, "broken"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.Contains(t, doc.WaitingFor, "end what an earlier run has begun")
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Equal(t, []string{kubernetes.MakePending, kubernetes.SwitchSecret, kubernetes.RestartConsumer, store.WriteRun}, calls(w))

	w = world()
	w.RotationDone = true
	doc = proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "had rotated secret app already")
	require.NotContains(t, w.Calls(), kubernetes.MakePending)
}

func TestARejectedPlanTouchesNothing(t *testing.T) {
	w := world()
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "no"})
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, []string{store.WriteRun}, calls(w))
}

func TestOwners(t *testing.T) {
	argo := ownership.Owner{By: "Argo CD", Ref: ownership.Ref{Group: "argoproj.io", Kind: "Application", Namespace: "argocd", Name: "shop"}, Why: "an annotation", Suspendable: true}
	w := world()
	w.Owners.Suspend = []ownership.Image{{Owner: argo, UID: "a", Before: json.RawMessage("null")}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.Contains(t, doc.WaitingFor, "suspend Argo CD")
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the quarter"})
		r.WhenWaiting(func(doc run.Document) {
			require.Contains(t, doc.WaitingFor, "would take that back")
			r.Decide(run.AbandonUpdate, run.Decision{By: "ann"})
		})
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
	require.Equal(t, w.Suspended(), w.Resumed(), "it acts again however the run ends")
	require.NotContains(t, w.Calls(), kubernetes.RestoreSecret)

	w = world()
	_, w.Owners.Propose, _ = ownership.Decide(ownership.PolicyPropose, []ownership.Change{{Words: "change Secret shop-db", Command: "kubectl edit secret shop-db -n shop", Owners: []ownership.Owner{argo}}})
	doc = proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, string(failure.OwnedByOther), doc.Error.Code)
	require.Contains(t, doc.Error.Remedy, "kubectl edit secret shop-db -n shop")
}
