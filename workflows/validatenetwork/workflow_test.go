package validatenetwork_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	api "github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// world has one connection, from web to db, that should not come through; it came to this verdict.
func world(v run.Verdict, leftOut ...string) *proceduretest.World {
	c := netcheck.Check{From: "Deployment/web", To: "StatefulSet/db", Port: "5432/TCP", Model: "denied", Want: "denied"}
	return &proceduretest.World{
		Cluster:     &config.Kubernetes{Namespace: "shop"},
		Network:     netcheck.Plan{Policies: 1, Pods: 2, Checks: []netcheck.Check{c}, Sources: []netcheck.Source{{Name: c.From}}, LeftOut: leftOut},
		Connections: []netcheck.Finding{{Check: c, Seen: "as the test says", Verdict: v}},
	}
}

func do(t *testing.T, w *proceduretest.World, input string) (*run.Document, api.Result) {
	t.Helper()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return doc, r
}

func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		world   *proceduretest.World
		outcome run.Outcome
		verdict run.Verdict
		says    string
	}{
		"as expected":           {world(run.Pass), run.Succeeded, run.Pass, "1 connection as expected"},
		"not as expected":       {world(run.Fail), run.Failed, run.Fail, "Deployment/web to StatefulSet/db on 5432/TCP: expected denied"},
		"not proven":            {world(run.NotProven), run.PartiallySucceeded, run.NotProven, "1 not proven"},
		"not everything looked": {world(run.Pass, "namespace ops may not be read"), run.PartiallySucceeded, run.NotProven, ""},
		"nothing to check":      {&proceduretest.World{Cluster: &config.Kubernetes{Namespace: "shop"}}, run.PartiallySucceeded, run.NotProven, "nothing to check"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, r := do(t, c.world, `{}`)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Equal(t, c.verdict, r.Verdict)
			require.Contains(t, doc.Summary, c.says)
			require.Equal(t, []string{"asks for shared release", "gives back"}, c.world.Turns())
		})
	}
}

// TestPodsAreAlwaysRemoved: also of a run whose connections could not be tried.
func TestPodsAreAlwaysRemoved(t *testing.T) {
	w := world(run.Pass)
	w.Fail(kubernetes.ProbeNetwork, failure.New(failure.ObjectRefused, "it is not to be"))
	doc, _ := do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, kubernetes.PlanNetwork, kubernetes.ProbeNetwork, kubernetes.RemoveProbes, store.WriteRun}, w.Calls())
}

func TestADryRunMakesNoPods(t *testing.T) {
	w := world(run.Pass)
	doc, r := do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{configuration.ResolveTarget, kubernetes.PlanNetwork, store.WriteRun}, w.Calls())
	require.Empty(t, w.Turns())
	require.Equal(t, run.NotProven, r.Verdict)
	require.Contains(t, doc.Summary, "would try 1 connection from pods with the labels of: Deployment/web")
}

func TestATargetInNoClusterIsRefused(t *testing.T) {
	doc := proceduretest.New(t, &proceduretest.World{}).Do(api.WorkflowType, `{}`)
	require.Equal(t, string(failure.NoCluster), doc.Error.Code)
}

func TestACancelledRunRemovesItsPods(t *testing.T) {
	w := world(run.Pass)
	began := w.Hang(kubernetes.ProbeNetwork)
	env := proceduretest.New(t, w)
	go func() { <-began; env.CancelWorkflow() }()
	require.Equal(t, run.Cancelled, env.Do(api.WorkflowType, `{}`).Outcome)
	require.Contains(t, w.Calls(), kubernetes.RemoveProbes)
}
