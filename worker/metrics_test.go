package worker

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func scrape(t *testing.T, m *metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, answer.Code, answer.Body.String())
	return answer.Body.String()
}

func drilled() run.Document {
	return run.Document{
		RunID: "drill-1", Procedure: "DrillRecovery", Target: "shop", Outcome: run.Succeeded, Steps: []run.Step{{Seconds: 40}, {Seconds: 21}},
		Result: json.RawMessage(`{"backupId":"20261123T030000Z-a","verdict":"PASS","drillSeconds":61,"backupSeconds":40,"bytesRead":1000,"bytesStored":10,
			"checks":[{"verdict":"PASS"},{"verdict":"PASS"},{"verdict":"NOT_PROVEN"},{"verdict":"\"} evil"}]}`),
	}
}

func TestEndedRunsAreCounted(t *testing.T) {
	m, err := newMetrics(zap.NewNop())
	require.NoError(t, err)
	require.NotContains(t, scrape(t, m), "upkeep_runs_total")
	at := time.Now()
	m.ended(drilled(), at)
	m.ended(drilled(), at)
	dry := drilled()
	dry.DryRun = true
	m.ended(dry, at)
	m.ended(run.Document{RunID: "b", Procedure: "BackupDatabase", Target: "shop", Outcome: run.Failed, Result: json.RawMessage(`{}`)}, at)
	m.Temporal.WithTags(map[string]string{"operation": "Poll"}).Counter("temporal_request").Inc(3)
	m.Temporal.Timer("temporal_request_latency").Record(20 * time.Millisecond)

	text := scrape(t, m)
	for _, line := range []string{
		`upkeep_runs_total{outcome="Succeeded",procedure="DrillRecovery",target="shop"} 2`,
		`upkeep_runs_total{outcome="Failed",procedure="BackupDatabase",target="shop"} 1`,
		`upkeep_checks_total{verdict="PASS"} 4`,
		`upkeep_checks_total{verdict="NOT_PROVEN"} 2`,
		`upkeep_backup_bytes_total{kind="read",target="shop"} 2000`,
		`upkeep_backup_bytes_total{kind="stored",target="shop"} 20`,
		`upkeep_run_seconds_sum{outcome="Succeeded",procedure="DrillRecovery"} 122`,
		`upkeep_run_seconds_bucket{outcome="Succeeded",procedure="DrillRecovery",le="60"} 0`,
		`upkeep_run_seconds_bucket{outcome="Succeeded",procedure="DrillRecovery",le="300"} 2`,
		`temporal_request_total{operation="Poll"} 3`,
		`temporal_request_latency_seconds_bucket{le="0.025"} 1`,
	} {
		require.Contains(t, text, "\n"+line+"\n")
	}
	require.Contains(t, text, "process_resident_memory_bytes")
	require.NotContains(t, text, "evil")
	require.NotContains(t, text, "drill-1", "a run's id is no label")
}

func TestTheAgeOfTheNewestProof(t *testing.T) {
	dir := t.TempDir()
	database := config.Database{URL: "postgres://app@127.0.0.1/shop"}
	c := &config.Config{Store: "file://" + dir, Targets: []config.Target{{Name: "shop", Database: database}, {Name: "bare", Database: database}, {Name: "code"}}}
	load := func() (*config.Config, error) { return c, nil }
	store, err := objstore.Open(t.Context(), c.Store)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	taken := time.Now().Add(-2 * time.Hour)
	id := taken.UTC().Format("20060102T150405Z") + "-a"
	require.NoError(t, store.Create(t.Context(), format.ManifestKey("shop", id), []byte("{}")))
	require.NoError(t, catalog.SetProof(t.Context(), store, "shop", catalog.Proof{Backup: id, Verdict: run.Pass, At: time.Now()}))

	m, err := newMetrics(zap.NewNop())
	require.NoError(t, err)
	require.NotContains(t, scrape(t, m), "upkeep_newest_pass_age_seconds", "nothing is known yet")
	require.NoError(t, m.look(t.Context(), load))
	age := func() float64 {
		t.Helper()
		found := regexp.MustCompile(`(?m)^upkeep_newest_pass_age_seconds\{target="shop"\} (\S+)$`).FindStringSubmatch(scrape(t, m))
		require.Len(t, found, 2)
		seconds, err := strconv.ParseFloat(found[1], 64)
		require.NoError(t, err)
		return seconds
	}
	require.InDelta(t, 2*3600, age(), 60)
	require.Contains(t, scrape(t, m), `upkeep_newest_pass_age_seconds{target="bare"} +Inf`)
	require.NotContains(t, scrape(t, m), `target="code"`, "it has no database")

	require.Contains(t, scrape(t, m), `upkeep_runs_total{outcome="Failed",procedure="DrillRecovery",target="bare"} 0`, "the first to fail is an increase")

	c = &config.Config{Store: "file://" + dir + "/../" + "\x00", Targets: []config.Target{{Name: "shop", Database: database}}}
	require.Error(t, m.look(t.Context(), load))
	require.InDelta(t, 2*3600, age(), 60, "what is known stays")
	require.ErrorContains(t, m.look(t.Context(), func() (*config.Config, error) { return nil, errors.New("no file") }), "no file")

	c = &config.Config{Store: "file://" + dir, Targets: []config.Target{{Name: "shop", Database: database}}}
	require.NoError(t, m.look(t.Context(), load))
	require.NotContains(t, scrape(t, m), `upkeep_newest_pass_age_seconds{target="bare"}`, "it is no target any more")
}
