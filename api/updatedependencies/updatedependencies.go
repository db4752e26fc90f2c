// Package updatedependencies is the contract of the procedure UpdateDependencies.
package updatedependencies

import (
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "UpdateDependencies"

// Purpose is one line for people.
const Purpose = "Find newer releases of what the target's repositories depend on, and hand each update over to a pull request."

// Input of UpdateDependencies.
type Input struct {
	run.Common
	// Repository is one of the target's, as owner/name; all of them when left out.
	Repository string `json:"repository,omitempty"`
	// Type is security, patch, minor, major or digest; all of them when left out.
	Type string `json:"type,omitempty"`
}

// Result of UpdateDependencies.
type Result struct {
	Repositories []Repository `json:"repositories"`
}

// Repository is what was found in one, and what became of it.
type Repository struct {
	Name     string                `json:"name"`
	Base     string                `json:"base"` // the commit that was looked at
	Proposed []Proposed            `json:"proposed"`
	Limited  []pullrequest.Waiting `json:"limited,omitempty"` // proposals that wait for a limit
	// Young, Held and Unread are how many releases are too young, are not proposed for another reason, and
	// files and packages could not be read or looked up; the dashboard names them.
	Young     int    `json:"young"`
	Held      int    `json:"held"`
	Unread    int    `json:"unread"`
	Plan      string `json:"plan,omitempty"`      // URL of all that was found, in the store
	Dashboard int    `json:"dashboard,omitempty"` // the issue
}

// Proposed is a proposal, and how its pull request stands.
type Proposed struct {
	Branch string          `json:"branch"`
	Title  string          `json:"title"`
	Type   string          `json:"type"`
	Diff   string          `json:"diff,omitempty"` // of a dry run: the change of the files that say what is depended on
	Number int             `json:"number,omitempty"`
	Act    pullrequest.Act `json:"act,omitempty"`
	Why    string          `json:"why,omitempty"`
}
