// Package checkout brings a repository's files to the worker, and commits to the repository, by git's plumbing
// alone. The repository is taken for hostile: git never checks out its tree, so none of its filters, hooks,
// submodules, attributes or links comes into play; its files are written by us, ordinary ones only, into a
// folder that nothing leads out of.
package checkout

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Limits of what is brought.
type Limits struct {
	File    int64 // bytes of a file; a larger one is left
	Files   int   // of the tree
	Tree    int64 // bytes of all files
	Objects int64 // bytes on the disk that git may use
}

// DefaultLimits are far above what a repository of sources has.
var DefaultLimits = Limits{File: 16 << 20, Files: 200_000, Tree: 2 << 30, Objects: 2 << 30}

// Options say what to bring.
type Options struct {
	Dir    string // an empty folder, which the caller removes
	Remote Remote
	Branch string
	Want   func(path string) bool // nil: every file
	Limits Limits                 // DefaultLimits where zero
}

// Left is something that was not brought.
type Left struct {
	Path string `json:"path"` // quoted where it could not be shown
	Why  string `json:"why"`
}

// Checkout is a commit of a repository on this machine.
type Checkout struct {
	Commit string // the branch's
	Left   []Left // at most a thousand

	git   git
	root  *os.Root
	modes map[string]string // by path, of all that the commit has
}

// Clone brings a branch's newest commit, without what came before it.
func Clone(ctx context.Context, o Options) (_ *Checkout, err error) {
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits
	}
	branch := "refs/heads/" + o.Branch
	if err := checkRef(branch); err != nil {
		return nil, err
	}
	for _, sub := range []string{"home", "git", "tree"} {
		if err := os.Mkdir(filepath.Join(o.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make a checkout: %w", err)
		}
	}
	root, err := os.OpenRoot(filepath.Join(o.Dir, "tree"))
	if err != nil {
		return nil, fmt.Errorf("make a checkout: %w", err)
	}
	c := &Checkout{git: git{dir: o.Dir, remote: o.Remote}, root: root, modes: make(map[string]string)}
	defer func() {
		if err != nil {
			_ = root.Close()
		}
	}()
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--", filepath.Join(o.Dir, "git")},
		{"config", "remote.origin.url", o.Remote.URL},
	} {
		if _, err := c.git.run(ctx, call{args: args}); err != nil {
			return nil, err
		}
	}
	// A large file is not even sent, where the server knows how not to.
	if _, err := c.git.run(ctx, call{network: true, most: o.Limits.Objects, args: []string{
		"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance", "--no-write-fetch-head",
		fmt.Sprintf("--filter=blob:limit=%d", o.Limits.File), "origin", "+" + branch + ":refs/upkeep/base",
	}}); err != nil {
		return nil, err
	}
	if used := size(filepath.Join(o.Dir, "git")); used > o.Limits.Objects {
		return nil, tooLarge("the repository has more than %d MB of objects", o.Limits.Objects>>20)
	}
	sha, err := c.git.run(ctx, call{args: []string{"rev-parse", "--verify", "--quiet", "refs/upkeep/base^{commit}"}})
	if err != nil {
		return nil, err
	}
	c.Commit = strings.TrimSpace(sha)
	return c, c.bring(ctx, o)
}

// Close gives the folder back.
func (c *Checkout) Close() error { return c.root.Close() }

// Dir is where the files are, for an ecosystem's own tool.
func (c *Checkout) Dir() string { return filepath.Join(c.git.dir, "tree") }

// FS gives the files. Nothing in it leads out of it.
func (c *Checkout) FS() fs.FS { return c.root.FS() }

func (c *Checkout) leave(path, format string, args ...any) {
	if len(c.Left) < 1000 {
		if !shown(path) {
			path = strconv.QuoteToASCII(path)
		}
		c.Left = append(c.Left, Left{path, fmt.Sprintf(format, args...)})
	}
}

func shown(path string) bool {
	return utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) })
}

// entry is an ordinary file of the tree.
type entry struct{ path, id, mode string }

// bring writes the files of the commit.
func (c *Checkout) bring(ctx context.Context, o Options) error {
	list, err := c.git.run(ctx, call{args: []string{"ls-tree", "-r", "-z", "--full-tree", c.Commit}})
	if err != nil {
		return err
	}
	var files []entry
	for line := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		head, path, ok := strings.Cut(line, "\t")
		fields := strings.Fields(head)
		if !ok || len(fields) != 3 {
			continue // an empty tree
		}
		if c.modes[path] = fields[0]; len(c.modes) > o.Limits.Files {
			return tooLarge("the repository has more than %d files", o.Limits.Files)
		}
		switch {
		case o.Want != nil && !o.Want(path):
		case fields[0] == "120000":
			c.leave(path, "it is a symbolic link, which is never followed")
		case fields[0] == "160000":
			c.leave(path, "it is a submodule, which is never fetched")
		case fields[1] != "blob":
			c.leave(path, "it is no file")
		case pathProblem(path) != "":
			c.leave(path, "%s", pathProblem(path))
		default:
			files = append(files, entry{path, fields[2], fields[0]})
		}
	}
	if files, err = c.weigh(ctx, files, o.Limits); err != nil {
		return err
	}
	return c.write(ctx, files)
}

// pathProblem says why a file's name cannot be used, or "".
func pathProblem(p string) string {
	if !shown(p) || strings.Contains(p, `\`) {
		return "its name has characters that cannot be handled safely"
	}
	if len(p) > 1000 || !filepath.IsLocal(p) || path.Clean(p) != p {
		return "its name leads elsewhere"
	}
	for part := range strings.SplitSeq(p, "/") {
		if strings.EqualFold(strings.TrimRight(part, ". "), ".git") || len(part) > 255 {
			return "its name is git's own"
		}
	}
	return ""
}

// weigh leaves files that are too large.
func (c *Checkout) weigh(ctx context.Context, files []entry, l Limits) ([]entry, error) {
	objects, err := c.git.run(ctx, call{args: []string{"rev-list", "--objects", "--no-object-names", "--missing=print", c.Commit}})
	if err != nil {
		return nil, err
	}
	missing := make(map[string]bool)
	for line := range strings.Lines(objects) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "?"); ok {
			missing[id] = true
		}
	}
	var ids strings.Builder
	here := make([]entry, 0, len(files))
	for _, f := range files {
		if missing[f.id] {
			c.leave(f.path, "it has more than %d bytes", l.File)
			continue
		}
		here = append(here, f)
		ids.WriteString(f.id + "\n")
	}
	sizes, err := c.git.run(ctx, call{stdin: strings.NewReader(ids.String()), args: []string{"cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype) %(objectsize)"}})
	if err != nil {
		return nil, err
	}
	kept := here[:0]
	var total int64
	lines := strings.Split(strings.TrimSpace(sizes), "\n")
	for i, f := range here {
		var id, kind string
		var size int64
		if i >= len(lines) || !scan(lines[i], &id, &kind, &size) || id != f.id || kind != "blob" {
			return nil, failure.New(failure.UnsafeRepository, "git does not say what the file %q is", f.path)
		}
		if size > l.File {
			c.leave(f.path, "it has more than %d bytes", l.File)
			continue
		}
		if total += size; total > l.Tree {
			return nil, tooLarge("the repository's files have more than %d MB", l.Tree>>20)
		}
		kept = append(kept, f)
	}
	return kept, nil
}

func scan(line string, id, kind *string, size *int64) bool {
	n, err := fmt.Sscanf(line, "%s %s %d", id, kind, size)
	return err == nil && n == 3
}

// write writes the files as git hands them over.
func (c *Checkout) write(ctx context.Context, files []entry) error {
	var ids strings.Builder
	for _, f := range files {
		ids.WriteString(f.id + "\n")
	}
	out, in := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := c.take(bufio.NewReaderSize(out, 1<<20), files)
		_ = out.CloseWithError(err)
		read <- err
	}()
	_, err := c.git.run(ctx, call{stdin: strings.NewReader(ids.String()), stdout: in, args: []string{"cat-file", "--buffer", "--batch"}})
	_ = in.Close()
	if mine := <-read; mine != nil {
		return mine
	}
	return err
}

func (c *Checkout) take(r *bufio.Reader, files []entry) error {
	for _, f := range files {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read %q from git: %w", f.path, err)
		}
		var id, kind string
		var size int64
		if !scan(strings.TrimSpace(line), &id, &kind, &size) || id != f.id {
			return failure.New(failure.UnsafeRepository, "git does not give the file %q", f.path)
		}
		if err := c.put(f, io.LimitReader(r, size), size); err != nil {
			return err
		}
		if _, err := r.Discard(1); err != nil {
			return fmt.Errorf("read %q from git: %w", f.path, err)
		}
	}
	return nil
}

func (c *Checkout) put(f entry, r io.Reader, size int64) error {
	if err := c.root.MkdirAll(path.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("write %q: %w", f.path, err)
	}
	mode := os.FileMode(0o600)
	if f.mode == "100755" {
		mode = 0o700
	}
	file, err := c.root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write %q: %w", f.path, err)
	}
	n, err := io.Copy(file, r)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", f.path, err)
	}
	return nil
}

// Read reads a file as it is now, for example after an ecosystem's tool has changed it. One that became a link
// is not followed.
func (c *Checkout) Read(name string, most int64) ([]byte, error) {
	if problem := pathProblem(name); problem != "" {
		return nil, failure.New(failure.UnsafeRepository, "the file %q is not read: %s", name, problem)
	}
	info, err := c.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, failure.New(failure.UnsafeRepository, "%q is no ordinary file", name)
	}
	f, err := c.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if opened, err := f.Stat(); err != nil || !os.SameFile(info, opened) {
		return nil, failure.New(failure.UnsafeRepository, "%q changed while it was read", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = tooLarge("%q has more than %d bytes", name, most)
	}
	return data, err
}
