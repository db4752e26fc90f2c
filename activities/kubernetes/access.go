package kubernetes

import (
	"context"
	"fmt"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// ReviewAccess is the activity type that sees who may do what.
const ReviewAccess = "ReviewAccess"

var (
	pointReviewBefore = fault.NewPoint("access/review/before")
	pointReviewAfter  = fault.NewPoint("access/review/after")
)

// AccessRequest asks who may do what in the target's namespace.
type AccessRequest struct {
	Service
	RunID string `json:"runId"`
}

// ReviewAccess reads who may do what, writes the whole review beside what the run leaves, and returns the
// gravest of it. Of the cluster it only lists.
func (a *Activities) ReviewAccess(ctx context.Context, in AccessRequest) (access.Summary, error) {
	c, _, err := in.connect(ctx)
	if err != nil {
		return access.Summary{}, err
	}
	seen, err := access.Look(ctx, c)
	if err != nil {
		return access.Summary{}, err
	}
	review := access.Judge(seen, []string{c.Namespace})
	data := review.Encode()
	if len(data) > access.MaxReview {
		return access.Summary{}, failure.New(failure.TooManyGrants, "the review of namespace %s has more than %d MiB", c.Namespace, access.MaxReview>>20).
			Do("see who makes so many roles and bindings: kubectl get clusterroles,roles,clusterrolebindings,rolebindings -A")
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return access.Summary{}, err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	s := review.Summary(access.HashOf(data))
	key := format.RunKey(in.RunID, format.ReviewFile(s.SHA256))
	pointReviewBefore.Hit()
	if err := store.Replace(ctx, key, data); err != nil {
		return access.Summary{}, fmt.Errorf("write the review: %w", err)
	}
	pointReviewAfter.Hit()
	s.URL = store.URL(key)
	return s, nil
}
