// Package lookuptest has what the tests of the datasources share: a real server, and the ways in which a
// registry can be hostile.
package lookuptest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Serve starts a server over TLS and HTTP/2, and returns its URL and a client that trusts it. The longest
// silence that the client bears is idle; zero is the usual one.
func Serve(t *testing.T, h http.Handler, idle time.Duration) (string, *httpcache.Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are given up are what is tested
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, trusting(t, s, httpcache.Options{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig, Idle: idle})
}

// ServePlain is Serve without TLS: what libraries expect of a registry on the loopback.
func ServePlain(t *testing.T, h http.Handler, idle time.Duration) (string, *httpcache.Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, trusting(t, s, httpcache.Options{Idle: idle})
}

func trusting(t *testing.T, s *httptest.Server, o httpcache.Options) *httpcache.Client {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	o.Trusted, o.Pause = []string{u.Host}, time.Millisecond
	return httpcache.New(o)
}

// Files serves answers by path; what is not among them is not there.
func Files(files map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		if r.URL.RawQuery != "" {
			path += "?" + r.URL.RawQuery
		}
		text, known := files[path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, text)
	}
}

// Hostile runs a test for each way in which a registry, of Serve or ServePlain, may answer badly: look asks
// the server at the URL, and must fail with a code that belongs to it.
func Hostile(t *testing.T, serve func(*testing.T, http.Handler, time.Duration) (string, *httpcache.Client), look func(t *testing.T, url string, client *httpcache.Client) error) {
	t.Helper()
	chunk := []byte(strings.Repeat("x", 1<<20))
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		codes  []failure.Code
		idle   time.Duration
	}{
		"404": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, []failure.Code{failure.UnknownPackage, failure.BadAnswer}, 0},
		"403": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, []failure.Code{failure.RegistryRefuses, failure.UnknownPackage}, 0},
		"429": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, []failure.Code{failure.RegistrySilent}, 0},
		"500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, []failure.Code{failure.RegistrySilent}, 0},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "\x00\xff<html>{[\x1b[2J")
		}, []failure.Code{failure.BadAnswer, failure.UnknownPackage}, 0},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, []failure.Code{failure.BadAnswer}, 0},
		"nothing": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []failure.Code{failure.RegistrySilent}, 200 * time.Millisecond},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "v1.0.0\n")
			panic(http.ErrAbortHandler)
		}, []failure.Code{failure.RegistrySilent}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			url, client := serve(t, c.answer, c.idle)
			err := look(t, url, client)
			f, ok := failure.As(err)
			require.True(t, ok, "%v", err)
			require.Contains(t, c.codes, f.Code, "%v", err)
		})
	}
}

// Online skips the test if the URL cannot be reached: a test of real registries has a twin of recorded
// answers that never is.
func Online(t *testing.T, url string) {
	t.Helper()
	c := http.Client{Timeout: 20 * time.Second}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := c.Do(r)
	if err != nil {
		t.Skipf("this test asks %s, which cannot be reached from here", r.URL.Host)
	}
	_ = response.Body.Close()
}
