package procedure_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/sshsig"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const replaces = `{"mode":"replace","confirm":"shop"}`

// says is a decision that is not signed.
func says(doc run.Document, by string) run.PlanDecision {
	return run.PlanDecision{Plan: doc.Approval.Hash, By: by, Reason: "seen by " + by}
}

// then calls back a moment after, with how the run stands.
func then(r *proceduretest.Run, do func(run.Document)) {
	r.RegisterDelayedCallback(func() { do(r.Status()) }, time.Second)
}

// decisions are those of a trail.
func decisions(w *proceduretest.World) (all []audit.Entry) {
	for _, e := range w.Records()[0].Trail {
		if e.Kind == audit.Decision {
			all = append(all, e)
		}
	}
	return all
}

func TestOnePersonApprovesWhereNothingIsSaid(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		require.NotContains(t, doc.WaitingFor, " of 1 approved")
		r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann"))
	})
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{"ann", "seen by ann"}, []string{doc.Approval.By, doc.Approval.Reason})
	require.Len(t, doc.Approval.Decisions, 1)
	require.Len(t, w.Swaps(), 1)
}

// TestQuorum has two people approve, the first of them more than once.
func TestQuorum(t *testing.T) {
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 2}}
	r := proceduretest.New(t, w)
	var first, again, alike, stale, second, late *proceduretest.Answer
	r.WhenWaiting(func(doc run.Document) {
		require.Contains(t, doc.WaitingFor, "(0 of 2 approved; waits for 2 more)")
		first = r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann"))
		then(r, func(doc run.Document) {
			require.True(t, doc.AsksApproval())
			require.Contains(t, doc.WaitingFor, "(1 of 2 approved by ann, as claimed; waits for one more)")
			require.Empty(t, w.Swaps())
			again, alike = r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann")), r.DecideOnPlan(run.ApproveUpdate, says(doc, " Ann "))
			old := says(doc, "bob")
			old.Plan = strings.Repeat("0", 64)
			stale = r.DecideOnPlan(run.ApproveUpdate, old)
			second, late = r.DecideOnPlan(run.ApproveUpdate, says(doc, "bob")), r.DecideOnPlan(run.ApproveUpdate, says(doc, "cid"))
		})
	})
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.True(t, first.Taken)
	require.True(t, second.Taken)
	require.ErrorContains(t, again.Refused, "ann has approved the plan")
	require.ErrorContains(t, alike.Refused, "already, and counts once")
	require.ErrorContains(t, stale.Refused, "look at it again")
	require.ErrorContains(t, late.Refused, "does not wait for an approval")
	require.Len(t, w.Swaps(), 1)
	a := doc.Approval
	require.Equal(t, []string{run.Approved, "ann and bob", "ann: seen by ann; bob: seen by bob"}, []string{a.Decision, a.By, a.Reason})
	require.Len(t, a.Decisions, 2)
	for i, by := range []string{"ann", "bob"} {
		require.Equal(t, run.Decided{Decision: run.Approved, By: by, Reason: "seen by " + by, At: a.Decisions[i].At, Plan: a.Hash}, a.Decisions[i])
		require.False(t, a.Decisions[i].At.Before(a.AskedAt))
	}
	noted := decisions(w)
	require.Len(t, noted, 2, "what was refused is not noted")
	for i, by := range []string{"ann", "bob"} {
		require.Equal(t, []string{run.ApproveUpdate, a.Hash, by, "seen by " + by}, []string{noted[i].What, noted[i].Args, noted[i].By, noted[i].Reason})
		require.Nil(t, noted[i].Signed)
	}
}

func TestOneRejectionIsEnough(t *testing.T) {
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 3}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann"))
		r.DecideOnPlan(run.ApproveUpdate, says(doc, "bob"))
		r.DecideOnPlan(run.RejectUpdate, says(doc, "ann")) // who may change their mind
	})
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, string(failure.NotApproved), doc.Error.Code)
	require.Contains(t, doc.Summary, "was rejected by ann (seen by ann)")
	require.Len(t, doc.Approval.Decisions, 3)
	require.Len(t, decisions(w), 3)
	require.Empty(t, w.Swaps())
}

// TestTooFewInTime: what the few decided is void with the question.
func TestTooFewInTime(t *testing.T) {
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 2}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) { r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann")) })
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, string(failure.NotApproved), doc.Error.Code)
	require.Regexp(t, `^1 of 2 approved the plan [0-9a-f]{12} within 168h0m0s, ann; to mend it: `, doc.Summary)
	require.Empty(t, doc.Approval.Decision)
	require.Empty(t, w.Swaps())
}

// TestAPolicyIsForItsProcedures leaves the others as they are.
func TestAPolicyIsForItsProcedures(t *testing.T) {
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 2, Procedures: []string{"ContainIncident"}}}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) { r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann")) })
	require.Equal(t, run.Succeeded, r.Do(restoredatabase.WorkflowType, replaces).Outcome)
}

// TestSigned has two people sign, and others who do not count.
func TestSigned(t *testing.T) {
	ann, bob, eve := approvaltest.New(t, "ann"), approvaltest.New(t, "bob"), approvaltest.New(t, "eve")
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 2, Signed: true, Keys: []approval.Key{ann.Key(), bob.Key()}}}
	r := proceduretest.New(t, w)
	refused := map[string]*proceduretest.Answer{}
	var asked run.Document
	r.WhenWaiting(func(doc run.Document) {
		asked = doc
		earlier := doc
		before := *doc.Approval
		before.AskedAt = before.AskedAt.Add(-time.Hour)
		earlier.Approval = &before
		refused["unsigned"] = r.DecideOnPlan(run.ApproveUpdate, says(doc, "ann"))
		refused["unsigned rejection"] = r.DecideOnPlan(run.RejectUpdate, says(doc, "ann"))
		refused["foreign"] = r.DecideOnPlan(run.ApproveUpdate, eve.Decide(doc, run.Approved, "let me"))
		refused["of an earlier asking"] = r.DecideOnPlan(run.ApproveUpdate, ann.Decide(earlier, run.Approved, "seen"))
		refused["an approval to reject with"] = r.DecideOnPlan(run.RejectUpdate, ann.Decide(doc, run.Approved, "seen"))
		refused["huge"] = r.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, Reason: "x", Signature: strings.Repeat("x", 1<<20)})
		r.DecideOnPlan(run.ApproveUpdate, ann.Decide(doc, run.Approved, "seen"))
		then(r, func(doc run.Document) {
			require.Contains(t, doc.WaitingFor, "(1 of 2 approved by ann; waits for one more)")
			refused["the same key"] = r.DecideOnPlan(run.ApproveUpdate, ann.Decide(doc, run.Approved, "seen again"))
			r.DecideOnPlan(run.ApproveUpdate, bob.Decide(doc, run.Approved, "so be it"))
		})
	})
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, refused, 7)
	for name, a := range refused {
		require.Error(t, a.Refused, name)
		require.False(t, a.Taken, name)
	}
	require.ErrorContains(t, refused["unsigned"].Refused, "--sign-with KEYFILE", "it says what to do")
	require.ErrorContains(t, refused["the same key"].Refused, "counts once")
	a := doc.Approval
	require.Equal(t, "ann and bob, by signature", a.Who())
	require.Len(t, a.Decisions, 2)
	noted := decisions(w)
	require.Len(t, noted, 2)
	for i, p := range []approvaltest.Person{ann, bob} {
		d := a.Decisions[i]
		require.Equal(t, []string{p.Name, sshsig.Fingerprint(p.Public())}, []string{d.By, d.Key})
		require.Equal(t, string(approval.Message(asked, run.Approved, d.Reason)), d.Message)
		s, err := sshsig.Parse(d.Signature)
		require.NoError(t, err)
		require.True(t, s.Verify(approval.Namespace, []byte(d.Message)), "what is kept can be checked by anybody")
		require.Equal(t, &audit.Signed{Key: d.Key, Message: d.Message, Signature: d.Signature}, noted[i].Signed)
	}
	trail, err := (&audit.Chain{Entries: w.Records()[0].Trail}).Encode()
	require.NoError(t, err)
	_, err = audit.Decode(trail, proceduretest.WorkflowID)
	require.NoError(t, err)
}

// TestAskedAgainNobodyHasDecided: the turn comes after the approval has expired, and the signatures of the first
// question are of nothing.
func TestAskedAgainNobodyHasDecided(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	w := &proceduretest.World{Approvals: &approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}}}
	w.Keep(target.Answer{Granted: true}) // of the backups
	for range 40 {
		w.Keep(target.Answer{Why: "waits for other"})
	}
	r := proceduretest.New(t, w)
	var replayed *proceduretest.Answer
	r.WhenWaiting(func(first run.Document) {
		signed := ann.Decide(first, run.Approved, "seen")
		r.DecideOnPlan(run.ApproveUpdate, signed)
		r.RegisterDelayedCallback(func() {
			r.WhenWaiting(func(second run.Document) {
				require.Empty(t, second.Approval.Decisions)
				signed.Plan = second.Approval.Hash
				replayed = r.DecideOnPlan(run.ApproveUpdate, signed)
				r.DecideOnPlan(run.RejectUpdate, ann.Decide(second, run.Rejected, "too late"))
			})
		}, 33*time.Hour)
	})
	doc := r.Do(restoredatabase.WorkflowType, replaces)
	require.Equal(t, run.Refused, doc.Outcome)
	require.NotNil(t, replayed)
	require.ErrorContains(t, replayed.Refused, "of something else")
	require.Contains(t, doc.Summary, "was rejected by ann (too late)")
}
