package helmrepo

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func pkg(registry, name string) dependency.Package {
	return dependency.Package{Datasource: dependency.SourceHelm, Name: name, Registry: registry, Versioning: dependency.VersioningHelm}
}

// A repository of real charts whose index Helm itself has made.
func TestARepositoryThatHelmMade(t *testing.T) {
	dir := t.TempDir()
	for name, versions := range map[string][]string{"shop": {"1.0.0", "1.1.0", "2.0.0-rc.1"}, "web": {"0.1.0+build.1"}} {
		for _, v := range versions {
			_, err := chartutil.Save(&chart.Chart{Metadata: &chart.Metadata{
				APIVersion: "v2", Name: name, Version: v, Description: "A chart: with \"quotes\"\nand\nentries:\n  lines", Deprecated: v == "1.0.0",
				Keywords: []string{"a", "b"}, Annotations: map[string]string{"x": "|\n  y: z\n"},
			}}, dir)
			require.NoError(t, err)
		}
	}
	index, err := repo.IndexDirectory(dir, "https://example.com")
	require.NoError(t, err)
	index.SortEntries()
	require.NoError(t, index.WriteFile(filepath.Join(dir, "index.yaml"), 0o600))
	var asked atomic.Int64
	files := http.FileServer(http.Dir(dir))
	url, client := lookuptest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		files.ServeHTTP(w, r)
	}), 0)
	releases, err := New(client).Releases(t.Context(), pkg(url+"/", "shop"))
	require.NoError(t, err)
	require.Len(t, releases, 3)
	for _, r := range releases {
		require.WithinDuration(t, time.Now(), r.Time, time.Hour)
		require.Equal(t, r.Version == "1.0.0", r.Withdrawn != "", r.Version)
	}
	releases, err = New(client).Releases(t.Context(), pkg(url, "web"))
	require.NoError(t, err)
	require.Equal(t, "0.1.0+build.1", releases[0].Version)
	_, err = New(client).Releases(t.Context(), pkg(url, "other"))
	require.True(t, failure.Is(err, failure.UnknownPackage), "%v", err)
}

func TestFormsOfAnIndex(t *testing.T) {
	for name, text := range map[string]string{
		"of Helm":       "apiVersion: v1\nentries:\n  a:\n  - version: 1.0.0\n    created: \"2024-01-02T03:04:05.678901Z\"\n  - version: 1.1.0\n    deprecated: true\n  b:\n  - version: 7.0.0\ngenerated: \"x\"\n",
		"further in":    "entries:\n    a:\n      - version: 1.0.0\n        created: 2024-01-02T03:04:05Z\n        description: |-\n          b:\n          - version: 9.9.9\n      - version: 1.1.0\n        deprecated: true\n    b: []\n",
		"entries first": "entries:\n  \"a\":\n  - created: 2024-01-02T03:04:05Z\n    version: \"1.0.0\"\n    urls:\n    - x\n  - deprecated: true\n    version: 1.1.0\napiVersion: v1\n",
		"JSON":          `{"apiVersion":"v1","entries":{"a":[{"version":"1.0.0","created":"2024-01-02T03:04:05Z"},{"version":"1.1.0","deprecated":true}]}}`,
	} {
		data, err := distil(strings.NewReader(text))
		require.NoError(t, err, name)
		var lines []string
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "a\t") {
				lines = append(lines, line)
			}
		}
		require.Equal(t, []string{"a\t1.0.0\t2024-01-02T03:04:05Z\t\n", "a\t1.1.0\t\tdeprecated\n"}, lines, name)
	}
	for name, text := range map[string]string{
		"nothing": "", "HTML": "<html>\n<body>entries:</body>", "a list": "- a\n", "no entries": "apiVersion: v1\n", "no charts": "entries:\n  a: b\n",
		"broken": "entries:\n  a:\n  - version: {\n", "JSON without": "{}", "a word": "entries:\n  a\n",
	} {
		_, err := distil(strings.NewReader(text))
		require.Error(t, err, name)
	}
}

func TestHostileRepositories(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.Serve, func(t *testing.T, url string, client *httpcache.Client) error {
		_, err := New(client).Releases(t.Context(), pkg(url, "a"))
		return err
	})
}

// The index of a large repository is read in little memory.
func TestALargeIndex(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("entries:\n")
	for c := range 100 {
		_, _ = fmt.Fprintf(&b, "  chart-%d:\n", c)
		for v := range 100 {
			_, _ = fmt.Fprintf(&b, "  - version: 1.%d.0\n    created: \"2024-01-02T03:04:05Z\"\n    description: %s\n", v, strings.Repeat("x", 500))
		}
	}
	data, err := distil(&b)
	require.NoError(t, err)
	require.Equal(t, 10_000, bytes.Count(data, []byte("\n")))
}

func TestARepositoryInsideOfANetworkIsNotAsked(t *testing.T) {
	s := New(httpcache.New(httpcache.Options{}))
	for _, registry := range []string{"http://example.com", "https://169.254.169.254", "https://localhost:8080", "https://[::1]/charts"} {
		_, err := s.Releases(t.Context(), pkg(registry, "a"))
		require.True(t, failure.Is(err, failure.HostRefused), "%s: %v", registry, err)
	}
	for _, registry := range []string{"", "file:///etc", "https://user:secret@example.com", "../x"} {
		_, err := s.Releases(t.Context(), pkg(registry, "a"))
		require.True(t, failure.Is(err, failure.BadInput), "%s: %v", registry, err)
		require.NotContains(t, err.Error(), "secret")
	}
}

func FuzzIndexes(f *testing.F) {
	f.Add([]byte("entries:\n  a:\n  - version: 1.0.0\n    created: x\n"))
	f.Add([]byte(`{"entries":{"a":[{"version":"1.0.0"}]}}`))
	f.Add([]byte("entries:\n  a:\n  - &x {version: *x}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := distil(bytes.NewReader(text))
		if err != nil {
			return
		}
		for line := range strings.Lines(string(data)) {
			require.Equal(t, 3, strings.Count(line, "\t"), "%q", line)
		}
	})
}
