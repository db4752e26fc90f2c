package rolloutrelease_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

func locked(w *proceduretest.World) { w.Stands = helm.Locked }

func TestALockThatAnotherRunHasLeft(t *testing.T) {
	w := world(alone, locked)
	doc, _ := do(t, w, `{}`, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, 1, times(w, helm.TakeOver))
	require.Equal(t, 2, times(w, helm.PlanUpgrade), "it is planned anew")
	require.Equal(t, 1, times(w, helm.Upgrade))

	w = world(alone, locked)
	doc, _ = do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "would first take away the lock")
	require.Zero(t, times(w, helm.TakeOver))
	require.Empty(t, w.Turns())
}

func TestStagingsLockIsAPersonsToTakeAway(t *testing.T) {
	w := world(locked)
	doc, _ := do(t, w, `{}`, run.RejectUpdate)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Approval.Words, "release", "staging")
	require.Zero(t, times(w, helm.TakeOver))
	require.Zero(t, times(w, helm.Upgrade))
}
