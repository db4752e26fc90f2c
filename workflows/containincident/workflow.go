// Package containincident is the procedure ContainIncident.
package containincident

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

const (
	// maxReason bounds why somebody suspects something, and the id of an event, in bytes.
	maxReason = 1000
	// priority puts what a case asks of the target before what others ask for.
	priority = 100
	// lessons is what people are asked to write at the end.
	lessons = "what let it in; what showed it; what was slow; what to change"
)

// Workflow contains an incident.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// incident is one case at work.
type incident struct {
	*procedure.Run
	order  kubernetes.ContainOrder
	done   quarantine.Contained
	proof  postgres.Proof // of the newest look
	access rights
	freed  bool // the pods are deleted, or let go of
	result api.Result

	asked        int // how often people were asked anew for that
	undone       int // how often somebody undid something while people were waited for
	undoneRemark string

	probed []run.Check // by pods with the suspects' labels
	old    reading     // of the suspects' own connections
}

func body(r *procedure.Run, in api.Input) error {
	if in.Severity == "" {
		in.Severity = "high"
	}
	switch {
	case strings.TrimSpace(in.Reason) == "" || len(in.Reason) > maxReason || len(in.Event) > maxReason:
		return failure.New(failure.BadInput, "a reason is needed, and it and the event have at most %d bytes", maxReason).Do("say in reason what is suspected")
	case !slices.Contains(api.Severities, in.Severity):
		return strictjson.Unknown("severity", in.Severity, api.Severities)
	}
	k := r.Kubernetes()
	if k == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster", r.Target().Name).Do("say where it is with kubernetes: {namespace: ...} in upkeep.yaml, and start a new run")
	}
	suspects, err := quarantine.Parse(k.Namespace, in.Pods, in.Workload, in.Node, in.ServiceAccount, in.Image)
	if err != nil {
		return err
	}
	caseID := in.Case(r.Target().Name)
	x := &incident{Run: r, result: api.Result{
		Case: caseID, Severity: in.Severity, Reason: in.Reason, Verdict: run.NotProven, Checks: []run.Check{}, Contained: []string{}, OpenedAt: r.Now(), Lessons: lessons,
	}}
	x.order.Incident = kubernetes.Incident{
		Kubernetes: k, Store: r.Target().Store, Suspects: suspects, Order: quarantine.Order{Case: caseID, Target: r.Target().Name, At: r.Now().UTC()},
	}
	x.old.Check = quarantine.Unseen("nobody has looked yet")
	if err := x.access.read(r, in); err != nil {
		return err
	}
	if err := x.contain(); err != nil || r.DryRun() {
		return err
	}
	err = x.conclude()
	if x.result.Ended == api.Deleted {
		x.alarmOver()
	}
	x.timed()
	if err != nil && x.result.Ended == "" && len(x.done.Pods) > 0 {
		out := ""
		if len(x.result.Withdrawn) > 0 {
			out = ", and their accounts out of " + pods(x.result.Withdrawn)
		}
		what := pods(x.result.Contained) + " stay in quarantine"
		if x.freed {
			what = "its end is not complete"
		}
		r.Left("case %s: %s%s; to end it, start %s again with the same input", caseID, what, out, api.WorkflowType)
	}
	return err
}

// contain cuts the suspects off. It waits for nobody, unless the policy does not let it cut off so many.
func (x *incident) contain() error {
	if err := x.Do(step("See whom the suspects mean", kubernetes.PlanContainment), x.order.Incident, &x.order.Plan); err != nil {
		return err
	}
	plan := x.order.Plan
	for _, n := range plan.Not {
		words := n.Pod.String() + ": " + n.Why
		if n.Do != "" {
			words += "; " + n.Do
			x.result.FollowUps = append(x.result.FollowUps, words)
		}
		x.result.NotContained = append(x.result.NotContained, words)
	}
	for _, n := range plan.Narrow {
		x.result.Narrowed = append(x.result.Narrowed, n.String())
	}
	x.result.Foreign, x.result.Gaps = plan.Foreign, plan.Gaps
	if x.DryRun() {
		if err := x.planAccess(); err != nil {
			return err
		}
		access := x.access.order.Plan
		x.SetResult(struct {
			quarantine.Plan
			Access quarantine.AccessPlan `json:"access"`
		}{plan, access})
		over := ""
		if len(plan.Over) > 0 {
			over = ", after an approval (" + strings.Join(plan.Over, "; ") + ")"
		}
		then := ""
		if words := access.Words(x.access.order.Asked); words != "" {
			then = "; then " + words
		}
		if plan.Prober != "" {
			then += "; " + plan.Prober
		}
		x.Say("dry run: it would %s%s%s", plan.Words(), over, then)
		return nil
	}
	x.SetResult(x.result)
	if len(plan.Over) > 0 {
		if err := x.Approve(plan.Words()+"; it asks because it is "+strings.Join(plan.Over, "; "), plan); err != nil {
			return err
		}
		x.decided("to cut them off")
	}
	return x.cutOff("Cut the suspects off")
}

func (x *incident) cutOff(name string) error {
	s := step(name, kubernetes.Contain)
	s.Whole = true // half a quarantine is none
	var done quarantine.Contained
	if err := x.Do(s, x.order, &done); err != nil {
		return err
	}
	first := x.result.ContainedAt.IsZero()
	if x.done = done; first {
		x.result.ContainedAt = x.Now()
		x.result.ContainSeconds = procedure.Seconds(x.Now().Sub(x.result.OpenedAt))
	}
	x.result.Contained = []string{}
	for _, p := range done.Pods {
		x.result.Contained = append(x.result.Contained, p.String())
	}
	for _, p := range done.Gone {
		x.remark(p.String() + " was gone before it was cut off")
	}
	x.remark(done.Remarks...)
	if done.Undone {
		x.Judge(run.NotProven)
		x.Mark(run.NotProven, strings.Join(done.Remarks, "; "))
	}
	x.Say("%s cut off, for: %s", pods(x.result.Contained), x.result.Reason)
	return nil
}

func (x *incident) remark(remarks ...string) {
	for _, r := range remarks {
		if !slices.Contains(x.result.Remarks, r) {
			x.result.Remarks = append(x.result.Remarks, r)
		}
	}
	x.SetResult(x.result)
}

// conclude looks whether the containment holds, keeps the evidence, and waits for people.
func (x *incident) conclude() error {
	// Nothing that changes what runs, removes backups or replaces the database goes on beside it; backups do.
	x.Reserve(priority, procedure.Share(target.Database), procedure.Share(target.Backups), procedure.Exclude(target.Release))
	if err := x.withdraw(); err != nil { // a token that was copied is good outside of the pods
		return err
	}
	if err := x.look(); err != nil {
		return err
	}
	x.read(true) // what vanishes first, first
	if err := x.keep(); err != nil {
		return err
	}
	if err := x.try(); err != nil {
		return err
	}
	remove := true
	for {
		if err := x.look(); err != nil { // somebody may fight back
			return err
		}
		x.read(false)
		if err := x.lookAtAccess(); err != nil {
			return err
		}
		ended, err := x.end(remove)
		switch {
		case ended:
			return err
		case errors.Is(err, errUndone): // asked again, by what is known now
		case procedure.HasCode(err, failure.NotApproved):
			if x.Rejected() { // asked for the other way then; nobody's silence lets go of anything
				x.decided("not to " + map[bool]string{true: "delete them", false: "let go of them"}[remove])
				remove = !remove
			}
		default:
			return err
		}
	}
}

// look sees whether the suspects are cut off, and cuts them off again where somebody has undone it.
func (x *incident) look() error {
	request := kubernetes.EndRequest{ContainOrder: x.order, Done: x.done}
	if err := x.check(request); err != nil || x.proof.Verdict != run.Fail {
		return err
	}
	was := x.proof.Checks[0].Detail
	if err := x.cutOff("Cut the suspects off again: somebody has undone it"); err != nil {
		return err
	}
	x.remark("it was undone meanwhile, and done again: " + was)
	x.old.stale = true // it may have opened others meanwhile
	request.Done = x.done
	return x.check(request)
}

// check looks once, and keeps what is found; only the last look's verdict is the run's.
func (x *incident) check(request kubernetes.EndRequest) error {
	var proof postgres.Proof
	if err := x.Do(step("See that they are cut off", kubernetes.CheckContained), request, &proof); err != nil {
		return err
	}
	x.proof = proof
	x.Mark(proof.Verdict, "")
	x.show()
	return nil
}

// show puts all that is known of the containment into the result.
func (x *incident) show() {
	besides := x.besides()
	x.result.Verdict, x.result.Checks = x.proof.Verdict, slices.Concat(x.proof.Checks, besides)
	for _, c := range besides {
		x.result.Verdict = x.result.Verdict.And(c.Verdict)
	}
	x.timed()
}

// besides are the checks that are not of the API server's own state of the containment: of the access, of whether the
// network enforces it, and of what was open before.
func (x *incident) besides() []run.Check {
	return slices.Concat(x.access.checks, x.probed, []run.Check{x.old.Check})
}

// try tries whether the network holds the suspects off. The evidence, which may vanish, came first.
func (x *incident) try() error {
	if x.Kubernetes().Network.Prober.Image != "" {
		x.removeProbes()
	}
	order := kubernetes.TryOrder{EndRequest: kubernetes.EndRequest{ContainOrder: x.order, Done: x.done}, RunID: x.ID(), Listens: x.old.Listens, CutAt: x.result.ContainedAt}
	if err := x.Do(step("Try whether the network holds them off", kubernetes.TryContained), order, &x.probed); err != nil {
		return err
	}
	x.result.ProvedAt = x.Now()
	verdict := run.Pass
	for _, c := range x.probed {
		if verdict = verdict.And(c.Verdict); c.Verdict == run.Fail {
			x.result.FollowUps = append(x.result.FollowUps, "the network does not hold the suspects off ("+c.Name+"): delete them, or cut off their nodes by other means")
		}
	}
	x.Mark(verdict, "")
	x.show()
	return nil
}

// removeProbes sees to it that no pod of the run's own is left, however it ends.
func (x *incident) removeProbes() {
	x.Always(step("Remove the pods that probe", kubernetes.RemoveProbes), kubernetes.ProbeOrder{Kubernetes: x.Kubernetes(), RunID: x.ID()})
}

func (x *incident) keep() error {
	order := x.evidence()
	s := step("Keep the evidence", kubernetes.CollectEvidence)
	s.Options = procedure.Long
	var kept kubernetes.Kept
	if err := x.Do(s, order, &kept); err != nil {
		return err
	}
	x.Detail(fmt.Sprintf("%d items, %d gaps, signed", kept.Items, kept.Gaps))
	x.result.EvidenceAt = x.Now()
	x.result.Evidence, x.result.EvidenceHead, x.result.EvidenceItems, x.result.EvidenceGaps = kept.URL, kept.Hash, kept.Items, kept.Gaps
	x.result.EvidenceBytes, x.result.EvidenceSealed = kept.Bytes, kept.Sealed
	x.SetResult(x.result)
	return nil
}

// evidence says of what evidence is kept.
func (x *incident) evidence() kubernetes.EvidenceOrder {
	order := kubernetes.EvidenceOrder{Incident: x.order.Incident, Encryption: x.Target().Encryption, RunID: x.ID(), Folder: "evidence-" + x.Key(), At: x.Now(), Pods: []evidence.Pod{}}
	for _, p := range x.order.Plan.Pods {
		order.Pods = append(order.Pods, evidence.Pod{Namespace: p.Namespace, Name: p.Name})
	}
	for _, n := range x.order.Plan.Not {
		order.Pods = append(order.Pods, evidence.Pod{Namespace: n.Pod.Namespace, Name: n.Pod.Name})
	}
	return order
}

// end asks how the case ends, and ends it. It reports whether it has.
func (x *incident) end(remove bool) (bool, error) {
	request := kubernetes.EndRequest{ContainOrder: x.order, Done: x.done, Delete: remove, Access: x.access.order.Plan, Withdrew: x.access.order.Done, Back: !remove || x.access.back}
	if remove {
		request.Renew, request.Rotate = x.access.renew, x.access.rotate
	}
	order := kubernetes.EndOrder{Incident: x.order.Incident}
	if err := x.Do(step("Plan the end of the quarantine", kubernetes.PlanQuarantineEnd), request, &order.Plan); err != nil {
		return false, err
	}
	warning := ""
	for _, c := range x.besides() {
		if c.Verdict == run.Fail {
			warning += "; " + c.Name + ": " + c.Detail
		}
	}
	other := "delete them"
	if remove {
		other = "let go of them"
	}
	if err := x.ApproveBeside(order.Plan.Words()+"; rejected, it asks whether to "+other+" instead"+warning, order.Plan, x.guard); err != nil {
		return false, err
	}
	x.decided(map[bool]string{true: "to delete them", false: "to let go of them"}[remove])
	name, how := "Let go of the pods", api.Released
	if remove {
		name, how = "Delete the pods", api.Deleted
	}
	order.Order.At = x.Now().UTC() // an attempt to contain that wakes up later finds a later order
	if _, err := x.release(name, kubernetes.EndQuarantine, order); err != nil {
		return false, err
	}
	x.freed = true
	if err := x.endAccess(order); err != nil {
		return true, err
	}
	if _, err := x.release("Take away what was made for the case", kubernetes.LiftQuarantine, order); err != nil {
		return true, err
	}
	x.result.Ended, x.result.EndedAt = how, x.Now()
	x.Judge(x.result.Verdict) // of the containment, as it was last seen
	return true, x.recover(remove)
}

// release is a step of the end of a case. What it leaves undone is not proven.
func (x *incident) release(name, activity string, order kubernetes.EndOrder) (out quarantine.Released, err error) {
	s := step(name, activity)
	s.Whole = true
	if err := x.Do(s, order, &out); err != nil {
		return out, err
	}
	x.remark(out.Remarks...)
	for _, f := range out.FollowUps {
		x.followUp(f)
	}
	if out.Undone {
		x.Judge(run.NotProven)
		x.Mark(run.NotProven, strings.Join(out.Remarks, "; "))
	}
	return out, nil
}

// recover brings the service back, and says how the case ended.
func (x *incident) recover(removed bool) error {
	x.EndTurn() // which the recovery needs
	if removed && x.Kubernetes().Release != "" {
		doc, err := x.Child("Bring the service back", recoverservice.WorkflowType, "recover", recoverservice.Input{Common: run.Common{Target: x.Target().Name}})
		if err != nil {
			return err
		}
		if doc.Outcome == run.Succeeded {
			x.result.RecoveredAt = x.Now()
		} else {
			x.Judge(run.NotProven)
			x.result.FollowUps = append(x.result.FollowUps, "the service: "+doc.Summary)
		}
	}
	if removed {
		if err := x.rotateSecrets(); err != nil {
			return err
		}
		x.result.FollowUps = append(x.result.FollowUps,
			"change the secrets that the pods could read; credentials of a cloud that they had obtained are out of Upkeep's reach",
			"mend what made the pods bad (image, configuration, access), or their controllers make the same again")
	}
	x.SetResult(x.result)
	x.Say("case %s (%s: %s): %s %s, %.1f s after it was opened they were cut off; %d items of evidence are kept",
		x.result.Case, x.result.Severity, x.result.Reason, pods(x.result.Contained), x.result.Ended, x.result.ContainSeconds, x.result.EvidenceItems)
	return nil
}

// decided notes a decision on the newest plan.
func (x *incident) decided(what string) {
	a := x.Decision()
	x.result.DecidedAt = a.DecidedAt
	x.result.Decisions = append(x.result.Decisions, fmt.Sprintf("%s: %s, %s %s (%s), on plan %.12s", a.DecidedAt.UTC().Format("2006-01-02T15:04:05Z"), a.Who(), a.Decision, what, a.Reason, a.Hash))
	x.timed()
}

// pods names some of many.
func pods(names []string) string {
	const most = 5
	switch {
	case len(names) == 0:
		return "no pod"
	case len(names) <= most:
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d pods (%s, ...)", len(names), strings.Join(names[:most], ", "))
}

func step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick, Queue: run.ClusterQueue}
}
