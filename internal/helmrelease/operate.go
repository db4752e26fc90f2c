package helmrelease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// readyWithin is how long what was applied may take to become ready, unless the order says.
	readyWithin = 5 * time.Minute
	// keepRevisions is how many records are kept, as by Helm itself.
	keepRevisions = 10
)

var (
	effectRecord = effect{fault.NewPoint("helm/record/before"), fault.NewPoint("helm/record/after")}
	effectApply  = effect{fault.NewPoint("helm/apply/before"), fault.NewPoint("helm/apply/after")} // before is hit at each request
	effectDone   = effect{fault.NewPoint("helm/done/before"), fault.NewPoint("helm/done/after")}
)

// Order says who does an operation, and how.
type Order struct {
	Plan      Plan
	Operation string        // the key: asked for again by it, the operation is not done again
	Attempt   string        // who asks; for people
	Ready     time.Duration // what was applied may take so long to become ready; 5 minutes when left out
	Beat      func(string)  // is told what goes on, about every second; may be nil
}

// UpgradeOrder is an upgrade by its plan, and by the request that the plan was made of.
type UpgradeOrder struct {
	Order
	Request UpgradeRequest
}

// Applied is what an operation did.
type Applied struct {
	Revision int    `json:"revision"`
	Status   string `json:"status"` // deployed, or superseded by a later revision
	Before   bool   `json:"before"` // an earlier attempt did it
}

// Upgrade does what the plan says. Its hooks are waited for as long as the context goes on; cut off, it
// leaves a record that says whose it is, and an attempt with the same key goes on there. What fails for
// good makes the record a failed one: HookFailed, ApplyFailed, NotReady. Such an operation stays failed:
// another try is another operation, with a plan of its own.
func (r *Release) Upgrade(ctx context.Context, order UpgradeOrder) (Applied, error) {
	return r.operate(ctx, KindUpgrade, order.Order, func(ctx context.Context, s state) (*release.Release, error) {
		if order.Request.hash() != order.Plan.Request {
			return nil, r.void("it was made of another request")
		}
		files, err := order.Request.Chart.load(ctx)
		if err != nil {
			return nil, err
		}
		if files.digest() != order.Plan.Chart.Digest {
			return nil, r.void("the chart %s is not what it was", order.Request.Chart)
		}
		rel, err := r.render(ctx, s, files, order.Request)
		if err != nil {
			return nil, err
		}
		rel.Info.Description = "Preparing upgrade"
		return rel, nil
	})
}

// Rollback does what the plan says, in the way of Upgrade.
func (r *Release) Rollback(ctx context.Context, order Order) (Applied, error) {
	return r.operate(ctx, KindRollback, order, func(ctx context.Context, s state) (*release.Release, error) {
		if order.Plan.To == nil {
			return nil, r.void("it does not say where to go back to")
		}
		target, err := r.rollbackTarget(ctx, s, order.Plan.To.Number)
		if err != nil {
			return nil, err
		}
		if target.base() != *order.Plan.To {
			return nil, r.void("revision %d is not what it was", target.number)
		}
		old := target.release
		return &release.Release{
			Name: r.name, Namespace: r.namespace, Chart: old.Chart, Config: old.Config, Manifest: old.Manifest, Hooks: old.Hooks, Labels: maps.Clone(old.Labels),
			Version: s.latest.number + 1,
			Info: &release.Info{
				FirstDeployed: s.latest.release.Info.FirstDeployed, LastDeployed: helmtime.Now(), Status: release.StatusPendingRollback,
				Notes: old.Info.Notes, Description: fmt.Sprintf("Rollback to %d", target.number),
			},
		}, nil
	})
}

// operation is one attempt at work.
type operation struct {
	r      *Release
	order  Order
	ctx    context.Context // ends when the lease is lost
	fence  *fence
	client *client
	apply  atomic.Bool // objects are being applied
	rec    *record     // the revision that it makes
}

func (o *operation) beat(format string, args ...any) { o.order.beat(fmt.Sprintf(format, args...)) }

func (o Order) beat(progress string) {
	if o.Beat != nil {
		o.Beat(progress)
	}
}

// note writes something into the journal. What it does not say is looked for again by the next attempt,
// so it is worth some tries.
func (o *operation) note(note func(*journal)) error {
	for try := 0; ; try++ {
		err := o.fence.write(o.ctx, note)
		if err == nil || failure.Is(err, failure.Fenced) || try == 4 || !pause(o.ctx, 200*time.Millisecond<<try) {
			return err
		}
	}
}

func (r *Release) operate(ctx context.Context, kind Kind, order Order, prepare func(context.Context, state) (*release.Release, error)) (Applied, error) {
	p := order.Plan
	switch {
	case order.Operation == "" || len(order.Operation) > 1000:
		return Applied{}, failure.New(failure.BadInput, "an operation needs a key of at most 1000 bytes")
	case p.Version != planVersion || p.Kind != kind:
		return Applied{}, r.void("it is no plan of this kind (%s), or one of another version of Upkeep", kind)
	case p.Namespace != r.namespace || p.Release != r.name:
		return Applied{}, r.void("it is for release %q in the namespace %q", p.Release, p.Namespace)
	}
	// What is over needs no lease.
	mine, _, err := r.find(ctx, order.Operation)
	if err != nil {
		return Applied{}, err
	}
	if mine != nil && !mine.status.IsPending() {
		return r.settled(ctx, *mine)
	}
	f, held, end, err := r.acquire(ctx, journal{Operation: order.Operation, Kind: kind, Plan: p.Hash(), Revision: p.Base.Number + 1}, order.Attempt, order.beat)
	if err != nil {
		return Applied{}, err
	}
	defer end()
	o := &operation{r: r, order: order, ctx: held, fence: f}
	o.client, err = r.client(held, func(request *http.Request) error {
		if o.apply.Load() && !reads(request) {
			effectApply.before.Hit()
		}
		return f.gate(request)
	})
	if err != nil {
		return Applied{}, err
	}
	applied, err := o.do(prepare)
	if cause, ok := failure.As(context.Cause(held)); ok && err != nil {
		return applied, cause // whatever came of it, it was another's turn
	}
	return applied, err
}

// find returns the record that an operation made, and all records.
func (r *Release) find(ctx context.Context, key string) (mine *head, heads []head, err error) {
	heads, err = r.heads(ctx)
	id := OperationID(key)
	for i := range heads {
		if heads[i].operation == id {
			return &heads[i], heads, err
		}
	}
	return nil, heads, err
}

// failedBy reads the code that fail writes.
var failedBy = regexp.MustCompile(`(?s)^(\w+) by Upkeep: (.*)$`)

// settled is the result of an operation that is over.
func (r *Release) settled(ctx context.Context, h head) (Applied, error) {
	out := Applied{Revision: h.number, Status: string(h.status), Before: true}
	if h.status == release.StatusDeployed || h.status == release.StatusSuperseded {
		return out, nil
	}
	code, text := failure.ApplyFailed, fmt.Sprintf("revision %d of release %q is %s", h.number, r.name, h.status)
	rec, err := r.read(ctx, h.number)
	if err != nil {
		return out, err
	}
	if rec != nil {
		text += ": " + rec.release.Info.Description
		if m := failedBy.FindStringSubmatch(rec.release.Info.Description); m != nil {
			code, text = failure.Code(m[1]), m[2]
		}
	}
	return out, failure.New(code, "%s", clip(text, 2*maxLog)).Do("mend the cause, and start again with a new plan")
}

func (o *operation) do(prepare func(context.Context, state) (*release.Release, error)) (Applied, error) {
	mine, heads, err := o.r.find(o.ctx, o.order.Operation)
	if err != nil {
		return Applied{}, err
	}
	switch {
	case mine == nil:
		if err := o.begin(prepare); err != nil {
			return Applied{}, err
		}
	case !mine.status.IsPending():
		return o.r.settled(o.ctx, *mine)
	case mine.number != heads[0].number:
		return Applied{}, o.r.busy(heads[0])
	default:
		if o.rec, err = o.r.read(o.ctx, mine.number); err != nil {
			return Applied{}, err
		}
		if o.rec == nil {
			return Applied{}, o.r.void("somebody deleted the record of revision %d", mine.number)
		}
	}
	err = o.finish()
	if f, ok := failure.As(err); ok && f.Class() == failure.Damaged {
		if failed := o.fail(f); failed != nil {
			return Applied{}, failed
		}
	}
	return Applied{Revision: o.rec.number, Status: string(o.rec.status)}, err
}

// begin makes the record, which from then on is Helm's lock, and says whose it is and what is applied.
func (o *operation) begin(prepare func(context.Context, state) (*release.Release, error)) error {
	p := o.order.Plan
	s, err := o.r.look(o.ctx)
	if err != nil {
		return err
	}
	if p.Kind == KindRollback {
		s.current = s.latest
	}
	if s.latest.base() != p.Base || s.current.number != p.From {
		return o.r.void("it stands on revision %d, and the release has changed since", p.Base.Number)
	}
	o.beat("renders the chart")
	rel, err := prepare(o.ctx, s)
	if err != nil {
		return err
	}
	made, err := renderingOf(rel)
	if err != nil {
		return err
	}
	if made.hash() != p.Rendering {
		return o.r.void("the chart gives something else now: what it looks up in the cluster has changed, or it reads the clock")
	}
	if rel.Labels == nil {
		rel.Labels = make(map[string]string)
	}
	rel.Labels[operationLabel] = operationValue(o.order.Operation, rel.Version)
	for _, h := range rel.Hooks {
		h.LastRun = release.HookExecution{}
	}
	o.rec = &record{head: head{number: rel.Version}, release: rel}
	effectRecord.before.Hit()
	err = o.rec.write(o.ctx, o.client.set)
	if apierrors.IsAlreadyExists(err) {
		return o.r.void("somebody made revision %d meanwhile", rel.Version)
	}
	if err != nil {
		return kube.Classify(err, "make the record of the "+string(p.Kind))
	}
	effectRecord.after.Hit()
	return nil
}

// finish does what is left to do of an operation that has its record.
func (o *operation) finish() error {
	done := o.fence.journal()
	at := events(o.order.Plan.Kind)
	if !done.Applied {
		if err := o.runHooks(at[0]); err != nil {
			return err
		}
	}
	current, err := o.r.read(o.ctx, o.order.Plan.From)
	if err != nil {
		return err
	}
	if current == nil {
		return o.r.void("the record of revision %d is gone", o.order.Plan.From)
	}
	target, err := o.client.kube.Build(bytes.NewBufferString(o.rec.release.Manifest), false)
	if err != nil {
		return o.applying(err, "read the objects of the release")
	}
	if !done.Applied {
		o.beat("applies %d objects", len(target))
		if err := o.applyObjects(current, target); err != nil {
			return err
		}
		if err := o.note(func(j *journal) { j.Applied = true }); err != nil {
			return err
		}
		effectApply.after.Hit()
	}
	if !done.Ready {
		if err := o.waitReady(target); err != nil {
			return err
		}
		if err := o.note(func(j *journal) { j.Ready = true }); err != nil {
			return err
		}
	}
	if err := o.runHooks(at[1]); err != nil {
		return err
	}
	effectDone.before.Hit()
	if err := o.settle(); err != nil {
		return err
	}
	effectDone.after.Hit()
	return o.note(func(j *journal) { j.Done = true })
}

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
	_, err = o.client.kube.Update(from, target, false)
	return o.applying(err, "apply the objects of the release")
}

// How Helm marks what is a release's.
const (
	managedBy        = "app.kubernetes.io/managed-by"
	ownedByRelease   = "meta.helm.sh/release-name"
	ownedByNamespace = "meta.helm.sh/release-namespace"
)

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

// waitReady waits until all that was applied is ready; Jobs until they are done.
func (o *operation) waitReady(target helmkube.ResourceList) error {
	var why said
	checker := helmkube.NewReadyChecker(o.client.set, why.log, helmkube.PausedAsReady(true), helmkube.CheckJobs(true))
	within := o.order.Ready
	if within <= 0 {
		within = readyWithin
	}
	deadline := time.Now().Add(within)
	for {
		waits, err := firstUnready(o.ctx, checker, target)
		if waits == nil {
			return nil
		}
		reason := why.text
		if err != nil {
			reason = err.Error()
		}
		if o.ctx.Err() == nil && time.Now().After(deadline) {
			return failure.New(failure.NotReady, "%s of release %q is not ready after %s: %s", nameOf(waits), o.r.name, within, clip(reason, 1000)).
				Do("see kubectl --namespace %s describe %s, and roll back if it does not mend itself", waits.Namespace, nameOf(waits))
		}
		o.beat("waits for %s: %s", nameOf(waits), clip(reason, 200))
		if !pause(o.ctx, pollEvery) {
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

// settle makes the record the deployed one, and those before it superseded.
func (o *operation) settle() error {
	heads, err := o.r.heads(o.ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if h.number >= o.rec.number || h.status != release.StatusDeployed {
			continue
		}
		old, err := o.r.read(o.ctx, h.number)
		if err != nil {
			return err
		}
		if old != nil {
			old.release.Info.Status = release.StatusSuperseded
			if err := old.write(o.ctx, o.client.set); err != nil {
				return o.r.changed(err, h.number)
			}
		}
	}
	info := o.rec.release.Info
	info.Status = release.StatusDeployed
	if o.order.Plan.Kind == KindUpgrade {
		info.Description = "Upgrade complete"
	}
	if err := o.write(); err != nil {
		return err
	}
	return o.prune(heads)
}

// prune deletes the oldest records, as Helm does with each upgrade.
func (o *operation) prune(heads []head) error {
	for _, h := range heads[min(len(heads), keepRevisions):] {
		if h.number == o.order.Plan.From || o.order.Plan.To != nil && h.number == o.order.Plan.To.Number {
			continue
		}
		uid := types.UID(h.UID)
		err := o.client.set.CoreV1().Secrets(o.r.namespace).Delete(o.ctx, secretName(o.r.name, h.number), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return kube.Classify(err, fmt.Sprintf("delete the record of revision %d", h.number))
		}
	}
	return nil
}

// write changes the operation's record.
func (o *operation) write() error {
	return o.r.changed(o.rec.write(o.ctx, o.client.set), o.rec.number)
}

func (r *Release) changed(err error, number int) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return failure.New(failure.ReleaseBusy, "somebody else changed the record of revision %d of release %q", number, r.name).
			Do("see helm history %s --namespace %s for who works on it, then resume the run", r.name, r.namespace)
	}
	return kube.Classify(err, fmt.Sprintf("change the record of revision %d", number))
}

// fail makes the record a failed one, so that it locks nobody out and Helm's users see why.
func (o *operation) fail(why *failure.Error) error {
	info := o.rec.release.Info
	info.Status, info.Description = release.StatusFailed, fmt.Sprintf("%s by Upkeep: %s", why.Code, clip(why.What, 2*maxLog))
	if why.Cause != nil {
		info.Description += ": " + clip(why.Cause.Error(), 2000)
	}
	if err := o.write(); err != nil {
		return err
	}
	return o.note(func(j *journal) { j.Done = true })
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

// ClearOrder says which locked revision is to be made a failed one, and who says so.
type ClearOrder struct {
	Revision  int
	Record    Record // as History had it: when it has changed since, somebody works on it
	Operation string // the key
	Attempt   string
	By, Why   string       // for the record
	Beat      func(string) // may be nil
}

// Clear takes the lock of an operation that nobody goes on with: its record becomes a failed one. It
// refuses when the record has changed since it was looked at (PlanVoid), and when an attempt of ours or
// one of the revision's hooks still works (ReleaseBusy). Whether somebody else's helm still runs can
// only be told from the record's age.
func (r *Release) Clear(ctx context.Context, order ClearOrder) error {
	if order.Operation == "" || order.Why == "" || order.By == "" || order.Record.UID == "" || order.Record.ResourceVersion == "" {
		return failure.New(failure.BadInput, "a clearing needs a key, who says so and why, and the record that is meant")
	}
	mark := fmt.Sprintf("(upkeep %s)", OperationID(order.Operation)[:12])
	over := func(rec *record) bool {
		return rec != nil && rec.status == release.StatusFailed && rec.UID == order.Record.UID && hasMark(rec.release.Info.Description, mark)
	}
	rec, err := r.read(ctx, order.Revision)
	if err != nil || over(rec) {
		return err
	}
	as := Order{Operation: order.Operation, Beat: order.Beat}
	f, held, end, err := r.acquire(ctx, journal{Operation: order.Operation, Kind: "clear", Revision: order.Revision}, order.Attempt, as.beat)
	if err != nil {
		return err
	}
	defer end()
	if rec, err = r.read(held, order.Revision); err != nil || over(rec) {
		return err
	}
	if rec == nil || rec.Record != order.Record || !rec.status.IsPending() {
		return r.void("revision %d is not locked any more, or somebody works on it", order.Revision)
	}
	c, err := r.client(held, f.gate)
	if err != nil {
		return err
	}
	o := &operation{r: r, order: as, ctx: held, fence: f, client: c, rec: rec}
	if err := o.refuseActiveHooks(); err != nil {
		return err
	}
	info := rec.release.Info
	was := info.Status
	info.Status = release.StatusFailed
	info.Description = fmt.Sprintf("Was %s and was cleared by %s: %s %s", was, clip(order.By, 200), clip(order.Why, 1000), mark)
	if err := rec.write(held, c.set); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return r.void("revision %d is not locked any more, or somebody works on it", order.Revision)
		}
		return kube.Classify(err, fmt.Sprintf("clear revision %d", order.Revision))
	}
	return o.note(func(j *journal) { j.Done = true })
}

func hasMark(description, mark string) bool {
	return len(description) >= len(mark) && description[len(description)-len(mark):] == mark
}

// refuseActiveHooks refuses when a hook of the revision still works: a migration, most likely.
func (o *operation) refuseActiveHooks() error {
	for _, h := range o.rec.release.Hooks {
		infos, err := o.client.kube.Build(bytes.NewBufferString(h.Manifest), false)
		if err != nil {
			return kube.Classify(err, "read the hook "+h.Name)
		}
		for _, info := range infos {
			live, err := o.get(info)
			if err != nil {
				return err
			}
			if state, _ := judge(live, ""); state == hookActive {
				return failure.New(failure.ReleaseBusy, "%s of release %q still runs", nameOf(info), o.r.name).Do("wait for its end, then resume the run")
			}
		}
	}
	return nil
}
