package github

import (
	"context"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"
)

// Pull is a pull request as it stands.
type Pull struct {
	Number     int       `json:"number"`
	Link       string    `json:"link"`
	Title      string    `json:"title"`
	Body       string    `json:"body"`
	Author     string    `json:"author"`
	Open       bool      `json:"open"`
	Merged     bool      `json:"merged"`
	Draft      bool      `json:"draft,omitempty"`
	Branch     string    `json:"branch"`
	Head       string    `json:"head"` // the branch's commit
	Base       string    `json:"base"` // the branch that it goes to
	Labels     []string  `json:"labels,omitempty"`
	Reviewers  []string  `json:"reviewers,omitempty"` // that were asked and have not answered
	MergeSHA   string    `json:"mergeSHA,omitempty"`
	State      string    `json:"state,omitempty"` // GitHub's word for whether it can be merged: clean, dirty, blocked, behind, unstable, unknown
	Opened     time.Time `json:"opened"`
	Closed     time.Time `json:"closed,omitzero"`
	Foreign    bool      `json:"foreign,omitempty"` // its branch is another repository's
	Conflicted bool      `json:"conflicted,omitempty"`
}

func (c *Client) pull(p *github.PullRequest) Pull {
	v := Pull{
		Number: p.GetNumber(), Link: p.GetHTMLURL(), Title: p.GetTitle(), Body: p.GetBody(), Author: p.GetUser().GetLogin(),
		Open: p.GetState() == "open", Merged: p.GetMerged() || !p.GetMergedAt().IsZero(), Draft: p.GetDraft(),
		Branch: p.GetHead().GetRef(), Head: p.GetHead().GetSHA(), Base: p.GetBase().GetRef(),
		State: p.GetMergeableState(), Opened: p.GetCreatedAt().Time, Closed: p.GetClosedAt().Time,
		Foreign:    !strings.EqualFold(p.GetHead().GetRepo().GetFullName(), p.GetBase().GetRepo().GetFullName()),
		Conflicted: p.Mergeable != nil && !*p.Mergeable && p.GetMergeableState() == "dirty",
	}
	if v.Merged {
		v.MergeSHA = p.GetMergeCommitSHA()
	}
	for _, l := range p.Labels {
		v.Labels = append(v.Labels, l.GetName())
	}
	for _, u := range p.RequestedReviewers {
		v.Reviewers = append(v.Reviewers, u.GetLogin())
	}
	return v
}

// DefaultBranch is the repository's.
func (c *Client) DefaultBranch(ctx context.Context) (string, error) {
	r, _, err := c.api.Repositories.Get(ctx, c.owner, c.name)
	if err != nil {
		return "", classify(err, "the repository "+c.full())
	}
	if r.GetArchived() {
		return "", archived(c.full())
	}
	return r.GetDefaultBranch(), nil
}

// Commit is a branch's newest commit, or "" where there is no such branch.
func (c *Client) Commit(ctx context.Context, branch string) (string, error) {
	return c.ref(ctx, "refs/heads/"+branch)
}

func (c *Client) ref(ctx context.Context, ref string) (string, error) {
	r, _, err := c.api.Git.GetRef(ctx, c.owner, c.name, ref)
	switch {
	case err == nil && r.GetRef() == ref:
		return r.GetObject().GetSHA(), nil
	case err == nil || status(err) == 404:
		if err := c.there(ctx); err != nil { // a repository that we may not see has no branches either
			return "", err
		}
		return "", nil
	}
	return "", classify(err, ref+" of "+c.full())
}

// there says whether the repository is there at all.
func (c *Client) there(ctx context.Context) error {
	if _, _, err := c.api.Repositories.Get(ctx, c.owner, c.name); err != nil {
		return classify(err, "the repository "+c.full())
	}
	return nil
}

// Pull is a pull request by its number, or not found.
func (c *Client) Pull(ctx context.Context, number int) (Pull, error) {
	p, _, err := c.api.PullRequests.Get(ctx, c.owner, c.name, number)
	if err != nil {
		return Pull{}, classify(err, c.number(number))
	}
	return c.pull(p), nil
}

// Pulls are all pull requests that a branch of the repository has had, the newest first.
func (c *Client) Pulls(ctx context.Context, branch string) ([]Pull, error) {
	all, err := c.list(ctx, github.PullRequestListOptions{State: "all", Head: c.owner + ":" + branch})
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, p := range all { // GitHub ignores a filter that it does not understand
		if p.Branch == branch && !p.Foreign {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// Open are the open pull requests of the repository's own branches.
func (c *Client) Open(ctx context.Context) ([]Pull, error) {
	return c.list(ctx, github.PullRequestListOptions{State: "open"})
}

func (c *Client) list(ctx context.Context, o github.PullRequestListOptions) ([]Pull, error) {
	o.Sort, o.Direction = "created", "desc"
	all, err := pages(func(l github.ListOptions) ([]*github.PullRequest, *github.Response, error) {
		o.ListOptions = l
		return c.api.PullRequests.List(ctx, c.owner, c.name, &o)
	})
	if err != nil {
		return nil, classify(err, "the pull requests of "+c.full())
	}
	out := make([]Pull, 0, len(all))
	for _, p := range all {
		out = append(out, c.pull(p))
	}
	return out, nil
}

// Closer is who closed a pull request, as far as GitHub says.
func (c *Client) Closer(ctx context.Context, number int) (string, error) {
	i, _, err := c.api.Issues.Get(ctx, c.owner, c.name, number)
	if err != nil {
		return "", classify(err, c.number(number))
	}
	return i.GetClosedBy().GetLogin(), nil
}

// Checks is what all checks of a commit come to.
type Checks struct {
	All    int    `json:"all"`
	Passed int    `json:"passed"`           // those that looked and found it good; one that was skipped did not look
	Failed string `json:"failed,omitempty"` // one that failed
	Runs   string `json:"runs,omitempty"`   // one that has not ended
}

// Checks reads both kinds of checks: check runs, and the older statuses.
func (c *Client) Checks(ctx context.Context, sha string) (Checks, error) {
	var sum Checks
	latest := "latest"
	runs, err := pages(func(l github.ListOptions) ([]*github.CheckRun, *github.Response, error) {
		r, answer, err := c.api.Checks.ListCheckRunsForRef(ctx, c.owner, c.name, sha, &github.ListCheckRunsOptions{Filter: &latest, ListOptions: l})
		if err != nil {
			return nil, answer, err
		}
		return r.CheckRuns, answer, nil
	})
	if err != nil {
		return sum, classify(err, "the checks of "+sha)
	}
	for _, r := range runs {
		sum.All++
		switch {
		case r.GetStatus() == "completed" && r.GetConclusion() == "success":
			sum.Passed++
		case r.GetStatus() != "completed":
			sum.Runs = r.GetName()
		case r.GetConclusion() != "neutral" && r.GetConclusion() != "skipped":
			sum.Failed = r.GetName() // stale, action_required and what comes later are no success
		}
	}
	statuses, err := pages(func(l github.ListOptions) ([]*github.RepoStatus, *github.Response, error) {
		s, answer, err := c.api.Repositories.GetCombinedStatus(ctx, c.owner, c.name, sha, &l)
		if err != nil {
			return nil, answer, err
		}
		return s.Statuses, answer, nil
	})
	if err != nil {
		return sum, classify(err, "the statuses of "+sha)
	}
	for _, s := range statuses {
		sum.All++
		switch s.GetState() {
		case "success":
			sum.Passed++
		case "pending":
			sum.Runs = s.GetContext()
		default:
			sum.Failed = s.GetContext()
		}
	}
	return sum, nil
}
