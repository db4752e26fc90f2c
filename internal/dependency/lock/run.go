package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// maxSaid bounds what is kept of what a program says, in bytes.
const maxSaid = 4 << 10

// call is a call of a tool.
type call struct {
	path string
	args []string
	dir  string
	env  []string
	out  io.Writer // takes what it writes to stdout, if that is more than words
	data uint64    // bytes of memory that each of its processes may have; 0: as many as it likes
}

// passed are variables of the worker's own environment that a tool needs to reach a registry.
var passed = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
}

// environment is the least in which a program works, with its home in the workshop.
func (w *workshop) environment(more ...string) []string {
	env := []string{"PATH=" + w.path("bin"), "HOME=" + w.path("home"), "TMPDIR=" + w.path("tmp"), "LC_ALL=C.UTF-8", "TZ=UTC"}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, more...)
}

// run runs a program to its end, and ends it and all that it has started when the time is over. It dies with
// this process. What it said is given back, without what a terminal could not bear.
func (t Tools) run(ctx context.Context, p call) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.within())
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	out := &tail{limit: maxSaid}
	cmd.Stdout, cmd.Stderr = out, out
	if p.out != nil {
		cmd.Stdout = p.out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	// The kernel sends the death signal when the thread that forked ends, so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err = cmd.Start(); err != nil {
		return "", err
	}
	if p.data > 0 { // what it starts has the same bound; a program that is over already needs none
		_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: p.data, Max: p.data}, nil)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return out.String(), ctx.Err()
	}
	return out.String(), err
}

// offline is what programs say when a registry does not answer, or answers that it cannot at the moment.
var offline = regexp.MustCompile(`(?i)\b(ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENOTFOUND|E50[0-9]|E429|i/o timeout|connection refused|connection reset|no such host|TLS handshake timeout|server misbehaving|50[0-9] |429 Too Many)`)

// explain is the failure of a program for a person.
func explain(ctx context.Context, t Tools, tool, file, said string, err error) error {
	said = readable(said)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return failed(file, "%s did not end within %s", tool, t.within())
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return missing(tool)
	case offline.MatchString(said):
		return failure.New(failure.RegistrySilent, "%s cannot reach a registry to make %s anew: %s", tool, file, said).
			Do("see that the worker reaches the registry")
	}
	return failed(file, "%s says: %s", tool, said)
}

func missing(tool string) error {
	what := "makes lock files"
	if tool == "govulncheck" {
		what = "looks whether code calls what is vulnerable"
	}
	return failure.New(failure.MissingProgram, "%s, which %s, is not installed on the worker", tool, what).
		Do("install %s on the worker, or give it the image that has what makes lock files (docs/kubernetes.md), then resume the run", tool)
}

// find is a program's path.
func find(path, name string) (string, error) {
	if path != "" {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", missing(name)
	}
	return path, nil
}

var (
	unprintable = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]|[^ -~\n]`)
	login       = regexp.MustCompile(`//[^/@\s]*@`)
)

// readable is what a program said in one line, without passwords and what a terminal cannot bear.
func readable(said string) string {
	said = login.ReplaceAllString(unprintable.ReplaceAllString(said, ""), "//***@")
	lines := strings.FieldsFunc(said, func(r rune) bool { return r == '\n' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	said = strings.Join(lines, "; ")
	if len(said) > 2000 {
		said = said[:2000] + fmt.Sprintf("... (%d bytes)", len(said))
	}
	return said
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	buf   bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if extra := t.buf.Len() - t.limit; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string { return t.buf.String() }
