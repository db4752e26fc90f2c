// Package proceduretest stands for everything outside of a procedure, for its tests: activities under
// their production names and types, which answer as a healthy system would until a test says
// otherwise. What they return passes through the worker's own interceptor.
package proceduretest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/quiesce"
	"github.com/upkeep-run/upkeep/internal/recovery"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/retention"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// BackupID is the backup that the world has when a run looks for one.
const BackupID = "20260102T030405Z-0a1b2c3d"

// OldBackupID is the backup that the world's retention does not keep.
const OldBackupID = "20250102T030405Z-0a1b2c3d"

// PrivateQueue is the queue of the worker that holds the world's scratch servers.
const PrivateQueue = run.DatabaseQueue + "-test"

// World is a system outside of procedures.
type World struct {
	// Attributes says that the server knows Upkeep's search attributes.
	Attributes bool
	// LeftOut is what backups leave out.
	Swapped bool // a swap that failed was made all the same
	LeftOut []string
	// Unreadable are backups that a prune cannot read, and Hurt those that it finds to lack something.
	Unreadable, Hurt []string
	// Space is what becomes of the space of what a prune removes, and Locked what the store does not let go.
	Space  prune.Space
	Locked []string
	// ReplacedDays is how long the world's configuration keeps databases that were replaced.
	ReplacedDays int
	// Rollout is how the release of the world's target is upgraded; nil: the target has none.
	Rollout *config.Rollout
	// Migrations are the hooks that an upgrade runs.
	Migrations []string
	// Diff is what an upgrade changes, if it is not one object; OneWay is what of it no rollback takes back.
	Diff   *helmrelease.Diff
	OneWay []string
	// Stands is how far the upgrades had come before.
	Stands helm.Stands
	// Cluster is where the world's target is; nil: in none.
	Cluster *config.Kubernetes
	// Repositories are those of the world's target.
	Repositories []config.Repository
	// Hub is its GitHub.
	Hub Hub
	// Owners is what is done about others who act on the workloads.
	Owners ownership.Measures
	// Quarantine is what the suspects of an incident come to. Enforced is what trying its enforcement comes to;
	// "": PASS.
	Quarantine quarantine.Plan
	Enforced   run.Verdict
	// Readings is what the next looks at the suspects' connections come to, and PASS after them.
	Readings []quarantine.Reading
	// Guards are what the next guards of a quarantine return with, an hour after they began; then they stand by.
	Guards []kubernetes.Guarded
	guards []kubernetes.GuardOrder
	// Granted is what the suspects' accounts are granted, and Withdrawn what taking it comes to; Rights are what the
	// next looks at it find, and nothing to remark after them.
	Granted   quarantine.AccessPlan
	Withdrawn quarantine.Withdrawn
	Rights    []quarantine.AccessProof
	// Services is how its service is at the next looks, and healthy after them; Waits what the next waits for
	// its health come to, and PASS after them.
	Services []recovery.State
	// Access is what a review of access finds, and Drift how it stands to the baseline.
	Access access.Summary
	Drift  store.AccessDrift

	// Network is what its plan of the network says, and Connections what comes of trying it.
	Network     netcheck.Plan
	Connections []netcheck.Finding
	Waits       []run.Verdict
	// Secrets are those of the world's target that can be rotated; RotationLeft is how far an earlier run has come
	// with them, RotationDone says that this one has done it before it was reset, and OldSessions are those that
	// the next looks find, none after them.
	Secrets      []rotation.Entry
	RotationLeft string
	RotationDone bool
	OldSessions  []postgres.OldSessions
	// Approvals is how its plans are decided on; nil: by one person, as claimed.
	Approvals *approval.Policy

	mu         sync.Mutex
	calls      []string
	errors     map[string][]error
	proofs     map[string]postgres.Proof
	hangs      map[string]chan struct{}
	records    []store.Record
	copies     []postgres.Copy
	backups    []postgres.BackupRequest
	prunes     []store.PruneRequest
	swaps      []postgres.SwapOrder
	accepted   []store.AcceptRequest
	rolledBack []string // targets
	suspended  []kubernetes.OwnersOrder
	resumed    []kubernetes.OwnersOrder
	// quarantines are those that were ended, in order.
	quarantines []kubernetes.EndOrder
	// tried is what trying a containment's enforcement was last asked with.
	tried kubernetes.TryOrder
	// returned are the ends of which the access was given back, or left, in order.
	returned []kubernetes.EndOrder
	watched  []helm.Watched  // what the next looks at a release find; PASS when there are no more
	leases   []target.Answer // of the next times a run asks for its turn; granted when there are no more
	turns    []string
}

// WatchFinds makes the next watches of a release come to these verdicts, one each.
func (w *World) WatchFinds(verdicts ...run.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range verdicts {
		w.watched = append(w.watched, helm.Watched{Verdict: v, Checks: []run.Check{{Name: "workloads", Verdict: v, Detail: "as the test says"}}})
	}
}

// Forget makes the world healthy again, and as if nothing had been asked of it.
func (w *World) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Hub = Hub{}
	w.Rollout = nil
	w.Owners = ownership.Measures{}
	w.Quarantine, w.Enforced, w.Readings, w.quarantines, w.tried = quarantine.Plan{}, "", nil, nil, kubernetes.TryOrder{}
	w.Guards, w.guards = nil, nil
	w.Granted, w.Withdrawn, w.Rights, w.returned = quarantine.AccessPlan{}, quarantine.Withdrawn{}, nil, nil
	w.Access, w.Drift, w.accepted = access.Summary{}, store.AccessDrift{}, nil
	w.Secrets, w.RotationLeft, w.RotationDone, w.OldSessions = nil, "", false, nil
	w.Approvals = nil
	w.calls, w.errors, w.proofs, w.hangs, w.records, w.copies, w.backups, w.prunes, w.swaps, w.leases, w.watched, w.rolledBack, w.turns, w.suspended, w.resumed = nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil
}

// Fail makes the next calls of an activity return the errors, one each.
func (w *World) Fail(activityType string, errs ...error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.errors == nil {
		w.errors = make(map[string][]error)
	}
	w.errors[activityType] = append(w.errors[activityType], errs...)
}

// Find makes a check come to this verdict.
func (w *World) Find(activityType string, v run.Verdict, detail string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proofs == nil {
		w.proofs = make(map[string]postgres.Proof)
	}
	w.proofs[activityType] = postgres.Proof{Verdict: v, Checks: []run.Check{{Name: "rows", Verdict: v, Detail: detail}}}
}

// Hang makes the next calls of an activity run until they are cancelled. The channel is closed when
// one has begun.
func (w *World) Hang(activityType string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hangs == nil {
		w.hangs = make(map[string]chan struct{})
	}
	w.hangs[activityType] = make(chan struct{})
	return w.hangs[activityType]
}

// Keep makes runs wait for their turn: the next times one asks, these are the answers.
func (w *World) Keep(answers ...target.Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leases = append(w.leases, answers...)
}

// NotYet are the answers by which a run waits for its turn for at least so long.
func NotYet(wait time.Duration) []target.Answer {
	// A run asks again after a minute, then after twice as long, at last once an hour.
	return slices.Repeat([]target.Answer{{Why: "another run works on it"}}, int(wait/time.Hour)+8)
}

// Turns lists how runs asked for their turn and gave it back, in order.
func (w *World) Turns() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.turns)
}

func (w *World) askLease(_ context.Context, in runs.Request) (target.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asks := "asks for"
	for _, c := range in.Lease.Claims {
		asks += " " + string(c.Mode) + " " + c.Resource
	}
	w.turns = append(w.turns, asks)
	if errs := w.errors[runs.AskLease]; len(errs) > 0 {
		w.errors[runs.AskLease] = errs[1:]
		return target.Answer{}, errs[0]
	}
	if len(w.leases) == 0 {
		return target.Answer{Granted: true}, nil
	}
	answer := w.leases[0]
	w.leases = w.leases[1:]
	return answer, nil
}

// Calls lists the activities that were called, in order, but for those of turns.
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Records lists what runs left in the store, in order.
func (w *World) Records() []store.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.records)
}

// Copies lists the copies that were created, in order.
func (w *World) Copies() []postgres.Copy {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.copies)
}

// Backups lists the backups that were asked for, in order.
func (w *World) Backups() []postgres.BackupRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.backups)
}

// Swaps lists the plans that were applied, in order.
func (w *World) Swaps() []postgres.SwapOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.swaps)
}

// RolledBack lists the targets whose releases were rolled back, in order.
func (w *World) RolledBack() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.rolledBack)
}

// Suspended and Resumed list the orders by which owners were kept from acting and let act again, in order.
func (w *World) Suspended() []kubernetes.OwnersOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.suspended)
}

// Resumed is the other half of Suspended.
func (w *World) Resumed() []kubernetes.OwnersOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.resumed)
}

// Tried is what trying a containment's enforcement was last asked with.
func (w *World) Tried() kubernetes.TryOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tried
}

// Quarantines lists how quarantines were ended, in order.
func (w *World) Quarantines() []kubernetes.EndOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.quarantines)
}

// Returned lists the ends of which the access was given back, or left, in order.
func (w *World) Returned() []kubernetes.EndOrder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.returned)
}

// Accepted lists the reviews of access that became baselines, in order.
func (w *World) Accepted() []store.AcceptRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.accepted)
}

// Prunes lists what prunes were told to remove, in order.
func (w *World) Prunes() []store.PruneRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.prunes)
}

// enter notes a call, and returns what the test wants of it.
func (w *World) enter(ctx context.Context, activityType string) error {
	w.mu.Lock()
	w.calls = append(w.calls, activityType)
	var err error
	if errs := w.errors[activityType]; len(errs) > 0 {
		err, w.errors[activityType] = errs[0], errs[1:]
	}
	began := w.hangs[activityType]
	delete(w.hangs, activityType)
	w.mu.Unlock()
	if began != nil {
		close(began)
		<-ctx.Done()
		return failure.New(failure.ScratchUnavailable, "cut off") // engines may blame what they like
	}
	return err
}

// answer makes an activity that returns what reply makes of its argument.
func answer[In, Out any](w *World, activityType string, reply func(In) Out) any {
	return func(ctx context.Context, in In) (Out, error) {
		if err := w.enter(ctx, activityType); err != nil {
			var none Out
			return none, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return reply(in), nil
	}
}

func check[In any](w *World, activityType string) any {
	return answer(w, activityType, func(In) postgres.Proof {
		if p, ok := w.proofs[activityType]; ok {
			return p
		}
		return postgres.Proof{Verdict: run.Pass, Checks: []run.Check{{Name: "rows", Verdict: run.Pass, Detail: "42 rows of 3 tables"}}}
	})
}

// next takes the next of what is to be answered, or what is answered after all of it.
func next[T any](of *[]T, after T) T {
	if len(*of) == 0 {
		return after
	}
	one := (*of)[0]
	*of = (*of)[1:]
	return one
}

func (w *World) summary(id string) postgres.BackupSummary {
	return postgres.BackupSummary{
		BackupID: id, Database: "shop", SnapshotAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tables: 3, Rows: 42,
		BytesRead: 4096, BytesStored: 1024, BytesTotal: 1024, LeftOut: w.LeftOut, VersionNum: 150000,
	}
}

// Register registers the world's activities.
func (w *World) Register(s sdkworker.ActivityRegistry) {
	for _, some := range []map[string]any{w.most(), w.ofRotations(), w.ofIncidents()} {
		for name, fn := range some {
			s.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
		}
	}
}

// most are the activities of most procedures, by their names.
func (w *World) most() map[string]any {
	return map[string]any{
		configuration.ResolveTarget: answer(w, configuration.ResolveTarget, func(in configuration.Request) configuration.Resolved {
			name, place := "shop", w.Cluster
			if w.Rollout != nil {
				place = &config.Kubernetes{Namespace: "shop", Release: "shop"}
				if in.Target != "" && in.Target == w.Rollout.Staging {
					name, place.Namespace = in.Target, "shop-staging"
				}
			}
			return configuration.Resolved{Rollout: w.Rollout, Repositories: w.Repositories, Secrets: w.Secrets, Approvals: w.Approvals, Target: postgres.Target{
				Name: name, Kubernetes: place, DatabaseURL: "postgres://app@127.0.0.1:5432/shop", Password: config.Secret{Env: "SHOP_DB_PASSWORD"},
				Store: "file:///var/lib/upkeep", Connections: 2, ConfigSHA256: "00", Attributes: w.Attributes,
			}, Retention: retention.Policy{Last: 1, ReplacedDays: w.ReplacedDays}}
		}),
		kubernetes.LookAtService: answer(w, kubernetes.LookAtService, func(kubernetes.Service) (s recovery.State) {
			return next(&w.Services, s)
		}),
		kubernetes.PlanNetwork:  answer(w, kubernetes.PlanNetwork, func(kubernetes.ProbeOrder) netcheck.Plan { return w.Network }),
		kubernetes.ProbeNetwork: answer(w, kubernetes.ProbeNetwork, func(kubernetes.ProbeRequest) []netcheck.Finding { return w.Connections }),
		kubernetes.RemoveProbes: answer(w, kubernetes.RemoveProbes, func(kubernetes.ProbeOrder) struct{} { return struct{}{} }),
		kubernetes.AwaitHealthy: answer(w, kubernetes.AwaitHealthy, func(kubernetes.AwaitRequest) run.Verdict {
			return next(&w.Waits, run.Pass)
		}),
		kubernetes.PlanRollback: answer(w, kubernetes.PlanRollback, func(in kubernetes.StepOrder) recovery.Step { return in.Step }),
		kubernetes.TakeStep:     answer(w, kubernetes.TakeStep, func(kubernetes.StepOrder) struct{} { return struct{}{} }),
		kubernetes.ReviewAccess: answer(w, kubernetes.ReviewAccess, func(kubernetes.AccessRequest) access.Summary { return w.Access }),
		store.CompareAccess:     answer(w, store.CompareAccess, func(store.AccessReview) store.AccessDrift { return w.Drift }),
		store.AcceptAccess: answer(w, store.AcceptAccess, func(in store.AcceptRequest) string {
			w.accepted = append(w.accepted, in)
			return "ba5e"
		}),
		kubernetes.NoteRecovered: answer(w, kubernetes.NoteRecovered, func(kubernetes.NoteRequest) int { return 2 }),
		postgres.PlanBackup: answer(w, postgres.PlanBackup, func(postgres.BackupRequest) postgres.BackupPlan {
			return postgres.BackupPlan{Database: "shop", ServerVersion: "15.1", Tables: 3, EstimatedRows: 40, EstimatedBytes: 8192, LeftOut: w.LeftOut}
		}),
		postgres.TakeBackup: answer(w, postgres.TakeBackup, func(in postgres.BackupRequest) postgres.BackupSummary {
			w.backups = append(w.backups, in)
			return w.summary(in.BackupID)
		}),
		postgres.FindBackup: answer(w, postgres.FindBackup, func(in postgres.FindRequest) postgres.BackupSummary {
			return w.summary(BackupID)
		}),
		postgres.CheckStored:  check[postgres.BackupRequest](w, postgres.CheckStored),
		postgres.CheckDecoded: check[postgres.BackupRequest](w, postgres.CheckDecoded),
		postgres.PlanRestore: answer(w, postgres.PlanRestore, func(in postgres.Copy) postgres.RestorePlan {
			return postgres.RestorePlan{Copy: in, Rows: 42, Tables: 3, Bytes: 4096, NeededBytes: 8192, FreeBytes: -1, ServerVersion: "15.1"}
		}),
		postgres.PrepareScratch: answer(w, postgres.PrepareScratch, func(in postgres.Copy) postgres.Place {
			return postgres.Place{Kind: postgres.PlacePrivate, Queue: PrivateQueue, Scratch: in.Database}
		}),
		postgres.CreateDatabase: answer(w, postgres.CreateDatabase, func(in postgres.Copy) postgres.Copy {
			in.Oid = 16384
			w.copies = append(w.copies, in)
			return in
		}),
		postgres.LoadRows: answer(w, postgres.LoadRows, func(postgres.Copy) postgres.LoadResult {
			return postgres.LoadResult{Rows: 42, Bytes: 4096, Chunks: 3, Seconds: 1}
		}),
		postgres.Compare:          check[postgres.Copy](w, postgres.Compare),
		postgres.Publish:          answer(w, postgres.Publish, func(in postgres.Copy) postgres.Copy { return in }),
		postgres.CheckReplaceable: answer(w, postgres.CheckReplaceable, func(postgres.SwapRequest) struct{} { return struct{}{} }),
		postgres.SealCopy:         answer(w, postgres.SealCopy, func(postgres.Copy) struct{} { return struct{}{} }),
		postgres.PlanSwap: answer(w, postgres.PlanSwap, func(in postgres.SwapRequest) restore.Swap {
			return restore.Swap{
				Version: 1, Server: "7", Backup: in.Copy.BackupID, Live: restore.Named{Name: in.Live, Oid: 16000}, Copy: restore.Named{Name: in.Copy.Database, Oid: in.Copy.Oid},
				Kept: in.Live + "_replaced_" + in.At.UTC().Format("20060102_150405"), Sessions: 3, Remarks: []string{},
			}
		}),
		postgres.ApplySwap: answer(w, postgres.ApplySwap, func(in postgres.SwapOrder) postgres.Swapped {
			w.swaps = append(w.swaps, in)
			return postgres.Swapped{Ended: 3, ClosedSeconds: 0.1}
		}),
		postgres.LookSessions: answer(w, postgres.LookSessions, func(postgres.Target) postgres.Use {
			return postgres.Use{Database: restore.Named{Name: "shop", Oid: 16000}, Sessions: []postgres.Session{{Address: "10.0.0.7", Role: "app", Count: 3}}}
		}),
		postgres.DrainSessions:    answer(w, postgres.DrainSessions, func(postgres.DrainRequest) int { return 0 }),
		postgres.CheckForeignKeys: check[postgres.Target](w, postgres.CheckForeignKeys),
		kubernetes.FindService:    answer(w, kubernetes.FindService, func(kubernetes.FindRequest) struct{} { return struct{}{} }),
		kubernetes.PlanStop: answer(w, kubernetes.PlanStop, func(in kubernetes.StopRequest) kubernetes.StopPlan {
			return kubernetes.StopPlan{Others: []string{}, Owners: w.Owners, Clients: []quiesce.Client{
				{Ref: quiesce.Ref{Kind: "Deployment", Name: "web"}, UID: "u1", Before: json.RawMessage("3")},
				{Ref: quiesce.Ref{Kind: "CronJob", Name: "report"}, UID: "u2", Before: json.RawMessage("false")},
			}}
		}),
		kubernetes.SuspendOwners:  answer(w, kubernetes.SuspendOwners, func(in kubernetes.OwnersOrder) []string { w.suspended = append(w.suspended, in); return nil }),
		kubernetes.StopClients:    answer(w, kubernetes.StopClients, func(kubernetes.StopOrder) struct{} { return struct{}{} }),
		kubernetes.StartClients:   answer(w, kubernetes.StartClients, func(kubernetes.StopOrder) []string { return nil }),
		kubernetes.ResumeOwners:   answer(w, kubernetes.ResumeOwners, func(in kubernetes.OwnersOrder) []string { w.resumed = append(w.resumed, in); return nil }),
		kubernetes.ProveRecovered: check[kubernetes.StopOrder](w, kubernetes.ProveRecovered),
		postgres.IsSwapped:        answer(w, postgres.IsSwapped, func(postgres.SwapOrder) bool { return w.Swapped }),
		postgres.DropReplaced:     answer(w, postgres.DropReplaced, func(postgres.DropRequest) []string { return []string{"shop_replaced_20260101_000000"} }),
		store.WritePlan:           answer(w, store.WritePlan, func(in store.PlanRecord) string { return in.Store + "/runs/" + in.RunID + "/plan-" + in.Hash + ".json" }),
		postgres.DropCopy:         answer(w, postgres.DropCopy, func(postgres.Copy) struct{} { return struct{}{} }),
		runs.AskLease:             w.askLease,
		runs.EndedRuns:            func([]string) ([]string, error) { return nil, nil },
		store.PlanPrune: answer(w, store.PlanPrune, func(store.PruneRequest) prune.Plan {
			return prune.Plan{Remove: []prune.Backup{{ID: OldBackupID, Why: []string{"no rule keeps it"}}}, Keep: []prune.Backup{{ID: BackupID, Why: []string{"last"}}}, Frees: 2048, Unreadable: w.Unreadable, Space: w.Space}
		}),
		store.Prune: answer(w, store.Prune, func(in store.PruneRequest) prune.Result {
			w.prunes = append(w.prunes, in)
			return prune.Result{Removed: in.Remove, Kept: 1, Condemned: 3, CondemnedBytes: 2048, Hurt: w.Hurt, Space: w.Space, Locked: w.Locked}
		}),
		store.FindProven: answer(w, store.FindProven, func(store.ProvenRequest) store.Proven {
			return store.Proven{BackupID: BackupID, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
		}),
		store.NoteHealthy: answer(w, store.NoteHealthy, func(store.HealthyRecord) struct{} { return struct{}{} }),
		helm.PlanUpgrade: answer(w, helm.PlanUpgrade, func(in helm.Change) helm.Planned {
			switch {
			case w.Stands == helm.Locked && slices.Contains(w.calls, helm.TakeOver):
			case w.Stands == helm.Locked:
				return helm.Planned{Stands: helm.Locked, Lock: helm.Lock{Revision: 2, Status: "pending-upgrade"}}
			case w.Stands != helm.New:
				return helm.Planned{Stands: w.Stands, Revision: 2, Owners: w.Owners}
			}
			diff := helmrelease.Diff{Changed: 1}
			if w.Diff != nil {
				diff = *w.Diff
			}
			return helm.Planned{Owners: w.Owners, Plan: helmrelease.Plan{
				Version: 1, Kind: helmrelease.KindUpgrade, Namespace: in.Kubernetes.Namespace, Release: in.Kubernetes.Release, From: 1, Base: helmrelease.Base{Number: 1},
				Chart: helmrelease.ChartFacts{Name: "shop", Version: "1.2.3"}, Diff: diff, Migrations: w.Migrations, OneWay: w.OneWay,
			}}
		}),
		helm.TakeOver: answer(w, helm.TakeOver, func(helm.TakeOverOrder) struct{} { return struct{}{} }),
		helm.Upgrade: answer(w, helm.Upgrade, func(helm.UpgradeOrder) helmrelease.Applied {
			return helmrelease.Applied{Revision: 2, Status: "deployed"}
		}),
		helm.PlanUndo: answer(w, helm.PlanUndo, func(in helm.UndoRequest) helm.Undo {
			return helm.Undo{Needed: true, Plan: helmrelease.Plan{Version: 1, Kind: helmrelease.KindRollback, Base: helmrelease.Base{Number: 2}, To: &helmrelease.Base{Number: 1}}}
		}),
		helm.Rollback: answer(w, helm.Rollback, func(in helm.RollbackOrder) helmrelease.Applied {
			w.rolledBack = append(w.rolledBack, in.Target)
			return helmrelease.Applied{Revision: 3, Status: "deployed"}
		}),
		helm.CountRestarts: answer(w, helm.CountRestarts, func(helm.Place) bake.Restarts { return nil }),
		helm.Watch: answer(w, helm.Watch, func(helm.WatchRequest) helm.Watched {
			return next(&w.watched, helm.Watched{Verdict: run.Pass, Checks: []run.Check{{Name: "workloads", Verdict: run.Pass, Detail: "all ready"}}})
		}),
		store.WriteRun: answer(w, store.WriteRun, func(in store.Record) store.Written {
			w.records = append(w.records, in)
			return store.Written{Report: in.Store + "/runs/" + in.Document.RunID + "/report.html"}
		}),
	}
}
