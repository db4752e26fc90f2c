package restoredatabase

import (
	"fmt"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/workflows/procedure"
	"github.com/upkeep-run/upkeep/workflows/verifybackup"
)

// plansTried is how often a plan whose facts have changed is made anew before a person is told.
const plansTried = 5

// replace restores a backup beside, proves it, has the plan approved, and puts the copy in the live
// database's place. Until then nothing of the live database is touched.
func replace(r *procedure.Run, in api.Input, b postgres.BackupSummary) error {
	live := in.Confirm
	c := postgres.Copy{
		Target: r.Target(), BackupID: b.BackupID, Owner: r.Key(), RunID: r.ID(), Place: postgres.Place{Kind: postgres.PlaceTarget, Queue: run.DatabaseQueue},
	}
	c.Database = restore.BuildName(r.Target().Name, b.BackupID, "\x00replace "+live) // no other final name has a NUL
	c.Final = c.Database
	request := postgres.SwapRequest{Copy: c, Live: live}
	if err := r.Do(step("See that the database can be replaced", postgres.CheckReplaceable, procedure.Quick), request, nil); err != nil {
		return err
	}
	var plan postgres.RestorePlan
	if err := r.Do(step("Plan the restore", postgres.PlanRestore, procedure.Quick), c, &plan); err != nil {
		return err
	}
	if r.DryRun() {
		r.SetResult(plan)
		r.Say("dry run: would restore backup %s (%d rows of %d tables, about %s of disk) beside, compare it, and after an approval put it in the place of database %s", b.BackupID, plan.Rows, plan.Tables, report.Bytes(plan.NeededBytes), live)
		return nil
	}
	result := api.Result{BackupID: b.BackupID, Database: live, Verdict: run.NotProven}
	r.SetResult(result)
	if whole, err := checkFiles(r, &result); err != nil || !whole {
		return err
	}
	if result.Verdict != run.Pass {
		return failure.New(failure.NotProvenEqual, "backup %s is not proven whole, so nothing is replaced by it%s", b.BackupID, verifybackup.Remarks(postgres.Proof{Checks: result.Checks})).
			Do("restore beside instead (without mode and confirm), look at it, and decide yourself")
	}
	files := result.Checks
	r.OnFailure(step("Remove the half database", postgres.DropCopy, procedure.Quick), c)
	for try := 1; ; try++ {
		if try > 1 {
			if err := r.Turn(procedure.Share(target.Backups)); err != nil {
				return err
			}
		}
		built, err := verifybackup.Build(r, func() (postgres.Copy, error) { return c, nil })
		result.Rows, result.Verdict, result.Checks = b.Rows, built.Verdict, slices.Concat(files, built.Checks)
		r.SetResult(result)
		if err != nil {
			return err
		}
		if built.Verdict == run.Fail {
			r.Say("the copy of backup %s differs from it, so nothing is replaced%s", b.BackupID, verifybackup.Remarks(built.Proof))
			return nil
		}
		if built.Verdict != run.Pass {
			return failure.New(failure.NotProvenEqual, "the copy of backup %s is not proven equal to it, so nothing is replaced%s", b.BackupID, verifybackup.Remarks(built.Proof)).
				Do("restore beside instead (without mode and confirm), look at it, and decide yourself")
		}
		request.Copy = built.Copy
		err = swap(r, request, &result)
		if procedure.HasCode(err, failure.PlanVoid) && try < plansTried {
			continue // what it stands on has changed, so it is looked at, and decided on, anew
		}
		return err
	}
}

// swap plans, has approved, and applies.
func swap(r *procedure.Run, request postgres.SwapRequest, result *api.Result) error {
	if err := r.Do(step("Keep everybody out of the copy", postgres.SealCopy, procedure.Quick), request.Copy, nil); err != nil {
		return err
	}
	for {
		r.EndTurn() // a decision may take days
		request.At = r.Now()
		var plan restore.Swap
		if err := r.Do(step("Plan the swap", postgres.PlanSwap, procedure.Quick), request, &plan); err != nil {
			return err
		}
		words := fmt.Sprintf("put the copy of backup %s in the place of database %s, end the %d sessions in it, and keep it as %s", plan.Backup, plan.Live.Name, plan.Sessions, plan.Kept)
		if len(plan.Remarks) > 0 {
			words += " (" + strings.Join(plan.Remarks, "; ") + ")"
		}
		if err := r.Approve(words, plan); err != nil {
			return err
		}
		if err := r.Turn(procedure.Exclude(target.Database)); err != nil {
			return err
		}
		if !r.Approved() {
			continue // the turn came too late
		}
		apply := step("Put the copy in the database's place", postgres.ApplySwap, procedure.Quick)
		apply.Whole = true // whoever is cancelled here has either replaced it or not
		var done postgres.Swapped
		order := postgres.SwapOrder{Copy: request.Copy, Plan: plan}
		if err := r.Do(apply, order, &done); err != nil && !(procedure.GivenUp(err) && replaced(r, order)) {
			return err
		}
		result.Kept, result.ClosedSeconds, result.Ended = plan.Kept, done.ClosedSeconds, done.Ended
		r.SetResult(*result)
		r.Say("database %s is now backup %s, %d rows, %s; it was closed for %.1f s at most and %d sessions were ended; what it was stays as database %s",
			plan.Live.Name, plan.Backup, result.Rows, result.Verdict, done.ClosedSeconds, done.Ended, plan.Kept)
		return nil
	}
}

// replaced finds out what became of a swap whose answer was lost before the run was given up.
func replaced(r *procedure.Run, order postgres.SwapOrder) (is bool) {
	if err := r.Ask(step("See whether the database was replaced", postgres.IsSwapped, procedure.Quick), order, &is); err != nil {
		r.Left("it is not known whether database %s was replaced; ask its server: SELECT datname FROM pg_database WHERE oid = %d says %s if it was, and what it was is then %s",
			order.Plan.Live.Name, order.Plan.Copy.Oid, order.Plan.Live.Name, order.Plan.Kept)
	}
	return is
}
