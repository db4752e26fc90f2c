package chunk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

func newKey(t testing.TB, store objstore.Store) *keyring.Key {
	t.Helper()
	k, err := keyringtest.Ring(t, store, target).Create(t.Context())
	require.NoError(t, err)
	return k
}

func readSealed(t testing.TB, store objstore.Store, c format.Chunk, key *keyring.Key) (string, error) {
	t.Helper()
	r, err := Open(objstoretest.Context(t), store, target, c, key)
	if err != nil {
		return "", err
	}
	data, err := objstoretest.ReadAll(r)
	return string(data), err
}

func TestSealedIsReadWithItsKeyAlone(t *testing.T) {
	store, dir := folder(t)
	key, other := newKey(t, store), newKey(t, store)
	p := NewPool(store, target, key, nil, nil)
	for name, text := range texts {
		c, reused := write(t, p, text)
		require.False(t, reused, name)
		require.NotEmpty(t, c.Name)
		got, err := readSealed(t, store, c, key)
		require.NoError(t, err, name)
		require.Equal(t, text, got)
		_, again := write(t, NewPool(store, target, key, nil, nil), text)
		require.True(t, again, "%s: the same key knows it again", name)

		_, err = readSealed(t, store, c, other)
		require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
		_, err = readSealed(t, store, c, nil)
		require.Error(t, err)
		raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, c.Name))))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(raw, []byte("age-encryption.org/v1\n")))
		if len(text) > 16 {
			require.NotContains(t, string(raw), text[:16])
		}
	}
	// Neither another key nor none finds what was stored with this one.
	_, reused := write(t, NewPool(store, target, other, nil, nil), texts["rows"])
	require.False(t, reused)
	_, reused = write(t, NewPool(store, target, nil, nil, nil), texts["rows"])
	require.False(t, reused)
}

// What is right in one place is wrong in another: names are bound to what is in the files.
func TestSealedChunksThatChangedPlacesAreSeen(t *testing.T) {
	store, _ := folder(t)
	key := newKey(t, store)
	p := NewPool(store, target, key, nil, nil)
	a, _ := write(t, p, strings.Repeat("a\n", 500))
	b, _ := write(t, p, strings.Repeat("b\n", 500))
	data, err := store.Read(t.Context(), format.ChunkKey(target, b.Name), 1<<20)
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), format.ChunkKey(target, a.Name), data))
	forged := a // and a manifest without its stored checksum would not help
	forged.StoredSHA256, forged.StoredSize = b.StoredSHA256, b.StoredSize
	_, err = readSealed(t, store, forged, key)
	require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)

	again, reused := write(t, NewPool(store, target, key, nil, nil), strings.Repeat("a\n", 500))
	require.False(t, reused)
	require.NotEqual(t, a.Name, again.Name)
}

// A bad chunk is left where it is, and the right bytes take the next place, so that nobody's manifest
// comes to lie about what is stored.
func TestSealedDamageIsMended(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			store, dir := folder(t)
			key := newKey(t, store)
			text := strings.Repeat("a row\n", 100)
			c, _ := write(t, NewPool(store, target, key, nil, nil), text)
			path := filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, c.Name)))
			change(t, path, damage)
			wrong, err := os.ReadFile(path)
			require.NoError(t, err)

			c.CheckedAt = c.CheckedAt.Add(-25 * time.Hour)
			var again format.Chunk
			for range 2 { // the second finds what the first has mended
				next, reused := write(t, NewPool(store, target, key, []format.Chunk{c}, nil), text)
				require.Equal(t, again.Name != "", reused)
				require.True(t, again.Name == "" || again.Name == next.Name)
				again = next
			}
			require.NotEqual(t, c.Name, again.Name)
			got, err := readSealed(t, store, again, key)
			require.NoError(t, err)
			require.Equal(t, text, got)
			still, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(wrong, still))

			// A backup that knows the second place uses it without a look at the first.
			store.took()
			next, reused := write(t, NewPool(store, target, key, []format.Chunk{again}, nil), text)
			require.True(t, reused)
			require.Equal(t, again.Name, next.Name)
			require.Equal(t, map[string]int{"stat": 1}, store.took())
		})
	}
}

func TestSealedBackupsOfADamagedChunkAreMarked(t *testing.T) {
	store, dir := folder(t)
	ring := keyringtest.Ring(t, store, target)
	key, err := ring.Create(t.Context())
	require.NoError(t, err)
	text := "a row\n"
	c, _ := write(t, NewPool(store, target, key, nil, nil), text)
	commitSealed(t, store, ring, key, "needs-it", c)
	change(t, filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, c.Name))), flipLast)
	write(t, NewPool(store, target, key, nil, nil), text)
	mark, err := catalog.ReadMark(t.Context(), store, target, "needs-it")
	require.NoError(t, err)
	require.Contains(t, mark.What[0], c.Name)
}

func commitSealed(t testing.TB, store objstore.Store, ring *keyring.Ring, key *keyring.Key, id string, c format.Chunk) {
	t.Helper()
	at := time.Now().UTC()
	c.Rows, c.RowHash = 0, ""
	zero := strings.Repeat("0", 32)
	m := &format.Manifest{
		Format: format.Sealed, Key: key.ID, Backup: id, Target: target, StartedAt: at, SnapshotAt: at, FinishedAt: at,
		Server: format.Server{VersionNum: 150018, BlockSize: 8192}, Database: format.Database{Encoding: "UTF8"},
		Schema: format.Schema{Archive: c, TextSHA256: strings.Repeat("0", 64)}, LargeObjects: format.LargeObjects{RowHash: zero},
	}
	_, err := catalog.Commit(t.Context(), store, m, ring, time.Now)
	require.NoError(t, err)
}

func TestNoPlaceIsLeftForASealedChunk(t *testing.T) {
	store, _ := folder(t)
	key := newKey(t, store)
	sum := sha256.Sum256([]byte("rows"))
	for place := range places {
		require.NoError(t, store.Create(t.Context(), format.ChunkKey(target, key.Name(sum, byte(place))), []byte("wrong")))
	}
	_, _, err := NewPool(store, target, key, nil, nil).Write(t.Context(), []byte("rows"))
	require.True(t, failure.Is(err, failure.StoreUnwritable), "%v", err)
}

// Many writers of the same rows store them once, and each knows what is stored: encrypted twice they would
// be other bytes.
func TestSealedTwinsAgree(t *testing.T) {
	store, _ := folder(t)
	key := newKey(t, store)
	var wg sync.WaitGroup
	chunks := make([]format.Chunk, 8)
	for i := range chunks {
		wg.Go(func() {
			for n := range 20 {
				c, _, err := NewPool(store, target, key, nil, nil).Write(t.Context(), fmt.Appendf(nil, "rows %d\n", n))
				if err != nil {
					t.Error(err)
					return
				}
				chunks[i] = c
				if err := CheckStored(t.Context(), store, target, c.Stored()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range chunks {
		c.CheckedAt = chunks[0].CheckedAt
		require.Equal(t, chunks[0], c)
	}
}

// A condemned chunk that is used again is made young with the same bytes.
func TestASealedChunkIsRenewed(t *testing.T) {
	store, dir := folder(t)
	key := newKey(t, store)
	c, _ := write(t, NewPool(store, target, key, nil, nil), "rows\n")
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, filepath.FromSlash(format.ChunkKey(target, c.Name))), old, old))
	_, reused := write(t, NewPool(store, target, key, []format.Chunk{c}, catalog.Condemned{c.Name: time.Now()}), "rows\n")
	require.True(t, reused)
	young, err := store.Stat(t.Context(), format.ChunkKey(target, c.Name))
	require.NoError(t, err)
	require.True(t, young.ModTime.After(old.Add(time.Minute)))
	require.NoError(t, CheckStored(t.Context(), store, target, c.Stored()))
}
