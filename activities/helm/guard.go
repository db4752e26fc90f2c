package helm

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/quiesce"
)

// resources are those of the kinds that bake.IsWorkload knows.
var resources = map[string]string{"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}

// guard refuses to change a release whose workloads others own, since they would take it back, or that
// Upkeep itself runs on. Owners are not suspended for it: whoever deploys by Flux or Argo CD changes the
// release where they get it from.
func (a *Activities) guard(ctx context.Context, c *kube.Cluster, p Place, of []bake.Workload) error {
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return kube.Classify(err, "make a client of the cluster")
	}
	doing := "upgrade release " + p.Kubernetes.Release
	var workloads []itself.Workload
	for _, w := range of {
		at := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: resources[w.Kind]}
		object, err := client.Resource(at).Namespace(c.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		err = kube.Classify(err, "look at "+w.Kind+" "+w.Name+" in namespace "+c.Namespace)
		if failure.Is(err, failure.MissingObject) {
			continue // somebody removed it: the upgrade makes it again
		}
		if err != nil {
			return err
		}
		policy := p.Kubernetes.Owners
		if policy == ownership.PolicySuspend {
			policy = ownership.PolicyPropose
		}
		if err := ownership.Allow(policy, doing, ownership.Detect(object, time.Now())); err != nil {
			return err
		}
		described, err := quiesce.Describe(object)
		if err != nil {
			return err
		}
		workloads = append(workloads, described)
	}
	return itself.Find(a.Temporal, p.Store).Check(ctx, c, doing, workloads)
}
