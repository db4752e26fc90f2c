package health

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

const (
	page         = 500
	maxWorkloads = 200 // of the release
	maxPods      = 100 // of a workload, the worst first
	maxJobs      = 50
	maxText      = 300 // bytes of what the cluster says
	// endGrace is how long after its grace a deleted pod may still be there.
	endGrace = 30 * time.Second
	// startGrace is how long a program that runs for the first time may take to become ready, unless a
	// startup probe says more.
	startGrace = 30 * time.Second
)

// How Helm, and those who follow its habits, mark what belongs to a release.
const (
	instanceLabel     = "app.kubernetes.io/instance"
	releaseAnnotation = "meta.helm.sh/release-name"
)

// Belongs reports whether an object is of a release. What Helm wrote counts before a label, which charts
// choose as they like.
func Belongs(o metav1.Object, release string) bool {
	if of, ok := o.GetAnnotations()[releaseAnnotation]; ok {
		return of == release
	}
	return release != "" && o.GetLabels()[instanceLabel] == release
}

// Observe looks at a release. It only gets and lists. A release without workloads is a MissingRelease.
func Observe(ctx context.Context, c *kube.Cluster, scope Scope) (State, error) {
	if scope.Release == "" {
		return State{}, failure.New(failure.BadConfig, "the target names no release, so everything in namespace %s would be meant", c.Namespace).
			Do("name it in upkeep.yaml: kubernetes: {release: ...}, and start a new run")
	}
	o := observer{c: c, release: scope.Release, now: time.Now()}
	for _, look := range []func(context.Context) error{o.deployments, o.statefulSets, o.daemonSets} {
		if err := look(ctx); err != nil {
			return State{}, err
		}
	}
	switch {
	case len(o.state.Workloads) == 0:
		return State{}, failure.New(failure.MissingRelease, "no Deployment, StatefulSet or DaemonSet in namespace %s is of release %s", c.Namespace, scope.Release).
			Do("see helm list -n %s, correct kubernetes.namespace or kubernetes.release in upkeep.yaml, and start a new run", c.Namespace)
	case len(o.state.Workloads) > maxWorkloads:
		return State{}, failure.New(failure.BadConfig, "release %s has %d workloads, more than %d", scope.Release, len(o.state.Workloads), maxWorkloads)
	}
	slices.SortFunc(o.state.Workloads, func(a, b Workload) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	owners, err := o.owners(ctx)
	if err != nil {
		return State{}, err
	}
	pods, err := o.pods(ctx, owners)
	if err != nil {
		return State{}, err
	}
	if err := o.jobs(ctx); err != nil {
		return State{}, err
	}
	for _, p := range scope.Probes {
		a, err := p.Ask(ctx, c)
		if err != nil {
			return State{}, err
		}
		if a.Workloads, err = o.behind(ctx, p.Service, pods); err != nil {
			return State{}, err
		}
		o.state.Answers = append(o.state.Answers, a)
	}
	return o.state, nil
}

type observer struct {
	c       *kube.Cluster
	release string
	now     time.Time
	state   State
}

// add adds a workload, and what its own metadata says about who else acts on it.
func (o *observer) add(w Workload, of metav1.Object, err error) error {
	w.Owners, w.Marked = ownership.Detect(of, o.now), itself.Marked(of)
	o.state.Workloads = append(o.state.Workloads, w)
	return err
}

func (o *observer) deployments(ctx context.Context) error {
	return kube.Pages("list the Deployments in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := o.c.Client.AppsV1().Deployments(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			if d := &list.Items[i]; Belongs(d, o.release) {
				w, err := ofDeployment(d)
				if err := o.add(w, d, err); err != nil {
					return "", 0, err
				}
			}
		}
		return list.Continue, len(list.Items), nil
	})
}

func ofDeployment(d *appsv1.Deployment) (w Workload, err error) {
	w = Workload{
		Kind: Deployment, Name: d.Name, UID: string(d.UID), Generation: d.Generation, Observed: d.Status.ObservedGeneration,
		Desired: replicas(d.Spec.Replicas), Total: d.Status.Replicas, Updated: d.Status.UpdatedReplicas, Ready: d.Status.ReadyReplicas, Available: d.Status.AvailableReplicas,
		Paused: d.Spec.Paused,
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			w.Refused = clip(c.Message)
		}
	}
	w.Touched, err = itself.Describe(w.Kind, d, d.Spec.Selector, d.Spec.Template.Labels)
	return w, err
}

func (o *observer) statefulSets(ctx context.Context) error {
	return kube.Pages("list the StatefulSets in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := o.c.Client.AppsV1().StatefulSets(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			if s := &list.Items[i]; Belongs(s, o.release) {
				w, err := ofStatefulSet(s)
				if err := o.add(w, s, err); err != nil {
					return "", 0, err
				}
			}
		}
		return list.Continue, len(list.Items), nil
	})
}

func ofStatefulSet(s *appsv1.StatefulSet) (w Workload, err error) {
	w = Workload{
		Kind: StatefulSet, Name: s.Name, UID: string(s.UID), Generation: s.Generation, Observed: s.Status.ObservedGeneration,
		Desired: replicas(s.Spec.Replicas), Total: s.Status.Replicas, Updated: s.Status.UpdatedReplicas, Ready: s.Status.ReadyReplicas, Available: s.Status.AvailableReplicas,
		OnDelete: s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType, Revision: s.Status.UpdateRevision,
	}
	if s.Status.CurrentRevision == s.Status.UpdateRevision {
		w.Updated = max(w.Updated, s.Status.CurrentReplicas) // it counts them only while it replaces them
	}
	if u := s.Spec.UpdateStrategy.RollingUpdate; u != nil && u.Partition != nil && *u.Partition > 0 {
		w.Updated = max(w.Updated, min(w.Desired, *u.Partition+w.Updated)) // those below are to stay as they are
	}
	w.Touched, err = itself.Describe(w.Kind, s, s.Spec.Selector, s.Spec.Template.Labels)
	return w, err
}

func (o *observer) daemonSets(ctx context.Context) error {
	return kube.Pages("list the DaemonSets in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := o.c.Client.AppsV1().DaemonSets(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			if d := &list.Items[i]; Belongs(d, o.release) {
				w, err := ofDaemonSet(d)
				if err := o.add(w, d, err); err != nil {
					return "", 0, err
				}
			}
		}
		return list.Continue, len(list.Items), nil
	})
}

func ofDaemonSet(d *appsv1.DaemonSet) (w Workload, err error) {
	w = Workload{
		Kind: DaemonSet, Name: d.Name, UID: string(d.UID), Generation: d.Generation, Observed: d.Status.ObservedGeneration,
		Desired: d.Status.DesiredNumberScheduled, Total: d.Status.CurrentNumberScheduled, Updated: d.Status.UpdatedNumberScheduled, Ready: d.Status.NumberReady, Available: d.Status.NumberAvailable,
		OnDelete: d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType, Revision: d.Annotations[appsv1.DeprecatedTemplateGeneration],
	}
	w.Touched, err = itself.Describe(w.Kind, d, d.Spec.Selector, d.Spec.Template.Labels)
	return w, err
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// owners maps the UID of what owns pods to the place of its workload; ReplicaSets stand for their
// Deployments, whose newest revision they tell.
func (o *observer) owners(ctx context.Context) (map[string]int, error) {
	at := make(map[string]int)
	for i, w := range o.state.Workloads {
		at[w.UID] = i
	}
	client, err := metadata.NewForConfig(o.c.Config)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	newest := make(map[int]string)
	err = kube.Pages("list the ReplicaSets in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := client.Resource(appsv1.SchemeGroupVersion.WithResource("replicasets")).Namespace(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			m := &list.Items[i]
			owner := metav1.GetControllerOf(m)
			if owner == nil {
				continue
			}
			if d, ok := at[string(owner.UID)]; ok {
				at[string(m.UID)] = d
				if number := m.Annotations["deployment.kubernetes.io/revision"]; later(number, newest[d]) {
					newest[d], o.state.Workloads[d].Revision = number, m.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
				}
			}
		}
		return list.Continue, len(list.Items), nil
	})
	return at, err
}

// later compares two whole numbers that are written without leading zeros.
func later(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }

// labelled is a pod's labels, and the place of its workload.
type labelled struct {
	labels   map[string]string
	workload int
}

func (o *observer) pods(ctx context.Context, owners map[string]int) ([]labelled, error) {
	var all []labelled
	err := kube.Pages("list the pods in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := o.c.Client.CoreV1().Pods(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			p := &list.Items[i]
			owner := metav1.GetControllerOf(p)
			if owner == nil {
				continue
			}
			at, ok := owners[string(owner.UID)]
			if !ok {
				continue
			}
			w := &o.state.Workloads[at]
			w.Pods = append(w.Pods, ofPod(p, w, o.now))
			all = append(all, labelled{p.Labels, at})
		}
		return list.Continue, len(list.Items), nil
	})
	for i := range o.state.Workloads {
		w := &o.state.Workloads[i]
		slices.SortFunc(w.Pods, func(a, b Pod) int { return cmp.Or(btoi(a.Ready)-btoi(b.Ready), cmp.Compare(a.Name, b.Name)) })
		w.Pods = w.Pods[:min(len(w.Pods), maxPods)]
	}
	return all, err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// behind returns the workloads whose pods a Service leads to.
func (o *observer) behind(ctx context.Context, service string, pods []labelled) ([]string, error) {
	s, err := o.c.Client.CoreV1().Services(o.c.Namespace).Get(ctx, service, metav1.GetOptions{})
	if err != nil {
		err = kube.Classify(err, "find Service "+service+" in namespace "+o.c.Namespace)
		if failure.Is(err, failure.MissingObject) {
			return nil, nil // the probe says so
		}
		return nil, err
	}
	if len(s.Spec.Selector) == 0 {
		return nil, nil
	}
	seen := make(map[int]bool)
	var names []string
	for _, p := range pods {
		matches := true
		for k, v := range s.Spec.Selector {
			matches = matches && p.labels[k] == v
		}
		if matches && !seen[p.workload] {
			seen[p.workload] = true
			names = append(names, o.state.Workloads[p.workload].String())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (o *observer) jobs(ctx context.Context) error {
	return kube.Pages("list the Jobs in namespace "+o.c.Namespace, func(options metav1.ListOptions) (string, int, error) {
		list, err := o.c.Client.BatchV1().Jobs(o.c.Namespace).List(ctx, options)
		if err != nil {
			return "", 0, err
		}
		for i := range list.Items {
			j := &list.Items[i]
			if !Belongs(j, o.release) || len(o.state.Jobs) == maxJobs {
				continue
			}
			job := Job{Name: j.Name, Active: j.Status.Active}
			for _, c := range j.Status.Conditions {
				job.Done = job.Done || c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
				job.Failed = job.Failed || c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue
			}
			o.state.Jobs = append(o.state.Jobs, job)
		}
		return list.Continue, len(list.Items), nil
	})
}

// ofPod says how a pod is.
func ofPod(p *corev1.Pod, w *Workload, now time.Time) Pod {
	out := Pod{Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName, Since: p.CreationTimestamp.UTC(), Made: p.CreationTimestamp.UTC()}
	switch w.Kind {
	case Deployment:
		out.Newest = w.Revision != "" && p.Labels[appsv1.DefaultDeploymentUniqueLabelKey] == w.Revision
	case StatefulSet:
		out.Newest = w.Revision != "" && p.Labels[appsv1.ControllerRevisionHashLabelKey] == w.Revision
	case DaemonSet:
		out.Newest = w.Revision != "" && p.Labels[appsv1.DeprecatedTemplateGeneration] == w.Revision
	}
	for _, s := range p.Status.ContainerStatuses {
		out.Restarts = max(out.Restarts, s.RestartCount)
	}
	ready, containers := condition(p, corev1.PodReady), condition(p, corev1.ContainersReady)
	if ready != nil {
		out.Since = ready.LastTransitionTime.UTC()
		out.Ready = ready.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
	}
	if out.Ready {
		return out
	}
	out.Reason, out.Detail = reason(p, ready, containers, now)
	out.Detail = clip(out.Detail)
	return out
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	if at := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind }); at >= 0 {
		return &p.Status.Conditions[at]
	}
	return nil
}

func reason(p *corev1.Pod, ready, containers *corev1.PodCondition, now time.Time) (Reason, string) {
	// The control plane alone takes Ready away from a pod whose node is silent; what the node last said of
	// its containers stays. That needs no right to look at nodes.
	lost := p.Status.Reason == "NodeLost" || len(p.Spec.ReadinessGates) == 0 &&
		ready != nil && ready.Status != corev1.ConditionTrue && containers != nil && containers.Status == corev1.ConditionTrue
	if d := condition(p, corev1.DisruptionTarget); d != nil && d.Reason == "DeletionByTaintManager" && p.DeletionTimestamp != nil && containers != nil && containers.Status == corev1.ConditionTrue {
		lost = true
	}
	switch {
	case lost:
		return NodeLost, p.Spec.NodeName
	case p.DeletionTimestamp != nil && now.Sub(p.DeletionTimestamp.Time) > endGrace: // the time already has the grace in it
		return StuckEnding, strings.Join(p.Finalizers, ", ")
	case p.DeletionTimestamp != nil:
		return Ending, ""
	case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
		return Ended, cmp.Or(p.Status.Reason, string(p.Status.Phase))
	}
	if s := condition(p, corev1.PodScheduled); s != nil && s.Status == corev1.ConditionFalse {
		if strings.Contains(s.Message, "PersistentVolumeClaim") || strings.Contains(s.Message, "persistentvolumeclaim") {
			return VolumePending, s.Message
		}
		return Unschedulable, s.Message
	}
	found, detail := Reason(""), ""
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		r, d := ofContainer(s)
		if r == NotReady && comesUp(s, ready, now) {
			r, d = Starting, ""
		}
		if severity[r] > severity[found] {
			found, detail = r, d
		}
	}
	if found == "" && p.Status.Phase == corev1.PodPending {
		return Starting, ""
	}
	return cmp.Or(found, NotReady), detail
}

// comesUp reports whether a program that runs for the first time may just need its time to become ready,
// which it has not been yet.
func comesUp(s corev1.ContainerStatus, ready *corev1.PodCondition, now time.Time) bool {
	at := s.State.Running.StartedAt
	return s.RestartCount == 0 && now.Sub(at.Time) < startGrace && ready != nil && !ready.LastTransitionTime.After(at.Time)
}

// severity orders what is found in containers: the worst is told.
var severity = map[Reason]int{"": 0, Starting: 1, NotReady: 2, CrashLoop: 3, OutOfMemory: 4, BadReference: 5, ImagePull: 6}

func ofContainer(s corev1.ContainerStatus) (Reason, string) {
	killed := s.LastTerminationState.Terminated
	if s.State.Terminated != nil {
		killed = s.State.Terminated
	}
	if w := s.State.Waiting; w != nil {
		switch w.Reason {
		case "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable":
			return ImagePull, s.Image
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return BadReference, w.Message
		case "CrashLoopBackOff":
			if killed != nil && killed.Reason == "OOMKilled" {
				return OutOfMemory, "container " + s.Name
			}
			return CrashLoop, ended(s.Name, killed)
		}
		return Starting, ""
	}
	if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
		if t.Reason == "OOMKilled" {
			return OutOfMemory, "container " + s.Name
		}
		return CrashLoop, ended(s.Name, t)
	}
	if s.State.Running != nil && !s.Ready && s.Started != nil {
		if !*s.Started {
			return Starting, ""
		}
		return NotReady, "container " + s.Name
	}
	return "", ""
}

func ended(name string, t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return "container " + name
	}
	return fmt.Sprintf("container %s ended with %d", name, t.ExitCode)
}

// clip bounds what the cluster says, and keeps it to one line.
func clip(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + " ..."
	}
	return text
}
