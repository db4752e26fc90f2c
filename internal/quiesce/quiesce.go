// Package quiesce stops the workloads that use a database and starts them again with the counts they had.
package quiesce

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

const (
	// maxPods bounds the pods of a namespace that are looked at.
	maxPods = 5000
	// named is how many pods a sentence names.
	named = 5
)

var (
	stopBefore  = fault.NewPoint("client-stop/before")
	stopAfter   = fault.NewPoint("client-stop/after")
	startBefore = fault.NewPoint("client-start/before")
	startAfter  = fault.NewPoint("client-start/after")
)

// kind is a kind of workload that can be stopped.
type kind struct {
	resource schema.GroupVersionResource
	path     []string
	stopped  any
}

var kinds = map[string]kind{
	"Deployment":  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, []string{"spec", "replicas"}, 0},
	"StatefulSet": {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, []string{"spec", "replicas"}, 0},
	"ReplicaSet":  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, []string{"spec", "replicas"}, 0},
	"CronJob":     {schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}, []string{"spec", "suspend"}, true},
}

// KindProblem says what is wrong with the kind of a workload that is to be stopped, or "".
func KindProblem(v string) string {
	if _, ok := kinds[v]; ok {
		return ""
	}
	return "must be Deployment, StatefulSet, ReplicaSet or CronJob"
}

// Kinds are the kinds that can be stopped.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

// Resource is how the API server serves one of them.
func Resource(kind string) (group, resource string) {
	r := kinds[kind].resource
	return r.Group, r.Resource
}

// Ref names a workload in the target's namespace.
type Ref struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func (r Ref) String() string { return r.Kind + " " + r.Name }

// Autoscaler is what scales a workload: nothing, while that has no replicas.
type Autoscaler struct {
	Name string `json:"name"` // of a HorizontalPodAutoscaler
	Min  int32  `json:"min"`
	Max  int32  `json:"max"`
}

// Client is a workload as it was before it is stopped.
type Client struct {
	Ref
	UID types.UID `json:"uid"`
	// Before is its count of replicas, or whether a CronJob is suspended.
	Before      json.RawMessage   `json:"before"`
	Autoscalers []Autoscaler      `json:"autoscalers,omitempty"`
	Owners      []ownership.Image `json:"owners,omitempty"` // who would start it again
	// StoppedBy is the key of an earlier run that left it stopped.
	StoppedBy string `json:"stoppedBy,omitempty"`
}

// Words say how a client was.
func (c Client) Words() string {
	switch {
	case c.Kind != "CronJob":
		return fmt.Sprintf("%s (%s)", c.Ref, c.Before)
	case string(c.Before) == "true":
		return c.String() + " (suspended already)"
	}
	return c.String()
}

func (r Ref) field(namespace string) held.Field {
	k := kinds[r.Kind]
	return held.Field{Resource: k.resource, Namespace: namespace, Name: r.Name, Path: k.path, Value: k.stopped}
}

// Stopper stops and starts workloads of a cluster's namespace.
type Stopper struct {
	Cluster *kube.Cluster
	dynamic dynamic.Interface
}

// New makes a stopper.
func New(c *kube.Cluster) (*Stopper, error) {
	d, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return nil, kube.Classify(err, "make a client")
	}
	return &Stopper{Cluster: c, dynamic: d}, nil
}

// Look reads how the workloads are, and who owns them. It changes nothing. It refuses what must not be
// stopped: what Upkeep runs on, what serves the database (by its pod's labels), and what others own whom
// the policy does not let be suspended.
func (s *Stopper) Look(ctx context.Context, refs []Ref, self itself.Self, serves *corev1.Pod, policy string, now time.Time) ([]Client, error) {
	clients, workloads := []Client{}, []itself.Workload{}
	objects := []*unstructured.Unstructured{}
	for _, ref := range refs {
		object, err := ref.field(s.Cluster.Namespace).Get(ctx, s.dynamic)
		if err != nil {
			return nil, err
		}
		w, err := Describe(object)
		if err != nil {
			return nil, err
		}
		if serves != nil && w.Selector.Matches(labels.Set(serves.Labels)) {
			return nil, failure.New(failure.BadConfig, "%s serves the database itself (its pod %s) and is none of its clients", ref, serves.Name).
				Do("take it out of the clients in the input or in kubernetes.clients of upkeep.yaml, and start a new run")
		}
		objects, workloads = append(objects, object), append(workloads, w)
	}
	if err := self.Check(ctx, s.Cluster, "stop the database's clients", workloads); err != nil {
		return nil, err
	}
	scalers, err := s.scalers(ctx)
	if err != nil {
		return nil, err
	}
	for i, ref := range refs {
		c := Client{Ref: ref, UID: objects[i].GetUID()}
		if c.Before, c.StoppedBy, err = ref.field(s.Cluster.Namespace).Before(objects[i]); err != nil {
			return nil, err
		}
		owners := ownership.Detect(objects[i], now)
		for _, scaler := range scalers {
			if ref.scaledBy(scaler) {
				a := Autoscaler{Name: scaler.Name, Min: 1, Max: scaler.Spec.MaxReplicas}
				if scaler.Spec.MinReplicas != nil {
					a.Min = *scaler.Spec.MinReplicas
				}
				c.Autoscalers = append(c.Autoscalers, a)
				owners = append(owners, keda(ownership.Detect(&scaler, now))...)
			}
		}
		if err := ownership.Allow(policy, fmt.Sprintf("stop %s", ref), owners); err != nil {
			return nil, err
		}
		for _, o := range owners {
			image, err := ownership.Look(ctx, s.dynamic, o)
			if err != nil {
				return nil, err
			}
			c.Owners = append(c.Owners, image)
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// Owners finds who would start the workloads again, as far as it is known how to suspend them. It changes
// nothing; a workload that is not there has none.
func (s *Stopper) Owners(ctx context.Context, refs []Ref, now time.Time) ([]ownership.Owner, error) {
	scalers, err := s.scalers(ctx)
	if err != nil {
		return nil, err
	}
	all := []ownership.Owner{}
	for _, ref := range refs {
		object, err := ref.field(s.Cluster.Namespace).Get(ctx, s.dynamic)
		if failure.Is(err, failure.MissingObject) {
			continue
		}
		if err != nil {
			return nil, err
		}
		owners := ownership.Detect(object, now)
		for _, scaler := range scalers {
			if ref.scaledBy(scaler) {
				owners = append(owners, keda(ownership.Detect(&scaler, now))...)
			}
		}
		for _, o := range owners {
			if o.Suspendable {
				all = append(all, o)
			}
		}
	}
	return all, nil
}

func (s *Stopper) scalers(ctx context.Context) ([]autoscalingv2.HorizontalPodAutoscaler, error) {
	list, err := s.Cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(s.Cluster.Namespace).List(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return nil, kube.Classify(err, "list the autoscalers of namespace "+s.Cluster.Namespace)
	}
	return list.Items, nil
}

func (r Ref) scaledBy(scaler autoscalingv2.HorizontalPodAutoscaler) bool {
	to := scaler.Spec.ScaleTargetRef
	return to.Kind == r.Kind && to.Name == r.Name
}

// keda is the owner of an autoscaler that scales its workload up again by itself.
func keda(owners []ownership.Owner) []ownership.Owner {
	for _, o := range owners {
		if o.Ref.Kind == "ScaledObject" {
			o.By = "KEDA"
			return []ownership.Owner{o}
		}
	}
	return nil
}

// Describe says what of a workload decides whether Upkeep itself runs on it. A selector that selects
// everything is refused.
func Describe(object *unstructured.Unstructured) (itself.Workload, error) {
	template, selector := []string{"spec", "template", "metadata", "labels"}, labels.Everything()
	if object.GetKind() == "CronJob" {
		template = []string{"spec", "jobTemplate", "spec", "template", "metadata", "labels"}
	}
	pods, _, _ := unstructured.NestedStringMap(object.Object, template...) // none, or of another shape: none
	if object.GetKind() == "CronJob" {
		selector = labels.Nothing()
		if len(pods) > 0 {
			selector = labels.SelectorFromSet(pods)
		}
	} else {
		var parsed metav1.LabelSelector
		raw, _, _ := unstructured.NestedMap(object.Object, "spec", "selector")
		data, err := json.Marshal(raw)
		if err == nil {
			err = json.Unmarshal(data, &parsed)
		}
		if err == nil {
			selector, err = metav1.LabelSelectorAsSelector(&parsed)
		}
		if err != nil || selector.Empty() {
			return itself.Workload{}, failure.New(failure.ObjectRefused, "the selector of %s %s cannot be used: it selects everything, or cannot be read", object.GetKind(), object.GetName()).
				Do("correct the workload's selector, and start a new run")
		}
	}
	return itself.Workload{Kind: object.GetKind(), Object: object, Selector: selector, Pods: pods}, nil
}

// Stop stops a client for an order. Done twice, it finds it done.
func (s *Stopper) Stop(ctx context.Context, c Client, by held.Order) error {
	return c.field(s.Cluster.Namespace).Take(ctx, s.dynamic, by, held.Facts{UID: c.UID, Before: c.Before}, held.Between(stopBefore, stopAfter))
}

// Start gives a client back what it had. What somebody changed meanwhile stays and is said.
func (s *Stopper) Start(ctx context.Context, c Client, by held.Order) (remark string, err error) {
	return c.field(s.Cluster.Namespace).Give(ctx, s.dynamic, by, held.Between(startBefore, startAfter))
}

// Suspend keeps an owner of a client from starting it.
func (s *Stopper) Suspend(ctx context.Context, o ownership.Image, by held.Order) error {
	return ownership.Suspend(ctx, s.dynamic, o, by)
}

// Resume lets an owner act as before.
func (s *Stopper) Resume(ctx context.Context, o ownership.Image, by held.Order) (remark string, err error) {
	return ownership.Resume(ctx, s.dynamic, o, by)
}

// Running names pods of the clients that are still there, or "" when there are none.
func (s *Stopper) Running(ctx context.Context, clients []Client) (string, error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	var left []string
	for _, c := range clients {
		of, err := s.owned(ctx, c.Ref, pods)
		if err != nil {
			return "", err
		}
		for _, p := range of {
			if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				left = append(left, p.Name)
			}
		}
	}
	if len(left) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d pods (%s)", len(left), strings.Join(left[:min(len(left), named)], ", ")), nil
}

// Unready says which client has not come up as it was, or "" when all have.
func (s *Stopper) Unready(ctx context.Context, clients []Client) (string, error) {
	for _, c := range clients {
		if c.Kind == "CronJob" {
			continue
		}
		object, err := c.field(s.Cluster.Namespace).Get(ctx, s.dynamic)
		if err != nil {
			return "", err
		}
		number := func(path ...string) int64 {
			n, _, _ := unstructured.NestedInt64(object.Object, path...) // none: 0
			return n
		}
		want, ready := number("spec", "replicas"), number("status", "readyReplicas")
		if ready < want || number("status", "observedGeneration") < object.GetGeneration() {
			return fmt.Sprintf("%s has %d of %d pods ready", c.Ref, ready, want), nil
		}
	}
	return "", nil
}

func (s *Stopper) pods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := s.Cluster.Client.CoreV1().Pods(s.Cluster.Namespace).List(ctx, metav1.ListOptions{Limit: maxPods})
	if err != nil {
		return nil, kube.Classify(err, "list the pods of namespace "+s.Cluster.Namespace)
	}
	return pods.Items, nil
}

// owned are the pods that a workload has made, through whatever is between.
func (s *Stopper) owned(ctx context.Context, ref Ref, pods []corev1.Pod) ([]corev1.Pod, error) {
	var of []corev1.Pod
	tops := map[types.UID]Ref{} // by the pod's controller
	for _, p := range pods {
		controller := metav1.GetControllerOf(&p)
		if controller == nil {
			continue
		}
		top, known := tops[controller.UID]
		if !known {
			var err error
			if top, err = s.top(ctx, &p); err != nil {
				return nil, err
			}
			tops[controller.UID] = top
		}
		if top == ref {
			of = append(of, p)
		}
	}
	return of, nil
}

// top is the workload at the end of a pod's chain of controllers. A controller that is gone is the end.
func (s *Stopper) top(ctx context.Context, pod *corev1.Pod) (Ref, error) {
	controller := metav1.GetControllerOf(pod)
	if controller == nil {
		return Ref{"Pod", pod.Name}, nil
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
		return ref, nil
	}
	err = kube.Classify(err, "read "+ref.String())
	if failure.Is(err, failure.MissingObject) {
		return ref, nil
	}
	if err != nil {
		return Ref{}, err
	}
	if above := metav1.GetControllerOf(object); above != nil {
		return Ref{above.Kind, above.Name}, nil
	}
	return ref, nil
}

// Users finds the workloads whose pods have these addresses. Those that cannot be stopped, or are not of
// the namespace, are returned in words. Serves is the pod of the database, which is nobody's client.
func (s *Stopper) Users(ctx context.Context, addresses []string, serves *corev1.Pod) (refs []Ref, others []string, err error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return nil, nil, err
	}
	serving := Ref{}
	if serves != nil {
		if serving, err = s.top(ctx, serves); err != nil {
			return nil, nil, err
		}
	}
	refs, others = []Ref{}, []string{}
	for _, address := range addresses {
		at := slices.IndexFunc(pods, func(p corev1.Pod) bool {
			return p.Status.PodIP == address && !p.Spec.HostNetwork && p.Status.Phase == corev1.PodRunning
		})
		if at < 0 {
			others = append(others, address+" is no pod of namespace "+s.Cluster.Namespace)
			continue
		}
		ref, err := s.top(ctx, &pods[at])
		if err != nil {
			return nil, nil, err
		}
		switch {
		case ref == serving:
		case KindProblem(ref.Kind) != "":
			others = append(others, fmt.Sprintf("%s is pod %s (%s), which cannot be stopped and started again", address, pods[at].Name, ref))
		case !slices.Contains(refs, ref):
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, func(a, b Ref) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return refs, others, nil
}
