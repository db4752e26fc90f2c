package kubernetes

import (
	"context"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/recovery"
)

// The activity types of RecoverService.
const (
	LookAtService  = "LookAtService"
	PlanRollback   = "PlanServiceRollback"
	TakeStep       = "TakeRecoveryStep"
	AwaitHealthy   = "AwaitHealthy"
	NoteRecovered  = "NoteRecovered"
	healthyByNotes = "wait until the service is healthy"
)

var (
	pointNoteBefore = fault.NewPoint("recover/note/before")
	pointNoteAfter  = fault.NewPoint("recover/note/after")
)

// Service is a target's service in its cluster.
type Service struct {
	Target     string             `json:"target"`
	Store      string             `json:"store"` // URL
	Kubernetes *config.Kubernetes `json:"kubernetes"`
}

// StepOrder is a step to take. The key names it over all attempts and resets.
type StepOrder struct {
	Service
	Step recovery.Step `json:"step"`
	Key  string        `json:"key"`
}

// AwaitRequest says until when to wait.
type AwaitRequest struct {
	Service
	Until time.Time `json:"until"`
	// Stayed says that it was seen to stay healthy a moment ago: now one look is enough.
	Stayed bool `json:"stayed,omitempty"`
	// Young waits only for what may pass by itself.
	Young bool `json:"young,omitempty"`
}

// NoteRequest says by which run a release was seen healthy.
type NoteRequest struct {
	Service
	RunID string `json:"runId"`
}

func (s Service) connect(ctx context.Context) (*kube.Cluster, health.Scope, error) {
	c, err := s.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, health.Scope{}, err
	}
	return c, health.Scope{Release: s.Kubernetes.Release, Probes: s.Kubernetes.Probes}, nil
}

// LookAtService sees how the service and its release are. It only gets and lists.
func (a *Activities) LookAtService(ctx context.Context, in Service) (recovery.State, error) {
	c, scope, err := in.connect(ctx)
	if err != nil {
		return recovery.State{}, err
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return recovery.State{}, err
	}
	defer func() { _ = store.Close() }() // only read
	return recovery.Look(ctx, c, scope, itself.Find(a.Temporal, in.Store), in.Kubernetes.Owners, func(r helmrelease.Revision) (bool, error) {
		return catalog.IsHealthy(ctx, store, in.Target, scope.Release, r.Number, r.ManifestSHA256)
	})
}

// PlanRollback completes the step of a rollback. It changes nothing.
func (a *Activities) PlanRollback(ctx context.Context, in StepOrder) (recovery.Step, error) {
	c, scope, err := in.connect(ctx)
	if err != nil {
		return recovery.Step{}, err
	}
	return recovery.PlanRollback(ctx, c, scope.Release, in.Step)
}

// TakeStep takes a step, once for all attempts.
func (a *Activities) TakeStep(ctx context.Context, in StepOrder) error {
	c, scope, err := in.connect(ctx)
	if err != nil {
		return err
	}
	return recovery.Act(ctx, c, scope.Release, in.Step, in.Key, "upkeep", func(note string) {
		progress.Report(ctx, progress.Progress{Phase: string(in.Step.Rung), Note: note})
	})
}

// AwaitHealthy waits until the service is healthy and stays so, or the time is over.
func (a *Activities) AwaitHealthy(ctx context.Context, in AwaitRequest) (run.Verdict, error) {
	c, scope, err := in.connect(ctx)
	if err != nil {
		return run.NotProven, err
	}
	return recovery.Await(ctx, c, scope, recovery.For{Until: in.Until, Stayed: in.Stayed, Young: in.Young}, func(note string) {
		progress.Report(ctx, progress.Progress{Phase: healthyByNotes, Note: note})
	})
}

// NoteRecovered notes that the release's revision was seen healthy, for later rollbacks: probes have
// passed. It returns the revision.
func (a *Activities) NoteRecovered(ctx context.Context, in NoteRequest) (int, error) {
	c, scope, err := in.connect(ctx)
	if err != nil {
		return 0, err
	}
	h, err := helmrelease.Open(c.Config, c.Namespace, scope.Release)
	if err != nil {
		return 0, err
	}
	history, err := h.History(ctx)
	if err != nil {
		return 0, err
	}
	seen, err := health.Observe(ctx, c, scope)
	if err != nil {
		return 0, err
	}
	newest := history[0]
	if verdict, _ := health.Judge(seen); verdict != run.Pass || len(scope.Probes) == 0 || newest.Status != "deployed" {
		return newest.Number, nil // a note is only made of what is seen now
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	if noted, err := catalog.IsHealthy(ctx, store, in.Target, scope.Release, newest.Number, newest.ManifestSHA256); err != nil || noted {
		return newest.Number, err
	}
	pointNoteBefore.Hit()
	err = catalog.SetHealthy(ctx, store, in.Target, catalog.Healthy{
		Release: scope.Release, Revision: newest.Number, ManifestSHA256: newest.ManifestSHA256, At: time.Now().UTC(), RunID: in.RunID,
	})
	if err != nil {
		return 0, err
	}
	pointNoteAfter.Hit()
	return newest.Number, nil
}
