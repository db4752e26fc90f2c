package verify_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/rowhash"
	"github.com/upkeep-run/upkeep/internal/verify"
)

const (
	target = "shop"
	golden = "../format/testdata/golden" // a whole real backup
)

// over is a store in which some objects are others than in the one below, or gone (nil). Nothing is
// written below.
type over struct {
	objstore.Store
	mu      sync.Mutex
	objects map[string][]byte
}

func (o *over) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	o.mu.Lock()
	data, ok := o.objects[key]
	o.mu.Unlock()
	switch {
	case !ok:
		return o.Store.Read(ctx, key, limit)
	case data == nil:
		return nil, objstore.ErrNotExist
	case int64(len(data)) > limit:
		return nil, failure.New(failure.UnsafeArchive, "%s has more than %d bytes", key, limit)
	}
	return bytes.Clone(data), nil
}

func (o *over) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	o.mu.Lock()
	_, ok := o.objects[key]
	o.mu.Unlock()
	if !ok {
		return o.Store.Open(ctx, key)
	}
	data, err := o.Read(ctx, key, 1<<40)
	return io.NopCloser(bytes.NewReader(data)), err
}

func (o *over) put(key string, data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects[key] = data
	return nil
}

func (o *over) Replace(_ context.Context, key string, data []byte) error { return o.put(key, data) }
func (o *over) Delete(_ context.Context, key string) error               { return o.put(key, nil) }

// real is the golden backup, over which a test can lay damage.
type real struct {
	*over
	m     *format.Manifest
	files map[string][]byte // every file of the backup
	keys  []string
}

func newReal(t testing.TB) *real {
	t.Helper()
	dir, err := filepath.Abs(golden)
	require.NoError(t, err)
	below, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, below.Close()) })
	r := &real{over: &over{Store: below, objects: map[string][]byte{}}, files: map[string][]byte{}}
	r.m, err = catalog.Load(t.Context(), below, target, catalog.Latest, nil)
	require.NoError(t, err)
	r.keys = formattest.Keys(r.m)
	require.Len(t, r.keys, 18)
	for _, key := range r.keys {
		r.files[key], err = below.Read(t.Context(), key, 1<<20)
		require.NoError(t, err)
	}
	return r
}

func (r *real) manifest() string { return format.ManifestKey(target, r.m.Backup) }

type look = func(context.Context, objstore.Store, string, string, *keyring.Ring) ([]run.Check, error)

var grades = map[string]look{"stored": verify.Stored, "decoded": verify.Decoded}

// verdict looks at the backup with the damage, and returns FAIL and what was said, or PASS.
func (r *real) verdict(t testing.TB, how look) (run.Verdict, string) {
	t.Helper()
	checks, err := how(t.Context(), r, target, r.m.Backup, nil)
	require.NoError(t, err)
	require.NotEmpty(t, checks)
	verdict, said := run.Pass, ""
	for _, c := range checks {
		said += c.Name + ": " + c.Detail + "\n"
		if c.Verdict != run.Pass {
			verdict = run.Fail
			require.Equal(t, run.Fail, c.Verdict)
		}
	}
	return verdict, said
}

// requireSeen requires that the grades say FAIL and name the file.
func (r *real) requireSeen(t testing.TB, key, what string, how ...look) {
	t.Helper()
	for _, look := range how {
		verdict, said := r.verdict(t, look)
		require.Equal(t, run.Fail, verdict, "%s of %s was not seen: %s", what, key, said)
		require.Contains(t, said, key, what)
	}
}

func TestAWholeBackupPasses(t *testing.T) {
	r := newReal(t)
	for name, how := range grades {
		verdict, said := r.verdict(t, how)
		require.Equal(t, run.Pass, verdict, "%s: %s", name, said)
		require.Contains(t, said, "18 files")
	}
}

// Every kind of damage to every file is seen by the cheapest grade, and by the next one too.
func TestDamageOfEveryFileIsSeen(t *testing.T) {
	r := newReal(t)
	for i, key := range r.keys {
		data := r.files[key]
		next := r.keys[(i+1)%len(r.keys)]
		for what, bad := range map[string][]byte{
			"nothing left": {}, "one byte left": data[:1], "half": data[:len(data)/2], "all but a byte": data[:len(data)-1],
			"a byte more": append(bytes.Clone(data), 0), "a newline more": append(bytes.Clone(data), '\n'), "twice": append(bytes.Clone(data), data...),
			"other file": r.files[next], "removal": nil,
		} {
			require.NoError(t, r.put(key, bad))
			if bad == nil && key == r.manifest() {
				for _, how := range grades {
					_, err := how(t.Context(), r, target, r.m.Backup, nil)
					require.True(t, failure.Is(err, failure.UnknownBackup), "%v", err)
					require.ErrorContains(t, err, key)
				}
				continue
			}
			r.requireSeen(t, key, what, verify.Stored, verify.Decoded)
		}
		require.NoError(t, r.put(key, data))
	}
	// Two files changed places.
	a, b := r.keys[4], r.keys[9]
	require.NoError(t, r.put(a, r.files[b]))
	require.NoError(t, r.put(b, r.files[a]))
	r.requireSeen(t, a, "a swap", verify.Stored, verify.Decoded)
	r.requireSeen(t, b, "a swap", verify.Stored, verify.Decoded)
}

func TestEveryBitIsSeen(t *testing.T) {
	const small, positions = 80, 12 // bytes of a file whose every bit is flipped; bytes that are flipped of others
	r := newReal(t)
	for _, key := range r.keys {
		data := bytes.Clone(r.files[key])
		step := 1
		if len(data) > small {
			step = len(data)/positions + 1
		}
		for at := 0; at < len(data); at += step {
			for bit := range 8 {
				if step > 1 && bit != at%8 {
					continue
				}
				data[at] ^= 1 << bit
				require.NoError(t, r.put(key, bytes.Clone(data)))
				what := fmt.Sprintf("bit %d of byte %d", bit, at)
				r.requireSeen(t, key, what, verify.Stored)
				if bit == at%8 {
					r.requireSeen(t, key, what, verify.Decoded)
				}
				data[at] ^= 1 << bit
			}
		}
		require.NoError(t, r.put(key, data))
	}
}

// forge lays a changed manifest over the real one, with a right checksum.
func (r *real) forge(t testing.TB, change func(*format.Manifest)) {
	t.Helper()
	m, err := format.Decode(r.files[r.manifest()], target, r.m.Backup)
	require.NoError(t, err)
	change(m)
	data, err := format.Encode(m)
	require.NoError(t, err)
	require.NoError(t, r.put(r.manifest(), data))
}

func table(m *format.Manifest, name string) (*format.Table, *format.Count) {
	for i := range m.Tables {
		if m.Tables[i].Name == name {
			for k := range m.Census.Tables {
				if m.Census.Tables[k].Name == name {
					return &m.Tables[i], &m.Census.Tables[k]
				}
			}
		}
	}
	panic("no table " + name)
}

// What only the rows themselves can refute is seen by the grade that reads them; what the manifest
// itself refutes, by the cheapest.
func TestAManifestThatLiesIsSeen(t *testing.T) {
	r := newReal(t)
	facts, _ := table(r.m, "facts")
	chunk := format.ChunkKey(target, facts.Ranges[0].Chunks[0].SHA256)
	for name, c := range map[string]struct {
		change func(*format.Manifest)
		cheap  bool // seen by grade stored
		names  string
	}{
		"a row more than is there": {func(m *format.Manifest) {
			f, counted := table(m, "facts")
			f.Ranges[0].Chunks[0].Rows++
			f.Rows++
			counted.Rows++
		}, false, chunk},
		"other rows": {func(m *format.Manifest) {
			f, _ := table(m, "facts")
			var sum rowhash.Sum
			sum.Add([]byte("another"))
			f.Ranges[0].Chunks[0].RowHash, f.RowHash = sum.Hex(), sum.Hex()
		}, false, chunk},
		"a row more than was counted": {func(m *format.Manifest) {
			f, _ := table(m, "facts")
			f.Ranges[0].Chunks[0].Rows++
			f.Rows++
		}, true, `"public"."facts" has 5 rows and 6 were read`},
		"a table left out": {func(m *format.Manifest) {
			m.Tables = m.Tables[:len(m.Tables)-1]
			for i := range m.Schema.PostData {
				m.Schema.PostData[i].Table = -1
			}
		}, true, "was not read"},
		"a chunk that is there twice": {func(m *format.Manifest) {
			f, _ := table(m, "facts")
			c := f.Ranges[0].Chunks[0]
			sum, err := rowhash.Parse(c.RowHash)
			require.NoError(t, err)
			f.Ranges[0].Chunks = append(f.Ranges[0].Chunks, c)
			f.Rows, f.Bytes, f.RowHash = f.Rows*2, f.Bytes*2, sum.Merge(sum).Hex()
		}, true, `"public"."facts" has 5 rows and 10 were read`},
		"the chunk of another table": {func(m *format.Manifest) {
			f, _ := table(m, "facts")
			o, _ := table(m, "booked")
			f.Ranges[0].Chunks, f.Rows, f.Bytes, f.RowHash = o.Ranges[0].Chunks, o.Rows, o.Bytes, o.RowHash
		}, true, `"public"."facts" has 5 rows and 1 were read`},
		"a chunk described in two ways": {func(m *format.Manifest) {
			f, counted := table(m, "facts")
			o, _ := table(m, "booked")
			c := o.Ranges[0].Chunks[0]
			c.Rows = 5
			f.Ranges[0].Chunks, f.Rows, f.Bytes, f.RowHash = []format.Chunk{c}, 5, o.Bytes, o.RowHash
			counted.Rows = 5
		}, true, "in two ways"},
		"a large object less":  {func(m *format.Manifest) { m.LargeObjects.Count-- }, true, "3 large objects and 2 were read"},
		"a sequence less":      {func(m *format.Manifest) { m.Sequences = m.Sequences[1:] }, true, "sequences"},
		"a file that is gone":  {func(m *format.Manifest) { m.Files[0].Name = "RESTORE.txt" }, true, "RESTORE.txt is missing"},
		"a chunk that is gone": {func(m *format.Manifest) { m.Schema.Archive.SHA256 = facts.RowHash + facts.RowHash }, true, facts.RowHash + facts.RowHash + ".zst is missing"},
	} {
		r.forge(t, c.change)
		verdict, said := r.verdict(t, verify.Stored)
		if c.cheap {
			require.Equal(t, run.Fail, verdict, "%s: %s", name, said)
			require.Contains(t, said, c.names, name)
		} else {
			require.Equal(t, run.Pass, verdict, "%s cannot be known without reading rows: %s", name, said)
		}
		verdict, said = r.verdict(t, verify.Decoded)
		require.Equal(t, run.Fail, verdict, "%s: %s", name, said)
		require.Contains(t, said, c.names, name)
	}
}

// A manifest of another backup, old or new, is not taken for this one's.
func TestAManifestOfAnotherBackupIsSeen(t *testing.T) {
	store := formattest.Folder(t)
	formattest.Backup(t, store, "b1", formattest.At, formattest.Rows(3)...)
	formattest.Backup(t, store, "b2", formattest.At.AddDate(0, 0, 1), formattest.Rows(4)...)
	older, err := store.Read(t.Context(), format.ManifestKey(target, "b1"), 1<<20)
	require.NoError(t, err)
	formattest.Change(t, store, format.ManifestKey(target, "b2"), func([]byte) []byte { return older })
	for _, how := range grades {
		checks, err := how(t.Context(), store, target, "b2", nil)
		require.NoError(t, err)
		require.Equal(t, run.Fail, checks[0].Verdict)
		require.Contains(t, checks[0].Detail, format.ManifestKey(target, "b2")+`: it is the manifest of backup "b1"`)
	}
}

// A small file that unpacks to a lot is refused when it passes its size, even if the manifest vouches
// for the stored bytes.
func TestABombIsRefused(t *testing.T) {
	r := newReal(t)
	var bomb bytes.Buffer
	w, err := zstd.NewWriter(&bomb, zstd.WithWindowSize(1<<20))
	require.NoError(t, err)
	zeros := make([]byte, 1<<20)
	for range 1024 { // 1 GiB
		_, err := w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	facts, _ := table(r.m, "facts")
	key := format.ChunkKey(target, facts.Ranges[0].Chunks[0].SHA256)
	require.NoError(t, r.put(key, bomb.Bytes()))
	r.requireSeen(t, key, "a bomb", verify.Stored, verify.Decoded)
	r.forge(t, func(m *format.Manifest) {
		f, _ := table(m, "facts")
		c := &f.Ranges[0].Chunks[0]
		sum := sha256.Sum256(bomb.Bytes())
		c.StoredSHA256, c.StoredSize = hex.EncodeToString(sum[:]), int64(bomb.Len())
	})
	verdict, said := r.verdict(t, verify.Decoded)
	require.Equal(t, run.Fail, verdict)
	require.Contains(t, said, key+" unpacks to more than was written")
}

// copied is the golden backup in a folder of the test's own.
func copied(t testing.TB) (store objstore.Store, dir string, m *format.Manifest) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "store"), os.DirFS(golden)))
	store, err := objstore.Open(t.Context(), "file://"+filepath.Join(dir, "store"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	m, err = catalog.Load(t.Context(), store, target, catalog.Latest, nil)
	require.NoError(t, err)
	return store, filepath.Join(dir, "store"), m
}

// Links that lead out of the store are not followed, even to the right bytes.
func TestPathsThatClimbOutAreRefused(t *testing.T) {
	for name, part := range map[string]func(m *format.Manifest) string{
		"a chunk":          func(m *format.Manifest) string { return format.ChunkKey(target, m.Schema.Archive.SHA256) },
		"the guide":        func(m *format.Manifest) string { return format.BackupKey(target, m.Backup, "RESTORE.md") },
		"all chunks":       func(*format.Manifest) string { return target + "/chunks" },
		"the manifest":     func(m *format.Manifest) string { return format.ManifestKey(target, m.Backup) },
		"a whole target":   func(*format.Manifest) string { return target },
		"a backups folder": func(m *format.Manifest) string { return format.BackupsPrefix(target) + m.Backup },
	} {
		store, dir, m := copied(t)
		inside, outside := filepath.Join(dir, filepath.FromSlash(part(m))), filepath.Join(t.TempDir(), "outside")
		require.NoError(t, os.Rename(inside, outside))
		require.NoError(t, os.Symlink(outside, inside))
		for _, how := range grades {
			checks, err := how(t.Context(), store, target, m.Backup, nil)
			verdict := run.Pass
			for _, c := range checks {
				if c.Verdict != run.Pass {
					verdict = c.Verdict
				}
			}
			require.True(t, err != nil || verdict != run.Pass, "%s: a link out of the store was followed", name)
		}
	}
	store, dir, m := copied(t)
	outside := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, target, "marks")))
	require.NoError(t, store.Delete(t.Context(), format.BackupKey(target, m.Backup, "RESTORE.md")))
	checks, err := verify.Stored(t.Context(), store, target, m.Backup, nil)
	require.NoError(t, err)
	require.Equal(t, run.Fail, checks[1].Verdict)
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left, "a note was written out of the store")
}

func TestNamesThatClimbAreRefused(t *testing.T) {
	store, _, m := copied(t)
	for _, id := range []string{"..", "../" + m.Backup, "", "a/b", `a\b`, m.Backup + "/../" + m.Backup, "a\x00"} {
		for _, how := range grades {
			_, err := how(t.Context(), store, target, id, nil)
			require.True(t, failure.Is(err, failure.UnknownBackup), "%q: %v", id, err)
		}
	}
	for _, name := range []string{"..", "shop/../shop", ""} {
		checks, err := verify.Stored(t.Context(), store, name, m.Backup, nil)
		require.True(t, err != nil || checks[0].Verdict == run.Fail, "%q", name)
	}
}

// A look marks what is damaged and takes the mark from what is whole again, but a cheap look does not
// take away what a thorough one found.
func TestLooksMarkAndUnmark(t *testing.T) {
	store, _, m := copied(t)
	mark := func() *catalog.Mark {
		t.Helper()
		found, err := catalog.ReadMark(t.Context(), store, target, m.Backup)
		require.NoError(t, err)
		return found
	}
	see := func(how look) {
		t.Helper()
		_, err := how(t.Context(), store, target, m.Backup, nil)
		require.NoError(t, err)
	}
	see(verify.Stored)
	require.Nil(t, mark())

	key := format.ChunkKey(target, m.Schema.Archive.SHA256)
	flip := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	formattest.Change(t, store, key, flip)
	see(verify.Stored)
	require.Equal(t, catalog.FoundByStored, mark().FoundBy)
	require.Equal(t, []string{key + " has other bytes than were written"}, mark().What)
	formattest.Change(t, store, key, flip)
	see(verify.Stored)
	require.Nil(t, mark())

	formattest.Change(t, store, key, flip)
	see(verify.Decoded)
	require.Equal(t, catalog.FoundByDecoded, mark().FoundBy)
	formattest.Change(t, store, key, flip)
	see(verify.Stored)
	require.NotNil(t, mark(), "a cheap look cannot clear it")
	see(verify.Decoded)
	require.Nil(t, mark())

	manifest := format.ManifestKey(target, m.Backup)
	formattest.Change(t, store, manifest, flip)
	see(verify.Stored)
	require.Contains(t, mark().What[0], manifest)
	formattest.Change(t, store, manifest, flip)
	see(verify.Stored)
	require.Nil(t, mark())
}

// What is found stands also where it cannot be noted, and a store that does not answer is no verdict.
func TestAStoreThatFails(t *testing.T) {
	inner, _, m := copied(t)
	store := &objstoretest.Faulty{Store: inner}
	require.NoError(t, inner.Delete(t.Context(), format.ChunkKey(target, m.Schema.Archive.SHA256)))
	store.Before = func(_ context.Context, op, _ string) error {
		if op == "replace" {
			return objstoretest.Full()
		}
		return nil
	}
	checks, err := verify.Stored(t.Context(), store, target, m.Backup, nil)
	require.NoError(t, err)
	require.Len(t, checks, 3)
	require.Equal(t, run.Fail, checks[1].Verdict)
	require.Equal(t, run.NotProven, checks[2].Verdict)
	require.True(t, checks[2].Optional)
	for _, failing := range []string{"read", "open"} {
		store.Before = func(_ context.Context, op, key string) error {
			if op == failing && key != format.ManifestKey(target, m.Backup) {
				return objstoretest.Unreachable()
			}
			return nil
		}
		for _, how := range grades {
			_, err := how(t.Context(), store, target, m.Backup, nil)
			require.True(t, failure.Is(err, failure.StoreUnreachable), "%v", err)
		}
	}
}
