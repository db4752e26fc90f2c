package runs

import (
	"context"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// HandOver is the activity type.
const HandOver = "HandOverPullRequest"

// handedWithin is how long a pull request may take until its run says how it stands: it is made, pushed and
// opened by then, lock files included. One that takes longer goes on by itself.
const handedWithin = 15 * time.Minute

// HandOverRequest is an order for the run that follows a pull request.
type HandOverRequest struct {
	Target     string               `json:"target"`
	Repository string               `json:"repository"`
	Order      pullrequest.Follower `json:"order"`
	Key        string               `json:"key"` // of the order, the same over all attempts
}

// HandOver orders the run that follows a branch to do something, and starts that run if there is none. Done
// twice, it is one order.
func (a *Activities) HandOver(ctx context.Context, in HandOverRequest) (followpullrequest.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, handedWithin)
	defer cancel()
	branch := in.Order.Proposal.Branch
	id := followpullrequest.ID(in.Target, in.Repository, branch)
	start := a.Client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: id, TaskQueue: run.WorkflowQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:            in.Repository + ": " + in.Order.Proposal.Title,
	}, followpullrequest.WorkflowType, followpullrequest.Input{Common: run.Common{Target: in.Target}, Repository: in.Repository, Branch: branch})
	handle, err := a.Client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateID: in.Key, UpdateName: followpullrequest.FollowUpdate, Args: []any{in.Order}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	var answer followpullrequest.Answer
	if err == nil {
		err = handle.Get(ctx, &answer)
	}
	if err != nil {
		return answer, failure.New(failure.NoAnswer, "the run %s did not say how its pull request stands", id).Because(err).Do("see upkeep show %s", id)
	}
	return answer, nil
}
