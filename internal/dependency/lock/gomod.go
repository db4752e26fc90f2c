package lock

import (
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// settings are the variables that an operator may set for Go: where modules come from, and who vouches for them.
var settings = []string{"GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE", "GOVCS", "GOAUTH"}

// goModule makes the go.mod and go.sum of a module anew. A module that was tidy is tidy again; in one that was
// not, only what is missing is added.
func (t Tools) goModule(ctx context.Context, s source, changes []Change) (map[string][]byte, error) {
	file := changes[0].Dependency.File
	if path.Base(file) != "go.mod" {
		return nil, nil // go.work: its go.work.sum follows the modules
	}
	vendored, err := s.read(beside(file, "vendor/modules.txt"))
	if err != nil {
		return nil, err
	}
	if vendored != nil {
		return nil, failed(file, "its modules are kept in vendor/, which Upkeep does not fill")
	}
	w, err := newWorkshop()
	if err != nil {
		return nil, err
	}
	defer w.end()
	wanted := func(name string) bool {
		switch path.Base(name) {
		case "go.mod", "go.sum", "go.work", "go.work.sum":
			return true
		}
		return path.Ext(name) == ".go"
	}
	// First as it was, to see whether it was tidy; then as edited.
	if err := (source{fs: s.fs}).copy(w, ".", wanted); err != nil {
		return nil, failed(file, "the repository cannot be copied: %v", err)
	}
	run, err := t.goCommand(w, path.Dir(file))
	if err != nil {
		return nil, err
	}
	_, untidy := run(ctx, "mod", "tidy", "-diff")
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for name, content := range s.edited {
		if wanted(name) {
			if err := w.write(name, content); err != nil {
				return nil, err
			}
		}
	}
	args := []string{"mod", "tidy"}
	if untidy != nil {
		args = []string{"list", "-deps", "-test", "-f", "", "./..."}
	}
	if said, err := run(ctx, args...); err != nil {
		return nil, explain(ctx, t, "go", file, said, err)
	}
	made, err := s.differs(w, file, beside(file, "go.sum"))
	if err != nil {
		return nil, err
	}
	content := made[file]
	if content == nil {
		if content, err = s.read(file); err != nil {
			return nil, err
		}
	}
	return made, required(file, content, changes)
}

// required sees that the versions are those that were to be.
func required(file string, content []byte, changes []Change) error {
	f, err := modfile.Parse(file, content, nil)
	if err != nil {
		return failed(file, "what go has made of it cannot be read")
	}
	for _, c := range changes {
		if c.Dependency.Package.Datasource != "go" {
			continue
		}
		name := c.Dependency.Package.Name
		if c.Update.Package != "" {
			name = c.Update.Package
		}
		version := ""
		for _, r := range f.Require {
			if r.Mod.Path == name {
				version = r.Mod.Version
			}
		}
		for _, r := range f.Replace {
			if r.New.Path == name && version != c.Update.Version {
				version = r.New.Version
			}
		}
		switch {
		case version == "":
			return failed(file, "nothing imports %s, so go would remove it", name)
		case version != c.Update.Version:
			return failed(file, "%s would be at %s, and not at %s", name, version, c.Update.Version)
		}
	}
	return nil
}

// goCommand prepares the workshop for the go program, and gives how to run it in a folder.
func (t Tools) goCommand(w *workshop, folder string) (func(context.Context, ...string) (string, error), error) {
	program, err := find(t.Go, "go")
	if err != nil {
		return nil, err
	}
	env, err := t.goEnvironment(w, "GOFLAGS=-mod=mod -modcacherw", "CGO_ENABLED=1")
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, args ...string) (string, error) {
		return t.run(ctx, call{path: program, args: args, dir: w.path(path.Join("repository", folder)), env: env})
	}, nil
}

// goEnvironment is the environment of the go program: the operator's settings, and nothing of the repository's.
func (t Tools) goEnvironment(w *workshop, more ...string) ([]string, error) {
	modules := w.path("home/mod")
	if t.Cache != "" {
		modules = filepath.Join(t.Cache, "go")
	}
	env := w.environment(
		"GOENV=off", "GO111MODULE=on", "GOTOOLCHAIN=local", "GOWORK=off",
		"GOPATH="+w.path("home/go"), "GOMODCACHE="+modules, "GOCACHE="+w.path("home/cache"),
		"GOPROXY=https://proxy.golang.org",
		// A module proxy is asked, and never the host that a module's path names: that may be any. Programs such as git are run only where the operator says so, and find no
		// configuration and no credential.
		"GOVCS=*:off", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https",
	)
	for _, set := range t.GoEnv {
		name, value, _ := strings.Cut(set, "=")
		if !slices.Contains(settings, name) {
			return nil, failure.New(failure.BadConfig, "%q is no setting of where Go's modules come from", name).
				Do("use one of: %s", strings.Join(settings, ", "))
		}
		env = append(env, set)
		if git, err := exec.LookPath("git"); err == nil && name == "GOVCS" && value != "" && value != "*:off" {
			if err := os.Symlink(git, w.path("bin/git")); err != nil {
				return nil, noSpace(err)
			}
		}
	}
	return append(env, more...), nil
}
