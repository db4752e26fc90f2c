package webhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

type sink struct {
	mu  sync.Mutex
	got []Delivery
	err error
}

func (s *sink) handle(_ context.Context, d Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.got = append(s.got, d)
	}
	return s.err
}

// serve starts a receiver, and returns where it is.
func serve(t *testing.T, timeout time.Duration) (*sink, string) {
	t.Helper()
	s := &sink{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	h := New(Options{Secret: func(context.Context) (string, error) { return "s3cret", nil }, Handle: s.handle, Timeout: timeout})
	go func() { ended <- Serve(ctx, l, h, timeout) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
	return s, "http://" + l.Addr().String() + "/"
}

func TestGitHubsDeliveriesArrive(t *testing.T) {
	s, url := serve(t, time.Minute)
	hub := githubtest.New(t, githubtest.NewClock())
	hub.Webhook(url, "s3cret")
	r := hub.Repository("octo/shop", map[string]string{"a": "b"})
	sha := r.Push("upkeep/x", "ann", "x", map[string]string{"a": "c"})
	r.SetCheck(sha, "build", "completed", "success")
	r.SetStatus(sha, "old", "success")
	require.NoError(t, hub.Wait(t.Context()))
	for i := range s.got {
		require.NotEmpty(t, s.got[i].ID)
		s.got[i].ID = ""
	}
	require.Equal(t, []Delivery{
		{Event: "push", Repository: "octo/shop", Default: "main", Branches: []string{"upkeep/x"}},
		{Event: "check_run", Action: "completed", Repository: "octo/shop", Default: "main", Branches: []string{"upkeep/x"}},
		{Event: "check_suite", Action: "completed", Repository: "octo/shop", Default: "main", Branches: []string{"upkeep/x"}},
		{Event: "status", Repository: "octo/shop", Default: "main", Branches: []string{"upkeep/x"}},
	}, s.got)
}

func TestForgedReplayedAndOversized(t *testing.T) {
	s, url := serve(t, time.Minute)
	d := githubtest.Delivery{ID: "0b989ba4-242f-11e5-81e1-c7b6966d2516", Event: "pull_request", Payload: []byte(`{"action":"closed","repository":{"full_name":"octo/shop"},"pull_request":{"number":7,"head":{"ref":"upkeep/x","sha":"abc"}}}`)}
	send := func(change func(*http.Request)) int {
		r := githubtest.NewRequest(url, "s3cret", d)
		change(r)
		answer, err := http.DefaultClient.Do(r)
		if err != nil { // it does not read what is too much
			return http.StatusRequestEntityTooLarge
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	body := func(r *http.Request, b []byte) {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	other := func(r *http.Request) { r.Header.Set("X-GitHub-Delivery", "another") }
	for name, c := range map[string]struct {
		status int
		change func(*http.Request)
	}{
		"no signature":       {401, func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") }},
		"of another secret":  {401, func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", githubtest.Sign("guess", d.Payload)) }},
		"sha1 alone":         {401, func(r *http.Request) { r.Header.Del("X-Hub-Signature-256"); r.Header.Set("X-Hub-Signature", "sha1=00") }},
		"sha1 in its place":  {401, func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", "sha1="+strings.Repeat("0", 40)) }},
		"short":              {401, func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", githubtest.Sign("s3cret", d.Payload)[:40]) }},
		"altered":            {401, func(r *http.Request) { body(r, bytes.Replace(d.Payload, []byte("7"), []byte("8"), 1)) }},
		"a GET":              {405, func(r *http.Request) { r.Method = "GET" }},
		"a form":             {415, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }},
		"no id":              {400, func(r *http.Request) { r.Header.Del("X-GitHub-Delivery") }},
		"an id with tricks":  {400, func(r *http.Request) { r.Header.Set("X-GitHub-Delivery", "../../x y") }},
		"26 MB":              {413, func(r *http.Request) { body(r, make([]byte, 26<<20)) }},
		"26 MB, length none": {413, func(r *http.Request) { body(r, make([]byte, 26<<20)); r.ContentLength = -1 }},
	} {
		require.Equal(t, c.status, send(c.change), name)
	}
	require.Empty(t, s.got)

	s.err = errors.New("Temporal is away")
	require.Equal(t, 503, send(func(*http.Request) {}))
	s.err = nil
	require.Equal(t, 202, send(func(*http.Request) {}), "and it may come again")
	require.Equal(t, 409, send(func(*http.Request) {}))
	require.Equal(t, 409, send(other), "the id is not signed")
	require.Equal(t, []Delivery{{ID: d.ID, Event: "pull_request", Action: "closed", Repository: "octo/shop", Branches: []string{"upkeep/x"}}}, s.got)
	d.Payload = []byte(`[`)
	require.Equal(t, 400, send(other))
}

func TestBranchesThatADeliveryIsAbout(t *testing.T) {
	for body, branches := range map[string][]string{
		`{"ref":"refs/heads/main"}`: {"main"},
		`{"ref":"refs/tags/v1"}`:    nil,
		`{"check_run":{"check_suite":{"head_branch":"a"},"pull_requests":[{"head":{"ref":"a"}},{"head":{"ref":"b"}}]}}`: {"a", "b"},
		`{"check_suite":{"head_branch":null,"pull_requests":[]}}`:                                                       nil,
		`{"branches":[{"name":"a"},{"name":"main"}]}`:                                                                   {"a", "main"},
		`{"pull_request":{"head":{"ref":"a"}}}`:                                                                         {"a"},
	} {
		d, err := read([]byte(body))
		require.NoError(t, err)
		require.Equal(t, branches, d.Branches, body)
	}
	d, err := read([]byte(`{"branches":[` + strings.Repeat(`{"name":"a"},`, 50) + `{"name":"x"}]}`))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "x"}, d.Branches)
}

func TestSlowSendersAreDropped(t *testing.T) {
	_, url := serve(t, 200*time.Millisecond)
	for name, begin := range map[string]string{
		"in the headers": "POST / HTTP/1.1\r\nHost: a\r\nX-A: ",
		"in the body":    "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: 1\r\nX-Hub-Signature-256: sha256=" + strings.Repeat("0", 64) + "\r\nContent-Length: 1000\r\n\r\n{",
	} {
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, begin)
		require.NoError(t, err)
		_, err = io.ReadAll(conn) // until the server ends it
		require.NoError(t, err, name)
		_ = conn.Close()
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	r := newRecent(4)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		require.True(t, r.add(n))
	}
	require.Len(t, r.names, 4)
	require.False(t, r.add("e"))
	require.True(t, r.add("a"), "it is forgotten")
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"action":"closed"}`))
	f.Fuzz(func(_ *testing.T, body []byte) { _, _ = read(body) })
}
