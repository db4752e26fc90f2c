package quiesce

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// owned are the pods that a workload has made, through whatever is between.
func (s *Stopper) owned(ctx context.Context, ref Ref, pods []corev1.Pod) ([]corev1.Pod, error) {
	var of []corev1.Pod
	chains := map[types.UID][]Ref{} // by the pod's controller
	for _, p := range pods {
		controller := metav1.GetControllerOf(&p)
		if controller == nil {
			continue
		}
		chain, known := chains[controller.UID]
		if !known {
			var err error
			if chain, err = s.chain(ctx, &p); err != nil {
				return nil, err
			}
			chains[controller.UID] = chain
		}
		if slices.Contains(chain, ref) {
			of = append(of, p)
		}
	}
	return of, nil
}

// chain is a pod's chain of controllers, the nearest first; none for a bare pod. A controller that is gone is
// the end.
func (s *Stopper) chain(ctx context.Context, pod *corev1.Pod) ([]Ref, error) {
	controller := metav1.GetControllerOf(pod)
	if controller == nil {
		return nil, nil
	}
	ref := Ref{controller.Kind, controller.Name}
	var (
		object metav1.Object
		err    error
	)
	switch ref.Kind {
	case "ReplicaSet":
		object, err = s.Cluster.Client.AppsV1().ReplicaSets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "Job":
		object, err = s.Cluster.Client.BatchV1().Jobs(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	default:
		return []Ref{ref}, nil
	}
	err = kube.Classify(err, "read "+ref.String())
	if failure.Is(err, failure.MissingObject) {
		return []Ref{ref}, nil
	}
	if err != nil {
		return nil, err
	}
	if above := metav1.GetControllerOf(object); above != nil {
		return []Ref{ref, {above.Kind, above.Name}}, nil
	}
	return []Ref{ref}, nil
}

// Users finds the workloads whose pods have these addresses. Serves is the pod of the database, which is
// nobody's client.
func (s *Stopper) Users(ctx context.Context, addresses []string, serves *corev1.Pod) (Found, error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return Found{}, err
	}
	var serving []Ref
	if serves != nil {
		if serving, err = s.chain(ctx, serves); err != nil {
			return Found{}, err
		}
	}
	found := Found{Clients: []Ref{}, Stay: []string{}, Others: []string{}}
	for _, address := range addresses {
		at := slices.IndexFunc(pods, func(p corev1.Pod) bool {
			return p.Status.PodIP == address && !p.Spec.HostNetwork && p.Status.Phase == corev1.PodRunning
		})
		switch {
		case at < 0:
			found.Others = append(found.Others, address+" is no pod of namespace "+s.Cluster.Namespace)
			continue
		case serves != nil && pods[at].UID == serves.UID:
			continue
		}
		chain, err := s.chain(ctx, &pods[at])
		if err != nil {
			return Found{}, err
		}
		found.add(address, pods[at].Name, chain, serving)
	}
	slices.SortFunc(found.Clients, Ref.compare)
	return found, nil
}

// add adds a pod that has sessions, by its chain of controllers.
func (f *Found) add(address, pod string, chain, serving []Ref) {
	if len(chain) > 0 && slices.ContainsFunc(chain, func(r Ref) bool { return slices.Contains(serving, r) }) {
		return
	}
	top := -1 // the last that can be stopped: what is above an operator's own kind acts through it
	for i, r := range chain {
		if KindProblem(r.Kind) == "" {
			top = i
		}
	}
	switch {
	case len(chain) == 0:
		f.Stay = append(f.Stay, fmt.Sprintf("%s is pod %s, which nothing would make again if it were stopped", address, pod))
		return
	case top < 0:
		f.Stay = append(f.Stay, fmt.Sprintf("%s is pod %s of %s, which cannot be stopped and started again", address, pod, chain[len(chain)-1]))
		return
	}
	for i, r := range chain[:top+1] {
		// A CronJob that is suspended lets the Job run on that it has begun.
		if (i == top || r.Kind == "Job") && !slices.Contains(f.Clients, r) {
			f.Clients = append(f.Clients, r)
		}
	}
}

func (r Ref) compare(other Ref) int {
	return cmp.Or(cmp.Compare(r.Kind, other.Kind), cmp.Compare(r.Name, other.Name))
}

// Left finds the workloads that a run for the target has stopped and not started again, by the notes on
// them.
func (s *Stopper) Left(ctx context.Context, target string) ([]Ref, error) {
	client, err := metadata.NewForConfig(s.Cluster.Config)
	if err != nil {
		return nil, kube.Classify(err, "make a client")
	}
	found := []Ref{}
	for _, name := range Kinds() {
		resource := kinds[name].resource
		err := kube.Pages(fmt.Sprintf("list the %s of namespace %s", resource.Resource, s.Cluster.Namespace), func(options metav1.ListOptions) (string, int, error) {
			list, err := client.Resource(resource).Namespace(s.Cluster.Namespace).List(ctx, options)
			if err != nil {
				return "", 0, err
			}
			for _, o := range list.Items {
				if left(&o, target) {
					found = append(found, Ref{name, o.Name})
				}
			}
			return list.Continue, len(list.Items), nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// left reports whether an object has a note of its own. A Deployment's is copied onto its ReplicaSets by its
// controller, which would take back what is done to them.
func left(o metav1.Object, target string) bool {
	controller := metav1.GetControllerOf(o)
	return held.Left(o.GetAnnotations(), target) && (controller == nil || controller.Kind != "Deployment")
}
