package catalog

import (
	"context"
	"errors"

	"github.com/upkeep-run/upkeep/internal/objstore"
)

// IsHealthy reports whether a revision was noted to be good.
func IsHealthy(ctx context.Context, store objstore.Store, target, release string, revision int, manifest string) (bool, error) {
	_, err := store.Stat(ctx, HealthyKey(target, release, revision, manifest))
	if errors.Is(err, objstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
