package store

import (
	"context"
	"encoding/json"

	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// WritePlan is the activity type.
const WritePlan = "WritePlan"

var (
	pointPlanBefore = fault.NewPoint("plan/before")
	pointPlanAfter  = fault.NewPoint("plan/after")
)

// PlanRecord is a plan to write down.
type PlanRecord struct {
	Store string          `json:"store"` // URL
	RunID string          `json:"runId"`
	Hash  string          `json:"hash"` // SHA-256 of the plan's bytes, hex
	Plan  json.RawMessage `json:"plan"`
}

// WritePlan writes a plan beside what the run leaves, named by its hash, and returns its URL. Written
// twice it is the same.
func (Activities) WritePlan(ctx context.Context, in PlanRecord) (string, error) {
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return "", err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	key := format.RunKey(in.RunID, "plan-"+in.Hash+".json")
	pointPlanBefore.Hit()
	if err := store.Replace(ctx, key, in.Plan); err != nil {
		return "", err
	}
	pointPlanAfter.Hit()
	return store.URL(key), nil
}
