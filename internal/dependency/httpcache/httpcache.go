// Package httpcache asks registries: many at once, each thing once, with bounds on size, time and tries,
// and with a memory of what they said. What is kept of an answer is not the answer, which may have many
// megabytes, but what was distilled from it.
package httpcache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/version"
)

// What holds where Options says nothing.
const (
	DefaultFresh    = 15 * time.Minute
	DefaultInFlight = 96
	DefaultIdle     = 20 * time.Second
	DefaultLimit    = 64 << 20

	maxTries  = 4
	maxWait   = 30 * time.Second // that a server may make us wait before one more try
	maxConns  = 16               // to one host
	givenUpAt = 8                // failures of a host, with nothing between them, after which it is not asked any more
	longest   = 2 * time.Minute  // for one answer, however steadily it drips
)

// ErrMissing says that the server has no such thing.
var ErrMissing = errors.New("the server has no such thing")

// Options of a Client. All may be left out.
type Options struct {
	Store   Store
	Fresh   time.Duration // how long an answer is taken without being asked again
	Trusted []string      // hosts, or host:port, that the operator's configuration names
	// InFlight is how many requests are under way at once.
	InFlight int
	// Idle is how long a server may be silent.
	Idle time.Duration
	// Pause is the first pause before another try; it doubles.
	Pause time.Duration
	Now   func() time.Time
	TLS   *tls.Config
}

// Request is one thing to be asked for.
type Request struct {
	URL    string
	Accept string
	// Authorization is sent to the URL's host only, and kept nowhere.
	Authorization string
	// Body makes it a POST of JSON: a question whose answer can be kept like that of a GET.
	Body  []byte
	Limit int64 // of the answer, after decompression
	// Form names what Distil makes of an answer, and its version: another form is another entry.
	Form string
	// Enough says of what was distilled before, however long ago, that it need not be asked for again:
	// the time of a release never changes once it is known. Nil: freshness decides.
	Enough func(kept []byte) bool
	// Distil reads an answer and returns what is to be kept of it. An error of it is about the answer.
	Distil func(io.Reader) ([]byte, error)

	ask func(context.Context) ([]byte, error) // instead of all this
}

// Always is the Enough of what never changes.
func Always([]byte) bool { return true }

// Client asks. It is safe for use by several goroutines.
type Client struct {
	o       Options
	http    *http.Client
	trusted map[string]bool
	flights singleflight.Group
	slots   chan struct{}

	mu       sync.Mutex
	failures map[string]int // of a host, since it last answered

	asked, kept atomic.Int64
}

// New returns a Client.
func New(o Options) *Client {
	o.Fresh, o.Idle, o.Pause = cmp.Or(o.Fresh, DefaultFresh), cmp.Or(o.Idle, DefaultIdle), cmp.Or(o.Pause, 250*time.Millisecond)
	o.InFlight = cmp.Or(o.InFlight, DefaultInFlight)
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Client{o: o, trusted: make(map[string]bool), slots: make(chan struct{}, o.InFlight), failures: make(map[string]int)}
	for _, host := range o.Trusted {
		c.trusted[host] = true
	}
	// A proxy that the environment names is the operator's.
	for _, scheme := range []string{"https", "http"} {
		if p, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: scheme, Host: "example.com"}}); err == nil && p != nil {
			c.trusted[p.Host], c.trusted[p.Hostname()] = true, true
		}
	}
	c.http = &http.Client{CheckRedirect: c.redirect, Transport: c.transport()}
	return c
}

// Transport is the way to the registries, with all its checks, for libraries that bring a client of their
// own. Each answer over it is bounded.
func (c *Client) Transport(limit int64) http.RoundTripper { return limited{c, limit} }

type limited struct {
	c     *Client
	limit int64
}

func (t limited) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	silence := time.AfterFunc(t.c.o.Idle, cancel)
	t.c.asked.Add(1)
	response, err := t.c.http.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		silence.Stop()
		cancel()
		return nil, err //nolint:wrapcheck // a transport hands on what it gets
	}
	response.Body = body{&bounded{from: response.Body, left: t.limit, silence: silence, idle: t.c.o.Idle}, response.Body, func() { silence.Stop(); cancel() }}
	return response, nil
}

// body is a bounded one that lets go of its request when it is closed.
type body struct {
	io.Reader
	closer io.Closer
	done   func()
}

func (b body) Close() error {
	defer b.done()
	return b.closer.Close() //nolint:wrapcheck // a transport hands on what it gets
}

func (c *Client) transport() http.RoundTripper {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            c.dial,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    c.o.Idle,
		ResponseHeaderTimeout:  c.o.Idle,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    maxConns,
		MaxConnsPerHost:        maxConns, // over HTTP/2 one serves all; without a bound, each request would dial at first
		IdleConnTimeout:        time.Minute,
		// Many answers come at once: what waits to be read is bounded for each, or the memory is not.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 512 << 10, MaxReceiveBufferPerConnection: 32 << 20, SendPingTimeout: c.o.Idle, PingTimeout: c.o.Idle},
	}
	if c.o.TLS != nil {
		t.TLSClientConfig = c.o.TLS.Clone()
	}
	return checked{c, t}
}

// checked refuses what may not be asked, whoever asks.
type checked struct {
	c *Client
	*http.Transport
}

func (t checked) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.c.checkURL(r.URL); err != nil {
		return nil, err
	}
	return t.Transport.RoundTrip(r)
}

// Stats say how many requests went out, and how many answers were taken from the Store unasked.
func (c *Client) Stats() (asked, kept int64) { return c.asked.Load(), c.kept.Load() }

// Now is the time by which answers are fresh.
func (c *Client) Now() time.Time { return c.o.Now() }

// Get returns what was distilled from the answer. Who asks for the same at the same time shares one
// request. ErrMissing is an answer, and kept like one.
func (c *Client) Get(ctx context.Context, r Request) ([]byte, error) {
	key := r.key()
	// One who gives up must not take the answer away from the others, so the flight has its own end.
	flight := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxTries*longest)
		defer cancel()
		return c.get(ctx, key, r)
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s: %w", host(r.URL), context.Cause(ctx))
	case result := <-flight:
		data, _ := result.Val.([]byte)
		return data, result.Err
	}
}

// Remember is Get for what a library asks for by itself, over Transport: the result of ask is kept under the
// name, which must begin with the host.
func (c *Client) Remember(ctx context.Context, name string, enough func([]byte) bool, ask func(context.Context) ([]byte, error)) ([]byte, error) {
	return c.Get(ctx, Request{URL: name, Form: "remembered 1", Enough: enough, ask: ask})
}

func (r Request) key() string {
	h := sha256.New()
	for _, part := range []string{r.URL, r.Accept, r.Form, r.Authorization, string(r.Body)} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func host(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Host
	}
	return "a host"
}

func (c *Client) get(ctx context.Context, key string, r Request) ([]byte, error) {
	var old *entry
	if c.o.Store != nil {
		if data, err := c.o.Store.Get(ctx, key); err == nil && data != nil { // a cache that cannot be read is an empty one
			old = decode(data, r.URL)
		}
	}
	if old != nil && (r.Enough != nil && old.Status == http.StatusOK && r.Enough(old.payload) || c.o.Now().Sub(old.Asked).Abs() < c.o.Fresh) {
		c.kept.Add(1)
		return old.answer()
	}
	var fresh *entry
	var err error
	if r.ask != nil {
		fresh, err = c.byLibrary(ctx, r)
	} else {
		fresh, err = c.ask(ctx, r, old)
	}
	if err != nil {
		return nil, err
	}
	if c.o.Store != nil && len(fresh.payload) < maxEntry/2 {
		_ = c.o.Store.Put(ctx, key, fresh.encode()) // not kept is asked again
	}
	return fresh.answer()
}

func (e *entry) answer() ([]byte, error) {
	switch e.Status {
	case http.StatusOK:
		return e.payload, nil
	case http.StatusNotFound:
		return nil, ErrMissing
	}
	return nil, failure.New(failure.RegistryRefuses, "%s refuses to answer (%d)", host(e.URL), e.Status).
		Do("configure a login for it where Upkeep runs, or ask its operator")
}

// byLibrary lets a library ask.
func (c *Client) byLibrary(ctx context.Context, r Request) (*entry, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a turn: %w", context.Cause(ctx))
	}
	e := &entry{URL: r.URL, Status: http.StatusOK, Asked: c.o.Now().UTC()}
	var err error
	if e.payload, err = r.ask(ctx); errors.Is(err, ErrMissing) {
		e.Status, err = http.StatusNotFound, nil
	}
	return e, err
}

// again is an answer after which one more try makes sense.
type again struct {
	error
	after time.Duration
}

func (a again) Unwrap() error { return a.error }

// ask asks until there is an answer, or no more tries make sense.
func (c *Client) ask(ctx context.Context, r Request, old *entry) (*entry, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, failure.New(failure.HostRefused, "%q is no URL", r.URL)
	}
	pause := c.o.Pause
	for try := 1; ; try++ {
		if c.givenUp(u.Host) {
			return nil, unreachable(u.Host, fmt.Errorf("it did not answer %d requests before", givenUpAt))
		}
		e, err := c.once(ctx, r, old)
		if f, ok := failure.As(err); ok && f.Code != failure.RegistrySilent {
			return nil, err // it has answered, or may not be asked
		}
		c.note(u.Host, err == nil)
		var more again
		if err == nil || !errors.As(err, &more) || try == maxTries || more.after > maxWait || ctx.Err() != nil {
			return e, err
		}
		wait := max(more.after, pause/2+rand.N(pause))
		pause *= 2
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

func (c *Client) givenUp(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures[host] >= givenUpAt
}

func (c *Client) note(host string, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered {
		delete(c.failures, host)
	} else {
		c.failures[host]++
	}
}

func unreachable(host string, cause error) error {
	return failure.New(failure.RegistrySilent, "%s does not answer", host).Because(cause).
		Do("see that it is up and can be reached from here, and try again")
}

// once sends one request and reads its answer.
func (c *Client) once(ctx context.Context, r Request, old *entry) (*entry, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a turn: %w", context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	silence := time.AfterFunc(c.o.Idle, cancel)
	defer silence.Stop()

	method, body := http.MethodGet, io.Reader(nil)
	if r.Body != nil {
		method, body = http.MethodPost, bytes.NewReader(r.Body)
	}
	request, err := http.NewRequestWithContext(ctx, method, r.URL, body)
	if err != nil {
		return nil, failure.New(failure.HostRefused, "%q is no URL", r.URL)
	}
	request.Header.Set("User-Agent", "upkeep/"+version.String())
	if r.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if r.Accept != "" {
		request.Header.Set("Accept", r.Accept)
	}
	if r.Authorization != "" {
		request.Header.Set("Authorization", r.Authorization)
	}
	if old == nil || old.Status != http.StatusOK {
		old = nil // nothing to compare with
	} else if old.ETag != "" {
		request.Header.Set("If-None-Match", old.ETag)
	} else if old.Modified != "" {
		request.Header.Set("If-Modified-Since", old.Modified)
	}
	c.asked.Add(1)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.broken(request.URL.Host, err)
	}
	defer func() { _ = response.Body.Close() }()
	return c.read(r, old, response, silence)
}

// broken is what a request that got no whole answer ends with.
func (c *Client) broken(host string, err error) error {
	if f, ok := failure.As(err); ok {
		return f
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // the URL may hold what is not to be shown
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return unreachable(host, fmt.Errorf("it was silent for %s", c.o.Idle)) // not tried again: it would take as long
	}
	return again{unreachable(host, err), 0}
}

// read makes an entry of an answer.
func (c *Client) read(r Request, old *entry, response *http.Response, silence *time.Timer) (*entry, error) {
	host := response.Request.URL.Host
	e := &entry{URL: r.URL, Status: http.StatusOK, Asked: c.o.Now().UTC(), ETag: response.Header.Get("ETag"), Modified: response.Header.Get("Last-Modified")}
	switch s := response.StatusCode; {
	case s == http.StatusNotModified && old != nil:
		e.ETag, e.Modified, e.Status, e.payload = cmp.Or(e.ETag, old.ETag), cmp.Or(e.Modified, old.Modified), http.StatusOK, old.payload
		return e, nil
	case s == http.StatusNotFound || s == http.StatusGone:
		e.Status = http.StatusNotFound
		return e, nil
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusPaymentRequired:
		e.Status = s // kept too: with another login it is another question
		return e, nil
	case s == http.StatusTooManyRequests || s >= http.StatusInternalServerError:
		return nil, again{unreachable(host, fmt.Errorf("it answers %d", s)), retryAfter(response.Header.Get("Retry-After"), c.o.Now())}
	case s != http.StatusOK:
		return nil, failure.New(failure.BadAnswer, "%s answers %d", host, s)
	}
	limit := cmp.Or(r.Limit, DefaultLimit)
	b := &bounded{from: response.Body, left: limit, silence: silence, idle: c.o.Idle}
	payload, err := r.Distil(b)
	switch {
	case b.left < 0:
		return nil, failure.New(failure.BadAnswer, "%s answers with more than %d MB", host, limit>>20)
	case b.broke != nil:
		return nil, c.broken(host, b.broke)
	case err != nil:
		if f, ok := failure.As(err); ok {
			return nil, f
		}
		return nil, failure.New(failure.BadAnswer, "%s answers what cannot be understood", host).Because(err)
	}
	e.payload = payload
	return e, nil
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil && seconds >= 0 && seconds < 1<<30 {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// ErrTooLarge ends the reading of an answer that has more than its limit.
var ErrTooLarge = errors.New("the answer is too large")

// bounded reads an answer up to a limit, and notes whether it was the connection that broke.
type bounded struct {
	from    io.Reader
	left    int64
	broke   error
	silence *time.Timer
	idle    time.Duration
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	n, err := b.from.Read(p)
	b.silence.Reset(b.idle)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.broke = err
	}
	return n, err //nolint:wrapcheck // io.EOF must stay what it is
}
