// Package procedure is what every procedure shares: strict input, steps that are shown while they
// run, parking until a person has mended what stopped a step, compensations, outcomes, and the
// document and report that a run leaves. It is workflow code: no I/O, no clock, no configuration.
package procedure

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/retention"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Run is one run of a procedure.
type Run struct {
	ctx    workflow.Context
	doc    run.Document
	began  []time.Time // of the document's steps
	target configuration.Resolved

	urgent bool // no calendar keeps it waiting
	inTurn bool // there may be a lease to give back
	// unreserve stops asking for a lease that is not waited for.
	unreserve workflow.CancelFunc
	parked    bool
	asks      bool      // for a decision on the plan in the document
	choice    *decision // what a person said since the run parked
	undo      []cleanup
	always    []cleanup
	verdict   run.Verdict
	ending    bool            // the summary is final
	alarm     string          // what the summary begins with until then
	abandon   *run.Decision   // who gave the run up
	trail     audit.Chain     // of what it meant to do and did
	plans     []string        // hashes of those that it stored
	covered   *run.Checkpoint // over the trail, once it is written
}

// decision is what a person said of a parked run.
type decision struct {
	retry bool
	by    run.Decision
}

// cleanup is a step that undoes or tidies.
type cleanup struct {
	step Step
	arg  any // comparable
}

// errAbandoned ends a run that a person gave up.
var errAbandoned = errors.New("abandoned")

// Input is the input of a procedure that embeds run.Common.
type Input[In any] interface {
	*In
	CommonFields() *run.Common
}

// Execute runs a procedure from its raw input to its document; body does the work. Temporal drops
// arguments that a workflow does not take, so a second one is taken, to be refused.
func Execute[In any, P Input[In]](ctx workflow.Context, name string, raw, second converter.RawValue, body func(*Run, In) error) (*run.Document, error) {
	info := workflow.GetInfo(ctx)
	r := &Run{ctx: ctx, verdict: run.Pass, doc: run.Document{
		RunID: info.WorkflowExecution.ID, Procedure: name, Outcome: run.Running, Summary: "starting", Steps: []run.Step{}, Result: json.RawMessage("{}"),
	}}
	if err := r.listen(); err != nil {
		return nil, err
	}
	var in In
	err := decode(raw, &in)
	if err == nil && second.Payload() != nil {
		err = failure.New(failure.BadInput, "there is more than one input").Do("give all fields in one JSON object")
	}
	if err == nil {
		c := P(&in).CommonFields()
		r.doc.Target, r.doc.DryRun = c.Target, c.DryRun
		err = r.resolve(c.Target)
	}
	if err == nil {
		err = body(r, in)
	}
	if continued(err) {
		return nil, r.part(err)
	}
	return r.end(err)
}

// decode reads the input strictly. Temporal's own converter would drop a field that it does not know,
// and "dry_run" would run for real.
func decode(raw converter.RawValue, into any) error {
	payload := raw.Payload()
	if payload == nil {
		return nil // no input at all: the defaults
	}
	switch encoding := string(payload.GetMetadata()[converter.MetadataEncoding]); encoding {
	case converter.MetadataEncodingNil:
		return nil
	case converter.MetadataEncodingJSON:
		return strictjson.Decode(payload.GetData(), into)
	default:
		return failure.New(failure.BadInput, "the input is encoded as %.40q", encoding).Do("give the input as JSON (json/plain)")
	}
}

// listen registers the query and the updates, before anything can block.
func (r *Run) listen() error {
	if err := workflow.SetQueryHandler(r.ctx, run.StatusQuery, func() (run.Document, error) { return r.doc, nil }); err != nil {
		return err
	}
	if err := r.onDecision(run.RetryUpdate, true); err != nil {
		return err
	}
	if err := r.onDecision(run.AbandonUpdate, false); err != nil {
		return err
	}
	if err := r.onPlan(run.ApproveUpdate, run.Approved); err != nil {
		return err
	}
	return r.onPlan(run.RejectUpdate, run.Rejected)
}

func (r *Run) onDecision(name string, retry bool) error {
	return workflow.SetUpdateHandlerWithOptions(r.ctx, name,
		func(_ workflow.Context, d run.Decision) error {
			r.choice = &decision{retry: retry, by: d}
			r.parked, r.asks = false, false
			r.note(audit.Entry{Kind: audit.Decision, What: name, By: d.By, Reason: d.Reason})
			return nil
		},
		workflow.UpdateHandlerOptions{
			Description: map[bool]string{true: "Try the step again that the run waits with.", false: "Give the waiting run up and undo what it did."}[retry],
			Validator: func(d run.Decision) error {
				if len(d.By) > maxDecision || len(d.Reason) > maxDecision { // an entry of the trail must stay readable
					return fmt.Errorf("who (by) and why (reason) have at most %d bytes each", maxDecision)
				}
				if r.asks && retry {
					return errors.New("the run waits for a decision on its plan: approve or reject it")
				}
				if !r.parked && !r.asks {
					return fmt.Errorf("the run is not waiting for anybody: it is %s", r.doc.Outcome)
				}
				return nil
			},
		})
}

// resolve learns what the target is from the worker's configuration.
func (r *Run) resolve(name string) error {
	err := r.Do(Step{Name: "Read the target's configuration", Activity: configuration.ResolveTarget, Options: Quick}, configuration.Request{Target: name}, &r.target)
	if err != nil {
		return err
	}
	r.doc.Target = r.target.Name
	if r.target.AttributeWhy != "" {
		r.Detail("without search attributes: " + r.target.AttributeWhy)
	}
	return nil
}

// ID is the run's id, which is the workflow's.
func (r *Run) ID() string { return r.doc.RunID }

// Target is the target, as the worker's configuration had it when the run began.
func (r *Run) Target() postgres.Target { return r.target.Target }

// Kubernetes says where in a cluster the target is; nil when it is in none.
func (r *Run) Kubernetes() *config.Kubernetes { return r.target.Kubernetes }

// Rollout says how the target's release is upgraded; nil when the configuration does not say.
func (r *Run) Rollout() *config.Rollout { return r.target.Rollout }

// Repositories are those of the target whose dependencies are kept up to date.
func (r *Run) Repositories() []config.Repository { return r.target.Repositories }

// Other is another target, as the worker's configuration has it now.
func (r *Run) Other(name string) (other configuration.Resolved, err error) {
	err = r.Do(Step{Name: "Read the configuration of target " + name, Activity: configuration.ResolveTarget, Options: Quick}, configuration.Request{Target: name}, &other)
	return other, err
}

// Secrets are the passwords of the target that are known to be rotatable.
func (r *Run) Secrets() []rotation.Entry { return r.target.Secrets }

// Retention says which backups of the target are kept.
func (r *Run) Retention() retention.Policy { return r.target.Retention }

// DryRun says whether the run ends with its plan.
func (r *Run) DryRun() bool { return r.doc.DryRun }

// Key names the run in the world outside: the same over attempts, restarts of workers, and resets.
func (r *Run) Key() string {
	info := workflow.GetInfo(r.ctx)
	sum := sha256.Sum256([]byte(info.WorkflowExecution.ID + "\x00" + info.OriginalRunID))
	return hex.EncodeToString(sum[:6])
}

// BackupID is the id of the backup that this run takes: there is at most one.
func (r *Run) BackupID() string {
	return workflow.GetInfo(r.ctx).WorkflowStartTime.UTC().Format("20060102T150405Z") + "-" + r.Key()[:8]
}

// Now is the workflow's time.
func (r *Run) Now() time.Time { return workflow.Now(r.ctx) }

// SetResult makes a value the run's result so far.
func (r *Run) SetResult(result any) {
	if data, err := json.Marshal(result); err == nil {
		r.doc.Result = data
	}
}

// Say sets the run's summary.
func (r *Run) Say(format string, args ...any) { r.doc.Summary = fmt.Sprintf(format, args...) }

// Alarm puts what cannot wait before the summary, from now on and until the run ends; "": there is nothing more.
func (r *Run) Alarm(text string) {
	r.alarm = limit(text)
	if text != "" {
		r.doc.Summary = r.alarm
	}
}

// Judge lowers the run's verdict to that of a check.
func (r *Run) Judge(v run.Verdict) {
	switch {
	case r.verdict == run.Fail || v == run.Fail:
		r.verdict = run.Fail
	case v != run.Pass:
		r.verdict = run.NotProven
	}
}

// OnFailure registers a step that undoes what the next step does: it runs when the run does not
// succeed, the last registered first.
func (r *Run) OnFailure(step Step, arg any) { r.undo = append(r.undo, cleanup{step, arg}) }

// Keep says that what was done so far stays: however the run ends, nothing of it is undone any more.
func (r *Run) Keep() { r.undo = nil }

// Always registers a step that tidies up however the run ends; the same step twice is one.
func (r *Run) Always(step Step, arg any) {
	if c := (cleanup{step, arg}); !slices.Contains(r.always, c) {
		r.always = append(r.always, c)
	}
}

// end tidies up, judges, writes what the run leaves, and turns the outcome into the workflow's end.
// The document says an outcome that is final only when nothing comes after it.
func (r *Run) end(err error) (*run.Document, error) {
	ctx, _ := workflow.NewDisconnectedContext(r.ctx) // cancelled or not, this is done
	r.ctx = ctx
	r.doc.Outcome, r.doc.WaitingFor = run.Running, ""
	r.ending = true
	outcome := r.settle(err)
	if outcome != run.Succeeded && outcome != run.PartiallySucceeded {
		r.clean(r.undo)
	}
	r.clean(r.always)
	r.EndTurn()
	outcome = r.leave(outcome)
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return nil, err
	}
	r.doc.Outcome = outcome
	r.show()
	switch outcome {
	case run.Failed:
		return nil, temporal.NewNonRetryableApplicationError(r.doc.Summary, run.FailureFailed, nil, r.doc)
	case run.Refused:
		return nil, temporal.NewNonRetryableApplicationError(r.doc.Summary, run.FailureRefused, nil, r.doc)
	case run.Cancelled:
		return nil, temporal.NewCanceledError(r.doc)
	}
	return &r.doc, nil
}

// settle decides the outcome, and says it in the summary where an error decided it.
func (r *Run) settle(err error) run.Outcome {
	switch {
	case err == nil && r.verdict == run.Pass:
		return run.Succeeded
	case err == nil && r.verdict == run.NotProven:
		return run.PartiallySucceeded
	case err == nil:
		return run.Failed
	case errors.Is(err, errAbandoned):
		r.doc.Summary = "given up by " + who(r.abandon)
		return run.Cancelled
	case temporal.IsCanceledError(err):
		r.doc.Summary = "cancelled"
		return run.Cancelled
	}
	e := describe(err)
	r.doc.Error = &e
	r.doc.Summary = e.What
	if e.Remedy != "" {
		r.doc.Summary += "; to mend it: " + e.Remedy
	}
	switch failure.Class(e.Class) {
	case failure.InvalidInput, failure.NotFound, failure.Refused, failure.Precondition:
		return run.Refused
	}
	return run.Failed
}

func who(d *run.Decision) string {
	name := d.By
	if name == "" {
		name = "a person"
	}
	if d.Reason != "" {
		name += " (" + d.Reason + ")"
	}
	return name
}

// clean runs cleanups, the last registered first, and goes on after one that fails.
func (r *Run) clean(steps []cleanup) {
	for i := len(steps) - 1; i >= 0; i-- {
		c := steps[i]
		at := r.begin(c.step)
		err := r.once(c.step, c.arg, nil)
		if err != nil {
			e := describe(err)
			r.doc.Left = append(r.doc.Left, c.step.Name+": "+e.What)
			r.finish(at, run.NotProven, e.What)
			continue
		}
		r.finish(at, run.Pass, "")
	}
}

// note links an entry to the run's audit trail.
func (r *Run) note(e audit.Entry) {
	e.Run, e.At = r.ID(), workflow.Now(r.ctx)
	r.trail.Add(e)
}

// audited is how the trail stands.
func (r *Run) audited() *run.Audit {
	return &run.Audit{Entries: len(r.trail.Entries), Head: r.trail.Head(), Checkpoint: r.covered}
}

// leave writes the report and the document into the store, and returns the outcome that stands then:
// a run does not fail for what it left over or for want of a report, but it says so.
func (r *Run) leave(outcome run.Outcome) run.Outcome {
	if r.target.Store == "" {
		return outcome // the target was never resolved, so there is no store to write to
	}
	if len(r.doc.Left) > 0 && outcome == run.Succeeded {
		outcome = run.PartiallySucceeded
	}
	r.doc.Audit = r.audited()
	final := r.doc
	final.Outcome = outcome
	var written store.Written
	err := r.once(Step{Name: "Write the report", Activity: store.WriteRun, Options: Quick}, store.Record{Store: r.target.Store, Document: final, Trail: r.trail.Entries, Plans: r.plans, EndedAt: workflow.Now(r.ctx)}, &written)
	if err != nil {
		r.doc.Left = append(r.doc.Left, "the report could not be written: "+describe(err).What)
		if outcome == run.Succeeded {
			outcome = run.PartiallySucceeded
		}
	}
	r.doc.Report, r.covered = written.Report, written.Checkpoint
	return outcome
}
