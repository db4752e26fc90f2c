package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// write writes what was found as Markdown.
func (r *results) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks of recoveries

Written by `+"`make bench-cluster`"+` on %s: do not edit. It installs the stack of [dev/stack](../dev/stack) on a real
cluster, breaks it, and lets each way put it right, in turns; rounds: %d. Times are seconds from the order to what the
column says: medians, with the least and the most behind, of as many rounds as the number in brackets says. They hold
for this machine; make your own.

`, r.began.UTC().Format("2 January 2006"), r.done)
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString(`
What the columns are:

- **served**: callers have had only right answers since, as a pod in the cluster sees it that calls the service twenty
  times a second. Right is an answer that knows all the rows. "never": they had none within the time that is given.
- **whole**: all of the service's pods are ready, as many as there were, and made of what they were.
- **its end**: when the way says that it is done. Upkeep's is when health, or the copy, is proven; a script's when its
  last command returns, which proves nothing.
- **against Upkeep**: served by this way divided by served by Upkeep, round by round; where callers never noticed, whole.
  Above 1, Upkeep is faster.
- **calls in vain**: of callers, from the harm on: failed, and answered without all the rows. Callers are let see the
  harm for a second before anything is ordered.
`)
	for _, s := range r.scenarios {
		r.writeScenario(&b, s)
	}
	fmt.Fprintf(&b, `
## How

- The scripts are in [dev/bench-cluster/ways](../dev/bench-cluster/ways): the guide's commands as they are written, one
  after the other, without time to think, to look, or to choose. Where a command of the guide is not there, its script
  says what stands for it.
- Upkeep's runs go through its workflow, with an embedded Temporal server and a worker on this machine, as the scripts
  do. Where a run asks for an approval, it comes at once.
- Patience is the same: what is applied has %s to be ready, for Helm and for Upkeep. Upkeep then watches a release that
  is ready for %s (rollout.bake), which Helm does not.
- Backups are taken, and Upkeep's drilled, before anything is measured. Between two ways the release, the replicas and
  the data are brought back by none of them, and callers must have had right answers for two seconds.
- After each way, what it left is compared with what there was before the harm: replicas, the pods' template, the
  release's status and manifest, and the rows of each table by count and hash.
`, readyWithin, bake)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *results) writeScenario(b *strings.Builder, s *scenario) {
	fmt.Fprintf(b, "\n## %s\n\nThe harm: %s. Data: %s.\n\n", s.title, s.about, s.size.about)
	b.WriteString("| way | served | whole | its end | against Upkeep | calls in vain: failed, without the rows |\n| --- | --- | --- | --- | --- | --- |\n")
	own := r.of(s, s.ways[0])
	for _, w := range s.ways {
		all := r.of(s, w)
		if len(all) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s, %s |\n", measure.Cell(w.name), moments(all, func(f found) moment { return f.served }), moments(all, func(f found) moment { return f.whole }),
			measure.Spread(figures(all, func(f found) float64 { return f.ended })), against(all, own),
			whole(all, func(f found) int { return f.seen.failed }), whole(all, func(f found) int { return f.seen.wrong }))
	}
	b.WriteString("\n| way | what it left that is not as it was, and in how many rounds |\n| --- | --- |\n")
	for _, w := range s.ways {
		if all := r.of(s, w); len(all) > 0 {
			fmt.Fprintf(b, "| %s | %s |\n", measure.Cell(w.name), measure.Cell(remains(all)))
		}
	}
}

// moments are the times of those rounds that came so far.
func moments(all []found, of func(found) moment) string {
	var seconds []float64
	harmed := false
	for _, f := range all {
		harmed = harmed || f.harmed
		if m := of(f); m.is {
			seconds = append(seconds, m.seconds)
		}
	}
	never := len(all) - len(seconds)
	switch {
	case len(seconds) == 0 && harmed:
		return "never"
	case len(seconds) == 0:
		return "always"
	case never > 0:
		return fmt.Sprintf("%s; not in %d", measure.Spread(seconds), never)
	}
	return measure.Spread(seconds)
}

// against compares with Upkeep's own, in rounds in which both came so far.
func against(all, own []found) string {
	var of, to []float64
	never := 0
	for i := range min(len(all), len(own)) {
		a, o := all[i].decisive(), own[i].decisive()
		switch {
		case a.is && o.is && o.seconds > 0:
			of, to = append(of, a.seconds), append(to, o.seconds)
		case o.is:
			never++
		}
	}
	if len(of) == 0 {
		return map[bool]string{true: "never", false: ""}[never > 0]
	}
	return fmt.Sprintf("%.2f", measure.Ratio(of, to))
}

// decisive is when callers were served, or, where they always were, when the service was whole.
func (one found) decisive() moment {
	if one.harmed {
		return one.served
	}
	return one.whole
}

func figures(all []found, of func(found) float64) (values []float64) {
	for _, f := range all {
		values = append(values, of(f))
	}
	return values
}

// whole is the median of whole numbers.
func whole(all []found, of func(found) int) string {
	return fmt.Sprintf("%.0f", measure.Median(figures(all, func(f found) float64 { return float64(of(f)) })))
}

// remains says what was left, each with the number of rounds in which it was.
func remains(all []found) string {
	times := make(map[string]int)
	var order []string
	note := func(text string) {
		if times[text]++; times[text] == 1 {
			order = append(order, text)
		}
	}
	for _, f := range all {
		if f.harmed && !f.served.is {
			note("**callers have no right answers**")
		}
		for _, text := range slices.Concat(f.left, f.notes) {
			note(text)
		}
		if f.err != nil {
			note("it says itself that it did not succeed")
		}
		if f.beside > 0 {
			note("on purpose: the database that was replaced, under another name")
		}
	}
	if len(order) == 0 {
		return "nothing"
	}
	for i, text := range order {
		order[i] = fmt.Sprintf("%s (%d of %d)", text, times[text], len(all))
	}
	return strings.Join(order, "; ")
}
