package github

import (
	"context"
	"strings"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// maxNoted bounds the packages of one proposal whose makers are asked for notes.
const maxNoted = 10

// notes are what the makers say of the releases, where they are on the same GitHub. A proposal does without
// those that cannot be had: they are for people to read.
func (a *Activities) notes(ctx context.Context, r config.Repository, p pullrequest.Proposal) map[string]string {
	all := make(map[string]string)
	for _, change := range p.Changes {
		if len(all) == maxNoted {
			break
		}
		name := home(change.Dependency.Package)
		if name == "" {
			continue
		}
		other := r
		other.GitHub = name
		c, err := a.client(other)
		if err != nil {
			continue
		}
		if text, err := c.ReleaseNotes(ctx, change.Update.Version); err == nil {
			all[pullrequest.NotesKey(change)] = text
		}
	}
	return all
}

// home is the repository on github.com in which a package is made, as its name says; empty when it does not.
func home(p dependency.Package) string {
	name := p.Name
	if p.Datasource == dependency.SourceGo {
		var ok bool
		if name, ok = strings.CutPrefix(name, "github.com/"); !ok {
			return ""
		}
	} else if p.Datasource != dependency.SourceGitHubTags {
		return ""
	}
	parts := strings.SplitN(name, "/", 3)
	if len(parts) < 2 {
		return ""
	}
	return parts[0] + "/" + parts[1]
}
