// Package keyring keeps the repository keys by which a target's backups are encrypted. A key lies in the
// store, wrapped to the age recipients of the configuration: whoever has the identity of one of them can
// read the backups. To change who can, the key is wrapped anew, and no chunk is written again.
package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	maxKeyFile = 64 << 10 // bytes
	maxKeys    = 100      // of one target
)

var (
	pointKeyBefore = fault.NewPoint("key/create/before")
	pointKeyAfter  = fault.NewPoint("key/create/after")
)

// Config says how a target's backups are encrypted.
type Config struct {
	Recipients []string // of age, who may read; none: new backups are not encrypted
	// Identity reads the secret by which keys are unwrapped; nil where there is none, as on a machine that
	// only prunes and looks at what is stored.
	Identity func(context.Context) (string, error)
	// Keys are the fingerprints of the keys that are trusted, the first one for new backups. When there are
	// none, whoever can write to the store can put a key of his own there.
	Keys []string
}

// Ring is a target's keys. A nil Ring has none. It is safe for concurrent use.
type Ring struct {
	store  objstore.Store
	target string
	config Config

	mu   sync.Mutex
	keys map[string]*Key // that were unwrapped
}

// New returns a target's keys; nothing is read before one is needed.
func New(store objstore.Store, target string, c Config) *Ring {
	return &Ring{store: store, target: target, config: c, keys: make(map[string]*Key)}
}

// ParseRecipients reads the recipients of a configuration.
func ParseRecipients(texts []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for i, text := range texts {
		r, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(r) != 1 {
			return nil, fmt.Errorf("recipient %d is not one of age, such as age1... that age-keygen prints", i+1) // and may be a secret
		}
		all = append(all, r...)
	}
	return all, nil
}

// Key unwraps the key of a fingerprint. That of "" is nil: what is written without one is not encrypted.
func (r *Ring) Key(ctx context.Context, id string) (*Key, error) {
	if id == "" {
		return nil, nil
	}
	if !r.Opens() {
		return nil, noIdentity("what is encrypted with repository key %.32s cannot be read", id)
	}
	if err := r.trusts(id); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.keys[id]; ok {
		return k, nil
	}
	k, err := r.load(ctx, id)
	if err == nil {
		r.keys[id] = k
	}
	return k, err
}

func noIdentity(format string, args ...any) error {
	return failure.New(failure.NoIdentity, format+": no identity is configured here", args...).
		Do("give the target encryption.identityFrom, with the identity of one of the recipients")
}

// Encrypted reports whether the target's backups are to be encrypted.
func (r *Ring) Encrypted() bool { return r != nil && len(r.config.Recipients) > 0 }

// Opens reports whether an identity is configured by which encrypted backups can be opened.
func (r *Ring) Opens() bool { return r != nil && r.config.Identity != nil }

// Ours reports whether a backup that was written with a key, or in clear with "", can be this target's as
// it is configured. In clear, and with a key that nobody trusts, anybody who can write to the store can
// have written it.
func (r *Ring) Ours(id string) bool { return !r.Encrypted() || id != "" && r.trusts(id) == nil }

// trusts refuses a key that the configuration does not name.
func (r *Ring) trusts(id string) error {
	if len(r.config.Keys) == 0 || slices.Contains(r.config.Keys, id) {
		return nil
	}
	return failure.New(failure.KeyUnusable, "repository key %.32s of target %s is not one that the configuration trusts", id, r.target).
		Do("if you know it, add it to encryption.keys, then resume the run; if nobody does, somebody has written to the store")
}

func (r *Ring) load(ctx context.Context, id string) (*Key, error) {
	key := format.WrappedKey(r.target, id)
	wrapped, err := readWrapped(ctx, r.store, key)
	if err != nil {
		return nil, err
	}
	k, err := r.unwrap(ctx, wrapped, key)
	if err != nil {
		return nil, err
	}
	if k.ID != id {
		return nil, lost("%s holds another key, %s: somebody has changed it", key, k.ID)
	}
	return k, nil
}

// readWrapped reads the file of a key.
func readWrapped(ctx context.Context, store objstore.Store, key string) ([]byte, error) {
	wrapped, err := store.Read(ctx, key, maxKeyFile)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return nil, lost("%s is missing: without it nothing that was encrypted with it can be read", key)
	case failure.Is(err, failure.UnsafeArchive):
		return nil, lost("%s is damaged: it is no file of a key", key)
	}
	return wrapped, err
}

// unwrap opens a wrapped key with the configured identity. No error shows anything of either.
func (r *Ring) unwrap(ctx context.Context, wrapped []byte, key string) (*Key, error) {
	if !r.Opens() {
		return nil, noIdentity("%s cannot be opened", key)
	}
	secret, err := r.config.Identity(ctx)
	if err != nil {
		return nil, err
	}
	identities, err := age.ParseIdentities(strings.NewReader(secret))
	if err != nil {
		return nil, failure.New(failure.KeyUnusable, "what identityFrom of target %s names is not an identity of age", r.target).
			Do("let it hold the lines that age-keygen writes (AGE-SECRET-KEY-1...), not encrypted by a passphrase, then resume the run")
	}
	plain, err := age.Decrypt(bytes.NewReader(wrapped), identities...)
	var nobody *age.NoIdentityMatchError
	if errors.As(err, &nobody) {
		return nil, failure.New(failure.KeyUnusable, "the identity of target %s does not open %s: that is not wrapped to it", r.target, key).
			Do("use the identity of one of the recipients in identityFrom, or let somebody who has one run upkeep keys rewrap, then resume the run")
	}
	var own []age.Identity
	if err == nil {
		own, err = age.ParseIdentities(io.LimitReader(plain, maxKeyFile))
	}
	if err == nil && len(own) == 1 {
		if identity, ok := own[0].(*age.X25519Identity); ok {
			return newKey(identity)
		}
	}
	return nil, lost("%s is damaged: it opens to no repository key", key)
}

func lost(format string, args ...any) error {
	return failure.New(failure.KeyLost, format, args...).
		Do("bring that file back from a copy of the store; for new backups alone, make a key with upkeep keys new and name it first in encryption.keys")
}

// CheckWrapped looks, without any identity, whether the file of a key is there and can be one.
func CheckWrapped(ctx context.Context, store objstore.Store, target, id string) error {
	key := format.WrappedKey(target, id)
	wrapped, err := readWrapped(ctx, store, key)
	if err != nil {
		return err
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make an identity: %w", err)
	}
	var nobody *age.NoIdentityMatchError
	if _, err := age.Decrypt(bytes.NewReader(wrapped), stranger); !errors.As(err, &nobody) {
		return lost("%s is damaged: it is no file of a key", key)
	}
	return nil
}

// Ready says, without a look at the store, why no new backup could be encrypted though it should be.
func (r *Ring) Ready() error {
	if r.Encrypted() && !r.Opens() {
		return noIdentity("target %s cannot be encrypted", r.target)
	}
	return nil
}

// Try says whether the configured identity would open what is wrapped to the configured recipients. It
// writes nothing.
func (r *Ring) Try(ctx context.Context) error {
	k, err := generate()
	if err != nil {
		return err
	}
	_, err = r.wrap(ctx, k)
	return err
}

// Current is the key for a new backup, and nil where new backups are not encrypted: the first one that the
// configuration trusts, else that of the newest encrypted backup, else the only one there is. Where there
// is none, and the configuration names none, one is made.
func (r *Ring) Current(ctx context.Context, newest string) (*Key, error) {
	switch {
	case !r.Encrypted():
		return nil, nil
	case !r.Opens():
		return nil, r.Ready()
	case len(r.config.Keys) > 0:
		return r.Key(ctx, r.config.Keys[0])
	case newest != "":
		return r.Key(ctx, newest)
	}
	ids, err := r.IDs(ctx)
	if err != nil {
		return nil, err
	}
	switch len(ids) {
	case 0:
		return r.Create(ctx)
	case 1:
		return r.Key(ctx, ids[0])
	}
	return nil, failure.New(failure.KeyUnusable, "target %s has %d repository keys, and nothing says which of them is for new backups: %s", r.target, len(ids), strings.Join(ids, ", ")).
		Do("name in encryption.keys the one that the summary of a backup's run names, or that upkeep keys new has printed, and no other; then resume the run")
}

// IDs lists the fingerprints of the keys in the store.
func (r *Ring) IDs(ctx context.Context) ([]string, error) {
	var ids []string
	prefix := format.WrappedKeysPrefix(r.target)
	err := r.store.List(ctx, prefix, func(o objstore.Info) error {
		id, ok := format.FingerprintOfWrapped(r.target, o.Key)
		if !ok {
			return nil
		}
		if ids = append(ids, id); len(ids) > maxKeys {
			return failure.New(failure.KeyUnusable, "target %s has more than %d repository keys", r.target, maxKeys).
				Do("remove from %s what no backup needs, then resume the run", prefix)
		}
		return nil
	})
	return ids, err
}

// Create makes a new key and writes it, wrapped to the recipients. It is made sure first that the configured
// identity opens it: nobody shall encrypt what nobody here can read.
func (r *Ring) Create(ctx context.Context) (*Key, error) {
	if !r.Opens() {
		return nil, noIdentity("no repository key can be made for target %s", r.target)
	}
	k, err := generate()
	if err != nil {
		return nil, err
	}
	wrapped, err := r.wrap(ctx, k)
	if err != nil {
		return nil, err
	}
	pointKeyBefore.Hit()
	if err := r.store.Create(ctx, format.WrappedKey(r.target, k.ID), wrapped); err != nil {
		return nil, err
	}
	pointKeyAfter.Hit()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[k.ID] = k
	return k, nil
}

// Trusted are the fingerprints that the configuration names.
func (r *Ring) Trusted() []string {
	if r == nil {
		return nil
	}
	return r.config.Keys
}

// Rewrap wraps every key of the target anew, or those alone that the configuration trusts where it names
// any, to the recipients of the configuration and nobody else, and returns their fingerprints. Who could open one before may have kept it: from those only a new key helps.
func (r *Ring) Rewrap(ctx context.Context) ([]string, error) {
	ids, err := r.IDs(ctx)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return r.trusts(id) != nil })
	keys := make(map[string][]byte)
	for _, id := range ids { // all of them before any: half of it would lock somebody out
		k, err := r.Key(ctx, id)
		if err != nil {
			return nil, err
		}
		if keys[id], err = r.wrap(ctx, k); err != nil {
			return nil, err
		}
	}
	for _, id := range ids {
		if err := r.store.Replace(ctx, format.WrappedKey(r.target, id), keys[id]); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// wrap encrypts a key to the recipients, as a file that age can use as an identity, and tries it.
func (r *Ring) wrap(ctx context.Context, k *Key) ([]byte, error) {
	recipients, err := ParseRecipients(r.config.Recipients)
	if err != nil || len(recipients) == 0 {
		return nil, failure.New(failure.BadConfig, "target %s has no recipients to wrap its repository key to", r.target).Because(err).
			Do("give it encryption: {recipients: [age1...]}")
	}
	var out bytes.Buffer
	text := fmt.Sprintf("# the repository key %s of target %s\n%s\n", k.ID, r.target, k.identity)
	if err := encrypt(&out, []byte(text), recipients...); err != nil {
		return nil, err
	}
	const key = "the key, wrapped to the configured recipients,"
	opened, err := r.unwrap(ctx, out.Bytes(), key)
	if err != nil {
		return nil, err
	}
	if opened.ID != k.ID {
		return nil, failure.New(failure.Internal, "%s would hold another key", key)
	}
	return out.Bytes(), nil
}
