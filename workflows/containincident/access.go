package containincident

import (
	"fmt"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// rights is what a case knows, and does, about what the suspects' accounts are granted. The containment waits for
// nothing of it: what cannot be done is not proven.
type rights struct {
	back, renew bool
	rotate      []string
	order       kubernetes.AccessOrder
	planned     bool
	undone      bool // the withdrawal did not come to its end, and is to be tried again
	checks      []run.Check
	followUps   []string // of what is left to the accounts
}

// read takes from the input what is asked for.
func (a *rights) read(r *procedure.Run, in api.Input) error {
	access := in.Access
	if access == "" {
		access = api.Show
	}
	if !slices.Contains(api.Accesses, access) {
		return strictjson.Unknown("access", in.Access, api.Accesses)
	}
	a.order.Asked, a.back, a.renew = access == api.Withdraw, in.GiveAccessBack, in.RecreateAccount
	if a.back && !a.order.Asked {
		return failure.New(failure.BadInput, "giveAccessBack gives back what nobody has asked to withdraw").Do("add access: %s, or leave it out", api.Withdraw)
	}
	known := []string{}
	for _, e := range r.Secrets() {
		known = append(known, e.Name)
	}
	for name := range strings.SplitSeq(in.Rotate, ",") {
		switch name = strings.TrimSpace(name); {
		case name == "":
		case slices.Contains(a.rotate, name):
			return failure.New(failure.BadInput, "rotate names the secret %.100q twice", name).Do("name it once")
		case len(known) == 0:
			return failure.New(failure.NotRotatable, "target %s has no secrets that are known to be rotatable", r.Target().Name).
				Do("say how with secrets: of the target in upkeep.yaml (docs/operations.md), or leave rotate out")
		case !slices.Contains(known, name):
			return strictjson.Unknown("secret of rotate", name, known)
		default:
			a.rotate = append(a.rotate, name)
		}
	}
	return nil
}

// spare keeps what went wrong with the access from ending the case, unless a person has ended it.
func (x *incident) spare(err error, what string) error {
	if err == nil || procedure.GivenUp(err) {
		return err
	}
	x.access.checks = []run.Check{{Name: "access", Verdict: run.NotProven, Detail: what + ": " + procedure.What(err)}}
	x.show()
	return nil
}

// planAccess sees what the suspects' accounts are granted.
func (x *incident) planAccess() error {
	a := &x.access
	a.order.Incident = x.order.Incident
	err := x.Try(step("See what the suspects' accounts are granted", kubernetes.PlanWithdrawal), x.order, &a.order.Plan)
	a.planned = err == nil
	return x.spare(err, "what the suspects' accounts are granted was not seen")
}

// withdraw takes the accounts out of their bindings, where it is asked for, and sees what they may do then.
func (x *incident) withdraw() error {
	if !x.access.planned {
		if err := x.planAccess(); err != nil || !x.access.planned {
			return err
		}
	}
	if err := x.takeOut("Take the suspects' accounts out of their bindings"); err != nil {
		return err
	}
	if err := x.checkAccess(); err != nil {
		return err
	}
	x.result.FollowUps = slices.DeleteFunc(x.result.FollowUps, func(f string) bool { return slices.Contains(x.access.followUps, f) })
	x.access.followUps = x.access.order.Plan.FollowUps(x.access.order.Done, x.access.order.Asked)
	for _, f := range x.access.followUps {
		x.followUp(f)
	}
	x.SetResult(x.result)
	return nil
}

func (x *incident) takeOut(name string) error {
	a := &x.access
	if !a.order.Asked {
		return nil
	}
	s := step(name, kubernetes.Withdraw)
	s.Whole = true
	var done quarantine.Withdrawn
	err := x.Try(s, a.order, &done)
	if a.undone = err != nil; a.undone {
		return x.spare(err, "whether the accounts are taken out of their bindings is not known")
	}
	a.order.Done = done
	x.result.Withdrawn = nil
	for _, h := range done.Bindings {
		x.result.Withdrawn = append(x.result.Withdrawn, h.Binding.String())
	}
	if done.Undone() {
		x.Mark(run.NotProven, done.Stay[0].Binding.String()+" stays: "+done.Stay[0].Why)
	}
	x.remark(done.Remarks...)
	return nil
}

// lookAtAccess sees how it stands, and takes the accounts out again where somebody has put them back, or where it could
// not be done before: somebody may have granted what was missing.
func (x *incident) lookAtAccess() error {
	if !x.access.planned || x.access.undone || x.access.order.Done.Undone() {
		return x.withdraw()
	}
	back, err := x.seeAccess()
	if err != nil || len(back) == 0 {
		return err
	}
	if err := x.takeOut("Take the accounts out of their bindings again: somebody has put them back"); err != nil || x.access.undone {
		return err
	}
	x.remark("somebody put the accounts back meanwhile, and they were taken out again: " + strings.Join(back, ", "))
	return x.checkAccess()
}

func (x *incident) checkAccess() error {
	_, err := x.seeAccess()
	return err
}

func (x *incident) seeAccess() (back []string, err error) {
	if x.access.undone {
		return nil, nil // and said so
	}
	var proof quarantine.AccessProof
	if err := x.Try(step("See what the suspects' accounts may do", kubernetes.CheckAccess), x.access.order, &proof); err != nil {
		return nil, x.spare(err, "what the suspects' accounts may do was not seen")
	}
	verdict := run.Pass
	for _, c := range proof.Checks {
		verdict = verdict.And(c.Verdict)
	}
	x.Mark(verdict, "")
	x.access.checks = proof.Checks
	x.show()
	return proof.Back, nil
}

// followUp notes what a person must see to, once.
func (x *incident) followUp(words string) {
	if !slices.Contains(x.result.FollowUps, words) {
		x.result.FollowUps = append(x.result.FollowUps, words)
	}
}

// endAccess makes the accounts anew and gives them back what was withdrawn, as the plan of the end says.
func (x *incident) endAccess(order kubernetes.EndOrder) error {
	if len(order.Plan.Accounts) > 0 {
		out, err := x.release("Make the suspects' accounts anew", kubernetes.RenewAccounts, order)
		if err != nil {
			return err
		}
		x.renewed(order.Plan.Accounts, out)
	} else if x.access.renew && order.Plan.Delete {
		x.Judge(run.NotProven)
		x.followUp("the suspects' accounts were not made anew, since they were not seen: tokens of them that do not end with the pods are good still")
	}
	if len(order.Plan.Access) == 0 {
		return nil
	}
	name := "Put the accounts back into their bindings"
	if order.Plan.Access[0].Stay {
		name = "Note that the accounts stay out of their bindings"
	}
	if _, err := x.release(name, kubernetes.ReturnAccess, order); err != nil {
		return err
	}
	for _, r := range order.Plan.Access {
		switch {
		case r.Not != "":
			x.remark(r.Binding.String() + ": " + r.Not)
		case r.Stay && r.Do != "":
			x.followUp(fmt.Sprintf("the suspects' accounts stay out of %s; to give it back once what made the pods bad is mended: %s", r.Binding, r.Do))
		case r.Stay && len(r.Subjects) > 0:
			x.followUp(fmt.Sprintf("the suspects' accounts stay out of %s", r.Binding))
		}
	}
	return nil
}

// renewed notes which accounts were made anew, and whom it has hit.
func (x *incident) renewed(accounts []quarantine.Renewed, out quarantine.Released) {
	for _, a := range accounts {
		switch {
		case a.Not != "":
			x.Judge(run.NotProven)
			x.followUp("account " + a.String() + " was not made anew: " + a.Not)
		case slices.Contains(out.Renewed, a.Ref):
			x.result.Renewed = append(x.result.Renewed, a.String())
			if users := a.Users(); users != "" {
				x.followUp("the tokens of " + users + " ended with account " + a.String() + ": until they are restarted, or get another within the hour, the API server refuses them (kubectl delete pod, or kubectl rollout restart of what made them)")
			}
		}
	}
}

// rotateSecrets rotates the secrets that are asked for, one after the other. Each has a plan of its own, which waits
// for an approval of its own, so the service comes first.
func (x *incident) rotateSecrets() error {
	for _, name := range x.access.rotate {
		doc, err := x.Child("Rotate secret "+name, rotatesecret.WorkflowType, "rotate-"+name, rotatesecret.Input{Common: run.Common{Target: x.Target().Name}, Secret: name})
		why := ""
		switch {
		case procedure.GivenUp(err):
			return err
		case err != nil:
			why = procedure.What(err)
		case doc.Outcome != run.Succeeded:
			why = doc.Summary
		default:
			x.result.Rotated = append(x.result.Rotated, name)
			continue
		}
		x.Judge(run.NotProven)
		x.followUp(fmt.Sprintf("secret %s is not proven rotated (%s): upkeep run %s --target %s --set secret=%s", name, why, rotatesecret.WorkflowType, x.Target().Name, name))
	}
	return nil
}
