package helmrelease

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// leaseFor is how long an attempt's lease must have stood still before another takes it over.
	leaseFor = 15 * time.Second
	// believeFor is how long an attempt acts on a renewal, from when it was sent. It is shorter, so that
	// whoever wakes up late knows that before anybody else can have taken over.
	believeFor = 10 * time.Second
	// renewEvery is the pause between renewals, renewWithin the bound on one.
	renewEvery  = 3 * time.Second
	renewWithin = 4 * time.Second
	// pollEvery is the most that passes between looks at the cluster.
	pollEvery = time.Second
	// neverFor is how long a pod must have been without an image to start from until it is not waited for any
	// more: its workload may be about to replace it.
	neverFor = 5 * time.Second
	// journalAnnotation holds the journal of the operation that has or had the lease.
	journalAnnotation = "upkeep.run/journal"
)

var (
	effectLease     = effect{fault.NewPoint("helm/lease/before"), fault.NewPoint("helm/lease/after")}
	effectJournal   = effect{fault.NewPoint("helm/journal/before"), fault.NewPoint("helm/journal/after")}
	effectGivenBack = effect{fault.NewPoint("helm/leaseend/before"), fault.NewPoint("helm/leaseend/after")}
)

// journal is what an operation has done. It is written with the lease's own precondition, so that only
// who holds the lease writes it.
type journal struct {
	Operation string   `json:"operation"` // its key
	Kind      Kind     `json:"kind"`
	Plan      string   `json:"plan,omitempty"` // its hash
	Revision  int      `json:"revision"`       // that it makes
	Hooks     []hookAt `json:"hooks,omitempty"`
	Applied   bool     `json:"applied,omitempty"`
	Ready     bool     `json:"ready,omitempty"`
	Done      bool     `json:"done,omitempty"` // it ended, well or not; the record says which
}

// hookAt is a hook that ran, or runs.
type hookAt struct {
	Event string `json:"event"`
	Hook  string `json:"hook"`
	UID   string `json:"uid"`
	End   string `json:"end,omitempty"` // succeeded or failed
}

func (j *journal) hook(event, name string) *hookAt {
	for i := range j.Hooks {
		if j.Hooks[i].Event == event && j.Hooks[i].Hook == name {
			return &j.Hooks[i]
		}
	}
	j.Hooks = append(j.Hooks, hookAt{Event: event, Hook: name})
	return &j.Hooks[len(j.Hooks)-1]
}

// readJournal returns the journal of a lease; an empty one if it has none that can be read.
func readJournal(l *coordinationv1.Lease) (j journal) {
	if json.Unmarshal([]byte(l.Annotations[journalAnnotation]), &j) != nil {
		return journal{}
	}
	return j
}

// LeaseName is the name of the Lease beside a release. A release's name has at most 53 bytes.
func LeaseName(release string) string { return "upkeep-" + release }

func (r *Release) leaseName() string { return LeaseName(r.name) }

// fence is the lease of one attempt. Every request that changes something passes its gate, which lets
// nothing through when the lease may be another's.
type fence struct {
	leases coordinationclient.LeaseInterface
	holder string
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when the renewing has ended

	mu    sync.Mutex
	lease *coordinationv1.Lease
	book  journal
	until time.Time
	lost  bool
}

func fenced(holder string) error {
	return failure.New(failure.Fenced, "another attempt may have taken the release over from %s", holder)
}

// gate refuses what changes something unless the lease was renewed lately. A request that is past it
// when the process freezes may still go out when it wakes up: that one, and no other.
func (f *fence) gate(request *http.Request) error {
	if reads(request) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost || f.late() {
		f.lose()
		return fenced(f.holder)
	}
	return nil
}

// late reports whether the last renewal is too old to act on, by either clock: the monotonic one stands
// still while a machine is suspended, and the other one can be set back. The lock is held.
func (f *fence) late() bool {
	now := time.Now()
	return !now.Before(f.until) || !now.Round(0).Before(f.until.Round(0))
}

// lose ends the attempt; the lock is held.
func (f *fence) lose() {
	f.lost = true
	f.cancel(fenced(f.holder))
}

// acquire takes the lease and keeps it until the returned function is called. The returned context ends
// when it is lost. A lease that stands still is taken over; one that an attempt at the same operation
// renews is waited for, another's is ReleaseBusy.
func (r *Release) acquire(ctx context.Context, j journal, attempt string, beat func(string)) (*fence, context.Context, func(), error) {
	doing := fmt.Sprintf("take the lease on release %q", r.name)
	f := &fence{leases: r.set.CoordinationV1().Leases(r.namespace), holder: clip(attempt, 200) + "/" + rand.Text()[:8], ended: make(chan struct{})}
	var seen *coordinationv1.Lease
	var since time.Time
	for f.lease == nil {
		sent := time.Now()
		is, err := f.leases.Get(ctx, r.leaseName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			is = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: r.leaseName(), Labels: map[string]string{"app.kubernetes.io/managed-by": "upkeep"}}}
		case err != nil:
			return nil, nil, nil, kube.Classify(err, doing)
		}
		if seen == nil || seen.ResourceVersion != is.ResourceVersion || seen.UID != is.UID {
			if holder := holderOf(is); seen != nil && holder != "" && holder == holderOf(seen) && readJournal(is).Operation != j.Operation {
				return nil, nil, nil, failure.New(failure.ReleaseBusy, "%s works on release %q", holder, r.name).Do("wait until it is over, then resume the run")
			}
			seen, since = is, time.Now()
		}
		if holderOf(is) != "" && time.Since(since) < leaseFor {
			beat(fmt.Sprintf("waits for %s, which has or had the release", holderOf(is)))
			if !pause(ctx, pollEvery) {
				return nil, nil, nil, stopped(ctx, doing)
			}
			continue
		}
		if had := readJournal(is); had.Operation == j.Operation {
			j = had // an attempt before this one, which goes on
		}
		taken := f.renewed(is, j)
		transitions := int32(1)
		if is.Spec.LeaseTransitions != nil {
			transitions += *is.Spec.LeaseTransitions
		}
		taken.Spec.LeaseTransitions, taken.Spec.AcquireTime = &transitions, taken.Spec.RenewTime
		effectLease.before.Hit()
		if is.ResourceVersion == "" {
			taken, err = f.leases.Create(ctx, taken, metav1.CreateOptions{})
		} else {
			taken, err = f.leases.Update(ctx, taken, metav1.UpdateOptions{})
		}
		switch {
		case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
			continue // somebody was faster
		case err != nil:
			return nil, nil, nil, kube.Classify(err, doing)
		}
		effectLease.after.Hit()
		f.lease, f.book, f.until = taken, j, sent.Add(believeFor)
	}
	held, cancel := context.WithCancelCause(ctx)
	f.cancel = cancel
	go f.keep(held)
	return f, held, func() { f.end(ctx) }, nil
}

// acquireBy is acquire that bears another's lease until a moment: a worker whose run was ended from outside
// learns of that with its next heartbeat, and gives the lease back.
func (r *Release) acquireBy(ctx context.Context, until time.Time, j journal, attempt string, beat func(string)) (*fence, context.Context, func(), error) {
	for {
		f, held, end, err := r.acquire(ctx, j, attempt, beat)
		if !failure.Is(err, failure.ReleaseBusy) || !time.Now().Before(until) || !pause(ctx, pollEvery) {
			return f, held, end, err
		}
	}
}

// hook is what the journal has of a hook.
func (f *fence) hook(event, name string) hookAt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.book.hook(event, name)
}

// journal is a copy of what is written so far, but for the hooks.
func (f *fence) journal() journal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.book
}

func holderOf(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// renewed is the lease as the holder writes it next.
func (f *fence) renewed(l *coordinationv1.Lease, j journal) *coordinationv1.Lease {
	l = l.DeepCopy()
	now, seconds := metav1.NowMicro(), int32(leaseFor/time.Second)
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = &f.holder, &now, &seconds
	raw, _ := json.Marshal(j) // plain data
	metav1.SetMetaDataAnnotation(&l.ObjectMeta, journalAnnotation, string(raw))
	return l
}

// keep renews the lease until the context ends.
func (f *fence) keep(ctx context.Context) {
	defer close(f.ended)
	for pause(ctx, renewEvery) {
		if err := f.write(ctx, nil); err != nil {
			f.mu.Lock()
			if f.late() {
				f.lose()
			}
			f.mu.Unlock()
		}
	}
}

// write notes something in the journal, if there is something, and renews the lease.
func (f *fence) write(ctx context.Context, note func(*journal)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if note != nil {
		note(&f.book)
	}
	for range 3 {
		if f.lost {
			return fenced(f.holder)
		}
		within, cancel := context.WithTimeout(ctx, renewWithin)
		sent := time.Now()
		written, err := f.leases.Update(within, f.renewed(f.lease, f.book), metav1.UpdateOptions{})
		if err == nil {
			cancel()
			f.lease, f.until = written, sent.Add(believeFor)
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			cancel()
			return kube.Classify(err, "renew the lease on the release")
		}
		// It may be our own write, whose reply was lost.
		is, err := f.leases.Get(within, f.lease.Name, metav1.GetOptions{})
		cancel()
		switch {
		case err != nil && !apierrors.IsNotFound(err):
			return kube.Classify(err, "renew the lease on the release")
		case err != nil || holderOf(is) != f.holder:
			f.lose()
			return fenced(f.holder)
		}
		f.lease = is
	}
	return failure.New(failure.Internal, "the lease on the release changes all the time")
}

// end gives the lease back; the journal stays.
func (f *fence) end(ctx context.Context) {
	f.cancel(nil)
	<-f.ended
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		return
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewWithin)
	defer cancel()
	free, nobody := f.renewed(f.lease, f.book), ""
	free.Spec.HolderIdentity = &nobody
	effectGivenBack.before.Hit()
	_, _ = f.leases.Update(within, free, metav1.UpdateOptions{}) // or it runs out
	effectGivenBack.after.Hit()
}

// pause waits, and reports whether the context still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// stopped is why a wait did not go on.
func stopped(ctx context.Context, doing string) error {
	if f, ok := failure.As(context.Cause(ctx)); ok {
		return f
	}
	return failure.New(failure.WorkerStopped, "told to stop, or out of time, before it could %s", doing)
}
