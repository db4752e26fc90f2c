package netcheck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/reach"
)

// mostForeign bounds the policies of one kind that are named; one is enough to make answers unknown.
const mostForeign = 500

// foreignGroups are the API groups of policies that the model cannot read, and their kinds.
var foreignGroups = map[string][]string{
	"cilium.io":                {"ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"},
	"crd.projectcalico.org":    {"networkpolicies", "globalnetworkpolicies"},
	"projectcalico.org":        {"networkpolicies", "globalnetworkpolicies"},
	"policy.networking.k8s.io": {"adminnetworkpolicies", "baselineadminnetworkpolicies", "clusternetworkpolicies"},
	"crd.antrea.io":            {"networkpolicies", "clusternetworkpolicies"},
	"security.istio.io":        {"authorizationpolicies"},
	"policy.linkerd.io":        {"servers", "authorizationpolicies"},
	"k8s.ovn.org":              {"egressfirewalls"},
	"networking.gke.io":        {"fqdnnetworkpolicies"},
	"networking.k8s.aws":       {"clusternetworkpolicies", "applicationnetworkpolicies"},
}

// Look reads what a plan depends on, of the target's namespace and of those that the expectations name. It
// only gets and lists. What of the rest may not be read is noted.
func Look(ctx context.Context, c *kube.Cluster, n Network) (State, error) {
	s := State{Namespace: c.Namespace}
	namespaces := []string{c.Namespace}
	for _, other := range n.Others() {
		if other != c.Namespace {
			namespaces = append(namespaces, other)
		}
	}
	for _, namespace := range namespaces {
		if err := s.read(ctx, c, namespace); err != nil {
			if namespace == c.Namespace || !failure.Is(err, failure.ClusterForbids) {
				return s, err
			}
			s.Unread = append(s.Unread, err.Error())
		}
	}
	err := kube.Pages("list the Services of namespace "+c.Namespace, func(o metav1.ListOptions) (string, int, error) {
		list, err := c.Client.CoreV1().Services(c.Namespace).List(ctx, o)
		if err != nil {
			return "", 0, err
		}
		s.Services = append(s.Services, list.Items...)
		return list.Continue, len(list.Items), nil
	})
	if err != nil {
		return s, err
	}
	return s, s.readForeign(ctx, c, namespaces)
}

func (s *State) read(ctx context.Context, c *kube.Cluster, namespace string) error {
	n, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return kube.Classify(err, "read namespace "+namespace+", whose labels policies select by")
	}
	var pods []corev1.Pod
	err = kube.Pages("list the pods of namespace "+namespace, func(o metav1.ListOptions) (string, int, error) {
		list, err := c.Client.CoreV1().Pods(namespace).List(ctx, o)
		if err != nil {
			return "", 0, err
		}
		pods = append(pods, list.Items...)
		return list.Continue, len(list.Items), nil
	})
	if err != nil {
		return err
	}
	var policies []networkingv1.NetworkPolicy
	err = kube.Pages("list the NetworkPolicies of namespace "+namespace, func(o metav1.ListOptions) (string, int, error) {
		list, err := c.Client.NetworkingV1().NetworkPolicies(namespace).List(ctx, o)
		if err != nil {
			return "", 0, err
		}
		policies = append(policies, list.Items...)
		return list.Continue, len(list.Items), nil
	})
	if err != nil {
		return err
	}
	s.World.Namespaces = append(s.World.Namespaces, *n)
	s.World.Pods = append(s.World.Pods, pods...)
	s.World.Policies = append(s.World.Policies, policies...)
	return nil
}

// readForeign finds policies of other kinds. Where they cannot be listed, there may be some.
func (s *State) readForeign(ctx context.Context, c *kube.Cluster, namespaces []string) error {
	groups, err := c.Client.Discovery().ServerGroups()
	if err != nil {
		return kube.Classify(err, "see which kinds of policies the cluster has")
	}
	client, err := metadata.NewForConfig(c.Config)
	if err != nil {
		return kube.Classify(err, "make a client")
	}
	for _, g := range groups.Groups {
		kinds, ok := foreignGroups[g.Name]
		if !ok {
			continue
		}
		served, err := c.Client.Discovery().ServerResourcesForGroupVersion(g.PreferredVersion.GroupVersion)
		if err != nil {
			return kube.Classify(err, "see which kinds group "+g.Name+" has")
		}
		for _, r := range served.APIResources {
			if !slices.Contains(kinds, r.Name) {
				continue
			}
			resource := schema.GroupVersionResource{Group: g.Name, Version: g.PreferredVersion.Version, Resource: r.Name}
			for _, namespace := range namespaces {
				in := client.Resource(resource)
				list, err := in.Namespace(map[bool]string{true: namespace}[r.Namespaced]).List(ctx, metav1.ListOptions{Limit: mostForeign})
				err = kube.Classify(err, fmt.Sprintf("list %s.%s", r.Name, g.Name))
				switch {
				case failure.Is(err, failure.ClusterForbids):
					s.World.Foreign = append(s.World.Foreign, reach.Foreign{Kind: r.Kind, Namespace: map[bool]string{true: namespace}[r.Namespaced], Name: "(which may not be listed)"})
				case err != nil:
					return err
				default:
					for _, o := range list.Items {
						s.World.Foreign = append(s.World.Foreign, reach.Foreign{Kind: r.Kind + "." + strings.ToLower(g.Name), Namespace: o.Namespace, Name: o.Name})
					}
				}
				if !r.Namespaced {
					break
				}
			}
		}
	}
	return nil
}
