// Package drillrecovery is the contract of the procedure DrillRecovery.
package drillrecovery

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "DrillRecovery"

// Purpose is one line for people.
const Purpose = "Prove that the database can be brought back: back it up, restore it beside, compare everything."

// Input of DrillRecovery.
type Input struct {
	run.Common
	// Backup is a backup's id or "latest"; a fresh backup is taken when left out.
	Backup string `json:"backup,omitempty"`
}

// Result of DrillRecovery.
type Result struct {
	BackupID     string      `json:"backupId"`
	Verdict      run.Verdict `json:"verdict"`
	DrillSeconds float64     `json:"drillSeconds"` // from the first to the last step
	BackupSecs   float64     `json:"backupSeconds"`
	RestoreSecs  float64     `json:"restoreSeconds"` // what a real recovery would have taken to the last valid constraint
	Rows         int64       `json:"rows"`
	BytesRead    int64       `json:"bytesRead"`
	BytesStored  int64       `json:"bytesStored"`
	Checks       []run.Check `json:"checks"`
	Scope        string      `json:"scope,omitempty"` // what the backup holds and what not, for people
}
