package helm

import (
	"context"
	"slices"
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

// guard refuses to change a release that Upkeep itself runs on, and says what is done about others who own
// its workloads, since they would take the change back. The command is what a person would type for it.
func (a *Activities) guard(ctx context.Context, c *kube.Cluster, p Place, of []bake.Workload, command string) (ownership.Measures, error) {
	none := ownership.Measures{}
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return none, kube.Classify(err, "make a client of the cluster")
	}
	change := ownership.Change{Words: "upgrade release " + p.Kubernetes.Release, Command: command}
	var workloads []itself.Workload
	for _, w := range of {
		at := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: resources[w.Kind]}
		object, err := client.Resource(at).Namespace(c.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		err = kube.Classify(err, "look at "+w.Kind+" "+w.Name+" in namespace "+c.Namespace)
		if failure.Is(err, failure.MissingObject) {
			continue // somebody removed it: the upgrade makes it again
		}
		if err != nil {
			return none, err
		}
		for _, o := range ownership.Detect(object, time.Now()) {
			if !slices.Contains(change.Owners, o) { // one for all its workloads
				change.Owners = append(change.Owners, o)
			}
		}
		described, err := quiesce.Describe(object)
		if err != nil {
			return none, err
		}
		workloads = append(workloads, described)
	}
	if err := itself.Find(a.Temporal, p.Store).Check(ctx, c, change.Words, workloads); err != nil {
		return none, err
	}
	return ownership.Plan(ctx, client, p.Kubernetes.Owners, []ownership.Change{change})
}
