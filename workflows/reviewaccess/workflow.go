// Package reviewaccess is the procedure ReviewAccess.
package reviewaccess

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Workflow reviews the access to one target.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// review is one run at work.
type review struct {
	r      *procedure.Run
	named  store.AccessReview
	result api.Result
	found  access.Summary
	drift  store.AccessDrift
}

func body(r *procedure.Run, in api.Input) error {
	if known := []string{api.Compare, api.Propose}; in.Baseline != "" && !slices.Contains(known, in.Baseline) {
		return strictjson.Unknown("baseline", in.Baseline, known)
	}
	k := r.Kubernetes()
	if k == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster", r.Target().Name).Do("say where it is with kubernetes: {namespace: ...} in upkeep.yaml, and start a new run")
	}
	w := &review{r: r, result: api.Result{Verdict: run.NotProven, Checks: []run.Check{}, Namespace: k.Namespace,
		Scope: fmt.Sprintf("RBAC of the cluster as its objects have it: who is granted something in namespace %s or in the whole cluster, and who can come there; not other authorizers, not who is in the groups of an identity provider, not what admission forbids", k.Namespace)}}
	request := kubernetes.AccessRequest{RunID: r.ID(), Service: kubernetes.Service{Target: r.Target().Name, Store: r.Target().Store, Kubernetes: k}}
	if err := r.Do(w.step("See who may do what", kubernetes.ReviewAccess), request, &w.found); err != nil {
		return err
	}
	w.named = store.AccessReview{Store: r.Target().Store, Target: r.Target().Name, RunID: r.ID(), SHA256: w.found.SHA256, Trusted: k.BaselineKeys}
	w.see()
	if err := r.Do(w.step("Compare with the baseline", store.CompareAccess), w.named, &w.drift); err != nil {
		w.finish(run.Check{Name: "drift since the baseline", Verdict: procedure.VerdictOf(err), Detail: procedure.What(err)})
		return err
	}
	proposes := in.Baseline == api.Propose || in.Baseline == "" && w.drift.None
	if proposes && !r.DryRun() {
		return w.propose()
	}
	w.conclude()
	if proposes {
		r.Say("dry run: would propose this as the baseline, and wait for an approval: %s", w.words())
	}
	return nil
}

func (w *review) step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick, Queue: run.ClusterQueue}
}

// see lays out what was found, before it is held against anything.
func (w *review) see() {
	f := w.found
	w.result.Subjects, w.result.Grants, w.result.Roles, w.result.Paths = f.Subjects, f.Grants, f.Roles, f.Paths
	w.result.Critical, w.result.High, w.result.Lower = f.Critical, f.High, f.Lower
	w.result.Review, w.result.SHA256, w.result.Unread, w.result.Grant = f.URL, f.SHA256, f.Unread, f.Command
	w.r.Detail(w.words())
	read := run.Check{Name: "all that grants is read", Verdict: run.Pass, Detail: "roles, bindings, accounts and pods"}
	if len(f.Unread) > 0 {
		read.Verdict = run.NotProven
		read.Detail = fmt.Sprintf("may not be read, so nothing is said of it: %s; to grant it: %s", strings.Join(f.Unread, ", "), f.Command)
		w.r.Mark(run.NotProven, read.Detail)
		w.r.Judge(run.NotProven)
	}
	w.finish(read)
}

// finish adds a check to the result.
func (w *review) finish(c run.Check) {
	w.result.Checks = append(w.result.Checks, c)
	w.r.SetResult(w.result)
}

// conclude judges by the baseline.
func (w *review) conclude() {
	d := w.drift
	check := run.Check{Name: "drift since the baseline", Verdict: run.Pass, Detail: "nothing has changed"}
	if !d.None {
		w.result.Baseline = fmt.Sprintf("%d, accepted by %s, %s; signed by the key %.16s", d.Seq, access.Who(d.By, d.Signers), d.At.UTC().Format(time.RFC3339), d.Key)
		w.result.Accepted, w.result.Added, w.result.Other = d.Baseline, d.Added, d.Other
	}
	switch {
	case d.None:
		check.Verdict, check.Detail = run.NotProven, "there is no baseline that a person has accepted"
	case d.Added > 0:
		check.Verdict, check.Detail = run.Fail, fmt.Sprintf("%d changes by which somebody may do more, and %d others", d.Added, d.Other)
	case len(d.Blind) > 0:
		check.Verdict, check.Detail = run.NotProven, "not compared, since it was not read for both: "+strings.Join(d.Blind, ", ")
	case d.Other > 0:
		check.Detail = fmt.Sprintf("%d changes, by none of which anybody may do more", d.Other)
	}
	w.r.Mark(check.Verdict, check.Detail)
	w.r.Judge(check.Verdict)
	w.finish(check)
	for i, change := range d.Changes {
		v := run.Pass
		if d.More[i] {
			v = run.Fail
		}
		w.result.Checks = append(w.result.Checks, run.Check{Name: "since the baseline", Verdict: v, Detail: change})
	}
	accepted := run.NotProven
	if check.Verdict == run.Pass {
		accepted = run.Pass
	}
	w.list(accepted)
	w.result.Verdict = w.sum()
	w.r.SetResult(w.result)
	switch {
	case d.None:
		w.r.Say("%s; there is no baseline to hold it against: start a run with baseline=propose", w.words())
	case check.Verdict == run.Fail:
		w.r.Say("%s than baseline %d of %s: %s; if that is meant, accept it: start a run with baseline=propose", more(d.Added), d.Seq, d.At.UTC().Format(time.DateOnly), d.Changes[0])
	default:
		w.r.Say("%s; since baseline %d of %s: %s", w.words(), d.Seq, d.At.UTC().Format(time.DateOnly), check.Detail)
	}
}

func more(n int) string {
	if n == 1 {
		return "1 grant more"
	}
	return fmt.Sprintf("%d grants, risks or paths more", n)
}

// list adds what was found to the result: with a PASS where a person has accepted all of it. What grants
// nothing is optional.
func (w *review) list(accepted run.Verdict) {
	for _, l := range w.found.Lines {
		c := run.Check{Name: l.Kind, Verdict: accepted, Detail: l.What}
		if l.Kind != "path" && !strings.HasSuffix(l.Kind, " risk") {
			c.Verdict, c.Optional = run.NotProven, true
		}
		w.result.Checks = append(w.result.Checks, c)
	}
}

// sum is the verdict of all checks that are not optional.
func (w *review) sum() run.Verdict {
	v := run.Pass
	for _, c := range w.result.Checks {
		if !c.Optional {
			v = v.And(c.Verdict)
		}
	}
	return v
}

func (w *review) words() string {
	f := w.found
	return fmt.Sprintf("%d subjects with %d grants: %d critical and %d high risks, %d paths to more", f.Subjects, f.Grants, f.Critical, f.High, f.Paths)
}

// propose asks a person to accept the review, and makes it the baseline.
func (w *review) propose() error {
	plan := api.Plan{Version: 1, Target: w.r.Target().Name, Review: w.found.SHA256, Replaces: w.drift.Baseline,
		Subjects: w.found.Subjects, Grants: w.found.Grants, Critical: w.found.Critical, High: w.found.High, Paths: w.found.Paths, Unread: w.found.Unread}
	shown := w.result // what a person decides on
	w.list(run.NotProven)
	for i, change := range w.drift.Changes {
		w.result.Checks = append(w.result.Checks, run.Check{Name: "since the baseline", Verdict: run.NotProven, Detail: change, Optional: !w.drift.More[i]})
	}
	w.r.SetResult(w.result)
	words := "accept as the baseline of access to target " + plan.Target + ": " + w.words()
	if !w.drift.None {
		words += fmt.Sprintf("; it replaces baseline %d, with %d changes by which somebody may do more, and %d others", w.drift.Seq, w.drift.Added, w.drift.Other)
	}
	if len(plan.Unread) > 0 {
		words += "; not read: " + strings.Join(plan.Unread, ", ")
	}
	words += "; all of it: " + w.found.URL
	if err := w.r.Approve(words, plan); err != nil {
		return err
	}
	by := w.r.Decision()
	order := store.AcceptRequest{AccessReview: w.named, Plan: by.Hash, Replaces: plan.Replaces, By: by.By, Signers: by.Signers(), Reason: by.Reason, At: by.DecidedAt}
	var file string
	if err := w.r.Do(w.step("Sign the baseline", store.AcceptAccess), order, &file); err != nil {
		return err
	}
	w.result = shown
	w.result.Accepted, w.result.Baseline = file, "this review, accepted by "+access.Who(by.By, by.Signers())
	w.finish(run.Check{Name: "drift since the baseline", Verdict: run.Pass, Detail: "this is the baseline now: " + file})
	w.list(run.Pass)
	w.result.Verdict = w.sum()
	w.r.SetResult(w.result)
	w.r.Say("%s; accepted as the baseline by %s", w.words(), access.Who(by.By, by.Signers()))
	return nil
}
