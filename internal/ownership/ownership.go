// Package ownership finds out who else acts on an object of a cluster: a change that its owner would take
// back within a second is no change. An owner that is known is suspended and resumed exactly as it was; any
// other is named, so that the change is refused before anything is touched.
package ownership

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// What a target's configuration lets be done about the owners of what a run changes.
const (
	PolicyRefuse  = "refuse"  // change nothing that somebody else owns: the default
	PolicyPropose = "propose" // change nothing, and say what would be changed and what a person would type
	PolicySuspend = "suspend" // suspend the owner for the time of the change, where it is known how
)

// Policies are all there are.
func Policies() []string { return []string{PolicyRefuse, PolicyPropose, PolicySuspend} }

// PolicyProblem says what is wrong with a policy, or "".
func PolicyProblem(v string) string {
	if slices.Contains(Policies(), v) {
		return ""
	}
	return "must be one of " + strings.Join(Policies(), ", ")
}

// Ref names an object of a cluster.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (r Ref) String() string {
	name := r.Kind + " " + r.Name
	if r.Namespace != "" {
		name += " in namespace " + r.Namespace
	}
	return name
}

// Owner is somebody else who acts on an object.
type Owner struct {
	By  string `json:"by"`  // "Flux", "Argo CD", "KEDA", "an operator", "the field manager x"
	Ref Ref    `json:"ref"` // what tells it to; empty where that is not known
	Why string `json:"why"` // what shows it
	// Suspendable says that it is known how to keep it from acting.
	Suspendable bool `json:"suspendable"`
}

func (o Owner) String() string {
	if o.Ref.Name == "" {
		return o.By
	}
	return o.By + " (" + o.Ref.String() + ")"
}

// kinds are those whose suspension is known, with the resource they are served under.
var kinds = map[schema.GroupKind]struct{ version, resource string }{
	{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}:        {"v2", "helmreleases"},
	{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}: {"v1", "kustomizations"},
	{Group: "argoproj.io", Kind: "Application"}:                   {"v1alpha1", "applications"},
	{Group: "keda.sh", Kind: "ScaledObject"}:                      {"v1alpha1", "scaledobjects"},
}

// Suspendable are the kinds of owners whose suspension is known.
func Suspendable() []Ref {
	var all []Ref
	for k := range kinds {
		all = append(all, Ref{Group: k.Group, Kind: k.Kind})
	}
	slices.SortFunc(all, func(a, b Ref) int { return strings.Compare(a.Group, b.Group) })
	return all
}

// Resource is how the API server serves one of them.
func Resource(group, kind string) (of, resource string, known bool) {
	k, known := kinds[schema.GroupKind{Group: group, Kind: kind}]
	return group, k.resource, known
}

// builtIn are the controllers of Kubernetes itself: what they make is changed by changing them.
var builtIn = []schema.GroupKind{
	{Group: "apps", Kind: "Deployment"}, {Group: "apps", Kind: "ReplicaSet"}, {Group: "apps", Kind: "StatefulSet"}, {Group: "apps", Kind: "DaemonSet"},
	{Group: "batch", Kind: "Job"}, {Group: "batch", Kind: "CronJob"}, {Kind: "ReplicationController"}, {Kind: "Node"},
}

const (
	argoNamespace = "argocd" // where Argo CD keeps its Applications unless its tracking says otherwise
	fresh         = time.Hour
	maxNamed      = 5
)

// hands are field managers that act when a person, or Upkeep, tells them to; and Kubernetes' own.
var hands = []string{"helm", "upkeep", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "kubectl-client-side-apply", "k9s", "Helm"}

// Detect returns who else acts on the object, as far as its own metadata shows. Now is the time by which
// another manager's last change is recent.
func Detect(o metav1.Object, now time.Time) []Owner {
	owners := []Owner{}
	add := func(owner Owner) {
		if r := owner.Ref; r != (Ref{}) && (kube.NameProblem(r.Name) != "" || r.Namespace != "" && kube.NameProblem(r.Namespace) != "") {
			// What anybody may have written there is no name, and gets into no command.
			owner.Ref, owner.Suspendable = Ref{}, false
		}
		if !slices.ContainsFunc(owners, func(known Owner) bool { return known.By == owner.By && known.Ref == owner.Ref }) {
			owners = append(owners, owner)
		}
	}
	for _, r := range o.GetOwnerReferences() {
		group, version := splitVersion(r.APIVersion)
		if r.Controller != nil && *r.Controller && !slices.Contains(builtIn, schema.GroupKind{Group: group, Kind: r.Kind}) {
			ref := Ref{Group: group, Version: version, Kind: r.Kind, Namespace: o.GetNamespace(), Name: r.Name}
			_, known := kinds[schema.GroupKind{Group: group, Kind: r.Kind}]
			add(Owner{By: "an operator", Ref: ref, Why: "it is the controller in its ownerReferences", Suspendable: known})
		}
	}
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	for _, kind := range []string{"HelmRelease", "Kustomization"} {
		group := map[string]string{"HelmRelease": "helm.toolkit.fluxcd.io", "Kustomization": "kustomize.toolkit.fluxcd.io"}[kind]
		if name := labels[group+"/name"]; name != "" {
			namespace := labels[group+"/namespace"]
			if namespace == "" {
				namespace = o.GetNamespace()
			}
			add(Owner{By: "Flux", Ref: Ref{Group: group, Kind: kind, Namespace: namespace, Name: name}, Why: "the label " + group + "/name", Suspendable: true})
		}
	}
	if tracked := annotations["argocd.argoproj.io/tracking-id"]; tracked != "" {
		name, _, _ := strings.Cut(tracked, ":")
		add(argo(name, "the annotation argocd.argoproj.io/tracking-id"))
	} else if name := labels["argocd.argoproj.io/instance"]; name != "" {
		add(argo(name, "the label argocd.argoproj.io/instance"))
	}
	if name := labels["scaledobject.keda.sh/name"]; name != "" { // on the autoscaler that it makes
		add(Owner{By: "KEDA", Ref: Ref{Group: "keda.sh", Kind: "ScaledObject", Namespace: o.GetNamespace(), Name: name}, Why: "the label scaledobject.keda.sh/name", Suspendable: true})
	}
	for _, m := range o.GetManagedFields() {
		if m.Subresource != "" || m.FieldsV1 == nil || !strings.Contains(string(m.FieldsV1.Raw), `"f:spec"`) || Hand(m.Manager) {
			continue
		}
		switch {
		case strings.HasPrefix(m.Manager, "argocd"):
			if name := labels["app.kubernetes.io/instance"]; name != "" && !has(owners, "Argo CD") {
				add(argo(name, "its field manager "+m.Manager+" and the label app.kubernetes.io/instance"))
			}
		case m.Manager == "helm-controller" || m.Manager == "kustomize-controller":
			if !has(owners, "Flux") {
				add(Owner{By: "Flux", Why: "its field manager " + m.Manager})
			}
		case m.Time != nil && now.Sub(m.Time.Time) < fresh && m.Time.Sub(o.GetCreationTimestamp().Time) > time.Minute && len(owners) == 0:
			add(Owner{By: "the field manager " + m.Manager, Why: "it changed the object's spec at " + m.Time.UTC().Format(time.RFC3339)})
		}
	}
	return owners
}

// Hand reports whether a field manager acts only when a person, or Upkeep, tells it to.
func Hand(manager string) bool {
	return slices.Contains(hands, manager) || strings.HasPrefix(manager, "kubectl-") || strings.HasPrefix(manager, "upkeep")
}

func has(owners []Owner, by string) bool {
	return slices.ContainsFunc(owners, func(o Owner) bool { return o.By == by })
}

// argo is the Application of a name as Argo CD tracks it: "app", or "namespace_app" where Applications are
// in other namespaces than its own.
func argo(name, why string) Owner {
	namespace, app, other := strings.Cut(name, "_")
	if !other {
		namespace, app = argoNamespace, name
	}
	return Owner{By: "Argo CD", Ref: Ref{Group: "argoproj.io", Kind: "Application", Namespace: namespace, Name: app}, Why: why, Suspendable: true}
}

func splitVersion(apiVersion string) (group, version string) {
	group, version, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		return "", group
	}
	return group, version
}

// SuspendCommand is what a person would type to keep the owner from acting, or "" where that is not known.
func (o Owner) SuspendCommand() string {
	suspend, _ := o.commands()
	return suspend
}

// ResumeCommand is what a person would type to let the owner act again, or "" where that is not known.
func (o Owner) ResumeCommand() string {
	_, resume := o.commands()
	return resume
}

func (o Owner) commands() (suspend, resume string) {
	name, namespace := o.Ref.Name, o.Ref.Namespace
	flux := func(kind string) (string, string) {
		return fmt.Sprintf("flux suspend %s %s -n %s", kind, name, namespace), fmt.Sprintf("flux resume %s %s -n %s", kind, name, namespace)
	}
	switch o.Ref.Kind {
	case "HelmRelease":
		return flux("helmrelease")
	case "Kustomization":
		return flux("kustomization")
	case "Application":
		return fmt.Sprintf("kubectl patch application %s -n %s --type merge -p '{\"spec\":{\"syncPolicy\":{\"automated\":null}}}'", name, namespace),
			fmt.Sprintf("kubectl edit application %s -n %s, and give spec.syncPolicy.automated back what it had", name, namespace)
	case "ScaledObject":
		return fmt.Sprintf("kubectl annotate scaledobject %s -n %s %s=true", name, namespace, kedaPaused),
			fmt.Sprintf("kubectl annotate scaledobject %s -n %s %s-", name, namespace, kedaPaused)
	}
	return "", ""
}

// Change is one change that a plan would make of an object.
type Change struct {
	Words   string  // as in "stop Deployment web"
	Command string  // what a person would type to make it
	Owners  []Owner // of the object
}

// Proposal is a change that is not made, because its object's owner would take it back, and how a person
// makes it.
type Proposal struct {
	Change   string   `json:"change"`
	Owner    string   `json:"owner"`
	Why      string   `json:"why"`                // what shows that it is the owner
	Commands []string `json:"commands,omitempty"` // in their order; none where it is not known how to suspend the owner
}

func (p Proposal) String() string {
	text := fmt.Sprintf("%s is not done, since %s would take it back (%s); make the change where that gets it from", p.Change, p.Owner, p.Why)
	if len(p.Commands) > 0 {
		text += ", or: " + strings.Join(p.Commands, "; ")
	}
	return text
}

func propose(c Change, o Owner) Proposal {
	p := Proposal{Change: c.Words, Owner: o.String(), Why: o.Why}
	if before := o.SuspendCommand(); before != "" && c.Command != "" {
		p.Commands = []string{before, c.Command, o.ResumeCommand()}
	}
	return p
}

// Decide says what is done about the owners of what would be changed: who is suspended meanwhile, each
// once, or what is proposed instead. Where the policy is neither, or it is not known how to suspend one, the
// change is refused.
func Decide(policy string, changes []Change) (suspend []Owner, proposals []Proposal, err error) {
	for _, c := range changes {
		for _, o := range c.Owners {
			switch {
			case o.Ref.Kind == "ScaledObject" || policy == PolicySuspend && o.Suspendable: // an autoscaler is part of what is stopped
				if !slices.ContainsFunc(suspend, func(s Owner) bool { return s.Ref == o.Ref }) {
					suspend = append(suspend, o)
				}
			case policy == PolicyPropose:
				proposals = append(proposals, propose(c, o))
			default:
				return nil, nil, refuse(c, o)
			}
		}
	}
	return suspend, proposals, nil
}

func refuse(c Change, o Owner) error {
	f := failure.New(failure.OwnedByOther, "could not %s: %s would take it back (%s)", c.Words, o, o.Why)
	command := o.SuspendCommand()
	if command == "" {
		return f.Do("make the change where %s gets it from, or suspend that by hand, and start a new run", o.By)
	}
	return f.Do("suspend it (%s) and start a new run, or set kubernetes.owners to %s in upkeep.yaml", command, PolicySuspend)
}

// Proposed is the refusal of a plan that only proposes.
func Proposed(proposals []Proposal) error {
	words := make([]string, 0, maxNamed+1)
	for i, p := range proposals {
		if i == maxNamed {
			words = append(words, fmt.Sprintf("and %d more, in the result", len(proposals)-i))
			break
		}
		words = append(words, p.String())
	}
	return failure.New(failure.OwnedByOther, "nothing was changed, as kubernetes.owners is %s: somebody else owns what would be", PolicyPropose).Do("%s", strings.Join(words, ". "))
}
