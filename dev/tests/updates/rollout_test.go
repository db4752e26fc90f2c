package updates

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/worker"
)

// TestAMergedUpdateIsRolledOutOnce: the rollout waits for a worker of a cluster; the run that started it is
// reset to that decision, while the rollout goes on and when it is over, and no other is started.
func TestAMergedUpdateIsRolledOutOnce(t *testing.T) {
	s := newSite(t)
	s.Configure(t, fmt.Sprintf(`  - name: code
    kubernetes: {namespace: shop, release: shop}
    rollout: {chart: /nowhere/chart}
    repositories:
      - {github: octo/shop, apiURL: %q, tokenFrom: {env: GITHUB_TOKEN}, merge: [patch], advisories: %q, rollout: start}
`, s.github.APIURL(), t.TempDir()))
	s.WorkerOf(t, []string{worker.Workflows, worker.Database, worker.Code}, "w", s.env...) // nobody serves clusters: the rollout goes on
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	_, sha := s.branch(t)
	s.repo.SetCheck(sha, "unit", "completed", "success")
	s.wake(t)

	id := rolloutrelease.MergedID("code", "octo/shop", 1)
	ends := func(stands string) {
		t.Helper()
		end := s.Await(t, s.follower(t))
		require.Equal(t, run.Succeeded, end.Outcome, end.Summary)
		var result followpullrequest.Result
		require.NoError(t, json.Unmarshal(end.Result, &result))
		require.Equal(t, id, result.Rollout)
		require.Equal(t, stands, result.RolloutStands)
	}
	ends("rolls it out, as the policy says")
	rollout := func() string {
		d, err := s.Client.DescribeWorkflowExecution(t.Context(), id, "")
		require.NoError(t, err)
		return d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	}
	first := rollout()
	doc := s.Until(t, id, func(d *run.Document) bool { return d.Target != "" })
	require.Equal(t, "code", doc.Target)
	require.Equal(t, run.Running, doc.Outcome, doc.Summary)

	t.Run("while it goes on", func(t *testing.T) {
		s.again(t)
		ends("was started before to roll it out")
		require.Equal(t, first, rollout())
	})
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
	t.Run("when it is over", func(t *testing.T) {
		s.again(t)
		ends("was started before to roll it out")
		require.Equal(t, first, rollout())
	})
	require.Eventually(t, func() bool { // Temporal's list comes later
		return s.Run(t, update, `{}`).Outcome == run.Succeeded && strings.Contains(s.repo.Issues()[0].Body, "run "+id+": it was terminated")
	}, harness.Patience, time.Second)
	require.Contains(t, s.repo.Issues()[0].Body, "### Merged, and rolled out (1)")
}

// again resets the run of the pull request to where it decided to start the rollout.
func (s *site) again(t *testing.T) {
	t.Helper()
	id := s.follower(t)
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), id, "")
	require.NoError(t, err)
	newest, decided := d.GetWorkflowExecutionInfo().GetExecution().GetRunId(), int64(0)
	for events := s.Client.GetWorkflowHistory(t.Context(), id, newest, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		require.NoError(t, err)
		if e.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			decided = e.GetEventId()
		}
		if e.GetEventType() == enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED {
			break
		}
	}
	_, err = s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: s.Namespace(), WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: newest},
		Reason: "the test", WorkflowTaskFinishEventId: decided, RequestId: t.Name(),
	})
	require.NoError(t, err)
}
