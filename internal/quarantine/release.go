package quarantine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/fault"
	heldfield "github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/kube"
)

var (
	deleteBefore = fault.NewPoint("quarantine/delete/before")
	deleteAfter  = fault.NewPoint("quarantine/delete/after")
)

// Freed is a pod as it is when its quarantine ends.
type Freed struct {
	Ref
	UID       types.UID         `json:"uid"`
	Back      map[string]string `json:"back"`                // labels that it gets again
	Conflicts []string          `json:"conflicts,omitempty"` // what somebody has changed, and stays
	Then      string            `json:"then"`                // what controllers will do about it
	// Not says that the pod stays in quarantine, and why.
	Not string `json:"not,omitempty"`
}

// ReleasePlan is how a quarantine ends: by giving back what was taken, or by deleting the pods.
type ReleasePlan struct {
	Version   int        `json:"version"`
	Case      string     `json:"case"`
	Delete    bool       `json:"delete"` // the pods, instead of giving back their labels
	Pods      []Freed    `json:"pods"`
	Narrow    []Narrowed `json:"narrow,omitempty"`
	Deny      []string   `json:"deny"`
	Cordon    []Cordoned `json:"cordon,omitempty"`
	Conflicts []string   `json:"conflicts,omitempty"`
	Gone      []Ref      `json:"gone,omitempty"`
	// Access are the bindings out of which the suspects' accounts were taken.
	Access []Returned `json:"access,omitempty"`
	// Accounts are those that are made anew, once the pods are gone; Rotate are the target's secrets that are rotated
	// after that.
	Accounts []Renewed `json:"accounts,omitempty"`
	Rotate   []string  `json:"rotate,omitempty"`
}

// PlanRelease plans the end of a case's quarantine. What was taken is what the run has kept; what the notes on the
// pods say, which whoever runs in them may have written, only counts where it says the same.
func PlanRelease(w World, plan Plan, done Contained, remove bool) ReleasePlan {
	out := ReleasePlan{Version: planVersion, Case: plan.Case, Delete: remove, Pods: []Freed{}, Narrow: plan.Narrow, Deny: plan.Deny, Cordon: plan.Cordon}
	for _, image := range done.Pods {
		pod := find(w.Pods, image.Ref)
		if pod == nil || pod.UID != image.UID {
			out.Gone = append(out.Gone, image.Ref)
			continue
		}
		out.Pods = append(out.Pods, w.freed(pod, image, plan.Case, remove))
	}
	if remove {
		return out
	}
	for _, n := range plan.Narrow {
		i := slices.IndexFunc(w.Policies, func(p networkingv1.NetworkPolicy) bool { return p.Namespace == n.Namespace && p.Name == n.Name })
		switch {
		case i < 0 || w.Policies[i].UID != n.UID:
			out.Conflicts = append(out.Conflicts, "NetworkPolicy "+n.String()+" is gone, or another one")
		case !same(without(w.Policies[i].Spec.PodSelector), without(n.Before)):
			out.Conflicts = append(out.Conflicts, "the selector of NetworkPolicy "+n.String()+" was changed by somebody; only the exception for the quarantine is taken from it")
		}
	}
	return out
}

// freed says what a pod gets again, and what comes of it.
func (w World) freed(pod *corev1.Pod, image Image, caseID string, remove bool) Freed {
	f := Freed{Ref: image.Ref, UID: image.UID, Back: make(map[string]string)}
	n, noted := readNote(pod.Annotations)
	switch {
	case noted && n.Case != caseID && !n.Over && pod.Labels[Label] == n.Case:
		f.Not = "another case, " + n.Case + ", has it in quarantine now"
		return f
	case !remove && noted && n.Case == caseID && n.Over:
		f.Not = "it was let go already"
		return f
	case !noted || !maps.Equal(n.Labels, image.Labels):
		f.Conflicts = append(f.Conflicts, "the note on the pod is not the one that was written; what the run has kept counts")
	}
	if pod.Labels[Label] != caseID {
		f.Conflicts = append(f.Conflicts, "somebody has taken the quarantine's label from it")
	}
	after := maps.Clone(pod.Labels)
	delete(after, Label)
	for _, key := range slices.Sorted(maps.Keys(image.Labels)) {
		was := image.Labels[key]
		now, has := pod.Labels[key]
		switch {
		case !has:
			f.Back[key], after[key] = was, was
		case now != was:
			f.Conflicts = append(f.Conflicts, fmt.Sprintf("label %s was %q and was set to %q by somebody, and stays", key, was, now))
		}
	}
	if remove {
		f.Back = map[string]string{}
		f.Then = w.deleted(pod, image)
		return f
	}
	f.Then = w.takenBack(pod, after)
	return f
}

// takenBack says what controllers do with a pod that has labels again.
func (w World) takenBack(pod *corev1.Pod, after map[string]string) string {
	owner := metav1.GetControllerOf(pod)
	for _, c := range w.Controllers {
		if c.Namespace != pod.Namespace || !matches(c.Selector, after) {
			continue
		}
		name := c.Kind + " " + c.Name
		switch {
		case owner != nil && owner.UID == c.UID:
			return name + " has kept it"
		case owner != nil:
		case c.Kind == "StatefulSet":
			return name + " takes it back as the pod of its name"
		case c.Kind == "DaemonSet":
			return name + " takes it back, has two on node " + pod.Spec.NodeName + " then, and ends one of them"
		default:
			return name + " takes it back, has one too many then, and ends one of its pods, which may be another"
		}
	}
	if owner != nil {
		return owner.Kind + " " + owner.Name + " has kept it"
	}
	return "no controller takes it back"
}

// deleted says what comes of a pod's deletion.
func (w World) deleted(pod *corev1.Pod, image Image) string {
	set := maps.Clone(image.Labels)
	for _, c := range w.Controllers {
		all := maps.Clone(pod.Labels)
		maps.Copy(all, set)
		if c.Namespace == pod.Namespace && c.Kind == "StatefulSet" && matches(c.Selector, all) {
			return "StatefulSet " + c.Name + " makes another of its name"
		}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		return owner.Kind + " " + owner.Name + " makes another"
	}
	return "it is gone; what its controller wanted in its place it has made already, if it had one"
}

// Words say what the plan does.
func (r ReleasePlan) Words() string {
	verb, object := "let go of ", "give back their labels"
	if r.Delete {
		verb, object = "delete ", "without their labels given back"
	}
	names, conflicts := []string{}, slices.Clone(r.Conflicts)
	for _, p := range r.Pods {
		if p.Not != "" {
			conflicts = append(conflicts, p.String()+": "+p.Not)
			continue
		}
		names = append(names, p.String()+" ("+p.Then+")")
		for _, c := range p.Conflicts {
			conflicts = append(conflicts, p.String()+": "+c)
		}
	}
	words := verb + few(names) + ", " + object
	for _, n := range r.Cordon {
		if n.Before != "true" {
			words += "; let pods be placed on node " + n.Name + " again"
		}
	}
	more, others := r.accessWords()
	words, conflicts = words+more, append(conflicts, others...)
	if len(conflicts) > 0 {
		words += "; conflicts: " + strings.Join(conflicts[:min(len(conflicts), 10)], "; ")
		if len(conflicts) > 10 {
			words += fmt.Sprintf("; and %d more", len(conflicts)-10)
		}
	}
	return words
}

// Released is what came of it.
type Released struct {
	Pods    []Ref    `json:"pods"`
	Remarks []string `json:"remarks,omitempty"`
	Undone  bool     `json:"undone,omitempty"`
	Renewed []Ref    `json:"renewed,omitempty"` // accounts that were made anew
	// FollowUps are for a person to see to.
	FollowUps []string `json:"followUps,omitempty"`
}

// Free lets go of the pods, or deletes them. Done twice, it finds it done. What denies them stays until Lift.
func Free(ctx context.Context, c *kube.Cluster, plan ReleasePlan, o Order) (Released, error) {
	g := &gather{}
	out := Released{Pods: []Ref{}}
	each(plan.Pods, func(p Freed) {
		if p.Not != "" {
			return
		}
		err := again(func() error { return free(ctx, c, p, o, plan.Delete) })
		if err != nil {
			g.fail(err)
			return
		}
		g.with(func(*Contained) { out.Pods = append(out.Pods, p.Ref) })
	})
	slices.SortFunc(out.Pods, compare)
	return out, errors.Join(g.errs...)
}

// Left names pods that are to be deleted and are still there; "" when there are none.
func Left(ctx context.Context, c *kube.Cluster, plan ReleasePlan) (string, error) {
	if !plan.Delete {
		return "", nil
	}
	left := []string{}
	for _, p := range plan.Pods {
		if p.Not != "" {
			continue
		}
		pod, err := c.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", kube.Classify(err, "read pod "+p.String())
		}
		if err == nil && pod.UID == p.UID {
			left = append(left, p.String())
		}
	}
	if len(left) == 0 {
		return "", nil
	}
	return few(left), nil
}

// Lift takes away what was made for the pods, when they are let go of or gone. Done twice, it finds it done.
func Lift(ctx context.Context, c *kube.Cluster, plan ReleasePlan, o Order) (Released, error) {
	g := &gather{}
	each(plan.Deny, func(namespace string) {
		switch held, err := holders(ctx, c, namespace, o.Case); {
		case err != nil:
			g.fail(err)
			return
		case held != "":
			g.with(func(out *Contained) {
				out.Undone = true
				out.Remarks = append(out.Remarks, fmt.Sprintf("%s still have the label %s=%s, so the case's policies in namespace %s stay", held, Label, o.Case, namespace))
			})
			return
		}
		for _, n := range plan.Narrow {
			if n.Namespace != namespace {
				continue
			}
			if err := again(func() error { return widen(ctx, c, n, o) }); err != nil {
				g.undone(err, "NetworkPolicy "+n.String()+" keeps its exception for pods in quarantine")
			}
		}
		if err := again(func() error { return undeny(ctx, c, namespace, o) }); err != nil {
			g.undone(err, "NetworkPolicy "+DenyName(o.Case)+" stays in namespace "+namespace)
		}
	})
	for _, n := range plan.Cordon {
		remark, err := uncordon(ctx, c, n, o)
		if err != nil {
			g.undone(err, "node "+n.Name+" stays as it is: kubectl uncordon "+n.Name)
		}
		if remark != "" {
			g.with(func(out *Contained) { out.Remarks = append(out.Remarks, remark) })
		}
	}
	slices.Sort(g.out.Remarks)
	return Released{Pods: []Ref{}, Remarks: g.out.Remarks, Undone: g.out.Undone}, errors.Join(g.errs...)
}

// free lets go of a pod, or deletes it, if it is still the one that was planned.
func free(ctx context.Context, c *kube.Cluster, p Freed, o Order, remove bool) error {
	pod, err := c.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && pod.UID != p.UID {
		return nil
	}
	if err != nil {
		return kube.Classify(err, "read pod "+p.String())
	}
	if n, noted := readNote(pod.Annotations); noted && n.Case == o.Case && (n.At.After(o.At) || n.Over && !n.At.Before(o.At)) {
		return nil // done, or a later run's
	}
	if remove {
		deleteBefore.Hit()
		err := c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
		deleteAfter.Hit()
		if apierrors.IsNotFound(err) {
			return nil
		}
		return kube.Classify(err, "delete pod "+p.String())
	}
	change := map[string]any{}
	if pod.Labels[Label] == o.Case {
		change[Label] = nil
	}
	for key, value := range p.Back {
		if _, has := pod.Labels[key]; !has { // somebody may have set it since
			change[key] = value
		}
	}
	return mark(ctx, c, pod, change, note{Order: o, Over: true})
}

// widen takes the exception from a policy, when no other case needs it.
func widen(ctx context.Context, c *kube.Cluster, n Narrowed, o Order) error {
	policy, err := c.Client.NetworkingV1().NetworkPolicies(n.Namespace).Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return kube.Classify(err, "read NetworkPolicy "+n.String())
	}
	note := readException(policy.Annotations)
	if h, ok := note.of(o.Case); policy.UID != n.UID || ok && (h.At.After(o.At) || h.Over && !h.At.Before(o.At)) {
		return nil
	}
	expressions := policy.Spec.PodSelector.MatchExpressions
	if note = note.with(o, true); !note.needed() {
		expressions = without(policy.Spec.PodSelector).MatchExpressions
		note.Before = nil
	}
	return reselect(ctx, c, policy, expressions, note)
}

// holders names the pods of a namespace that have a case's label; "" when there are none.
func holders(ctx context.Context, c *kube.Cluster, namespace, caseID string) (string, error) {
	left, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{Label: caseID}).String(), Limit: page})
	if err != nil || len(left.Items) == 0 {
		return "", kube.Classify(err, "list the pods of namespace "+namespace)
	}
	names := make([]string, len(left.Items))
	for i, pod := range left.Items {
		names[i] = pod.Name
	}
	return few(names), nil
}

// undeny removes the case's policy of a namespace, unless it is a later run's.
func undeny(ctx context.Context, c *kube.Cluster, namespace string, o Order) error {
	policy, err := c.Client.NetworkingV1().NetworkPolicies(namespace).Get(ctx, DenyName(o.Case), metav1.GetOptions{})
	if err != nil {
		return kube.Classify(err, "read NetworkPolicy "+DenyName(o.Case)+" in namespace "+namespace)
	}
	if since, err := time.Parse(time.RFC3339Nano, policy.Annotations[sinceNote]); err == nil && since.After(o.At) {
		return nil
	}
	return deletePolicy(ctx, c, policy)
}

// deletePolicy removes a policy, if it still is as it was read.
func deletePolicy(ctx context.Context, c *kube.Cluster, policy *networkingv1.NetworkPolicy) error {
	deleteBefore.Hit()
	err := c.Client.NetworkingV1().NetworkPolicies(policy.Namespace).Delete(ctx, policy.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &policy.UID, ResourceVersion: &policy.ResourceVersion},
	})
	deleteAfter.Hit()
	return kube.Classify(err, "delete NetworkPolicy "+policy.Name+" in namespace "+policy.Namespace)
}

func uncordon(ctx context.Context, c *kube.Cluster, n Cordoned, o Order) (remark string, err error) {
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return "", kube.Classify(err, "make a client")
	}
	return n.field().Give(ctx, client, o.held(), heldfield.Between(podBefore, podAfter))
}

// without is a selector without the exception for the quarantine.
func without(s metav1.LabelSelector) metav1.LabelSelector {
	s.MatchExpressions = slices.DeleteFunc(slices.Clone(s.MatchExpressions), isExcept)
	return s
}

func same(a, b metav1.LabelSelector) bool {
	left, _ := json.Marshal(a) // plain data always encodes
	right, _ := json.Marshal(b)
	return string(left) == string(right)
}

// Superseded reports whether something later than the order has changed all of its pods that are there: its end, or
// another run. A note on some of them does not do, for whoever can change a pod can write it; each pod that has one is
// left as it is anyway.
func Superseded(w World, done Contained, o Order) bool {
	later, there := 0, 0
	for _, image := range done.Pods {
		pod := find(w.Pods, image.Ref)
		if pod == nil || pod.UID != image.UID {
			continue
		}
		there++
		if n, noted := readNote(pod.Annotations); noted && n.Case == o.Case && n.At.After(o.At) {
			later++
		}
	}
	return there > 0 && later == there
}

// Open says what of a case's pods is not cut off by what is seen, in words: as somebody may have changed it since.
func Open(w World, plan Plan, done Contained) (open []string) {
	for _, image := range done.Pods {
		pod := find(w.Pods, image.Ref)
		switch {
		case pod == nil || pod.UID != image.UID:
		case pod.Labels[Label] != plan.Case:
			open = append(open, "somebody has taken the quarantine's label from pod "+image.String())
		case !w.cutOff(pod, plan.Case):
			open = append(open, "a NetworkPolicy lets pod "+image.String()+" through, or the one that denies it is not what it was")
		}
	}
	return open
}
