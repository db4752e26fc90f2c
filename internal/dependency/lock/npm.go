package lock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/dependency/manager/npm"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// npm makes the lock file anew that the changes' package is locked in. It takes two runs: in the first each
// package is asked for in the very version of its update, and in the second as the repository asks for it,
// where npm keeps what it finds locked.
func (t Tools) npm(ctx context.Context, s source, changes []Change) (map[string][]byte, error) {
	file, err := s.lockOf(changes[0].Dependency.File)
	if err != nil || file == "" {
		return nil, err
	}
	before, err := s.read(file)
	if err != nil {
		return nil, err
	}
	was, err := npm.ParseLock(before)
	if err != nil {
		return nil, failed(file, "it cannot be read: %v", err)
	}
	w, err := newWorkshop()
	if err != nil {
		return nil, err
	}
	defer w.end()
	root := path.Dir(file)
	// Nothing but this: above all no .npmrc, which may name a program to run and a registry to send a token to.
	wanted := func(name string) bool { return path.Base(name) == "package.json" || name == file }
	if err := s.copy(w, root, wanted); err != nil {
		return nil, failed(file, "the packages of the repository cannot be copied: %v", err)
	}
	known, err := registries(t.NPMRC)
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the .npmrc for making lock files cannot be read").Because(err).Do("correct its path")
	}
	g, err := openGate(known)
	if err != nil {
		return nil, err
	}
	defer g.close()
	run, err := t.npmCommand(w, g, root, was.LockfileVersion)
	if err != nil {
		return nil, err
	}
	kept, err := w.pin(root, changes)
	if err != nil {
		return nil, failed(file, "%v", err)
	}
	for i := range 2 {
		if i == 1 {
			for name, content := range kept {
				if err := w.write(name, content); err != nil {
					return nil, err
				}
			}
		}
		if said, err := run(ctx); err != nil {
			if hosts := g.said(); hosts != "" {
				return nil, failed(file, "a package is asked for from %s, which is no registry of the operator's and not on the internet", hosts)
			}
			return nil, explain(ctx, t, "npm", file, said, err)
		}
	}
	made, err := s.differs(w, file)
	if err != nil {
		return nil, err
	}
	after := made[file]
	if after == nil {
		after = before
	}
	return made, lockedAt(file, after, changes)
}

// lockOf is the lock file that a package.json is locked in, or "" for none.
func (s source) lockOf(file string) (string, error) {
	if path.Base(file) != "package.json" {
		return file, nil
	}
	for _, folder := range above(path.Dir(file)) {
		for _, name := range []string{"npm-shrinkwrap.json", "package-lock.json"} {
			content, err := s.read(path.Join(folder, name))
			if err != nil {
				return "", err
			}
			if content == nil {
				continue
			}
			lock, err := npm.ParseLock(content)
			if err != nil {
				return "", failed(path.Join(folder, name), "it cannot be read: %v", err)
			}
			if lock.Covers(folder, path.Dir(file)) {
				return path.Join(folder, name), nil
			}
		}
	}
	return "", nil
}

// pin asks in the workshop's package.json files for the changes' very versions. It gives the files as they were.
func (w *workshop) pin(root string, changes []Change) (kept map[string][]byte, err error) {
	kept = make(map[string][]byte)
	for _, c := range changes {
		file := c.Dependency.File
		direct := path.Base(file) == "package.json"
		if !direct {
			file = path.Join(root, "package.json")
		}
		content, err := w.root.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s", file)
		}
		if err != nil {
			return nil, err
		}
		if kept[file] == nil {
			kept[file] = content
		}
		var manifest map[string]any
		if err := json.Unmarshal([]byte(strings.TrimPrefix(string(content), "\ufeff")), &manifest); err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", file, err)
		}
		exact := c.Update.Version
		if direct {
			if c.Dependency.Package.Name != c.Dependency.Name {
				exact = "npm:" + c.Dependency.Package.Name + "@" + exact
			}
			for _, section := range []string{"dependencies", "devDependencies", "optionalDependencies"} {
				if members, ok := manifest[section].(map[string]any); ok && members[c.Dependency.Name] != nil {
					members[c.Dependency.Name] = exact
				}
			}
		} else {
			overrides, _ := manifest["overrides"].(map[string]any)
			if overrides == nil {
				overrides = make(map[string]any)
			}
			// Whoever accepts the version that is to go gets the new one, and nobody else.
			overrides[c.Dependency.Package.Name+"@"+c.Dependency.Current] = exact
			manifest["overrides"] = overrides
		}
		changed, err := json.Marshal(manifest)
		if err != nil {
			return nil, err
		}
		if err := w.write(file, changed); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// lockedAt sees that the lock file has the versions that were to be.
func lockedAt(file string, content []byte, changes []Change) error {
	lock, err := npm.ParseLock(content)
	if err != nil {
		return failed(file, "what npm has made of it cannot be read")
	}
	for _, c := range changes {
		if path.Base(c.Dependency.File) == "package.json" {
			folder := "."
			if path.Dir(c.Dependency.File) != path.Dir(file) {
				folder = strings.TrimPrefix(path.Dir(c.Dependency.File), path.Dir(file)+"/")
			}
			if is := lock.Version(folder, c.Dependency.Name); c.Dependency.Locked && is != c.Update.Version {
				return failed(file, "%s would be at %s, and not at %s", c.Dependency.Name, is, c.Update.Version)
			}
			continue
		}
		versions := lock.Versions(c.Dependency.Package.Name)
		if slices.Contains(versions, c.Dependency.Current) && c.Dependency.Current != c.Update.Version {
			return failed(file, "another package asks for %s %s and nothing newer", c.Dependency.Name, c.Dependency.Current)
		}
		if !slices.Contains(versions, c.Update.Version) {
			return failed(file, "npm does not take %s %s, but has %s", c.Dependency.Name, c.Update.Version, strings.Join(versions, ", "))
		}
	}
	return nil
}

var proxies = regexp.MustCompile(`(?i)^https?_proxy=.`)

// npmCommand prepares the workshop for npm, and gives how to run it in a folder.
func (t Tools) npmCommand(w *workshop, g *gate, folder string, version int) (func(context.Context) (string, error), error) {
	node, err := find(t.Node, "node")
	if err != nil {
		return nil, err
	}
	script, err := find(t.NPM, "npm")
	if err != nil {
		return nil, err
	}
	// npm is a script of node's, and the PATH in which it works is empty: it finds no git and no shell.
	if script, err = filepath.EvalSymlinks(script); err != nil {
		return nil, missing("npm")
	}
	none, noUser := w.path("none"), w.path("none-either") // npm refuses one file for two purposes
	for _, file := range []string{none, noUser} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return nil, noSpace(err)
		}
	}
	cache := w.path("home/cache")
	if t.Cache != "" {
		cache = filepath.Join(t.Cache, "npm")
	}
	user := noUser
	if t.NPMRC != "" {
		user = t.NPMRC
	}
	args := []string{
		script, "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier",
		fmt.Sprintf("--lockfile-version=%d", version), "--git=" + none, "--script-shell=" + none,
		"--userconfig=" + user, "--globalconfig=" + none, "--cache=" + cache, "--logs-max=0", "--loglevel=error", "--color=false", "--fetch-retries=1",
	}
	env := w.environment()
	// Where the operator has a proxy, it decides what can be reached.
	if !slices.ContainsFunc(env, func(v string) bool { return proxies.MatchString(v) }) {
		args = append(args, "--proxy="+g.address, "--https-proxy="+g.address, "--noproxy=")
	}
	return func(ctx context.Context) (string, error) {
		return t.run(ctx, call{path: node, args: args, dir: w.path(path.Join("repository", folder)), env: env})
	}, nil
}
