package recoverservice_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/recovery"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// inShop is where the target is.
var inShop = &config.Kubernetes{Namespace: "shop", Release: "shop"}

func state(pod health.Pod) recovery.State {
	w := health.Workload{Kind: health.Deployment, Name: "web", UID: "u", Desired: 1, Total: 1, Updated: 1, Pods: []health.Pod{pod}}
	if pod.Ready {
		w.Ready, w.Available = 1, 1
	}
	return recovery.State{State: health.State{Workloads: []health.Workload{w}}, Release: recovery.Release{Latest: 2, Status: "deployed", Back: recovery.Back{Revision: 1, Proven: true}}}
}

var (
	crashes = state(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.CrashLoop})
	noImage = state(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.ImagePull})
)

// released is what a release of a minute ago has made of the service.
func released(pod health.Pod) recovery.State {
	pod.Made = time.Now()
	s := state(pod)
	s.Release.At, s.Release.Age = pod.Made.Add(-time.Minute), time.Minute
	return s
}

func do(t *testing.T, w *proceduretest.World, input string) (*run.Document, api.Result) {
	t.Helper()
	w.Cluster = inShop
	doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return doc, r
}

func steps(r api.Result) (all []string) {
	for _, taken := range r.Taken {
		all = append(all, taken.Step)
	}
	return all
}

func TestTheLeastStepThatWorks(t *testing.T) {
	cutOff := state(health.Pod{Name: "good", UID: "g", Newest: true, Ready: true})
	cutOff.Release.CutOff = 1
	for name, c := range map[string]struct {
		seen    []recovery.State // at each look; healthy from then on
		waits   []run.Verdict
		steps   []string
		outcome run.Outcome
	}{
		"healthy":       {nil, nil, nil, run.Succeeded},
		"a restart":     {[]recovery.State{crashes}, nil, []string{"restart"}, run.Succeeded},
		"a rollout":     {[]recovery.State{crashes, crashes}, []run.Verdict{run.Fail}, []string{"restart", "rollout"}, run.Succeeded},
		"by force":      {[]recovery.State{crashes, crashes, crashes}, []run.Verdict{run.Fail, run.Fail}, []string{"restart", "rollout", "recreate"}, run.Succeeded},
		"back":          {[]recovery.State{noImage}, nil, []string{"rollback"}, run.Succeeded},
		"straight back": {[]recovery.State{released(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.CrashLoop})}, nil, []string{"rollback"}, run.Succeeded},
		"back when it was waited for": {[]recovery.State{
			released(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.Starting}), released(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.CrashLoop}),
		}, []run.Verdict{run.Fail}, []string{"wait", "rollback"}, run.Succeeded},
		"a rollback is finished": {[]recovery.State{cutOff}, nil, []string{"rollback"}, run.Succeeded},
		"nothing helps":          {[]recovery.State{noImage, noImage}, []run.Verdict{run.Fail}, []string{"rollback"}, run.Failed},
		"it does not stay so":    {nil, []run.Verdict{run.Fail, run.Fail}, nil, run.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			doc, r := do(t, &proceduretest.World{Services: c.seen, Waits: c.waits}, `{}`)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Equal(t, c.steps, steps(r))
		})
	}
}

func TestADryRunOnlyLooks(t *testing.T) {
	w := &proceduretest.World{Services: []recovery.State{crashes}}
	doc, r := do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, kubernetes.LookAtService, store.WriteRun}, w.Calls())
	require.Empty(t, w.Turns())
	require.Contains(t, r.Next, "restart pod bad")
}

func TestStaleFactsAreLookedAtAgain(t *testing.T) {
	w := &proceduretest.World{Services: []recovery.State{crashes}}
	w.Fail(kubernetes.TakeStep, failure.New(failure.PlanVoid, "it is another"))
	doc, r := do(t, w, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Empty(t, r.Taken, "by then it was healthy")
}

func TestBadInputIsRefused(t *testing.T) {
	for _, input := range []string{`{"upTo":"rolback"}`, `{"wait":-1}`, `{"wait":1000}`} {
		w := &proceduretest.World{}
		doc, _ := do(t, w, input)
		require.Equal(t, string(failure.BadInput), doc.Error.Code)
		require.NotContains(t, w.Calls(), kubernetes.LookAtService)
	}
}

func TestATargetInNoClusterIsRefused(t *testing.T) {
	doc := proceduretest.New(t, &proceduretest.World{}).Do(api.WorkflowType, `{}`)
	require.Equal(t, string(failure.NoCluster), doc.Error.Code)
}

func TestACancelledRunStops(t *testing.T) {
	w := &proceduretest.World{Services: []recovery.State{crashes}, Cluster: inShop}
	began := w.Hang(kubernetes.AwaitHealthy)
	env := proceduretest.New(t, w)
	go func() { <-began; env.CancelWorkflow() }()
	require.Equal(t, run.Cancelled, env.Do(api.WorkflowType, `{}`).Outcome)
}

// owned has Flux own what crashes, and the target let it be suspended; heldBy is who has left it so.
func owned(s recovery.State, heldBy string) recovery.State {
	flux := ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	s.Workloads = slices.Clone(s.Workloads)
	for i := range s.Workloads {
		s.Workloads[i].Owners = []ownership.Owner{flux}
	}
	s.Owners = []ownership.Image{{Owner: flux, UID: "f", Before: json.RawMessage("null"), HeldBy: heldBy}}
	return s
}

var suspends = &config.Kubernetes{Namespace: "shop", Release: "shop", Owners: ownership.PolicySuspend}

func TestAnOwnerIsSuspendedForARollout(t *testing.T) {
	w := &proceduretest.World{Cluster: suspends, Services: []recovery.State{owned(crashes, ""), owned(crashes, "")}, Waits: []run.Verdict{run.Fail}}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, w.Suspended(), 1, "the restart of a pod is nobody's business")
	require.Equal(t, w.Suspended()[0], w.Resumed()[0])
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	require.Equal(t, []string{"restart", "rollout"}, steps(r))
	require.Contains(t, r.Taken[1].What, "suspend Flux (HelmRelease web in namespace shop), restart all pods")
	require.Equal(t, []string{"Flux (HelmRelease web in namespace shop)"}, r.Suspended)
}

// TestAnOwnerActsAgainWhenAPersonSaysSo: after a rollback, which it would take back at once.
func TestAnOwnerActsAgainWhenAPersonSaysSo(t *testing.T) {
	for name, seen := range map[string]recovery.State{"of this run": owned(noImage, ""), "of a run that was terminated": owned(state(health.Pod{Name: "good", UID: "g", Newest: true, Ready: true}), "before")} {
		t.Run(name, func(t *testing.T) {
			w := &proceduretest.World{Cluster: suspends, Services: []recovery.State{seen}}
			r := proceduretest.New(t, w)
			r.WhenWaiting(func(doc run.Document) {
				require.Contains(t, doc.WaitingFor, "make the same change where Flux (HelmRelease web in namespace shop) gets it from")
				require.Len(t, w.Suspended(), 1)
				require.Empty(t, w.Resumed())
				r.Decide(run.RetryUpdate, run.Decision{By: "ann"})
			})
			doc := r.Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			require.Equal(t, w.Suspended(), w.Resumed())
			calls := w.Calls()
			require.Equal(t, []string{kubernetes.ResumeOwners, kubernetes.LookAtService, kubernetes.AwaitHealthy, store.WriteRun}, calls[len(calls)-4:], "it is seen healthy while they act")
		})
	}
	w := &proceduretest.World{Cluster: suspends, Services: []recovery.State{owned(noImage, "")}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.Decide(run.AbandonUpdate, run.Decision{By: "ann"}) })
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, w.Suspended(), w.Resumed(), "abandoned")
	w = &proceduretest.World{Cluster: suspends, Services: []recovery.State{owned(noImage, ""), owned(noImage, "")}, Waits: []run.Verdict{run.Fail}}
	doc = proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, w.Suspended(), w.Resumed(), "nothing helped")
}

func TestWhatIsOnlyProposed(t *testing.T) {
	k := *inShop
	k.Owners = ownership.PolicyPropose
	w := &proceduretest.World{Cluster: &k, Services: []recovery.State{owned(noImage, "")}}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	require.Empty(t, r.Taken)
	require.Contains(t, r.Proposed[0], "flux suspend helmrelease web -n shop; helm rollback shop 1 -n shop; flux resume helmrelease web -n shop")
	require.Contains(t, doc.Error.Remedy, r.Proposed[0])
	require.Empty(t, w.Suspended())
}

// TestAnApprovalExpires: the turn comes two days after it was given, so the step is asked for again.
func TestAnApprovalExpires(t *testing.T) {
	lost := state(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.NodeLost, Node: "n1"})
	w := &proceduretest.World{Cluster: inShop, Services: []recovery.State{lost, lost}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		w.Keep(proceduretest.NotYet(48 * time.Hour)...)
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "it is off"})
		r.WhenWaiting(func(doc run.Document) {
			require.NotContains(t, w.Calls(), kubernetes.TakeStep)
			r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "still"})
		})
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, w.Calls(), kubernetes.TakeStep)
}

func TestAStepThatNobodyDecidesOnIsNotTaken(t *testing.T) {
	lost := state(health.Pod{Name: "bad", UID: "b", Newest: true, Reason: health.NodeLost, Node: "n1"})
	w := &proceduretest.World{Services: []recovery.State{lost}}
	doc, _ := do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "nobody decided")
	require.NotContains(t, w.Calls(), kubernetes.TakeStep)
}
