package catalog_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func TestASealedBackupOpensWithItsKeyAlone(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	m := formattest.Sealed(t, store, keys, "a", formattest.At, formattest.Rows(3)...)

	got, err := catalog.Load(t.Context(), store, target, catalog.Latest, keys)
	require.NoError(t, err)
	require.Equal(t, m, got)
	index, err := catalog.LoadIndex(t.Context(), store, target, "a", nil)
	require.NoError(t, err)
	require.Equal(t, m.Index(), index)

	_, err = catalog.Load(t.Context(), store, target, "a", nil)
	require.True(t, failure.Is(err, failure.NoIdentity), "%v", err)
	_, err = catalog.Load(t.Context(), store, target, "a", keyringtest.Ring(t, store, target))
	require.True(t, failure.Is(err, failure.KeyUnusable), "%v", err)

	users, err := catalog.Users(t.Context(), store, target, m.Schema.Archive.Name, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, users)
}

// In clear are names, sizes, stored hashes and the time: nothing that the database says.
func TestWhatASealedBackupTells(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	m := formattest.Sealed(t, store, keys, "a", formattest.At, formattest.Rows(3)...)
	data, err := store.Read(t.Context(), format.ManifestKey(target, "a"), 1<<20)
	require.NoError(t, err)
	for _, secret := range []string{"customers", "pkey", "ann", "UTF8", "15.18", m.Schema.Archive.SHA256, m.Tables[0].RowHash, m.Database.Name} {
		require.NotContains(t, string(data), secret)
	}
	require.Contains(t, string(data), m.Schema.Archive.StoredSHA256)
	err = store.List(t.Context(), target+"/", func(o objstore.Info) error {
		require.NotContains(t, o.Key, m.Schema.Archive.SHA256)
		return nil
	})
	require.NoError(t, err)
}

func TestSealedBackupsAreListed(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	formattest.Backup(t, store, "a", formattest.At)
	m := formattest.Sealed(t, store, keys, "b", formattest.At.Add(time.Hour))

	var seen []string
	closed, err := catalog.List(t.Context(), store, target, nil, func(i *format.Index) { seen = append(seen, i.Backup) })
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, seen)
	require.NoError(t, closed[0].Sealed)
	require.True(t, failure.Is(closed[1].Sealed, failure.NoIdentity))
	require.NoError(t, closed[1].Broken)
	require.False(t, closed[1].Damaged(), "what is closed is not damaged")
	require.Equal(t, m.SnapshotAt, closed[1].At)
	require.Equal(t, m.Index().Size(), closed[1].Totals.BytesTotal)

	open, err := catalog.List(t.Context(), store, target, keys, nil)
	require.NoError(t, err)
	require.NoError(t, open[1].Sealed)
	require.Equal(t, m.Database.Name, open[1].Database)
	require.Equal(t, m.Key, open[1].Key)
}

// Nothing of the file in clear can be changed by somebody without the key, though he makes its checksum right.
func TestAnIndexThatWasChangedIsSeen(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	m := formattest.Sealed(t, store, keys, "a", formattest.At, formattest.Rows(3)...)
	other := formattest.Sealed(t, store, keys, "b", formattest.At, formattest.Rows(4)...)
	key := format.ManifestKey(target, "a")
	whole, err := store.Read(t.Context(), key, 1<<20)
	require.NoError(t, err)
	foreign, err := store.Read(t.Context(), format.ManifestKey(target, "b"), 1<<20)
	require.NoError(t, err)
	_, sealedOther, err := format.DecodeIndex(foreign, target, "b")
	require.NoError(t, err)
	require.NotEqual(t, m.Schema.Archive.Name, "")
	for name, change := range map[string]func(*format.Index, *[]byte){
		"a chunk less": func(i *format.Index, _ *[]byte) { i.Chunks = i.Chunks[1:] },
		"a chunk more": func(i *format.Index, _ *[]byte) {
			i.Chunks = append(i.Chunks, other.Index().Chunks[1])
			i.Chunks[len(i.Chunks)-1].Name = "f" + i.Chunks[0].Name[1:]
		},
		"another size":      func(i *format.Index, _ *[]byte) { i.Chunks[0].Size++ },
		"another hash":      func(i *format.Index, _ *[]byte) { i.Chunks[0].SHA256 = i.Chunks[1].SHA256 },
		"another order":     func(i *format.Index, _ *[]byte) { i.Chunks[0], i.Chunks[1] = i.Chunks[1], i.Chunks[0] },
		"another time":      func(i *format.Index, _ *[]byte) { i.SnapshotAt = i.SnapshotAt.Add(time.Hour) },
		"a file less":       func(i *format.Index, _ *[]byte) { i.Files = i.Files[1:] },
		"nothing left out":  func(i *format.Index, _ *[]byte) { i.LeftOut = 7 },
		"another's insides": func(_ *format.Index, inner *[]byte) { *inner = sealedOther },
		"no insides":        func(_ *format.Index, inner *[]byte) { *inner = nil },
		"half of them":      func(_ *format.Index, inner *[]byte) { *inner = (*inner)[:len(*inner)/2] },
		"a bit of them":     func(_ *format.Index, inner *[]byte) { (*inner)[len(*inner)-1] ^= 1 },
	} {
		index, inner, err := format.DecodeIndex(bytes.Clone(whole), target, "a")
		require.NoError(t, err)
		change(index, &inner)
		forged := formattest.Reseal(t, index, inner)
		require.NoError(t, store.Replace(t.Context(), key, forged))
		_, err = catalog.Load(t.Context(), store, target, "a", keys)
		require.True(t, failure.Is(err, failure.BackupDamaged), "%s: %v", name, err)
	}
	require.NoError(t, store.Replace(t.Context(), key, whole))
	_, err = catalog.Load(t.Context(), store, target, "a", keys)
	require.NoError(t, err)
}
