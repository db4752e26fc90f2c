package waits

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// TestWaitingOutlivesWorkerAndTemporal restarts everything while a run waits.
func TestWaitingOutlivesWorkerAndTemporal(t *testing.T) {
	s := startServer(t)
	s.database(t, "shop", 1000)
	var temporal *harness.Temporal
	s.Stack, temporal = harness.NewApart(t, harness.Target("shop", s.tcp("shop"), "      passwordFrom: {env: SHOP_PASSWORD}\n"))
	w := s.Worker(t, "w")
	require.Zero(t, s.Upkeep(t, "run", "BackupDatabase", "--target", "shop", "--id", "patient").Code)
	waits := func() {
		t.Helper()
		s.waiting(t, "patient", "MissingSecret", "SHOP_PASSWORD", "start the worker again")
	}
	waits()
	before := s.Upkeep(t, "show", "patient", "-o", "json").Out

	temporal.Stop(t)
	temporal.Start(t)
	waits()
	w.Stop()
	require.JSONEq(t, before, s.Upkeep(t, "show", "patient", "-o", "json").Out, "without a worker")
	temporal.Kill()
	temporal.Start(t)
	waits()
	s.Worker(t, "w", "SHOP_PASSWORD=right")
	waits()
	s.resumed(t, "patient")
	require.Len(t, s.backups(t, "shop"), 1)
	s.NothingLeft(t, s.server)
}

// TestTemporalIsKilledInTheMiddleOfADrill kills Temporal while the worker is at a point, lets the worker
// go on without it, and starts it again. The person who follows the run sees nothing of it but a pause.
func TestTemporalIsKilledInTheMiddleOfADrill(t *testing.T) {
	s := startServer(t)
	s.database(t, "shop", 60000)
	var temporal *harness.Temporal
	s.Stack, temporal = harness.NewApart(t, harness.Target("shop", s.url("shop"), ""))
	for at, point := range []string{"chunk/create/after", "restore/chunk/after", "report/after"} {
		t.Run(strings.ReplaceAll(point, "/", " "), func(t *testing.T) {
			hit := filepath.Join(s.Dir, strings.ReplaceAll(point, "/", "-"))
			w := s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":stop", "UPKEEP_FAULT_ONCE="+hit)
			cmd, out, errOut := s.Command(t, nil, "run", "DrillRecovery", "--target", "shop", "--wait", "-o", "json")
			require.NoError(t, cmd.Start())
			eventually(t, w.Frozen, "the point was never hit")
			temporal.Kill()
			w.Continue()
			temporal.Start(t)
			got := harness.Finish(t, cmd.Wait(), cmd, out, errOut)
			require.Zero(t, got.Code, "%s\n%s", got.Out, got.Err)
			s.drilled(t, got.Document(t), at+1)

			// While Temporal is away the store is asked, and it may have the end a moment before Temporal.
			id := got.Document(t).RunID
			require.NoError(t, s.Client.GetWorkflow(t.Context(), id, "").Get(t.Context(), nil))
			temporal.Kill() // right after the end
			temporal.Start(t)
			shown := s.Upkeep(t, "show", id, "-o", "json")
			require.JSONEq(t, got.Out, shown.Out, shown.Err)
			w.Stop()
		})
	}
}

// drilled checks that a drill is PASS, took one backup, and left nothing.
func (s *site) drilled(t *testing.T, doc *run.Document, backups int) {
	t.Helper()
	require.Equal(t, run.Succeeded, doc.Outcome, "%s; left %v", doc.Summary, doc.Left)
	var result struct {
		Verdict  run.Verdict
		BackupID string
	}
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	require.Equal(t, run.Pass, result.Verdict)
	require.Len(t, s.backups(t, "shop"), backups, "one of each drill")
	require.Contains(t, s.backups(t, "shop"), result.BackupID)
	s.NothingLeft(t, s.server)
}
