package helmrelease

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"

	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
	effectOld    = effect{fault.NewPoint("helm/superseded/before"), fault.NewPoint("helm/superseded/after")}
	effectFailed = effect{fault.NewPoint("helm/failed/before"), fault.NewPoint("helm/failed/after")}
	effectPrune  = effect{fault.NewPoint("helm/prune/before"), fault.NewPoint("helm/prune/after")}
)

// Order says who does an operation, and how.
type Order struct {
	Plan      Plan
	Operation string        // the key: asked for again by it, the operation is not done again
	Attempt   string        // who asks; for people
	Ready     time.Duration // what was applied may take so long to become ready; 5 minutes when left out
	Beat      func(string)  // is told what goes on, at each look; may be nil
	Patience  time.Duration // how long another's lease is borne; 0: not at all
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
				Notes: old.Info.Notes, Description: fmt.Sprintf(rollbackTo, target.number),
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
	effectJournal.before.Hit()
	for try := 0; ; try++ {
		err := o.fence.write(o.ctx, note)
		if err == nil {
			effectJournal.after.Hit()
		}
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
	f, held, end, err := r.acquireBy(ctx, time.Now().Add(order.Patience), journal{Operation: order.Operation, Kind: kind, Plan: p.Hash(), Revision: p.Base.Number + 1}, order.Attempt, order.beat)
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
	case mine == nil && len(heads) > 0 && heads[0].operation != "" && heads[0].number != o.order.Plan.Base.Number:
		return Applied{}, o.r.void("it stands on revision %d, and another run of Upkeep has made revision %d", o.order.Plan.Base.Number, heads[0].number)
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
			effectOld.before.Hit()
			if err := old.write(o.ctx, o.client.set); err != nil {
				return o.r.changed(err, h.number)
			}
			effectOld.after.Hit()
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
		effectPrune.before.Hit()
		err := o.client.set.CoreV1().Secrets(o.r.namespace).Delete(o.ctx, secretName(o.r.name, h.number), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return kube.Classify(err, fmt.Sprintf("delete the record of revision %d", h.number))
		}
		effectPrune.after.Hit()
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
	effectFailed.before.Hit()
	if err := o.write(); err != nil {
		return err
	}
	effectFailed.after.Hit()
	return o.note(func(j *journal) { j.Done = true })
}
