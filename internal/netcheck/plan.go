package netcheck

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/ownpod"
	"github.com/upkeep-run/upkeep/internal/reach"
)

const (
	maxWorkloads = 60 // in the matrix
	maxSources   = 20 // pods that probe at the same time
	maxChecks    = 200
	maxBecause   = 5
	// Anybody is a pod without labels: whom no policy lets in by name.
	Anybody = "a pod without labels"
)

// State is what a plan depends on.
type State struct {
	Namespace string
	World     reach.World
	Services  []corev1.Service // of the namespace
	// Unread is what could not be read, and why.
	Unread []string
}

// workload is what pods belong to.
type workload struct {
	name string
	pods []*corev1.Pod
}

// planner makes one plan.
type planner struct {
	state   State
	network Network
	model   *reach.Model
	loads   []workload // of the namespace, by name
	plan    Plan
	// strangers are pods that do not run, and are answered for as if they did, by namespace and labels.
	strangers map[string]*corev1.Pod
}

// Make makes a plan. It is pure.
func Make(s State, n Network) Plan {
	p := &planner{state: s, network: n, loads: workloads(s), strangers: map[string]*corev1.Pod{}, plan: Plan{
		Policies: len(s.World.Policies), Pods: len(s.World.Pods), Matrix: []Row{}, Checks: []Check{}, LeftOut: slices.Clone(s.Unread),
	}}
	p.think(s.Namespace, nil)
	for _, e := range n.Expect {
		if namespace := cmp.Or(e.From.Namespace, s.Namespace); len(p.pods(namespace, e.From.Pods)) == 0 {
			p.think(namespace, e.From.Pods)
		}
	}
	world := s.World
	for _, key := range slices.Sorted(maps.Keys(p.strangers)) {
		world.Pods = append(world.Pods[:len(world.Pods):len(world.Pods)], *p.strangers[key])
	}
	p.model = reach.New(world)
	for _, f := range s.World.Foreign {
		p.plan.Foreign = append(p.plan.Foreign, f.String())
	}
	p.matrix()
	for _, e := range n.Expect {
		p.expect(e)
	}
	p.byPolicies()
	p.controls()
	return p.plan
}

func (p *planner) leaveOut(format string, args ...any) {
	p.plan.LeftOut = append(p.plan.LeftOut, fmt.Sprintf(format, args...))
}

// workloads groups the namespace's pods by what they belong to.
func workloads(s State) []workload {
	by := map[string][]*corev1.Pod{}
	for i := range s.World.Pods {
		pod := &s.World.Pods[i]
		if pod.Namespace == s.Namespace && runs(pod) && !ownpod.Is(pod) {
			name := belongs(pod)
			by[name] = append(by[name], pod)
		}
	}
	all := make([]workload, 0, len(by))
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, workload{name, by[name]})
	}
	return all
}

func runs(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && len(p.Status.PodIPs) > 0
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// belongs names what made a pod, as people name it.
func belongs(p *corev1.Pod) string {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return "Pod/" + p.Name
	}
	if hash := p.Labels["pod-template-hash"]; c.Kind == "ReplicaSet" && hash != "" {
		if of, ok := strings.CutSuffix(c.Name, "-"+hash); ok {
			return "Deployment/" + of
		}
	}
	return c.Kind + "/" + c.Name
}

// ports are those that a workload's pods declare; nothing is known of others.
func (w workload) ports() []reach.Port {
	var all []reach.Port
	for _, c := range w.pods[0].Spec.Containers {
		for _, port := range c.Ports {
			p := reach.Port{Protocol: cmp.Or(port.Protocol, corev1.ProtocolTCP), Number: port.ContainerPort}
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

func end(p *corev1.Pod) reach.End { return reach.PodEnd(p.Namespace, p.Name) }

// between is what the policies say of all pods of two groups: where these differ, it is not known.
func (p *planner) between(from, to []*corev1.Pod, port reach.Port) reach.Verdict {
	var all reach.Verdict
	first := true
	for _, a := range from {
		for _, b := range to {
			if a == b {
				continue
			}
			v, err := p.model.Between(end(a), end(b), port)
			if err != nil {
				v = reach.Verdict{Answer: reach.Unknown, Because: []string{err.Error()}}
			}
			switch {
			case first:
				all, first = v, false
			case v.Answer != all.Answer:
				return reach.Verdict{Answer: reach.Unknown, Because: []string{"it is not the same for all of their pods"}}
			}
		}
	}
	if first { // one pod and itself
		return reach.Verdict{Answer: reach.Allowed, Because: []string{"a pod always reaches itself"}}
	}
	return all
}

// matrix is who reaches whom in the namespace, by the policies.
func (p *planner) matrix() {
	loads := p.loads
	if len(loads) > maxWorkloads {
		p.leaveOut("the matrix has the first %d of %d workloads", maxWorkloads, len(loads))
		loads = loads[:maxWorkloads]
	}
	anybody := p.stranger(p.state.Namespace, nil)
	for _, to := range loads {
		for _, port := range to.ports() {
			row := Row{To: to.name, Port: port.String()}
			say := func(name string, v reach.Verdict) {
				switch v.Answer {
				case reach.Allowed:
					row.Allowed = append(row.Allowed, name)
				case reach.Denied:
					row.Denied = append(row.Denied, name)
				default:
					row.Unknown = append(row.Unknown, name)
				}
			}
			for _, from := range loads {
				if from.name != to.name {
					say(from.name, p.between(from.pods, to.pods, port))
				}
			}
			say(Anybody, p.between([]*corev1.Pod{anybody}, to.pods, port))
			p.plan.Matrix = append(p.plan.Matrix, row)
		}
	}
}

// think makes a stranger.
func (p *planner) think(namespace string, set map[string]string) {
	name := "?" + labels.Set(set).String()
	p.strangers[namespace+"/"+name] = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: set},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func (p *planner) stranger(namespace string, set map[string]string) *corev1.Pod {
	return p.strangers[namespace+"/?"+labels.Set(set).String()]
}

// expect adds what the configuration expects.
func (p *planner) expect(e Expectation) {
	want := reach.Denied
	if e.Allowed {
		want = reach.Allowed
	}
	c := Check{Name: e.Name, From: e.From.String(), To: e.To.String(), Want: want.String(), Configured: true, Source: -1}
	port := reach.Port{Protocol: corev1.ProtocolTCP, Number: int32(e.Port)}
	from, fromName, set := p.sources(e.From)
	to, control, why := p.destination(e.To, &port)
	c.From, c.Port = fromName, port.String()
	switch {
	case why != "":
		c.Model, c.Because, c.Untried = reach.Unknown.String(), []string{why}, why
	case to.pod != nil:
		p.say(&c, p.between(from, []*corev1.Pod{to.pod}, port))
		c.To = fmt.Sprintf("%s (pod %s)", c.To, to.pod.Name)
	default:
		v, err := p.model.Between(end(from[0]), reach.External(to.address.Addr()), port)
		if err != nil {
			v = reach.Verdict{Answer: reach.Unknown, Because: []string{err.Error()}}
		}
		p.say(&c, v)
	}
	if why == "" {
		c.Address, c.Control = to.address, control
		p.try(&c, from[0], fromName, set)
	}
	p.add(c)
}

func (p *planner) say(c *Check, v reach.Verdict) {
	c.Model, c.Because = v.Answer.String(), v.Because[:min(len(v.Because), maxBecause)]
}

func (p *planner) add(c Check) {
	if len(p.plan.Checks) < maxChecks {
		p.plan.Checks = append(p.plan.Checks, c)
		return
	}
	if len(p.plan.Checks) == maxChecks {
		p.leaveOut("there are more than %d connections to check", maxChecks)
	}
}

func (s Selector) String() string {
	switch {
	case s.Address != "":
		return s.Address
	case s.Service != "":
		return "Service " + s.Service
	case len(s.Pods) == 0 && s.Namespace == "":
		return Anybody
	case len(s.Pods) == 0:
		return Anybody + " in namespace " + s.Namespace
	}
	text := "pods " + labels.Set(s.Pods).String()
	if s.Namespace != "" {
		text += " in namespace " + s.Namespace
	}
	return text
}

// sources are the pods that a selector means; one that is not there, with the selector's own labels, where
// none is. The labels are what a pod that stands for them needs.
func (p *planner) sources(s Selector) (pods []*corev1.Pod, name string, set map[string]string) {
	namespace := cmp.Or(s.Namespace, p.state.Namespace)
	if pods = p.pods(namespace, s.Pods); len(pods) > 0 {
		return pods, s.String(), pods[0].Labels
	}
	return []*corev1.Pod{p.stranger(namespace, s.Pods)}, s.String(), s.Pods
}

// pods are those that run in a namespace with these labels; none for no labels.
func (p *planner) pods(namespace string, set map[string]string) (pods []*corev1.Pod) {
	if len(set) == 0 {
		return nil
	}
	selector := labels.SelectorFromSet(set)
	for i := range p.state.World.Pods {
		pod := &p.state.World.Pods[i]
		if pod.Namespace == namespace && runs(pod) && !ownpod.Is(pod) && selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { // ready ones first
		return cmp.Or(compare(ready(b), ready(a)), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// place is what is connected to.
type place struct {
	pod     *corev1.Pod
	address netip.AddrPort
}

// destination is a pod that a selector means, and by what it is known that something listens there. The port
// becomes the pod's. Why says what is wrong with it.
func (p *planner) destination(s Selector, port *reach.Port) (to place, control, why string) {
	set, namespace := s.Pods, cmp.Or(s.Namespace, p.state.Namespace)
	switch {
	case s.Address != "":
		address, err := netip.ParseAddr(s.Address)
		if err != nil {
			return to, "", err.Error()
		}
		return place{address: netip.AddrPortFrom(address, uint16(port.Number))}, "", ""
	case s.Service != "":
		at := slices.IndexFunc(p.state.Services, func(o corev1.Service) bool { return o.Name == s.Service })
		if at < 0 {
			return to, "", "there is no Service " + s.Service
		}
		service := &p.state.Services[at]
		target := slices.IndexFunc(service.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == port.Number })
		if target < 0 || len(service.Spec.Selector) == 0 {
			return to, "", fmt.Sprintf("Service %s has no port %d, or no selector", s.Service, port.Number)
		}
		pods := p.pods(namespace, service.Spec.Selector)
		if len(pods) == 0 {
			return to, "", "no pod behind Service " + s.Service + " runs"
		}
		number, ok := targetPort(service.Spec.Ports[target], pods[0])
		if !ok {
			return to, "", fmt.Sprintf("pod %s has no port named %s", pods[0].Name, service.Spec.Ports[target].TargetPort.StrVal)
		}
		port.Number = number
		return onPod(pods[0], *port)
	}
	pods := p.pods(namespace, set)
	if len(pods) == 0 {
		return to, "", "no " + s.String() + " runs"
	}
	return onPod(pods[0], *port)
}

func onPod(pod *corev1.Pod, port reach.Port) (place, string, string) {
	address, err := netip.ParseAddr(pod.Status.PodIPs[0].IP)
	if err != nil {
		return place{}, "", err.Error()
	}
	return place{pod, netip.AddrPortFrom(address, uint16(port.Number))}, proven(pod, port), ""
}

func targetPort(s corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	switch {
	case s.TargetPort.Type == intstr.String:
		return named(pod, s.TargetPort.StrVal)
	case s.TargetPort.IntVal != 0:
		return s.TargetPort.IntVal, true
	}
	return s.Port, true
}

func named(pod *corev1.Pod, name string) (int32, bool) {
	for _, c := range pod.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == name {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}

// proven says by what it is known that something listens on a port of the pod's own address: its kubelet
// connects to it, and finds it ready.
func proven(pod *corev1.Pod, port reach.Port) string {
	if port.Protocol == corev1.ProtocolTCP && netprobe.Ready(pod, port.Number) {
		return "its readiness probe connects to it"
	}
	return ""
}

// byPolicies adds, for each port that policies protect, somebody whom they let in and somebody whom they
// keep out.
func (p *planner) byPolicies() {
	anybody := p.stranger(p.state.Namespace, nil)
	for _, to := range p.loads {
		pod := to.pods[0]
		if !p.model.Isolated(end(pod)) {
			continue
		}
		for _, port := range to.ports() {
			want := map[reach.Answer]bool{reach.Allowed: true, reach.Denied: true}
			offer := func(from *corev1.Pod, name string, set map[string]string) {
				v, err := p.model.Between(end(from), end(pod), port)
				if err != nil || !want[v.Answer] {
					return
				}
				place, control, why := onPod(pod, port)
				if why != "" {
					return
				}
				want[v.Answer] = false
				c := Check{From: name, To: fmt.Sprintf("%s (pod %s)", to.name, pod.Name), Port: port.String(), Want: v.Answer.String(), Source: -1, Address: place.address, Control: control}
				p.say(&c, v)
				p.try(&c, from, name, set)
				p.add(c)
			}
			offer(anybody, Anybody, nil)
			for _, from := range p.loads {
				if from.name != to.name && !from.pods[0].Spec.HostNetwork {
					offer(from.pods[0], from.name, from.pods[0].Labels)
				}
			}
		}
	}
}

// controls adds, for each address that is only tried by those who should not reach it, somebody who should.
func (p *planner) controls() {
	reached := map[netip.AddrPort]bool{}
	for _, c := range p.plan.Checks {
		if c.Control != "" || c.Source >= 0 && c.Model == reach.Allowed.String() {
			reached[c.Address] = true
		}
	}
	for _, c := range slices.Clone(p.plan.Checks) {
		if c.Source < 0 || reached[c.Address] {
			continue
		}
		for _, from := range p.loads {
			v, err := p.model.Between(end(from.pods[0]), reach.External(c.Address.Addr()), reach.Port{Protocol: corev1.ProtocolTCP, Number: int32(c.Address.Port())})
			if err != nil || v.Answer != reach.Allowed || from.pods[0].Spec.HostNetwork || p.is(from.pods[0], c.Address.Addr()) {
				continue
			}
			control := Check{From: from.name, To: c.To, Port: c.Port, Model: v.Answer.String(), Source: -1, Address: c.Address, OnlyControl: true}
			p.try(&control, from.pods[0], from.name, from.pods[0].Labels)
			if control.Source >= 0 {
				p.add(control)
				reached[c.Address] = true
				break
			}
		}
	}
}

func (p *planner) is(pod *corev1.Pod, a netip.Addr) bool {
	return slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == a.String() })
}

// try gives a check to a pod that will stand for its source, or says why none can.
func (p *planner) try(c *Check, from *corev1.Pod, name string, set map[string]string) {
	switch {
	case p.network.Prober.Image == "":
		c.Untried = "the target names no kubernetes.network.prober.image to try it from"
	case !strings.HasSuffix(c.Port, "/TCP"):
		c.Untried = "only TCP can be tried: that nothing answers over UDP says nothing"
	case from.Namespace != p.state.Namespace:
		c.Untried = "pods that probe are made in the target's namespace only"
	case from.Spec.HostNetwork:
		c.Untried = "its source has its node's network, which no pod that probes is given"
	case p.exposed(set) != "":
		c.Untried = fmt.Sprintf("Service %s publishes addresses that are not ready, so a pod with these labels would get its traffic", p.exposed(set))
	}
	if c.Untried != "" {
		return
	}
	at := slices.IndexFunc(p.plan.Sources, func(s Source) bool { return maps.Equal(s.Labels, set) })
	if at < 0 {
		if len(p.plan.Sources) == maxSources {
			c.Untried = fmt.Sprintf("no more than %d pods probe at the same time", maxSources)
			return
		}
		p.plan.Sources = append(p.plan.Sources, Source{Name: name, Labels: set})
		at = len(p.plan.Sources) - 1
	}
	s := &p.plan.Sources[at]
	if !slices.ContainsFunc(s.To, func(to netprobe.Address) bool { return to.Address == c.Address }) {
		if len(s.To) == netprobe.MaxAddresses {
			c.Untried = fmt.Sprintf("one pod tries no more than %d addresses", netprobe.MaxAddresses)
			return
		}
		s.To = append(s.To, netprobe.Address{Address: c.Address, Open: c.Model == reach.Allowed.String()})
	}
	c.Source = at
}

// exposed names a Service that sends traffic to pods with these labels though they are not ready.
func (p *planner) exposed(set map[string]string) string {
	for _, s := range p.state.Services {
		if s.Spec.PublishNotReadyAddresses && len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(set)) {
			return s.Name
		}
	}
	return ""
}
