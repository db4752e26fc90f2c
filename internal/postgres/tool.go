package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Tool is one of PostgreSQL's client programs.
type Tool struct {
	Name    string
	Path    string
	Major   int
	Version string // as it prints it, e.g. "15.18 (Debian 15.18-0+deb12u1)"
}

// maxToolStderr bounds what is kept of a program's complaints, in bytes.
const maxToolStderr = 8 << 10

var toolVersion = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\n]*)`)

// FindTool finds a client program of the given major version or the next newer one. It looks in
// $UPKEEP_PG_BIN, in the places where distributions put PostgreSQL, and in $PATH.
func FindTool(ctx context.Context, name string, minMajor int) (Tool, error) {
	var best Tool
	newest := 0
	for _, path := range toolPaths(name) {
		t, err := inspect(ctx, name, path)
		if err != nil {
			continue
		}
		if t.Major == minMajor {
			return t, nil // none can be better, and to ask each costs a process
		}
		newest = max(newest, t.Major)
		if t.Major >= minMajor && (best.Path == "" || t.Major < best.Major) {
			best = t
		}
	}
	switch {
	case best.Path != "":
		return best, nil
	case newest > 0:
		return Tool{}, failure.New(failure.ServerTooNew, "the server is PostgreSQL %d and the newest %s here is %d", minMajor, name, newest).
			Do("install the client programs of version %d on the worker: apt-get install postgresql-client-%d (from apt.postgresql.org where the distribution lacks it), or set UPKEEP_PG_BIN to their folder", minMajor, minMajor)
	}
	return Tool{}, failure.New(failure.MissingProgram, "%s is not installed on the worker", name).
		Do("apt-get install postgresql-client (version %d or newer), or set UPKEEP_PG_BIN to the folder that has it, then resume the run", minMajor)
}

func toolPaths(name string) []string {
	var paths []string
	add := func(dir string) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			paths = append(paths, p)
		}
	}
	if dir := os.Getenv("UPKEEP_PG_BIN"); dir != "" {
		add(dir)
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		dirs, _ := filepath.Glob(pattern) // a bad pattern is the only error
		for _, dir := range dirs {
			add(dir)
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			add(dir)
		}
	}
	return paths
}

func inspect(ctx context.Context, name, path string) (Tool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := (Tool{Name: name, Path: path}).Run(ctx, Invocation{Args: []string{"--version"}, Stdout: &out}); err != nil {
		return Tool{}, err
	}
	m := toolVersion.FindStringSubmatch(out.String())
	if m == nil {
		return Tool{}, fmt.Errorf("%s prints no PostgreSQL version", path)
	}
	major, err := strconv.Atoi(m[2])
	return Tool{Name: name, Path: path, Major: major, Version: strings.TrimSpace(m[1])}, err
}

// Invocation is one call of a program. No secret belongs into Args.
type Invocation struct {
	Args   []string
	Env    []string // added to a minimal environment
	Stdin  io.Reader
	Stdout io.Writer
	Files  []*os.File // handed down as descriptors 3, 4, ...
	Said   *string    // receives what a program that succeeded said beside its output; may be nil
}

// Run runs the program to its end. It dies with this process, also when this process is killed.
// Its complaints are in the error, cut to a bounded length.
func (t Tool) Run(ctx context.Context, call Invocation) error {
	cmd := exec.CommandContext(ctx, t.Path, call.Args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}, call.Env...)
	cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = call.Stdin, call.Stdout, call.Files
	stderr := &tail{limit: maxToolStderr}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// The kernel sends the death signal when the thread that forked ends, so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		if call.Said != nil {
			*call.Said = stderr.String()
		}
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &ToolError{Tool: t.Name, Said: strings.TrimSpace(stderr.String()), Err: err}
	}
	return fmt.Errorf("run %s: %w", t.Path, err)
}

// ToolError is a program's failure with the end of what it said.
type ToolError struct {
	Tool string
	Said string
	Err  error
}

func (e *ToolError) Error() string { return fmt.Sprintf("%s failed (%v): %s", e.Tool, e.Err, e.Said) }
func (e *ToolError) Unwrap() error { return e.Err }

// RunOn runs a client program on a database of the server, which is its --dbname.
func (t Tool) RunOn(ctx context.Context, server Config, database string, call Invocation) error {
	url, env, err := server.libpqEnv(ctx, database)
	if err != nil {
		return err
	}
	if server.Dial != nil {
		relay, err := startRelay(ctx, server.Dial)
		if err != nil {
			return err
		}
		if url, err = relay.url(url); err == nil {
			err = t.Run(ctx, call.on(url, env))
		}
		if failed := relay.close(); err != nil && failed != nil {
			return failed
		}
		return err
	}
	return t.Run(ctx, call.on(url, env))
}

func (i Invocation) on(url string, env []string) Invocation {
	i.Args = append(slices.Clone(i.Args), "--no-password", "--dbname="+url)
	i.Env = append(slices.Clone(i.Env), env...)
	return i
}

// libpqEnv is the environment by which a client program reaches the server, with the password in
// it and not in an argument; the URL to give as --dbname is returned beside it.
func (c Config) libpqEnv(ctx context.Context, database string) (url string, env []string, err error) {
	url, err = withDatabase(c.URL, database)
	if err != nil {
		return "", nil, err
	}
	url, options := pinned(url)
	env = append(env, "PGCONNECT_TIMEOUT=10", "PGAPPNAME="+c.App, "PGOPTIONS="+options)
	if c.Untrusted {
		return url, append(env, "PGPASSFILE=/dev/null"), nil
	}
	for _, name := range []string{"HOME", "PGPASSFILE", "PGSERVICEFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLMODE", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if c.Password != nil {
		password, err := c.Password(ctx)
		if err != nil {
			return "", nil, err
		}
		env = append(env, "PGPASSWORD="+password)
	}
	return url, env, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.limit; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }
