package github

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/checkout"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency/edit"
	"github.com/upkeep-run/upkeep/internal/dependency/lock"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// Push makes the commit of a proposal on the newest base, lock files included, and pushes it. The branch and
// the ref that says what Upkeep has pushed are moved together, and only from where they were seen: of two at
// once one wins, and one that comes late is a BranchMoved. So it does not matter that lock files made twice
// may differ.
func (a *Activities) Push(ctx context.Context, in Order) (Pushed, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return Pushed{}, err
	}
	over, err := a.turn(ctx)
	if err != nil {
		return Pushed{}, err
	}
	defer over()
	p := in.Follower.Proposal
	progress.Report(ctx, progress.Progress{Phase: "fetch " + in.Repository.GitHub})
	tree, done, err := clone(ctx, c, in.Base)
	if err != nil {
		return Pushed{}, err
	}
	defer done()
	edited, err := edit.Apply(ctx, tree.FS(), edits(p))
	if err != nil {
		return Pushed{}, stale(err, tree.Commit, in.Choice.Base)
	}
	progress.Report(ctx, progress.Progress{Phase: "make lock files"})
	var changes []lock.Change
	for _, change := range p.Changes {
		changes = append(changes, lock.Change{Dependency: change.Dependency, Update: change.Update})
	}
	locked, err := a.Tools.Refresh(ctx, tree.FS(), edited, changes)
	if err != nil {
		return Pushed{}, err
	}
	maps.Copy(edited, locked)
	login, err := c.Login(ctx)
	if err != nil {
		return Pushed{}, err
	}
	if login == "" {
		login = "upkeep"
	}
	sha, err := tree.Make(ctx, checkout.Change{
		Files: edited, Message: pullrequest.CommitMessage(p), Name: login, Email: login + "@users.noreply.github.com", Time: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return Pushed{}, err
	}
	err = tree.Push(ctx,
		checkout.Move{Ref: "refs/heads/" + p.Branch, Old: in.Choice.Expect, New: sha},
		checkout.Move{Ref: github.PushedRef(p.Branch), Old: in.Choice.Expect, New: sha},
	)
	if err != nil {
		return Pushed{}, err
	}
	return Pushed{Commit: sha}, nil
}

// stale makes an edit that cannot be made on another base than was looked at something to look at again.
func stale(err error, commit, seen string) error {
	if commit != seen && failure.Is(err, failure.NotEditable) {
		return failure.New(failure.BranchMoved, "the base has moved since it was looked at").Because(err).Do("nothing: it is looked at again")
	}
	return err
}

// Tidy removes the branch of a pull request that is over, if it is as Upkeep left it, and the ref beside it.
// A branch that a person has pushed to stays.
func (a *Activities) Tidy(ctx context.Context, in Order) error {
	c, err := a.client(in.Repository)
	if err != nil {
		return err
	}
	dir, done, err := folder()
	if err != nil {
		return err
	}
	defer done()
	branch, pushed := "refs/heads/"+in.Follower.Proposal.Branch, github.PushedRef(in.Follower.Proposal.Branch)
	head, err := c.Commit(ctx, in.Follower.Proposal.Branch)
	if err != nil {
		return err
	}
	moves := []checkout.Move{{Ref: pushed, Old: in.Choice.Expect}}
	if head == in.Choice.Expect {
		moves = append(moves, checkout.Move{Ref: branch, Old: in.Choice.Expect})
	}
	return remote(c).Push(ctx, dir, moves...)
}

// repositoryKey names a repository in the store.
func repositoryKey(r config.Repository) string {
	sum := sha256.Sum256([]byte(strings.ToLower(r.API + "\x00" + r.GitHub)))
	return hex.EncodeToString(sum[:6])
}
