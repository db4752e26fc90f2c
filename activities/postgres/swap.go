package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// The activity types by which a copy takes the place of the target's database.
const (
	CheckReplaceable = "CheckReplaceable"
	SealCopy         = "SealCopy"
	PlanSwap         = "PlanSwap"
	ApplySwap        = "ApplySwap"
	IsSwapped        = "IsSwapped"
	DropReplaced     = "DropReplaced"
)

// maxReplaced bounds a note about a replaced database, in bytes.
const maxReplaced = 64 << 10

// SwapRequest asks how a copy would take a live database's name.
type SwapRequest struct {
	Copy Copy   `json:"copy"`
	Live string `json:"live"` // the name
	// At is the moment after which the replaced database is named; unused by CheckReplaceable.
	At time.Time `json:"at,omitzero"`
}

// SwapOrder is an approved plan to apply.
type SwapOrder struct {
	Copy Copy         `json:"copy"`
	Plan restore.Swap `json:"plan"`
}

// DropRequest asks for the databases to be dropped that were replaced before a moment.
type DropRequest struct {
	Target Target    `json:"target"`
	Before time.Time `json:"before"`
	DryRun bool      `json:"dryRun,omitempty"` // only say which
}

// Swapped is what a swap did.
type Swapped struct {
	Ended         int     `json:"ended"`         // sessions
	ClosedSeconds float64 `json:"closedSeconds"` // the live database was closed to new sessions, at most
}

// CheckReplaceable refuses a database that cannot be replaced, and any but the target's own.
func (a *Activities) CheckReplaceable(ctx context.Context, in SwapRequest) error {
	own, err := in.Copy.server().Database()
	if err != nil {
		return err
	}
	if in.Live != own {
		return failure.New(failure.BadInput, "confirm is %q, and the live database of target %s is %q; nothing was touched", in.Live, in.Copy.Target.Name, own).
			Do("if that is the one to replace, set confirm to its name")
	}
	if itself, err := a.holdsItself(ctx, in); err != nil {
		return err
	} else if itself {
		return failure.New(failure.NotItself, "database %q holds the state of this run's own Temporal namespace", in.Live).
			Do("stop Temporal, restore beside without it (upkeep restore --direct), and rename by hand")
	}
	return restore.CheckReplaceable(ctx, restore.Options{Server: in.Copy.server()}, in.Live)
}

// holdsItself reports whether the Temporal server that this run belongs to keeps its state in the live
// database. One that is not there holds nothing.
func (a *Activities) holdsItself(ctx context.Context, in SwapRequest) (bool, error) {
	conn, err := in.Copy.server().Connect(ctx, postgres.WithDatabase(in.Live), postgres.WithApp("upkeep-admin"))
	if failure.Is(err, failure.MissingDatabase) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	temporal, err := postgres.HoldsTemporal(ctx, conn)
	if err != nil || !temporal {
		return false, err
	}
	return postgres.HoldsNamespace(ctx, conn, a.Realm)
}

// SealCopy keeps everybody out of the finished copy.
func (a *Activities) SealCopy(ctx context.Context, in Copy) error {
	_, err := withStore(ctx, in.Target, func(store objstore.Store) (struct{}, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, restore.Seal(ctx, o)
	})
	return err
}

// PlanSwap says how the sealed copy would take the live database's name.
func (a *Activities) PlanSwap(ctx context.Context, in SwapRequest) (*restore.Swap, error) {
	return restore.PlanSwap(ctx, in.Copy.built(), in.Copy.BackupID, in.Live, in.At)
}

// built is a copy that is built: its backup is needed no more, and may be gone.
func (c Copy) built() restore.Options {
	return restore.Options{Server: c.server(), Database: c.Database, Final: c.Final, Oid: c.Oid, Owner: c.Owner}
}

// ApplySwap puts the copy in the live database's place, as planned. What is replaced is noted in the store
// first, so that it is found again however this ends.
func (a *Activities) ApplySwap(ctx context.Context, in SwapOrder) (Swapped, error) {
	return withStore(ctx, in.Copy.Target, func(store objstore.Store) (Swapped, error) {
		data, err := json.MarshalIndent(restore.Kept{
			Server: in.Plan.Server, Database: restore.Named{Name: in.Plan.Kept, Oid: in.Plan.Live.Oid}, Replaced: time.Now().UTC(), RunID: in.Copy.RunID, Backup: in.Copy.BackupID,
		}, "", "  ")
		if err != nil {
			return Swapped{}, err
		}
		key := format.KeptKey(in.Copy.Target.Name, in.Plan.Server, in.Plan.Live.Oid, in.Plan.Kept)
		if err := store.Replace(ctx, key, data); err != nil {
			return Swapped{}, err
		}
		done, err := in.Plan.Apply(ctx, in.Copy.built())
		if failure.Is(err, failure.PlanVoid) {
			return Swapped{}, errors.Join(err, store.Delete(ctx, key)) // nothing has that name
		}
		if err != nil {
			return Swapped{}, err
		}
		// What the copy's note is for is over. Left where it cannot be removed, it speaks of nothing; the run
		// must not wait, and could then be given up, as if the database were not replaced.
		_ = a.forget(ctx, store, in.Copy)
		return Swapped{Ended: done.Ended, ClosedSeconds: done.Closed.Seconds()}, nil
	})
}

// IsSwapped asks the server whether the copy is in the live database's place.
func (a *Activities) IsSwapped(ctx context.Context, in SwapOrder) (bool, error) {
	return in.Plan.Done(ctx, in.Copy.built())
}

// DropReplaced drops the target's databases that were replaced long enough ago, and returns their names.
// One that has another name by now is somebody's, and stays.
func (a *Activities) DropReplaced(ctx context.Context, in DropRequest) ([]string, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) ([]string, error) {
		own, err := in.Target.source().Database()
		if err != nil {
			return nil, err
		}
		names, keys := []string{}, []string(nil)
		err = store.List(ctx, format.ReplacedPrefix(in.Target.Name), func(i objstore.Info) error {
			keys = append(keys, i.Key)
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			data, err := store.Read(ctx, key, maxReplaced)
			if errors.Is(err, objstore.ErrNotExist) {
				continue // a twin was faster
			}
			if err != nil {
				return names, err
			}
			var kept restore.Kept
			if json.Unmarshal(data, &kept) != nil || kept.Replaced.IsZero() || !kept.Replaced.Before(in.Before) {
				continue
			}
			if in.DryRun {
				names = append(names, kept.Database.Name)
				continue
			}
			if kept.Database.Name == own { // somebody lives in it
				continue
			}
			gone, err := restore.DropKept(ctx, in.Target.source(), kept)
			if err != nil {
				return names, err
			}
			if gone {
				names = append(names, kept.Database.Name)
				if err := store.Delete(ctx, key); err != nil {
					return names, err
				}
			}
		}
		return names, nil
	})
}
