package postgres

import (
	"context"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/scratchpod"
)

// private reports whether the copy is on a server of Upkeep's own, which is thrown away with it.
func (p Place) private() bool { return p.Kind == PlacePrivate || p.Kind == PlacePod }

func (a *Activities) podOptions(in Copy, m *format.Manifest) scratchpod.Options {
	return scratchpod.Options{
		Key: in.Place.Scratch, RunID: in.RunID, Realm: a.Realm, Database: in.Target.DatabaseIn, Image: in.Target.ScratchPod.Image,
		RunAsUser: in.Target.ScratchPod.RunAsUser, Superuser: restore.ScratchSuperuser(m), Bytes: restore.NeededBytes(m),
	}
}

// preparePod starts the copy's server in a pod, and says so where the pod could connect to something.
func (a *Activities) preparePod(ctx context.Context, in Copy, m *format.Manifest) (Place, error) {
	cluster, err := in.Target.Kubernetes.Connect(ctx)
	if err != nil {
		return Place{}, err
	}
	in.Place = Place{Kind: PlacePod, Queue: run.DatabaseQueue, Scratch: in.Target.Name + "/" + in.Database + "/" + in.Owner}
	server, err := scratchpod.Ensure(ctx, cluster, a.podOptions(in, m))
	if err != nil {
		return Place{}, err
	}
	in.Place.Remark, err = scratchpod.Egress(ctx, server)
	return in.Place, err
}

func (a *Activities) findPod(ctx context.Context, in Copy, m *format.Manifest) (postgres.Config, error) {
	cluster, err := in.Target.Kubernetes.Connect(ctx)
	if err != nil {
		return postgres.Config{}, err
	}
	return scratchpod.Find(ctx, cluster, a.podOptions(in, m))
}

func removePod(ctx context.Context, in Copy) error {
	cluster, err := in.Target.Kubernetes.Connect(ctx)
	if err != nil {
		return err
	}
	return scratchpod.Remove(ctx, cluster, in.Place.Scratch, in.RunID)
}

// ReapPods removes the scratch servers in pods of ended runs. Ended reports whether the run of a workflow id
// is over; what it cannot tell stays.
func (a *Activities) ReapPods(ctx context.Context, t *config.Target, ended func(ctx context.Context, runID string) (bool, error)) error {
	if t.Database.Scratch.Runner != config.RunnerPod {
		return nil
	}
	cluster, err := t.Kubernetes.Connect(ctx)
	if err != nil {
		return err
	}
	return scratchpod.Reap(ctx, cluster, a.Realm, ended)
}
