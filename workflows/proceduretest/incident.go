package proceduretest

import (
	"cmp"
	"context"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/testsuite"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// ofIncidents are the activities of ContainIncident, by their names.
func (w *World) ofIncidents() map[string]any {
	return map[string]any{
		kubernetes.PlanContainment: answer(w, kubernetes.PlanContainment, func(in kubernetes.Incident) quarantine.Plan {
			plan := w.Quarantine
			plan.Version, plan.Case = 1, in.Order.Case
			return plan
		}),
		kubernetes.Contain: answer(w, kubernetes.Contain, func(in kubernetes.ContainOrder) (done quarantine.Contained) {
			for _, p := range in.Plan.Pods {
				done.Pods = append(done.Pods, quarantine.Image{Ref: p.Ref, UID: p.UID, Labels: map[string]string{"app": "web"}})
			}
			return done
		}),
		kubernetes.CheckContained: check[kubernetes.EndRequest](w, kubernetes.CheckContained),
		kubernetes.GuardContained: func(ctx context.Context, _ kubernetes.GuardOrder) (kubernetes.Guarded, error) {
			<-ctx.Done() // New has the SDK's environment wait by its own clock
			return kubernetes.Guarded{}, ctx.Err()
		},
		kubernetes.TryContained: answer(w, kubernetes.TryContained, func(in kubernetes.TryOrder) []run.Check {
			w.tried = in
			return []run.Check{{Name: "what goes out", Verdict: cmp.Or(w.Enforced, run.Pass), Detail: "tried"}}
		}),
		kubernetes.ReadSuspects: answer(w, kubernetes.ReadSuspects, func(kubernetes.ReadOrder) quarantine.Reading {
			return next(&w.Readings, quarantine.Reading{Check: run.Check{Name: quarantine.OldConnections, Verdict: run.Pass, Detail: "none lives"}})
		}),
		kubernetes.CollectEvidence: answer(w, kubernetes.CollectEvidence, func(in kubernetes.EvidenceOrder) kubernetes.Kept {
			return kubernetes.Kept{Head: evidence.Head{Entries: 4, Items: 3, Gaps: 1, Bytes: 1024, Hash: "ab"}, URL: in.Store + "/runs/" + in.RunID + "/" + in.Folder}
		}),
		kubernetes.PlanQuarantineEnd: answer(w, kubernetes.PlanQuarantineEnd, func(in kubernetes.EndRequest) quarantine.ReleasePlan {
			out := quarantine.ReleasePlan{Version: 1, Case: in.Plan.Case, Delete: in.Delete, Pods: []quarantine.Freed{}}
			for _, p := range in.Done.Pods {
				out.Pods = append(out.Pods, quarantine.Freed{Ref: p.Ref, UID: p.UID, Back: p.Labels, Then: "nobody takes it back"})
			}
			for _, h := range in.Withdrew.Bindings {
				out.Access = append(out.Access, quarantine.Returned{Binding: h.Binding, UID: h.UID, Subjects: h.Subjects, Stay: !in.Back, Do: "kubectl patch"})
			}
			for _, a := range in.Access.Accounts {
				if in.Renew {
					out.Accounts = append(out.Accounts, quarantine.Renewed{Ref: a.Ref, UID: "a1", Hits: a.Others, Not: a.Not})
				}
			}
			out.Rotate = in.Rotate
			return out
		}),
		kubernetes.PlanWithdrawal: answer(w, kubernetes.PlanWithdrawal, func(in kubernetes.ContainOrder) quarantine.AccessPlan {
			plan := w.Granted
			plan.Version, plan.Case = 1, in.Order.Case
			return plan
		}),
		kubernetes.Withdraw: answer(w, kubernetes.Withdraw, func(kubernetes.AccessOrder) quarantine.Withdrawn { return w.Withdrawn }),
		kubernetes.CheckAccess: answer(w, kubernetes.CheckAccess, func(kubernetes.AccessOrder) quarantine.AccessProof {
			return next(&w.Rights, quarantine.AccessProof{Checks: []run.Check{{Name: "access", Verdict: run.Pass, Detail: "looked at"}}})
		}),
		kubernetes.RenewAccounts: answer(w, kubernetes.RenewAccounts, func(in kubernetes.EndOrder) (out quarantine.Released) {
			for _, a := range in.Plan.Accounts {
				if a.Not == "" {
					out.Renewed = append(out.Renewed, a.Ref)
				}
			}
			return out
		}),
		kubernetes.ReturnAccess: answer(w, kubernetes.ReturnAccess, func(in kubernetes.EndOrder) quarantine.Released {
			w.returned = append(w.returned, in)
			return quarantine.Released{}
		}),
		kubernetes.EndQuarantine: answer(w, kubernetes.EndQuarantine, func(in kubernetes.EndOrder) quarantine.Released {
			w.quarantines = append(w.quarantines, in)
			return quarantine.Released{Pods: []quarantine.Ref{}}
		}),
		kubernetes.LiftQuarantine: answer(w, kubernetes.LiftQuarantine, func(kubernetes.EndOrder) quarantine.Released {
			return quarantine.Released{Pods: []quarantine.Ref{}}
		}),
	}
}

// guard stands by for as long as a run waits, in time that passes for the environment alone, or until the next of what
// the world has it find.
func (w *World) guard(env *testsuite.TestWorkflowEnvironment) {
	env.OnActivity(kubernetes.GuardContained, mock.Anything, mock.Anything).AfterFn(func() time.Duration {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.Guards)+len(w.errors[kubernetes.GuardContained]) > 0 {
			return time.Hour
		}
		return 30 * 24 * time.Hour
	}).Return(func(ctx context.Context, in kubernetes.GuardOrder) (kubernetes.Guarded, error) {
		if err := w.enter(ctx, kubernetes.GuardContained); err != nil {
			return kubernetes.Guarded{}, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.guards = append(w.guards, in)
		found := next(&w.Guards, kubernetes.Guarded{})
		found.Done, found.Withdrew = in.Done, in.Access.Done
		return found, nil
	}).Maybe()
}

// Guarded is what the suspects were kept cut off by, as it was asked for.
func (w *World) Guarded() []kubernetes.GuardOrder { return w.guards }
