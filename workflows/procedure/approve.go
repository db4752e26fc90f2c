package procedure

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// askedFor is how long a plan waits for a decision.
	askedFor = 7 * 24 * time.Hour
	// approvedFor is how long an approval stands until the plan must have begun.
	approvedFor = 24 * time.Hour
	// maxDecision bounds the texts of a decision, in bytes.
	maxDecision = 1000
)

// Approve stores a plan and waits until a person has approved it. What is approved is the plan's hash,
// so it is applied as it stands, or asked for again. Words say what it would do. A plan that is rejected,
// or that nobody decides on in time, is a refusal.
func (r *Run) Approve(words string, plan any) error { return r.ApproveBeside(words, plan, nil) }

// ApproveBeside is Approve, and something goes on in a coroutine for as long as the run waits. When that returns an
// error the run waits no longer, and the error is returned.
func (r *Run) ApproveBeside(words string, plan any, beside func(workflow.Context) error) error {
	a, err := r.storePlan(words, plan)
	if err != nil {
		return err
	}
	at := r.begin(Step{Name: "Wait for an approval of the plan"})
	a.AskedAt, a.ExpiresAt = r.Now(), r.Now().Add(askedFor)
	policy := r.approvals()
	a.Quorum, a.Signed = policy.Quorum, policy.Signed
	r.doc.Approval = a
	r.doc.Outcome = run.Waiting
	r.doc.WaitingFor = asksFor(a)
	r.choice, r.asks = nil, true
	r.show()
	var stopped error
	if beside != nil {
		ctx, stop := workflow.WithCancel(r.ctx)
		defer stop()
		workflow.Go(ctx, func(ctx workflow.Context) {
			if err := beside(ctx); ctx.Err() == nil {
				stopped = err
			}
		})
	}
	decided, err := workflow.AwaitWithTimeout(r.ctx, askedFor, func() bool { return r.choice != nil || a.Decision != "" || stopped != nil })
	r.asks = false
	r.doc.Outcome, r.doc.WaitingFor = run.Running, ""
	switch {
	case err != nil: // cancelled
	case r.choice != nil:
		r.abandon = &r.choice.by
		err = errAbandoned
	case a.Decision == "" && stopped != nil:
		r.finish(at, run.NotProven, stopped.Error())
		return stopped
	case !decided && len(a.Decisions) > 0: // they are void: who is asked again looks again
		err = failure.New(failure.NotApproved, "%d of %d approved the plan %.12s within %s, %s", len(a.Decisions), a.Quorum, a.Hash, askedFor, run.Names(a.Decisions)).Do("start the run again")
	case !decided:
		err = failure.New(failure.NotApproved, "nobody decided on the plan %.12s within %s", a.Hash, askedFor).Do("start the run again")
	case a.Decision == run.Rejected:
		err = failure.New(failure.NotApproved, "the plan %.12s was rejected by %s (%s)", a.Hash, a.By, a.Reason).Do("see to the reason, then start the run again")
	default:
		a.ExpiresAt = a.DecidedAt.Add(approvedFor)
		r.finish(at, run.Pass, fmt.Sprintf("approved by %s (%s)", a.Who(), a.Reason))
		return nil
	}
	r.finish(at, run.NotProven, "")
	return err
}

// asksFor says what the run waits for, and how many have approved where more than one must.
func asksFor(a *run.Approval) string {
	stand := ""
	if a.Quorum > 1 {
		stand = " (" + a.Stand() + ")"
	}
	return fmt.Sprintf("an approval of its plan %.12s%s: %s", a.Hash, stand, a.Words)
}

// approvals is how the run's plans are decided on: by the configuration that it began with.
func (r *Run) approvals() approval.Policy { return r.target.Approvals.For(r.doc.Procedure) }

// AsksPeople reports whether the configuration wants signatures, or more than one person, for the run's plans.
func (r *Run) AsksPeople() bool {
	p := r.approvals()
	return p.Signed || p.Quorum > 1
}

// ApproveBy stores a plan and approves it at once: by is what of the operator's configuration says so, and reason
// why it is asked.
func (r *Run) ApproveBy(by, reason, words string, plan any) error {
	a, err := r.storePlan(words, plan)
	if err != nil {
		return err
	}
	at := r.begin(Step{Name: "Approve the plan, as the configuration says"})
	a.AskedAt, a.DecidedAt, a.ExpiresAt = r.Now(), r.Now(), r.Now().Add(approvedFor)
	a.Decision, a.By, a.Reason, a.Policy = run.Approved, by, reason, true
	r.doc.Approval = a
	r.note(audit.Entry{Kind: audit.Decision, What: run.ApproveUpdate, Args: a.Hash, By: by, Reason: reason})
	r.finish(at, run.Pass, fmt.Sprintf("approved by %s (%s)", a.Who(), reason))
	r.show()
	return nil
}

// storePlan stores a plan that is to be decided on.
func (r *Run) storePlan(words string, plan any) (*run.Approval, error) {
	data, err := json.Marshal(plan) // fields in their order, maps sorted: the same plan has the same bytes
	if err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	sum := sha256.Sum256(data)
	a := &run.Approval{Plan: data, Hash: hex.EncodeToString(sum[:]), Words: words}
	err = r.Do(Step{Name: "Store the plan", Activity: store.WritePlan, Options: Quick}, store.PlanRecord{Store: r.target.Store, RunID: r.ID(), Hash: a.Hash, Plan: data}, &a.Stored)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.plans, a.Hash) { // asked for again, it may be the same
		r.plans = append(r.plans, a.Hash)
	}
	return a, nil
}

// Approved reports whether the approval of the newest plan still stands.
func (r *Run) Approved() bool {
	a := r.doc.Approval
	return a != nil && a.Decision == run.Approved && r.Now().Before(a.ExpiresAt)
}

// Decision is the newest plan that was asked for, and what was decided on it.
func (r *Run) Decision() run.Approval { return *r.doc.Approval }

// Rejected reports whether a person has rejected the newest plan, rather than that nobody has decided on it.
func (r *Run) Rejected() bool {
	return r.doc.Approval != nil && r.doc.Approval.Decision == run.Rejected
}

// onPlan registers an update that decides on a plan.
func (r *Run) onPlan(name, decision string) error {
	return workflow.SetUpdateHandlerWithOptions(r.ctx, name,
		func(_ workflow.Context, d run.PlanDecision) error {
			decided, err := r.judge(decision, d)
			if err != nil {
				return err
			}
			r.decide(name, decided)
			return nil
		},
		workflow.UpdateHandlerOptions{
			Description: map[string]string{run.Approved: "Approve the plan that the run waits with, by its hash.", run.Rejected: "Reject the plan that the run waits with, by its hash."}[decision],
			Validator: func(d run.PlanDecision) error {
				_, err := r.judge(decision, d)
				return err
			},
		})
}

// judge is a decision as the run takes it, or says why it does not.
func (r *Run) judge(decision string, d run.PlanDecision) (run.Decided, error) {
	policy := r.approvals()
	switch {
	case !r.asks:
		return run.Decided{}, fmt.Errorf("the run does not wait for an approval: it is %s", r.doc.Outcome)
	case d.Plan != r.doc.Approval.Hash:
		return run.Decided{}, fmt.Errorf("its plan has the hash %s, and not %.64q: look at it again", r.doc.Approval.Hash, d.Plan)
	case strings.TrimSpace(d.By) == "" && !policy.Signed || d.Reason == "" || len(d.By) > maxDecision || len(d.Reason) > maxDecision:
		return run.Decided{}, errors.New("a decision needs who (by) and why (reason), each of at most 1000 bytes")
	}
	decided, err := policy.Judge(r.doc, decision, d, r.Now())
	if err != nil {
		e := describe(err)
		return decided, temporal.NewApplicationErrorWithOptions(err.Error(), e.Code, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{e}})
	}
	return decided, nil
}

// decide takes a decision. One person rejects; to approve it takes as many as the policy wants.
func (r *Run) decide(update string, d run.Decided) {
	a := r.doc.Approval
	a.Decisions = append(a.Decisions, d)
	noted := audit.Entry{Kind: audit.Decision, What: update, Args: d.Plan, By: d.By, Reason: d.Reason}
	if d.Key != "" {
		noted.Signed = &audit.Signed{Key: d.Key, Message: d.Message, Signature: d.Signature}
	}
	r.note(noted)
	by := []run.Decided{d}
	if d.Decision == run.Approved {
		if a.Missing() > 0 {
			r.doc.WaitingFor = asksFor(a)
			r.show()
			return
		}
		by = a.Approvals()
	}
	a.By, a.Reason = together(by)
	a.DecidedAt, a.Decision = d.At, d.Decision
	r.asks = false
}

// together is who decided and why, of one person or of several.
func together(all []run.Decided) (by, reason string) {
	if len(all) == 1 {
		return all[0].By, all[0].Reason
	}
	var reasons []string
	for _, d := range all {
		reasons = append(reasons, d.By+": "+d.Reason)
	}
	return cut(run.Names(all)), cut(strings.Join(reasons, "; "))
}

// cut bounds what several people wrote as what one may write; each decision has all of its own.
func cut(text string) string {
	if len(text) <= maxDecision {
		return text
	}
	return strings.ToValidUTF8(text[:maxDecision-3], "") + "..."
}
