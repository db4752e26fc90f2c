package kubernetes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// The activity types of RotateSecret that touch the cluster.
const (
	LookAtSecret      = "LookAtSecret"
	MakePending       = "MakePendingSecret"
	SwitchSecret      = "SwitchSecret"
	RestartConsumer   = "RestartConsumer"
	SealRotation      = "SealRotation"
	FinishRotation    = "FinishRotation"
	RestoreSecret     = "RestoreSecret"
	RestoreConsumers  = "RestoreConsumers"
	RemovePending     = "RemovePendingSecret"
	restartingByNotes = "restart the programs"
)

// RotationRequest asks what a rotation would do.
type RotationRequest struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Target     string             `json:"target"`
	Store      string             `json:"store"`
	Key        string             `json:"key"` // of the run
	Entry      rotation.Entry     `json:"entry"`
	Database   kube.Endpoint      `json:"database"` // what serves it is not restarted; zero: it is in no pod
	Own        []config.Secret    `json:"own"`      // that Upkeep itself logs in with
}

// RotationOrder is a rotation to do, or a part of it. It names no value.
type RotationOrder struct {
	Kubernetes *config.Kubernetes  `json:"kubernetes"`
	Order      rotation.Order      `json:"order"`
	Consumers  []rotation.Consumer `json:"consumers,omitempty"` // to restart
	Wait       time.Duration       `json:"wait,omitempty"`      // for each of them
}

func secrets(ctx context.Context, k *config.Kubernetes) (rotation.Secrets, error) {
	c, err := k.Connect(ctx)
	return rotation.Secrets{Cluster: c}, err
}

// LookAtSecret says what a rotation would do in the cluster. It only gets and lists, and refuses what must
// not be done.
func (a *Activities) LookAtSecret(ctx context.Context, in RotationRequest) (rotation.Plan, error) {
	s, err := secrets(ctx, in.Kubernetes)
	if err != nil {
		return rotation.Plan{}, err
	}
	var serves *corev1.Pod
	if in.Database != (kube.Endpoint{}) {
		if serves, _, err = s.Cluster.Pod(ctx, in.Database); err != nil {
			return rotation.Plan{}, err
		}
	}
	if err := there(ctx, s.Cluster, in.Kubernetes.Release); err != nil {
		return rotation.Plan{}, err
	}
	around := rotation.Surroundings{Target: in.Target, Key: in.Key, Self: itself.Find(a.Temporal, in.Store), Serves: serves, Owners: in.Kubernetes.Owners}
	for _, own := range in.Own {
		around.Own = append(around.Own, own.Secret.Name+"/"+own.Secret.Key)
	}
	return s.Look(ctx, in.Entry, around)
}

// order is an activity that does a part of an order.
func order[T any](ctx context.Context, in RotationOrder, work func(rotation.Secrets) (T, error)) (T, error) {
	s, err := secrets(ctx, in.Kubernetes)
	if err != nil {
		var none T
		return none, err
	}
	return work(s)
}

type nothing struct{}

// MakePending makes the new password and keeps it in the pending Secret.
func (a *Activities) MakePending(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) { return nothing{}, s.MakePending(ctx, in.Order) })
	return err
}

// SwitchSecret writes the new password into the programs' Secret.
func (a *Activities) SwitchSecret(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) { return nothing{}, s.Switch(ctx, in.Order) })
	return err
}

// RestartConsumer restarts the workloads of the order, one after the other, and waits until each runs.
func (a *Activities) RestartConsumer(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) {
		for _, c := range in.Consumers {
			if err := s.Roll(ctx, in.Order, c, in.Wait, telling(ctx)); err != nil {
				return nothing{}, err
			}
		}
		return nothing{}, nil
	})
	return err
}

// SealRotation says, on the programs' Secret, that nothing is undone from now on.
func (a *Activities) SealRotation(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) { return nothing{}, s.Seal(ctx, in.Order) })
	return err
}

// FinishRotation says there that all is done, and removes the pending Secret.
func (a *Activities) FinishRotation(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) { return nothing{}, s.Finish(ctx, in.Order) })
	return err
}

// RestoreSecret gives the programs' Secret back what it had, and says what somebody has changed meanwhile.
func (a *Activities) RestoreSecret(ctx context.Context, in RotationOrder) (remark string, err error) {
	return order(ctx, in, func(s rotation.Secrets) (string, error) { return s.Restore(ctx, in.Order) })
}

// RestoreConsumers restarts the workloads once more, where the new password had been in the Secret.
func (a *Activities) RestoreConsumers(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) {
		return nothing{}, s.RollBack(ctx, in.Order, in.Consumers, in.Wait, telling(ctx))
	})
	return err
}

// RemovePending removes the pending Secret of a rotation that is over.
func (a *Activities) RemovePending(ctx context.Context, in RotationOrder) error {
	_, err := order(ctx, in, func(s rotation.Secrets) (nothing, error) { return nothing{}, s.RemovePending(ctx, in.Order) })
	return err
}

func telling(ctx context.Context) func(string) {
	return func(note string) { progress.Report(ctx, progress.Progress{Phase: restartingByNotes, Note: note}) }
}
