//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
)

// The samples of a default run: an effect in the middle of each kind of work.
var (
	killedRecoverService = []string{"restart/recover/delete/after", "rollout/recover/rollout/after", "stuck/helm/clear/after"}
	killedRolloutRelease = []string{"good/helm/hook/after", "bad/helm/record/after:2"}
	twinRecoverService   = []string{"rollout/recover/rollout/before"}
	twinRolloutRelease   = []string{"good/helm/apply/before"}
	pressRecoverService  = []string{"terminate/rollback/helm/record/after", "terminate/rollout/recover/rollout/before"}
	pressRolloutRelease  = []string{"terminate/good/helm/hook/after", "reset/bad/helm/record/after:2"}
)

// recoverService prepares the trial of a case.
func recoverService(t *testing.T, c string) (x trial, point string) {
	t.Helper()
	how, point, _ := strings.Cut(c, "/")
	set := []string{"replicas=1"}
	if how == "rollout" || how == "recreate" {
		set = []string{"replicas=2"}
	}
	if how == "rollback" || how == "stuck" {
		set = append(set, "hooks=true")
	}
	return newStall(t, set...).recovers(t, how), point
}

// rolloutRelease prepares the trial of a case. What is left is the lock of a run that was terminated.
func rolloutRelease(t *testing.T, c string) (x trial, point string) {
	t.Helper()
	how, point, _ := strings.Cut(c, "/")
	s := newStall(t, "hooks=true")
	if how != "left" {
		return s.rollsOut(t, how), point
	}
	x = s.rollsOut(t, "good")
	first := serve(t, x.stack, "before", "UPKEEP_FAULT=point=helm/apply/after:kill")
	id := x.start(t)
	<-first.Done()
	require.NoError(t, x.stack.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
	holds := x.holds
	x.holds = func(t *testing.T, doc *run.Document, begun int) { t.Helper(); holds(t, doc, begun+1) }
	return x, point
}

// TestRecoverServiceIsKilled at each side of each effect: it goes on, and does nothing twice.
func TestRecoverServiceIsKilled(t *testing.T) {
	t.Parallel()
	every(t, recoverServiceCases(), killedRecoverService, func(t *testing.T, c string) {
		x, point := recoverService(t, c)
		x.killed(t, point)
	})
}

// TestRolloutReleaseIsKilled at each side of each effect.
func TestRolloutReleaseIsKilled(t *testing.T) {
	t.Parallel()
	every(t, rolloutReleaseCases(), killedRolloutRelease, func(t *testing.T, c string) {
		x, point := rolloutRelease(t, c)
		x.killed(t, point)
	})
}

// TestRecoverServiceHasATwin that was frozen before an effect, and wakes up when another has done it all.
func TestRecoverServiceHasATwin(t *testing.T) {
	beside(t, wakesTwin)
	t.Parallel()
	every(t, before(recoverServiceCases()), twinRecoverService, func(t *testing.T, c string) {
		x, point := recoverService(t, c)
		x.doubled(t, point)
	})
}

// TestRolloutReleaseHasATwin that was frozen before an effect.
func TestRolloutReleaseHasATwin(t *testing.T) {
	beside(t, wakesTwin)
	t.Parallel()
	every(t, before(rolloutReleaseCases()), twinRolloutRelease, func(t *testing.T, c string) {
		x, point := rolloutRelease(t, c)
		x.doubled(t, point)
	})
}

// TestRecoverServiceIsPressed: terminated or reset at each side of each effect, beside a worker that goes on.
func TestRecoverServiceIsPressed(t *testing.T) {
	t.Parallel()
	every(t, either(recoverServiceCases()), pressRecoverService, func(t *testing.T, c string) {
		how, c, _ := strings.Cut(c, "/")
		x, point := recoverService(t, c)
		x.pressed(t, how, point)
	})
}

// TestRolloutReleaseIsPressed: terminated or reset at each side of each effect.
func TestRolloutReleaseIsPressed(t *testing.T) {
	beside(t, wakesTwin)
	t.Parallel()
	every(t, either(rolloutReleaseCases()), pressRolloutRelease, func(t *testing.T, c string) {
		how, c, _ := strings.Cut(c, "/")
		x, point := rolloutRelease(t, c)
		x.pressed(t, how, point)
	})
}
