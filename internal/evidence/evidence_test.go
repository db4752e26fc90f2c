package evidence

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func public(k ed25519.PrivateKey) string { return hex.EncodeToString(k.Public().(ed25519.PublicKey)) }

// keep opens a keeper on a folder, which is what Verify reads.
func keep(t *testing.T, dir string, recipients ...age.Recipient) *Keeper {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	k, err := Open(t.Context(), store, "case", "c0ffee", key, recipients)
	require.NoError(t, err)
	return k
}

// kept is a folder with evidence: three items, one of them in parts, and a gap.
func kept(t *testing.T) (dir string, head Head) {
	t.Helper()
	dir = t.TempDir()
	k := keep(t, dir)
	k.part = 100
	require.NoError(t, k.Keep(t.Context(), "pods/shop/web.json", []byte(`{"a": 1}`)))
	require.NoError(t, k.KeepAll(t.Context(), "logs/shop/web/main", strings.NewReader(strings.Repeat("x", 110)), 1<<30))
	require.NoError(t, k.Gap(t.Context(), "logs/shop/web/main-previous", "there is none"))
	require.NoError(t, k.Keep(t.Context(), "events/shop.json", []byte(`[]`)))
	require.NoError(t, k.Seal(t.Context(), "shop", "run-1", time.Unix(0, 0)))
	return filepath.Join(dir, "case"), k.Head()
}

func check(t *testing.T, dir string, o Outside) *Report {
	t.Helper()
	r, err := Verify(t.Context(), os.DirFS(dir), o)
	require.NoError(t, err)
	return r
}

func TestEvidenceIsWhole(t *testing.T) {
	dir, head := kept(t)
	r := check(t, dir, Outside{Keys: []string{public(key)}, Head: head.Hash})
	require.Empty(t, r.Findings)
	require.Empty(t, r.NotProven)
	require.Equal(t, head, r.Head)
	require.Equal(t, Head{Entries: 5, Items: 4, Gaps: 1, Bytes: 110 + 8 + 2, Hash: head.Hash}, head)
	require.Equal(t, []string{public(key)}, r.Keys)
	require.Equal(t, []string{"c0ffee", "shop", "run-1"}, []string{r.Case, r.Target, r.Run})
	require.Equal(t, []string{`"logs/shop/web/main-previous": "there is none"`}, r.Gaps)

	require.Len(t, check(t, dir, Outside{}).NotProven, 1, "nothing says whose key it is")
	require.NoError(t, os.Remove(filepath.Join(dir, statementName)))
	require.Len(t, check(t, dir, Outside{Keys: []string{public(key)}}).NotProven, 1, "the end may be cut off")
	require.Empty(t, check(t, dir, Outside{Head: head.Hash}).NotProven)
}

// TestWhateverIsDoneToEvidenceIsFound changes each file of the evidence in each way.
func TestWhateverIsDoneToEvidenceIsFound(t *testing.T) {
	whole, head := kept(t)
	files, err := filepath.Glob(filepath.Join(whole, "*", "*"))
	require.NoError(t, err)
	require.Len(t, files, 5+4, "a segment for each entry that came alone, and the items")
	files = append(files, filepath.Join(whole, statementName))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
	outside := Outside{Keys: []string{public(key)}}
	found := func(t *testing.T, change func(dir string)) *Report {
		t.Helper()
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(whole)))
		change(dir)
		r := check(t, dir, outside)
		require.NotEmpty(t, append(r.Findings, r.NotProven...))
		return r
	}
	for _, file := range files {
		name, err := filepath.Rel(whole, file)
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			wrong := func(change func()) { // in its place: there are megabytes beside it
				change()
				r := check(t, whole, outside)
				require.NotEmpty(t, append(r.Findings, r.NotProven...))
				require.NoError(t, os.WriteFile(file, data, 0o600))
			}
			for _, at := range []int{0, len(data) / 3, len(data) / 2, len(data) - 2} {
				wrong(func() {
					other := bytes.Clone(data)
					other[at] ^= 1
					require.NoError(t, os.WriteFile(file, other, 0o600))
				})
			}
			wrong(func() { require.NoError(t, os.Remove(file)) })
			wrong(func() { require.NoError(t, os.WriteFile(file, data[:len(data)-1], 0o600)) })
			wrong(func() { require.NoError(t, os.WriteFile(file, nil, 0o600)) })
		})
	}
	swap := func(dir, a, b string) {
		one, two, tmp := filepath.Join(dir, a), filepath.Join(dir, b), filepath.Join(dir, "tmp")
		require.NoError(t, os.Rename(one, tmp))
		require.NoError(t, os.Rename(two, one))
		require.NoError(t, os.Rename(tmp, two))
	}
	t.Run("reordered", func(t *testing.T) {
		found(t, func(dir string) { swap(dir, segmentName(1), segmentName(2)) })
		found(t, func(dir string) { swap(dir, segmentName(2), segmentName(3)) })
	})
	t.Run("the end cut off", func(t *testing.T) {
		r := found(t, func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, segmentName(5)))) })
		require.Contains(t, r.Findings[0], "its end was cut off")
		r = found(t, func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segmentName(5))))
			require.NoError(t, os.Remove(filepath.Join(dir, statementName)))
		})
		require.Empty(t, r.Findings)
		require.NotEmpty(t, r.NotProven)
		outside.Head = head.Hash
		r = found(t, func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segmentName(5))))
			require.NoError(t, os.Remove(filepath.Join(dir, statementName)))
		})
		require.NotEmpty(t, r.Findings, "the head is known from elsewhere")
		outside.Head = ""
	})
	t.Run("written anew with a key of one's own", func(t *testing.T) {
		r := found(t, func(dir string) {
			store, err := objstore.Open(t.Context(), "file://"+dir)
			require.NoError(t, err)
			k, err := Open(t.Context(), store, "anew", "c0ffee", other, nil)
			require.NoError(t, err)
			require.NoError(t, k.Keep(t.Context(), "pods/shop/web.json", []byte(`{"a": 2}`)))
			require.NoError(t, k.Seal(t.Context(), "shop", "run-1", time.Unix(0, 0)))
			require.NoError(t, store.Close())
			for _, part := range []string{"custody", "items", statementName} {
				require.NoError(t, os.RemoveAll(filepath.Join(dir, part)))
				require.NoError(t, os.Rename(filepath.Join(dir, "anew", part), filepath.Join(dir, part)))
			}
		})
		require.Contains(t, r.Findings[0], "none of those that are trusted")
	})
}

func TestEvidenceGoesOnWhereItEnded(t *testing.T) {
	dir := t.TempDir()
	first := keep(t, dir)
	require.NoError(t, first.Keep(t.Context(), "a", []byte("1")))
	second := keep(t, dir)
	require.True(t, second.Has("a"))
	require.NoError(t, second.Keep(t.Context(), "a", []byte("2")), "what was kept stays what it is")
	require.NoError(t, second.Keep(t.Context(), "b", []byte("2")))

	err := first.Keep(t.Context(), "c", []byte("3"))
	require.True(t, failure.Is(err, failure.Fenced), "a twin that wakes up adds nothing: %v", err)
	r := check(t, filepath.Join(dir, "case"), Outside{Head: second.Head().Hash})
	require.Empty(t, r.Findings)
	require.Equal(t, 2, r.Head.Entries)
	require.Len(t, r.Remarks, 1, "its file is no evidence")

	segment := filepath.Join(dir, "case", segmentName(1))
	data, err := os.ReadFile(segment)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(segment, bytes.Replace(data, []byte(`"a"`), []byte(`"x"`), 1), 0o600))
	store, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	_, err = Open(t.Context(), store, "case", "c0ffee", key, nil)
	require.True(t, failure.Is(err, failure.UnsafeArchive), "nothing is added to what is broken: %v", err)
}

func TestAnAttemptThatComesLateSealsNothing(t *testing.T) {
	dir := t.TempDir()
	late := keep(t, dir)
	require.NoError(t, late.Keep(t.Context(), "a", []byte("a")))
	other := keep(t, dir)
	require.NoError(t, other.Keep(t.Context(), "b", []byte("b")))
	require.NoError(t, other.Seal(t.Context(), "shop", "run-1", time.Unix(0, 0)))
	require.True(t, failure.Is(late.Seal(t.Context(), "shop", "run-1", time.Unix(0, 0)), failure.Fenced))
	require.Empty(t, check(t, filepath.Join(dir, "case"), Outside{Head: other.Head().Hash}).Findings)
}

func TestManyKeepAtOnce(t *testing.T) {
	dir := t.TempDir()
	k := keep(t, dir)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if err := k.Keep(t.Context(), fmt.Sprintf("item-%d", i), fmt.Appendf(nil, "%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := check(t, filepath.Join(dir, "case"), Outside{Head: k.Head().Hash})
	require.Empty(t, r.Findings)
	require.Equal(t, 60, r.Head.Items)
}

func TestStreamsAreBounded(t *testing.T) {
	dir := t.TempDir()
	k := keep(t, dir)
	require.NoError(t, k.KeepAll(t.Context(), "exact", strings.NewReader("12345"), 5))
	require.Zero(t, k.Head().Gaps)
	require.NoError(t, k.KeepAll(t.Context(), "long", strings.NewReader("123456"), 5))
	require.Equal(t, 1, k.Head().Gaps)
	require.NoError(t, k.KeepAll(t.Context(), "empty", strings.NewReader(""), 5))
	require.True(t, k.Has("empty.last"), "that there was nothing is evidence too")
	require.True(t, k.HasAll("exact") && k.HasAll("long") && !k.HasAll("other"))
	broken := io.MultiReader(strings.NewReader("12"), failing{})
	require.ErrorContains(t, k.KeepAll(t.Context(), "broken", broken, 50), "cut off")
	require.False(t, k.HasAll("broken"))
	require.NoError(t, k.KeepAll(t.Context(), "broken", strings.NewReader("12345"), 50))
	require.True(t, k.HasAll("broken"), "read again, it is whole")
}

type failing struct{}

func (failing) Read([]byte) (int, error) {
	return 0, failure.New(failure.ClusterUnreachable, "cut off")
}

func TestSealedEvidenceIsReadByItsReaders(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	dir := t.TempDir()
	k := keep(t, dir, identity.Recipient())
	require.NoError(t, k.Keep(t.Context(), "pod", []byte("a secret value")))
	require.Empty(t, check(t, filepath.Join(dir, "case"), Outside{Head: k.Head().Hash}).Findings)
	files, err := filepath.Glob(filepath.Join(dir, "case", "items", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NotContains(t, string(data), "a secret value")
	plain, err := age.Decrypt(bytes.NewReader(data), identity)
	require.NoError(t, err)
	back, err := io.ReadAll(plain)
	require.NoError(t, err)
	require.Equal(t, "a secret value", string(back))
}

// FuzzLog: whatever stands in a log, reading it ends, and only what was signed is taken for an entry.
func FuzzLog(f *testing.F) {
	e := Entry{Seq: 1, Case: "c", Kind: KindItem, Name: "n", SHA256: hashOf(nil)}
	e.seal(key)
	f.Add(fmt.Appendf(nil, `{"seq":1,"at":"0001-01-01T00:00:00Z","case":"c","kind":"item","name":"n","sha256":"%s","prev":"","key":"%s","hash":"%s","signature":"%s"}`+"\n", e.SHA256, e.Key, e.Hash, e.Signature))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c chain
		entries, problem := c.read(data)
		for i, got := range entries {
			if got.Seq != i+1 || got.Hash != got.hash() || !signed(got) {
				t.Fatalf("entry %d is taken for one", i+1)
			}
		}
		if problem == "" && len(entries) == 0 {
			t.Fatal("a segment without an entry is taken for one")
		}
		if s, by, err := open(t.Context(), data); err == nil && (len(by) != 64 || s.PredicateType != predicateType) {
			t.Fatal("what nobody signed is taken for a statement")
		}
	})
}
