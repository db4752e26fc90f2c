package devserver_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/dev/internal/steps"
)

func run(tb testing.TB, s *devserver.Server, n int) []time.Duration {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	took, err := steps.Measure(ctx, s.ClientOptions(), n)
	require.NoError(tb, err)
	return took
}

func TestServerKeepsItsRunsOverARestart(t *testing.T) {
	o := devserver.Options{Dir: t.TempDir(), SearchAttributes: map[string]enumspb.IndexedValueType{"UpkeepTarget": enumspb.INDEXED_VALUE_TYPE_KEYWORD}}
	s, err := devserver.Start(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, run(t, s, 3), 3)
	require.NoError(t, s.Stop())

	o.UIPort = freePort(t)
	o.SearchAttributes["UpkeepPhase"] = enumspb.INDEXED_VALUE_TYPE_KEYWORD // one that the file does not have
	s, err = devserver.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	c, err := client.Dial(s.ClientOptions())
	require.NoError(t, err)
	defer c.Close()
	require.Eventually(t, func() bool {
		runs, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = 'Steps' AND ExecutionStatus = 'Completed' AND UpkeepPhase IS NULL"})
		return err == nil && len(runs.GetExecutions()) == 1
	}, 20*time.Second, 50*time.Millisecond)
	described, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	require.NoError(t, err)
	require.Greater(t, described.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(), 30*24*time.Hour)
	require.Eventually(t, func() bool {
		page, err := http.Get(s.UIURL)
		if err != nil {
			return false
		}
		defer func() { _ = page.Body.Close() }()
		return page.StatusCode == http.StatusOK
	}, 20*time.Second, 50*time.Millisecond)
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	_, err = devserver.Start(t.Context(), devserver.Options{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port})
	require.ErrorContains(t, err, "--port")
	require.ErrorContains(t, err, "is taken")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// BenchmarkStep reports the median time of one durable step in a sequence of them.
func BenchmarkStep(b *testing.B) {
	s, err := devserver.Start(b.Context(), devserver.Options{Dir: b.TempDir()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Stop()) })
	run(b, s, 20)
	var all []time.Duration
	for b.Loop() {
		all = append(all, run(b, s, 100)...)
	}
	slices.Sort(all)
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(milliseconds(all[len(all)/2]), "p50-ms/step")
	b.ReportMetric(milliseconds(all[len(all)*99/100]), "p99-ms/step")
}
