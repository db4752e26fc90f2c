package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/trend"
)

var update = flag.Bool("update", false, "write the golden files anew")

var ended = time.Date(2026, 11, 23, 19, 15, 0, 0, time.UTC)

func passed() run.Document {
	return run.Document{
		RunID: "drill-recovery-shop-20261123-191000-ab12", Procedure: "DrillRecovery", Target: "shop",
		Outcome: run.Succeeded, Summary: "PASS: backup 20261123T191000Z-1a2b3c4d, 1234567 rows, restored and compared in 61.2 s",
		Steps: []run.Step{
			{Name: "Back up the database", Verdict: run.Pass, Seconds: 21.4, Detail: "1234567 rows of 31 tables"},
			{Name: "Restore into the scratch server", Verdict: run.Pass, Seconds: 30.2},
			{Name: "Compare the copy with the backup", Verdict: run.Pass, Seconds: 9.6},
		},
		Report: "file:///var/lib/upkeep/runs/x/report.html",
		Result: json.RawMessage(`{"backupId":"20261123T191000Z-1a2b3c4d","verdict":"PASS","drillSeconds":61.2,"rows":1234567,"bytesRead":734003200,"bytesStored":0,
			"checks":[{"name":"rows","verdict":"PASS","detail":"31 tables equal"},{"name":"amcheck","verdict":"PASS","detail":"95 indexes"}],
			"scope":"PostgreSQL database shop, logical, as of the snapshot; not WAL"}`),
	}
}

func refused() run.Document {
	return run.Document{
		RunID: "backup-database-shpo-1", Procedure: "BackupDatabase", Target: "shpo", Outcome: run.Refused,
		Summary: "there is no target \"shpo\"", Steps: []run.Step{}, Result: json.RawMessage("{}"),
		Error: &run.Error{Code: "UnknownTarget", Class: "NotFound", What: "there is no target \"shpo\"", Remedy: "did you mean \"shop\"?"},
		Left:  []string{"Remove the copy: no answer"},
	}
}

func TestGolden(t *testing.T) {
	waiting := passed()
	waiting.Outcome, waiting.WaitingFor, waiting.Result = run.Waiting, "the disk is full; to mend it: free some space", nil
	waiting.Steps[2].Verdict = ""
	for name, doc := range map[string]run.Document{"passed": passed(), "refused": refused(), "waiting": waiting} {
		page, err := HTML(doc, ended, trend.Past{})
		require.NoError(t, err)
		for ending, got := range map[string]string{"html": string(page), "md": Markdown(doc, ended, trend.Past{}), "txt": Text(doc)} {
			t.Run(name+"."+ending, func(t *testing.T) { golden(t, name+"."+ending, got) })
		}
	}
}

// golden holds a text against the file that it should be.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// Names come out of databases, and anybody may have chosen them.
func TestHostileTextStaysText(t *testing.T) {
	const evil = "<script>alert(1)</script> \x1b[2J | `x` [a](javascript:1) <img src=x>\nnext\u202eline"
	doc := passed()
	doc.RunID, doc.Procedure, doc.Target, doc.Summary, doc.WaitingFor, doc.Report = evil, evil, evil, evil, evil, evil
	doc.Left = []string{evil}
	doc.Error = &run.Error{What: evil, Remedy: evil}
	doc.Steps = []run.Step{{Name: evil, Verdict: run.Verdict(evil), Detail: evil}}
	result, err := json.Marshal(map[string]any{
		"backupId": evil, "verdict": evil, "scope": evil, "leftOut": []string{evil}, evil: evil, "nothing": nil, "deep": map[string]string{evil: evil},
		"checks": []run.Check{{Name: evil, Verdict: run.Verdict(evil), Detail: evil}},
	})
	require.NoError(t, err)
	doc.Result = result

	page, err := HTML(doc, ended, trend.Past{})
	require.NoError(t, err)
	require.NotContains(t, string(page), "<script")
	require.NotContains(t, string(page), "<img")
	markdown := Markdown(doc, ended, trend.Past{})
	require.NotContains(t, markdown, "<script")
	require.NotContains(t, strings.ReplaceAll(markdown, `\]`, ""), "](", "no link")
	require.NotContains(t, markdown, "\x1b")
	for _, row := range strings.Split(markdown, "\n") {
		if strings.HasPrefix(row, "| &lt;") {
			bars := strings.Count(strings.ReplaceAll(row, `\|`, ""), "|")
			require.Contains(t, []int{3, 4, 5}, bars, "no cell ends early: %s", row)
		}
	}
	text := Text(doc)
	require.NotContains(t, text, "\x1b")
	require.NotContains(t, text, "\u202e")
	require.NotContains(t, text, "\nnext")
}

func TestWritesForPeople(t *testing.T) {
	require.Equal(t, "1,234,567", Count(1234567))
	require.Equal(t, "-1,000", Count(-1000))
	require.Equal(t, "999", Count(999))
	require.Equal(t, "0 B", Bytes(0))
	require.Equal(t, "1.5 KiB", Bytes(1536))
	require.Equal(t, "700.0 MiB", Bytes(700<<20))
	require.Equal(t, "4.00 GiB", Bytes(4<<30))
	require.Equal(t, "9.6 s", Seconds(9.6))
	require.Equal(t, "1m1s", Seconds(61.2))
	require.Equal(t, "bytes stored", words("bytesStored"))
	require.Equal(t, "backup", words("backupId"))
}
