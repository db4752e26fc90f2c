package kubernetes

import (
	"context"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/ownpod"
)

// The activity types of ValidateNetwork.
const (
	PlanNetwork  = "PlanNetworkCheck"
	ProbeNetwork = "ProbeNetwork"
	RemoveProbes = "RemoveNetworkProbes"
)

// proberCommand and readerCommand are Upkeep's own program in its image.
var (
	proberCommand = []string{"upkeep", "probe", "--"}
	readerCommand = []string{"upkeep", "processes", "--"}
)

// ProbeOrder says whose probes, and where.
type ProbeOrder struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	RunID      string             `json:"runId"`
}

// ProbeRequest is a plan whose connections are to be tried.
type ProbeRequest struct {
	ProbeOrder
	Plan netcheck.Plan `json:"plan"`
}

// PlanNetwork reads policies and pods, and says what is expected and what to try. It only gets and lists.
func (a *Activities) PlanNetwork(ctx context.Context, in ProbeOrder) (netcheck.Plan, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return netcheck.Plan{}, err
	}
	state, err := netcheck.Look(ctx, c, in.Kubernetes.Network)
	if err != nil {
		return netcheck.Plan{}, err
	}
	return netcheck.Make(state, in.Kubernetes.Network), nil
}

// ProbeNetwork tries the plan's connections from pods that stand for its sources, and judges. What ended runs
// have left of such pods is cleared away before.
func (a *Activities) ProbeNetwork(ctx context.Context, in ProbeRequest) ([]netcheck.Finding, error) {
	if len(in.Plan.Sources) == 0 {
		return netcheck.Judge(in.Plan, nil), nil
	}
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := ownpod.Reap(ctx, c, a.Realm, a.Ended); err != nil {
		return nil, err
	}
	probes := make([]netprobe.Probe, len(in.Plan.Sources))
	for i, s := range in.Plan.Sources {
		probes[i] = netprobe.Probe{Labels: s.Labels, To: s.To}
	}
	found, err := netprobe.Run(ctx, c, netprobe.Options{
		RunID: in.RunID, Realm: a.Realm, Image: in.Kubernetes.Network.Prober.Image, Command: proberCommand,
	}, probes)
	if err != nil {
		return nil, err
	}
	return netcheck.Judge(in.Plan, found), nil
}

// RemoveProbes removes the run's pods, those that read among them; done twice, it finds it done.
func (a *Activities) RemoveProbes(ctx context.Context, in ProbeOrder) error {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return err
	}
	return ownpod.Remove(ctx, c, a.Realm, in.RunID)
}
