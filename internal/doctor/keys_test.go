package doctor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

func TestWhetherEncryptedBackupsCanBeReadIsSeen(t *testing.T) {
	_, storeURL := newStore(t)
	ann, bob := keyringtest.NewPerson(t), keyringtest.NewPerson(t)
	identity := filepath.Join(t.TempDir(), "identity")
	is := func(p keyringtest.Person) {
		require.NoError(t, os.WriteFile(identity, []byte(p.Secret), 0o600))
	}
	look := func(more string) findings {
		t.Helper()
		return examine(t, storeURL, shop("postgres://nobody@127.0.0.1:1/none?connect_timeout=1", "    encryption:\n      recipients: ["+ann.Recipient+"]\n"+more))
	}
	from := fmt.Sprintf("      identityFrom: {file: %s}\n", identity)
	const check = "target shop: backups' encryption, repository keys"

	requireUnproven(t, look("").named(t, check), false, "no identity is configured here")
	requireFail(t, look(from).named(t, check), failure.MissingSecret, identity)
	is(bob)
	requireFail(t, look(from).named(t, check), failure.KeyUnusable, "is not wrapped to it")
	is(ann)
	requireUnproven(t, look(from).named(t, check), true, "no repository key yet")

	store, err := objstore.Open(t.Context(), storeURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	k, err := keyring.New(store, "shop", keyring.Config{Recipients: []string{ann.Recipient}, Identity: ann.Identity}).Create(t.Context())
	require.NoError(t, err)
	requireUnproven(t, look(from).named(t, check), true, k.ID, "no key is named in encryption.keys")
	pinned := from + "      keys: [" + k.ID + "]\n"
	found := look(pinned).named(t, check)
	require.Equal(t, run.Pass, found.Verdict, found.Detail)
	requireFail(t, look(from+"      keys: [00000000000000000000000000000000]\n").named(t, check), failure.KeyLost, "is missing")
	is(bob)
	requireFail(t, look(pinned).named(t, check), failure.KeyUnusable, "is not wrapped to it")
}
