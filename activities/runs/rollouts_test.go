package runs_test

import (
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/mocks"

	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

func TestRollouts(t *testing.T) {
	mine, offer := rolloutrelease.MergedID("shop", "shop/web", 7), rolloutrelease.OfferID("shop")
	page := []*workflowpb.WorkflowExecutionInfo{
		{Execution: &commonpb.WorkflowExecution{WorkflowId: offer}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING},
		{Execution: &commonpb.WorkflowExecution{WorkflowId: rolloutrelease.OfferID("shop-eu")}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING},
		{Execution: &commonpb.WorkflowExecution{WorkflowId: mine}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	}
	c := &mocks.Client{}
	c.On("ListWorkflow", mock.Anything, mock.MatchedBy(func(r *workflowservice.ListWorkflowExecutionsRequest) bool {
		return r.Query == `WorkflowType = 'RolloutRelease' AND WorkflowId STARTS_WITH 'rollout-of-updates-shop'`
	})).Return(&workflowservice.ListWorkflowExecutionsResponse{Executions: page}, nil).Once()
	c.On("ListWorkflow", mock.Anything, mock.Anything).Return(nil, serviceerror.NewUnavailable("down"))
	lines, err := (&runs.Activities{Client: c}).Rollouts(t.Context(), runs.RolloutsRequest{Target: "shop"})
	require.NoError(t, err)
	require.Equal(t, []pullrequest.Line{{What: "run " + offer, Why: "it goes on, or waits for an approval"}, {What: "run " + mine, Why: "it failed, or was refused"}}, lines)
	_, err = (&runs.Activities{Client: c}).Rollouts(t.Context(), runs.RolloutsRequest{Target: "shop"})
	require.True(t, failure.Is(err, failure.NoAnswer), "%v", err)
}
