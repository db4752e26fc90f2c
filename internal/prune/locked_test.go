package prune_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/retention"
)

func TestABackupThatTheStoreLocksStaysWhole(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "only")
	s.pass(day)
	older := s.take(2, "another")
	s.pass(day)
	s.take(3, "young")
	s.locked = old + "/manifest.json"
	r := s.prune(retention.Policy{Last: 1})
	require.Equal(t, []string{older}, r.Removed, "what is not locked goes")
	require.Equal(t, []string{old}, r.Locked)
	require.Equal(t, 2, r.Kept)
	require.Len(t, r.Remarks, 1)
	require.Contains(t, r.Remarks[0], old)
	require.Contains(t, r.Remarks[0], "object lock")
	require.True(t, s.whole(old))
	note, err := catalog.ReadRemoval(t.Context(), s, target, old)
	require.NoError(t, err)
	require.Nil(t, note, "it is not taken for removed")
	s.pass(2 * day)
	s.prune(retention.Policy{Last: 1})
	require.True(t, s.whole(old), "its chunks stay with it")

	s.locked = ""
	r = s.prune(retention.Policy{Last: 1})
	require.Equal(t, []string{old}, r.Removed)
	require.Empty(t, r.Locked)
	require.Empty(t, r.Remarks)
}

func TestABackupAndTheNoteOfItsRemovalThatAreLocked(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "only")
	s.pass(day)
	s.take(2, "young")
	s.locked = old // also the note, once it is written
	require.Equal(t, []string{old}, s.prune(retention.Policy{Last: 1}).Locked)
	require.True(t, s.whole(old))
	s.locked = ""
	require.Equal(t, []string{old}, s.prune(retention.Policy{Last: 1}).Removed)
}

func TestFilesThatTheStoreLocksGoLater(t *testing.T) {
	s := newShelf(t)
	old := s.take(1, "only", "here")
	s.pass(day)
	young := s.take(2, "something", "else")
	s.locked = "/RESTORE.md"
	r := s.prune(retention.Policy{Last: 1})
	require.Equal(t, []string{old}, r.Removed)
	require.Equal(t, 1, r.LockedFiles, "counted once, though it is tried twice")
	s.locked = "/chunks/"
	s.pass(2 * day)
	r = s.prune(retention.Policy{Last: 1})
	require.Zero(t, r.Chunks)
	require.Zero(t, r.FreedBytes)
	require.Equal(t, 1, r.Condemned)
	require.Equal(t, 1, r.LockedFiles)
	require.Len(t, r.Remarks, 1)
	require.Contains(t, r.Remarks[0], "1 objects")
	require.Empty(t, s.keys("backups/"+old+"/"), "what was locked before is gone")

	s.locked = ""
	r = s.prune(retention.Policy{Last: 1})
	require.Equal(t, 1, r.Chunks)
	require.Empty(t, r.Remarks)
	require.True(t, s.whole(young))
}

func TestWhatIsOnlyHiddenIsNotCalledFreed(t *testing.T) {
	for space, k := range map[prune.Space]objstore.Keeping{
		prune.SpaceFreed: {}, prune.SpaceHidden: {Versions: true, Expires: 7}, prune.SpaceUnknown: {Unknown: "it may not be asked"},
	} {
		t.Run(string(space), func(t *testing.T) {
			s := newShelf(t)
			s.keeping = k
			s.take(1, "only")
			s.pass(day)
			s.take(2, "young")
			plan, err := prune.Make(t.Context(), s.options(retention.Policy{Last: 1}))
			require.NoError(t, err)
			require.Equal(t, space, plan.Space)
			require.Positive(t, plan.Frees+plan.Hides)
			s.prune(retention.Policy{Last: 1})
			s.pass(2 * day)
			r := s.prune(retention.Policy{Last: 1})
			require.Equal(t, space, r.Space)
			require.Equal(t, plan.Frees, r.FreedBytes)
			require.Equal(t, plan.Hides, r.HiddenBytes)
			if space == prune.SpaceHidden {
				require.Zero(t, r.FreedBytes)
			} else {
				require.Zero(t, r.HiddenBytes)
			}
		})
	}
}
