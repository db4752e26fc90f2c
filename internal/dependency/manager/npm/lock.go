package npm

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/mention"
)

const (
	lockFile   = "package-lock.json"
	shrinkwrap = "npm-shrinkwrap.json"
	// maxLock bounds a lock file, in bytes.
	maxLock = 64 << 20
)

// Lock is npm's lock file. Its keys are folders: "" is the project, "packages/api" a workspace, and
// "packages/api/node_modules/ms" a package as only that workspace sees it.
type Lock struct {
	LockfileVersion int               `json:"lockfileVersion"`
	Packages        map[string]locked `json:"packages"`
}

type locked struct {
	Name                 string         `json:"name"` // where it is another than the folder's
	Version              string         `json:"version"`
	Resolved             string         `json:"resolved"`
	Link                 bool           `json:"link"`
	InBundle             bool           `json:"inBundle"`
	Dependencies         map[string]any `json:"dependencies"`
	DevDependencies      map[string]any `json:"devDependencies"`
	OptionalDependencies map[string]any `json:"optionalDependencies"`
}

const modules = "node_modules/"

// memory keeps the lock file that was read last, because each workspace of a repository asks for the same.
var memory struct {
	sync.Mutex
	sum  [sha256.Size]byte
	lock *Lock
}

func read(repository fs.FS, file string) (*Lock, error) {
	content, err := mention.Read(repository, file, maxLock)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	memory.Lock()
	defer memory.Unlock()
	if memory.lock != nil && memory.sum == sum {
		return memory.lock, nil
	}
	l, err := ParseLock(content)
	if err != nil {
		return nil, mention.Named(err, file)
	}
	memory.sum, memory.lock = sum, l
	return l, nil
}

// ParseLock reads a lock file of version 2 or 3.
func ParseLock(content []byte) (*Lock, error) {
	content = []byte(strings.TrimPrefix(string(content), "\ufeff"))
	var l Lock
	if err := json.Unmarshal(content, &l); err != nil {
		p := &dependency.Problem{What: err.Error()}
		var syntax *json.SyntaxError
		var mistyped *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			p.Line = 1 + strings.Count(string(content[:min(int(syntax.Offset), len(content))]), "\n")
		case errors.As(err, &mistyped):
			p.Line = 1 + strings.Count(string(content[:min(int(mistyped.Offset), len(content))]), "\n")
		}
		return nil, p
	}
	if l.LockfileVersion != 2 && l.LockfileVersion != 3 {
		return nil, &dependency.Problem{What: fmt.Sprintf("it is of version %d, and 2 and 3 are read: npm install --lockfile-version 3 makes it anew", l.LockfileVersion)}
	}
	return &l, nil
}

func (p locked) skip() string {
	switch {
	case p.Link:
		return "it is a workspace of this repository"
	case p.InBundle:
		return "another package brings it along"
	case strings.HasPrefix(p.Resolved, "git") || strings.HasPrefix(p.Resolved, "file:"):
		return "it is not of a registry"
	}
	return ""
}

// resolve finds a package as Node does, from a folder upwards.
func (l *Lock) resolve(folder, name string) (locked, bool) {
	for at := folder; ; at = path.Dir(at) {
		if p, ok := l.Packages[path.Join(at, modules+name)]; ok {
			return p, true
		}
		if at == "." || at == "/" {
			return locked{}, false
		}
	}
}

// found is a package of the lock file.
type found struct {
	locked
	name   string
	direct bool
}

// packages are those that are installed, by their folders.
func (l *Lock) packages() []found {
	direct := make(map[string]bool)
	for folder, p := range l.Packages {
		if strings.Contains("/"+folder, "/"+modules) {
			continue
		}
		for _, names := range []map[string]any{p.Dependencies, p.DevDependencies, p.OptionalDependencies} {
			for name := range names {
				for at := "./" + folder; ; at = path.Dir(at) {
					if key := path.Join(at, modules+name); at == "." || l.has(key) {
						direct[key] = true
						break
					}
				}
			}
		}
	}
	var all []found
	for _, key := range slices.Sorted(maps.Keys(l.Packages)) {
		i := strings.LastIndex(key, modules)
		if i < 0 || l.Packages[key].Version == "" {
			continue
		}
		f := found{locked: l.Packages[key], name: key[i+len(modules):], direct: direct[key]}
		if f.Name != "" {
			f.name = f.Name
		}
		all = append(all, f)
	}
	return all
}

// Covers says whether a package.json in a folder is locked in a lock file in another folder, beside or above.
func (l *Lock) Covers(at, folder string) bool {
	if at == folder {
		return l.has("")
	}
	return l.has(strings.TrimPrefix(folder, at+"/"))
}

// Version is that of a package as a folder sees it, counted from the lock file's; "" when it is not there.
func (l *Lock) Version(folder, name string) string {
	p, _ := l.resolve(folder, name)
	return p.Version
}

// Versions are those in which a package is there.
func (l *Lock) Versions(name string) []string {
	var all []string
	for _, p := range l.packages() {
		if p.name == name && !slices.Contains(all, p.Version) {
			all = append(all, p.Version)
		}
	}
	return all
}

func (l *Lock) has(key string) bool { _, ok := l.Packages[key]; return ok }
