package backup_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/format"
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

// A table that a manifest and its census both leave out is in the schema all the same: only a restore
// can know.
func TestATableLeftOutOfTheManifestIsSeenByARestore(t *testing.T) {
	d := golden(t)
	gone := func(name string) bool { return name == "facts" }
	d.manifest.Tables = slices.DeleteFunc(d.manifest.Tables, func(t format.Table) bool { return gone(t.Name) })
	d.manifest.Census.Tables = slices.DeleteFunc(d.manifest.Census.Tables, func(c format.Count) bool { return gone(c.Name) })
	d.manifest.Totals.Rows -= 5
	for i := range d.manifest.Schema.PostData { // positions have moved
		d.manifest.Schema.PostData[i].Table = -1
	}
	d.restore(t)
	said := ""
	for _, c := range d.compare(t) {
		if c.Verdict == run.Fail {
			said += c.Detail
		}
	}
	require.Contains(t, said, `table "public"."facts" is not in the backup`)
}
