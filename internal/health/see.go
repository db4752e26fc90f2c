package health

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// maxSeen bounds the pods of one workload that See looks at.
const maxSeen = 2000

// See looks at one workload, whatever release it is of, and at its pods. Restarts are how often their
// containers were started again, by pod and container. It gets the workload, and lists pods; which of a
// Deployment's pods are of its newest revision it does not ask.
func See(ctx context.Context, c *kube.Cluster, kind, name string) (w Workload, restarts map[string]int32, err error) {
	apps, doing := c.Client.AppsV1(), fmt.Sprintf("look at %s %s in namespace %s", kind, name, c.Namespace)
	switch kind {
	case Deployment:
		d, err := apps.Deployments(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return w, nil, kube.Classify(err, doing)
		}
		w, err = ofDeployment(d)
		if err != nil {
			return w, nil, err
		}
	case StatefulSet:
		s, err := apps.StatefulSets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return w, nil, kube.Classify(err, doing)
		}
		w, err = ofStatefulSet(s)
		if err != nil {
			return w, nil, err
		}
	case DaemonSet:
		d, err := apps.DaemonSets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return w, nil, kube.Classify(err, doing)
		}
		w, err = ofDaemonSet(d)
		if err != nil {
			return w, nil, err
		}
	default:
		return w, nil, fmt.Errorf("%s is no workload", kind)
	}
	restarts = make(map[string]int32)
	now, seen := time.Now(), 0
	for options := (metav1.ListOptions{LabelSelector: w.Touched.Selector.String(), Limit: page}); ; {
		list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, options)
		if err != nil {
			return w, nil, kube.Classify(err, "list the pods of "+w.String())
		}
		if seen += len(list.Items); seen > maxSeen {
			return w, nil, failure.New(failure.ObjectRefused, "%s has more than %d pods, which is more than is watched", w, maxSeen).Do("watch it by Prometheus")
		}
		for i := range list.Items {
			p := &list.Items[i]
			if w.Pods = append(w.Pods, ofPod(p, &w, now)); p.DeletionTimestamp == nil {
				countRestarts(restarts, p)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return w, restarts, nil
		}
	}
}

func countRestarts(into map[string]int32, p *corev1.Pod) {
	for _, s := range p.Status.ContainerStatuses {
		if s.RestartCount > 0 {
			into[p.Name+"/"+s.Name] = s.RestartCount
		}
	}
}
