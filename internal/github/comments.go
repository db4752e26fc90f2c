package github

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/upkeep-run/upkeep/internal/failure"
)

var kinds = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,99}$`)

// mark is what a comment says of itself, and nobody sees.
func mark(kind string) string { return "<!-- upkeep:comment " + kind + " -->" }

// EnsureComment says something once: of each kind there is one comment. GitHub has no key for comments, so two
// at once may both say it; each looks again and removes the later ones, also those of one that was frozen, and
// what one leaves that dies in between, the next removes.
func (c *Client) EnsureComment(ctx context.Context, number int, kind, text string) error {
	if !kinds.MatchString(kind) {
		return fmt.Errorf("%q is no kind of comment", kind)
	}
	ours, err := c.comments(ctx, number, kind)
	if err != nil {
		return err
	}
	if len(ours) == 0 {
		body := text + "\n\n" + mark(kind)
		pointComment.before.Hit()
		_, _, err := c.api.Issues.CreateComment(ctx, c.owner, c.name, number, &github.IssueComment{Body: &body})
		pointComment.after.Hit()
		if err != nil {
			return classify(err, "a comment on "+c.number(number))
		}
		if ours, err = c.comments(ctx, number, kind); err != nil {
			return err
		}
	}
	for _, double := range ours[min(1, len(ours)):] {
		pointDouble.before.Hit()
		_, err := c.api.Issues.DeleteComment(ctx, c.owner, c.name, double)
		pointDouble.after.Hit()
		if err != nil && status(err) != 404 {
			return classify(err, "a comment on "+c.number(number))
		}
	}
	return nil
}

// comments are ours of a kind, the oldest first.
func (c *Client) comments(ctx context.Context, number int, kind string) ([]int64, error) {
	login, err := c.Login(ctx)
	if err != nil {
		return nil, err
	}
	all, err := pages(func(l github.ListOptions) ([]*github.IssueComment, *github.Response, error) {
		return c.api.Issues.ListComments(ctx, c.owner, c.name, number, &github.IssueListCommentsOptions{ListOptions: l})
	})
	if err != nil {
		return nil, classify(err, "the comments of "+c.number(number))
	}
	var ids []int64
	for _, k := range all { // others may write the mark too, and it means nothing
		if strings.HasSuffix(strings.TrimSpace(k.GetBody()), mark(kind)) && (login == "" || k.GetUser().GetLogin() == login) {
			ids = append(ids, k.GetID())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// issueLabel is on our issues, so that they are found among the thousands of a repository. Nobody can set it who may
// not write to the repository.
const issueLabel = "upkeep"

// EnsureIssue keeps one issue of a title, which is ours, with a body. One that a person has closed stays closed and
// as it is, and there is no other.
func (c *Client) EnsureIssue(ctx context.Context, title, body string, same func(have, want string) bool) (number int, changed bool, err error) {
	found, err := c.issues(ctx, title)
	if err != nil {
		return 0, false, err
	}
	if len(found) == 0 {
		pointIssue.before.Hit()
		_, _, err := c.api.Issues.Create(ctx, c.owner, c.name, &github.IssueRequest{Title: &title, Body: &body, Labels: &[]string{issueLabel}})
		pointIssue.after.Hit()
		if err != nil {
			return 0, false, classify(err, "an issue of "+c.full())
		}
		changed = true
		if found, err = c.issues(ctx, title); err != nil {
			return 0, false, err
		}
		if len(found) == 0 {
			return 0, false, failure.New(failure.GitHubUnreachable, "GitHub does not show the issue %q that it has made", title)
		}
	}
	first := found[0]
	for _, double := range found[1:] {
		if double.GetState() != "open" {
			continue
		}
		closed := "closed"
		pointSurplus.before.Hit()
		_, _, err := c.api.Issues.Edit(ctx, c.owner, c.name, double.GetNumber(), &github.IssueRequest{State: &closed})
		pointSurplus.after.Hit()
		if err != nil {
			return 0, false, classify(err, c.number(double.GetNumber()))
		}
	}
	if first.GetState() != "open" || same(first.GetBody(), body) {
		return first.GetNumber(), changed, nil
	}
	pointBoard.before.Hit()
	_, _, err = c.api.Issues.Edit(ctx, c.owner, c.name, first.GetNumber(), &github.IssueRequest{Body: &body})
	pointBoard.after.Hit()
	if err != nil {
		return 0, false, classify(err, c.number(first.GetNumber()))
	}
	return first.GetNumber(), true, nil
}

// issues are ours of a title, the oldest first, closed ones too.
func (c *Client) issues(ctx context.Context, title string) ([]*github.Issue, error) {
	login, err := c.Login(ctx)
	if err != nil {
		return nil, err
	}
	all, err := pages(func(l github.ListOptions) ([]*github.Issue, *github.Response, error) {
		return c.api.Issues.ListByRepo(ctx, c.owner, c.name, &github.IssueListByRepoOptions{State: "all", Creator: login, Labels: []string{issueLabel}, Sort: "created", Direction: "asc", ListOptions: l})
	})
	if err != nil {
		return nil, classify(err, "the issues of "+c.full())
	}
	return slices.DeleteFunc(all, func(i *github.Issue) bool { return i.IsPullRequest() || i.GetTitle() != title }), nil
}
