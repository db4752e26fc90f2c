package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// goal is a figure that was set before it was measured. Aim is zero where there is only a must.
type goal struct {
	what      string
	must, aim float64
	less      bool // smaller is better
	got       float64
	unit      string
}

func (g goal) reaches(limit float64) bool {
	if g.less {
		return g.got <= limit
	}
	return g.got >= limit
}

func (g goal) verdict() string {
	switch {
	case g.aim != 0 && g.reaches(g.aim):
		return "reached, with the aim"
	case g.reaches(g.must):
		return "reached"
	}
	return "**missed**"
}

func (g goal) limits() string {
	sign := "at least"
	if g.less {
		sign = "at most"
	}
	text := fmt.Sprintf("%s %g%s", sign, g.must, g.unit)
	if g.aim != 0 {
		text += fmt.Sprintf(", aim %g%s", g.aim, g.unit)
	}
	return text
}

// best is the fastest of pg_dump's parallel ways on a set.
func (o *onSet) best() *series {
	var best *series
	for _, s := range o.series {
		if strings.HasPrefix(s.name, "pg_dump -Fd") && (best == nil || measure.Median(s.seconds) < measure.Median(best.seconds)) {
			best = s
		}
	}
	return best
}

// goals are what was to be reached.
func (r *results) goals() []goal {
	var all []goal
	for _, o := range r.sets {
		is := func(s set) bool { return s.name == o.name }
		on := "; " + o.about
		own, again := o.of(first), o.of(second)
		faster := func(of *series) float64 { return measure.Ratio(of.seconds, own.seconds) }
		parallel, restore := goal{must: 1.15, aim: 1.3}, goal{must: 1}
		if is(large) {
			parallel, restore = goal{must: 1.8}, goal{must: 1.3}
		}
		parallel.what, parallel.got, parallel.unit = "backup, faster than "+o.best().name+on, faster(o.best()), "×"
		restore.what, restore.got, restore.unit = "restore to the last constraint, faster than "+pgRestore+on, measure.Ratio(o.of(pgRestore).seconds, o.of(restored).seconds), "×"
		all = append(all,
			goal{what: "backup, faster than pg_dump | gzip" + on, must: 4, aim: 5, got: faster(o.of("pg_dump | gzip")), unit: "×"},
			parallel,
			goal{what: "backup, size against pg_dump -Fc" + on, must: 1, less: true, got: measure.Ratio(own.bytes, o.of("pg_dump -Fc").bytes), unit: "×"},
			goal{what: "second backup, new bytes against the first" + on, must: 0.01, less: true, got: measure.Ratio(again.bytes, own.bytes), unit: "×"},
			goal{what: "second backup, time against the first" + on, must: 0.6, less: true, got: measure.Ratio(again.seconds, own.seconds), unit: "×"},
			restore,
			goal{what: "backup, encrypted, time against the same in clear" + on, must: 1.15, less: true, got: measure.Ratio(o.of(firstSealed).seconds, own.seconds), unit: "×"},
		)
	}
	return append(all,
		goal{what: "memory of the worker, the most it held", must: 256, less: true, got: float64(r.memory) / (1 << 20), unit: " MiB"},
		goal{what: "a durable step on the embedded server, p50", must: 10, less: true, got: measure.Median(r.steps), unit: " ms"},
	)
}

// write writes what was found as Markdown.
func (r *results) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`make bench`"+` on %s: do not edit. It makes its own PostgreSQL server and two sets of %d MiB, and measures
everything in turns; rounds: %d. Figures are medians, with the least and the most behind, of as many measurements
as the number in brackets says; a ratio is the median of the rounds' ratios. They hold for this machine and these
data; make your own.

`, r.began.UTC().Format("2 January 2006"), r.megabytes, r.done)
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString("\n## What was to be reached\n\n| what | goal | found | |\n| --- | --- | --- | --- |\n")
	for _, g := range r.goals() {
		fmt.Fprintf(&b, "| %s | %s | %.3g%s | %s |\n", measure.Cell(g.what), g.limits(), g.got, g.unit, g.verdict())
	}
	for _, o := range r.sets {
		fmt.Fprintf(&b, "\n## The set %q: %d MiB on disk, the largest table %d%%\n\n", o.name, o.megabytes, o.share)
		b.WriteString("| backup | seconds | MB added | time against Upkeep's first |\n| --- | --- | --- | --- |\n")
		for _, s := range o.series {
			if len(s.bytes) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %.1f | %.2f |\n", measure.Cell(s.name), measure.Spread(s.seconds), measure.Median(s.bytes)/1e6, measure.Ratio(s.seconds, o.of(first).seconds))
			}
		}
		b.WriteString("\n| bringing it back | seconds | time against Upkeep's to the last constraint |\n| --- | --- | --- |\n")
		for _, s := range o.series {
			if len(s.bytes) == 0 {
				fmt.Fprintf(&b, "| %s | %s | %.2f |\n", measure.Cell(s.name), measure.Spread(s.seconds), measure.Ratio(s.seconds, o.of(restored).seconds))
			}
		}
	}
	fmt.Fprintf(&b, `
## How

- Upkeep's times are those of whole runs through the workflow, from the order to the result, with an embedded
  Temporal server and a worker as a process of its own. Its bytes are all that the run added to the store: chunks,
  schema, manifest, report. Its backup hashes every row and syncs every file; so do pg_dump's -Fc and -Fd sync
  theirs; the two pipes sync nothing.
- The server is durable (fsync on) with %s.
  The sets are vacuumed and in the machine's memory; a checkpoint precedes every measurement. Both restores go to
  the same server.
- A durable step is an activity that does nothing, one after another: %d of them, p50 %.1f ms, p99 %.1f ms.
- pg_dump compresses with zstd from version 16; where it can, that is measured too.
`, settingsText(), len(r.steps), measure.Median(r.steps), measure.Percentile(r.steps, 99))
	_, err := io.WriteString(w, b.String())
	return err
}

func settingsText() string {
	var all []string
	for name, value := range settings {
		all = append(all, name+" = "+value)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
