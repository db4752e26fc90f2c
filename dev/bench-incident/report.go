package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// size is what was found with so many pods; times are seconds.
type size struct {
	pods, steps                            int
	upkeep, empty, above, responder, typed []float64
}

type results struct {
	began      time.Time
	rounds     int
	kubernetes string
	sizes      []*size
	blocked    []float64 // seconds
	kept       []float64 // pods a second
	dumped     []float64 // pods a second
	memory     []float64 // MiB
	items      string
}

func (r *results) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# A containment, measured

`+"`make bench-incident`"+` wrote this on %s, on %s, with %s; its server, Temporal's and the worker are on this machine.
Everything goes in turns, %d rounds: the median, with the least and the most behind. The many pods are objects on a
hollow node (as kubemark's: nobody runs them, and the benchmark answers for its kubelet), the API server is real.

## From the start of the run until policies and labels are taken

| pods | ContainIncident, s | as many empty steps, s | above them, s | a responder, s | kubectl, s |
| ---: | --- | --- | --- | --- | --- |
`, r.began.UTC().Format(time.DateOnly), measure.Machine(), r.kubernetes, r.rounds)
	for _, s := range r.sizes {
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s |\n", s.pods, fine(s.upkeep), fine(s.empty), fine(s.above), fine(s.responder), fine(s.typed))
	}
	fmt.Fprintf(&b, `
- The goals above empty steps: 1 pod 0.150 s, 50 pods 1 s, 500 pods 5 s.
- ContainIncident has kept the before-image, taken away the labels by which policies, Services and controllers select
  the pods, and has looked who owns them. Times are of the run's history: its start, and the end of its step "Contain",
  which is number %d of its activities; as many that do nothing are the empty steps, on the same server.
- The responder does what such programs do: client-go as it comes (5 requests a second, 10 at first), pod after pod, read
  before it is written, all labels taken away and forgotten.
- kubectl is what a person types who knows it by heart: apply a policy, and give all pods one label more. What selects
  them by their other labels goes on to.

## Until a connection is blocked

A real pod is asked without a pause from another: the last answer came %s s after policies and labels were taken
(goal: 1 s).

## Evidence of 500 pods

| | pods a second | the worker's most memory, MiB |
| --- | --- | --- |
| ContainIncident: each pod's object and logs (%d KiB each), hashed, chained and stored (%s) | %s | %s |
| `+"`kubectl cluster-info dump`"+` to a folder, nothing hashed | %s | |

The goals: 100 pods a second, 128 MiB.
`, r.sizes[0].steps, fine(r.blocked), logSize>>10, r.items, measure.Spread(r.kept), measure.Spread(r.memory), measure.Spread(r.dumped))
	_, err := io.WriteString(w, b.String())
	return err
}

// fine is a spread with milliseconds.
func fine(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%.3f (%.3f to %.3f) [%d]", measure.Median(values), measure.Percentile(values, 0), measure.Percentile(values, 100), len(values))
}
