package kubernetes

import (
	"context"
	"errors"

	"k8s.io/client-go/dynamic"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

// The activity types by which those are kept from acting who would take a change back.
const (
	SuspendOwners = "SuspendOwners"
	ResumeOwners  = "ResumeOwners"
)

// OwnersOrder is owners to suspend, or to let act again.
type OwnersOrder struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Owners     []ownership.Image  `json:"owners"`
	Order      held.Order         `json:"order"`
}

func (o OwnersOrder) client(ctx context.Context) (dynamic.Interface, error) {
	c, err := o.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, err
	}
	d, err := dynamic.NewForConfig(c.Config)
	return d, kube.Classify(err, "make a client of the cluster")
}

// SuspendOwners keeps owners from acting, and waits for a while until they have ended what they had begun.
// It returns who has not.
func (a *Activities) SuspendOwners(ctx context.Context, in OwnersOrder) (remarks []string, err error) {
	if len(in.Owners) == 0 {
		return nil, nil
	}
	client, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range in.Owners {
		if err := ownership.Suspend(ctx, client, o, in.Order); err != nil {
			return nil, err
		}
	}
	for _, o := range in.Owners {
		left, err := settle(ctx, "waiting for an owner to end its work", func() (string, error) { return ownership.Busy(ctx, client, o) })
		if err != nil {
			return nil, err
		}
		if left != "" {
			remarks = append(remarks, left+", and may take back what is changed")
		}
	}
	return remarks, nil
}

// ResumeOwners lets owners act as before, and returns what somebody changed meanwhile. It goes on after one
// that fails.
func (a *Activities) ResumeOwners(ctx context.Context, in OwnersOrder) (remarks []string, err error) {
	if len(in.Owners) == 0 {
		return nil, nil
	}
	client, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range in.Owners {
		remark, failed := ownership.Resume(ctx, client, o, in.Order)
		if err = errors.Join(err, failed); remark != "" {
			remarks = append(remarks, remark)
		}
	}
	return remarks, err
}
