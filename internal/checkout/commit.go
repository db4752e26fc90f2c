package checkout

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Change is a commit to be made on top of the one that was brought. All that a commit's name depends on is in it,
// so the same change on the same commit is the same commit, whoever makes it and whenever.
type Change struct {
	Files   map[string][]byte // by path; nil removes
	Message string
	Name    string // of who makes it
	Email   string
	Time    time.Time // of the plan, in whole seconds
}

// Make makes the commit, here. A file keeps its mode; a new one is an ordinary one.
func (c *Checkout) Make(ctx context.Context, change Change) (sha string, err error) {
	if strings.ContainsAny(change.Name+change.Email, "<>\n\x00") || change.Name == "" || change.Email == "" || change.Time.IsZero() {
		return "", fmt.Errorf("a commit needs a name, an address and a time")
	}
	index, err := os.CreateTemp(c.git.dir, "index-")
	if err != nil {
		return "", fmt.Errorf("make an index: %w", err)
	}
	_ = index.Close()
	_ = os.Remove(index.Name()) // git wants none, or a whole one
	defer func() { _ = os.Remove(index.Name()) }()
	env := []string{"GIT_INDEX_FILE=" + index.Name()}
	if _, err := c.git.run(ctx, call{env: env, args: []string{"read-tree", c.Commit}}); err != nil {
		return "", err
	}
	var entries strings.Builder
	for _, path := range sorted(change.Files) {
		line, err := c.entry(ctx, path, change.Files[path])
		if err != nil {
			return "", err
		}
		entries.WriteString(line)
	}
	if _, err := c.git.run(ctx, call{env: env, stdin: strings.NewReader(entries.String()), args: []string{"update-index", "-z", "--index-info"}}); err != nil {
		return "", err
	}
	tree, err := c.git.run(ctx, call{env: env, args: []string{"write-tree", "--missing-ok"}}) // what was too large to bring stays as it is
	if err != nil {
		return "", err
	}
	date := fmt.Sprintf("%d +0000", change.Time.Unix())
	sha, err = c.git.run(ctx, call{
		stdin: strings.NewReader(strings.TrimSpace(change.Message) + "\n"),
		args:  []string{"commit-tree", strings.TrimSpace(tree), "-p", c.Commit},
		env: []string{
			"GIT_AUTHOR_NAME=" + change.Name, "GIT_AUTHOR_EMAIL=" + change.Email, "GIT_AUTHOR_DATE=" + date,
			"GIT_COMMITTER_NAME=" + change.Name, "GIT_COMMITTER_EMAIL=" + change.Email, "GIT_COMMITTER_DATE=" + date,
		},
	})
	return strings.TrimSpace(sha), err
}

func sorted(files map[string][]byte) []string {
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// entry is a file's line for git's index.
func (c *Checkout) entry(ctx context.Context, path string, content []byte) (string, error) {
	if problem := pathProblem(path); problem != "" {
		return "", failure.New(failure.UnsafeRepository, "the file %q is not written: %s", path, problem)
	}
	mode := c.modes[path]
	switch mode {
	case "":
		mode = "100644"
	case "100644", "100755":
	default:
		return "", failure.New(failure.UnsafeRepository, "the file %q is not written: it is a link or a submodule", path)
	}
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		if c.modes[dir] != "" {
			return "", failure.New(failure.UnsafeRepository, "the file %q is not written: %q is a link or a file", path, dir)
		}
	}
	if content == nil {
		return fmt.Sprintf("0 %040d\t%s\x00", 0, path), nil
	}
	id, err := c.git.run(ctx, call{stdin: strings.NewReader(string(content)), args: []string{"hash-object", "-w", "--no-filters", "--stdin"}})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s\t%s\x00", mode, strings.TrimSpace(id), path), nil
}

// Move brings a ref of the server from one commit to another.
type Move struct {
	Ref string `json:"ref"`           // its full name
	Old string `json:"old,omitempty"` // empty: there is none of that name
	New string `json:"new,omitempty"` // empty: it is removed
}

// Push moves refs all together or not at all, and only if each is where it was seen. Done already, or done by a
// twin, or done with its answer lost, it is done; whoever else has moved one keeps it: that is a BranchMoved.
func (c *Checkout) Push(ctx context.Context, moves ...Move) error { return c.git.push(ctx, moves) }

// Push moves refs to commits that the server has, or removes them; dir is an empty folder.
func (r Remote) Push(ctx context.Context, dir string, moves ...Move) error {
	g := git{dir: dir, remote: r}
	if _, err := g.run(ctx, call{args: []string{"init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--", filepath.Join(dir, "git")}}); err != nil {
		return err
	}
	return g.push(ctx, moves)
}

func (g git) push(ctx context.Context, moves []Move) error {
	names := make([]string, 0, len(moves))
	for _, m := range moves {
		if err := checkRef(m.Ref); err != nil {
			return err
		}
		if m.Old != "" && !object.MatchString(m.Old) || m.New != "" && !object.MatchString(m.New) {
			return fmt.Errorf("%q or %q is no commit", m.Old, m.New)
		}
		names = append(names, m.Ref)
	}
	there, err := g.refs(ctx, names)
	if err != nil || done(there, moves) {
		return err
	}
	args := []string{"push", "--quiet", "--atomic", "--no-verify", "--no-follow-tags", "--no-signed", "--no-recurse-submodules"}
	specs := make([]string, 0, len(moves))
	for _, m := range moves {
		if there[m.Ref] != m.Old {
			return refused(m, there[m.Ref])
		}
		args = append(args, "--force-with-lease="+m.Ref+":"+m.Old)
		specs = append(specs, m.New+":"+m.Ref)
	}
	_, err = g.run(ctx, call{network: true, args: append(append(args, "--", g.remote.URL), specs...)})
	if err == nil || !failure.Is(err, failure.BranchMoved) {
		return err
	}
	if there, look := g.refs(ctx, names); look == nil && done(there, moves) { // a twin was faster
		return nil
	}
	return err
}

func done(there map[string]string, moves []Move) bool {
	return !slices.ContainsFunc(moves, func(m Move) bool { return there[m.Ref] != m.New })
}

func refused(m Move, found string) error {
	if found == "" {
		found = "gone"
	}
	old := m.Old
	if old == "" {
		old = "not there"
	}
	return failure.New(failure.BranchMoved, "%s was %.12s when it was looked at, and is %.12s", m.Ref, old, found).Do("nothing: whoever has moved it keeps it")
}

// Refs says where refs are on the server; one that is not there is left out.
func (r Remote) Refs(ctx context.Context, dir string, names ...string) (map[string]string, error) {
	for _, name := range names {
		if err := checkRef(name); err != nil {
			return nil, err
		}
	}
	return git{dir: dir, remote: r}.refs(ctx, names)
}

// Under says what refs are on the server below a name that ends in a slash.
func (r Remote) Under(ctx context.Context, dir, name string) (map[string]string, error) {
	if err := checkRef(name + "x"); err != nil {
		return nil, err
	}
	out, err := git{dir: dir, remote: r}.run(ctx, call{network: true, args: []string{"ls-remote", "--quiet", "--refs", "--", r.URL, name + "*"}})
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for line := range strings.Lines(out) {
		sha, ref, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && object.MatchString(sha) && strings.HasPrefix(ref, name) && RefProblem(ref) == "" {
			found[ref] = sha
		}
	}
	return found, nil
}

func (g git) refs(ctx context.Context, names []string) (map[string]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := g.run(ctx, call{network: true, args: append([]string{"ls-remote", "--quiet", "--refs", "--", g.remote.URL}, names...)})
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for line := range strings.Lines(out) {
		sha, ref, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && object.MatchString(sha) && slices.Contains(names, ref) { // ls-remote takes a name for the end of a longer one too
			found[ref] = sha
		}
	}
	return found, nil
}
