package procedure

import (
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Child runs another procedure as a step, to its end. Its id is the run's with a suffix, so that a run that
// was reset finds it, and it goes its own way when the run is given up.
func (r *Run) Child(name, procedure, suffix string, input any) (*run.Document, error) {
	at := r.begin(Step{Name: name})
	id := r.ID() + "-" + suffix
	r.doc.WaitingFor = "waits for run " + id
	r.show()
	ctx := workflow.WithChildOptions(r.ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON, WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WaitForCancellation: true,
	})
	var doc run.Document
	err := workflow.ExecuteChildWorkflow(ctx, procedure, input).Get(ctx, &doc)
	r.doc.WaitingFor = ""
	if err == nil {
		r.finish(at, run.Pass, doc.Summary)
		return &doc, nil
	}
	r.finish(at, run.NotProven, "")
	if temporal.IsCanceledError(err) {
		return nil, err
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) && app.HasDetails() && app.Details(&doc) == nil && doc.RunID != "" {
		return &doc, nil
	}
	return nil, failure.New(failure.StillFailing, "run %s did not end as it should", id).Because(fmt.Errorf("%w", err)).Do("see upkeep show %s", id)
}
