// Package catalog finds a target's backups in the store, and keeps the notes about those that were
// found damaged. The manifests are the only truth: nothing here has an index of its own.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"sort"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
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
// older backup: a person who asks for the newest must learn that it is damaged.
func Load(ctx context.Context, store objstore.Store, target, id string) (*format.Manifest, error) {
	if id != Latest {
		return load(ctx, store, target, id)
	}
	ids, err := IDs(ctx, store, target)
	if err != nil {
		return nil, err
	}
	// Ids begin with the time at which their run began; a run may have waited, so the snapshots of the
	// last few are compared.
	const look = 8
	sort.Strings(ids)
	var newest *format.Manifest
	for i := len(ids) - 1; i >= max(0, len(ids)-look); i-- {
		m, err := load(ctx, store, target, ids[i])
		switch {
		case err != nil && (i == len(ids)-1 || !failure.Is(err, failure.BackupDamaged)):
			return nil, err
		case err == nil && (newest == nil || m.SnapshotAt.After(newest.SnapshotAt)):
			newest = m
		}
	}
	if newest == nil {
		return nil, failure.New(failure.UnknownBackup, "target %s has no backup", target).
			Do("take one: upkeep run BackupDatabase --target %s", target)
	}
	return newest, nil
}

func load(ctx context.Context, store objstore.Store, target, id string) (*format.Manifest, error) {
	if !format.ValidID(id) {
		return nil, failure.New(failure.UnknownBackup, "%.120q is not the id of a backup", id).
			Do("use an id that BackupDatabase gave as backupId, or %q", Latest)
	}
	data, err := store.Read(ctx, format.ManifestKey(target, id), format.MaxManifest)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, failure.New(failure.UnknownBackup, "target %s has no backup %s", target, id).
			Do("use an id that BackupDatabase gave as backupId, or %q", Latest)
	}
	if err != nil {
		return nil, err
	}
	return format.Decode(data, target, id)
}

// Mark is the note that a backup was found damaged.
type Mark struct {
	Backup  string    `json:"backup"`
	FoundAt time.Time `json:"foundAt"`
	What    []string  `json:"what"` // the files, and what is wrong with them; the first few
}

// maxMark bounds a mark's file, in bytes.
const maxMark = 64 << 10

// SetMark notes that a backup is damaged. A mark that is there is replaced: the newest look counts.
func SetMark(ctx context.Context, store objstore.Store, target, id string, what ...string) error {
	data, err := json.MarshalIndent(Mark{Backup: id, FoundAt: time.Now().UTC(), What: what[:min(len(what), 20)]}, "", "  ")
	if err != nil {
		return err
	}
	return store.Replace(ctx, format.MarkKey(target, id), data)
}

// ClearMark removes the note of a backup that was found whole.
func ClearMark(ctx context.Context, store objstore.Store, target, id string) error {
	if _, err := store.Stat(ctx, format.MarkKey(target, id)); errors.Is(err, objstore.ErrNotExist) {
		return nil
	}
	return store.Delete(ctx, format.MarkKey(target, id))
}

// ReadMark returns the note about a backup, or nil.
func ReadMark(ctx context.Context, store objstore.Store, target, id string) (*Mark, error) {
	data, err := store.Read(ctx, format.MarkKey(target, id), maxMark)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m Mark
	if err := json.Unmarshal(data, &m); err != nil {
		return &Mark{Backup: id, What: []string{"the note itself cannot be read"}}, nil
	}
	return &m, nil
}

// MarkUsers marks every backup of the target that needs a chunk.
func MarkUsers(ctx context.Context, store objstore.Store, target, sha256, what string) error {
	ids, err := IDs(ctx, store, target)
	if err != nil {
		return err
	}
	for _, id := range ids {
		m, err := load(ctx, store, target, id)
		if failure.Is(err, failure.BackupDamaged) || failure.Is(err, failure.UnknownBackup) || failure.Is(err, failure.FormatTooNew) {
			continue // it speaks for itself
		}
		if err != nil {
			return err
		}
		for _, c := range m.Chunks() {
			if c.SHA256 == sha256 {
				if err := SetMark(ctx, store, target, id, what); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}
