package store

import (
	"context"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/retention"
)

// The activity types of a prune.
const (
	PlanPrune = "PlanPrune"
	Prune     = "Prune"
)

// PruneRequest asks for a prune of a target's backups.
type PruneRequest struct {
	Store     string           `json:"store"` // URL
	Target    string           `json:"target"`
	Retention retention.Policy `json:"retention"`
	RunID     string           `json:"runId"`
	// Encryption opens encrypted backups; nil: there are none.
	Encryption *config.Encryption `json:"encryption,omitempty"`
	// Remove are the backups that the plan names; unused by PlanPrune.
	Remove []string `json:"remove,omitempty"`
}

// PlanPrune says what the retention would remove, and changes nothing.
func (Activities) PlanPrune(ctx context.Context, in PruneRequest) (*prune.Plan, error) {
	return pruned(ctx, in, prune.Make)
}

// Prune removes what was planned and is still not to be kept. Repeated, it goes on.
func (Activities) Prune(ctx context.Context, in PruneRequest) (*prune.Result, error) {
	return pruned(ctx, in, func(ctx context.Context, o prune.Options) (*prune.Result, error) {
		return prune.Apply(ctx, o, in.Remove)
	})
}

func pruned[T any](ctx context.Context, in PruneRequest, work func(context.Context, prune.Options) (T, error)) (result T, err error) {
	if !in.Retention.Set() {
		return result, failure.New(failure.NoRetention, "the configuration does not say which backups of target %s are kept", in.Target).
			Do("give the target a retention, such as: retention: {last: 7, weekly: 4, monthly: 12}")
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return result, err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	return work(ctx, prune.Options{Store: store, Target: in.Target, Policy: in.Retention, RunID: in.RunID, Keys: in.Encryption.Ring(store, in.Target)})
}
