package procedure

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
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
func (r *Run) Approve(words string, plan any) error {
	data, err := json.Marshal(plan) // fields in their order, maps sorted: the same plan has the same bytes
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	sum := sha256.Sum256(data)
	a := &run.Approval{Plan: data, Hash: hex.EncodeToString(sum[:]), Words: words}
	err = r.Do(Step{Name: "Store the plan", Activity: store.WritePlan, Options: Quick}, store.PlanRecord{Store: r.target.Store, RunID: r.ID(), Hash: a.Hash, Plan: data}, &a.Stored)
	if err != nil {
		return err
	}
	if !slices.Contains(r.plans, a.Hash) { // asked for again, it may be the same
		r.plans = append(r.plans, a.Hash)
	}
	at := r.begin(Step{Name: "Wait for an approval of the plan"})
	a.AskedAt, a.ExpiresAt = r.Now(), r.Now().Add(askedFor)
	r.doc.Approval = a
	r.doc.Outcome = run.Waiting
	r.doc.WaitingFor = fmt.Sprintf("an approval of its plan %.12s: %s", a.Hash, words)
	r.choice, r.asks = nil, true
	r.show()
	decided, err := workflow.AwaitWithTimeout(r.ctx, askedFor, func() bool { return r.choice != nil || a.Decision != "" })
	r.asks = false
	r.doc.Outcome, r.doc.WaitingFor = run.Running, ""
	switch {
	case err != nil: // cancelled
	case r.choice != nil:
		r.abandon = &r.choice.by
		err = errAbandoned
	case !decided:
		err = failure.New(failure.NotApproved, "nobody decided on the plan %.12s within %s", a.Hash, askedFor).Do("start the run again")
	case a.Decision == run.Rejected:
		err = failure.New(failure.NotApproved, "the plan %.12s was rejected by %s (%s)", a.Hash, a.By, a.Reason).Do("see to the reason, then start the run again")
	default:
		a.ExpiresAt = a.DecidedAt.Add(approvedFor)
		r.finish(at, run.Pass, fmt.Sprintf("approved by %s, as claimed (%s)", a.By, a.Reason))
		return nil
	}
	r.finish(at, run.NotProven, "")
	return err
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
			a := r.doc.Approval
			a.By, a.Reason, a.DecidedAt, a.Decision = d.By, d.Reason, r.Now(), decision
			r.asks = false
			r.note(audit.Entry{Kind: audit.Decision, What: name, Args: d.Plan, By: d.By, Reason: d.Reason})
			return nil
		},
		workflow.UpdateHandlerOptions{
			Description: map[string]string{run.Approved: "Approve the plan that the run waits with, by its hash.", run.Rejected: "Reject the plan that the run waits with, by its hash."}[decision],
			Validator: func(d run.PlanDecision) error {
				switch {
				case !r.asks:
					return fmt.Errorf("the run does not wait for an approval: it is %s", r.doc.Outcome)
				case d.Plan != r.doc.Approval.Hash:
					return fmt.Errorf("its plan has the hash %s, and not %.64q: look at it again", r.doc.Approval.Hash, d.Plan)
				case d.By == "" || d.Reason == "" || len(d.By) > maxDecision || len(d.Reason) > maxDecision:
					return errors.New("a decision needs who (by) and why (reason), each of at most 1000 bytes")
				}
				return nil
			},
		})
}
