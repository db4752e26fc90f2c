// Package githubtest is a stand-in for GitHub: a real git server over HTTP, and a REST API with a state.
// Each request and each answer is held against GitHub's own description of its API, so that the stand-in
// cannot drift from it; what that description demands and nobody here reads is filled in. GitHub's limits are
// enforced by a clock that the test owns, and it can be told to fail at the n-th call of an operation, or to
// lose the answer after it has done the work.
package githubtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// GitHub's limits.
const (
	PrimaryLimit      = 5000 // requests an hour
	CreationsAMinute  = 80
	CreationsAnHour   = 500
	maxRequestBody    = 1 << 20
	secondaryWaitSecs = 60
)

// Timer is the time that the stand-in goes by.
type Timer interface{ Now() time.Time }

// Server is the stand-in.
type Server struct {
	URL string // git is below it, as on github.com; the API is below URL + "/api/v3/", as on GHES

	t     testing.TB
	clock Timer
	dir   string
	doc   *openapi3.T
	http  *httptest.Server
	hooks hooks

	mu         sync.Mutex // guards all below, and serialises the API
	ids        int64
	repos      map[string]*Repo
	users      map[string]*User
	tokens     map[string]*token
	apps       map[int64]*App
	faults     []*Fault
	calls      map[string]int
	writes     int
	pushes     int
	limited    int
	creations  map[string][]time.Time // by identity
	requests   map[string]*window     // likewise
	violations []string
}

// User is an account.
type User struct {
	Login string
	ID    int64
	Type  string
}

type token struct {
	user    *User
	expires time.Time // zero: never
	repos   []string  // empty: all
	scopes  *string   // of a classic token, as GitHub lists them
	denied  []string  // groups of operations, such as issues, that a fine-grained token may not even read
}

type window struct {
	began time.Time
	used  int
}

// Fault is what goes wrong at one call of an operation.
type Fault struct {
	Operation string // GitHub's operation id, such as "pulls/create"; git-upload-pack or git-receive-pack, both with /refs for their first request
	At        int    // the n-th call from now on, from 1; 0: every one
	// Repository, as owner/name, is the one whose calls alone are counted; empty: all are.
	Repository string
	Status     int // answered without doing the work
	// RetryAfter, with the Status 403 or 429, is a secondary limit.
	RetryAfter time.Duration
	Message    string
	LoseReply  bool // the work is done, and the connection breaks
	Before     func()
	Garbage    []byte // answered with 200 instead

	seen int
}

// call is one request of the API.
type call struct {
	*http.Request
	who  *User
	repo *Repo
	now  time.Time
	body []byte
}

// reply is what is answered.
type reply struct {
	status int
	body   any
	link   string
}

type handler struct {
	id, method, path string
	serve            func(*Server, *call) reply
}

func handlers() []handler {
	return slices.Concat(repositoryHandlers, pullHandlers, issueHandlers, appHandlers)
}

// description is what is used of GitHub's, loaded once.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	var operations []string
	for _, h := range handlers() {
		operations = append(operations, h.method+" "+h.path)
	}
	return loadSpec(context.Background(), operations, slices.Clone(events))
})

// New starts a stand-in, which ends with the test. A request or an answer that GitHub does not describe fails
// the test.
func New(t testing.TB, clock Timer) *Server {
	t.Helper()
	s := &Server{
		t: t, clock: clock, dir: t.TempDir(),
		repos: make(map[string]*Repo), users: make(map[string]*User), tokens: make(map[string]*token), apps: make(map[int64]*App),
		calls: make(map[string]int), creations: make(map[string][]time.Time), requests: make(map[string]*window),
	}
	var err error
	if s.doc, err = description(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, h := range handlers() {
		item := s.doc.Paths.Value(h.path)
		o := &operation{id: h.id, path: h.path, method: h.method, item: item, op: item.GetOperation(h.method)}
		if o.op.OperationID != h.id {
			t.Fatalf("%s %s is %s, not %s", h.method, h.path, o.op.OperationID, h.id)
		}
		pattern := h.path
		if strings.Contains(pattern, "/git/") && strings.HasSuffix(pattern, "{ref}") {
			pattern = strings.TrimSuffix(pattern, "}") + "...}" // a ref has slashes
		}
		mux.Handle(h.method+" "+pattern, s.api(o, h.serve))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.violate("%s %s: the stand-in does not know it", r.Method, r.URL.Path)
		http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
	})
	root := http.NewServeMux()
	for _, p := range []string{"GET /{owner}/{repo}/info/refs", "POST /{owner}/{repo}/git-upload-pack", "POST /{owner}/{repo}/git-receive-pack"} {
		root.HandleFunc(p, s.serveGit)
	}
	api := http.StripPrefix("/api/v3", mux)
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v3/") {
			api.ServeHTTP(w, r)
			return
		}
		root.ServeHTTP(w, r)
	}))
	s.URL = s.http.URL
	s.hooks.start(t)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
		for _, v := range s.Violations() {
			t.Errorf("not as GitHub describes it: %s", v)
		}
	})
	return s
}

// APIURL is where the API is.
func (s *Server) APIURL() string { return s.URL + "/api/v3/" }

// Violations are what was asked or answered otherwise than GitHub describes. Asked for, they no longer fail
// the test.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.violations
	s.violations = nil
	return v
}

func (s *Server) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, fmt.Sprintf(format, args...))
}

// Calls says how often an operation was asked for; of one repository if its name and a space stand before.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// Writes says how many requests asked for a change, pushes included.
func (s *Server) Writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes + s.pushes
}

// Limited says how often a limit was hit.
func (s *Server) Limited() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limited
}

// Spent says how many requests of this hour count for a login.
func (s *Server) Spent(login string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.requests[login]; w != nil {
		return w.used
	}
	return 0
}

// Fail lets something go wrong.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// fault gives what goes wrong at this call, and counts it.
func (s *Server) fault(operation, repository string) Fault {
	s.calls[operation]++
	s.calls[repository+" "+operation]++
	meant := func(f *Fault) bool {
		return f.Operation == operation && (f.Repository == "" || f.Repository == repository)
	}
	for _, f := range s.faults {
		if meant(f) {
			f.seen++
		}
	}
	for _, f := range s.faults {
		if meant(f) && (f.At == 0 || f.At == f.seen) {
			return *f
		}
	}
	return Fault{}
}

// Token gives a person's or a machine user's token.
func (s *Server) Token(login string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := fmt.Sprintf("ghp_%036d", s.next())
	s.tokens[t] = &token{user: s.user(login)}
	return t
}

// Classic gives a token that says its scopes, such as "repo, workflow".
func (s *Server) Classic(login, scopes string) string {
	t := s.Token(login)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[t].scopes = &scopes
	return t
}

// FineGrained gives a token that may not have these groups of operations, such as issues or checks.
func (s *Server) FineGrained(login string, denied ...string) string {
	t := s.Token(login)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[t].denied = denied
	return t
}

func (s *Server) user(login string) *User {
	u := s.users[login]
	if u == nil {
		u = &User{Login: login, ID: s.next(), Type: "User"}
		if strings.HasSuffix(login, "[bot]") {
			u.Type = "Bot"
		}
		s.users[login] = u
	}
	return u
}

// actor is who has this token now, or nil.
func (s *Server) actor(secret string) *User {
	t := s.tokens[secret]
	if t == nil || !t.expires.IsZero() && !s.clock.Now().Before(t.expires) {
		return nil
	}
	return t.user
}

func (s *Server) next() int64 {
	s.ids++
	return s.ids
}

// api serves one operation.
func (s *Server) api(o *operation, serve func(*Server, *call) reply) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault(o.id, r.PathValue("owner")+"/"+r.PathValue("repo"))
		s.mu.Unlock()
		if fault.Before != nil {
			fault.Before()
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
		if err != nil {
			return
		}
		if err := o.checkRequest(s.doc, r, body); err != nil {
			s.violate("%s %s (%s): %v: %.300s", r.Method, r.URL, o.id, err, body)
			write(w, http.StatusUnprocessableEntity, []byte(`{"message":"Invalid request."}`))
			return
		}
		s.mu.Lock()
		out, status, header := s.act(o, serve, r, body, fault)
		s.mu.Unlock()
		if fault.LoseReply {
			lose(w)
			return
		}
		maps.Copy(w.Header(), header)
		write(w, status, out)
	})
}

func write(w http.ResponseWriter, status int, body []byte) {
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// act does the work of one request.
func (s *Server) act(o *operation, serve func(*Server, *call) reply, r *http.Request, body []byte, fault Fault) ([]byte, int, http.Header) {
	header := make(http.Header)
	now := s.clock.Now()
	isWrite := o.method != http.MethodGet
	secret := strings.TrimPrefix(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), "token ")
	c := &call{Request: r, now: now, body: body}
	plain := func(status int, message string) ([]byte, int, http.Header) {
		out, _ := json.Marshal(map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)})
		return out, status, header
	}
	if isApp(o.id) {
		app := s.appOf(secret)
		if app == nil {
			return plain(http.StatusUnauthorized, "A JSON web token could not be decoded")
		}
		c.who = app.bot
	} else if c.who = s.actor(secret); c.who == nil {
		return plain(http.StatusUnauthorized, "Bad credentials")
	}
	if name := r.PathValue("repo"); name != "" {
		c.repo = s.repos[r.PathValue("owner")+"/"+name]
		if t := s.tokens[secret]; c.repo == nil || t != nil && len(t.repos) > 0 && !slices.Contains(t.repos, c.repo.Name) {
			return plain(http.StatusNotFound, "Not Found")
		}
	}
	if t := s.tokens[secret]; t != nil {
		if t.scopes != nil {
			header.Set("X-OAuth-Scopes", *t.scopes)
		}
		if group, _, _ := strings.Cut(o.id, "/"); slices.Contains(t.denied, group) {
			return plain(http.StatusForbidden, "Resource not accessible by personal access token")
		}
	}
	w := s.window(c.who.Login, now)
	limits := func() {
		header.Set("X-RateLimit-Limit", strconv.Itoa(PrimaryLimit))
		header.Set("X-RateLimit-Remaining", strconv.Itoa(max(PrimaryLimit-w.used, 0)))
		header.Set("X-RateLimit-Used", strconv.Itoa(w.used))
		header.Set("X-RateLimit-Reset", strconv.FormatInt(w.began.Add(time.Hour).Unix(), 10))
		header.Set("X-RateLimit-Resource", "core")
		header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	if w.used >= PrimaryLimit {
		limits()
		s.limited++
		return plain(http.StatusForbidden, "API rate limit exceeded for user ID "+strconv.FormatInt(c.who.ID, 10)+".")
	}
	w.used++
	limits()
	if isWrite && !isApp(o.id) && !s.mayCreate(c.who.Login, now) {
		s.limited++
		header.Set("Retry-After", strconv.Itoa(secondaryWaitSecs))
		return plain(http.StatusForbidden, "You have exceeded a secondary rate limit and have been temporarily blocked from content creation. Please retry your request again later.")
	}
	if fault.Status != 0 {
		if fault.RetryAfter > 0 {
			header.Set("Retry-After", strconv.Itoa(int(fault.RetryAfter.Seconds())))
			return plain(fault.Status, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.")
		}
		if fault.Status >= 500 {
			return []byte("<html><body>Unicorn!</body></html>"), fault.Status, header
		}
		return plain(fault.Status, cmpOr(fault.Message, "trouble"))
	}
	if fault.Garbage != nil {
		return fault.Garbage, http.StatusOK, header
	}
	if isWrite && !isApp(o.id) {
		s.writes++
	}
	answer := serve(s, c)
	out, err := o.answer(answer.status, answer.body)
	if err != nil {
		s.violations = append(s.violations, fmt.Sprintf("the stand-in's own answer %d to %s: %v", answer.status, o.id, err))
		return plain(http.StatusInternalServerError, "the stand-in is wrong")
	}
	if answer.link != "" {
		header.Set("Link", answer.link)
	}
	if !isWrite && answer.status == http.StatusOK {
		tag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(append(out, answer.link...)))
		header.Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.used-- // it is free
			limits()
			return nil, http.StatusNotModified, header
		}
	}
	return out, answer.status, header
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s *Server) window(login string, now time.Time) *window {
	w := s.requests[login]
	if w == nil || now.Sub(w.began) >= time.Hour {
		w = &window{began: now}
		s.requests[login] = w
	}
	return w
}

// mayCreate counts what creates, and holds it against the secondary limits.
func (s *Server) mayCreate(login string, now time.Time) bool {
	kept := slices.DeleteFunc(s.creations[login], func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	minute := 0
	for _, t := range kept {
		if now.Sub(t) < time.Minute {
			minute++
		}
	}
	ok := minute < CreationsAMinute && len(kept) < CreationsAnHour
	if ok {
		kept = append(kept, now)
	}
	s.creations[login] = kept
	return ok
}

// fields reads a request's body, which has been checked.
func (c *call) fields() map[string]any {
	var m map[string]any
	_ = json.Unmarshal(c.body, &m)
	return m
}

func (c *call) number(name string) int {
	n, _ := strconv.Atoi(c.PathValue(name))
	return n
}

func notFound() reply {
	return reply{status: http.StatusNotFound, body: map[string]any{"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}}
}

// invalid is GitHub's answer to what it cannot take.
func invalid(resource, field, message string) reply {
	e := map[string]any{"resource": resource, "code": "custom", "message": message}
	if field != "" {
		e["field"], e["code"] = field, "invalid"
	}
	return reply{status: http.StatusUnprocessableEntity, body: map[string]any{
		"message": "Validation Failed", "documentation_url": "https://docs.github.com/rest", "status": "422", "errors": []any{e},
	}}
}

// page cuts a list, and links to the next part.
func page[T any](c *call, all []T, render func(T) any) reply {
	q := c.URL.Query()
	size, number := 30, 1
	if n, err := strconv.Atoi(q.Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	if n, err := strconv.Atoi(q.Get("page")); err == nil && n > 0 {
		number = n
	}
	from := min((number-1)*size, len(all))
	to := min(from+size, len(all))
	out := make([]any, 0, to-from)
	for _, item := range all[from:to] {
		out = append(out, render(item))
	}
	r := reply{status: http.StatusOK, body: out}
	if to < len(all) {
		q.Set("page", strconv.Itoa(number+1))
		u := url.URL{Scheme: "http", Host: c.Host, Path: "/api/v3" + c.URL.Path, RawQuery: q.Encode()}
		r.link = fmt.Sprintf(`<%s>; rel="next"`, u.String())
	}
	return r
}

func mapsKeys[K comparable, V any](m map[K]V) func(func(K) bool) { return maps.Keys(m) }

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// Repository makes a repository with a first commit.
func (s *Server) Repository(fullName string, files map[string]string) *Repo {
	owner, name, _ := strings.Cut(fullName, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Repo{
		s: s, Owner: owner, Name: name, Default: "main", id: s.next(), dir: filepath.Join(s.dir, owner, name+".git"),
		issues: make(map[int]*issue), labels: make(map[string]string), members: make(map[string]bool), readers: make(map[string]bool), heads: make(map[string]string),
		checks: make(map[string][]*check), statuses: make(map[string]map[string]string),
	}
	s.user(owner)
	mkdir(s.t, r.dir)
	r.init(r.Default)
	entries := make(map[string]Entry)
	for path, content := range files {
		entries[path] = Entry{Content: content}
	}
	r.must(nil, "", "update-ref", "refs/heads/main", r.commit("", owner, "first", s.clock.Now(), entries))
	r.heads = r.Branches()
	s.repos[fullName] = r
	return r
}

// Wait lets what the stand-in sends arrive.
func (s *Server) Wait(ctx context.Context) error { return s.hooks.wait(ctx) }
