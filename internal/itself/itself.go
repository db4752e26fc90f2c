// Package itself keeps Upkeep from stopping, isolating or replacing what Upkeep, Temporal or their store
// run on: the run would be cut off in the middle of its work, with nobody left to finish it.
package itself

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// Protected is the annotation by which anybody protects a workload, or all of a namespace.
	Protected = "upkeep.run/protected"
	// namespaceFile is where a pod finds the namespace of its account.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	maxName       = 253
	resolveWithin = 5 * time.Second
)

// ours are labels of what Upkeep and Temporal are made of.
var ours = map[string][]string{
	"app.kubernetes.io/part-of": {"upkeep", "temporal"},
	"app.kubernetes.io/name":    {"upkeep", "temporal"},
}

// Self is what this process runs on.
type Self struct {
	Pod       string // its own, empty outside of a cluster
	Namespace string
	// Endpoints are the addresses (host, or host:port) of what it needs, by what they are.
	Endpoints map[string]string
}

// Find says what this process runs on, by its environment and the addresses of Temporal and of the store.
func Find(temporal, store string) Self {
	s := Self{Pod: os.Getenv("POD_NAME"), Namespace: os.Getenv("POD_NAMESPACE"), Endpoints: map[string]string{}}
	if s.Namespace == "" {
		if data, err := os.ReadFile(namespaceFile); err == nil && len(data) <= maxName {
			s.Namespace = strings.TrimSpace(string(data))
		}
	}
	if s.Pod == "" && s.Namespace != "" {
		s.Pod, _ = os.Hostname() // which is the pod's name unless it is on the node's network
	}
	if temporal != "" {
		s.Endpoints["Temporal"] = temporal
	}
	if u, err := url.Parse(store); err == nil {
		if e := u.Query().Get("endpoint"); e != "" {
			s.Endpoints["the store"] = address(e)
		}
	}
	return s
}

// address is the host of an address that may be a URL.
func address(v string) string {
	if u, err := url.Parse(v); err == nil && u.Host != "" {
		return u.Host
	}
	return v
}

// Workload is what a plan would stop, isolate or restore.
type Workload struct {
	Kind     string
	Object   metav1.Object
	Selector labels.Selector   // of its pods
	Pods     map[string]string // their labels
}

// Describe says what of a workload decides whether Upkeep itself runs on it; pods are the labels of its
// template. A selector that selects everything, or cannot be read, is refused.
func Describe(kind string, object metav1.Object, selector *metav1.LabelSelector, pods map[string]string) (Workload, error) {
	of, err := metav1.LabelSelectorAsSelector(selector) // none: nothing
	if err != nil || of.Empty() {
		return Workload{}, failure.New(failure.ObjectRefused, "the selector of %s %s cannot be used: it selects everything, or cannot be read", kind, object.GetName()).
			Do("correct the workload's selector, and start a new run")
	}
	return Workload{Kind: kind, Object: object, Selector: of, Pods: pods}, nil
}

// Marked says why an object is marked as one that must not be touched, or "".
func Marked(o metav1.Object) string {
	if _, is := o.GetAnnotations()[Protected]; is {
		return "the annotation " + Protected
	}
	return labelled(o.GetLabels())
}

func labelled(set map[string]string) string {
	for key, values := range ours {
		if slices.Contains(values, strings.ToLower(set[key])) {
			return "the label " + key + "=" + set[key]
		}
	}
	return ""
}

// Check refuses a plan that would touch any of these workloads in the cluster's namespace.
func (s Self) Check(ctx context.Context, c *kube.Cluster, doing string, workloads []Workload) error {
	namespace, err := c.Client.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	// A role of one namespace may not read it: what is marked there is marked on the workloads too, then.
	if err := kube.Classify(err, "read namespace "+c.Namespace); err != nil && !failure.Is(err, failure.ClusterForbids) {
		return err
	}
	if err == nil {
		if why := Marked(namespace); why != "" {
			return refuse(doing, "namespace "+c.Namespace, why)
		}
	}
	for _, w := range workloads {
		why := Marked(w.Object)
		if why == "" {
			why = labelled(w.Pods)
		}
		if why != "" {
			return refuse(doing, w.Kind+" "+w.Object.GetName(), why)
		}
	}
	if len(workloads) == 0 {
		return nil
	}
	pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{Limit: 5000})
	if err != nil {
		return kube.Classify(err, "list the pods of namespace "+c.Namespace)
	}
	for _, pod := range pods.Items {
		if pod.Name != s.Pod || s.Namespace != c.Namespace {
			continue // in another cluster there is none of that name
		}
		for _, w := range workloads {
			if w.Selector.Matches(labels.Set(pod.Labels)) {
				return refuse(doing, w.Kind+" "+w.Object.GetName(), "this worker is its pod "+s.Pod)
			}
		}
	}
	return s.checkEndpoints(ctx, c, doing, workloads, pods)
}

func (s Self) checkEndpoints(ctx context.Context, c *kube.Cluster, doing string, workloads []Workload, pods *corev1.PodList) error {
	if len(s.Endpoints) == 0 {
		return nil
	}
	services, err := c.Client.CoreV1().Services(c.Namespace).List(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return kube.Classify(err, "list the Services of namespace "+c.Namespace)
	}
	for what, endpoint := range s.Endpoints {
		host := host(endpoint)
		addresses := resolve(ctx, host)
		for _, w := range workloads {
			name := w.Kind + " " + w.Object.GetName()
			for _, service := range services.Items {
				if s.behind(host, addresses, &service, w.Pods) {
					return refuse(doing, name, fmt.Sprintf("%s (%s) is behind Service %s, whose pods it makes", what, endpoint, service.Name))
				}
			}
			for _, pod := range pods.Items {
				if !pod.Spec.HostNetwork && slices.Contains(addresses, pod.Status.PodIP) && w.Selector.Matches(labels.Set(pod.Labels)) {
					return refuse(doing, name, fmt.Sprintf("%s (%s) is its pod %s", what, endpoint, pod.Name))
				}
			}
		}
	}
	return nil
}

// behind reports whether an endpoint is a Service that sends to pods with these labels.
func (s Self) behind(host string, addresses []string, service *corev1.Service, pods map[string]string) bool {
	if len(service.Spec.Selector) == 0 || !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pods)) {
		return false
	}
	return named(host, service.Name, service.Namespace, s.Namespace) || slices.ContainsFunc(service.Spec.ClusterIPs, func(ip string) bool { return slices.Contains(addresses, ip) })
}

// named reports whether a host's name is a Service's in a namespace, as seen from a pod of another.
func named(host, service, namespace, from string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == service {
		return from == namespace
	}
	rest, is := strings.CutPrefix(host, service+"."+namespace)
	return is && (rest == "" || rest == ".svc" || strings.HasPrefix(rest, ".svc."))
}

// resolve finds a host's addresses. One whose name means nothing here is no Service of this cluster by its
// address; its name is looked at besides.
func resolve(ctx context.Context, host string) []string {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil
	}
	return addresses
}

func refuse(doing, what, why string) error {
	return failure.New(failure.NotItself, "could not %s: %s is what Upkeep itself runs on (%s)", doing, what, why).
		Do("do that without Upkeep, or give the target a workload, namespace or database of its own")
}
