package npm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func pkg(name string) dependency.Package {
	return dependency.Package{Datasource: dependency.SourceNPM, Name: name, Versioning: dependency.VersioningNPM}
}

const (
	short = `{"name":"left","modified":"2024-05-01T00:00:00.000Z","dist-tags":{"latest":"1.1.0","next":"2.0.0"},"versions":{
		"1.0.0":{"name":"left","dist":{"tarball":"x","signatures":[{"a":[1,2,{"deprecated":"not this"}]}]}},
		"1.0.1":{"deprecated":"it is\n\tbroken"},"1.0.2":{"deprecated":false},"1.0.3":{"deprecated":true},"1.0.4":{"deprecated":""},
		"1.1.0":{},"2.0.0":null}}`
	long = `{"dist-tags":{"latest":"1.1.0"},"readme":"x","time":{"created":"2020-01-01T00:00:00.000Z","modified":"x","1.1.0":"2024-04-01T12:00:00.000Z"},"versions":{"1.1.0":{}}}`
)

func TestTheAbbreviatedDocumentAndTimesFromTheFullOne(t *testing.T) {
	var shorts, longs atomic.Int64
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/@scope%2fleft" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if strings.Contains(r.Header.Get("Accept"), "install-v1") {
			shorts.Add(1)
			_, _ = io.WriteString(w, short)
			return
		}
		longs.Add(1)
		_, _ = io.WriteString(w, long)
	}), 0)
	s := New(client, Config{Registry: url})
	releases, err := s.Releases(t.Context(), pkg("@scope/left"))
	require.NoError(t, err)
	require.Equal(t, []dependency.Release{
		{Version: "1.0.0"}, {Version: "1.0.1", Withdrawn: "deprecated: it is broken"}, {Version: "1.0.2"}, {Version: "1.0.3", Withdrawn: "deprecated"},
		{Version: "1.0.4"}, {Version: "1.1.0", Recommended: true}, {Version: "2.0.0"},
	}, releases)
	require.Zero(t, longs.Load(), "no time is asked for before it is needed")
	r, err := s.Complete(t.Context(), pkg("@scope/left"), releases[5])
	require.NoError(t, err)
	require.Equal(t, time.Date(2024, 4, 1, 12, 0, 0, 0, time.UTC), r.Time)
	r, err = s.Complete(t.Context(), pkg("@scope/left"), releases[6])
	require.NoError(t, err)
	require.Zero(t, r.Time, "no date is none")
	require.EqualValues(t, 1, shorts.Load())
}

func TestARegistryThatSendsTheFullDocumentIsNotAskedTwice(t *testing.T) {
	var asked atomic.Int64
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, long)
	}), 0)
	s := New(client, Config{Registry: url})
	releases, err := s.Releases(t.Context(), pkg("left"))
	require.NoError(t, err)
	_, err = s.Complete(t.Context(), pkg("left"), releases[0])
	require.NoError(t, err)
	require.EqualValues(t, 1, asked.Load())
}

func TestHostileRegistries(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.Serve, func(t *testing.T, url string, client *httpcache.Client) error {
		_, err := New(client, Config{Registry: url}).Releases(t.Context(), pkg("left"))
		return err
	})
	for name, text := range map[string]string{
		"no versions": `{}`, "a list": `[]`, "versions is a list": `{"versions":[1]}`, "deep": strings.Repeat(`{"versions":`, 20_000), "cut off": short[:200],
		"time is a number": `{"versions":{"1.0.0":{}},"time":7}`,
	} {
		_, err := distil(strings.NewReader(text))
		require.Error(t, err, name)
	}
}

func TestTenThousandVersions(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"versions":{`)
	for i := range 10_000 {
		_, _ = fmt.Fprintf(&b, `"1.%d.0":{},`, i)
	}
	b.WriteString(`"2.0.0":{}}}`)
	data, err := distil(&b)
	require.NoError(t, err)
	releases, err := decode(data)
	require.NoError(t, err)
	require.Len(t, releases, 10_001)
}

func TestNamesThatAttackAreNotAskedFor(t *testing.T) {
	var asked atomic.Int64
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), 0)
	for _, name := range []string{"", "..", "../x", "@a/../b", "a/b", "-x", "--upload-pack", "a b", "a\nb", "раypal", "a?b", "a#b", "a%2fb", "@/a", "@a/", strings.Repeat("a", 300)} {
		_, err := New(client, Config{Registry: url}).Releases(t.Context(), pkg(name))
		require.True(t, failure.Is(err, failure.BadInput), "%q: %v", name, err)
	}
	require.Zero(t, asked.Load())
}

// A registry that the repository's file names is not asked, and no login goes to it.
func TestOnlyTheOperatorsRegistriesAreAsked(t *testing.T) {
	logins := make(chan string, 10)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logins <- r.URL.Path + " " + r.Header.Get("Authorization")
		_, _ = io.WriteString(w, long)
	})
	url, client := lookuptest.Serve(t, h, 0)
	host := strings.TrimPrefix(url, "https://")
	s := New(client, Config{
		Registry: url + "/public/", Scopes: map[string]string{"@mine": url + "/mine"},
		Authorization: map[string]string{host + "/mine/": "Bearer mine", host + "/min": "Bearer wrong"},
	})
	p := pkg("left")
	p.Registry = "https://evil.example"
	_, err := s.Releases(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, "/public/left ", <-logins)
	_, err = s.Releases(t.Context(), pkg("@mine/left"))
	require.NoError(t, err)
	require.Equal(t, "/mine/@mine/left Bearer mine", <-logins)
}

func TestTheRealRegistry(t *testing.T) {
	lookuptest.Online(t, DefaultRegistry+"/ms")
	c := Config{}
	s := New(httpcache.New(httpcache.Options{Trusted: c.Hosts()}), c)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	releases, err := s.Releases(ctx, pkg("ms"))
	require.NoError(t, err)
	for _, r := range releases {
		if r.Version == "2.1.3" {
			r, err = s.Complete(ctx, pkg("ms"), r)
			require.NoError(t, err)
			require.Greater(t, r.Time.Year(), 2019) // mirrors have been seen to give the day on which they took it over
			return
		}
	}
	t.Fatal("ms 2.1.3 is not there")
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(short))
	f.Add([]byte(long))
	f.Add([]byte(`{"versions":{"a\tb":{"deprecated":"\n"},"1.0.0":{}},"versions":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := distil(bytes.NewReader(text))
		if err != nil {
			return
		}
		releases, err := decode(data)
		require.NoError(t, err, "what was kept cannot be read")
		for _, r := range releases {
			require.NotContains(t, r.Withdrawn, "\n")
			require.Equal(t, r.Time, timeOf(data, r.Version))
		}
	})
}
