package rolloutrelease_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const merge = `{"merged":"shop/web#7"}`

func by(policy string) func(*proceduretest.World) {
	return func(w *proceduretest.World) {
		w.Repositories = []config.Repository{{GitHub: "Shop/web", Rollout: policy}}
	}
}

func byTwo(w *proceduretest.World)     { w.Approvals = &approval.Policy{Quorum: 2} }
func oneWay(w *proceduretest.World)    { w.OneWay = []string{"PersistentVolumeClaim data grows"} }
func unchanged(w *proceduretest.World) { w.Diff = &helmrelease.Diff{} }

func TestThePolicyApproves(t *testing.T) {
	w := world(by(config.RolloutStart))
	doc, r := do(t, w, merge)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, run.Pass, r.Production.Verdict)
	require.Equal(t, 2, times(w, helm.Upgrade))
	require.Equal(t, run.Approved, doc.Approval.Decision)
	require.Equal(t, "the policy of shop/web", doc.Approval.By)
	require.Contains(t, doc.Approval.Reason, "shop/web#7 is merged")
	require.NotEmpty(t, doc.Approval.Stored, "the plan is kept as if a person had approved it")
}

// TestThePolicyApprovesNoMore than what a rollback takes back, and only where it says "start".
func TestThePolicyApprovesNoMore(t *testing.T) {
	for name, w := range map[string]*proceduretest.World{
		"offer":     world(by(config.RolloutOffer)),
		"never":     world(by(config.RolloutNever)),
		"migrates":  world(by(config.RolloutStart), migrating, policy(config.MigrationsCompatible)),
		"one way":   world(by(config.RolloutStart), oneWay),
		"no staged": world(by(config.RolloutStart), alone, oneWay),
		"by two":    world(by(config.RolloutStart), byTwo),
	} {
		t.Run(name, func(t *testing.T) {
			doc, _ := do(t, w, merge, run.RejectUpdate)
			require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
			require.Equal(t, "ann", doc.Approval.By)
			require.Zero(t, times(w, helm.Upgrade))
		})
	}
}

func TestWhatIsMergedAndNotBuiltIsNotRolledOut(t *testing.T) {
	w := world(by(config.RolloutStart), unchanged)
	doc, _ := do(t, w, merge)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "shop/web#7 is merged, and nothing is rolled out")
	require.Contains(t, doc.Summary, "the chart on the worker")
	require.Zero(t, times(w, helm.Upgrade))
	require.Empty(t, w.Turns())

	w = world(by(config.RolloutStart), unchanged)
	w.Rollout.Chart, w.Rollout.Version = config.Chart{OCI: "oci://registry.example.com/shop"}, "1.2.3"
	doc, _ = do(t, w, merge)
	require.Contains(t, doc.Summary, "rollout.version")
}

func TestAMergeLendsItsPolicyToNothingElse(t *testing.T) {
	for input, says := range map[string]string{
		`{"merged":"shop/web#7","chart":"/charts/other"}`: "merged goes with none of",
		`{"merged":"shop/web#7","version":"2"}`:           "merged goes with none of",
		`{"merged":"shop/web#7","set":{"image.tag":"x"}}`: "merged goes with none of",
		`{"merged":"shop/web#7","skipStaging":true}`:      "merged goes with none of",
		`{"merged":"shop/web#7","override":"because"}`:    "merged goes with none of",
		`{"merged":"shop/other#7"}`:                       "has no repository",
		`{"merged":"shop/web"}`:                           "no pull request",
		`{"merged":"shop/web#0"}`:                         "no pull request",
		`{"merged":"shop/web#7\nby ann"}`:                 "no pull request",
	} {
		w := world(by(config.RolloutStart))
		doc, _ := do(t, w, input)
		require.Equal(t, run.Refused, doc.Outcome)
		require.Contains(t, doc.Summary, says)
		require.Zero(t, times(w, helm.PlanUpgrade))
	}
}
