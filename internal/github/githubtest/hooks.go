package githubtest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// events are the webhooks that the stand-in sends, as GitHub's description names them.
var events = []string{
	"push", "status", "check-run-completed", "check-suite-completed", "issue-comment-created",
	"pull-request-opened", "pull-request-closed", "pull-request-reopened", "pull-request-edited", "pull-request-synchronize",
}

// Delivery is a webhook that was sent, or is to be sent.
type Delivery struct {
	ID, Event string
	Payload   []byte
	Status    int // of its answer; 0: there was none
}

type hooks struct {
	mu     sync.Mutex
	url    string
	secret string
	queue  []Delivery
	sent   []Delivery
	wake   chan struct{}
	idle   chan struct{} // closed while nothing is to be sent
}

func (h *hooks) start(t testing.TB) {
	h.wake, h.idle = make(chan struct{}, 1), make(chan struct{})
	close(h.idle)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range h.wake {
			for h.sendNext() {
			}
		}
	}()
	t.Cleanup(func() {
		h.mu.Lock()
		h.queue, h.url = nil, ""
		h.mu.Unlock()
		close(h.wake)
		<-done
	})
}

// sendNext sends one, in the order in which they came.
func (h *hooks) sendNext() bool {
	h.mu.Lock()
	if len(h.queue) == 0 {
		select {
		case <-h.idle:
		default:
			close(h.idle)
		}
		h.mu.Unlock()
		return false
	}
	d, url, secret := h.queue[0], h.url, h.secret
	h.queue = h.queue[1:]
	h.mu.Unlock()
	d.Status = Send(url, secret, d)
	h.mu.Lock()
	h.sent = append(h.sent, d)
	h.mu.Unlock()
	return true
}

func (h *hooks) add(d Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.url == "" {
		return
	}
	h.queue = append(h.queue, d)
	select {
	case <-h.idle:
		h.idle = make(chan struct{})
	default:
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *hooks) wait(ctx context.Context) error {
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Webhook says where webhooks go, and by which secret they are signed.
func (s *Server) Webhook(url, secret string) {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	s.hooks.url, s.hooks.secret = url, secret
}

// Deliveries are those that were sent.
func (s *Server) Deliveries() []Delivery {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	return slices.Clone(s.hooks.sent)
}

// Sign is the signature of a payload.
func Sign(secret string, payload []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(payload)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

// NewRequest is the request of a delivery, which a test may then forge.
func NewRequest(url, secret string, d Delivery) *http.Request {
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(d.Payload))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "GitHub-Hookshot/standin")
	r.Header.Set("X-GitHub-Event", d.Event)
	r.Header.Set("X-GitHub-Delivery", d.ID)
	r.Header.Set("X-GitHub-Hook-ID", "1")
	r.Header.Set("X-Hub-Signature-256", Sign(secret, d.Payload))
	return r
}

// Send sends a delivery, also once more, and returns the status of the answer.
func Send(url, secret string, d Delivery) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := http.DefaultClient.Do(NewRequest(url, secret, d).WithContext(ctx))
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// event sends a webhook. Its payload is completed and checked as an answer is.
func (s *Server) event(event, described string, r *Repo, payload map[string]any, who *User) {
	repository := r.json()
	if event == "push" {
		repository["created_at"] = 1577836800 // a number here, and a text everywhere else
	}
	payload["repository"], payload["sender"] = repository, who.json()
	raw, err := complete(payloadSchema(s.doc, described), payload)
	if err != nil {
		s.violations = append(s.violations, fmt.Sprintf("the stand-in's own webhook %s: %v", described, err))
		return
	}
	id := s.next()
	s.hooks.add(Delivery{ID: fmt.Sprintf("%08x-242f-11e5-81e1-c7b6966d2516", id), Event: event, Payload: raw})
}

func payloadSchema(doc *openapi3.T, described string) *openapi3.Schema {
	return doc.Paths.Value(webhookPath + described).Post.RequestBody.Value.Content.Get("application/json").Schema.Value
}

func (s *Server) pullEvent(action string, r *Repo, i *issue, who *User, more ...any) {
	payload := map[string]any{"action": action, "number": i.number, "pull_request": r.pullJSON(i, true)}
	for n := 0; n+1 < len(more); n += 2 {
		payload[more[n].(string)] = more[n+1]
	}
	s.event("pull_request", "pull-request-"+strings.ReplaceAll(action, "_", "-"), r, payload, who)
}
