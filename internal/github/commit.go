package github

import (
	"context"

	"github.com/google/go-github/v60/github"
)

// PushedRef is where the commit that Upkeep pushed last to a branch is kept, in the repository itself: it is
// moved together with the branch, in one transaction, so that whoever looks knows the branch of a person's.
func PushedRef(branch string) string { return "refs/upkeep/" + branch }

// CommitFacts is what a commit says of itself.
type CommitFacts struct {
	Parent  string `json:"parent"` // its first one
	Message string `json:"message"`
}

// CommitFacts reads a commit.
func (c *Client) CommitFacts(ctx context.Context, sha string) (CommitFacts, error) {
	k, _, err := c.api.Repositories.GetCommit(ctx, c.owner, c.name, sha, &github.ListOptions{PerPage: 1})
	if err != nil {
		return CommitFacts{}, classify(err, "the commit "+short(sha))
	}
	facts := CommitFacts{Message: k.GetCommit().GetMessage()}
	if len(k.Parents) > 0 {
		facts.Parent = k.Parents[0].GetSHA()
	}
	return facts, nil
}
