// Package restoredatabase is the contract of the procedure RestoreDatabase.
package restoredatabase

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RestoreDatabase"

// Purpose is one line for people.
const Purpose = "Restore a backup beside the original, on the target's own server, and compare it; if that is written out, put it in the original's place."

// Modes of a restore.
const (
	Beside  = "beside"  // into a new database
	Replace = "replace" // beside, and after an approval in the place of the live database, which is kept under another name
)

// Input of RestoreDatabase.
type Input struct {
	run.Common
	// Backup is a backup's id or "latest" (the default).
	Backup string `json:"backup,omitempty"`
	// Database is the name of the new database; it must not exist. Generated when left out. Not with
	// mode replace.
	Database string `json:"database,omitempty"`
	// Mode is "beside" (the default) or "replace".
	Mode string `json:"mode,omitempty"`
	// Confirm is the name of the live database, written out; only with mode replace.
	Confirm string `json:"confirm,omitempty"`
}

// Result of RestoreDatabase.
type Result struct {
	BackupID string      `json:"backupId"`
	Database string      `json:"database"`
	Rows     int64       `json:"rows"`
	Verdict  run.Verdict `json:"verdict"` // of the comparison of the new database with the backup
	Checks   []run.Check `json:"checks"`

	Kept          string  `json:"kept,omitempty"`          // the name of the database that was replaced
	ClosedSeconds float64 `json:"closedSeconds,omitempty"` // the live database was closed to new sessions, at most
	Ended         int     `json:"ended,omitempty"`         // sessions of the live database
}
