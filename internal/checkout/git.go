package checkout

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
)

const (
	within    = 10 * time.Minute // one call of git
	maxOutput = 128 << 20        // bytes of git's output that are kept
	maxStderr = 16 << 10
	watch     = 100 * time.Millisecond
)

// Remote is a repository on a server.
type Remote struct {
	URL string // https, without a secret
	// Token gives the password of the user x-access-token; nil: none is needed.
	Token func(context.Context) (string, error)
}

var refs = regexp.MustCompile(`^refs/[a-z]+/[A-Za-z0-9_][A-Za-z0-9_.+@=/-]{0,243}$`)

// RefProblem says what is wrong with the full name of a ref, or "". Git takes more; what it could take for an
// option, or a pattern, is no name that we use.
func RefProblem(ref string) string {
	if !refs.MatchString(ref) || strings.Contains(ref, "..") || strings.Contains(ref, "//") || strings.Contains(ref, "/.") || strings.Contains(ref, "/-") ||
		strings.Contains(ref, "@{") || strings.Contains(ref, ".lock/") || strings.HasSuffix(ref, ".lock") || strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".") {
		return "must be a name of letters, digits and _ . + @ = / - that begins with a letter or digit"
	}
	return ""
}

var object = regexp.MustCompile(`^[0-9a-f]{40}$`)

func checkRef(ref string) error {
	if problem := RefProblem(ref); problem != "" {
		return failure.New(failure.UnsafeRepository, "the name %.100q of a branch cannot be used: it %s", ref, problem).Do("give the branch another name")
	}
	return nil
}

// check refuses what is not HTTPS. Plain HTTP is for tests on this machine.
func (r Remote) check() (*url.URL, error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsFunc(r.URL, func(c rune) bool { return c <= ' ' || c > '~' }) ||
		u.Scheme != "https" && !(u.Scheme == "http" && u.Hostname() == "127.0.0.1") {
		return nil, failure.New(failure.BadConfig, "the repository's address is no https URL without a secret").Do("correct repositories in upkeep.yaml")
	}
	return u, nil
}

// git is one folder that git works in. Nothing of the machine's, the user's or the repository's configuration
// counts in it.
type git struct {
	dir    string // ours; git's own folder is dir/git
	remote Remote
}

// settings hold whatever a repository says, because git takes them for given on its command line.
func settings(scheme string) [][2]string {
	return [][2]string{
		{"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"core.attributesFile", "/dev/null"}, {"core.excludesFile", "/dev/null"},
		{"core.symlinks", "false"}, {"core.protectHFS", "true"}, {"core.protectNTFS", "true"}, {"core.askPass", ""}, {"credential.helper", ""},
		{"core.bigFileThreshold", "8m"}, {"pack.threads", "1"}, {"gc.auto", "0"}, {"maintenance.auto", "false"},
		{"submodule.recurse", "false"}, {"fetch.recurseSubmodules", "false"}, {"push.recurseSubmodules", "no"},
		{"protocol.allow", "never"}, {"protocol." + scheme + ".allow", "always"}, {"protocol.version", "2"},
		{"http.followRedirects", "false"}, {"http.lowSpeedLimit", "1000"}, {"http.lowSpeedTime", "60"},
		// What comes is checked before it is kept. These are old and harmless.
		{"transfer.fsckObjects", "true"}, {"fetch.fsck.zeroPaddedFilemode", "ignore"}, {"fetch.fsck.missingSpaceBeforeDate", "ignore"},
		{"fetch.fsck.badTimezone", "ignore"}, {"fetch.fsck.missingSpaceBeforeEmail", "ignore"},
	}
}

// environment is all that git gets. The token is in it, and nowhere else: not in an argument, which every user
// of the machine can read, and not in a file.
func (g git) environment(u *url.URL, token string, network bool, extra []string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(g.dir, "home"), "LC_ALL=C", "TZ=UTC", "GIT_DIR=" + filepath.Join(g.dir, "git"),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_PROTOCOL_FROM_USER=0", "GIT_LITERAL_PATHSPECS=1", "GIT_ADVICE=0",
	}
	allowed := ""
	if network {
		allowed = u.Scheme
		for _, name := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} { // the operator's
			if v := os.Getenv(name); v != "" {
				env = append(env, name+"="+v)
			}
		}
		if file := os.Getenv("SSL_CERT_FILE"); file != "" {
			env = append(env, "GIT_SSL_CAINFO="+file)
		}
	}
	env = append(env, "GIT_ALLOW_PROTOCOL="+allowed) // empty: none, so nothing that is missing is fetched
	all := settings(u.Scheme)
	if token != "" {
		all = append(all, [2]string{"http." + u.Scheme + "://" + u.Host + "/.extraHeader", "Authorization: " + basic(token)})
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(all)))
	for i, kv := range all {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return append(env, extra...)
}

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
}

// call is one call of git.
type call struct {
	args    []string
	stdin   io.Reader
	stdout  io.Writer // nil: it is returned
	env     []string
	network bool
	most    int64 // bytes that git's folder may grow to; 0: not watched
}

// effect is the two sides of a call.
type effect struct{ before, after fault.Point }

// calls are all the calls of git that there are, each with a point before and after. No other is made.
var calls = points(
	"init", "config", "fetch", "rev-parse", "ls-tree", "rev-list", "cat-file", // bring files
	"read-tree", "hash-object", "update-index", "write-tree", "commit-tree", // make a commit
	"ls-remote", "push",
)

func points(commands ...string) map[string]effect {
	all := make(map[string]effect, len(commands))
	for _, c := range commands {
		all[c] = effect{fault.NewPoint("git/" + c + "/before"), fault.NewPoint("git/" + c + "/after")}
	}
	return all
}

// run calls git. Errors hold what git said, without the token.
func (g git) run(ctx context.Context, c call) (string, error) {
	effect, known := calls[c.args[0]]
	if !known {
		return "", fmt.Errorf("git %s is none of the calls that have points", c.args[0])
	}
	u, err := g.remote.check()
	if err != nil {
		return "", err
	}
	token := ""
	if c.network && g.remote.Token != nil {
		if token, err = g.remote.Token(ctx); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, failure.New(failure.GitHubUnreachable, "git %s takes longer than %s", c.args[0], within))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	path, err := exec.LookPath("git")
	if err != nil {
		return "", failure.New(failure.MissingProgram, "git is not installed on the worker").Do("install git, then resume the run")
	}
	cmd := exec.CommandContext(ctx, path, c.args...)
	cmd.Dir, cmd.Env, cmd.Stdin = g.dir, g.environment(u, token, c.network, c.env), c.stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its helpers end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, said := &bounded{most: maxOutput}, &bounded{most: maxStderr, cut: true}
	cmd.Stderr = said
	if cmd.Stdout = c.stdout; c.stdout == nil {
		cmd.Stdout = out
	}
	if c.most > 0 {
		defer g.watch(ctx, c.most, stop)()
	}
	effect.before.Hit()
	err = cmd.Run()
	effect.after.Hit()
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return "", cause
	}
	if err != nil {
		return "", g.classify(c.args[0], err, clean(said.String(), token))
	}
	return out.String(), nil
}

// watch ends git when its folder grows beyond a limit.
func (g git) watch(ctx context.Context, most int64, stop context.CancelCauseFunc) (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(watch)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
				if size(filepath.Join(g.dir, "git")) > most {
					stop(tooLarge("the repository has more than %d MB of objects", most>>20))
					return
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

func tooLarge(format string, args ...any) error {
	return failure.New(failure.RepositoryTooLarge, format, args...).Do("take large files out of the branch, or the repository out of upkeep.yaml")
}

func size(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil // what vanishes meanwhile was temporary
	})
	return total
}

// clean takes the token out of a text, and what would confuse a terminal.
func clean(text, token string) string {
	if token != "" {
		text = strings.NewReplacer(token, "***", strings.TrimPrefix(basic(token), "Basic "), "***").Replace(text)
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.TrimSpace(strings.ReplaceAll(text, "\n", "; "))
}

// classify says what git's failure means, by its untranslated words.
func (g git) classify(command string, err error, said string) error {
	if len(said) > 1000 {
		said = strings.ToValidUTF8(said[:1000], "") + "..."
	}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		return fmt.Errorf("git %s: %w", command, err)
	case has("No space left on device"):
		return failure.New(failure.DiskFull, "git has no space left: %s", said).Do("make room on the worker, then resume the run")
	case has("Authentication failed", "terminal prompts disabled", "returned error: 401"):
		return failure.New(failure.GitHubLogin, "GitHub does not take our token for git: %s", said).Do("put a token that is valid into the place that tokenFrom names, then resume the run")
	case has("returned error: 403", "denied to"):
		return failure.New(failure.GitHubForbids, "we may not do this with git: %s", said).Do("give the token or the app the right contents: write, then resume the run")
	case has("not found", "returned error: 404", "redirect"):
		return failure.New(failure.MissingRepository, "git finds no such repository: %s", said).Do("correct the repository's name, also when it was renamed, or give the token access to it, then resume the run")
	case has("couldn't find remote ref"):
		return failure.New(failure.GitHubRefused, "the repository has no such branch: %s", said).Do("correct the branch in upkeep.yaml")
	case has("fsck error", "fsck failed", "invalid path", "Invalid path"):
		return failure.New(failure.UnsafeRepository, "git refuses what the repository has: %s", said).Do("look at the repository with git fsck")
	case has("stale info", "[rejected]", "[remote rejected]", "failed to push"):
		return failure.New(failure.BranchMoved, "git does not move the branch: %s", said).Do("nothing: whoever has moved it keeps it")
	}
	return failure.New(failure.GitHubUnreachable, "git %s failed: %s", command, said).Do("see that the worker reaches it")
}

// bounded keeps so much of an output. One that is not cut is an error when it is longer.
type bounded struct {
	bytes.Buffer
	most int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); len(p) > room {
		if !b.cut {
			return 0, tooLarge("git says more than %d MB", b.most>>20)
		}
		b.Buffer.Write(p[:room])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
