package proceduretest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/worker"
)

// TestRecordedRunsReplay replays runs of every release with today's code: what is deployed must go on
// with the runs that it finds. Record new ones with dev/tests/replay.
func TestRecordedRunsReplay(t *testing.T) {
	folders, err := filepath.Glob("../*/workflow.go")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, f := range folders {
		procedure := filepath.Dir(f)
		histories, err := filepath.Glob(filepath.Join(procedure, "testdata", "replay", "*", "*.json"))
		require.NoError(t, err)
		require.NotEmpty(t, histories, "%s has no recorded run", procedure)
		for _, h := range histories {
			t.Run(filepath.Base(procedure)+"/"+filepath.Base(filepath.Dir(h))+"/"+filepath.Base(h), func(t *testing.T) {
				replayer, err := sdkworker.NewWorkflowReplayerWithOptions(sdkworker.WorkflowReplayerOptions{})
				require.NoError(t, err)
				worker.RegisterWorkflows(replayer)
				f, err := os.Open(h)
				require.NoError(t, err)
				history, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
				require.NoError(t, err)
				require.NoError(t, f.Close())
				// Runs of its own that a run starts are named after it.
				id := history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowId()
				require.NoError(t, replayer.ReplayWorkflowHistoryWithOptions(nil, history, sdkworker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}}))
			})
		}
	}
}
