package itself

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// resolveQuickly bounds the resolving of names where nothing may wait for it.
const resolveQuickly = time.Second

// Guard knows what Upkeep runs on by itself, for pods of many namespaces that are looked at one by one.
type Guard struct {
	self      Self
	addresses map[string][]string // by the endpoint's name
}

// Guard resolves what there is to know of Upkeep's endpoints; a name that does not resolve at once is known
// by its name alone.
func (s Self) Guard(ctx context.Context) Guard {
	ctx, cancel := context.WithTimeout(ctx, resolveQuickly)
	defer cancel()
	g := Guard{self: s, addresses: make(map[string][]string)}
	for what, endpoint := range s.Endpoints {
		g.addresses[what] = resolve(ctx, host(endpoint))
	}
	return g
}

// Why says why a pod is what Upkeep itself runs on, or "". Services are those of the pod's namespace, and maybe
// of others.
func (g Guard) Why(pod *corev1.Pod, services []corev1.Service) string {
	if why := Marked(pod); why != "" {
		return why
	}
	if g.self.Pod == pod.Name && g.self.Namespace == pod.Namespace {
		return "this worker is it"
	}
	for what, endpoint := range g.self.Endpoints {
		if !pod.Spec.HostNetwork && pod.Status.PodIP != "" && slices.Contains(g.addresses[what], pod.Status.PodIP) {
			return fmt.Sprintf("%s (%s) is it", what, endpoint)
		}
		for _, service := range services {
			if service.Namespace == pod.Namespace && g.self.behind(host(endpoint), g.addresses[what], &service, pod.Labels) {
				return fmt.Sprintf("%s (%s) is behind Service %s, which selects it", what, endpoint, service.Name)
			}
		}
	}
	return ""
}

func host(endpoint string) string {
	if h, _, err := net.SplitHostPort(endpoint); err == nil {
		return h
	}
	return endpoint
}
