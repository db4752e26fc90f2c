package quarantine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// page is how many objects are asked for at once, and maxObjects how many of a kind are read.
	page       = 500
	maxObjects = 50_000
	// shown is how many policies of another kind are named.
	shown = 5
)

// foreign are the policies of other kinds that may let through what a NetworkPolicy denies, or are enforced
// beside it.
var foreign = []schema.GroupVersionResource{
	{Group: "policy.networking.k8s.io", Version: "v1alpha1", Resource: "adminnetworkpolicies"},
	{Group: "policy.networking.k8s.io", Version: "v1alpha1", Resource: "baselineadminnetworkpolicies"},
	{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"},
	{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"},
	{Group: "cilium.io", Version: "v2", Resource: "ciliumclusterwidenetworkpolicies"},
	{Group: "crd.projectcalico.org", Version: "v1", Resource: "networkpolicies"},
	{Group: "crd.projectcalico.org", Version: "v1", Resource: "globalnetworkpolicies"},
	{Group: "projectcalico.org", Version: "v3", Resource: "networkpolicies"},
	{Group: "projectcalico.org", Version: "v3", Resource: "globalnetworkpolicies"},
	{Group: "crd.antrea.io", Version: "v1beta1", Resource: "networkpolicies"},
	{Group: "crd.antrea.io", Version: "v1beta1", Resource: "clusternetworkpolicies"},
}

// look gathers what is seen; its fields are written under the lock.
type look struct {
	client *kube.Cluster
	lock   sync.Mutex
	world  World
	marked map[string]string // namespaces, by why they must not be touched
	err    error
	all    sync.WaitGroup
}

// Look sees what a case needs to know of the cluster, all at once. What may not be read is a gap, unless
// nothing can be planned without it.
func Look(ctx context.Context, c *kube.Cluster, s Suspects, p Policy, self itself.Self) (World, error) {
	l := &look{client: c, marked: make(map[string]string)}
	namespaces := []string{c.Namespace}
	for _, n := range p.Namespaces {
		if !slices.Contains(namespaces, n) {
			namespaces = append(namespaces, n)
		}
	}
	for _, n := range namespaces {
		l.namespace(ctx, n)
	}
	l.elsewhere(ctx, s, namespaces)
	if s.Node != "" {
		l.all.Go(func() {
			node, err := c.Client.CoreV1().Nodes().Get(ctx, s.Node, metav1.GetOptions{})
			l.gap(err, "read node "+s.Node)
			if err == nil {
				l.keep(func(w *World) { w.Node = node })
			}
		})
	}
	l.all.Go(func() { l.foreign(ctx) })
	var guard itself.Guard
	l.all.Go(func() { guard = self.Guard(ctx) })
	l.all.Wait()
	if l.err != nil {
		return World{}, l.err
	}
	l.world.Runs = make(map[Ref]string)
	for i := range l.world.Pods {
		pod := &l.world.Pods[i]
		if why := cmp.Or(guard.Why(pod, l.world.Services), l.marked[pod.Namespace]); why != "" {
			l.world.Runs[Ref{pod.Namespace, pod.Name}] = why
		}
	}
	slices.Sort(l.world.Gaps)
	slices.Sort(l.world.Foreign)
	return l.world, nil
}

func (l *look) keep(with func(*World)) {
	l.lock.Lock()
	defer l.lock.Unlock()
	with(&l.world)
}

func (l *look) fail(err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// gap notes what may not be seen, or is not there; any other error ends the look.
func (l *look) gap(err error, doing string) {
	err = kube.Classify(err, doing)
	switch {
	case err == nil:
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.MissingObject):
		l.keep(func(w *World) { w.Gaps = append(w.Gaps, "could not "+doing) })
	default:
		l.fail(err)
	}
}

// namespace reads what a plan is made of in one namespace.
func (l *look) namespace(ctx context.Context, namespace string) {
	c := l.client.Client
	needed := func(what string, list func(metav1.ListOptions) (metav1.ListInterface, func(*World), error)) {
		l.all.Go(func() {
			if err := l.pages(list); err != nil {
				l.fail(kube.Classify(err, "list the "+what+" of namespace "+namespace))
			}
		})
	}
	wanted := func(what string, list func(metav1.ListOptions) (metav1.ListInterface, func(*World), error)) {
		l.all.Go(func() { l.gap(l.pages(list), "list the "+what+" of namespace "+namespace) })
	}
	l.all.Go(func() {
		// A role of one namespace may not read it: what is marked there is marked on the pods too, then.
		if got, err := c.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
			if why := itself.Marked(got); why != "" {
				l.keep(func(*World) { l.marked[namespace] = "its namespace has " + why })
			}
		}
	})
	needed("pods", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.CoreV1().Pods(namespace).List(ctx, o)
		return got, func(w *World) { w.Pods = append(w.Pods, got.Items...) }, err
	})
	needed("NetworkPolicies", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.NetworkingV1().NetworkPolicies(namespace).List(ctx, o)
		return got, func(w *World) { w.Policies = append(w.Policies, got.Items...) }, err
	})
	wanted("Services", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.CoreV1().Services(namespace).List(ctx, o)
		return got, func(w *World) { w.Services = append(w.Services, got.Items...) }, err
	})
	wanted("ReplicaSets", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.AppsV1().ReplicaSets(namespace).List(ctx, o)
		return got, func(w *World) {
			for _, x := range got.Items {
				w.controller("ReplicaSet", &x, x.Spec.Selector)
			}
		}, err
	})
	wanted("StatefulSets", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.AppsV1().StatefulSets(namespace).List(ctx, o)
		return got, func(w *World) {
			for _, x := range got.Items {
				w.controller("StatefulSet", &x, x.Spec.Selector)
			}
		}, err
	})
	wanted("DaemonSets", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.AppsV1().DaemonSets(namespace).List(ctx, o)
		return got, func(w *World) {
			for _, x := range got.Items {
				w.controller("DaemonSet", &x, x.Spec.Selector)
			}
		}, err
	})
	wanted("Jobs", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.BatchV1().Jobs(namespace).List(ctx, o)
		return got, func(w *World) {
			for _, x := range got.Items {
				w.controller("Job", &x, x.Spec.Selector)
			}
		}, err
	})
	wanted("ReplicationControllers", func(o metav1.ListOptions) (metav1.ListInterface, func(*World), error) {
		got, err := c.CoreV1().ReplicationControllers(namespace).List(ctx, o)
		return got, func(w *World) {
			for _, x := range got.Items {
				w.controller("ReplicationController", &x, &metav1.LabelSelector{MatchLabels: x.Spec.Selector})
			}
		}, err
	})
}

func (w *World) controller(kind string, o metav1.Object, selector *metav1.LabelSelector) {
	w.Controllers = append(w.Controllers, Controller{
		Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), Selector: selector, Above: metav1.GetControllerOf(o),
	})
}

// pages reads a list, page by page.
func (l *look) pages(list func(metav1.ListOptions) (metav1.ListInterface, func(*World), error)) error {
	options := metav1.ListOptions{Limit: page}
	for range maxObjects / page {
		got, keep, err := list(options)
		if err != nil {
			return err
		}
		l.keep(keep)
		if options.Continue = got.GetContinue(); options.Continue == "" {
			return nil
		}
	}
	return failure.New(failure.ObjectRefused, "a namespace has more than %d objects of one kind", maxObjects).Do("name the suspects' pods, in a target whose namespaces are smaller")
}

// elsewhere reads the pods that are named and are not in the namespaces of the target, to say why they stay.
func (l *look) elsewhere(ctx context.Context, s Suspects, namespaces []string) {
	for _, ref := range s.Pods {
		if slices.Contains(namespaces, ref.Namespace) {
			continue
		}
		l.all.Go(func() {
			pod, err := l.client.Client.CoreV1().Pods(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			l.gap(err, "read pod "+ref.String())
			if err == nil {
				l.keep(func(w *World) { w.Pods = append(w.Pods, *pod) })
			}
		})
	}
	if s.Node != "" {
		l.keep(func(w *World) {
			w.Gaps = append(w.Gaps, "pods on node "+s.Node+" are only looked for in the namespaces "+strings.Join(namespaces, ", "))
		})
	}
}

// foreign finds policies of other kinds.
func (l *look) foreign(ctx context.Context) {
	groups, err := l.client.Client.Discovery().ServerGroups()
	if err != nil { // which no containment waits for
		l.keep(func(w *World) { w.Gaps = append(w.Gaps, "could not ask which kinds of policies there are") })
		return
	}
	served := make(map[string]bool)
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			served[v.GroupVersion] = true
		}
	}
	client, err := dynamic.NewForConfig(l.client.Config)
	if err != nil {
		l.fail(kube.Classify(err, "make a client"))
		return
	}
	for _, kind := range foreign {
		if !served[kind.GroupVersion().String()] {
			continue
		}
		l.all.Go(func() {
			got, err := client.Resource(kind).List(ctx, metav1.ListOptions{Limit: shown})
			switch err := kube.Classify(err, "list"); {
			case failure.Is(err, failure.MissingObject): // of that group there is no such kind
			case err != nil:
				l.keep(func(w *World) {
					w.Foreign = append(w.Foreign, fmt.Sprintf("%s.%s may be there, and may not be listed", kind.Resource, kind.Group))
				})
			case len(got.Items) > 0:
				names := make([]string, 0, len(got.Items))
				for _, o := range got.Items {
					names = append(names, o.GetName())
				}
				l.keep(func(w *World) {
					w.Foreign = append(w.Foreign, fmt.Sprintf("%s.%s: %s", kind.Resource, kind.Group, strings.Join(names, ", ")))
				})
			}
		})
	}
}

func find(pods []corev1.Pod, ref Ref) *corev1.Pod {
	for i := range pods {
		if pods[i].Namespace == ref.Namespace && pods[i].Name == ref.Name {
			return &pods[i]
		}
	}
	return nil
}
