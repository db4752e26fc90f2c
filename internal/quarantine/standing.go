package quarantine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/prober"
)

const (
	// answeredWithin is how old an answer may be, at the containment, by which a port is known to listen.
	answeredWithin = 5 * time.Minute
	// settleTries is how often in a row a port must be silent.
	settleTries = 2
)

// Variables only for tests, which have less time.
var (
	// standingWithin is how long is waited until a standing prober has tried the suspects' ports.
	standingWithin = 15 * time.Second
	// askEvery is how often it is asked meanwhile.
	askEvery = time.Second
)

// Standing is what a standing prober knows of suspects, and what it found after they were cut off. A nil one is none.
type Standing struct {
	pod string
	ask func(ctx context.Context, pod string) (prober.Answer, error)

	suspects map[types.UID]bool
	since    int64 // the time of its first answer, and the oldest at which a port may have answered last
	oldest   int64
	last     prober.Answer
	why      string // why it says nothing
}

// FindStanding finds the standing prober of the target's namespace; nil: none is configured.
func FindStanding(w World, plan Plan, p netcheck.Prober, home string) *Standing {
	if p.Standing == "" {
		return nil
	}
	s := &Standing{pod: prober.Pod(p.Standing)}
	pod, err := prober.Find(w.Pods, home, p.Standing, p.Image)
	switch {
	case err != nil:
		s.why = err.Error()
	case plan.suspects(pod):
		s.why = "it is a suspect itself"
	}
	return s
}

// Words say whether there is one.
func (s *Standing) Words() string {
	switch {
	case s == nil:
		return ""
	case s.why != "":
		return "the standing prober could not be asked: " + s.why
	}
	return "the standing prober, pod " + s.pod + ", is there and ready"
}

// Begin asks it for the first time, now that the suspects are cut off; cut says for how long they have been.
func (s *Standing) Begin(ctx context.Context, done Contained, home string, cut time.Duration, ask func(ctx context.Context, pod string) (prober.Answer, error)) {
	if s == nil || s.why != "" {
		return
	}
	s.suspects = make(map[types.UID]bool)
	for _, image := range done.Pods {
		if image.Namespace == home {
			s.suspects[image.UID] = true
		}
	}
	s.ask = ask
	first, err := s.ask(ctx, s.pod)
	if err != nil {
		s.why = err.Error()
		return
	}
	s.since, s.last = first.At, first
	s.oldest = first.At - (answeredWithin + max(0, cut)).Milliseconds()
}

// End waits until it has tried what it knows of the suspects, for so long and no longer.
func (s *Standing) End(ctx context.Context) {
	if s == nil || s.why != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, standingWithin)
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		answer, err := s.ask(ctx, s.pod)
		switch {
		case err == nil && answer.At < s.since:
			s.why = "it has begun anew meanwhile, and knows nothing of before"
			return
		case err == nil:
			s.last = answer
			if !slices.ContainsFunc(answer.Ports, func(p prober.Port) bool { return s.suspects[p.Pod] && !s.settled(p) }) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err != nil && s.last.At == s.since { // it has not said anything since
				s.why = err.Error()
			}
			return
		}
	}
}

// settled reports whether another try of a port would show nothing new.
func (s *Standing) settled(p prober.Port) bool {
	return p.Tried > s.since && p.Silent >= settleTries
}

// cut reports whether a suspect's port is seen to be cut off: it answered before, and does not now.
func (s *Standing) cut(pod types.UID, to netip.AddrPort) bool {
	if s == nil || s.why != "" {
		return false
	}
	return slices.ContainsFunc(s.last.Ports, func(p prober.Port) bool {
		return p.Pod == pod && p.To == to && s.settled(p) && p.Answered > 0 && p.Answered >= s.oldest
	})
}

// reached are the suspects' ports that answer it still.
func (s *Standing) reached() (all []netip.AddrPort) {
	if s == nil || s.why != "" {
		return nil
	}
	for _, p := range s.last.Ports {
		if s.suspects[p.Pod] && p.Tried > s.since && p.Reached() {
			all = append(all, p.To)
		}
	}
	return all
}

// remark says what of it has to be known besides.
func (s *Standing) remark() string {
	switch {
	case s == nil:
		return ""
	case s.why != "":
		return "; " + s.Words()
	case s.last.Over > 0:
		return fmt.Sprintf("; the standing prober tries %d ports, and leaves out %d", prober.MaxPorts, s.last.Over)
	}
	return ""
}
