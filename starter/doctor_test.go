package starter

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/doctor"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestDoctorWhereNothingIs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "upkeep.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\nstore: file://"+dir+"\ntargets:\n"+
		"  - {name: shop, database: {url: 'postgres://me@127.0.0.1:1/shop'}}\n  - {name: other, database: {url: 'postgres://me@127.0.0.1:1/other'}}\n"), 0o600))

	code, out, _ := call(t, "doctor", "--config", path, "--target", "shop", "--data", dir)
	require.Equal(t, ExitFailed, code, out)
	for _, said := range []string{"SHA-256", "Temporal cannot be reached at 127.0.0.1:1", "ServerUnreachable", "To do:\n  1. ", "set TEMPORAL_ADDRESS", "run it where the worker runs"} {
		require.Contains(t, out, said)
	}
	require.NotContains(t, out, "target other")

	code, out, _ = call(t, "doctor", "--config", path, "--data", dir, "-o", "json")
	require.Equal(t, ExitFailed, code, out)
	var report doctor.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.Equal(t, run.Fail, report.Verdict)
	require.NotEmpty(t, report.Machine)
	require.NotEmpty(t, report.User)
	subjects := make(map[string]int)
	for _, f := range report.Findings {
		subjects[f.Subject]++
		require.NotEmpty(t, f.Name)
		require.NotEmpty(t, f.Verdict)
	}
	for _, subject := range []string{"configuration", "Temporal", "store", "target shop: database", "target shop: scratch server", "target other: database"} {
		require.NotZero(t, subjects[subject], subject)
	}

	code, _, errOut := call(t, "doctor", "--config", path, "--target", "shpo")
	require.Equal(t, ExitRefused, code)
	require.Contains(t, errOut, `did you mean "shop"?`)
	code, _, _ = call(t, "doctor", "-o", "yaml")
	require.Equal(t, ExitUsage, code)
}

func TestDoctorOfAConfigurationThatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "upkeep.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\nstroe: file:///x\n"), 0o600))
	code, out, _ := call(t, "doctor", "--config", path)
	require.Equal(t, ExitFailed, code)
	require.Contains(t, out, `did you mean "store"?`)
	require.Contains(t, out, "Temporal cannot be reached", "the rest is looked at all the same")
}

func TestTheQueuesThatTargetsNeed(t *testing.T) {
	queues := func(targets ...config.Target) (names []string) {
		for _, c := range queueChecks(targets) {
			names = append(names, c.queue)
		}
		return names
	}
	bare, clustered := config.Target{Name: "shop"}, config.Target{Name: "observatory", Kubernetes: config.Kubernetes{Namespace: "observatory"}}
	require.Equal(t, []string{run.WorkflowQueue, run.DatabaseQueue}, queues(), "nothing is known of the targets")
	require.Equal(t, []string{run.WorkflowQueue, run.DatabaseQueue}, queues(bare))
	require.Equal(t, []string{run.WorkflowQueue, run.DatabaseQueue, run.ClusterQueue}, queues(bare, clustered))
	code := config.Target{Name: "code", Repositories: []config.Repository{{GitHub: "shop/web"}}}
	require.Equal(t, []string{run.WorkflowQueue, run.DatabaseQueue, run.CodeQueue}, queues(code))
	_, err := served(run.ClusterQueue, nil, time.Now())
	require.ErrorContains(t, err, "capability cluster")
}

func TestServed(t *testing.T) {
	now := time.Now()
	poller := func(identity string, ago time.Duration) *taskqueuepb.PollerInfo {
		return &taskqueuepb.PollerInfo{Identity: identity, LastAccessTime: timestamppb.New(now.Add(-ago))}
	}
	_, err := served("upkeep-database", nil, now)
	require.True(t, failure.Is(err, failure.StillFailing), "%v", err)
	found, err := served("upkeep-database", []*taskqueuepb.PollerInfo{poller("b", time.Second), poller("a", time.Hour), poller("b", time.Minute)}, now)
	require.NoError(t, err)
	require.Equal(t, "a, b", found)
	_, err = served("upkeep-database", []*taskqueuepb.PollerInfo{poller("a", 3*time.Minute)}, now)
	var doubt *doctor.Doubt
	require.ErrorAs(t, err, &doubt)
	require.Contains(t, doubt.Found, "a asked for work 3m0s ago")
	require.False(t, doubt.Optional)
}
