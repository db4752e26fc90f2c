// Package run holds what every procedure has in common: the document that says
// how a run stands, its updates and queries, and its task queues.
package run

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Outcome is how a run stands or ended.
type Outcome string

// The outcomes; Running and Waiting until one of the others.
const (
	Running            Outcome = "Running"
	Waiting            Outcome = "Waiting"
	Succeeded          Outcome = "Succeeded"
	PartiallySucceeded Outcome = "PartiallySucceeded"
	Failed             Outcome = "Failed"
	Refused            Outcome = "Refused"
	Cancelled          Outcome = "Cancelled"
)

// Ended reports whether the outcome is final.
func (o Outcome) Ended() bool { return o != Running && o != Waiting && o != "" }

// Verdict is the answer of a check. What could not run never passes.
type Verdict string

// The verdicts.
const (
	Pass      Verdict = "PASS"
	Fail      Verdict = "FAIL"
	NotProven Verdict = "NOT_PROVEN"
)

// And is the verdict of two checks together: FAIL where either failed, PASS where both passed.
func (v Verdict) And(other Verdict) Verdict {
	switch {
	case v == Fail || other == Fail:
		return Fail
	case v == Pass && other == Pass:
		return Pass
	}
	return NotProven
}

// Document says how a run stands. It is the answer of the Status query, of
// "upkeep show" and "upkeep run --wait", the workflow's result (or the details of its
// failure), and what is left in the store.
type Document struct {
	RunID      string          `json:"runId"` // the workflow's id
	Procedure  string          `json:"procedure"`
	Target     string          `json:"target"`
	Outcome    Outcome         `json:"outcome"`
	Summary    string          `json:"summary"`            // one or two sentences for people
	WaitingFor string          `json:"waitingFor"`         // why it waits: when Waiting, for a person, and what to do; when Running, for its turn
	Steps      []Step          `json:"steps"`              // in the order they began
	Report     string          `json:"report"`             // URL of the report; empty until written
	Result     json.RawMessage `json:"result"`             // the procedure's own result, by name; {} until known
	Error      *Error          `json:"error,omitempty"`    // why it Failed or was Refused
	Approval   *Approval       `json:"approval,omitempty"` // of the newest plan that was to be approved
	Audit      *Audit          `json:"audit,omitempty"`    // how the run's audit trail stands
	DryRun     bool            `json:"dryRun,omitempty"`   // nothing was changed
	Left       []string        `json:"left,omitempty"`     // what the run could not clear away, by name
}

// Audit is how a run's audit trail stands: what the trail in the store is held against.
type Audit struct {
	Entries int    `json:"entries"`
	Head    string `json:"head"` // hash of the newest entry, hex
	// Checkpoint is the one over the trail; it is in the run's history, and not in the document that it covers.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
}

// Checkpoint names a checkpoint of the audit trail.
type Checkpoint struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"` // of its file, hex
}

// AsksApproval reports whether the run waits until a person has decided on its plan.
func (d Document) AsksApproval() bool {
	return d.Outcome == Waiting && d.Approval != nil && d.Approval.Decision == ""
}

// Approval is a plan that a person decides on, and the decision.
type Approval struct {
	Plan      json.RawMessage `json:"plan"`             // as it is applied; null where it is too large to be shown without a worker
	Hash      string          `json:"hash"`             // SHA-256 of the plan's bytes, hex: what is approved
	Words     string          `json:"words"`            // what the plan would do, for people
	Stored    string          `json:"stored,omitempty"` // URL of the plan in the store
	AskedAt   time.Time       `json:"askedAt"`
	ExpiresAt time.Time       `json:"expiresAt"`          // of the question; once it is approved, of the approval
	Quorum    int             `json:"quorum,omitempty"`   // how many different people must approve; one may reject
	Signed    bool            `json:"signed,omitempty"`   // each decision is signed, with a key of the configuration
	Decision  string          `json:"decision,omitempty"` // Approved, Rejected, or nothing yet
	By        string          `json:"by,omitempty"`       // all whose decisions made it, as claimed unless Signed
	Reason    string          `json:"reason,omitempty"`
	DecidedAt time.Time       `json:"decidedAt,omitzero"`
	Decisions []Decided       `json:"decisions,omitempty"` // on this question, in their order
	Policy    bool            `json:"policy,omitempty"`    // the operator's configuration approved it, and no person
}

// HasPlan reports whether the plan itself is there.
func (a *Approval) HasPlan() bool { return len(a.Plan) > 0 && string(a.Plan) != "null" }

// Decided is a person's decision on a plan.
type Decided struct {
	Decision  string    `json:"decision"` // Approved or Rejected
	By        string    `json:"by"`       // as claimed, or whose key has signed
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	Plan      string    `json:"plan"`                // the plan's hash
	Key       string    `json:"key,omitempty"`       // fingerprint of the key that signed
	Message   string    `json:"message,omitempty"`   // what was signed
	Signature string    `json:"signature,omitempty"` // as ssh-keygen -Y verify reads it
}

// Approvals are those who have approved the plan, in their order.
func (a Approval) Approvals() (by []Decided) {
	for _, d := range a.Decisions {
		if d.Decision == Approved {
			by = append(by, d)
		}
	}
	return by
}

// Signers are the fingerprints of the keys by which the plan was approved; none where it is not signed.
func (a Approval) Signers() (keys []string) {
	for _, d := range a.Approvals() {
		if d.Key != "" {
			keys = append(keys, d.Key)
		}
	}
	return keys
}

// Missing is how many must still approve.
func (a Approval) Missing() int { return max(a.Quorum, 1) - len(a.Approvals()) }

// Stand says how far the approvals of a plan have come.
func (a Approval) Stand() string {
	by := a.Approvals()
	text := fmt.Sprintf("%d of %d approved", len(by), max(a.Quorum, 1))
	if len(by) > 0 {
		text += " by " + Names(by)
		if !a.Signed {
			text += ", as claimed"
		}
	}
	switch left := a.Missing(); {
	case left == 1:
		text += "; waits for one more"
	case left > 1:
		text += fmt.Sprintf("; waits for %d more", left)
	}
	return text
}

// Who names those who decided, and by what they are known.
func (a Approval) Who() string {
	if a.Policy {
		return a.By + ", by the configuration"
	}
	if a.Signed {
		return a.By + ", by signature"
	}
	return a.By + ", as claimed"
}

// Names are those of the people who decided.
func Names(all []Decided) string {
	var names []string
	for _, d := range all {
		names = append(names, d.By)
	}
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + " and " + names[last]
	}
	return strings.Join(names, "")
}

// Decisions on a plan.
const (
	Approved = "approved"
	Rejected = "rejected"
)

// Step is one step of a run.
type Step struct {
	Name    string  `json:"name"`    // in words: "Copy rows into the scratch server"
	Verdict Verdict `json:"verdict"` // of the step's check; PASS when it did what it says; "" while it runs
	Seconds float64 `json:"seconds"`
	Detail  string  `json:"detail,omitempty"` // what was found, in a sentence
}

// Check is one thing that was verified.
type Check struct {
	Name     string  `json:"name"`
	Verdict  Verdict `json:"verdict"`
	Detail   string  `json:"detail"`             // what was compared and what was found, bounded in length
	Optional bool    `json:"optional,omitempty"` // NOT_PROVEN of an optional check does not stand against a PASS
}

// Error is the machine-readable reason of a Failed or Refused run.
type Error struct {
	Code   string `json:"code"`  // from the error catalogue, e.g. "UnknownTarget"
	Class  string `json:"class"` // e.g. "NotFound"
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// Common are the input fields of every procedure.
type Common struct {
	// Target names the stack to work on; may be left out when the configuration has only one.
	Target string `json:"target,omitempty"`
	// DryRun computes and reports the plan and changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// CommonFields lets what every procedure shares find the common fields of any procedure's input.
func (c *Common) CommonFields() *Common { return c }

// Names of the query and the updates that every run answers.
const (
	StatusQuery   = "Status"  // → Document
	RetryUpdate   = "Retry"   // a parked run tries again
	AbandonUpdate = "Abandon" // a parked run gives up and undoes
	ApproveUpdate = "Approve" // PlanDecision: the plan is applied
	RejectUpdate  = "Reject"  // PlanDecision: the run gives up and undoes
)

// Decision is the argument of Retry and Abandon.
type Decision struct {
	By     string `json:"by,omitempty"`     // who says so; taken as claimed
	Reason string `json:"reason,omitempty"` // why
}

// PlanDecision is the argument of Approve and Reject.
type PlanDecision struct {
	Plan   string `json:"plan"`   // the plan's hash
	By     string `json:"by"`     // who says so; taken as claimed, and to be left out where it is signed
	Reason string `json:"reason"` // why
	// Signature is of OpenSSH's making, and of what "upkeep approve --print" prints; where the approval is Signed.
	Signature string `json:"signature,omitempty"`
}

// MemoDocument is the memo field that holds the newest Document, so that a run can be
// shown without a worker.
const MemoDocument = "upkeep"

// FailureDocument is the type of the failure that carries a Document in its details.
const (
	FailureFailed  = "Failed"
	FailureRefused = "Refused"
)

// Task queues, one per capability.
const (
	WorkflowQueue = "upkeep-workflows"
	DatabaseQueue = "upkeep-database"
	ClusterQueue  = "upkeep-cluster"
	CodeQueue     = "upkeep-code"
)

// Search attributes.
const (
	AttrTarget    = "UpkeepTarget"
	AttrProcedure = "UpkeepProcedure"
	AttrPhase     = "UpkeepPhase"
	AttrOutcome   = "UpkeepOutcome"
	AttrDryRun    = "UpkeepDryRun"
)

// AttributeTypes are the types of the search attributes, as Temporal names them.
func AttributeTypes() map[string]string {
	return map[string]string{AttrTarget: "Keyword", AttrProcedure: "Keyword", AttrPhase: "Keyword", AttrOutcome: "Keyword", AttrDryRun: "Bool"}
}
