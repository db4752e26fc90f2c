package quarantine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/ownpod"
)

const (
	// maxTrials bounds how many kinds of suspects are tried: two pods for each.
	maxTrials = 6
	// maxOut and maxIn bound the addresses of others, and of suspects, that are tried for each.
	maxOut = 24
	maxIn  = 12
)

// Trial tries connections on a suspect's node from two pods: one with the labels that the suspect had, which
// shows what would come through, and one with those that it has in quarantine.
type Trial struct {
	Suspect Ref // one of those that have these labels
	Others  int // suspects besides it for which it stands
	Probes  [2]netprobe.Probe
	out     []netip.AddrPort // of others, tried from both
	in      []door           // of suspects, tried from the first
}

// door is a port of a suspect, and by what it is known that something listens there: the same port of a pod like it
// that is not suspected and answers, or what was seen of the suspect itself.
type door struct {
	pod         types.UID
	to, control netip.AddrPort
	listens     bool
}

// Trials says what to try. Seen are the ports on which suspects were seen to listen. Untried says in words what of the case it leaves out.
func Trials(w World, plan Plan, done Contained, home string, seen []Listening) (trials []Trial, untried []string) {
	out := w.listening(plan, home)
	elsewhere, over := 0, 0
	for _, image := range done.Pods {
		pod := find(w.Pods, image.Ref)
		i := slices.IndexFunc(plan.Pods, func(p Pod) bool { return p.Ref == image.Ref && p.UID == image.UID })
		switch {
		case i < 0 || pod == nil || pod.UID != image.UID:
			continue // gone
		case image.Namespace != home:
			elsewhere++
			continue
		}
		had := maps.Clone(plan.Pods[i].Labels)
		maps.Copy(had, image.Labels)
		t := Trial{Suspect: image.Ref, Probes: [2]netprobe.Probe{
			{Labels: had, Node: pod.Spec.NodeName}, {Labels: pod.Labels, Node: pod.Spec.NodeName},
		}}
		in := w.doors(pod, had, plan, home, seen)
		if j := slices.IndexFunc(trials, func(x Trial) bool {
			return x.Probes[0].Node == pod.Spec.NodeName && maps.Equal(x.Probes[0].Labels, had) && maps.Equal(x.Probes[1].Labels, pod.Labels)
		}); j >= 0 {
			trials[j].Others++
			trials[j].in = append(trials[j].in, in...)
			continue
		}
		if len(trials) == maxTrials {
			over++
			continue
		}
		t.out, t.in = out, in
		trials = append(trials, t)
	}
	for i := range trials {
		t := &trials[i]
		t.in = t.in[:min(len(t.in), maxIn)]
		before, now := &t.Probes[0].To, &t.Probes[1].To
		for _, to := range t.out {
			*before, *now = append(*before, netprobe.Address{Address: to, Open: true}), append(*now, netprobe.Address{Address: to})
		}
		for _, d := range t.in {
			*before = append(*before, netprobe.Address{Address: d.to})
			if d.control.IsValid() {
				*before = append(*before, netprobe.Address{Address: d.control, Open: true})
			}
		}
	}
	if elsewhere > 0 {
		untried = append(untried, fmt.Sprintf("%d pods in other namespaces than %s", elsewhere, home))
	}
	if over > 0 {
		untried = append(untried, fmt.Sprintf("%d pods that have other labels or nodes than those that were tried", over))
	}
	return trials, untried
}

// listening are addresses of the namespace's pods that are not suspected, by what containers and Services say.
func (w World) listening(plan Plan, home string) (all []netip.AddrPort) {
	for i := range w.Pods {
		pod := &w.Pods[i]
		if pod.Namespace == home && !plan.suspects(pod) && !ownpod.Is(pod) {
			all = append(all, w.ports(pod, pod.Labels)...)
		}
	}
	slices.SortFunc(all, func(a, b netip.AddrPort) int { return a.Compare(b) })
	all = slices.Compact(all)
	return all[:min(len(all), maxOut)]
}

func (plan Plan) suspects(pod *corev1.Pod) bool {
	ref := Ref{pod.Namespace, pod.Name}
	return slices.ContainsFunc(plan.Pods, func(p Pod) bool { return p.Ref == ref }) || slices.ContainsFunc(plan.Not, func(n Not) bool { return n.Pod == ref })
}

// ports are a ready pod's addresses: what its containers declare, and what Services that select it by these labels
// send to it.
func (w World) ports(pod *corev1.Pod, by map[string]string) (all []netip.AddrPort) {
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || pod.Spec.HostNetwork || pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	add := func(port int32) {
		if to := netip.AddrPortFrom(ip, uint16(port)); port > 0 && port < 1<<16 && !slices.Contains(all, to) {
			all = append(all, to)
		}
	}
	named := make(map[string]int32)
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
				named[p.Name] = p.ContainerPort
				add(p.ContainerPort)
			}
		}
	}
	for _, s := range w.Services {
		if s.Namespace != pod.Namespace || len(s.Spec.Selector) == 0 || !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(by)) {
			continue
		}
		for _, p := range s.Spec.Ports {
			switch {
			case cmp.Or(p.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP:
			case p.TargetPort.Type == intstr.String:
				add(named[p.TargetPort.StrVal])
			default:
				add(cmp.Or(p.TargetPort.IntVal, p.Port))
			}
		}
	}
	return all
}

// doors are a suspect's ports, those that it declares and those on which it was seen to listen, each beside that of a
// pod with the same containers that is not suspected. Its kubelet's own look at a port does as well: a node's traffic
// says nothing of policies, but that something listens.
func (w World) doors(pod *corev1.Pod, had map[string]string, plan Plan, home string, seen []Listening) (all []door) {
	var like *corev1.Pod
	ports := w.ports(pod, had)
	listens := func(uint16) bool { return false }
	if i := slices.IndexFunc(seen, func(l Listening) bool { return l.UID == pod.UID }); i >= 0 {
		listens = func(port uint16) bool { return slices.Contains(seen[i].Ports, port) }
		if ip, err := netip.ParseAddr(pod.Status.PodIP); err == nil && !pod.Spec.HostNetwork {
			for _, port := range seen[i].Ports {
				if to := netip.AddrPortFrom(ip, port); !slices.Contains(ports, to) {
					ports = append(ports, to)
				}
			}
		}
	}
	for i := range w.Pods {
		other := &w.Pods[i]
		if other.Namespace == home && !plan.suspects(other) && !ownpod.Is(other) && other.Status.PodIP != "" && other.Status.Phase == corev1.PodRunning && sameContainers(pod, other) {
			like = other
			break
		}
	}
	for _, to := range ports {
		d := door{pod: pod.UID, to: to, listens: listens(to.Port()) || netprobe.Ready(pod, int32(to.Port()))}
		if like != nil {
			if ip, err := netip.ParseAddr(like.Status.PodIP); err == nil {
				d.control = netip.AddrPortFrom(ip, to.Port())
			}
		}
		all = append(all, d)
	}
	return all
}

func sameContainers(a, b *corev1.Pod) bool {
	return slices.EqualFunc(a.Spec.Containers, b.Spec.Containers, func(x, y corev1.Container) bool {
		return x.Image == y.Image && slices.Equal(x.Command, y.Command) && slices.Equal(x.Args, y.Args) && reflect.DeepEqual(x.Ports, y.Ports)
	})
}

// Try makes the pods of the trials, and returns what each trial's two have found. They stay until they are removed.
func Try(ctx context.Context, c *kube.Cluster, o netprobe.Options, trials []Trial) ([][2]netprobe.Found, error) {
	all := make([][2]netprobe.Found, len(trials))
	var probes []netprobe.Probe
	var of []*netprobe.Found
	for i, t := range trials {
		for j, p := range t.Probes {
			if all[i][j].Outcomes = []netprobe.Outcome{}; len(p.To) > 0 {
				probes, of = append(probes, p), append(of, &all[i][j])
			}
		}
	}
	if len(probes) == 0 {
		return all, nil
	}
	found, err := netprobe.Run(ctx, c, o, probes)
	for i, f := range found {
		*of[i] = f
	}
	return all, err
}

// Judge says what the trials have shown: of what goes out, and of what comes in. Found is what each trial's two
// pods have found, and standing what a standing prober has.
func Judge(trials []Trial, found [][2]netprobe.Found, untried []string, standing *Standing) []run.Check {
	var out, in verdict
	for _, to := range standing.reached() {
		in.wrong = append(in.wrong, fmt.Sprintf("%s is reached by the standing prober", to))
	}
	before := 0 // ports that answered it before, and nobody now
	for i, t := range trials {
		who := t.Suspect.String()
		if t.Others > 0 {
			who = fmt.Sprintf("%s and %d like it", who, t.Others)
		}
		as, now := found[i][0], found[i][1]
		if as.Outcomes == nil || now.Outcomes == nil {
			why := who + ": the pods that try it did not: " + cmp.Or(as.Why, now.Why, "no reason is known")
			out.open = append(out.open, why)
			cut := 0
			for _, d := range t.in {
				if standing.cut(d.pod, d.to) {
					cut++
				}
			}
			if in.shown, before = in.shown+cut, before+cut; cut == 0 || cut < len(t.in) {
				in.open = append(in.open, why)
			}
			continue
		}
		shown := 0
		for j, to := range t.out {
			switch was, is := as.Of(j), now.Of(j); {
			case is == netprobe.Reached:
				out.wrong = append(out.wrong, fmt.Sprintf("%s: a pod with its labels on its node reaches %s", who, to))
			case is == netprobe.Unsteady || is == netprobe.Untried:
				out.open = append(out.open, fmt.Sprintf("%s to %s: %s", who, to, is))
			case was == netprobe.Reached:
				shown++
			}
		}
		if out.shown += shown; shown == 0 {
			out.open = append(out.open, fmt.Sprintf("%s: none of %d addresses answers a pod with the labels that it had, so it shows nothing", who, len(t.out)))
		}
		at := len(t.out)
		if len(t.in) == 0 {
			in.open = append(in.open, who+": none of its ports is known")
		}
		for _, d := range t.in {
			is, control, cut := as.Of(at), netprobe.Untried, standing.cut(d.pod, d.to)
			if at++; d.control.IsValid() {
				control = as.Of(at)
				at++
			}
			switch {
			case is == netprobe.Reached:
				in.wrong = append(in.wrong, fmt.Sprintf("%s is reached", d.to))
			case is == netprobe.Unsteady || is == netprobe.Untried && !cut:
				in.open = append(in.open, fmt.Sprintf("%s: %s", d.to, is))
			case cut:
				in.shown, before = in.shown+1, before+1
			case control == netprobe.Reached, d.listens:
				in.shown++
			default:
				in.open = append(in.open, fmt.Sprintf("%s: %s, and nothing shows that it listens, so it shows nothing", d.to, is))
			}
		}
	}
	for _, u := range untried {
		out.open, in.open = append(out.open, u+": not tried"), append(in.open, u+": not tried")
	}
	shown := "%d ports of suspects do not answer: those of pods like them do, or they were seen to listen"
	if before > 0 {
		shown = fmt.Sprintf("%%d ports of suspects do not answer: %d answered the standing prober before, and of others those of pods like them do, or they were seen to listen", before)
	}
	comesIn := in.check("what comes in", shown)
	comesIn.Detail += standing.remark()
	return []run.Check{
		out.check("what goes out", "%d connections that a pod with the labels of before makes, one with those in quarantine does not"), comesIn,
	}
}

// verdict gathers what was seen of one way.
type verdict struct {
	shown       int
	wrong, open []string
}

func (v verdict) check(name, shown string) run.Check {
	c := run.Check{Name: name, Verdict: run.Pass, Detail: fmt.Sprintf(shown, v.shown)}
	switch {
	case len(v.wrong) > 0:
		c.Verdict, c.Detail = run.Fail, "the network lets through what the policies deny: "+some(v.wrong)
	case len(v.open) > 0 || v.shown == 0:
		c.Verdict, c.Detail = run.NotProven, strings.TrimSuffix(c.Detail+"; "+some(v.open), "; ")
	}
	return c
}

// some joins the first few of many.
func some(all []string) string {
	const most = 6
	if len(all) > most {
		return strings.Join(all[:most], "; ") + fmt.Sprintf("; and %d more", len(all)-most)
	}
	return strings.Join(all, "; ")
}
