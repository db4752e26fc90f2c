package kubernetes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/pace"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/quiesce"
)

// The activity types by which the clients of a database are stopped and started.
const (
	FindService    = "FindService"
	PlanStop       = "PlanStop"
	StopClients    = "StopClients"
	StartClients   = "StartClients"
	ProveRecovered = "ProveRecovered"
)

const (
	// settleWithin is how long pods may take to end, or to be ready, in one attempt.
	settleWithin = 100 * time.Second
	// settleEvery is the most that passes between looks at them.
	settleEvery = time.Second
)

// FindRequest says what must be in a target's namespace.
type FindRequest struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Database   kube.Endpoint      `json:"database"` // zero: it is in no pod
}

// StopRequest asks how the clients of a database would be stopped.
type StopRequest struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Database   kube.Endpoint      `json:"database"`  // what serves it is no client; zero: it is in no pod
	Addresses  []string           `json:"addresses"` // of its sessions
	Clients    []quiesce.Ref      `json:"clients"`   // written out; else those of the configuration, or by their addresses
	Store      string             `json:"store"`
	Target     string             `json:"target"` // whose earlier runs may have left something stopped
}

// StopPlan is what would be stopped, and what cannot be.
type StopPlan struct {
	Clients []quiesce.Client   `json:"clients"` // in the order in which they start
	Others  []string           `json:"others"`  // who else has sessions, in words
	Owners  ownership.Measures `json:"owners,omitzero"`
}

// StopOrder is clients to stop or start, in the order in which they start.
type StopOrder struct {
	Kubernetes *config.Kubernetes `json:"kubernetes"`
	Clients    []quiesce.Client   `json:"clients"`
	Order      held.Order         `json:"order"`
	// Await waits, after a start, until each is ready before the next is started.
	Await bool `json:"await,omitempty"`
}

// FindService refuses a namespace in which the target's release is not, or the Service of its database: the
// target names another's. It is asked first, since a Secret that is missing there would be waited for.
func (a *Activities) FindService(ctx context.Context, in FindRequest) error {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return err
	}
	if err := there(ctx, c, in.Kubernetes.Release); err != nil || in.Database.Service == "" {
		return err
	}
	return c.FindService(ctx, in.Database.Service)
}

// PlanStop says which workloads use the database and how they are. It changes nothing, and refuses what
// must not be stopped.
func (a *Activities) PlanStop(ctx context.Context, in StopRequest) (StopPlan, error) {
	plan := StopPlan{Others: []string{}}
	s, err := stopper(ctx, in.Kubernetes)
	if err != nil {
		return plan, err
	}
	var serves *corev1.Pod
	if in.Database != (kube.Endpoint{}) {
		if serves, _, err = s.Cluster.Pod(ctx, in.Database); err != nil {
			return plan, err
		}
	}
	if err := there(ctx, s.Cluster, in.Kubernetes.Release); err != nil {
		return plan, err
	}
	found, err := s.Users(ctx, in.Addresses, serves)
	if err != nil {
		return plan, err
	}
	plan.Others = found.Others
	refs := in.Clients
	if len(refs) == 0 {
		for _, c := range in.Kubernetes.Clients {
			refs = append(refs, quiesce.Ref{Kind: c.Kind, Name: c.Name})
		}
	}
	switch {
	case len(refs) > 0: // whoever wrote them knows who else there is
		for _, f := range found.Clients {
			if !slices.Contains(refs, f) {
				plan.Others = append(plan.Others, f.String()+" uses the database and is not among the clients that are written out")
			}
		}
		plan.Others = append(plan.Others, found.Stay...)
	case len(found.Stay) > 0:
		return plan, failure.New(failure.NotStoppable, "what uses the database cannot all be stopped: %s", strings.Join(found.Stay, "; ")).
			Do("end it yourself (kubectl delete pod) and start a new run; or write the clients out that are to be stopped (clients in the input, or kubernetes.clients in upkeep.yaml), and only the sessions of the rest are ended")
	default:
		refs = found.Clients
	}
	left, err := s.Left(ctx, in.Target)
	if err != nil {
		return plan, err
	}
	for _, l := range left {
		if !slices.Contains(refs, l) {
			refs = append(refs, l)
		}
	}
	plan.Clients, plan.Owners, err = s.Look(ctx, refs, itself.Find(a.Temporal, in.Store), serves, in.Kubernetes.Owners, time.Now())
	return plan, err
}

// there refuses a release that is not there before anything is touched, and not when its service is asked.
func there(ctx context.Context, c *kube.Cluster, release string) error {
	if release == "" {
		return nil
	}
	_, err := health.Observe(ctx, c, health.Scope{Release: release})
	return err
}

func stopper(ctx context.Context, k *config.Kubernetes) (*quiesce.Stopper, error) {
	c, err := k.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return quiesce.New(c)
}

// StopClients stops the clients, the last to start first, and waits until none of their pods runs.
func (a *Activities) StopClients(ctx context.Context, in StopOrder) error {
	s, err := stopper(ctx, in.Kubernetes)
	if err != nil {
		return err
	}
	left, err := settle(ctx, "waiting for pods to end", func() (string, error) {
		// At each look: an owner that was suspended may have been at its work, and have started one again.
		for i := len(in.Clients) - 1; i >= 0; i-- {
			if err := s.Stop(ctx, in.Clients[i], in.Order); err != nil {
				return "", err
			}
		}
		return s.Running(ctx, in.Clients)
	})
	if err == nil && left != "" {
		err = failure.New(failure.LockHeld, "the clients of the database have not ended within %s: %s", settleWithin, left).
			Do("see why they stay (kubectl describe pod), then resume the run, or abandon it, and they are started again")
	}
	return err
}

// StartClients starts the clients in their order with what they had, and returns what somebody changed
// meanwhile. It goes on after one that fails, unless it is to wait for each.
func (a *Activities) StartClients(ctx context.Context, in StopOrder) (remarks []string, err error) {
	s, err := stopper(ctx, in.Kubernetes)
	if err != nil {
		return nil, err
	}
	for _, c := range in.Clients {
		remark, failed := s.Start(ctx, c, in.Order)
		if remark != "" {
			remarks = append(remarks, remark)
		}
		if failed == nil && in.Await {
			var left string
			left, failed = settle(ctx, "waiting for pods to be ready", func() (string, error) { return s.Unready(ctx, []quiesce.Client{c}) })
			if failed == nil && left != "" {
				failed = failure.New(failure.NotReady, "%s after it was started again", left).Do("see why (kubectl describe pod, kubectl logs); the data are restored, and what was is kept")
			}
		}
		if err = errors.Join(err, failed); failed != nil && in.Await {
			return remarks, err
		}
	}
	return remarks, err
}

// ProveRecovered looks whether the release is healthy: its workloads ready, and its probes answered
// through the application. It waits for a while until it is.
func (a *Activities) ProveRecovered(ctx context.Context, in StopOrder) (postgres.Proof, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return postgres.Proof{}, err
	}
	none := postgres.Proof{Verdict: run.NotProven, Checks: []run.Check{{Name: "service", Verdict: run.NotProven, Detail: "no release and no probes are configured (kubernetes.release, kubernetes.probes), so only readiness is known"}}}
	if in.Kubernetes.Release == "" || len(in.Kubernetes.Probes) == 0 {
		return none, nil
	}
	proof := none
	_, err = settle(ctx, "waiting for the service to answer", func() (string, error) {
		state, err := health.Observe(ctx, c, health.Scope{Release: in.Kubernetes.Release, Probes: in.Kubernetes.Probes})
		if err != nil {
			return "", err
		}
		verdict, problems := health.Judge(state)
		detail := health.Words(problems)
		if verdict == run.Pass {
			detail = "workloads ready, probes answered"
		}
		proof = postgres.Proof{Verdict: verdict, Checks: []run.Check{{Name: "service", Verdict: verdict, Detail: detail}}}
		if verdict == run.Fail {
			return detail, nil
		}
		return "", nil
	})
	return proof, err
}

// settle looks until there is nothing left, and returns what is left when the time is over.
func settle(ctx context.Context, phase string, look func() (left string, err error)) (string, error) {
	for began := time.Now(); ; {
		left, err := look()
		if err != nil || left == "" || time.Since(began) > settleWithin {
			return left, err
		}
		progress.Report(ctx, progress.Progress{Phase: phase, Note: strings.TrimSpace(left)})
		select {
		case <-ctx.Done():
			return left, ctx.Err()
		case <-time.After(pace.Next(began, settleEvery)):
		}
	}
}
