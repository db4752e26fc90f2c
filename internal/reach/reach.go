// Package reach says which connections the NetworkPolicies of a cluster let through, from what they say
// alone: a model, not a measurement. Where Kubernetes leaves the answer to whoever enforces policies, the
// answer is that it is not known.
//
// It follows the API's own words: https://kubernetes.io/docs/concepts/services-networking/network-policies/.
package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Answer is whether a connection comes through.
type Answer uint8

// The answers, in the order in which one side's goes before the other's.
const (
	Allowed Answer = iota
	Unknown
	Denied
)

func (a Answer) String() string {
	return [...]string{"allowed", "unknown", "denied"}[a]
}

// Foreign is a policy of a kind that the model cannot read (Cilium's, Calico's, an AdminNetworkPolicy). It
// makes every answer unknown where it may have a say.
type Foreign struct {
	Kind, Name string
	// Namespace is empty where it may have a say in all of them.
	Namespace string
}

func (f Foreign) String() string {
	if f.Namespace == "" {
		return f.Kind + " " + f.Name
	}
	return f.Kind + " " + f.Namespace + "/" + f.Name
}

// World is what the answers depend on.
type World struct {
	Namespaces []corev1.Namespace
	Pods       []corev1.Pod
	Policies   []networkingv1.NetworkPolicy
	Foreign    []Foreign
}

// End is one end of a connection: a pod, or an address outside of the cluster.
type End struct {
	Pod     types.NamespacedName
	Address netip.Addr
}

// External is an end outside of the cluster.
func External(a netip.Addr) End { return End{Address: a.Unmap()} }

// PodEnd is a pod as an end.
func PodEnd(namespace, name string) End {
	return End{Pod: types.NamespacedName{Namespace: namespace, Name: name}}
}

func (e End) String() string {
	if e.Address.IsValid() {
		return e.Address.String()
	}
	return e.Pod.String()
}

// Port is what is connected to.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

// Verdict is an answer and what it comes from.
type Verdict struct {
	Answer Answer
	// Because names the policies that decide, and what makes an answer unknown; for people.
	Because []string
}

// Model answers for a World as it was. It is safe for concurrent use.
type Model struct {
	pods    []pod
	byName  map[types.NamespacedName]int
	foreign []Foreign
}

// pod is one that runs, with the policies that isolate it.
type pod struct {
	name            types.NamespacedName
	addresses       []netip.Addr
	host            bool
	node            netip.Addr // its node's address
	ports           map[portName]int32
	ingress, egress []*side
}

// portName is a port by its name, which only means something on a pod.
type portName struct {
	protocol corev1.Protocol
	name     string
}

// side is what a policy lets through in one direction. All pods that it isolates share it.
type side struct {
	policy string
	rules  []rule
}

// rule lets through what matches a port and a peer; all of them where there is none.
type rule struct {
	ports []port
	peers []peer
}

type port struct {
	protocol corev1.Protocol
	name     string // "": by number
	any      bool
	from, to int32
}

// peer is a set of pods, or of addresses.
type peer struct {
	pods   []bool // by the pod's place in the model
	block  netip.Prefix
	except []netip.Prefix
}

// New reads a world. A policy that the API server would not have taken makes the answers in its namespace
// unknown, as a foreign one does.
func New(w World) *Model {
	m := &Model{byName: make(map[types.NamespacedName]int, len(w.Pods)), foreign: slices.Clone(w.Foreign)}
	namespaces := make(map[string]labels.Set, len(w.Namespaces))
	for _, n := range w.Namespaces {
		namespaces[n.Name] = n.Labels
	}
	var lives []*corev1.Pod
	for i := range w.Pods {
		p := &w.Pods[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue // its address is another's by now
		}
		m.byName[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = len(m.pods)
		m.pods = append(m.pods, podOf(p))
		lives = append(lives, p)
	}
	s := selecting{namespaces: namespaces, pods: lives, known: map[string][]bool{}}
	for i := range w.Policies {
		p := &w.Policies[i]
		if err := m.add(p, s); err != nil {
			m.foreign = append(m.foreign, Foreign{Kind: "NetworkPolicy", Namespace: p.Namespace, Name: fmt.Sprintf("%s (%v)", p.Name, err)})
		}
	}
	return m
}

func podOf(p *corev1.Pod) pod {
	to := pod{name: types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, host: p.Spec.HostNetwork, ports: map[portName]int32{}}
	if a, err := netip.ParseAddr(p.Status.HostIP); err == nil {
		to.node = a.Unmap()
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			to.addresses = append(to.addresses, a.Unmap())
		}
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name != "" {
				to.ports[portName{cmp.Or(port.Protocol, corev1.ProtocolTCP), port.Name}] = port.ContainerPort
			}
		}
	}
	return to
}

// selecting finds the pods of selectors, each distinct one once.
type selecting struct {
	namespaces map[string]labels.Set
	pods       []*corev1.Pod
	known      map[string][]bool
}

// of are the pods that match, those of one namespace where there is no selector of namespaces.
func (s selecting) of(namespace string, namespaces, pods *metav1.LabelSelector) ([]bool, error) {
	inNamespace, err := selector(namespaces)
	if err != nil {
		return nil, err
	}
	inPod, err := selector(pods)
	if err != nil {
		return nil, err
	}
	key := inPod.String()
	if namespaces == nil {
		key = "in " + namespace + ": " + key
	} else {
		key = "where " + inNamespace.String() + ": " + key
	}
	if all, ok := s.known[key]; ok {
		return all, nil
	}
	all := make([]bool, len(s.pods))
	for i, p := range s.pods {
		there := p.Namespace == namespace
		if namespaces != nil {
			there = inNamespace.Matches(s.namespaces[p.Namespace])
		}
		all[i] = there && inPod.Matches(labels.Set(p.Labels))
	}
	s.known[key] = all
	return all, nil
}

// selector reads one; none at all selects everything here, where it stands for a field that was left out.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

func (m *Model) add(p *networkingv1.NetworkPolicy, s selecting) error {
	name := p.Namespace + "/" + p.Name
	selected, err := s.of(p.Namespace, nil, &p.Spec.PodSelector)
	if err != nil {
		return err
	}
	in, out := &side{policy: name}, &side{policy: name}
	for _, r := range p.Spec.Ingress {
		read, err := ruleOf(p.Namespace, r.Ports, r.From, s)
		if err != nil {
			return err
		}
		in.rules = append(in.rules, read)
	}
	for _, r := range p.Spec.Egress {
		read, err := ruleOf(p.Namespace, r.Ports, r.To, s)
		if err != nil {
			return err
		}
		out.rules = append(out.rules, read)
	}
	ways := p.Spec.PolicyTypes
	if len(ways) == 0 { // as the API server fills it in
		ways = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			ways = append(ways, networkingv1.PolicyTypeEgress)
		}
	}
	for i, yes := range selected {
		if !yes {
			continue
		}
		if slices.Contains(ways, networkingv1.PolicyTypeIngress) {
			m.pods[i].ingress = append(m.pods[i].ingress, in)
		}
		if slices.Contains(ways, networkingv1.PolicyTypeEgress) {
			m.pods[i].egress = append(m.pods[i].egress, out)
		}
	}
	return nil
}

func ruleOf(namespace string, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, s selecting) (rule, error) {
	var r rule
	for _, p := range ports {
		r.ports = append(r.ports, portOf(p))
	}
	for _, p := range peers {
		read, err := peerOf(namespace, p, s)
		if err != nil {
			return rule{}, err
		}
		r.peers = append(r.peers, read)
	}
	return r, nil
}

func portOf(p networkingv1.NetworkPolicyPort) port {
	protocol := corev1.ProtocolTCP
	if p.Protocol != nil {
		protocol = cmp.Or(*p.Protocol, protocol)
	}
	switch {
	case p.Port == nil:
		return port{protocol: protocol, any: true}
	case p.Port.StrVal != "":
		return port{protocol: protocol, name: p.Port.StrVal}
	case p.EndPort != nil:
		return port{protocol: protocol, from: p.Port.IntVal, to: *p.EndPort}
	}
	return port{protocol: protocol, from: p.Port.IntVal, to: p.Port.IntVal}
}

func peerOf(namespace string, p networkingv1.NetworkPolicyPeer, s selecting) (peer, error) {
	if p.IPBlock == nil {
		if p.PodSelector == nil && p.NamespaceSelector == nil {
			return peer{}, fmt.Errorf("a peer has neither a selector nor an ipBlock")
		}
		pods, err := s.of(namespace, p.NamespaceSelector, p.PodSelector)
		return peer{pods: pods}, err
	}
	var to peer
	var err error
	if to.block, err = netip.ParsePrefix(p.IPBlock.CIDR); err != nil {
		return peer{}, err
	}
	for _, text := range p.IPBlock.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return peer{}, err
		}
		to.except = append(to.except, except)
	}
	return to, nil
}

// Isolated reports whether a policy selects a pod for what comes in, so that not everything does.
func (m *Model) Isolated(e End) bool {
	i, ok := m.byName[e.Pod]
	return ok && len(m.pods[i].ingress) > 0
}

// Between answers whether a connection comes through. A pod that the model does not have is MissingObject.
func (m *Model) Between(from, to End, p Port) (Verdict, error) {
	a, err := m.find(from)
	if err != nil {
		return Verdict{}, err
	}
	b, err := m.find(to)
	if err != nil {
		return Verdict{}, err
	}
	var because reasons
	answer := m.answer(a, b, p, &because)
	return Verdict{Answer: answer, Because: because}, nil
}

// Matrix calls yield for each ordered pair of different pods, on the port that portOf gives for the second one; a pod
// for which it gives none is nobody's destination.
func (m *Model) Matrix(portOf func(End) []Port, yield func(from, to End, p Port, a Answer)) {
	for b := range m.pods {
		to := End{Pod: m.pods[b].name}
		for _, p := range portOf(to) {
			for a := range m.pods {
				if a != b {
					yield(End{Pod: m.pods[a].name}, to, p, m.answer(place{pod: &m.pods[a], at: a}, place{pod: &m.pods[b], at: b}, p, nil))
				}
			}
		}
	}
}

// place is an end as the model has it.
type place struct {
	pod     *pod // nil outside of the cluster
	at      int
	address netip.Addr
}

func (m *Model) find(e End) (place, error) {
	if e.Address.IsValid() {
		for i := range m.pods {
			if slices.Contains(m.pods[i].addresses, e.Address) && !m.pods[i].host {
				return place{pod: &m.pods[i], at: i}, nil
			}
		}
		return place{address: e.Address}, nil
	}
	i, ok := m.byName[e.Pod]
	if !ok {
		return place{}, failure.New(failure.MissingObject, "pod %s does not run", e.Pod)
	}
	return place{pod: &m.pods[i], at: i}, nil
}

// reasons are what an answer comes from; nil where nobody asks, which is a great many times in a matrix.
type reasons []string

// add is inlined, so that a reason that nobody asks for costs nothing.
func (r *reasons) add(reason func() string) {
	if r != nil {
		*r = append(*r, reason())
	}
}

func (m *Model) answer(from, to place, p Port, because *reasons) Answer {
	if from.pod != nil && from.pod == to.pod {
		because.add(func() string { return "a pod always reaches itself" })
		return Allowed
	}
	answer := max(one("egress", from, to, to, p, because), one("ingress", to, from, to, p, because))
	for _, f := range m.foreign {
		if f.about(from) || f.about(to) {
			because.add(func() string { return fmt.Sprintf("%s may have a say, and is not of a kind that can be read here", f) })
			answer = Unknown
		}
	}
	return answer
}

func (f Foreign) about(p place) bool {
	return f.Namespace == "" || p.pod != nil && p.pod.name.Namespace == f.Namespace
}

// one answers for one direction: self is who its policies isolate, and peer the other end.
func one(direction string, self, peer, to place, p Port, because *reasons) Answer {
	if self.pod == nil {
		return Allowed // nobody's policies isolate what is outside of the cluster
	}
	sides := self.pod.ingress
	if direction == "egress" {
		sides = self.pod.egress
	}
	switch {
	case len(sides) == 0:
		return Allowed
	case self.pod.host:
		because.add(func() string {
			return fmt.Sprintf("pod %s has its node's network: whether policies hold for it is not defined", self.pod.name)
		})
		return Unknown
	case self.pod.onNodeOf(peer):
		because.add(func() string { return fmt.Sprintf("%s: a pod's own node is always let through", direction) })
		return Allowed
	}
	var doubts *reasons
	if because != nil {
		doubts = new(reasons)
	}
	best := Denied
	for _, s := range sides {
		answer := s.lets(peer, to, p, doubts)
		if answer == Allowed {
			because.add(func() string { return fmt.Sprintf("%s: policy %s lets it through", direction, s.policy) })
			return Allowed
		}
		best = min(best, answer)
	}
	if best == Denied {
		because.add(func() string {
			return fmt.Sprintf("%s: pod %s is isolated by %s, and nothing lets it through on %s", direction, self.pod.name, policies(sides), p)
		})
		return Denied
	}
	if because != nil {
		for _, d := range *doubts {
			*because = append(*because, direction+": "+d)
		}
	}
	return Unknown
}

// onNodeOf: the other end is the pod's node, or has its network.
func (p *pod) onNodeOf(other place) bool {
	if other.pod != nil {
		return other.pod.host && other.pod.node.IsValid() && other.pod.node == p.node
	}
	return p.node.IsValid() && other.address == p.node
}

func policies(sides []*side) string {
	names := make([]string, len(sides))
	for i, s := range sides {
		names[i] = s.policy
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (s *side) lets(other, to place, p Port, because *reasons) Answer {
	best := Denied
	for _, r := range s.rules {
		ports := r.onPort(to, p)
		if ports == Denied {
			continue
		}
		answer := max(ports, r.withPeer(other, s.policy, because))
		if answer == Unknown && ports == Unknown {
			because.add(func() string {
				return fmt.Sprintf("policy %s names a port, and what is outside of the cluster has no names of ports", s.policy)
			})
		}
		if best = min(best, answer); best == Allowed {
			break
		}
	}
	return best
}

// onPort: names are those of the pod that is connected to, whatever the direction.
func (r rule) onPort(to place, p Port) Answer {
	if len(r.ports) == 0 {
		return Allowed
	}
	best := Denied
	for _, port := range r.ports {
		switch {
		case port.protocol != p.Protocol:
		case port.any, port.name == "" && port.from <= p.Number && p.Number <= port.to:
			return Allowed
		case port.name != "" && to.pod == nil:
			best = Unknown
		case port.name != "":
			if number, ok := to.pod.ports[portName{port.protocol, port.name}]; ok && number == p.Number {
				return Allowed
			}
		}
	}
	return best
}

func (r rule) withPeer(other place, policy string, because *reasons) Answer {
	if len(r.peers) == 0 {
		return Allowed
	}
	best := Denied
	for _, peer := range r.peers {
		answer := peer.is(other)
		if answer == Unknown {
			because.add(func() string { return fmt.Sprintf("policy %s %s", policy, peer.doubt(other)) })
		}
		best = min(best, answer)
	}
	return best
}

// is: selectors are about pods, and blocks about addresses outside of the cluster. Whether a block sees a
// pod's address is not defined (addresses may be rewritten before), nor whether a selector sees a pod that
// has its node's.
func (r peer) is(other place) Answer {
	switch {
	case r.pods != nil && other.pod == nil:
		return Denied
	case r.pods != nil && !r.pods[other.at]:
		return Denied
	case r.pods != nil && other.pod.host:
		return Unknown
	case r.pods != nil:
		return Allowed
	case other.pod == nil:
		if r.contains(other.address) {
			return Allowed
		}
		return Denied
	case other.pod.host && len(other.pod.addresses) == 0, slices.ContainsFunc(other.pod.addresses, r.contains):
		return Unknown
	}
	return Denied
}

func (r peer) doubt(other place) string {
	if r.pods != nil {
		return fmt.Sprintf("selects pod %s, which has its node's network: whether it is known as that pod is not defined", other.pod.name)
	}
	return fmt.Sprintf("has block %s with the address of pod %s; blocks are for what is outside of the cluster, and whether they see pods is not defined", r.block, other.pod.name)
}

func (r peer) contains(a netip.Addr) bool {
	return r.block.Contains(a) && !slices.ContainsFunc(r.except, func(p netip.Prefix) bool { return p.Contains(a) })
}
