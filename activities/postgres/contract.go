// Package postgres holds the activities that touch a PostgreSQL server: reading a
// backup, restoring it, comparing the copy. They need the database capability.
package postgres

import (
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// Target is a target as the worker's configuration has it, resolved once per run and kept in
// the run's history. It holds references to secrets, never a secret.
type Target struct {
	Name         string             `json:"name"`
	DatabaseURL  string             `json:"databaseUrl"`          // no password in it
	Password     config.Secret      `json:"password"`             // where the password is
	ScratchURL   string             `json:"scratchUrl,omitempty"` // empty: a private scratch server on the worker
	ScratchPass  config.Secret      `json:"scratchPass"`          // where its password is
	Store        string             `json:"store"`                // URL of the object store
	Connections  int                `json:"connections"`          // sessions that read or write rows at once
	ConfigSHA256 string             `json:"configSha256"`         // of the configuration file that this was read from
	Encryption   *config.Encryption `json:"encryption,omitempty"` // nil: backups are not encrypted
	// Kubernetes is the cluster that the target is in; nil: none.
	Kubernetes *config.Kubernetes `json:"kubernetes,omitempty"`
	// DatabaseIn is where the database is in that cluster; zero: at the host of its URL.
	DatabaseIn kube.Endpoint `json:"databaseIn,omitzero"`
	// ScratchPod says how scratch servers run in pods; nil: they run on the worker, or at ScratchURL.
	ScratchPod   *ScratchPod `json:"scratchPod,omitempty"`
	Attributes   bool        `json:"attributes,omitempty"`   // the server knows Upkeep's search attributes
	AttributeWhy string      `json:"attributeWhy,omitempty"` // why not, otherwise
}

// ScratchPod is how a scratch server runs in a pod.
type ScratchPod struct {
	Image     string `json:"image,omitempty"`     // that of the database's pod when empty
	RunAsUser int64  `json:"runAsUser,omitempty"` // where the database's pod does not say
}

// BackupRequest asks for one backup. The id is the business key: a second attempt, a stale twin
// or a run that was reset finds the manifest of that id and does nothing.
type BackupRequest struct {
	Target   Target `json:"target"`
	BackupID string `json:"backupId"`
}

// Proven names the newest backup whose newest comparison was PASS, and that is not known to be damaged.
const Proven = "proven"

// FindRequest names a backup by its id, as the latest, or as the newest that is proven.
type FindRequest struct {
	Target Target `json:"target"`
	Backup string `json:"backup"`
}

// BackupPlan is what a backup would read.
type BackupPlan struct {
	Database       string   `json:"database"`
	ServerVersion  string   `json:"serverVersion"`
	Tables         int      `json:"tables"`
	EstimatedRows  int64    `json:"estimatedRows"`
	EstimatedBytes int64    `json:"estimatedBytes"` // on the server's disk
	LeftOut        []string `json:"leftOut"`
	Elsewhere      []string `json:"elsewhere"`
}

// BackupSummary is what a backup holds.
type BackupSummary struct {
	BackupID    string    `json:"backupId"`
	Database    string    `json:"database"`
	SnapshotAt  time.Time `json:"snapshotAt"`
	Tables      int       `json:"tables"`
	Rows        int64     `json:"rows"`
	BytesRead   int64     `json:"bytesRead"`
	BytesStored int64     `json:"bytesStored"`
	BytesTotal  int64     `json:"bytesTotal"`
	Scope       string    `json:"scope"`
	LeftOut     []string  `json:"leftOut"`
	Elsewhere   []string  `json:"elsewhere"`
	VersionNum  int       `json:"versionNum"` // of the server that was read
	// Key is the fingerprint of the repository key that the backup is encrypted with; empty: it is not encrypted.
	Key string `json:"key,omitempty"`
	// Closed says why what an encrypted backup holds cannot be read here; most of the others are empty then.
	Closed string `json:"closed,omitempty"`
}

// Place says where a copy is restored.
type Place struct {
	// Kind is PlacePrivate, PlaceServer or PlaceTarget.
	Kind string `json:"kind"`
	// Queue is the task queue of the one worker that holds a private scratch server; the shared
	// queue otherwise.
	Queue string `json:"queue"`
	// Scratch names the private scratch server: its folder, or the key of its pod; empty otherwise.
	Scratch string `json:"scratch,omitempty"`
	// Remark is what people should know of the place.
	Remark string `json:"remark,omitempty"`
}

// Kinds of Place.
const (
	PlacePrivate = "private" // a private scratch server on a worker
	PlaceServer  = "server"  // the scratch server of the configuration
	PlacePod     = "pod"     // a scratch server in a pod
	PlaceTarget  = "target"  // the target's own server, beside the original
)

// Copy is one restored, or half restored, database. Its name follows from target, backup and
// final name, so a later run takes over what an earlier one left.
type Copy struct {
	Target   Target `json:"target"`
	BackupID string `json:"backupId"`
	Place    Place  `json:"place"`
	// Database is the name under which the copy is built.
	Database string `json:"database"`
	// Final is the name that it gets when all is done; equal to Database for a drill.
	Final string `json:"final"`
	// Oid identifies the database through renames; 0 until created.
	Oid uint32 `json:"oid,omitempty"`
	// Owner is the key of the run that works on it: stable over attempts, restarts and resets.
	Owner string `json:"owner"`
	// RunID is the run's workflow id: what a run that has ended left behind is removed.
	RunID string `json:"runId"`
}

// RestorePlan is what a restore would do.
type RestorePlan struct {
	Copy          Copy     `json:"copy"`
	Rows          int64    `json:"rows"`
	Tables        int      `json:"tables"`
	Bytes         int64    `json:"bytes"`         // of COPY text to load
	NeededBytes   int64    `json:"neededBytes"`   // of disk, estimated
	FreeBytes     int64    `json:"freeBytes"`     // -1 when not known
	MissingRoles  []string `json:"missingRoles"`  // roles that the place lacks
	ServerVersion string   `json:"serverVersion"` // of the place
}

// LoadResult is what a restore loaded.
type LoadResult struct {
	Rows    int64   `json:"rows"`
	Bytes   int64   `json:"bytes"`
	Chunks  int     `json:"chunks"`
	Skipped int     `json:"skipped"` // chunks that an earlier attempt had finished
	Seconds float64 `json:"seconds"`
}

// Proof is the result of a verification.
type Proof struct {
	Verdict run.Verdict `json:"verdict"`
	Checks  []run.Check `json:"checks"`
}

// The activity types.
const (
	PlanBackup     = "PlanBackup"
	TakeBackup     = "TakeBackup"
	FindBackup     = "FindBackup"
	CheckStored    = "CheckStored"
	CheckDecoded   = "CheckDecoded"
	PlanRestore    = "PlanRestore"
	PrepareScratch = "PrepareScratch"
	CreateDatabase = "CreateDatabase"
	LoadRows       = "LoadRows"
	Compare        = "Compare"
	Publish        = "Publish"
	DropCopy       = "DropCopy"
)
