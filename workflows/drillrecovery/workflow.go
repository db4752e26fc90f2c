// Package drillrecovery is the procedure DrillRecovery.
package drillrecovery

import (
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/workflows/backupdatabase"
	"github.com/upkeep-run/upkeep/workflows/procedure"
	"github.com/upkeep-run/upkeep/workflows/verifybackup"
)

// Workflow drills one recovery.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, in api.Input) error {
	if r.DryRun() {
		return plan(r, in)
	}
	began := r.Now()
	result := api.Result{Verdict: run.NotProven}
	found := run.Pass // by the checks before
	publish := func(p postgres.Proof) {
		result.Checks = append(result.Checks, p.Checks...)
		result.Verdict = p.Verdict.And(found)
		result.DrillSeconds = procedure.Seconds(r.Now().Sub(began))
		r.SetResult(result)
	}
	r.SetResult(result)
	b, err := obtain(r, in)
	if err != nil {
		result.Verdict = procedure.VerdictOf(err) // what disagrees with the catalog is a drill that failed
		r.SetResult(result)
		return err
	}
	result.BackupID, result.Rows, result.BytesRead, result.BytesStored, result.Scope = b.BackupID, b.Rows, b.BytesRead, b.BytesStored, b.Scope
	if in.Backup == "" {
		result.BackupSecs = procedure.Seconds(r.Now().Sub(began))
	}
	r.SetResult(result)

	stored, err := verifybackup.CheckFiles(r, b.BackupID)
	publish(stored)
	if err != nil {
		return err
	}
	if stored.Verdict == run.Fail {
		r.Say("%s: the files of backup %s are not what was written, so nothing was restored%s", stored.Verdict, b.BackupID, verifybackup.Remarks(stored))
		return nil
	}
	found, result.Verdict = stored.Verdict, run.NotProven // whole files prove nothing yet
	r.SetResult(result)
	proven, err := verifybackup.Prove(r, b)
	result.RestoreSecs = procedure.Seconds(proven.RestoreTime)
	publish(proven.Proof)
	if err != nil {
		return err
	}
	r.Say("%s: backup %s, %d rows, restored and compared in %.1f s%s", result.Verdict, b.BackupID, result.Rows, result.DrillSeconds, verifybackup.Remarks(stored)+verifybackup.Remarks(proven.Proof))
	return nil
}

func obtain(r *procedure.Run, in api.Input) (postgres.BackupSummary, error) {
	if in.Backup != "" {
		return verifybackup.Find(r, in.Backup)
	}
	return backupdatabase.Take(r)
}

func plan(r *procedure.Run, in api.Input) error {
	if in.Backup == "" {
		return backupdatabase.Plan(r)
	}
	b, err := verifybackup.Find(r, in.Backup)
	if err != nil {
		return err
	}
	r.SetResult(b)
	r.Say("dry run: would restore backup %s (%d rows of %d tables) into a scratch server and compare it", b.BackupID, b.Rows, b.Tables)
	return nil
}
