package backup_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/verify"
)

const goldenFolder = "../format/testdata/golden/shop"

// golden opens a copy of the golden backup, because a look at it may leave a note in the store.
func golden(t testing.TB) *drill {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "shop"), os.DirFS(goldenFolder)))
	store, err := objstore.Open(deadline(t), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	m, err := catalog.Load(deadline(t), store, "shop", catalog.Latest)
	require.NoError(t, err)
	return &drill{options: backup.Options{Store: store, Target: "shop", BackupID: m.Backup}, manifest: m}
}

// What was written by the first version must be readable for ever: see the README beside the backup.
func TestTheGoldenBackupIsBroughtBack(t *testing.T) {
	d := golden(t)
	checks, err := verify.Stored(deadline(t), d.options.Store, "shop", d.options.BackupID)
	require.NoError(t, err)
	requirePass(t, checks)
	d.prove(t)
}

func TestTheGoldenBackupIsBroughtBackByItsScript(t *testing.T) {
	d := golden(t)
	s := newScript(t, d.elsewhere(t), emptyServer(t), "CREATE_ROLES=1")
	said, err := s.run(t, "by its own")
	require.NoError(t, err, said)
	d.proveCopy(t, s.server, "by its own")

	today, err := os.ReadFile("guide/restore.sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.path, today, 0o600))
	said, err = s.run(t, "by today's")
	require.NoError(t, err, said)
	d.proveCopy(t, s.server, "by today's")
}
