package starter

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func TestEvidenceIsVerifiedWithNothingButTheFiles(t *testing.T) {
	dir := t.TempDir()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	store, err := objstore.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	k, err := evidence.Open(t.Context(), store, "case", "c0ffee", key, nil)
	require.NoError(t, err)
	require.NoError(t, k.Keep(t.Context(), "pod", []byte("{}")))
	require.NoError(t, k.Gap(t.Context(), "logs/\x1b[2Jnone", "it \x1b[31mis gone"))
	require.NoError(t, k.Seal(t.Context(), "shop", "run-1", time.Unix(0, 0)))
	require.NoError(t, store.Close())
	public := hex.EncodeToString(key.Public().(ed25519.PublicKey))
	verify := func(args ...string) (int, string) {
		var out, errOut bytes.Buffer
		code := Main(context.Background(), append([]string{"evidence", "verify"}, args...), &out, &errOut)
		require.NotContains(t, out.String()+errOut.String(), "\x1b")
		return code, out.String() + errOut.String()
	}
	folder := filepath.Join(dir, "case")
	code, said := verify(folder, "--key", public)
	require.Equal(t, 0, code, said)
	require.Contains(t, said, `PASS 2 entries of case "c0ffee" are as they were written: 1 items, 1 gaps`)
	code, said = verify(folder)
	require.Equal(t, ExitPartially, code, said)
	code, _ = verify(folder, "--head", "x")
	require.Equal(t, ExitUsage, code)
	code, _ = verify()
	require.Equal(t, ExitUsage, code)
	items, err := filepath.Glob(filepath.Join(folder, "items", "*"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(items[0], []byte("[]"), 0o600))
	code, said = verify(folder, "--key", public)
	require.Equal(t, ExitFailed, code)
	require.Contains(t, said, "was altered")
	code, _ = verify(filepath.Join(dir, "absent"))
	require.NotZero(t, code)
}
