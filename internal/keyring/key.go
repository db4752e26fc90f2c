package keyring

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/upkeep-run/upkeep/internal/format"
)

// Key is a repository key: one age identity, whose recipient is written nowhere. So only those who have
// the key can make something that it opens, and what it opens was written by one of them.
type Key struct {
	ID       string // its fingerprint
	identity *age.X25519Identity
	names    []byte // makes the names of chunks
}

// generate makes a new key.
func generate() (*Key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make a repository key: %w", err)
	}
	return newKey(identity)
}

func newKey(identity *age.X25519Identity) (*Key, error) {
	names, err := hkdf.Key(sha256.New, []byte(identity.String()), nil, "upkeep chunk names 1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive from the repository key: %w", err)
	}
	sum := sha256.Sum256([]byte("upkeep repository key 1\n" + identity.Recipient().String()))
	return &Key{ID: hex.EncodeToString(sum[:16]), identity: identity, names: names}, nil
}

// Fingerprint is the key's ID, and empty for none.
func (k *Key) Fingerprint() string {
	if k == nil {
		return ""
	}
	return k.ID
}

// Name is the name under which a chunk is stored, by the SHA-256 of its plain bytes. Without the key
// nobody can tell from it what is in the chunk, or whether two targets have the same. A place in which
// something wrong lies is left to it, and the next one taken.
func (k *Key) Name(plain [sha256.Size]byte, place byte) string {
	mac := hmac.New(sha256.New, k.names)
	mac.Write(plain[:])
	mac.Write([]byte{place})
	return format.EncryptedName(hex.EncodeToString(mac.Sum(nil)))
}

// Encrypt appends the encrypted bytes to into, as one age file.
func (k *Key) Encrypt(into, plain []byte) ([]byte, error) {
	out := bytes.NewBuffer(into)
	if err := encrypt(out, plain, k.identity.Recipient()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func encrypt(out *bytes.Buffer, plain []byte, to ...age.Recipient) error {
	w, err := age.Encrypt(out, to...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("encrypt %d bytes: %w", len(plain), err)
	}
	return nil
}

// Decrypt streams the plain bytes of an age file. Every piece that it returns is what was encrypted; the
// last Read fails where the file was cut.
func (k *Key) Decrypt(r io.Reader) (io.Reader, error) { return age.Decrypt(r, k.identity) }
