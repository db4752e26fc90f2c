//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.temporal.io/sdk/client"

	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

const web = "deployment/" + release + "-langfuse"

// probed is a target whose service is asked through the application.
func probed() string {
	in := inPod("observatory", "")
	return strings.Replace(in, "release: "+release+"}", fmt.Sprintf("release: %s, probes: [{name: traces, service: %s-langfuse, port: 3000, path: /traces/count}]}", release, release), 1)
}

// rescuer is an account that may recover the target's data. The rights name the service, and more clients
// (as in "{kind: Job, name: load}"); a run finds them by their sessions.
func rescuer(t *testing.T, s *harness.Stack, target, name string, clients []string, args ...string) *account {
	t.Helper()
	clients = append([]string{"{kind: Deployment, name: " + release + "-langfuse}"}, clients...)
	s.Configure(t, strings.Replace(target, "kubernetes: {", "kubernetes: {clients: ["+strings.Join(clients, ", ")+"], ", 1))
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

// users are workloads of every other kind that use the database, and a pod that nothing would make again.
const users = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent", "app.kubernetes.io/name": "langfuse-migrate"}}, "spec": %[1]s}}},
  {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "load"}, "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/name": "langfuse-migrate"}}, "spec": %[2]s}}},
  {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/name": "langfuse-migrate"}}, "spec": %[2]s}}}}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loner", "labels": {"app.kubernetes.io/name": "langfuse-migrate"}}, "spec": %[1]s}
]}`

// user is a pod that always has a session.
func user(restart string) string {
	return fmt.Sprintf(`{"restartPolicy": %q, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "securityContext": {"runAsUser": 999}, "containers": [{"name": "main",
		"image": "upkeep.test/postgres:dev", "imagePullPolicy": "Never", "command": ["sh", "-c", "while :; do PGOPTIONS='-c client_connection_check_interval=500' psql -h %s-postgresql -U postgres -d langfuse -c 'SELECT pg_sleep(3600)' >/dev/null || sleep 0.2; done"],
		"env": [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "langfuse-postgresql", "key": "postgres-password"}}}]}]}`, restart, release)
}

// useByAll makes the users, and waits until each has a session. The Job of the CronJob is report-now.
func useByAll(t *testing.T) {
	t.Helper()
	_, err := command(time.Minute, fmt.Sprintf(users, user("Always"), user("Never")), "kubectl", "--namespace", namespace, "apply", "-f", "-")
	require.NoError(t, err)
	_, err = kubectl("create", "job", "--from=cronjob/report", "report-now")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "--ignore-not-found", "daemonset/agent", "job/load", "cronjob/report", "job/report-now", "pod/loner")
		require.NoError(t, err)
	})
	sessions(t, 4)
}

// sessions waits until so many pods beside the service's have sessions.
func sessions(t *testing.T, pods int) {
	t.Helper()
	require.NoError(t, until(time.Minute, func() error {
		n, err := kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-d", "langfuse", "-c", "SELECT count(DISTINCT client_addr) FROM pg_stat_activity WHERE application_name = 'psql' AND client_addr IS NOT NULL")
		if err == nil && strings.TrimSpace(n) != fmt.Sprint(pods) {
			err = fmt.Errorf("%s pods have sessions, not %d", strings.TrimSpace(n), pods)
		}
		return err
	}))
}

// usedAsBefore checks that the workloads are as they were, and use the database.
func usedAsBefore(t *testing.T) {
	t.Helper()
	says(t, "daemonset/agent", ".spec.template.spec.nodeSelector", "")
	says(t, "job/load", ".spec.suspend", "false")
	says(t, "job/report-now", ".spec.suspend", "false")
	says(t, "cronjob/report", ".spec.suspend", "false")
	sessions(t, 3)
}

// written is what of the namespace a run could write: how often each object's spec was changed, and the
// versions of what has none.
func written(t *testing.T) string {
	t.Helper()
	specs, err := kubectl("get", "deployments,statefulsets,daemonsets,cronjobs,networkpolicies", "-o", "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.generation} {.metadata.annotations}{end}")
	require.NoError(t, err)
	rest, err := kubectl("get", "secrets,configmaps,leases,services,pvc,pods", "-o", "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.data}{.metadata.annotations}{end}")
	require.NoError(t, err)
	return specs + rest
}

// untilDead starts a run on a worker that dies at a point, approves its plan, and returns when the worker is
// dead.
func untilDead(t *testing.T, s *harness.Stack, point string, env ...string) (id string) {
	t.Helper()
	dies := serve(t, s, "dies", append(env, "UPKEEP_FAULT=point="+point+":kill")...)
	id = s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	approve(t, s, id)
	select {
	case <-dies.Done():
	case <-time.After(harness.Patience):
		require.Fail(t, "the point is not reached")
	}
	return id
}

func TestRecoverData(t *testing.T) {
	path := chartFor(t, allInPods, chart)
	rollout := func(target string) string {
		return target + fmt.Sprintf("    rollout: {chart: %s, bake: 10s, timeout: 30s, migrations: compatible}\n", path)
	}
	s := harness.New(t, rollout(probed()))
	w := serve(t, s, "w")
	before := loss(t, s)
	users := []string{"{kind: DaemonSet, name: agent}", "{kind: Job, name: load}", "{kind: CronJob, name: report}", "{kind: Job, name: report-now}"}
	useByAll(t)

	lonely := s.Run(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	require.Equal(t, run.Refused, lonely.Outcome, lonely.Summary)
	require.Equal(t, "NotStoppable", lonely.Error.Code)
	require.Contains(t, lonely.Summary, "pod loner, which nothing would make again")
	_, err := kubectl("delete", "pod", "loner")
	require.NoError(t, err)
	sessions(t, 3)

	t.Run("bad input is refused before anything is touched", func(t *testing.T) {
		beside(t, configures)
		was := written(t)
		for name, c := range map[string]struct{ from, to, inputs, code string }{
			"the cluster's own namespace": {"namespace: " + namespace, "namespace: kube-system", "", "BadConfig"},
			"a namespace that is not its": {"namespace: " + namespace, "namespace: default", "", "MissingRelease"},
			"one that is not there":       {"namespace: " + namespace, "namespace: nowhere", "", "MissingRelease"},
			"a release that is not there": {"release: " + release, "release: nothing-here", "", "MissingRelease"},
			"every workload":              {"release: " + release, "release: " + release, `,"clients":"Deployment/*"`, "BadInput"},
			"a workload elsewhere":        {"release: " + release, "release: " + release, `,"clients":"Deployment/kube-system/coredns"`, "BadInput"},
		} {
			text, err := os.ReadFile(s.Config)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(s.Config, []byte(strings.Replace(string(text), c.from, c.to, 1)), 0o600)) // as no parser would take it
			procedures := []string{api.WorkflowType, "RecoverService", rolloutrelease.WorkflowType}
			if c.inputs != "" {
				procedures = procedures[:1]
			}
			for _, p := range procedures {
				input := `{}`
				if p == api.WorkflowType {
					input = `{"confirm":"langfuse"` + c.inputs + `}`
				}
				doc := s.Until(t, s.Start(t, p, input), func(d *run.Document) bool { return d.Outcome.Ended() || d.Outcome == run.Waiting })
				require.Equal(t, run.Refused, doc.Outcome, "%s, %s: %s", p, name, doc.Summary)
				require.Contains(t, c.code, doc.Error.Code, "%s, %s: %s", p, name, doc.Summary)
			}
			require.NoError(t, os.WriteFile(s.Config, text, 0o600))
		}
		require.Equal(t, was, written(t))
	})

	t.Run("a Secret that is missing is waited for", func(t *testing.T) {
		text, err := os.ReadFile(s.Config)
		require.NoError(t, err)
		without := strings.Replace(string(text), "name: langfuse-postgresql, key", "name: not-made-yet, key", 1)
		require.NotEqual(t, string(text), without)
		require.NoError(t, os.WriteFile(s.Config, []byte(without), 0o600))
		id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse","dryRun":true}`)
		doc := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.Outcome == run.Waiting })
		require.Equal(t, run.Waiting, doc.Outcome, doc.Summary)
		require.Contains(t, doc.WaitingFor, "there is no Secret not-made-yet in namespace "+namespace)
		require.NoError(t, os.WriteFile(s.Config, text, 0o600))
		has, err := kubectl("get", "secret", "langfuse-postgresql", "-o", "jsonpath={.data}")
		require.NoError(t, err)
		_, err = command(time.Minute, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "not-made-yet"}, "data": %s}`, has), "kubectl", "--namespace", namespace, "apply", "-f", "-")
		require.NoError(t, err)
		t.Cleanup(func() {
			_, err := kubectl("delete", "secret", "not-made-yet")
			require.NoError(t, err)
		})
		require.NoError(t, s.Starter.Decide(t.Context(), id, true, run.Decision{By: "the test"}))
		doc = s.Await(t, id)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	})

	t.Run("a dry run needs no right to write, and writes nothing", func(t *testing.T) {
		w.Kill()
		looker := rescuer(t, s, rollout(probed()), "data-looker", users, "--procedure", rolloutrelease.WorkflowType, "--set", "langfuse.replicas=2", "--dry-run-only")
		looks := serve(t, s, "looks", looker.env())
		was := written(t)
		dry := s.Run(t, api.WorkflowType, `{"confirm":"langfuse","dryRun":true}`)
		require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
		require.Contains(t, dry.Summary, "stop CronJob report, DaemonSet agent, Deployment "+release+"-langfuse (3), Job load, Job report-now", "found by their sessions")
		dry = s.Run(t, rolloutrelease.WorkflowType, `{"dryRun":true,"set":{"langfuse.replicas":2}}`)
		require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
		require.Contains(t, dry.Summary, "would upgrade release "+release)
		require.Equal(t, was, written(t))
		looks.Kill()
		looker.audited(t)
	})

	who := rescuer(t, s, rollout(probed()), "data-rescuer", users)
	w = serve(t, s, "w", who.env())
	id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	approve(t, s, id)
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	t.Log(doc.Summary)
	has(t, "3", before)
	usedAsBefore(t)

	points := []string{"client-stop/before", "client-stop/after", "swap/before", "swap/after", "client-start/before", "client-start/after"}
	for _, point := range harness.Choose(t, points, []string{"client-stop/after", "swap/after"}) {
		t.Run("killed at "+point, func(t *testing.T) {
			_, err := kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-d", "langfuse", "-c", "TRUNCATE traces CASCADE")
			require.NoError(t, err)
			w.Kill()
			id := untilDead(t, s, point, who.env())
			w = serve(t, s, "w", who.env())
			doc := s.Await(t, id)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			has(t, "3", before)
		})
	}

	t.Run("terminated while all is stopped, a new run takes over", func(t *testing.T) {
		w.Kill()
		id := untilDead(t, s, "restore/chunk/after", who.env())
		says(t, web, ".spec.replicas", "0")
		says(t, "daemonset/agent", ".status.desiredNumberScheduled", "0")
		says(t, "job/load", ".spec.suspend", "true")
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
		w = serve(t, s, "w", who.env())
		// Nothing has sessions by now: what was stopped is known by the notes on it.
		again := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
		asks := approve(t, s, again).WaitingFor
		require.Contains(t, asks, "Deployment "+release+"-langfuse (3), which an earlier run has left stopped")
		require.NotContains(t, asks, "ReplicaSet", "whose notes are the Deployment's")
		doc := s.Await(t, again)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		has(t, "3", before)
		usedAsBefore(t)
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
		usedAsBefore(t)
	})
	who.audited(t)
}
