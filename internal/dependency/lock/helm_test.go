package lock

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/downloader"
	"helm.sh/helm/v3/pkg/getter"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// charts serves a repository of charts.
func charts(t *testing.T, versions map[string][]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, all := range versions {
		for _, version := range all {
			_, err := chartutil.Save(&chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: name, Version: version}}, dir)
			require.NoError(t, err)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	index, err := repo.IndexDirectory(dir, server.URL)
	require.NoError(t, err)
	require.NoError(t, index.WriteFile(filepath.Join(dir, "index.yaml"), 0o600))
	return server.URL
}

// helmBy is Helm's own manager of dependencies for a folder.
func helmBy(t *testing.T, dir, url string) *downloader.Manager {
	state := t.TempDir()
	known := repo.NewFile()
	known.Add(&repo.Entry{Name: "charts", URL: url})
	require.NoError(t, known.WriteFile(filepath.Join(state, "repositories.yaml"), 0o600))
	return &downloader.Manager{
		Out: new(bytes.Buffer), ChartPath: dir, Getters: getter.All(cli.New()),
		RepositoryConfig: filepath.Join(state, "repositories.yaml"), RepositoryCache: state,
	}
}

// Helm itself makes the first lock file, and fetches by the one that was made anew: it refuses one whose
// digest is not of the Chart.yaml beside it.
func TestAChartLock(t *testing.T) {
	url := charts(t, map[string][]string{"redis": {"18.1.0", "18.2.0", "19.0.0"}, "common": {"2.0.0", "2.9.0"}})
	dir := t.TempDir()
	manifest := "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n- name: redis\n  version: 18.1.0\n  repository: " + url +
		"\n  condition: redis.enabled\n  tags: [cache]\n  import-values: [data]\n- name: common\n  version: 2.x.x\n  repository: " + url + "\n  alias: shared\n"
	write := func(name string, content []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	write("Chart.yaml", []byte(manifest))
	require.NoError(t, helmBy(t, dir, url).Update())
	lock, err := os.ReadFile(filepath.Join(dir, "Chart.lock"))
	require.NoError(t, err)
	require.Contains(t, string(lock), "version: 2.9.0")

	repository := files(map[string]string{"c/Chart.yaml": manifest, "c/Chart.lock": string(lock)})
	edited, change := update(t, repository, "c/Chart.yaml", "redis", "19.0.0", "19.0.0")
	made, err := Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"c/Chart.lock"}, names(made))
	was, is := strings.Split(string(lock), "\n"), strings.Split(string(made["c/Chart.lock"]), "\n")
	require.Len(t, is, len(was))
	for i := range was {
		if was[i] != is[i] {
			require.Regexp(t, `^(  version: 19\.0\.0|digest: sha256:[0-9a-f]{64})$`, is[i])
		}
	}

	write("Chart.yaml", edited["c/Chart.yaml"])
	require.ErrorContains(t, helmBy(t, dir, url).Build(), "out of sync", "Helm takes no lock file that is not of the chart")
	write("Chart.lock", made["c/Chart.lock"])
	require.NoError(t, helmBy(t, dir, url).Build())
	require.FileExists(t, filepath.Join(dir, "charts/redis-19.0.0.tgz"))

	made, err = Tools{Generated: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Contains(t, string(made["c/Chart.lock"]), `generated: "2026-05-06T07:08:09Z"`)
}

// A newer version inside of the range that is written: only the lock file says it.
func TestAChartLockAlone(t *testing.T) {
	manifest := "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies: [{name: a, version: 2.x.x, repository: https://charts.example.com}]\n"
	lock := "dependencies:\n- name: a\n  repository: https://charts.example.com\n  version: 2.0.0\ndigest: sha256:0\ngenerated: \"2026-01-01T00:00:00Z\"\n"
	repository := files(map[string]string{"Chart.yaml": manifest, "Chart.lock": lock})
	edited, change := update(t, repository, "Chart.yaml", "a", "2.x.x", "2.1.0")
	require.Equal(t, manifest, string(edited["Chart.yaml"]))
	made, err := Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Contains(t, string(made["Chart.lock"]), "  version: 2.1.0\n")

	repository["Chart.lock"] = &(*repository["Chart.lock"])
	repository["Chart.lock"].Data = []byte(strings.Replace(lock, "name: a", "name: b", 1))
	_, err = Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	require.True(t, failure.Is(err, failure.LockFailed), "%v", err)

	delete(repository, "Chart.lock")
	made, err = Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Empty(t, made, "a chart without a lock file gets none")
}
