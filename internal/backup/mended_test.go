package backup_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// TestBackupAfterDamageWasFound takes a backup right after a check said FAIL. The damaged chunk was
// checked a moment before it was damaged, and must not be trusted for that.
func TestBackupAfterDamageWasFound(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY, x text)")
	pgservertest.Exec(t, url, "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
	d := newDrill(t, server, name)
	require.NoError(t, d.take(t))
	ctx, store, target := deadline(t), d.options.Store, d.options.Target
	found, err := catalog.LastFound(ctx, store, target)
	require.NoError(t, err)
	require.Zero(t, found)

	damaged := d.manifest.Tables[0].Ranges[0].Chunks[0]
	path := strings.TrimPrefix(store.URL(format.ChunkKey(target, damaged.SHA256)), "file://")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	require.NoError(t, os.WriteFile(path, bad, 0o600))
	checks, err := verify.Stored(ctx, store, target, "b1", nil)
	require.NoError(t, err)
	require.Equal(t, run.Fail, verdict(checks))
	found, err = catalog.LastFound(ctx, store, target)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), found, time.Minute)

	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	for _, backup := range []string{"b1", "b2"} {
		checks, err := verify.Decoded(ctx, store, target, backup, nil)
		require.NoError(t, err)
		requirePass(t, checks)
	}
	aside := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(strings.TrimPrefix(store.URL("x"), "file://"), "..", target, "quarantine"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			kept, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, bad, kept, "what was damaged is kept as it was")
			aside++
		}
		return err
	}))
	require.Equal(t, 1, aside)
	found, err = catalog.LastFound(ctx, store, target)
	require.NoError(t, err)
	require.Zero(t, found, "nothing is damaged any more")
}

// verdict is FAIL if one of the checks says so.
func verdict(checks []run.Check) run.Verdict {
	for _, c := range checks {
		if c.Verdict == run.Fail {
			return run.Fail
		}
	}
	return run.Pass
}
