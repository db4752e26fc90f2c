package github

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency/lock"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// stopLabel is the label by which a person tells Upkeep to leave a pull request alone.
const stopLabel = "upkeep: stop"

const (
	// lookEvery is how often a pull request is looked at whose checks run or may begin to; an answer that
	// has not changed costs nothing of GitHub's limits.
	lookEvery = 20 * time.Second
	// lookSoon is how often one is looked at that is merged as soon as its checks pass, though none runs: it is
	// to be merged within a minute of that, also where no webhook comes.
	lookSoon = 40 * time.Second
	// lookSeldom is how often one is looked at that waits for a person.
	lookSeldom = 2 * time.Minute
	// checksBegin is how long after a push checks may still begin, though none is there yet.
	checksBegin = 10 * time.Minute
)

// Activities work on repositories. They are safe for use by several goroutines.
type Activities struct {
	// Registries are those that the operator of the worker has set up, with mirrors and logins.
	Registries lookup.Operator
	// Tools make lock files.
	Tools lock.Tools

	mu     sync.Mutex
	limits map[string]*github.Limits // by who asks: GitHub counts by that
	cache  github.Cache
	heavy  chan struct{}
}

// heavyAtOnce is how many repositories are cloned, looked at and committed to at once.
const heavyAtOnce = 4

// turn waits until there is room for one more that is heavy; done gives the room back.
func (a *Activities) turn(ctx context.Context) (done func(), err error) {
	a.mu.Lock()
	if a.heavy == nil {
		a.heavy = make(chan struct{}, heavyAtOnce)
	}
	heavy := a.heavy
	a.mu.Unlock()
	select {
	case heavy <- struct{}{}:
		return func() { <-heavy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// client is a client of a repository. All of the same token share their limits.
func (a *Activities) client(r config.Repository) (*github.Client, error) {
	o := r.Options()
	who := r.API + "\x00" + r.Token.Env + "\x00" + r.Token.File
	if r.App != nil {
		who = r.API + "\x00" + fmt.Sprintf("app %d", r.App.ID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limits == nil {
		a.limits, a.cache = make(map[string]*github.Limits), github.NewMemory(cacheBytes)
	}
	if a.limits[who] == nil {
		a.limits[who] = github.NewLimits(nil)
	}
	o.Limits, o.Cache = a.limits[who], a.cache
	return github.Open(o)
}

// cacheBytes bounds the answers that are kept for conditional requests.
const cacheBytes = 64 << 20

// Look sees a pull request, and all that is decided on.
func (a *Activities) Look(ctx context.Context, in BranchRequest) (Sight, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return Sight{}, err
	}
	return look(ctx, c, in)
}

func look(ctx context.Context, c *github.Client, in BranchRequest) (sight Sight, err error) {
	base := in.Repository.Base
	if base == "" {
		if base, err = c.DefaultBranch(ctx); err != nil {
			return Sight{}, err
		}
	}
	sight.Policy = in.Repository.Policy(base)
	s := &sight.Seen
	if s.BaseHead, s.Head, s.Pushed, err = refs(ctx, c, base, in.Branch); err != nil {
		return Sight{}, err
	}
	if s.BaseHead == "" {
		return Sight{}, failure.New(failure.GitHubRefused, "%s has no branch %s", in.Repository.GitHub, base).Do("correct its base in upkeep.yaml")
	}
	if s.Pushed != "" {
		facts, err := c.CommitFacts(ctx, s.Pushed)
		if err != nil {
			return Sight{}, err
		}
		s.Parent, s.Changes = facts.Parent, pullrequest.ReadTrailer(facts.Message)
	}
	all, err := c.Pulls(ctx, in.Branch)
	if err != nil || len(all) == 0 {
		return sight, err
	}
	newest := all[0]
	sight.Newest = newest.Number
	for _, p := range all { // an open one, however old
		if p.Open {
			newest = p
		}
	}
	if mark, ok := pullrequest.ReadMark(newest.Body); ok {
		s.Mark = mark
	}
	if !newest.Open {
		return sight, closed(ctx, c, newest, s)
	}
	whole, err := c.Pull(ctx, newest.Number) // the list does not say whether it can be merged
	if err != nil {
		return Sight{}, err
	}
	stands(whole, s)
	sight.Link = whole.Link
	return sight, checks(ctx, c, s)
}

// stands sees an open pull request.
func stands(p github.Pull, s *pullrequest.Seen) {
	s.Number, s.Open, s.Merged, s.Draft, s.BaseRef, s.Conflict = p.Number, p.Open, p.Merged, p.Draft, p.Base, p.Conflicted
	s.Stop, s.Blocked = false, ""
	for _, l := range p.Labels {
		s.Stop = s.Stop || strings.EqualFold(l, stopLabel)
	}
	if p.State == "blocked" {
		s.Blocked = "GitHub's rules for " + p.Base + " want more, such as a review"
	}
}

// refs sees the base, the branch, and what was pushed to it, in one answer: a push moves the last two together.
func refs(ctx context.Context, c *github.Client, base, branch string) (baseHead, head, pushed string, err error) {
	dir, done, err := folder()
	if err != nil {
		return "", "", "", err
	}
	defer done()
	base, branch = "refs/heads/"+base, "refs/heads/"+branch
	beside := github.PushedRef(strings.TrimPrefix(branch, "refs/heads/"))
	found, err := remote(c).Refs(ctx, dir, base, branch, beside)
	return found[base], found[branch], found[beside], err
}

// glance sees what may have changed of a pull request that is known, by requests that cost nothing when
// nothing has.
func glance(ctx context.Context, c *github.Client, base string, known pullrequest.Seen) (pullrequest.Seen, error) {
	s := known
	p, err := c.Pull(ctx, known.Number)
	if err != nil {
		return s, err
	}
	s.Head = p.Head
	stands(p, &s)
	if s.BaseHead, err = c.Commit(ctx, base); err != nil {
		return s, err
	}
	if known.Checks != "" {
		err = checks(ctx, c, &s)
	}
	return s, err
}

// closed sees the newest pull request of a branch, which is not open any more. If it was for what was pushed
// last, it is to be tidied after; else it is history, and another may follow it.
func closed(ctx context.Context, c *github.Client, p github.Pull, s *pullrequest.Seen) (err error) {
	if s.Pushed != "" && (p.Head == s.Pushed || s.Mark.Changes == s.Changes) {
		s.Number, s.Merged = p.Number, p.Merged
	}
	if p.Merged {
		return nil
	}
	s.ClosedAt = p.Closed
	if s.ClosedBy, err = c.Closer(ctx, p.Number); err != nil {
		return err
	}
	by, err := c.Login(ctx)
	if err != nil {
		return err
	}
	switch {
	case s.ClosedBy == "":
		s.ClosedBy = "somebody"
	case strings.EqualFold(s.ClosedBy, by) && by != "": // it was superseded, which is no refusal
		s.ClosedBy, s.Mark = "", pullrequest.Mark{}
		if s.Number != 0 {
			s.ClosedBy = "Upkeep"
		}
	}
	return nil
}

func checks(ctx context.Context, c *github.Client, s *pullrequest.Seen) error {
	if s.Head == "" || s.Head != s.Pushed {
		return nil
	}
	sum, err := c.Checks(ctx, s.Head)
	if err != nil {
		return err
	}
	switch {
	case sum.Failed != "":
		s.Checks, s.Failed = pullrequest.Broken, sum.Failed
	case sum.Runs != "":
		s.Checks = pullrequest.Pending
	case sum.Passed > 0:
		s.Checks = pullrequest.Passed
	default:
		s.Checks = pullrequest.NoChecks
	}
	return nil
}

// AwaitNews waits until a pull request is seen otherwise than it is known.
func (a *Activities) AwaitNews(ctx context.Context, in NewsRequest) error {
	c, err := a.client(in.Repository)
	if err != nil {
		return err
	}
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pace(in, time.Since(began))):
		}
		seen := in.Known
		if in.Known.Number != 0 {
			seen, err = glance(ctx, c, in.Base, in.Known)
		} else {
			var sight Sight
			sight, err = look(ctx, c, in.BranchRequest)
			seen = sight.Seen
		}
		if err != nil || seen != in.Known {
			return err
		}
		progress.Report(ctx, progress.Progress{Phase: "wait for news", Note: "as it was"})
	}
}

// pace is how long it is until a pull request is looked at again, which has been waited for so long.
func pace(in NewsRequest, waited time.Duration) time.Duration {
	switch {
	case in.Known.Checks == pullrequest.Pending, in.Known.Checks == pullrequest.NoChecks && waited < checksBegin:
		return lookEvery
	case in.Merges && in.Known.Open:
		return lookSoon
	}
	return lookSeldom
}

// ownLabel is on each of Upkeep's pull requests. It is set after the reviewers are asked: as long as it is not
// there, nobody may have asked them.
const ownLabel = "dependencies"

// Ensure has the pull request of a branch there, and its description as it should be. Done twice, it is there
// once. Reviewers are asked when it is new, and not again after they have answered.
func (a *Activities) Ensure(ctx context.Context, in Order) (Pull, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return Pull{}, err
	}
	p := in.Follower.Proposal
	body := pullrequest.Body(p, pullrequest.Context{
		Notes: a.notes(ctx, in.Repository, p), Merges: pullrequest.Merges(p, in.Repository.Merge),
	})
	head := in.Pushed
	if head == "" {
		head = in.Choice.Expect
	}
	proposal := github.Proposal{Branch: p.Branch, Head: head, Base: in.Base, Title: p.Title, Body: body, Newest: in.Newest}
	pull, opened, err := c.EnsurePull(ctx, proposal)
	if err != nil {
		return Pull{}, err
	}
	if _, err := c.EnsureText(ctx, pull.Number, p.Title, body, pullrequest.SameBody); err != nil {
		return Pull{}, err
	}
	if opened || !slices.Contains(pull.Labels, ownLabel) {
		if err := c.EnsureReviewers(ctx, pull.Number, in.Repository.Reviewers); err != nil {
			return Pull{}, err
		}
	}
	if err := c.EnsureLabels(ctx, pull.Number, append([]string{ownLabel}, in.Repository.Labels...)); err != nil {
		return Pull{}, err
	}
	return Pull{Number: pull.Number, Link: pull.Link}, nil
}

// Leave says once that a pull request is a person's now. One that is not there needs no word.
func (a *Activities) Leave(ctx context.Context, in Order) error {
	c, err := a.client(in.Repository)
	if err != nil || in.Number == 0 {
		return err
	}
	return c.EnsureComment(ctx, in.Number, "leave", "Upkeep leaves this alone from now on: "+in.Choice.Why+". Close it, and Upkeep proposes what comes after it.")
}

// Merge merges what was tested, on the base that it was tested on.
func (a *Activities) Merge(ctx context.Context, in Order) error {
	c, err := a.client(in.Repository)
	if err != nil {
		return err
	}
	_, err = c.Merge(ctx, github.Merging{
		Number: in.Number, Head: in.Choice.Expect, Base: in.Base, BaseAt: in.Choice.Base, Method: in.Repository.Method, Title: in.Follower.Proposal.Title,
	})
	return err
}

// Close closes a pull request that is needed no more, with a word why.
func (a *Activities) Close(ctx context.Context, in Order) error {
	c, err := a.client(in.Repository)
	if err != nil {
		return err
	}
	return c.Close(ctx, in.Number, in.Choice.Expect, "superseded", "Upkeep closes this: "+in.Choice.Why+".")
}

// Dashboard writes the issue in which people see how the dependencies stand, if it says something new.
func (a *Activities) Dashboard(ctx context.Context, in DashboardRequest) (int, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return 0, err
	}
	number, _, err := c.EnsureIssue(ctx, pullrequest.DashboardTitle, in.Dashboard.Render(), pullrequest.SameBody)
	return number, err
}
