package procedure

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Step is one activity of a run, as people see it.
type Step struct {
	Name     string // in words: "Compare the copy with the backup"
	Activity string // the activity type
	Options  Options
	Queue    string // the database queue when empty
	Whole    bool   // once begun, it is not cut off by a cancellation: it is done or it is not
}

// Do runs a step to its end. What a person can mend parks the run, which then waits until it is told
// to try again or to give up; any other error ends the step and is returned.
func (r *Run) Do(step Step, arg, result any) error {
	at := r.begin(step)
	for {
		err := r.once(step, arg, result)
		if err == nil {
			r.finish(at, run.Pass, "")
			return nil
		}
		e := describe(err)
		if failure.Class(e.Class) != failure.NeedsPerson || CopyLost(err) || temporal.IsCanceledError(err) {
			r.finish(at, VerdictOf(err), e.What)
			return err
		}
		if err := r.park(e); err != nil {
			r.finish(at, run.NotProven, e.What)
			return err
		}
	}
}

// GivenUp reports whether a step ended because a person gave the run up, or cancelled it.
func GivenUp(err error) bool {
	return errors.Is(err, errAbandoned) || temporal.IsCanceledError(err)
}

// Ask runs a step that only looks, also in a run that was given up or cancelled. It waits for nobody.
func (r *Run) Ask(step Step, arg, result any) error {
	given := r.ctx
	defer func() { r.ctx = given }()
	r.ctx, _ = workflow.NewDisconnectedContext(given)
	at := r.begin(step)
	err := r.once(step, arg, result)
	if err != nil {
		r.finish(at, run.NotProven, describe(err).What)
		return err
	}
	r.finish(at, run.Pass, "")
	return nil
}

// Left says what the run leaves over.
func (r *Run) Left(format string, args ...any) {
	r.doc.Left = append(r.doc.Left, fmt.Sprintf(format, args...))
}

// VerdictOf is the verdict of a check that ended with an error: wrong data is a FAIL, and what could
// not be done proves nothing.
func VerdictOf(err error) run.Verdict {
	if failure.Class(describe(err).Class) == failure.Damaged {
		return run.Fail
	}
	return run.NotProven
}

// Wait parks the run because of an error that its steps did not wait with. It returns nil when a
// person wants it tried again.
func (r *Run) Wait(err error) error { return r.park(describe(err)) }

// Prove runs a step that checks, and gives the step the verdict of its checks.
func (r *Run) Prove(step Step, arg any) (postgres.Proof, error) {
	var proof postgres.Proof
	if err := r.Do(step, arg, &proof); err != nil {
		return postgres.Proof{Verdict: VerdictOf(err)}, err
	}
	last := &r.doc.Steps[len(r.doc.Steps)-1]
	last.Verdict = proof.Verdict
	for _, c := range proof.Checks {
		if c.Verdict != run.Pass && (last.Detail == "" || c.Verdict == run.Fail) {
			last.Detail = limit(c.Name + ": " + c.Detail)
		}
	}
	r.Judge(proof.Verdict)
	return proof, nil
}

// Detail adds a sentence to the newest step.
func (r *Run) Detail(text string) {
	r.doc.Steps[len(r.doc.Steps)-1].Detail = limit(text)
}

// sharedQueues are those that any worker of their capability serves.
var sharedQueues = []string{run.DatabaseQueue, run.ClusterQueue, run.CodeQueue}

// Beside runs a step in a coroutine that ApproveBeside has begun, and in its context. It parks nobody.
func (r *Run) Beside(ctx workflow.Context, step Step, arg, result any) error {
	return r.onceIn(ctx, func() {}, step, arg, result) // the run is shown as waiting already
}

// once executes the step's activity one time, with the retries that its options allow.
func (r *Run) once(step Step, arg, result any) error {
	return r.onceIn(r.ctx, r.show, step, arg, result)
}

func (r *Run) onceIn(ctx workflow.Context, show func(), step Step, arg, result any) error {
	o := step.Options.activity()
	o.Summary = step.Name
	o.TaskQueue = step.Queue
	if o.TaskQueue == "" {
		o.TaskQueue = run.DatabaseQueue
	} else if !slices.Contains(sharedQueues, o.TaskQueue) { // that of one worker
		o.ScheduleToStartTimeout = workerReturnsWithin
	}
	if step.Whole {
		if err := ctx.Err(); err != nil {
			return err
		}
		ctx, _ = workflow.NewDisconnectedContext(ctx)
	}
	noted := audit.Entry{What: step.Name, Activity: step.Activity, Args: audit.HashOf(arg)}
	if step.Activity != store.WriteRun { // which writes the trail
		noted.Kind = audit.Intent
		r.note(noted)
	}
	show()
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), step.Activity, arg).Get(ctx, result)
	if step.Activity != store.WriteRun {
		noted.Kind = audit.Done
		if err != nil {
			noted.Code = describe(err).Code
		} else if result != nil {
			noted.Result = audit.HashOf(result)
		}
		r.note(noted)
	}
	return err
}

// park makes the run wait for a person. It returns nil to try again.
func (r *Run) park(e run.Error) error {
	r.doc.Outcome = run.Waiting
	r.doc.WaitingFor = e.What
	if e.Remedy != "" {
		r.doc.WaitingFor += "; to mend it: " + e.Remedy
	}
	r.parked, r.choice = true, nil
	r.show()
	err := workflow.Await(r.ctx, func() bool { return r.choice != nil })
	r.parked = false
	r.doc.Outcome, r.doc.WaitingFor = run.Running, ""
	switch {
	case err != nil:
		return err // cancelled
	case !r.choice.retry:
		r.abandon = &r.choice.by
		return errAbandoned
	}
	r.Say("tried again by %s", who(&r.choice.by))
	return nil
}

func (r *Run) begin(step Step) int {
	r.doc.Steps = append(r.doc.Steps, run.Step{Name: step.Name})
	r.began = append(r.began, workflow.Now(r.ctx))
	if !r.ending {
		r.doc.Summary = step.Name
		if r.alarm != "" {
			r.doc.Summary = r.alarm + "; now: " + step.Name
		}
	}
	return len(r.doc.Steps) - 1
}

func (r *Run) finish(at int, v run.Verdict, detail string) {
	s := &r.doc.Steps[at]
	s.Verdict = v
	s.Seconds = Seconds(workflow.Now(r.ctx).Sub(r.began[at]))
	if detail != "" {
		s.Detail = limit(detail)
	}
}

// Seconds is a duration in seconds, to the millisecond.
func Seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// limit bounds a text that goes into the document, which is kept with every change of it.
func limit(text string) string {
	const most = 400
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "..."
	}
	return text
}

// CopyLost reports whether a copy in a private scratch server is gone for good: its worker has not
// come back, or has come back without it.
func CopyLost(err error) bool {
	return workerGone(err) || err != nil && describe(err).Code == string(failure.CopyLost)
}

// HasCode reports whether an error, also one of an activity, is this one of the catalogue.
func HasCode(err error, code failure.Code) bool {
	return err != nil && describe(err).Code == string(code)
}

// workerGone reports whether a step never began because nobody served its queue.
func workerGone(err error) bool {
	var timeout *temporal.TimeoutError
	return errors.As(err, &timeout) && timeout.TimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START
}

// describe turns an activity's error into the document's. Whatever is not in the catalogue, and
// whatever was retried to the end, is for a person to look at.
func describe(err error) run.Error {
	if f, ok := failure.As(err); ok {
		return run.Error{Code: string(f.Code), Class: string(f.Class()), What: f.What, Remedy: f.Remedy}
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		var e run.Error
		if app.HasDetails() && app.Details(&e) == nil && e.Code != "" {
			if failure.Class(e.Class) == failure.Transient {
				e.Class = string(failure.NeedsPerson)
				if e.Remedy == "" {
					e.Remedy = "see the worker's log"
				}
				if !strings.Contains(e.Remedy, "resume") {
					e.Remedy += ", then resume the run"
				}
			}
			return e
		}
		return stillFailing(app.Message())
	}
	if temporal.IsCanceledError(err) {
		return stillFailing("cancelled")
	}
	if workerGone(err) {
		return stillFailing(fmt.Sprintf("the worker that holds the scratch server has not come back within %s", workerReturnsWithin))
	}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		return stillFailing(fmt.Sprintf("no worker finished the step in time (%s)", timeout.TimeoutType()))
	}
	return stillFailing(err.Error())
}

func stillFailing(what string) run.Error {
	return run.Error{Code: string(failure.StillFailing), Class: string(failure.NeedsPerson), What: what, Remedy: "see the worker's log, then resume the run"}
}

// Mark gives the newest step the verdict of what it found.
func (r *Run) Mark(v run.Verdict, detail string) {
	last := &r.doc.Steps[len(r.doc.Steps)-1]
	last.Verdict = v
	if detail != "" {
		last.Detail = limit(detail)
	}
}

// What says what an error is about, also one of an activity.
func What(err error) string { return describe(err).What }
