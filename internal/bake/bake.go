// Package bake watches a release after it was changed, and judges whether it is good: its workloads stay
// ready, no container is started again, and what Prometheus says stays within bounds.
package bake

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

const (
	// Grace is how long a workload may be unready without a break.
	Grace = 30 * time.Second
	// wrongTimes is how often in a row a value may not be out of its bounds.
	wrongTimes = 3
	// maxNamed bounds what one check names.
	maxNamed = 5
)

// Bound is what every value of a check must be within, both included; nil: no bound.
type Bound struct {
	Name     string
	Min, Max *float64
}

// Reading is what a check's query gave.
type Reading struct {
	Values []float64
	Err    error
}

// Sample is what was seen at one moment.
type Sample struct {
	At        time.Time
	Err       error    // why the workloads could not be looked at
	Unready   []string // workloads, and why
	Restarted []string // containers that were started again since the bake began
	Readings  []Reading
}

// Watch gathers samples.
type Watch struct {
	Bounds []Bound

	last         Sample
	unreadySince time.Time
	wrong        []int // in a row, per bound
	failed       string
	restarted    []string
	samples      int
}

// Add takes a sample, and reports whether the release is proven bad, so that nobody need look on.
func (w *Watch) Add(s Sample) bool {
	w.samples++
	w.last = s
	if len(s.Restarted) > 0 {
		w.restarted = s.Restarted
	}
	switch {
	case s.Err != nil: // it is not known
	case len(s.Unready) == 0:
		w.unreadySince = time.Time{}
	case w.unreadySince.IsZero():
		w.unreadySince = s.At
	case s.At.Sub(w.unreadySince) > Grace:
		w.failed = fmt.Sprintf("not ready for more than %s: %s", Grace, some(s.Unready))
	}
	if w.wrong == nil {
		w.wrong = make([]int, len(w.Bounds))
	}
	outside := false
	for i, b := range w.Bounds {
		switch v, _ := b.judge(s.Readings[i]); v {
		case run.Fail:
			w.wrong[i]++
		case run.Pass:
			w.wrong[i] = 0
		}
		outside = outside || w.wrong[i] >= wrongTimes
	}
	return w.failed != "" || len(w.restarted) > 0 || outside
}

// Checks is what was found, by what was seen last and what was proven bad.
func (w *Watch) Checks() []run.Check {
	ready := run.Check{Name: "workloads", Verdict: run.Pass, Detail: fmt.Sprintf("all ready in the last of %d looks", w.samples)}
	switch {
	case w.failed != "":
		ready.Verdict, ready.Detail = run.Fail, w.failed
	case w.samples == 0:
		ready.Verdict, ready.Detail = run.NotProven, "nobody looked"
	case w.last.Err != nil:
		ready.Verdict, ready.Detail = run.NotProven, "they could not be looked at: "+w.last.Err.Error()
	case len(w.last.Unready) > 0:
		ready.Verdict, ready.Detail = run.Fail, "not ready at the end: "+some(w.last.Unready)
	}
	restarts := run.Check{Name: "restarts", Verdict: run.Pass, Detail: "no container was started again"}
	switch {
	case len(w.restarted) > 0:
		restarts.Verdict, restarts.Detail = run.Fail, "started again: "+some(w.restarted)
	case w.samples == 0 || w.last.Err != nil:
		restarts.Verdict, restarts.Detail = run.NotProven, "it is not known"
	}
	checks := []run.Check{ready, restarts}
	for i, b := range w.Bounds {
		c := run.Check{Name: b.Name, Verdict: run.NotProven, Detail: "nobody looked"}
		if w.samples > 0 {
			c.Verdict, c.Detail = b.judge(w.last.Readings[i])
		}
		checks = append(checks, c)
	}
	return checks
}

// judge holds values against the bounds. No value proves nothing.
func (b Bound) judge(r Reading) (run.Verdict, string) {
	if r.Err != nil {
		return run.NotProven, r.Err.Error()
	}
	if len(r.Values) == 0 {
		return run.NotProven, "the query has no value"
	}
	for _, v := range r.Values {
		switch {
		case math.IsNaN(v):
			return run.NotProven, "the query's value is no number"
		case b.Min != nil && v < *b.Min:
			return run.Fail, fmt.Sprintf("%g is below %g", v, *b.Min)
		case b.Max != nil && v > *b.Max:
			return run.Fail, fmt.Sprintf("%g is above %g", v, *b.Max)
		}
	}
	if len(r.Values) == 1 {
		return run.Pass, fmt.Sprintf("%g is within its bounds", r.Values[0])
	}
	return run.Pass, fmt.Sprintf("%d values are within their bounds", len(r.Values))
}

// Verdict is that of all checks together.
func Verdict(checks []run.Check) run.Verdict {
	v := run.Pass
	for _, c := range checks {
		v = v.And(c.Verdict)
	}
	return v
}

func some(names []string) string {
	if len(names) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], "; "), len(names)-maxNamed)
	}
	return strings.Join(names, "; ")
}
