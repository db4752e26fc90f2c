package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

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
	"github.com/upkeep-run/upkeep/internal/ownpod"
	"github.com/upkeep-run/upkeep/internal/podreader"
	"github.com/upkeep-run/upkeep/internal/prober"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// The activity types of ContainIncident.
const (
	PlanContainment   = "PlanContainment"
	Contain           = "Contain"
	CheckContained    = "CheckContained"
	TryContained      = "TryContained"
	ReadSuspects      = "ReadSuspects"
	CollectEvidence   = "CollectEvidence"
	PlanQuarantineEnd = "PlanQuarantineEnd"
	EndQuarantine     = "EndQuarantine"
	LiftQuarantine    = "LiftQuarantine"
	GuardContained    = "GuardContained"

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
	RunID   string                 `json:"runId"`
	Listens []quarantine.Listening `json:"listens,omitempty"` // as their processes were read
	CutAt   time.Time              `json:"cutAt,omitzero"`    // when they were cut off
}

// ReadOrder says whose processes and connections are read; at the first look they become evidence.
type ReadOrder struct {
	EvidenceOrder
	Done quarantine.Contained `json:"done"`
	Look int                  `json:"look"` // from 1
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
	plan, err := quarantine.Make(w, in.Suspects, in.Kubernetes.QuarantinePolicy(), in.Order.Case, time.Now())
	if err != nil {
		return plan, err
	}
	plan.Prober = quarantine.FindStanding(w, plan, in.Kubernetes.Network.Prober, in.Kubernetes.Namespace).Words()
	return plan, nil
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
	unproven := func(why string) ([]run.Check, error) {
		return []run.Check{{Name: "enforcement", Verdict: run.NotProven, Detail: "whether the cluster's network enforces the policies was not tried: " + why}}, nil
	}
	image := in.Kubernetes.Network.Prober.Image
	if image == "" {
		return unproven("kubernetes.network.prober.image is not set in upkeep.yaml")
	}
	c, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return nil, err
	}
	standing := quarantine.FindStanding(w, in.Plan, in.Kubernetes.Network.Prober, c.Namespace)
	cut := time.Duration(0)
	if !in.CutAt.IsZero() {
		cut = time.Since(in.CutAt)
	}
	standing.Begin(ctx, in.Done, c.Namespace, cut, func(ctx context.Context, pod string) (prober.Answer, error) {
		return prober.Ask(ctx, func(ctx context.Context) (net.Conn, error) { return c.Forward(ctx, pod, prober.Listen) })
	})
	err = ownpod.Reap(ctx, c, a.Realm, a.Ended)
	trials, untried := quarantine.Trials(w, in.Plan, in.Done, c.Namespace, in.Listens)
	var found [][2]netprobe.Found
	if err == nil {
		found, err = quarantine.Try(ctx, c, netprobe.Options{RunID: in.RunID, Realm: a.Realm, Image: image, Command: proberCommand}, trials)
	}
	if err == nil {
		err = ownpod.Remove(ctx, c, a.Realm, in.RunID)
	}
	switch {
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused):
		if standing == nil {
			return unproven(err.Error())
		}
		found = make([][2]netprobe.Found, len(trials))
		for i := range found {
			found[i][0].Why = err.Error()
		}
	case err != nil:
		return nil, err
	}
	standing.End(ctx) // while those pods ran, it has gone on
	return quarantine.Judge(trials, found, untried, standing), nil
}

// keeper opens the evidence of a case, where it ends.
func (a *Activities) keeper(ctx context.Context, in EvidenceOrder) (k *evidence.Keeper, at string, done func(), err error) {
	if a.Key == nil {
		return nil, "", nil, failure.New(failure.BadConfig, "this worker has no key to sign evidence with").Do("give it a --data folder")
	}
	var recipients []age.Recipient
	if in.Encryption != nil {
		if recipients, err = keyring.ParseRecipients(in.Encryption.Recipients); err != nil {
			return nil, "", nil, err
		}
	}
	store, err := objstore.Open(ctx, in.Store)
	if err != nil {
		return nil, "", nil, err
	}
	done = func() { _ = store.Close() } // what was written is durable already
	folder := format.RunKey(in.RunID, in.Folder)
	if k, err = evidence.Open(ctx, store, folder, in.Order.Case, a.Key, recipients); err != nil {
		done()
		return nil, "", nil, err
	}
	return k, store.URL(folder), done, nil
}

// ReadSuspects reads the suspects' processes and connections by pods on their nodes, where the target's configuration
// asks for it, and judges whether a connection lives on. What keeps such a pod from running leaves it unproven, and
// is no error.
func (a *Activities) ReadSuspects(ctx context.Context, in ReadOrder) (quarantine.Reading, error) {
	unproven := func(why string) (quarantine.Reading, error) {
		return quarantine.Reading{Check: quarantine.Unseen(why)}, nil
	}
	image := in.Kubernetes.QuarantinePolicy().Reader.Image
	if image == "" {
		return unproven(noReader)
	}
	c, w, err := in.look(ctx, a.Temporal)
	if err != nil {
		return quarantine.Reading{}, err
	}
	refs := make([]quarantine.Ref, len(in.Pods))
	for i, p := range in.Pods {
		refs[i] = quarantine.Ref{Namespace: p.Namespace, Name: p.Name}
	}
	if over, err := a.Ended(ctx, in.RunID); err == nil && over { // an attempt that was frozen until now
		return quarantine.Reading{}, failure.New(failure.Fenced, "the run %s is over", in.RunID)
	}
	watch := w.Watch(refs, in.Done)
	progress.Report(ctx, progress.Progress{Phase: "reading processes", Note: fmt.Sprintf("on %d nodes", len(watch.Nodes))})
	found, err := podreader.Read(ctx, c, podreader.Options{RunID: in.RunID, Realm: a.Realm, Look: in.Look, Image: image, Command: readerCommand}, watch.Nodes)
	switch {
	case failure.Is(err, failure.ClusterForbids), failure.Is(err, failure.ObjectRefused):
		for range watch.Nodes {
			found = append(found, podreader.Found{Why: err.Error()})
		}
	case err != nil:
		return quarantine.Reading{}, err
	}
	watch.Note(found)
	if in.Look == 1 {
		if err := a.keepRead(ctx, in.EvidenceOrder, watch); err != nil {
			return quarantine.Reading{}, err
		}
	}
	// Those that stay for an error are removed at the end of the run, or by later runs.
	_ = ownpod.Remove(ctx, c, a.Realm, in.RunID)
	_ = ownpod.Reap(ctx, c, a.Realm, a.Ended)
	return w.JudgeOld(watch), nil
}

// entriesAtOnce is how many entries of the evidence wait to be written together.
const entriesAtOnce = 64

// noReader is why nobody reads suspects' processes by default.
const noReader = "kubernetes.incidents.reader.image is not set in upkeep.yaml"

// processesOf is the evidence of what a pod ran, and to whom it was connected.
func processesOf(namespace, name string) string {
	return "processes/" + namespace + "/" + name + ".json"
}

// keepRead keeps what was read of each pod, or why there is nothing.
func (a *Activities) keepRead(ctx context.Context, in EvidenceOrder, watch *quarantine.Watch) error {
	k, _, done, err := a.keeper(ctx, in)
	if err != nil {
		return err
	}
	defer done()
	var all errgroup.Group // those that come together are written together
	all.SetLimit(entriesAtOnce)
	for _, x := range watch.Pods {
		all.Go(func() error {
			name := processesOf(x.Namespace, x.Name)
			if x.Seen == nil {
				return k.Gap(ctx, name, x.Why)
			}
			data, err := json.MarshalIndent(x.Seen, "", " ")
			if err != nil {
				return fmt.Errorf("encode evidence: %w", err)
			}
			return k.Keep(ctx, name, data)
		})
	}
	return all.Wait()
}

// CollectEvidence keeps what there is to know of the suspects, and signs it.
func (a *Activities) CollectEvidence(ctx context.Context, in EvidenceOrder) (Kept, error) {
	k, url, done, err := a.keeper(ctx, in)
	if err != nil {
		return Kept{}, err
	}
	defer done()
	c, err := in.Kubernetes.Connect(ctx)
	if err != nil {
		return Kept{}, err
	}
	if err := notRead(ctx, k, in); err != nil {
		return Kept{}, err
	}
	err = evidence.Collect(ctx, c, k, in.Pods, func(note string) { progress.Report(ctx, progress.Progress{Phase: "keeping evidence", Note: note}) })
	if err != nil {
		return Kept{}, err
	}
	if err := k.Seal(ctx, in.Order.Target, in.RunID, in.At); err != nil {
		return Kept{}, err
	}
	return Kept{Head: k.Head(), URL: url, Sealed: in.Encryption != nil && len(in.Encryption.Recipients) > 0}, nil
}

// notRead makes a gap of what no reader has read before.
func notRead(ctx context.Context, k *evidence.Keeper, in EvidenceOrder) error {
	if in.Kubernetes.QuarantinePolicy().Reader.Image == "" {
		return k.Gap(ctx, "processes", noReader)
	}
	var all errgroup.Group
	all.SetLimit(entriesAtOnce)
	for _, p := range in.Pods {
		all.Go(func() error { return k.Gap(ctx, processesOf(p.Namespace, p.Name), "no reader has come to it in time") })
	}
	return all.Wait()
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
