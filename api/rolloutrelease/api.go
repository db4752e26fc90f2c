// Package rolloutrelease is the contract of the procedure RolloutRelease.
package rolloutrelease

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "RolloutRelease"

// Purpose is one line for people.
const Purpose = "Upgrade the target's Helm release: staging first, watch it, then production; a bad one is rolled back by itself."

// Input of RolloutRelease. What is left out is as the target's rollout in upkeep.yaml says.
type Input struct {
	run.Common
	// Chart is an absolute path on the worker, or oci://host/repository.
	Chart string `json:"chart,omitempty"`
	// Version of the chart.
	Version string `json:"version,omitempty"`
	// Set are values by their dotted paths, over those of the files; no secrets, since inputs are kept.
	Set map[string]any `json:"set,omitempty"`
	// SkipStaging leaves the staging target out.
	SkipStaging bool `json:"skipStaging,omitempty"`
	// Override is why a release that migrates goes without a drilled backup; who approves the plan approves
	// that too.
	Override string `json:"override,omitempty"`
	// Merged is the merged pull request of one of the target's repositories that this rolls out, as
	// owner/name#number. Where that repository's policy is "rollout: start", it approves the plan, if a rollback
	// takes all of it back; so it rolls out what the configuration names, and nothing else.
	Merged string `json:"merged,omitempty"`
}

// offered begins the ids of the runs that roll merged updates out.
const offered = "rollout-of-updates-"

// OfferID is the id of the run in which merged updates of a target are offered for approval: one that waits is
// enough.
func OfferID(target string) string { return offered + target }

// MergedID is the id of the run that rolls the update of one merged pull request out: there is only ever one.
func MergedID(target, repository string, number int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", target, strings.ToLower(repository), number))
	return offered + target + "-" + hex.EncodeToString(sum[:8])
}

var mergedSuffix = regexp.MustCompile(`^-[0-9a-f]{16}$`)

// RollsMergedOut reports whether an id is one of a target's OfferID and MergedID.
func RollsMergedOut(id, target string) bool {
	rest, ok := strings.CutPrefix(id, OfferID(target))
	return ok && (rest == "" || mergedSuffix.MatchString(rest))
}

// Result of RolloutRelease.
type Result struct {
	Chart      string   `json:"chart"` // name and version
	Migrations []string `json:"migrations,omitempty"`
	BackupID   string   `json:"backupId,omitempty"` // the drilled backup that it relied on
	BackupAt   string   `json:"backupAt,omitempty"` // the moment that it shows
	Staging    *Stage   `json:"staging,omitempty"`
	Production *Stage   `json:"production,omitempty"`
}

// Stage is what became of one release.
type Stage struct {
	Target       string      `json:"target"`
	Namespace    string      `json:"namespace"`
	Release      string      `json:"release"`
	From         int         `json:"from"`               // the revision that it was at
	Revision     int         `json:"revision,omitempty"` // that the upgrade made
	Verdict      run.Verdict `json:"verdict,omitempty"`
	Checks       []run.Check `json:"checks,omitempty"` // of the bake
	Error        string      `json:"error,omitempty"`  // why the upgrade failed
	RolledBackTo int         `json:"rolledBackTo,omitempty"`
	UpgradedAt   time.Time   `json:"upgradedAt,omitzero"`
	EndedAt      time.Time   `json:"endedAt,omitzero"` // healthy, or rolled back
	// Proposed is what a person would do instead, where others own the release; Suspended, who was kept from
	// acting meanwhile; Remarks, what somebody changed of them.
	Proposed  []string `json:"proposed,omitempty"`
	Suspended []string `json:"suspended,omitempty"`
	Remarks   []string `json:"remarks,omitempty"`
}
