// Package pullrequest decides about the pull requests by which dependencies are brought up to date: which
// updates become one proposal, what it says, and what is to be done next about one that stands. It does no
// I/O; what it decides on is what was seen, so it may be asked as often as one likes.
package pullrequest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// Change is one dependency brought to one update.
type Change struct {
	Dependency dependency.Dependency `json:"dependency"`
	Update     dependency.Update     `json:"update"`
}

// Proposal is what one pull request proposes. The same changes are the same proposal, whoever makes it
// and whenever.
type Proposal struct {
	// Branch is the key of the pull request: there is at most one open at a time.
	Branch  string   `json:"branch"`
	Type    string   `json:"type"`            // of dependency's types of updates; the gravest of its changes
	Group   string   `json:"group,omitempty"` // of the policy, if it is of one
	Title   string   `json:"title"`           // also the commit's subject
	Changes []Change `json:"changes"`         // in the order of file, manager and name
	// Severity is the highest of its updates.
	Severity float64 `json:"severity,omitempty"`
}

// Group is a rule that makes one proposal of many updates.
type Group struct {
	Name     string   `json:"name"`
	Packages []string `json:"packages"`        // patterns as of path.Match over whole names; ** stands for all
	Types    []string `json:"types,omitempty"` // patch and minor when empty: a major update is looked at alone
}

// prefix begins the name of every branch that is Upkeep's.
const prefix = "upkeep/"

// Ours says whether a branch is named as only Upkeep names them.
func Ours(branch string) bool { return strings.HasPrefix(branch, prefix) }

// Propose makes proposals of changes, in the order in which they are worth a person's time: security
// first, and of it what the code is not known not to call; then the small ones. What ends a vulnerability is in no group, and neither a group nor a limit
// keeps it waiting.
func Propose(changes []Change, groups []Group) []Proposal {
	byBranch := make(map[string]*Proposal)
	for _, c := range changes {
		p := proposal(c, groups)
		if have := byBranch[p.Branch]; have != nil {
			have.Changes = append(have.Changes, c)
			continue
		}
		p.Changes = []Change{c}
		byBranch[p.Branch] = &p
	}
	all := make([]Proposal, 0, len(byBranch))
	for _, p := range byBranch {
		slices.SortFunc(p.Changes, func(a, b Change) int {
			return cmp.Or(cmp.Compare(a.Dependency.File, b.Dependency.File), cmp.Compare(a.Dependency.Manager, b.Dependency.Manager),
				cmp.Compare(a.Dependency.Name, b.Dependency.Name), cmp.Compare(a.Dependency.Written, b.Dependency.Written))
		})
		p.Title = title(*p)
		for _, c := range p.Changes {
			p.Severity = max(p.Severity, c.Update.Severity)
		}
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b Proposal) int {
		return cmp.Or(cmp.Compare(rank(a.Type), rank(b.Type)), cmp.Compare(a.harmless(), b.harmless()), cmp.Compare(a.Branch, b.Branch))
	})
	return all
}

// Reach is the worst of what is said of the vulnerabilities that it ends; empty where nothing was looked at.
func (p Proposal) Reach() string {
	for _, level := range dependency.Reaches {
		if slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Update.Worst() == level }) {
			return level
		}
	}
	return ""
}

// harmless is 1 for what ends only vulnerabilities that the code does not call, else 0.
func (p Proposal) harmless() int {
	if r := p.Reach(); r == dependency.ReachImported || r == dependency.ReachRequired {
		return 1
	}
	return 0
}

// reaches are the words for how the code reaches a vulnerability.
var reaches = map[string]string{
	dependency.ReachCalled: "the code calls it", dependency.ReachNotProven: "whether the code calls it is not proven",
	dependency.ReachImported: "a package with it is imported, and nothing calls it", dependency.ReachRequired: "no package with it is imported",
}

// Named is the title for people who see no body, with how the code reaches what it ends.
func (p Proposal) Named() string {
	if words, ok := reaches[p.Reach()]; ok {
		return p.Title + " (" + words + ")"
	}
	return p.Title
}

// proposal says to which proposal a change belongs. A package that stands in several files is one.
func proposal(c Change, groups []Group) Proposal {
	p := Proposal{Type: c.Update.Type}
	if c.Update.Type != dependency.Security {
		for _, g := range groups {
			if g.takes(c) {
				p.Group = g.Name
				p.Branch = prefix + p.Type + "/" + slug(g.Name)
				return p
			}
		}
	}
	name := c.Dependency.Manager + "-" + c.Dependency.Package.Name
	if p.Type == dependency.Major {
		name += "-" + major(c.Update.Version)
	}
	p.Branch = prefix + p.Type + "/" + slug(name)
	return p
}

func (g Group) takes(c Change) bool {
	types := g.Types
	if len(types) == 0 {
		types = []string{dependency.Patch, dependency.Minor}
	}
	return slices.Contains(types, c.Update.Type) && g.Names(c.Dependency.Package.Name)
}

// Names reports whether one of the group's patterns stands for a package.
func (g Group) Names(name string) bool {
	return slices.ContainsFunc(g.Packages, func(pattern string) bool { return pattern == "**" || matches(pattern, name) })
}

// matches reads a pattern of which each * stands within one part of the name, and a last /** for all below.
func matches(pattern, name string) bool {
	if below, ok := strings.CutSuffix(pattern, "/**"); ok {
		return strings.HasPrefix(name, below+"/")
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// rank orders types by how soon they should be seen to.
func rank(t string) int {
	return slices.Index(dependency.Types, t)
}

var unsafeInBranch = regexp.MustCompile(`[^a-z0-9.]+`)

// slug makes a name fit for a branch. It is not one to one by itself, so what it alters ends in a hash of
// the name: github.com/a/b and github.com/a-b are two branches.
func slug(name string) string {
	s := strings.Trim(unsafeInBranch.ReplaceAllString(strings.ToLower(name), "-"), "-.")
	for strings.Contains(s, "..") {
		s = strings.ReplaceAll(s, "..", ".")
	}
	s = strings.TrimSuffix(s, ".lock")
	const most = 60
	if len(s) > most {
		s = strings.Trim(s[:most], "-.")
	}
	sum := sha256.Sum256([]byte(name))
	return s + "-" + hex.EncodeToString(sum[:4])
}

// major is the part of a version before its first dot, with a v.
func major(version string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	return "v" + first
}

// title is in the words of Conventional Commits, which tools that make changelogs read.
func title(p Proposal) string {
	kind, scope := "chore", "(deps)"
	if p.Type == dependency.Security {
		kind = "fix"
	}
	if slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Dependency.Manager == "github-actions" }) {
		kind = "ci"
	}
	what := fmt.Sprintf("update %s to %s", line(p.Changes[0].Dependency.Name), line(p.Changes[0].Update.Version))
	switch names := packages(p.Changes); {
	case p.Group != "":
		what = "update " + line(p.Group) + " (" + p.Type + ")"
	case p.Type == dependency.Digest:
		what = fmt.Sprintf("update the digest of %s %s", line(p.Changes[0].Dependency.Name), line(p.Changes[0].Update.Version))
	case len(names) > 1:
		what = fmt.Sprintf("update %s and %d more", line(names[0]), len(names)-1)
	}
	if p.Type == dependency.Security {
		what += " [security]"
	}
	return bounded(kind+scope+": "+what, 120)
}

func packages(changes []Change) (names []string) {
	for _, c := range changes {
		if !slices.Contains(names, c.Dependency.Package.Name) {
			names = append(names, c.Dependency.Package.Name)
		}
	}
	return names
}

// Hash names what a proposal changes: two with the same hash would change the same to the same.
func (p Proposal) Hash() string {
	type change struct{ File, Manager, Name, Written, Package, To, Digest string }
	var all []change
	for _, c := range p.Changes {
		all = append(all, change{c.Dependency.File, c.Dependency.Manager, c.Dependency.Name, c.Dependency.Written, c.Update.Package, c.Update.Written, c.Update.Digest})
	}
	data, err := json.Marshal(all)
	if err != nil { // of strings alone
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Means names what a proposal is for, without the place where it is written: what a person has closed is
// not proposed again, though it may have moved to another file. A major update means the major version,
// any other the version itself.
func (p Proposal) Means() string {
	var all []string
	for _, c := range p.Changes {
		to := c.Update.Version + c.Update.Digest
		if p.Type == dependency.Major {
			to = major(c.Update.Version)
		}
		all = append(all, c.Dependency.Manager+" "+c.Dependency.Package.Name+" "+to)
	}
	slices.Sort(all)
	sum := sha256.Sum256([]byte(p.Type + "\n" + strings.Join(slices.Compact(all), "\n")))
	return hex.EncodeToString(sum[:16])
}
