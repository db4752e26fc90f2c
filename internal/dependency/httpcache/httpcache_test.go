package httpcache

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// registry is a real server over TLS and HTTP/2.
func registry(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are given up are what is tested here
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// client trusts the server's host and certificate.
func client(t *testing.T, s *httptest.Server, o Options) *Client {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	o.Trusted = append(o.Trusted, u.Host)
	o.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig
	if o.Pause == 0 {
		o.Pause = time.Millisecond
	}
	return New(o)
}

func whole(url string) Request { return Request{URL: url, Form: "test", Distil: io.ReadAll} }

// memory is a Store.
type memory struct {
	sync.Mutex
	m map[string][]byte
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.Lock()
	defer m.Unlock()
	return m.m[key], nil
}

func (m *memory) Put(_ context.Context, key string, data []byte) error {
	m.Lock()
	defer m.Unlock()
	if m.m == nil {
		m.m = make(map[string][]byte)
	}
	m.m[key] = data
	return nil
}

func TestManyAtOnceOverHTTP2AndEachThingOnce(t *testing.T) {
	var asked, under, most atomic.Int64
	all := make(chan struct{})
	s := registry(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
			return
		}
		asked.Add(1)
		if n := under.Add(1); n == 64 {
			close(all)
		}
		most.Store(max(most.Load(), under.Load()))
		<-all // answers only once 64 requests are under way
		under.Add(-1)
		_, _ = io.WriteString(w, r.URL.Path)
	})
	c := client(t, s, Options{})
	var wg sync.WaitGroup
	for i := range 256 {
		wg.Go(func() {
			path := fmt.Sprintf("/%d", i%64)
			data, err := c.Get(t.Context(), whole(s.URL+path))
			if err != nil || string(data) != path {
				t.Errorf("%s: %q, %v", path, data, err)
			}
		})
	}
	wg.Wait()
	require.GreaterOrEqual(t, most.Load(), int64(64))
	require.LessOrEqual(t, asked.Load(), int64(256))
}

func TestOneFlightForWhoAsksTheSame(t *testing.T) {
	var asked atomic.Int64
	begun, go_ := make(chan struct{}), make(chan struct{})
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			close(begun)
		}
		<-go_
		_, _ = io.WriteString(w, "x")
	})
	c := client(t, s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := c.Get(ctx, whole(s.URL)); first <- err }()
	<-begun
	second := make(chan error, 1)
	go func() { _, err := c.Get(t.Context(), whole(s.URL)); second <- err }()
	cancel() // who began it gives up, and takes nothing away from the other
	require.ErrorIs(t, <-first, context.Canceled)
	close(go_)
	require.NoError(t, <-second)
	require.LessOrEqual(t, asked.Load(), int64(2))
}

func TestAnAnswerIsKeptWhileItIsFreshAndThenAskedForByItsETag(t *testing.T) {
	var full, same atomic.Int64
	s := registry(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			same.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		full.Add(1)
		_, _ = io.WriteString(w, "x")
	})
	now := time.Now()
	folder, err := OpenFolder(filepath.Join(t.TempDir(), "a", "b"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = folder.Close() })
	get := func() {
		t.Helper()
		c := client(t, s, Options{Store: folder, Now: func() time.Time { return now }}) // another process
		data, err := c.Get(t.Context(), whole(s.URL))
		require.NoError(t, err)
		require.Equal(t, "x", string(data))
	}
	get()
	get()
	require.EqualValues(t, 1, full.Load())
	require.Zero(t, same.Load())
	now = now.Add(DefaultFresh)
	get()
	get()
	require.EqualValues(t, 1, full.Load(), "a body was read again")
	require.EqualValues(t, 1, same.Load(), "what was confirmed is fresh again")

	// A file that is broken is no answer.
	require.NoError(t, filepath.WalkDir(folder.root.Name(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, append(data[:len(data)-1], 'y'), 0o600)
	}))
	get()
	require.EqualValues(t, 2, full.Load())
}

func TestWhatIsNotThereIsRememberedToo(t *testing.T) {
	var asked atomic.Int64
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	})
	c := client(t, s, Options{Store: &memory{}})
	for range 3 {
		_, err := c.Get(t.Context(), whole(s.URL))
		require.ErrorIs(t, err, ErrMissing)
	}
	require.EqualValues(t, 1, asked.Load())
}

func TestWhatNeverChangesIsNotAskedAgain(t *testing.T) {
	var asked atomic.Int64
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, "x")
	})
	now := time.Now()
	c := client(t, s, Options{Store: &memory{}, Now: func() time.Time { return now }})
	r := whole(s.URL)
	r.Enough = Always
	for range 3 {
		_, err := c.Get(t.Context(), r)
		require.NoError(t, err)
		now = now.Add(1000 * time.Hour)
	}
	require.EqualValues(t, 1, asked.Load())
}

func TestHostileAnswersEndInAClearFailure(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	endless := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   failure.Code
		says   string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, failure.RegistrySilent, "it answers 500"},
		"429": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, failure.RegistrySilent, "it answers 429"},
		"429 long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
		}, failure.RegistrySilent, "it answers 429"},
		"401":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, failure.RegistryRefuses, "configure a login"},
		"teapot": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) }, failure.BadAnswer, "answers 418"},
		"100 MB": {func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				if _, err := w.Write(endless); err != nil {
					return
				}
			}
		}, failure.BadAnswer, "more than 8 MB"},
		"bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 100 {
				if _, err := z.Write(endless); err != nil {
					return
				}
			}
			_ = z.Close()
		}, failure.BadAnswer, "more than 8 MB"},
		"nothing": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, failure.RegistrySilent, "silent"},
		"half": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("begun"))
			w.(http.Flusher).Flush()
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, failure.RegistrySilent, "silent"},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("begun"))
			panic(http.ErrAbortHandler)
		}, failure.RegistrySilent, "does not answer"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, failure.BadAnswer, "redirects"},
		"to inside": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/latest/meta-data", http.StatusFound)
		}, failure.HostRefused, "not asked"},
		"to plain": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusFound)
		}, failure.HostRefused, "not https"},
		"to a file": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, failure.HostRefused, "not asked"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registry(t, c.answer)
			idle := time.Minute
			if c.says == "silent" {
				idle = 300 * time.Millisecond
			}
			cl := client(t, s, Options{Idle: idle})
			r := whole(s.URL)
			r.Limit = 8 << 20
			_, err := cl.Get(t.Context(), r)
			require.True(t, failure.Is(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
			asked, _ := cl.Stats()
			require.LessOrEqual(t, asked, int64(maxTries))
		})
	}
}

func TestAServerThatIsBusyIsAskedAgain(t *testing.T) {
	var asked atomic.Int64
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		case 3:
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.WriteString(w, "x")
		}
	})
	data, err := client(t, s, Options{}).Get(t.Context(), whole(s.URL))
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
}

func TestAHostThatNeverAnswersIsGivenUp(t *testing.T) {
	var asked atomic.Int64
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	})
	c := client(t, s, Options{})
	for i := range 100 {
		_, err := c.Get(t.Context(), whole(fmt.Sprint(s.URL, "/", i)))
		require.True(t, failure.Is(err, failure.RegistrySilent), "%v", err)
	}
	require.EqualValues(t, givenUpAt, asked.Load())
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, 7*time.Second, retryAfter("7", now))
	require.Equal(t, time.Minute, retryAfter(now.Add(time.Minute).Format(http.TimeFormat), now))
	for _, header := range []string{"", "-1", "soon", now.Add(-time.Minute).Format(http.TimeFormat), "99999999999999999999"} {
		require.Zero(t, retryAfter(header, now), header)
	}
}

func TestHostsThatAFileNames(t *testing.T) {
	c := New(Options{Trusted: []string{"registry.internal:5000", "10.0.0.7"}})
	for raw, allowed := range map[string]bool{
		"https://ghcr.io/v2/":                 true,
		"https://registry.example.com:8443/":  true,
		"https://[2606:4700::1111]/":          true,
		"http://ghcr.io/v2/":                  false,
		"https://localhost/":                  false,
		"https://a.localhost./":               false,
		"https://postgres/":                   false,
		"https://127.0.0.1/":                  false,
		"https://[::1]/":                      false,
		"https://[::ffff:127.0.0.1]/":         false,
		"https://10.0.0.8/":                   false,
		"https://169.254.169.254/":            false,
		"https://[fd00::1]/":                  false,
		"https://[64:ff9b::a9fe:a9fe]/":       false,
		"https://0.0.0.0/":                    false,
		"https://example.com:22/":             false,
		"https://user:secret@example.com/":    false,
		"ftp://example.com/":                  false,
		"file:///etc/passwd":                  false,
		"http://registry.internal:5000/":      true,
		"https://registry.internal:5000/":     true,
		"http://10.0.0.7/":                    true,
		"gopher://registry.internal:5000/":    false,
		"http://registry.internal:5001/":      false,
		"https://registry.internal.evil:5000": true, // another host, and checked by its address
	} {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		err = c.checkURL(u)
		require.Equal(t, allowed, err == nil, "%s: %v", raw, err)
		if err != nil {
			require.NotContains(t, err.Error(), "secret")
		}
	}
	for _, a := range []string{"0.1.2.3", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "fe80::1", "::", "2002:7f00:1::", "ff02::1", "192.168.1.1", "172.16.0.1"} {
		require.True(t, Internal(netip.MustParseAddr(a)), a)
	}
	require.False(t, Internal(netip.MustParseAddr("203.0.113.80")))
	require.False(t, Internal(netip.MustParseAddr("1.1.1.1")))
}

// A name that was harmless when it was checked, and leads inside when it is dialled.
func TestAnAddressIsCheckedWhenItIsDialled(t *testing.T) {
	var asked atomic.Bool
	s := registry(t, func(http.ResponseWriter, *http.Request) { asked.Store(true) })
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	c := New(Options{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	_, err = c.dial(t.Context(), "tcp", "localhost:"+u.Port())
	require.True(t, failure.Is(err, failure.HostRefused), "%v", err)
	require.False(t, asked.Load())
}

func TestALoginGoesToNobodyElse(t *testing.T) {
	var seen atomic.Value
	other := registry(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "x")
	})
	s := registry(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	o, err := url.Parse(other.URL)
	require.NoError(t, err)
	c := client(t, s, Options{Trusted: []string{"localhost:" + o.Port()}})
	c.o.TLS = c.o.TLS.Clone()
	r := whole(s.URL)
	r.Authorization = "Bearer secret"
	_, err = c.Get(t.Context(), r)
	if err == nil {
		require.Equal(t, "", seen.Load())
	} else {
		require.NotContains(t, err.Error(), "secret") // the certificate may not be of that name
	}
	require.NotEqual(t, "Bearer secret", seen.Load())
}

func TestOldAnswersAreTidiedAwayOnceADay(t *testing.T) {
	folder, err := OpenFolder(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = folder.Close() })
	require.NoError(t, folder.Put(t.Context(), "aa11", []byte("x")))
	now := time.Now()
	require.NoError(t, folder.Tidy(now, time.Hour))
	data, err := folder.Get(t.Context(), "aa11")
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
	require.NoError(t, folder.Tidy(now.Add(2*time.Hour), time.Hour), "not yet")
	data, err = folder.Get(t.Context(), "aa11")
	require.NoError(t, err)
	require.NotNil(t, data)
	require.NoError(t, folder.Tidy(now.Add(25*time.Hour), time.Hour))
	data, err = folder.Get(t.Context(), "aa11")
	require.NoError(t, err)
	require.Nil(t, data)
}

func TestAnswersInAnObjectStore(t *testing.T) {
	store, err := objstore.Open(t.Context(), "file://"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	o := Objects{store, "lookups/"}
	data, err := o.Get(t.Context(), "aa11")
	require.NoError(t, err)
	require.Nil(t, data)
	for _, text := range []string{"x", "y"} {
		require.NoError(t, o.Put(t.Context(), "aa11", []byte(text)))
		data, err = o.Get(t.Context(), "aa11")
		require.NoError(t, err)
		require.Equal(t, text, string(data))
	}
}

func TestALibraryAsksOverTheSameChecks(t *testing.T) {
	s := registry(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("x"), 1000)) })
	c := client(t, s, Options{})
	h := http.Client{Transport: c.Transport(100)}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	require.NoError(t, err)
	response, err := h.Do(r)
	require.NoError(t, err)
	_, err = io.ReadAll(response.Body)
	require.ErrorIs(t, err, ErrTooLarge)
	require.NoError(t, response.Body.Close())
	r, err = http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:1/", nil)
	require.NoError(t, err)
	_, err = h.Do(r) //nolint:bodyclose // there is none
	require.True(t, failure.Is(err, failure.HostRefused), "%v", err)
	calls := 0
	missing := errors.New("no")
	for range 2 {
		_, err = c.Remember(t.Context(), "host thing", nil, func(context.Context) ([]byte, error) { calls++; return nil, missing })
		require.ErrorIs(t, err, missing)
	}
	require.Equal(t, 2, calls, "what failed is asked again")
}
