package catalog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

const target = formattest.Target

func latest(t testing.TB, store objstore.Store) string {
	t.Helper()
	m, err := catalog.Load(t.Context(), store, target, catalog.Latest, nil)
	require.NoError(t, err)
	return m.Backup
}

func TestOnlyABackupWithAManifestExists(t *testing.T) {
	store := formattest.Folder(t)
	_, err := catalog.Load(t.Context(), store, target, catalog.Latest, nil)
	require.True(t, failure.Is(err, failure.UnknownBackup), "%v", err)
	require.ErrorContains(t, err, "upkeep run BackupDatabase --target shop")

	formattest.Backup(t, store, "20260101T000000Z-a", formattest.At)
	formattest.Manifest(t, store, "20260202T000000Z-half", formattest.At.Add(time.Hour)) // all but the manifest
	formattest.Backup(t, store, "20260101T000000Z-b", formattest.At.Add(time.Minute))
	for _, stray := range []string{"shop/backups/manifest.json", "shop/backups/20260303T000000Z-c/deeper/manifest.json", "shop/backups/.hidden/manifest.json", "shop/manifest.json", "shopping/backups/z/manifest.json"} {
		require.NoError(t, store.Create(t.Context(), stray, []byte("{}")))
	}
	ids, err := catalog.IDs(t.Context(), store, target)
	require.NoError(t, err)
	require.Equal(t, []string{"20260101T000000Z-a", "20260101T000000Z-b"}, ids)
	require.Equal(t, "20260101T000000Z-b", latest(t, store))
	_, err = catalog.Load(t.Context(), store, target, "20260202T000000Z-half", nil)
	require.True(t, failure.Is(err, failure.UnknownBackup), "%v", err)
	require.ErrorContains(t, err, "there is no shop/backups/20260202T000000Z-half/manifest.json")
	for _, id := range []string{"", "..", "../shop", "a/b", "a b", "ü", strings.Repeat("a", 101)} {
		_, err := catalog.Load(t.Context(), store, target, id, nil)
		require.True(t, failure.Is(err, failure.UnknownBackup), "%q: %v", id, err)
	}
}

// Runs may have waited: the snapshot says which backup is the newest, not the id.
func TestTheLatestHasTheLatestSnapshot(t *testing.T) {
	store := formattest.Folder(t)
	for i := range 10 {
		formattest.Backup(t, store, fmt.Sprintf("2026010%dT000000Z-x", i), formattest.At.Add(time.Duration(-(i-6)*(i-6))*time.Hour))
	}
	require.Equal(t, "20260106T000000Z-x", latest(t, store))
}

// A damaged newest backup is the answer; an older damaged one is passed over.
func TestTheLatestThatIsDamagedIsSaidToBe(t *testing.T) {
	store := formattest.Folder(t)
	for i := range 3 {
		formattest.Backup(t, store, fmt.Sprintf("b%d", i), formattest.At.Add(time.Duration(i)*time.Hour))
	}
	cut := func(data []byte) []byte { return data[:len(data)/2] }
	formattest.Change(t, store, format.ManifestKey(target, "b1"), cut)
	require.Equal(t, "b2", latest(t, store))
	formattest.Change(t, store, format.ManifestKey(target, "b2"), cut)
	_, err := catalog.Load(t.Context(), store, target, catalog.Latest, nil)
	require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
	require.ErrorContains(t, err, "b2/manifest.json")
}

// sized is a store in which every object seems larger than what may be read of it.
type sized struct{ objstore.Store }

func (s sized) Read(_ context.Context, key string, limit int64) ([]byte, error) {
	return nil, failure.New(failure.UnsafeArchive, "%s has more than %d bytes", key, limit)
}

func TestAManifestThatIsTooLargeIsDamage(t *testing.T) {
	store := formattest.Folder(t)
	formattest.Backup(t, store, "b1", formattest.At)
	_, err := catalog.Load(t.Context(), sized{store}, target, "b1", nil)
	require.True(t, failure.Is(err, failure.BackupDamaged), "%v", err)
	require.ErrorContains(t, err, "more than 268435456 bytes")
	mark, err := catalog.ReadMark(t.Context(), sized{store}, target, "b1")
	require.NoError(t, err)
	require.NotNil(t, mark, "a note that cannot be read is a note")
}

func TestAStoreThatDoesNotAnswerIsNoBackup(t *testing.T) {
	inner := formattest.Folder(t)
	formattest.Backup(t, inner, "b1", formattest.At)
	formattest.Backup(t, inner, "b2", formattest.At.Add(time.Hour))
	for _, failing := range []string{"read", "list"} {
		store := &objstoretest.Faulty{Store: inner, Before: func(_ context.Context, op, key string) error {
			if op == failing && !strings.Contains(key, "b2") {
				return objstoretest.Unreachable()
			}
			return nil
		}}
		_, err := catalog.Load(t.Context(), store, target, catalog.Latest, nil)
		require.True(t, failure.Is(err, failure.StoreUnreachable), "%s: %v", failing, err)
		_, err = catalog.Users(t.Context(), store, target, strings.Repeat("a", 64), nil)
		require.True(t, failure.Is(err, failure.StoreUnreachable), "%s: %v", failing, err)
	}
}

func TestMarks(t *testing.T) {
	store := formattest.Folder(t)
	read := func() *catalog.Mark {
		t.Helper()
		m, err := catalog.ReadMark(t.Context(), store, target, "b1")
		require.NoError(t, err)
		return m
	}
	require.Nil(t, read())
	require.NoError(t, catalog.ClearMark(t.Context(), store, target, "b1", catalog.FoundByStored))
	many := make([]string, 1000)
	for i := range many {
		many[i] = strings.Repeat("x", 900)
	}
	require.NoError(t, catalog.SetMark(t.Context(), store, target, "b1", catalog.FoundByStored, many...))
	require.Len(t, read().What, 20, "the note stays small")
	require.Equal(t, many[:20], read().What, "and can be read")
	require.WithinDuration(t, time.Now(), read().FoundAt, time.Minute)
	for _, c := range []struct {
		found, looked string
		stays         bool
	}{
		{catalog.FoundByStored, catalog.FoundByStored, false}, {catalog.FoundByStored, catalog.FoundByDecoded, false},
		{catalog.FoundByBackup, catalog.FoundByStored, false}, {catalog.FoundByBackup, catalog.FoundByDecoded, false},
		{catalog.FoundByDecoded, catalog.FoundByStored, true}, {catalog.FoundByDecoded, catalog.FoundByDecoded, false},
	} {
		require.NoError(t, catalog.SetMark(t.Context(), store, target, "b1", c.found, "a file"))
		require.Equal(t, &catalog.Mark{Backup: "b1", FoundAt: read().FoundAt, FoundBy: c.found, What: []string{"a file"}}, read())
		require.NoError(t, catalog.ClearMark(t.Context(), store, target, "b1", c.looked))
		require.Equal(t, c.stays, read() != nil, "found by %s, looked at by %s", c.found, c.looked)
	}
}

func TestUsersAreThoseThatNeedTheChunk(t *testing.T) {
	store := formattest.Folder(t)
	a := formattest.Backup(t, store, "a", formattest.At, formattest.Rows(3)...)
	formattest.Backup(t, store, "b", formattest.At, formattest.Rows(3)...)
	formattest.Backup(t, store, "c", formattest.At, formattest.Rows(4)...)
	formattest.Backup(t, store, "d", formattest.At, formattest.Rows(3)...)
	formattest.Manifest(t, store, "e", formattest.At, formattest.Rows(3)...)
	formattest.Change(t, store, format.ManifestKey(target, "d"), func(data []byte) []byte { return data[1:] })
	own := a.Tables[0].Ranges[1].Chunks[0].SHA256
	users := func(chunk string, without ...string) []string {
		t.Helper()
		set := make(map[string]bool)
		for _, id := range without {
			set[id] = true
		}
		ids, err := catalog.Users(t.Context(), store, target, chunk, set)
		require.NoError(t, err)
		return ids
	}
	require.Equal(t, []string{"a", "b"}, users(own))
	require.Equal(t, []string{"b"}, users(own, "a", "c"))
	require.Equal(t, []string{"a", "b", "c"}, users(a.Schema.Archive.SHA256))
	require.Equal(t, []string{"a", "b", "c"}, users(a.LargeObjects.Chunks[0].SHA256))
	require.Empty(t, users(strings.Repeat("0", 64)))
}

// noted is a store with one note.
type noted struct {
	objstore.Store
	data []byte
}

func (n noted) Read(context.Context, string, int64) ([]byte, error) { return n.data, nil }
func (n noted) Open(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(n.data)), nil
}

// FuzzReadMark: whatever lies in a mark's place, it counts as a mark.
func FuzzReadMark(f *testing.F) {
	f.Add([]byte(`{"backup":"b1","foundAt":"2026-11-23T12:00:00Z","foundBy":"stored","what":["a"]}`))
	f.Add([]byte("null"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		mark, err := catalog.ReadMark(t.Context(), noted{data: data}, target, "b1")
		if err != nil || mark == nil {
			t.Fatalf("no mark (%v)", err)
		}
	})
}

func TestAStrayFolderInAMarksPlace(t *testing.T) {
	dir := t.TempDir()
	store, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.FromSlash(format.MarkKey(target, "b1")), "x"), 0o700))
	mark, err := catalog.ReadMark(t.Context(), store, target, "b1")
	require.NoError(t, err)
	require.Nil(t, mark)
}
