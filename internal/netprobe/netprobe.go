// Package netprobe tries which connections come through in a cluster, from pods of Upkeep's own that have
// the labels of others, so that the same policies hold for them.
//
// Such a pod is nobody else's: it has an owner of Upkeep's, so that no controller adopts it for its labels,
// and it is never ready, so that no Service sends anything to it. It has no token, volume or variable, and
// sends nothing over the connections that it opens. What it has found stands in its own status.
package netprobe

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
	labelProbe      = "upkeep.run/probe" // on the pods and their owner: the owner's name
	annotationRun   = "upkeep.run/run"
	annotationRealm = "upkeep.run/realm"
	fieldManager    = "upkeep"
	container       = "probe"
	// never is a condition that nobody sets.
	never = "upkeep.run/never"
	// endWithin is how long pods are given, their start included.
	endWithin = 100 * time.Second
	pollEvery = 300 * time.Millisecond
	// mostLeft bounds what is cleared away at once.
	mostLeft = 500
)

var (
	pointOwner  = fault.NewPoint("probe/owner/after")
	pointPods   = fault.NewPoint("probe/pods/after")
	pointRemove = fault.NewPoint("probe/remove/after")
)

// Options say whose the probes are, and how their pods run.
type Options struct {
	// RunID and Realm are whose they are, for Reap. A run has one set of probes.
	RunID, Realm string
	// Image has Upkeep's own program.
	Image string
	// Command is the program in it.
	Command []string
}

// Probe is one pod, and what it connects to.
type Probe struct {
	Labels map[string]string
	To     []Address
	// Node is where its pod runs, whatever else is to be placed there; "": anywhere.
	Node string
}

// Found is what a probe's pod has found.
type Found struct {
	// Outcomes are in the order of the addresses; none where the pod did not get to it.
	Outcomes []Outcome
	Why      string // why there are none
}

// Of is the outcome for an address.
func (f Found) Of(i int) Outcome {
	if i < len(f.Outcomes) {
		return f.Outcomes[i]
	}
	return Untried
}

// Is reports whether a pod is one that probes.
func Is(p *corev1.Pod) bool { return p.Labels[labelProbe] != "" }

// name is that of what owns the pods of a run.
func (o Options) name() string {
	sum := sha256.Sum256([]byte(o.Realm + "\n" + o.RunID))
	return "upkeep-probes-" + hex.EncodeToString(sum[:6])
}

// Run makes the pods, waits until each has ended, and returns what they have found, in the order of the
// probes. A pod that cannot run has found nothing, and why is said: that is no error. They stay until Remove.
// Done twice, the same pods are found again.
func Run(ctx context.Context, c *kube.Cluster, o Options, probes []Probe) ([]Found, error) {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	owner, err := o.owner(ctx, c)
	if err != nil {
		return nil, err
	}
	pointOwner.Hit()
	found := make([]Found, len(probes))
	names := make(map[string]int, len(probes))
	for i, p := range probes {
		pod := o.pod(owner, i, p)
		_, err := c.Client.CoreV1().Pods(c.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager})
		switch err = kube.Classify(err, "make a pod that probes in namespace "+c.Namespace); {
		case err == nil, failure.Is(err, failure.ObjectConflict): // it is there already
			names[pod.Name] = i
			found[i].Why = "its pod was not seen to end in time"
		case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused): // a quota, an admission policy
			found[i].Why = err.Error()
		default:
			return nil, err
		}
	}
	pointPods.Hit()
	return found, await(ctx, c, owner, names, probes, found)
}

// await reads the pods until all have ended, or the time is over.
func await(ctx context.Context, c *kube.Cluster, owner *corev1.ConfigMap, names map[string]int, probes []Probe, found []Found) error {
	for {
		list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelProbe + "=" + owner.Name, Limit: mostLeft})
		if err != nil && ctx.Err() == nil {
			return kube.Classify(err, "see how the probes in namespace "+c.Namespace+" are")
		}
		left := len(names)
		if err == nil {
			for _, p := range list.Items {
				i, mine := names[p.Name]
				if !mine || !metav1.IsControlledBy(&p, owner) {
					continue
				}
				if over(&p, len(probes[i].To), &found[i]) {
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

// over reports whether a pod has ended, and notes what it has found, or what it waits for.
func over(p *corev1.Pod, n int, f *Found) bool {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			var err error
			f.Why = ""
			if f.Outcomes, err = read(t.Message, n); err != nil {
				f.Why = fmt.Sprintf("its pod ended with exit code %d: %v", t.ExitCode, err)
			}
			return true
		}
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			f.Why = fmt.Sprintf("its pod waits: %s %.200s", w.Reason, w.Message)
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		f.Why = fmt.Sprintf("its pod failed: %s %.200s", p.Status.Reason, p.Status.Message)
		return true
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			f.Why = fmt.Sprintf("its pod is not scheduled: %.200s", c.Message)
		}
	}
	return false
}

// owner makes what owns the pods, or finds it.
func (o Options) owner(ctx context.Context, c *kube.Cluster) (*corev1.ConfigMap, error) {
	maps := c.Client.CoreV1().ConfigMaps(c.Namespace)
	name := o.name()
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{labelProbe: name}, Annotations: o.marks(),
	}}, metav1.CreateOptions{FieldManager: fieldManager})
	err = kube.Classify(err, "make the owner of probes in namespace "+c.Namespace)
	if !failure.Is(err, failure.ObjectConflict) {
		return made, err
	}
	if made, err = maps.Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, kube.Classify(err, "read ConfigMap "+name)
	}
	if made.Annotations[annotationRun] != o.RunID || made.Annotations[annotationRealm] != o.Realm {
		return nil, failure.New(failure.ObjectConflict, "ConfigMap %s in namespace %s is not this run's", name, c.Namespace).Do("see whose it is, and remove it; then resume the run")
	}
	return made, nil
}

func (o Options) marks() map[string]string {
	return map[string]string{annotationRun: o.RunID, annotationRealm: o.Realm}
}

func (o Options) pod(owner *corev1.ConfigMap, i int, p Probe) *corev1.Pod {
	yes, no := true, false
	grace, deadline, user := int64(0), int64(endWithin.Seconds()), int64(10001)
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelProbe] = owner.Name
	command := append([]string{}, o.Command...)
	for _, to := range p.To {
		command = append(command, to.String())
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", owner.Name, i), Labels: labels, Annotations: o.marks(),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			NodeName:      p.Node,
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			TerminationGracePeriodSeconds: &grace, ActiveDeadlineSeconds: &deadline,
			ReadinessGates:  []corev1.PodReadinessGate{{ConditionType: never}},
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: container, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// Remove removes a run's pods and their owner, and waits for nothing; done twice, it finds it done.
func Remove(ctx context.Context, c *kube.Cluster, realm, runID string) error {
	return remove(ctx, c, Options{RunID: runID, Realm: realm}.name(), func(o metav1.Object) bool {
		return o.GetAnnotations()[annotationRun] == runID && o.GetAnnotations()[annotationRealm] == realm
	})
}

// remove removes the pods first, so that none runs without an owner whom a controller would see.
func remove(ctx context.Context, c *kube.Cluster, name string, mine func(metav1.Object) bool) error {
	list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelProbe + "=" + name, Limit: mostLeft})
	if err != nil {
		return kube.Classify(err, "list the probes in namespace "+c.Namespace)
	}
	for _, p := range list.Items {
		if !mine(&p) {
			continue
		}
		err := c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, p.Name, exactly(&p))
		if err = gone(kube.Classify(err, "remove the probe's pod "+p.Name)); err != nil {
			return err
		}
	}
	pointRemove.Hit()
	owner, err := c.Client.CoreV1().ConfigMaps(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return gone(kube.Classify(err, "read ConfigMap "+name))
	}
	if !mine(owner) {
		return nil
	}
	err = c.Client.CoreV1().ConfigMaps(c.Namespace).Delete(ctx, name, exactly(owner))
	return gone(kube.Classify(err, "remove ConfigMap "+name))
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

// Reap removes the probes of a realm's ended runs. Ended reports whether the run of a workflow id is over;
// what it cannot tell stays.
func Reap(ctx context.Context, c *kube.Cluster, realm string, ended func(ctx context.Context, runID string) (bool, error)) error {
	list, err := c.Client.CoreV1().ConfigMaps(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelProbe, Limit: mostLeft})
	if err != nil {
		return kube.Classify(err, "list the owners of probes in namespace "+c.Namespace)
	}
	var all error
	for _, owner := range list.Items {
		if owner.Annotations[annotationRealm] != realm {
			continue
		}
		over, err := ended(ctx, owner.Annotations[annotationRun])
		if err == nil && over {
			err = Remove(ctx, c, realm, owner.Annotations[annotationRun])
		}
		all = errors.Join(all, err)
	}
	return all
}
