package starter_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/starter"
)

const held = "20260101T000000Z-a"

func shelf(t *testing.T) starter.Backups {
	t.Helper()
	store := formattest.Folder(t)
	formattest.Backup(t, store, held, formattest.At)
	return starter.Backups{Store: store, Target: formattest.Target}
}

// TestAHoldBesideARemoval holds a backup whose removal has begun, and that then goes or stays.
func TestAHoldBesideARemoval(t *testing.T) {
	hold := catalog.Hold{Backup: held, By: "ann", Reason: "the audit"}
	for name, end := range map[string]func(context.Context, objstore.Store) error{
		"it goes": func(ctx context.Context, s objstore.Store) error {
			return s.Delete(ctx, format.ManifestKey(formattest.Target, held))
		},
		"it stays": func(ctx context.Context, s objstore.Store) error {
			return catalog.CancelRemoval(ctx, s, formattest.Target, held)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := shelf(t)
			require.NoError(t, catalog.BeginRemoval(t.Context(), b.Store, b.Target, catalog.Removal{Backup: held, RunID: "a prune"}))
			done := make(chan error, 1)
			go func() { done <- b.Hold(t.Context(), hold) }()
			require.Eventually(t, func() bool {
				h, err := catalog.ReadHold(t.Context(), b.Store, b.Target, held)
				return err == nil && h != nil
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, end(t.Context(), b.Store))
			err := <-done
			noted, reading := catalog.ReadHold(t.Context(), b.Store, b.Target, held)
			require.NoError(t, reading)
			if name == "it goes" {
				require.True(t, failure.Is(err, failure.UnknownBackup), "%v", err)
				require.Nil(t, noted)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "the audit", noted.Reason)
		})
	}
}

func TestHoldAndRelease(t *testing.T) {
	b := shelf(t)
	for _, id := range []string{"", "..", "a/b", "20200101T000000Z-a"} {
		require.True(t, failure.Is(b.Hold(t.Context(), catalog.Hold{Backup: id}), failure.UnknownBackup), id)
		require.True(t, failure.Is(b.Release(t.Context(), id), failure.NotHeld), id)
	}
	require.NoError(t, b.Hold(t.Context(), catalog.Hold{Backup: catalog.Latest, By: "ann", Reason: "the audit"}))
	all, err := b.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, "the audit", all[0].Hold.Reason)
	require.NoError(t, b.Release(t.Context(), held))
	require.True(t, failure.Is(b.Release(t.Context(), held), failure.NotHeld))
}
