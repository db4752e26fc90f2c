//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheClusterHasWhatTheStackNeeds(t *testing.T) {
	for what, args := range map[string][]string{
		"a node that is ready":    {"get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"},
		"the metrics API":         {"get", "apiservice", "v1beta1.metrics.k8s.io", "-o", "jsonpath={.status.conditions[?(@.type=='Available')].status}"},
		"a default storage class": {"get", "storageclass", "-o", `jsonpath={.items[*].metadata.annotations.storageclass\.kubernetes\.io/is-default-class}`},
	} {
		status, err := kubectl(args...)
		require.NoError(t, err, what)
		require.Regexp(t, "(?i)true", status, what)
	}
	address, err := kubectl("exec", "stranger", "--", "nslookup", "-type=a", "kubernetes.default.svc.cluster.local")
	require.NoError(t, err, "the cluster's DNS")
	require.Contains(t, address, "Name:")
}

func TestEverythingOfTheStackIsReady(t *testing.T) {
	for object, of := range map[string]string{
		"deployment/lang-observatory-langfuse":    "{.status.readyReplicas}",
		"statefulset/lang-observatory-postgresql": "{.status.readyReplicas}",
		"statefulset/prometheus-server":           "{.status.readyReplicas}",
		"job/lang-observatory-langfuse-migrate":   "{.status.succeeded}",
	} {
		require.NoError(t, until(time.Minute, func() error {
			ready, err := kubectl("get", object, "-o", "jsonpath="+of)
			if err == nil && ready != "1" {
				err = fmt.Errorf("%s has %q ready", object, ready)
			}
			return err
		}))
	}
	claims, err := kubectl("get", "pvc", "-o", "jsonpath={.items[*].status.phase}")
	require.NoError(t, err)
	require.Equal(t, "Bound Bound", claims)
	// What the maintenance guide selects by.
	pods, err := kubectl("get", "pods", "-l", "app.kubernetes.io/name=langfuse", "-o", "name")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(pods, "pod/lang-observatory-langfuse-"), pods)
}

func TestTheServiceWritesAndReadsThroughItsName(t *testing.T) {
	before, err := counted()
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, write(fmt.Sprintf("trace-%d", i)))
	}
	after, err := counted()
	require.NoError(t, err)
	require.Equal(t, before.Count+3, after.Count)
	// The database itself, asked as the guide does, says the same.
	rows, err := kubectl("exec", "lang-observatory-postgresql-0", "--", "psql", "-XAtU", "langfuse", "-c", "SELECT count(*) FROM traces")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(after.Count), strings.TrimSpace(rows))
}

func TestDataOutlivesThePod(t *testing.T) {
	const pod = "lang-observatory-postgresql-0"
	require.NoError(t, write("before the pod is deleted"))
	before, err := counted()
	require.NoError(t, err)
	uid, err := kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	require.NoError(t, err)
	_, err = kubectl("delete", "pod", pod)
	require.NoError(t, err)
	require.NoError(t, until(90*time.Second, func() error {
		status, err := kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid} {.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && (strings.HasPrefix(status, uid) || !strings.HasSuffix(status, " True")) {
			err = errors.New("there is no new pod that is ready: " + status)
		}
		return err
	}))
	require.NoError(t, until(30*time.Second, func() error {
		after, err := counted()
		if err == nil && after != before {
			err = fmt.Errorf("the database had %+v and has %+v", before, after)
		}
		return err
	}))
	require.NoError(t, write("after the pod is deleted"))
}

// reaches says whether a pod gets an answer; "no answer" is only told from "not running" by the one who
// does get one at the same time.
func reaches(pod, address string) error { _, err := fetch(pod, "http://"+address); return err }

func eventuallyBlocked(t *testing.T, pod, address string) {
	t.Helper()
	require.NoError(t, until(30*time.Second, func() error {
		if reaches(pod, address) == nil {
			return fmt.Errorf("%s still reaches %s", pod, address)
		}
		return nil
	}))
}

func TestANetworkPolicyBlocksAndUnblocks(t *testing.T) {
	address, err := kubectl("get", "pod", "open", "-o", "jsonpath={.status.podIP}:8080")
	require.NoError(t, err)
	require.NoError(t, reaches("stranger", address), "there is no policy yet")
	policy := `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "shut"},
		"spec": {"podSelector": {"matchLabels": {"app": "open"}}, "policyTypes": ["Ingress"]}}`
	_, err = command(time.Minute, policy, "kubectl", "--namespace", namespace, "apply", "-f", "-")
	require.NoError(t, err)
	eventuallyBlocked(t, "stranger", address)
	listening, err := kubectl("exec", "open", "--", "wget", "-qO-", "http://127.0.0.1:8080")
	require.NoError(t, err, "it has to be the policy that blocks, not a server that is gone")
	require.Equal(t, "open\n", listening)
	_, err = kubectl("delete", "networkpolicy", "shut")
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, func() error { return reaches("stranger", address) }))
}

func TestOnlyFriendsReachTheService(t *testing.T) {
	const service = release + "-langfuse:3000/health"
	require.NoError(t, reaches("friend", service))
	eventuallyBlocked(t, "stranger", service)
	_, err := kubectl("label", "pod", "stranger", "access=langfuse")
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, func() error { return reaches("stranger", service) }))
	_, err = kubectl("label", "pod", "stranger", "access-")
	require.NoError(t, err)
	eventuallyBlocked(t, "stranger", service)
	require.NoError(t, reaches("friend", service))
}

func TestOnlyTheServiceReachesTheDatabase(t *testing.T) {
	connects := func() error {
		_, err := kubectl("exec", "stranger", "--", "nc", "-w", "2", release+"-postgresql", "5432", "-e", "/bin/true")
		return err
	}
	// A pod that has just been made, as by the test before, gets its rules a moment later.
	blocked := func() error {
		if connects() == nil {
			return errors.New("a pod that is not the service connects to the database")
		}
		return nil
	}
	require.NoError(t, until(30*time.Second, blocked))
	_, err := kubectl("label", "pod", "stranger", "app.kubernetes.io/name=langfuse")
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, connects), "with the service's label it is let in")
	_, err = kubectl("label", "pod", "stranger", "app.kubernetes.io/name-")
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, blocked))
}

func TestTheMetricsAPIHasTheStacksPods(t *testing.T) {
	require.NoError(t, until(90*time.Second, func() error {
		rows, err := kubectl("top", "pods", "--no-headers")
		if err != nil {
			return err
		}
		for _, pod := range []string{"lang-observatory-langfuse-", "lang-observatory-postgresql-0", "prometheus-server-0"} {
			if !strings.Contains(rows, pod) {
				return fmt.Errorf("no row for %s in:\n%s", pod, rows)
			}
		}
		return nil
	}))
}

func TestPrometheusScrapesTheService(t *testing.T) {
	require.NoError(t, write("for Prometheus to count"))
	require.NoError(t, until(60*time.Second, func() error {
		for _, query := range []string{`up{job="lang-observatory"} == 1`, `langfuse_traces_written_total > 0`} {
			answer, err := fetch("watcher", "http://prometheus-server:9090/api/v1/query?query="+url.QueryEscape(query))
			if err != nil {
				return err
			}
			var result struct {
				Data struct{ Result []json.RawMessage }
			}
			if err := json.Unmarshal([]byte(answer), &result); err != nil {
				return err
			}
			if len(result.Data.Result) != 1 {
				return fmt.Errorf("%s: %s", query, answer)
			}
		}
		return nil
	}))
}

func TestAnUpgradeMigratesTheDatabase(t *testing.T) {
	require.NoError(t, write("before the upgrade"))
	before, err := counted()
	require.NoError(t, err)
	require.Equal(t, 1, before.Schema)
	password := func() string {
		value, err := kubectl("get", "secret", "langfuse-postgresql", "-o", "jsonpath={.data.password}")
		require.NoError(t, err)
		return value
	}
	kept := password()
	_, err = helm("upgrade", release, chart, "--wait", "--timeout", "3m", "--set", "langfuse.schema=2", "--set", "langfuse.replicas=2")
	require.NoError(t, err)
	after, err := counted()
	require.NoError(t, err)
	require.Equal(t, count{Count: before.Count, Schema: 2}, after)
	require.Equal(t, kept, password(), "an upgrade keeps the password")
	history, err := helm("history", release, "-o", "json")
	require.NoError(t, err)
	var revisions []struct {
		Revision int
		Status   string
	}
	require.NoError(t, json.Unmarshal([]byte(history), &revisions))
	require.Len(t, revisions, 2)
	require.Equal(t, "deployed", revisions[1].Status)
	_, err = kubectl("exec", "lang-observatory-postgresql-0", "--", "psql", "-XAtU", "langfuse", "-c", "SELECT environment FROM traces LIMIT 1")
	require.NoError(t, err, "the column that the migration adds")
}

func TestLogsCanBeRead(t *testing.T) {
	logs, err := kubectl("logs", "job/lang-observatory-langfuse-migrate")
	require.NoError(t, err)
	require.Contains(t, logs, "migrating to version")
}
