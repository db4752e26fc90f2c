package verify_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/verify"
)

func TestWithoutTheKeyOnlyTheCheapestGradeProves(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	formattest.Sealed(t, store, keys, "a", formattest.At, formattest.Rows(3)...)
	for _, c := range []struct {
		name string
		how  look
		want run.Verdict // without the key
	}{{"stored", verify.Stored, run.Pass}, {"decoded", verify.Decoded, run.NotProven}} {
		checks, err := c.how(t.Context(), store, target, "a", keys)
		require.NoError(t, err)
		require.Equal(t, run.Pass, proof.Verdict(checks), "%s: %v", c.name, checks)
		checks, err = c.how(t.Context(), store, target, "a", nil)
		require.NoError(t, err)
		require.Equal(t, c.want, proof.Verdict(checks), "%s: %v", c.name, checks)
	}
	_, err := verify.Decoded(t.Context(), store, target, "a", keyringtest.Ring(t, store, target))
	require.True(t, failure.Is(err, failure.KeyUnusable), "an identity that should open it and does not is for a person to mend: %v", err)
}

// A look without the key takes no mark away that a deeper one has set.
func TestAClosedLookClearsNoMark(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	formattest.Sealed(t, store, keys, "a", formattest.At)
	require.NoError(t, catalog.SetMark(t.Context(), store, target, "a", catalog.FoundByDecoded, "something"))
	for _, how := range grades {
		_, err := how(t.Context(), store, target, "a", nil)
		require.NoError(t, err)
		mark, err := catalog.ReadMark(t.Context(), store, target, "a")
		require.NoError(t, err)
		require.NotNil(t, mark)
	}
}

// Every kind of damage to every file of a sealed backup is seen, with the key and without.
func TestDamageOfEverySealedFileIsSeen(t *testing.T) {
	store := formattest.Folder(t)
	keys := keyringtest.Ring(t, store, target)
	m := formattest.Sealed(t, store, keys, "a", formattest.At, formattest.Rows(3)...)
	files := append(formattest.Keys(m), format.WrappedKey(target, m.Key))
	require.Greater(t, len(files), 8)
	verdict := func(how look, with bool) run.Verdict {
		ring := keys
		if !with {
			ring = nil
		}
		checks, err := how(t.Context(), store, target, "a", ring)
		require.NoError(t, err)
		return proof.Verdict(checks)
	}
	for _, key := range files {
		data, err := store.Read(t.Context(), key, 1<<20)
		require.NoError(t, err)
		last := bytes.Clone(data)
		last[len(last)-2] ^= 1
		for what, bad := range map[string][]byte{
			"a bit": last, "nothing left": {}, "half": data[:len(data)/2], "a byte more": append(bytes.Clone(data), 0), "removal": nil,
		} {
			if bad == nil {
				require.NoError(t, store.Delete(t.Context(), key))
			} else {
				require.NoError(t, store.Replace(t.Context(), key, bad))
			}
			wrapped := key == format.WrappedKey(target, m.Key)
			switch {
			case bad == nil && key == format.ManifestKey(target, "a"): // then there is no backup
			case wrapped && len(bad) > 0: // whoever opens it sees it; others cannot, since it may be wrapped anew
			default:
				require.Equal(t, run.Fail, verdict(verify.Stored, true), "%s of %s", what, key)
				require.Equal(t, run.Fail, verdict(verify.Stored, false), "%s of %s", what, key)
				require.Equal(t, run.Fail, verdict(verify.Decoded, true), "%s of %s", what, key)
			}
		}
		require.NoError(t, store.Replace(t.Context(), key, data))
	}
	require.Equal(t, run.Pass, verdict(verify.Decoded, true))
}
