// Package helm holds the activities that plan, upgrade, roll back and watch Helm releases. They need the
// cluster capability.
package helm

import (
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

// The activity types.
const (
	PlanUpgrade   = "PlanUpgrade"
	TakeOver      = "TakeReleaseOver"
	Upgrade       = "UpgradeRelease"
	PlanUndo      = "PlanUndo"
	Rollback      = "RollBackRelease"
	CountRestarts = "CountRestarts"
	Watch         = "WatchRelease"
)

// Place is a release in a cluster.
type Place struct {
	Target     string             `json:"target"`
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Store      string             `json:"store,omitempty"` // URL of the object store, which must not run on the release
}

// Change is what a release is to become. The files of values are read on the worker, and are not kept.
type Change struct {
	Place
	Chart     config.Chart   `json:"chart"`
	Version   string         `json:"version,omitempty"`
	Values    []string       `json:"values,omitempty"` // files
	Set       map[string]any `json:"set,omitempty"`    // by dotted path, over the files
	Operation string         `json:"operation"`        // the key of the upgrade, the same over attempts and resets
	Undo      string         `json:"undo,omitempty"`   // the key of its rollback
}

// Stands is how far an operation had come before it was planned.
type Stands string

// How far.
const (
	New     Stands = ""        // it has not begun
	Done    Stands = "done"    // the release is at its revision
	Halfway Stands = "halfway" // it was cut off, or has failed, and was not taken back to the end
	Over    Stands = "over"    // somebody has changed the release since
	Locked  Stands = "locked"  // it has not begun, and another run of Upkeep has left its lock
)

// Lock is a revision that locks a release.
type Lock struct {
	Revision int                `json:"revision"`
	Status   string             `json:"status"`
	Record   helmrelease.Record `json:"record"`
}

// TakeOverOrder is a lock to take away.
type TakeOverOrder struct {
	Place
	Lock      Lock   `json:"lock"`
	Operation string `json:"operation"` // the key
}

// Planned is a plan of an upgrade, or how far the operation has come already.
type Planned struct {
	Stands   Stands           `json:"stands,omitempty"`
	Revision int              `json:"revision,omitempty"` // of the operation, if it has one
	Lock     Lock             `json:"lock,omitzero"`      // that another run has left
	Plan     helmrelease.Plan `json:"plan,omitzero"`      // of a new one
	// Owners is what is done about others who act on the release's workloads.
	Owners ownership.Measures `json:"owners,omitzero"`
}

// UpgradeOrder is an upgrade as it was planned.
type UpgradeOrder struct {
	Change
	Plan  helmrelease.Plan `json:"plan"`
	Ready time.Duration    `json:"ready"` // what was applied may take so long to become ready
}

// UndoRequest asks how an upgrade would be undone.
type UndoRequest struct {
	Place
	Operation string `json:"operation"` // the upgrade's key
	Rollback  string `json:"rollback"`  // the rollback's key
}

// Undo is how an upgrade is undone.
type Undo struct {
	Needed bool             `json:"needed"`
	Why    string           `json:"why,omitempty"`  // why it is not
	Back   int              `json:"back,omitempty"` // the revision by which it was undone before
	Plan   helmrelease.Plan `json:"plan,omitzero"`
}

// RollbackOrder is a rollback as it was planned.
type RollbackOrder struct {
	Place
	Operation string           `json:"operation"`
	Plan      helmrelease.Plan `json:"plan"`
	Ready     time.Duration    `json:"ready"`
}

// WatchRequest asks for a release to be watched.
type WatchRequest struct {
	Place
	Revision int                   `json:"revision"` // that it is to be at
	Until    time.Time             `json:"until"`
	Before   bake.Restarts         `json:"before,omitempty"` // how often containers had been started again
	Checks   []config.RolloutCheck `json:"checks,omitempty"`
}

// Watched is what was found.
type Watched struct {
	Verdict        run.Verdict `json:"verdict"`
	Checks         []run.Check `json:"checks"`
	ManifestSHA256 string      `json:"manifestSha256,omitempty"` // of the revision
}
