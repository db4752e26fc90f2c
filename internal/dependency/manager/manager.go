// Package manager has the managers of all kinds of dependencies, and finds what a repository depends on.
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/compose"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/dockerfile"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/githubactions"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/gomod"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/helm"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/helmvalues"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/kubernetes"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/npm"
)

// all are the managers. A new one is a folder beside these, and a line here.
var all = []dependency.Manager{
	compose.Manager,
	dockerfile.Manager,
	githubactions.Manager,
	gomod.Manager{},
	helm.Manager{},
	helmvalues.Manager,
	kubernetes.Manager,
	npm.Manager{},
}

// All gives the managers.
func All() []dependency.Manager { return slices.Clone(all) }

// Named gives the manager of that name.
func Named(name string) (dependency.Manager, bool) {
	for _, m := range all {
		if m.Name() == name {
			return m, true
		}
	}
	return nil, false
}

// Bounds of a walk.
const (
	maxEntries      = 500_000
	maxFiles        = 50_000 // that a manager claims
	maxDepth        = 64
	maxDependencies = 200_000
	maxProblems     = 1000
)

// others are folders of what others have written, and of what tests read.
var others = []string{".git", "node_modules", "bower_components", "vendor", "testdata"}

// Find finds the dependencies of a repository, in the order of its files. What cannot be read is a problem, and
// the rest goes on. Symbolic links are not followed. To read a folder that others write to, use os.Root.FS.
func Find(ctx context.Context, repository fs.FS) ([]dependency.Dependency, []dependency.Problem) {
	return FindBy(ctx, repository, all)
}

// FindBy is Find with managers of one's own choice.
func FindBy(ctx context.Context, repository fs.FS, managers []dependency.Manager) ([]dependency.Dependency, []dependency.Problem) {
	files, problems := walk(ctx, repository, managers)
	found := make([][]dependency.Dependency, len(files))
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range files {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			var err error
			if found[i], err = extract(ctx, repository, f); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, problem(err, f.path))
			}
			return nil
		})
	}
	_ = group.Wait() // no part of it fails
	if err := ctx.Err(); err != nil {
		problems = append(problems, dependency.Problem{File: ".", What: "the search did not end: " + err.Error()})
	}
	dependencies := slices.Concat(found...)
	if len(dependencies) > maxDependencies {
		dependencies = dependencies[:maxDependencies]
		problems = append(problems, dependency.Problem{File: ".", What: fmt.Sprintf("it has more than %d dependencies; the rest was left out", maxDependencies)})
	}
	slices.SortFunc(problems, func(x, y dependency.Problem) int {
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line), cmp.Compare(x.What, y.What))
	})
	problems = slices.Compact(problems)
	return dependencies, problems[:min(len(problems), maxProblems)]
}

// claimed is a file and who reads it.
type claimed struct {
	path    string
	manager dependency.Manager
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

func walk(ctx context.Context, repository fs.FS, managers []dependency.Manager) (files []claimed, problems []dependency.Problem) {
	entries := 0
	enough := func(name, format string, args ...any) error {
		problems = append(problems, dependency.Problem{File: dependency.Printable(name), What: fmt.Sprintf(format, args...)})
		return errEnough
	}
	err := fs.WalkDir(repository, ".", func(name string, entry fs.DirEntry, err error) error {
		entries++
		switch {
		case ctx.Err() != nil:
			return errEnough
		case err != nil:
			problems = append(problems, problem(err, name))
			return fs.SkipDir
		case entries > maxEntries:
			return enough(name, "the repository has more than %d files and folders; from here on they were not looked at", maxEntries)
		case entry.IsDir() && slices.Contains(others, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() && strings.Count(name, "/") >= maxDepth:
			problems = append(problems, dependency.Problem{File: dependency.Printable(name), What: fmt.Sprintf("it is deeper than %d folders", maxDepth)})
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		for _, m := range managers {
			if !m.Claims(name) {
				continue
			}
			if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(name) {
				problems = append(problems, dependency.Problem{File: dependency.Printable(name), What: "its name cannot be shown, so it was not read"})
				break
			}
			if len(files) == maxFiles {
				return enough(name, "more than %d files may name dependencies; from here on they were not read", maxFiles)
			}
			files = append(files, claimed{name, m})
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		problems = append(problems, problem(err, "."))
	}
	return files, problems
}

func extract(ctx context.Context, repository fs.FS, f claimed) (found []dependency.Dependency, err error) {
	defer func() {
		if r := recover(); r != nil {
			found, err = nil, &dependency.Problem{File: f.path, What: fmt.Sprintf("%s cannot bear it: %v", f.manager.Name(), r)}
		}
	}()
	return f.manager.Extract(ctx, repository, f.path)
}

func problem(err error, file string) dependency.Problem {
	var p *dependency.Problem
	if !errors.As(err, &p) {
		var at *fs.PathError
		if errors.As(err, &at) { // without the folder in which the repository is
			err = at.Err
		}
		p = &dependency.Problem{File: file, What: err.Error()}
	}
	return dependency.Problem{File: dependency.Printable(path.Clean(cmp.Or(p.File, file))), Line: p.Line, What: dependency.Printable(p.What)}
}
