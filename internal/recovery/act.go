package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/pace"
)

const (
	// lookEvery is the most that passes between looks while a step is waited for.
	lookEvery = time.Second
	// stableFor is how long all must be healthy without a break: pods that flap are not.
	stableFor = 8 * time.Second
	// wrongFor is how long something must be wrong without a break before it is no longer waited for: what is
	// listed of a change is not all of one moment.
	wrongFor = 3 * time.Second
	// lockPatience is how long an attempt, or a hook, that still works under a lock is waited for.
	lockPatience = 30 * time.Second
	// restartedBy is the annotation of a pod template that a rollout restart sets.
	restartedBy = "upkeep.run/restarted-by"
)

var (
	pointDeleteBefore   = fault.NewPoint("recover/delete/before")
	pointDeleteAfter    = fault.NewPoint("recover/delete/after")
	pointRolloutBefore  = fault.NewPoint("recover/rollout/before")
	pointRolloutAfter   = fault.NewPoint("recover/rollout/after")
	pointClearBefore    = fault.NewPoint("recover/clear/before")
	pointClearAfter     = fault.NewPoint("recover/clear/after")
	pointRollbackBefore = fault.NewPoint("recover/rollback/before")
	pointRollbackAfter  = fault.NewPoint("recover/rollback/after")
)

// restarted are the kinds whose pods a change of their template replaces.
var restarted = map[string]schema.GroupVersionResource{
	health.Deployment:  appsv1.SchemeGroupVersion.WithResource("deployments"),
	health.StatefulSet: appsv1.SchemeGroupVersion.WithResource("statefulsets"),
	health.DaemonSet:   appsv1.SchemeGroupVersion.WithResource("daemonsets"),
}

// Proven tells which revisions were seen healthy.
type Proven func(helmrelease.Revision) (bool, error)

// Look sees how the release is. It only gets and lists. A release that Upkeep itself runs on is refused.
// Owners of its workloads are looked at where the policy lets them be suspended.
func Look(ctx context.Context, c *kube.Cluster, scope health.Scope, self itself.Self, policy string, proven Proven) (State, error) {
	seen, err := health.Observe(ctx, c, scope)
	if err != nil {
		return State{}, err
	}
	touched := make([]itself.Workload, len(seen.Workloads))
	for i, w := range seen.Workloads {
		touched[i] = w.Touched
	}
	if err := self.Check(ctx, c, "recover release "+scope.Release, touched); err != nil {
		return State{}, err
	}
	h, err := helmrelease.Open(c.Config, c.Namespace, scope.Release)
	if err != nil {
		return State{}, err
	}
	history, err := h.History(ctx)
	if err != nil {
		return State{}, err
	}
	s := State{State: seen}
	if s.Release, err = ofHistory(history, proven, time.Now()); err != nil || policy != ownership.PolicySuspend {
		return s, err
	}
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return s, kube.Classify(err, "make a client of the cluster")
	}
	return s, s.lookAtOwners(ctx, client)
}

// lookAtOwners sees how those are who can be suspended. One of whom nothing can be seen cannot be: what does
// not touch what it owns is done all the same.
func (s *State) lookAtOwners(ctx context.Context, client dynamic.Interface) error {
	for i := range s.Workloads {
		for j := range s.Workloads[i].Owners {
			o := &s.Workloads[i].Owners[j]
			if !o.Suspendable || slices.ContainsFunc(s.Owners, func(known ownership.Image) bool { return known.Owner.Ref == o.Ref }) {
				continue
			}
			image, err := ownership.Look(ctx, client, *o)
			if f, known := failure.As(err); known && f.Class() != failure.Transient {
				o.Suspendable, o.Why = false, o.Why+"; "+f.What
				continue
			}
			if err != nil {
				return err
			}
			s.Owners = append(s.Owners, image)
		}
	}
	return nil
}

// ofHistory says where the release stands, and where it could go back to: the newest earlier revision that
// is proven healthy, else the newest that was deployed.
func ofHistory(history []helmrelease.Revision, proven Proven, now time.Time) (Release, error) {
	latest := history[0]
	r := Release{Latest: latest.Number, Status: latest.Status, Record: latest.Record, Locked: latest.Pending(), Ours: latest.Operation != "", At: latest.At, Age: now.Sub(latest.At)}
	var err error
	if r.Proven, err = proven(latest); err != nil {
		return r, err
	}
	if is := same(history, 0); is > 0 && latest.CutOff() {
		r.CutOff = history[is].Number
	}
	runs, left := running(history), left(history)
	var hooks []string
	at, hooksAt := -1, []string(nil)
	for i, earlier := range history {
		if i > 0 && effective(earlier) && earlier.ManifestSHA256 != runs && !slices.Contains(left, earlier.Number) {
			is, err := proven(earlier)
			if err != nil {
				return r, err
			}
			if at < 0 || is {
				at, hooksAt, r.Back.Proven = i, slices.Clone(hooks), is
			}
			if is {
				break
			}
		}
		for _, hook := range earlier.Hooks {
			if (hook.Kind == "Job" || hook.Kind == "Pod") && (slices.Contains(hook.Events, "pre-upgrade") || slices.Contains(hook.Events, "post-upgrade")) {
				hooks = append(hooks, fmt.Sprintf("%s of revision %d", hook.Object, earlier.Number))
			}
		}
	}
	if at > 0 {
		r.Back.Revision, r.Back.Hooks = history[at].Number, hooksAt[:min(len(hooksAt), 10)]
		for _, n := range left {
			if n > r.Back.Revision && n < r.Latest && effective(history[slices.IndexFunc(history, func(o helmrelease.Revision) bool { return o.Number == n })]) {
				r.Back.Left = append(r.Back.Left, n)
			}
		}
	}
	return r, nil
}

// effective reports whether all of a revision was applied once.
func effective(r helmrelease.Revision) bool {
	return r.Status == "deployed" || r.Status == "superseded"
}

// running is the rendering that is in the cluster and does not work. Of an operation that did not come to
// its end, nobody knows how much is there: what it was to replace may still be what runs, and what it
// was to bring may be worth another try. So it is what it was to bring only if both are the same.
func running(history []helmrelease.Revision) string {
	is := slices.IndexFunc(history, func(r helmrelease.Revision) bool { return r.Status == "deployed" })
	if effective(history[0]) || is > 0 && history[is].ManifestSHA256 == history[0].ManifestSHA256 {
		return history[0].ManifestSHA256
	}
	return ""
}

// same is where the newest revision before one is that was deployed with the same rendering; if there is none,
// where it is itself.
func same(history []helmrelease.Revision, as int) int {
	return 1 + as + slices.IndexFunc(history[as+1:], func(o helmrelease.Revision) bool {
		return effective(o) && o.ManifestSHA256 == history[as].ManifestSHA256
	})
}

// left are the revisions whose rendering somebody went back from: those between a revision and the newest before it
// that was deployed with the same rendering. A rollback that did not come to its end counts too, or else
// the next would go back to the very revision that it was to leave. A rendering that was left and comes again, not by
// a rollback, is tried again: nobody left for it what was between.
func left(history []helmrelease.Revision) (all []int) {
	gone := make(map[string]bool)
	for i, r := range slices.Backward(history) {
		if again := gone[r.ManifestSHA256] && !r.GoesBack(); !again {
			for _, between := range history[i+1 : max(same(history, i), i+1)] {
				gone[between.ManifestSHA256] = true
			}
		}
		delete(gone, r.ManifestSHA256)
	}
	for _, r := range history {
		if gone[r.ManifestSHA256] {
			all = append(all, r.Number)
		}
	}
	return all
}

// For is what a wait is for.
type For struct {
	// Until is when it ends.
	Until time.Time
	// Stayed says that all is known to have stayed healthy, so that one look is enough.
	Stayed bool
	// Young ends it also when something is wrong that will not pass by itself.
	Young bool
}

// Await looks until all is healthy and stays so, or what it waits for is over. Each look is told.
func Await(ctx context.Context, c *kube.Cluster, scope health.Scope, wait For, tell func(string)) (run.Verdict, error) {
	began := time.Now()
	var since, wrong time.Time
	restarts := int32(-1)
	for {
		s, err := health.Observe(ctx, c, scope)
		if ctx.Err() != nil {
			return run.NotProven, kube.Classify(ctx.Err(), "see the release healthy")
		}
		verdict, problems := run.NotProven, []health.Problem(nil)
		if err == nil {
			verdict, problems = health.Judge(s)
			tell(cmp.Or(health.Words(problems), "all is healthy; is it to stay?"))
		} else if f, ok := failure.As(err); ok && f.Class() != failure.Transient {
			return run.NotProven, err
		}
		now, count := time.Now(), started(s)
		if verdict == run.Pass && wait.Stayed {
			return run.Pass, nil
		}
		wait.Stayed = false
		if !wait.Young || err != nil || verdict != run.Fail || Young(State{State: s}) {
			wrong = time.Time{}
		} else if wrong.IsZero() {
			wrong = time.Now()
		} else if time.Since(wrong) >= wrongFor {
			return verdict, nil
		}
		if verdict != run.Pass || count != restarts {
			since, restarts = now, count
		} else if now.Sub(since) >= stableFor {
			return run.Pass, nil
		}
		if now.After(wait.Until) {
			return verdict, err
		}
		pause := pace.Next(began, lookEvery)
		if verdict == run.Pass { // it is only to stay so
			pause = lookEvery
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// started counts how often programs were started again.
func started(s health.State) (n int32) {
	for _, w := range s.Workloads {
		for _, p := range w.Pods {
			n += p.Restarts
		}
	}
	return n
}

// Act takes a step. The key names it over all attempts: taken twice, it is taken once.
func Act(ctx context.Context, c *kube.Cluster, release string, step Step, key, who string, tell func(string)) error {
	switch step.Rung {
	case Restart, Recreate:
		for _, p := range step.Pods {
			if err := remove(ctx, c, p, step.Rung == Recreate); err != nil {
				return err
			}
		}
		return nil
	case Rollout:
		return rollout(ctx, c, step, key)
	case Clear:
		return unlock(ctx, c, release, step, key, who, tell)
	case Rollback:
		return rollBack(ctx, c, release, step, key, who, tell)
	}
	return nil
}

// remove deletes a pod, if it is still the one that was meant.
func remove(ctx context.Context, c *kube.Cluster, p PodRef, now bool) error {
	uid := types.UID(p.UID)
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if now {
		options.GracePeriodSeconds = new(int64)
	}
	pointDeleteBefore.Hit()
	err := c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, p.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone; what has its name now is another
	}
	pointDeleteAfter.Hit()
	return kube.Classify(err, "delete pod "+p.Name+" in namespace "+c.Namespace)
}

// rollout has all pods of a workload replaced, by an annotation of their template that follows from the
// key: a second attempt changes nothing. It does so only while the workload is as it was looked at: an
// attempt that comes late, when another run has seen to it, finds another generation. The UID and the
// version in the patch are preconditions.
func rollout(ctx context.Context, c *kube.Cluster, step Step, key string) error {
	resource, known := restarted[step.Kind]
	if !known {
		return void("a %s is not rolled out", step.Kind)
	}
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return kube.Classify(err, "make a client of the cluster")
	}
	workloads, doing := client.Resource(resource).Namespace(c.Namespace), fmt.Sprintf("restart %s %s in namespace %s", step.Kind, step.Workload, c.Namespace)
	live, err := workloads.Get(ctx, step.Workload, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return void("%s %s is gone", step.Kind, step.Workload)
	}
	if err != nil {
		return kube.Classify(err, doing)
	}
	by, _, _ := unstructured.NestedString(live.Object, "spec", "template", "metadata", "annotations", restartedBy)
	switch {
	case string(live.GetUID()) != step.UID:
		return void("%s %s is not the one that was looked at", step.Kind, step.Workload)
	case by == key:
		return nil // an attempt before this one did it
	case step.Generation != 0 && live.GetGeneration() != step.Generation:
		return void("%s %s was changed after it was looked at", step.Kind, step.Workload)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": step.UID, "resourceVersion": live.GetResourceVersion()},
		"spec":     map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{restartedBy: key}}}},
	})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	pointRolloutBefore.Hit()
	if _, err = workloads.Patch(ctx, step.Workload, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "upkeep"}); err != nil {
		return kube.Classify(err, doing) // a conflict is looked at by the next attempt
	}
	pointRolloutAfter.Hit()
	return nil
}

func void(format string, args ...any) error {
	return failure.New(failure.PlanVoid, format, args...).Do("look again, and decide by what is there now")
}

func unlock(ctx context.Context, c *kube.Cluster, release string, step Step, key, who string, tell func(string)) error {
	h, err := helmrelease.Open(c.Config, c.Namespace, release)
	if err != nil {
		return err
	}
	pointClearBefore.Hit()
	err = h.Clear(ctx, helmrelease.ClearOrder{
		Revision: step.Revision, Record: step.Record, Operation: key, Attempt: who, By: "Upkeep", Why: "nobody goes on with it", Beat: tell, Patience: lockPatience,
	})
	if err == nil {
		pointClearAfter.Hit()
	}
	return err
}

// rollBack plans and does it. Planned again after it began, it goes on with what it began.
func rollBack(ctx context.Context, c *kube.Cluster, release string, step Step, key, who string, tell func(string)) error {
	h, err := helmrelease.Open(c.Config, c.Namespace, release)
	if err != nil {
		return err
	}
	plan := step.Plan
	if plan == nil {
		return void("the rollback to revision %d has no plan", step.Revision)
	}
	pointRollbackBefore.Hit()
	_, err = h.Rollback(ctx, helmrelease.Order{Plan: *plan, Operation: key, Attempt: who, Beat: tell, Patience: lockPatience})
	if err == nil {
		pointRollbackAfter.Hit()
	}
	return err
}

// PlanRollback completes a rollback's step by its plan, as Helm would do it now. What the cluster would
// refuse, such as a volume that has grown, is refused here.
func PlanRollback(ctx context.Context, c *kube.Cluster, release string, step Step) (Step, error) {
	h, err := helmrelease.Open(c.Config, c.Namespace, release)
	if err != nil {
		return step, err
	}
	plan, err := h.PlanRollback(ctx, step.Revision)
	if err != nil {
		return step, err
	}
	if len(plan.Blocked) > 0 {
		return step, failure.New(failure.ApplyFailed, "the release cannot go back to revision %d: %s", step.Revision, plan.Blocked[0]).
			Do("upgrade to a good revision instead (RolloutRelease)")
	}
	plan.Diff.Objects = nil // the facts are enough: the difference may be long
	step.Plan = &plan
	return step, nil
}
