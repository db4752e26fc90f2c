// Package prune removes the backups that a target's retention does not keep, and then the chunks that
// no backup needs. A backup goes at once, its manifest first. A chunk is condemned first and goes a day
// later, unless somebody has used it again since: a backup that runs meanwhile finds it condemned and
// renews it, so that neither the order of runs nor a lease is what keeps a backup whole.
package prune

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/retention"
)

const (
	// Grace is how long a condemned chunk stays, and what a backup that was never finished left.
	Grace = 24 * time.Hour
	// clocks is by how much the store's clock may be behind ours: what is no older than that when it is
	// condemned counts as renewed.
	clocks = time.Hour
	// maxNamed bounds how many backups that were hurt are named.
	maxNamed = 20
)

var (
	pointNoted        = fault.NewPoint("prune/noted")
	pointBackupBefore = fault.NewPoint("prune/backup/before")
	pointBackupAfter  = fault.NewPoint("prune/backup/after")
	pointCondemned    = fault.NewPoint("prune/condemned")
	pointChunkBefore  = fault.NewPoint("prune/chunk/before")
	pointChunkAfter   = fault.NewPoint("prune/chunk/after")
)

// Options say whose backups are pruned.
type Options struct {
	Store  objstore.Store
	Target string
	Policy retention.Policy
	RunID  string // for the notes about what is removed
	// Keys open encrypted backups. Without an identity in them, what the index of one says in clear is
	// believed, which anybody who can write to the store can have written.
	Keys *keyring.Ring
	// Now is the time; the machine's when nil.
	Now func() time.Time
}

func (o Options) now() time.Time {
	if o.Now != nil {
		return o.Now().UTC()
	}
	return time.Now().UTC()
}

// Space is what becomes of the space of what is removed.
type Space string

// What becomes of it.
const (
	SpaceFreed   Space = "freed"
	SpaceHidden  Space = "hidden"  // the store keeps it as hidden versions, until its own rule lets them go
	SpaceUnknown Space = "unknown" // the store may do the one or the other
)

func spaceOf(ctx context.Context, store objstore.Store) (Space, error) {
	k, err := objstore.KeepingOf(ctx, store)
	switch {
	case err != nil:
		return "", err
	case k.Unknown != "":
		return SpaceUnknown, nil
	case !k.Frees():
		return SpaceHidden, nil
	}
	return SpaceFreed, nil
}

// list is catalog.List. A backup that should open here and does not is one that cannot be read: somebody
// may have changed what it says that it needs.
func (o Options) list(ctx context.Context, see func(*format.Index)) ([]catalog.Entry, error) {
	entries, err := catalog.List(ctx, o.Store, o.Target, o.Keys, see)
	for i, e := range entries {
		if e.Sealed != nil && o.Keys.Opens() {
			entries[i].Broken = e.Sealed
		}
	}
	return entries, err
}

// Plan is what a prune would remove.
type Plan struct {
	Remove []Backup `json:"remove"`
	Keep   []Backup `json:"keep"` // the newest first
	// Frees is about how many stored bytes the removed backups alone need; Hides is what it would be, where
	// the store keeps versions of what is removed.
	Frees int64 `json:"freesBytes"`
	Hides int64 `json:"hidesBytes,omitempty"`
	// Space says what becomes of the space; "" stands for SpaceFreed.
	Space Space `json:"space,omitempty"`
	// Unreadable are backups that cannot be read. While there are any, no chunk is removed.
	Unreadable []string `json:"unreadable"`
}

// Backup is a backup, and why it stays or goes.
type Backup struct {
	ID  string    `json:"id"`
	At  time.Time `json:"at"`
	Why []string  `json:"why"`
}

// Make makes the plan. It changes nothing.
func Make(ctx context.Context, o Options) (*Plan, error) {
	p := &Plan{Remove: []Backup{}, Keep: []Backup{}, Unreadable: []string{}}
	entries, err := o.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	if p.Space, err = spaceOf(ctx, o.Store); err != nil {
		return nil, err
	}
	decisions, err := decide(o, entries)
	if err != nil {
		return nil, err
	}
	at := make(map[string]time.Time)
	for _, e := range entries {
		at[e.ID] = e.At
		if e.Broken != nil {
			p.Unreadable = append(p.Unreadable, e.ID)
		}
	}
	goes := make(map[string]bool)
	for _, d := range decisions {
		b := Backup{d.ID, at[d.ID], d.Why}
		if d.Keep {
			p.Keep = append(p.Keep, b)
		} else {
			p.Remove = append(p.Remove, b)
			goes[d.ID] = true
		}
	}
	if len(goes) == 0 || len(p.Unreadable) > 0 {
		return p, nil
	}
	p.Frees, err = frees(ctx, o, goes)
	if p.Space == SpaceHidden {
		p.Frees, p.Hides = 0, p.Frees
	}
	return p, err
}

// frees adds up the stored bytes that only these backups need.
func frees(ctx context.Context, o Options, goes map[string]bool) (sum int64, err error) {
	alone, stay := make(map[string]int64), make(map[string]bool)
	_, err = o.list(ctx, func(b *format.Index) {
		for _, c := range b.Chunks {
			if goes[b.Backup] {
				alone[c.Name] = c.Size
			} else {
				stay[c.Name] = true
			}
		}
	})
	for name, size := range alone {
		if !stay[name] {
			sum += size
		}
	}
	return sum, err
}

// decide asks the policy. A backup that cannot be read is no file for a rule to judge: it stays.
func decide(o Options, entries []catalog.Entry) ([]retention.Decision, error) {
	var backups []retention.Backup
	for _, e := range entries {
		backups = append(backups, retention.Backup{ID: e.ID, At: e.At, Proven: e.Proven(), Damaged: e.Damaged() || e.Foreign, Held: e.Hold != nil})
	}
	decisions, err := retention.Decide(o.Policy, o.now(), backups)
	if err != nil {
		return nil, err
	}
	for i, d := range decisions {
		if slices.ContainsFunc(entries, func(e catalog.Entry) bool { return e.ID == d.ID && e.Broken != nil }) && !d.Keep {
			decisions[i].Keep, decisions[i].Why = true, []string{"it cannot be read, so a person decides"}
		}
	}
	return decisions, nil
}

// Result is what a prune did.
type Result struct {
	Removed   []string `json:"removed"`   // backups
	Kept      int      `json:"kept"`      // backups
	Condemned int      `json:"condemned"` // chunks that go after Grace unless they are used again
	// CondemnedBytes are their stored bytes.
	CondemnedBytes int64 `json:"condemnedBytes"`
	Chunks         int   `json:"chunks"` // removed by this attempt
	FreedBytes     int64 `json:"freedBytes"`
	// HiddenBytes are what FreedBytes would be, where the store keeps versions of what is removed.
	HiddenBytes int64 `json:"hiddenBytes,omitempty"`
	Space       Space `json:"space,omitempty"`
	// Locked are backups that the store does not let be removed yet. They are whole, and the next prune
	// tries again.
	Locked []string `json:"locked,omitempty"`
	// LockedFiles are other objects, of backups that are gone and chunks, of which the same is true.
	LockedFiles int `json:"lockedFiles,omitempty"`
	// Spared are backups that the plan wanted removed and that are to stay by now.
	Spared []string `json:"spared"`
	// Hurt are backups that turned out to need a chunk that was removed; they are marked as damaged.
	Hurt []string `json:"hurt"`
	// Remarks are what a person should know.
	Remarks []string `json:"remarks"`

	kept map[string]bool // the keys of LockedFiles
}

// Apply removes what the plan names and the policy still does not keep. It may be repeated, and run
// beside a stale twin of itself: the end is the same.
func Apply(ctx context.Context, o Options, planned []string) (*Result, error) {
	r := &Result{Removed: []string{}, Spared: []string{}, Hurt: []string{}, Remarks: []string{}, kept: make(map[string]bool)}
	entries, err := o.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	if r.Space, err = spaceOf(ctx, o.Store); err != nil {
		return nil, err
	}
	decisions, err := decide(o, entries)
	if err != nil {
		return nil, err
	}
	there, stays := make(map[string]bool), make(map[string]bool)
	for _, d := range decisions {
		there[d.ID], stays[d.ID] = true, d.Keep
	}
	for i, id := range planned {
		progress.Report(ctx, progress.Progress{Phase: "removing backups", Done: int64(i), Total: int64(len(planned)), Unit: "backups", Note: id})
		if stays[id] {
			r.Spared = append(r.Spared, id)
			continue
		}
		gone, err := remove(ctx, o, r, id, there[id])
		if failure.Is(err, failure.StoreLocked) {
			r.Locked = append(r.Locked, id)
			continue
		}
		if err != nil {
			return nil, err
		}
		if gone {
			r.Removed = append(r.Removed, id)
		} else {
			r.Spared = append(r.Spared, id)
		}
	}
	r.Kept = len(entries) - len(r.Removed)
	for _, id := range r.Removed {
		if !there[id] { // an earlier attempt removed it
			r.Kept++
		}
	}
	if err := sweepChunks(ctx, o, r); err != nil {
		return nil, err
	}
	if err := sweepFolders(ctx, o, r); err != nil {
		return nil, err
	}
	if r.Space == SpaceHidden {
		r.FreedBytes, r.HiddenBytes = 0, r.FreedBytes
	}
	r.remarkLocks()
	return r, nil
}

// remarkLocks says what the store kept.
func (r *Result) remarkLocks() {
	const why = "the store does not let them be removed yet (object lock or legal hold), and the next prune tries again"
	if len(r.Locked) > 0 {
		r.Remarks = append(r.Remarks, fmt.Sprintf("these backups stay, whole: %s; %s", strings.Join(r.Locked, ", "), why))
	}
	if r.LockedFiles > 0 {
		r.Remarks = append(r.Remarks, fmt.Sprintf("%d objects that no backup needs stay: %s", r.LockedFiles, why))
	}
}

// remove removes one backup: noted first, its manifest next, then the rest. The note comes before the
// look for a hold, and whoever holds a backup looks for the note afterwards: one of the two sees the
// other. It reports whether the backup is gone. StoreLocked says that the store keeps the manifest: then
// nothing of the backup is removed, and the note is taken back, as far as the store lets it.
func remove(ctx context.Context, o Options, r *Result, id string, there bool) (gone bool, err error) {
	if !format.ValidID(id) {
		return false, failure.New(failure.BadInput, "%.120q is not the id of a backup", id).Do("make the plan anew")
	}
	if !there {
		noted, err := catalog.ReadRemoval(ctx, o.Store, o.Target, id)
		if err != nil || noted == nil {
			return false, err // it was not ours to remove
		}
		return true, tidy(ctx, o, r, id)
	}
	if err := catalog.BeginRemoval(ctx, o.Store, o.Target, catalog.Removal{Backup: id, At: o.now(), RunID: o.RunID, Why: "retention: " + o.Policy.String()}); err != nil {
		return false, err
	}
	pointNoted.Hit()
	hold, err := catalog.ReadHold(ctx, o.Store, o.Target, id)
	if err != nil {
		return false, err
	}
	if hold != nil {
		return false, catalog.CancelRemoval(ctx, o.Store, o.Target, id)
	}
	pointBackupBefore.Hit()
	err = o.Store.Delete(ctx, format.ManifestKey(o.Target, id))
	if failure.Is(err, failure.StoreLocked) {
		if back := catalog.CancelRemoval(ctx, o.Store, o.Target, id); back != nil && !failure.Is(back, failure.StoreLocked) {
			return false, back
		}
		return false, err
	}
	if err != nil {
		return false, err
	}
	pointBackupAfter.Hit()
	return true, tidy(ctx, o, r, id)
}

// tidy removes what a backup without a manifest has left. What the store keeps is counted, and is found
// again by the next prune.
func tidy(ctx context.Context, o Options, r *Result, id string) error {
	var keys []string
	err := o.Store.List(ctx, format.BackupKey(o.Target, id, ""), func(i objstore.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := r.unlessLocked(key, o.Store.Delete(ctx, key)); err != nil {
			return err
		}
	}
	return r.unlessLocked("notes of "+id, catalog.RemoveNotes(ctx, o.Store, o.Target, id))
}

// unlessLocked counts what the store does not let go, once; other errors it hands on.
func (r *Result) unlessLocked(key string, err error) error {
	if !failure.Is(err, failure.StoreLocked) {
		return err
	}
	r.kept[key] = true
	r.LockedFiles = len(r.kept)
	return nil
}

// sweepChunks condemns the chunks that no backup needs, and removes those that were condemned long ago.
func sweepChunks(ctx context.Context, o Options, r *Result) error {
	old, err := catalog.ReadCondemned(ctx, o.Store, o.Target)
	if err != nil {
		return err
	}
	needed, broken, err := needs(ctx, o)
	if err != nil {
		return err
	}
	if len(broken) > 0 {
		r.Remarks = append(r.Remarks, fmt.Sprintf("no chunk was removed, because what these backups need is not known: %s", strings.Join(broken, ", ")))
		return nil
	}
	list, due, sizes := catalog.Condemned{}, []string(nil), make(map[string]int64)
	err = o.Store.List(ctx, format.ChunksPrefix(o.Target), func(i objstore.Info) error {
		name, ok := format.ChunkOfKey(o.Target, i.Key)
		if !ok || needed[name] {
			return nil
		}
		since, was := old[name]
		if !was || since.After(o.now()) || renewed(i, since) {
			since = o.now()
		} else if o.now().Sub(since) >= Grace {
			due = append(due, name)
		}
		list[name], sizes[name] = since, i.Size
		return nil
	})
	if err != nil {
		return err
	}
	// Before anything goes: a backup that begins from now on knows what it must renew.
	if err := catalog.WriteCondemned(ctx, o.Store, o.Target, list); err != nil {
		return err
	}
	pointCondemned.Hit()
	gone, err := removeChunks(ctx, o, r, list, due)
	for name := range gone {
		r.Chunks++
		r.FreedBytes += sizes[name]
		delete(list, name)
	}
	for name := range list {
		r.Condemned++
		r.CondemnedBytes += sizes[name]
	}
	if len(gone) == 0 || err != nil {
		return err
	}
	if err := markHurt(ctx, o, gone, r); err != nil {
		return err
	}
	return catalog.WriteCondemned(ctx, o.Store, o.Target, list)
}

// renewed reports whether a chunk was written since it was condemned, or so shortly before that the
// clocks may differ by it.
func renewed(i objstore.Info, since time.Time) bool { return i.ModTime.After(since.Add(-clocks)) }

// needs are the chunks that the target's backups need, and the backups that cannot be read.
func needs(ctx context.Context, o Options) (needed map[string]bool, broken []string, err error) {
	needed = make(map[string]bool)
	entries, err := o.list(ctx, func(b *format.Index) {
		for _, c := range b.Chunks {
			needed[c.Name] = true
		}
	})
	for _, e := range entries {
		if e.Broken != nil {
			broken = append(broken, e.ID)
		}
	}
	return needed, broken, err
}

// removeChunks removes the chunks that are due, each after one more look at its age.
func removeChunks(ctx context.Context, o Options, r *Result, list catalog.Condemned, due []string) (gone map[string]bool, err error) {
	gone = make(map[string]bool)
	for n, name := range due {
		progress.Report(ctx, progress.Progress{Phase: "removing chunks", Done: int64(n), Total: int64(len(due)), Unit: "chunks"})
		key := format.ChunkKey(o.Target, name)
		info, err := o.Store.Stat(ctx, key)
		if errors.Is(err, objstore.ErrNotExist) {
			gone[name] = true
			continue
		}
		if err != nil {
			return gone, err
		}
		if renewed(info, list[name]) {
			continue
		}
		pointChunkBefore.Hit()
		err = o.Store.Delete(ctx, key)
		if failure.Is(err, failure.StoreLocked) {
			_ = r.unlessLocked(key, err)
			continue
		}
		if err != nil {
			return gone, err
		}
		pointChunkAfter.Hit()
		gone[name] = true
	}
	return gone, nil
}

// markHurt marks the backups that need a chunk that is gone. By leases and ages there are none; should
// a clock or a hand in the store have made one, nobody is to learn it from a restore.
func markHurt(ctx context.Context, o Options, gone map[string]bool, r *Result) error {
	var hurt []string
	first := make(map[string]string)
	_, err := o.list(ctx, func(b *format.Index) {
		for _, c := range b.Chunks {
			if gone[c.Name] {
				hurt = append(hurt, b.Backup)
				first[b.Backup] = c.Name
				return
			}
		}
	})
	if err != nil {
		return err
	}
	for _, id := range hurt {
		if _, err := o.Store.Stat(ctx, format.ChunkKey(o.Target, first[id])); err == nil {
			continue // its own run has noticed, and stored it again
		}
		if err := catalog.SetMark(ctx, o.Store, o.Target, id, catalog.FoundByPrune, format.ChunkKey(o.Target, first[id])+" was removed"); err != nil {
			return err
		}
		if r.Hurt = append(r.Hurt, id); len(r.Hurt) == maxNamed {
			return nil
		}
	}
	return nil
}

// sweepFolders removes what backups without a manifest left long ago: their attempts were given up.
func sweepFolders(ctx context.Context, o Options, r *Result) error {
	youngest, whole := make(map[string]time.Time), make(map[string]bool)
	prefix := format.BackupsPrefix(o.Target)
	err := o.Store.List(ctx, prefix, func(i objstore.Info) error {
		id, file, _ := strings.Cut(strings.TrimPrefix(i.Key, prefix), "/")
		if file == "" || !format.ValidID(id) {
			return nil // not of Upkeep's making
		}
		if i.ModTime.After(youngest[id]) {
			youngest[id] = i.ModTime
		}
		whole[id] = whole[id] || i.Key == format.ManifestKey(o.Target, id)
		return nil
	})
	if err != nil {
		return err
	}
	for id, at := range youngest {
		if whole[id] || o.now().Sub(at) < Grace {
			continue
		}
		if _, err := o.Store.Stat(ctx, format.ManifestKey(o.Target, id)); !errors.Is(err, objstore.ErrNotExist) {
			if err != nil {
				return err
			}
			continue // finished meanwhile
		}
		if err := tidy(ctx, o, r, id); err != nil {
			return err
		}
	}
	return nil
}
