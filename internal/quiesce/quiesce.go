// Package quiesce stops the workloads that use a database and starts them again with the counts they had.
package quiesce

import (
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
	"k8s.io/apimachinery/pkg/runtime"
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

// kind is a kind of workload that can be stopped: by a field that is held at a value.
type kind struct {
	resource schema.GroupVersionResource
	path     []string
	stopped  any
	command  string // that stops one by hand; of its name and namespace
}

// nowhere is a node's label that no node has: the pods of a DaemonSet that asks for it have no place to be.
const nowhere = "upkeep.run/stopped"

const scale = "kubectl scale %s %s -n %s --replicas=0"

var kinds = map[string]kind{
	"Deployment":  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, []string{"spec", "replicas"}, 0, scale},
	"StatefulSet": {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, []string{"spec", "replicas"}, 0, scale},
	"ReplicaSet":  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, []string{"spec", "replicas"}, 0, scale},
	"DaemonSet": {
		schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, []string{"spec", "template", "spec", "nodeSelector", nowhere}, "true",
		`kubectl patch %s %s -n %s -p '{"spec":{"template":{"spec":{"nodeSelector":{"` + nowhere + `":"true"}}}}}'`,
	},
	"CronJob": {schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}, []string{"spec", "suspend"}, true, suspend},
	"Job":     {schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, []string{"spec", "suspend"}, true, suspend},
}

const suspend = `kubectl patch %s %s -n %s -p '{"spec":{"suspend":true}}'`

// KindProblem says what is wrong with the kind of a workload that is to be stopped, or "".
func KindProblem(v string) string {
	if _, ok := kinds[v]; ok {
		return ""
	}
	return "must be one of " + strings.Join(Kinds(), ", ")
}

// Kinds are those of the workloads that can be stopped.
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

// Found is who uses a database.
type Found struct {
	Clients []Ref    // that can be stopped and started again
	Stay    []string // pods that cannot, in words
	Others  []string // who is not of the namespace, in words
}

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
	// Before is its count of replicas, or whether a CronJob or a Job is suspended; "null" for a DaemonSet.
	Before      json.RawMessage `json:"before"`
	Autoscalers []Autoscaler    `json:"autoscalers,omitempty"`
	// StoppedBy is the key of an earlier run that left it stopped.
	StoppedBy string `json:"stoppedBy,omitempty"`
}

// Words say how a client was.
func (c Client) Words() string {
	words := c.String()
	switch {
	case c.Kind == "DaemonSet":
	case c.Kind != "CronJob" && c.Kind != "Job":
		words = fmt.Sprintf("%s (%s)", c.Ref, c.Before)
	case string(c.Before) == "true":
		words += " (suspended already)"
	}
	if c.StoppedBy != "" {
		words += ", which an earlier run has left stopped"
	}
	return words
}

func (r Ref) command(namespace string) string {
	return fmt.Sprintf(kinds[r.Kind].command, strings.ToLower(r.Kind), r.Name, namespace)
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
func (s *Stopper) Look(ctx context.Context, refs []Ref, self itself.Self, serves *corev1.Pod, policy string, now time.Time) ([]Client, ownership.Measures, error) {
	none := ownership.Measures{}
	clients, workloads, changes := []Client{}, []itself.Workload{}, []ownership.Change{}
	objects := []*unstructured.Unstructured{}
	for _, ref := range refs {
		object, err := ref.field(s.Cluster.Namespace).Get(ctx, s.dynamic)
		if err != nil {
			return nil, none, err
		}
		w, err := Describe(object)
		if err != nil {
			return nil, none, err
		}
		if serves != nil && w.Selector.Matches(labels.Set(serves.Labels)) {
			return nil, none, failure.New(failure.BadConfig, "%s serves the database itself (its pod %s) and is none of its clients", ref, serves.Name).
				Do("take it out of the clients in the input or in kubernetes.clients of upkeep.yaml, and start a new run")
		}
		objects, workloads = append(objects, object), append(workloads, w)
	}
	if err := self.Check(ctx, s.Cluster, "stop the database's clients", workloads); err != nil {
		return nil, none, err
	}
	scalers, err := s.scalers(ctx)
	if err != nil {
		return nil, none, err
	}
	for i, ref := range refs {
		c := Client{Ref: ref, UID: objects[i].GetUID()}
		if c.Before, c.StoppedBy, err = ref.field(s.Cluster.Namespace).Before(objects[i]); err != nil {
			return nil, none, err
		}
		scale := ref.scaledBy(scalers)
		for _, scaler := range scale {
			a := Autoscaler{Name: scaler.Name, Min: 1, Max: scaler.Spec.MaxReplicas}
			if scaler.Spec.MinReplicas != nil {
				a.Min = *scaler.Spec.MinReplicas
			}
			c.Autoscalers = append(c.Autoscalers, a)
		}
		clients = append(clients, c)
		changes = append(changes, ownership.Change{Words: "stop " + ref.String(), Command: ref.command(s.Cluster.Namespace), Owners: owners(objects[i], scale, now)})
	}
	measures, err := ownership.Plan(ctx, s.dynamic, policy, changes)
	return clients, measures, err
}

// Owners finds who would start the workloads again. It changes nothing; a workload that is not there has none.
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
		all = append(all, owners(object, ref.scaledBy(scalers), now)...)
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

func (r Ref) scaledBy(scalers []autoscalingv2.HorizontalPodAutoscaler) (by []autoscalingv2.HorizontalPodAutoscaler) {
	for _, s := range scalers {
		if to := s.Spec.ScaleTargetRef; to.Kind == r.Kind && to.Name == r.Name {
			by = append(by, s)
		}
	}
	return by
}

// owners are who would start a workload again: its own, and KEDA where it makes one of its autoscalers.
func owners(object metav1.Object, scalers []autoscalingv2.HorizontalPodAutoscaler, now time.Time) []ownership.Owner {
	all := ownership.Detect(object, now)
	for _, s := range scalers {
		all = append(all, keda(ownership.Detect(&s, now))...)
	}
	return all
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
	template := []string{"spec", "template", "metadata", "labels"}
	if object.GetKind() == "CronJob" {
		template = []string{"spec", "jobTemplate", "spec", "template", "metadata", "labels"}
	}
	pods, _, _ := unstructured.NestedStringMap(object.Object, template...) // none, or of another shape: none
	if object.GetKind() == "CronJob" {                                     // whose Jobs have selectors of their own
		selector := labels.Nothing()
		if len(pods) > 0 {
			selector = labels.SelectorFromSet(pods)
		}
		return itself.Workload{Kind: object.GetKind(), Object: object, Selector: selector, Pods: pods}, nil
	}
	raw, _, _ := unstructured.NestedMap(object.Object, "spec", "selector")
	selector := &metav1.LabelSelector{} // of another shape, it selects everything, which is refused
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, selector); err != nil {
		selector = &metav1.LabelSelector{}
	}
	return itself.Describe(object.GetKind(), object, selector, pods)
}

// Stop stops a client for an order. Done twice, it finds it done. A Job that is gone has ended.
func (s *Stopper) Stop(ctx context.Context, c Client, by held.Order) error {
	err := c.field(s.Cluster.Namespace).Take(ctx, s.dynamic, by, held.Facts{UID: c.UID, Before: c.Before}, held.Between(stopBefore, stopAfter))
	if c.Kind == "Job" && failure.Is(err, failure.MissingObject) {
		return nil
	}
	return err
}

// Start gives a client back what it had. What somebody changed meanwhile stays and is said.
func (s *Stopper) Start(ctx context.Context, c Client, by held.Order) (remark string, err error) {
	return c.field(s.Cluster.Namespace).Give(ctx, s.dynamic, by, held.Between(startBefore, startAfter))
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

// Unready says which client has not come up as it was, or "" when all have. What ends by itself is not
// waited for.
func (s *Stopper) Unready(ctx context.Context, clients []Client) (string, error) {
	for _, c := range clients {
		if c.Kind == "CronJob" || c.Kind == "Job" {
			continue
		}
		object, err := c.field(s.Cluster.Namespace).Get(ctx, s.dynamic)
		if err != nil {
			return "", err
		}
		if why := unready(c.Ref, object); why != "" {
			return why, nil
		}
	}
	return "", nil
}

func unready(ref Ref, object *unstructured.Unstructured) string {
	number := func(path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(object.Object, path...) // none: 0
		return n
	}
	want, ready := number("spec", "replicas"), number("status", "readyReplicas")
	if ref.Kind == "DaemonSet" {
		want, ready = number("status", "desiredNumberScheduled"), number("status", "numberReady")
	}
	if ready < want || number("status", "observedGeneration") < object.GetGeneration() {
		return fmt.Sprintf("%s has %d of %d pods ready", ref, ready, want)
	}
	return ""
}

func (s *Stopper) pods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := s.Cluster.Client.CoreV1().Pods(s.Cluster.Namespace).List(ctx, metav1.ListOptions{Limit: maxPods})
	if err != nil {
		return nil, kube.Classify(err, "list the pods of namespace "+s.Cluster.Namespace)
	}
	return pods.Items, nil
}
