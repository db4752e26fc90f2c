package githubtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ask sends a request by hand, as no client would.
func ask(t *testing.T, s *Server, token, method, path string, body any, header ...string) (*http.Response, map[string]any) {
	t.Helper()
	var data io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		require.NoError(t, err)
		data = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.APIURL()+path, data)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil
	}
	raw, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	var m map[string]any
	_ = json.Unmarshal(raw, &m)
	return answer, m
}

func TestAPullRequestFromPushToMerge(t *testing.T) {
	s := New(t, NewClock())
	r := s.Repository("octo/shop", map[string]string{"go.mod": "module shop\n"})
	token := s.Token("upkeep")
	sha := r.Push("updates", "upkeep", "newer", map[string]string{"go.mod": "module shop // newer\n"})
	answer, pull := ask(t, s, token, "POST", "repos/octo/shop/pulls", map[string]any{"title": "newer", "head": "updates", "base": "main", "body": "why"})
	require.Equal(t, 201, answer.StatusCode)
	require.Equal(t, sha, pull["head"].(map[string]any)["sha"])
	answer, _ = ask(t, s, token, "POST", "repos/octo/shop/pulls", map[string]any{"title": "newer", "head": "updates", "base": "main"})
	require.Equal(t, 422, answer.StatusCode)
	_, first := ask(t, s, token, "GET", "repos/octo/shop/pulls/1", nil)
	require.Nil(t, first["mergeable"], "GitHub does not know it at once")
	_, second := ask(t, s, token, "GET", "repos/octo/shop/pulls/1", nil)
	require.Equal(t, true, second["mergeable"])

	r.Required = []string{"build"}
	answer, _ = ask(t, s, token, "PUT", "repos/octo/shop/pulls/1/merge", map[string]any{"sha": sha})
	require.Equal(t, 405, answer.StatusCode)
	r.SetCheck(sha, "build", "completed", "success")
	answer, _ = ask(t, s, token, "PUT", "repos/octo/shop/pulls/1/merge", map[string]any{"sha": strings.Repeat("1", 40)})
	require.Equal(t, 409, answer.StatusCode)
	answer, _ = ask(t, s, token, "PUT", "repos/octo/shop/pulls/1/merge", map[string]any{"sha": sha, "merge_method": "squash"})
	require.Equal(t, 200, answer.StatusCode)
	require.Equal(t, "module shop // newer", r.File("main", "go.mod"))
	require.True(t, r.Pulls()[0].Merged)
	for _, path := range []string{"pulls?state=all", "issues?state=all", "commits/" + sha, "commits/" + sha + "/status", "commits/" + sha + "/check-runs", "pulls/1/commits", "issues/1", "branches/main", "git/ref/heads/main", "git/matching-refs/heads/u", "compare/main...updates", "pulls/1/requested_reviewers"} {
		answer, _ = ask(t, s, token, "GET", "repos/octo/shop/"+path, nil)
		require.Equal(t, 200, answer.StatusCode, path)
	}
}

func TestWhatGitHubDoesNotDescribeIsFound(t *testing.T) {
	s := New(t, NewClock())
	s.Repository("octo/shop", map[string]string{"a": "b"})
	token := s.Token("upkeep")
	for _, body := range []map[string]any{
		{"title": "a", "head": "b"},                               // lacks base
		{"title": "a", "head": "b", "base": 7},                    // mistyped
		{"title": "a", "head": "b", "base": "main", "bodyy": "c"}, // misspelled
	} {
		answer, _ := ask(t, s, token, "POST", "repos/octo/shop/pulls", body)
		require.Equal(t, 422, answer.StatusCode)
		require.Len(t, s.Violations(), 1, "%v", body)
	}
	_, _ = ask(t, s, token, "GET", "repos/octo/shop/pulls?sttate=open", nil)
	require.Len(t, s.Violations(), 1)
	_, _ = ask(t, s, token, "GET", "repos/octo/shop/pulls/one", nil)
	require.Len(t, s.Violations(), 1)
	_, _ = ask(t, s, token, "GET", "repos/octo/shop/nonsense", nil)
	require.Len(t, s.Violations(), 1)
	require.Zero(t, s.Writes())

	o := &operation{op: s.doc.Paths.Value("/repos/{owner}/{repo}/pulls/{pull_number}").Get}
	_, err := o.answer(200, map[string]any{"number": "one"})
	require.Error(t, err, "an answer is held against the description too")
}

func TestLimits(t *testing.T) {
	clock := NewClock()
	s := New(t, clock)
	s.Repository("octo/shop", map[string]string{"a": "b"})
	token := s.Token("upkeep")
	create := func() *http.Response {
		answer, _ := ask(t, s, token, "POST", "repos/octo/shop/issues", map[string]any{"title": "a"})
		return answer
	}
	for range CreationsAMinute {
		require.Equal(t, 201, create().StatusCode)
	}
	answer := create()
	require.Equal(t, 403, answer.StatusCode)
	require.Equal(t, "60", answer.Header.Get("Retry-After"))
	for n := CreationsAMinute; n < CreationsAnHour; n++ {
		clock.Advance(time.Second)
		if n%CreationsAMinute == 0 {
			clock.Advance(time.Minute)
		}
		require.Equal(t, 201, create().StatusCode, n)
	}
	clock.Advance(time.Minute)
	require.Equal(t, 403, create().StatusCode, "more than 500 in an hour")
	require.Equal(t, 2, s.Limited())
	clock.Advance(time.Hour)
	require.Equal(t, 201, create().StatusCode)

	clock.Advance(time.Hour)
	answer, _ = ask(t, s, token, "GET", "repos/octo/shop/issues", nil)
	tag := answer.Header.Get("ETag")
	require.NotEmpty(t, tag)
	before := s.Spent("upkeep")
	answer, _ = ask(t, s, token, "GET", "repos/octo/shop/issues", nil, "If-None-Match", tag)
	require.Equal(t, 304, answer.StatusCode)
	require.Equal(t, before, s.Spent("upkeep"), "it is free")
	s.mu.Lock()
	s.requests["upkeep"].used = PrimaryLimit
	s.mu.Unlock()
	answer, _ = ask(t, s, token, "GET", "repos/octo/shop", nil)
	require.Equal(t, 403, answer.StatusCode)
	require.Equal(t, "0", answer.Header.Get("X-RateLimit-Remaining"))
	require.Equal(t, fmt.Sprint(clock.Now().Add(time.Hour).Unix()), answer.Header.Get("X-RateLimit-Reset"))
}

func TestFaults(t *testing.T) {
	s := New(t, NewClock())
	r := s.Repository("octo/shop", map[string]string{"a": "b"})
	token := s.Token("upkeep")
	s.Fail(Fault{Operation: "issues/create", At: 2, LoseReply: true})
	s.Fail(Fault{Operation: "issues/create", At: 3, Status: 502})
	s.Fail(Fault{Operation: "issues/create", At: 4, Status: 403, RetryAfter: 5 * time.Second})
	create := func() *http.Response {
		answer, _ := ask(t, s, token, "POST", "repos/octo/shop/issues", map[string]any{"title": "a"})
		return answer
	}
	require.Equal(t, 201, create().StatusCode)
	require.Nil(t, create(), "the answer is lost")
	require.Len(t, r.Issues(), 2, "and the work is done")
	require.Equal(t, 502, create().StatusCode)
	require.Equal(t, "5", create().Header.Get("Retry-After"))
	require.Len(t, r.Issues(), 2)
	require.Equal(t, 201, create().StatusCode)
	require.Equal(t, 5, s.Calls("issues/create"))
	require.Equal(t, 3, s.Writes())
	answer, _ := ask(t, s, "wrong", "GET", "repos/octo/shop", nil)
	require.Equal(t, 401, answer.StatusCode)
	answer, _ = ask(t, s, token, "GET", "repos/octo/none", nil)
	require.Equal(t, 404, answer.StatusCode)
}

func TestGitOverHTTP(t *testing.T) {
	s := New(t, NewClock())
	r := s.Repository("octo/shop", map[string]string{"a": "b"})
	dir := t.TempDir()
	git := func(token string, args ...string) error {
		c := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b", "-c", "http.extraHeader=Authorization: " + basic(token)}, args...)...)
		c.Dir, c.Env = dir, environment("GIT_TERMINAL_PROMPT=0")
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	require.Error(t, git("wrong", "clone", s.URL+"/octo/shop.git"))
	token := s.Token("upkeep")
	require.NoError(t, git(token, "clone", s.URL+"/octo/shop.git"))
	dir = filepath.Join(dir, "shop")
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // more than git sends at once
	for i := range big {
		big[i] ^= byte(i * i >> 7)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), big, 0o600))
	require.NoError(t, git(token, "add", "."))
	require.NoError(t, git(token, "commit", "--quiet", "-m", "big"))
	s.Fail(Fault{Operation: "git-receive-pack", At: 1, LoseReply: true})
	require.Error(t, git(token, "push", "origin", "HEAD:refs/heads/new"))
	require.Contains(t, r.Branches(), "new", "the work was done")
	require.NoError(t, git(token, "push", "origin", "HEAD:refs/heads/new"))
	require.Len(t, r.File("new", "big"), len(big))
}

func basic(token string) string {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth("x-access-token", token)
	return r.Header.Get("Authorization")
}

func TestWebhooks(t *testing.T) {
	var mu sync.Mutex
	var got []Delivery
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Hub-Signature-256") != Sign("s3cret", body) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, Delivery{ID: r.Header.Get("X-GitHub-Delivery"), Event: r.Header.Get("X-GitHub-Event"), Payload: body})
	}))
	defer receiver.Close()
	s := New(t, NewClock())
	s.Webhook(receiver.URL, "s3cret")
	r := s.Repository("octo/shop", map[string]string{"a": "b"})
	token := s.Token("upkeep")
	r.Push("updates", "upkeep", "newer", map[string]string{"a": "c"})
	_, _ = ask(t, s, token, "POST", "repos/octo/shop/pulls", map[string]any{"title": "newer", "head": "updates", "base": "main"})
	sha := r.Push("updates", "ann", "mine", map[string]string{"a": "d"})
	r.SetCheck(sha, "build", "completed", "success")
	r.SetStatus(sha, "old", "success")
	r.Comment(1, "ann", "no")
	r.Push("other", "ann", "other", map[string]string{"x": "d"})
	r.Retarget(1, "ann", "other")
	r.ClosePull(1, "ann")
	require.NoError(t, s.Wait(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	var kinds []string
	for _, d := range got {
		var p struct{ Action string }
		require.NoError(t, json.Unmarshal(d.Payload, &p))
		kinds = append(kinds, strings.TrimSuffix(d.Event+" "+p.Action, " "))
	}
	require.Equal(t, []string{"push", "pull_request opened", "push", "pull_request synchronize", "check_run completed", "check_suite completed", "status", "issue_comment created", "push", "pull_request edited", "pull_request closed"}, kinds)
	require.Len(t, s.Deliveries(), len(got))
	examples := webhookExamples(t)
	for _, d := range got {
		var ours any
		require.NoError(t, json.Unmarshal(d.Payload, &ours))
		alike(t, d.Event, examples[d.Event], ours)
	}
}

// alike holds a payload against GitHub's examples: what we say must be of the kind that some example has.
func alike(t *testing.T, at string, examples []any, ours any) {
	t.Helper()
	if m, ok := ours.(map[string]any); ok {
		for key, v := range m {
			var theirs []any
			for _, e := range examples {
				if o, isObject := e.(map[string]any); isObject {
					if x, has := o[key]; has {
						theirs = append(theirs, x)
					}
				}
			}
			if len(theirs) > 0 {
				alike(t, at+"."+key, theirs, v)
			}
		}
	}
	if ours == nil {
		return
	}
	for _, e := range examples {
		if e == nil || fmt.Sprintf("%T", e) == fmt.Sprintf("%T", ours) {
			return
		}
	}
	t.Errorf("%s is a %T, and in no example of GitHub's", at, ours)
}

func webhookExamples(t *testing.T) map[string][]any {
	cache, err := cacheFolder("github-openapi")
	require.NoError(t, err)
	data, err := fromNPM(t.Context(), cache, "@octokit/webhooks-examples@7.6.1", "package/api.github.com/index.json", "09d8f0c617876ae9dad22e26fea5510bfcaad50ee7e602659f6db25b87b25815")
	require.NoError(t, err)
	var all []struct {
		Name     string
		Examples []any
	}
	require.NoError(t, json.Unmarshal(data, &all))
	found := make(map[string][]any)
	for _, e := range all {
		found[e.Name] = e.Examples
	}
	return found
}
