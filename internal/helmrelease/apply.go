package helmrelease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/pace"
)

// How Helm marks what is a release's.
const (
	managedBy        = "app.kubernetes.io/managed-by"
	ownedByRelease   = "meta.helm.sh/release-name"
	ownedByNamespace = "meta.helm.sh/release-namespace"
)

// applyObjects brings the objects from one record's state to the other's. Done twice, it finds it done:
// what a killed attempt has made carries the release's name, and is taken as it is.
func (o *operation) applyObjects(current *record, target helmkube.ResourceList) error {
	from, err := o.client.kube.Build(bytes.NewBufferString(current.release.Manifest), false)
	if err != nil {
		return o.applying(err, fmt.Sprintf("read the objects of revision %d", current.number))
	}
	for _, info := range target {
		if from.Get(info) == nil {
			live, err := o.get(info)
			if err != nil {
				return err
			}
			if live != nil && !owned(live, o.r.name, o.r.namespace) {
				return failure.New(failure.ApplyFailed, "%s is there and is not of release %q", nameOf(info), o.r.name).
					Do("delete or rename it, or give it Helm's labels if the release may take it over")
			}
			if live != nil {
				from.Append(info)
			}
		}
		own(info.Object.(*unstructured.Unstructured), o.r.name, o.r.namespace)
	}
	o.client.answers.reset()
	o.apply.Store(true)
	defer o.apply.Store(false)
	const doing = "apply the objects of the release"
	if _, err = o.client.kube.Update(from, target, false); err == nil {
		// Helm goes on over an object that it could not delete, and leaves it.
		return o.client.classify(errSomeRefused, doing)
	}
	return o.applying(err, doing)
}

var errSomeRefused = errors.New("some of the requests for it did not get through")

func own(u *unstructured.Unstructured, name, namespace string) {
	marks, notes := u.GetLabels(), u.GetAnnotations()
	if marks == nil {
		marks = make(map[string]string)
	}
	if notes == nil {
		notes = make(map[string]string)
	}
	marks[managedBy], notes[ownedByRelease], notes[ownedByNamespace] = "Helm", name, namespace
	u.SetLabels(marks)
	u.SetAnnotations(notes)
}

func owned(u *unstructured.Unstructured, name, namespace string) bool {
	notes := u.GetAnnotations()
	return u.GetLabels()[managedBy] == "Helm" && notes[ownedByRelease] == name && notes[ownedByNamespace] == namespace
}

// waitReady waits until all that was applied is ready; Jobs until they are done. It does not wait for what
// will never be.
func (o *operation) waitReady(target helmkube.ResourceList) error {
	var why said
	checker := helmkube.NewReadyChecker(o.client.set, why.log, helmkube.PausedAsReady(true), helmkube.CheckJobs(true))
	within := o.order.Ready
	if within <= 0 {
		within = readyWithin
	}
	var never time.Time // since when a pod has no image to start from
	for began := time.Now(); ; {
		waits, err := firstUnready(o.ctx, checker, target)
		if waits == nil {
			return nil
		}
		reason := why.text
		if err != nil {
			reason = err.Error()
		}
		late := time.Since(began) > within
		switch hopeless := o.hopeless(waits); {
		case hopeless == "":
			never = time.Time{}
		case never.IsZero():
			never = time.Now()
		default:
			reason, late = hopeless, late || time.Since(never) > neverFor
		}
		if o.ctx.Err() == nil && late {
			if ofCluster(err) && !refused(err) { // that it is not ready was not seen
				return kube.Classify(err, "see "+nameOf(waits)+" ready")
			}
			return failure.New(failure.NotReady, "%s of release %q is not ready after %s: %s", nameOf(waits), o.r.name, time.Since(began).Round(time.Second), clip(reason, 1000)).
				Do("see kubectl --namespace %s describe %s, and roll back if it does not mend itself", waits.Namespace, nameOf(waits))
		}
		o.beat("waits for %s: %s", nameOf(waits), clip(reason, 200))
		if !pause(o.ctx, pace.Next(began, pollEvery)) {
			return stopped(o.ctx, fmt.Sprintf("see %s ready", nameOf(waits)))
		}
	}
}

func firstUnready(ctx context.Context, checker helmkube.ReadyChecker, target helmkube.ResourceList) (*resource.Info, error) {
	for _, info := range target {
		ready, err := checker.IsReady(ctx, info)
		if apierrors.IsNotFound(err) && info.Mapping.GroupVersionKind.Kind == "Job" {
			continue // it was done, and its time to live is over
		}
		if !ready {
			return info, err
		}
	}
	return nil, nil
}

// hopeless says why a workload will not become ready however long it is waited for, or "".
func (o *operation) hopeless(info *resource.Info) string {
	if !bake.IsWorkload(info.Mapping.GroupVersionKind.Kind) {
		return ""
	}
	is, ok := info.Object.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	of, _, err := unstructured.NestedStringMap(is.Object, "spec", "selector", "matchLabels")
	if err != nil || len(of) == 0 {
		return ""
	}
	list, err := o.client.set.CoreV1().Pods(info.Namespace).List(o.ctx, metav1.ListOptions{LabelSelector: labels.Set(of).String(), Limit: 100})
	if err != nil {
		return "" // it is not known
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil {
			if why := health.Never(p); why != "" {
				return why
			}
		}
	}
	return ""
}

// applying gives an error of Helm's its code: what the cluster refuses for good is ApplyFailed, what may
// pass is tried again, and an operation that lacks a right goes on when it has it.
func (o *operation) applying(err error, what string) error {
	if err == nil {
		return nil
	}
	if cause, ok := failure.As(err); ok {
		return cause
	}
	if o.ctx.Err() != nil {
		return stopped(o.ctx, what)
	}
	if of := o.client.classify(err, what); of != nil && !refused(err) {
		return of
	}
	r, bad := renderingOf(o.rec.release)
	if bad != nil {
		return bad
	}
	text := hider(r.all()...)(err.Error())
	return failure.New(failure.ApplyFailed, "could not %s: %s", what, clip(text, 2000)).Do("mend the chart or what is in its way, and start again with a new plan")
}

// refused reports whether the API server said that it will never take what it was sent.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := int(status.Status().Code)
	return code >= 400 && code != http.StatusUnauthorized && code != http.StatusForbidden && !passes(code)
}
