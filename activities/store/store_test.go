package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func record(dir, id string) Record {
	return Record{
		Store: "file://" + dir, EndedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Document: run.Document{
			RunID: id, Procedure: "DrillRecovery", Target: "shop", Outcome: run.Succeeded, Summary: "PASS",
			Steps: []run.Step{{Name: "Back up the database", Verdict: run.Pass, Seconds: 1}}, Result: json.RawMessage(`{"verdict":"PASS"}`),
		},
	}
}

// files reads every file below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	}))
	return out
}

func TestRunIsWrittenDown(t *testing.T) {
	dir := t.TempDir()
	written, err := Activities{}.WriteRun(t.Context(), record(dir, "drill-1"))
	require.NoError(t, err)
	first := files(t, dir)
	require.Contains(t, first, "runs/drill-1/report.html")
	require.Contains(t, first["runs/drill-1/report.md"], "PASS")
	require.Equal(t, "file://"+dir+"/runs/drill-1/report.html", written.Report)
	var doc run.Document
	require.NoError(t, json.Unmarshal([]byte(first["runs/drill-1/run.json"]), &doc))
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, written.Report, doc.Report)

	again, err := Activities{}.WriteRun(t.Context(), record(dir, "drill-1"))
	require.NoError(t, err)
	require.Equal(t, written, again)
	require.Equal(t, first, files(t, dir), "written twice, it is the same")
}

// TestRunIDDoesNotClimb writes runs whose ids a caller chose to reach other files.
func TestRunIDDoesNotClimb(t *testing.T) {
	for _, id := range []string{"../../escaped", "/etc/passwd", "..", "a/../../b"} {
		dir := filepath.Join(t.TempDir(), "inside")
		require.NoError(t, os.Mkdir(dir, 0o700))
		_, err := Activities{}.WriteRun(t.Context(), record(dir, id))
		require.NoError(t, err, id)
		for name := range files(t, filepath.Dir(dir)) {
			require.True(t, strings.HasPrefix(name, "inside/runs/") || strings.HasPrefix(name, "inside/shop/trend/DrillRecovery/2026"), name)
		}
		entries, err := os.ReadDir(filepath.Join(dir, "runs"))
		require.NoError(t, err)
		require.Len(t, entries, 1, id)
	}
}

// TestReportShowsTheRunsBefore writes runs one after the other, and one of them twice.
func TestReportShowsTheRunsBefore(t *testing.T) {
	dir := t.TempDir()
	drill := func(id string, seconds, day int) Record {
		r := record(dir, id)
		r.EndedAt = r.EndedAt.AddDate(0, 0, day)
		r.Document.Result = json.RawMessage(fmt.Sprintf(`{"verdict":"PASS","backupId":"b-%s","drillSeconds":%d,"backupSeconds":1,"bytesRead":10,"bytesStored":5}`, id, seconds))
		return r
	}
	write := func(r Record) {
		t.Helper()
		_, err := Activities{}.WriteRun(t.Context(), r)
		require.NoError(t, err)
	}
	write(drill("a", 10, 0))
	write(drill("b", 20, 1))
	write(drill("c", 30, 2))
	require.Contains(t, files(t, dir)["runs/c/report.md"], "drill time: 30.0 s, 100% slower than the median of the last 2 drills")
	require.Contains(t, files(t, dir)["runs/b/report.html"], "20.0 s, 100% slower than the drill before")
	require.NotContains(t, files(t, dir)["runs/a/report.html"], "<svg")
	was := files(t, dir)
	write(drill("b", 20, 1))
	require.Equal(t, was, files(t, dir), "a later run changes nothing of what a twin writes")

	points := 0
	for name := range was {
		if strings.HasPrefix(name, "shop/trend/") {
			points++
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("damaged"), 0o600))
		}
	}
	require.Equal(t, 3, points)
	write(drill("d", 30, 3))
	require.Contains(t, files(t, dir)["runs/d/report.html"], "Some of the earlier runs could not be read")
	require.Contains(t, files(t, dir)["runs/d/run.json"], "PASS")

	dry := drill("e", 0, 4)
	dry.Document.DryRun = true
	write(dry)
	for name := range files(t, dir) {
		require.False(t, strings.HasPrefix(name, "shop/trend/DrillRecovery/20260106"), "a dry run measures nothing")
	}
}

// TestARunIsToldOfOnce writes a run twice, and then another with its id.
func TestARunIsToldOfOnce(t *testing.T) {
	var told []string
	a := Activities{Ended: func(doc run.Document, _ time.Time) { told = append(told, doc.RunID+" "+doc.Summary) }}
	r := record(t.TempDir(), "drill-1")
	for range 2 {
		_, err := a.WriteRun(t.Context(), r)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"drill-1 PASS"}, told)
	r.Document.Summary, r.EndedAt = "PASS once more", r.EndedAt.Add(time.Hour)
	_, err := a.WriteRun(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, []string{"drill-1 PASS", "drill-1 PASS once more"}, told)
}

// TestWhatARunLeavesIsUnderItsCheckpoint writes a run with a plan, twice, then another with its id.
func TestWhatARunLeavesIsUnderItsCheckpoint(t *testing.T) {
	dir := t.TempDir()
	key, err := audit.LoadKey(t.TempDir())
	require.NoError(t, err)
	a := Activities{AuditKey: key}
	verify := func() *audit.Report {
		t.Helper()
		s, err := objstore.Open(t.Context(), "file://"+dir)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		r, err := audit.Verify(t.Context(), s, audit.Outside{})
		require.NoError(t, err)
		return r
	}
	plan := json.RawMessage(`{"replace":"shop"}`)
	sum := sha256.Sum256(plan)
	hash := hex.EncodeToString(sum[:])
	r := record(dir, "drill/1")
	_, err = a.WritePlan(t.Context(), PlanRecord{Store: r.Store, RunID: "drill/1", Hash: hash, Plan: plan})
	require.NoError(t, err)
	require.Empty(t, verify().Findings, "its run goes on")
	var c audit.Chain
	c.Add(audit.Entry{Run: "drill/1", At: r.EndedAt, Kind: audit.Intent, What: "Back up the database"})
	r.Trail, r.Plans = c.Entries, []string{hash}
	for range 2 {
		_, err := a.WriteRun(t.Context(), r)
		require.NoError(t, err)
	}
	c.Add(audit.Entry{Run: "drill/1", At: r.EndedAt, Kind: audit.Done, What: "Back up the database"})
	r.Trail, r.Plans, r.Document.Summary = c.Entries, nil, "PASS once more"
	_, err = a.WriteRun(t.Context(), r)
	require.NoError(t, err)
	whole := verify()
	require.Empty(t, whole.Findings)
	require.Equal(t, int64(2), whole.Checkpoints)

	for name, data := range files(t, dir) {
		under := strings.HasPrefix(name, "audit/checkpoints/")
		for _, part := range []string{"/run.json", "/run-", "/audit-", "/plan-"} {
			under = under || strings.Contains(name, part)
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(data+" "), 0o600))
		require.Equal(t, under, len(verify().Findings) > 0, name)
		require.NoError(t, os.WriteFile(path, []byte(data), 0o600))
	}
}
