//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	temporal "go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// place is the stack once more, in a namespace of its own.
type place string

func install(t *testing.T, name string) place {
	t.Helper()
	p := place(namespace + "-" + name)
	_, err := command(time.Minute, "", "kubectl", "create", "namespace", string(p))
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := command(3*time.Minute, "", "kubectl", "delete", "namespace", string(p), "--wait=true")
		require.NoError(t, err)
	})
	_, err = p.run("helm", "install", release, chart, "--wait", "--timeout", "3m", "--set", "langfuse.schema=1")
	require.NoError(t, err)
	return p
}

func (p place) run(program string, args ...string) (string, error) {
	return command(4*time.Minute, "", program, append([]string{"--namespace", string(p)}, args...)...)
}

type revision struct {
	Revision    int
	Status      string
	Description string
}

func (p place) history(t *testing.T) (all []revision) {
	t.Helper()
	out, err := p.run("helm", "history", release, "-o", "json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	return all
}

// deployed checks that the newest revision is the deployed one, and returns its number.
func (p place) deployed(t *testing.T) int {
	t.Helper()
	all := p.history(t)
	require.Equal(t, "deployed", all[len(all)-1].Status, all)
	return all[len(all)-1].Revision
}

func (p place) schema(t *testing.T) string {
	t.Helper()
	out, err := p.run("kubectl", "exec", release+"-postgresql-0", "--", "psql", "-XAtU", "langfuse", "-c", "SELECT max(version) FROM schema_version")
	require.NoError(t, err)
	return strings.TrimSpace(out)
}

// served calls the service again and again, and says at the end how often it did not answer.
func (p place) served(t *testing.T) (end func() (calls, failed int)) {
	t.Helper()
	pod := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "labels": {"access": "langfuse"}}, "spec": %s}`, fmt.Sprintf(client, "sleep 100000"))
	_, err := command(time.Minute, pod, "kubectl", "--namespace", string(p), "apply", "-f", "-")
	require.NoError(t, err)
	_, err = p.run("kubectl", "wait", "--for=condition=Ready", "pod/caller", "--timeout=60s")
	require.NoError(t, err)
	call := func() error {
		_, err := p.run("kubectl", "exec", "caller", "--", "timeout", "5", "wget", "-qO-", "http://"+release+"-langfuse:3000/ready")
		return err
	}
	require.NoError(t, until(30*time.Second, call))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan [2]int)
	go func() {
		var n [2]int
		for ctx.Err() == nil {
			n[0]++
			if call() != nil {
				n[1]++
			}
		}
		done <- n
	}()
	return func() (int, int) { stop(); n := <-done; return n[0], n[1] }
}

// approved starts a rollout, and approves its plan.
func approved(t *testing.T, s *harness.Stack, input string) string {
	t.Helper()
	id := s.Start(t, rolloutrelease.WorkflowType, input)
	doc := s.Until(t, id, func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() })
	require.True(t, doc.AsksApproval(), doc.Summary)
	h, err := s.Client.UpdateWorkflow(t.Context(), temporal.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: run.ApproveUpdate, WaitForStage: temporal.WorkflowUpdateStageCompleted,
		Args: []any{run.PlanDecision{Plan: doc.Approval.Hash, By: "the test", Reason: "so"}},
	})
	require.NoError(t, err)
	require.NoError(t, h.Get(t.Context(), nil))
	return id
}

func resultOf(t *testing.T, doc *run.Document) (r rolloutrelease.Result) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

func TestRolloutRelease(t *testing.T) {
	t.Parallel()
	staging, production := install(t, "staging"), install(t, "production")
	path := chartFor(t, allInPods, chart)
	without := filepath.Join(t.TempDir(), "chart") // without the hook, whose image would be bad too
	require.NoError(t, os.CopyFS(without, os.DirFS(chart)))
	require.NoError(t, os.Remove(filepath.Join(without, "templates", "migrate.yaml")))
	bare := chartFor(t, allInPods, without)
	target := func(name string, p place, more string) string {
		return fmt.Sprintf(`  - name: %s
    database: {service: %s-postgresql, name: langfuse, role: langfuse, passwordFrom: {secret: {name: langfuse-postgresql, key: password}}}
    kubernetes: {namespace: %s, release: %s, probes: [{name: traces, service: %[2]s-langfuse, port: 3000, path: /traces/count}]}
    rollout:
      chart: %[5]s
      bake: 10s
      timeout: 30s
      migrations: compatible
      checks: [{name: up, query: 'min(up{job="lang-observatory"})', min: 1, prometheus: {service: prometheus-server, port: 9090}}]
%[6]s`, name, release, p, release, path, more)
	}
	s := harness.New(t, target("staging", staging, "")+target("production", production, "      staging: staging\n"))
	serve(t, s, "w")

	t.Run("a dry run changes nothing", func(t *testing.T) {
		doc := s.Run(t, rolloutrelease.WorkflowType, `{"target": "production", "dryRun": true, "set": {"langfuse.schema": 2}}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary, "it migrates")
		require.Contains(t, doc.Summary, "it would be refused")
		require.Equal(t, 1, staging.deployed(t))
		require.Equal(t, 1, production.deployed(t))
	})
	t.Run("what others own, or Upkeep runs on, is left alone", func(t *testing.T) {
		for code, mark := range map[string][]string{
			"OwnedByOther": {"helm.toolkit.fluxcd.io/name=shop", "helm.toolkit.fluxcd.io/namespace=flux-system"},
			"NotItself":    {"app.kubernetes.io/part-of=upkeep", "upkeep.run/none=x"},
		} {
			_, err := production.run("kubectl", append([]string{"label", "--overwrite", web}, mark...)...)
			require.NoError(t, err)
			doc := s.Run(t, rolloutrelease.WorkflowType, `{"target": "production", "dryRun": true}`)
			require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
			require.Equal(t, code, doc.Error.Code, doc.Summary)
			_, err = production.run("kubectl", "label", "--overwrite", web, "app.kubernetes.io/part-of=lang-observatory",
				"helm.toolkit.fluxcd.io/name-", "helm.toolkit.fluxcd.io/namespace-", "upkeep.run/none-")
			require.NoError(t, err)
		}
	})
	t.Run("without a drilled backup it does not migrate", func(t *testing.T) {
		doc := s.Run(t, rolloutrelease.WorkflowType, `{"target": "production", "set": {"langfuse.schema": 2}}`)
		require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
		require.Equal(t, "NoProof", doc.Error.Code)
		require.Equal(t, 1, staging.deployed(t))
	})
	t.Run("a good release goes over staging to production", func(t *testing.T) {
		id := approved(t, s, `{"target": "production", "override": "the test has no data", "set": {"langfuse.schema": 2}}`)
		doc := s.Await(t, id)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		r := resultOf(t, doc)
		require.Equal(t, run.Pass, r.Staging.Verdict)
		require.Equal(t, run.Pass, r.Production.Verdict)
		require.Contains(t, fmt.Sprint(r.Production.Checks), "probe traces")
		require.Equal(t, 2, staging.deployed(t))
		require.Equal(t, 2, production.deployed(t))
		require.Equal(t, "2", production.schema(t))
		notes := stored(t, s, "production/releases/"+release)
		require.Len(t, notes, 1)
		require.Regexp(t, `^2-.*\.json$`, notes[0])
	})
	t.Run("a bad image is rolled back by itself, and the service is served meanwhile", func(t *testing.T) {
		end := production.served(t)
		id := approved(t, s, fmt.Sprintf(`{"target": "production", "skipStaging": true, "chart": %q, "set": {"images.langfuse": "upkeep.test/none:dev"}}`, bare))
		doc := s.Await(t, id)
		calls, failed := end()
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary, "was rolled back to revision 2")
		require.Equal(t, 4, production.deployed(t))
		require.Greater(t, calls, 10)
		require.Zero(t, failed)
		t.Log(doc.Summary)
	})
	t.Run("a hook that fails at staging keeps production as it is", func(t *testing.T) {
		id := approved(t, s, `{"target": "production", "override": "the test has no data", "set": {"langfuse.schema": 99}}`)
		doc := s.Await(t, id)
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary, "there is no version 99")
		require.Contains(t, doc.Summary, "production was not touched")
		require.Equal(t, 4, staging.deployed(t))
		require.Equal(t, 4, production.deployed(t))
	})
}

// TestAMergedUpdateIsRolledOut without a person, where its repository's policy says so, and only if the chart
// renders something new.
func TestAMergedUpdateIsRolledOut(t *testing.T) {
	beside(t, configures)
	t.Parallel()
	p := install(t, "merged")
	without := filepath.Join(t.TempDir(), "chart") // without the hook: what migrates is for a person
	require.NoError(t, os.CopyFS(without, os.DirFS(chart)))
	require.NoError(t, os.Remove(filepath.Join(without, "templates", "migrate.yaml")))
	values := filepath.Join(t.TempDir(), "values.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(values, []byte(text), 0o600)) }
	write("langfuse: {schema: 1}\n")
	s := harness.New(t, fmt.Sprintf(`  - name: merged
    kubernetes: {namespace: %s, release: %s}
    rollout: {chart: %q, values: [%q], bake: 10s, timeout: 60s}
    repositories: [{github: shop/web, tokenFrom: {env: NONE}, rollout: start}]
`, p, release, without, values))
	serve(t, s, "w")

	rolls := func(pull, revision int, outcome run.Outcome) *run.Document {
		t.Helper()
		doc := s.Run(t, rolloutrelease.WorkflowType, fmt.Sprintf(`{"target": "merged", "merged": "shop/web#%d"}`, pull))
		require.Equal(t, outcome, doc.Outcome, doc.Summary)
		require.Equal(t, revision, p.deployed(t))
		return doc
	}
	rolls(6, 2, run.Succeeded) // away from the hook
	require.Contains(t, rolls(7, 2, run.PartiallySucceeded).Summary, "nothing is rolled out")
	write("langfuse: {schema: 1, replicas: 2}\n")
	require.Equal(t, "the policy of shop/web", rolls(7, 3, run.Succeeded).Approval.By)
	rolls(8, 3, run.PartiallySucceeded)
}
