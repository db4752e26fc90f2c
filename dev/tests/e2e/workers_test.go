//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	sdk "go.temporal.io/sdk/client"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// workersNeed is what the workers find in their namespace: a volume for the store, the key of the audit trail,
// and a way to the database, which lets in nobody but the service otherwise.
const workersNeed = `
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "upkeep-store"},
   "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}}},
  {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "upkeep-audit"}, "stringData": {"audit.key": %q}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "upkeep-to-postgresql"},
   "spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "postgresql"}},
    "ingress": [{"ports": [{"port": 5432}], "from": [{"podSelector": {"matchLabels":
     {"app.kubernetes.io/name": "upkeep", "app.kubernetes.io/component": "database"}}}]}]}}
]}`

const workersValues = `
image: {repository: upkeep, tag: %[1]s, pullPolicy: Never}
temporal: {address: %[2]q}
store: {claim: upkeep-store}
auditKey: {secretName: upkeep-audit}
database:
  env: [{name: LANGFUSE_PASSWORD, secretName: langfuse-postgresql, key: password}]
code: {enabled: true, image: {tag: %[1]s-fault-server-code}}
config: |
%[3]s
`

const workersConfig = `
  version: 1
  store: file:///var/lib/upkeep/store
  targets:
    - name: langfuse
      kubernetes: {namespace: %[1]s}
      database: {service: %[2]s-postgresql, name: langfuse, role: langfuse, passwordFrom: {secret: {name: langfuse-postgresql, key: password}}}
`

// TestTheServerTakesTheChart, with everything in it on: each field is one that it knows, and the pods meet
// the standard "restricted", of which the namespace warns.
func TestTheServerTakesTheChart(t *testing.T) {
	require.NoError(t, makeHome())
	for name, values := range map[string]string{
		"least": `{"temporal": {"address": "temporal:7233"}, "store": {"emptyDir": true}, "config": "version: 1\n"}`,
		"all": fmt.Sprintf(`{"image": {"digest": "sha256:%[2]s"}, "imagePullSecrets": [{"name": "registry"}],
			"temporal": {"address": "temporal:7233", "tls": {"secretName": "tls", "serverName": "temporal"}, "apiKey": {"secretName": "key"}},
			"config": "version: 1\n", "store": {"claim": "upkeep-store"}, "auditKey": {"secretName": "audit"},
			"workflows": {"podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "serviceAccount": {"annotations": {"e": "f"}}},
			"database": {"env": [{"name": "REGION", "value": "here"}, {"name": "SHOP_PASSWORD", "secretName": "shop", "key": "password"}],
				"mounts": [{"path": "/etc/keys", "secret": "keys"}], "targets": [{"namespace": %[1]q, "secrets": ["a"], "scratchPods": true}]},
			"code": {"enabled": true, "image": {"tag": "0.1.0-code"}, "env": [{"name": "GITHUB_TOKEN", "secretName": "github", "key": "token"}],
				"mounts": [{"path": "/etc/registries", "secret": "registries"}], "scratch": {"sizeLimit": "1Gi"}},
			"cluster": {"mounts": [{"path": "/charts", "configMap": "charts"}, {"path": "/more", "claim": "more"}]},
			"rbac": {"rules": [{"namespace": %[1]q, "rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["shop"], "verbs": ["get", "patch"]}]}],
				"clusterRules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]},
			"prober": {"namespaces": [%[1]q], "podLabels": {"c": "d"}, "podAnnotations": {"a": "b"}},
			"networkPolicy": {"metricsFrom": [{"podSelector": {}}], "egress": [{"ports": [{"port": 443}]}], "codeEgress": [{"ports": [{"port": 443}]}],
				"temporalTo": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "dnsTo": [{"namespaceSelector": {}}]},
			"priorityClassName": "system-cluster-critical", "nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"operator": "Exists"}],
			"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}}]}}}`,
			home, strings.Repeat("0", 64)),
	} {
		t.Run(name, func(t *testing.T) {
			manifest, err := command(time.Minute, values, "helm", "--namespace", home, "template", "dry", upkeepChart, "--values", "-")
			require.NoError(t, err)
			out, err := command(time.Minute, manifest, "kubectl", "--namespace", home, "apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
			require.NoError(t, err)
			require.Contains(t, out, "deployment.apps/dry-cluster created (server dry run)")
		})
	}
}

// workersRights are the chart's values for backups of the target, as "upkeep rbac" prints them, and the Roles
// that the chart makes of them.
func workersRights(t *testing.T, config string) (values string, granted []rbacv1.Role) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "upkeep.yaml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	values = filepath.Join(dir, "rights.yaml")
	text, err := command(time.Minute, "", harness.Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep", ""), "rbac", "--config", file, "--procedure", "BackupDatabase", "-o", "values")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(values, []byte(text), 0o600))
	list, err := command(time.Minute, "", harness.Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep", ""), "rbac", "--config", file, "--procedure", "BackupDatabase", "-o", "json")
	require.NoError(t, err)
	return values, roles(t, list)
}

// TestWorkersInPods installs the chart, backs the stack's database up by its workers, and evicts the
// worker that is at it.
func TestWorkersInPods(t *testing.T) {
	temporal, err := devserver.Start(t.Context(), devserver.Options{Dir: t.TempDir(), SearchAttributes: worker.Attributes()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, temporal.Stop()) })
	address := forward(t, temporal.Address)
	c, err := sdk.DialContext(t.Context(), sdk.Options{HostPort: temporal.Address})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := &starter.Starter{Client: c}

	_, err = command(time.Minute, fmt.Sprintf(workersNeed, strings.Repeat("5a", 32)), "kubectl", "--namespace", namespace, "apply", "-f", "-")
	require.NoError(t, err)
	config := fmt.Sprintf(workersConfig, namespace, release)
	rights, granted := workersRights(t, config)
	values := fmt.Sprintf(workersValues, imageTag(), address, config)
	_, err = command(5*time.Minute, values, "helm", "--namespace", namespace, "install", "upkeep", upkeepChart, "--wait", "--timeout", "4m", "--values", rights, "--values", "-")
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := kubectl("logs", "-l", "app.kubernetes.io/name=upkeep", "--tail=20", "--prefix")
			t.Log(logs)
		}
		_, err := helm("uninstall", "upkeep", "--wait")
		require.NoError(t, err)
	})
	require.NoError(t, err)

	await := func(id string) *run.Document {
		t.Helper()
		var doc *run.Document
		require.NoError(t, until(2*time.Minute, func() (err error) {
			if doc, err = s.Show(t.Context(), id); err == nil && !doc.Outcome.Ended() {
				err = fmt.Errorf("run %s: %+v", id, doc)
			}
			return err
		}))
		return doc
	}
	backup := func(id string) {
		t.Helper()
		_, err := s.Start(t.Context(), starter.Order{Procedure: "BackupDatabase", Target: "langfuse", ID: id})
		require.NoError(t, err)
	}

	t.Run("each has the powers of its capability", func(t *testing.T) {
		may := func(capability string, what ...string) bool {
			t.Helper()
			answer, err := kubectl(append([]string{"auth", "can-i", "--as", "system:serviceaccount:" + namespace + ":upkeep-" + capability}, what...)...)
			answer = strings.TrimSpace(answer)
			require.Contains(t, []string{"yes", "no"}, answer, "%v", err)
			return answer == "yes"
		}
		require.True(t, may("database", "get", "service/"+release+"-postgresql"))
		require.True(t, may("database", "get", "secret/langfuse-postgresql"))
		require.False(t, may("database", "create", "pods", "--subresource=portforward"), "from within the cluster it needs none")
		require.False(t, may("database", "get", "secret/another"))
		require.False(t, may("database", "create", "pods"), "backups need none")
		for _, capability := range []string{worker.Workflows, worker.Cluster, worker.Code} {
			require.False(t, may(capability, "get", "pods"), capability)
			require.False(t, may(capability, "get", "secret/langfuse-postgresql"), capability)
		}
		for capability, want := range map[string]bool{worker.Workflows: false, worker.Database: true, worker.Cluster: true, worker.Code: false} {
			spec, err := kubectl("get", "pods", "-l", "app.kubernetes.io/name=upkeep,app.kubernetes.io/component="+capability, "-o", "json")
			require.NoError(t, err)
			require.Equal(t, want, strings.Contains(spec, "kube-api-access-"), "the token of %s", capability)
			require.Equal(t, capability == worker.Database, strings.Contains(spec, "LANGFUSE_PASSWORD"), "the password of %s", capability)
		}
	})

	t.Run("code has what makes lock files", func(t *testing.T) {
		in := func(program string, args ...string) string {
			t.Helper()
			out, err := kubectl(append([]string{"exec", "deploy/upkeep-code", "--", program}, args...)...)
			require.NoError(t, err)
			return out
		}
		in("busybox", "mkdir", "/tmp/it")
		in("go", "-C", "/tmp/it", "mod", "init", "example.com/it")
		in("go", "-C", "/tmp/it", "mod", "tidy", "-diff")
		_, err := command(time.Minute, `{"name": "it", "version": "1.0.0"}`, "kubectl", "--namespace", namespace, "exec", "-i", "deploy/upkeep-code", "--", "busybox", "tee", "/tmp/it/package.json")
		require.NoError(t, err)
		in("node", "/usr/local/bin/npm", "install", "--prefix", "/tmp/it", "--package-lock-only", "--offline")
		require.Contains(t, in("busybox", "cat", "/tmp/it/package-lock.json"), `"lockfileVersion": 3`)
		require.Contains(t, in("git", "version"), "git version 2")
	})

	t.Run("a backup", func(t *testing.T) {
		require.NoError(t, write("to be backed up"))
		backup("in-pods")
		doc := await("in-pods")
		require.Equal(t, run.Succeeded, doc.Outcome, "%+v", doc)
		require.Contains(t, doc.Report, "file:///var/lib/upkeep/store/runs/in-pods/")
	})

	t.Run("a backup whose worker is evicted", func(t *testing.T) {
		release := lockTraces(t)
		backup("evicted")
		var first string // the worker that is at it, waiting for the lock
		require.NoError(t, until(time.Minute, func() error {
			d, err := c.DescribeWorkflowExecution(t.Context(), "evicted", "")
			if err != nil {
				return err
			}
			for _, a := range d.GetPendingActivities() {
				if a.GetActivityType().GetName() == postgres.TakeBackup && a.GetState() == enumspb.PENDING_ACTIVITY_STATE_STARTED {
					first = a.GetLastWorkerIdentity()
					return nil
				}
			}
			return errors.New("the backup has not begun")
		}))
		pod := first[strings.LastIndex(first, " ")+1:]
		require.NoError(t, evict(namespace, pod, 40), "evict %q", pod)
		release()
		doc := await("evicted")
		require.Equal(t, run.Succeeded, doc.Outcome, "%+v", doc)

		require.NotEqual(t, first, tookOver(t, c, "evicted"), "it was another pod's")
	})
	(&account{user: "system:serviceaccount:" + namespace + ":upkeep-database", granted: granted}).used(t)
}

// tookOver is the worker that made an attempt after the first at something of the run.
func tookOver(t *testing.T, c sdk.Client, id string) (by string) {
	t.Helper()
	for events := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		require.NoError(t, err)
		if started := e.GetActivityTaskStartedEventAttributes(); started.GetAttempt() > 1 {
			by = started.GetIdentity()
		}
	}
	require.NotEmpty(t, by, "an attempt after the first")
	return by
}

// TestRecoveriesInPods: each goes on when the worker that is at it is evicted in its middle. What its
// workers may is what values of the chart say.
func TestRecoveriesInPods(t *testing.T) {
	evictedAt := func(t *testing.T, s *harness.Stack, point string) (goesOn func(id string)) {
		t.Helper()
		w := serveInPods(t, s, "UPKEEP_FAULT=point="+point+":kill").(*inPods)
		return func(id string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
			defer cancel()
			select {
			case <-w.Done():
			case <-ctx.Done():
				require.Fail(t, "the point is not reached")
			}
			require.NotEmpty(t, w.evicted)
			require.NotContains(t, tookOver(t, s.Client, id), w.evicted)
		}
	}

	t.Run("a service outage", func(t *testing.T) {
		const name = "shop-p"
		s, _ := shop(t, name)
		goesOn := evictedAt(t, s, "recover/delete/after")
		breakShop(t, name, wedge)
		id := s.Start(t, "RecoverService", `{"wait":1}`)
		doc := s.Await(t, id)
		r, steps := recovered(t, doc)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, "restart", steps)
		require.Equal(t, run.Pass, r.Verdict)
		goesOn(id)
	})

	t.Run("a loss of data, and a release that migrates", func(t *testing.T) {
		if !allInPods && !long() {
			t.Skip("it takes minutes; WORKERS=pods and FAILPOINTS=all run it")
		}
		s := harness.New(t, probed()+fmt.Sprintf(`    rollout:
      chart: %s
      bake: 10s
      migrations: compatible
      checks: [{name: up, query: 'min(up{job="lang-observatory"})', min: 1, prometheus: {service: prometheus-server, port: 9090}}]
`, chartFor(t, true, chart)))
		goesOn := evictedAt(t, s, "swap/before")
		before := loss(t, s) // with a drill, whose scratch server is a pod
		id := s.Start(t, "RecoverData", `{"confirm":"langfuse"}`)
		require.Contains(t, approve(t, s, id).WaitingFor, release+"-langfuse (3)")
		doc := s.Await(t, id)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		has(t, "3", before)
		goesOn(id)
		noScratchPods(t)

		p := place(namespace)
		revision := p.deployed(t)
		goesOn = evictedAt(t, s, "helm/apply/after")
		id = approved(t, s, `{"set": {"langfuse.schema": 2, "langfuse.replicas": 1}}`)
		doc = s.Await(t, id)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, run.Pass, resultOf(t, doc).Production.Verdict)
		require.Equal(t, revision+1, p.deployed(t), "it was done once")
		has(t, "1", count{Count: before.Count, Schema: 2})
		goesOn(id)
	})
}

// lockTraces keeps everybody from the table until it is released.
func lockTraces(t *testing.T) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	psql := func(sql string) (string, error) {
		return kubectl("exec", "lang-observatory-postgresql-0", "--", "psql", "-XAt", "-U", "postgres", "-d", "langfuse", "-c", sql)
	}
	holder := exec.CommandContext(ctx, "kubectl", "--namespace", namespace, "exec", "lang-observatory-postgresql-0", "--",
		"psql", "-X", "-U", "postgres", "-d", "langfuse", "-c", "BEGIN; LOCK TABLE traces; SELECT pg_sleep(120)")
	require.NoError(t, holder.Start())
	const held = "FROM pg_locks WHERE relation = 'traces'::regclass AND mode = 'AccessExclusiveLock' AND granted"
	require.NoError(t, until(30*time.Second, func() error {
		answer, err := psql("SELECT count(*) " + held)
		if err == nil && strings.TrimSpace(answer) != "1" {
			err = errors.New("the lock is not held")
		}
		return err
	}))
	release = func() {
		_, err := psql("SELECT pg_terminate_backend(pid) " + held)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = psql("SELECT pg_terminate_backend(pid) " + held) // it ends by itself, too
		}
		cancel()
		_ = holder.Wait() // it was ended on purpose
	})
	return release
}
