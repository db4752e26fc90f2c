package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// maxLog bounds what is kept of one container's log, in bytes, and maxList what is kept of a list.
	maxLog  = 64 << 20
	maxList = 256 << 20
	// podsAtOnce is how many pods' logs are read at once; each may take a part of a stream in memory.
	podsAtOnce = 8
	listPage   = 500
)

// Pod names a pod that evidence is kept of.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// collector is one gathering of evidence.
type collector struct {
	c    *kube.Cluster
	k    *Keeper
	note func(string)
}

// Collect keeps what there is to know of pods and of the namespaces that they are in, what vanishes first, first.
// What may not be read, or is not there, is a gap by its name. Done again, it goes on with what is missing.
func Collect(ctx context.Context, c *kube.Cluster, k *Keeper, pods []Pod, note func(string)) error {
	x := &collector{c, k, note}
	namespaces := []string{}
	for _, p := range pods {
		if !slices.Contains(namespaces, p.Namespace) {
			namespaces = append(namespaces, p.Namespace)
		}
	}
	slices.Sort(namespaces)
	for _, n := range namespaces {
		if err := x.fleeting(ctx, n); err != nil {
			return err
		}
	}
	if err := x.pods(ctx, pods); err != nil {
		return err
	}
	for _, n := range namespaces {
		if err := x.lasting(ctx, n); err != nil {
			return err
		}
	}
	return x.cluster(ctx)
}

// pods keeps each pod's object and its logs, many at once.
func (x *collector) pods(ctx context.Context, pods []Pod) error {
	var (
		group errgroup.Group
		lock  sync.Mutex
		errs  []error
		done  int
	)
	group.SetLimit(podsAtOnce)
	for _, p := range pods {
		group.Go(func() error {
			err := x.pod(ctx, p)
			lock.Lock()
			defer lock.Unlock()
			if done++; err != nil {
				errs = append(errs, err)
			}
			x.note(fmt.Sprintf("%d of %d pods", done, len(pods)))
			return nil
		})
	}
	_ = group.Wait() // one pod's error keeps no other's evidence
	return errors.Join(errs...)
}

func (x *collector) pod(ctx context.Context, p Pod) error {
	name := "pods/" + p.Namespace + "/" + p.Name + ".json"
	pod, err := x.c.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return x.gap(ctx, name, kube.Classify(err, "read pod "+p.Namespace+"/"+p.Name))
	}
	pod.Kind, pod.APIVersion = "Pod", "v1"
	if err := x.object(ctx, name, pod); err != nil {
		return err
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if err := x.log(ctx, pod, s.Name, false); err != nil {
			return err
		}
		if s.RestartCount > 0 {
			if err := x.log(ctx, pod, s.Name, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// log keeps a container's log. Whatever keeps it from being read is a gap: a node that is gone must not keep
// the rest of the evidence waiting.
func (x *collector) log(ctx context.Context, pod *corev1.Pod, container string, previous bool) error {
	name := strings.Join([]string{"logs", pod.Namespace, pod.Name, container}, "/")
	if previous {
		name += ".previous"
	}
	if x.k.HasAll(name) {
		return nil
	}
	stream, err := x.c.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, Previous: previous, Timestamps: true}).Stream(ctx)
	if err == nil {
		err = x.k.KeepAll(ctx, name, stream, maxLog)
		_ = stream.Close() // it was read
	}
	switch _, ours := failure.As(err); {
	case err == nil:
		return nil
	case ours || ctx.Err() != nil: // of the store
		return err
	}
	return x.k.Gap(ctx, name, "it could not be read, or not to its end: "+kube.Classify(err, "read the log").Error())
}

// gap notes what may not be read or is not there, and returns any other error.
func (x *collector) gap(ctx context.Context, name string, err error) error {
	if failure.Is(err, failure.ClusterForbids) || failure.Is(err, failure.MissingObject) {
		return x.k.Gap(ctx, name, err.Error())
	}
	return err
}

func (x *collector) object(ctx context.Context, name string, object any) error {
	data, err := json.MarshalIndent(object, "", " ")
	if err != nil {
		return fmt.Errorf("encode evidence: %w", err)
	}
	if len(data) <= MaxItem {
		return x.k.Keep(ctx, name, data)
	}
	return x.k.KeepAll(ctx, name, bytes.NewReader(data), maxList)
}

// list keeps a list, page by page.
func (x *collector) list(ctx context.Context, name string, page func(metav1.ListOptions) (metav1.ListInterface, error)) error {
	x.note(name)
	options := metav1.ListOptions{Limit: listPage}
	for n := 1; n <= maxSegments; n++ {
		got, err := page(options)
		if err != nil {
			return x.gap(ctx, name, kube.Classify(err, "list "+name))
		}
		if err := x.object(ctx, fmt.Sprintf("%s-%04d.json", name, n), got); err != nil {
			return err
		}
		if options.Continue = got.GetContinue(); options.Continue == "" {
			return nil
		}
	}
	return x.k.Gap(ctx, name+rest, "there are too many")
}

// fleeting is what of a namespace is gone soonest.
func (x *collector) fleeting(ctx context.Context, namespace string) error {
	c := x.c.Client
	return first(
		func() error {
			return x.list(ctx, "endpoints/"+namespace, func(o metav1.ListOptions) (metav1.ListInterface, error) {
				return c.DiscoveryV1().EndpointSlices(namespace).List(ctx, o)
			})
		},
		func() error {
			return x.list(ctx, "events/"+namespace, func(o metav1.ListOptions) (metav1.ListInterface, error) {
				return c.CoreV1().Events(namespace).List(ctx, o)
			})
		},
	)
}

// lasting is the rest of a namespace: what lets pods through, finds them, makes them, and what they may do.
func (x *collector) lasting(ctx context.Context, namespace string) error {
	c := x.c.Client
	lists := []struct {
		name string
		page func(metav1.ListOptions) (metav1.ListInterface, error)
	}{
		{"pods-of", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.CoreV1().Pods(namespace).List(ctx, o)
		}},
		{"networkpolicies", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.NetworkingV1().NetworkPolicies(namespace).List(ctx, o)
		}},
		{"services", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.CoreV1().Services(namespace).List(ctx, o)
		}},
		{"replicasets", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.AppsV1().ReplicaSets(namespace).List(ctx, o)
		}},
		{"deployments", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.AppsV1().Deployments(namespace).List(ctx, o)
		}},
		{"statefulsets", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.AppsV1().StatefulSets(namespace).List(ctx, o)
		}},
		{"daemonsets", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.AppsV1().DaemonSets(namespace).List(ctx, o)
		}},
		{"serviceaccounts", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.CoreV1().ServiceAccounts(namespace).List(ctx, o)
		}},
		{"rolebindings", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.RbacV1().RoleBindings(namespace).List(ctx, o)
		}},
		{"roles", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return c.RbacV1().Roles(namespace).List(ctx, o)
		}},
	}
	for _, l := range lists {
		if err := x.list(ctx, l.name+"/"+namespace, l.page); err != nil {
			return err
		}
	}
	return nil
}

// cluster is what of the whole cluster says what the pods may do.
func (x *collector) cluster(ctx context.Context) error {
	c := x.c.Client.RbacV1()
	return first(
		func() error {
			return x.list(ctx, "clusterrolebindings", func(o metav1.ListOptions) (metav1.ListInterface, error) { return c.ClusterRoleBindings().List(ctx, o) })
		},
		func() error {
			return x.list(ctx, "clusterroles", func(o metav1.ListOptions) (metav1.ListInterface, error) { return c.ClusterRoles().List(ctx, o) })
		},
	)
}

// first does one after the other, up to the first that fails.
func first(all ...func() error) error {
	for _, do := range all {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
