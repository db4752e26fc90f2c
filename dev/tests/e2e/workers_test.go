//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

const upkeepChart = "../../../deploy/charts/upkeep"

// workersNeed is what the workers find in their namespace: a volume for the store, and a way to the
// database, which lets in nobody but the service otherwise.
const workersNeed = `
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "upkeep-store"},
   "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "upkeep-to-postgresql"},
   "spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "postgresql"}},
    "ingress": [{"ports": [{"port": 5432}], "from": [{"podSelector": {"matchLabels":
     {"app.kubernetes.io/name": "upkeep", "app.kubernetes.io/component": "database"}}}]}]}}
]}`

const workersValues = `
image: {repository: upkeep, tag: %[1]s, pullPolicy: Never}
temporal: {address: %[2]q}
networkPolicy: {temporalPort: %[3]s}
store: {claim: upkeep-store}
database:
  env: [{name: LANGFUSE_PASSWORD, secretName: langfuse-postgresql, key: password}]
config: |
%[4]s
`

const workersConfig = `
  version: 1
  store: file:///var/lib/upkeep/store
  targets:
    - name: langfuse
      kubernetes: {namespace: %[1]s}
      database: {service: %[2]s-postgresql, name: langfuse, role: langfuse, passwordFrom: {secret: {name: langfuse-postgresql, key: password}}}
`

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
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	c, err := sdk.DialContext(t.Context(), sdk.Options{HostPort: temporal.Address})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := &starter.Starter{Client: c}

	_, err = command(time.Minute, workersNeed, "kubectl", "--namespace", namespace, "apply", "-f", "-")
	require.NoError(t, err)
	config := fmt.Sprintf(workersConfig, namespace, release)
	rights, granted := workersRights(t, config)
	values := fmt.Sprintf(workersValues, cmp.Or(os.Getenv("UPKEEP_E2E_TAG"), "e2e"), address, port, config)
	_, err = command(4*time.Minute, values, "helm", "--namespace", namespace, "install", "upkeep", upkeepChart, "--wait", "--timeout", "2m", "--values", rights, "--values", "-")
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
		for _, capability := range []string{worker.Workflows, worker.Cluster} {
			require.False(t, may(capability, "get", "pods"), capability)
			require.False(t, may(capability, "get", "secret/langfuse-postgresql"), capability)
		}
		for capability, want := range map[string]bool{worker.Workflows: false, worker.Database: true, worker.Cluster: true} {
			spec, err := kubectl("get", "pods", "-l", "app.kubernetes.io/name=upkeep,app.kubernetes.io/component="+capability, "-o", "json")
			require.NoError(t, err)
			require.Equal(t, want, strings.Contains(spec, "kube-api-access-"), "the token of %s", capability)
			require.Equal(t, capability == worker.Database, strings.Contains(spec, "LANGFUSE_PASSWORD"), "the password of %s", capability)
		}
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
		_, err := command(time.Minute, fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q}}`, pod),
			"kubectl", "create", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+"/eviction", "-f", "-")
		require.NoError(t, err, "evict %q", pod)
		_, err = kubectl("wait", "--for=delete", "pod/"+pod, "--timeout=60s")
		require.NoError(t, err)
		release()
		doc := await("evicted")
		require.Equal(t, run.Succeeded, doc.Outcome, "%+v", doc)

		var by string
		for events := c.GetWorkflowHistory(t.Context(), "evicted", "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			e, err := events.Next()
			require.NoError(t, err)
			if started := e.GetActivityTaskStartedEventAttributes(); started.GetAttempt() > 1 {
				by = started.GetIdentity()
			}
		}
		require.NotEmpty(t, by, "an attempt after the first")
		require.NotEqual(t, first, by, "it was another pod's")
	})
	(&account{user: "system:serviceaccount:" + namespace + ":upkeep-database", granted: granted}).used(t)
}

// forward lets pods reach a port of this machine's loopback, by an address that they know the machine by.
func forward(t *testing.T, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(os.Getenv("UPKEEP_E2E_HOST"), "10.243.0.1"), "0"))
	require.NoError(t, err, "set UPKEEP_E2E_HOST to an address of this machine that the cluster's pods reach")
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer from.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				go func() {
					_, _ = io.Copy(server, from) // either side may be gone
					_ = server.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(from, server)
			}()
		}
	}()
	return l.Addr().String()
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
