// Package prunebackups is the contract of the procedure PruneBackups.
package prunebackups

import (
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "PruneBackups"

// Purpose is one line for people.
const Purpose = "Remove the backups that the target's retention does not keep, and the chunks that no backup needs."

// Input of PruneBackups. What is kept is in the configuration alone, where it is written out.
type Input struct {
	run.Common
}

// Result of PruneBackups. A dry run fills Remove, Keep and FreesBytes.
type Result struct {
	Retention string   `json:"retention"` // in words
	Remove    []Backup `json:"remove"`    // as planned
	Keep      []Backup `json:"keep"`      // as planned, the newest first
	// FreesBytes is about how many stored bytes only the backups to remove need.
	FreesBytes int64 `json:"freesBytes"`
	// HidesBytes is that instead of FreesBytes, where the store keeps versions of what is removed.
	HidesBytes int64 `json:"hidesBytes,omitempty"`
	// Space is what becomes of the space of what is removed: freed; hidden, until the bucket's own rule lets
	// old versions go; or unknown, where the store may not be asked.
	Space string `json:"space,omitempty"`

	Removed        []string `json:"removed"`        // ids of backups
	Spared         []string `json:"spared"`         // planned, and to stay by then: held, or proven, since
	Condemned      int      `json:"condemned"`      // chunks that go a day later unless a backup uses them again
	CondemnedBytes int64    `json:"condemnedBytes"` // of them, as stored
	Chunks         int      `json:"chunks"`         // removed
	FreedBytes     int64    `json:"freedBytes"`
	HiddenBytes    int64    `json:"hiddenBytes,omitempty"` // of the removed chunks, where they are hidden and not freed
	Locked         []string `json:"locked,omitempty"`      // backups that the store does not let be removed yet
	Hurt           []string `json:"hurt"`                  // backups found to need a removed chunk; they are marked as damaged
	// Dropped are databases that a backup had replaced long enough ago; in a dry run, those that would be.
	Dropped []string `json:"dropped"`
}

// Backup is a backup and why it stays or goes.
type Backup struct {
	ID  string    `json:"id"`
	At  time.Time `json:"at"` // the moment that it shows
	Why []string  `json:"why"`
}
