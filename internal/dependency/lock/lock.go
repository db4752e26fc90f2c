// Package lock makes lock files anew after their manifests were edited, by the ecosystem's own tool: go, npm,
// and Helm's library. A tool works in a folder of its own that has only what it needs of the repository, with
// an empty home and an environment that the operator has chosen: nothing that the repository says configures
// it, and nothing that a package brings is run. What it leaves is thrown away but for the lock files. In such a
// folder, too, govulncheck looks whether the code calls what is vulnerable.
package lock

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Tools is how the operator has lock files made. Its zero value finds the programs in $PATH.
type Tools struct {
	Go          string // path of the go program
	NPM         string // path of npm
	Node        string // path of node
	Govulncheck string // path of govulncheck
	// GoEnv are settings of Go, such as GOPROXY=https://proxy.example.com and GONOSUMDB=example.com. A variable
	// that is not of Go's look-up of modules is refused.
	GoEnv []string
	// NPMRC is the path of the only .npmrc that is obeyed; empty for none.
	NPMRC string
	// Cache is a folder that keeps what was fetched, for the next time; empty for none.
	Cache string
	// Within bounds each run of a program; five minutes when zero.
	Within time.Duration
	// Generated is the time that a Chart.lock says; the one that it has when zero.
	Generated time.Time
}

// Change is an update that the lock files shall follow.
type Change struct {
	Dependency dependency.Dependency
	Update     dependency.Update
}

// Refresh makes the lock files anew that belong to the changes. The edited files take the place of the
// repository's. It gives the content of the lock files that are others than before, by their paths, and no
// lock file that does not have the changes' versions.
func (t Tools) Refresh(ctx context.Context, repository fs.FS, edited map[string][]byte, changes []Change) (map[string][]byte, error) {
	groups := make(map[string][]Change)
	for _, c := range changes {
		belongs := path.Dir(c.Dependency.File)
		switch c.Dependency.Manager {
		case "npm": // all workspaces have one lock file
			file, err := (source{repository, edited}).lockOf(c.Dependency.File)
			if err != nil {
				return nil, err
			}
			if file == "" {
				continue
			}
			belongs = path.Dir(file)
		case "gomod", "helm":
		default:
			continue
		}
		key := c.Dependency.Manager + " " + belongs
		groups[key] = append(groups[key], c)
	}
	all := make(map[string][]byte)
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		group := groups[key]
		refresh := map[string]func(context.Context, source, []Change) (map[string][]byte, error){
			"gomod": t.goModule, "npm": t.npm, "helm": t.helm,
		}[group[0].Dependency.Manager]
		made, err := refresh(ctx, source{repository, merged(edited, all)}, group)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, made)
	}
	return all, nil
}

func merged(first, then map[string][]byte) map[string][]byte {
	m := maps.Clone(first)
	if m == nil {
		m = make(map[string][]byte)
	}
	maps.Copy(m, then)
	return m
}

func (t Tools) within() time.Duration {
	if t.Within > 0 {
		return t.Within
	}
	return 5 * time.Minute
}

// workshop is the folder in which a tool works: the repository's files are in one part of it, and the tool's
// home is in another, so that no file can be taken for the tool's own.
type workshop struct {
	dir  string
	root *os.Root // of the repository's files
}

func newWorkshop() (*workshop, error) {
	dir, err := os.MkdirTemp("", "upkeep-lock-")
	if err != nil {
		return nil, noSpace(err)
	}
	w := &workshop{dir: dir}
	for _, part := range []string{"repository", "home", "tmp", "bin"} {
		if err = os.Mkdir(w.path(part), 0o700); err != nil {
			break
		}
	}
	if err == nil {
		w.root, err = os.OpenRoot(w.path("repository"))
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, noSpace(err)
	}
	return w, nil
}

func (w *workshop) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

// end removes the folder. Go leaves folders that cannot be written to.
func (w *workshop) end() {
	_ = w.root.Close()
	if os.RemoveAll(w.dir) == nil {
		return
	}
	_ = fs.WalkDir(os.DirFS(w.dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			_ = os.Chmod(w.path(name), 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(w.dir)
}

func (w *workshop) write(name string, content []byte) error {
	if err := w.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return noSpace(err)
	}
	if err := w.root.WriteFile(name, content, 0o600); err != nil {
		return noSpace(err)
	}
	return nil
}

func noSpace(err error) error {
	return failure.New(failure.DiskFull, "the folder for making lock files cannot be written").Because(err).
		Do("see that the worker's temporary folder (TMPDIR) can be written to and has space, then resume the run")
}

func failed(file, format string, args ...any) *failure.Error {
	e := failure.New(failure.LockFailed, format, args...)
	e.What = dependency.Printable(file) + " cannot be made anew: " + e.What
	return e.Do("update it by hand, or leave the dependency as it is")
}

// errTooMuch is what a bounded copy ends with.
var errTooMuch = errors.New("there is more of it than is copied")
