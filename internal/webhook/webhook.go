// Package webhook receives GitHub's webhooks. What it hands on is signed, and only a hint to look at once what
// would be looked at anyway: nothing in it is believed beyond which repository and branch it is about.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxBody   = 25 << 20 // GitHub sends no more
	maxHeader = 16 << 10
	atOnce    = 8     // bodies in memory
	remember  = 20000 // names of deliveries

	maxBranches = 20 // of one delivery
)

// Delivery is what a webhook is about.
type Delivery struct {
	ID         string
	Event      string
	Action     string
	Repository string // owner/name
	Default    string // its default branch
	// Branches are that of the pull request, the one that was pushed to, or those that have the commit which
	// was checked; none: GitHub does not say.
	Branches []string
}

// Options say how to receive.
type Options struct {
	Secret  func(context.Context) (string, error)
	Handle  func(context.Context, Delivery) error // an error: the delivery may come again
	Timeout time.Duration                         // for a whole request; 15 s when zero
}

// New returns the handler.
func New(o Options) http.Handler {
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	return &handler{Options: o, room: make(chan struct{}, atOnce), seen: newRecent(remember)}
}

// NewServer returns a server for the handler, which waits for nobody.
func NewServer(h http.Handler, timeout time.Duration) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: timeout, ReadTimeout: timeout, WriteTimeout: 2 * timeout, IdleTimeout: timeout, MaxHeaderBytes: maxHeader,
	}
}

type handler struct {
	Options
	room chan struct{}
	seen *recent
}

var (
	identifier = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
	event      = regexp.MustCompile(`^[a-z_]{1,64}$`)
)

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	status, text := h.receive(w, r)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

func (h *handler) receive(w http.ResponseWriter, r *http.Request) (int, string) {
	id, kind := r.Header.Get("X-GitHub-Delivery"), r.Header.Get("X-GitHub-Event")
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	claimed, err := hex.DecodeString(strings.TrimPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256="))
	switch {
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed, "send a POST"
	case media != "application/json":
		return http.StatusUnsupportedMediaType, "set the webhook's content type to application/json"
	case !strings.HasPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=") || err != nil || len(claimed) != sha256.Size:
		return http.StatusUnauthorized, "there is no signature; give the webhook a secret"
	case !identifier.MatchString(id) || !event.MatchString(kind):
		return http.StatusBadRequest, "this is no delivery of GitHub's"
	case r.ContentLength > maxBody:
		return http.StatusRequestEntityTooLarge, "the body is too large"
	}
	select {
	case h.room <- struct{}{}:
		defer func() { <-h.room }()
	default:
		return http.StatusServiceUnavailable, "too many at once"
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.Timeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, "the body is too large"
	case err != nil:
		return http.StatusRequestTimeout, "the body does not come"
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.Timeout)
	defer cancel()
	secret, err := h.Secret(ctx)
	if err != nil || secret == "" {
		return http.StatusServiceUnavailable, "the secret cannot be read"
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil), claimed) {
		return http.StatusUnauthorized, "the signature is not of this secret and body"
	}
	// The delivery's id is not signed: who has heard one could send it again under another.
	names := []string{"id " + id, "body " + string(claimed)}
	if !h.seen.add(names...) {
		return http.StatusConflict, "it was delivered before"
	}
	d, err := read(body)
	if err != nil {
		return http.StatusBadRequest, "the body is no JSON of GitHub's"
	}
	d.ID, d.Event = id, kind
	if kind == "ping" {
		return http.StatusOK, "pong"
	}
	if err := h.Handle(ctx, d); err != nil {
		h.seen.remove(names...) // GitHub's "Redeliver" has the same id
		return http.StatusServiceUnavailable, "it could not be handed on"
	}
	return http.StatusAccepted, "taken"
}

// read takes out of a payload what it is about.
func read(body []byte) (Delivery, error) {
	type named struct {
		Ref string
	}
	type pull struct{ Head named }
	type suite struct {
		Branch string `json:"head_branch"`
		Pulls  []pull `json:"pull_requests"`
	}
	var p struct {
		Action     string
		Ref        string
		Repository struct {
			FullName string `json:"full_name"`
			Default  string `json:"default_branch"`
		}
		Pull  pull `json:"pull_request"`
		Check struct {
			Suite suite  `json:"check_suite"`
			Pulls []pull `json:"pull_requests"`
		} `json:"check_run"`
		Suite    suite                   `json:"check_suite"`
		Branches []struct{ Name string } // of a status
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return Delivery{}, err
	}
	d := Delivery{Action: p.Action, Repository: p.Repository.FullName, Default: p.Repository.Default}
	add := func(names ...string) {
		for _, n := range names {
			if n != "" && len(d.Branches) < maxBranches && !slices.Contains(d.Branches, n) {
				d.Branches = append(d.Branches, n)
			}
		}
	}
	if branch, ok := strings.CutPrefix(p.Ref, "refs/heads/"); ok {
		add(branch)
	}
	add(p.Pull.Head.Ref, p.Check.Suite.Branch, p.Suite.Branch)
	for _, o := range slices.Concat(p.Check.Pulls, p.Check.Suite.Pulls, p.Suite.Pulls) {
		add(o.Head.Ref)
	}
	for _, b := range p.Branches {
		add(b.Name)
	}
	return d, nil
}

// recent remembers the last so many names.
type recent struct {
	mu    sync.Mutex
	ring  []string
	next  int
	names map[string]bool
}

func newRecent(n int) *recent { return &recent{ring: make([]string, n), names: make(map[string]bool)} }

// add remembers names, unless one of them is remembered already.
func (r *recent) add(names ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		if r.names[n] {
			return false
		}
	}
	for _, n := range names {
		delete(r.names, r.ring[r.next])
		r.ring[r.next], r.names[n] = n, true
		r.next = (r.next + 1) % len(r.ring)
	}
	return true
}

func (r *recent) remove(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		delete(r.names, n)
	}
}

// Serve serves until the context ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler, timeout time.Duration) error {
	s := NewServer(h, timeout)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		if s.Shutdown(stop) != nil {
			_ = s.Close()
		}
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended
	return nil
}
