// Package recoverdata is the procedure RecoverData.
package recoverdata

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/quiesce"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/workflows/owners"
	"github.com/upkeep-run/upkeep/workflows/procedure"
	"github.com/upkeep-run/upkeep/workflows/verifybackup"
)

const (
	// planVersion is the version of the plan.
	planVersion = 1
	// plansTried is how often a plan whose facts have changed is made anew before a person is told.
	plansTried = 5
	// maxClients bounds the clients that an input names.
	maxClients = 100
)

// Plan is what is approved, once for the whole.
type Plan struct {
	Version  int                 `json:"version"`
	Database restore.Named       `json:"database"` // goes, and is kept under another name
	Backup   string              `json:"backup"`   // comes
	Rows     int64               `json:"rows"`
	Stop     kubernetes.StopPlan `json:"stop"`
}

// Workflow brings a database back from a backup.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// recovery is one run's work.
type recovery struct {
	*procedure.Run
	clients []quiesce.Ref // written out
	held    *owners.Held
	swap    postgres.SwapRequest
	backup  postgres.BackupSummary
	result  api.Result
}

func body(r *procedure.Run, in api.Input) error {
	if in.Confirm == "" {
		return failure.New(failure.BadInput, "to replace the live database, its name must be written out").Do("if that is what you mean, set confirm to that name")
	}
	r.Urgent()
	clients, err := parse(in.Clients)
	if err != nil {
		return err
	}
	if r.Kubernetes() == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster, so nothing that uses its database can be stopped", r.Target().Name).
			Do("say where it is with kubernetes: in upkeep.yaml; or stop its clients by hand and use RestoreDatabase with mode=replace")
	}
	find := kubernetes.FindRequest{Kubernetes: r.Kubernetes(), Database: r.Target().DatabaseIn}
	if err := r.Do(onCluster("See that the release is there", kubernetes.FindService), find, nil); err != nil {
		return err
	}
	if in.Backup == "" {
		in.Backup = postgres.Proven
	}
	b, err := verifybackup.Find(r, in.Backup)
	if err != nil {
		return err
	}
	c := postgres.Copy{Target: r.Target(), BackupID: b.BackupID, Owner: r.Key(), RunID: r.ID(), Place: postgres.Place{Kind: postgres.PlaceTarget, Queue: run.DatabaseQueue}}
	c.Database = restore.BuildName(r.Target().Name, b.BackupID, "\x00recover "+in.Confirm) // no other final name has a NUL
	c.Final = c.Database
	rec := &recovery{
		Run: r, clients: clients, swap: postgres.SwapRequest{Copy: c, Live: in.Confirm}, backup: b,
		result: api.Result{BackupID: b.BackupID, Database: in.Confirm, Verdict: run.NotProven, Clients: []string{}},
	}
	if err := r.Do(step("See that the database can be replaced", postgres.CheckReplaceable), rec.swap, nil); err != nil {
		return err
	}
	if err := r.Do(step("Plan the restore", postgres.PlanRestore), c, nil); err != nil {
		return err
	}
	if !r.DryRun() {
		stored, err := verifybackup.CheckFiles(r, b.BackupID)
		rec.result.Checks = stored.Checks
		if err != nil {
			return err
		}
		if stored.Verdict != run.Pass {
			return failure.New(failure.NotProvenEqual, "backup %s is not proven whole, so nothing was touched%s", b.BackupID, verifybackup.Remarks(stored)).Do("choose another backup")
		}
	}
	for try := 1; ; try++ {
		err := rec.attempt()
		if procedure.HasCode(err, failure.PlanVoid) && try < plansTried {
			continue // it is looked at, and decided on, anew
		}
		return err
	}
}

// parse reads the clients of an input.
func parse(text string) (refs []quiesce.Ref, err error) {
	if text == "" {
		return nil, nil
	}
	for _, item := range strings.Split(text, ",") {
		kind, name, _ := strings.Cut(strings.TrimSpace(item), "/")
		problem := quiesce.KindProblem(kind)
		if problem == "" {
			problem = kube.NameProblem(name)
		}
		if ref := (quiesce.Ref{Kind: kind, Name: name}); problem == "" && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		} else if problem == "" {
			problem = "is named twice"
		}
		if problem != "" || len(refs) > maxClients {
			return nil, failure.New(failure.BadInput, "the client %.100q %s", item, problem).Do("write clients as in Deployment/web,StatefulSet/worker, at most %d", maxClients)
		}
	}
	return refs, nil
}

// attempt is one plan, from its making to its end.
func (r *recovery) attempt() error {
	plan, addresses, err := r.look()
	if err != nil {
		return err
	}
	words := r.words(plan)
	if len(plan.Stop.Owners.Propose) > 0 {
		var refusal error
		r.result.Proposed, refusal = owners.Proposed(plan.Stop.Owners.Propose)
		r.SetResult(r.result)
		return refusal
	}
	if r.DryRun() {
		r.SetResult(plan)
		r.Say("dry run: after an approval it would %s", words)
		return nil
	}
	r.SetResult(r.result)
	r.EndTurn() // a decision may take days
	if err := r.Approve(words, plan); err != nil {
		return err
	}
	if err := r.Turn(procedure.Exclude(target.Database), procedure.Exclude(target.Release), procedure.Share(target.Backups)); err != nil {
		return err
	}
	if !r.Approved() {
		return failure.New(failure.PlanVoid, "the turn came after the approval had expired").Do("look at the new plan and decide again")
	}
	order := kubernetes.StopOrder{Kubernetes: r.Kubernetes(), Clients: plan.Stop.Clients, Order: owners.Order(r.Run)}
	r.held = owners.Hold(r.Run, order.Kubernetes, order.Order, plan.Stop.Owners.Suspend)
	r.OnFailure(onCluster("Start again what was stopped", kubernetes.StartClients), order)
	err = r.replace(plan, addresses, order)
	if procedure.HasCode(err, failure.PlanVoid) {
		if back := r.putBack(order, false); back != nil {
			return back
		}
	}
	return err
}

// look makes the plan. It changes nothing.
func (r *recovery) look() (plan Plan, addresses []string, err error) {
	var use postgres.Use
	if err := r.Do(step("See who uses the database", postgres.LookSessions), r.Target(), &use); err != nil {
		return plan, nil, err
	}
	hidden := 0
	for _, s := range use.Sessions {
		if s.Address == "" || s.Address == "127.0.0.1" || s.Address == "::1" {
			hidden += s.Count
		} else if !slices.Contains(addresses, s.Address) {
			addresses = append(addresses, s.Address)
		}
	}
	plan = Plan{Version: planVersion, Database: use.Database, Backup: r.backup.BackupID, Rows: r.backup.Rows}
	request := kubernetes.StopRequest{Kubernetes: r.Kubernetes(), Database: r.Target().DatabaseIn, Addresses: addresses, Clients: r.clients, Store: r.Target().Store, Target: r.Target().Name}
	if err := r.Do(onCluster("Find the database's clients", kubernetes.PlanStop), request, &plan.Stop); err != nil {
		return plan, nil, err
	}
	if hidden > 0 {
		plan.Stop.Others = append(plan.Stop.Others, fmt.Sprintf("%d sessions show no address", hidden))
	}
	return plan, addresses, nil
}

func (r *recovery) words(p Plan) string {
	clients := []string{}
	for _, c := range p.Stop.Clients {
		clients = append(clients, c.Words())
	}
	r.result.Clients = clients
	stop := "stop nothing, for no client is known"
	if len(clients) > 0 {
		stop = "stop " + strings.Join(clients, ", ")
	}
	stop = p.Stop.Owners.Words() + stop
	words := fmt.Sprintf("%s; put backup %s (%d rows) in the place of database %s, which is kept under another name; and start everything as it was", stop, p.Backup, p.Rows, p.Database.Name)
	if len(p.Stop.Others) > 0 {
		words += " (its sessions are ended and not stopped: " + strings.Join(p.Stop.Others, "; ") + ")"
	}
	return words
}

// replace stops the clients, replaces the database, and starts them again.
func (r *recovery) replace(plan Plan, addresses []string, order kubernetes.StopOrder) error {
	stopped := r.Now()
	if err := r.held.Suspend("Suspend the owners of the clients"); err != nil {
		return err
	}
	if err := r.Do(onCluster("Stop the clients", kubernetes.StopClients), order, nil); err != nil {
		return err
	}
	var left int
	if err := r.Do(step("Wait for their sessions to end", postgres.DrainSessions), postgres.DrainRequest{Target: r.Target(), Addresses: addresses}, &left); err != nil {
		return err
	}
	if left > 0 {
		r.Detail(fmt.Sprintf("%d sessions have stayed; they are ended when the database is replaced", left))
	}
	r.OnFailure(step("Remove the half database", postgres.DropCopy), r.swap.Copy)
	built, err := verifybackup.Build(r.Run, func() (postgres.Copy, error) { return r.swap.Copy, nil })
	r.result.Rows, r.result.Verdict = r.backup.Rows, built.Verdict
	r.result.Checks = append(r.result.Checks, built.Checks...)
	r.SetResult(r.result)
	if err != nil {
		return err
	}
	if built.Verdict != run.Pass {
		return failure.New(failure.NotProvenEqual, "the copy of backup %s is not proven equal to it, so nothing is replaced%s", r.backup.BackupID, verifybackup.Remarks(built.Proof)).Do("choose another backup")
	}
	if err := r.put(plan, built.Copy); err != nil {
		return err
	}
	keys, err := r.Prove(step("Check the foreign keys", postgres.CheckForeignKeys), r.Target())
	r.note(keys)
	if err != nil {
		return err
	}
	if err := r.putBack(order, true); err != nil {
		return err
	}
	r.result.StoppedSeconds = procedure.Seconds(r.Now().Sub(stopped))
	proof, err := r.Prove(onCluster("Ask the service", kubernetes.ProveRecovered), order)
	r.note(proof)
	if err != nil {
		return err
	}
	r.Say("database %s is backup %s again, %d rows; what it was stays as database %s; its clients were stopped for %.0f s and have what they had: %s; the service: %s%s",
		r.swap.Live, r.backup.BackupID, r.backup.Rows, r.result.Kept, r.result.StoppedSeconds, strings.Join(r.result.Clients, ", "), proof.Verdict, verifybackup.Remarks(proof))
	return nil
}

// note adds checks to the result.
func (r *recovery) note(p postgres.Proof) {
	r.result.Checks, r.result.Verdict = append(r.result.Checks, p.Checks...), r.result.Verdict.And(p.Verdict)
	r.SetResult(r.result)
}

// put gives the copy the live database's name, if that is still the one that was approved.
func (r *recovery) put(plan Plan, c postgres.Copy) error {
	if err := r.Do(step("Keep everybody out of the copy", postgres.SealCopy), c, nil); err != nil {
		return err
	}
	request := r.swap
	request.Copy, request.At = c, r.Now()
	var swap restore.Swap
	if err := r.Do(step("Plan the swap", postgres.PlanSwap), request, &swap); err != nil {
		return err
	}
	if swap.Live != plan.Database {
		return failure.New(failure.PlanVoid, "the plan is void: database %s is another one than was looked at", plan.Database.Name).Do("look at the new plan and decide again")
	}
	apply := step("Put the copy in the database's place", postgres.ApplySwap)
	apply.Whole = true // whoever is cancelled here has either replaced it or not
	var done postgres.Swapped
	o := postgres.SwapOrder{Copy: c, Plan: swap}
	err := r.Do(apply, o, &done)
	if err != nil && procedure.GivenUp(err) {
		var is bool
		if r.Ask(step("See whether the database was replaced", postgres.IsSwapped), o, &is) != nil {
			r.Left("it is not known whether database %s was replaced; what it was is then %s", swap.Live.Name, swap.Kept)
		} else if is {
			r.Left("database %s is replaced by backup %s; what it was is %s", swap.Live.Name, swap.Backup, swap.Kept)
		}
	}
	if err != nil {
		return err
	}
	r.result.Kept, r.result.Ended = swap.Kept, done.Ended
	r.SetResult(r.result)
	return nil
}

// putBack starts the clients in their order, and lets their owners act.
func (r *recovery) putBack(order kubernetes.StopOrder, await bool) error {
	for _, c := range order.Clients {
		one := order
		one.Clients, one.Await = []quiesce.Client{c}, await
		var remarks []string
		if err := r.Do(onCluster("Start "+c.Words(), kubernetes.StartClients), one, &remarks); err != nil {
			return err
		}
		r.remark(remarks)
	}
	remarks, err := r.held.Resume()
	r.remark(remarks)
	return err
}

func (r *recovery) remark(remarks []string) {
	if len(remarks) > 0 {
		r.Detail(strings.Join(remarks, "; "))
		r.result.Remarks = append(r.result.Remarks, remarks...)
		r.SetResult(r.result)
	}
}

func step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick}
}

func onCluster(name, activity string) procedure.Step {
	s := step(name, activity)
	s.Queue = run.ClusterQueue
	return s
}
