package github

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
)

var (
	pointOpen    = around("pull/open")
	pointBody    = around("pull/body")
	pointLabel   = around("pull/label")
	pointReview  = around("pull/review")
	pointMerge   = around("pull/merge")
	pointClose   = around("pull/close")
	pointComment = around("comment/create")
	pointDouble  = around("comment/double")
	pointIssue   = around("issue/create")
	pointBoard   = around("issue/body")
	pointSurplus = around("issue/double")
)

// points are the two sides of an outside effect.
type points struct{ before, after fault.Point }

func around(name string) points {
	return points{fault.NewPoint("github/" + name + "/before"), fault.NewPoint("github/" + name + "/after")}
}

func (c *Client) number(n int) string { return fmt.Sprintf("%s#%d", c.full(), n) }

// Proposal is a pull request to be opened. Its key is the branch.
type Proposal struct {
	Branch string `json:"branch"`
	Head   string `json:"head"` // the branch's commit that is proposed
	Base   string `json:"base"` // the branch that it goes to
	Title  string `json:"title"`
	Body   string `json:"body"`
	// Newest is the newest pull request that the branch had when it was decided to open one, closed ones
	// too; 0: none. If there is a newer one that is closed, somebody has decided meanwhile.
	Newest int `json:"newest,omitempty"`
}

// EnsurePull opens a pull request, or finds the one that is open. Twice, or after a lost answer, it finds its
// own. Of two at once GitHub takes one, and the other finds it. One that was frozen and comes late finds that
// the branch was moved or that the pull request was closed, and opens none.
func (c *Client) EnsurePull(ctx context.Context, p Proposal) (pull Pull, opened bool, err error) {
	for range 2 {
		found, err := c.standing(ctx, p)
		if err != nil || found.Number != 0 {
			return found, false, err
		}
		head, err := c.Commit(ctx, p.Branch)
		if err != nil {
			return Pull{}, false, err
		}
		if head != p.Head {
			return Pull{}, false, moved(p.Branch, p.Head, head)
		}
		pointOpen.before.Hit()
		made, _, err := c.api.PullRequests.Create(ctx, c.owner, c.name, &github.NewPullRequest{Title: &p.Title, Body: &p.Body, Head: &p.Branch, Base: &p.Base})
		pointOpen.after.Hit()
		if err == nil {
			return c.pull(made), true, nil
		}
		if !saysExists(err) {
			return Pull{}, false, classify(err, "a pull request of "+p.Branch)
		}
	}
	return Pull{}, false, failure.New(failure.GitHubUnreachable, "GitHub says that %s has a pull request, and does not show it", p.Branch)
}

// standing is the open pull request of a branch, wherever it goes to by now.
func (c *Client) standing(ctx context.Context, p Proposal) (Pull, error) {
	all, err := c.Pulls(ctx, p.Branch)
	if err != nil {
		return Pull{}, err
	}
	if i := slices.IndexFunc(all, func(o Pull) bool { return o.Open }); i >= 0 {
		return all[i], nil
	}
	if i := slices.IndexFunc(all, func(o Pull) bool { return o.Number > p.Newest }); i >= 0 {
		return Pull{}, failure.New(failure.PullChanged, "%s was opened and closed meanwhile", c.number(all[i].Number)).Do("nothing: the next scan looks again")
	}
	return Pull{}, nil
}

func moved(branch, expected, found string) error {
	if found == "" {
		found = "gone"
	}
	return failure.New(failure.BranchMoved, "the branch %s is no longer at %s: it is %s", branch, short(expected), short(found)).
		Do("nothing: whoever has moved it keeps it")
}

func short(sha string) string { return sha[:min(len(sha), 12)] }

// saysExists says whether GitHub refuses a second pull request of a branch.
func saysExists(err error) bool {
	f, ok := classify(err, "").(*failure.Error)
	return ok && f.Code == failure.GitHubRefused && strings.Contains(f.What, "already exists")
}

// EnsureText gives a pull request its title and body, unless same says that the body says it already.
func (c *Client) EnsureText(ctx context.Context, number int, title, body string, same func(have, want string) bool) (changed bool, err error) {
	p, err := c.Pull(ctx, number)
	if err != nil {
		return false, err
	}
	if !p.Open || same(p.Body, body) {
		return false, nil // what is closed is a person's record
	}
	pointBody.before.Hit()
	_, _, err = c.api.PullRequests.Edit(ctx, c.owner, c.name, number, &github.PullRequest{Title: &title, Body: &body})
	pointBody.after.Hit()
	if err != nil {
		return false, classify(err, c.number(number))
	}
	return true, nil
}

// EnsureLabels adds the labels that a pull request lacks. It takes none away: others label too.
func (c *Client) EnsureLabels(ctx context.Context, number int, labels []string) error {
	p, err := c.Pull(ctx, number)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(labels), func(l string) bool {
		return slices.ContainsFunc(p.Labels, func(o string) bool { return strings.EqualFold(l, o) })
	})
	if len(missing) == 0 || !p.Open {
		return nil
	}
	if err = c.addLabels(ctx, number, missing); err != nil {
		return classify(err, "labels of "+c.number(number))
	}
	return nil
}

// addLabels sends what GitHub describes; the library sends an older form, a bare list.
func (c *Client) addLabels(ctx context.Context, number int, labels []string) error {
	r, err := c.api.NewRequest("POST", fmt.Sprintf("repos/%s/issues/%d/labels", c.full(), number), map[string]any{"labels": labels})
	if err != nil {
		return err
	}
	pointLabel.before.Hit()
	_, err = c.api.Do(ctx, r, nil)
	pointLabel.after.Hit()
	return err
}

// EnsureReviewers asks for reviews. GitHub forgets who was asked when he has answered, so it is for a pull
// request that was just opened: whoever has answered would be asked again.
func (c *Client) EnsureReviewers(ctx context.Context, number int, logins []string) error {
	p, err := c.Pull(ctx, number)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(logins), func(l string) bool {
		return strings.EqualFold(l, p.Author) || slices.ContainsFunc(p.Reviewers, func(o string) bool { return strings.EqualFold(l, o) })
	})
	if len(missing) == 0 || !p.Open {
		return nil
	}
	pointReview.before.Hit()
	_, _, err = c.api.PullRequests.RequestReviewers(ctx, c.owner, c.name, number, github.ReviewersRequest{Reviewers: missing})
	pointReview.after.Hit()
	if err != nil {
		return classify(err, "reviews of "+c.number(number))
	}
	return nil
}

// Merging is a merge as it was decided.
type Merging struct {
	Number int    `json:"number"`
	Head   string `json:"head"`   // what was tested
	Base   string `json:"base"`   // the branch
	BaseAt string `json:"baseAt"` // its commit on which it was tested; empty: any
	Method string `json:"method"` // merge, squash or rebase; GitHub's default when empty
	Title  string `json:"title"`  // of the commit; GitHub's when empty
}

// Merge merges what was tested, and nothing else: GitHub itself compares the head. Twice, or after a lost
// answer, it finds it merged.
func (c *Client) Merge(ctx context.Context, m Merging) (sha string, err error) {
	p, err := c.Pull(ctx, m.Number)
	switch {
	case err != nil:
		return "", err
	case p.Head != m.Head:
		return "", moved(p.Branch, m.Head, p.Head)
	case p.Merged:
		return p.MergeSHA, nil
	case !p.Open:
		return "", failure.New(failure.PullChanged, "%s is closed", c.number(m.Number)).Do("nothing: somebody has closed it")
	case p.Base != m.Base:
		return "", failure.New(failure.PullChanged, "%s goes to %s by now, and not to %s", c.number(m.Number), p.Base, m.Base).Do("nothing: whoever has changed it keeps it")
	}
	if m.BaseAt != "" {
		at, err := c.Commit(ctx, m.Base)
		if err != nil {
			return "", err
		}
		if at != m.BaseAt {
			return "", failure.New(failure.PullChanged, "%s has moved since %s was tested on it", m.Base, c.number(m.Number)).Do("nothing: it is tested again")
		}
	}
	pointMerge.before.Hit()
	r, _, err := c.api.PullRequests.Merge(ctx, c.owner, c.name, m.Number, "", &github.PullRequestOptions{SHA: m.Head, MergeMethod: m.Method, CommitTitle: m.Title})
	pointMerge.after.Hit()
	if err == nil {
		return r.GetSHA(), nil
	}
	switch status(err) {
	case 409:
		return "", failure.New(failure.BranchMoved, "the branch of %s was moved in the moment of the merge", c.number(m.Number)).Do("nothing: whoever has moved it keeps it")
	case 405, 422:
		return "", failure.New(failure.NotMergeable, "GitHub does not merge %s: %s", c.number(m.Number), said(err)).Do("see the pull request's page")
	}
	return "", classify(err, "the merge of "+c.number(m.Number))
}

// Close closes a pull request as it was seen, with a word why, said before: a pull request that is closed
// without a word was closed by a person.
func (c *Client) Close(ctx context.Context, number int, head, kind, why string) error {
	p, err := c.Pull(ctx, number)
	switch {
	case err != nil:
		return err
	case !p.Open:
		return nil
	case p.Head != head:
		return moved(p.Branch, head, p.Head)
	}
	if err := c.EnsureComment(ctx, number, kind, why); err != nil {
		return err
	}
	closed := "closed"
	pointClose.before.Hit()
	_, _, err = c.api.PullRequests.Edit(ctx, c.owner, c.name, number, &github.PullRequest{State: &closed})
	pointClose.after.Hit()
	if err != nil {
		return classify(err, c.number(number))
	}
	return nil
}
