package quarantine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// Label is on every pod in quarantine; its value is the case's.
	Label = "upkeep.run/quarantine"
	// planVersion is the version of the plan.
	planVersion = 1
	// MaxPods bounds the pods of a case, whatever the policy says: the plan must fit into a history.
	MaxPods = 1000
)

// Policy bounds what one case may cut off without an approval.
type Policy struct {
	Namespaces  []string `json:"namespaces,omitempty"` // besides the target's own
	Pods        int      `json:"pods"`                 // of one case
	PodsPerHour int      `json:"podsPerHour"`          // of all cases of these namespaces
	InAtOnce    int      `json:"inAtOnce"`             // namespaces of one case
	Reader      Reader   `json:"reader,omitzero"`
	// Access names what a case may change of access; nil: no right is granted for it.
	Access *AccessPolicy `json:"access,omitempty"`
}

// Default is the policy of a target that says nothing of it.
var Default = Policy{Pods: 20, PodsPerHour: 60, InAtOnce: 1}

// Controller is what makes pods, and takes those that it selects for its own.
type Controller struct {
	Kind, Namespace, Name string
	Selector              *metav1.LabelSelector
	Above                 *metav1.OwnerReference // its own controller
	UID                   types.UID
}

// World is what is seen of the cluster: all of the namespaces that a case may touch.
type World struct {
	Pods        []corev1.Pod
	Policies    []networkingv1.NetworkPolicy
	Services    []corev1.Service
	Controllers []Controller
	Node        *corev1.Node // that is suspected; nil: none, or it may not be read
	// Runs says of pods that Upkeep itself runs on them.
	Runs map[Ref]string
	// Foreign are policies of other kinds, which may let through what a NetworkPolicy denies, in words.
	Foreign []string
	// Gaps are what could not be seen, in words.
	Gaps []string
}

// Stripped is a label that is taken away, and by whom the pod is selected with it.
type Stripped struct {
	Key   string   `json:"key"`
	Value string   `json:"value"`
	By    []string `json:"by"`
}

// Pod is a suspect as it is before it is cut off.
type Pod struct {
	Ref
	UID types.UID `json:"uid"`
	// Version is that of the object that was looked at: unchanged, it need not be read again.
	Version string            `json:"version"`
	Why     []string          `json:"why"` // by what it is a suspect
	Node    string            `json:"node,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // all of them
	Strip   []Stripped        `json:"strip,omitempty"`
	Kept    []string          `json:"kept,omitempty"` // labels by which nobody selects it, by their keys
	Owner   string            `json:"owner,omitempty"`
	Then    string            `json:"then"` // what its controller does about it
	// Already says that it is in this case's quarantine; its labels are then those of the note on it.
	Already bool `json:"already,omitempty"`
}

// Narrowed is a policy that lets pods through and would go on to select one in quarantine, so that this is
// excepted from it.
type Narrowed struct {
	Ref
	UID    types.UID            `json:"uid"`
	Before metav1.LabelSelector `json:"before"`
}

// Cordoned is a node on which nothing new is to be placed.
type Cordoned struct {
	Name   string    `json:"name"`
	UID    types.UID `json:"uid"`
	Before string    `json:"before"` // of spec.unschedulable, as JSON
}

// Not is a suspect that is not cut off.
type Not struct {
	Pod  Ref    `json:"pod"`
	Why  string `json:"why"`
	Do   string `json:"do,omitempty"` // what a person may do
	Free bool   `json:"free"`         // it is at large: neither ended nor cut off by another case
}

// Plan is what is done to contain a case.
type Plan struct {
	Version int        `json:"version"`
	Case    string     `json:"case"`
	Pods    []Pod      `json:"pods"`
	Deny    []string   `json:"deny"` // namespaces that get a policy
	Narrow  []Narrowed `json:"narrow,omitempty"`
	Cordon  []Cordoned `json:"cordon,omitempty"`
	Not     []Not      `json:"not,omitempty"`
	Over    []string   `json:"over,omitempty"` // bounds of the policy that it is over
	Foreign []string   `json:"foreign,omitempty"`
	Gaps    []string   `json:"gaps,omitempty"`
	// Prober says whether a standing prober is there, where one is configured.
	Prober string `json:"prober,omitempty"`
}

// The annotations of a case's policy.
const (
	countNote = "upkeep.run/quarantine-pods"  // how many pods it is for
	sinceNote = "upkeep.run/quarantine-since" // the time of the order, by which runs of one case are told apart
)

// DenyName is the name of a case's policy, in every namespace.
func DenyName(caseID string) string { return "upkeep-quarantine-" + caseID }

// Make plans a case's containment. It is a function of what is seen alone.
func Make(w World, s Suspects, p Policy, caseID string, now time.Time) (Plan, error) {
	plan := Plan{Version: planVersion, Case: caseID, Pods: []Pod{}, Deny: []string{}, Foreign: w.Foreign, Gaps: slices.Clone(w.Gaps)}
	found := make(map[Ref]bool)
	for i := range w.Pods {
		pod := &w.Pods[i]
		n, noted := readNote(pod.Annotations)
		chain := w.chain(pod)
		why := s.why(pod, chain)
		if noted && !n.Over && n.Case == caseID && pod.Labels[Label] == caseID && len(why) == 0 {
			why = []string{"in quarantine already"} // of an earlier run, when it still had its labels
		}
		if len(why) == 0 {
			continue
		}
		ref := Ref{pod.Namespace, pod.Name}
		found[ref] = true
		if not := w.exempt(pod, p, s.Namespace, caseID); not != nil {
			plan.Not = append(plan.Not, *not)
			continue
		}
		suspect := w.suspect(pod, chain)
		suspect.Why = why
		if noted && !n.Over && n.Case == caseID && pod.Labels[Label] == caseID {
			suspect.again(n)
		}
		plan.Pods = append(plan.Pods, suspect)
	}
	for _, ref := range s.Pods {
		if !found[ref] {
			plan.Not = append(plan.Not, Not{Pod: ref, Why: "it is not there, or not where the target's policy lets Upkeep look", Free: false})
		}
	}
	slices.SortFunc(plan.Pods, func(a, b Pod) int { return cmp.Compare(a.String(), b.String()) })
	slices.SortFunc(plan.Not, func(a, b Not) int { return cmp.Compare(a.Pod.String(), b.Pod.String()) })
	for _, pod := range plan.Pods {
		if !slices.Contains(plan.Deny, pod.Namespace) {
			plan.Deny = append(plan.Deny, pod.Namespace)
		}
	}
	for _, policy := range w.Policies { // of a run that was ended between the pods and their policies
		if policy.Name == DenyName(caseID) && !slices.Contains(plan.Deny, policy.Namespace) {
			plan.Deny = append(plan.Deny, policy.Namespace)
		}
	}
	slices.Sort(plan.Deny)
	plan.Narrow = w.narrow(plan.Pods, caseID)
	if s.Node != "" {
		plan.cordon(w.Node, s.Node)
	}
	return plan, plan.bound(p, w.recent(caseID, now))
}

// bound says over which bounds of the policy the plan is, and refuses what is over every bound or means nothing.
func (plan *Plan) bound(p Policy, recent int) error {
	fresh := 0
	for _, pod := range plan.Pods {
		if !pod.Already {
			fresh++
		}
	}
	for _, b := range []struct {
		n, most int
		what    string
	}{
		{len(plan.Pods), p.Pods, "pods in one case"},
		{len(plan.Deny), p.InAtOnce, "namespaces in one case"},
		{recent + fresh, p.PodsPerHour, "pods within an hour"},
	} {
		if b.n > b.most {
			plan.Over = append(plan.Over, fmt.Sprintf("%d %s, where the policy lets %d", b.n, b.what, b.most))
		}
	}
	switch {
	case len(plan.Pods) > MaxPods:
		return failure.New(failure.BadInput, "%d pods are suspected, and one case has at most %d", len(plan.Pods), MaxPods).Do("split the case, by namespace or workload")
	case len(plan.Pods) == 0 && len(plan.Cordon) == 0 && len(plan.Not) == 0 && len(plan.Deny) == 0:
		return failure.New(failure.MissingObject, "no pod is what the suspects say").Do("see what there is (kubectl get pods -o wide), and correct the suspects")
	}
	return nil
}

// recent counts the pods that other cases have cut off within the last hour, by the policies that they made:
// what stands on pods can be written by whoever runs in them.
func (w World) recent(caseID string, now time.Time) (pods int) {
	for _, policy := range w.Policies {
		if policy.Name != DenyName(caseID) && strings.HasPrefix(policy.Name, DenyName("")) && now.Sub(policy.CreationTimestamp.Time) < time.Hour {
			n, err := strconv.Atoi(policy.Annotations[countNote])
			if err != nil || n < 0 || n > MaxPods {
				n = 1
			}
			pods += n
		}
	}
	return pods
}

// cutOff reports whether a pod is in the quarantine of a case, and not only says so.
func (w World) cutOff(pod *corev1.Pod, caseID string) bool {
	denied := false
	for _, policy := range w.Policies {
		if policy.Namespace != pod.Namespace {
			continue
		}
		if policy.Name == DenyName(caseID) {
			denied = denies(policy.Spec, caseID)
		} else if allows(policy.Spec) && matches(&policy.Spec.PodSelector, pod.Labels) {
			return false
		}
	}
	return denied
}

// denies reports whether a policy denies the pods of a case everything, both ways.
func denies(s networkingv1.NetworkPolicySpec, caseID string) bool {
	return matches(&s.PodSelector, map[string]string{Label: caseID}) && !allows(s) &&
		slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeIngress) && slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// exempt says why a suspect is not cut off; nil: it is.
func (w World) exempt(pod *corev1.Pod, p Policy, home, caseID string) *Not {
	ref := Ref{pod.Namespace, pod.Name}
	remove := fmt.Sprintf("when its evidence is kept: kubectl delete pod %s -n %s", pod.Name, pod.Namespace)
	n, noted := readNote(pod.Annotations)
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return &Not{Pod: ref, Why: "it has ended"}
	case noted && !n.Over && n.Case != caseID && pod.Labels[Label] == n.Case && w.cutOff(pod, n.Case):
		return &Not{Pod: ref, Why: "it is in the quarantine of case " + n.Case}
	case kube.NamespaceProblem(pod.Namespace) != "":
		return &Not{Pod: ref, Why: "namespace " + pod.Namespace + " is the cluster's own, whose pods the cluster needs", Do: remove, Free: true}
	case w.Runs[ref] != "":
		return &Not{Pod: ref, Why: "Upkeep itself runs on it (" + w.Runs[ref] + ")", Do: remove, Free: true}
	case pod.Namespace != home && !slices.Contains(p.Namespaces, pod.Namespace):
		return &Not{Pod: ref, Why: "namespace " + pod.Namespace + " is not among those that the target's policy names", Do: "add it to kubernetes.incidents.namespaces in upkeep.yaml, and start a new run", Free: true}
	case pod.Spec.HostNetwork:
		return &Not{
			Pod: ref, Why: "it uses its node's network, where no NetworkPolicy reaches it", Free: true,
			Do: fmt.Sprintf("kubectl cordon %s; %s", cmp.Or(pod.Spec.NodeName, "NODE"), remove),
		}
	}
	return nil
}

// chain is a pod's controllers, the nearest first.
func (w World) chain(pod *corev1.Pod) (chain []metav1.OwnerReference) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return nil
	}
	chain = append(chain, *owner)
	for _, c := range w.Controllers {
		if c.UID == owner.UID && c.Namespace == pod.Namespace && c.Above != nil {
			return append(chain, *c.Above)
		}
	}
	return chain
}

// suspect says what is taken from a pod.
func (w World) suspect(pod *corev1.Pod, chain []metav1.OwnerReference) Pod {
	out := Pod{Ref: Ref{pod.Namespace, pod.Name}, UID: pod.UID, Version: pod.ResourceVersion, Node: pod.Spec.NodeName, Labels: maps.Clone(pod.Labels)}
	strip := make(map[string][]string) // keys, and by whom the pod is selected with them
	note := func(by string, keys []string) {
		for _, key := range keys {
			if _, has := pod.Labels[key]; has && !slices.Contains(strip[key], by) {
				strip[key] = append(strip[key], by)
			}
		}
	}
	for _, policy := range w.Policies {
		if policy.Namespace == pod.Namespace && allows(policy.Spec) && matches(&policy.Spec.PodSelector, pod.Labels) {
			note("NetworkPolicy "+policy.Name, wants(&policy.Spec.PodSelector))
		}
		for _, peer := range peers(policy.Spec) {
			// A selector of namespaces may mean the pod's, whose labels nobody has looked at.
			if (policy.Namespace == pod.Namespace || peer.NamespaceSelector != nil) && matches(peer.PodSelector, pod.Labels) {
				note("NetworkPolicy "+policy.Name+" for others", wants(peer.PodSelector))
			}
		}
	}
	for _, service := range w.Services {
		if service.Namespace == pod.Namespace && len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			note("Service "+service.Name, slices.Collect(maps.Keys(service.Spec.Selector)))
		}
	}
	for _, c := range w.Controllers {
		if c.Namespace == pod.Namespace && matches(c.Selector, pod.Labels) {
			note(c.Kind+" "+c.Name, wants(c.Selector))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(pod.Labels)) {
		switch by := strip[key]; {
		case key == Label:
		case len(by) > 0:
			slices.Sort(by)
			out.Strip = append(out.Strip, Stripped{key, pod.Labels[key], by})
		default:
			out.Kept = append(out.Kept, key)
		}
	}
	out.Owner, out.Then = w.then(pod, chain, out.remaining(""))
	return out
}

// again makes of a pod that is in this case's quarantine already what it was before.
func (p *Pod) again(n note) {
	p.Already = true
	delete(p.Labels, Label)
	for key, value := range n.Labels {
		p.Labels[key] = value
		if !slices.ContainsFunc(p.Strip, func(s Stripped) bool { return s.Key == key }) {
			p.Strip = append(p.Strip, Stripped{key, value, []string{"an earlier run's note on the pod"}})
		}
	}
	slices.SortFunc(p.Strip, func(a, b Stripped) int { return cmp.Compare(a.Key, b.Key) })
}

// remaining are the labels of a pod in quarantine.
func (p Pod) remaining(caseID string) map[string]string {
	left := maps.Clone(p.Labels)
	if left == nil {
		left = make(map[string]string)
	}
	for _, s := range p.Strip {
		delete(left, s.Key)
	}
	left[Label] = caseID
	return left
}

// then says who owns a pod, and what that does when the pod is taken from it.
func (w World) then(pod *corev1.Pod, chain []metav1.OwnerReference, left map[string]string) (owner, then string) {
	if len(chain) == 0 {
		return "", "nothing makes another in its place"
	}
	owner = chain[0].Kind + " " + chain[0].Name
	i := slices.IndexFunc(w.Controllers, func(c Controller) bool { return c.UID == chain[0].UID && c.Namespace == pod.Namespace })
	if len(chain) > 1 {
		defer func() { owner += " of " + chain[1].Kind + " " + chain[1].Name }()
	}
	switch {
	case i < 0:
		return owner, "what " + owner + " does about it is not known"
	case matches(w.Controllers[i].Selector, left):
		return owner, owner + " keeps it: it selects by labels that a pod lacks"
	}
	switch chain[0].Kind {
	case "StatefulSet":
		return owner, owner + " lets go of it, and can make no other of its name until it is gone"
	case "DaemonSet":
		return owner, owner + " lets go of it, and makes another on the node, if there is room"
	}
	return owner, owner + " lets go of it, and makes another in its place"
}

// narrow finds the policies that let through what is left of a suspect.
func (w World) narrow(pods []Pod, caseID string) (narrow []Narrowed) {
	for _, policy := range w.Policies {
		before := without(policy.Spec.PodSelector)
		if policy.Name == DenyName(caseID) || !allows(policy.Spec) || excepted(policy.Spec.PodSelector) && !readException(policy.Annotations).needed() {
			continue // the last: its maker has excepted them for good
		}
		h, noted := readException(policy.Annotations).of(caseID)
		if noted && !h.Over || slices.ContainsFunc(pods, func(p Pod) bool {
			return p.Namespace == policy.Namespace && matches(&before, p.remaining(caseID))
		}) {
			narrow = append(narrow, Narrowed{Ref{policy.Namespace, policy.Name}, policy.UID, *before.DeepCopy()})
		}
	}
	slices.SortFunc(narrow, func(a, b Narrowed) int { return cmp.Compare(a.String(), b.String()) })
	return narrow
}

func (plan *Plan) cordon(node *corev1.Node, name string) {
	if node == nil {
		plan.Gaps = append(plan.Gaps, "node "+name+" is not seen, so it is not cordoned: kubectl cordon "+name)
		return
	}
	before := "null"
	if node.Spec.Unschedulable {
		before = "true"
	}
	plan.Cordon = []Cordoned{{node.Name, node.UID, before}}
}

// except is what keeps a policy from selecting a pod in quarantine.
var except = metav1.LabelSelectorRequirement{Key: Label, Operator: metav1.LabelSelectorOpDoesNotExist}

func excepted(s metav1.LabelSelector) bool {
	return slices.ContainsFunc(s.MatchExpressions, isExcept)
}

func isExcept(r metav1.LabelSelectorRequirement) bool {
	return r.Key == except.Key && r.Operator == except.Operator
}

// allows reports whether a policy lets anything through in a direction that it is about.
func allows(s networkingv1.NetworkPolicySpec) bool {
	ingress, egress := len(s.PolicyTypes) == 0, len(s.PolicyTypes) == 0
	for _, t := range s.PolicyTypes {
		ingress, egress = ingress || t == networkingv1.PolicyTypeIngress, egress || t == networkingv1.PolicyTypeEgress
	}
	return ingress && len(s.Ingress) > 0 || egress && len(s.Egress) > 0
}

// peers are the pods with which those that a policy selects may talk. That a suspect is denied everything does not
// need them: they are for networks that only look at one end.
func peers(s networkingv1.NetworkPolicySpec) (all []networkingv1.NetworkPolicyPeer) {
	for _, rule := range s.Ingress {
		all = append(all, rule.From...)
	}
	for _, rule := range s.Egress {
		all = append(all, rule.To...)
	}
	return slices.DeleteFunc(all, func(p networkingv1.NetworkPolicyPeer) bool { return p.PodSelector == nil })
}

// matches reports whether a selector selects labels. None selects nothing, as a controller's; an empty one
// selects everything. One that cannot be read selects everything, to be on the safe side.
func matches(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err != nil || selector.Matches(labels.Set(set))
}

// wants are the labels that a selector asks for. Without one of them it selects a pod no more.
func wants(s *metav1.LabelSelector) []string {
	keys := slices.Collect(maps.Keys(s.MatchLabels))
	for _, e := range s.MatchExpressions {
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpExists {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// Words say what the plan does.
func (plan Plan) Words() string {
	names := make([]string, 0, len(plan.Pods))
	for _, p := range plan.Pods {
		names = append(names, p.String())
	}
	words := "cut off " + few(names)
	if len(plan.Narrow) > 0 {
		words += fmt.Sprintf("; except them from %d policies that would let them through", len(plan.Narrow))
	}
	for _, n := range plan.Cordon {
		words += "; place nothing new on node " + n.Name
	}
	free := []string{}
	for _, n := range plan.Not {
		if n.Free {
			free = append(free, fmt.Sprintf("%s (%s)", n.Pod, n.Why))
		}
	}
	if len(free) > 0 {
		words += "; not cut off: " + few(free)
	}
	return words
}

// few names some of many.
func few(names []string) string {
	const most = 5
	switch {
	case len(names) == 0:
		return "nothing"
	case len(names) <= most:
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d: %s and %d more", len(names), strings.Join(names[:most], ", "), len(names)-most)
}
