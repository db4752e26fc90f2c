package helm

import (
	"context"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
)

// ownWithin is how long an attempt that nobody waits for any more may still renew its lease on a release:
// its worker learns of that with its next heartbeat.
const ownWithin = 30 * time.Second

// TakeOver takes away the lock that another run of Upkeep has left on a release. An attempt that still works
// is not touched (ReleaseBusy); a hook that still runs is waited for.
func (a *Activities) TakeOver(ctx context.Context, in TakeOverOrder) error {
	_, r, err := in.open(ctx)
	if err != nil {
		return err
	}
	return a.clear(ctx, r, helmrelease.ClearOrder{
		Revision: in.Lock.Revision, Record: in.Lock.Record, Operation: in.Operation, Why: "a run that had begun it goes on with it no more",
	})
}

// clear clears a lock. Whoever renews the lease is given time to learn that nobody waits for him any more.
func (a *Activities) clear(ctx context.Context, r *helmrelease.Release, order helmrelease.ClearOrder) error {
	order.Attempt, order.By, order.Beat, order.WaitForHooks = a.Attempt, "Upkeep", beat(ctx), true
	for until := time.Now().Add(ownWithin); ; {
		err := r.Clear(ctx, order)
		if !failure.Is(err, failure.ReleaseBusy) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
