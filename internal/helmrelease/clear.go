package helmrelease

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

var effectClear = effect{fault.NewPoint("helm/clear/before"), fault.NewPoint("helm/clear/after")}

// ClearOrder says which locked revision is to be made a failed one, and who says so.
type ClearOrder struct {
	Revision  int
	Record    Record // as History had it: when it has changed since, somebody works on it
	Operation string // the key
	Attempt   string
	By, Why   string       // for the record
	Beat      func(string) // may be nil
	// Patience is how long whoever renews the lease, or a hook that still works, is waited for, instead of
	// refusing at once: the worker of a run that was ended from outside learns of that with its next heartbeat.
	Patience time.Duration
	// WaitForHooks waits for the end of a hook as long as it takes.
	WaitForHooks bool
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
	until := time.Now().Add(order.Patience)
	f, held, end, err := r.acquireBy(ctx, until, journal{Operation: order.Operation, Kind: "clear", Revision: order.Revision}, order.Attempt, as.beat)
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
	for {
		err := o.refuseActiveHooks()
		if err == nil {
			break
		}
		if !failure.Is(err, failure.ReleaseBusy) || !order.WaitForHooks && !time.Now().Before(until) {
			return err
		}
		o.beat("waits for a hook: %s", err)
		if !pause(held, pollEvery) {
			return stopped(held, "see the end of the hooks")
		}
	}
	info := rec.release.Info
	was := info.Status
	info.Status = release.StatusFailed
	info.Description = fmt.Sprintf(wasCleared+"%s: %s %s", was, clip(order.By, 200), clip(order.Why, 1000), mark)
	effectClear.before.Hit()
	if err := rec.write(held, c.set); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return r.void("revision %d is not locked any more, or somebody works on it", order.Revision)
		}
		return kube.Classify(err, fmt.Sprintf("clear revision %d", order.Revision))
	}
	effectClear.after.Hit()
	return o.note(func(j *journal) { j.Done = true })
}

// wasCleared begins the description of a revision whose lock was taken away.
const wasCleared = "Was %s and was cleared by "

// CutOff reports whether the revision is a rollback whose lock was taken away before it came to its end.
func (r Revision) CutOff() bool {
	return r.Status == string(release.StatusFailed) && strings.HasPrefix(r.Description, fmt.Sprintf(wasCleared, release.StatusPendingRollback))
}

// GoesBack reports whether the revision is a rollback, however it ended.
func (r Revision) GoesBack() bool {
	return r.Status == string(release.StatusPendingRollback) || r.CutOff() || strings.HasPrefix(r.Description, "Rollback ")
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
