package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/keyring"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// The activity types of ContainIncident.
const (
	PlanContainment   = "PlanContainment"
	Contain           = "Contain"
	CheckContained    = "CheckContained"
	TryContained      = "TryContained"
	CollectEvidence   = "CollectEvidence"
	PlanQuarantineEnd = "PlanQuarantineEnd"
	EndQuarantine     = "EndQuarantine"
	LiftQuarantine    = "LiftQuarantine"

	PlanWithdrawal = "PlanAccessWithdrawal"
	Withdraw       = "WithdrawAccess"
	CheckAccess    = "CheckAccess"
	RenewAccounts  = "RenewAccounts"
	ReturnAccess   = "ReturnAccess"
)

// Incident is a case of a target.
type Incident struct {
	Kubernetes *config.Kubernetes  `json:"kubernetes"`
	Store      string              `json:"store"` // URL
	Suspects   quarantine.Suspects `json:"suspects"`
	Order      quarantine.Order    `json:"order"`
}

// ContainOrder is a plan to carry out.
type ContainOrder struct {
	Incident
	Plan quarantine.Plan `json:"plan"`
}

// EndRequest asks how a quarantine would end.
type EndRequest struct {
	ContainOrder
	Done   quarantine.Contained `json:"done"`
	Delete bool                 `json:"delete"`
	// Access is what was planned and taken of it; Back has it given back, Renew the accounts made anew, and Rotate
	// are the target's secrets that are rotated after that.
	Access   quarantine.AccessPlan `json:"access,omitzero"`
	Withdrew quarantine.Withdrawn  `json:"withdrew,omitzero"`
	Back     bool                  `json:"back,omitempty"`
	Renew    bool                  `json:"renew,omitempty"`
	Rotate   []string              `json:"rotate,omitempty"`
}

// TryOrder asks whether the network holds the suspects off.
type TryOrder struct {
	EndRequest
	RunID string `json:"runId"`
}

// EndOrder is the end of a quarantine to carry out.
type EndOrder struct {
	Incident
	Plan quarantine.ReleasePlan `json:"plan"`
}

// EvidenceOrder says of what evidence is kept, and in which folder of the store.
type EvidenceOrder struct {
	Incident
	Encryption *config.Encryption `json:"encryption,omitempty"`
	Pods       []evidence.Pod     `json:"pods"`
	RunID      string             `json:"runId"`
	Folder     string             `json:"folder"` // of the run
	At         time.Time          `json:"at"`
}

// Kept is evidence, and where it is.
type Kept struct {
	evidence.Head
	URL    string `json:"url"`
	Sealed bool   `json:"sealed,omitempty"`
}

func (in Incident) look(ctx context.Context, temporal string) (*kube.Cluster, quarantine.World, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return nil, quarantine.World{}, err
	}
	w, err := quarantine.Look(ctx, c, in.Suspects, in.Kubernetes.QuarantinePolicy(), itself.Find(temporal, in.Store))
	return c, w, err
}

// PlanContainment says which pods the suspects mean, and how they are cut off. It changes nothing.
func (a *Activities) PlanContainment(ctx context.Context, in Incident) (quarantine.Plan, error) {
	_, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return quarantine.Plan{}, err
	}
	return quarantine.Make(w, in.Suspects, in.Kubernetes.QuarantinePolicy(), in.Order.Case, time.Now())
}

// Contain cuts the suspects off.
func (a *Activities) Contain(ctx context.Context, in ContainOrder) (quarantine.Contained, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Contained{}, err
	}
	return quarantine.Contain(ctx, c, in.Plan, in.Order)
}

// CheckContained looks whether the suspects are cut off by all that the API server knows. Whether it is enforced no
// object says: TryContained tries it.
func (a *Activities) CheckContained(ctx context.Context, in EndRequest) (postgres.Proof, error) {
	_, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return postgres.Proof{}, err
	}
	proof := postgres.Proof{Verdict: run.Pass}
	add := func(name string, verdict run.Verdict, detail string) {
		proof.Checks = append(proof.Checks, run.Check{Name: name, Verdict: verdict, Detail: detail})
		proof.Verdict = proof.Verdict.And(verdict)
	}
	if open := quarantine.Open(w, in.Plan, in.Done); len(open) == 0 {
		add("policies", run.Pass, fmt.Sprintf("the API server has what denies %d pods everything, and no NetworkPolicy that lets them through", len(in.Done.Pods)))
	} else {
		add("policies", run.Fail, strings.Join(open, "; "))
	}
	if len(in.Plan.Foreign) > 0 {
		add("other kinds of policies", run.NotProven, "they may let through what a NetworkPolicy denies: "+strings.Join(in.Plan.Foreign, "; "))
	}
	for _, n := range in.Plan.Not {
		if n.Free {
			add("pod "+n.Pod.String(), run.NotProven, "it is not cut off: "+n.Why)
		}
	}
	return proof, nil
}

// TryContained tries whether the network holds the suspects off, from pods of Upkeep's own. What keeps them from
// running leaves it unproven, and is no error: nobody waits for a right or a quota.
func (a *Activities) TryContained(ctx context.Context, in TryOrder) ([]run.Check, error) {
	open := run.Check{
		Name: "connections that were open", Verdict: run.NotProven,
		Detail: "many networks leave them alive, and no pod of another's can see them: they may live until the pods are deleted",
	}
	unproven := func(why string) ([]run.Check, error) {
		return []run.Check{{Name: "enforcement", Verdict: run.NotProven, Detail: "whether the cluster's network enforces the policies was not tried: " + why}, open}, nil
	}
	image := in.Kubernetes.Network.Prober.Image
	if image == "" {
		return unproven("kubernetes.network.prober.image is not set in upkeep.yaml")
	}
	c, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return nil, err
	}
	err = netprobe.Reap(ctx, c, a.Realm, a.Ended)
	trials, untried := quarantine.Trials(w, in.Plan, in.Done, c.Namespace)
	var found [][2]netprobe.Found
	if err == nil {
		found, err = quarantine.Try(ctx, c, netprobe.Options{RunID: in.RunID, Realm: a.Realm, Image: image, Command: proberCommand}, trials)
	}
	if err == nil {
		err = netprobe.Remove(ctx, c, a.Realm, in.RunID)
	}
	switch {
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused):
		return unproven(err.Error())
	case err != nil:
		return nil, err
	}
	return append(quarantine.Judge(trials, found, untried), open), nil
}

// CollectEvidence keeps what there is to know of the suspects, and signs it.
func (a *Activities) CollectEvidence(ctx context.Context, in EvidenceOrder) (Kept, error) {
	if a.Key == nil {
		return Kept{}, failure.New(failure.BadConfig, "this worker has no key to sign evidence with").Do("give it a --data folder")
	}
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return Kept{}, err
	}
	var recipients []age.Recipient
	if in.Encryption != nil {
		if recipients, err = keyring.ParseRecipients(in.Encryption.Recipients); err != nil {
			return Kept{}, err
		}
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return Kept{}, err
	}
	defer func() { _ = store.Close() }() // what was written is durable already
	folder := format.RunKey(in.RunID, in.Folder)
	k, err := evidence.Open(ctx, store, folder, in.Order.Case, a.Key, recipients)
	if err != nil {
		return Kept{}, err
	}
	err = evidence.Collect(ctx, c, k, in.Pods, func(note string) { progress.Report(ctx, progress.Progress{Phase: "keeping evidence", Note: note}) })
	if err != nil {
		return Kept{}, err
	}
	if err := k.Seal(ctx, in.Order.Target, in.RunID, in.At); err != nil {
		return Kept{}, err
	}
	return Kept{Head: k.Head(), URL: store.URL(folder), Sealed: len(recipients) > 0}, nil
}

// PlanQuarantineEnd says what comes of letting the pods go, or of deleting them. It changes nothing.
func (a *Activities) PlanQuarantineEnd(ctx context.Context, in EndRequest) (quarantine.ReleasePlan, error) {
	c, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return quarantine.ReleasePlan{}, err
	}
	out := quarantine.PlanRelease(w, in.Plan, in.Done, in.Delete)
	if out.Access, err = quarantine.PlanReturn(ctx, c, in.Withdrew, in.Plan.Case, in.Back); err != nil {
		return out, err
	}
	if in.Renew {
		out.Accounts, err = quarantine.PlanRenewal(ctx, c, quarantine.Users(w, in.Plan, in.Access))
	}
	out.Rotate = in.Rotate
	return out, err
}

// EndQuarantine lets the pods go, or deletes them and waits until they are gone. What denies them stays until
// LiftQuarantine.
func (a *Activities) EndQuarantine(ctx context.Context, in EndOrder) (quarantine.Released, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Released{}, err
	}
	freed, err := quarantine.Free(ctx, c, in.Plan, in.Order)
	if err != nil {
		return freed, err
	}
	left, err := settle(ctx, "waiting for pods to end", func() (string, error) { return quarantine.Left(ctx, c, in.Plan) })
	if err != nil {
		return freed, err
	}
	if left != "" {
		return freed, failure.New(failure.LockHeld, "pods in quarantine have not ended within %s: %s; they stay denied until then", settleWithin, left).
			Do("see why they stay (kubectl describe pod), then resume the run")
	}
	return freed, nil
}

// LiftQuarantine takes away what was made for the pods. It comes last: until then a run that is started again finds
// by it that the case is not over.
func (a *Activities) LiftQuarantine(ctx context.Context, in EndOrder) (quarantine.Released, error) {
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return quarantine.Released{}, err
	}
	return quarantine.Lift(ctx, c, in.Plan, in.Order)
}
