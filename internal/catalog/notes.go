package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// Proof is the note of the newest comparison of a restored copy of a backup with it.
type Proof struct {
	Backup  string      `json:"backup"`
	Verdict run.Verdict `json:"verdict"` // PASS or FAIL; what was not proven leaves no note
	At      time.Time   `json:"at"`
	RunID   string      `json:"runId"`
}

// SetProof notes what a comparison found; the newest counts.
func SetProof(ctx context.Context, store objstore.Store, target string, p Proof) error {
	return writeNote(ctx, store, format.ProofKey(target, p.Backup), p)
}

// ReadProof returns the note about a backup, or nil. One that cannot be read proves nothing.
func ReadProof(ctx context.Context, store objstore.Store, target, id string) (*Proof, error) {
	p, err := readNote[Proof](ctx, store, format.ProofKey(target, id))
	if errors.Is(err, errUnreadable) || p != nil && p.Backup != id {
		return nil, nil
	}
	return p, err
}

// Hold forbids the removal of a backup.
type Hold struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
	By     string    `json:"by"` // as claimed
	Reason string    `json:"reason"`
}

// SetHold notes a hold; one that is there is replaced.
func SetHold(ctx context.Context, store objstore.Store, target string, h Hold) error {
	return writeNote(ctx, store, format.HoldKey(target, h.Backup), h)
}

// ReleaseHold takes a hold away; one that is not there is no error.
func ReleaseHold(ctx context.Context, store objstore.Store, target, id string) error {
	return store.Delete(ctx, format.HoldKey(target, id))
}

// ReadHold returns the hold on a backup, or nil. One that cannot be read holds.
func ReadHold(ctx context.Context, store objstore.Store, target, id string) (*Hold, error) {
	h, err := readNote[Hold](ctx, store, format.HoldKey(target, id))
	if errors.Is(err, errUnreadable) {
		return &Hold{Backup: id, Reason: "the note of the hold cannot be read"}, nil
	}
	return h, err
}

// Removal is the note that the retention removes a backup. It is written before anything is removed,
// and stays: a late attempt of the run that took the backup sees it, and does not take it again.
type Removal struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
	RunID  string    `json:"runId"`
	Why    string    `json:"why"`
}

// BeginRemoval notes a removal, unless one is noted already.
func BeginRemoval(ctx context.Context, store objstore.Store, target string, r Removal) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	err = store.Create(ctx, format.RemovalKey(target, r.Backup), data)
	if errors.Is(err, objstore.ErrExist) {
		return nil
	}
	return err
}

// CancelRemoval takes back the note of a removal that did not happen.
func CancelRemoval(ctx context.Context, store objstore.Store, target, id string) error {
	return store.Delete(ctx, format.RemovalKey(target, id))
}

// ReadRemoval returns the note that a backup is or was removed, or nil.
func ReadRemoval(ctx context.Context, store objstore.Store, target, id string) (*Removal, error) {
	r, err := readNote[Removal](ctx, store, format.RemovalKey(target, id))
	if errors.Is(err, errUnreadable) {
		return &Removal{Backup: id, Why: "the note of the removal cannot be read"}, nil
	}
	return r, err
}

// Condemned are the chunks that no backup of a target needed when it was last looked, and since when.
// They are removed some time later; until then a backup may need one again.
type Condemned map[string]time.Time

// ReadCondemned reads the list. One that cannot be read is none: the time of each begins anew.
func ReadCondemned(ctx context.Context, store objstore.Store, target string) (Condemned, error) {
	data, err := store.Read(ctx, format.CondemnedKey(target), format.MaxManifest)
	if errors.Is(err, objstore.ErrNotExist) || failure.Is(err, failure.UnsafeArchive) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list Condemned
	if json.Unmarshal(data, &list) != nil {
		return nil, nil
	}
	return list, nil
}

// WriteCondemned replaces the list.
func WriteCondemned(ctx context.Context, store objstore.Store, target string, list Condemned) error {
	if len(list) == 0 {
		return store.Delete(ctx, format.CondemnedKey(target))
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return store.Replace(ctx, format.CondemnedKey(target), data)
}

// errUnreadable says that a note is there and makes no sense.
var errUnreadable = errors.New("the note cannot be read")

func writeNote(ctx context.Context, store objstore.Store, key string, note any) error {
	data, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return store.Replace(ctx, key, data)
}

// readNote reads a note; nil when there is none.
func readNote[Note any](ctx context.Context, store objstore.Store, key string) (*Note, error) {
	data, err := store.Read(ctx, key, maxMark)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return nil, nil
	case failure.Is(err, failure.UnsafeArchive):
		return nil, errUnreadable
	case err != nil:
		return nil, err
	}
	note := new(Note)
	if json.Unmarshal(data, note) != nil {
		return nil, errUnreadable
	}
	return note, nil
}

// RemoveNotes removes what is noted of a backup that is gone, but for its removal.
func RemoveNotes(ctx context.Context, store objstore.Store, target, id string) error {
	for _, key := range []string{format.MarkKey(target, id), format.ProofKey(target, id), format.HoldKey(target, id)} {
		if err := store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// Entry is a backup in a list, with what is noted of it.
type Entry struct {
	ID       string
	At       time.Time // the moment that it shows; when its run began, where the manifest cannot be read
	Sealed   error     // why what a sealed backup holds is not known here
	Key      string    // fingerprint of the key that it is encrypted with
	Foreign  bool      // in clear, or with a key that is not trusted, though the target is encrypted
	Database string
	Totals   format.Totals // of a sealed one only BytesTotal
	LeftOut  []string      // of a sealed one how many
	Broken   error         // why the manifest cannot be read
	Mark     *Mark
	Proof    *Proof
	Hold     *Hold
}

// Proven reports whether the newest comparison of a copy was PASS, and nothing was found damaged since.
func (e Entry) Proven() bool {
	return e.Proof != nil && e.Proof.Verdict == run.Pass && !e.Damaged() && !e.Foreign
}

// Damaged reports whether a file of the backup was found damaged. A comparison that said FAIL is no such
// thing: the place of the copy may be what was wrong.
func (e Entry) Damaged() bool { return e.Broken != nil || e.Mark != nil }

// List lists every backup of a target with its notes, in the order of their ids. See, where it is not
// nil, is shown the index of each that can be read; it is large, and nobody keeps it. Without keys, of
// sealed backups no more is known than their index has.
func List(ctx context.Context, store objstore.Store, target string, keys *keyring.Ring, see func(*format.Index)) ([]Entry, error) {
	ids, err := IDs(ctx, store, target)
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, id := range ids {
		e, r, err := look(ctx, store, target, id, keys)
		if failure.Is(err, failure.UnknownBackup) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if r.Index != nil && see != nil {
			see(r.Index)
		}
		all = append(all, e)
	}
	return all, nil
}

// Look reads one backup, by its id or as the latest, with its notes. The manifest is nil where it is
// there and cannot be read.
func Look(ctx context.Context, store objstore.Store, target, id string, keys *keyring.Ring) (e Entry, m *format.Manifest, err error) {
	e, r, err := look(ctx, store, target, id, keys)
	return e, r.plain, err
}

// look is Look; of a sealed backup that the keys open, plain is the manifest.
func look(ctx context.Context, store objstore.Store, target, id string, keys *keyring.Ring) (e Entry, r record, err error) {
	r, err = find(ctx, store, target, id, keys)
	if err == nil && r.plain == nil {
		r.plain, err = r.manifest(ctx, keys)
		if failure.Is(err, failure.NoIdentity) || failure.Is(err, failure.KeyUnusable) || failure.Is(err, failure.MissingSecret) {
			e.Sealed, err = err, nil
		}
	}
	switch {
	case id != Latest && (failure.Is(err, failure.BackupDamaged) || failure.Is(err, failure.KeyLost) || failure.Is(err, failure.FormatTooNew)):
		e = Entry{ID: id, At: takenAt(id), Broken: err}
		r = record{}
	case err != nil:
		return e, r, err
	case r.plain == nil:
		e.ID, e.At, e.Totals.BytesTotal = r.Backup, r.SnapshotAt, r.Size()
		e.Key = r.Key
		if r.Index.LeftOut > 0 {
			e.LeftOut = []string{fmt.Sprintf("%d things, whose names are sealed", r.Index.LeftOut)}
		}
	default:
		m := r.plain
		e = Entry{ID: m.Backup, At: m.SnapshotAt, Key: m.Key, Database: m.Database.Name, Totals: m.Totals, LeftOut: m.LeftOut}
	}
	e.Foreign = e.Broken == nil && !keys.Ours(e.Key)
	if e.Mark, err = ReadMark(ctx, store, target, e.ID); err != nil {
		return e, r, err
	}
	if e.Proof, err = ReadProof(ctx, store, target, e.ID); err != nil {
		return e, r, err
	}
	e.Hold, err = ReadHold(ctx, store, target, e.ID)
	return e, r, err
}

// NewestProven is when the run began that took the newest proven backup of a target; zero where there is
// none.
func NewestProven(ctx context.Context, store objstore.Store, target string) (time.Time, error) {
	id, err := NewestProvenID(ctx, store, target)
	if err != nil || id == "" {
		return time.Time{}, err
	}
	return takenAt(id), nil
}

// NewestProvenID is the newest backup of a target that is there, whose newest comparison was PASS, and of
// which nothing was found damaged since; "" where there is none. It reads no manifest, so that it can be
// asked often.
func NewestProvenID(ctx context.Context, store objstore.Store, target string) (string, error) {
	var ids []string
	prefix := strings.TrimSuffix(format.ProofKey(target, ""), ".json")
	err := store.List(ctx, prefix, func(o objstore.Info) error {
		id := strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), ".json")
		if o.Key == format.ProofKey(target, id) && format.ValidID(id) {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, id := range slices.Backward(ids) {
		_, err := store.Stat(ctx, format.ManifestKey(target, id))
		if errors.Is(err, objstore.ErrNotExist) {
			continue
		}
		var e Entry
		if err == nil {
			e.Proof, err = ReadProof(ctx, store, target, id)
		}
		if err == nil {
			e.Mark, err = ReadMark(ctx, store, target, id)
		}
		if err != nil {
			return "", err
		}
		if e.Proven() && !takenAt(id).IsZero() {
			return id, nil
		}
	}
	return "", nil
}

// takenAt is when a backup's run began, as its id says; zero when it says nothing.
func takenAt(id string) time.Time {
	stamp, _, _ := strings.Cut(id, "-")
	t, err := time.Parse("20060102T150405Z", stamp)
	if err != nil {
		return time.Time{}
	}
	return t
}
