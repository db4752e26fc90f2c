// Package rotatesecret is the contract of the procedure RotateSecret.
package rotatesecret

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RotateSecret"

// Purpose is one line for people.
const Purpose = "Rotate a database password: a second role beside the first, its login proven, the consumers restarted with it, the old one withdrawn when its sessions are gone; undone until then."

// Input of RotateSecret.
type Input struct {
	run.Common
	// Secret is the name of one of the target's secrets in the configuration; may be left out when there is
	// only one. A Secret's key that is none of them, as Secret/key, is refused with the reason.
	Secret string `json:"secret,omitempty"`
	// Wait is how many minutes the restarts, and then the old sessions, are each given; 5 when left out, at
	// most 1440.
	Wait int `json:"wait,omitempty"`
	// EndSessions has sessions of the old role that stay longer ended. Left out, the run waits for a person.
	EndSessions bool `json:"endSessions,omitempty"`
}

// Result of RotateSecret.
type Result struct {
	Secret    string      `json:"secret"` // of the configuration
	Object    string      `json:"object"` // the Secret in the cluster
	Keys      []string    `json:"keys"`   // that were written, no others
	From      string      `json:"from"`   // the role that logged in before
	To        string      `json:"to"`     // the role that logs in now; the same where there is no overlap
	Overlap   bool        `json:"overlap"`
	Verdict   run.Verdict `json:"verdict"`
	Checks    []run.Check `json:"checks"`
	Consumers []string    `json:"consumers"` // that were restarted
	Others    []string    `json:"others,omitempty"`
	Untouched []Untouched `json:"untouched,omitempty"`
	Remarks   []string    `json:"remarks,omitempty"`
	Proposed  []string    `json:"proposed,omitempty"` // what a person would do instead, where others own what would be changed
	Ended     int         `json:"ended,omitempty"`    // sessions of the old role, by the run
	Withdrawn bool        `json:"withdrawn"`          // the old password lets nobody in any more
	// OverlapSeconds is how long both were good: from the switch to the withdrawal.
	OverlapSeconds float64 `json:"overlapSeconds,omitempty"`
}

// Untouched is a key of the same Secret that is not rotated, and why.
type Untouched struct {
	Key string `json:"key"`
	Why string `json:"why"`
}
