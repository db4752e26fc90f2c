// Package recoverservice is the procedure RecoverService.
package recoverservice

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/recovery"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/owners"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

const (
	waitMinutes = 5
	maxWait     = 120
	// lockFor is how old a lock must be that nobody is asked about. Helm's own default is to give up
	// after 5 minutes.
	lockFor = 15 * time.Minute
	// briefly is how long a restart is given where a rollback is likelier to help.
	briefly = 30 * time.Second
	// mostLooks bounds a run whose facts change again and again.
	mostLooks = 60
)

// Workflow brings a service back.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// rescue is one run at work.
type rescue struct {
	r       *procedure.Run
	service kubernetes.Service
	policy  recovery.Policy
	wait    time.Duration
	result  api.Result
	tried   []recovery.Step
	held    []*owners.Held
	asks    bool // of those held: they would take back what the run has made of the release
	// suspect says that the newest revision was never seen healthy and the one to go back to was, so that it is
	// likely the release that broke the service.
	suspect bool
	stayed  bool // the newest wait ended with the service healthy, and staying so
}

func body(r *procedure.Run, in api.Input) error {
	switch {
	case in.UpTo == "":
		in.UpTo = string(recovery.Rollback)
	case !slices.Contains(recovery.Rungs(), in.UpTo):
		return strictjson.Unknown("upTo", in.UpTo, recovery.Rungs())
	}
	if in.Wait == 0 {
		in.Wait = waitMinutes
	}
	if in.Wait < 1 || in.Wait > maxWait {
		return failure.New(failure.BadInput, "wait is %d minutes, and must be from 1 to %d", in.Wait, maxWait).Do("correct it, or leave it out for %d", waitMinutes)
	}
	k := r.Kubernetes()
	if k == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster", r.Target().Name).Do("say where it is with kubernetes: {namespace: ..., release: ...} in upkeep.yaml, and start a new run")
	}
	if !r.DryRun() {
		if err := r.Turn(procedure.Exclude(target.Release)); err != nil {
			return err
		}
	}
	w := &rescue{
		r: r, service: kubernetes.Service{Target: r.Target().Name, Store: r.Target().Store, Kubernetes: k},
		policy: recovery.Policy{UpTo: recovery.Rung(in.UpTo), Lock: lockFor, Owners: k.Owners, Release: k.Release, Namespace: k.Namespace}, wait: time.Duration(in.Wait) * time.Minute,
		result: api.Result{Release: k.Release, Verdict: run.NotProven, ReadinessOnly: len(k.Probes) == 0, Before: []string{}, After: []string{}, Taken: []api.Taken{}},
	}
	return w.climb()
}

// climb takes step after step until the service is healthy, or none is left.
func (w *rescue) climb() error {
	flaps := false
	for look := 0; look < mostLooks; look++ {
		state, choice, err := w.look(look == 0)
		if err != nil {
			return err
		}
		if w.r.DryRun() {
			w.foresee(choice)
			return nil
		}
		if look == 0 {
			if err := w.takeOver(state); err != nil {
				return err
			}
		}
		switch {
		case choice.Done && flaps:
			return failure.New(failure.NotRecovered, "the service is healthy at times and does not stay so").Do("read the logs of its pods (kubectl logs --previous)")
		case choice.Done:
			verdict, err := w.await(w.wait, false)
			if err != nil {
				return err
			}
			if verdict == run.Pass && len(w.held) > 0 {
				if err := w.release(); err != nil {
					return err
				}
				continue // it is looked at once more, with its owners at work
			}
			if verdict == run.Pass {
				return w.arrive()
			}
			flaps = true // looked at once more: it may have become worse
		case choice.Step == nil && w.result.Verdict == run.NotProven:
			if err := w.release(); err != nil {
				return err
			}
			w.r.Judge(run.NotProven)
			w.r.Say("all pods of release %s are ready, and it is not proven that the service works: %s", w.result.Release, strings.Join(w.result.After, "; "))
			return nil
		case choice.Step == nil:
			return w.exhausted(choice)
		default:
			if err := w.take(*choice.Step); err != nil {
				return err
			}
		}
	}
	return failure.New(failure.NotRecovered, "what is seen of release %s changes at each look", w.result.Release).Do("see who else works on it, then start a new run")
}

// look sees how things are, and what to do about it.
func (w *rescue) look(first bool) (state recovery.State, choice recovery.Choice, err error) {
	if err := w.r.Do(w.step("Look at the service", kubernetes.LookAtService, procedure.Quick), w.service, &state); err != nil {
		return state, choice, err
	}
	verdict, problems := health.Judge(state.State)
	seen := []string{}
	for _, p := range problems[:min(len(problems), 20)] {
		seen = append(seen, p.What)
	}
	if state.Release.Locked {
		seen = append(seen, fmt.Sprintf("revision %d of the release is %s", state.Release.Latest, state.Release.Status))
	}
	if state.Release.CutOff > 0 {
		seen = append(seen, fmt.Sprintf("revision %d of the release was cut off in the middle of a rollback", state.Release.Latest))
	}
	detail := "it is healthy"
	if len(seen) > 0 {
		detail = strings.Join(seen, "; ")
	}
	w.r.Detail(detail)
	choice = recovery.Next(state, w.tried, w.policy)
	w.suspect = state.Release.Back.Proven && !state.Release.Proven && w.policy.UpTo == recovery.Rollback
	if first {
		w.result.Before = seen
		if len(seen) > 0 {
			w.result.OutageSeen = w.r.Now()
		}
	}
	w.result.After, w.result.Verdict, w.result.Revision = seen, verdict, state.Release.Latest
	w.result.Skipped, w.result.Person, w.result.Proposed = choice.Skipped, choice.Person, nil
	for _, p := range choice.Proposed {
		w.result.Proposed = append(w.result.Proposed, p.String())
	}
	w.r.SetResult(w.result)
	return state, choice, nil
}

// foresee is the end of a dry run.
func (w *rescue) foresee(c recovery.Choice) {
	switch {
	case c.Done:
		w.r.Say("dry run: release %s is healthy%s; nothing would be done", w.result.Release, w.caveat())
	case c.Step == nil:
		w.r.Say("dry run: %s; no step of this procedure would help; a person must see to it: %s", strings.Join(w.result.After, "; "), strings.Join(c.Person, "; "))
	default:
		w.result.Next = c.Step.Words
		w.r.SetResult(w.result)
		asks := ""
		if c.Step.Asks != "" {
			asks = ", after an approval (" + c.Step.Asks + ")"
		}
		w.r.Say("dry run: %s; the first step would be to %s%s", strings.Join(w.result.After, "; "), c.Step.Words, asks)
	}
}

// take takes a step, and waits for what comes of it.
func (w *rescue) take(s recovery.Step) error {
	order := kubernetes.StepOrder{Service: w.service, Step: s, Key: fmt.Sprintf("%s/%s/%d", w.r.Key(), s.Rung, len(w.tried))}
	taken := api.Taken{Step: string(s.Rung), What: s.Words}
	note := func(helped bool, err error) {
		taken.Helped = helped
		if err != nil {
			taken.Error = procedure.What(err)
		}
		w.result.Taken = append(w.result.Taken, taken)
		w.r.SetResult(w.result)
	}
	if s.Rung == recovery.Rollback {
		err := w.r.Do(w.step("Plan the rollback", kubernetes.PlanRollback, procedure.Quick), order, &order.Step)
		switch {
		case procedure.HasCode(err, failure.ApplyFailed): // the cluster would refuse it
			taken.At = w.r.Now()
			w.tried = append(w.tried, s)
			note(false, err)
			return nil
		case procedure.HasCode(err, failure.PlanVoid):
			return nil
		case err != nil:
			return err
		}
	}
	if s.Asks != "" {
		w.r.EndTurn() // a decision may take days
		if err := w.r.Approve(s.Words+"; "+s.Asks, order.Step); err != nil {
			return err
		}
		if err := w.r.Turn(procedure.Exclude(target.Release)); err != nil {
			return err
		}
		if !w.r.Approved() {
			return nil // the turn came too late: look, and ask, again
		}
	}
	if again, err := w.suspend(s); again || err != nil {
		return err
	}
	taken.At = w.r.Now()
	if s.Rung != recovery.Wait {
		err := w.r.Do(w.step(names[s.Rung], kubernetes.TakeStep, procedure.Long), order, nil)
		switch {
		case procedure.HasCode(err, failure.PlanVoid):
			return nil // what it stands on has changed, so it is looked at anew
		case procedure.HasCode(err, failure.ApplyFailed), procedure.HasCode(err, failure.NotReady), procedure.HasCode(err, failure.HookFailed):
			w.tried = append(w.tried, s)
			note(false, err)
			return nil
		case err != nil:
			return err
		}
		w.r.Detail(s.Words)
	}
	w.tried = append(w.tried, s)
	if s.Rung == recovery.Clear { // which helps no pod
		note(true, nil)
		return nil
	}
	wait := w.wait
	if w.suspect && (s.Rung == recovery.Restart || s.Rung == recovery.Rollout) {
		wait = min(wait, briefly)
	}
	began := w.r.Now()
	verdict, err := w.await(wait, s.Rung == recovery.Wait)
	if s.Rung == recovery.Wait && w.r.Now().Sub(began) < wait { // something else was seen: there may be reason to wait again
		w.tried = w.tried[:len(w.tried)-1]
	}
	note(verdict == run.Pass, nil)
	return err
}

// suspend keeps those from acting who would take a step back. It reports whether they are not what they
// were, so that all is to be looked at again.
func (w *rescue) suspend(s recovery.Step) (again bool, err error) {
	if len(s.Owners) == 0 {
		return false, nil
	}
	fresh := slices.DeleteFunc(slices.Clone(s.Owners), func(o ownership.Image) bool {
		return slices.Contains(w.result.Suspended, o.Owner.String()) && len(w.held) > 0
	})
	if len(fresh) > 0 {
		err = w.hold(fresh)
	}
	if procedure.HasCode(err, failure.PlanVoid) {
		return true, nil
	}
	w.asks = w.asks || s.Rung == recovery.Rollback // the others leave nothing of theirs in the release
	return false, err
}

// takeOver keeps those whom an earlier run has left suspended, to let them act again at the end.
func (w *rescue) takeOver(s recovery.State) error {
	left := slices.DeleteFunc(slices.Clone(s.Owners), func(o ownership.Image) bool { return o.HeldBy == "" })
	if len(left) == 0 {
		return nil
	}
	err := w.hold(left)
	if procedure.HasCode(err, failure.PlanVoid) {
		return nil // somebody has just given them back
	}
	w.asks = true // what that run had made of the release is not known
	return err
}

func (w *rescue) hold(images []ownership.Image) error {
	h := owners.Hold(w.r, w.service.Kubernetes, owners.Order(w.r), images)
	if err := h.Suspend("Suspend the owners of the workloads"); err != nil {
		return err
	}
	w.held = append(w.held, h)
	for _, o := range images {
		if name := o.Owner.String(); !slices.Contains(w.result.Suspended, name) {
			w.result.Suspended = append(w.result.Suspended, name)
		}
	}
	w.r.SetResult(w.result)
	return nil
}

// release lets all act again that the run has suspended, after a person has seen to it where they would
// take something back.
func (w *rescue) release() error {
	if len(w.held) == 0 {
		return nil
	}
	if w.asks {
		if err := w.held[len(w.held)-1].AskToResume(fmt.Sprintf("release %s is healthy at revision %d", w.result.Release, w.result.Revision)); err != nil {
			return err
		}
	}
	for _, h := range w.held {
		remarks, err := h.Resume()
		if err != nil {
			return err
		}
		w.result.Remarks = append(w.result.Remarks, remarks...)
	}
	w.held, w.asks = nil, false
	w.r.SetResult(w.result)
	return nil
}

// await waits until the service is healthy, or the time is over; where it is only young, until it is not.
func (w *rescue) await(wait time.Duration, young bool) (verdict run.Verdict, err error) {
	request := kubernetes.AwaitRequest{Service: w.service, Until: w.r.Now().Add(wait), Stayed: w.stayed, Young: young}
	err = w.r.Do(w.step("Wait until the service is healthy", kubernetes.AwaitHealthy, procedure.Long), request, &verdict)
	w.stayed = err == nil && verdict == run.Pass
	if err == nil {
		w.r.Mark(verdict, map[run.Verdict]string{run.Pass: "healthy, and it stays so", run.Fail: "not healthy within " + wait.String(), run.NotProven: "not proven within " + wait.String()}[verdict])
	}
	return verdict, err
}

// arrive is the end of a run that saw the service healthy.
func (w *rescue) arrive() error {
	w.result.HealthyAt = w.r.Now()
	if !w.result.ReadinessOnly {
		err := w.r.Do(w.step("Note that the revision is healthy", kubernetes.NoteRecovered, procedure.Quick), kubernetes.NoteRequest{Service: w.service, RunID: w.r.ID()}, &w.result.Revision)
		if err != nil {
			return err
		}
	}
	w.r.SetResult(w.result)
	if len(w.result.Taken) == 0 {
		w.r.Say("release %s is healthy%s; nothing was done", w.result.Release, w.caveat())
		return nil
	}
	last := w.result.Taken[len(w.result.Taken)-1]
	w.r.Say("release %s is healthy again%s, %s after the outage was seen; what helped: %s; it was: %s",
		w.result.Release, w.caveat(), w.result.HealthyAt.Sub(w.result.OutageSeen).Round(time.Second), last.What, strings.Join(w.result.Before, "; "))
	return nil
}

func (w *rescue) caveat() string {
	if w.result.ReadinessOnly {
		return " (by readiness alone: the target has no kubernetes.probes)"
	}
	return ""
}

// exhausted is the end of a run that could not help.
func (w *rescue) exhausted(c recovery.Choice) error {
	what := strings.Join(w.result.After, "; ")
	if len(w.result.Taken) == 0 {
		what += "; no step can mend that"
	} else {
		var taken []string
		for _, t := range w.result.Taken {
			taken = append(taken, t.Step)
		}
		what += "; taken in vain: " + strings.Join(taken, ", ")
	}
	if len(c.Skipped) > 0 {
		what += "; not taken: " + strings.Join(c.Skipped, "; ")
	}
	remedy := "see kubectl describe pods and their logs"
	if all := append(slices.Clone(w.result.Proposed), c.Person...); len(all) > 0 {
		remedy = strings.Join(all, "; ")
	}
	return failure.New(failure.NotRecovered, "release %s is not healthy: %s", w.result.Release, what).Do("%s; then start a new run", remedy)
}

func (w *rescue) step(name, activity string, o procedure.Options) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: o, Queue: run.ClusterQueue}
}

var names = map[recovery.Rung]string{
	recovery.Restart: "Restart a pod", recovery.Rollout: "Restart all pods of a workload", recovery.Recreate: "Remove pods by force",
	recovery.Clear: "Take away the release's lock", recovery.Rollback: "Roll the release back",
}
