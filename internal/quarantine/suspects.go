// Package quarantine cuts suspect pods off from the network, and nobody else: it finds the pods that are
// meant, takes the labels away by which policies let them through and Services and controllers find them,
// and denies them everything. What each object was is written on the object and kept by the run, so that
// it can be given back.
package quarantine

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// maxNamed bounds how many pods an order names.
	maxNamed = 100
	// maxImage bounds the name of an image, in bytes.
	maxImage = 512
)

// Kinds are those of the workloads that can be suspects.
var Kinds = []string{"CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"}

// Ref names an object of a namespace.
type Ref struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Suspects say which pods are meant: all that any of its fields means.
type Suspects struct {
	Pods           []Ref  `json:"pods,omitempty"`
	Namespace      string `json:"namespace"` // of the workload and the account
	Kind           string `json:"kind,omitempty"`
	Workload       string `json:"workload,omitempty"`
	Node           string `json:"node,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	Image          string `json:"image,omitempty"` // as a pod names it, or the digest of what runs
}

// Parse reads suspects as a person writes them: pods as name or namespace/name with commas between, a
// workload as Kind/name.
func Parse(namespace, pods, workload, node, account, image string) (s Suspects, err error) {
	wrong := func(field, value, problem string) (Suspects, error) {
		return Suspects{}, failure.New(failure.BadInput, "%s %.100q %s", field, value, problem).
			Do("write pods as in web-1,other/db-0, a workload as in Deployment/web, and the others by their names")
	}
	s = Suspects{Namespace: namespace, Node: node, ServiceAccount: account, Image: image}
	for _, item := range split(pods) {
		ref := Ref{namespace, item}
		if in, name, has := strings.Cut(item, "/"); has {
			ref = Ref{in, name}
		}
		if problem := kube.NameProblem(ref.Name); problem != "" {
			return wrong("pods", item, problem)
		}
		if problem := kube.NameProblem(ref.Namespace); problem != "" {
			return wrong("pods", item, problem)
		}
		if slices.Contains(s.Pods, ref) {
			return wrong("pods", item, "is named twice")
		}
		if s.Pods = append(s.Pods, ref); len(s.Pods) > maxNamed {
			return wrong("pods", item, "is one too many: 100 at most can be named")
		}
	}
	if workload != "" {
		s.Kind, s.Workload, _ = strings.Cut(workload, "/")
		if !slices.Contains(Kinds, s.Kind) {
			return wrong("workload", workload, "must begin with one of "+strings.Join(Kinds, ", "))
		}
		if problem := kube.NameProblem(s.Workload); problem != "" {
			return wrong("workload", workload, problem)
		}
	}
	for _, f := range []struct{ field, name string }{{"node", node}, {"serviceAccount", account}} {
		if problem := kube.NameProblem(f.name); f.name != "" && problem != "" {
			return wrong(f.field, f.name, problem)
		}
	}
	if len(image) > maxImage || strings.ContainsFunc(image, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return wrong("image", image, "must be the name or the digest of an image")
	}
	if len(s.Pods) == 0 && s.Workload == "" && node == "" && account == "" && image == "" {
		return s, failure.New(failure.BadInput, "nothing is suspected").Do("name pods, a workload, a node, a serviceAccount or an image")
	}
	return s, nil
}

func split(list string) (items []string) {
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// why says by what a pod is a suspect; none: it is not. Chain is its controllers, the nearest first.
func (s Suspects) why(pod *corev1.Pod, chain []metav1.OwnerReference) (why []string) {
	if slices.Contains(s.Pods, Ref{pod.Namespace, pod.Name}) {
		why = append(why, "named")
	}
	home := pod.Namespace == s.Namespace
	if home && s.Workload != "" && slices.ContainsFunc(chain, func(o metav1.OwnerReference) bool { return o.Kind == s.Kind && o.Name == s.Workload }) {
		why = append(why, "of "+s.Kind+" "+s.Workload)
	}
	if s.Node != "" && pod.Spec.NodeName == s.Node {
		why = append(why, "on node "+s.Node)
	}
	if account := account(pod); home && s.ServiceAccount != "" && account == s.ServiceAccount {
		why = append(why, "with the account "+account)
	}
	if s.Image != "" && runs(pod, s.Image) {
		why = append(why, "of the image "+s.Image)
	}
	return why
}

func account(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

// runs reports whether one of a pod's containers is of an image, by its name or by the digest of what runs.
func runs(pod *corev1.Pod, image string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		if slices.ContainsFunc(list, func(c corev1.Container) bool { return c.Image == image }) {
			return true
		}
	}
	if slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Image == image }) {
		return true
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		if slices.ContainsFunc(list, func(c corev1.ContainerStatus) bool {
			return c.Image == image || c.ImageID == image || strings.HasSuffix(c.ImageID, "@"+image)
		}) {
			return true
		}
	}
	return false
}
