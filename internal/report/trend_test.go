package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/trend"
)

// drills are drills that took so many seconds, a day apart, the last a day before this run; one of
// no time failed.
func drills(seconds ...float64) trend.Past {
	var past trend.Past
	for i, s := range seconds {
		p := trend.Point{
			Run: fmt.Sprintf("drill-%d", i), Procedure: "DrillRecovery", Target: "shop", EndedAt: ended.AddDate(0, 0, i-len(seconds)),
			Outcome: run.Succeeded, Verdict: run.Pass, Fresh: true, DrillSeconds: s, BytesRead: 700 << 20, BytesStored: int64(i) << 20,
		}
		if s == 0 {
			p.Outcome, p.Verdict = run.Failed, run.Fail
		}
		past.Points = append(past.Points, p)
	}
	return past
}

// drill is this run, taking a fresh backup.
func drill() run.Document {
	doc := passed()
	doc.Result = []byte(strings.Replace(string(doc.Result), `"verdict"`, `"backupSeconds":21.4,"verdict"`, 1))
	return doc
}

func TestTrendGolden(t *testing.T) {
	past := drills(45.2, 47, 0, 44.1, 46.6)
	past.Points[3].Outcome, past.Points[3].Verdict = run.PartiallySucceeded, run.NotProven
	past.Partial = true
	page, err := HTML(drill(), ended, past)
	require.NoError(t, err)
	golden(t, "trend.html", string(page))
	golden(t, "trend.md", Markdown(drill(), ended, past))
}

func TestTrendSaysHowTheRunStands(t *testing.T) {
	const now = 61.2
	for name, c := range map[string]struct {
		past []float64
		says string
	}{
		"slower":             {[]float64{46, 47, 46.7, 300, 20}, "1m1s, 31% slower than the median of the last 5 drills"},
		"faster":             {[]float64{100, 110}, "1m1s, 42% faster than the median of the last 2 drills"},
		"much slower":        {[]float64{10, 12, 14}, "1m1s, 5.1 times the median of the last 3 drills"},
		"the same":           {[]float64{now, now}, "1m1s, the same as the median of the last 2 drills"},
		"about the same":     {[]float64{now + .1, now + .1}, "1m1s, about the same as the median of the last 2 drills"},
		"one before":         {[]float64{51}, "1m1s, 20% slower than the drill before"},
		"failed ones":        {[]float64{0, 51, 0}, "1m1s, 20% slower than the drill before"},
		"nothing but failed": {[]float64{0, 0}, "1m1s, with none before to compare with"},
	} {
		t.Run(name, func(t *testing.T) {
			h := look(drill(), ended, drills(c.past...))
			require.Len(t, h.Charts, 3)
			require.Equal(t, "drill time", h.Charts[0].Name)
			require.Equal(t, c.says, h.Charts[0].Says)
			require.Contains(t, h.Charts[0].Desc, c.says)
		})
	}

	stored := look(drill(), ended, drills(50, 50, 50)).Charts[2]
	require.Equal(t, "0 B, 100% less than the median of the last 3 drills", stored.Says)
	idle := drills(50, 50, 50)
	for i := range idle.Points {
		idle.Points[i].BytesStored = 0
	}
	doc := drill()
	doc.Result = []byte(strings.Replace(string(doc.Result), `"bytesStored":0`, `"bytesStored":2048`, 1))
	require.Equal(t, "2.0 KiB, more than the median of the last 3 drills, which is 0 B", look(doc, ended, idle).Charts[2].Says)

	doc.Outcome = run.Failed
	h := look(doc, ended, drills(50, 52))
	require.Equal(t, "this run failed; the median of the last 2 drills: 51.0 s", h.Charts[0].Says)
	require.Equal(t, "FAIL", h.Charts[0].Bars[2].Mark)
	require.Zero(t, h.Charts[0].Bars[2].Height)
}

func TestTrendOfABackupHasNoDrillTime(t *testing.T) {
	doc := run.Document{RunID: "b", Procedure: "BackupDatabase", Target: "shop", Outcome: run.Succeeded, Result: []byte(`{"bytesRead":1024,"bytesStored":512}`)}
	past := trend.Past{Points: []trend.Point{{Procedure: "BackupDatabase", Target: "shop", EndedAt: ended.Add(-time.Hour), Outcome: run.Succeeded, Fresh: true, DrillSeconds: -1, BytesRead: 2048, BytesStored: 512}}}
	h := look(doc, ended, past)
	require.Len(t, h.Charts, 2)
	require.Equal(t, "1.0 KiB, 50% less than the backup before", h.Charts[0].Says)
	require.Equal(t, "512 B, the same as the backup before", h.Charts[1].Says)
	require.Equal(t, []string{"2.0 KiB", "512 B"}, h.Rows[0].Values)
	require.Equal(t, "Succeeded", h.Rows[0].Status, "it proves nothing")
}

func TestNoTrend(t *testing.T) {
	require.Nil(t, look(drill(), ended, trend.Past{}), "it is the first")
	require.Equal(t, []string{"Some of the earlier runs could not be read and are not shown."}, look(drill(), ended, trend.Past{Partial: true}).Notes)
	require.Nil(t, look(refused(), ended, drills(1, 2)))
	dry := drill()
	dry.DryRun = true
	require.Nil(t, look(dry, ended, drills(1, 2)))
	verify := drill()
	verify.Procedure = "VerifyBackup"
	require.Nil(t, look(verify, ended, drills(1, 2)))
}

// Bars stay in their chart whatever was measured.
func TestTrendBarsStayInTheChart(t *testing.T) {
	many := make([]float64, 50)
	for i := range many {
		many[i] = float64(i%7) * 1e8
	}
	for name, past := range map[string]trend.Past{"many": drills(many...), "one": drills(1), "tiny": drills(1e-9, 1e9), "failed": drills(0)} {
		h := look(drill(), ended, past)
		require.LessOrEqual(t, len(h.Rows), trend.Shown, name)
		for _, c := range h.Charts {
			require.Len(t, c.Bars, len(h.Rows))
			for i, b := range c.Bars {
				require.LessOrEqual(t, b.X+b.Width, plotRight, name)
				require.Positive(t, b.Width, name)
				if b.Height > 0 {
					require.GreaterOrEqual(t, b.Y, plotTop, name)
				}
				require.Equal(t, plotBottom, b.Y+b.Height, name)
				if i > 0 {
					require.Greater(t, b.X, c.Bars[i-1].X+c.Bars[i-1].Width, name)
				}
			}
		}
	}
}

// The chart is XML that any reader takes, and nothing in it was read as markup.
func TestHostileTrendStaysText(t *testing.T) {
	const evil = `"><script>alert(1)</script></title></svg><img src=x onerror=alert(1)>%2F javascript:alert(1)`
	past := drills(3, 0, 5)
	for i := range past.Points {
		p := &past.Points[i]
		p.Run, p.Procedure, p.Target, p.Backup = evil, evil, evil, evil
		if i != 1 {
			p.Outcome, p.Verdict = run.Outcome(evil), run.Verdict(evil)
		}
	}
	page, err := HTML(drill(), ended, past)
	require.NoError(t, err)
	require.NotContains(t, string(page), "<script")
	require.NotContains(t, string(page), "<img")
	require.NotContains(t, string(page), `href="javascript`)
	require.Contains(t, string(page), "../%2522%253E%253Cscript%253E", "a link names the folder as it is in the store")
	charts := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(string(page), -1)
	require.Len(t, charts, 3)
	for _, c := range charts {
		d := xml.NewDecoder(strings.NewReader(c))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if e, ok := token.(xml.StartElement); ok {
				require.Contains(t, []string{"svg", "title", "desc", "text", "line", "g", "rect"}, e.Name.Local)
			}
		}
	}
	markdown := Markdown(drill(), ended, past)
	require.NotContains(t, markdown, "<script")
}
