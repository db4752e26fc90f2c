package keyring_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/format/formattest"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const target = "shop"

// ring is a new ring of the same people, which has opened nothing yet.
func ring(store objstore.Store, identity func(context.Context) (string, error), recipients []keyringtest.Person, trusted ...string) *keyring.Ring {
	c := keyring.Config{Identity: identity, Keys: trusted}
	for _, p := range recipients {
		c.Recipients = append(c.Recipients, p.Recipient)
	}
	return keyring.New(store, target, c)
}

func people(t testing.TB) (ann, bob keyringtest.Person) {
	t.Helper()
	return keyringtest.NewPerson(t), keyringtest.NewPerson(t)
}

func TestAKeyIsMadeOnceAndOpenedByEachRecipient(t *testing.T) {
	store := formattest.Folder(t)
	ann, bob := people(t)
	both := []keyringtest.Person{ann, bob}
	first, err := ring(store, ann.Identity, both).Current(t.Context(), "")
	require.NoError(t, err)
	require.True(t, format.ValidFingerprint(first.ID))
	sum := sha256.Sum256([]byte("rows"))
	for _, p := range both {
		again, err := ring(store, p.Identity, both).Current(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, first.ID, again.ID)
		require.Equal(t, first.Name(sum, 0), again.Name(sum, 0))
		sealed, err := first.Encrypt(nil, []byte("rows"))
		require.NoError(t, err)
		plain, err := again.Decrypt(bytes.NewReader(sealed))
		require.NoError(t, err)
		data, err := io.ReadAll(plain)
		require.NoError(t, err)
		require.Equal(t, "rows", string(data))
	}
	ids, err := ring(store, ann.Identity, both).IDs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{first.ID}, ids)
}

func TestNamesTellNothing(t *testing.T) {
	store := formattest.Folder(t)
	one, err := keyringtest.Ring(t, store, "shop").Current(t.Context(), "")
	require.NoError(t, err)
	other, err := keyringtest.Ring(t, store, "bank").Current(t.Context(), "")
	require.NoError(t, err)
	sum := sha256.Sum256([]byte("rows"))
	names := map[string]bool{one.Name(sum, 0): true, one.Name(sum, 1): true, other.Name(sum, 0): true}
	require.Len(t, names, 3)
	for name := range names {
		require.Regexp(t, `^[0-9a-f]{64}\.age$`, name)
		require.NotContains(t, name, string(sum[:]))
	}
}

func TestWithoutRecipientsNothingIsEncrypted(t *testing.T) {
	for _, r := range []*keyring.Ring{nil, keyring.New(formattest.Folder(t), target, keyring.Config{})} {
		k, err := r.Current(t.Context(), "")
		require.NoError(t, err)
		require.Nil(t, k)
		require.Empty(t, k.Fingerprint())
		k, err = r.Key(t.Context(), "")
		require.NoError(t, err)
		require.Nil(t, k)
		_, err = r.Key(t.Context(), strings.Repeat("a", 32))
		require.True(t, failure.Is(err, failure.NoIdentity), "%v", err)
	}
}

// To take a reader away and give another the right, no chunk is written: the key alone is wrapped anew.
func TestRewrap(t *testing.T) {
	store := formattest.Folder(t)
	ann, bob := people(t)
	k, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Current(t.Context(), "")
	require.NoError(t, err)

	// Whoever would lock himself out is refused, and nothing is changed.
	_, err = ring(store, ann.Identity, []keyringtest.Person{bob}).Rewrap(t.Context())
	require.True(t, failure.Is(err, failure.KeyUnusable), "%v", err)
	_, err = ring(store, bob.Identity, []keyringtest.Person{bob}).Rewrap(t.Context())
	require.True(t, failure.Is(err, failure.KeyUnusable), "%v", err)
	_, err = ring(store, ann.Identity, []keyringtest.Person{ann}).Key(t.Context(), k.ID)
	require.NoError(t, err)

	ids, err := ring(store, ann.Identity, []keyringtest.Person{ann, bob}).Rewrap(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{k.ID}, ids)
	ids, err = ring(store, bob.Identity, []keyringtest.Person{bob}).Rewrap(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{k.ID}, ids)
	opened, err := ring(store, bob.Identity, []keyringtest.Person{bob}).Key(t.Context(), k.ID)
	require.NoError(t, err)
	require.Equal(t, k.ID, opened.ID)
	_, err = ring(store, ann.Identity, []keyringtest.Person{ann}).Key(t.Context(), k.ID)
	require.True(t, failure.Is(err, failure.KeyUnusable), "%v", err)
}

// Somebody who can write to the store and knows the recipients, which are public, makes a key of his own.
func TestAForeignKeyIsNotTrusted(t *testing.T) {
	store := formattest.Folder(t)
	ann, _ := people(t)
	own, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Create(t.Context())
	require.NoError(t, err)
	foreign, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Create(t.Context())
	require.NoError(t, err)

	_, err = ring(store, ann.Identity, []keyringtest.Person{ann}).Current(t.Context(), "")
	require.True(t, failure.Is(err, failure.KeyUnusable), "nobody says which: %v", err)
	require.ErrorContains(t, err, foreign.ID)
	k, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Current(t.Context(), own.ID)
	require.NoError(t, err)
	require.Equal(t, own.ID, k.ID)

	pinned := ring(store, ann.Identity, []keyringtest.Person{ann}, own.ID)
	k, err = pinned.Current(t.Context(), foreign.ID)
	require.NoError(t, err)
	require.Equal(t, own.ID, k.ID)
	_, err = pinned.Key(t.Context(), foreign.ID)
	require.True(t, failure.Is(err, failure.KeyUnusable), "%v", err)

	// The foreign key in the place of the trusted one.
	data, err := store.Read(t.Context(), format.WrappedKey(target, foreign.ID), 1<<20)
	require.NoError(t, err)
	require.NoError(t, store.Replace(t.Context(), format.WrappedKey(target, own.ID), data))
	_, err = ring(store, ann.Identity, []keyringtest.Person{ann}, own.ID).Current(t.Context(), "")
	require.True(t, failure.Is(err, failure.KeyLost), "%v", err)
	require.ErrorContains(t, err, "another key")
}

// A key that the configuration names is never made: it is lost, and that must be said.
func TestALostKeyIsNotReplaced(t *testing.T) {
	store := formattest.Folder(t)
	ann, _ := people(t)
	lost := strings.Repeat("5", 32)
	for _, how := range []func() error{
		func() error {
			_, err := ring(store, ann.Identity, []keyringtest.Person{ann}, lost).Current(t.Context(), "")
			return err
		},
		func() error {
			_, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Current(t.Context(), lost)
			return err
		},
	} {
		err := how()
		require.True(t, failure.Is(err, failure.KeyLost), "%v", err)
		require.ErrorContains(t, err, format.WrappedKey(target, lost)+" is missing")
	}
	ids, err := ring(store, ann.Identity, []keyringtest.Person{ann}).IDs(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
}

func TestWhatOpensNoKeyIsRefusedWithoutASecret(t *testing.T) {
	store := formattest.Folder(t)
	ann, bob := people(t)
	k, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Create(t.Context())
	require.NoError(t, err)
	wrapped, err := store.Read(t.Context(), format.WrappedKey(target, k.ID), 1<<20)
	require.NoError(t, err)
	says := func(text string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return text, nil }
	}
	away := errors.New("the file is not there")
	to := func(texts ...string) []byte { // an age file for Ann that holds no key
		var out bytes.Buffer
		r, err := age.ParseX25519Recipient(ann.Recipient)
		require.NoError(t, err)
		w, err := age.Encrypt(&out, r)
		require.NoError(t, err)
		_, err = io.WriteString(w, strings.Join(texts, "\n"))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	flipped := bytes.Clone(wrapped)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		identity func(context.Context) (string, error)
		file     []byte
		code     failure.Code
		says     string
	}{
		"another person":      {bob.Identity, wrapped, failure.KeyUnusable, "is not wrapped to it"},
		"no identity":         {nil, wrapped, failure.NoIdentity, "no identity"},
		"a password":          {says("hunter2 " + ann.Secret), wrapped, failure.KeyUnusable, "not an identity"},
		"nothing":             {says(""), wrapped, failure.KeyUnusable, "not an identity"},
		"a mistyped one":      {says(ann.Secret[:len(ann.Secret)-1]), wrapped, failure.KeyUnusable, "not an identity"},
		"a file that is away": {func(context.Context) (string, error) { return "", away }, wrapped, "", "not there"},
		"a flipped bit":       {ann.Identity, flipped, failure.KeyLost, "is damaged"},
		"half":                {ann.Identity, wrapped[:len(wrapped)/2], failure.KeyLost, "is damaged"},
		"an empty file":       {ann.Identity, []byte{}, failure.KeyLost, "is damaged"},
		"no age file":         {ann.Identity, []byte(ann.Secret), failure.KeyLost, "is damaged"},
		"no key in it":        {ann.Identity, to("# nothing"), failure.KeyLost, "is damaged"},
		"two keys in it":      {ann.Identity, to(ann.Secret, bob.Secret), failure.KeyLost, "is damaged"},
		"another key in it":   {ann.Identity, to(bob.Secret), failure.KeyLost, "another key"},
		"a bomb":              {ann.Identity, bytes.Repeat([]byte("age"), 1<<20), failure.KeyLost, "is damaged"},
	} {
		require.NoError(t, store.Replace(t.Context(), format.WrappedKey(target, k.ID), c.file))
		_, err := ring(store, c.identity, []keyringtest.Person{ann}).Key(t.Context(), k.ID)
		require.ErrorContains(t, err, c.says, name)
		if c.code != "" {
			require.True(t, failure.Is(err, c.code), "%s: %v", name, err)
		}
		require.NotContains(t, err.Error(), ann.Secret[16:40], name)
		require.NotContains(t, err.Error(), "hunter2", name)
	}
}

func FuzzAKeyFile(f *testing.F) {
	ann := keyringtest.NewPerson(f)
	id := strings.Repeat("a", 32)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 a\n---"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		store := formattest.Folder(t)
		require.NoError(t, store.Replace(t.Context(), format.WrappedKey(target, id), data))
		_, err := ring(store, ann.Identity, []keyringtest.Person{ann}).Key(t.Context(), id)
		require.True(t, failure.Is(err, failure.KeyLost) || failure.Is(err, failure.KeyUnusable), "%v", err)
		looked := keyring.CheckWrapped(t.Context(), store, target, id)
		require.True(t, looked == nil || failure.Is(looked, failure.KeyLost), "%v", looked)
	})
}
