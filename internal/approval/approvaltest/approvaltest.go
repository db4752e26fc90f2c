// Package approvaltest is people who sign, for tests.
package approvaltest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

// Person has a key.
type Person struct {
	Name    string
	private ed25519.PrivateKey
	t       testing.TB
}

// New is a person whose key is the same in each test: it is made of the name, and worth nothing.
func New(t testing.TB, name string) Person {
	seed := sha256.Sum256([]byte(name))
	return Person{name, ed25519.NewKeyFromSeed(seed[:]), t}
}

// Public is the public half of the key.
func (p Person) Public() ed25519.PublicKey { return p.private.Public().(ed25519.PublicKey) }

// Private is the key itself.
func (p Person) Private() ed25519.PrivateKey { return p.private }

// Key is the person in a policy.
func (p Person) Key() approval.Key {
	return approval.Key{Name: p.Name, Key: sshsig.KeyLine(p.Public())}
}

// Sign is the person's signature of a message, for the given namespace.
func (p Person) Sign(namespace string, message []byte) string {
	p.t.Helper()
	s, err := sshsig.New(p.Public(), namespace, message, func(data []byte) ([]byte, error) { return ed25519.Sign(p.private, data), nil })
	require.NoError(p.t, err)
	return s.Armor()
}

// Decide is the person's signed decision on the plan that a run waits with.
func (p Person) Decide(doc run.Document, decision, reason string) run.PlanDecision {
	p.t.Helper()
	return run.PlanDecision{Plan: doc.Approval.Hash, Reason: reason, Signature: p.Sign(approval.Namespace, approval.Message(doc, decision, reason))}
}

// File writes the private key, encrypted where there is a passphrase, and the public one beside it.
func (p Person) File(passphrase string) string {
	p.t.Helper()
	block, err := ssh.MarshalPrivateKey(p.private, p.Name)
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(p.private, p.Name, []byte(passphrase))
	}
	require.NoError(p.t, err)
	file := filepath.Join(p.t.TempDir(), p.Name)
	require.NoError(p.t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	require.NoError(p.t, os.WriteFile(file+".pub", []byte(sshsig.KeyLine(p.Public())+" "+p.Name+"\n"), 0o600))
	return file
}
