//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/fault"

	_ "github.com/upkeep-run/upkeep/worker" // registers every point
)

// Cases are "<how>/<point>", with the number of the hit where it is not the first.

// recoverServiceCases are the points that RecoverService passes, each in a trouble whose cure passes it.
func recoverServiceCases() (all []string) {
	for _, point := range fault.Points() {
		effect := strings.TrimSuffix(strings.TrimSuffix(point, "/before"), "/after")
		switch {
		case effect == "recover/delete":
			all = append(all, "restart/"+point, "recreate/"+point)
		case effect == "recover/note":
			all = append(all, "restart/"+point)
		case effect == "recover/rollout":
			all = append(all, "rollout/"+point)
		case effect == "recover/clear" || effect == "helm/clear":
			all = append(all, "stuck/"+point)
		case effect == "helm/prune":
			all = append(all, "prune/"+point)
		case effect == "helm/failed": // a rollback that fails helps nobody: RolloutRelease's
		case effect == "recover/rollback" || strings.HasPrefix(point, "helm/"):
			all = append(all, "rollback/"+point)
		}
	}
	return all
}

// rolloutReleaseCases are the points that RolloutRelease passes: in a good release, and in a bad one up to
// the end of its rollback.
func rolloutReleaseCases() (all []string) {
	for _, point := range fault.Points() {
		effect := strings.TrimSuffix(strings.TrimSuffix(point, "/before"), "/after")
		switch {
		case effect == "helm/clear":
			all = append(all, "left/"+point)
		case effect == "helm/prune":
			all = append(all, "prune/"+point)
		case effect == "helm/failed":
			all = append(all, "bad/"+point)
		case effect == "rollout/note" || effect == "plan" || strings.HasPrefix(point, "helm/"):
			all = append(all, "good/"+point)
		}
		switch effect {
		case "helm/record", "helm/hook", "helm/hookend", "helm/lease", "helm/leaseend": // the rollback's are the second
			all = append(all, "bad/"+point+":2")
		case "helm/superseded", "helm/done", "helm/unhook": // the upgrade comes to none
			all = append(all, "bad/"+point)
		}
	}
	return append(all, "good/helm/hook/before:2", "good/helm/hook/after:2", "good/helm/apply/before:2", "bad/helm/apply/after:2")
}

// recoverDataCases are the points that RecoverData passes, with an owner that it suspends.
func recoverDataCases() (all []string) {
	for _, point := range fault.Points() {
		switch {
		case strings.HasPrefix(point, "restore/rename/"), strings.HasPrefix(point, "restore/drop/"), strings.HasPrefix(point, "restore/roles/"): // of other procedures, and of scratch servers
		case strings.HasPrefix(point, "client-"), strings.HasPrefix(point, "owner-"), strings.HasPrefix(point, "seal/"), strings.HasPrefix(point, "swap/"),
			strings.HasPrefix(point, "restore/"), strings.HasPrefix(point, "plan/"):
			all = append(all, point)
		}
	}
	return all
}

// undoPoints are those that only the way back of RotateSecret passes.
func undoPoints() (all []string) {
	for _, point := range fault.Points() {
		if strings.HasPrefix(point, "rotate/restore/") || strings.HasPrefix(point, "rotate/retire/") {
			all = append(all, point)
		}
	}
	return all
}

// rotateCases are the points that RotateSecret passes on its way.
func rotateCases() (all []string) {
	for _, point := range fault.Points() {
		if strings.HasPrefix(point, "rotate/") && !slices.Contains(undoPoints(), point) || strings.HasPrefix(point, "recover/rollout/") {
			all = append(all, "on/"+point)
		}
	}
	return all
}

// before leaves those of the cases in which an effect is still to come: what a twin would do late.
func before(cases []string) []string {
	return slices.DeleteFunc(slices.Clone(cases), func(c string) bool { return !strings.Contains(c, "/before") })
}

// reviewAccessCases are the points that ReviewAccess passes in a run that proposes a baseline.
func reviewAccessCases() (all []string) {
	for _, point := range fault.Points() {
		if strings.HasPrefix(point, "access/") {
			all = append(all, point)
		}
	}
	return all
}

// containCases are the points that ContainIncident passes when it tries what it has done, and ends with the suspects
// deleted.
func containCases() (all []string) {
	for _, point := range fault.Points() {
		for _, prefix := range []string{"quarantine/", "evidence/", "probe/"} {
			if strings.HasPrefix(point, prefix) {
				all = append(all, point)
			}
		}
		if strings.HasPrefix(point, "probe/") { // first by the pods that read, then by those that probe
			all = append(all, point+":2")
		}
	}
	return all
}

// either puts both buttons before each case.
func either(cases []string) (all []string) {
	for _, c := range cases {
		all = append(all, "terminate/"+c, "reset/"+c)
	}
	return all
}

// TestEveryPointOfTheClusterIsACase: a new one is hit without being named anywhere, or this says that it is not.
func TestEveryPointOfTheClusterIsACase(t *testing.T) {
	all := slices.Concat(recoverServiceCases(), rolloutReleaseCases(), recoverDataCases(), reviewAccessCases(), rotateCases(), undoPoints(), containCases())
	for _, point := range fault.Points() {
		if harness.OnCluster(point) {
			require.True(t, slices.ContainsFunc(all, func(c string) bool { return c == point || strings.HasSuffix(c, "/"+point) }), point)
		}
	}
}
