//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.temporal.io/sdk/client"

	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

const web = "deployment/" + release + "-langfuse"

// probed is a target whose service is asked through the application.
func probed() string {
	in := inPod("observatory", "")
	return strings.Replace(in, "release: "+release+"}", fmt.Sprintf("release: %s, probes: [{name: traces, service: %s-langfuse, port: 3000, path: /traces/count}]}", release, release), 1)
}

// rescuer is an account that may recover the target's data. The rights name the service; a run finds it by
// its sessions.
func rescuer(t *testing.T, s *harness.Stack, target, name string, args ...string) *account {
	t.Helper()
	s.Configure(t, strings.Replace(target, "{namespace:", "{clients: [{kind: Deployment, name: "+release+"-langfuse}], namespace:", 1))
	who := narrow(t, s, name, append([]string{"--procedure", api.WorkflowType}, args...)...)
	s.Configure(t, target)
	return who
}

// loss prepares a backup that is proven, three replicas of the service, and then the loss of the table's rows.
func loss(t *testing.T, s *harness.Stack) (before count) {
	t.Helper()
	require.NoError(t, until(time.Minute, func() error { return write("before the loss") }))
	drilled := s.Run(t, "DrillRecovery", `{}`)
	require.Equal(t, run.Succeeded, drilled.Outcome, drilled.Summary)
	_, err := kubectl("scale", web, "--replicas=3")
	require.NoError(t, err)
	t.Cleanup(func() { // as other tests know it
		_, err := kubectl("scale", web, "--replicas=1")
		require.NoError(t, err)
		_, err = kubectl("rollout", "status", web, "--timeout=80s")
		require.NoError(t, err)
	})
	_, err = kubectl("rollout", "status", web, "--timeout=80s")
	require.NoError(t, err)
	before, err = counted()
	require.NoError(t, err)
	require.Positive(t, before.Count)
	_, err = kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-d", "langfuse", "-c", "TRUNCATE traces CASCADE")
	require.NoError(t, err)
	return before
}

// approve approves the plan that a run waits with.
func approve(t *testing.T, s *harness.Stack, id string) *run.Document {
	t.Helper()
	doc := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() })
	require.True(t, doc.AsksApproval(), doc.Summary)
	h, err := s.Client.UpdateWorkflow(t.Context(), sdk.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: run.ApproveUpdate, WaitForStage: sdk.WorkflowUpdateStageCompleted,
		Args: []any{run.PlanDecision{Plan: doc.Approval.Hash, By: "test", Reason: "it must be"}},
	})
	require.NoError(t, err)
	require.NoError(t, h.Get(t.Context(), nil))
	return doc
}

// has checks that the service has so many replicas, ready, and the rows.
func has(t *testing.T, replicas string, want count) {
	t.Helper()
	require.NoError(t, until(2*time.Minute, func() error {
		got, err := kubectl("get", web, "-o", "jsonpath={.spec.replicas}/{.status.readyReplicas}")
		if err == nil && got != replicas+"/"+replicas {
			err = fmt.Errorf("replicas: %s", got)
		}
		if err != nil {
			return err
		}
		rows, err := counted()
		if err == nil && rows != want {
			err = fmt.Errorf("rows: %+v, not %+v", rows, want)
		}
		return err
	}))
}

func TestRecoverData(t *testing.T) {
	s := harness.New(t, probed())
	who := rescuer(t, s, probed(), "data-rescuer", "--procedure", "DrillRecovery")
	w := serve(t, s, "w", who.env())
	before := loss(t, s)

	dry := s.Run(t, api.WorkflowType, `{"confirm":"langfuse","dryRun":true}`)
	require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
	require.Contains(t, dry.Summary, "stop Deployment "+release+"-langfuse (3)", "found by its sessions")

	id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	approve(t, s, id)
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	t.Log(doc.Summary)
	has(t, "3", before)

	points := []string{"client-stop/before", "client-stop/after", "swap/before", "swap/after", "client-start/before", "client-start/after"}
	for _, point := range harness.Choose(t, points, []string{"client-stop/after", "swap/after"}) {
		t.Run("killed at "+point, func(t *testing.T) {
			_, err := kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-d", "langfuse", "-c", "TRUNCATE traces CASCADE")
			require.NoError(t, err)
			w.Kill()
			dies := serve(t, s, "dies", who.env(), "UPKEEP_FAULT=point="+point+":kill")
			id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
			approve(t, s, id)
			<-dies.Done()
			w = serve(t, s, "w", who.env())
			doc := s.Await(t, id)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			has(t, "3", before)
		})
	}

	t.Run("terminated while all is stopped, a new run takes over", func(t *testing.T) {
		w.Kill()
		dies := serve(t, s, "dies", who.env(), "UPKEEP_FAULT=point=restore/chunk/after:kill")
		id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
		approve(t, s, id)
		<-dies.Done()
		stopped, err := kubectl("get", web, "-o", "jsonpath={.spec.replicas}")
		require.NoError(t, err)
		require.Equal(t, "0", stopped)
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
		w = serve(t, s, "w", who.env())
		// Nothing has sessions by now, so the clients are written out.
		again := s.Start(t, api.WorkflowType, `{"confirm":"langfuse","clients":"Deployment/`+release+`-langfuse"}`)
		approve(t, s, again)
		doc := s.Await(t, again)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		has(t, "3", before)
	})

	t.Run("cancelled while all is stopped, it puts back", func(t *testing.T) {
		w.Kill()
		freezes := serve(t, s, "freezes", who.env(), "UPKEEP_FAULT=point=restore/chunk/after:stop")
		id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
		approve(t, s, id)
		require.NoError(t, until(90*time.Second, func() error {
			if !freezes.Frozen() {
				return fmt.Errorf("the restore has not begun")
			}
			return nil
		}))
		require.NoError(t, s.Client.CancelWorkflow(t.Context(), id, ""))
		freezes.Continue()
		doc := s.Await(t, id)
		require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
		require.Empty(t, doc.Left)
		has(t, "3", before)
	})
	who.audited(t)
}
