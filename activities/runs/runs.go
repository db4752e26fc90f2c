// Package runs holds the activities that ask Temporal about runs. They are local activities of the
// workers that run workflows, and need no capability.
package runs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/lease"
)

// The activity types.
const (
	AskLease  = "AskLease"
	EndedRuns = "EndedRuns"
)

const (
	// answersWithin is how long the target's workflow may take to answer.
	answersWithin = 10 * time.Second
	// openings is how many openings of the calendar go with a lease. A run that waits longer than
	// they last asks again.
	openings = 8
)

// Request asks for a lease on resources of a target.
type Request struct {
	Target   string            `json:"target"`
	Lease    lease.Lease       `json:"lease"`
	Calendar calendar.Calendar `json:"calendar,omitzero"`
}

// Activities ask Temporal.
type Activities struct {
	Client client.Client
}

// AskLease asks the target's workflow for a lease, and starts that workflow if there is none. Asked
// twice, it answers how things stand.
func (a *Activities) AskLease(ctx context.Context, in Request) (target.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	l := in.Lease
	if slices.ContainsFunc(l.Claims, noticed) {
		var err error
		if l.Openings, err = in.Calendar.Openings(time.Now().UTC(), openings); err != nil {
			return target.Answer{}, failure.New(failure.BadConfig, "the calendar of target %s cannot be read", in.Target).Because(err).Do("correct the target's calendar in the worker's configuration")
		}
	}
	start := a.Client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: target.ID(in.Target), TaskQueue: run.WorkflowQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            "Says which runs of target " + in.Target + " may work at the same time.",
	}, target.WorkflowType, target.State{Target: in.Target})
	answer, err := a.Client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions:          client.UpdateWorkflowOptions{UpdateName: target.AcquireUpdate, Args: []any{l}, WaitForStage: client.WorkflowUpdateStageCompleted},
	})
	var out target.Answer
	if err == nil {
		err = answer.Get(ctx, &out)
	}
	if err != nil {
		return out, failure.New(failure.NoLease, "the workflow %s did not answer", target.ID(in.Target)).Because(err).
			Do("see whether the workflow %s runs in Temporal; if it cannot go on, terminate it, and the next run starts it anew", target.ID(in.Target))
	}
	return out, nil
}

// noticed reports whether work under a claim would be noticed by those who use the target: the calendar
// is for that, and not for what only Upkeep itself waits for.
func noticed(c lease.Claim) bool { return c.Resource == target.Database && c.Mode == lease.Exclusive }

// EndedRuns returns those of the runs that are over or unknown, by their workflow ids.
func (a *Activities) EndedRuns(ctx context.Context, ids []string) (ended []string, err error) {
	for _, id := range ids {
		over, err := Ended(ctx, a.Client, id, 0)
		if err != nil {
			return nil, err
		}
		if over {
			ended = append(ended, id)
		}
	}
	return ended, nil
}

// Ended reports whether the newest run of a workflow id has been over for so long. A run that was
// reset has a newer one.
func Ended(ctx context.Context, c client.Client, id string, least time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	d, err := c.DescribeWorkflowExecution(ctx, id, "")
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at run %s: %w", id, err)
	}
	info := d.GetWorkflowExecutionInfo()
	return info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING && time.Since(info.GetCloseTime().AsTime()) >= least, nil
}
