package rolloutrelease

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// why says what is wrong with a stage.
func (s *stage) why() string {
	if s.out.Error != "" {
		return s.out.Error
	}
	return bad(s.out.Checks)
}

// endAtStaging takes back what was done to staging. Production is not touched.
func (o *rollout) endAtStaging(v run.Verdict) error {
	s := o.staging
	o.r.Judge(run.Fail) // what is not proven is not promoted
	undo, err := o.planUndo(s, o.r.Do)
	if err == nil {
		err = o.rollBack(s, undo, o.r.Do)
	}
	if err != nil {
		return err
	}
	stays := ""
	if len(s.plan.Migrations) > 0 {
		stays = "; what its migrations did to its database stays"
	}
	o.r.Say("staging target %s is %s: %s; %s%s; production was not touched", s.Target, map[run.Verdict]string{run.Fail: "bad", run.NotProven: "not proven"}[v], s.why(), s.undone(undo), stays)
	return nil
}

// undone says what became of a stage.
func (s *stage) undone(u helm.Undo) string {
	if s.out.RolledBackTo > 0 {
		return fmt.Sprintf("release %s was rolled back to revision %d", s.Kubernetes.Release, s.out.RolledBackTo)
	}
	if u.Back > 0 {
		return fmt.Sprintf("release %s was rolled back before, as revision %d", s.Kubernetes.Release, u.Back)
	}
	return fmt.Sprintf("release %s was not rolled back: %s", s.Kubernetes.Release, u.Why)
}

// endBadly takes back what was done to production, with the data as the policy says.
func (o *rollout) endBadly() error {
	s := o.production
	o.r.Judge(run.Fail)
	undo, err := o.planUndo(s, o.r.Do)
	if err != nil {
		return err
	}
	if undo.Needed && o.migrated() {
		switch o.policy.Migrations {
		case config.MigrationsRefuse:
			words := fmt.Sprintf("release %s is bad (%s) and has migrated its database, so it is not rolled back by itself; approving rolls it back to revision %d and leaves the data as migrated; rejecting leaves it as it is%s",
				s.Kubernetes.Release, s.why(), undo.Plan.To.Number, o.otherWays())
			if err := o.r.Approve(words, undo.Plan); err != nil {
				if procedure.HasCode(err, failure.NotApproved) {
					o.r.Say("release %s stays at revision %d, which is bad: %s; the rollback was not approved%s", s.Kubernetes.Release, undo.Plan.Base.Number, s.why(), o.otherWays())
					return nil
				}
				return o.leave(err)
			}
		case config.MigrationsRestore:
			if err := o.restore(undo); err != nil {
				return o.leave(err)
			}
		}
	}
	if err := o.rollBack(s, undo, o.r.Do); err != nil {
		return err
	}
	o.r.Say("release %s in namespace %s is bad: %s; %s", s.Kubernetes.Release, s.Kubernetes.Namespace, s.why(), s.undone(undo))
	return nil
}

// migrated reports whether migrations have run, or may have.
func (o *rollout) migrated() bool {
	return o.migrates() || o.production.stands != helm.New // what was planned before a reset is not known
}

func (o *rollout) leave(err error) error {
	if procedure.GivenUp(err) {
		o.r.Left("release %s of target %s stays as it is, which is bad: %s%s", o.production.Kubernetes.Release, o.production.Target, o.production.why(), o.otherWays())
	}
	return err
}

// otherWays says what a person can do about the data.
func (o *rollout) otherWays() string {
	if o.result.BackupID == "" {
		return "; there is no drilled backup to go back to"
	}
	return fmt.Sprintf("; backup %s of %s has the data from before (RestoreDatabase with mode replace, or RecoverData)", o.result.BackupID, o.result.BackupAt)
}

// restore puts the backup in the database's place, which is approved in a run of its own, that says what
// it replaces.
func (o *rollout) restore(undo helm.Undo) error {
	if o.result.BackupID == "" {
		return failure.New(failure.NoProof, "release %s is bad and its data were migrated, and there is no drilled backup to restore", o.production.Kubernetes.Release).
			Do("mend it by hand, or roll it back with RecoverService if the old version works on the data")
	}
	words := fmt.Sprintf("release %s is bad (%s) and has migrated its database: restore backup %s of %s in the database's place (what was written since stays in the database that is kept beside), then roll back to revision %d",
		o.production.Kubernetes.Release, o.production.why(), o.result.BackupID, o.result.BackupAt, undo.Plan.To.Number)
	if err := o.r.Approve(words, undo.Plan); err != nil {
		return err
	}
	u, err := url.Parse(o.r.Target().DatabaseURL)
	if err != nil {
		return fmt.Errorf("read the database's name: %w", err)
	}
	doc, err := o.r.Child("Restore the database", restoredatabase.WorkflowType, "restore", restoredatabase.Input{
		Common: run.Common{Target: o.r.Target().Name}, Backup: o.result.BackupID, Mode: restoredatabase.Replace, Confirm: strings.TrimPrefix(u.Path, "/"),
	})
	if err != nil {
		return err
	}
	if doc.Outcome != run.Succeeded {
		return failure.New(failure.NotProvenEqual, "the restore is not proven: %s", doc.Summary).Do("see run %s, and roll back by hand when the data are right", doc.RunID)
	}
	return nil
}

// do runs a step: Run.Do, or Run.Ask in a run that was given up.
type do func(procedure.Step, any, any) error

func (o *rollout) planUndo(s *stage, do do) (undo helm.Undo, err error) {
	step := o.step(s, "Plan the rollback", helm.PlanUndo, procedure.Long) // a hook that still runs is waited for
	err = do(step, helm.UndoRequest{Place: s.Place, Operation: s.Operation, Rollback: s.undo}, &undo)
	return undo, err
}

func (o *rollout) rollBack(s *stage, undo helm.Undo, do do) error {
	if !undo.Needed {
		return nil
	}
	step := o.step(s, "Roll the release back", helm.Rollback, procedure.Long)
	step.Whole = true
	var applied helmrelease.Applied
	if err := do(step, helm.RollbackOrder{Place: s.Place, Operation: s.undo, Plan: undo.Plan, Ready: s.policy.Timeout}, &applied); err != nil {
		return err
	}
	s.out.RolledBackTo, s.out.EndedAt = undo.Plan.To.Number, o.r.Now()
	o.show()
	return nil
}

// giveUp takes back the upgrade of a run that was cancelled or abandoned, unless the data stand against it.
func (o *rollout) giveUp(s *stage) {
	if s == o.production && o.migrated() && o.policy.Migrations != config.MigrationsCompatible {
		o.r.Left("release %s of target %s stays at what the run had made of it, not proven good, since its database was migrated%s", s.Kubernetes.Release, s.Target, o.otherWays())
		return
	}
	undo, err := o.planUndo(s, o.r.Ask)
	if err == nil {
		err = o.rollBack(s, undo, o.r.Ask)
	}
	if err != nil {
		o.r.Left("release %s of target %s could not be rolled back: %s", s.Kubernetes.Release, s.Target, procedure.What(err))
	}
}
