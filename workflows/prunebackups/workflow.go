// Package prunebackups is the procedure PruneBackups.
package prunebackups

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Workflow prunes the backups of one target.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, _ api.Input) error {
	if !r.DryRun() { // nobody adds, reads or removes backups from the plan to its end
		if err := r.Turn(procedure.Exclude(target.Backups)); err != nil {
			return err
		}
	}
	request := store.PruneRequest{Store: r.Target().Store, Target: r.Target().Name, Retention: r.Retention(), RunID: r.ID(), Encryption: r.Target().Encryption}
	var plan prune.Plan
	if err := r.Do(procedure.Step{Name: "Plan what to remove", Activity: store.PlanPrune, Options: procedure.Long}, request, &plan); err != nil {
		return err
	}
	result := api.Result{
		Retention: request.Retention.String(), Remove: list(plan.Remove), Keep: list(plan.Keep), FreesBytes: plan.Frees,
		HidesBytes: plan.Hides, Space: string(plan.Space),
		Removed: []string{}, Spared: []string{}, Hurt: []string{}, Dropped: []string{},
	}
	r.SetResult(result)
	if len(plan.Unreadable) > 0 {
		r.Detail("these cannot be read, so they stay, and with them every chunk: " + strings.Join(plan.Unreadable, ", "))
		r.Judge(run.NotProven)
	}
	if r.DryRun() {
		if err := dropReplaced(r, &result); err != nil {
			return err
		}
		r.Say("dry run: would remove %s of %s, about %s (%s)%s", backups(len(plan.Remove)), backups(len(plan.Remove)+len(plan.Keep)), report.Bytes(plan.Frees+plan.Hides), result.Retention, caveat(plan.Space))
		return nil
	}
	for _, b := range plan.Remove {
		request.Remove = append(request.Remove, b.ID)
	}
	var done prune.Result
	if err := r.Do(procedure.Step{Name: "Remove backups and chunks", Activity: store.Prune, Options: procedure.Long}, request, &done); err != nil {
		return err
	}
	result.Removed, result.Spared, result.Hurt = done.Removed, done.Spared, done.Hurt
	result.Condemned, result.CondemnedBytes, result.Chunks, result.FreedBytes = done.Condemned, done.CondemnedBytes, done.Chunks, done.FreedBytes
	result.HiddenBytes, result.Space, result.Locked = done.HiddenBytes, string(done.Space), done.Locked
	r.SetResult(result)
	if len(done.Remarks) > 0 {
		r.Detail(strings.Join(done.Remarks, "; "))
		r.Judge(run.NotProven)
	}
	if len(done.Hurt) > 0 {
		r.Judge(run.Fail)
		r.Say("%s turned out to need what was removed, and are marked as damaged: %s; take a new backup", backups(len(done.Hurt)), strings.Join(done.Hurt, ", "))
		return nil
	}
	r.EndTurn() // backups need not wait for what comes
	if err := dropReplaced(r, &result); err != nil {
		return err
	}
	later := ""
	if done.Condemned > 0 {
		later = fmt.Sprintf("; %s more go with the first prune after a day, unless a backup uses them again", report.Bytes(done.CondemnedBytes))
	}
	if len(done.Locked) > 0 {
		later += "; the store does not let these go yet: " + strings.Join(done.Locked, ", ")
	}
	if len(result.Dropped) > 0 {
		later += "; databases dropped that were replaced: " + strings.Join(result.Dropped, ", ")
	}
	r.Say("%s removed, %d kept (%s); %s %s%s%s", backups(len(done.Removed)), done.Kept, result.Retention, report.Bytes(done.FreedBytes+done.HiddenBytes), becomes(done.Space), later, caveat(done.Space))
	return nil
}

// becomes is what was done to the space of removed chunks, in a word.
func becomes(s prune.Space) string {
	switch s {
	case prune.SpaceHidden:
		return "hidden"
	case prune.SpaceUnknown:
		return "removed"
	}
	return "freed"
}

// caveat says what a person must know who counts on the space.
func caveat(s prune.Space) string {
	switch s {
	case prune.SpaceHidden:
		return "; the bucket keeps versions: what is removed is freed when its lifecycle rule lets old versions go"
	case prune.SpaceUnknown:
		return "; it is not known whether the bucket keeps versions of it"
	}
	return ""
}

// dropReplaced ends the databases that were replaced as long ago as the retention says.
func dropReplaced(r *procedure.Run, result *api.Result) error {
	days := r.Retention().ReplacedDays
	if days == 0 {
		return nil
	}
	request := postgres.DropRequest{Target: r.Target(), Before: r.Now().AddDate(0, 0, -days), DryRun: r.DryRun()}
	err := r.Do(procedure.Step{Name: "Drop databases that were replaced", Activity: postgres.DropReplaced, Options: procedure.Quick}, request, &result.Dropped)
	r.SetResult(*result)
	return err
}

func list(backups []prune.Backup) []api.Backup {
	all := make([]api.Backup, 0, len(backups))
	for _, b := range backups {
		all = append(all, api.Backup(b))
	}
	return all
}

func backups(n int) string {
	if n == 1 {
		return "1 backup"
	}
	return fmt.Sprint(n, " backups")
}
