// Package containincident is the contract of the procedure ContainIncident.
package containincident

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "ContainIncident"

// Purpose is one line for people.
const Purpose = "In a security incident: cut the suspect pods off at once and nobody else, keep signed evidence, wait until people decide, then delete the pods or let go of them."

// Severities of an incident.
var Severities = []string{"low", "medium", "high", "critical"}

// Input of ContainIncident.
type Input struct {
	run.Common
	// Reason says what is suspected. Always needed.
	Reason string `json:"reason,omitempty"`
	// Severity is one of Severities; high when left out.
	Severity string `json:"severity,omitempty"`
	// Event is the id of what was reported. However often it comes, it is one case.
	Event string `json:"event,omitempty"`
	// Pods are suspects by their names, or namespace/name, with commas between.
	Pods string `json:"pods,omitempty"`
	// Workload is a suspect as Kind/name, with all of its pods.
	Workload string `json:"workload,omitempty"`
	// Node is a suspect with all of its pods in the target's namespaces. It is cordoned.
	Node string `json:"node,omitempty"`
	// ServiceAccount is a suspect with all pods that use it.
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Image is a suspect, by its name or digest, with all pods that run it.
	Image string `json:"image,omitempty"`
	// Access is what becomes of what the suspects' service accounts are granted: Show or Withdraw. Left out, it is shown.
	Access string `json:"access,omitempty"`
	// GiveAccessBack gives the accounts back what was withdrawn also when the pods are deleted; let go of, they get it
	// back in any case.
	GiveAccessBack bool `json:"giveAccessBack,omitempty"`
	// RecreateAccount has the suspects' service accounts deleted and made again once the pods are deleted: every token
	// of them ends, also those of other pods.
	RecreateAccount bool `json:"recreateAccount,omitempty"`
	// Rotate names the target's secrets that are rotated once the pods are deleted, with commas between.
	Rotate string `json:"rotate,omitempty"`
}

// What becomes of the suspects' access.
const (
	Show     = "show"
	Withdraw = "withdraw"
)

// Accesses are all of them.
var Accesses = []string{Show, Withdraw}

// Case is the id of the incident's case: the same for the same event, or without one for the same suspects.
func (in Input) Case(target string) string {
	parts := []string{target, in.Event}
	if in.Event == "" {
		parts = append(parts, in.Pods, in.Workload, in.Node, in.ServiceAccount, in.Image)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// How a case ends.
const (
	Deleted  = "deleted"  // the pods are gone
	Released = "released" // they were let go of
)

// Result of ContainIncident.
type Result struct {
	Case     string      `json:"case"`
	Severity string      `json:"severity"`
	Reason   string      `json:"reason"`
	Verdict  run.Verdict `json:"verdict"`
	Checks   []run.Check `json:"checks"`

	Contained    []string `json:"contained"`              // pods that were cut off
	NotContained []string `json:"notContained,omitempty"` // suspects that were not, why, and what a person may do
	Narrowed     []string `json:"narrowed,omitempty"`     // policies from which they were excepted
	Foreign      []string `json:"foreign,omitempty"`      // policies of other kinds, which may let them through
	Gaps         []string `json:"gaps,omitempty"`         // what could not be seen
	Remarks      []string `json:"remarks,omitempty"`      // what stays undone, and what somebody has changed

	Withdrawn []string `json:"withdrawn,omitempty"` // bindings out of which the suspects' accounts were taken
	Renewed   []string `json:"renewed,omitempty"`   // accounts that were made anew
	Rotated   []string `json:"rotated,omitempty"`   // secrets that were rotated

	Evidence       string `json:"evidence,omitempty"` // URL of its folder
	EvidenceHead   string `json:"evidenceHead,omitempty"`
	EvidenceItems  int    `json:"evidenceItems,omitempty"`
	EvidenceGaps   int    `json:"evidenceGaps,omitempty"`
	EvidenceBytes  int64  `json:"evidenceBytes,omitempty"`
	EvidenceSealed bool   `json:"evidenceSealed,omitempty"` // encrypted, for the readers of the target's backups

	// Urgent is what cannot wait, such as connections that live on, as they were last seen.
	Urgent []string `json:"urgent,omitempty"`

	OpenedAt    time.Time `json:"openedAt,omitzero"`
	ContainedAt time.Time `json:"containedAt,omitzero"`
	EvidenceAt  time.Time `json:"evidenceAt,omitzero"`
	ProvedAt    time.Time `json:"provedAt,omitzero"`  // all that can be tried had been tried, whatever came of it
	DecidedAt   time.Time `json:"decidedAt,omitzero"` // by people, last
	EndedAt     time.Time `json:"endedAt,omitzero"`
	RecoveredAt time.Time `json:"recoveredAt,omitzero"`

	// Times in seconds, all from the start of the run: until policies and labels were accepted, until what can be
	// tried had been tried, until the evidence was signed, until people had last decided, until the suspects were
	// deleted or let go of, and until the service was healthy.
	ContainSeconds  float64 `json:"containSeconds,omitempty"`
	ProveSeconds    float64 `json:"proveSeconds,omitempty"`
	EvidenceSeconds float64 `json:"evidenceSeconds,omitempty"`
	DecideSeconds   float64 `json:"decideSeconds,omitempty"`
	EndSeconds      float64 `json:"endSeconds,omitempty"`
	RecoverSeconds  float64 `json:"recoverSeconds,omitempty"`

	Decisions []string `json:"decisions,omitempty"` // of people, with the hashes of what they decided on
	Ended     string   `json:"ended,omitempty"`     // Deleted or Released
	FollowUps []string `json:"followUps,omitempty"` // what a person must see to
	Lessons   string   `json:"lessons,omitempty"`   // for people to fill in
}
