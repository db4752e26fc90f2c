package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// maxCopyNote bounds a note about a copy, in bytes.
const maxCopyNote = 64 << 10

// copyNote says in the store which run builds a copy on somebody's server, so that any worker can
// remove the half of it when the run is ended from outside and cannot undo.
type copyNote struct {
	Realm string `json:"realm"` // whose runs these are
	Copy  Copy   `json:"copy"`
}

// remember writes the note before there is anything to remove: with it, the copy is this run's. A copy
// that another run builds is left to it; that of a run which has ended is taken over.
func (a *Activities) remember(ctx context.Context, store objstore.Store, in Copy) error {
	data, err := json.Marshal(copyNote{Realm: a.Realm, Copy: in})
	if err != nil {
		return err
	}
	key := format.CopyKey(in.Target.Name, in.Database)
	if err := store.Create(ctx, key, data); !errors.Is(err, objstore.ErrExist) {
		return err
	}
	n, err := readNote(ctx, store, key)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return failure.New(failure.Fenced, "another run has just let go of the copy %q", in.Database)
	case err != nil:
		return err
	case n.Copy.Owner == in.Owner:
		return nil
	case n.Realm == a.Realm && n.Copy.RunID != in.RunID: // of two runs with one id, the other has ended
		over, err := a.Ended(ctx, n.Copy.RunID)
		if err != nil {
			return failure.New(failure.Internal, "could not see how run %s stands, which builds the same copy", n.Copy.RunID).Because(err).
				Do("see that Temporal answers the worker, then resume the run")
		}
		if !over {
			return failure.New(failure.RestoreBusy, "run %s restores the same backup under the same name", n.Copy.RunID).
				Do("wait for it, or end it with: upkeep cancel %s; then resume this run, or abandon it", n.Copy.RunID)
		}
	}
	return store.Replace(ctx, key, data)
}

// createRemembered makes the database that the note speaks of. An attempt that was frozen after it had
// written the note can come when the copy is published or dropped and the note gone: what it makes then
// would be nobody's, so it is dropped at once. Where the note is another run's, so is the database.
func createRemembered(ctx context.Context, store objstore.Store, o restore.Options, in Copy) (Copy, error) {
	var err error
	if in.Oid, err = restore.Create(ctx, o); err != nil {
		return in, err
	}
	n, err := readNote(ctx, store, format.CopyKey(in.Target.Name, in.Database))
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		o.Oid = in.Oid
		if err := restore.Drop(ctx, o); err != nil {
			return in, err
		}
		return in, failure.New(failure.Fenced, "the copy %q was published or dropped while a late attempt made it", in.Database)
	case err == nil && n.Copy.Owner != in.Owner:
		return in, failure.New(failure.Fenced, "run %s has taken over the copy %q", n.Copy.RunID, in.Database)
	}
	return in, err
}

// forget removes the note when the copy is gone or published, unless another run has taken it over.
func (a *Activities) forget(ctx context.Context, store objstore.Store, in Copy) error {
	key := format.CopyKey(in.Target.Name, in.Database)
	n, err := readNote(ctx, store, key)
	if errors.Is(err, objstore.ErrNotExist) || err == nil && n.Copy.Owner != in.Owner {
		return nil
	}
	if err != nil {
		return err
	}
	return store.Delete(ctx, key)
}

func readNote(ctx context.Context, store objstore.Store, key string) (copyNote, error) {
	var n copyNote
	data, err := store.Read(ctx, key, maxCopyNote)
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("the note %s cannot be read: %w", key, err)
	}
	return n, nil
}

// removeCopy drops a half database and forgets it. One that is another run's by its note stays.
func (a *Activities) removeCopy(ctx context.Context, store objstore.Store, in Copy) error {
	n, err := readNote(ctx, store, format.CopyKey(in.Target.Name, in.Database))
	if errors.Is(err, objstore.ErrNotExist) || err == nil && n.Copy.Owner != in.Owner {
		return nil
	}
	if err != nil {
		return err
	}
	err = restore.Drop(ctx, in.built())
	if err != nil {
		return err
	}
	return a.forget(ctx, store, in)
}

// server is where the copy is, when that is not a private one.
func (c Copy) server() postgres.Config {
	if c.Place.Kind == PlaceTarget {
		return c.Target.source()
	}
	return c.Target.Kubernetes.Postgres(c.Target.ScratchURL, kube.Endpoint{}, c.Target.ScratchPass, "upkeep")
}

// ReapCopies removes the half databases of a target's ended runs. Ended reports whether the run of a
// workflow id is over; what it cannot tell stays, and so do the copies of other realms' runs.
func (a *Activities) ReapCopies(ctx context.Context, store objstore.Store, target string, ended func(ctx context.Context, runID string) (bool, error)) error {
	var keys []string
	err := store.List(ctx, format.CopiesPrefix(target), func(i objstore.Info) error {
		if strings.HasSuffix(i.Key, ".json") {
			keys = append(keys, i.Key)
		}
		return nil
	})
	for _, key := range keys {
		n, e := readNote(ctx, store, key)
		over := false
		if e == nil && n.Realm == a.Realm && n.Copy.Target.Name == target {
			over, e = ended(ctx, n.Copy.RunID)
		}
		if e == nil && over {
			e = a.removeCopy(ctx, store, n.Copy)
		}
		if e != nil && !errors.Is(e, objstore.ErrNotExist) { // another worker may be faster
			err = errors.Join(err, e)
		}
	}
	return err
}
