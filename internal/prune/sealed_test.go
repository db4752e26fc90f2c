package prune_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/retention"
)

// cut is what somebody who can write to the store, and has no key, makes of a manifest: it needs less.
func cut(t *testing.T, store objstore.Store, id string) {
	t.Helper()
	key := format.ManifestKey(formattest.Target, id)
	data, err := store.Read(t.Context(), key, 1<<20)
	require.NoError(t, err)
	index, inner, err := format.DecodeIndex(data, formattest.Target, id)
	require.NoError(t, err)
	index.Chunks = index.Chunks[:1]
	require.NoError(t, store.Replace(t.Context(), key, formattest.Reseal(t, index, inner)))
}

func TestPruneOpensWhatItJudges(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, formattest.Target)
	at := time.Now().UTC().Add(-240 * time.Hour)
	for i, id := range []string{"a", "b", "c"} {
		formattest.Sealed(t, store, keys, id, at.Add(time.Duration(i)*time.Hour), formattest.Rows(i+1)...)
	}
	options := prune.Options{Store: store, Target: formattest.Target, Policy: retention.Policy{Last: 2}, RunID: "run", Keys: keys}
	p, err := prune.Make(t.Context(), options)
	require.NoError(t, err)
	require.Len(t, p.Remove, 1)
	require.Equal(t, "a", p.Remove[0].ID)

	before := objstoretest.Keys(t, store, format.ChunksPrefix(formattest.Target))
	cut(t, store, "b")
	cut(t, store, "c")
	p, err = prune.Make(t.Context(), options)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"b", "c"}, p.Unreadable)
	for range 3 {
		r, err := prune.Apply(t.Context(), options, []string{"a"})
		require.NoError(t, err)
		require.NotEmpty(t, r.Remarks)
		require.Zero(t, r.Condemned+r.Chunks)
		options.Now = func() time.Time { return time.Now().Add(72 * time.Hour) }
	}
	require.Equal(t, before, objstoretest.Keys(t, store, format.ChunksPrefix(formattest.Target)), "no chunk goes while it is not known what is needed")
}

// Neither a backup in clear nor one with a key that nobody trusts takes the place of one of ours.
func TestForeignBackupsTakeNobodysPlace(t *testing.T) {
	store := formattest.Folder(t)
	ann := keyringtest.NewPerson(t)
	config := keyring.Config{Recipients: []string{ann.Recipient}, Identity: ann.Identity}
	own := keyring.New(store, formattest.Target, config)
	k, err := own.Create(t.Context())
	require.NoError(t, err)
	at := time.Now().UTC().Add(-240 * time.Hour)
	formattest.Sealed(t, store, own, "a", at, formattest.Rows(1)...)
	formattest.Sealed(t, store, own, "b", at.Add(time.Hour), formattest.Rows(2)...)
	for i, id := range []string{"w", "x"} {
		formattest.Backup(t, store, id, at.Add(time.Duration(i+2)*time.Hour), formattest.Rows(3)...)
	}
	config.Keys = []string{k.ID}
	p, err := prune.Make(t.Context(), prune.Options{
		Store: store, Target: formattest.Target, Policy: retention.Policy{Last: 2}, RunID: "run", Keys: keyring.New(store, formattest.Target, config),
	})
	require.NoError(t, err)
	for _, b := range p.Remove {
		require.NotContains(t, []string{"a", "b"}, b.ID)
	}
}
