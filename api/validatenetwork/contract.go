// Package validatenetwork is the contract of the procedure ValidateNetwork.
package validatenetwork

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "ValidateNetwork"

// Purpose is one line for people.
const Purpose = "Check who reaches whom in the target's namespace: by its NetworkPolicies, by what the configuration expects, and by trying it from pods of Upkeep's own."

// Input of ValidateNetwork.
type Input struct {
	run.Common
}

// Result of ValidateNetwork.
type Result struct {
	Verdict  run.Verdict `json:"verdict"`
	Pods     int         `json:"pods"`     // that were looked at
	Policies int         `json:"policies"` // that were read
	// Foreign are policies of kinds that Upkeep cannot read, which may have a say.
	Foreign []string `json:"foreign,omitempty"`
	// Matrix is who comes through to each port that a workload declares, by the policies.
	Matrix []Row `json:"matrix"`
	// Connections are those that were tried, or would be.
	Connections []Connection `json:"connections"`
	// Checks are the same, for people.
	Checks  []run.Check `json:"checks"`
	Probes  []string    `json:"probes,omitempty"`  // whose labels the pods had, or would have, that tried
	LeftOut []string    `json:"leftOut,omitempty"` // what was not looked at, and why
}

// Row is who comes through to one port of a workload, by the policies.
type Row struct {
	To      string   `json:"to"`
	Port    string   `json:"port"`
	Allowed []string `json:"allowed,omitempty"`
	Unknown []string `json:"unknown,omitempty"`
	Denied  []string `json:"denied,omitempty"`
}

// Connection is one, as it should be, as the policies say, and as it was seen.
type Connection struct {
	Name string `json:"name,omitempty"` // of the expectation, where the configuration has one
	From string `json:"from"`
	To   string `json:"to"`
	Port string `json:"port"`
	Want string `json:"want"` // allowed or denied
	// ByPolicies is allowed, denied or unknown, and Because what it comes from.
	ByPolicies string      `json:"byPolicies"`
	Because    []string    `json:"because,omitempty"`
	Seen       string      `json:"seen"` // reached, blocked or unknown
	Why        string      `json:"why,omitempty"`
	Verdict    run.Verdict `json:"verdict"`
}
