package containincident_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/internal/trend"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const lives = "an old connection of shop/web-1 to 10.0.0.4:5432 (Service shop/db) lives on"

// unreleased has nothing to recover once the suspects are deleted.
func unreleased() *proceduretest.World {
	w := incident()
	w.Cluster.Release = ""
	return w
}

func living() quarantine.Reading {
	return quarantine.Reading{
		Check:   run.Check{Name: quarantine.OldConnections, Verdict: run.Fail, Detail: lives + ": delete the pods now"},
		Lives:   []string{lives},
		Listens: []quarantine.Listening{{Ref: quarantine.Ref{Namespace: "shop", Name: "web-1"}, UID: "u", Ports: []uint16{80}}},
	}
}

func count(calls []string, activityType string) (n int) {
	for _, c := range calls {
		if c == activityType {
			n++
		}
	}
	return n
}

func TestAConnectionThatLivesOnIsSaidAtOnceAndToWhoeverDecides(t *testing.T) {
	w := incident()
	w.Readings = []quarantine.Reading{living()}
	r := proceduretest.New(t, w)
	var early, asks run.Document
	r.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.ActivityType.Name == kubernetes.CollectEvidence {
			early = r.Status()
		}
	})
	r.WhenWaiting(func(doc run.Document) {
		asks = doc
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"})
		say(t, r, run.ApproveUpdate)
	})
	doc := r.Do(api.WorkflowType, input)
	for _, at := range []run.Document{early, asks} {
		require.Contains(t, at.Summary, lives+": delete the pod now", "before the evidence is kept, and while it waits")
		require.Contains(t, result(t, &at).Urgent, lives+": delete the pod now")
	}
	require.Contains(t, asks.Approval.Words, quarantine.OldConnections+": "+lives)
	require.Contains(t, asks.WaitingFor, lives)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, result(t, doc).FollowUps, lives+": delete the pod now")
}

func TestWhatHasEndedSinceIsNotUrgentAnyMore(t *testing.T) {
	w := unreleased()
	w.Readings = []quarantine.Reading{living()}
	r := proceduretest.New(t, w)
	r.RegisterDelayedCallback(func() { say(t, r, run.ApproveUpdate) }, 8*24*time.Hour) // it has asked again
	doc := r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1"}`)
	require.Equal(t, 2, count(w.Calls(), kubernetes.ReadSuspects))
	got := result(t, doc)
	require.Empty(t, got.Urgent)
	require.NotContains(t, got.FollowUps, lives+": delete the pod now")
	require.Equal(t, run.Pass, got.Verdict)
}

func TestADeletedPodsConnectionIsNotUrgentAnyMore(t *testing.T) {
	w := unreleased()
	w.Readings = []quarantine.Reading{living()}
	r := proceduretest.New(t, w)
	say(t, r, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Failed, doc.Outcome, "it did live on")
	got := result(t, doc)
	require.Empty(t, got.Urgent)
	require.NotContains(t, got.FollowUps, lives+": delete the pod now")
	require.Contains(t, got.Remarks, lives+", until the pod was deleted")
	require.NotContains(t, doc.Summary, "delete the pod now")
}

func TestWhoDecidesAtOnceWaitsForNoSecondLook(t *testing.T) {
	w := incident()
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.RejectUpdate, run.RejectUpdate, run.ApproveUpdate)
	r.Do(api.WorkflowType, input)
	require.Equal(t, 1, count(w.Calls(), kubernetes.ReadSuspects))
}

func TestAReaderThatCannotRunEndsNothing(t *testing.T) {
	w := incident()
	w.Fail(kubernetes.ReadSuspects, slices.Repeat([]error{failure.New(failure.ClusterUnreachable, "the API server is away")}, 3)...)
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	got := result(t, doc)
	i := slices.IndexFunc(got.Checks, func(c run.Check) bool { return c.Name == quarantine.OldConnections })
	require.Equal(t, run.NotProven, got.Checks[i].Verdict)
	require.Contains(t, got.Checks[i].Detail, "the API server is away")
	require.Contains(t, w.Calls(), kubernetes.CollectEvidence)
	require.Contains(t, w.Calls(), kubernetes.RemoveProbes)
}

func TestWithoutAReaderItIsNotProven(t *testing.T) {
	w := incident()
	w.Cluster = &config.Kubernetes{Namespace: "shop"}
	r := proceduretest.New(t, w)
	say(t, r, run.RejectUpdate, run.ApproveUpdate)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	require.NotContains(t, w.Calls(), kubernetes.ReadSuspects)
	require.NotContains(t, w.Calls(), kubernetes.RemoveProbes)
	checks := result(t, doc).Checks
	require.Contains(t, checks[len(checks)-1].Detail, "set kubernetes.incidents.reader.image")
}

// TestAnUndoneContainmentIsReadAgain: what was undone for a while may have opened other connections.
func TestAnUndoneContainmentIsReadAgain(t *testing.T) {
	w := unreleased()
	w.Find(kubernetes.CheckContained, run.Fail, "somebody has taken the label")
	r := proceduretest.New(t, w)
	say(t, r, run.ApproveUpdate)
	r.Do(api.WorkflowType, `{"reason":"x","pods":"web-1"}`)
	require.Equal(t, 2, count(w.Calls(), kubernetes.ReadSuspects))
}

// TestAMonthOfWaitingIsCheap counts what a month without a decision adds to the history, with somebody who undoes the
// containment each week and a reader. An activity has at most three events, and a workflow task has three; a wait has
// a timer's two and a task; what is shown has two.
func TestAMonthOfWaitingIsCheap(t *testing.T) {
	const month, most = 31 * 24 * time.Hour, 2000
	w := incident()
	w.Find(kubernetes.CheckContained, run.Fail, "somebody has taken the label")
	r := proceduretest.New(t, w)
	activities, timers := 0, 0
	r.SetOnActivityStartedListener(func(*activity.Info, context.Context, converter.EncodedValues) { activities++ })
	r.SetOnTimerScheduledListener(func(string, time.Duration) { timers++ })
	asked := map[time.Time]bool{}
	for day := range 31 {
		r.RegisterDelayedCallback(func() {
			if doc := r.Status(); doc.AsksApproval() {
				asked[doc.Approval.AskedAt] = true
			}
		}, time.Duration(day)*24*time.Hour+12*time.Hour)
	}
	r.RegisterDelayedCallback(r.CancelWorkflow, month)
	doc := r.Do(api.WorkflowType, input)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.GreaterOrEqual(t, len(asked), 4, "each week it asks again")
	events := activities*(3+3+2) + timers*(2+3) + 10
	t.Logf("%d activities and %d timers: at most %d events", activities, timers, events)
	require.Greater(t, activities, 4*6)
	require.Less(t, events, most)
	require.Less(t, len(doc.Steps), 100, "the document is kept with every change of it")
}

// TestTheReportIsTheSameWhenItIsMadeAgain: from what the run has left, as from the run.
func TestTheReportIsTheSameWhenItIsMadeAgain(t *testing.T) {
	w := unreleased()
	w.Readings = []quarantine.Reading{living()}
	r := proceduretest.New(t, w)
	r.RegisterDelayedCallback(func() { say(t, r, run.ApproveUpdate) }, time.Hour)
	doc := r.Do(api.WorkflowType, input)
	record := w.Records()[0]
	page, err := report.HTML(record.Document, record.EndedAt, trend.Past{})
	require.NoError(t, err)
	text := report.Markdown(record.Document, record.EndedAt, trend.Past{})
	for range 20 {
		again, err := report.HTML(*doc, record.EndedAt, trend.Past{})
		require.NoError(t, err)
		require.Equal(t, string(page), string(again))
		require.Equal(t, text, report.Markdown(*doc, record.EndedAt, trend.Past{}))
	}
	got := result(t, doc)
	require.GreaterOrEqual(t, got.DecideSeconds, time.Hour.Seconds())
	require.GreaterOrEqual(t, got.EndSeconds, got.DecideSeconds)
	require.Zero(t, got.RecoverSeconds, "nothing was recovered")
	for _, name := range []string{"decide seconds", "end seconds"} {
		require.Contains(t, text, "| "+name+" |")
	}
}
