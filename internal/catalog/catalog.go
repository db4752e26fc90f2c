// Package catalog finds a target's backups in the store, commits new ones, and keeps the notes about them:
// what was found damaged or proven, what is held, what is removed. The manifests are the only truth:
// nothing here has an index of its own.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Latest names the newest backup.
const Latest = "latest"

// IDs lists the ids of a target's backups, in the order of their names. Only a backup with a
// manifest exists.
func IDs(ctx context.Context, store objstore.Store, target string) ([]string, error) {
	var ids []string
	err := store.List(ctx, format.BackupsPrefix(target), func(o objstore.Info) error {
		if id, ok := format.BackupOfManifest(target, o.Key); ok {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}

// Load reads the manifest of a backup by its id, or of the newest one for Latest. The newest is the
// one with the latest snapshot; when its manifest cannot be read that is the answer, and not an
// older backup: a person who asks for the newest must learn that it is damaged. Of a target that is
// encrypted, the newest is one that is, with a key that is trusted: others may be anybody's.
func Load(ctx context.Context, store objstore.Store, target, id string, keys *keyring.Ring) (*format.Manifest, error) {
	r, err := find(ctx, store, target, id, keys)
	if err != nil {
		return nil, err
	}
	return r.manifest(ctx, keys)
}

// LoadIndex is Load for those who need no key: it reads what everybody may know of a backup.
func LoadIndex(ctx context.Context, store objstore.Store, target, id string, keys *keyring.Ring) (*format.Index, error) {
	r, err := find(ctx, store, target, id, keys)
	return r.Index, err
}

// record is a manifest's file, as far as it can be read without a key.
type record struct {
	*format.Index
	plain  *format.Manifest // of a plain backup
	sealed []byte           // of a sealed one
}

// manifest opens the manifest.
func (r record) manifest(ctx context.Context, keys *keyring.Ring) (*format.Manifest, error) {
	if r.plain != nil {
		return r.plain, nil
	}
	key, err := keys.Key(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	plain, err := unseal(key, r.sealed)
	if err != nil {
		return nil, failure.New(failure.BackupDamaged, "%s: what is sealed in it cannot be opened with its key", format.ManifestKey(r.Target, r.Backup)).
			Do("use another backup; this one cannot be trusted")
	}
	return format.DecodeSealed(r.Index, plain)
}

func find(ctx context.Context, store objstore.Store, target, id string, keys *keyring.Ring) (record, error) {
	if id != Latest {
		return load(ctx, store, target, id)
	}
	ids, err := IDs(ctx, store, target)
	if err != nil {
		return record{}, err
	}
	// Ids begin with the time at which their run began; a run may have waited, so the snapshots of the
	// last few are compared.
	const look = 8
	slices.Sort(ids)
	var newest record
	passed := 0 // that may be anybody's
	for i, looked := len(ids)-1, 0; i >= 0 && looked < look; i-- {
		r, err := load(ctx, store, target, ids[i])
		if err == nil && !keys.Ours(r.Key) {
			passed++
			continue
		}
		switch looked++; {
		case err != nil && (looked == 1 || !failure.Is(err, failure.BackupDamaged)):
			return record{}, err
		case err == nil && (newest.Index == nil || r.SnapshotAt.After(newest.SnapshotAt)):
			newest = r
		}
	}
	if newest.Index == nil && passed > 0 {
		return record{}, failure.New(failure.UnknownBackup, "target %s has no backup that is encrypted with a key that the configuration trusts; %d others may have been written by anybody", target, passed).
			Do("take one: upkeep run BackupDatabase --target %s; or name a backup by its id", target)
	}
	if newest.Index == nil {
		return record{}, failure.New(failure.UnknownBackup, "target %s has no backup", target).
			Do("take one: upkeep run BackupDatabase --target %s", target)
	}
	return newest, nil
}

func load(ctx context.Context, store objstore.Store, target, id string) (record, error) {
	if !format.ValidID(id) {
		return record{}, failure.New(failure.UnknownBackup, "%.120q is not the id of a backup", id).
			Do("use an id that BackupDatabase gave as backupId, or %q", Latest)
	}
	key := format.ManifestKey(target, id)
	data, err := store.Read(ctx, key, format.MaxManifest)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		if r, noted := ReadRemoval(ctx, store, target, id); noted == nil && r != nil {
			return record{}, failure.New(failure.UnknownBackup, "backup %s of target %s was removed by run %.200q (%.200s)", id, target, r.RunID, r.Why).
				Do("see what there is: upkeep backups list --target %s", target)
		}
		return record{}, failure.New(failure.UnknownBackup, "target %s has no backup %s: there is no %s", target, id, key).
			Do("use an id that BackupDatabase gave as backupId, or %q", Latest)
	case failure.Is(err, failure.UnsafeArchive):
		f, _ := failure.As(err)
		return record{}, failure.New(failure.BackupDamaged, "%s", f.What).Do("%s", f.Remedy)
	case err != nil:
		return record{}, err
	}
	if !format.IsSealed(data) {
		m, err := format.Decode(data, target, id)
		if err != nil {
			return record{}, err
		}
		return record{Index: m.Index(), plain: m}, nil
	}
	index, inner, err := format.DecodeIndex(data, target, id)
	return record{Index: index, sealed: inner}, err
}

// Who finds a backup damaged.
const (
	FoundByBackup  = "backup"  // it came upon a chunk that it wanted to use again
	FoundByStored  = "stored"  // a look at grade stored
	FoundByDecoded = "decoded" // a look at grade decoded
	FoundByPrune   = "prune"   // a prune removed something that it needs
)

// Mark is the note that a backup was found damaged.
type Mark struct {
	Backup  string    `json:"backup"`
	FoundAt time.Time `json:"foundAt"`
	FoundBy string    `json:"foundBy"` // one of the FoundBy constants
	What    []string  `json:"what"`    // the files, and what is wrong with them; the first few
}

const (
	maxMark  = 64 << 10 // bounds a mark's file, in bytes
	maxNamed = 20       // bounds the files that a mark names
)

var (
	pointMarkBefore = fault.NewPoint("catalog/mark/before")
	pointMarkAfter  = fault.NewPoint("catalog/mark/after")
)

// SetMark notes that a backup is damaged. A mark that is there is replaced: the newest look counts.
func SetMark(ctx context.Context, store objstore.Store, target, id, foundBy string, what ...string) error {
	mark := Mark{Backup: id, FoundAt: time.Now().UTC(), FoundBy: foundBy, What: what[:min(len(what), maxNamed)]}
	data, err := json.MarshalIndent(mark, "", "  ")
	if err != nil {
		return err
	}
	pointMarkBefore.Hit()
	if err := store.Replace(ctx, format.MarkKey(target, id), data); err != nil {
		return err
	}
	pointMarkAfter.Hit()
	return nil
}

// ClearMark removes the note of a backup that a look found whole. A cheaper look cannot clear what a
// more thorough one found.
func ClearMark(ctx context.Context, store objstore.Store, target, id, lookedBy string) error {
	mark, err := ReadMark(ctx, store, target, id)
	if err != nil || mark == nil || mark.FoundBy == FoundByDecoded && lookedBy != FoundByDecoded {
		return err
	}
	return store.Delete(ctx, format.MarkKey(target, id))
}

// ReadMark returns the note about a backup, or nil.
func ReadMark(ctx context.Context, store objstore.Store, target, id string) (*Mark, error) {
	data, err := store.Read(ctx, format.MarkKey(target, id), maxMark)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, nil
	}
	if err != nil && !failure.Is(err, failure.UnsafeArchive) {
		return nil, err
	}
	var m Mark
	if err != nil || json.Unmarshal(data, &m) != nil {
		return &Mark{Backup: id, What: []string{"the note itself cannot be read"}}, nil
	}
	return &m, nil
}

// LastFound is when something of the target was last found damaged that still is; zero if nothing is.
// What was found right before that may be what was found damaged.
func LastFound(ctx context.Context, store objstore.Store, target string) (last time.Time, err error) {
	prefix := format.MarkKey(target, "")
	prefix = prefix[:strings.LastIndexByte(prefix, '/')+1]
	err = store.List(ctx, prefix, func(o objstore.Info) error {
		id := strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), ".json")
		if o.Key != format.MarkKey(target, id) || !format.ValidID(id) {
			return nil
		}
		mark, err := ReadMark(ctx, store, target, id)
		if err != nil || mark == nil { // gone meanwhile
			return err
		}
		if mark.FoundAt.IsZero() {
			mark.FoundAt = time.Now() // a note that cannot be read
		}
		if mark.FoundAt.After(last) {
			last = mark.FoundAt
		}
		return nil
	})
	return last, err
}

// Users lists the backups of the target that need a chunk, by its object's name, but for those that are to
// be left out.
func Users(ctx context.Context, store objstore.Store, target, chunk string, without map[string]bool) ([]string, error) {
	ids, err := IDs(ctx, store, target)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, id := range ids {
		if without[id] {
			continue
		}
		r, err := load(ctx, store, target, id)
		if failure.Is(err, failure.BackupDamaged) || failure.Is(err, failure.UnknownBackup) || failure.Is(err, failure.FormatTooNew) {
			continue // it speaks for itself
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(r.Chunks, func(o format.Object) bool { return o.Name == chunk }) {
			users = append(users, id)
		}
	}
	return users, nil
}
