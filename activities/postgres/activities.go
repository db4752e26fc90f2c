package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// Activities touch PostgreSQL servers and the store that backups are in.
type Activities struct {
	// Version of Upkeep, for manifests.
	Version string
	// Scratch holds the worker's private scratch servers.
	Scratch *Scratch
	// Realm tells the Temporal namespace whose runs these are from every other that uses the store.
	Realm string
	// Ended reports whether the run of a workflow id is over.
	Ended func(ctx context.Context, runID string) (bool, error)
}

// source is the target's database.
func (t Target) source() postgres.Config {
	return t.Kubernetes.Postgres(t.DatabaseURL, t.DatabaseIn, t.Password, "upkeep")
}

func (t Target) options(store objstore.Store, backupID, version string) backup.Options {
	return backup.Options{
		Source: t.source(), Store: store, Target: t.Name, BackupID: backupID, Connections: t.Connections, Engine: version, Keys: t.keys(store),
	}
}

// keys are the target's repository keys.
func (t Target) keys(store objstore.Store) *keyring.Ring {
	return t.Encryption.Ring(store, t.Name)
}

// PlanBackup looks at the database as a backup would.
func (a *Activities) PlanBackup(ctx context.Context, in BackupRequest) (BackupPlan, error) {
	p, err := backup.Plan(ctx, in.Target.options(nil, in.BackupID, a.Version))
	if err != nil {
		return BackupPlan{}, err
	}
	return BackupPlan{
		Database: p.Database.Name, ServerVersion: p.Server.Version, Tables: p.Tables, EstimatedRows: p.Rows,
		EstimatedBytes: p.Database.SizeBytes, LeftOut: p.LeftOut, Elsewhere: p.Elsewhere,
	}, nil
}

// TakeBackup takes the backup of the request's id, once.
func (a *Activities) TakeBackup(ctx context.Context, in BackupRequest) (BackupSummary, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (BackupSummary, error) {
		m, err := backup.Take(ctx, in.Target.options(store, in.BackupID, a.Version))
		if err != nil {
			return BackupSummary{}, err
		}
		return summarise(m), nil
	})
}

// FindBackup finds a backup by its id, or the newest.
func (a *Activities) FindBackup(ctx context.Context, in FindRequest) (BackupSummary, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (BackupSummary, error) {
		if in.Backup == Proven {
			id, err := catalog.NewestProvenID(ctx, store, in.Target.Name)
			if err != nil {
				return BackupSummary{}, err
			}
			if id == "" {
				return BackupSummary{}, failure.New(failure.UnknownBackup, "no backup of target %s is proven", in.Target.Name).
					Do("prove one with VerifyBackup, or name one, or %s, yourself", catalog.Latest)
			}
			in.Backup = id
		}
		m, err := catalog.Load(ctx, store, in.Target.Name, in.Backup, in.Target.keys(store))
		if failure.Is(err, failure.NoIdentity) {
			return closed(ctx, store, in, err)
		}
		if err != nil {
			return BackupSummary{}, nearest(ctx, store, in, err)
		}
		return summarise(m), nil
	})
}

// closed is what can be said of an encrypted backup without its key.
func closed(ctx context.Context, store objstore.Store, in FindRequest, why error) (BackupSummary, error) {
	i, err := catalog.LoadIndex(ctx, store, in.Target.Name, in.Backup, in.Target.keys(store))
	if err != nil {
		return BackupSummary{}, err
	}
	return BackupSummary{
		BackupID: i.Backup, SnapshotAt: i.SnapshotAt, BytesTotal: i.Size(), Key: i.Key, Closed: why.Error(), LeftOut: []string{}, Elsewhere: []string{},
	}, nil
}

// nearest adds the id that was probably meant to the failure of one that is not there.
func nearest(ctx context.Context, store objstore.Store, in FindRequest, err error) error {
	f, ok := failure.As(err)
	if !ok || f.Code != failure.UnknownBackup || in.Backup == catalog.Latest {
		return err
	}
	ids, listing := catalog.IDs(ctx, store, in.Target.Name)
	if listing != nil {
		return err // the first error counts
	}
	if near := strictjson.Nearest(in.Backup, ids); near != "" {
		return f.Do("did you mean %q? %s", near, f.Remedy)
	}
	return err
}

func summarise(m *format.Manifest) BackupSummary {
	return BackupSummary{
		BackupID: m.Backup, Database: m.Database.Name, SnapshotAt: m.SnapshotAt, Tables: m.Totals.Tables, Rows: m.Totals.Rows,
		BytesRead: m.Totals.BytesRead, BytesStored: m.Totals.BytesStored, BytesTotal: m.Totals.BytesTotal, Scope: m.Scope,
		LeftOut: m.LeftOut, Elsewhere: m.Elsewhere, VersionNum: m.Server.VersionNum, Key: m.Key,
	}
}

// CheckStored compares every file of a backup with its manifest.
func (a *Activities) CheckStored(ctx context.Context, in BackupRequest) (Proof, error) {
	return a.check(ctx, in, verify.Stored)
}

// CheckDecoded also unpacks every chunk and counts its rows.
func (a *Activities) CheckDecoded(ctx context.Context, in BackupRequest) (Proof, error) {
	return a.check(ctx, in, verify.Decoded)
}

func (a *Activities) check(ctx context.Context, in BackupRequest, look func(context.Context, objstore.Store, string, string, *keyring.Ring) ([]run.Check, error)) (Proof, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (Proof, error) {
		checks, err := look(ctx, store, in.Target.Name, in.BackupID, in.Target.keys(store))
		return Proof{Verdict: proof.Verdict(checks), Checks: checks}, err
	})
}

// PlanRestore says what a restore would do and refuses what it could not do.
func (a *Activities) PlanRestore(ctx context.Context, in Copy) (RestorePlan, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (RestorePlan, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return RestorePlan{}, err
		}
		p, err := restore.Plan(ctx, o)
		if err != nil {
			return RestorePlan{}, err
		}
		return RestorePlan{Copy: in, Rows: p.Rows, Tables: p.Tables, Bytes: p.Bytes, NeededBytes: p.NeededBytes, FreeBytes: -1,
			MissingRoles: p.MissingRoles, ServerVersion: p.Server.Version}, nil
	})
}

// PrepareScratch finds the place for a drill's copy: the scratch server of the configuration, a pod, or a
// private one, which this worker starts and holds.
func (a *Activities) PrepareScratch(ctx context.Context, in Copy) (Place, error) {
	if in.Target.ScratchURL != "" {
		return Place{Kind: PlaceServer, Queue: run.DatabaseQueue}, nil
	}
	return withStore(ctx, in.Target, func(store objstore.Store) (Place, error) {
		m, err := catalog.Load(ctx, store, in.Target.Name, in.BackupID, in.Target.keys(store))
		if err != nil {
			return Place{}, err
		}
		if in.Target.ScratchPod != nil {
			return a.preparePod(ctx, in, m)
		}
		place := Place{Kind: PlacePrivate, Queue: a.Scratch.Queue, Scratch: in.Database + "-" + in.Owner}
		in.Place = place
		server, err := a.Scratch.ensure(ctx, in, m)
		if err == nil {
			place.Remark = server.Remark()
		}
		return place, err
	})
}

// CreateDatabase makes the empty copy.
func (a *Activities) CreateDatabase(ctx context.Context, in Copy) (Copy, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (Copy, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return in, err
		}
		if in.Place.private() {
			in.Oid, err = restore.Create(ctx, o)
			return in, err
		}
		if err := a.remember(ctx, store, in); err != nil {
			return in, err
		}
		return createRemembered(ctx, store, o, in)
	})
}

// LoadRows loads whatever of the backup the copy lacks.
func (a *Activities) LoadRows(ctx context.Context, in Copy) (LoadResult, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (LoadResult, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return LoadResult{}, err
		}
		began := time.Now()
		r, err := restore.Load(ctx, o)
		return LoadResult{Rows: r.Rows, Bytes: r.Bytes, Chunks: r.Chunks, Skipped: r.Skipped, Seconds: time.Since(began).Seconds()}, lost(in, err)
	})
}

// Compare holds the copy against the backup.
func (a *Activities) Compare(ctx context.Context, in Copy) (Proof, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (Proof, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return Proof{}, err
		}
		archive, err := readChunk(ctx, o, o.Manifest.Schema.Archive)
		if err != nil {
			return Proof{}, err
		}
		checks, err := proof.Compare(ctx, proof.Options{
			Copy: o.Server, Database: in.Database, Manifest: o.Manifest, Archive: archive, Connections: in.Target.Connections,
			Amcheck: in.Place.Kind != PlaceTarget, Properties: true,
		})
		if err == nil && proof.Verdict(checks) != run.Pass { // what a crash emptied is no fault of the backup
			err = restore.Survived(ctx, o)
		}
		if !in.Target.keys(store).Ours(o.Manifest.Key) {
			checks = append(checks, verify.Foreign())
		}
		found := Proof{Verdict: proof.Verdict(checks), Checks: checks}
		if err != nil || found.Verdict == run.NotProven {
			return found, lost(in, err)
		}
		// What is proven is known to those who decide which backups stay.
		return found, catalog.SetProof(ctx, store, in.Target.Name, catalog.Proof{Backup: in.BackupID, Verdict: found.Verdict, At: time.Now().UTC(), RunID: in.RunID})
	})
}

// lost tells of a copy that is there no more: a worker came back without its private server's folder,
// the machine was restarted, after which nothing in a private server can be trusted, or somebody
// dropped the half database.
func lost(in Copy, err error) error {
	if !failure.Is(err, failure.MissingDatabase) {
		return err
	}
	return failure.New(failure.CopyLost, "the copy %q is gone from its server", in.Database)
}

// Publish gives the copy its final name.
func (a *Activities) Publish(ctx context.Context, in Copy) (Copy, error) {
	return withStore(ctx, in.Target, func(store objstore.Store) (Copy, error) {
		o, err := a.restoreOptions(ctx, store, in)
		if err != nil {
			return in, err
		}
		if err := restore.Publish(ctx, o); err != nil {
			return in, err
		}
		return in, a.forget(ctx, store, in)
	})
}

// DropCopy removes a half database, or the private server that it is on.
func (a *Activities) DropCopy(ctx context.Context, in Copy) error {
	switch in.Place.Kind {
	case "":
		return nil // no place was found for it, so there is nothing
	case PlacePrivate:
		return a.Scratch.remove(ctx, in)
	case PlacePod:
		return removePod(ctx, in)
	}
	_, err := withStore(ctx, in.Target, func(store objstore.Store) (struct{}, error) {
		return struct{}{}, a.removeCopy(ctx, store, in)
	})
	return err
}

// restoreOptions finds the copy's place. A private server that this worker lost with its last process
// is started again on its folder.
func (a *Activities) restoreOptions(ctx context.Context, store objstore.Store, in Copy) (restore.Options, error) {
	keys := in.Target.keys(store)
	m, err := catalog.Load(ctx, store, in.Target.Name, in.BackupID, keys)
	if err != nil {
		return restore.Options{}, err
	}
	key, err := keys.Key(ctx, m.Key)
	if err != nil {
		return restore.Options{}, err
	}
	o := restore.Options{
		Manifest: m, Database: in.Database, Final: in.Final, Oid: in.Oid, Owner: in.Owner, Connections: in.Target.Connections,
		Open: func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
			return chunk.Open(ctx, store, m.Target, c, key)
		},
	}
	switch in.Place.Kind {
	case PlaceTarget, PlaceServer:
		o.Server = in.server()
	case PlacePrivate:
		server, err := a.Scratch.ensure(ctx, in, m)
		if err != nil {
			return o, err
		}
		o.Server, o.Private = postgres.Config{URL: server.DSN("", "postgres"), App: "upkeep", Untrusted: true}, true
	case PlacePod:
		if o.Server, err = a.findPod(ctx, in, m); err != nil {
			return o, err
		}
		o.Private = true
	default:
		return o, fmt.Errorf("the copy's place %q is unknown", in.Place.Kind)
	}
	return o, nil
}

func readChunk(ctx context.Context, o restore.Options, c format.Chunk) ([]byte, error) {
	r, err := o.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r) // bounded by the chunk's declared size
	return data, errors.Join(err, r.Close())
}

// withStore opens the target's store for one activity.
func withStore[T any](ctx context.Context, t Target, work func(objstore.Store) (T, error)) (result T, err error) {
	store, err := objstore.Open(ctx, t.Store)
	if err != nil {
		return result, err
	}
	defer func() {
		if closed := store.Close(); err == nil && closed != nil {
			err = failure.New(failure.StoreUnreachable, "the store did not close").Because(closed)
		}
	}()
	return work(store)
}
