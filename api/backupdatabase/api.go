// Package backupdatabase is the contract of the procedure BackupDatabase.
package backupdatabase

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "BackupDatabase"

// Purpose is one line for people.
const Purpose = "Take a consistent, checked, incremental backup of the target's database into the store."

// Input of BackupDatabase.
type Input struct {
	run.Common
}

// Result of BackupDatabase.
type Result struct {
	BackupID    string `json:"backupId"`
	Rows        int64  `json:"rows"`
	BytesRead   int64  `json:"bytesRead"`   // COPY text, schema and large objects that were read
	BytesStored int64  `json:"bytesStored"` // new bytes that the backup added to the store
}
