package github

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/config"
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
	// lookSeldom is how often one is looked at that waits for a person. News come by webhook, if one is set up.
	lookSeldom = 2 * time.Minute
	// checksBegin is how long after a push checks may still begin, though none is there yet.
	checksBegin = 10 * time.Minute
)

// Activities work on repositories. They are safe for use by several goroutines.
type Activities struct {
	mu     sync.Mutex
	limits map[string]*github.Limits // by who asks: GitHub counts by that
	cache  github.Cache
}

// client is a client of a repository. All of the same token share their limits.
func (a *Activities) client(r config.Repository) (*github.Client, error) {
	o := github.Options{Repository: r.GitHub, APIURL: r.API}
	who := r.API + "\x00"
	if r.App != nil {
		o.App = &github.App{ID: int64(r.App.ID), Key: r.App.Key.Resolver()}
		who += "app"
	} else {
		o.Token = r.Token.Resolver()
		who += r.Token.Env + "\x00" + r.Token.File
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
	if s.BaseHead, err = c.Commit(ctx, base); err != nil {
		return Sight{}, err
	}
	if s.BaseHead == "" {
		return Sight{}, failure.New(failure.GitHubRefused, "%s has no branch %s", in.Repository.GitHub, base).Do("correct its base in upkeep.yaml")
	}
	// What was pushed is read before the branch: a push that comes in between moves both, and is then taken
	// for a person's by nobody, because a branch that is not as it was pushed is looked at once more.
	for range 2 {
		if s.Pushed, err = c.Pushed(ctx, in.Branch); err != nil {
			return Sight{}, err
		}
		if s.Head, err = c.Commit(ctx, in.Branch); err != nil {
			return Sight{}, err
		}
		if s.Head == s.Pushed {
			break
		}
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
	s.Number, s.Open, s.Draft, s.BaseRef, s.Conflict, sight.Link = whole.Number, true, whole.Draft, whole.Base, whole.Conflicted, whole.Link
	for _, l := range whole.Labels {
		s.Stop = s.Stop || strings.EqualFold(l, stopLabel)
	}
	if whole.State == "blocked" {
		s.Blocked = "GitHub's rules for " + whole.Base + " want more, such as a review"
	}
	return sight, checks(ctx, c, s)
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
		every := lookSeldom
		if in.Known.Checks == pullrequest.Pending || in.Known.Checks == pullrequest.NoChecks && time.Since(began) < checksBegin {
			every = lookEvery
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		sight, err := look(ctx, c, in.BranchRequest)
		if err != nil {
			return err
		}
		if sight.Seen != in.Known {
			return nil
		}
		progress.Report(ctx, progress.Progress{Phase: "wait for news", Note: "as it was"})
	}
}

// Ensure has the pull request of a branch there, and its description as it should be. Done twice, it is there
// once. Reviewers are asked once, by who opened it.
func (a *Activities) Ensure(ctx context.Context, in Order) (Pull, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return Pull{}, err
	}
	p := in.Follower.Proposal
	body := pullrequest.Body(p, pullrequest.Context{
		Notes: a.notes(ctx, in.Repository, p), Merges: pullrequest.Merges(p, in.Repository.Merge), Unlocked: in.Prepared.Unlocked,
	})
	head := in.Prepared.Commit
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
	labels := append([]string{"dependencies"}, in.Repository.Labels...)
	if err := c.EnsureLabels(ctx, pull.Number, labels); err != nil {
		return Pull{}, err
	}
	if opened && len(in.Repository.Reviewers) > 0 {
		if err := c.EnsureReviewers(ctx, pull.Number, in.Repository.Reviewers); err != nil {
			return Pull{}, err
		}
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

// bundleKey is where a commit that is made and not pushed is kept.
func bundleKey(repository, commit string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(repository)))
	return "updates/" + hex.EncodeToString(sum[:8]) + "/" + commit
}

var errNotMade = errors.New("the commit that is pushed is not the one that was made")
