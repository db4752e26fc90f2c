// Package choose decides which releases are proposed for a dependency, and says of those that are not why.
// It is pure: the same releases, advisories, policy and moment give the same outcome.
package choose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/dependency/version"
)

// DefaultAge is how old a release has to be, so that others have found out what is wrong with it.
var DefaultAge = map[string]time.Duration{
	dependency.Digest: 3 * day, dependency.Patch: 3 * day, dependency.Minor: 7 * day, dependency.Major: 14 * day,
}

const day = 24 * time.Hour

// maxHeld bounds how many releases of one type are looked at one by one: a maker who releases every hour
// would otherwise cost a request for each.
const maxHeld = 30

// Policy is what somebody wants of updates.
type Policy struct {
	Types []string                 // all if empty
	Age   map[string]time.Duration // by type; a security update needs none
	Now   time.Time
}

func (p Policy) wants(kind string) bool { return len(p.Types) == 0 || slices.Contains(p.Types, kind) }

// Release is a release as far as it is known.
type Release struct {
	dependency.Release
	Complete bool // the datasource has filled in all that it can
}

// Held is a release that would be an update, and is not proposed.
type Held struct {
	Type     string    `json:"type"`
	Version  string    `json:"version"`
	Why      string    `json:"why"`
	Released time.Time `json:"released,omitzero"`
	Until    time.Time `json:"until,omitzero"` // from when on it would be proposed
}

// Outcome is what is decided for one dependency.
type Outcome struct {
	Updates []dependency.Update
	Held    []Held
	// Open are the versions that have to be completed before all is decided. As long as there are any, the
	// rest of the outcome is of no use.
	Open []string
	// Trouble says why nothing can be decided at all.
	Trouble string
}

// candidate is a release that is newer.
type candidate struct {
	Release
	version version.Version
	step    string
}

// chooser is one decision.
type chooser struct {
	d          dependency.Dependency
	policy     Policy
	advisories []advisory.Advisory
	versioning version.Versioning
	inside     func(version.Version) bool // nil if what is written is no range
	base       version.Version            // what is in use
	current    *Release                   // its release, if it is known
	candidates []candidate                // ascending
	out        Outcome
}

// Choose decides. The advisories are all that there are of the package.
func Choose(d dependency.Dependency, releases []Release, advisories []advisory.Advisory, p Policy) Outcome {
	c := chooser{d: d, policy: p, advisories: advisories}
	if c.out.Trouble = c.begin(releases); c.out.Trouble != "" {
		return c.out
	}
	if p.wants(dependency.Security) {
		c.security()
	}
	if d.Indirect {
		return c.out // whoever needs it says which version
	}
	if p.wants(dependency.Digest) {
		c.digest()
	}
	for _, kind := range []string{dependency.Digest, dependency.Patch, dependency.Minor, dependency.Major} {
		if p.wants(kind) {
			c.newest(kind)
		}
	}
	return c.out
}

// begin finds what is in use and what is newer, or says what is wrong.
func (c *chooser) begin(releases []Release) string {
	var ok bool
	if c.versioning, ok = version.Of(c.d.Package.Versioning); !ok {
		return fmt.Sprintf("nobody knows how to compare versions of %q", c.d.Package.Versioning)
	}
	all := make([]candidate, 0, len(releases))
	for _, r := range releases {
		if v, ok := c.versioning.Parse(r.Version); ok {
			all = append(all, candidate{Release: r, version: v})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.version.Compare(b.version) })
	if inside, ok := c.versioning.Range(c.d.Written); ok {
		c.inside = inside
	}
	if why := c.findBase(all); why != "" {
		return why
	}
	recommended := slices.IndexFunc(all, func(x candidate) bool { return x.Recommended })
	for i, x := range all {
		if x.version.Compare(c.base) == 0 && c.sameName(x) && c.current == nil {
			c.current = &all[i].Release
		}
		x.step = version.Step(c.base, x.version)
		switch {
		case x.step == "":
		case recommended >= 0 && all[recommended].version.Compare(c.base) >= 0 && x.version.Compare(all[recommended].version) > 0:
			// Its maker does not point people there yet.
		case !c.d.Locked && c.inside != nil && c.inside(x.version):
			// It is installed anyway.
		default:
			c.candidates = append(c.candidates, x)
		}
	}
	return ""
}

// sameName says whether a release is of the module that the file names, and not of another major.
func (c *chooser) sameName(x candidate) bool {
	return x.Package == "" || x.Package == c.d.Package.Name
}

// findBase finds the version that steps are measured from: the one in use, or without a lock file the
// newest that what is written admits, which is what would be installed.
func (c *chooser) findBase(all []candidate) string {
	base, ok := c.versioning.Parse(c.d.Current)
	if !c.d.Locked && c.inside != nil {
		newest, found := version.Version{}, false
		limit := slices.IndexFunc(all, func(x candidate) bool { return x.Recommended && c.inside(x.version) })
		for i, x := range all {
			if c.inside(x.version) && c.sameName(x) && (limit < 0 || i <= limit) && (x.Withdrawn == "" || !found) {
				newest, found = x.version, true
			}
		}
		if found {
			base, ok = newest, true
		}
	}
	if !ok && c.d.Current == "" {
		return "no version is written that could be compared with others"
	}
	if !ok {
		return fmt.Sprintf("%s is no version that can be compared with others", dependency.Printable(c.d.Current))
	}
	c.base = base
	return ""
}

// newest proposes the newest release of one type that may be proposed.
func (c *chooser) newest(kind string) {
	held := 0
	for _, x := range slices.Backward(c.candidates) {
		if x.step != kind || c.proposed(x.Version, kind) {
			continue
		}
		h := Held{Type: kind, Version: x.Version, Released: x.Time}
		h.Why = c.objection(x)
		if h.Why == "" && !x.Complete {
			c.out.Open = append(c.out.Open, x.Version)
			return
		}
		if h.Why == "" {
			h.Why, h.Until = c.tooYoung(x, kind)
		}
		if h.Why == "" {
			u, ok := c.update(x, kind)
			if ok {
				c.out.Updates = append(c.out.Updates, u)
				return
			}
			h.Why = fmt.Sprintf("%s cannot be brought to it without being written anew", dependency.Printable(c.d.Written))
		}
		if held++; held == 1 { // the newest says enough
			c.out.Held = append(c.out.Held, h)
		}
		if held >= maxHeld {
			return
		}
	}
}

// proposed says whether an update to that version is among the updates as that type already.
func (c *chooser) proposed(v, kind string) bool {
	return slices.ContainsFunc(c.out.Updates, func(u dependency.Update) bool { return u.Version == v && u.Type == kind })
}

// objection is what speaks against a release, however old it is.
func (c *chooser) objection(x candidate) string {
	if slices.Contains(c.d.Excluded, x.Version) {
		return "the file rules it out"
	}
	if x.Withdrawn != "" && !c.deprecatedAlike(x) {
		return dependency.Printable(x.Withdrawn)
	}
	for _, a := range c.advisories {
		if a.Affects(x.version) && (a.Malicious || !a.Affects(c.base)) {
			return "it has " + a.ID
		}
	}
	return ""
}

// deprecatedAlike says that the version in use is deprecated with the same words: then it is the package
// that nobody should begin to use, and who uses it is served best by its last version.
func (c *chooser) deprecatedAlike(x candidate) bool {
	return c.current != nil && strings.HasPrefix(x.Withdrawn, "deprecated") && c.current.Withdrawn == x.Withdrawn
}

func (c *chooser) tooYoung(x candidate, kind string) (string, time.Time) {
	age := c.policy.Age[kind]
	switch {
	case age <= 0:
		return "", time.Time{}
	case x.Time.IsZero():
		return "nobody says when it was released", time.Time{}
	case c.policy.Now.Sub(x.Time) < age:
		until := x.Time.Add(age)
		return fmt.Sprintf("too young: it is proposed when it is %s old", days(age)), until
	}
	return "", time.Time{}
}

func days(d time.Duration) string {
	switch n := d / day; {
	case d%day != 0:
		return d.String()
	case n == 1:
		return "1 day"
	default:
		return fmt.Sprintf("%d days", n)
	}
}

// update writes the update down, or says that the file cannot be brought to it.
func (c *chooser) update(x candidate, kind string) (dependency.Update, bool) {
	u := dependency.Update{Type: kind, Version: x.Version, Written: c.d.Written, Released: x.Time}
	if !c.sameName(x) {
		u.Package = x.Package
	}
	if c.d.Digest != "" {
		u.Digest = x.Digest
		if u.Digest == "" {
			return u, false
		}
	}
	if c.d.Indirect {
		u.Written = x.Version
		return u, true
	}
	written, ok := c.versioning.Rewrite(c.d.Written, x.version)
	u.Written = written
	return u, ok && dependency.CheckWritten(written) == ""
}

// digest proposes the same version where it was made anew.
func (c *chooser) digest() {
	if c.d.Digest == "" || c.current == nil {
		return
	}
	r := c.current
	if !r.Complete {
		c.out.Open = append(c.out.Open, r.Version)
		return
	}
	if r.Digest == "" || r.Digest == c.d.Digest {
		return
	}
	if why, until := c.tooYoung(candidate{Release: *r}, dependency.Digest); why != "" {
		c.out.Held = append(c.out.Held, Held{Type: dependency.Digest, Version: r.Version, Why: why, Released: r.Time, Until: until})
		return
	}
	c.out.Updates = append(c.out.Updates, dependency.Update{Type: dependency.Digest, Version: r.Version, Written: c.d.Written, Digest: r.Digest, Released: r.Time})
}

// security proposes the lowest release that ends the most vulnerabilities of the version in use. Its age does
// not count: what it mends is known to everybody.
func (c *chooser) security() {
	var now []advisory.Advisory
	for _, a := range c.advisories {
		if a.Affects(c.base) {
			now = append(now, a)
		}
	}
	if len(now) == 0 {
		return
	}
	best, bestLeft := -1, len(now)
	for i, x := range c.candidates {
		if c.objection(x) != "" || x.version.Pseudo() {
			continue
		}
		if left := len(affecting(now, x.version)); left < bestLeft {
			best, bestLeft = i, left
		}
	}
	if best < 0 {
		c.out.Held = append(c.out.Held, Held{Type: dependency.Security, Version: c.base.Text, Why: "no release mends " + strings.Join(ids(now), ", ")})
		return
	}
	x := c.candidates[best]
	if !x.Complete {
		c.out.Open = append(c.out.Open, x.Version)
		return
	}
	u, ok := c.update(x, dependency.Security)
	if !ok {
		c.out.Held = append(c.out.Held, Held{
			Type: dependency.Security, Version: x.Version, Released: x.Time,
			Why: fmt.Sprintf("%s cannot be brought to it without being written anew; it mends %s", dependency.Printable(c.d.Written), strings.Join(ids(now), ", ")),
		})
		return
	}
	left := affecting(now, x.version)
	for _, a := range now {
		if !slices.ContainsFunc(left, func(l advisory.Advisory) bool { return l.ID == a.ID }) {
			u.Advisories = append(u.Advisories, a.ID)
			u.Severity = max(u.Severity, a.Rating())
			if a.Summary != "" {
				if u.Summaries == nil {
					u.Summaries = make(map[string]string)
				}
				u.Summaries[a.ID] = a.Summary
			}
		}
	}
	c.out.Updates = append(c.out.Updates, u)
	if len(left) > 0 {
		c.out.Held = append(c.out.Held, Held{Type: dependency.Security, Version: c.base.Text, Why: "no release mends " + strings.Join(ids(left), ", ")})
	}
}

func affecting(list []advisory.Advisory, v version.Version) []advisory.Advisory {
	var left []advisory.Advisory
	for _, a := range list {
		if a.Affects(v) {
			left = append(left, a)
		}
	}
	return left
}

func ids(list []advisory.Advisory) []string {
	names := make([]string, len(list))
	for i, a := range list {
		names[i] = a.ID
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}
