// Package restoredatabase is the contract of the procedure RestoreDatabase.
package restoredatabase

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RestoreDatabase"

// Purpose is one line for people.
const Purpose = "Restore a backup into a new database beside the original, on the target's own server, and compare it."

// Input of RestoreDatabase.
type Input struct {
	run.Common
	// Backup is a backup's id or "latest" (the default).
	Backup string `json:"backup,omitempty"`
	// Database is the name of the new database; it must not exist. Generated when left out.
	Database string `json:"database,omitempty"`
}

// Result of RestoreDatabase.
type Result struct {
	BackupID string      `json:"backupId"`
	Database string      `json:"database"`
	Rows     int64       `json:"rows"`
	Verdict  run.Verdict `json:"verdict"` // of the comparison of the new database with the backup
	Checks   []run.Check `json:"checks"`
}
