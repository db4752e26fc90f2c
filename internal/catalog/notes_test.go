package catalog_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
)

const notedID = "20260101T000000Z-a"

func TestNotesSayWhatIsKnownOfABackup(t *testing.T) {
	store := formattest.Folder(t)
	m := formattest.Backup(t, store, notedID, formattest.At)
	e, read, err := catalog.Look(t.Context(), store, target, catalog.Latest, nil)
	require.NoError(t, err)
	require.Equal(t, m.Backup, read.Backup)
	require.Equal(t, catalog.Entry{ID: notedID, At: formattest.At, Database: m.Database.Name, Totals: m.Totals, LeftOut: []string{}}, e)
	require.False(t, e.Proven() || e.Damaged())

	for _, step := range []struct {
		verdict run.Verdict
		proven  bool
	}{{run.Pass, true}, {run.Fail, false}, {run.Pass, true}} {
		require.NoError(t, catalog.SetProof(t.Context(), store, target, catalog.Proof{Backup: notedID, Verdict: step.verdict, At: formattest.At, RunID: "r"}))
		e, _, err = catalog.Look(t.Context(), store, target, notedID, nil)
		require.NoError(t, err)
		require.Equal(t, step.proven, e.Proven(), "the newest comparison counts")
		require.False(t, e.Damaged(), "the place of the copy may be what was wrong")
	}
	require.NoError(t, catalog.SetMark(t.Context(), store, target, notedID, catalog.FoundByStored, "a chunk is gone"))
	e, _, err = catalog.Look(t.Context(), store, target, notedID, nil)
	require.NoError(t, err)
	require.True(t, e.Damaged())
	require.False(t, e.Proven(), "what was found damaged since is not proven")
}

// TestANoteThatCannotBeRead errs to the side that removes nothing and proves nothing.
func TestANoteThatCannotBeRead(t *testing.T) {
	store := formattest.Folder(t)
	formattest.Backup(t, store, notedID, formattest.At)
	for _, text := range []string{"", "{", "[]", `{"backup":1}`, string(make([]byte, 100<<10))} {
		for _, key := range []string{format.HoldKey(target, notedID), format.ProofKey(target, notedID), format.CondemnedKey(target), format.RemovalKey(target, "gone")} {
			require.NoError(t, store.Replace(t.Context(), key, []byte(text)))
		}
		e, _, err := catalog.Look(t.Context(), store, target, notedID, nil)
		require.NoError(t, err, "%.10q", text)
		require.NotNil(t, e.Hold)
		require.False(t, e.Proven())
		condemned, err := catalog.ReadCondemned(t.Context(), store, target)
		require.NoError(t, err)
		require.Empty(t, condemned)
		removal, err := catalog.ReadRemoval(t.Context(), store, target, "gone")
		require.NoError(t, err)
		require.NotNil(t, removal)
	}
	require.NoError(t, store.Replace(t.Context(), format.ProofKey(target, notedID), []byte(`{"backup":"another","verdict":"PASS"}`)))
	e, _, err := catalog.Look(t.Context(), store, target, notedID, nil)
	require.NoError(t, err)
	require.False(t, e.Proven(), "the note is another backup's")
}

func TestAManifestThatCannotBeReadIsListed(t *testing.T) {
	store := formattest.Folder(t)
	formattest.Backup(t, store, notedID, formattest.At)
	require.NoError(t, store.Replace(t.Context(), format.ManifestKey(target, "20260304T050607Z-b"), []byte("{}")))
	seen := 0
	all, err := catalog.List(t.Context(), store, target, nil, func(*format.Index) { seen++ })
	require.NoError(t, err)
	require.Equal(t, 1, seen)
	require.Len(t, all, 2)
	require.True(t, failure.Is(all[1].Broken, failure.BackupDamaged))
	require.True(t, all[1].Damaged())
	require.Equal(t, time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), all[1].At)
}

func TestARemovalIsNotedOnce(t *testing.T) {
	store := formattest.Folder(t)
	require.NoError(t, catalog.BeginRemoval(t.Context(), store, target, catalog.Removal{Backup: notedID, RunID: "first", Why: "retention: last 1"}))
	require.NoError(t, catalog.BeginRemoval(t.Context(), store, target, catalog.Removal{Backup: notedID, RunID: "second"}))
	r, err := catalog.ReadRemoval(t.Context(), store, target, notedID)
	require.NoError(t, err)
	require.Equal(t, "first", r.RunID)
	_, err = catalog.Load(t.Context(), store, target, notedID, nil)
	require.True(t, failure.Is(err, failure.UnknownBackup))
	require.ErrorContains(t, err, `was removed by run "first" (retention: last 1)`)
	require.NoError(t, catalog.CancelRemoval(t.Context(), store, target, notedID))
	r, err = catalog.ReadRemoval(t.Context(), store, target, notedID)
	require.NoError(t, err)
	require.Nil(t, r)
}

func TestTheNewestProvenIsThereAndWhole(t *testing.T) {
	store, ctx := formattest.Folder(t), t.Context()
	newest := func() string {
		t.Helper()
		at, err := catalog.NewestProven(ctx, store, target)
		require.NoError(t, err)
		return at.Format("20060102T150405Z")
	}
	require.Equal(t, "00010101T000000Z", newest())
	prove := func(id string, v run.Verdict, there bool) {
		if there {
			require.NoError(t, store.Create(ctx, format.ManifestKey(target, id), []byte("{}")))
		}
		require.NoError(t, catalog.SetProof(ctx, store, target, catalog.Proof{Backup: id, Verdict: v}))
	}
	prove("20260101T000000Z-a", run.Pass, true)
	prove("20260102T000000Z-b", run.Fail, true)
	prove("20260103T000000Z-gone", run.Pass, false)
	prove("zz-no-time", run.Pass, true)
	require.NoError(t, store.Create(ctx, format.ManifestKey(target, "20260109T000000Z-unproven"), []byte("{}")))
	require.NoError(t, store.Create(ctx, "shop/proofs/deeper/20260109T000000Z-x.json", []byte("{}")))
	require.Equal(t, "20260101T000000Z", newest())
	prove("20260104T000000Z-c", run.Pass, true)
	require.Equal(t, "20260104T000000Z", newest())
	require.NoError(t, catalog.SetMark(ctx, store, target, "20260104T000000Z-c", catalog.FoundByStored, "a chunk"))
	require.Equal(t, "20260101T000000Z", newest(), "the newer one is damaged")
}
