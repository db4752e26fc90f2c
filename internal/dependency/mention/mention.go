// Package mention is what the managers share: a dependency together with the bytes of the file that name it.
// A manager only has to find these; that an edit changes nothing else is seen to here.
package mention

import (
	"bytes"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Span is a part of a file's content.
type Span struct{ Start, End int }

// At is the part of a span that begins so many bytes after its start.
func (s Span) At(from, length int) Span { return Span{s.Start + from, s.Start + from + length} }

// Mention is a place that names a dependency.
type Mention struct {
	dependency.Dependency
	// Version is where Written stands. Where it is put together, such as a tag of which an argument of a
	// Dockerfile is a part, it is that part's place, and Before and After are the rest.
	Version       Span
	Before, After string
	Digest        Span              // where Dependency.Digest stands, if there is one
	Name          *Span             // where Package.Name stands, if an update may replace it
	Quote         func(string) bool // says whether a version must be put into double quotes to be read as one; may be nil
}

// Find finds the mentions in a content, in the order in which they stand.
type Find func(content []byte) ([]Mention, error)

// Dependencies are those of the mentions: two that are written alike are one.
func Dependencies(mentions []Mention) []dependency.Dependency {
	var all []dependency.Dependency
	type key struct{ name, written, digest string }
	seen := make(map[key]int)
	for _, m := range settle(mentions) {
		k := key{m.Dependency.Name, m.Written, m.Dependency.Digest}
		at, known := seen[k]
		switch {
		case !known:
			seen[k] = len(all)
			all = append(all, m.Dependency)
		case all[at].Skip != "" && m.Skip == "":
			all[at] = m.Dependency
		}
	}
	return all
}

// settle checks the names, and skips what cannot be changed alone: a version that stands for several packages.
func settle(mentions []Mention) []Mention {
	type owner struct{ name, written string }
	owners := make(map[int]owner)
	shared := make(map[int]bool)
	settled := slices.Clone(mentions)
	for i := range settled {
		m := &settled[i]
		m.Dependency = m.Checked()
		if m.Skip != "" || m.Version.Start == m.Version.End { // one that stands nowhere is of a lock file
			continue
		}
		o := owner{m.Dependency.Name, m.Written}
		if other, ok := owners[m.Version.Start]; ok && other != o {
			shared[m.Version.Start] = true
		}
		owners[m.Version.Start] = o
	}
	for i, m := range settled {
		if m.Skip == "" && shared[m.Version.Start] {
			settled[i].Skip = "the same text is the version of several packages"
		}
	}
	return settled
}

// Edit is the Edit of a Manager: it writes the update to all places that mention the dependency, reads the
// content anew, and gives it only when everything else in it is as it was.
func Edit(content []byte, find Find, d dependency.Dependency, to dependency.Update) ([]byte, error) {
	target, err := updated(d, to)
	if err != nil {
		return nil, err
	}
	found, err := find(content)
	if err != nil {
		return nil, err
	}
	before := settle(found)
	after := slices.Clone(before)
	var parts []Replacement
	there := false
	for i, m := range before {
		switch {
		case m.Skip == "" && same(m.Dependency, d):
			changed, err := m.replace(d, to)
			if err != nil {
				return nil, err
			}
			parts = append(parts, changed...)
			after[i].Dependency = target
		case same(m.Dependency, target):
			there = true
		case m.Skip != "" && same(m.Dependency, d) && !there:
			err = refused(d, "%s", m.Skip)
		}
	}
	if len(parts) == 0 {
		if there {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
		return nil, refused(d, "it is not there any more")
	}
	edited, ok := Splice(content, parts)
	if !ok {
		return nil, refused(d, "its place is a part of something else's")
	}
	again, err := find(edited)
	if err != nil {
		return nil, refused(d, "the file could not be read any more after it").Because(err)
	}
	if !slices.EqualFunc(settle(again), after, func(x, y Mention) bool { return same(x.Dependency, y.Dependency) }) {
		return nil, refused(d, "it cannot be changed without changing something else")
	}
	return edited, nil
}

// updated is the dependency as it is after the update.
func updated(d dependency.Dependency, to dependency.Update) (dependency.Dependency, error) {
	target := d
	target.Written = to.Written
	if to.Package != "" && to.Package != d.Package.Name {
		if d.Name == d.Package.Name {
			target.Name = to.Package
		}
		target.Package.Name = to.Package
	}
	if d.Digest != "" {
		if to.Digest == "" {
			return target, refused(d, "it is pinned to a digest, and the update has none")
		}
		target.Digest = to.Digest
	}
	target.Skip = ""
	if checked := target.Checked(); checked.Skip != "" {
		return target, refused(d, "of what it would be: %s", checked.Skip)
	}
	return target, nil
}

func same(x, y dependency.Dependency) bool {
	return x.Name == y.Name && x.Written == y.Written && x.Digest == y.Digest &&
		x.Package.Datasource == y.Package.Datasource && x.Package.Name == y.Package.Name && x.Package.Registry == y.Package.Registry
}

// Replacement is a text that takes the place of a span.
type Replacement struct {
	Span Span
	Text string
}

func (m Mention) replace(d dependency.Dependency, to dependency.Update) ([]Replacement, error) {
	text, ok := strings.CutPrefix(to.Written, m.Before)
	if ok {
		text, ok = strings.CutSuffix(text, m.After)
	}
	if !ok || text == "" {
		return nil, refused(d, "its version is put together of parts, of which more than one would change")
	}
	if m.Quote != nil && m.Quote(text) {
		text = `"` + text + `"`
	}
	parts := []Replacement{{m.Version, text}}
	if d.Digest != "" {
		parts = append(parts, Replacement{m.Digest, to.Digest})
	}
	if to.Package != "" && to.Package != d.Package.Name {
		if m.Name == nil {
			return nil, refused(d, "it would be another package")
		}
		parts = append(parts, Replacement{*m.Name, to.Package})
	}
	return parts, nil
}

// Splice puts texts into their places. It fails when two of them overlap.
func Splice(content []byte, parts []Replacement) ([]byte, bool) {
	slices.SortFunc(parts, func(x, y Replacement) int { return x.Span.Start - y.Span.Start })
	parts = slices.Compact(parts)
	var out bytes.Buffer
	done := 0
	for _, p := range parts {
		if p.Span.Start < done || p.Span.End < p.Span.Start || p.Span.End > len(content) {
			return nil, false
		}
		out.Write(content[done:p.Span.Start])
		out.WriteString(p.Text)
		done = p.Span.End
	}
	out.Write(content[done:])
	return out.Bytes(), true
}

func refused(d dependency.Dependency, format string, args ...any) *failure.Error {
	e := failure.New(failure.NotEditable, format, args...)
	e.What = "the update of " + dependency.Printable(d.Name) + " cannot be written to " + dependency.Printable(d.File) + ": " + e.What
	return e.Do("look for updates again, or change the file by hand")
}
