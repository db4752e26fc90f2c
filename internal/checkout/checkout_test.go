package checkout_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/checkout"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

type bench struct {
	*githubtest.Server
	repo   *githubtest.Repo
	token  string
	remote checkout.Remote
}

func set(t *testing.T, files map[string]string) *bench {
	t.Helper()
	b := &bench{Server: githubtest.New(t, githubtest.NewClock())}
	b.repo = b.Repository("octo/shop", files)
	b.token = b.Token("upkeep")
	b.remote = checkout.Remote{URL: b.URL + "/octo/shop.git", Token: func(context.Context) (string, error) { return b.token, nil }}
	return b
}

func (b *bench) clone(t *testing.T) *checkout.Checkout {
	t.Helper()
	c, err := checkout.Clone(t.Context(), checkout.Options{Dir: t.TempDir(), Remote: b.remote, Branch: "main"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func files(t *testing.T, c *checkout.Checkout) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, fs.WalkDir(c.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(c.FS(), path)
		all[path] = string(data)
		return err
	}))
	return all
}

var change = checkout.Change{
	Files: map[string][]byte{"go.mod": []byte("module shop // newer\n"), "new/file": []byte("x"), "old": nil}, Message: "newer", Name: "Upkeep", Email: "upkeep@example.com",
	Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
}

func TestTheSameChangeIsTheSameCommit(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n", "old": "o", "deep/er/file": "f"})
	b.repo.PushEntries("main", "ann", "script", map[string]githubtest.Entry{"run.sh": {Mode: "100755", Content: "#!/bin/sh\n"}})
	one, two := b.clone(t), b.clone(t)
	require.Equal(t, map[string]string{"go.mod": "module shop\n", "old": "o", "deep/er/file": "f", "run.sh": "#!/bin/sh\n"}, files(t, one))
	with := change
	with.Files = map[string][]byte{"go.mod": change.Files["go.mod"], "new/file": []byte("x"), "old": nil, "run.sh": []byte("#!/bin/bash\n")}
	first, err := one.Make(t.Context(), with)
	require.NoError(t, err)
	t.Setenv("GIT_AUTHOR_NAME", "somebody else")
	t.Setenv("TZ", "Asia/Tokyo")
	second, err := two.Make(t.Context(), with)
	require.NoError(t, err)
	require.Equal(t, first, second)

	require.NoError(t, one.Push(t.Context(), checkout.Move{Ref: "refs/heads/upkeep/x", New: first}))
	require.Equal(t, "module shop // newer", b.repo.File("upkeep/x", "go.mod"))
	require.Equal(t, "x", b.repo.File("upkeep/x", "new/file"))
	require.Empty(t, b.repo.File("upkeep/x", "old"))
	require.Equal(t, "f", b.repo.File("upkeep/x", "deep/er/file"))
	require.Equal(t, "100755", b.repo.Mode("upkeep/x", "run.sh"))
	require.True(t, b.repo.Has("upkeep/x", one.Commit))
}

func TestAPushIsOnceAndOverNobody(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n"})
	c := b.clone(t)
	sha, err := c.Make(t.Context(), change)
	require.NoError(t, err)
	both := []checkout.Move{{Ref: "refs/heads/upkeep/x", New: sha}, {Ref: "refs/upkeep/pushed/x", New: sha}}
	b.Fail(githubtest.Fault{Operation: "git-receive-pack", At: 1, LoseReply: true})
	if err := c.Push(t.Context(), both...); err != nil { // git may have asked again by itself
		require.True(t, failure.Is(err, failure.GitHubUnreachable), "%v", err)
	}
	require.Equal(t, sha, b.repo.Branches()["upkeep/x"])
	writes := b.Writes()
	require.NoError(t, c.Push(t.Context(), both...), "it was done")
	require.Equal(t, writes, b.Writes())

	mine := b.repo.Push("upkeep/x", "ann", "mine", map[string]string{"a": "b"})
	next, err := c.Make(t.Context(), checkout.Change{Files: map[string][]byte{"go.mod": []byte("z")}, Message: "z", Name: "a", Email: "b", Time: change.Time})
	require.NoError(t, err)
	forward := []checkout.Move{{Ref: "refs/heads/upkeep/x", Old: sha, New: next}, {Ref: "refs/upkeep/pushed/x", Old: sha, New: next}}
	err = c.Push(t.Context(), forward...)
	require.True(t, failure.Is(err, failure.BranchMoved), "%v", err)
	require.Equal(t, mine, b.repo.Branches()["upkeep/x"])
	found, err := b.remote.Refs(t.Context(), t.TempDir(), "refs/upkeep/pushed/x", "refs/heads/upkeep/none")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"refs/upkeep/pushed/x": sha}, found, "all or nothing")
	dir := t.TempDir()
	err = b.remote.Push(t.Context(), dir, checkout.Move{Ref: "refs/heads/upkeep/x", Old: sha})
	require.True(t, failure.Is(err, failure.BranchMoved), "%v", err)

	// in the moment between the look and the push
	b.Fail(githubtest.Fault{Operation: "git-receive-pack", At: 1, Before: func() { b.repo.Amend("upkeep/x", "ann", "again", map[string]string{"a": "c"}) }})
	err = c.Push(t.Context(), checkout.Move{Ref: "refs/heads/upkeep/x", Old: mine, New: next})
	require.True(t, failure.Is(err, failure.BranchMoved), "%v", err)
	require.Equal(t, "c", b.repo.File("upkeep/x", "a"))

	tip := b.repo.Branches()["upkeep/x"]
	for range 2 {
		require.NoError(t, b.remote.Push(t.Context(), t.TempDir(), checkout.Move{Ref: "refs/heads/upkeep/x", Old: tip}))
	}
	require.NotContains(t, b.repo.Branches(), "upkeep/x")
}

func TestTwinsPushOneBranch(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n"})
	var wait sync.WaitGroup
	errs := make([]error, 4)
	for n := range errs {
		c := b.clone(t)
		sha, err := c.Make(t.Context(), change)
		require.NoError(t, err)
		wait.Go(func() { errs[n] = c.Push(t.Context(), checkout.Move{Ref: "refs/heads/upkeep/x", New: sha}) })
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, b.repo.Branches(), 2)
}

// TestAHostileRepository has all that a repository can have to make git run something, or write elsewhere.
func TestAHostileRepository(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\r\n", "big.txt": strings.Repeat("x", 20<<20)})
	outside := filepath.Join(t.TempDir(), "owned")
	run := "touch " + outside
	b.repo.PushEntries("main", "mallory", "hostile", map[string]githubtest.Entry{
		".gitattributes":            {Content: "* filter=evil diff=evil merge=evil ident eol=crlf working-tree-encoding=UTF-16 text=auto\n*.lfs filter=lfs\n"},
		".gitconfig":                {Content: "[filter \"evil\"]\n\tsmudge = " + run + "\n[core]\n\tfsmonitor = " + run + "\n\thooksPath = hooks\n"},
		".gitmodules":               {Content: "[submodule \"evil\"]\n\tpath = evil\n\turl = https://example.invalid/x\n"},
		".lfsconfig":                {Content: "[lfs]\n\turl = https://example.invalid/\n"},
		"evil":                      {Mode: "160000", Content: strings.Repeat("a", 40)},
		"hooks/post-checkout":       {Mode: "100755", Content: "#!/bin/sh\n" + run + "\n"},
		"link":                      {Mode: "120000", Content: "/etc/passwd"},
		"out":                       {Mode: "120000", Content: "../../.."},
		"a.lfs":                     {Content: "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1\n"},
		"new\nline":                 {Content: "1"},
		"esc\x1b[31m":               {Content: "1"},
		"--upload-pack=touch owned": {Content: "1"},
		"-rf":                       {Content: "1"},
		`back\slash`:                {Content: "1"},
		"ident":                     {Content: "$Id$\n"},
	})
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".gitconfig"), []byte("[core]\n\tfsmonitor = "+run+"\n\thooksPath = "+home+"\n[filter \"evil\"]\n\tsmudge = "+run+"\n\tclean = "+run+"\n\tprocess = "+run+"\n[url \"https://example.invalid/\"]\n\tinsteadOf = http://127.0.0.1\n"), 0o600))
	for _, name := range []string{"pre-push", "reference-transaction", "post-checkout", "post-index-change"} {
		require.NoError(t, os.WriteFile(filepath.Join(home, name), []byte("#!/bin/sh\n"+run+"\n"), 0o700))
	}
	for k, v := range map[string]string{
		"HOME": home, "GIT_CONFIG_GLOBAL": filepath.Join(home, ".gitconfig"), "GIT_SSH_COMMAND": run, "GIT_EXTERNAL_DIFF": run, "GIT_PROXY_COMMAND": run, "GIT_ASKPASS": run,
		"GIT_DIR": home, "GIT_WORK_TREE": home, "GIT_TRACE": filepath.Join(home, "trace"), "GIT_TRACE_CURL": filepath.Join(home, "trace"), "GIT_ALLOW_PROTOCOL": "ext:https:http", "GIT_TEMPLATE_DIR": home,
		"GIT_CONFIG_PARAMETERS": "'core.fsmonitor=" + run + "'", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": run, "GIT_OBJECT_DIRECTORY": home,
	} {
		t.Setenv(k, v)
	}
	c := b.clone(t)
	got := files(t, c)
	require.Equal(t, "module shop\r\n", got["go.mod"], "byte for byte")
	require.Equal(t, "$Id$\n", got["ident"])
	require.Contains(t, got["a.lfs"], "git-lfs", "the pointer, and not what it points to")
	require.Contains(t, got, "-rf")
	left := make(map[string]string)
	for _, l := range c.Left {
		left[l.Path] = l.Why
	}
	for path, why := range map[string]string{"link": "symbolic link", "out": "symbolic link", "evil": "submodule", `"new\nline"`: "characters", `"esc\x1b[31m"`: "characters", `back\slash`: "characters", "big.txt": "more than"} {
		require.Contains(t, left[path], why, path)
	}
	require.Len(t, left, 7)
	sha, err := c.Make(t.Context(), change)
	require.NoError(t, err)
	require.NoError(t, c.Push(t.Context(), checkout.Move{Ref: "refs/heads/upkeep/x", New: sha}))
	require.Len(t, b.repo.File("upkeep/x", "big.txt"), 20<<20, "what was not brought stays")
	require.Equal(t, "120000", b.repo.Mode("upkeep/x", "link"))
	for _, path := range []string{"link", "evil", "out/x", "link/x", "../x", "/etc/x", "a/../../x", ".git/config", "x/.GIT/config", "new\nline"} {
		_, err := c.Make(t.Context(), checkout.Change{Files: map[string][]byte{path: []byte("x")}, Message: "m", Name: "a", Email: "b", Time: change.Time})
		require.True(t, failure.Is(err, failure.UnsafeRepository), "%q: %v", path, err)
	}
	require.NoFileExists(t, outside, "something of the repository was run")
	require.NoFileExists(t, filepath.Join(home, "trace"))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(c.Dir(), "made-by-a-tool")))
	_, err = c.Read("made-by-a-tool", 1<<20)
	require.True(t, failure.Is(err, failure.UnsafeRepository), "%v", err)
}

func TestTheTokenIsNowhere(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n"})
	dir := t.TempDir()
	c, err := checkout.Clone(t.Context(), checkout.Options{Dir: dir, Remote: b.remote, Branch: "main"})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	sha, err := c.Make(t.Context(), change)
	require.NoError(t, err)
	require.NoError(t, c.Push(t.Context(), checkout.Move{Ref: "refs/heads/upkeep/x", New: sha}))
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		require.NotContains(t, string(data), b.token, path)
		return err
	}))
	wrong := checkout.Remote{URL: b.remote.URL, Token: func(context.Context) (string, error) { return "ghp_wrongButSecret", nil }}
	_, err = checkout.Clone(t.Context(), checkout.Options{Dir: t.TempDir(), Remote: wrong, Branch: "main"})
	require.True(t, failure.Is(err, failure.GitHubLogin), "%v", err)
	require.NotContains(t, err.Error(), "ghp_wrong")
}

func TestWhatIsRefused(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n", "a": strings.Repeat("a", 1000), "b": strings.Repeat("b", 1000)})
	clone := func(change func(*checkout.Options)) error {
		o := checkout.Options{Dir: t.TempDir(), Remote: b.remote, Branch: "main", Limits: checkout.DefaultLimits}
		change(&o)
		c, err := checkout.Clone(t.Context(), o)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for name, c := range map[string]struct {
		change func(*checkout.Options)
		code   failure.Code
	}{
		"option for a branch": {func(o *checkout.Options) { o.Branch = "--upload-pack=touch x" }, failure.UnsafeRepository},
		"dash":                {func(o *checkout.Options) { o.Branch = "-x" }, failure.UnsafeRepository},
		"dash inside":         {func(o *checkout.Options) { o.Branch = "a/-x" }, failure.UnsafeRepository},
		"dots":                {func(o *checkout.Options) { o.Branch = "a/../b" }, failure.UnsafeRepository},
		"newline":             {func(o *checkout.Options) { o.Branch = "a\nb" }, failure.UnsafeRepository},
		"no such branch":      {func(o *checkout.Options) { o.Branch = "none" }, failure.GitHubRefused},
		"ext":                 {func(o *checkout.Options) { o.Remote.URL = "ext::sh -c touch% x" }, failure.BadConfig},
		"file":                {func(o *checkout.Options) { o.Remote.URL = "file:///etc" }, failure.BadConfig},
		"ssh":                 {func(o *checkout.Options) { o.Remote.URL = "ssh://-oProxyCommand=x/y" }, failure.BadConfig},
		"plain http":          {func(o *checkout.Options) { o.Remote.URL = "http://example.com/x.git" }, failure.BadConfig},
		"a secret":            {func(o *checkout.Options) { o.Remote.URL = "https://a:b@example.com/x.git" }, failure.BadConfig},
		"no repository":       {func(o *checkout.Options) { o.Remote.URL = b.URL + "/octo/none.git" }, failure.MissingRepository},
		"many files":          {func(o *checkout.Options) { o.Limits.Files = 2 }, failure.RepositoryTooLarge},
		"much":                {func(o *checkout.Options) { o.Limits.Tree = 1500 }, failure.RepositoryTooLarge},
		"objects":             {func(o *checkout.Options) { o.Limits.Objects = 100 }, failure.RepositoryTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			err := clone(c.change)
			require.True(t, failure.Is(err, c.code), "%v", err)
		})
	}
	for status, code := range map[int]failure.Code{403: failure.GitHubForbids, 502: failure.GitHubUnreachable} {
		b.Fail(githubtest.Fault{Operation: "git-upload-pack/refs", At: 1, Status: status})
		err := clone(func(*checkout.Options) {})
		require.True(t, failure.Is(err, code), "%d: %v", status, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.Fail(githubtest.Fault{Operation: "git-upload-pack", At: 1, Before: cancel})
	_, err := checkout.Clone(ctx, checkout.Options{Dir: t.TempDir(), Remote: b.remote, Branch: "main"})
	require.ErrorIs(t, err, context.Canceled)
}

// TestAGigabyte is a file of 1 GiB that is a megabyte on the wire.
func TestAGigabyte(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n"})
	b.repo.Push("other", "mallory", "other", map[string]string{"a": "b"})
	b.repo.PushZeros("main", "mallory", "huge", 1<<30)
	dir := t.TempDir()
	c, err := checkout.Clone(t.Context(), checkout.Options{Dir: dir, Remote: b.remote, Branch: "main"})
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.Equal(t, map[string]string{"go.mod": "module shop\n"}, files(t, c))
	require.Equal(t, []checkout.Left{{Path: "huge", Why: fmt.Sprintf("it has more than %d bytes", 16<<20)}}, c.Left)

	b.repo.PushZeros("other", "mallory", "huge", 40<<20)
	b.repo.Unfiltered() // a server that sends it all the same
	again, err := checkout.Clone(t.Context(), checkout.Options{Dir: t.TempDir(), Remote: b.remote, Branch: "other"})
	require.NoError(t, err)
	defer func() { _ = again.Close() }()
	require.Equal(t, c.Left, again.Left)
}

func FuzzRefs(f *testing.F) {
	f.Add("refs/heads/main")
	f.Add("refs/heads/--x")
	f.Fuzz(func(t *testing.T, ref string) {
		if checkout.RefProblem(ref) == "" {
			require.False(t, strings.ContainsAny(ref, " ~^:?*[\\\x00\x7f\n") || strings.Contains(ref, "..") || strings.HasPrefix(ref, "-") || strings.Contains(ref, "/-") || strings.Contains(ref, "//"), "%q", ref)
		}
	})
}

func TestWhatIsUnderAName(t *testing.T) {
	b := set(t, map[string]string{"go.mod": "module shop\n"})
	c := b.clone(t)
	for _, ref := range []string{"refs/heads/upkeep/patch/a", "refs/upkeep/upkeep/patch/a", "refs/upkeep/upkeep/major/b"} {
		require.NoError(t, c.Push(t.Context(), checkout.Move{Ref: ref, New: c.Commit}))
	}
	found, err := b.remote.Under(t.Context(), t.TempDir(), "refs/upkeep/")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"refs/upkeep/upkeep/patch/a": c.Commit, "refs/upkeep/upkeep/major/b": c.Commit}, found)
	found, err = b.remote.Under(t.Context(), t.TempDir(), "refs/notes/")
	require.NoError(t, err)
	require.Empty(t, found)
}
