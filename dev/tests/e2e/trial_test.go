//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// trial is a procedure that has something to do, on what nobody else touches meanwhile. However its workers,
// its run or the cluster are hit, what holds checks must be so in the end.
type trial struct {
	stack            *harness.Stack
	procedure, input string
	// holds checks what the last run left; begun is how often one began, anew or from its beginning.
	holds func(t *testing.T, doc *run.Document, begun int)
	// look says how everything is that a stale twin must not touch.
	look func(t *testing.T) string
}

// start starts the run, and approves whatever it asks for until it has ended.
func (x trial) start(t *testing.T) string {
	t.Helper()
	id := x.stack.Start(t, x.procedure, x.input)
	go approving(t, x.stack, id)
	return id
}

// approving approves whatever plan a run, or the one that it has started for a restore, asks for.
func approving(t *testing.T, s *harness.Stack, id string) {
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for {
		for _, one := range []string{id, id + "-restore"} {
			doc, err := s.Starter.Show(t.Context(), one)
			if err == nil && one == id && doc.Outcome.Ended() {
				return
			}
			if err == nil && doc.AsksApproval() { // refused when somebody was faster, or no worker is there
				_ = s.Starter.DecideOnPlan(t.Context(), one, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "the test", Reason: "it must be"})
			}
		}
		select {
		case <-t.Context().Done():
			return
		case <-look.C:
		}
	}
}

// armed starts a worker that is killed or frozen at a point: "helm/hook/after:kill:2".
func (x trial) armed(t *testing.T, point string) workers {
	t.Helper()
	return serve(t, x.stack, "first", "UPKEEP_FAULT=point="+point)
}

// frozen waits until a worker is frozen.
func frozen(t *testing.T, w workers) {
	t.Helper()
	require.NoError(t, until(harness.Patience, func() error {
		if !w.Frozen() {
			return fmt.Errorf("the point is not reached")
		}
		return nil
	}))
}

// killed kills the worker at a point, and lets another go on.
func (x trial) killed(t *testing.T, point string) {
	t.Helper()
	first := x.armed(t, at(point, "kill"))
	id := x.start(t)
	require.NoError(t, until(harness.Patience, func() error {
		select {
		case <-first.Done():
			return nil
		default:
			return fmt.Errorf("the point is not reached")
		}
	}))
	serve(t, x.stack, "next")
	x.holds(t, x.stack.Await(t, id), 1)
}

// doubled freezes the worker at a point until another has done it all, and wakes it up: it changes nothing.
func (x trial) doubled(t *testing.T, point string) {
	t.Helper()
	first := x.armed(t, at(point, "stop"))
	id := x.start(t)
	frozen(t, first)
	serve(t, x.stack, "next")
	x.holds(t, x.stack.Await(t, id), 1)
	x.wakes(t, first)
}

// wakes wakes a frozen worker up and compares what is there before with what is there when it has given up.
func (x trial) wakes(t *testing.T, twin workers) {
	t.Helper()
	log := filepath.Join(x.stack.Dir, "first.log")
	had, err := os.ReadFile(log)
	require.NoError(t, err)
	is := x.look(t)
	twin.Continue()
	require.NoError(t, until(time.Minute, func() error {
		said, err := os.ReadFile(log)
		said = said[min(len(said), len(had)):] // the log may have what others before it said
		if err == nil && !strings.Contains(string(said), "Activity error") && !strings.Contains(string(said), "Task processing failed with error") {
			err = fmt.Errorf("the twin has not come to its end")
		}
		return err
	}))
	// What it had made when it found out is taken back, and what it says first may be of something else.
	var now string
	_ = until(30*time.Second, func() error {
		if now = x.look(t); now != is {
			return fmt.Errorf("it is another")
		}
		return nil
	})
	require.Equal(t, is, now, "the twin changes nothing")
}

// pressed terminates or resets the run at a point. A new run, or the same from its beginning, takes over
// beside the twin of the one that nobody waits for any more.
func (x trial) pressed(t *testing.T, how, point string) {
	t.Helper()
	first := x.armed(t, at(point, "stop"))
	id := x.start(t)
	frozen(t, first)
	if how == "reset" {
		x.stack.Reset(t, id)
		go approving(t, x.stack, id)
	} else {
		require.NoError(t, x.stack.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
		id = x.start(t)
	}
	serve(t, x.stack, "next")
	first.Continue()
	x.holds(t, x.stack.Await(t, id), 2)
}

// at puts what is done at a point between its name and the number of its hit.
func at(point, what string) string {
	name, hit, several := strings.Cut(point, ":")
	if several {
		hit = ":" + hit
	}
	return name + ":" + what + hit
}

// every hits each point of a list, or of its sample, in lanes side by side.
func every(t *testing.T, all, sample []string, hit func(t *testing.T, point string)) {
	t.Helper()
	for _, point := range harness.Choose(t, all, sample) {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			hit(t, point)
		})
	}
}

// long reports whether the tests that take minutes are asked for.
func long() bool { return os.Getenv("FAILPOINTS") != "" }
