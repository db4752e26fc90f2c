//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/reconciler"
)

// TestAnOwnerThatReverts: a controller starts the service again within a second of its being stopped.
// Without a word of the target's nothing is touched; with it, the controller is suspended meanwhile.
func TestAnOwnerThatReverts(t *testing.T) {
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
	s := harness.New(t, probed())
	worker := s.Worker(t, "w", "KUBECONFIG="+os.Getenv("KUBECONFIG"))
	before := loss(t, s)

	object := fmt.Sprintf(`{"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": "web"}, "spec": {"deployment": %q, "replicas": 3}}`, release+"-langfuse")
	require.NoError(t, until(30*time.Second, func() error {
		_, err := command(time.Minute, object, "kubectl", "--namespace", namespace, "apply", "-f", "-")
		return err
	}))
	_, err = kubectl("label", web, "helm.toolkit.fluxcd.io/name=web", "helm.toolkit.fluxcd.io/namespace="+namespace)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("label", web, "helm.toolkit.fluxcd.io/name-", "helm.toolkit.fluxcd.io/namespace-")
		require.NoError(t, err)
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); reconciler.Run(ctx, client, namespace, "web") }()
	t.Cleanup(func() { stop(); <-done })

	_, err = kubectl("scale", web, "--replicas=2")
	require.NoError(t, err)
	require.NoError(t, until(5*time.Second, func() error {
		n, err := kubectl("get", web, "-o", "jsonpath={.spec.replicas}")
		if err == nil && n != "3" {
			err = fmt.Errorf("%s replicas", n)
		}
		return err
	}), "it does revert")

	refused := s.Run(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	require.Equal(t, run.Refused, refused.Outcome, refused.Summary)
	require.Equal(t, "OwnedByOther", refused.Error.Code)
	require.Contains(t, refused.Summary, "flux suspend helmrelease web -n "+namespace)
	has(t, "3", count{Schema: before.Schema})

	worker.Stop()
	who := rescuer(t, s, strings.Replace(probed(), "{namespace:", "{owners: suspend, namespace:", 1), "owner-suspender")
	s.Worker(t, "narrow", who.env())
	id := s.Start(t, api.WorkflowType, `{"confirm":"langfuse"}`)
	doc := approve(t, s, id)
	require.Contains(t, doc.WaitingFor, "suspend Flux (HelmRelease web in namespace "+namespace+")")
	doc = s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	has(t, "3", before)
	suspended, err := kubectl("get", "helmrelease", "web", "-o", "jsonpath={.spec.suspend}")
	require.NoError(t, err)
	require.Empty(t, suspended, "it has what it had: nothing")
	who.audited(t)
}
