package prober

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Watch watches the pods of a namespace until the context ends, and returns what gives those that are there. What
// goes wrong is tried again for ever; until the pods have been listed once, they are not known.
func Watch(ctx context.Context, client kubernetes.Interface, namespace string) (func() ([]*corev1.Pod, error), error) {
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace)).Core().V1().Pods().Informer()
	var lock sync.Mutex
	var last error
	err := errors.Join(informer.SetTransform(slim), informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		lock.Lock()
		defer lock.Unlock()
		last = err
	}))
	if err != nil {
		return nil, fmt.Errorf("watch the pods of namespace %s: %w", namespace, err)
	}
	go informer.RunWithContext(ctx)
	return func() ([]*corev1.Pod, error) {
		if !informer.HasSynced() {
			lock.Lock()
			defer lock.Unlock()
			if last != nil {
				return nil, fmt.Errorf("the pods of namespace %s could not be listed yet: %w", namespace, last)
			}
			return nil, fmt.Errorf("the pods of namespace %s are not listed yet", namespace)
		}
		var pods []*corev1.Pod
		for _, o := range informer.GetStore().List() {
			pods = append(pods, o.(*corev1.Pod)) // as slim leaves it
		}
		return pods, nil
	}, nil
}

// slim keeps of a pod what is looked at, and of thousands not the rest.
func slim(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels},
		Spec:       corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP},
	}
	for _, c := range pod.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	for _, s := range pod.Status.ContainerStatuses {
		out.Status.ContainerStatuses = append(out.Status.ContainerStatuses, corev1.ContainerStatus{Name: s.Name, ContainerID: s.ContainerID, State: s.State})
	}
	return out, nil
}
