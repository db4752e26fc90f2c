package lock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// GoVulnerabilities is the Go project's own database, which says in which functions a vulnerability is.
const GoVulnerabilities = "https://vuln.go.dev"

const (
	// reachOutput bounds what govulncheck says, in bytes: it tells all that the database has of the modules.
	reachOutput = 128 << 20
	// reachMemory bounds the memory of govulncheck, and of the go program that it asks for the sources, in bytes.
	reachMemory = 4 << 30
	// memoryLimit is where a container's own limit stands.
	memoryLimit = "/sys/fs/cgroup/memory.max"
)

// Reached says of vulnerabilities how far a module's code reaches them, by all the names that they have.
type Reached map[string]string

// Of is how far one is reached; a database that does not have it proves nothing.
func (r Reached) Of(id string) string {
	if level, ok := r[id]; ok {
		return level
	}
	return dependency.ReachNotProven
}

// Reach looks by govulncheck whether the code of a Go module calls what is vulnerable in its dependencies. The
// database is a folder of Go's vulnerability database on this machine, or its URL. The code is read and never
// built: no C, no compiler of the repository's choice, no vendor folder, nothing but the go.sum's modules from the
// operator's proxy. What nothing of this machine's system and architecture builds is not looked at, nor tests.
func (t Tools) Reach(ctx context.Context, repository fs.FS, file, database string) (Reached, error) {
	database, err := reachDatabase(database)
	if err != nil {
		return nil, err
	}
	program, err := find(t.Go, "go")
	if err == nil {
		t.Govulncheck, err = find(t.Govulncheck, "govulncheck")
	}
	if err != nil {
		return nil, err
	}
	s := source{fs: repository}
	if err := s.staysInside(file); err != nil {
		return nil, err
	}
	w, err := newWorkshop()
	if err != nil {
		return nil, err
	}
	defer w.end()
	if err := s.copy(w, ".", func(string) bool { return true }); err != nil { // a file may be embedded
		return nil, notAnalysed(file, "the repository cannot be copied: %v", err)
	}
	memory := memoryFor(os.ReadFile(memoryLimit))
	env, err := t.goEnvironment(w, "GOFLAGS=-mod=readonly -modcacherw -buildvcs=false", "CGO_ENABLED=0", "GOPACKAGESDRIVER=off", "GOTRACEBACK=none", fmt.Sprintf("GOMEMLIMIT=%d", memory/4*3))
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(program, w.path("bin/go")); err != nil { // its $PATH has that alone
		return nil, noSpace(err)
	}
	if err := w.silence(); err != nil {
		return nil, err
	}
	out := &bounded{limit: reachOutput}
	said, err := t.run(ctx, call{
		path: t.Govulncheck, args: []string{"-format", "json", "-scan", "symbol", "-db", database, "./..."},
		dir: w.path(path.Join("repository", path.Dir(file))), env: env, out: out, data: memory,
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case out.full:
		return nil, notAnalysed(file, "govulncheck says more than %d MB", reachOutput>>20)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, notAnalysed(file, "govulncheck did not end within %s", t.within())
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil, missing("govulncheck")
	case hungry.MatchString(said):
		return nil, notAnalysed(file, "govulncheck broke off, as it does when it needs more than %d MB of memory", memory>>20)
	case err != nil:
		return nil, notAnalysed(file, "govulncheck says: %s", readable(said))
	}
	return readReach(file, &out.buf)
}

// silence turns Go's telemetry off in the tool's home: nothing is counted, and no process is left to tell of it.
func (w *workshop) silence() error {
	dir := w.path("home/.config/go/telemetry")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return noSpace(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mode"), []byte("off\n"), 0o600); err != nil {
		return noSpace(err)
	}
	return nil
}

// hungry is what a program of Go says that gets no more memory: of the many words for it, the end is kept.
var hungry = regexp.MustCompile(`(?i)out of memory|cannot allocate|fatal error|segmentation|goroutine |failed to create new OS thread`)

// memoryFor is half of what a container may have, so that the worker beside it lives on; the container's limit is as
// the kernel writes it.
func memoryFor(limit []byte, err error) uint64 {
	most, wrong := strconv.ParseUint(strings.TrimSpace(string(limit)), 10, 64)
	if err != nil || wrong != nil { // there is none ("max")
		return reachMemory
	}
	return min(reachMemory, most/2)
}

func notAnalysed(file, format string, args ...any) *failure.Error {
	e := failure.New(failure.NotAnalysed, format, args...)
	e.What = "whether the code of " + dependency.Printable(file) + " calls what is vulnerable is not proven: " + e.What
	return e.Do("take it for called, or see to the reason")
}

// reachDatabase is a database as govulncheck takes it.
func reachDatabase(database string) (string, error) {
	u, err := url.Parse(database)
	switch {
	case filepath.IsAbs(database):
		return (&url.URL{Scheme: "file", Path: database}).String(), nil
	case err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil:
		return database, nil
	}
	return "", failure.New(failure.BadConfig, "there is no database that says in which functions of Go's modules a vulnerability is").
		Do("name one with reachability in upkeep.yaml: its URL, such as %s, or a folder on the worker that has it", GoVulnerabilities)
}

// staysInside refuses a go.mod that has the go program read what is outside of the repository.
func (s source) staysInside(file string) error {
	content, err := s.read(file)
	if err != nil {
		return notAnalysed(file, "it cannot be read: %v", err)
	}
	f, err := modfile.Parse(file, content, nil)
	if err != nil {
		return notAnalysed(file, "it is no go.mod")
	}
	for _, r := range f.Replace {
		if r.New.Version != "" {
			continue
		}
		at := path.Join(path.Dir(file), filepath.ToSlash(r.New.Path))
		if filepath.IsAbs(r.New.Path) || at == ".." || strings.HasPrefix(at, "../") {
			return notAnalysed(file, "it replaces %s by a folder outside of the repository", dependency.Printable(r.Old.Path))
		}
	}
	return nil
}

// reachMessage is the part of a message of govulncheck that matters: an advisory, or where one was found.
type reachMessage struct {
	OSV *struct {
		ID       string   `json:"id"`
		Aliases  []string `json:"aliases"`
		Affected []struct {
			Specific struct {
				Imports []struct {
					Path string `json:"path"`
				} `json:"imports"`
			} `json:"ecosystem_specific"`
		} `json:"affected"`
	} `json:"osv"`
	Finding *struct {
		OSV   string `json:"osv"`
		Trace []struct {
			Package  string `json:"package"`
			Function string `json:"function"`
		} `json:"trace"`
	} `json:"finding"`
}

// readReach reads what govulncheck found. An advisory that names no package tells nothing of functions: that its
// module is required is all that it proves.
func readReach(file string, said io.Reader) (Reached, error) {
	found, names, vague := make(map[string]string), make(map[string][]string), make(map[string]bool)
	stream := json.NewDecoder(said)
	for {
		var m reachMessage
		err := stream.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, notAnalysed(file, "what govulncheck says cannot be understood")
		}
		if m.OSV != nil {
			names[m.OSV.ID] = append(m.OSV.Aliases, m.OSV.ID)
			for _, a := range m.OSV.Affected {
				vague[m.OSV.ID] = vague[m.OSV.ID] || len(a.Specific.Imports) == 0
			}
		}
		if m.Finding == nil || len(m.Finding.Trace) == 0 {
			continue
		}
		level := dependency.ReachRequired
		switch at := m.Finding.Trace[0]; {
		case at.Function != "":
			level = dependency.ReachCalled
		case at.Package != "":
			level = dependency.ReachImported
		}
		found[m.Finding.OSV] = worse(found[m.Finding.OSV], level)
	}
	reached := make(Reached)
	for id, level := range found {
		if vague[id] && level != dependency.ReachRequired {
			level = dependency.ReachNotProven
		}
		for _, name := range append(names[id], id) {
			reached[name] = worse(reached[name], level)
		}
	}
	return reached, nil
}

// worse is the worse of two; the first may be nothing.
func worse(a, b string) string {
	if a != "" && slices.Index(dependency.Reaches, a) < slices.Index(dependency.Reaches, b) {
		return a
	}
	return b
}

// bounded keeps what is written to it, and ends the writer when that is too much.
type bounded struct {
	limit int
	buf   bytes.Buffer
	full  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.full = b.full || b.buf.Len()+len(p) > b.limit; b.full {
		return 0, errTooMuch
	}
	return b.buf.Write(p)
}
