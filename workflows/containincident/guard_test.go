package containincident_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// TestWhatIsUndoneWhilePeopleAreWaitedForIsAskedAnew has somebody fight back: people decide by what is known since, and
// the guard goes on for longer each time before it asks them anew.
func TestWhatIsUndoneWhilePeopleAreWaitedForIsAskedAnew(t *testing.T) {
	w := incident()
	w.Cluster.Release = ""
	w.Guards = []kubernetes.Guarded{{Times: 1, What: "the label of web-1"}, {Times: 2, What: "the policy"}, {Times: 300, What: "the label again"}, {Times: 1, What: "the label of web-1"}, {Times: 5, What: "the last"}}
	r := proceduretest.New(t, w)
	var first, last run.Document
	r.WhenWaiting(func(doc run.Document) { first = doc })
	r.RegisterDelayedCallback(func() {
		last = r.Status()
		require.True(t, last.AsksApproval())
		require.True(t, last.Approval.AskedAt.After(first.Approval.AskedAt), "it asked anew")
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: last.Approval.Hash, By: "ann", Reason: "seen to"})
	}, 24*time.Hour)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	got := result(t, doc)
	require.Equal(t, api.Deleted, got.Ended)
	require.Len(t, got.Remarks, 1, "however often it was undone")
	require.Contains(t, got.Remarks[0], "it was undone 309 times, and done again within seconds")
	require.Contains(t, got.Remarks[0], "the last")
	var holds []time.Duration
	for _, g := range w.Guarded() {
		require.Equal(t, "web-1", g.Done.Pods[0].Name)
		holds = append(holds, g.Hold)
	}
	require.Equal(t, []time.Duration{0, time.Minute, 10 * time.Minute, time.Hour, time.Hour}, holds[:5])
	asked, looked := 0, 0
	for _, s := range doc.Steps {
		switch s.Name {
		case "Wait for an approval of the plan":
			if asked++; asked < 6 {
				require.Contains(t, s.Detail, "somebody has undone something")
				require.Equal(t, run.NotProven, s.Verdict)
			}
		case "See whether connections that were open live on":
			looked++
		}
	}
	require.Equal(t, 6, asked)
	require.Equal(t, 6, looked, "connections may have been opened meanwhile")
}

// TestAGuardThatCannotLookKeepsNobodyFromDeciding: it is said, and people decide.
func TestAGuardThatCannotLookKeepsNobodyFromDeciding(t *testing.T) {
	w := incident()
	w.Cluster.Release = ""
	w.Fail(kubernetes.GuardContained, failure.New(failure.ClusterForbids, "list pods"), failure.New(failure.ClusterForbids, "list pods"))
	r := proceduretest.New(t, w)
	r.RegisterDelayedCallback(func() {
		doc := r.Status()
		require.True(t, doc.AsksApproval())
		tried := slices.DeleteFunc(w.Calls(), func(call string) bool { return call != kubernetes.GuardContained })
		require.Len(t, tried, 2, "it is tried again")
		r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
	}, 24*time.Hour)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, result(t, doc).Remarks, 1)
	require.Contains(t, result(t, doc).Remarks[0], "nobody looked for a while whether the suspects stay cut off")
}
