package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/verify"
)

const goldenFolders = "../format/testdata/"

// golden opens a copy of the golden backup, because a look at it may leave a note in the store.
func golden(t testing.TB) *drill { return goldenOf(t, "golden", nil) }

// goldenSealed is the golden backup that is encrypted, and the file of the identity that opens it.
func goldenSealed(t testing.TB) (d *drill, identity string) {
	t.Helper()
	identity, err := filepath.Abs(goldenFolders + "golden-sealed/identity.txt")
	require.NoError(t, err)
	d = goldenOf(t, "golden-sealed", config.Secret{File: identity}.Resolver())
	return d, identity
}

func goldenOf(t testing.TB, name string, identity func(context.Context) (string, error)) *drill {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "shop"), os.DirFS(goldenFolders+name+"/shop")))
	store, err := objstore.Open(deadline(t), "file://"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	keys := keyring.New(store, "shop", keyring.Config{Identity: identity})
	m, err := catalog.Load(deadline(t), store, "shop", catalog.Latest, keys)
	require.NoError(t, err)
	return &drill{options: backup.Options{Store: store, Target: "shop", BackupID: m.Backup, Keys: keys}, manifest: m}
}

// What was written by the first version of each format must be readable for ever: see the README beside
// the backup.
func TestTheGoldenBackupIsBroughtBack(t *testing.T) {
	encrypted, _ := goldenSealed(t)
	for name, d := range map[string]*drill{"plain": golden(t), "sealed": encrypted} {
		t.Run(name, func(t *testing.T) {
			checks, err := verify.Stored(deadline(t), d.options.Store, "shop", d.options.BackupID, d.options.Keys)
			require.NoError(t, err)
			requirePass(t, checks)
			d.prove(t)
		})
	}
}

func TestTheGoldenBackupIsBroughtBackByItsScript(t *testing.T) {
	encrypted, identity := goldenSealed(t)
	for name, c := range map[string]struct {
		*drill
		env []string
	}{"plain": {golden(t), nil}, "sealed": {encrypted, []string{"AGE_IDENTITY=" + identity}}} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, c.elsewhere(t), emptyServer(t), append(c.env, "CREATE_ROLES=1")...)
			s.needs(t, "age", "age-keygen")
			said, err := s.run(t, "by its own")
			require.NoError(t, err, said)
			c.proveCopy(t, s.server, "by its own")

			today, err := os.ReadFile("guide/restore.sh")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(s.path, today, 0o600))
			said, err = s.run(t, "by today's")
			require.NoError(t, err, said)
			c.proveCopy(t, s.server, "by today's")
		})
	}
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
