package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

const (
	// guardEvery is how often GuardContained looks.
	guardEvery = 10 * time.Second
	// maxNamed is how much of what was undone is named.
	maxNamed = 3
)

// GuardOrder is what is to stay as it is.
type GuardOrder struct {
	ContainOrder
	Done   quarantine.Contained `json:"done"`
	Access AccessOrder          `json:"access"`
	// Hold is for how long, from its beginning, it does not return with what was undone: who undoes it again and again
	// fills the run's history the more slowly.
	Hold time.Duration `json:"hold"`
}

// Guarded is what GuardContained had to do.
type Guarded struct {
	Done     quarantine.Contained `json:"done"`
	Withdrew quarantine.Withdrawn `json:"withdrew,omitzero"`
	Times    int                  `json:"times"` // something was undone; those that a worker saw which has ended meanwhile are not known
	What     string               `json:"what"`  // had been undone, at the first time
}

// GuardContained keeps the suspects cut off, and their accounts out of the bindings, for as long as it is let: it looks
// every few seconds, and does again what somebody has undone. It returns once it has, so that people get to know, or
// once it cannot. Done beside another it does the same; after the end of the case it does nothing, as Contain and
// Withdraw do.
func (a *Activities) GuardContained(ctx context.Context, in GuardOrder) (Guarded, error) {
	g := guard{Activities: a, order: in, out: Guarded{Done: in.Done, Withdrew: in.Access.Done}}
	for began := time.Now(); ; {
		undone, err := g.round(ctx)
		if err != nil {
			return g.out, err
		}
		if len(undone) > 0 {
			if g.out.Times++; g.out.Times == 1 {
				g.out.What = strings.Join(undone[:min(len(undone), maxNamed)], "; ")
				if n := len(undone) - maxNamed; n > 0 {
					g.out.What += fmt.Sprintf("; and %d more", n)
				}
			}
		}
		if g.out.Times > 0 && time.Since(began) >= in.Hold {
			return g.out, nil
		}
		progress.Report(ctx, progress.Progress{Phase: "keeping the suspects cut off", Note: fmt.Sprintf("undone %d times by others", g.out.Times)})
		select {
		case <-ctx.Done():
			return g.out, ctx.Err()
		case <-time.After(guardEvery):
		}
	}
}

// guard is one GuardContained at work.
type guard struct {
	*Activities
	order GuardOrder
	out   Guarded
	began bool     // it has looked once
	stuck []string // what is open and could not be closed
}

// round looks once, does again what was undone, and says what that was. What was open before it first looked, and
// cannot be closed, is said already.
func (g *guard) round(ctx context.Context) (undone []string, err error) {
	open, superseded, err := g.look(ctx)
	if err != nil {
		return nil, err
	}
	isStuck := func(what string) bool { return slices.Contains(g.stuck, what) }
	undone = slices.DeleteFunc(slices.Clone(open), isStuck)
	switch {
	case len(undone) > 0 && !superseded:
		done, err := g.Contain(ctx, g.order.ContainOrder)
		if err != nil {
			return nil, err
		}
		g.out.Done = done
		if g.stuck, _, err = g.look(ctx); err != nil {
			return nil, err
		}
	default:
		g.stuck = open
	}
	if !g.began {
		undone = slices.DeleteFunc(undone, isStuck)
	}
	g.began = true
	if superseded {
		return undone, nil
	}
	back, err := g.putBack(ctx)
	return append(undone, back...), err
}

// look says what of the case's pods is not cut off, and whether a later order than this holds: once the end of the
// case has begun, of which this is told a little later, nothing is done again.
func (g *guard) look(ctx context.Context) (open []string, superseded bool, err error) {
	_, w, err := g.order.look(ctx, g.Temporal)
	if err != nil {
		return nil, false, err
	}
	return quarantine.Open(w, g.order.Plan, g.out.Done), quarantine.Superseded(w, g.out.Done, g.order.Order), nil
}

// putBack takes the accounts out again of the bindings into which somebody has put them back, and says which.
func (g *guard) putBack(ctx context.Context) ([]string, error) {
	order := g.order.Access
	if !order.Asked || g.out.Withdrew.Undone() { // what could not be withdrawn is said already
		return nil, nil
	}
	c, err := order.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, err
	}
	back, err := quarantine.PutBack(ctx, c, g.out.Withdrew)
	if err != nil || len(back) == 0 {
		return nil, err
	}
	done, err := g.Withdraw(ctx, order)
	if err == nil {
		g.out.Withdrew = done
	}
	for i, binding := range back {
		back[i] = "somebody has put the accounts back into " + binding
	}
	return back, err
}
