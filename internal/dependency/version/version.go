// Package version compares the versions of the ecosystems, says how far a step from one to another goes,
// and reads and rewrites the constraints that stand in files. It is pure.
//
// The versions are parsed here, since all ecosystems want the same few things of them and a lenient parser
// for tags exists nowhere; the constraints are read by libraries that follow npm and Helm to the letter.
package version

import (
	"go/version"
	"regexp"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// MaxLength bounds a version and a constraint: longer ones are nobody's, and not valid.
const MaxLength = 256

// Versioning is how one ecosystem writes its versions.
type Versioning interface {
	// Parse reads a version of a release. What is none (a branch, a word such as latest) is not valid.
	Parse(text string) (Version, bool)
	// Range reads what is written in a file: a version, or a range. It returns what says whether a version
	// is inside of it, or false if it cannot be understood.
	Range(written string) (inside func(Version) bool, ok bool)
	// Rewrite brings what is written to the version, in its own form. Where it admits the version and has
	// no place to name it (4.x), it comes back as it is; false where it cannot be brought there.
	Rewrite(written string, to Version) (string, bool)
}

// Of returns a versioning by its name, of the Versioning constants of package dependency.
func Of(name string) (Versioning, bool) {
	v, ok := versionings[name]
	return v, ok
}

var versionings = map[string]Versioning{
	dependency.VersioningGo:     goVersioning{},
	dependency.VersioningNPM:    npmVersioning{},
	dependency.VersioningImage:  tagVersioning{},
	dependency.VersioningHelm:   helmVersioning{},
	dependency.VersioningGitHub: tagVersioning{prefixes: true},
}

// Version is a parsed version, to be compared with others of its versioning.
type Version struct {
	Text         string
	numbers      []string // decimal, without leading zeros
	pre          string   // as in semver, with its hyphen
	prefix       string   // what stands before the number; only releases with the same are comparable
	variant      string   // what a tag's variant is (-alpine), likewise
	pseudo       bool     // a Go pseudo-version
	incompatible bool     // a Go version with +incompatible
	calendar     bool     // a tag that begins with a year or a date
}

// Prerelease says whether it is not meant for everybody yet.
func (v Version) Prerelease() bool { return v.pre != "" }

// Pseudo says whether it is a Go pseudo-version: a commit, and no release.
func (v Version) Pseudo() bool { return v.pseudo }

// Compare orders versions of one versioning. Builds are ignored.
func (v Version) Compare(w Version) int {
	for i := range max(len(v.numbers), len(w.numbers)) {
		if c := compareNumbers(v.number(i), w.number(i)); c != 0 {
			return c
		}
	}
	return semver.Compare("v0.0.0"+v.pre, "v0.0.0"+w.pre)
}

func (v Version) number(i int) string {
	if i < len(v.numbers) {
		return v.numbers[i]
	}
	return "0"
}

func compareNumbers(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// Step is the type of the update from one version to another: Patch, Minor, Major, or Digest from one
// commit to a newer one. It is empty if that is no update: an older or equal version, another variant or
// prefix, a tag of another precision, or a prerelease that somebody has not asked for by being on one.
func Step(from, to Version) string {
	switch {
	case from.prefix != to.prefix || from.variant != to.variant,
		!from.incompatible && to.incompatible, // a tag of the time before modules
		from.calendar != to.calendar,          // alpine:3 and alpine:20240329 are no updates of each other
		to.Compare(from) <= 0:
		return ""
	case from.number(0) == to.number(0) && from.number(1) == to.number(1) && from.number(2) == to.number(2) && from.pseudo && to.pseudo:
		return dependency.Digest
	case to.pseudo:
		return ""
	case to.Prerelease() && !(from.Prerelease() && sameNumbers(from, to)):
		return "" // somebody on 2.0.0-rc.1 is told of 2.0.0-rc.2 and of 2.0.0, but not of 2.1.0-rc.1
	case from.number(0) != to.number(0):
		return dependency.Major
	case from.number(1) != to.number(1):
		return dependency.Minor
	}
	return dependency.Patch
}

func sameNumbers(v, w Version) bool {
	for i := range max(len(v.numbers), len(w.numbers)) {
		if v.number(i) != w.number(i) {
			return false
		}
	}
	return true
}

var number = `(?:0|[1-9][0-9]{0,17})`

var strict = regexp.MustCompile(`^(` + number + `)\.(` + number + `)\.(` + number + `)(-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?$`)

// parseStrict reads a version as semver.org has it.
func parseStrict(text, prefix string) (Version, bool) {
	if len(text) > MaxLength {
		return Version{}, false
	}
	bare := strings.TrimPrefix(text, prefix)
	m := strict.FindStringSubmatch(bare)
	if m == nil || !semver.IsValid("v"+bare) {
		return Version{}, false
	}
	return Version{Text: text, numbers: m[1:4], pre: m[4]}, true
}

type goVersioning struct{}

func (goVersioning) Parse(text string) (Version, bool) {
	if !strings.HasPrefix(text, "v") {
		return parseGoItself(text)
	}
	v, ok := parseStrict(text, "v")
	v.pseudo = ok && module.IsPseudoVersion(text)
	v.incompatible = ok && strings.HasSuffix(text, "+incompatible")
	return v, ok
}

var goItself = regexp.MustCompile(`^(` + number + `)\.(` + number + `)(?:\.(` + number + `))?(?:(beta|rc)(` + number + `))?$`)

// parseGoItself reads a version of Go: 1.24, 1.24.3, 1.25rc1.
func parseGoItself(text string) (Version, bool) {
	m := goItself.FindStringSubmatch(text)
	if m == nil || len(text) > MaxLength || !version.IsValid("go"+text) {
		return Version{}, false
	}
	v := Version{Text: text, numbers: m[1:3]}
	if m[3] != "" {
		v.numbers = m[1:4]
	}
	if m[4] != "" {
		v.pre = "-" + m[4] + "." + m[5]
	}
	return v, true
}

// Range of Go is one version: no newer one is taken without being written.
func (g goVersioning) Range(written string) (func(Version) bool, bool) {
	w, ok := g.Parse(written)
	return func(v Version) bool { return v.Compare(w) == 0 }, ok
}

func (goVersioning) Rewrite(_ string, to Version) (string, bool) { return to.Text, true }

// tagVersioning is of tags: of images, which have variants, and of repositories, which have prefixes.
type tagVersioning struct{ prefixes bool }

var (
	tag = regexp.MustCompile(`^((?:[A-Za-z](?:[A-Za-z0-9_./-]*?[A-Za-z_/-])??)??)(` + number + `(?:\.` + number + `){0,3})((?:[-._+]?[A-Za-z][0-9A-Za-z._+-]*)?)$`)
	// hash is the name of a commit, which may begin like a number.
	hash       = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
	prerelease = regexp.MustCompile(`^[-._]?(?:alpha|beta|rc|pre|preview|dev|cr|ea|m|snapshot|nightly|canary|next)(?:[-.]?[0-9]+)*(?:$|[-_+])`)
	lettered   = regexp.MustCompile(`[a-f]`)
)

func (t tagVersioning) Parse(text string) (Version, bool) {
	if len(text) > MaxLength || hash.MatchString(text) && lettered.MatchString(text) {
		return Version{}, false
	}
	m := tag.FindStringSubmatch(text)
	if m == nil || !t.prefixes && m[1] != "" && m[1] != "v" {
		return Version{}, false
	}
	v := Version{Text: text, prefix: m[1], numbers: strings.Split(m[2], "."), variant: m[3]}
	v.calendar = len(v.number(0)) >= 4
	if p := prerelease.FindString(strings.ToLower(v.variant)); p != "" {
		p = strings.TrimRight(p, "-_+")
		v.pre = canonicalPrerelease(p)
		v.variant = v.variant[len(p):]
	}
	// 15 and 15.3 are two promises: the tag that floats within a major goes to the next major's.
	v.variant += strings.Repeat(".n", len(v.numbers))
	return v, true
}

var letters = regexp.MustCompile(`^([a-z]+)[-.]?(.*)$`)

// canonicalPrerelease makes rc1, -rc1 and -rc.1 comparable by number.
func canonicalPrerelease(p string) string {
	m := letters.FindStringSubmatch(strings.TrimLeft(p, "-._"))
	pre := "-" + m[1]
	for _, part := range strings.FieldsFunc(m[2], func(r rune) bool { return r == '.' || r == '-' }) {
		if part = strings.TrimLeft(part, "0"); part == "" {
			part = "0"
		}
		pre += "." + part
	}
	return pre
}

func (t tagVersioning) Range(written string) (func(Version) bool, bool) {
	_, ok := t.Parse(written)
	return func(v Version) bool { return v.Text == written }, ok
}

func (tagVersioning) Rewrite(_ string, to Version) (string, bool) { return to.Text, true }
