// Package verifybackup is the contract of the procedure VerifyBackup.
package verifybackup

import "github.com/upkeep-run/upkeep/api/run"

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "VerifyBackup"

// Purpose is one line for people.
const Purpose = "Check a backup: its stored bytes, its decoded rows, or a whole restore beside that is compared."

// Grade says how deep to look.
type Grade string

// The grades, each including the one before.
const (
	Stored   Grade = "stored"   // every file against its recorded size and checksum
	Decoded  Grade = "decoded"  // every chunk unpacked; rows counted and hashed
	Restored Grade = "restored" // restored into a scratch server and compared: the only one that proves
)

// Latest names the newest backup of the target.
const Latest = "latest"

// Input of VerifyBackup.
type Input struct {
	run.Common
	// Backup is a backup's id or "latest" (the default).
	Backup string `json:"backup,omitempty"`
	// Grade is "stored", "decoded" or "restored" (the default).
	Grade Grade `json:"grade,omitempty"`
}

// Result of VerifyBackup.
type Result struct {
	BackupID string      `json:"backupId"`
	Grade    Grade       `json:"grade"`
	Verdict  run.Verdict `json:"verdict"`
	Checks   []run.Check `json:"checks"`
}
