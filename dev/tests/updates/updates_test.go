// Package updates lives through whole lives of pull requests: a worker, a git server, a stand-in for GitHub
// that is held against GitHub's own description, and a real module proxy.
package updates

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const (
	update = updatedependencies.WorkflowType
	module = "module example.com/shop\n\ngo 1.24\n\nrequire example.com/a v1.0.0 // the only one\n"
	source = "package shop\n\nimport \"example.com/a\"\n\nvar A = a.A\n"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(strconv.Itoa(slots))
	}
	code := m.Run()
	harness.RemoveBinaries()
	os.Exit(code)
}

// timer is the machine's time, which the limits go by here.
type timer struct{}

func (timer) Now() time.Time { return time.Now() }

// site is a repository on the stand-in, and all that works on it.
type site struct {
	*harness.Stack
	github *githubtest.Server
	repo   *githubtest.Repo
	env    []string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{github: githubtest.New(t, timer{})}
	s.repo = s.github.Repository("octo/shop", map[string]string{"go.mod": module, "go.sum": "", "shop.go": source})
	advisories := t.TempDir()
	s.Stack = harness.New(t, fmt.Sprintf("  - name: code\n    repositories:\n      - {github: octo/shop, apiURL: %q, tokenFrom: {env: GITHUB_TOKEN}, merge: [patch], advisories: %q}\n", s.github.APIURL(), advisories))
	s.env = []string{"GITHUB_TOKEN=" + s.github.Token("upkeep-bot"), "GOPROXY=" + modules(t, "v1.0.0", "v1.0.1"), "GOSUMDB=off"}
	return s
}

// modules serves versions of example.com/a as a module proxy does, and returns its URL.
func modules(t *testing.T, versions ...string) string {
	t.Helper()
	const base = "/example.com/a/@v/"
	files := map[string][]byte{base + "list": []byte(strings.Join(versions, "\n") + "\n")}
	for _, v := range versions {
		var archive bytes.Buffer
		w := zip.NewWriter(&archive)
		for name, text := range map[string]string{"go.mod": "module example.com/a\n", "a.go": "package a\n\n// A is of " + v + ".\nconst A = 1\n"} {
			f, err := w.Create("example.com/a@" + v + "/" + name)
			require.NoError(t, err)
			_, err = f.Write([]byte(text))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		files[base+v+".info"] = fmt.Appendf(nil, `{"Version":%q,"Time":"2026-01-02T03:04:05Z"}`, v)
		files[base+v+".mod"] = []byte("module example.com/a\n")
		files[base+v+".zip"] = archive.Bytes()
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// branch is the one branch of Upkeep's.
func (s *site) branch(t *testing.T) (name, sha string) {
	t.Helper()
	for b, at := range s.repo.Branches() {
		if pullrequest.Ours(b) {
			require.Empty(t, name, "there is one branch and no more")
			name, sha = b, at
		}
	}
	return name, sha
}

// follower is the run of the one pull request.
func (s *site) follower(t *testing.T) string {
	t.Helper()
	return followpullrequest.ID("code", "octo/shop", "upkeep/patch/gomod-example.com-a-"+slug)
}

// slug ends the branch's name: the hash of what it is for.
const slug = "0c688de4"

// wake is what a webhook does.
func (s *site) wake(t *testing.T) {
	t.Helper()
	require.NoError(t, s.Client.SignalWorkflow(t.Context(), s.follower(t), "", followpullrequest.WakeSignal, nil))
}

// until waits until the pull request's run has decided so.
func (s *site) until(t *testing.T, act pullrequest.Act, why string) {
	t.Helper()
	s.Until(t, s.follower(t), func(d *run.Document) bool {
		return strings.Contains(string(d.Result), fmt.Sprintf("%q:%q", "act", act)) && strings.Contains(string(d.Result), why)
	})
}

// one checks that there is one pull request, one branch, and one comment of each kind.
func (s *site) one(t *testing.T) githubtest.Pull {
	t.Helper()
	all := s.repo.Pulls()
	require.Len(t, all, 1)
	seen := make(map[string]bool)
	for _, c := range all[0].Comments {
		require.False(t, seen[c], "said twice: %s", c)
		seen[c] = true
	}
	require.LessOrEqual(t, len(s.repo.Issues()), 1, "one dashboard")
	return all[0]
}

func TestAWholeLife(t *testing.T) {
	s := newSite(t)
	s.Worker(t, "w", s.env...)

	dry := s.Run(t, update, `{"dryRun": true}`)
	require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
	require.Contains(t, string(dry.Result), `+require example.com/a v1.0.1 // the only one`)
	require.Zero(t, s.github.Writes(), "a dry run writes nothing")
	name, _ := s.branch(t)
	require.Empty(t, name)

	doc := s.Run(t, update, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	pull := s.one(t)
	require.Equal(t, "chore(deps): update example.com/a to v1.0.1", pull.Title)
	require.Equal(t, []string{"dependencies"}, pull.Labels)
	branch, first := s.branch(t)
	require.True(t, strings.HasSuffix(branch, slug), branch)
	require.Equal(t, strings.TrimSpace(strings.Replace(module, "v1.0.0", "v1.0.1", 1)), s.repo.File(branch, "go.mod"))
	require.Contains(t, s.repo.File(branch, "go.sum"), "example.com/a v1.0.1 h1:")
	require.Len(t, s.repo.Issues(), 1)
	require.Contains(t, s.repo.Issues()[0].Body, "#1 chore(deps): update example.com/a to v1.0.1")

	writes := s.github.Writes()
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	require.Equal(t, writes, s.github.Writes(), "nothing is new, and nothing is written")

	s.repo.Push("main", "ada", "docs", map[string]string{"README.md": "A shop.\n"})
	s.wake(t)
	require.Eventually(t, func() bool { _, now := s.branch(t); return now != first }, harness.Patience, 100*time.Millisecond, "it is brought to the new base")
	s.until(t, pullrequest.Await, "")
	_, second := s.branch(t)
	require.Equal(t, "A shop.", s.repo.File(branch, "README.md"))

	s.repo.SetCheck(second, "unit", "in_progress", "")
	s.wake(t)
	s.until(t, pullrequest.Await, "its checks run")
	s.repo.SetCheck(second, "unit", "completed", "success")
	s.wake(t)
	end := s.Await(t, s.follower(t))
	require.Equal(t, run.Succeeded, end.Outcome, end.Summary)
	require.True(t, s.one(t).Merged)
	require.Contains(t, s.repo.File("main", "go.mod"), "v1.0.1")
	name, _ = s.branch(t)
	require.Empty(t, name, "its branch is removed")
	require.Empty(t, s.github.Violations())

	last := s.Run(t, update, `{}`)
	require.Equal(t, run.Succeeded, last.Outcome)
	require.Len(t, s.repo.Pulls(), 1)
	require.NotContains(t, s.repo.Issues()[0].Body, "### Open")
}

func TestAPersonsCommitIsNeverLost(t *testing.T) {
	s := newSite(t)
	s.Worker(t, "w", s.env...)
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	branch, _ := s.branch(t)
	theirs := s.repo.Amend(branch, "ada", "amended", map[string]string{"shop.go": source + "// mended\n"})
	s.repo.Push("main", "ada", "docs", map[string]string{"README.md": "A shop.\n"})
	s.wake(t)
	s.until(t, pullrequest.Leave, "a person has pushed")
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	_, now := s.branch(t)
	require.Equal(t, theirs, now)
	require.Len(t, s.one(t).Comments, 1)
	require.Contains(t, s.repo.Issues()[0].Body, "a person has pushed to its branch")

	s.repo.ClosePull(1, "ada")
	s.wake(t)
	require.Equal(t, run.Succeeded, s.Await(t, s.follower(t)).Outcome)
	_, now = s.branch(t)
	require.Equal(t, theirs, now, "a person's branch stays")
}

func TestWhatAPersonClosedIsNotProposedAgain(t *testing.T) {
	s := newSite(t)
	s.Worker(t, "w", s.env...)
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	s.repo.ClosePull(1, "ada")
	s.wake(t)
	require.Equal(t, run.Succeeded, s.Await(t, s.follower(t)).Outcome)
	name, _ := s.branch(t)
	require.Empty(t, name)
	doc := s.Run(t, update, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Contains(t, string(doc.Result), "ada closed it")
	require.Len(t, s.repo.Pulls(), 1)
	require.Contains(t, s.repo.Issues()[0].Body, "ada closed it")
}
