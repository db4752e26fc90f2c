// Package target is the contract of the workflow that stands for one target: it says which of the
// target's runs may work at the same time.
package target

import (
	"time"

	"github.com/upkeep-run/upkeep/internal/lease"
)

// WorkflowType is the workflow's name. Nobody needs to start it: the first run of a target does.
const WorkflowType = "Target"

// IDPrefix begins the ids of targets' workflows, and of no run.
const IDPrefix = "target-"

// ID is the id of a target's workflow.
func ID(target string) string { return IDPrefix + target }

// Names of what the workflow answers, and of what it sends.
const (
	StatusQuery   = "Status"       // → Status
	AcquireUpdate = "Acquire"      // lease.Lease → Answer; at once, granted or not
	ReleaseSignal = "Release"      // a holder's id: it needs its lease no more
	GrantedSignal = "LeaseGranted" // to a holder that waited, with the target's name
)

// The resources that leases are on.
const (
	Database = "database" // shared to read it; exclusive to put another one under its name
	Backups  = "backups"  // shared to add or read backups; exclusive to remove some
	Release  = "release"  // exclusive to change what runs in the cluster: workloads and the Helm release
	Updates  = "updates"  // exclusive to look for updates of the target's repositories, and hand them over
)

// Merges is the resource of merges into a repository: exclusive to merge, so that each is tested on what the
// one before has made.
func Merges(repository string) string { return "merges of " + repository }

// Answer says how a holder's lease stands.
type Answer struct {
	Granted bool   `json:"granted"`
	Why     string `json:"why,omitempty"` // why not, for people
}

// Status is how a target stands.
type Status struct {
	Target  string        `json:"target"`
	Held    []lease.Lease `json:"held"`           // in the order in which they were granted
	Waiting []Waiting     `json:"waiting"`        // in the order in which they will be granted, as far as the calendar lets them
	More    int           `json:"more,omitempty"` // so many more wait than are listed
	AsOf    time.Time     `json:"asOf"`
}

// Waiting is a lease that is not granted yet, and why.
type Waiting struct {
	lease.Lease
	Why string `json:"why"`
}

// State is what the workflow begins with when it continues as new.
type State struct {
	Target string     `json:"target"`
	Book   lease.Book `json:"book,omitzero"`
}
