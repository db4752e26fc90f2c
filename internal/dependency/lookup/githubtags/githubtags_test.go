package githubtags

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func pkg(name string) dependency.Package {
	return dependency.Package{Datasource: dependency.SourceGitHubTags, Name: name, Versioning: dependency.VersioningGitHub}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	return strings.TrimSpace(string(out))
}

// The real git server, over HTTP, with tags of both kinds.
func TestTagsOfARealServer(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "actions", "checkout.git")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	git(t, dir, "init", "-q", "--bare")
	tree := git(t, dir, "mktree", "--missing")
	if tree == "" {
		tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	}
	commit := git(t, dir, "commit-tree", "-m", "x", tree)
	git(t, dir, "update-ref", "refs/heads/main", commit)
	git(t, dir, "tag", "v4", commit)
	git(t, dir, "tag", "-a", "-m", "with a message", "v4.2.0", commit)
	git(t, dir, "config", "http.uploadpack", "true")
	program := git(t, dir, "--exec-path") + "/git-http-backend"
	if _, err := os.Stat(program); err != nil {
		t.Skip("git-http-backend is not installed")
	}
	url, client := lookuptest.Serve(t, &cgi.Handler{Path: program, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}, 0)
	s := New(client, Config{URL: url})
	releases, err := s.Releases(t.Context(), pkg("actions/checkout"))
	require.NoError(t, err)
	require.ElementsMatch(t, []dependency.Release{{Version: "v4", Digest: commit}, {Version: "v4.2.0", Digest: commit}}, releases)
}

func line(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

var (
	one      = strings.Repeat("1", 40)
	two      = strings.Repeat("2", 40)
	recorded = line("# service=git-upload-pack\n") + "0000" + line(one+" HEAD\x00multi_ack agent=git/github\n") + line(one+" refs/heads/main\n") +
		line(two+" refs/tags/v5.0.0\n") + line(one+" refs/tags/v5.0.0^{}\n") + line(two+" refs/tags/v4\n") + line(two+" refs/pull/1/head\n") + "0000"
)

func TestRecordedAnswers(t *testing.T) {
	var token atomic.Value
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/actions/checkout.git/info/refs":
			_, _ = fmt.Fprint(w, recorded)
		case "/api/repos/actions/checkout/commits/" + one:
			token.Store(r.Header.Get("Authorization"))
			_, _ = fmt.Fprint(w, `{"sha":"x","commit":{"author":{"date":"2020-01-01T00:00:00Z"},"committer":{"date":"2024-03-04T05:06:07Z"}}}`)
		case "/api/repos/actions/checkout/commits/" + two:
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}), 0)
	s := New(client, Config{URL: url, API: url + "/api", Token: "t0ken"})
	releases, err := s.Releases(t.Context(), pkg("actions/checkout"))
	require.NoError(t, err)
	require.ElementsMatch(t, []dependency.Release{{Version: "v4", Digest: two}, {Version: "v5.0.0", Digest: one}}, releases)
	r, err := s.Complete(t.Context(), pkg("actions/checkout"), dependency.Release{Version: "v5.0.0", Digest: one})
	require.NoError(t, err)
	require.Equal(t, time.Date(2024, 3, 4, 5, 6, 7, 0, time.UTC), r.Time)
	require.Equal(t, "Bearer t0ken", token.Load())
	_, err = s.Complete(t.Context(), pkg("actions/checkout"), dependency.Release{Version: "v4", Digest: two})
	require.True(t, failure.Is(err, failure.RegistryRefuses), "%v", err)
	require.ErrorContains(t, err, "GITHUB_TOKEN")
	require.NotContains(t, err.Error(), "t0ken")
	_, err = s.Releases(t.Context(), pkg("actions/nothing"))
	require.True(t, failure.Is(err, failure.UnknownPackage), "%v", err)
}

func TestHostileServers(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.Serve, func(t *testing.T, url string, client *httpcache.Client) error {
		_, err := New(client, Config{URL: url}).Releases(t.Context(), pkg("actions/checkout"))
		return err
	})
}

func TestNamesThatAttackAreNotAskedFor(t *testing.T) {
	var asked atomic.Int64
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), 0)
	for _, name := range []string{"", "a", "../b", "a/..", "a/b/c", "--upload-pack=x/y", "a/b?c", "a/b#c", "a b/c", "a/b\n", "а/b"} {
		_, err := New(client, Config{URL: url}).Releases(t.Context(), pkg(name))
		require.True(t, failure.Is(err, failure.BadInput), "%q: %v", name, err)
	}
	require.Zero(t, asked.Load())
}

func FuzzReferences(f *testing.F) {
	f.Add([]byte(recorded))
	f.Add([]byte(line("# service=git-upload-pack\n") + "0000ffff"))
	f.Add([]byte(line("# service=git-upload-pack\n") + line(one+" refs/tags/--upload-pack=x\n") + line(one+" refs/tags/a\x1b[2J\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := distil(bytes.NewReader(text))
		if err != nil {
			return
		}
		for l := range strings.Lines(string(data)) {
			id, tag, found := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
			require.True(t, found)
			require.Empty(t, dependency.CheckDigest(id))
			require.Empty(t, dependency.CheckWritten(tag))
		}
	})
}
