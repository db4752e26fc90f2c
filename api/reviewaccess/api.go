// Package reviewaccess is the contract of the procedure ReviewAccess.
package reviewaccess

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "ReviewAccess"

// Purpose is one line for people.
const Purpose = "Review who may do what in the target's namespace and who can come to more, against a signed baseline."

// What is done about the baseline.
const (
	Compare = "compare" // hold the review against it
	Propose = "propose" // ask a person to accept the present state as the new one
)

// Input of ReviewAccess.
type Input struct {
	run.Common
	// Baseline is compare or propose; when left out, propose where there is none yet, and else compare.
	Baseline string `json:"baseline,omitempty"`
}

// Result of ReviewAccess.
type Result struct {
	Verdict   run.Verdict `json:"verdict"`
	Scope     string      `json:"scope"`
	Checks    []run.Check `json:"checks"` // what was found, the gravest first, as much as a page holds
	Subjects  int         `json:"subjects"`
	Grants    int         `json:"grants"`
	Roles     int         `json:"roles"`
	Critical  int         `json:"criticalRisks"`
	High      int         `json:"highRisks"`
	Lower     int         `json:"lowerRisks"`
	Paths     int         `json:"paths"`
	Added     int         `json:"addedSinceBaseline"`
	Other     int         `json:"otherSinceBaseline"` // changes by which nobody may do more
	Unread    []string    `json:"unread,omitempty"`   // what may not be read
	Grant     string      `json:"grant,omitempty"`    // the command that lets it be read
	Review    string      `json:"review"`             // URL of the whole review
	SHA256    string      `json:"reviewSha256"`       // of its file
	Baseline  string      `json:"baseline,omitempty"` // that it was held against, in words
	Accepted  string      `json:"accepted,omitempty"` // SHA-256 of the file of the baseline that counts at the end
	Namespace string      `json:"namespace"`
}

// Plan is what a person approves: that a review becomes the baseline. It is applied as it stands.
type Plan struct {
	Version  int      `json:"version"`
	Target   string   `json:"target"`
	Review   string   `json:"review"`   // SHA-256 of the review's file
	Replaces string   `json:"replaces"` // SHA-256 of the file of the baseline that it replaces; empty for the first
	Subjects int      `json:"subjects"`
	Grants   int      `json:"grants"`
	Critical int      `json:"criticalRisks"`
	High     int      `json:"highRisks"`
	Paths    int      `json:"paths"`
	Unread   []string `json:"unread,omitempty"`
}
