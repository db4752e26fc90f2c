package helmrelease

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/pace"
)

const (
	// hookAnnotation says on a hook's object which operation made it, at which event.
	hookAnnotation = "upkeep.run/hook"
	// keepEnded is how long, at least, a Job stays after its end, so that the end is seen.
	keepEnded = time.Hour
	// maxLog is how much of the log's end an error shows, in bytes; readLog is how much is read.
	maxLog  = 4 << 10
	readLog = 64 << 10
)

var (
	effectHook    = effect{fault.NewPoint("helm/hook/before"), fault.NewPoint("helm/hook/after")}
	effectHookEnd = effect{fault.NewPoint("helm/hookend/before"), fault.NewPoint("helm/hookend/after")}
	effectUnhook  = effect{fault.NewPoint("helm/unhook/before"), fault.NewPoint("helm/unhook/after")}
)

// effect is the two places around an outside effect where tests stop the process.
type effect struct{ before, after fault.Point }

// hookState is how a hook's object stands.
type hookState int

const (
	hookAbsent hookState = iota
	hookGoing            // it is being deleted
	hookActive
	hookSucceeded
	hookFailed
)

// judge says how a hook's object stands, and whether it is of the operation with that tag.
func judge(live *unstructured.Unstructured, tag string) (state hookState, mine bool) {
	if live == nil {
		return hookAbsent, false
	}
	mine = live.GetAnnotations()[hookAnnotation] == tag
	if live.GetDeletionTimestamp() != nil {
		return hookGoing, mine
	}
	switch live.GroupVersionKind().GroupKind().String() {
	case "Job.batch":
		conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
		for _, c := range conditions {
			condition, _ := c.(map[string]any)
			switch {
			case condition["status"] != "True":
			case condition["type"] == "Complete":
				return hookSucceeded, mine
			case condition["type"] == "Failed":
				return hookFailed, mine
			}
		}
		return hookActive, mine
	case "Pod":
		switch phase, _, _ := unstructured.NestedString(live.Object, "status", "phase"); phase {
		case string(corev1.PodSucceeded):
			return hookSucceeded, mine
		case string(corev1.PodFailed):
			return hookFailed, mine
		}
		return hookActive, mine
	}
	return hookSucceeded, mine // it only has to be there
}

// hooksAt are the hooks of an event, in Helm's order.
func hooksAt(rel *release.Release, event string) []*release.Hook {
	var of []*release.Hook
	for _, h := range rel.Hooks {
		if slices.Contains(h.Events, release.HookEvent(event)) {
			of = append(of, h)
		}
	}
	slices.SortStableFunc(of, func(a, b *release.Hook) int { return byWeight(a.Weight, b.Weight, a.Name, b.Name) })
	return of
}

// policies are a hook's, with Helm's default.
func policies(h *release.Hook) []release.HookDeletePolicy {
	if len(h.DeletePolicies) == 0 {
		return []release.HookDeletePolicy{release.HookBeforeHookCreation}
	}
	return h.DeletePolicies
}

// runHooks runs those of an event that have not run. Whatever is there and works is waited for, never
// deleted: a migration that is killed halfway may leave a database that nobody can use.
func (o *operation) runHooks(event string) error {
	hooks := hooksAt(o.rec.release, event)
	for i, h := range hooks {
		err := o.runHook(event, h)
		if failure.Is(err, failure.HookFailed) {
			if cleaned := o.clean(event, hooks[i:i+1], release.HookFailed); cleaned != nil {
				return cleaned
			}
			if cleaned := o.clean(event, hooks[:i], release.HookSucceeded); cleaned != nil {
				return cleaned
			}
		}
		if err != nil {
			return err
		}
	}
	slices.Reverse(hooks)
	return o.clean(event, hooks, release.HookSucceeded)
}

func (o *operation) runHook(event string, h *release.Hook) error {
	infos, err := o.client.kube.Build(bytes.NewBufferString(h.Manifest), true)
	if err != nil {
		return o.applying(err, fmt.Sprintf("read the %s hook %s", event, h.Name))
	}
	for _, info := range infos {
		if err := o.runHookObject(event, h, info); err != nil {
			return err
		}
	}
	return nil
}

func nameOf(info *resource.Info) string {
	return fmt.Sprintf("%s %s", info.Mapping.GroupVersionKind.Kind, info.Name)
}

// journalKey is a hook's name in the journal: hooks of two namespaces may have one name.
func journalKey(info *resource.Info) string {
	return fmt.Sprintf("%s %s/%s", info.Mapping.GroupVersionKind.GroupKind(), info.Namespace, info.Name)
}

func (o *operation) runHookObject(event string, h *release.Hook, info *resource.Info) error {
	name, key := nameOf(info), journalKey(info)
	tag := fmt.Sprintf("%s/%s", operationValue(o.order.Operation, o.rec.number), event)
	at := o.fence.hook(event, key)
	ended := func(end string) error {
		effectHookEnd.before.Hit()
		at.End = end
		if err := o.note(func(j *journal) { *j.hook(event, key) = at }); err != nil {
			return err
		}
		effectHookEnd.after.Hit()
		h.LastRun.CompletedAt, h.LastRun.Phase = helmtime.Now(), release.HookPhaseSucceeded
		if end == "failed" {
			h.LastRun.Phase = release.HookPhaseFailed
			return nil // the record is written when it is made a failed one
		}
		return o.write()
	}
	for began := time.Now(); at.End == ""; {
		live, err := o.get(info)
		if err != nil {
			return err
		}
		state, mine := judge(live, tag)
		if mine && at.UID == "" {
			at.UID = string(live.GetUID()) // made by an attempt that did not come to write it down
			if err := o.note(func(j *journal) { *j.hook(event, key) = at }); err != nil {
				return err
			}
		}
		switch {
		case state == hookAbsent && at.UID != "":
			return o.hookFailed(event, info, nil, "was deleted by somebody before its end was seen, so whether it did its work is unknown")
		case state == hookAbsent:
			h.LastRun = release.HookExecution{StartedAt: helmtime.Now(), Phase: release.HookPhaseRunning}
			if err := o.create(info, tag); err != nil && !apierrors.IsAlreadyExists(err) {
				return o.applying(err, fmt.Sprintf("make the %s hook %s", event, name))
			}
			continue
		case mine && state == hookSucceeded:
			if err := ended("succeeded"); err != nil {
				return err
			}
			continue
		case mine && state == hookFailed:
			err := o.hookFailed(event, info, live, "failed")
			if err := ended("failed"); err != nil {
				return err
			}
			return err
		case !mine && (state == hookSucceeded || state == hookFailed):
			if info.Mapping.GroupVersionKind.Kind == "CustomResourceDefinition" {
				return nil // whose deletion would take everything of its kind with it
			}
			if !slices.Contains(policies(h), release.HookBeforeHookCreation) {
				return o.hookFailed(event, info, nil, "cannot be made: one of an earlier operation is there, and the chart does not say that it may be deleted")
			}
			if err := o.remove(info, live.GetUID()); err != nil {
				return err
			}
			continue
		case mine:
			o.beat("%s hook %s runs", event, name)
		case state == hookActive:
			o.beat("waits for %s, which runs since %s and is not of this operation", name, live.GetCreationTimestamp().UTC().Format(time.RFC3339))
		default:
			o.beat("waits until %s is gone", name)
		}
		if !pause(o.ctx, pace.Next(began, pollEvery)) {
			return stopped(o.ctx, fmt.Sprintf("see the end of the %s hook %s", event, name))
		}
	}
	if at.End == "failed" { // an attempt that was killed before it made the record a failed one
		return o.hookFailed(event, info, nil, "failed")
	}
	return nil
}

// get returns the live object; nil when there is none.
func (o *operation) get(info *resource.Info) (*unstructured.Unstructured, error) {
	is, err := resource.NewHelper(info.Client, info.Mapping).Get(info.Namespace, info.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Classify(err, "look at "+nameOf(info))
	}
	live, ok := is.(*unstructured.Unstructured)
	if !ok {
		return nil, failure.New(failure.Internal, "%s is not what was asked for", nameOf(info))
	}
	return live, nil
}

// create makes a hook's object, marked as the operation's.
func (o *operation) create(info *resource.Info, tag string) error {
	body := info.Object.(*unstructured.Unstructured).DeepCopy()
	annotations := body.GetAnnotations()
	if annotations == nil {
		annotations = make(map[string]string)
	}
	annotations[hookAnnotation] = tag
	body.SetAnnotations(annotations)
	if ttl, found, _ := unstructured.NestedInt64(body.Object, "spec", "ttlSecondsAfterFinished"); found && body.GetKind() == "Job" {
		_ = unstructured.SetNestedField(body.Object, max(ttl, int64(keepEnded/time.Second)), "spec", "ttlSecondsAfterFinished")
	}
	effectHook.before.Hit()
	_, err := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(fieldManager).Create(info.Namespace, true, body)
	if err == nil {
		effectHook.after.Hit()
	}
	return err
}

// remove deletes the object with that UID, if it is there, and waits until it is gone.
func (o *operation) remove(info *resource.Info, uid types.UID) error {
	background := metav1.DeletePropagationBackground
	effectUnhook.before.Hit()
	_, err := resource.NewHelper(info.Client, info.Mapping).DeleteWithOptions(info.Namespace, info.Name, &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background,
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return kube.Classify(err, "delete "+nameOf(info))
	}
	effectUnhook.after.Hit()
	for began := time.Now(); ; {
		live, err := o.get(info)
		if err != nil || live == nil || live.GetUID() != uid {
			return err
		}
		o.beat("waits until %s is gone", nameOf(info))
		if !pause(o.ctx, pace.Next(began, pollEvery)) {
			return stopped(o.ctx, "delete "+nameOf(info))
		}
	}
}

// clean deletes the hooks whose policy says so at such an end. What another operation made is left alone.
func (o *operation) clean(event string, hooks []*release.Hook, policy release.HookDeletePolicy) error {
	for _, h := range hooks {
		if !slices.Contains(policies(h), policy) || h.Kind == "CustomResourceDefinition" {
			continue
		}
		infos, err := o.client.kube.Build(bytes.NewBufferString(h.Manifest), false)
		if err != nil {
			return o.applying(err, fmt.Sprintf("read the %s hook %s", event, h.Name))
		}
		for _, info := range infos {
			at := o.fence.hook(event, journalKey(info))
			if at.UID == "" || at.End == "" {
				continue
			}
			if err := o.remove(info, types.UID(at.UID)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *operation) hookFailed(event string, info *resource.Info, live *unstructured.Unstructured, how string) error {
	text := fmt.Sprintf("the %s hook %s of release %q %s", event, nameOf(info), o.r.name, how)
	if live != nil {
		if said := o.logOf(live); said != "" {
			text += "; its log ends with:\n" + said
		}
	}
	return failure.New(failure.HookFailed, "%s", text).Do("see kubectl --namespace %s describe %s %s", info.Namespace, strings.ToLower(info.Mapping.GroupVersionKind.Kind), info.Name)
}

// logOf is the end of what a hook's newest pod wrote, without the values of the release's Secrets.
func (o *operation) logOf(live *unstructured.Unstructured) string {
	ctx, cancel := context.WithTimeout(o.ctx, requestWithin)
	defer cancel()
	pods := o.client.set.CoreV1().Pods(live.GetNamespace())
	options := metav1.ListOptions{LabelSelector: "job-name=" + live.GetName(), Limit: 100}
	if live.GetKind() == "Pod" {
		options = metav1.ListOptions{FieldSelector: "metadata.name=" + live.GetName()}
	}
	list, err := pods.List(ctx, options)
	if err != nil || len(list.Items) == 0 {
		return ""
	}
	pod := slices.MaxFunc(list.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	container := pod.Spec.Containers[0].Name
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
			container = s.Name
			break
		}
	}
	lines, most := int64(100), int64(readLog)
	stream, err := pods.GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, TailLines: &lines, LimitBytes: &most}).Stream(ctx)
	if err != nil {
		return ""
	}
	defer func() { _ = stream.Close() }()
	raw, _ := io.ReadAll(io.LimitReader(stream, readLog))
	r, err := renderingOf(o.rec.release)
	if err != nil {
		return ""
	}
	return tail(hideLogins(hider(r.all()...)(string(raw))), maxLog)
}

var login = regexp.MustCompile(`://[^/\s:@]*:[^/\s@]+@`)

// hideLogins takes passwords out of URLs.
func hideLogins(text string) string { return login.ReplaceAllString(text, "://(hidden)@") }

// tail is the end of a text, from the beginning of a line.
func tail(text string, most int) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, ""))
	if len(text) <= most {
		return text
	}
	text = text[len(text)-most:]
	if _, rest, found := strings.Cut(text, "\n"); found {
		text = rest
	}
	return strings.ToValidUTF8(text, "")
}
