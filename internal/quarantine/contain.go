package quarantine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	heldfield "github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// manager is how Upkeep's changes are known in an object's managedFields.
	manager = "upkeep"
	// atOnce is how many requests are in flight.
	atOnce = 64
	// tries is how often an object is looked at again that somebody else changes at once.
	tries = 10
)

var (
	denyBefore = fault.NewPoint("quarantine/deny/before")
	denyAfter  = fault.NewPoint("quarantine/deny/after")
	podBefore  = fault.NewPoint("quarantine/pod/before")
	podAfter   = fault.NewPoint("quarantine/pod/after")
)

// Image is a pod as it was right before it was cut off.
type Image struct {
	Ref
	UID    types.UID         `json:"uid"`
	Labels map[string]string `json:"labels"` // that were taken away
}

// Contained is what came of a containment.
type Contained struct {
	Pods    []Image  `json:"pods"`
	Gone    []Ref    `json:"gone,omitempty"`    // before it
	Remarks []string `json:"remarks,omitempty"` // what stays undone, and what somebody has changed
	Undone  bool     `json:"undone,omitempty"`  // something of the plan is not done
}

// gather collects what many workers find.
type gather struct {
	lock sync.Mutex
	out  Contained
	errs []error
}

func (g *gather) with(f func(*Contained)) {
	g.lock.Lock()
	defer g.lock.Unlock()
	f(&g.out)
}

func (g *gather) fail(err error) {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.errs = append(g.errs, err)
}

// Contain does what the plan says: the policies first, then the labels, then the node. Done twice, it finds it
// done. It goes on after what fails, and what of it a right is missing for it leaves undone, and says so. One that
// comes when the case is over takes back the policies that it has made for nobody.
func Contain(ctx context.Context, c *kube.Cluster, plan Plan, o Order) (Contained, error) {
	g := &gather{out: Contained{Pods: []Image{}}}
	var made []*networkingv1.NetworkPolicy
	needed := make(map[string]bool) // namespaces in which a pod is not gone, nor let go of
	each(plan.Deny, func(namespace string) {
		pods := 0
		for _, p := range plan.Pods {
			if p.Namespace == namespace {
				pods++
			}
		}
		policy, isNew, err := deny(ctx, c, namespace, o, pods)
		if err != nil {
			g.fail(err)
		}
		if isNew {
			g.with(func(*Contained) { made = append(made, policy) })
		}
	})
	each(plan.Narrow, func(n Narrowed) {
		if err := narrow(ctx, c, n, o); err != nil {
			g.undone(err, fmt.Sprintf("NetworkPolicy %s still lets pods in quarantine through", n.Ref))
		}
	})
	each(plan.Pods, func(p Pod) {
		if !g.cutOff(ctx, c, p, o) {
			g.with(func(*Contained) { needed[p.Namespace] = true })
		}
	})
	each(made, func(policy *networkingv1.NetworkPolicy) {
		if needed[policy.Namespace] {
			return
		}
		if err := takeBack(ctx, c, policy, o); err != nil {
			g.undone(err, "NetworkPolicy "+policy.Name+" stays in namespace "+policy.Namespace+", and denies nobody")
		}
	})
	for _, n := range plan.Cordon {
		if err := cordon(ctx, c, n, o); err != nil {
			g.undone(err, "node "+n.Name+" is not cordoned: kubectl cordon "+n.Name)
		}
	}
	slices.SortFunc(g.out.Pods, func(a, b Image) int { return compare(a.Ref, b.Ref) })
	slices.SortFunc(g.out.Gone, compare)
	slices.Sort(g.out.Remarks)
	return g.out, errors.Join(g.errs...)
}

func compare(a, b Ref) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) }

// undone notes what stays undone for want of a right, or because somebody was faster; an object that is gone needs
// nothing, and anything else is an error.
func (g *gather) undone(err error, remark string) {
	switch {
	case failure.Is(err, failure.MissingObject):
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.PlanVoid):
		g.with(func(c *Contained) { c.Remarks, c.Undone = append(c.Remarks, remark), true })
	default:
		g.fail(err)
	}
}

// each does something for each of many, some at once.
func each[T any](all []T, do func(T)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, one := range all {
		group.Go(func() error {
			do(one)
			return nil
		})
	}
	_ = group.Wait() // it has no errors
}

// deny makes the case's policy of a namespace, or makes it again what it must be. The patch is the whole of it,
// so nothing is read before; when it was not there, it is new.
func deny(ctx context.Context, c *kube.Cluster, namespace string, o Order, pods int) (policy *networkingv1.NetworkPolicy, isNew bool, err error) {
	data, err := json.Marshal(map[string]any{
		"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
		"metadata": map[string]any{
			"name": DenyName(o.Case), "namespace": namespace, "labels": map[string]string{"app.kubernetes.io/managed-by": "upkeep"},
			"annotations": map[string]string{countNote: strconv.Itoa(pods), sinceNote: o.At.UTC().Format(time.RFC3339Nano)},
		},
		"spec": map[string]any{"podSelector": map[string]any{"matchLabels": map[string]string{Label: o.Case}}, "policyTypes": []string{"Ingress", "Egress"}},
	})
	if err != nil {
		return nil, false, fmt.Errorf("encode a policy: %w", err)
	}
	denyBefore.Hit()
	policy = &networkingv1.NetworkPolicy{}
	force, status := true, 0 // only the status tells whether it is new, so it is not the typed client that asks
	err = c.Client.NetworkingV1().RESTClient().Patch(types.ApplyPatchType).Namespace(namespace).Resource("networkpolicies").Name(DenyName(o.Case)).
		VersionedParams(&metav1.PatchOptions{FieldManager: manager, Force: &force}, scheme.ParameterCodec).Body(data).Do(ctx).StatusCode(&status).Into(policy)
	denyAfter.Hit()
	if err != nil {
		return nil, false, kube.Classify(err, "make NetworkPolicy "+DenyName(o.Case)+" in namespace "+namespace)
	}
	return policy, status == http.StatusCreated, nil
}

// takeBack removes a policy that was made for nobody: an attempt that was frozen makes it when it wakes up after the
// case has ended. It stays when a pod has the label, and when a later run of the case has applied its own since: that
// changes it, and the label comes after it.
func takeBack(ctx context.Context, c *kube.Cluster, policy *networkingv1.NetworkPolicy, o Order) error {
	held, err := holders(ctx, c, policy.Namespace, o.Case)
	if err != nil || held != "" {
		return err
	}
	if err := deletePolicy(ctx, c, policy); !failure.Is(err, failure.ObjectConflict) {
		return err
	}
	return nil
}

// narrow excepts pods in quarantine from a policy. What it was stands on it, by case.
func narrow(ctx context.Context, c *kube.Cluster, n Narrowed, o Order) error {
	return again(func() error {
		policy, err := c.Client.NetworkingV1().NetworkPolicies(n.Namespace).Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return kube.Classify(err, "read NetworkPolicy "+n.String())
		}
		note := readException(policy.Annotations)
		selector := policy.Spec.PodSelector
		if h, ok := note.of(o.Case); ok && (h.At.After(o.At) || h.Over && !h.At.Before(o.At) || !h.Over && excepted(selector)) {
			return nil // done, or a later run's
		}
		if !note.needed() {
			if note.Before, err = json.Marshal(selector); err != nil {
				return fmt.Errorf("encode a selector: %w", err)
			}
		}
		if !excepted(selector) {
			selector.MatchExpressions = append(slices.Clone(selector.MatchExpressions), except)
		}
		return reselect(ctx, c, policy, selector.MatchExpressions, note.with(o, false))
	})
}

// reselect gives a policy's selector other expressions, and the policy a note; it holds only for the policy as it
// was read.
func reselect(ctx context.Context, c *kube.Cluster, policy *networkingv1.NetworkPolicy, expressions []metav1.LabelSelectorRequirement, note exception) error {
	text, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	return patch(func(data []byte) error {
		_, err := c.Client.NetworkingV1().NetworkPolicies(policy.Namespace).Patch(ctx, policy.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: manager})
		return kube.Classify(err, "change NetworkPolicy "+policy.Namespace+"/"+policy.Name)
	}, policy, map[string]any{"annotations": map[string]string{Note: string(text)}}, map[string]any{"podSelector": map[string]any{"matchExpressions": expressions}})
}

// patch sends a merge patch that holds only for the object as it was read.
func patch(send func([]byte) error, object metav1.Object, metadata, spec map[string]any) error {
	metadata["resourceVersion"], metadata["uid"] = object.GetResourceVersion(), string(object.GetUID())
	whole := map[string]any{"metadata": metadata}
	if spec != nil {
		whole["spec"] = spec
	}
	data, err := json.Marshal(whole)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	podBefore.Hit()
	err = send(data)
	podAfter.Hit()
	return err
}

// again does something once more as long as somebody else changes the same object.
func again(do func() error) (err error) {
	for range tries {
		if err = do(); !failure.Is(err, failure.ObjectConflict) {
			return err
		}
	}
	return err
}

// cutOff takes a pod's labels away, and puts it into quarantine. It reports whether there is nothing to cut off any
// more: the pod is gone, or the case has let go of it.
func (g *gather) cutOff(ctx context.Context, c *kube.Cluster, p Pod, o Order) (over bool) {
	seen := p.seen() // it is read only if it has changed since it was planned
	err := again(func() error {
		pod, err := seen, error(nil)
		if seen = nil; pod == nil {
			pod, err = c.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) || err == nil && pod.UID != p.UID {
			g.gone(p)
			over = true
			return nil
		}
		if err != nil {
			return kube.Classify(err, "read pod "+p.String())
		}
		taken, note, remark, done := take(pod, p, o)
		if !done {
			switch err := mark(ctx, c, pod, taken, note); {
			case failure.Is(err, failure.MissingObject):
				g.gone(p)
				over = true
				return nil
			case err != nil:
				return err
			}
		}
		over = note.Over
		g.with(func(out *Contained) {
			if remark != "" {
				out.Remarks = append(out.Remarks, remark)
			}
			out.Pods = append(out.Pods, Image{p.Ref, p.UID, note.Labels})
		})
		return nil
	})
	if err != nil {
		g.fail(err)
	}
	return over
}

func (g *gather) gone(p Pod) { g.with(func(out *Contained) { out.Gone = append(out.Gone, p.Ref) }) }

// seen is the pod as it was planned; nil: it is to be read.
func (p Pod) seen() *corev1.Pod {
	if p.Already || p.Version == "" {
		return nil
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.Version, Labels: p.Labels}}
}

// take decides what is taken from a pod: labels by their keys, with nil for those that go; or that all is done.
func take(pod *corev1.Pod, p Pod, o Order) (change map[string]any, n note, remark string, done bool) {
	was, noted := readNote(pod.Annotations)
	ours := noted && was.Case == o.Case
	n = note{Order: o, Labels: make(map[string]string)}
	for _, s := range p.Strip {
		if p.Already { // what an earlier run took
			n.Labels[s.Key] = s.Value
		}
	}
	switch {
	case ours && was.At.After(o.At), ours && was.Over && !was.At.Before(o.At):
		return nil, was, p.String() + " was changed by a later run of the case, and stays as it is", true
	case ours && !was.Over:
		maps.Copy(n.Labels, was.Labels)
	}
	change = map[string]any{Label: o.Case}
	back := false
	for _, s := range p.Strip {
		value, has := pod.Labels[s.Key]
		if !has {
			continue
		}
		change[s.Key] = nil
		if _, known := n.Labels[s.Key]; known && ours && !was.Over {
			back = true
			continue // what it was first is what it gets back
		}
		n.Labels[s.Key] = value
	}
	if ours && !was.Over && was.At.Equal(o.At) && len(change) == 1 && pod.Labels[Label] == o.Case {
		return nil, was, "", true
	}
	if back || ours && !was.Over && was.At.Equal(o.At) {
		remark = "somebody gave " + p.String() + " labels back, and they were taken away again"
	}
	return change, n, remark, false
}

// mark changes a pod's labels and its note in one patch.
func mark(ctx context.Context, c *kube.Cluster, pod *corev1.Pod, change map[string]any, n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	return patch(func(data []byte) error {
		_, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: manager})
		return kube.Classify(err, "change the labels of pod "+pod.Namespace+"/"+pod.Name)
	}, pod, map[string]any{"labels": change, "annotations": map[string]string{Note: string(text)}}, nil)
}

var nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

func (n Cordoned) field() heldfield.Field {
	return heldfield.Field{Resource: nodes, Name: n.Name, Path: []string{"spec", "unschedulable"}, Value: true}
}

func (o Order) held() heldfield.Order {
	return heldfield.Order{Key: o.Case, Target: o.Target, At: o.At}
}

func cordon(ctx context.Context, c *kube.Cluster, n Cordoned, o Order) error {
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return kube.Classify(err, "make a client")
	}
	return n.field().Take(ctx, client, o.held(), heldfield.Facts{UID: n.UID, Before: json.RawMessage(n.Before)}, heldfield.Between(podBefore, podAfter))
}
