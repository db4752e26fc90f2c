// Package sshsig reads, checks and writes the signatures that "ssh-keygen -Y sign" makes (OpenSSH's
// PROTOCOL.sshsig), with keys of the type ssh-ed25519 alone. It is pure: the same bytes give the same answer
// wherever and whenever they are read.
package sshsig

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	// MaxText bounds an armored signature, in bytes; one of ssh-ed25519 has about 300.
	MaxText = 4096
	// KeyType is the one type of keys that is taken.
	KeyType = "ssh-ed25519"

	magic   = "SSHSIG"
	version = 1
	begins  = "-----BEGIN SSH SIGNATURE-----"
	ends    = "-----END SSH SIGNATURE-----"
	column  = 70 // characters of a line, as ssh-keygen breaks them
	newHash = "sha512"
)

// Signature is one that was read.
type Signature struct {
	Key       ed25519.PublicKey
	Namespace string // what it is for
	reserved  string // for later versions: it is signed, and means nothing yet
	hash      string // of the message
	bytes     []byte
}

// Parse reads an armored signature. It says nothing of what was signed: see Verify.
func Parse(text string) (*Signature, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("it has more than %d bytes", MaxText)
	}
	body, begun := strings.CutPrefix(strings.TrimSpace(text), begins)
	body, ended := strings.CutSuffix(body, ends)
	if !begun || !ended {
		return nil, fmt.Errorf("it does not go from %s to %s", begins, ends)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, errors.New("what stands between its first and its last line is no base64")
	}
	rest, ok := strings.CutPrefix(string(data), magic)
	if !ok || len(rest) < 4 {
		return nil, errors.New("it is no SSH signature")
	}
	if v := binary.BigEndian.Uint32([]byte(rest)); v != version {
		return nil, fmt.Errorf("it has the version %d, and only %d is known", v, version)
	}
	w := &wire{rest: rest[4:]}
	key := w.text()
	s := &Signature{Namespace: w.text(), reserved: w.text(), hash: w.text()}
	signed := w.text()
	if !w.whole() {
		return nil, errors.New("it is cut off, or goes on after its end")
	}
	if s.Key, err = readKey(key); err != nil {
		return nil, err
	}
	if digest(s.hash, nil) == nil {
		return nil, fmt.Errorf("it hashes with %.20q, and only sha256 and sha512 are known", s.hash)
	}
	w = &wire{rest: signed}
	kind := w.text()
	s.bytes = []byte(w.text())
	if !w.whole() || kind != KeyType || len(s.bytes) != ed25519.SignatureSize {
		return nil, fmt.Errorf("it holds no signature of the type %s", KeyType)
	}
	return s, nil
}

// Verify reports whether the key has signed the message for the namespace.
func (s *Signature) Verify(namespace string, message []byte) bool {
	return s.Namespace == namespace && ed25519.Verify(s.Key, data(s.Namespace, s.reserved, s.hash, message), s.bytes)
}

// Armor is the signature as ssh-keygen writes it.
func (s *Signature) Armor() string {
	out := binary.BigEndian.AppendUint32([]byte(magic), version)
	for _, field := range []string{string(wireKey(s.Key)), s.Namespace, s.reserved, s.hash, string(put(put(nil, KeyType), string(s.bytes)))} {
		out = put(out, field)
	}
	body := base64.StdEncoding.EncodeToString(out)
	var b strings.Builder
	b.WriteString(begins + "\n")
	for len(body) > column {
		b.WriteString(body[:column] + "\n")
		body = body[column:]
	}
	b.WriteString(body + "\n" + ends + "\n")
	return b.String()
}

// New makes a signature with whatever holds the private half of the key: sign is given the bytes to sign.
func New(key ed25519.PublicKey, namespace string, message []byte, sign func(data []byte) ([]byte, error)) (*Signature, error) {
	s := &Signature{Key: key, Namespace: namespace, hash: newHash}
	var err error
	if s.bytes, err = sign(data(namespace, "", newHash, message)); err != nil {
		return nil, err
	}
	if !s.Verify(namespace, message) {
		return nil, errors.New("what came back is no signature of that key")
	}
	return s, nil
}

// data is what is really signed.
func data(namespace, reserved, hash string, message []byte) []byte {
	out := []byte(magic)
	for _, field := range []string{namespace, reserved, hash, string(digest(hash, message))} {
		out = put(out, field)
	}
	return out
}

// digest hashes a message; nil where there is no such hash.
func digest(hash string, message []byte) []byte {
	switch hash {
	case "sha256":
		sum := sha256.Sum256(message)
		return sum[:]
	case "sha512":
		sum := sha512.Sum512(message)
		return sum[:]
	}
	return nil
}

// ParseKey reads a public key as it stands in a .pub file; what comes after it is a comment.
func ParseKey(text string) (ed25519.PublicKey, error) {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(text) > MaxText || strings.ContainsAny(strings.TrimSpace(text), "\r\n") {
		return nil, fmt.Errorf("it is no public key of one line, such as %s AAAA...", KeyType)
	}
	if fields[0] != KeyType {
		return nil, otherType(fields[0])
	}
	data, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return nil, errors.New("what follows its type is no base64")
	}
	return readKey(string(data))
}

// KeyLine is a key as it stands in a .pub file, without a comment.
func KeyLine(key ed25519.PublicKey) string {
	return KeyType + " " + base64.StdEncoding.EncodeToString(wireKey(key))
}

// Fingerprint names a key as "ssh-keygen -l" does.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(wireKey(key))
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func readKey(data string) (ed25519.PublicKey, error) {
	w := &wire{rest: data}
	if kind := w.text(); kind != KeyType {
		return nil, otherType(kind)
	}
	key := []byte(w.text())
	if !w.whole() || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("its key is cut off, or goes on after its end")
	}
	return key, nil
}

// otherType names a type of keys that is not taken; what is none is not repeated, for it may be a secret.
func otherType(kind string) error {
	if !keyType.MatchString(kind) {
		return fmt.Errorf("it is no key of the type %s", KeyType)
	}
	return fmt.Errorf("its key is of the type %s; only %s is taken", kind, KeyType)
}

var keyType = regexp.MustCompile(`^(ssh|ecdsa|sk)-[a-z0-9@.-]{1,40}$`)

func wireKey(key ed25519.PublicKey) []byte { return put(put(nil, KeyType), string(key)) }

// put adds a field as SSH writes it: its length and its bytes.
func put(to []byte, field string) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(field))), field...)
}

// wire reads fields as SSH writes them.
type wire struct {
	rest string
	cut  bool
}

func (w *wire) text() string {
	if len(w.rest) < 4 {
		w.cut = true
		return ""
	}
	n := uint64(binary.BigEndian.Uint32([]byte(w.rest[:4])))
	if n > uint64(len(w.rest)-4) {
		w.cut = true
		return ""
	}
	field := w.rest[4 : 4+n]
	w.rest = w.rest[4+n:]
	return field
}

// whole reports whether all fields were there and nothing is left.
func (w *wire) whole() bool { return !w.cut && w.rest == "" }
