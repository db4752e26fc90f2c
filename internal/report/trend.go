package report

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/trend"
)

// Where a chart's bars stand, in units of its own, which the page scales to its width. The template
// draws the frame around them.
const (
	plotLeft, plotRight = 84, 632
	plotTop, plotBottom = 20, 96
	fewestSlots         = 8 // so that two bars are not as wide as the page
	barGap              = 6
)

// figure is one thing that runs are compared by.
type figure struct {
	name       string
	of         func(trend.Point) float64 // below zero: not known
	text       func(float64) string
	more, less string
}

var figures = []figure{
	{"drill time", func(p trend.Point) float64 { return p.DrillSeconds }, Seconds, "slower", "faster"},
	{"bytes read", func(p trend.Point) float64 { return float64(p.BytesRead) }, wholeBytes, "more", "less"},
	{"bytes stored", func(p trend.Point) float64 { return float64(p.BytesStored) }, wholeBytes, "more", "less"},
}

func wholeBytes(n float64) string { return Bytes(int64(n)) }

// history is the trend as the page and the Markdown show it.
type history struct {
	Charts []chart
	Rows   []pastRun // the oldest first, this run last
	Legend []string  // of the marks in the charts
	Notes  []string
}

// chart is one figure of the runs as bars.
type chart struct {
	Name, Says       string
	Title, Desc      string // for who does not see the bars
	Top, Bottom      string // what the ends of the scale stand for
	First, Last      string // when the first run ended, and which is the last
	LastAt, MedianAt int    // where the last bar stands, and the median; 0: nowhere
	Bars             []bar
}

// bar is one run in a chart.
type bar struct {
	X, Y, Width, Height int // no height: there is only the mark
	Class               string
	Label               string
	Mark                string // what is to be seen of the run without its colour
	MarkX, MarkY        int
}

// pastRun is one run in the table.
type pastRun struct {
	Ended  string
	Status string
	Class  string
	Link   string // of the run's own page, from this one; empty for this run
	Values []string
}

// look holds a run against those before it; nil where there is nothing to hold it against.
func look(doc run.Document, ended time.Time, past trend.Past) *history {
	this, measured := trend.Of(doc, ended)
	if !measured || len(past.Points) == 0 && !past.Partial {
		return nil
	}
	h, noun := &history{}, trend.Noun(doc.Procedure)
	if past.Partial {
		h.Notes = append(h.Notes, "Some of the earlier runs could not be read and are not shown.")
	}
	if len(past.Points) == 0 {
		return h
	}
	points := append(slices.Clone(past.Points[max(0, len(past.Points)-trend.Shown+1):]), this)
	for _, p := range points {
		h.Rows = append(h.Rows, pastRun{Ended: day(p) + p.EndedAt.UTC().Format(" 15:04"), Status: status(p), Class: class(p), Link: pageOf(p)})
	}
	h.Rows[len(h.Rows)-1].Link = ""
	for _, f := range figures {
		if !slices.ContainsFunc(points, func(p trend.Point) bool { return f.value(p) >= 0 }) {
			continue
		}
		h.Charts = append(h.Charts, f.draw(points, noun))
		for i, p := range points {
			h.Rows[i].Values = append(h.Rows[i].Values, f.written(p))
		}
	}
	if slices.ContainsFunc(h.Charts, func(c chart) bool { return c.MedianAt > 0 }) {
		h.Legend = append(h.Legend, "Dashed: the median of the runs before.")
	}
	if slices.ContainsFunc(points, trend.Point.Failed) {
		h.Legend = append(h.Legend, "FAIL: the run failed, so it has no bar.")
		h.Notes = append(h.Notes, "Runs that failed are not in the median.")
	}
	if slices.ContainsFunc(points, unproven) {
		h.Legend = append(h.Legend, "?: not everything was proven.")
	}
	return h
}

// value is the figure of a run, below zero where it is not known or that of a part of the work.
func (f figure) value(p trend.Point) float64 {
	if p.Failed() {
		return -1
	}
	return f.of(p)
}

func (f figure) written(p trend.Point) string {
	if v := f.value(p); v >= 0 {
		return f.text(v)
	}
	return ""
}

// values are the figures that are known.
func (f figure) values(points []trend.Point) []float64 {
	var out []float64
	for _, p := range points {
		if v := f.value(p); v >= 0 {
			out = append(out, v)
		}
	}
	return out
}

// says holds this run against those before it, in words.
func (f figure) says(this trend.Point, before []float64, noun string) string {
	now := f.value(this)
	than := fmt.Sprintf("the median of the last %d %ss", len(before), noun)
	if len(before) == 1 {
		than = "the " + noun + " before"
	}
	var m float64
	if len(before) > 0 {
		m = median(before)
	}
	switch {
	case this.Failed() && len(before) == 0:
		return "this run failed, and none before it has a figure"
	case this.Failed():
		return fmt.Sprintf("this run failed; %s: %s", than, f.text(m))
	case now < 0:
		return "not known of this run"
	case len(before) == 0:
		return f.text(now) + ", with none before to compare with"
	case m == 0 && now > 0:
		return fmt.Sprintf("%s, %s than %s, which is %s", f.text(now), f.more, than, f.text(m))
	case now >= 3*m && m > 0:
		return fmt.Sprintf("%s, %.1f times %s", f.text(now), now/m, than)
	}
	percent := 0.0
	if m > 0 {
		percent = math.Round(100 * (now/m - 1))
	}
	switch {
	case percent > 0:
		return fmt.Sprintf("%s, %.0f%% %s than %s", f.text(now), percent, f.more, than)
	case percent < 0:
		return fmt.Sprintf("%s, %.0f%% %s than %s", f.text(now), -percent, f.less, than)
	}
	about := ""
	if now != m {
		about = "about "
	}
	return fmt.Sprintf("%s, %sthe same as %s", f.text(now), about, than)
}

// draw lays the bars out. The last point is this run's.
func (f figure) draw(points []trend.Point, noun string) chart {
	this := points[len(points)-1]
	before, all := f.values(points[:len(points)-1]), f.values(points)
	most := slices.Max(all) // the caller has seen that there is one
	height := func(v float64) int {
		if most <= 0 {
			return 0
		}
		return int(math.Round(v / most * (plotBottom - plotTop)))
	}
	c := chart{
		Name: f.name, Says: f.says(this, before, noun),
		Title: fmt.Sprintf("The %s of the last %d %ss", f.name, len(points), noun),
		Top:   f.text(most), Bottom: f.text(0), First: day(points[0]), Last: "this run",
	}
	c.Desc = fmt.Sprintf("One bar for each run, the oldest first, this run last. The highest is %s, the lowest %s. This run: %s.", c.Top, f.text(slices.Min(all)), c.Says)
	if len(before) > 1 {
		c.MedianAt = plotBottom - height(median(before))
	}
	slot := (plotRight - plotLeft) / max(len(points), fewestSlots)
	for i, p := range points {
		b := bar{X: plotLeft + i*slot, Y: plotBottom, Width: slot - barGap, Class: class(p), Mark: mark(p)}
		b.MarkX = b.X + b.Width/2
		b.Label = day(p) + p.EndedAt.UTC().Format(" 15:04") + " UTC: " + status(p)
		if v := f.value(p); v >= 0 {
			b.Height = max(1, height(v)) // nothing is something to be seen, too
			b.Y = plotBottom - b.Height
			b.Label += ", " + f.text(v)
		}
		b.MarkY = b.Y - 5
		if i == len(points)-1 {
			b.Class += " this"
			c.LastAt = b.MarkX
		}
		c.Bars = append(c.Bars, b)
	}
	return c
}

// median is the value in the middle; of an even number, between the two there.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func unproven(p trend.Point) bool { return p.Outcome == run.PartiallySucceeded }

// mark tells a run that failed or proved too little from others without its colour.
func mark(p trend.Point) string {
	switch {
	case p.Failed():
		return "FAIL"
	case unproven(p):
		return "?"
	}
	return ""
}

func class(p trend.Point) string {
	switch {
	case p.Failed():
		return "fail"
	case unproven(p):
		return "not-proven"
	}
	return "pass"
}

func status(p trend.Point) string {
	if p.Verdict != "" && !(p.Failed() && p.Verdict != run.Fail) {
		return string(p.Verdict)
	}
	return string(p.Outcome)
}

func day(p trend.Point) string { return p.EndedAt.UTC().Format(time.DateOnly) }

// pageOf is the address of a run's page beside this one. The name in the store is escaped already, and
// a browser would undo that, so it is escaped again.
func pageOf(p trend.Point) string {
	folder, file, _ := strings.Cut(strings.TrimPrefix(format.RunKey(p.Run, "report.html"), format.RunsFolder+"/"), "/")
	return "../" + url.PathEscape(folder) + "/" + file
}
