package access

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// shelf is a store with baselines in the making.
type shelf struct {
	t   *testing.T
	dir string
	objstore.Store
	key ed25519.PrivateKey
}

func newShelf(t *testing.T) *shelf {
	dir := t.TempDir()
	s, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return &shelf{t, dir, s, key}
}

func (s *shelf) trusted() []string { return []string{KeyOf(s.key)} }

// accept accepts the review of a cluster in which ann has so many grants.
func (s *shelf) accept(run, prev string, grants int) (*Baseline, []byte, error) {
	var w world
	for range grants {
		w.grant("shop", ann, "get pods")
	}
	data := w.review().Encode()
	b, err := Accept(s.t.Context(), s.Store, s.key, Baseline{
		Target: "shop", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Run: run, Plan: "plan of " + run, By: "ann", Reason: "seen", Review: HashOf(data), Prev: prev,
	}, data)
	return b, data, err
}

func (s *shelf) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

func TestABaselineIsAcceptedOnce(t *testing.T) {
	s := newShelf(t)
	none, review, err := Newest(t.Context(), s.Store, "shop", s.trusted())
	require.NoError(t, err)
	require.Nil(t, none)
	require.Nil(t, review)
	first, _, err := s.accept("a", "", 1)
	require.NoError(t, err)
	again, _, err := s.accept("a", "", 1)
	require.NoError(t, err)
	require.Equal(t, first.Hash(), again.Hash(), "a second attempt finds it done")
	_, _, err = s.accept("b", "", 2)
	require.True(t, failure.Is(err, failure.PlanVoid), "it was approved when there was none: %v", err)
	second, data, err := s.accept("b", first.Hash(), 2)
	require.NoError(t, err)
	late, _, err := s.accept("a", "", 1)
	require.True(t, failure.Is(err, failure.PlanVoid), "an attempt that comes late puts nothing back: %v %v", late, err)
	newest, review, err := Newest(t.Context(), s.Store, "shop", s.trusted())
	require.NoError(t, err)
	require.Equal(t, second.Hash(), newest.Hash())
	require.Equal(t, data, review.Encode())
	_, err = Accept(t.Context(), s.Store, s.key, Baseline{Target: "shop", Run: "c", Review: HashOf([]byte("x")), Prev: second.Hash()}, data)
	require.True(t, failure.Is(err, failure.PlanVoid), "another review than was approved")
}

// TestEveryByteIsUnderTheSignature: each byte of a baseline and of its review is altered, one at a time, and
// each file is cut at many lengths.
func TestEveryByteIsUnderTheSignature(t *testing.T) {
	s := newShelf(t)
	first, _, err := s.accept("a", "", 1)
	require.NoError(t, err)
	second, _, err := s.accept("b", first.Hash(), 2)
	require.NoError(t, err)
	for _, key := range []string{format.BaselineKey("shop", 1), format.BaselineKey("shop", 2), format.ReviewKey("shop", second.Review)} {
		path := s.path(key)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		refused := func(data []byte) {
			require.NoError(t, os.WriteFile(path, data, 0o600))
			_, _, err := Newest(t.Context(), s.Store, "shop", s.trusted())
			require.True(t, failure.Is(err, failure.BadBaseline), "%s: %v", key, err)
			f, _ := failure.As(err)
			require.Contains(t, f.Remedy, "shop/access/")
		}
		for i := range whole {
			data := append([]byte{}, whole...)
			data[i] ^= 1
			refused(data)
			if i%16 == 0 {
				refused(whole[:i])
			}
		}
		refused(append(append([]byte{}, whole...), ' '))
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
	_, _, err = Newest(t.Context(), s.Store, "shop", s.trusted())
	require.NoError(t, err)
}

func TestWhatIsMissingOrForeign(t *testing.T) {
	build := func(t *testing.T) *shelf {
		s := newShelf(t)
		first, _, err := s.accept("a", "", 1)
		require.NoError(t, err)
		_, _, err = s.accept("b", first.Hash(), 2)
		require.NoError(t, err)
		return s
	}
	for name, c := range map[string]struct {
		do   func(*shelf) error
		says string
	}{
		"the first is removed":  {func(s *shelf) error { return os.Remove(s.path(format.BaselineKey("shop", 1))) }, "is missing"},
		"the newest is removed": {func(s *shelf) error { return os.Remove(s.path(format.BaselineKey("shop", 2))) }, "the newest were removed"},
		"another target's": {func(s *shelf) error {
			return os.Rename(s.path("shop"), s.path("other"))
		}, "it was moved"},
		"the old one again": {func(s *shelf) error {
			data, err := os.ReadFile(s.path(format.BaselineKey("shop", 1)))
			if err != nil {
				return err
			}
			return os.WriteFile(s.path(format.BaselineKey("shop", 2)), data, 0o600)
		}, "it was moved"},
		"its review is removed": {func(s *shelf) error {
			return os.RemoveAll(s.path("shop/access/reviews"))
		}, "is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			s := build(t)
			require.NoError(t, c.do(s))
			target := "shop"
			if name == "another target's" {
				target = "other"
			}
			_, _, err := Newest(t.Context(), s.Store, target, s.trusted())
			require.True(t, failure.Is(err, failure.BadBaseline), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
	s := build(t)
	_, _, err := Newest(t.Context(), s.Store, "shop", []string{"00"})
	require.True(t, failure.Is(err, failure.BadBaseline))
	require.ErrorContains(t, err, "which is not trusted here")
	// Somebody who can write to the store signs with a key of his own.
	_, s.key, err = ed25519.GenerateKey(nil)
	require.NoError(t, err)
	all, err := Chain(t.Context(), s.Store, "shop")
	require.NoError(t, err)
	_, _, err = s.accept("c", all[1].Hash(), 3)
	require.NoError(t, err)
	_, _, err = Newest(t.Context(), s.Store, "shop", []string{all[1].Key})
	require.ErrorContains(t, err, "which is not trusted here")
}

func TestABaselineOfANewerUpkeepIsNamedSo(t *testing.T) {
	s := newShelf(t)
	file := s.path(format.BaselineKey("shop", 1))
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(`{"version":99,"unheardOf":true}`), 0o600))
	_, err := Chain(t.Context(), s.Store, "shop")
	require.True(t, failure.Is(err, failure.FormatTooNew), "%v", err)

	newer := []byte(`{"version":99,"unheardOf":true}`)
	_, err = Decode(newer, HashOf(newer))
	require.ErrorContains(t, err, "version 99")
}
