package procedure

import (
	"errors"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
)

// HistoryIsLong reports whether the run should go on as another part.
func (r *Run) HistoryIsLong() bool { return workflow.GetInfo(r.ctx).GetContinueAsNewSuggested() }

// Again is the error by which a body ends this part of the run; the next begins with the given input. Each
// part leaves its trail, and the trail of the next begins with the head of it.
func (r *Run) Again(input any) error {
	return workflow.NewContinueAsNewError(r.ctx, r.doc.Procedure, input)
}

// part ends a part of a run that goes on. What it registered to undo or to tidy is the next part's.
func (r *Run) part(next error) error {
	ctx, _ := workflow.NewDisconnectedContext(r.ctx)
	r.ctx = ctx
	r.EndTurn()
	r.Say("goes on as another part: %s", r.doc.Summary)
	r.leave(run.Running)
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return err
	}
	r.show()
	return next
}

// continued reports whether an error says that the run goes on as another part.
func continued(err error) bool {
	var next *workflow.ContinueAsNewError
	return errors.As(err, &next)
}

// KeepSteps forgets all but the newest steps, in a run that takes steps for as long as it is there. The audit
// trail keeps them all.
func (r *Run) KeepSteps(steps int) {
	if more := len(r.doc.Steps) - steps; more > 0 {
		r.doc.Steps, r.began = r.doc.Steps[more:], r.began[more:]
	}
}

// Watch runs a step that waits for something outside, until that has come or the run is told to look: then
// it returns without a result.
func (r *Run) Watch(step Step, arg, result any, told func() bool) error {
	given := r.ctx
	ctx, stop := workflow.WithCancel(given)
	r.ctx = ctx
	defer func() { r.ctx = given }()
	workflow.Go(ctx, func(ctx workflow.Context) {
		if workflow.Await(ctx, told) == nil {
			stop()
		}
	})
	err := r.Do(step, arg, result)
	stop()
	if temporal.IsCanceledError(err) && given.Err() == nil {
		r.Mark(run.Pass, "told to look")
		return nil
	}
	return err
}

// Try runs a step once, and parks with nothing: what keeps it from being done is for the caller to judge.
func (r *Run) Try(step Step, arg, result any) error {
	at := r.begin(step)
	err := r.once(step, arg, result)
	if err != nil {
		r.finish(at, VerdictOf(err), describe(err).What)
		return err
	}
	r.finish(at, run.Pass, "")
	return nil
}

// Await waits until something holds, for so long at most, and reports whether it does.
func (r *Run) Await(most time.Duration, holds func() bool) (bool, error) {
	return workflow.AwaitWithTimeout(r.ctx, most, holds)
}

// Start starts another procedure, which goes its own way. While a run of that id goes on, there is no other.
func (r *Run) Start(procedure, id string, input any) error {
	return r.start(procedure, id, input, enumspb.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED)
}

// StartOnce is Start for what must not be started again when it is over, also not by a run that was reset.
func (r *Run) StartOnce(procedure, id string, input any) error {
	return r.start(procedure, id, input, enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE)
}

func (r *Run) start(procedure, id string, input any, reuse enumspb.WorkflowIdReusePolicy) error {
	ctx := workflow.WithChildOptions(r.ctx, workflow.ChildWorkflowOptions{WorkflowID: id, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON, WorkflowIDReusePolicy: reuse})
	return workflow.ExecuteChildWorkflow(ctx, procedure, input).GetChildWorkflowExecution().Get(r.ctx, nil)
}

// Parked says what the run waits for a person with; empty when it does not.
func (r *Run) Parked() string {
	if !r.parked {
		return ""
	}
	return r.doc.WaitingFor
}

// Nudge makes a parked run try again because of something that came from outside.
func (r *Run) Nudge(what string) {
	if !r.parked {
		return
	}
	r.choice = &decision{retry: true, by: run.Decision{By: what}}
	r.parked = false
	r.note(audit.Entry{Kind: audit.Decision, What: run.RetryUpdate, By: what})
}
