// Package restoredatabase is the procedure RestoreDatabase.
package restoredatabase

import (
	"fmt"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
	"github.com/upkeep-run/upkeep/workflows/verifybackup"
)

// Workflow restores one backup beside the original.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, in api.Input) error {
	if len(in.Database) > restore.MaxName {
		return failure.New(failure.BadInput, "the database's name has %d bytes, more than %d", len(in.Database), restore.MaxName).Do("choose a shorter name")
	}
	if err := checkMode(in); err != nil {
		return err
	}
	b, err := verifybackup.Find(r, in.Backup)
	if err != nil {
		return err
	}
	if in.Mode == api.Replace {
		return replace(r, in, b)
	}
	if in.Database == "" {
		in.Database = generated(b)
	}
	c := postgres.Copy{
		Target: r.Target(), BackupID: b.BackupID, Database: restore.BuildName(r.Target().Name, b.BackupID, in.Database), Final: in.Database,
		Owner: r.Key(), RunID: r.ID(), Place: postgres.Place{Kind: postgres.PlaceTarget, Queue: run.DatabaseQueue},
	}
	var plan postgres.RestorePlan
	if err := r.Do(step("Plan the restore", postgres.PlanRestore, procedure.Quick), c, &plan); err != nil {
		return err
	}
	if r.DryRun() {
		r.SetResult(plan)
		r.Say("dry run: would restore backup %s (%d rows of %d tables, about %s of disk) as database %s", b.BackupID, plan.Rows, plan.Tables, report.Bytes(plan.NeededBytes), in.Database)
		return nil
	}
	result := api.Result{BackupID: b.BackupID, Database: in.Database, Verdict: run.NotProven}
	r.SetResult(result)
	if whole, err := checkFiles(r, &result); err != nil || !whole {
		return err
	}
	r.OnFailure(step("Remove the half database", postgres.DropCopy, procedure.Quick), c)
	built, err := verifybackup.Build(r, func() (postgres.Copy, error) { return c, nil })
	result.Rows, result.Verdict, result.Checks = b.Rows, built.Verdict.And(result.Verdict), append(result.Checks, built.Checks...)
	r.SetResult(result)
	if err != nil {
		return err
	}
	if built.Verdict == run.Fail {
		r.Say("the copy of backup %s differs from it, so it is not kept; RESTORE.md beside the backup brings it back without Upkeep, as far as that goes%s", b.BackupID, verifybackup.Remarks(built.Proof))
		return nil
	}
	// From here on the database is there for people: a run that is cancelled has either named it or not.
	publish := step("Give the copy its name", postgres.Publish, procedure.Quick)
	publish.Whole = true
	if err := r.Do(publish, built.Copy, nil); err != nil {
		return err
	}
	r.Say("backup %s is restored as database %s beside the original: %d rows, %s%s", b.BackupID, in.Database, b.Rows, result.Verdict, verifybackup.Remarks(postgres.Proof{Checks: result.Checks}))
	return nil
}

// checkFiles checks the backup's files before anything is restored from them, and says so where they are
// not what was written.
func checkFiles(r *procedure.Run, result *api.Result) (whole bool, err error) {
	stored, err := verifybackup.CheckFiles(r, result.BackupID)
	result.Checks, result.Verdict = stored.Checks, stored.Verdict
	if err != nil || stored.Verdict == run.Fail {
		r.SetResult(result)
		r.Say("backup %s is damaged; nothing was restored%s", result.BackupID, verifybackup.Remarks(stored))
		return false, err
	}
	return true, nil
}

func step(name, activity string, o procedure.Options) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: o}
}

// checkMode refuses a replacement that is not written out. What is left out never replaces anything.
func checkMode(in api.Input) error {
	switch {
	case in.Mode != "" && in.Mode != api.Beside && in.Mode != api.Replace:
		return strictjson.Unknown("mode", in.Mode, []string{api.Beside, api.Replace})
	case in.Mode != api.Replace && in.Confirm != "":
		return failure.New(failure.BadInput, "confirm goes with mode replace, and the mode is %s", api.Beside).Do("write out mode=%s too, or leave confirm out", api.Replace)
	case in.Mode != api.Replace:
		return nil
	case in.Database != "":
		return failure.New(failure.BadInput, "mode replace takes no other database: the copy gets the live one's name").Do("leave database out")
	case in.Confirm == "":
		return failure.New(failure.BadInput, "to replace the live database, its name must be written out").Do("if that is what you mean, set confirm to that name")
	}
	return nil
}

// generated names a database after the original and the moment that it shows. A later run of the same
// backup chooses the same name, and so takes over what this one may leave half done.
func generated(b postgres.BackupSummary) string {
	suffix := "_restored_" + b.SnapshotAt.UTC().Format("20060102_150405")
	name := b.Database
	for len(name)+len(suffix) > restore.MaxName {
		runes := []rune(name)
		name = string(runes[:len(runes)-1])
	}
	return fmt.Sprint(name, suffix)
}
