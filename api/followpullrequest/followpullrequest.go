// Package followpullrequest is the contract of the procedure FollowPullRequest, which stands for one pull
// request for its whole life.
package followpullrequest

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// WorkflowType is the name by which the procedure is started.
const WorkflowType = "FollowPullRequest"

// Purpose is one line for people.
const Purpose = "Follow one of Upkeep's pull requests: make it, keep it on the newest base, leave it to a person who touches it, merge it where the policy says so. UpdateDependencies starts it."

// IDPrefix begins the ids of these runs.
const IDPrefix = "pull-request-"

// ID is the id of the run that follows a branch of a repository: there is one at most.
func ID(target, repository, branch string) string {
	sum := sha256.Sum256([]byte(target + "\x00" + repository + "\x00" + branch))
	return IDPrefix + target + "-" + hex.EncodeToString(sum[:8])
}

// Names of what the run answers besides what every run does.
const (
	FollowUpdate = "Follow" // pullrequest.Follower → Answer; when what was asked for is done, or waits for somebody
	WakeSignal   = "Wake"   // something happened on GitHub: look now
)

// Input of FollowPullRequest.
type Input struct {
	run.Common
	Repository string `json:"repository,omitempty"` // owner/name
	Branch     string `json:"branch,omitempty"`     // one of Upkeep's
	// Last is the follower as the last part of a long run knew it.
	Last *pullrequest.Follower `json:"last,omitempty"`
}

// Answer says how the pull request stands.
type Answer struct {
	Number int             `json:"number,omitempty"` // 0: there is none
	Act    pullrequest.Act `json:"act"`
	Why    string          `json:"why"`
}

// Result of FollowPullRequest.
type Result struct {
	Repository string          `json:"repository"`
	Branch     string          `json:"branch"`
	Title      string          `json:"title,omitempty"`
	Number     int             `json:"number,omitempty"`
	Link       string          `json:"link,omitempty"`
	Act        pullrequest.Act `json:"act"` // what was decided last
	Why        string          `json:"why"`
	Pushes     int             `json:"pushes"` // how often its branch was brought up to date
	Merged     bool            `json:"merged,omitempty"`
	// Rollout is the run that rolls the merged update out, if the policy wants one.
	Rollout string `json:"rollout,omitempty"`
	// RolloutStands says how that run was come by.
	RolloutStands string `json:"rolloutStands,omitempty"`
}
