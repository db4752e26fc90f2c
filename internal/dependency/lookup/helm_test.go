package lookup

import (
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/helmrepo"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func chartOf(registry, name string) dependency.Package {
	return dependency.Package{Datasource: dependency.SourceHelm, Name: name, Registry: registry, Versioning: dependency.VersioningHelm}
}

// A repository of real charts whose index Helm itself has made. It is not beside the datasource, where Helm
// would be built anew for each fuzzing.
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
	releases, err := helmrepo.New(client).Releases(t.Context(), chartOf(url+"/", "shop"))
	require.NoError(t, err)
	require.Len(t, releases, 3)
	for _, r := range releases {
		require.WithinDuration(t, time.Now(), r.Time, time.Hour)
		require.Equal(t, r.Version == "1.0.0", r.Withdrawn != "", r.Version)
	}
	releases, err = helmrepo.New(client).Releases(t.Context(), chartOf(url, "web"))
	require.NoError(t, err)
	require.Equal(t, "0.1.0+build.1", releases[0].Version)
	_, err = helmrepo.New(client).Releases(t.Context(), chartOf(url, "other"))
	require.True(t, failure.Is(err, failure.UnknownPackage), "%v", err)
}
