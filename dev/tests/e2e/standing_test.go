//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/prober"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// alone is a scene with one pod that declares a port. It has no readiness probe, and there is none like it: so nothing
// but a standing prober shows that it listens.
const alone = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lone", "labels": {"app": "lone"}}, "spec": %s},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "all-in"}, "spec": {"podSelector": {"matchLabels": {"app": "lone"}}, "ingress": [{}]}}
]}`

// standing installs the chart's prober, and nothing else of it, in a namespace.
func standing(t *testing.T, here stack.Namespace) {
	t.Helper()
	values := fmt.Sprintf(`{"image": {"repository": "upkeep", "tag": %q, "pullPolicy": "Never"}, "temporal": {"address": "temporal:7233"}, "config": "version: 1\n", "prober": {"namespaces": [%q]}}`, imageTag(), here)
	manifest, err := command(time.Minute, values, "helm", "template", "upkeep", upkeepChart, "--show-only", "templates/prober.yaml", "--values", "-")
	require.NoError(t, err)
	require.NoError(t, here.Apply(manifest))
	_, err = here.Kubectl("rollout", "status", "statefulset/upkeep-prober", "--timeout=80s")
	require.NoError(t, err)
}

// answered waits until the standing prober has reached the lone pod with its newest try.
func answered(t *testing.T, here stack.Namespace) {
	t.Helper()
	c, err := kube.Connect(t.Context(), kube.Options{Namespace: string(here)})
	require.NoError(t, err)
	require.NoError(t, until(time.Minute, func() error {
		a, err := prober.Ask(t.Context(), func(ctx context.Context) (net.Conn, error) {
			return c.Forward(ctx, prober.Pod("upkeep-prober"), prober.Listen)
		})
		if err != nil {
			return err
		}
		if len(a.Ports) != 1 || !a.Ports[0].Reached() {
			return fmt.Errorf("it knows %+v", a.Ports)
		}
		return nil
	}))
}

// comesIn is the check of what comes in, where people are asked how a case ends.
func comesIn(t *testing.T, s *harness.Stack, id string) run.Check {
	t.Helper()
	asks := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() })
	require.True(t, asks.AsksApproval(), asks.Summary)
	r, _ := verdicts(t, asks)
	for _, c := range r.Checks {
		if c.Name == "what comes in" {
			return c
		}
	}
	require.Fail(t, "nothing was said of what comes in", "%+v", r.Checks)
	return run.Check{}
}

// TestAStandingProber makes what comes in proven of a pod of which nothing else is known, and finds out that a policy
// does not hold. The worker has what "upkeep rbac" prints.
func TestAStandingProber(t *testing.T) {
	beside(t, ownAccounts)
	t.Parallel()
	here := stack.Namespace(fmt.Sprintf("%s-standing-%d", namespace, time.Now().UnixNano()%1e6))
	require.NoError(t, here.Create())
	t.Cleanup(func() { require.NoError(t, here.Remove()) })
	serves := fmt.Sprintf(client, "mkdir /tmp/www; echo open > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www")
	require.NoError(t, here.Apply(fmt.Sprintf(alone, strings.Replace(serves, `"command"`, `"ports": [{"containerPort": 8080}], "command"`, 1))))
	_, err := here.Kubectl("wait", "--for=condition=Ready", "pod/lone", "--timeout=80s")
	require.NoError(t, err)
	s := harness.New(t, fmt.Sprintf("  - name: crime\n    kubernetes: {namespace: %s, network: {prober: {image: \"upkeep:%s\", standing: upkeep-prober}}}\n", here, imageTag()))
	who := narrow(t, s, "standing", "--procedure", api.WorkflowType)
	everywhere := string(here)
	_, err = kubectl("create", "clusterrole", everywhere, "--verb=list", "--resource=clusterroles,clusterrolebindings") // for the evidence
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "clusterrole,clusterrolebinding", everywhere)
		require.NoError(t, err)
	})
	_, err = kubectl("create", "clusterrolebinding", everywhere, "--clusterrole="+everywhere, "--serviceaccount="+namespace+":standing")
	require.NoError(t, err)
	w := s.Worker(t, "before", who.env())
	const input = `{"reason":"a trial","pods":"lone"}`
	letGo := func(t *testing.T, id string) *run.Document {
		t.Helper()
		rejected := decides(t, s, id, run.RejectUpdate, "")
		decides(t, s, id, run.ApproveUpdate, rejected.Approval.Hash)
		return s.Await(t, id)
	}

	t.Run("without one nothing is proven, and that it is missing is said", func(t *testing.T) {
		dry := s.Run(t, api.WorkflowType, strings.Replace(input, "{", `{"dryRun":true,`, 1))
		require.Contains(t, dry.Summary, "there is no pod upkeep-prober-0")
		id := s.Start(t, api.WorkflowType, input)
		in := comesIn(t, s, id)
		require.Equal(t, run.NotProven, in.Verdict, in.Detail)
		require.Contains(t, in.Detail, "nothing shows that it listens")
		require.Contains(t, in.Detail, "there is no pod upkeep-prober-0")
		require.Equal(t, run.PartiallySucceeded, letGo(t, id).Outcome)
	})

	standing(t, here)
	answered(t, here)
	doctor, out, errOut := s.Command(t, []string{who.env()}, "doctor")
	said := harness.Finish(t, doctor.Run(), doctor, out, errOut)
	require.Contains(t, said.Out, "it tries 1 ports, and reaches 1")
	w.Stop()

	t.Run("a policy that does not hold is found out", func(t *testing.T) {
		w := s.Worker(t, "frozen", who.env(), "UPKEEP_FAULT=point=probe/pods/after:stop", "UPKEEP_FAULT_ONCE="+s.Dir+"/once")
		id := s.Start(t, api.WorkflowType, input)
		require.NoError(t, until(2*time.Minute, func() error {
			if !w.Frozen() {
				return errors.New("it has not come to try it yet")
			}
			return nil
		}))
		var names string
		require.NoError(t, until(time.Minute, func() (err error) {
			names, err = here.Kubectl("get", "networkpolicies", "-o", "jsonpath={.items[*].metadata.name}")
			return err
		}))
		for _, name := range strings.Fields(names) {
			if strings.HasPrefix(name, quarantine.DenyName("")) {
				_, err := here.Kubectl("delete", "networkpolicy", name)
				require.NoError(t, err)
			}
		}
		answered(t, here)
		w.Continue()
		in := comesIn(t, s, id)
		require.Equal(t, run.Fail, in.Verdict, in.Detail)
		require.Contains(t, in.Detail, ":8080 is reached by the standing prober")
		require.Equal(t, run.Failed, letGo(t, id).Outcome)
		w.Stop()
	})

	t.Run("with one what comes in is proven", func(t *testing.T) {
		answered(t, here)
		s.Worker(t, "after", who.env())
		dry := s.Run(t, api.WorkflowType, strings.Replace(input, "{", `{"dryRun":true,`, 1))
		require.Contains(t, dry.Summary, "the standing prober, pod upkeep-prober-0, is there and ready")
		id := s.Start(t, api.WorkflowType, input)
		in := comesIn(t, s, id)
		require.Equal(t, run.Pass, in.Verdict, in.Detail)
		require.Contains(t, in.Detail, ": 1 answered the standing prober before")
		decides(t, s, id, run.ApproveUpdate, "")
		require.Equal(t, run.PartiallySucceeded, s.Await(t, id).Outcome, "nothing is known of what goes out")
	})
	who.audited(t, "create networkpolicies.networking.k8s.io")
}
