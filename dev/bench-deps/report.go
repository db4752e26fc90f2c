package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
)

// results are what was measured, and on what.
type results struct {
	options
	began        time.Time
	done         int
	machine      []string
	repositories []*repository
}

// describe notes the machine and the versions of everything.
func (r *results) describe(ctx context.Context) error {
	r.machine = append(r.machine, measure.Machine())
	upkeep, err := measure.VersionOf(ctx, r.upkeep, "--version")
	if err != nil {
		return err
	}
	var renovate struct{ Version string }
	text, err := os.ReadFile(filepath.Join(r.renovate, "node_modules", "renovate", "package.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &renovate); err != nil {
		return err
	}
	node, err := measure.VersionOf(ctx, "node", "--version")
	if err != nil {
		return err
	}
	r.machine = append(r.machine, upkeep, "Renovate "+renovate.Version+" on Node "+node)
	return nil
}

// tell writes what was found so far.
func (r *results) tell() error {
	if r.out == "" && r.done < r.rounds {
		return nil
	}
	return measure.Write(r.out, r.write)
}

func (r *results) write(out io.Writer) error {
	w := &errorWriter{w: out}
	w.printf(`# Benchmarks of the look-up of dependencies

Written by `+"`make bench-deps`"+` on %s: do not edit. `+"`upkeep updates --advisories off --age 0`"+` and Renovate
(`+"`--platform=local --dry-run=lookup`"+`, with patches apart from minors) look the same repositories up in the same
registries, in turns; rounds: %d. Cold is without any cache, warm is right after it. Figures are medians, with the
least and the most behind; a ratio is the median of the rounds' ratios. The network has a part in them: make your own.

"Recorded" is the same repository with a registry on this machine that gives what the real ones have said, each answer
after %s: compressed, with an ETag and five minutes to be kept, npm's documents abbreviated for who asks for that.
The registries that are configured where this was run may do none of that, and then Renovate, which goes by what a
registry says of how long an answer holds, has nothing to keep of npm's.

`, r.began.UTC().Format("2 January 2006"), r.done, latency)
	for _, m := range r.machine {
		w.printf("- %s\n", m)
	}
	w.printf("\n## What was to be reached\n\n| what | goal | found | |\n| --- | --- | --- | --- |\n")
	for _, p := range r.repositories {
		w.goal(p.name+", cold, faster than Renovate", 5, ratios(p.renovateCold, p.upkeepCold, seconds))
		w.goal(p.name+", warm, faster than Renovate", 10, ratios(p.renovateWarm, p.upkeepWarm, seconds))
		w.goal(p.name+", cold, less memory than Renovate", 3, ratios(p.renovateCold, p.upkeepCold, memory))
		w.goal(p.name+", warm, less memory than Renovate", 3, ratios(p.renovateWarm, p.upkeepWarm, memory))
		missing := 0
		for _, d := range p.differences() {
			if d.missing {
				missing++
			}
		}
		share := 100 * float64(missing) / float64(max(1, len(p.theirs)))
		w.printf("| %s, updates of Renovate that Upkeep does not propose | under 1%%, or explained | %.1f%% (%d of %d) | %s |\n", p.name, share, missing, len(p.theirs), reached(share < 1 || p.explained()))
	}
	for _, p := range r.repositories {
		p.write(w)
	}
	return w.err
}

func (p *repository) explained() bool {
	return !slices.ContainsFunc(p.differences(), func(d difference) bool { return strings.HasPrefix(d.why, "**") })
}

func (p *repository) write(w *errorWriter) {
	w.printf("\n## The repository \"%s\": %d dependencies\n\n| | seconds | CPU seconds | memory, MiB |\n| --- | --- | --- | --- |\n", p.name, p.dependencies)
	for _, row := range []struct {
		name string
		runs []run
	}{{"Upkeep, cold", p.upkeepCold}, {"Renovate, cold", p.renovateCold}, {"Upkeep, warm", p.upkeepWarm}, {"Renovate, warm", p.renovateWarm}} {
		w.printf("| %s | %s | %s | %s |\n", row.name, spread(row.runs, seconds, "%.2f"), spread(row.runs, func(r run) float64 { return r.cpu }, "%.1f"), spread(row.runs, memory, "%.0f"))
	}
	same := 0
	for u := range p.ours {
		if p.theirs[u] {
			same++
		}
	}
	differences := p.differences()
	w.printf("\nUpkeep proposes %d updates, Renovate %d; %d are the same.", len(p.ours), len(p.theirs), same)
	if len(differences) == 0 {
		w.printf("\n")
		return
	}
	w.printf(" Every difference:\n\n| dependency | type | version | only | why |\n| --- | --- | --- | --- | --- |\n")
	for _, d := range differences {
		who := "Upkeep"
		if d.missing {
			who = "Renovate"
		}
		w.printf("| %s | %s | %s | %s | %s |\n", d.name, d.kind, d.version, who, measure.Cell(d.why))
	}
}

func seconds(r run) float64 { return r.seconds }

func memory(r run) float64 { return float64(r.rss) / (1 << 20) }

func values(runs []run, of func(run) float64) []float64 {
	all := make([]float64, len(runs))
	for i, r := range runs {
		all[i] = of(r)
	}
	return all
}

func spread(runs []run, of func(run) float64, format string) string {
	v := values(runs, of)
	return fmt.Sprintf(format+" ("+format+" to "+format+")", measure.Median(v), slices.Min(v), slices.Max(v))
}

// ratios is the median of what two make round by round.
func ratios(of, to []run, what func(run) float64) float64 {
	return measure.Ratio(values(of, what), values(to, what))
}

// errorWriter remembers the first error.
type errorWriter struct {
	w   io.Writer
	err error
}

func (w *errorWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}

func (w *errorWriter) goal(what string, times, found float64) {
	w.printf("| %s | at least %g× | %.1f× | %s |\n", what, times, found, reached(found >= times))
}

func reached(yes bool) string {
	if yes {
		return "reached"
	}
	return "**missed**"
}
