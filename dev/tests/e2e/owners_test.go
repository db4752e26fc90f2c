//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.temporal.io/sdk/client"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/reconciler"
)

// reverting has a controller own a Deployment of the namespace, by a HelmRelease of this name and spec. It
// takes other changes back within a second.
func reverting(t *testing.T, name, deployment, spec string) {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	client, err := dynamic.NewForConfig(cfg)
	require.NoError(t, err)
	_, err = command(time.Minute, reconciler.CRD, "kubectl", "apply", "-f", "-")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "crd", "helmreleases.helm.toolkit.fluxcd.io")
		require.NoError(t, err)
	})
	object := fmt.Sprintf(`{"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": %q}, "spec": {"deployment": %q, %s}}`, name, deployment, spec)
	require.NoError(t, until(30*time.Second, func() error {
		_, err := command(time.Minute, object, "kubectl", "--namespace", namespace, "apply", "-f", "-")
		return err
	}))
	_, err = kubectl("label", "deployment/"+deployment, "helm.toolkit.fluxcd.io/name="+name, "helm.toolkit.fluxcd.io/namespace="+namespace)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("label", "deployment/"+deployment, "helm.toolkit.fluxcd.io/name-", "helm.toolkit.fluxcd.io/namespace-")
		require.NoError(t, err)
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); reconciler.Run(ctx, client, namespace, name) }()
	t.Cleanup(func() { stop(); <-done })
}

// says checks what a field of an object has, which may take a moment.
func says(t *testing.T, object, path, want string) {
	t.Helper()
	require.NoError(t, until(10*time.Second, func() error {
		has, err := kubectl("get", object, "-o", "jsonpath={"+path+"}")
		if err == nil && has != want {
			err = fmt.Errorf("%s of %s is %q, not %q", path, object, has, want)
		}
		return err
	}))
}

// decide gives a run that waits a decision.
func decide(t *testing.T, s *harness.Stack, id, update string) {
	t.Helper()
	h, err := s.Client.UpdateWorkflow(t.Context(), sdk.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: update, WaitForStage: sdk.WorkflowUpdateStageCompleted, Args: []any{run.Decision{By: "test", Reason: "it is seen to"}},
	})
	require.NoError(t, err)
	require.NoError(t, h.Get(t.Context(), nil))
}

// waiting waits until a run waits for a person who has seen to what the owner gets its release from.
func waiting(t *testing.T, s *harness.Stack, id string) {
	t.Helper()
	doc := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.Outcome == run.Waiting })
	require.Equal(t, run.Waiting, doc.Outcome, doc.Summary)
	require.Contains(t, doc.WaitingFor, "gets it from; then resume the run, and it acts again")
}

// TestAnOwnerThatReverts: a controller starts the service again within a second of its being stopped.
// Without a word of the target's nothing is touched; with it, the controller is suspended meanwhile.
func TestAnOwnerThatReverts(t *testing.T) {
	beside(t, configures)
	s := harness.New(t, probed())
	worker := s.Worker(t, "w", "KUBECONFIG="+os.Getenv("KUBECONFIG"))
	before := loss(t, s)
	reverting(t, "web", release+"-langfuse", `"replicas": 3`)
	_, err := kubectl("scale", web, "--replicas=2")
	require.NoError(t, err)
	says(t, web, ".spec.replicas", "3") // it does revert

	refused := s.Run(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	require.Equal(t, run.Refused, refused.Outcome, refused.Summary)
	require.Equal(t, "OwnedByOther", refused.Error.Code)
	require.Contains(t, refused.Summary, "flux suspend helmrelease web -n "+namespace)
	owning := func(policy string) {
		s.Configure(t, strings.Replace(probed(), "{namespace:", "{owners: "+policy+", namespace:", 1))
	}
	owning("propose")
	proposed := s.Run(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	require.Equal(t, run.Refused, proposed.Outcome, proposed.Summary)
	var r api.Result
	require.NoError(t, json.Unmarshal(proposed.Result, &r))
	require.Contains(t, r.Proposed[0], "kubectl scale deployment "+release+"-langfuse -n "+namespace+" --replicas=0")
	has(t, "3", count{Schema: before.Schema})

	worker.Stop()
	target := strings.Replace(probed(), "{namespace:", "{owners: suspend, namespace:", 1)
	who := rescuer(t, s, target, "owner-suspender", nil)
	narrowed := s.Worker(t, "narrow", who.env())
	id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	doc := approve(t, s, id)
	require.Contains(t, doc.WaitingFor, "suspend Flux (HelmRelease web in namespace "+namespace+")")
	doc = s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	has(t, "3", before)
	says(t, "helmrelease/web", ".spec.suspend", "") // it has what it had: nothing
	who.audited(t)
	narrowed.Stop()
}

// TestAnOwnerOfARelease: a rollout, and a recovery from what the owner itself has made of the release. Each
// is left alone, proposed, or made while the owner is suspended, which acts again when a person says so.
func TestAnOwnerOfARelease(t *testing.T) {
	beside(t, configures)
	const name = "shop-e"
	s, chart := shop(t, name)
	w := serve(t, s, "w")
	target := fmt.Sprintf(`  - name: shop
    kubernetes: {namespace: %s, release: %s, owners: suspend, probes: [{name: front, service: %[2]s-web, port: 80, path: /index.html, contains: open}]}
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
    rollout: {chart: %s, bake: 10s, timeout: 30s, migrations: compatible}
`, namespace, name, chart)
	owning := func(policy string) { s.Configure(t, strings.Replace(target, "owners: suspend", "owners: "+policy, 1)) }
	deployment := "deployment/" + name + "-web"
	reverting(t, name, name+"-web", `"replicas": 1`)
	rollout := `{"set":{"replicas":2}}`

	t.Run("a rollout", func(t *testing.T) {
		owning("refuse")
		doc := s.Run(t, rolloutrelease.WorkflowType, rollout)
		require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
		require.Equal(t, "OwnedByOther", doc.Error.Code)
		owning("propose")
		doc = s.Run(t, rolloutrelease.WorkflowType, rollout)
		require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
		require.Contains(t, resultOf(t, doc).Production.Proposed[0], "helm upgrade "+name+" '"+chart+"' -n "+namespace)
		require.Equal(t, 1, revisions(t, name))

		owning("suspend")
		who := narrow(t, s, "rollout-suspender", "--procedure", rolloutrelease.WorkflowType, "--set", "replicas=2")
		w.Kill()
		w = serve(t, s, "suspends", who.env())
		id := approved(t, s, rollout)
		waiting(t, s, id)
		says(t, deployment, ".spec.replicas", "2")
		says(t, "helmrelease/"+name, ".spec.suspend", "true")
		_, err := kubectl("patch", "helmrelease", name, "--type=merge", "-p", `{"spec":{"replicas":2}}`)
		require.NoError(t, err)
		decide(t, s, id, run.RetryUpdate)
		doc = s.Await(t, id)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		says(t, "helmrelease/"+name, ".spec.suspend", "")
		says(t, deployment, ".spec.replicas", "2")
		require.Equal(t, 2, revisions(t, name))
		who.audited(t, "delete secrets", "patch services") // no revision is too old, and the Service stays as it is
	})

	t.Run("a recovery, and another that takes over", func(t *testing.T) {
		const bad, good = "upkeep.test/nothing:dev", "upkeep.test/busybox:dev"
		image := func(image string) {
			_, err := kubectl("patch", "helmrelease", name, "--type=merge", "-p", `{"spec":{"image":"`+image+`"}}`)
			require.NoError(t, err)
		}
		image(bad)
		_, err := helm("upgrade", name, chart, "--reuse-values", "--set", "image="+bad)
		require.NoError(t, err)
		require.NoError(t, until(time.Minute, func() error {
			reasons, err := kubectl("get", "pods", "-l", "app="+name+"-web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
			if err == nil && !strings.Contains(reasons, "ErrImageNeverPull") {
				err = fmt.Errorf("the image is not missed yet: %s", reasons)
			}
			return err
		}))
		owning("propose")
		who := narrow(t, s, "recovery-proposer", "--procedure", "RecoverService", "--dry-run-only")
		w.Kill()
		w = serve(t, s, "proposes", who.env())
		doc := s.Run(t, "RecoverService", `{"wait":1}`)
		r, steps := recovered(t, doc)
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Empty(t, steps)
		require.Contains(t, r.Proposed[0], fmt.Sprintf("helm rollback %s 2 -n %s", name, namespace))
		says(t, deployment, ".spec.template.spec.containers[0].image", bad)

		who.audited(t) // what is only proposed takes no right to write

		owning("suspend")
		who = narrow(t, s, "recovery-suspender", "--procedure", "RecoverService")
		w.Kill()
		serve(t, s, "suspends", who.env())
		first := s.Start(t, "RecoverService", `{"wait":1}`)
		waiting(t, s, first)
		says(t, deployment, ".spec.template.spec.containers[0].image", good)
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), first, "", "the test"))
		says(t, "helmrelease/"+name, ".spec.suspend", "true")
		second := s.Start(t, "RecoverService", `{"wait":1}`)
		waiting(t, s, second)
		image(good)
		decide(t, s, second, run.RetryUpdate)
		doc = s.Await(t, second)
		_, steps = recovered(t, doc)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Empty(t, steps, "the first has done it")
		says(t, "helmrelease/"+name, ".spec.suspend", "")
		says(t, deployment, ".spec.template.spec.containers[0].image", good)
		who.audited(t, "delete secrets", "delete pods", "create leases.coordination.k8s.io") // the rollout has made it
	})
}
