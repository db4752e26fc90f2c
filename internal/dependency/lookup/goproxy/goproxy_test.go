package goproxy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
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
	return dependency.Package{Datasource: dependency.SourceGo, Name: name, Versioning: dependency.VersioningGo}
}

// recorded are answers of a module proxy.
var recorded = map[string]string{
	"/example.com/!mod/@v/list":                                      "v1.0.0\nv1.2.0 2024-01-01T00:00:00Z\nv1.1.0\nv1.3.0-rc.1\nv1.1.1-0.20240101000000-abcdefabcdef\nv2.0.0\nnonsense\n../v1.0.0\n",
	"/example.com/!mod/@v/v1.2.0.mod":                                "module example.com/Mod\n\nretract (\n\tv1.1.0 // it deletes files\n\t[v1.0.0, v1.0.5]\n)\n",
	"/example.com/!mod/@v/v1.2.0.info":                               `{"Version":"v1.2.0","Time":"2024-01-02T03:04:05Z"}`,
	"/example.com/!mod/v3/@v/list":                                   "v3.0.0\nv3.1.0\n",
	"/example.com/!mod/v3/@v/v3.1.0.mod":                             "// Deprecated: use something\n// else.\nmodule example.com/Mod/v3\n",
	"/example.com/!mod/v4/@v/list":                                   "v4.0.0\n",
	"/example.com/!mod/v4/@v/v4.0.0.mod":                             "not a go.mod {{{",
	"/gopkg.in/yaml.v2/@v/list":                                      "v2.4.0\n",
	"/gopkg.in/yaml.v2/@v/v2.4.0.mod":                                "module gopkg.in/yaml.v2\n",
	"/gopkg.in/yaml.v3/@v/list":                                      "v3.0.1\n",
	"/gopkg.in/yaml.v3/@v/v3.0.1.mod":                                "module \"gopkg.in/yaml.v3\"\n",
	"/example.com/old/@v/list":                                       "v1.0.0\nv3.5.1+incompatible\n",
	"/example.com/old/@v/v3.5.1+incompatible.mod":                    "module example.com/old\n",
	"/example.com/old/v4/@v/list":                                    "v4.0.0\n",
	"/example.com/old/v4/@v/v4.0.0.mod":                              "module example.com/old/v4\n",
	"/example.com/tagless/@v/list":                                   "",
	"/example.com/tagless/@latest":                                   `{"Version":"v0.0.0-20240101000000-abcdefabcdef","Time":"2024-01-01T00:00:00Z"}`,
	"/example.com/tagless/@v/v0.0.0-20240101000000-abcdefabcdef.mod": "module example.com/tagless\n",
	"/golang.org/toolchain/@v/list":                                  "v0.0.1-go1.24.3.linux-amd64\nv0.0.1-go1.25rc1.linux-amd64\nv0.0.1-go1.24.3.windows-amd64\n",
	"/golang.org/toolchain/@v/v0.0.1-go1.24.3.linux-amd64.info":      `{"Version":"v0.0.1-go1.24.3.linux-amd64","Time":"2025-05-06T00:00:00Z"}`,
}

func source(t *testing.T, h http.Handler) *Source {
	t.Helper()
	url, client := lookuptest.Serve(t, h, 0)
	s, _ := New(client, Config{Proxy: url})
	return s
}

func versions(releases []dependency.Release) []string {
	var list []string
	for _, r := range releases {
		text := r.Package + "@" + r.Version
		if r.Withdrawn != "" {
			text += " (" + r.Withdrawn + ")"
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

func TestReleases(t *testing.T) {
	s := source(t, lookuptest.Files(recorded))
	for name, want := range map[string][]string{
		"example.com/Mod": {
			"example.com/Mod/v3@v3.0.0 (deprecated: use something else.)", "example.com/Mod/v3@v3.1.0 (deprecated: use something else.)",
			"example.com/Mod/v4@v4.0.0",
			"example.com/Mod@v1.0.0 (retracted)", "example.com/Mod@v1.1.0 (retracted: it deletes files)",
			"example.com/Mod@v1.1.1-0.20240101000000-abcdefabcdef", "example.com/Mod@v1.2.0", "example.com/Mod@v1.3.0-rc.1",
		},
		"gopkg.in/yaml.v2":    {"gopkg.in/yaml.v2@v2.4.0", "gopkg.in/yaml.v3@v3.0.1"},
		"example.com/old":     {"example.com/old/v4@v4.0.0", "example.com/old@v1.0.0", "example.com/old@v3.5.1+incompatible"},
		"example.com/tagless": {"example.com/tagless@v0.0.0-20240101000000-abcdefabcdef"},
	} {
		releases, err := s.Releases(t.Context(), pkg(name))
		require.NoError(t, err)
		require.Equal(t, want, versions(releases), name)
	}
	r, err := s.Complete(t.Context(), pkg("example.com/Mod"), dependency.Release{Version: "v1.2.0", Package: "example.com/Mod"})
	require.NoError(t, err)
	require.Equal(t, time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC), r.Time)
}

func TestReleasesOfGoItself(t *testing.T) {
	url, client := lookuptest.Serve(t, lookuptest.Files(recorded), 0)
	_, s := New(client, Config{Proxy: url})
	p := dependency.Package{Datasource: dependency.SourceGoRelease, Name: "go", Versioning: dependency.VersioningGo}
	releases, err := s.Releases(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []string{"@1.24.3", "@1.25rc1"}, versions(releases))
	r, err := s.Complete(t.Context(), p, releases[0])
	require.NoError(t, err)
	require.Equal(t, 2025, r.Time.Year())
}

func TestHostileProxies(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.Serve, func(t *testing.T, url string, client *httpcache.Client) error {
		s, _ := New(client, Config{Proxy: url})
		_, err := s.Releases(t.Context(), pkg("example.com/mod"))
		return err
	})
}

func TestTenThousandVersions(t *testing.T) {
	var list strings.Builder
	for i := range 10_000 {
		_, _ = fmt.Fprintf(&list, "v1.%d.0\n", i)
	}
	s := source(t, lookuptest.Files(map[string]string{"/example.com/mod/@v/list": list.String(), "/example.com/mod/@v/v1.9999.0.mod": "module example.com/mod\n"}))
	releases, err := s.Releases(t.Context(), pkg("example.com/mod"))
	require.NoError(t, err)
	require.Len(t, releases, 10_000)
}

func TestNamesThatAttackAreNotAskedFor(t *testing.T) {
	var asked atomic.Int64
	s := source(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	for _, name := range []string{"", "../etc", "example.com/../x", "--upload-pack", "example.com/a b", "example.com/a\n", "example.com/\u202e", "https://example.com/x", "example.com//x", "example.com/x?y", "example.com/x#y"} {
		_, err := s.Releases(t.Context(), pkg(name))
		require.True(t, failure.Is(err, failure.BadInput), "%q: %v", name, err)
	}
	require.Zero(t, asked.Load())
}

func TestProxiesOneAfterTheOther(t *testing.T) {
	good, client := lookuptest.Serve(t, lookuptest.Files(recorded), 0)
	for list, wants := range map[string]failure.Code{
		good + "/nowhere," + good:                   "",
		good + "/nowhere|" + good:                   "",
		"https://127.0.0.1:1|" + good:               "", // any error
		"https://127.0.0.1:1," + good:               failure.HostRefused,
		"off":                                       failure.RegistryRefuses,
		"direct":                                    failure.RegistryRefuses,
		good + "/nowhere,direct":                    failure.UnknownPackage,
		good + "/nowhere,off," + good:               failure.UnknownPackage,
		"file:///proxy," + good + "/nowhere,direct": failure.UnknownPackage,
	} {
		s, _ := New(client, Config{Proxy: list})
		_, err := s.Releases(t.Context(), pkg("gopkg.in/yaml.v2"))
		if wants == "" {
			require.NoError(t, err, list)
		} else {
			require.True(t, failure.Is(err, wants), "%s: %v", list, err)
		}
	}
}

func TestThePrivateIsToldToNoProxy(t *testing.T) {
	var asked atomic.Int64
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), 0)
	s, _ := New(client, Config{Proxy: url, Private: "example.com/secret,*.corp.example"})
	for _, name := range []string{"example.com/secret/x", "git.corp.example/x"} {
		_, err := s.Releases(t.Context(), pkg(name))
		require.True(t, failure.Is(err, failure.RegistryRefuses), "%v", err)
	}
	require.Zero(t, asked.Load())
}

func TestTheRealProxy(t *testing.T) {
	lookuptest.Online(t, DefaultProxy+"/github.com/spf13/cobra/@v/list")
	c := Config{}
	s, _ := New(httpcache.New(httpcache.Options{Trusted: c.Hosts()}), c)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	releases, err := s.Releases(ctx, pkg("github.com/spf13/cobra"))
	require.NoError(t, err)
	i := slices.IndexFunc(releases, func(r dependency.Release) bool { return r.Version == "v1.8.0" })
	require.GreaterOrEqual(t, i, 0)
	r, err := s.Complete(ctx, pkg("github.com/spf13/cobra"), releases[i])
	require.NoError(t, err)
	require.Equal(t, "2023-11-02", r.Time.Format(time.DateOnly))
}

func FuzzAnswersOfAProxy(f *testing.F) {
	f.Add("v1.0.0\nv1.2.0 2024-01-01T00:00:00Z\n", "module x\nretract v1.0.0 // no\n")
	f.Add("<html>", "// Deprecated: x\nmodule y\nretract [v1.0.0, v2.0.0]\n")
	f.Fuzz(func(t *testing.T, list, mod string) {
		kept, err := distilList("example.com/m", []byte(list))
		if err == nil {
			for _, v := range strings.Fields(string(kept)) {
				require.Empty(t, dependency.CheckWritten(v))
			}
		}
		data, err := distilModFile([]byte(mod))
		require.NoError(t, err)
		require.NotEmpty(t, data)
	})
}
