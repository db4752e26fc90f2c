package approval_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

var asked = time.Date(2026, 11, 27, 6, 7, 8, 123456789, time.FixedZone("CET", 3600))

// asking is a run that waits for a decision.
func asking(p approval.Policy) run.Document {
	return run.Document{RunID: "contain-1", Procedure: "ContainIncident", Target: "shop", Outcome: run.Waiting, Approval: &run.Approval{
		Hash: strings.Repeat("ab", 32), AskedAt: asked, ExpiresAt: asked.Add(7 * 24 * time.Hour), Quorum: p.Quorum, Signed: p.Signed,
	}}
}

func TestFor(t *testing.T) {
	var none *approval.Policy
	require.Equal(t, approval.Policy{Quorum: 1}, none.For("ContainIncident"))
	all := &approval.Policy{Quorum: 2}
	require.Equal(t, *all, all.For("ContainIncident"))
	some := &approval.Policy{Quorum: 2, Procedures: []string{"RolloutRelease"}}
	require.Equal(t, approval.Policy{Quorum: 1}, some.For("ContainIncident"))
	require.Equal(t, 2, some.For("RolloutRelease").Quorum)
}

// TestMessage is what people's signatures are of: it must not change, or those that were kept are of nothing.
func TestMessage(t *testing.T) {
	doc := asking(approval.Policy{})
	doc.RunID = "a run\nplan: x"
	require.Equal(t, `upkeep-approval 1
decision: approve
run: "a run\nplan: x"
procedure: ContainIncident
target: "shop"
plan: abababababababababababababababababababababababababababababababab
asked: 2026-11-27T05:07:08.123456789Z
expires: 2026-12-04T05:07:08.123456789Z
reason: "f\u00fcr \"ann\"\u202e\x1b"
`, string(approval.Message(doc, run.Approved, "für \"ann\"\u202e\x1b")))
	require.Contains(t, string(approval.Message(doc, run.Rejected, "no")), "\ndecision: reject\n")
}

func TestJudge(t *testing.T) {
	ann, bob, eve := approvaltest.New(t, "ann"), approvaltest.New(t, "bob"), approvaltest.New(t, "eve")
	signed := approval.Policy{Quorum: 2, Signed: true, Keys: []approval.Key{ann.Key(), bob.Key()}}
	two, one := approval.Policy{Quorum: 2}, approval.Policy{Quorum: 1}
	doc := asking(signed)
	other := func(change func(*run.Document)) run.Document {
		d := asking(signed)
		change(&d)
		return d
	}
	by := func(name string) run.PlanDecision {
		return run.PlanDecision{Plan: doc.Approval.Hash, By: name, Reason: "seen"}
	}
	with := func(d run.PlanDecision, change func(*run.PlanDecision)) run.PlanDecision {
		change(&d)
		return d
	}
	annSays := ann.Decide(doc, run.Approved, "seen")
	for _, c := range []struct {
		name     string
		policy   approval.Policy
		decision string
		d        run.PlanDecision
		before   []run.Decided
		by       string // "": refused
		code     failure.Code
		says     string
	}{
		{name: "claimed", policy: one, d: by("ann"), by: "ann"},
		{name: "claimed, and signed for nothing", policy: one, d: annSays, code: failure.BadSignature, says: "has no keys"},
		{name: "a second person", policy: two, d: by("bob"), before: []run.Decided{{Decision: run.Approved, By: "ann"}}, by: "bob"},
		{name: "the same person", policy: two, d: by("ann"), before: []run.Decided{{Decision: run.Approved, By: "ann"}}, code: failure.NotWaiting, says: "ann has approved the plan abababababab already, and counts once (1 of 2 approved by ann, as claimed; waits for one more)"},
		{name: "the same person, spelt otherwise", policy: two, d: by(" ANN "), before: []run.Decided{{Decision: run.Approved, By: "ann"}}, code: failure.NotWaiting, says: "already"},
		{name: "the same person changes their mind", policy: two, decision: run.Rejected, d: by("ann"), before: []run.Decided{{Decision: run.Approved, By: "ann"}}, by: "ann"},
		{name: "signed", policy: signed, d: annSays, by: "ann"},
		{name: "signed, and by name", policy: signed, d: with(annSays, func(d *run.PlanDecision) { d.By = "Ann" }), by: "ann"},
		{name: "signed, by another name", policy: signed, d: with(annSays, func(d *run.PlanDecision) { d.By = "bob" }), code: failure.BadSignature, says: `said to be by "bob", and signed with the key of ann`},
		{name: "a second one signed", policy: signed, d: bob.Decide(doc, run.Approved, "so"), before: []run.Decided{{Decision: run.Approved, By: "ann", Key: sshsig.Fingerprint(ann.Public())}}, by: "bob"},
		{name: "the same key", policy: signed, d: annSays, before: []run.Decided{{Decision: run.Approved, By: "ann", Key: sshsig.Fingerprint(ann.Public())}}, code: failure.NotWaiting, says: "counts once"},
		{name: "a rejection", policy: signed, decision: run.Rejected, d: bob.Decide(doc, run.Rejected, "no"), by: "bob"},
		{name: "no signature", policy: signed, d: by("ann"), code: failure.BadSignature, says: "needs a signature"},
		{name: "no signature to reject", policy: signed, decision: run.Rejected, d: by("ann"), code: failure.BadSignature, says: "upkeep reject contain-1 --reason WHY --print"},
		{name: "no signature at all", policy: signed, d: with(annSays, func(d *run.PlanDecision) { d.Signature = "yes" }), code: failure.BadSignature, says: "cannot be read"},
		{name: "a foreign key", policy: signed, d: eve.Decide(doc, run.Approved, "seen"), code: failure.BadSignature, says: sshsig.Fingerprint(eve.Public()) + " is none of those that count"},
		{name: "the opposite", policy: signed, decision: run.Rejected, d: annSays, code: failure.BadSignature, says: "of something else"},
		{name: "another reason", policy: signed, d: with(annSays, func(d *run.PlanDecision) { d.Reason = "unseen" }), code: failure.BadSignature, says: "of something else"},
		{name: "another run", policy: signed, d: ann.Decide(other(func(d *run.Document) { d.RunID = "contain-2" }), run.Approved, "seen"), code: failure.BadSignature, says: "of something else"},
		{name: "another procedure", policy: signed, d: ann.Decide(other(func(d *run.Document) { d.Procedure = "RecoverData" }), run.Approved, "seen"), code: failure.BadSignature, says: "of something else"},
		{name: "another target", policy: signed, d: ann.Decide(other(func(d *run.Document) { d.Target = "stock" }), run.Approved, "seen"), code: failure.BadSignature, says: "of something else"},
		{name: "an earlier asking", policy: signed, d: ann.Decide(other(func(d *run.Document) { d.Approval.AskedAt = asked.Add(-1) }), run.Approved, "seen"), code: failure.BadSignature, says: "of something else"},
		{name: "another end", policy: signed, d: ann.Decide(other(func(d *run.Document) { d.Approval.ExpiresAt = asked }), run.Approved, "seen"), code: failure.BadSignature, says: "of something else"},
		{name: "another plan", policy: signed, d: with(ann.Decide(other(func(d *run.Document) { d.Approval.Hash = strings.Repeat("cd", 32) }), run.Approved, "seen"), func(d *run.PlanDecision) { d.Plan = doc.Approval.Hash }), code: failure.BadSignature, says: "of something else"},
		{name: "another namespace", policy: signed, d: with(annSays, func(d *run.PlanDecision) { d.Signature = ann.Sign("git", approval.Message(doc, run.Approved, "seen")) }), code: failure.BadSignature, says: `is for "git" and not for "upkeep-approval"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := asking(c.policy)
			doc.Approval.Decisions = c.before
			if c.decision == "" {
				c.decision = run.Approved
			}
			at := asked.Add(time.Hour)
			got, err := c.policy.Judge(doc, c.decision, c.d, at)
			if c.by == "" {
				require.True(t, failure.Is(err, c.code), "%v", err)
				require.ErrorContains(t, err, c.says)
				require.Zero(t, got)
				f, _ := failure.As(err)
				require.NotEmpty(t, f.Remedy)
				return
			}
			require.NoError(t, err)
			want := run.Decided{Decision: c.decision, By: c.by, Reason: c.d.Reason, At: at, Plan: doc.Approval.Hash}
			if c.policy.Signed {
				want.Key, want.Signature = map[string]string{"ann": sshsig.Fingerprint(ann.Public()), "bob": sshsig.Fingerprint(bob.Public())}[c.by], c.d.Signature
				want.Message = string(approval.Message(doc, c.decision, c.d.Reason))
			}
			require.Equal(t, want, got)
		})
	}
}

func TestHowItStands(t *testing.T) {
	a := run.Approval{Quorum: 3}
	require.Equal(t, "0 of 3 approved; waits for 3 more", a.Stand())
	a.Decisions = []run.Decided{{Decision: run.Approved, By: "ann"}}
	require.Equal(t, "1 of 3 approved by ann, as claimed; waits for 2 more", a.Stand())
	a.Signed, a.Decisions = true, append(a.Decisions, run.Decided{Decision: run.Approved, By: "bob", Key: "SHA256:b"})
	require.Equal(t, "2 of 3 approved by ann and bob; waits for one more", a.Stand())
	require.Equal(t, []string{"SHA256:b"}, a.Signers())
	a.Decisions = append(a.Decisions, run.Decided{Decision: run.Approved, By: "cid"}, run.Decided{Decision: run.Rejected, By: "dan"})
	require.Equal(t, "3 of 3 approved by ann, bob and cid", a.Stand())
	require.Equal(t, "0 of 1 approved; waits for one more", run.Approval{}.Stand(), "of a run of before there was a quorum")
}

// TestADecisionIsHeldAgainstWhatWasSigned: whoever may write the notes of a run has no person's key.
func TestADecisionIsHeldAgainstWhatWasSigned(t *testing.T) {
	ann, eve := approvaltest.New(t, "ann"), approvaltest.New(t, "eve")
	policy := approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}}
	doc := asking(policy)
	d, err := policy.Judge(doc, run.Approved, ann.Decide(doc, run.Approved, "seen\nto"), asked)
	require.NoError(t, err)
	noted := func(change func(*approval.Noted)) approval.Noted {
		n := approval.Noted{Decision: d.Decision, Run: doc.RunID, Plan: d.Plan, Reason: d.Reason, Key: d.Key, Message: d.Message, Signature: d.Signature}
		change(&n)
		return n
	}
	require.NoError(t, noted(func(*approval.Noted) {}).Check())
	for name, change := range map[string]func(*approval.Noted){
		"the opposite":    func(n *approval.Noted) { n.Decision = run.Rejected },
		"nothing":         func(n *approval.Noted) { n.Decision = "" },
		"another run":     func(n *approval.Noted) { n.Run = "contain-2" },
		"another plan":    func(n *approval.Noted) { n.Plan = strings.Repeat("cd", 32) },
		"another reason":  func(n *approval.Noted) { n.Reason = "seen" },
		"another key":     func(n *approval.Noted) { n.Key = sshsig.Fingerprint(eve.Public()) },
		"another message": func(n *approval.Noted) { n.Message = strings.Replace(n.Message, "contain-1", "contain-2", 1) },
		"no message":      func(n *approval.Noted) { n.Message = "" },
		"no signature":    func(n *approval.Noted) { n.Signature = "" },
		"another's": func(n *approval.Noted) {
			n.Signature = eve.Sign(approval.Namespace, []byte(n.Message))
		},
		"another namespace": func(n *approval.Noted) { n.Signature = ann.Sign("file", []byte(n.Message)) },
		"a field twice": func(n *approval.Noted) {
			n.Message += "decision: approve\n"
			n.Signature = ann.Sign(approval.Namespace, []byte(n.Message))
		},
		"another text": func(n *approval.Noted) {
			n.Message = "hello\n"
			n.Signature = ann.Sign(approval.Namespace, []byte(n.Message))
		},
	} {
		require.Error(t, noted(change).Check(), name)
	}
}
