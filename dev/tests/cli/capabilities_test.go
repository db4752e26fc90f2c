package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/worker"
)

// TestCapabilitiesApart runs a drill by two workers, neither of which serves what the other does.
func TestCapabilitiesApart(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
	s := harness.New(t, harness.Target("shop", url, ""))
	polled := func(queue string, kind enumspb.TaskQueueType) []string {
		t.Helper()
		d, err := s.Client.DescribeTaskQueue(t.Context(), queue, kind)
		require.NoError(t, err)
		var by []string
		for _, p := range d.GetPollers() {
			by = append(by, p.GetIdentity())
		}
		return by
	}

	s.WorkerOf(t, []string{worker.Workflows}, "thinks")
	id := s.Start(t, "DrillRecovery", `{}`)
	s.Until(t, id, func(d *run.Document) bool { return len(d.Steps) > 0 })
	require.Empty(t, polled(run.DatabaseQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY))
	require.NoDirExists(t, s.Dir+"/data-thinks", "it keeps nothing, not even a key")

	s.WorkerOf(t, []string{worker.Database}, "acts")
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, "%+v", doc)
	require.Len(t, polled(run.WorkflowQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW), 1)
	require.NotEmpty(t, polled(run.DatabaseQueue+"-acts", enumspb.TASK_QUEUE_TYPE_ACTIVITY), "its scratch servers' queue")
	require.Empty(t, polled(run.ClusterQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY))
}
