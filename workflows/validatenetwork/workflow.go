// Package validatenetwork is the procedure ValidateNetwork.
package validatenetwork

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	api "github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Workflow checks a target's network.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, _ api.Input) error {
	k := r.Kubernetes()
	if k == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster", r.Target().Name).Do("say where it is with kubernetes: {namespace: ...} in upkeep.yaml, and start a new run")
	}
	if !r.DryRun() { // who changes workloads meanwhile would be taken for a fault of the network
		if err := r.Turn(procedure.Share(target.Release)); err != nil {
			return err
		}
	}
	order := kubernetes.ProbeOrder{Kubernetes: k, RunID: r.ID()}
	var plan netcheck.Plan
	if err := r.Do(step("Read policies and pods", kubernetes.PlanNetwork), order, &plan); err != nil {
		return err
	}
	r.Detail(fmt.Sprintf("%d policies, %d pods; %s to check", plan.Policies, plan.Pods, connections(len(plan.Checks))))
	result := api.Result{Verdict: run.NotProven, Pods: plan.Pods, Policies: plan.Policies, Foreign: plan.Foreign, LeftOut: plan.LeftOut, Matrix: []api.Row{}}
	for _, row := range plan.Matrix {
		result.Matrix = append(result.Matrix, api.Row(row))
	}
	for _, s := range plan.Sources {
		result.Probes = append(result.Probes, s.Name)
	}
	if r.DryRun() {
		findings := netcheck.Judge(plan, nil)
		show(&result, findings)
		r.SetResult(result)
		r.Say("dry run: would try %s from pods with the labels of: %s", connections(len(findings)), none(result.Probes))
		return nil
	}
	r.SetResult(result)
	var findings []netcheck.Finding
	if len(plan.Sources) > 0 {
		r.Always(step("Remove the pods that probe", kubernetes.RemoveProbes), order)
	}
	if err := r.Do(step("Try the connections", kubernetes.ProbeNetwork), kubernetes.ProbeRequest{ProbeOrder: order, Plan: plan}, &findings); err != nil {
		return err
	}
	show(&result, findings)
	r.SetResult(result)
	r.Mark(result.Verdict, "")
	r.Judge(result.Verdict)
	say(r, findings)
	return nil
}

// show writes findings into a result. Nothing checked proves nothing.
func show(result *api.Result, findings []netcheck.Finding) {
	result.Connections, result.Checks = []api.Connection{}, []run.Check{}
	passed := 0
	result.Verdict = run.NotProven
	for _, f := range findings {
		result.Connections = append(result.Connections, api.Connection{
			Name: f.Name, From: f.From, To: f.To, Port: f.Port, Want: f.Want, ByPolicies: f.Model, Because: f.Because, Seen: f.Seen, Why: f.Why, Verdict: f.Verdict,
		})
		name := f.Name
		if name == "" {
			name = f.From + " to " + f.To
		}
		result.Checks = append(result.Checks, run.Check{Name: name, Verdict: f.Verdict, Detail: f.String()})
		switch f.Verdict {
		case run.Pass:
			passed++
		case run.Fail:
			result.Verdict = run.Fail
		}
	}
	if passed == len(findings) && passed > 0 && len(result.LeftOut) == 0 {
		result.Verdict = run.Pass
	}
}

func say(r *procedure.Run, findings []netcheck.Finding) {
	var wrong, open []string
	for _, f := range findings {
		switch f.Verdict {
		case run.Fail:
			wrong = append(wrong, f.String())
		case run.NotProven:
			open = append(open, f.From+" to "+f.To)
		}
	}
	switch {
	case len(findings) == 0:
		r.Say("no policy protects a port that a workload declares, and the configuration expects nothing: there is nothing to check")
	case len(wrong) > 0:
		r.Say("%d of %s not as expected: %s", len(wrong), connections(len(findings)), strings.Join(wrong[:min(len(wrong), 3)], "; "))
	case len(open) > 0:
		r.Say("%s as expected, %d not proven: %s", connections(len(findings)-len(open)), len(open), strings.Join(open[:min(len(open), 5)], "; "))
	default:
		r.Say("%s as expected, seen and by the policies", connections(len(findings)))
	}
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

func none(names []string) string {
	if len(names) == 0 {
		return "nobody (kubernetes.network.prober.image is not set)"
	}
	return strings.Join(names, ", ")
}

func step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick, Queue: run.ClusterQueue}
}
