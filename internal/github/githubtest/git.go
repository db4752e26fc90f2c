package githubtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// environment is git's own, without the machine's and the user's configuration.
func environment(extra ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C"}, extra...)
}

// git runs git on a repository.
func (r *Repo) git(env []string, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "git", append([]string{"-C", r.dir}, args...)...)
	c.Env = environment(env...)
	c.Stdin = strings.NewReader(stdin)
	var errors bytes.Buffer
	c.Stderr = &errors
	out, err := c.Output()
	if err != nil {
		return string(out), fmt.Errorf("git %s: %w: %s", args[0], err, errors.String())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

func (r *Repo) must(env []string, stdin string, args ...string) string {
	out, err := r.git(env, stdin, args...)
	if err != nil {
		panic(err)
	}
	return out
}

// sha resolves a name to a commit; "" where there is none.
func (r *Repo) sha(name string) string {
	out, err := r.git(nil, "", "rev-parse", "--verify", "--quiet", "--end-of-options", name+"^{commit}")
	if err != nil {
		return ""
	}
	return out
}

// branch is a branch's commit: whatever moves one calls moved.
func (r *Repo) branch(name string) string { return r.heads[name] }

func (r *Repo) init(defaultBranch string) {
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=" + defaultBranch, "."},
		{"config", "http.receivepack", "true"},
		{"config", "uploadpack.allowFilter", "true"},
		{"config", "uploadpack.allowAnySHA1InWant", "true"},
		{"config", "gc.auto", "0"},
	} {
		r.must(nil, "", args...)
	}
}

// Entry is something in a tree. With no mode it is an ordinary file.
type Entry struct{ Mode, Content string }

// commit makes a commit with these files over those of the parent; an Entry of mode "0" is removed.
func (r *Repo) commit(parent, login, message string, at time.Time, files map[string]Entry) string {
	index := filepath.Join(r.s.dir, fmt.Sprintf("index-%d", r.s.next()))
	defer func() { _ = os.Remove(index) }()
	env := []string{"GIT_INDEX_FILE=" + index}
	if parent != "" {
		r.must(env, "", "read-tree", parent)
	}
	var lines strings.Builder
	for path, e := range files {
		mode, id := e.Mode, e.Content
		if mode == "" {
			mode = "100644"
		}
		switch mode {
		case "0":
			id = strings.Repeat("0", 40)
		case "160000":
		case "blob": // one that is there
			mode = "100644"
		default:
			id = r.must(nil, e.Content, "hash-object", "-w", "--stdin")
		}
		fmt.Fprintf(&lines, "%s %s\t%s\x00", mode, id, path)
	}
	// core.protect* would refuse what a hostile repository has.
	r.must(env, lines.String(), "-c", "core.protectHFS=false", "-c", "core.protectNTFS=false", "update-index", "-z", "--index-info")
	tree := r.must(env, "", "write-tree", "--missing-ok")
	args := []string{"commit-tree", tree}
	if parent != "" {
		args = append(args, "-p", parent)
	}
	return r.must(person(login, at), message, args...)
}

func person(login string, at time.Time) []string {
	date := fmt.Sprintf("%d +0000", at.Unix())
	return []string{
		"GIT_AUTHOR_NAME=" + login, "GIT_AUTHOR_EMAIL=" + login + "@users.noreply.github.com", "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=" + login, "GIT_COMMITTER_EMAIL=" + login + "@users.noreply.github.com", "GIT_COMMITTER_DATE=" + date,
	}
}

// newBody is a request's body.
func newBody(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

var backend = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("git", "--exec-path").Output()
	return filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), err
})

// serveGit is git's own server.
func (s *Server) serveGit(w http.ResponseWriter, r *http.Request) {
	owner, name := r.PathValue("owner"), strings.TrimSuffix(r.PathValue("repo"), ".git")
	operation := "git-upload-pack"
	if strings.Contains(r.URL.RawQuery+r.URL.Path, "git-receive-pack") {
		operation = "git-receive-pack"
	}
	if r.Method == http.MethodGet {
		operation += "/refs"
	}
	_, password, _ := r.BasicAuth()
	s.mu.Lock()
	who := s.actor(password)
	repo := s.repos[owner+"/"+name]
	fault := s.fault(operation, owner+"/"+name)
	s.mu.Unlock()
	if fault.Before != nil {
		fault.Before()
	}
	switch {
	case who == nil:
		w.Header().Set("WWW-Authenticate", `Basic realm="GitHub"`)
		http.Error(w, "Invalid username or token.", http.StatusUnauthorized)
		return
	case repo == nil:
		http.Error(w, "Repository not found.", http.StatusNotFound)
		return
	case fault.Status != 0:
		http.Error(w, "trouble", fault.Status)
		return
	}
	path, err := backend()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body, err := io.ReadAll(r.Body) // CGI needs its length
	if err != nil {
		return
	}
	r.Body, r.ContentLength, r.TransferEncoding = newBody(body), int64(len(body)), nil
	answer := httptest.NewRecorder()
	(&cgi.Handler{
		Path: path, Dir: repo.dir, Root: "/" + owner,
		Env: append(environment("GIT_PROJECT_ROOT="+filepath.Dir(repo.dir), "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL="+r.Header.Get("Git-Protocol")),
			"REMOTE_USER="+who.Login, "GIT_COMMITTER_NAME="+who.Login, "GIT_COMMITTER_EMAIL="+who.Login+"@users.noreply.github.com"),
		Logger: nil,
	}).ServeHTTP(answer, r)
	if operation == "git-receive-pack" {
		s.mu.Lock()
		s.pushes++
		repo.moved(who)
		s.mu.Unlock()
	}
	if fault.LoseReply {
		lose(w)
		return
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// lose breaks the connection off.
func lose(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// Branches are the repository's, with their commits.
func (r *Repo) Branches() map[string]string {
	branches := make(map[string]string)
	for line := range strings.Lines(r.must(nil, "", "for-each-ref", "--format=%(objectname) %(refname:lstrip=2)", "refs/heads/")) {
		sha, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		branches[name] = sha
	}
	return branches
}

// Refs are all of a kind, such as refs/upkeep/, by their full names.
func (r *Repo) Refs(under string) map[string]string {
	refs := make(map[string]string)
	for line := range strings.Lines(r.must(nil, "", "for-each-ref", "--format=%(objectname) %(refname)", under)) {
		sha, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		refs[name] = sha
	}
	return refs
}

// Log are the authors and first lines of a branch's commits, the newest first.
func (r *Repo) Log(branch string) []string {
	return strings.Split(r.must(nil, "", "log", "--format=%an: %s", "refs/heads/"+branch), "\n")
}

// Delete is a person who removes a branch.
func (r *Repo) Delete(branch, login string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.must(nil, "", "update-ref", "-d", "refs/heads/"+branch)
	r.moved(r.s.user(login))
}

// File is a file's content at a commit or branch.
func (r *Repo) File(at, path string) string {
	out, err := r.git(nil, "", "cat-file", "blob", at+":"+path)
	if err != nil {
		return ""
	}
	return out
}

// Has says whether a commit, or one made of it, is on a branch.
func (r *Repo) Has(branch, sha string) bool {
	_, err := r.git(nil, "", "merge-base", "--is-ancestor", sha, "refs/heads/"+branch)
	return err == nil
}

// Push is a person's commit on a branch, which is made if it is not there.
func (r *Repo) Push(branch, login, message string, files map[string]string) string {
	entries := make(map[string]Entry, len(files))
	for path, content := range files {
		entries[path] = Entry{Content: content}
	}
	return r.PushEntries(branch, login, message, entries)
}

// PushEntries is Push with modes, and with names that a hostile repository has.
func (r *Repo) PushEntries(branch, login, message string, files map[string]Entry) string {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	parent := r.branch(branch)
	if parent == "" {
		parent = r.branch(r.Default)
	}
	sha := r.commit(parent, login, message, r.s.clock.Now(), files)
	r.must(nil, "", "update-ref", "refs/heads/"+branch, sha)
	r.moved(r.s.user(login))
	return sha
}

// Amend is a person who rewrites a branch's last commit, and pushes it by force.
func (r *Repo) Amend(branch, login, message string, files map[string]string) string {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	entries := make(map[string]Entry, len(files))
	for path, content := range files {
		entries[path] = Entry{Content: content}
	}
	old := r.branch(branch)
	tip := r.commit(old, login, message, r.s.clock.Now(), entries)
	tree := r.must(nil, "", "rev-parse", tip+"^{tree}")
	sha := r.must(person(login, r.s.clock.Now()), message, "commit-tree", tree, "-p", r.must(nil, "", "rev-parse", old+"^"))
	r.must(nil, "", "update-ref", "refs/heads/"+branch, sha)
	r.moved(r.s.user(login))
	return sha
}

// moved follows a change of branches: pull requests take their new heads, or close.
func (r *Repo) moved(who *User) {
	heads := r.Branches()
	for _, name := range slices.Sorted(mapsKeys(heads)) {
		if r.heads[name] != heads[name] {
			r.s.event("push", "push", r, map[string]any{
				"ref": "refs/heads/" + name, "before": orZeros(r.heads[name]), "after": heads[name], "created": r.heads[name] == "", "deleted": false,
				"pusher": map[string]any{"name": who.Login}, "commits": []any{}, "head_commit": nil,
			}, who)
		}
	}
	r.heads = heads
	for _, i := range r.sorted() {
		p := i.pull
		if p == nil || i.state != "open" {
			continue
		}
		sha := heads[p.head]
		if sha == "" {
			i.close(who, r.s.clock.Now())
			r.s.pullEvent("closed", r, i, who)
			continue
		}
		if sha != p.sha {
			before := p.sha
			p.sha, i.updated, p.judged = sha, r.s.clock.Now(), ""
			r.s.pullEvent("synchronize", r, i, who, "before", before, "after", sha)
		}
	}
}

func orZeros(sha string) string {
	if sha == "" {
		return strings.Repeat("0", 40)
	}
	return sha
}

// Mode is a file's mode at a commit or branch.
func (r *Repo) Mode(at, path string) string {
	mode, _, _ := strings.Cut(r.must(nil, "", "ls-tree", at, "--", path), " ")
	return mode
}

// PushZeros is a person who commits a file of so many zeros.
func (r *Repo) PushZeros(branch, login, path string, size int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	hash := exec.CommandContext(ctx, "git", "-C", r.dir, "-c", "core.compression=1", "hash-object", "-w", "--stdin")
	hash.Env, hash.Stdin = environment(), io.LimitReader(zeros{}, size)
	id, err := hash.Output()
	if err != nil {
		panic(err)
	}
	r.PushEntries(branch, login, path, map[string]Entry{path: {Mode: "blob", Content: strings.TrimSpace(string(id))}})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Unfiltered makes it a server that sends all objects, whatever is asked for.
func (r *Repo) Unfiltered() { r.must(nil, "", "config", "uploadpack.allowFilter", "false") }
