package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// longAfter is how old an attempt is when nothing that it found in the store is taken for granted any
// more. It is well below the age at which a condemned chunk is removed, so whatever was condemned since
// a younger attempt began is still there.
const longAfter = 6 * time.Hour

var (
	pointManifestBefore = fault.NewPoint("backup/manifest/before")
	pointManifestAfter  = fault.NewPoint("backup/manifest/after")
	pointRenewBefore    = fault.NewPoint("catalog/renew/before")
	pointRenewAfter     = fault.NewPoint("catalog/renew/after")
)

// Commit writes a backup's manifest, by which it exists, and returns it. Whoever creates the manifest
// first has taken the backup; a twin that comes later is given its manifest. Chunks that were condemned
// while the backup was taken are renewed first; ChunkRemoved says that one was removed, and the backup
// is to be taken again, and BackupRemoved that it was taken and removed long ago. A backup with a key is
// sealed with that.
func Commit(ctx context.Context, store objstore.Store, m *format.Manifest, keys *keyring.Ring, now func() time.Time) (*format.Manifest, error) {
	data, err := encode(ctx, m, keys)
	if err != nil {
		return nil, err
	}
	if err := renewUsed(ctx, store, m); err != nil {
		return nil, err
	}
	pointManifestBefore.Hit()
	err = store.Create(ctx, format.ManifestKey(m.Target, m.Backup), data)
	if errors.Is(err, objstore.ErrExist) {
		return Load(ctx, store, m.Target, m.Backup, keys)
	}
	if err != nil {
		return nil, err
	}
	pointManifestAfter.Hit()
	if err := stands(ctx, store, m, now().Sub(m.StartedAt) > longAfter); err != nil {
		return nil, err
	}
	return m, nil
}

func encode(ctx context.Context, m *format.Manifest, keys *keyring.Ring) ([]byte, error) {
	if m.Format != format.Sealed {
		return format.Encode(m)
	}
	key, err := keys.Key(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	return format.EncodeSealed(m, func(plain []byte) ([]byte, error) { return seal(key, plain) })
}

// renewUsed makes the chunks young again that a backup needs and that were condemned since it began to
// use them.
func renewUsed(ctx context.Context, store objstore.Store, m *format.Manifest) error {
	condemned, err := ReadCondemned(ctx, store, m.Target)
	if err != nil {
		return err
	}
	for _, c := range m.Distinct() {
		if _, is := condemned[c.Object()]; !is {
			continue
		}
		err := Renew(ctx, store, m.Target, c.Stored())
		if errors.Is(err, objstore.ErrNotExist) {
			return chunkRemoved(m, format.ChunkKey(m.Target, c.Object()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Renew writes the bytes of a stored chunk again, which makes it as young as a new one. The bytes are
// held against the chunk's checksum first.
func Renew(ctx context.Context, store objstore.Store, target string, o format.Object) error {
	key := format.ChunkKey(target, o.Name)
	stored, err := store.Read(ctx, key, o.Size)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(stored); hex.EncodeToString(sum[:]) != o.SHA256 {
		return failure.New(failure.BackupDamaged, "%s is not what was written", key).Do("take a new backup, which stores it anew")
	}
	pointRenewBefore.Hit()
	if err := store.Replace(ctx, key, stored); err != nil {
		return err
	}
	pointRenewAfter.Hit()
	return nil
}

// stands makes sure of a backup whose manifest was written a moment ago: that it is not one that was
// removed meanwhile, and that what it needs is there. Whoever removes chunks looks for new manifests
// afterwards, so one of the two sees the other. A backup that does not stand is taken back.
func stands(ctx context.Context, store objstore.Store, m *format.Manifest, long bool) error {
	withdraw := func(why error) error {
		return errors.Join(why, store.Delete(ctx, format.ManifestKey(m.Target, m.Backup)))
	}
	r, err := ReadRemoval(ctx, store, m.Target, m.Backup)
	if err != nil {
		return err
	}
	if r != nil {
		return withdraw(WasRemoved(r))
	}
	condemned, err := ReadCondemned(ctx, store, m.Target)
	if err != nil {
		return err
	}
	var keys []string
	for _, c := range m.Distinct() {
		if _, is := condemned[c.Object()]; is || long {
			keys = append(keys, format.ChunkKey(m.Target, c.Object()))
		}
	}
	if long {
		for _, f := range m.Files {
			keys = append(keys, format.BackupKey(m.Target, m.Backup, f.Name))
		}
	}
	for _, key := range keys {
		_, err := store.Stat(ctx, key)
		if errors.Is(err, objstore.ErrNotExist) {
			return withdraw(chunkRemoved(m, key))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func chunkRemoved(m *format.Manifest, key string) error {
	return failure.New(failure.ChunkRemoved, "%s was removed while backup %s was taken", key, m.Backup).
		Do("resume the run, which takes the backup again; if it goes on, see which prune runs beside it, and the clocks of the workers and the store")
}

// WasRemoved is the failure of an attempt to take a backup that was taken and removed.
func WasRemoved(r *Removal) error {
	return failure.New(failure.BackupRemoved, "backup %s was taken, and removed by run %.200q, while this attempt was away", r.Backup, r.RunID).
		Do("take another backup")
}
