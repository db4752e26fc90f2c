// Package gomod finds Go modules in go.mod and go.work.
package gomod

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

const name = "gomod"

// Manager is the dependency.Manager of Go modules.
type Manager struct{}

func (Manager) Name() string { return name }

// Claims takes go.mod and go.work.
func (Manager) Claims(file string) bool {
	return path.Base(file) == "go.mod" || path.Base(file) == "go.work"
}

func (Manager) Extract(_ context.Context, repository fs.FS, file string) ([]dependency.Dependency, error) {
	return mention.Extract(repository, file, finder(path.Base(file) == "go.work"))
}

func (Manager) Edit(content []byte, d dependency.Dependency, to dependency.Update) ([]byte, error) {
	return mention.Edit(content, finder(path.Base(d.File) == "go.work"), d, to)
}

// parts are what go.mod and go.work have in common.
type parts struct {
	goLine    *modfile.Go
	toolchain *modfile.Toolchain
	require   []*modfile.Require
	exclude   []*modfile.Exclude
	replace   []*modfile.Replace
}

func parse(content []byte, work bool) (parts, error) {
	// Versions are taken as they stand, and not put into Go's own form: their places are looked for.
	asItIs := func(_, version string) (string, error) { return version, nil }
	var p parts
	var err error
	if work {
		var f *modfile.WorkFile
		if f, err = modfile.ParseWork("go.work", content, asItIs); err == nil {
			p = parts{goLine: f.Go, toolchain: f.Toolchain, replace: f.Replace}
		}
	} else {
		var f *modfile.File
		if f, err = modfile.Parse("go.mod", content, asItIs); err == nil {
			p = parts{f.Go, f.Toolchain, f.Require, f.Exclude, f.Replace}
		}
	}
	if err == nil {
		return p, nil
	}
	var list modfile.ErrorList
	if errors.As(err, &list) && len(list) > 0 {
		return p, &dependency.Problem{Line: list[0].Pos.Line, What: list[0].Err.Error()}
	}
	return p, &dependency.Problem{What: err.Error()}
}

func finder(work bool) mention.Find {
	return func(content []byte) ([]mention.Mention, error) {
		p, err := parse(content, work)
		if err != nil {
			return nil, err
		}
		var found []mention.Mention
		if p.goLine != nil {
			m := release(content, p.goLine.Syntax, "go", p.goLine.Version)
			m.Skip = "it is the oldest Go that will do, and not what is used"
			found = append(found, m)
		}
		if p.toolchain != nil && p.toolchain.Name != "default" {
			found = append(found, release(content, p.toolchain.Syntax, "toolchain", strings.TrimPrefix(p.toolchain.Name, "go")))
		}
		for _, r := range p.require {
			m := modules(content, r.Syntax, "", r.Mod)
			m.Indirect = r.Indirect
			for _, x := range p.exclude {
				if x.Mod.Path == r.Mod.Path {
					m.Excluded = append(m.Excluded, x.Mod.Version)
				}
			}
			for _, other := range p.replace {
				if other.Old.Path == r.Mod.Path && (other.Old.Version == "" || other.Old.Version == r.Mod.Version) && m.Skip == "" {
					m.Skip = "it is replaced by " + dependency.Printable(other.New.Path)
				}
			}
			found = append(found, m)
		}
		for _, r := range p.replace {
			m := modules(content, r.Syntax, "=>", r.New)
			if r.New.Version == "" {
				m.Skip = "it is a folder"
			}
			found = append(found, m)
		}
		return found, nil
	}
}

// modules is the mention of a module on a line, behind a word.
func modules(content []byte, line *modfile.Line, behind string, mod module.Version) mention.Mention {
	m := mention.Mention{Dependency: dependency.Dependency{
		Manager: name, Name: mod.Path, Current: mod.Version, Written: mod.Version,
		Package: dependency.Package{Datasource: dependency.SourceGo, Name: mod.Path, Versioning: dependency.VersioningGo},
	}}
	switch {
	case mod.Version == "":
	case !semver.IsValid(mod.Version) || semver.Canonical(mod.Version)+semver.Build(mod.Version) != mod.Version:
		m.Skip = "its version is none of a module"
	case mod.Version == "v0.0.0-00010101000000-000000000000" || mod.Version == "v0.0.0":
		m.Skip = "its version stands for one that is replaced"
	}
	spans, ok := locate(content, line, behind, mod.Path, mod.Version)
	if ok {
		m.Name, m.Version = &spans[0], spans[1]
	} else if m.Skip == "" {
		m.Skip = "it is written in an unusual way"
	}
	return m
}

func release(content []byte, line *modfile.Line, word, version string) mention.Mention {
	m := mention.Mention{Dependency: dependency.Dependency{
		Manager: name, Name: word, Current: version, Written: version,
		Package: dependency.Package{Datasource: dependency.SourceGoRelease, Name: "go", Versioning: dependency.VersioningGo},
	}}
	spans, ok := locate(content, line, "", word, version)
	if ok {
		m.Version = spans[1]
	} else {
		m.Skip = "it is written in an unusual way"
	}
	return m
}

// locate finds words on a line one after another, behind another one.
func locate(content []byte, line *modfile.Line, behind string, words ...string) ([]mention.Span, bool) {
	at, end := line.Start.Byte, line.End.Byte
	if at < 0 || end > len(content) || at > end {
		return nil, false
	}
	var spans []mention.Span
	for i, word := range append([]string{behind}, words...) {
		found := bytes.Index(content[at:end], []byte(word))
		if found < 0 {
			return nil, false
		}
		at += found
		if i > 0 {
			spans = append(spans, mention.Span{Start: at, End: at + len(word)})
		}
		at += len(word)
	}
	return spans, true
}
