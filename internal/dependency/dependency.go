// Package dependency is what the update of dependencies speaks of: what a repository depends on and
// where that is written (a Manager finds and edits it), which releases there are (a Datasource knows), and
// which of them are proposed. It does no I/O.
package dependency

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Dependency is a package as one file mentions it. Two mentions in one file that are written alike are one.
type Dependency struct {
	Manager string  `json:"manager"` // the name of the Manager that found it
	File    string  `json:"file"`    // its path from the repository's root, with slashes
	Name    string  `json:"name"`    // as a person knows it, and unique in the file together with Written
	Package Package `json:"package"`
	// Current is the version in use: what the lock file says, or else what is written. It is of the
	// package's versioning, without an operator.
	Current string `json:"current"`
	// Written is what stands in the file, byte for byte: a version, a range, a tag.
	Written string `json:"written"`
	// Digest is the digest or the commit that Written is pinned to, if it is.
	Digest   string `json:"digest,omitempty"`
	Indirect bool   `json:"indirect,omitempty"` // needed by another dependency, and not by the repository itself
	// Locked says that Current is what a lock file says, so that a newer version inside of the range that
	// is written is an update too. Without a lock file such a version is installed anyway.
	Locked bool `json:"locked,omitempty"`
	// Excluded are versions that the file rules out.
	Excluded []string `json:"excluded,omitempty"`
	// Skip says why nothing is proposed for it, in words for a person; empty if something may be.
	Skip string `json:"skip,omitempty"`
}

// The datasources that the managers name, and the versionings.
const (
	SourceGo         = "go"             // a Go module proxy; Name is a module path
	SourceGoRelease  = "golang-version" // releases of Go itself; Name is "go"
	SourceNPM        = "npm"            // an npm registry; Name may have a scope
	SourceImage      = "docker"         // an OCI registry; Registry is its host, or empty for Docker Hub; Name is library/x for Docker's own
	SourceHelm       = "helm"           // a repository of charts with an index; Registry is its URL
	SourceGitHubTags = "github-tags"    // Name is owner/name

	VersioningGo     = "go"     // v1.2.3, pseudo-versions, +incompatible; 1.24.3 for Go itself
	VersioningNPM    = "npm"    // versions and ranges of npm
	VersioningImage  = "docker" // tags with suffixes
	VersioningHelm   = "helm"   // versions and constraints of Masterminds/semver
	VersioningGitHub = "github" // v4, v4.2, v4.2.1
)

// Package is what a Datasource is asked for.
type Package struct {
	Datasource string `json:"datasource"`         // the name of a Datasource
	Name       string `json:"name"`               // as the Datasource knows it
	Registry   string `json:"registry,omitempty"` // a URL or a host, where the file names one; the datasource's own when empty
	Versioning string `json:"versioning"`         // one of those above
}

// Release is one version of a package.
type Release struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time,omitzero"` // zero: not known, so it counts as too young
	Digest  string    `json:"digest,omitempty"`
	// Withdrawn says why nobody should begin to use it: deprecated, retracted or yanked, with the
	// maker's words.
	Withdrawn string `json:"withdrawn,omitempty"`
	// Recommended marks the version that its maker points everybody to (npm's latest): nothing newer is
	// proposed to who is not past it.
	Recommended bool `json:"recommended,omitempty"`
	// Package is the name that this version has to be asked for by, where it is another one: a Go module's
	// next major version.
	Package string `json:"package,omitempty"`
}

// Manager knows one kind of files that say what a repository depends on.
type Manager interface {
	Name() string
	// Claims says whether it reads the file of this path.
	Claims(path string) bool
	// Extract finds the dependencies of a file that it claims; it may read others of the repository,
	// such as a lock file beside it. An error is about the whole file.
	Extract(ctx context.Context, repository fs.FS, file string) ([]Dependency, error)
	// Edit returns the file's content with the dependency brought to the update, and all else, comments
	// and format included, as it was. A content that has it already comes back as it is; one that has
	// neither is an error.
	Edit(content []byte, d Dependency, to Update) ([]byte, error)
}

// Follower is a Manager of dependencies that other files name too, beside the one that says the version.
type Follower interface {
	// Follow gives the files that an update changes besides, as they are then.
	Follow(ctx context.Context, repository fs.FS, d Dependency, to Update) (map[string][]byte, error)
}

// Problem is a file that could not be read, or not wholly.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // 0: not known
	What string `json:"what"`
}

func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.What
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What)
}

// ErrLockFile is what Edit returns for a dependency that only a lock file names: its ecosystem's own tool
// changes it.
var ErrLockFile = errors.New("only the lock file names it, which is not edited but made anew")

// Datasource knows the releases of packages. It is safe for use by several goroutines.
type Datasource interface {
	Name() string
	// Releases gives all releases of a package in no order. A datasource that has to ask once more for
	// each release's time or withdrawal leaves them out and fills them in by Complete.
	Releases(ctx context.Context, p Package) ([]Release, error)
	// Complete fills in what Releases has left out of one release.
	Complete(ctx context.Context, p Package, r Release) (Release, error)
}

// Types of updates, by what they may break.
const (
	Patch    = "patch"
	Minor    = "minor"
	Major    = "major"
	Digest   = "digest"   // the same version, made anew
	Security = "security" // the lowest version that ends a vulnerability
)

// Whether code reaches a vulnerability, the worst first.
const (
	ReachCalled    = "called"     // a function of it is called, as far as a look at the source tells
	ReachNotProven = "not proven" // it is not known
	ReachImported  = "imported"   // a package of it is, and nothing of it is called
	ReachRequired  = "required"   // its module is, and no package of it is imported
)

// Reaches are all of these, the worst first.
var Reaches = []string{ReachCalled, ReachNotProven, ReachImported, ReachRequired}

// Worst is the worst of what is said of an update's vulnerabilities; empty when nothing was looked at.
func (u Update) Worst() string {
	for _, level := range Reaches {
		for _, said := range u.Reach {
			if said == level {
				return level
			}
		}
	}
	return ""
}

// Types are all types of updates, in the order in which people are shown them: the most urgent first, then the
// least that may break.
var Types = []string{Security, Digest, Patch, Minor, Major}

// Update is a newer release that is proposed for a dependency.
type Update struct {
	Type    string `json:"type"`
	Version string `json:"version"`
	// Written replaces the dependency's Written: the version in the file's own form (a range stays one).
	Written    string    `json:"written"`
	Package    string    `json:"package,omitempty"` // the name to be written instead: a Go module's next major version is another module
	Digest     string    `json:"digest,omitempty"`
	Released   time.Time `json:"released,omitzero"`
	Advisories []string  `json:"advisories,omitempty"` // the ids of what it mends
	// Summaries are a line for each of these, as far as there is one.
	Summaries map[string]string `json:"summaries,omitempty"`
	// Reach says of each of these whether the code calls it, as far as that was looked at.
	Reach map[string]string `json:"reach,omitempty"`
	// Severity is the gravest of these by its database's word: the upper end of its band of CVSS; 0: not known.
	Severity float64 `json:"severity,omitempty"`
}
