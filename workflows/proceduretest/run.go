package proceduretest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/worker"
)

// WorkflowID is the id of every run in a test environment.
const WorkflowID = "default-test-workflow-id"

// Run is one run of a procedure in the SDK's test environment, where waits take no time.
type Run struct {
	*testsuite.TestWorkflowEnvironment
	t     testing.TB
	world *World
}

// New prepares a run in a world, with workflows of the test's own.
func New(t testing.TB, w *World, own ...any) *Run {
	t.Helper()
	env := Environment()
	w.Register(env)
	for _, workflow := range own {
		env.RegisterWorkflow(workflow)
	}
	env.OnSignalExternalWorkflow(mock.Anything, target.ID("shop"), "", target.ReleaseSignal, WorkflowID).Return(func(_, _, _, _ string, _ any) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.turns = append(w.turns, "gives back")
		return nil
	}).Maybe()
	return &Run{env, t, w}
}

// Environment knows every workflow and no activity.
func Environment() *testsuite.TestWorkflowEnvironment {
	suite := &testsuite.WorkflowTestSuite{}
	suite.SetLogger(silent{})
	env := suite.NewTestWorkflowEnvironment()
	// A machine that is busy takes its time; the SDK's own second is for production.
	env.SetWorkerOptions(sdkworker.Options{Interceptors: worker.Interceptors(), DeadlockDetectionTimeout: 20 * time.Second})
	env.SetTestTimeout(time.Minute)
	worker.RegisterWorkflows(env)
	return env
}

// Do runs the procedure with an input as a person types it, and returns its document. It checks that
// the workflow ended as the document's outcome asks.
func (r *Run) Do(procedure, input string) *run.Document {
	r.t.Helper()
	return r.DoRaw(procedure, JSON(input))
}

// JSON is an input as a person types it.
func JSON(input string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)}, Data: []byte(input)}
}

// DoRaw is Do for an input in any encoding; nil: none at all.
func (r *Run) DoRaw(procedure string, input *commonpb.Payload) *run.Document {
	r.t.Helper()
	r.world.guard(r.TestWorkflowEnvironment) // last: once something is mocked, nothing can be registered
	r.ExecuteWorkflow(procedure, converter.NewRawValue(input))
	require.True(r.t, r.IsWorkflowCompleted())
	var (
		doc       run.Document
		app       *temporal.ApplicationError
		cancelled *temporal.CanceledError
	)
	switch err := r.GetWorkflowError(); {
	case err == nil:
		require.NoError(r.t, r.GetWorkflowResult(&doc))
		require.Contains(r.t, []run.Outcome{run.Succeeded, run.PartiallySucceeded}, doc.Outcome)
	case errors.As(err, &cancelled):
		require.NoError(r.t, cancelled.Details(&doc))
		require.Equal(r.t, run.Cancelled, doc.Outcome)
	case errors.As(err, &app):
		require.True(r.t, app.NonRetryable(), "%v", err)
		require.NoError(r.t, app.Details(&doc), "%v", err)
		require.Equal(r.t, app.Type(), string(doc.Outcome))
		require.Contains(r.t, []run.Outcome{run.Failed, run.Refused}, doc.Outcome)
	default:
		require.NoError(r.t, err)
	}
	require.Equal(r.t, WorkflowID, doc.RunID)
	require.Equal(r.t, procedure, doc.Procedure)
	require.Empty(r.t, doc.WaitingFor)
	return &doc
}

// Status asks the run how it stands.
func (r *Run) Status() run.Document {
	r.t.Helper()
	answer, err := r.QueryWorkflow(run.StatusQuery)
	require.NoError(r.t, err)
	var doc run.Document
	require.NoError(r.t, answer.Get(&doc))
	return doc
}

// WhenWaiting calls back when the run has parked, with how it stands then.
func (r *Run) WhenWaiting(then func(run.Document)) { r.whenWaiting(then, time.Second) }

func (r *Run) whenWaiting(then func(run.Document), again time.Duration) {
	r.RegisterDelayedCallback(func() {
		if doc := r.Status(); doc.Outcome == run.Waiting {
			then(doc)
			return
		}
		r.whenWaiting(then, min(2*again, time.Minute)) // a run may wait for days
	}, again)
}

// Answer is what becomes of a decision.
type Answer struct {
	Taken   bool
	Refused error
}

// Decide gives a run a decision. The answer is there when the run has ended.
func (r *Run) Decide(update string, d run.Decision) *Answer { return r.update(update, d) }

// DecideOnPlan gives a run a decision on its plan. The answer is there when the run has ended.
func (r *Run) DecideOnPlan(update string, d run.PlanDecision) *Answer { return r.update(update, d) }

func (r *Run) update(name string, decision any) *Answer {
	a := &Answer{}
	r.UpdateWorkflow(name, "", &testsuite.TestUpdateCallback{
		OnAccept:   func() {},
		OnReject:   func(err error) { a.Refused = err },
		OnComplete: func(_ any, err error) { a.Taken, a.Refused = err == nil, err },
	}, decision)
	return a
}

// OnStarted calls back with the type and the queue of every activity that begins.
func (r *Run) OnStarted(then func(activityType, queue string)) {
	r.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		then(info.ActivityType.Name, info.TaskQueue)
	})
}

// silent is a logger for tests whose runs fail on purpose.
type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}
