package containincident_test

import (
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// bound is an incident whose suspect's account is in a binding.
func bound() *proceduretest.World {
	w := incident()
	web := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "shop", Name: "web"}
	reads := quarantine.Binding{Namespace: "shop", Name: "web-reads"}
	role := rbacv1.RoleRef{Kind: "Role", Name: "reader"}
	w.Granted = quarantine.AccessPlan{
		Accounts: []quarantine.Suspected{{Ref: quarantine.Ref{Namespace: "shop", Name: "web"}, Others: []string{"web-2"}}},
		Grants:   []quarantine.Grant{{Binding: reads, UID: "b1", Role: role, Subjects: []rbacv1.Subject{web}, Do: "kubectl patch rolebinding", Allow: "kubectl create role"}},
	}
	w.Withdrawn = quarantine.Withdrawn{Bindings: []quarantine.Held{{Binding: reads, UID: "b1", Role: role, Subjects: []rbacv1.Subject{web}}}}
	w.Secrets = []rotation.Entry{{Name: "app", Secret: "db", Role: "app"}, {Name: "reports", Secret: "r", Role: "reports"}}
	return w
}

// ending has children end as they are told.
func ending(r *proceduretest.Run, procedure string, outcome run.Outcome, err error) (inputs *[]string) {
	inputs = &[]string{}
	r.OnWorkflow(procedure, mock.Anything, mock.Anything, mock.Anything).Return(func(_ workflow.Context, in, _ converter.RawValue) (*run.Document, error) {
		*inputs = append(*inputs, string(in.Payload().GetData()))
		if err != nil {
			return nil, err
		}
		return &run.Document{RunID: "child", Outcome: outcome, Summary: "as the test says"}, nil
	})
	return inputs
}

func TestAccessIsShownAndLeftUnlessItIsAskedFor(t *testing.T) {
	w := bound()
	w.Rights = []quarantine.AccessProof{{Checks: []run.Check{{Name: "access that is left", Verdict: run.NotProven, Detail: "RoleBinding shop/web-reads"}}}}
	w.Rights = append(w.Rights, w.Rights[0], w.Rights[0]) // at each look
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	require.NotContains(t, w.Calls(), kubernetes.Withdraw)
	got := result(t, doc)
	require.Empty(t, got.Withdrawn)
	require.Contains(t, got.FollowUps, "RoleBinding shop/web-reads still gives the suspects' accounts Role reader; to take them out: kubectl patch rolebinding; or let Upkeep do it the next time: kubectl create role")
}

func TestAccessIsWithdrawnAfterThePodsAndGivenBackWithThem(t *testing.T) {
	w := bound()
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","access":"withdraw"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	calls := w.Calls()
	for _, order := range [][2]string{
		{kubernetes.Contain, kubernetes.Withdraw}, {kubernetes.Withdraw, kubernetes.CheckAccess}, {kubernetes.CheckAccess, kubernetes.CollectEvidence}, {kubernetes.EndQuarantine, kubernetes.ReturnAccess},
	} {
		require.Less(t, index(t, calls, order[0]), index(t, calls, order[1]), order)
	}
	require.Equal(t, []string{"RoleBinding shop/web-reads"}, result(t, doc).Withdrawn)
	require.Len(t, w.Returned(), 1)
	require.False(t, w.Returned()[0].Plan.Access[0].Stay)
}

func TestDeletedPodsDoNotGiveTheirAccessBack(t *testing.T) {
	for back, words := range map[string]string{"": "the suspects' accounts stay out of RoleBinding shop/web-reads", `,"giveAccessBack":true`: ""} {
		w := bound()
		r := proceduretest.New(t, w)
		say(t, r, run.ApproveUpdate)
		ending(r, recoverservice.WorkflowType, run.Succeeded, nil)
		doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","access":"withdraw"`+back+`}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, back == "", w.Returned()[0].Plan.Access[0].Stay)
		if words != "" {
			require.Contains(t, result(t, doc).FollowUps[0], words)
			require.Contains(t, result(t, doc).FollowUps[0], "kubectl patch")
		}
	}
}

func TestWhatMayNotBeWithdrawnHoldsNothingUp(t *testing.T) {
	for name, spoil := range map[string]func(*proceduretest.World){
		"it is forbidden": func(w *proceduretest.World) {
			w.Withdrawn = quarantine.Withdrawn{Stay: []quarantine.Stays{{Binding: w.Granted.Grants[0].Binding, Why: "the API server forbids it"}}}
			left := quarantine.AccessProof{Checks: []run.Check{{Name: "access that is left", Verdict: run.NotProven, Detail: "the API server forbids it"}}}
			w.Rights = []quarantine.AccessProof{left, left, left}
		},
		"it cannot be looked at": func(w *proceduretest.World) {
			no := failure.New(failure.ObjectRefused, "no")
			w.Fail(kubernetes.PlanWithdrawal, no, no, no)
		},
		"it ends half": func(w *proceduretest.World) {
			no := failure.New(failure.ObjectRefused, "no")
			w.Fail(kubernetes.Withdraw, no, no, no)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := bound()
			spoil(w)
			r := proceduretest.New(t, w)
			say(t, r, run.RejectUpdate, run.ApproveUpdate)
			doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","access":"withdraw"}`)
			require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
			require.Equal(t, api.Released, result(t, doc).Ended)
			require.Contains(t, w.Calls(), kubernetes.CollectEvidence)
		})
	}
}

func TestWhatSomebodyGrantsMeanwhileIsUsed(t *testing.T) {
	w := bound()
	reads, done := w.Granted.Grants[0].Binding, w.Withdrawn
	w.Withdrawn = quarantine.Withdrawn{Stay: []quarantine.Stays{{Binding: reads, Why: "the API server forbids it"}}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.NotEmpty(t, result(t, &doc).FollowUps)
		w.Withdrawn = done
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
		say(t, r, run.ApproveUpdate)
	})
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","access":"withdraw"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{"RoleBinding shop/web-reads"}, result(t, doc).Withdrawn)
	require.Empty(t, result(t, doc).FollowUps, "nothing is left to do")
}

func TestAccountsThatSomebodyPutsBackAreTakenOutAgain(t *testing.T) {
	w := bound()
	good := quarantine.AccessProof{Checks: []run.Check{{Name: "access", Verdict: run.Pass}}}
	w.Rights = []quarantine.AccessProof{good, {Back: []string{"RoleBinding shop/web-reads"}, Checks: []run.Check{{Name: "access", Verdict: run.Fail}}}, good}
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","access":"withdraw"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	times := 0
	for _, call := range w.Calls() {
		if call == kubernetes.Withdraw {
			times++
		}
	}
	require.Equal(t, 2, times)
	require.Contains(t, result(t, doc).Remarks, "somebody put the accounts back meanwhile, and they were taken out again: RoleBinding shop/web-reads")
}

func TestWhatMadeThePodsBadIsMended(t *testing.T) {
	w := bound()
	r := proceduretest.New(t, w)
	asked := ""
	r.WhenWaiting(func(doc run.Document) {
		asked = doc.Approval.Words
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
	})
	ending(r, recoverservice.WorkflowType, run.Succeeded, nil)
	rotated := ending(r, rotatesecret.WorkflowType, run.Succeeded, nil)
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","recreateAccount":true,"rotate":"app, reports"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, asked, "make account shop/web anew, which ends every token of it, also those of web-2")
	require.Contains(t, asked, "rotate the secrets app, reports")
	require.Len(t, *rotated, 2)
	require.Contains(t, (*rotated)[0], `"secret":"app"`)
	got := result(t, doc)
	require.Equal(t, []string{"shop/web"}, got.Renewed)
	require.Equal(t, []string{"app", "reports"}, got.Rotated)
	require.Contains(t, got.FollowUps[1], "the tokens of web-2 ended")
	require.Less(t, index(t, w.Calls(), kubernetes.EndQuarantine), index(t, w.Calls(), kubernetes.RenewAccounts))
}

func TestLetGoOfNothingIsMended(t *testing.T) {
	w := bound()
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	rotated := ending(r, rotatesecret.WorkflowType, run.Succeeded, nil)
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","recreateAccount":true,"rotate":"app"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.NotContains(t, w.Calls(), kubernetes.RenewAccounts)
	require.Empty(t, *rotated)
}

func TestARotationThatFailsIsLeftForAPerson(t *testing.T) {
	for name, how := range map[string]struct {
		outcome run.Outcome
		err     error
	}{"refused": {outcome: run.Refused}, "an error": {err: failure.New(failure.Internal, "broken")}} {
		t.Run(name, func(t *testing.T) {
			w := bound()
			r := proceduretest.New(t, w)
			say(t, r, run.ApproveUpdate)
			ending(r, recoverservice.WorkflowType, run.Succeeded, nil)
			rotated := ending(r, rotatesecret.WorkflowType, how.outcome, how.err)
			doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1","rotate":"app,reports"}`)
			require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
			require.Len(t, *rotated, 2, "the next is rotated all the same")
			got := result(t, doc)
			require.Empty(t, got.Rotated)
			require.Contains(t, got.FollowUps[1], "upkeep run RotateSecret --target "+doc.Target+" --set secret=app")
		})
	}
}

func TestWhatIsAskedOfAccessIsRefusedBeforeAnythingIsLookedAt(t *testing.T) {
	for in, want := range map[string]string{
		`{"reason":"x","pods":"a","access":"revoke"}`:     "access",
		`{"reason":"x","pods":"a","giveAccessBack":true}`: "nobody has asked",
		`{"reason":"x","pods":"a","rotate":"ap"}`:         `did you mean "app"`,
		`{"reason":"x","pods":"a","rotate":"app,app"}`:    "twice",
	} {
		w := bound()
		doc := proceduretest.New(t, w).Do(api.WorkflowType, in)
		require.Equal(t, run.Refused, doc.Outcome, in)
		require.Contains(t, doc.Error.What+doc.Error.Remedy, want)
		require.NotContains(t, w.Calls(), kubernetes.PlanContainment)
	}
}

func TestADryRunShowsTheAccess(t *testing.T) {
	w := bound()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true,"reason":"x","pods":"web-1","access":"withdraw"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Contains(t, doc.Summary, "then take account shop/web out of RoleBinding shop/web-reads; shop/web is also what web-2 runs as")
	require.Contains(t, string(doc.Result), `"access":{`)
	require.NotContains(t, w.Calls(), kubernetes.Withdraw)
}
