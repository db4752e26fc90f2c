package helm

import (
	"context"
	"time"

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

// clear clears a lock, and waits for a hook that still runs.
func (a *Activities) clear(ctx context.Context, r *helmrelease.Release, order helmrelease.ClearOrder) error {
	order.Attempt, order.By, order.Beat, order.Patience, order.WaitForHooks = a.Attempt, "Upkeep", beat(ctx), ownWithin, true
	return r.Clear(ctx, order)
}
