// Package podreader sees the processes and connections of pods, by a pod of Upkeep's own on their node that reads
// /proc and changes nothing.
//
// Such a pod is more than others may be: it sees the process ids of its node, and has CAP_SYS_PTRACE and user 0, by
// which it can read what programs run (package procread says why). So none is made but where a target's
// configuration asks for it, and Pod Security forbids it in all namespaces but privileged ones. It has nothing else:
// no other capability, no volume, no token, a root that it cannot write, and a minute to live.
package podreader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownpod"
	"github.com/upkeep-run/upkeep/internal/procread"
)

const (
	container = "reader"
	// within is how long all pods are given, their start included: evidence waits for them.
	within = 45 * time.Second
	// lives is how long a pod lives at most, whoever has forgotten it.
	lives = 60
	// MaxNodes bounds the nodes that are read at once.
	MaxNodes = 10
)

// Options say whose the readers are, and how their pods run.
type Options struct {
	// RunID and Realm are whose they are.
	RunID, Realm string
	// Look numbers the looks of a run.
	Look int
	// Image has Upkeep's own program.
	Image string
	// Command is the program in it.
	Command []string
}

// Node is a node, and which pods are looked for there.
type Node struct {
	Name string
	Pods []procread.Pod
}

// Found is what a node's reader has seen of its pods, in their order.
type Found struct {
	Seen []procread.Seen // none where it did not get to it
	Why  string          // why there are none
}

// Read makes a reader on each node, and returns what they have seen, in the order of the nodes. One that cannot run
// has seen nothing, and why is said: that is no error. They stay until ownpod.Remove. Done twice, the same are found
// again.
func Read(ctx context.Context, c *kube.Cluster, o Options, nodes []Node) ([]Found, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	pods := make([]corev1.Pod, len(nodes))
	for i, n := range nodes {
		pods[i] = o.pod(n)
	}
	group := ownpod.Group{RunID: o.RunID, Realm: o.Realm, Kind: "readers", Look: "/" + strconv.Itoa(o.Look)}
	set, refused, err := group.Make(ctx, c, pods)
	if err != nil {
		return nil, err
	}
	found := make([]Found, len(nodes))
	for i, why := range refused {
		if found[i].Why = why; why == "" {
			found[i].Why = fmt.Sprintf("its pod was not seen to end within %s", within)
		}
	}
	read := make([]bool, len(nodes))
	err = set.Await(ctx, c, func(i int, p *corev1.Pod) bool {
		if !read[i] {
			read[i] = over(ctx, c, p, nodes[i].Pods, &found[i])
		}
		return read[i]
	})
	return found, err
}

// over reports whether a reader has ended, and notes what it has seen, or what it waits for.
func over(ctx context.Context, c *kube.Cluster, p *corev1.Pod, pods []procread.Pod, f *Found) bool {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			f.Seen, f.Why = nil, ""
			data, err := log(ctx, c, p)
			if err == nil {
				f.Seen, err = procread.Parse(data, pods)
			}
			if err != nil {
				f.Seen, f.Why = nil, fmt.Sprintf("its pod ended with exit code %d: %v", t.ExitCode, err)
			}
			return true
		}
	}
	if why := ownpod.Waits(p); why != "" {
		f.Why = why
	}
	return p.Status.Phase == corev1.PodFailed
}

// log is what a reader has printed.
func log(ctx context.Context, c *kube.Cluster, p *corev1.Pod) ([]byte, error) {
	stream, err := c.Client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container}).Stream(ctx)
	if err != nil {
		return nil, kube.Classify(err, "read what pod "+p.Name+" has seen")
	}
	defer func() { _ = stream.Close() }() // it was read
	data, err := io.ReadAll(io.LimitReader(stream, procread.MaxOutput+1))
	if err != nil {
		return nil, errors.New("what it has seen could not be read to its end")
	}
	return data, nil
}

func (o Options) pod(n Node) corev1.Pod {
	no, deadline, root := false, int64(lives), int64(0)
	command := append([]string{}, o.Command...)
	for _, p := range n.Pods {
		command = append(command, p.String())
	}
	return corev1.Pod{Spec: corev1.PodSpec{
		NodeName:              n.Name,
		HostPID:               true,
		ActiveDeadlineSeconds: &deadline,
		Tolerations:           []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, // the node may be cordoned, or worse
		SecurityContext:       &corev1.PodSecurityContext{RunAsUser: &root, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: container, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &[]bool{true}[0],
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"SYS_PTRACE"}},
			},
		}},
	}}
}
