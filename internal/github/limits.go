package github

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
)

// GitHub's limits on what creates content, and what it asks of a good client: to create one thing after the
// other, a second apart.
const (
	perMinute = 80
	perHour   = 500
	apart     = time.Second
	// longest is for how long a request waits for its turn by itself. Whoever must wait longer is told so.
	longest = 90 * time.Second
	// secondary is how long to wait when GitHub says that it is too much, but not for how long.
	secondary = time.Minute
)

// Clock is the time that pacing goes by.
type Clock interface {
	Now() time.Time
	Sleep(ctx context.Context, d time.Duration) error
}

type systemClock struct{}

// Machine is the machine's time, which a test may let go faster.
var Machine Clock = systemClock{}

func (systemClock) Now() time.Time { return fault.Now() }

func (systemClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d / time.Duration(fault.Times()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Limits keeps one identity within GitHub's limits. It is shared by all clients of that identity in a process;
// other processes of the same identity are met by obeying what GitHub answers.
type Limits struct {
	clock   Clock
	writing chan struct{} // held by the one that writes

	mu      sync.Mutex
	written []time.Time // when each was answered, within the last hour
	until   time.Time   // nothing is asked before: GitHub said so
	why     string
}

// NewLimits returns limits by a clock; nil: the machine's.
func NewLimits(clock Clock) *Limits {
	if clock == nil {
		clock = Machine
	}
	return &Limits{clock: clock, writing: make(chan struct{}, 1)}
}

// limited is the transport that obeys the limits.
type limited struct {
	limits *Limits
	next   http.RoundTripper
}

func (t limited) RoundTrip(r *http.Request) (*http.Response, error) {
	l, write := t.limits, isWrite(r)
	if write {
		select {
		case l.writing <- struct{}{}:
			defer func() { <-l.writing }()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if err := l.turn(r.Context()); err != nil {
			return nil, err
		}
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	if write {
		defer l.wrote()
	}
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := l.learn(answer); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// isWrite says whether a request may create content. One for a token does not.
func isWrite(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasSuffix(r.URL.Path, "/access_tokens")
}

// open refuses what GitHub would refuse: each request during a limit makes it longer.
func (l *Limits) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed()
}

func (l *Limits) closed() error {
	if rest := l.until.Sub(l.clock.Now()); rest > 0 {
		return failure.New(failure.GitHubLimited, "GitHub wants to be left alone for %s: %s", rest.Round(time.Second), l.why).
			Do("nothing: it goes on by itself").Wait(rest / time.Duration(fault.Times()))
	}
	return nil
}

// turn waits until one more thing may be written.
func (l *Limits) turn(ctx context.Context) error {
	for {
		l.mu.Lock()
		now := l.clock.Now()
		l.written = slices.DeleteFunc(l.written, func(t time.Time) bool { return now.Sub(t) >= time.Hour })
		wait := l.wait(now)
		l.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		if wait > longest {
			return failure.New(failure.GitHubLimited, "%d things were written to GitHub within an hour, and it allows no more", perHour).
				Do("nothing: it goes on by itself").Wait(wait / time.Duration(fault.Times()))
		}
		if err := l.clock.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// wrote counts a write at its end. GitHub counts it when it arrives, at some time before: from its beginning, one
// that was long under way would make the next too early for GitHub.
func (l *Limits) wrote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = append(l.written, l.clock.Now())
}

// wait is how long the next write must wait.
func (l *Limits) wait(now time.Time) time.Duration {
	n := len(l.written)
	if n == 0 {
		return 0
	}
	wait := apart - now.Sub(l.written[n-1])
	if n >= perMinute {
		wait = max(wait, time.Minute-now.Sub(l.written[n-perMinute]))
	}
	if n >= perHour {
		wait = max(wait, time.Hour-now.Sub(l.written[n-perHour]))
	}
	return wait
}

// learn takes a limit from an answer. An answer that is a limit is an error; others lose what GitHub says of
// its limits, which the library would obey by the machine's clock.
func (l *Limits) learn(answer *http.Response) error {
	h := answer.Header
	remaining, reset := h.Get("X-RateLimit-Remaining"), h.Get("X-RateLimit-Reset")
	core := h.Get("X-RateLimit-Resource") == "" || h.Get("X-RateLimit-Resource") == "core"
	for name := range h {
		if strings.HasPrefix(name, "X-Ratelimit-") {
			h.Del(name)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if at, err := strconv.ParseInt(reset, 10, 64); err == nil && remaining == "0" && core {
		l.hold(time.Unix(at, 0), now, "its hourly limit is used up")
	}
	refused := answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusTooManyRequests
	if !refused {
		return nil
	}
	switch seconds, err := strconv.Atoi(h.Get("Retry-After")); {
	case err == nil && seconds >= 0:
		l.hold(now.Add(time.Duration(seconds)*time.Second), now, "its secondary limit is reached")
	case remaining == "0":
	case answer.StatusCode == http.StatusTooManyRequests || saysLimit(answer):
		l.hold(now.Add(secondary), now, "its secondary limit is reached")
	default:
		return nil // forbidden for another reason
	}
	if err := l.closed(); err != nil {
		return err
	}
	return failure.New(failure.GitHubLimited, "GitHub says that a limit is reached").Do("nothing: it goes on by itself").Wait(time.Second)
}

// hold lets nothing through before a moment. A server that names one out of all bounds is asked again after two hours.
func (l *Limits) hold(until, now time.Time, why string) {
	if most := now.Add(2 * time.Hour); until.After(most) {
		until = most
	}
	if until.After(l.until) {
		l.until, l.why = until, why
	}
}

// saysLimit reads the message of a refusal, and puts it back.
func saysLimit(answer *http.Response) bool {
	data, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	rest := answer.Body
	answer.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), rest), rest}
	var said struct{ Message string }
	return err == nil && json.Unmarshal(data, &said) == nil && strings.Contains(strings.ToLower(said.Message), "rate limit")
}
