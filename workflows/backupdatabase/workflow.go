// Package backupdatabase is the procedure BackupDatabase.
package backupdatabase

import (
	"fmt"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	api "github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Workflow takes one backup.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, _ api.Input) error {
	if r.DryRun() {
		return Plan(r)
	}
	b, err := Take(r)
	if err != nil {
		return err
	}
	r.SetResult(api.Result{BackupID: b.BackupID, Rows: b.Rows, BytesRead: b.BytesRead, BytesStored: b.BytesStored})
	r.Say("backup %s of database %s: %d rows of %d tables, %s read, %s new in the store%s; restored nowhere yet, so a drill is what proves it",
		b.BackupID, b.Database, b.Rows, b.Tables, report.Bytes(b.BytesRead), report.Bytes(b.BytesStored), encrypted(b))
	return nil
}

// encrypted says by which key, so that a person can know it from others'.
func encrypted(b postgres.BackupSummary) string {
	if b.Key == "" {
		return ""
	}
	return ", encrypted with repository key " + b.Key
}

// Plan looks at the database and says what a backup would read.
func Plan(r *procedure.Run) error {
	var plan postgres.BackupPlan
	err := r.Do(procedure.Step{Name: "Plan the backup", Activity: postgres.PlanBackup, Options: procedure.Quick},
		postgres.BackupRequest{Target: r.Target(), BackupID: r.BackupID()}, &plan)
	if err != nil {
		return err
	}
	r.SetResult(plan)
	r.Say("dry run: would back up database %s (PostgreSQL %s): %d tables, about %d rows, %s on disk",
		plan.Database, plan.ServerVersion, plan.Tables, plan.EstimatedRows, report.Bytes(plan.EstimatedBytes))
	return nil
}

// Take takes the run's one backup. What was left out of it lowers the run's verdict.
func Take(r *procedure.Run) (postgres.BackupSummary, error) {
	var b postgres.BackupSummary
	if err := r.Turn(procedure.Share(target.Database), procedure.Share(target.Backups)); err != nil {
		return b, err
	}
	err := r.Do(procedure.Step{Name: "Back up the database", Activity: postgres.TakeBackup, Options: procedure.Long},
		postgres.BackupRequest{Target: r.Target(), BackupID: r.BackupID()}, &b)
	if err != nil {
		return b, err
	}
	r.Detail(fmt.Sprintf("backup %s: %d rows of %d tables", b.BackupID, b.Rows, b.Tables))
	if len(b.LeftOut) > 0 {
		r.Judge(run.NotProven)
	}
	return b, nil
}
