//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// database is the pod that a target's database is in.
const database = release + "-postgresql-0"

// inPod is a target whose database is in a pod of the stack.
func inPod(name, more string) string {
	return fmt.Sprintf(`  - name: %s
    kubernetes: {namespace: %s, release: %s}
    database:
      service: %s-postgresql
      name: langfuse
      role: postgres
      passwordFrom: {secret: {name: langfuse-postgresql, key: postgres-password}}
%s`, name, namespace, release, release, more)
}

// site is Temporal, on this machine, and a worker, for targets in the cluster.
func site(t *testing.T, env ...string) (*harness.Stack, workers) {
	t.Helper()
	s := harness.New(t, inPod("observatory", ""))
	return s, serve(t, s, "w", env...)
}

// noScratchPods checks that drills have left nothing in the namespace.
func noScratchPods(t *testing.T) {
	t.Helper()
	require.NoError(t, until(90*time.Second, func() error {
		left, err := kubectl("get", "pods,networkpolicies,secrets", "-l", "upkeep.run/scratch", "-o", "name")
		if err == nil && left != "" {
			err = fmt.Errorf("left over: %s", left)
		}
		return err
	}))
}

func TestADatabaseInAPod(t *testing.T) {
	require.NoError(t, write("what a backup must have"))
	s := harness.New(t, inPod("observatory", ""))
	all := []string{"--procedure", "BackupDatabase", "--procedure", "VerifyBackup", "--procedure", "DrillRecovery", "--procedure", "RestoreDatabase"}
	who := narrow(t, s, "keeper", all...)
	w := serve(t, s, "w", who.env())

	taken := s.Run(t, "BackupDatabase", `{}`)
	require.Equal(t, run.Succeeded, taken.Outcome, taken.Summary)

	verified := s.Run(t, "VerifyBackup", `{}`)
	require.Equal(t, run.Succeeded, verified.Outcome, verified.Summary)
	for _, step := range verified.Steps {
		require.NotContains(t, step.Detail, "scratch server", "the pod is seen to reach nothing")
	}
	noScratchPods(t)

	drilled := s.Run(t, "DrillRecovery", `{}`)
	require.Equal(t, run.Succeeded, drilled.Outcome, drilled.Summary)

	restored := s.Run(t, "RestoreDatabase", `{"database":"langfuse_copy"}`)
	require.Equal(t, run.Succeeded, restored.Outcome, restored.Summary)
	count := func(name string) string {
		rows, err := kubectl("exec", database, "--", "psql", "-XAtU", "langfuse", "-d", name, "-c", "SELECT count(*) FROM traces")
		require.NoError(t, err)
		return strings.TrimSpace(rows)
	}
	require.Equal(t, count("langfuse"), count("langfuse_copy"))
	_, err := kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-c", "DROP DATABASE langfuse_copy")
	require.NoError(t, err)
	noScratchPods(t)
	who.audited(t)

	w.Kill()
	looker := narrow(t, s, "keeper-looks", append(all, "--dry-run-only")...)
	serve(t, s, "looks", looker.env())
	for procedure, input := range map[string]string{
		"BackupDatabase": `{"dryRun":true}`, "VerifyBackup": `{"dryRun":true}`, "DrillRecovery": `{"dryRun":true}`, "RestoreDatabase": `{"dryRun":true,"database":"langfuse_copy"}`,
	} {
		doc := s.Run(t, procedure, input)
		require.Equal(t, run.Succeeded, doc.Outcome, "%s: %s", procedure, doc.Summary)
	}
	looker.audited(t)
}

// TestTheDatabasesPodIsDeleted in the middle of a backup and of a restore: the run goes on when it is back.
func TestTheDatabasesPodIsDeleted(t *testing.T) {
	for _, c := range []struct{ procedure, input, point string }{
		{"BackupDatabase", `{}`, "backup/snapshot/after"},
		{"RestoreDatabase", `{"database":"langfuse_again"}`, "restore/chunk/after"},
	} {
		t.Run(c.procedure, func(t *testing.T) {
			s, calm := site(t)
			require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{}`).Outcome)
			calm.Kill()
			w := serve(t, s, "w2", "UPKEEP_FAULT=point="+c.point+":stop", "UPKEEP_FAULT_ONCE="+s.Dir+"/once")
			id := s.Start(t, c.procedure, c.input)
			require.NoError(t, until(90*time.Second, func() error {
				if !w.Frozen() {
					return fmt.Errorf("%s is not reached", c.point)
				}
				return nil
			}))
			_, err := kubectl("delete", "pod", database, "--grace-period=0", "--force")
			require.NoError(t, err)
			w.Continue()
			doc := s.Await(t, id)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		})
	}
	_, err := kubectl("exec", database, "--", "psql", "-XAtU", "postgres", "-c", "DROP DATABASE langfuse_again")
	require.NoError(t, err)
}

// TestAScratchPodIsDeleted in the middle of a drill: the copy is made again in another.
func TestAScratchPodIsDeleted(t *testing.T) {
	s, calm := site(t)
	require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{}`).Outcome)
	calm.Kill()
	w := serve(t, s, "w2", "UPKEEP_FAULT=point=restore/chunk/after:stop", "UPKEEP_FAULT_ONCE="+s.Dir+"/once")
	id := s.Start(t, "VerifyBackup", `{}`)
	require.NoError(t, until(90*time.Second, func() error {
		if !w.Frozen() {
			return fmt.Errorf("the restore has not begun")
		}
		return nil
	}))
	_, err := kubectl("delete", "pods", "-l", "upkeep.run/scratch", "--grace-period=0", "--force")
	require.NoError(t, err)
	w.Continue()
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	noScratchPods(t)
}

// TestARunThatIsTerminatedLeavesNoScratchPod: the reaper finds it.
func TestARunThatIsTerminatedLeavesNoScratchPod(t *testing.T) {
	s, calm := site(t)
	require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{}`).Outcome)
	calm.Kill()
	w := serve(t, s, "w2", "UPKEEP_FAULT=point=restore/chunk/after:kill")
	id := s.Start(t, "VerifyBackup", `{}`)
	<-w.Done()
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
	serve(t, s, "w3")
	noScratchPods(t)
}
