package recoverservice_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
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
	for name, c := range map[string]struct {
		seen    []recovery.State // at each look; healthy from then on
		waits   []run.Verdict
		steps   []string
		outcome run.Outcome
	}{
		"healthy":             {nil, nil, nil, run.Succeeded},
		"a restart":           {[]recovery.State{crashes}, nil, []string{"restart"}, run.Succeeded},
		"a rollout":           {[]recovery.State{crashes, crashes}, []run.Verdict{run.Fail}, []string{"restart", "rollout"}, run.Succeeded},
		"by force":            {[]recovery.State{crashes, crashes, crashes}, []run.Verdict{run.Fail, run.Fail}, []string{"restart", "rollout", "recreate"}, run.Succeeded},
		"back":                {[]recovery.State{noImage}, nil, []string{"rollback"}, run.Succeeded},
		"nothing helps":       {[]recovery.State{noImage, noImage}, []run.Verdict{run.Fail}, []string{"rollback"}, run.Failed},
		"it does not stay so": {nil, []run.Verdict{run.Fail, run.Fail}, nil, run.Failed},
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
