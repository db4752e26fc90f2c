//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// networked is a target whose network is checked, with expectations that hold, and others.
func networked(more string) string {
	const expectations = `
          - {name: the service, from: {pods: {app.kubernetes.io/name: langfuse}}, to: {service: %[2]s-postgresql}, port: 5432, allowed: true}
          - {name: a stranger, from: {pods: {app: nobody}}, to: {service: %[2]s-postgresql}, port: 5432, allowed: false}
          - {name: who knows no label, from: {}, to: {pods: {app.kubernetes.io/name: langfuse}}, port: 3000, allowed: false}`
	return fmt.Sprintf(`  - name: shop
    kubernetes:
      namespace: %[1]s
      release: %[2]s
      network:
        prober: {image: "upkeep:%[3]s"}
        expect:`+expectations+more+`
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
`, namespace, release, cmp.Or(os.Getenv("UPKEEP_E2E_TAG"), "e2e"))
}

// connection is what came of an expectation.
func connection(t *testing.T, doc *run.Document, name string) validatenetwork.Connection {
	t.Helper()
	var r validatenetwork.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	for _, c := range r.Connections {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "there is no connection "+name, "%+v", r)
	return validatenetwork.Connection{}
}

// nothingProbes checks that no pod that probes is left, nor its owner.
func nothingProbes(t *testing.T) {
	t.Helper()
	require.NoError(t, until(30*time.Second, func() error {
		left, err := kubectl("get", "pods,configmaps", "-l", "upkeep.run/probe", "-o", "name")
		if err == nil && left != "" {
			err = errors.New("left: " + left)
		}
		return err
	}))
}

// TestTheNetworkIsTried: by pods with others' labels, whom no controller adopts, no Service sends anything
// to, and of whom nothing stays, also when the worker dies in the middle.
func TestTheNetworkIsTried(t *testing.T) {
	s := harness.New(t, networked(""))
	who := narrow(t, s, "network", "--procedure", "ValidateNetwork")
	kubeconfig := who.env()
	first := s.Worker(t, "first", kubeconfig, "UPKEEP_FAULT=point=probe/pods/after:kill", "UPKEEP_FAULT_ONCE="+filepath.Join(s.Dir, "hit"))
	id := s.Start(t, validatenetwork.WorkflowType, `{}`)
	select {
	case <-first.Done():
	case <-time.After(harness.Patience):
		require.Fail(t, "the worker was not killed")
	}
	adopted := func() error {
		names, err := kubectl("get", "pods", "-l", "upkeep.run/probe", "-o", `jsonpath={range .items[*]}{.metadata.ownerReferences[*].kind} {end}`)
		if err == nil && strings.Trim(names, "ConfigMap ") != "" {
			err = errors.New("pods that probe have other owners: " + names)
		}
		return err
	}
	require.NoError(t, adopted())
	w := s.Worker(t, "second", kubeconfig)
	doc := s.Await(t, id)
	t.Log(doc.Outcome, doc.Summary)
	for name, seen := range map[string]string{"the service": "reached", "a stranger": "blocked", "who knows no label": "blocked"} {
		c := connection(t, doc, name)
		require.Equal(t, run.Pass, c.Verdict, "%+v", c)
		require.Equal(t, seen, c.Seen, "%+v", c)
		require.Equal(t, c.Want, c.ByPolicies, "%+v", c)
	}
	nothingProbes(t)
	endpoints, err := kubectl("get", "endpointslices", "-o", `jsonpath={.items[*].endpoints[*].targetRef.name}`)
	require.NoError(t, err)
	require.NotContains(t, endpoints, "upkeep-probes")
	replicas, err := kubectl("get", "replicasets", "-l", "app.kubernetes.io/name=langfuse", "-o", `jsonpath={.items[*].status.replicas}`)
	require.NoError(t, err)
	require.NotContains(t, strings.Fields(replicas), "2", "no controller counts a pod that probes")

	t.Run("what is not as expected", func(t *testing.T) {
		s.Configure(t, networked(`
          - {name: wrong, from: {pods: {app: nobody}}, to: {service: `+release+`-postgresql}, port: 5432, allowed: true}`))
		_, err := command(time.Minute, `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "too-open"},
			"spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "langfuse"}}, "ingress": [{}]}}`, "kubectl", "--namespace", namespace, "apply", "-f", "-")
		require.NoError(t, err)
		t.Cleanup(func() {
			_, err := kubectl("delete", "networkpolicy", "too-open")
			require.NoError(t, err)
		})
		doc := s.Run(t, validatenetwork.WorkflowType, `{}`)
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Equal(t, run.Fail, connection(t, doc, "wrong").Verdict)
		open := connection(t, doc, "who knows no label")
		require.Equal(t, run.Fail, open.Verdict, "%+v", open)
		require.Equal(t, "allowed", open.ByPolicies)
		require.Contains(t, strings.Join(open.Because, ";"), "too-open")
		nothingProbes(t)
	})

	t.Run("a cancelled run leaves nothing", func(t *testing.T) {
		id := s.Start(t, validatenetwork.WorkflowType, `{}`)
		require.NoError(t, until(time.Minute, func() error {
			names, err := kubectl("get", "pods", "-l", "upkeep.run/probe", "-o", "name")
			if err == nil && names == "" {
				err = errors.New("no pod probes yet")
			}
			return err
		}))
		require.NoError(t, s.Client.CancelWorkflow(t.Context(), id, ""))
		require.Equal(t, run.Cancelled, s.Await(t, id).Outcome)
		nothingProbes(t)
	})

	t.Run("a terminated run leaves nothing to the next", func(t *testing.T) {
		w.Kill()
		killed := s.Worker(t, "third", kubeconfig, "UPKEEP_FAULT=point=probe/pods/after:kill", "UPKEEP_FAULT_ONCE="+filepath.Join(s.Dir, "again"))
		id := s.Start(t, validatenetwork.WorkflowType, `{}`)
		select {
		case <-killed.Done():
		case <-time.After(harness.Patience):
			require.Fail(t, "the worker was not killed")
		}
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
		s.Worker(t, "fourth", kubeconfig)
		doc := s.Run(t, validatenetwork.WorkflowType, `{}`)
		require.Equal(t, run.Pass, connection(t, doc, "a stranger").Verdict)
		nothingProbes(t)
	})

	t.Run("a dry run makes no pods", func(t *testing.T) {
		s.Worker(t, "fifth", kubeconfig)
		doc := s.Run(t, validatenetwork.WorkflowType, `{"dryRun":true}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, "unknown", connection(t, doc, "a stranger").Seen)
		require.Contains(t, doc.Summary, "would try")
	})
	who.audited(t)
}
