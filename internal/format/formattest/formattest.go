// Package formattest writes small backups for tests without a database: whole, of every kind of
// content, and true to the format.
package formattest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/rowhash"
)

// Target is the target of the backups.
const Target = "shop"

// At is when the backups' snapshots were taken, if a test does not care.
var At = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Backup writes a backup and returns its manifest. Rows make its biggest table, so that backups with
// the same rows share their chunks; every other content is the same in all.
func Backup(t testing.TB, store objstore.Store, id string, at time.Time, rows ...string) *format.Manifest {
	t.Helper()
	m := Manifest(t, store, id, at, rows...)
	Commit(t, store, m)
	return m
}

// Sealed writes an encrypted backup.
func Sealed(t testing.TB, store objstore.Store, keys *keyring.Ring, id string, at time.Time, rows ...string) *format.Manifest {
	t.Helper()
	key, err := keys.Current(t.Context(), "")
	require.NoError(t, err)
	m := manifest(t, store, key, id, at, rows...)
	_, err = catalog.Commit(t.Context(), store, m, keys, func() time.Time { return at })
	require.NoError(t, err)
	return m
}

// Commit writes the backup's manifest.
func Commit(t testing.TB, store objstore.Store, m *format.Manifest) {
	t.Helper()
	data, err := format.Encode(m)
	require.NoError(t, err)
	require.NoError(t, store.Create(t.Context(), format.ManifestKey(m.Target, m.Backup), data))
}

// Manifest stores everything of a backup but the manifest, and returns that.
func Manifest(t testing.TB, store objstore.Store, id string, at time.Time, rows ...string) *format.Manifest {
	t.Helper()
	return manifest(t, store, nil, id, at, rows...)
}

func manifest(t testing.TB, store objstore.Store, key *keyring.Key, id string, at time.Time, rows ...string) *format.Manifest {
	t.Helper()
	condemned, err := catalog.ReadCondemned(t.Context(), store, Target)
	require.NoError(t, err)
	w := &writer{t: t, pool: chunk.NewPool(store, Target, key, nil, condemned)}
	text := "SELECT 'the schema of the sample';\n"
	archive, _, err := w.pool.Write(t.Context(), []byte(text))
	require.NoError(t, err)
	m := &format.Manifest{
		Format: format.Plain, Backup: id, Target: Target, Engine: "test", StartedAt: at.Add(-time.Second), SnapshotAt: at, FinishedAt: at.Add(time.Minute),
		Scope:  "a sample",
		Server: format.Server{Version: "15.18", VersionNum: 150018, BlockSize: 8192},
		Database: format.Database{
			Name: "shop \U0001F600", Owner: "ann", Encoding: "UTF8", Collate: "C.UTF-8", Ctype: "C.UTF-8", LocaleProvider: "c", ConnectionLimit: -1,
			ACL: []format.Grant{{Grantor: "ann", Privilege: "CONNECT"}}, DefaultACL: true, Settings: []format.RoleSetting{},
		},
		Roles: []format.Role{{Name: "ann", Inherit: true, Login: true, ConnLimit: -1}}, Session: []format.Pin{{Name: "timezone", Value: "UTC"}},
		Schema: format.Schema{
			Archive: archive, TextSHA256: hexOf([]byte(text)), PgDump: "15.18",
			PostData: []format.PostData{{DumpID: 7, Kind: format.PostConstraint, Table: 0, Name: "customers_pkey", Schema: "public"}},
		},
		Tables: []format.Table{
			w.table("public", "customers", []string{"id", "name"}, []string{"1\tAnn\n2\t\\N\n", "3\tC\\ta\n"}, []string{strings.Join(rows, "\n") + strings.Repeat("\n", min(len(rows), 1))}),
			w.table("public", "empty", []string{"id"}, nil),
			w.table("public", "no columns", []string{}, []string{"\n\n\n"}),
			w.table("Quoted \"schema\"\n", "../ünïcode\\", []string{"../x"}, []string{"one\n"}),
		},
		Sequences: []format.Sequence{{Schema: "public", Name: "customers_id_seq", Last: 3, Called: true}},
		LeftOut:   []string{}, Elsewhere: []string{},
	}
	if key != nil {
		m.Format, m.Key = format.Sealed, key.ID
	}
	m.LargeObjects = format.LargeObjects{Count: 2, Bytes: 5}
	m.LargeObjects.Chunks, m.LargeObjects.Rows, m.LargeObjects.RowHash = w.chunks("16400\t0\t\\\\x68656c6c6f\n16401\t0\t\\\\x\n")
	m.Census = format.Census{Sequences: 1, LargeObjects: 2, Objects: map[string]int64{"valid indexes": 1}}
	for _, table := range m.Tables {
		m.Census.Tables = append(m.Census.Tables, format.Count{Schema: table.Schema, Name: table.Name, Rows: table.Rows, Pages: table.Pages})
		m.Totals.Rows += table.Rows
	}
	m.Totals.Tables = len(m.Tables)
	for _, f := range []struct{ name, text string }{{"RESTORE.md", "# " + id + "\n"}, {"restore.sh", "#!/bin/sh\n"}} {
		require.NoError(t, store.Create(t.Context(), format.BackupKey(Target, id, f.name), []byte(f.text)))
		m.Files = append(m.Files, format.File{Name: f.name, Size: int64(len(f.text)), SHA256: hexOf([]byte(f.text))})
	}
	return m
}

type writer struct {
	t    testing.TB
	pool *chunk.Pool
}

// table stores a table whose ranges have the given chunks.
func (w *writer) table(schema, name string, columns []string, ranges ...[]string) format.Table {
	if len(ranges) == 0 {
		ranges = [][]string{nil}
	}
	table := format.Table{Schema: schema, Name: name, Owner: "ann", Kind: "table", Columns: columns, Pages: int64(len(ranges))}
	var all rowhash.Sum
	for i, texts := range ranges {
		r := format.Range{First: int64(i), End: int64(i + 1)}
		if i == len(ranges)-1 {
			r.End = -1
		}
		var rows int64
		var hash string
		r.Chunks, rows, hash = w.chunks(texts...)
		sum, err := rowhash.Parse(hash)
		require.NoError(w.t, err)
		table.Rows, all = table.Rows+rows, all.Merge(sum)
		for _, c := range r.Chunks {
			table.Bytes += c.Size
		}
		table.Ranges = append(table.Ranges, r)
	}
	table.RowHash = all.Hex()
	return table
}

func (w *writer) chunks(texts ...string) (chunks []format.Chunk, rows int64, hash string) {
	var all rowhash.Sum
	chunks = []format.Chunk{}
	for _, text := range texts {
		if text == "" {
			continue
		}
		c, _, err := w.pool.Write(w.t.Context(), []byte(text))
		require.NoError(w.t, err)
		var counted rowhash.Counter
		_, _ = counted.Write([]byte(text)) // never fails
		c.Rows, c.RowHash = counted.Rows(), counted.Sum().Hex()
		chunks, rows, all = append(chunks, c), rows+c.Rows, all.Merge(counted.Sum())
	}
	return chunks, rows, all.Hex()
}

func hexOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Rows makes so many rows for a backup's biggest table.
func Rows(n int) []string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("%d\tcustomer %d", i+4, i+4)
	}
	return rows
}

// Keys lists the keys of every file that a backup consists of.
func Keys(m *format.Manifest) []string {
	keys := []string{format.ManifestKey(m.Target, m.Backup)}
	for _, f := range m.Files {
		keys = append(keys, format.BackupKey(m.Target, m.Backup, f.Name))
	}
	seen := make(map[string]bool)
	for _, c := range m.Chunks() {
		if !seen[c.Object()] {
			seen[c.Object()] = true
			keys = append(keys, format.ChunkKey(m.Target, c.Object()))
		}
	}
	return keys
}

// Folder opens a store in a folder of the test's own.
func Folder(t testing.TB) objstore.Store {
	t.Helper()
	store, err := objstore.Open(context.Background(), "file://"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// Change replaces an object by what the function makes of it.
func Change(t testing.TB, store objstore.Store, key string, change func([]byte) []byte) {
	t.Helper()
	data, err := store.Read(t.Context(), key, format.MaxManifest)
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), key, change(bytes.Clone(data))))
}

// Reseal writes the file of an encrypted backup as somebody could who has no key: any index, and something
// sealed, with a right checksum.
func Reseal(t testing.TB, index *format.Index, sealed []byte) []byte {
	t.Helper()
	raw, err := json.Marshal(struct {
		*format.Index
		Sealed []byte `json:"sealed"`
	}{index, sealed})
	require.NoError(t, err)
	return fmt.Appendf(nil, `{"upkeep":"backup","format":2,"sha256":%q,"manifest":%s}`+"\n", hexOf(raw), raw)
}
