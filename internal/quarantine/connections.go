package quarantine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/podreader"
	"github.com/upkeep-run/upkeep/internal/procread"
)

const (
	// OldConnections is the check of what was open before the suspects were cut off.
	OldConnections = "connections that were open"
	// unseen begins why it is not proven, and deleteThem says what to do then.
	unseen     = "whether connections opened before live on was not seen: "
	deleteThem = "many networks leave them alive until the pods are deleted; delete the pods to be sure"
	// maxPorts bounds the ports of a suspect that are known to listen.
	maxPorts = 32
	gone     = "it is gone"
)

// Reader says how the pods run that read suspects' processes; without an image none do.
type Reader struct {
	Image string `json:"image,omitempty"` // of Upkeep
}

// Unseen is the check where nobody has looked.
func Unseen(why string) run.Check {
	return run.Check{Name: OldConnections, Verdict: run.NotProven, Detail: unseen + why + "; " + deleteThem}
}

// Listening are the ports on which a suspect was seen to listen.
type Listening struct {
	Ref
	UID   types.UID `json:"uid"`
	Ports []uint16  `json:"ports"`
}

// Reading is what came of reading the suspects' processes and connections.
type Reading struct {
	Check run.Check `json:"check"`
	// Lives says of each connection that lives on what it is.
	Lives   []string    `json:"lives,omitempty"`
	Listens []Listening `json:"listens,omitempty"`
}

// Watched is a pod that readers look at, and what came of it.
type Watched struct {
	Ref
	UID  types.UID
	Seen *procread.Seen // nil: it was not seen
	Why  string         // why not

	held bool         // it is one that was cut off, on a network of its own
	own  []netip.Addr // its addresses
}

// Watch is which pods are read, and on which nodes.
type Watch struct {
	Nodes []podreader.Node
	Pods  []Watched
	of    [][]int // which of the pods are those of a node
}

// Watch says what to read of these pods.
func (w World) Watch(pods []Ref, done Contained) *Watch {
	all := &Watch{}
	for _, ref := range pods {
		x := Watched{Ref: ref}
		pod := find(w.Pods, ref)
		switch {
		case pod == nil:
			x.Why = gone
		case pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodRunning:
			x.Why = "it does not run"
		default:
			x.UID = pod.UID
			x.held = !pod.Spec.HostNetwork && slices.ContainsFunc(done.Pods, func(i Image) bool { return i.Ref == ref && i.UID == pod.UID })
			for _, ip := range pod.Status.PodIPs {
				if a, err := netip.ParseAddr(ip.IP); err == nil {
					x.own = append(x.own, a.Unmap())
				}
			}
			x.Why = all.place(pod)
		}
		all.Pods = append(all.Pods, x)
	}
	return all
}

// place puts a pod to those of its node, or says why it is too much.
func (all *Watch) place(pod *corev1.Pod) (why string) {
	read := procread.Pod{UID: string(pod.UID)}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			read.Containers = append(read.Containers, id)
		}
	}
	if _, err := procread.Pods([]string{read.String()}); err != nil {
		return "its containers are not named as runtimes do, or are too many"
	}
	at := slices.IndexFunc(all.Nodes, func(n podreader.Node) bool { return n.Name == pod.Spec.NodeName })
	switch {
	case at >= 0 && len(all.Nodes[at].Pods) == procread.MaxPods:
		return fmt.Sprintf("no more than %d pods of a node are read at once", procread.MaxPods)
	case at < 0 && len(all.Nodes) == podreader.MaxNodes:
		return fmt.Sprintf("no more than %d nodes are read at once", podreader.MaxNodes)
	case at < 0:
		at = len(all.Nodes)
		all.Nodes, all.of = append(all.Nodes, podreader.Node{Name: pod.Spec.NodeName}), append(all.of, nil)
	}
	all.Nodes[at].Pods, all.of[at] = append(all.Nodes[at].Pods, read), append(all.of[at], len(all.Pods))
	return ""
}

// Note puts what the nodes' readers have found to the pods that it is of.
func (all *Watch) Note(found []podreader.Found) {
	for at, f := range found {
		for j, i := range all.of[at] {
			x := &all.Pods[i]
			switch {
			case j >= len(f.Seen):
				x.Why = f.Why
			case len(f.Seen[j].First.Processes) == 0:
				x.Why = "none of its processes was found on its node"
			default:
				x.Seen = &f.Seen[j]
			}
		}
	}
}

// JudgeOld says what became of the connections that the suspects had open. Of those on their node's network nothing
// is said: they were not cut off.
func (w World) JudgeOld(all *Watch) (r Reading) {
	var held, ended, stuck int
	var open []string
	for _, x := range all.Pods {
		if !x.held {
			continue
		}
		held++
		switch {
		case x.Seen == nil:
			open = append(open, x.String()+": "+x.Why)
			continue
		case x.Seen.First.Cut || x.Seen.Second.Cut:
			open = append(open, fmt.Sprintf("%s has more processes or sockets than are listed", x.Ref))
		}
		for _, c := range x.Seen.Connections(x.own) {
			switch c.Fate {
			case procread.Ended:
				ended++
			case procread.Stuck:
				stuck++
			case procread.Quiet:
				open = append(open, fmt.Sprintf("one of %s to %s is open, and nothing came in while it was looked at", x.Ref, w.whose(c.Remote)))
			case procread.Lives:
				r.Lives = append(r.Lives, fmt.Sprintf("an old connection of %s to %s lives on", x.Ref, w.whose(c.Remote)))
			}
		}
		if ports := x.Seen.Listens(x.own); len(ports) > 0 {
			r.Listens = append(r.Listens, Listening{x.Ref, x.UID, ports[:min(len(ports), maxPorts)]})
		}
	}
	slices.Sort(r.Lives)
	r.Lives = slices.Compact(r.Lives)
	r.Check = run.Check{Name: OldConnections, Verdict: run.Pass, Detail: fmt.Sprintf("of those that were open when it was looked first, %d have ended within %s, and %d send in vain", ended, procread.Apart, stuck)}
	switch {
	case held == 0:
		r.Check = Unseen("no suspect that was cut off runs")
	case len(r.Lives) > 0:
		r.Check.Verdict, r.Check.Detail = run.Fail, some(append(slices.Clone(r.Lives), open...))+": delete the pods now"
	case len(open) > 0:
		r.Check.Verdict, r.Check.Detail = run.NotProven, unseen+some(open)+"; "+deleteThem
	}
	r.Lives = r.Lives[:min(len(r.Lives), maxPorts)]
	return r
}

// whose names an address, with the Service or the pod that has it.
func (w World) whose(a netip.AddrPort) string {
	ip := a.Addr().String()
	for _, s := range w.Services {
		if slices.Contains(append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ClusterIP), ip) {
			return fmt.Sprintf("%s (Service %s)", a, Ref{s.Namespace, s.Name})
		}
	}
	for i := range w.Pods {
		if p := &w.Pods[i]; p.Status.PodIP == ip && !p.Spec.HostNetwork {
			return fmt.Sprintf("%s (pod %s)", a, Ref{p.Namespace, p.Name})
		}
	}
	return a.String()
}
