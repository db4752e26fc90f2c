// Package ownpod makes pods of Upkeep's own that live for one step of a run, and takes them away.
//
// Such a pod is nobody else's: it has an owner of Upkeep's, so that no controller adopts it for its labels, and
// it has no token and no variables of Services. By the owner it is found again, whatever has died: by the same
// step, at the end of the run, and by later runs.
package ownpod

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	label           = "upkeep.run/probe" // on the pods and their owner: the owner's name
	annotationRun   = "upkeep.run/run"
	annotationRealm = "upkeep.run/realm"
	fieldManager    = "upkeep"
	pollEvery       = 300 * time.Millisecond
	// most bounds what is cleared away at once.
	most = 500
)

var (
	pointOwner  = fault.NewPoint("probe/owner/after")
	pointPods   = fault.NewPoint("probe/pods/after")
	pointRemove = fault.NewPoint("probe/remove/after")
)

// Group says whose the pods of one step are.
type Group struct {
	// RunID and Realm are the run's, for Remove and Reap.
	RunID, Realm string
	// Kind is what the pods are, in one word, and Look tells one set of them in a run from the next; "": there is
	// one.
	Kind, Look string
}

// Is reports whether a pod is one of these.
func Is(p *corev1.Pod) bool { return p.Labels[label] != "" }

// Name is that of what owns the pods.
func (g Group) Name() string {
	sum := sha256.Sum256([]byte(g.Realm + "\n" + g.RunID + g.Look))
	return "upkeep-" + g.Kind + "-" + hex.EncodeToString(sum[:6])
}

func (g Group) marks() map[string]string {
	return map[string]string{annotationRun: g.RunID, annotationRealm: g.Realm}
}

// Set are the pods of a group that are there.
type Set struct {
	Owner *corev1.ConfigMap
	names map[string]int // of pods, and which of those that were asked for they are
}

// Make makes the pods. Refused says for each why it may not be, such as for a quota or an admission policy; "": it
// is there. Done twice, the same pods are found again.
func (g Group) Make(ctx context.Context, c *kube.Cluster, pods []corev1.Pod) (s Set, refused []string, err error) {
	if s.Owner, err = g.owner(ctx, c); err != nil {
		return s, nil, err
	}
	pointOwner.Hit()
	refused, s.names = make([]string, len(pods)), make(map[string]int, len(pods))
	for i := range pods {
		pod := g.Own(s.Owner, i, pods[i])
		_, err := c.Client.CoreV1().Pods(c.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager})
		switch err = kube.Classify(err, fmt.Sprintf("make a pod of Upkeep's own (%s) in namespace %s", pod.Name, c.Namespace)); {
		case err == nil, failure.Is(err, failure.ObjectConflict): // it is there already
			s.names[pod.Name] = i
		case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused):
			refused[i] = err.Error()
		default:
			return s, nil, err
		}
	}
	pointPods.Hit()
	return s, refused, nil
}

// Own makes a pod one of the group's.
func (g Group) Own(owner *corev1.ConfigMap, i int, pod corev1.Pod) *corev1.Pod {
	yes, no, grace := true, false, int64(0)
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Name, pod.Labels[label], pod.Annotations = fmt.Sprintf("%s-%d", owner.Name, i), owner.Name, g.marks()
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: &yes}}
	pod.Spec.RestartPolicy, pod.Spec.AutomountServiceAccountToken, pod.Spec.EnableServiceLinks = corev1.RestartPolicyNever, &no, &no
	pod.Spec.TerminationGracePeriodSeconds = &grace
	return &pod
}

// Await looks at the pods until over says of each that it has ended, or the time is over, which is no error.
func (s Set) Await(ctx context.Context, c *kube.Cluster, over func(i int, p *corev1.Pod) bool) error {
	for {
		list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: label + "=" + s.Owner.Name, Limit: most})
		if err != nil && ctx.Err() == nil {
			return kube.Classify(err, "see how the pods of Upkeep's own in namespace "+c.Namespace+" are")
		}
		left := len(s.names)
		if err == nil {
			for _, p := range list.Items {
				i, mine := s.names[p.Name]
				if mine && metav1.IsControlledBy(&p, s.Owner) && over(i, &p) {
					left--
				}
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return nil
		}
	}
}

// Waits says what a pod waits for, or why it has failed; "" when neither is known.
func Waits(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodFailed && p.Status.Reason != "" {
		return fmt.Sprintf("its pod failed: %s %.200s", p.Status.Reason, p.Status.Message)
	}
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			return fmt.Sprintf("its pod waits: %s %.200s", w.Reason, w.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("its pod is not scheduled: %.200s", c.Message)
		}
	}
	return ""
}

// owner makes what owns the pods, or finds it.
func (g Group) owner(ctx context.Context, c *kube.Cluster) (*corev1.ConfigMap, error) {
	all := c.Client.CoreV1().ConfigMaps(c.Namespace)
	name := g.Name()
	made, err := all.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{label: name}, Annotations: g.marks(),
	}}, metav1.CreateOptions{FieldManager: fieldManager})
	err = kube.Classify(err, "make the owner of pods of Upkeep's own in namespace "+c.Namespace)
	if !failure.Is(err, failure.ObjectConflict) {
		return made, err
	}
	if made, err = all.Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, kube.Classify(err, "read ConfigMap "+name)
	}
	if made.Annotations[annotationRun] != g.RunID || made.Annotations[annotationRealm] != g.Realm {
		return nil, failure.New(failure.ObjectConflict, "ConfigMap %s in namespace %s is not this run's", name, c.Namespace).Do("see whose it is, and remove it; then resume the run")
	}
	return made, nil
}

// Remove removes all pods of a run and their owners, and waits for nothing; done twice, it finds it done.
func Remove(ctx context.Context, c *kube.Cluster, realm, runID string) error {
	owners, err := owners(ctx, c)
	if err != nil {
		return err
	}
	var all error
	for i := range owners {
		if mine(&owners[i], realm, runID) {
			all = errors.Join(all, remove(ctx, c, &owners[i], realm, runID))
		}
	}
	return all
}

func mine(o metav1.Object, realm, runID string) bool {
	return o.GetAnnotations()[annotationRun] == runID && o.GetAnnotations()[annotationRealm] == realm
}

func owners(ctx context.Context, c *kube.Cluster) ([]corev1.ConfigMap, error) {
	list, err := c.Client.CoreV1().ConfigMaps(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: label, Limit: most})
	if err != nil {
		return nil, kube.Classify(err, "list the owners of pods of Upkeep's own in namespace "+c.Namespace)
	}
	return list.Items, nil
}

// remove removes the pods first, so that none runs without an owner whom a controller would see.
func remove(ctx context.Context, c *kube.Cluster, owner *corev1.ConfigMap, realm, runID string) error {
	list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: label + "=" + owner.Name, Limit: most})
	if err != nil {
		return kube.Classify(err, "list the pods of Upkeep's own in namespace "+c.Namespace)
	}
	for _, p := range list.Items {
		if !mine(&p, realm, runID) {
			continue
		}
		err := c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, p.Name, exactly(&p))
		if err = gone(kube.Classify(err, "remove pod "+p.Name)); err != nil {
			return err
		}
	}
	pointRemove.Hit()
	if owner, err = c.Client.CoreV1().ConfigMaps(c.Namespace).Get(ctx, owner.Name, metav1.GetOptions{}); err != nil {
		return gone(kube.Classify(err, "read the owner of pods of Upkeep's own in namespace "+c.Namespace))
	}
	if !mine(owner, realm, runID) {
		return nil
	}
	err = c.Client.CoreV1().ConfigMaps(c.Namespace).Delete(ctx, owner.Name, exactly(owner))
	return gone(kube.Classify(err, "remove ConfigMap "+owner.Name))
}

func exactly(o metav1.Object) metav1.DeleteOptions {
	uid := o.GetUID()
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
}

// gone: what is there no more has been removed.
func gone(err error) error {
	if failure.Is(err, failure.MissingObject) || failure.Is(err, failure.ObjectConflict) {
		return nil
	}
	return err
}

// Reap removes the pods of a realm's ended runs. Ended reports whether the run of a workflow id is over; what it
// cannot tell stays.
func Reap(ctx context.Context, c *kube.Cluster, realm string, ended func(ctx context.Context, runID string) (bool, error)) error {
	owners, err := owners(ctx, c)
	if err != nil {
		return err
	}
	var all error
	for i := range owners {
		runID := owners[i].Annotations[annotationRun]
		if owners[i].Annotations[annotationRealm] != realm {
			continue
		}
		over, err := ended(ctx, runID)
		if err == nil && over {
			err = remove(ctx, c, &owners[i], realm, runID)
		}
		all = errors.Join(all, err)
	}
	return all
}
