package github

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/checkout"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/choose"
	"github.com/upkeep-run/upkeep/internal/dependency/edit"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/manager"
	"github.com/upkeep-run/upkeep/internal/dependency/scan"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/github"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const (
	// maxScanned bounds what a scan hands on to the run, in bytes of JSON: Temporal takes 2 MiB.
	maxScanned = 1 << 20
	// maxLines bounds each list that is for people.
	maxLines = 300
	// answers is where the answers of registries are kept in the store, for all workers and scans.
	answers = "lookups/"
	// updatesName is the file of a scan, beside the run's plans.
	updatesName = "updates.json"
)

// Scan looks for updates in a repository's newest base, and at what stands on GitHub. It writes nothing there.
func (a *Activities) Scan(ctx context.Context, in ScanRequest) (Scanned, error) {
	c, err := a.client(in.Repository)
	if err != nil {
		return Scanned{}, err
	}
	over, err := a.turn(ctx)
	if err != nil {
		return Scanned{}, err
	}
	defer over()
	out := Scanned{Base: in.Repository.Base, Standing: []pullrequest.Standing{}}
	if out.Base == "" {
		if out.Base, err = c.DefaultBranch(ctx); err != nil {
			return Scanned{}, err
		}
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return Scanned{}, err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	progress.Report(ctx, progress.Progress{Phase: "fetch " + in.Repository.GitHub})
	tree, done, err := clone(ctx, c, out.Base)
	if err != nil {
		return Scanned{}, err
	}
	defer done()
	out.Head = tree.Commit
	found, problems := manager.Find(ctx, tree.FS())
	for _, l := range tree.Left {
		problems = append(problems, dependency.Problem{File: l.Path, What: "not read: " + l.Why})
	}
	found = wanted(found, in.Repository.Ignore)
	progress.Report(ctx, progress.Progress{Phase: "look up", Note: fmt.Sprintf("%d dependencies", len(found))})
	asking := a.Registries.Client(httpcache.Options{Store: httpcache.Objects{Store: store, Prefix: answers}})
	report := scan.Scan(ctx, found, problems, scan.Options{
		Sources: a.Registries.Sources(asking), Advisories: in.Repository.Source(asking, c), Policy: policy(in.Repository),
	})
	if err := ctx.Err(); err != nil {
		return Scanned{}, err
	}
	if err := a.reach(ctx, tree.FS(), in.Repository, &report, &out); err != nil {
		return Scanned{}, err
	}
	out.Proposals = pullrequest.Propose(changes(report, &out), in.Repository.Groups)
	if out.Standing, err = standing(ctx, c); err != nil {
		return Scanned{}, err
	}
	if in.Diffs {
		out.Diffs = diffs(ctx, tree, out.Proposals)
	}
	key := path.Join(format.RunKey(in.RunID, ""), repositoryKey(in.Repository)+"-"+updatesName)
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return Scanned{}, fmt.Errorf("encode the updates: %w", err)
	}
	if err := store.Replace(ctx, key, data); err != nil {
		return Scanned{}, err
	}
	out.Plan = store.URL(key)
	return out, bounded(&out)
}

// clone brings a branch's newest commit into a folder of its own, which done removes.
func clone(ctx context.Context, c *github.Client, branch string) (tree *checkout.Checkout, done func(), err error) {
	dir, remove, err := folder()
	if err != nil {
		return nil, nil, err
	}
	tree, err = checkout.Clone(ctx, checkout.Options{Dir: dir, Remote: remote(c), Branch: branch})
	if err != nil {
		remove()
		return nil, nil, err
	}
	return tree, func() { _ = tree.Close(); remove() }, nil
}

// folder makes a folder for git, which done removes.
func folder() (dir string, done func(), err error) {
	dir, err = os.MkdirTemp("", "upkeep-git-")
	if err != nil {
		return "", nil, failure.New(failure.DiskFull, "no folder can be made for git").Because(err).Do("make room in the worker's folder for temporary files, then resume the run")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

func remote(c *github.Client) checkout.Remote {
	return checkout.Remote{URL: c.GitURL(), Token: c.Token}
}

// wanted leaves out what the policy ignores.
func wanted(found []dependency.Dependency, ignore []string) []dependency.Dependency {
	g := pullrequest.Group{Packages: ignore}
	kept := found[:0]
	for _, d := range found {
		if !g.Names(d.Package.Name) {
			kept = append(kept, d)
		}
	}
	return kept
}

func policy(r config.Repository) choose.Policy {
	return choose.Policy{Now: time.Now(), Age: map[string]time.Duration{
		dependency.Digest: r.Age.Patch, dependency.Patch: r.Age.Patch, dependency.Minor: r.Age.Minor, dependency.Major: r.Age.Major,
	}}
}

// changes are what a scan proposes; what else people should know of it is put down in out.
func changes(report scan.Report, out *Scanned) (all []pullrequest.Change) {
	for _, e := range report.Entries {
		for _, u := range e.Updates {
			all = append(all, pullrequest.Change{Dependency: e.Dependency, Update: u})
		}
		for _, h := range e.Held {
			line := pullrequest.Line{What: fmt.Sprintf("%s %s in %s", e.Name, h.Version, e.File), Why: h.Why}
			if h.Until.IsZero() {
				out.Held = append(out.Held, line)
			} else {
				out.Young = append(out.Young, line)
			}
		}
		if e.Skipped != "" && !e.Dependency.Indirect {
			out.Held = append(out.Held, pullrequest.Line{What: e.Name + " in " + e.File, Why: e.Skipped})
		}
		if e.Problem != "" {
			out.Unread = append(out.Unread, pullrequest.Line{What: e.Name + " in " + e.File, Why: e.Problem})
		}
	}
	for _, p := range report.Problems {
		out.Unread = append(out.Unread, pullrequest.Line{What: p.File, Why: p.What})
	}
	return all
}

// standing are Upkeep's pull requests that are open, and branches that lack one.
func standing(ctx context.Context, c *github.Client) ([]pullrequest.Standing, error) {
	open, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	all := []pullrequest.Standing{}
	for _, p := range open {
		if p.Foreign || !pullrequest.Ours(p.Branch) {
			continue
		}
		s := pullrequest.Standing{Branch: p.Branch, Number: p.Number, Title: p.Title, Opened: p.Opened}
		s.Mark, _ = pullrequest.ReadMark(p.Body)
		all = append(all, s)
	}
	return leftOver(ctx, c, all)
}

// leftOver adds branches that Upkeep has pushed and that have no open pull request: what a worker left that was
// frozen before its push, and woke when the pull request was over.
func leftOver(ctx context.Context, c *github.Client, all []pullrequest.Standing) ([]pullrequest.Standing, error) {
	dir, done, err := folder()
	if err != nil {
		return nil, err
	}
	defer done()
	pushed, err := remote(c).Under(ctx, dir, github.PushedRef(""))
	if err != nil {
		return nil, err
	}
	for _, ref := range slices.Sorted(maps.Keys(pushed)) {
		branch := strings.TrimPrefix(ref, github.PushedRef(""))
		if pullrequest.Ours(branch) && !slices.ContainsFunc(all, func(s pullrequest.Standing) bool { return s.Branch == branch }) {
			all = append(all, pullrequest.Standing{Branch: branch, Title: branch})
		}
	}
	return all, nil
}

// diffs show what each proposal would change in the files that say what is depended on.
func diffs(ctx context.Context, tree *checkout.Checkout, proposals []pullrequest.Proposal) map[string]string {
	all := make(map[string]string)
	for _, p := range proposals {
		edited, err := edit.Apply(ctx, tree.FS(), edits(p))
		if err == nil {
			all[p.Branch], err = edit.Diff(tree.FS(), edited)
		}
		if err != nil {
			all[p.Branch] = "cannot be edited: " + err.Error()
		}
	}
	return all
}

func edits(p pullrequest.Proposal) []edit.Change {
	all := make([]edit.Change, 0, len(p.Changes))
	for _, c := range p.Changes {
		all = append(all, edit.Change{Dependency: c.Dependency, Update: c.Update})
	}
	return all
}

// bounded cuts what is for people, so that Temporal takes it; all of it is in the store.
func bounded(out *Scanned) error {
	for _, lines := range []*[]pullrequest.Line{&out.Young, &out.Held, &out.Unread} {
		if len(*lines) > maxLines {
			*lines = append((*lines)[:maxLines:maxLines], pullrequest.Line{What: fmt.Sprintf("and %d more", len(*lines)-maxLines)})
		}
	}
	size := func() int {
		data, err := json.Marshal(out)
		if err != nil {
			return maxScanned + 1
		}
		return len(data)
	}
	if size() > maxScanned {
		out.Diffs = nil
	}
	if size() > maxScanned {
		return failure.New(failure.RepositoryTooLarge, "there are %d proposals at once, which is more than a run can carry", len(out.Proposals)).
			Do("look for one type of updates at a time, or make groups of them in upkeep.yaml")
	}
	return nil
}
