package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/starter"
)

const (
	// seenFor is how long callers are to see the harm before a way begins.
	seenFor = time.Second
	// calmFor is how long they are to see none before it counts as over.
	calmFor = 3 * time.Second
)

// found is what one way did in one round. Seconds are since it was ordered.
type found struct {
	harmed bool     // callers saw something wrong, before or while it worked
	served moment   // callers have had only right answers since
	whole  moment   // all that the service should have of pods is ready, and made of what it was
	ended  float64  // its own end
	outage float64  // from the first answer that was not right to served
	seen   seen     // by callers, from the harm on
	err    error    // it did not succeed, by its own account
	left   []string // what is not as it was
	notes  []string
	beside int // databases that it keeps
}

// moment is when something came to be so, in seconds; or it did not.
type moment struct {
	is      bool
	seconds float64
}

// results are what was measured, and on what.
type results struct {
	options
	began     time.Time
	done      int // rounds
	machine   []string
	scenarios []*scenario
	found     map[string][]found // by scenario and way
}

func (r *results) of(s *scenario, w way) []found { return r.found[s.name+"/"+w.name] }

// describe notes the machine and the versions of everything.
func (r *results) describe(ctx context.Context, f *field) error {
	r.found = make(map[string][]found)
	version, err := measure.VersionOf(ctx, f.worker)
	if err != nil {
		return err
	}
	r.machine = append(r.machine, measure.Machine(), version)
	for _, p := range f.places {
		more, err := p.versions(ctx)
		r.machine = append(r.machine, more...)
		return err // they are all alike
	}
	return nil
}

// measure runs every round of every scenario, the ways in turns too, and tells after each round.
func (r *results) measure(ctx context.Context, f *field) error {
	for i := range r.rounds {
		for _, s := range r.scenarios {
			measure.Say("%s: round %d of %d", s.title, i+1, r.rounds)
			for j := range s.ways {
				w := s.ways[(i+j)%len(s.ways)] // who comes first changes
				one, err := try(ctx, f, s, w)
				if err != nil && ctx.Err() == nil {
					measure.Say("    %s: %v; once more", w.name, err)
					one, err = try(ctx, f, s, w)
				}
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.title, w.name, err)
				}
				key := s.name + "/" + w.name
				r.found[key] = append(r.found[key], one)
			}
		}
		r.done = i + 1
		if r.out == "" && r.done < r.rounds {
			continue
		}
		if err := measure.Write(r.out, r.write); err != nil {
			return err
		}
	}
	return nil
}

// try does the harm and lets one way put it right.
func try(ctx context.Context, f *field, s *scenario, w way) (one found, err error) {
	p := f.places[s.size.name]
	if err := p.repair(ctx, f); err != nil {
		return one, err
	}
	if s.proven {
		if _, err := f.upkeep.Succeed(ctx, starter.Order{Procedure: recoverservice.WorkflowType, Target: p.size.name}); err != nil {
			return one, err
		}
	}
	p.prober.forget()
	harmed, traces := time.Now(), int64(p.size.traces)
	if s.harm != nil {
		if err := s.harm(f, p); err != nil {
			return one, err
		}
		if err := p.prober.steady(ctx, traces, false, seenFor, time.Minute); err != nil {
			return one, fmt.Errorf("the harm is not seen: %w", err)
		}
	}
	watch := p.watch()
	defer func() { watch.stop(); <-watch.done }()
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ordered := time.Now()
	t := w.take(within, f, p)
	ended := time.Now()
	if ctx.Err() != nil {
		return one, errors.Join(t.err, ctx.Err())
	}
	one.ended, one.err, one.notes = ended.Sub(ordered).Seconds(), t.err, t.notes
	calm := p.prober.steady(ctx, traces, true, calmFor, f.patience)
	for calm == nil && watch.since().IsZero() && time.Since(ended) < f.patience {
		time.Sleep(100 * time.Millisecond)
	}
	one.seen = judge(p.prober.since(harmed), traces)
	one.harmed = !one.seen.bad.IsZero()
	if one.harmed && calm == nil {
		one.served = moment{true, one.seen.served.Sub(ordered).Seconds()}
		one.outage = one.seen.served.Sub(one.seen.bad).Seconds()
	}
	if at := watch.since(); !at.IsZero() {
		one.whole = moment{true, max(0, at.Sub(ordered).Seconds())}
	}
	now, err := p.look()
	if err != nil {
		return one, err
	}
	one.left, one.beside = now.differences(p.before), len(now.databases)
	one.tell(w, t)
	return one, nil
}

// tell says what was found to whoever watches.
func (one found) tell(w way, t taken) {
	verdict := "all as it was"
	if len(one.left) > 0 {
		verdict = strings.Join(one.left, "; ")
	}
	measure.Say("    %-52s served %s, whole %s, its end %5.1f s; %d calls failed, %d without the data; %s",
		w.name, one.when(one.served), one.when(one.whole), one.ended, one.seen.failed, one.seen.wrong, verdict)
	for _, note := range one.notes {
		measure.Say("        %s", note)
	}
	if one.err != nil {
		measure.Say("        it ended with: %v: %s", one.err, lastLine(t.text))
	}
	var steps []string
	for _, s := range t.steps {
		steps = append(steps, fmt.Sprintf("%s %.2f", s.Name, s.Seconds))
	}
	if len(steps) > 0 {
		measure.Say("        %s", strings.Join(steps, ", "))
	}
}

func (one found) when(m moment) string {
	switch {
	case m.is:
		return fmt.Sprintf("%5.1f s", m.seconds)
	case one.harmed:
		return "  never"
	}
	return " always"
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
