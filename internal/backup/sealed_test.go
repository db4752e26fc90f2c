package backup_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// sealed is a drill whose backups are encrypted to one person.
func sealed(t testing.TB, d *drill) keyringtest.Person {
	t.Helper()
	ann := keyringtest.NewPerson(t)
	d.options.Keys = keyring.New(d.options.Store, "shop", keyring.Config{Recipients: []string{ann.Recipient}, Identity: ann.Identity})
	return ann
}

// requireNowhere requires that nothing in the store but notes holds the text.
func requireNowhere(t testing.TB, d *drill, texts ...string) {
	t.Helper()
	dir := strings.TrimPrefix(d.options.Store.URL(""), "file://")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, text := range texts {
			require.False(t, bytes.Contains(data, []byte(text)), "%q is in %s", text, path)
		}
		return err
	})
	require.NoError(t, err)
}

func TestASealedBackupIsBroughtBack(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE secrets (id int PRIMARY KEY, word text); INSERT INTO secrets SELECT n, 'topsecret' || n FROM generate_series(1, 5000) n`)
	d := newDrill(t, server, database)
	sealed(t, d)
	require.NoError(t, d.take(t))
	require.Equal(t, format.Sealed, d.manifest.Format)
	d.prove(t)
	requireNowhere(t, d, "topsecret", "secrets")

	// Another backup of the same rows stores nothing but what is its own.
	d.options.BackupID, d.copied.Manifest = "b2", nil
	require.NoError(t, d.take(t))
	require.Zero(t, d.manifest.Totals.ChunksStored-1, "the schema's archive has the time in it")
	d.prove(t)
}

// What was taken in clear stays readable, and lends nothing to what is encrypted.
func TestEncryptionBegins(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE t AS SELECT n FROM generate_series(1, 5000) n`)
	d := newDrill(t, server, database)
	require.NoError(t, d.take(t))
	sealed(t, d)
	d.options.BackupID = "b2"
	require.NoError(t, d.take(t))
	require.Zero(t, d.manifest.Totals.ChunksReused)
	d.prove(t)
	old, err := catalog.Load(t.Context(), d.options.Store, "shop", "b1", nil)
	require.NoError(t, err)
	d.manifest, d.options.BackupID, d.copied.Manifest = old, "b1", nil
	ring := d.options.Keys
	d.options.Keys = nil
	d.prove(t)

	// But it is not the newest of a target that is encrypted, however new it is, and proves nothing there.
	checks, err := verify.Decoded(deadline(t), d.options.Store, "shop", "b1", ring)
	require.NoError(t, err)
	require.Equal(t, run.NotProven, proof.Verdict(checks))
	d.options.BackupID = "b9"
	require.NoError(t, d.take(t), "in clear")
	latest, err := catalog.Load(deadline(t), d.options.Store, "shop", catalog.Latest, ring)
	require.NoError(t, err)
	require.Equal(t, "b2", latest.Backup)

	// And it ends again only by the configuration: without the key the next backup is refused.
	d.options.BackupID = "b3"
	d.options.Keys = keyring.New(d.options.Store, "shop", keyring.Config{Recipients: []string{keyringtest.NewPerson(t).Recipient}})
	require.True(t, failure.Is(d.take(t), failure.NoIdentity))
	d.options.Keys = nil
	require.NoError(t, d.take(t))
	require.Equal(t, format.Plain, d.manifest.Format)
}

// What cannot be read any more costs nothing but that it is stored again, once a person has said which key
// is for new backups.
func TestALostKeyKeepsNoBackupFromBeingTaken(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, `CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n`)
	d := newDrill(t, server, database)
	ann := sealed(t, d)
	require.NoError(t, d.take(t))
	lost := d.manifest.Key
	require.NoError(t, d.options.Store.Delete(t.Context(), format.WrappedKey("shop", lost)))

	again := func(keys ...string) error {
		d.options.Keys = keyring.New(d.options.Store, "shop", keyring.Config{Recipients: []string{ann.Recipient}, Identity: ann.Identity, Keys: keys})
		return d.take(t)
	}
	d.options.BackupID = "b2"
	require.True(t, failure.Is(again(), failure.KeyLost), "a key that is lost is not silently replaced")
	k, err := d.options.Keys.Create(t.Context())
	require.NoError(t, err)
	require.NoError(t, again(k.ID, lost))
	d.prove(t)
	d.options.BackupID, d.copied.Manifest = "b3", nil
	require.NoError(t, again(k.ID))
	require.NotZero(t, d.manifest.Totals.ChunksReused)
}

func TestTheScriptBringsASealedBackupBack(t *testing.T) {
	source := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, source)
	pgservertest.Exec(t, url, guideSQL)
	d := newDrill(t, source, database)
	ann := sealed(t, d)
	require.NoError(t, d.take(t))
	folder := d.elsewhere(t)
	target := filepath.Dir(filepath.Dir(folder))
	text, err := os.ReadFile(filepath.Join(folder, "RESTORE.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "AGE_IDENTITY=/path/of/the/identity sh shop/backups/"+d.options.BackupID+"/restore.sh NEW_DATABASE")
	require.NotContains(t, string(text), "{{")
	identities := t.TempDir()
	identity := func(p keyringtest.Person) string {
		path := filepath.Join(identities, p.Recipient)
		require.NoError(t, os.WriteFile(path, []byte(p.Secret+"\n"), 0o600))
		return "AGE_IDENTITY=" + path
	}
	server := emptyServer(t)
	call := func(env ...string) *script {
		s := newScript(t, folder, server, append(env, "CREATE_ROLES=1")...)
		s.needs(t, "age", "age-keygen")
		return s
	}
	const name = "a \"copy\"; $(touch pwned)"
	good := call(identity(ann))
	said, err := good.run(t, name)
	require.NoError(t, err, said)
	d.proveCopy(t, server, name)
	there := good.databases(t)

	stranger := keyringtest.NewPerson(t)
	for want, s := range map[string]*script{
		"name the file": call(), "there is no file": call("AGE_IDENTITY=/nowhere"), "does not open": call(identity(stranger)),
	} {
		said, err := s.run(t, "copy")
		require.Error(t, err, want)
		require.Contains(t, said, want)
		require.NotContains(t, said, "done")
		require.Equal(t, there, s.databases(t))
	}
	t.Run("a backup in clear", func(t *testing.T) {
		g := golden(t)
		s := newScript(t, g.elsewhere(t), server, identity(ann))
		today, err := os.ReadFile("guide/restore.sh")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(s.path, today, 0o600))
		said, err := s.run(t, "copy")
		require.Error(t, err)
		require.Contains(t, said, "is in clear")
	})
	without := newScript(t, folder, server, identity(ann))
	said, err = without.run(t, "copy")
	require.Error(t, err)
	require.Contains(t, said, "the program age is not there")

	chunk := d.manifest.Tables[0].Ranges[0].Chunks[0]
	for what, c := range map[string]struct {
		path string
		how  func([]byte) []byte
		says string
	}{
		"a bit of a chunk":      {format.ChunkKey("shop", chunk.Name), func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "cannot be decrypted"},
		"a chunk of another":    {format.ChunkKey("shop", chunk.Name), func([]byte) []byte { return other(t, d, chunk.Name) }, "is damaged"},
		"a bit of the manifest": {format.ManifestKey("shop", d.options.BackupID), func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "its checksum is wrong"},
		"a bit of the key":      {format.WrappedKey("shop", d.manifest.Key), func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "does not open"},
		"the key gone":          {format.WrappedKey("shop", d.manifest.Key), func([]byte) []byte { return nil }, "without it nobody can read"},
		"another key":           {format.WrappedKey("shop", d.manifest.Key), func([]byte) []byte { return wrappedTo(t, ann) }, "holds another key"},
		"a chunk gone":          {format.ChunkKey("shop", chunk.Name), func([]byte) []byte { return nil }, "is missing"},
	} {
		path := filepath.Join(filepath.Dir(target), filepath.FromSlash(strings.Replace(c.path, "shop", filepath.Base(target), 1)))
		whole, err := os.ReadFile(path)
		require.NoError(t, err, what)
		if bad := c.how(bytes.Clone(whole)); bad != nil {
			require.NoError(t, os.WriteFile(path, bad, 0o600))
		} else {
			require.NoError(t, os.Remove(path))
		}
		said, err := good.run(t, "copy")
		require.Error(t, err, what)
		require.Contains(t, said, c.says, what)
		require.Equal(t, there, good.databases(t))
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}

	// A manifest that lies in another backup's place says whose it is.
	moved := filepath.Join(filepath.Dir(folder), "b9")
	require.NoError(t, os.Rename(folder, moved))
	good.path = filepath.Join(moved, "restore.sh")
	said, err = good.run(t, "copy")
	require.Error(t, err)
	require.Contains(t, said, "another backup's")
}

// wrappedTo is a key of somebody else's, wrapped to a person whose recipient he knows.
func wrappedTo(t testing.TB, p keyringtest.Person) []byte {
	t.Helper()
	store := formattest.Folder(t)
	k, err := keyring.New(store, "shop", keyring.Config{Recipients: []string{p.Recipient}, Identity: p.Identity}).Create(t.Context())
	require.NoError(t, err)
	data, err := store.Read(t.Context(), format.WrappedKey("shop", k.ID), 1<<20)
	require.NoError(t, err)
	return data
}

// other is a stored chunk that has another name.
func other(t testing.TB, d *drill, name string) []byte {
	t.Helper()
	for _, c := range d.manifest.Distinct() {
		if c.Name != name {
			data, err := d.options.Store.Read(t.Context(), format.ChunkKey("shop", c.Name), 1<<30)
			require.NoError(t, err)
			return data
		}
	}
	panic("only one chunk")
}
