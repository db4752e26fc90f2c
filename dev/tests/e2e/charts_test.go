//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// migrates rolls a release out whose migration is still at its work when the returned pod runs.
func (x stall) migrates(t *testing.T) (id, pod string) {
	t.Helper()
	serve(t, x.stack, "w")
	id = x.stack.Start(t, rolloutrelease.WorkflowType, `{"override":"the test has no data","set":{"color":"blue","migration":"sleep 1000 & wait $!"}}`)
	go approving(t, x.stack, id)
	require.NoError(t, until(2*time.Minute, func() error {
		out, err := kubectl("get", "pods", "-l", "job-name="+x.name+"-before", "--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}")
		if pod = out; err == nil && out == "" {
			err = fmt.Errorf("the migration does not run")
		}
		return err
	}))
	return id, pod
}

// failsAndGoesBack checks that a release that failed by its hook was taken back, and that nothing is locked.
func (x stall) failsAndGoesBack(t *testing.T, doc *run.Document) {
	t.Helper()
	t.Log(doc.Summary)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "hook Job "+x.name+"-before")
	require.Contains(t, doc.Summary, "was rolled back to revision 1")
	color, err := kubectl("get", "configmap", x.name+"-settings", "-o", "jsonpath={.data.color}")
	require.NoError(t, err)
	require.Equal(t, "red", color)
	x.sound(t, "1")
}

func TestAMigrationsPodIsDeleted(t *testing.T) {
	t.Parallel()
	x := newStall(t, "hooks=true")
	id, pod := x.migrates(t)
	_, err := kubectl("delete", "pod", pod, "--grace-period=0", "--force")
	require.NoError(t, err)
	x.failsAndGoesBack(t, x.stack.Await(t, id))
}

func TestAMigrationsProcessIsKilled(t *testing.T) {
	t.Parallel()
	x := newStall(t, "hooks=true")
	id, pod := x.migrates(t)
	_, err := kubectl("exec", pod, "--", "sh", "-c", "kill -9 $(pidof sleep)")
	require.NoError(t, err)
	x.failsAndGoesBack(t, x.stack.Await(t, id))
}

func TestAMigrationThatFails(t *testing.T) {
	t.Parallel()
	x := newStall(t, "hooks=true")
	serve(t, x.stack, "w")
	id := x.stack.Start(t, rolloutrelease.WorkflowType, `{"override":"the test has no data","set":{"color":"blue","migration":"echo there is no such column; exit 3"}}`)
	go approving(t, x.stack, id)
	doc := x.stack.Await(t, id)
	require.Contains(t, doc.Summary, "there is no such column")
	x.failsAndGoesBack(t, doc)
}

// TestAVolumeThatGrew: a size that the StatefulSet refuses is refused before anything is touched, and where
// somebody made it anew with the larger one, no rollback is begun that would fail.
func TestAVolumeThatGrew(t *testing.T) {
	t.Parallel()
	x := newStall(t, "volume=64Mi")
	serve(t, x.stack, "w")
	doc := x.stack.Run(t, rolloutrelease.WorkflowType, `{"set":{"volume":"128Mi"}}`)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Equal(t, "ObjectRefused", doc.Error.Code)
	require.Contains(t, doc.Summary, "the size of its volumes cannot be changed from 64Mi to 128Mi")
	require.Len(t, x.history(t), 1)

	_, err := kubectl("delete", "statefulset", x.name+"-store")
	require.NoError(t, err)
	_, err = helm("upgrade", x.name, x.chart, "--set", "volume=128Mi,image="+badImage)
	require.NoError(t, err)
	x.missesImage(t)
	doc = x.stack.Run(t, "RecoverService", `{"wait":1}`)
	r, steps := recovered(t, doc)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Equal(t, "NotRecovered", doc.Error.Code)
	require.Contains(t, doc.Summary, "taken in vain: rollback")
	require.Equal(t, "rollback", steps)
	require.Contains(t, r.Taken[0].Error, "cannot be changed from 128Mi to 64Mi")
	all := x.history(t)
	require.Len(t, all, 2, "it was not begun")
	require.Equal(t, "deployed", all[1].Status)
}

// TestABadReleaseIsRolledBackWithItsData: a drilled backup is the proof that a release with migrations needs.
// When the release is bad the backup is restored, after an approval, in the database's place.
func TestABadReleaseIsRolledBackWithItsData(t *testing.T) {
	if !long() {
		t.Skip("it takes minutes; FAILPOINTS=all runs it")
	}
	t.Parallel()
	p := install(t, "restoring")
	path, err := filepath.Abs(chart)
	require.NoError(t, err)
	own := filepath.Join(t.TempDir(), "chart") // the service's image apart from its migration's
	require.NoError(t, os.CopyFS(own, os.DirFS(path)))
	web := filepath.Join(own, "templates", "langfuse.yaml")
	text, err := os.ReadFile(web)
	require.NoError(t, err)
	apart := strings.Replace(string(text), ".Values.images.langfuse", "(.Values.images.web | default .Values.images.langfuse)", 1)
	require.NotEqual(t, string(text), apart)
	require.NoError(t, os.WriteFile(web, []byte(apart), 0o600))
	s := harness.New(t, fmt.Sprintf(`  - name: observatory
    database: {service: %[1]s-postgresql, name: langfuse, role: postgres, passwordFrom: {secret: {name: langfuse-postgresql, key: postgres-password}}}
    kubernetes: {namespace: %[2]s, release: %[1]s, probes: [{name: traces, service: %[1]s-langfuse, port: 3000, path: /traces/count}]}
    rollout: {chart: %[3]s, bake: 10s, timeout: 20s, migrations: restore}
`, release, p, chartFor(t, allInPods, own)))
	serve(t, s, "w")
	sql := func(text string) string {
		out, err := p.run("kubectl", "exec", release+"-postgresql-0", "--", "psql", "-XAtqU", "postgres", "-d", "langfuse", "-c", text)
		require.NoError(t, err)
		return strings.TrimSpace(out)
	}
	sql("INSERT INTO traces (name) SELECT 'before ' || g FROM generate_series(1, 50) g")
	drilled := s.Run(t, "DrillRecovery", `{}`)
	require.Equal(t, run.Succeeded, drilled.Outcome, drilled.Summary)

	id := s.Start(t, rolloutrelease.WorkflowType, `{"set":{"langfuse.schema":2,"images.web":"`+badImage+`"}}`)
	first := s.Until(t, id, func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() })
	require.True(t, first.AsksApproval(), first.Summary)
	require.Contains(t, first.WaitingFor, "is drilled; if it fails: after another approval the backup is restored")
	decide := func(doc *run.Document) {
		require.NoError(t, s.Starter.DecideOnPlan(t.Context(), id, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "the test", Reason: "so"}))
	}
	decide(first)
	second := s.Until(t, id, func(d *run.Document) bool {
		return d.Outcome.Ended() || d.AsksApproval() && d.Approval.Hash != first.Approval.Hash
	})
	require.True(t, second.AsksApproval(), second.Summary)
	require.Contains(t, second.WaitingFor, "has migrated its database: restore backup")
	require.Equal(t, "2", p.schema(t), "it has migrated")
	sql("INSERT INTO traces (name) VALUES ('after the migration')")
	go approving(t, s, id)
	doc := s.Await(t, id)
	t.Log(doc.Summary)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "was rolled back to revision 1")
	var r rolloutrelease.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	require.NotEmpty(t, r.BackupID)
	require.Equal(t, "1", p.schema(t), "the data are those from before")
	require.Equal(t, "50", sql("SELECT count(*) FROM traces"))
	kept := sql("SELECT datname FROM pg_database WHERE datname LIKE 'langfuse_%'")
	require.NotEmpty(t, kept, "what was is kept")
	require.Equal(t, 3, p.deployed(t))
	require.NoError(t, until(time.Minute, func() error {
		got, err := p.run("kubectl", "get", "deployment", release+"-langfuse", "-o", "jsonpath={.spec.replicas}/{.status.replicas}/{.status.readyReplicas}")
		if err == nil && got != "1/1/1" {
			err = fmt.Errorf("replicas are %s", got)
		}
		return err
	}))
}
