// Package recoverservice is the contract of the procedure RecoverService.
package recoverservice

import (
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RecoverService"

// Purpose is one line for people.
const Purpose = "Bring the target's service back with the least step that works: restart, rollout, recreation, a cleared lock, a rollback; never of data."

// Input of RecoverService.
type Input struct {
	run.Common
	// UpTo is the last step that may be taken: restart, rollout, recreate, clear or rollback (the default).
	UpTo string `json:"upTo,omitempty"`
	// Wait is how many minutes each step is given to show that it helped; 5 when left out, at most 120.
	Wait int `json:"wait,omitempty"`
}

// Result of RecoverService.
type Result struct {
	Release  string      `json:"release"`
	Revision int         `json:"revision"` // of the release, at the end
	Verdict  run.Verdict `json:"verdict"`  // of the service's health, at the end
	// ReadinessOnly says that the target has no probes, so that the verdict is of readiness alone.
	ReadinessOnly bool     `json:"readinessOnly,omitempty"`
	Before        []string `json:"before"` // what was wrong when the run began
	After         []string `json:"after"`  // what is wrong at the end
	Taken         []Taken  `json:"taken"`
	Next          string   `json:"next,omitempty"`    // in a dry run: the step that would be taken first
	Skipped       []string `json:"skipped,omitempty"` // steps that could not help, and why
	Person        []string `json:"person,omitempty"`  // what a person must see to
	// Proposed are steps that were not taken, since others own what they change, and how a person takes them.
	Proposed   []string  `json:"proposed,omitempty"`
	Suspended  []string  `json:"suspended,omitempty"` // owners that were kept from acting meanwhile
	Remarks    []string  `json:"remarks,omitempty"`   // what somebody changed of them meanwhile
	OutageSeen time.Time `json:"outageSeen,omitzero"`
	HealthyAt  time.Time `json:"healthyAt,omitzero"`
}

// Taken is a step that was taken.
type Taken struct {
	Step   string    `json:"step"` // the rung
	What   string    `json:"what"` // and why
	At     time.Time `json:"at"`
	Helped bool      `json:"helped"` // health was proven after it
	Error  string    `json:"error,omitempty"`
}
