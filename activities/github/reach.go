package github

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/lock"
	"github.com/upkeep-run/upkeep/internal/dependency/scan"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const (
	// modulesReached bounds how many modules of a repository are looked at, and reachedWithin the time for all.
	modulesReached = 20
	reachedWithin  = 20 * time.Minute
)

// reach puts down, for the security updates of Go modules, whether the code calls what they mend. What cannot be
// told is not proven, and out says why: the updates are proposed all the same.
func (a *Activities) reach(ctx context.Context, tree fs.FS, r config.Repository, report *scan.Report, out *Scanned) error {
	if r.Reachability == config.ReachabilityOff {
		return nil
	}
	var modules []string
	for _, e := range report.Entries {
		if mends(e) && !slices.Contains(modules, e.File) {
			modules = append(modules, e.File)
		}
	}
	slices.Sort(modules)
	until, cancel := context.WithTimeout(ctx, reachedWithin)
	defer cancel()
	for n, file := range modules {
		var found lock.Reached
		err := fmt.Errorf("only %d modules of a repository are looked at", modulesReached)
		if n < modulesReached {
			progress.Report(ctx, progress.Progress{Phase: "see what is called", Note: file})
			found, err = a.Tools.Reach(until, tree, file, database(r))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the modules of the repository were not all looked at within %s", reachedWithin)
		}
		if err != nil {
			out.Unread = append(out.Unread, pullrequest.Line{What: "what is called in " + file, Why: err.Error()})
		}
		for i := range report.Entries {
			if e := &report.Entries[i]; mends(*e) && e.File == file {
				mark(e.Updates, found)
			}
		}
	}
	return nil
}

// mends reports whether an entry is of a Go module that has a security update. Go's own library is looked at as it is
// on the worker, whatever the module asks for, so nothing is told of that.
func mends(e scan.Entry) bool {
	return e.Dependency.Package.Datasource == dependency.SourceGo && path.Base(e.File) == "go.mod" &&
		slices.ContainsFunc(e.Updates, func(u dependency.Update) bool { return u.Type == dependency.Security })
}

func mark(updates []dependency.Update, found lock.Reached) {
	for i, u := range updates {
		if u.Type != dependency.Security {
			continue
		}
		updates[i].Reach = make(map[string]string)
		for _, id := range u.Advisories {
			updates[i].Reach[id] = found.Of(id)
		}
	}
}

// database is where Go's vulnerabilities are. Who has advisories in a folder may have no internet, and names it.
func database(r config.Repository) string {
	if r.Advisories != "" {
		return r.Reachability
	}
	return cmp.Or(r.Reachability, lock.GoVulnerabilities)
}
