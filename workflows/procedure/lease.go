package procedure

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/lease"
)

const (
	// askAgainFirst and askAgainAtMost bound how often a run that waits for its turn asks how things
	// stand. It is told when its turn comes; asking keeps the reason up to date, and puts the run back
	// into a book that was lost.
	askAgainFirst  = time.Minute
	askAgainAtMost = time.Hour
)

// Share claims a resource together with others who share it.
func Share(resource string) lease.Claim { return lease.Claim{Resource: resource, Mode: lease.Shared} }

// Exclude claims a resource alone.
func Exclude(resource string) lease.Claim {
	return lease.Claim{Resource: resource, Mode: lease.Exclusive}
}

// Turn waits until the run may work on these resources of its target. They are its until it ends or
// takes another turn. A turn only orders runs; what a run does is safe without it.
func (r *Run) Turn(claims ...lease.Claim) error {
	r.EndTurn()
	r.inTurn = true // from now on there may be something to give back
	granted := workflow.GetSignalChannel(r.ctx, target.GrantedSignal)
	waits := -1
	for again := askAgainFirst; ; again = min(2*again, askAgainAtMost) {
		answer, err := r.ask(claims)
		if err == nil && !answer.Granted {
			if waits < 0 {
				waits = r.begin(Step{Name: "Wait for other runs of the target"})
			}
			r.doc.WaitingFor = answer.Why
			r.show()
			if err = r.waitFor(granted, again); err == nil {
				continue
			}
		}
		if waits >= 0 {
			r.doc.WaitingFor = ""
			r.finish(waits, map[bool]run.Verdict{true: run.Pass, false: run.NotProven}[err == nil], "")
		}
		return err
	}
}

// Reserve asks for these resources and does not wait for them: the run goes on, and others who would be in its
// way wait, once those at work have ended. They are its until it ends or takes a turn. What keeps the target's
// workflow from answering is only logged.
func (r *Run) Reserve(priority int, claims ...lease.Claim) {
	r.EndTurn()
	r.inTurn = true
	ctx, stop := workflow.WithCancel(r.ctx)
	r.unreserve = stop
	workflow.Go(ctx, func(ctx workflow.Context) {
		granted := workflow.GetSignalChannel(ctx, target.GrantedSignal)
		local := workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
			ScheduleToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 3}, Summary: "Ask that others who would be in the way wait",
		})
		in := runs.Request{Target: r.target.Name, Lease: lease.Lease{Holder: r.ID(), Claims: claims, Purpose: r.doc.Procedure, Priority: priority}}
		for again := askAgainFirst; ctx.Err() == nil; again = min(2*again, askAgainAtMost) {
			var answer target.Answer
			err := workflow.ExecuteLocalActivity(local, runs.AskLease, in).Get(ctx, &answer)
			if answer.Granted {
				return
			}
			if err != nil {
				workflow.GetLogger(ctx).Warn("others are not asked to wait; asks again later", "error", err)
			}
			workflow.NewSelector(ctx).
				AddReceive(granted, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) }).
				AddFuture(workflow.NewTimer(ctx, again), func(workflow.Future) {}).
				Select(ctx)
		}
	})
}

// waitFor waits for a signal, for so long at most; the error says that the run was cancelled.
func (r *Run) waitFor(signal workflow.ReceiveChannel, most time.Duration) error {
	ctx, stop := workflow.WithCancel(r.ctx)
	defer stop() // the timer too
	workflow.NewSelector(ctx).
		AddReceive(signal, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) }).
		AddFuture(workflow.NewTimer(ctx, most), func(workflow.Future) {}).
		Select(ctx)
	return r.ctx.Err()
}

// Urgent makes the run's turns independent of the target's calendar: an emergency waits for no window.
func (r *Run) Urgent() { r.urgent = true }

func (r *Run) calendar() calendar.Calendar {
	if r.urgent {
		return calendar.Calendar{}
	}
	return r.target.Calendar
}

// ask asks the target's workflow how the run's lease stands; what keeps it from answering is for a
// person to see to.
func (r *Run) ask(claims []lease.Claim) (answer target.Answer, err error) {
	ctx := workflow.WithLocalActivityOptions(r.ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: 5 * time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 45 * time.Second, MaximumAttempts: 12},
		Summary:                "Ask for the run's turn on the target",
	})
	in := runs.Request{Target: r.target.Name, Calendar: r.calendar(), Lease: lease.Lease{Holder: r.ID(), Claims: claims, Purpose: r.doc.Procedure}}
	for {
		err = workflow.ExecuteLocalActivity(ctx, runs.AskLease, in).Get(ctx, &answer)
		if err == nil || temporal.IsCanceledError(err) {
			return answer, err
		}
		e := describe(err)
		if failure.Class(e.Class) != failure.NeedsPerson {
			return answer, err
		}
		if err := r.park(e); err != nil {
			return answer, err
		}
	}
}

// EndTurn gives back what the run has a turn on. The target's workflow finds out by itself if it is
// not told.
func (r *Run) EndTurn() {
	if !r.inTurn {
		return
	}
	r.inTurn = false
	if r.unreserve != nil {
		r.unreserve()
		r.unreserve = nil
	}
	if err := workflow.SignalExternalWorkflow(r.ctx, target.ID(r.target.Name), "", target.ReleaseSignal, r.ID()).Get(r.ctx, nil); err != nil {
		workflow.GetLogger(r.ctx).Warn("the run's lease is not given back; it will be found", "error", err)
	}
}
