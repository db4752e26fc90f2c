// Package rotatesecret is the procedure RotateSecret.
package rotatesecret

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/owners"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

const (
	// planVersion is the version of the plan.
	planVersion = 1
	// plansTried is how often a plan whose approval came too late is made anew before a person is told.
	plansTried  = 5
	waitMinutes = 5
	maxWait     = 24 * 60
)

// Plan is what is approved.
type Plan struct {
	Version int                `json:"version"`
	Entry   rotation.Entry     `json:"entry"`
	Cluster rotation.Plan      `json:"cluster"`
	Roles   rotation.RolesPlan `json:"roles"`
	// EndSessions has sessions of the old role ended that stay for longer.
	EndSessions bool `json:"endSessions"`
}

// Workflow rotates a password.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// turn is one run's work.
type turn struct {
	*procedure.Run
	entry  rotation.Entry
	wait   time.Duration
	end    bool
	held   *owners.Held
	order  kubernetes.RotationOrder
	roles  postgres.RoleOrder
	result api.Result
}

func body(r *procedure.Run, in api.Input) error {
	if in.Wait == 0 {
		in.Wait = waitMinutes
	}
	if in.Wait < 1 || in.Wait > maxWait {
		return failure.New(failure.BadInput, "wait is %d minutes, and must be from 1 to %d", in.Wait, maxWait).Do("correct it, or leave it out for %d", waitMinutes)
	}
	if r.Kubernetes() == nil {
		return failure.New(failure.NoCluster, "target %s is in no cluster, and what is rotated is in a Secret of one", r.Target().Name).Do("say where it is with kubernetes: in upkeep.yaml, and start a new run")
	}
	entry, err := choose(r, in.Secret)
	if err != nil {
		return err
	}
	t := &turn{Run: r, entry: entry, wait: time.Duration(in.Wait) * time.Minute, end: in.EndSessions, result: api.Result{
		Secret: entry.Name, Object: entry.Secret, Keys: entry.Keys.All(), Overlap: entry.Overlap(), Verdict: run.NotProven, Checks: []run.Check{}, Consumers: []string{},
	}}
	for try := 1; ; try++ {
		again, err := t.attempt()
		if again && try < plansTried {
			continue
		}
		return err
	}
}

// choose finds the secret that is meant. One that nobody has configured is refused with the reason.
func choose(r *procedure.Run, name string) (rotation.Entry, error) {
	all := r.Secrets()
	names := []string{}
	for _, e := range all {
		if names = append(names, e.Name); e.Name == name || name == "" && len(all) == 1 {
			return e, nil
		}
	}
	object, key, is := strings.Cut(name, "/")
	configure := "say how with secrets: of the target in upkeep.yaml (docs/operations.md), and start a new run"
	switch {
	case is:
		if why := rotation.KeyProblem(key); why != "" {
			configure = "leave it as it is, or follow what its program's own documentation says"
		}
		return rotation.Entry{}, failure.New(failure.NotRotatable, "the key %.100q of Secret %.100q is not rotated: %s", key, object, rotation.Untouched(key)).Do("%s", configure)
	case len(all) == 0:
		return rotation.Entry{}, failure.New(failure.NotRotatable, "target %s has no secrets that are known to be rotatable", r.Target().Name).Do("%s", configure)
	case name == "":
		return rotation.Entry{}, failure.New(failure.BadInput, "no secret is named and target %s has %d", r.Target().Name, len(all)).Do("name one of: %s", strings.Join(names, ", "))
	}
	return rotation.Entry{}, strictjson.Unknown("secret", name, names)
}

// attempt is one plan, from its making to its end. Again says that its approval came too late.
func (t *turn) attempt() (again bool, err error) {
	plan, err := t.look()
	if err != nil {
		return false, err
	}
	c := plan.Cluster
	if !c.DoneAt.IsZero() { // and reset afterwards
		t.commit(plan, c.DoneAt)
		t.result.Withdrawn, t.result.Verdict = true, run.Pass
		if !t.DryRun() {
			if err := t.Do(onCluster("Put the pending value away", kubernetes.FinishRotation), t.order, nil); err != nil {
				return false, err
			}
		}
		t.SetResult(t.result)
		t.Say("this run had rotated secret %s already, at %s; nothing was done", t.entry.Name, c.DoneAt.Format(time.RFC3339))
		return false, nil
	}
	if len(c.Owners.Propose) > 0 {
		var refusal error
		t.result.Proposed, refusal = owners.Proposed(c.Owners.Propose)
		t.SetResult(t.result)
		return false, refusal
	}
	words := t.words(plan)
	t.SetResult(t.result)
	if t.DryRun() {
		t.SetResult(plan)
		t.Say("dry run: after an approval it would %s", words)
		return false, nil
	}
	t.EndTurn() // a decision may take days
	if err := t.Approve(words, plan); err != nil {
		return false, err
	}
	if err := t.Turn(procedure.Exclude(target.Release), procedure.Share(target.Database)); err != nil {
		return false, err
	}
	if !t.Approved() {
		return true, failure.New(failure.PlanVoid, "the turn came after the approval had expired").Do("look at the new plan and decide again")
	}
	return false, t.rotate(plan)
}

// look makes the plan. It changes nothing.
func (t *turn) look() (plan Plan, err error) {
	plan = Plan{Version: planVersion, Entry: t.entry, EndSessions: t.end}
	request := kubernetes.RotationRequest{
		Kubernetes: t.Kubernetes(), Target: t.Target().Name, Store: t.Target().Store, Key: t.Key(), Entry: t.entry, Database: t.Target().DatabaseIn,
		Own: []config.Secret{t.Target().Password, t.Target().ScratchPass},
	}
	if err := t.Do(onCluster("Look at the Secret, and who reads it", kubernetes.LookAtSecret), request, &plan.Cluster); err != nil {
		return plan, err
	}
	c := plan.Cluster
	t.result.From, t.result.To, t.result.Others, t.result.Untouched = c.From, c.To, c.Others, nil
	for _, u := range c.Untouched {
		t.result.Untouched = append(t.result.Untouched, api.Untouched(u))
	}
	if !c.DoneAt.IsZero() || len(c.Owners.Propose) > 0 {
		return plan, nil
	}
	err = t.Do(step("Look at the roles, and at how the server lets them in", postgres.LookAtRoles),
		postgres.RolesRequest{Target: t.Target(), Entry: t.entry, From: c.From, To: c.To, Left: c.Left != ""}, &plan.Roles)
	t.result.Remarks = slices.Concat(c.Remarks, plan.Roles.Remarks)
	return plan, err
}

func (t *turn) words(p Plan) string {
	c, names := p.Cluster, []string{}
	for _, consumer := range p.Cluster.Consumers {
		names = append(names, consumer.String())
	}
	restart := "restart nothing, for nothing is known to read it"
	if len(names) > 0 {
		restart = "restart " + strings.Join(names, ", ")
	}
	var words string
	keys := strings.Join(c.Keys, ", ")
	switch {
	case c.Sealed():
		words = fmt.Sprintf("end what an earlier run has begun: see that %s of Secret %s is that of role %s, %s, and withdraw role %s", keys, t.entry.Secret, c.To, restart, c.From)
	case t.entry.Overlap():
		verb := "give role %s a new password"
		if p.Roles.Makes {
			verb = "make role %s with a new password"
		}
		words = fmt.Sprintf(verb+", acting as %s, and log in with it; write it into %s of Secret %s, and no other key; %s; wait until the %d sessions of role %s are gone; and then withdraw role %s",
			c.To, t.entry.Owner, keys, t.entry.Secret, restart, p.Roles.Sessions, c.From, c.From)
	default:
		words = fmt.Sprintf("give role %s a new password in the place of its old one, and log in with it; write it into %s of Secret %s, and no other key; %s; and wait until the %d sessions that logged in before are gone. "+
			"There is no overlap: sessions stay, but from the change until its restart whatever reads the Secret cannot log in anew", c.To, keys, t.entry.Secret, restart, p.Roles.Sessions)
	}
	if c.Left != "" && !c.Sealed() {
		words = "go on with the new password that an earlier run has left (" + c.Left + "): " + words
	}
	if p.EndSessions {
		words += "; sessions that stay for longer than " + t.wait.String() + " are ended"
	}
	if len(c.Others) > 0 {
		words += " (" + strings.Join(c.Others, "; ") + ")"
	}
	if len(t.result.Remarks) > 0 {
		words += ". " + strings.Join(t.result.Remarks, ". ")
	}
	return c.Owners.Words() + words
}

// commit makes the order of a plan.
func (t *turn) commit(p Plan, at time.Time) {
	held := owners.Order(t.Run)
	if !at.IsZero() {
		held.At = at
	}
	o := rotation.Order{Entry: t.entry, Order: held, UID: p.Cluster.UID, From: p.Cluster.From, To: p.Cluster.To}
	t.order = kubernetes.RotationOrder{Kubernetes: t.Kubernetes(), Order: o, Consumers: p.Cluster.Consumers, Wait: t.wait}
	t.roles = postgres.RoleOrder{Target: t.Target(), Order: o, Wait: t.wait, End: t.end}
}

// rotate does what was approved. What undoes it is registered before anything is done; it runs from the last
// to the first: while two roles log in the programs get the old one back before the new one goes, and where
// there is one the old password is good again before the programs get it.
func (t *turn) rotate(p Plan) error {
	t.commit(p, time.Time{})
	t.held = owners.Hold(t.Run, t.Kubernetes(), t.order.Order.Order, p.Cluster.Owners.Suspend)
	if !p.Cluster.Sealed() {
		retire := func() {
			t.OnFailure(long("Take role "+p.Cluster.To+"'s new password back", postgres.RetireRole), t.roles)
		}
		t.OnFailure(onCluster("Put the pending value away", kubernetes.RemovePending), t.order)
		if t.entry.Overlap() {
			retire()
		}
		restart := onCluster("Restart the programs with what they had", kubernetes.RestoreConsumers)
		restart.Options = procedure.Long
		t.OnFailure(restart, t.order)
		t.OnFailure(onCluster("Give the Secret back what it had", kubernetes.RestoreSecret), t.order)
		if !t.entry.Overlap() {
			retire()
		}
	}
	if err := t.held.Suspend("Suspend the owners"); err != nil {
		return err
	}
	if err := t.Do(onCluster("Make the new password", kubernetes.MakePending), t.order, nil); err != nil {
		return err
	}
	if !p.Cluster.Sealed() {
		if err := t.Do(step("Give it to role "+p.Cluster.To, postgres.PrepareRole), t.roles, nil); err != nil {
			return err
		}
		if err := t.prove(step("Log in with it", postgres.ProveLogin), t.roles); err != nil {
			return err
		}
	}
	switched := t.Now()
	if err := t.roll(); err != nil {
		return err
	}
	if err := t.drain(); err != nil {
		return err
	}
	return t.withdraw(switched)
}

// roll writes the new password into the programs' Secret and restarts them.
func (t *turn) roll() error {
	if err := t.Do(onCluster("Write it into Secret "+t.entry.Secret, kubernetes.SwitchSecret), t.order, nil); err != nil {
		return err
	}
	for _, c := range t.order.Consumers {
		one := t.order
		one.Consumers = []rotation.Consumer{c}
		restart := onCluster("Restart "+c.String(), kubernetes.RestartConsumer)
		restart.Options = procedure.Long
		if err := t.Do(restart, one, nil); err != nil {
			return err
		}
		t.result.Consumers = append(t.result.Consumers, c.String())
		t.SetResult(t.result)
	}
	return t.prove(onCluster("Ask the service", kubernetes.ProveRecovered), kubernetes.StopOrder{Kubernetes: t.Kubernetes()})
}

// drain waits until nobody is left who logged in with the old password. When the time is over a person
// decides: wait on, end them, or undo.
func (t *turn) drain() error {
	for {
		var old postgres.OldSessions
		if err := t.Do(long("Wait for the old sessions to end", postgres.AwaitSessions), t.roles, &old); err != nil {
			return err
		}
		if old.Left == 0 {
			return nil
		}
		found := fmt.Sprintf("%d sessions of role %s that logged in with the old password are left after %s (%s)", old.Left, t.order.Order.From, t.wait, old.Who)
		t.Mark(run.NotProven, found)
		if t.end {
			return nil // with the withdrawal
		}
		err := t.Wait(failure.New(failure.LockHeld, "%s", found).
			Do("resume the run to wait on; or end them (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%s') and resume it; or abandon it, and all is as it was", strings.ReplaceAll(t.order.Order.From, "'", "''")))
		if err != nil {
			return err
		}
	}
}

// withdraw takes the old password away. From its first step on nothing is undone: a run that is ended here
// is gone on with by the next.
func (t *turn) withdraw(switched time.Time) error {
	if err := t.Do(onCluster("Begin the withdrawal, after which nothing is undone", kubernetes.SealRotation), t.order, nil); err != nil {
		return err
	}
	t.Keep()
	suspended := t.held.Again()
	o := t.order.Order
	name := "Withdraw role " + o.From
	if !t.entry.Overlap() {
		name = "Withdraw the old password of role " + o.From
	}
	apply := long(name, postgres.WithdrawRole)
	apply.Whole = true
	if err := t.Do(apply, t.roles, &t.result.Ended); err != nil {
		var is bool
		if t.Ask(step("See whether it is withdrawn", postgres.IsWithdrawn), t.roles, &is) == nil && is {
			t.Left("the old password is withdrawn; Secret %s stays until the run is started again", t.entry.PendingName())
		} else {
			t.Left("role %s may still log in with its old password; start the run again, which withdraws it", o.From)
		}
		return err
	}
	if t.entry.Overlap() {
		t.result.OverlapSeconds = procedure.Seconds(t.Now().Sub(switched))
	}
	t.SetResult(t.result)
	refused := t.prove(step("See that the old password is refused", postgres.ProveWithdrawn), t.roles)
	if refused != nil && !procedure.HasCode(refused, failure.LoginNotProven) {
		return refused
	}
	t.result.Withdrawn = refused == nil
	if err := t.Do(onCluster("Put the pending value away", kubernetes.FinishRotation), t.order, nil); err != nil {
		return err
	}
	if suspended {
		if err := t.held.AskToResume("Secret " + t.entry.Secret + " has a new password"); err != nil {
			return err
		}
	}
	remarks, err := t.held.Resume()
	t.result.Remarks = append(t.result.Remarks, remarks...)
	t.SetResult(t.result)
	if err != nil || refused != nil {
		return cmp.Or(refused, err)
	}
	overlap := "there was no overlap"
	if t.entry.Overlap() {
		overlap = fmt.Sprintf("both were good for %.0f s", t.result.OverlapSeconds)
	}
	restarted := "nothing was restarted"
	if len(t.result.Consumers) > 0 {
		restarted = "restarted: " + strings.Join(t.result.Consumers, ", ")
	}
	t.Say("secret %s is rotated: role %s logs in with a new password, %s; the old one is refused; %s", t.entry.Name, o.To, restarted, overlap)
	return nil
}

// prove runs a check. One that fails ends the rotation.
func (t *turn) prove(s procedure.Step, arg any) error {
	proof, err := t.Prove(s, arg)
	t.result.Checks = append(t.result.Checks, proof.Checks...)
	if err == nil {
		t.result.Verdict = verdict(t.result.Checks)
	}
	t.SetResult(t.result)
	if err == nil && proof.Verdict == run.Fail {
		words := []string{}
		for _, c := range proof.Checks {
			words = append(words, c.Name+": "+c.Detail)
		}
		err = failure.New(failure.LoginNotProven, "secret %s: %s", t.entry.Name, strings.Join(words, "; ")).Do("see what it says, and start a new run")
	}
	return err
}

func verdict(checks []run.Check) run.Verdict {
	v := run.Pass
	for _, c := range checks {
		v = v.And(c.Verdict)
	}
	return v
}

func step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick}
}

func long(name, activity string) procedure.Step {
	s := step(name, activity)
	s.Options = procedure.Long
	return s
}

func onCluster(name, activity string) procedure.Step {
	s := step(name, activity)
	s.Queue = run.ClusterQueue
	return s
}
