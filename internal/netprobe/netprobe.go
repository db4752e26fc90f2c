// Package netprobe tries which connections come through in a cluster, from pods of Upkeep's own that have
// the labels of others, so that the same policies hold for them.
//
// Beside what all pods of package ownpod are, such a pod is never ready, so that no Service sends anything to it.
// It sends nothing over the connections that it opens. What it has found stands in its own status.
package netprobe

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownpod"
)

const (
	container = "probe"
	// never is a condition that nobody sets.
	never = "upkeep.run/never"
	// endWithin is how long pods are given, their start included.
	endWithin = 100 * time.Second
)

// Options say whose the probes are, and how their pods run.
type Options struct {
	// RunID and Realm are whose they are, for Reap. A run has one set of probes.
	RunID, Realm string
	// Image has Upkeep's own program.
	Image string
	// Command is the program in it.
	Command []string
}

// Probe is one pod, and what it connects to.
type Probe struct {
	Labels map[string]string
	To     []Address
	// Node is where its pod runs, whatever else is to be placed there; "": anywhere.
	Node string
}

// Found is what a probe's pod has found.
type Found struct {
	// Outcomes are in the order of the addresses; none where the pod did not get to it.
	Outcomes []Outcome
	Why      string // why there are none
}

// Of is the outcome for an address.
func (f Found) Of(i int) Outcome {
	if i < len(f.Outcomes) {
		return f.Outcomes[i]
	}
	return Untried
}

func (o Options) group() ownpod.Group {
	return ownpod.Group{RunID: o.RunID, Realm: o.Realm, Kind: "probes"}
}

// Run makes the pods, waits until each has ended, and returns what they have found, in the order of the
// probes. A pod that cannot run has found nothing, and why is said: that is no error. They stay until Remove.
// Done twice, the same pods are found again.
func Run(ctx context.Context, c *kube.Cluster, o Options, probes []Probe) ([]Found, error) {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	pods := make([]corev1.Pod, len(probes))
	for i, p := range probes {
		pods[i] = o.pod(p)
	}
	set, refused, err := o.group().Make(ctx, c, pods)
	if err != nil {
		return nil, err
	}
	found := make([]Found, len(probes))
	for i, why := range refused {
		if found[i].Why = why; why == "" {
			found[i].Why = "its pod was not seen to end in time"
		}
	}
	return found, set.Await(ctx, c, func(i int, p *corev1.Pod) bool { return over(p, len(probes[i].To), &found[i]) })
}

// over reports whether a pod has ended, and notes what it has found, or what it waits for.
func over(p *corev1.Pod, n int, f *Found) bool {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			var err error
			f.Why = ""
			if f.Outcomes, err = read(t.Message, n); err != nil {
				f.Why = fmt.Sprintf("its pod ended with exit code %d: %v", t.ExitCode, err)
			}
			return true
		}
	}
	if why := ownpod.Waits(p); why != "" {
		f.Why = why
	}
	return p.Status.Phase == corev1.PodFailed
}

func (o Options) pod(p Probe) corev1.Pod {
	yes, no := true, false
	deadline, user := int64(endWithin.Seconds()), int64(10001)
	command := append([]string{}, o.Command...)
	for _, to := range p.To {
		command = append(command, to.String())
	}
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: p.Labels},
		Spec: corev1.PodSpec{
			NodeName:              p.Node,
			ActiveDeadlineSeconds: &deadline,
			ReadinessGates:        []corev1.PodReadinessGate{{ConditionType: never}},
			SecurityContext:       &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: container, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// Ready reports whether a pod's kubelet finds it ready and connects to a TCP port of its own address to see that: so
// something listens there.
func Ready(pod *corev1.Pod, port int32) bool {
	ready := false
	for _, c := range pod.Status.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	if !ready {
		return false
	}
	for _, c := range pod.Spec.Containers {
		probe := c.ReadinessProbe
		if probe == nil {
			continue
		}
		var at intstr.IntOrString
		switch {
		case probe.HTTPGet != nil && probe.HTTPGet.Host == "":
			at = probe.HTTPGet.Port
		case probe.TCPSocket != nil && probe.TCPSocket.Host == "":
			at = probe.TCPSocket.Port
		case probe.GRPC != nil:
			at = intstr.FromInt32(probe.GRPC.Port)
		default:
			continue
		}
		if at.Type == intstr.Int && at.IntVal == port || at.Type == intstr.String && named(pod, at.StrVal) == port {
			return true
		}
	}
	return false
}

// named is the port of a name; 0: there is none.
func named(pod *corev1.Pod, name string) int32 {
	for _, c := range pod.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == name {
				return port.ContainerPort
			}
		}
	}
	return 0
}
