package runs

import (
	"context"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// Rollouts is the activity type.
const Rollouts = "RolloutsOfUpdates"

const (
	// rolloutsListed bounds what is asked for, rolloutsShown what is told.
	rolloutsListed = 50
	rolloutsShown  = 10
)

// RolloutsRequest names a target.
type RolloutsRequest struct {
	Target string `json:"target"`
}

// rolloutStands are the words for how a run stands.
var rolloutStands = map[enumspb.WorkflowExecutionStatus]string{
	enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:    "it goes on, or waits for an approval",
	enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:  "it is over; its report says what was rolled out",
	enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:     "it failed, or was refused",
	enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:   "it was cancelled",
	enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED: "it was terminated",
	enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:  "it took too long",
}

// Rollouts tells how the newest runs stand that roll merged updates of a target out, the newest first. It is as
// late as Temporal's list of runs, so it is for people, and nothing is decided by it.
func (a *Activities) Rollouts(ctx context.Context, in RolloutsRequest) ([]pullrequest.Line, error) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	query := fmt.Sprintf("WorkflowType = '%s' AND WorkflowId STARTS_WITH '%s'", rolloutrelease.WorkflowType, rolloutrelease.OfferID(in.Target))
	r, err := a.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: rolloutsListed})
	if err != nil {
		return nil, failure.New(failure.NoAnswer, "Temporal does not list the rollouts of target %s", in.Target).Because(err).Do("see temporal workflow list --query %q", query)
	}
	lines := []pullrequest.Line{}
	for _, e := range r.GetExecutions() {
		id := e.GetExecution().GetWorkflowId()
		if !rolloutrelease.RollsMergedOut(id, in.Target) { // of a target whose name is longer
			continue
		}
		if len(lines) == rolloutsShown {
			break
		}
		lines = append(lines, pullrequest.Line{What: "run " + id, Why: rolloutStands[e.GetStatus()]})
	}
	return lines, nil
}
