package store

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
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
			require.True(t, strings.HasPrefix(name, "inside/runs/"), name)
		}
		entries, err := os.ReadDir(filepath.Join(dir, "runs"))
		require.NoError(t, err)
		require.Len(t, entries, 1, id)
	}
}
