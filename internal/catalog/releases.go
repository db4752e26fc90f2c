package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Healthy is the note that a revision of a release was seen to be good for as long as was asked.
type Healthy struct {
	Release        string    `json:"release"`
	Revision       int       `json:"revision"`
	ManifestSHA256 string    `json:"manifestSha256"` // a revision's number alone may come again
	At             time.Time `json:"at"`
	RunID          string    `json:"runId"`
}

// HealthyKey is the key of the note about a revision.
func HealthyKey(target, release string, revision int, manifest string) string {
	return fmt.Sprintf("%s/releases/%s/%d-%s.json", target, release, revision, manifest)
}

// SetHealthy notes that a revision is good.
func SetHealthy(ctx context.Context, store objstore.Store, target string, h Healthy) error {
	return writeNote(ctx, store, HealthyKey(target, h.Release, h.Revision, h.ManifestSHA256), h)
}

// IsHealthy reports whether a revision was noted to be good.
func IsHealthy(ctx context.Context, store objstore.Store, target, release string, revision int, manifest string) (bool, error) {
	_, err := store.Stat(ctx, HealthyKey(target, release, revision, manifest))
	if errors.Is(err, objstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
