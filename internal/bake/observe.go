package bake

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	page    = 500
	maxPods = 2000
)

// Workload names a Deployment, StatefulSet or DaemonSet of the release.
type Workload struct{ Kind, Name string }

// IsWorkload reports whether objects of a kind are watched.
func IsWorkload(kind string) bool {
	return kind == "Deployment" || kind == "StatefulSet" || kind == "DaemonSet"
}

// Restarts counts how often containers were started again, by pod and container.
type Restarts map[string]int32

// Since names the containers that were started again since an earlier count.
func (r Restarts) Since(before Restarts) []string {
	var names []string
	for name, n := range r {
		if n > before[name] {
			names = append(names, fmt.Sprintf("%s (%d times)", name, n-before[name]))
		}
	}
	slices.Sort(names)
	return names
}

// Observe looks at workloads and their pods.
func Observe(ctx context.Context, c *kube.Cluster, workloads []Workload) (unready []string, restarts Restarts, err error) {
	restarts = make(Restarts)
	pods := 0
	for _, w := range workloads {
		why, selector, err := look(ctx, c, w)
		if err != nil {
			return nil, nil, kube.Classify(err, fmt.Sprintf("look at %s %s in namespace %s", w.Kind, w.Name, c.Namespace))
		}
		if why != "" {
			unready = append(unready, fmt.Sprintf("%s %s: %s", w.Kind, w.Name, why))
		}
		of, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || of.Empty() {
			return nil, nil, failure.New(failure.ObjectRefused, "%s %s selects every pod, or none", w.Kind, w.Name).Do("see its selector")
		}
		for next := ""; ; {
			list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: of.String(), Limit: page, Continue: next})
			if err != nil {
				return nil, nil, kube.Classify(err, "list the pods of "+w.Kind+" "+w.Name)
			}
			if pods += len(list.Items); pods > maxPods {
				return nil, nil, failure.New(failure.ObjectRefused, "the release has more than %d pods, which is more than is watched", maxPods).Do("watch it by Prometheus")
			}
			for _, p := range list.Items {
				restarts.count(&p)
			}
			if next = list.Continue; next == "" {
				break
			}
		}
	}
	return unready, restarts, nil
}

func (r Restarts) count(p *corev1.Pod) {
	if p.DeletionTimestamp != nil {
		return
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.RestartCount > 0 {
			r[p.Name+"/"+s.Name] = s.RestartCount
		}
	}
}

func look(ctx context.Context, c *kube.Cluster, w Workload) (why string, selector *metav1.LabelSelector, err error) {
	apps := c.Client.AppsV1()
	switch w.Kind {
	case "Deployment":
		d, err := apps.Deployments(c.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return "", nil, err
		}
		return deployment(d), d.Spec.Selector, nil
	case "StatefulSet":
		s, err := apps.StatefulSets(c.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return "", nil, err
		}
		return counted(s.Generation, s.Status.ObservedGeneration, wanted(s.Spec.Replicas), s.Status.ReadyReplicas, s.Status.UpdatedReplicas), s.Spec.Selector, nil
	case "DaemonSet":
		d, err := apps.DaemonSets(c.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return "", nil, err
		}
		return counted(d.Generation, d.Status.ObservedGeneration, d.Status.DesiredNumberScheduled, d.Status.NumberReady, d.Status.UpdatedNumberScheduled), d.Spec.Selector, nil
	}
	return "", nil, fmt.Errorf("%s is no workload", w.Kind)
}

func deployment(d *appsv1.Deployment) string {
	if why := counted(d.Generation, d.Status.ObservedGeneration, wanted(d.Spec.Replicas), d.Status.ReadyReplicas, d.Status.UpdatedReplicas); why != "" {
		return why
	}
	if d.Status.Replicas > d.Status.UpdatedReplicas {
		return fmt.Sprintf("%d pods of an older revision are still there", d.Status.Replicas-d.Status.UpdatedReplicas)
	}
	return ""
}

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

func counted(generation, observed int64, wanted, ready, updated int32) string {
	switch {
	case observed < generation:
		return "its controller has not seen the change yet"
	case updated < wanted:
		return fmt.Sprintf("%d of %d pods are of the new revision", updated, wanted)
	case ready < wanted:
		return fmt.Sprintf("%d of %d pods are ready", ready, wanted)
	}
	return ""
}
