// Package github holds the activities that need the credentials of the target's repositories: they look for
// updates in a checkout, and do what is decided about a pull request.
package github

import (
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// The activity types.
const (
	Scan      = "ScanRepository"
	Look      = "LookAtPullRequest"
	Push      = "PushPullRequest"
	Ensure    = "EnsurePullRequest"
	Leave     = "LeavePullRequest"
	Merge     = "MergePullRequest"
	Close     = "ClosePullRequest"
	Tidy      = "TidyPullRequest"
	AwaitNews = "AwaitPullRequestNews"
	Dashboard = "WriteDashboard"
)

// Place is a repository of a target.
type Place struct {
	Target     string            `json:"target"`
	Store      string            `json:"store"` // URL
	Repository config.Repository `json:"repository"`
}

// ScanRequest is for all types of updates: the dashboard tells of all, whichever the run proposes.
type ScanRequest struct {
	Place
	RunID string `json:"runId"`
	// Diffs wants the change of the files that say what is depended on, for a person to look at.
	Diffs bool `json:"diffs,omitempty"`
}

// Scanned is what was found in a repository, and what stands on GitHub.
type Scanned struct {
	Base      string                 `json:"base"` // the branch
	Head      string                 `json:"head"` // its commit that was looked at
	Proposals []pullrequest.Proposal `json:"proposals"`
	Diffs     map[string]string      `json:"diffs,omitempty"` // by branch
	Standing  []pullrequest.Standing `json:"standing"`
	Young     []pullrequest.Line     `json:"young,omitempty"`
	Held      []pullrequest.Line     `json:"held,omitempty"`
	Unread    []pullrequest.Line     `json:"unread,omitempty"`
	Plan      string                 `json:"plan"` // URL of all of it in the store
}

// BranchRequest names a branch of Upkeep's.
type BranchRequest struct {
	Place
	Branch string `json:"branch"`
}

// Order is what was decided about a pull request.
type Order struct {
	Place
	Follower pullrequest.Follower `json:"follower"`
	Choice   pullrequest.Choice   `json:"choice"`
	Number   int                  `json:"number,omitempty"`
	Newest   int                  `json:"newest,omitempty"` // of the branch, when this was decided
	Base     string               `json:"base,omitempty"`   // the branch that it goes to
	Pushed   string               `json:"pushed,omitempty"` // the commit, if it was pushed just now
}

// Pushed is a commit that was pushed.
type Pushed struct {
	Commit string `json:"commit"`
}

// Pull is a pull request that is there.
type Pull struct {
	Number int    `json:"number"`
	Link   string `json:"link"`
}

// Sight is a pull request as it stands, and the policy that its repository's branch makes of the target's.
type Sight struct {
	Seen   pullrequest.Seen   `json:"seen"`
	Policy pullrequest.Policy `json:"policy"`
	Link   string             `json:"link,omitempty"`
	Newest int                `json:"newest,omitempty"` // the newest pull request that the branch has had
}

// NewsRequest waits until a pull request is seen otherwise.
type NewsRequest struct {
	BranchRequest
	Base  string           `json:"base"` // the branch that it goes to
	Known pullrequest.Seen `json:"known"`
	// Merges says that nobody but its checks is waited for.
	Merges bool `json:"merges,omitempty"`
}

// DashboardRequest is the dashboard as it should be.
type DashboardRequest struct {
	Place
	Dashboard pullrequest.Dashboard `json:"dashboard"`
}
