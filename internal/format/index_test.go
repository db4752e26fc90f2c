package format_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
)

// goldenSealed is the file of the golden encrypted backup's manifest.
func goldenSealed(t testing.TB) (data []byte, id string) {
	t.Helper()
	paths, err := filepath.Glob("testdata/golden-sealed/shop/backups/*/manifest.json")
	require.NoError(t, err)
	require.Len(t, paths, 1)
	data, err = os.ReadFile(paths[0])
	require.NoError(t, err)
	return data, filepath.Base(filepath.Dir(paths[0]))
}

func TestTheGoldenIndexIsRead(t *testing.T) {
	data, id := goldenSealed(t)
	require.True(t, format.IsSealed(data))
	i, inner, err := format.DecodeIndex(data, "shop", id)
	require.NoError(t, err)
	require.Len(t, i.Chunks, 15)
	require.NotEmpty(t, inner)
	for _, c := range i.Chunks {
		info, err := os.Stat("testdata/golden-sealed/" + format.ChunkKey("shop", c.Name))
		require.NoError(t, err)
		require.Equal(t, info.Size(), c.Size)
	}
	_, err = os.Stat("testdata/golden-sealed/" + format.WrappedKey("shop", i.Key))
	require.NoError(t, err)

	// A plain reader says that it is not for it, and nobody takes it for another backup's.
	_, err = format.Decode(data, "shop", id)
	require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
	_, _, err = format.DecodeIndex(data, "shop", "b2")
	require.ErrorContains(t, err, id)
}

func TestEveryBitOfASealedFileIsSeen(t *testing.T) {
	data, id := goldenSealed(t)
	for at := range data {
		bit := byte(1) << (at % 8)
		data[at] ^= bit
		_, _, err := format.DecodeIndex(data, "shop", id)
		if err == nil && format.IsSealed(data) {
			t.Fatalf("bit %d of byte %d was not seen", at%8, at)
		}
		data[at] ^= bit
	}
	for _, bad := range [][]byte{{}, data[:len(data)-1], append(bytes.Clone(data), '\n'), append(bytes.Clone(data), data...)} {
		_, _, err := format.DecodeIndex(bad, "shop", id)
		require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
	}
}

func FuzzDecodeIndex(f *testing.F) {
	data, id := goldenSealed(f)
	f.Add(data)
	f.Add([]byte(`{"upkeep":"backup","format":2,"sha256":"","manifest":{"format":2}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, _, err := format.DecodeIndex(data, "shop", id)
		if err != nil {
			if _, ok := failure.As(err); !ok {
				t.Fatalf("an error that nobody can act on: %v", err)
			}
			return
		}
		if i.Size() < 0 || i.Backup != id || i.Target != "shop" || len(i.Key) != 32 {
			t.Fatalf("accepted, and is none: %+v", i)
		}
	})
}
