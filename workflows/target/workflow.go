// Package target is the workflow that stands for one target: it grants leases to the target's runs,
// takes them back from runs that are over, and says who waits for whom.
package target

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/runs"
	api "github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/lease"
)

const (
	// lookEvery is how often those who keep others waiting are looked at: a run that was ended from
	// outside gives nothing back by itself.
	lookEvery = time.Minute
	// maxLooked is how many are looked at each time.
	maxLooked = 50
	// maxListed is how many waiting leases Status lists.
	maxListed = 100
)

// entity is a target from one continuing as new to the next.
type entity struct {
	ctx   workflow.Context
	state api.State
	// asked: a lease has begun to wait, so those in its way are looked at now.
	asked bool
	// granted holders are to be told that they have what they waited for.
	granted []lease.Lease
}

// Workflow serves a target and continues as new, again and again; it does not end by itself.
func Workflow(ctx workflow.Context, state api.State) error {
	e := &entity{ctx: ctx, state: state}
	if err := e.listen(); err != nil {
		return err
	}
	released := workflow.GetSignalChannel(ctx, api.ReleaseSignal)
	workflow.Go(ctx, func(ctx workflow.Context) {
		var holder string
		for released.Receive(ctx, &holder) {
			e.release(holder)
		}
	})
	for !e.full() {
		if err := e.serve(); err != nil {
			return err
		}
	}
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return err
	}
	for holder := ""; released.ReceiveAsync(&holder); {
		e.release(holder) // what has come is not carried over by itself
	}
	e.tell()
	return workflow.NewContinueAsNewError(ctx, api.WorkflowType, e.state)
}

func (e *entity) listen() error {
	if err := workflow.SetQueryHandler(e.ctx, api.StatusQuery, func() (api.Status, error) { return e.status(), nil }); err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(e.ctx, api.AcquireUpdate,
		func(ctx workflow.Context, l lease.Lease) (api.Answer, error) {
			now := workflow.Now(ctx)
			granted, err := e.state.Book.Ask(l, now)
			if errors.Is(err, lease.ErrOtherClaims) { // left by an earlier run of that id: the newest knows what it needs
				e.release(l.Holder)
				granted, err = e.state.Book.Ask(l, now)
			}
			if err != nil {
				return api.Answer{}, temporal.NewNonRetryableApplicationError(err.Error(), "LeaseRefused", err)
			}
			e.asked = e.asked || !granted
			return api.Answer{Granted: granted, Why: e.state.Book.Why(l.Holder, now)}, nil
		},
		workflow.UpdateHandlerOptions{
			Description: "Ask for a lease. The answer says at once whether it is granted or waits.",
			Validator:   func(l lease.Lease) error { return l.Validate() },
		})
}

// serve waits until there is something to do, and does it.
func (e *entity) serve() error {
	due := func() bool { return e.asked || len(e.granted) > 0 || e.full() }
	if wait := e.nextLook(); wait == 0 {
		if err := workflow.Await(e.ctx, due); err != nil {
			return err
		}
	} else if _, err := workflow.AwaitWithTimeout(e.ctx, wait, due); err != nil {
		return err
	}
	e.asked = false
	e.lookForEnded()
	e.granted = append(e.granted, e.state.Book.Grant(workflow.Now(e.ctx))...) // the calendar may have opened
	e.tell()
	return nil
}

// full reports whether the history is long enough to continue as new.
func (e *entity) full() bool { return workflow.GetInfo(e.ctx).GetContinueAsNewSuggested() }

// nextLook is how long nothing needs to be looked at; 0: until somebody asks or releases.
func (e *entity) nextLook() time.Duration {
	now := workflow.Now(e.ctx)
	var wait time.Duration
	if len(e.state.Book.InTheWay(now, 1)) > 0 {
		wait = lookEvery
	}
	if opens := e.state.Book.NextOpening(now); !opens.IsZero() && (wait == 0 || opens.Sub(now) < wait) {
		wait = opens.Sub(now)
	}
	return wait
}

// lookForEnded takes back what runs that are over have left in the book.
func (e *entity) lookForEnded() {
	holders := e.state.Book.InTheWay(workflow.Now(e.ctx), maxLooked)
	if len(holders) == 0 {
		return
	}
	ctx := workflow.WithLocalActivityOptions(e.ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: 30 * time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 2},
		Summary: "Look whether those at work still run",
	})
	var ended []string
	if err := workflow.ExecuteLocalActivity(ctx, runs.EndedRuns, holders).Get(ctx, &ended); err != nil {
		workflow.GetLogger(e.ctx).Warn("could not look whether runs have ended; looks again later", "error", err)
		return
	}
	e.release(ended...)
}

func (e *entity) release(holders ...string) {
	e.granted = append(e.granted, e.state.Book.Release(workflow.Now(e.ctx), holders...)...)
}

// tell tells holders that they have what they waited for. One that is not there any more gives it back,
// and the next one may get it.
func (e *entity) tell() {
	for len(e.granted) > 0 {
		holder := e.granted[0].Holder
		e.granted = e.granted[1:]
		if err := workflow.SignalExternalWorkflow(e.ctx, holder, "", api.GrantedSignal, e.state.Target).Get(e.ctx, nil); err != nil {
			e.release(holder)
		}
	}
}

func (e *entity) status() api.Status {
	s := api.Status{Target: e.state.Target, Held: []lease.Lease{}, Waiting: []api.Waiting{}, AsOf: workflow.Now(e.ctx)}
	s.Held = append(s.Held, e.state.Book.Held...)
	for i, l := range e.state.Book.Waiting {
		if i == maxListed {
			s.More = len(e.state.Book.Waiting) - maxListed
			break
		}
		s.Waiting = append(s.Waiting, api.Waiting{Lease: l, Why: e.state.Book.Why(l.Holder, s.AsOf)})
	}
	return s
}
