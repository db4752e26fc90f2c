package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/pace"
	"github.com/upkeep-run/upkeep/internal/recovery"
)

// lookEvery is the most that passes between looks at what is waited for.
const lookEvery = time.Second

// Roll restarts a consumer, once for each new password whoever asks for it, and waits until it runs as it
// should.
func (s Secrets) Roll(ctx context.Context, o Order, c Consumer, wait time.Duration, tell func(string)) error {
	p, err := s.ours(ctx, o)
	if err != nil {
		return err
	}
	err = s.roll(ctx, o, c, rollKey(p.object.UID, "on"), func(n *note) bool { return !n.State.over() })
	if err != nil {
		return err
	}
	return s.ready(ctx, c, wait, tell)
}

// RollBack restarts the consumers once more, when the programs' Secret has held the new password and has the
// old one again. It goes on after one that fails.
func (s Secrets) RollBack(ctx context.Context, o Order, consumers []Consumer, wait time.Duration, tell func(string)) (err error) {
	_, n, err := s.programs(ctx, o)
	if failure.Is(err, failure.PlanVoid) {
		return nil // a later run's
	}
	if err != nil || n == nil || !n.At.Equal(o.Order.At) || n.State != Undone || !n.Changed {
		return err
	}
	for _, c := range consumers {
		failed := s.roll(ctx, o, c, rollKey(n.Pending, "off"), func(n *note) bool { return n.State == Undone })
		if failure.Is(failed, failure.PlanVoid) { // it was made anew meanwhile, with what the Secret has
			continue
		}
		if failed == nil {
			failed = s.ready(ctx, c, wait, tell)
		}
		err = errors.Join(err, failed)
	}
	return err
}

// rollKey names a restart: the same over attempts, resets and runs that take over the pending value.
func rollKey(pending types.UID, way string) string { return "rotate/" + string(pending) + "/" + way }

// roll restarts one. The workload is read before the Secret, so that whoever has come later is either seen
// on the Secret or has changed the workload, whose generation is a precondition of the restart.
func (s Secrets) roll(ctx context.Context, o Order, c Consumer, key string, wanted func(*note) bool) error {
	seen, _, err := health.See(ctx, s.Cluster, c.Kind, c.Name)
	if failure.Is(err, failure.MissingObject) {
		return void("%s is gone", c.Ref)
	}
	if err != nil {
		return err
	}
	if seen.Paused || seen.OnDelete {
		return failure.New(failure.LockHeld, "the pods of %s are not replaced by a restart: its rollouts are paused, or left to a person", c.Ref).
			Do("let them go on (kubectl rollout resume), or delete its pods, then resume the run")
	}
	_, n, err := s.programs(ctx, o)
	if err != nil {
		return err
	}
	if n == nil || !n.At.Equal(o.Order.At) || !wanted(n) {
		return void("Secret %s is not as this run has made it", o.Entry.Secret)
	}
	err = recovery.Act(ctx, s.Cluster, "", recovery.Step{
		Rung: recovery.Rollout, Kind: c.Kind, Workload: c.Name, UID: string(c.UID), Generation: seen.Generation,
	}, key, manager, func(string) {})
	if failure.Is(err, failure.PlanVoid) && seen.UID == string(c.UID) { // scaled in this very moment: it is looked at again
		return failure.New(failure.ObjectConflict, "%s was changed while it was to be restarted", c.Ref).Do("see who changes it (kubectl get -o yaml --show-managed-fields)")
	}
	return err
}

// ready waits until a workload runs all that it should, of its newest revision.
func (s Secrets) ready(ctx context.Context, c Consumer, wait time.Duration, tell func(string)) error {
	for began := time.Now(); ; {
		seen, _, err := health.See(ctx, s.Cluster, c.Kind, c.Name)
		if f, known := failure.As(err); err != nil && (!known || f.Class() != failure.Transient) {
			return err
		}
		lacks := "it cannot be looked at"
		if err == nil {
			if lacks = seen.Lacks(); lacks == "" {
				return nil
			}
		}
		if time.Since(began) > wait {
			return failure.New(failure.NotReady, "%s does not come up with the password that it was restarted for: %s", c.Ref, lacks).
				Do("see why (kubectl describe pod, kubectl logs --previous)")
		}
		tell(fmt.Sprintf("%s: %s", c.Ref, lacks))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pace.Next(began, lookEvery)):
		}
	}
}
