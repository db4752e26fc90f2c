// Package recoverdata is the contract of the procedure RecoverData.
package recoverdata

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RecoverData"

// Purpose is one line for people.
const Purpose = "After a loss of data: stop what uses the database, put a proven backup in its place, keep what was, check it, and start everything as it was."

// Input of RecoverData.
type Input struct {
	run.Common
	// Backup is a backup's id, "latest", or "proven" (the default): the newest whose newest comparison was
	// PASS.
	Backup string `json:"backup,omitempty"`
	// Confirm is the name of the live database, written out. Always needed.
	Confirm string `json:"confirm,omitempty"`
	// Clients are the workloads to stop, in the order in which they are started again: Kind/name, with
	// commas between. Those of the configuration, or else found by their sessions, when left out.
	Clients string `json:"clients,omitempty"`
}

// Result of RecoverData.
type Result struct {
	BackupID string      `json:"backupId"`
	Database string      `json:"database"`
	Rows     int64       `json:"rows"`
	Verdict  run.Verdict `json:"verdict"`
	Checks   []run.Check `json:"checks"`

	Kept           string   `json:"kept,omitempty"`     // the name of the database that was replaced
	Clients        []string `json:"clients"`            // that were stopped, and what they had
	Remarks        []string `json:"remarks,omitempty"`  // what somebody changed meanwhile, and what could not be stopped
	Proposed       []string `json:"proposed,omitempty"` // what a person would do instead, where others own the clients
	Ended          int      `json:"ended,omitempty"`    // sessions of the live database, by the swap
	StoppedSeconds float64  `json:"stoppedSeconds,omitempty"`
}
