package worker

import (
	"slices"

	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// The capabilities. Each is a set of activities that need the same credentials, on a task queue of its
// own, so that a worker holds only what its part needs. Workflows needs none at all.
const (
	Workflows = "workflows"
	Database  = "database"
	Cluster   = "cluster"
	Code      = "code"
)

// capability is what a worker serves of one of them: each of its queues takes everything registered.
type capability struct {
	name     string
	queues   func(*Worker) []string
	register func(*Worker, sdkworker.Registry)
}

// capabilities are all there are, in the order in which a worker begins to serve them.
var capabilities = []capability{
	{Workflows, func(*Worker) []string { return []string{run.WorkflowQueue} }, (*Worker).registerWorkflows},
	{Database, func(w *Worker) []string { return []string{run.DatabaseQueue, w.postgres.Scratch.Queue} }, (*Worker).registerDatabase},
	{Cluster, func(*Worker) []string { return []string{run.ClusterQueue} }, (*Worker).registerCluster},
	{Code, func(*Worker) []string { return []string{run.CodeQueue} }, (*Worker).registerCode},
}

// Capabilities are the names of all capabilities.
func Capabilities() []string {
	names := make([]string, len(capabilities))
	for i, c := range capabilities {
		names[i] = c.name
	}
	return names
}

// chosen returns the capabilities of the given names; all for none. A name that is unknown is refused
// with the nearest right one.
func chosen(names []string) ([]capability, error) {
	if len(names) == 0 {
		return capabilities, nil
	}
	for _, name := range names {
		if !slices.Contains(Capabilities(), name) {
			return nil, strictjson.Unknown("the capability", name, Capabilities())
		}
	}
	return slices.DeleteFunc(slices.Clone(capabilities), func(c capability) bool { return !slices.Contains(names, c.name) }), nil
}

func (w *Worker) registerWorkflows(r sdkworker.Registry) {
	RegisterWorkflows(r)
	local := &runs.Activities{Client: w.client}
	register(r, map[string]any{runs.AskLease: local.AskLease, runs.EndedRuns: local.EndedRuns})
}

func (w *Worker) registerDatabase(r sdkworker.Registry) {
	w.registerCommon(r)
	p := w.postgres
	register(r, map[string]any{
		postgres.PlanBackup:       p.PlanBackup,
		postgres.TakeBackup:       p.TakeBackup,
		postgres.FindBackup:       p.FindBackup,
		postgres.CheckStored:      p.CheckStored,
		postgres.CheckDecoded:     p.CheckDecoded,
		postgres.PlanRestore:      p.PlanRestore,
		postgres.PrepareScratch:   p.PrepareScratch,
		postgres.CreateDatabase:   p.CreateDatabase,
		postgres.LoadRows:         p.LoadRows,
		postgres.Compare:          p.Compare,
		postgres.Publish:          p.Publish,
		postgres.CheckReplaceable: p.CheckReplaceable,
		postgres.SealCopy:         p.SealCopy,
		postgres.PlanSwap:         p.PlanSwap,
		postgres.ApplySwap:        p.ApplySwap,
		postgres.IsSwapped:        p.IsSwapped,
		postgres.DropReplaced:     p.DropReplaced,
		postgres.DropCopy:         p.DropCopy,
		postgres.LookSessions:     p.LookSessions,
		postgres.DrainSessions:    p.DrainSessions,
		postgres.CheckForeignKeys: p.CheckForeignKeys,
		postgres.LookAtRoles:      p.LookAtRoles,
		postgres.PrepareRole:      p.PrepareRole,
		postgres.ProveLogin:       p.ProveLogin,
		postgres.AwaitSessions:    p.AwaitSessions,
		postgres.WithdrawRole:     p.WithdrawRole,
		postgres.IsWithdrawn:      p.IsWithdrawn,
		postgres.ProveWithdrawn:   p.ProveWithdrawn,
		postgres.RetireRole:       p.RetireRole,
	})
}

func (w *Worker) registerCluster(r sdkworker.Registry) {
	w.registerCommon(r)
	h := w.helm
	register(r, map[string]any{
		helm.PlanUpgrade:   h.PlanUpgrade,
		helm.TakeOver:      h.TakeOver,
		helm.Upgrade:       h.Upgrade,
		helm.PlanUndo:      h.PlanUndo,
		helm.Rollback:      h.Rollback,
		helm.CountRestarts: h.CountRestarts,
		helm.Watch:         h.Watch,
	})
	k := w.kubernetes
	register(r, map[string]any{
		kubernetes.FindService:    k.FindService,
		kubernetes.PlanStop:       k.PlanStop,
		kubernetes.PlanNetwork:    k.PlanNetwork,
		kubernetes.ProbeNetwork:   k.ProbeNetwork,
		kubernetes.RemoveProbes:   k.RemoveProbes,
		kubernetes.SuspendOwners:  k.SuspendOwners,
		kubernetes.StopClients:    k.StopClients,
		kubernetes.StartClients:   k.StartClients,
		kubernetes.ResumeOwners:   k.ResumeOwners,
		kubernetes.ProveRecovered: k.ProveRecovered,
		kubernetes.LookAtService:  k.LookAtService,
		kubernetes.PlanRollback:   k.PlanRollback,
		kubernetes.TakeStep:       k.TakeStep,
		kubernetes.AwaitHealthy:   k.AwaitHealthy,
		kubernetes.NoteRecovered:  k.NoteRecovered,

		kubernetes.PlanContainment:   k.PlanContainment,
		kubernetes.Contain:           k.Contain,
		kubernetes.CheckContained:    k.CheckContained,
		kubernetes.TryContained:      k.TryContained,
		kubernetes.ReadSuspects:      k.ReadSuspects,
		kubernetes.CollectEvidence:   k.CollectEvidence,
		kubernetes.PlanQuarantineEnd: k.PlanQuarantineEnd,
		kubernetes.EndQuarantine:     k.EndQuarantine,
		kubernetes.LiftQuarantine:    k.LiftQuarantine,
		kubernetes.GuardContained:    k.GuardContained,
		kubernetes.PlanWithdrawal:    k.PlanWithdrawal,
		kubernetes.Withdraw:          k.Withdraw,
		kubernetes.CheckAccess:       k.CheckAccess,
		kubernetes.RenewAccounts:     k.RenewAccounts,
		kubernetes.ReturnAccess:      k.ReturnAccess,
		kubernetes.ReviewAccess:      k.ReviewAccess,
		store.CompareAccess:          w.store.CompareAccess,
		store.AcceptAccess:           w.store.AcceptAccess,

		kubernetes.LookAtSecret:     k.LookAtSecret,
		kubernetes.MakePending:      k.MakePending,
		kubernetes.SwitchSecret:     k.SwitchSecret,
		kubernetes.RestartConsumer:  k.RestartConsumer,
		kubernetes.SealRotation:     k.SealRotation,
		kubernetes.FinishRotation:   k.FinishRotation,
		kubernetes.RestoreSecret:    k.RestoreSecret,
		kubernetes.RestoreConsumers: k.RestoreConsumers,
		kubernetes.RemovePending:    k.RemovePending,
	})
}

func (w *Worker) registerCode(r sdkworker.Registry) {
	w.registerCommon(r)
	g := w.github
	register(r, map[string]any{
		github.Scan:      g.Scan,
		github.Look:      g.Look,
		github.Push:      g.Push,
		github.Ensure:    g.Ensure,
		github.Leave:     g.Leave,
		github.Merge:     g.Merge,
		github.Close:     g.Close,
		github.Tidy:      g.Tidy,
		github.AwaitNews: g.AwaitNews,
		github.Dashboard: g.Dashboard,
		runs.HandOver:    (&runs.Activities{Client: w.client}).HandOver,
		runs.Rollouts:    (&runs.Activities{Client: w.client}).Rollouts,
	})
}

// registerCommon registers what a run needs wherever it has its activities done: the configuration, and
// the store.
func (w *Worker) registerCommon(r sdkworker.Registry) {
	register(r, map[string]any{
		configuration.ResolveTarget: w.configuration.ResolveTarget,
		store.WriteRun:              w.store.WriteRun,
		store.WritePlan:             w.store.WritePlan,
		store.PlanPrune:             w.store.PlanPrune,
		store.Prune:                 w.store.Prune,
		store.FindProven:            w.store.FindProven,
		store.NoteHealthy:           w.store.NoteHealthy,
	})
}

func register(r sdkworker.ActivityRegistry, activities map[string]any) {
	for name, fn := range activities {
		r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
}
