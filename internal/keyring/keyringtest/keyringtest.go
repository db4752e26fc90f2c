// Package keyringtest gives tests repository keys.
package keyringtest

import (
	"context"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Person is somebody who can read what is encrypted.
type Person struct{ Recipient, Secret string }

// NewPerson makes an identity.
func NewPerson(t testing.TB) Person {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	return Person{identity.Recipient().String(), identity.String()}
}

// Identity reads the person's secret.
func (p Person) Identity(context.Context) (string, error) {
	return "# a comment\n" + p.Secret + "\n", nil
}

// Ring is a ring of somebody new, who can read all that is encrypted with it.
func Ring(t testing.TB, store objstore.Store, target string) *keyring.Ring {
	t.Helper()
	p := NewPerson(t)
	return keyring.New(store, target, keyring.Config{Recipients: []string{p.Recipient}, Identity: p.Identity})
}
