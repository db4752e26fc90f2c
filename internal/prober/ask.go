package prober

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// askWithin bounds one question.
	askWithin = 5 * time.Second
	// maxHeader bounds the head of an answer, and maxWords what one says that is none, in bytes.
	maxHeader = 8 << 10
	maxWords  = 200
)

// Pod is the name of the pod of a standing prober, by that of its StatefulSet.
func Pod(name string) string { return name + "-0" }

// Find finds a standing prober among the pods of its namespace, or says why there is none. Name is that of its
// StatefulSet and of its ServiceAccount. Who may make pods with that account can still lie in its name.
func Find(pods []corev1.Pod, namespace, name, image string) (*corev1.Pod, error) {
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Namespace == namespace && p.Name == Pod(name) })
	if i < 0 {
		return nil, fmt.Errorf("there is no pod %s in namespace %s", Pod(name), namespace)
	}
	pod := &pods[i]
	owner := cmp.Or(metav1.GetControllerOf(pod), &metav1.OwnerReference{})
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	s := pod.Spec
	why := ""
	switch {
	case owner.Kind != "StatefulSet" || owner.Name != name || !strings.HasPrefix(owner.APIVersion, "apps/"):
		why = "is not of the StatefulSet " + name
	case s.ServiceAccountName != name:
		why = fmt.Sprintf("has the account %.100q and not %s", s.ServiceAccountName, name)
	case len(s.Containers) != 1 || len(s.InitContainers)+len(s.EphemeralContainers) > 0:
		why = "has other containers than its own, which may answer in its name"
	case s.Containers[0].Image != image:
		why = fmt.Sprintf("has the image %.200q and not that of network.prober.image, %s", s.Containers[0].Image, image)
	case s.HostNetwork:
		why = "has its node's network, and policies say nothing of that"
	case pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning || !ready:
		why = "does not run and is ready"
	default:
		return pod, nil
	}
	return nil, fmt.Errorf("pod %s in namespace %s %s", pod.Name, namespace, why)
}

// Ask reads what a prober knows, over a connection to where it listens.
func Ask(ctx context.Context, dial func(context.Context) (net.Conn, error)) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	client := http.Client{
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it sends elsewhere") },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://prober/", nil)
	if err != nil {
		return Answer{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }() // it was read
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return Answer{}, fmt.Errorf("its answer could not be read to its end: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return Answer{}, fmt.Errorf("it answers %d: %q", response.StatusCode, data[:min(len(data), maxWords)])
	}
	return decode(data)
}
