// Package verifybackup is the procedure VerifyBackup, and the restore into a scratch server by which
// drills and verifications prove a backup.
package verifybackup

import (
	"slices"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	api "github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// copiesTried is how many copies are begun, when one after another is lost, before a person is asked.
const copiesTried = 3

// Workflow verifies one backup.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, in api.Input) error {
	if in.Grade == "" {
		in.Grade = api.Restored
	}
	if grades := []string{string(api.Stored), string(api.Decoded), string(api.Restored)}; !slices.Contains(grades, string(in.Grade)) {
		return strictjson.Unknown("grade", string(in.Grade), grades)
	}
	b, err := Find(r, in.Backup)
	if err != nil {
		return err
	}
	if r.DryRun() {
		r.SetResult(b)
		r.Say("dry run: would verify backup %s (%d rows of %d tables) at grade %s", b.BackupID, b.Rows, b.Tables, in.Grade)
		return nil
	}
	result := api.Result{BackupID: b.BackupID, Grade: in.Grade, Verdict: run.NotProven}
	add := func(p postgres.Proof) {
		result.Checks = append(result.Checks, p.Checks...)
		result.Verdict = p.Verdict
		r.SetResult(result)
	}
	if in.Grade == api.Decoded {
		p, err := look(r, b.BackupID, procedure.Step{Name: "Unpack and count every chunk", Activity: postgres.CheckDecoded, Options: procedure.Long})
		add(p)
		return say(r, b.BackupID, in.Grade, p, err)
	}
	p, err := CheckFiles(r, b.BackupID)
	add(p)
	if err != nil || in.Grade == api.Stored || p.Verdict == run.Fail {
		return say(r, b.BackupID, in.Grade, p, err)
	}
	proven, err := Prove(r, b)
	proven.Verdict = proven.Verdict.And(p.Verdict)
	add(proven.Proof)
	return say(r, b.BackupID, in.Grade, postgres.Proof{Verdict: proven.Verdict, Checks: result.Checks}, err)
}

func say(r *procedure.Run, backup string, grade api.Grade, p postgres.Proof, err error) error {
	if err == nil {
		r.Say("backup %s at grade %s: %s%s", backup, grade, p.Verdict, Remarks(p))
	}
	return err
}

// Remarks names the checks that did not pass, for a summary.
func Remarks(p postgres.Proof) string {
	text := ""
	for _, c := range p.Checks {
		if c.Verdict != run.Pass {
			text += "; " + c.Name + " " + string(c.Verdict) + ": " + c.Detail
		}
	}
	return text
}

// Find finds the backup that an input names; the newest when it names none. Nobody removes backups
// until the run ends.
func Find(r *procedure.Run, backup string) (postgres.BackupSummary, error) {
	if backup == "" {
		backup = api.Latest
	}
	var b postgres.BackupSummary
	if !r.DryRun() {
		if err := r.Turn(procedure.Share(target.Backups)); err != nil {
			return b, err
		}
	}
	err := r.Do(procedure.Step{Name: "Find the backup", Activity: postgres.FindBackup, Options: procedure.Quick},
		postgres.FindRequest{Target: r.Target(), Backup: backup}, &b)
	return b, err
}

// CheckFiles compares every file of the backup with its manifest.
func CheckFiles(r *procedure.Run, backup string) (postgres.Proof, error) {
	return look(r, backup, procedure.Step{Name: "Check every stored file", Activity: postgres.CheckStored, Options: procedure.Long})
}

func look(r *procedure.Run, backup string, step procedure.Step) (postgres.Proof, error) {
	return r.Prove(step, postgres.BackupRequest{Target: r.Target(), BackupID: backup})
}

// Proven is a proof and what it took.
type Proven struct {
	postgres.Proof
	Copy        postgres.Copy
	Loaded      postgres.LoadResult
	RestoreTime time.Duration // from the empty server to the last valid constraint
}

// Prove restores a backup into a scratch server, compares the copy with it, and removes the copy. A
// worker that goes away with its private server for good is replaced by another; when none stays, the
// run waits for a person. An encrypted backup that cannot be opened here stays unproven.
func Prove(r *procedure.Run, b postgres.BackupSummary) (Proven, error) {
	if b.Closed != "" {
		r.Judge(run.NotProven)
		return Proven{Proof: postgres.Proof{Verdict: run.NotProven, Checks: []run.Check{{Name: "restored", Verdict: run.NotProven, Detail: b.Closed}}}}, nil
	}
	backup := b.BackupID
	name := restore.BuildName(r.Target().Name, backup, "")
	return Build(r, func() (postgres.Copy, error) {
		c := postgres.Copy{Target: r.Target(), BackupID: backup, Database: name, Final: name, Owner: r.Key(), RunID: r.ID()}
		err := r.Do(procedure.Step{Name: "Prepare a scratch server", Activity: postgres.PrepareScratch, Options: procedure.Quick}, c, &c.Place)
		if err != nil {
			return c, err
		}
		if c.Place.Remark != "" {
			r.Detail(c.Place.Remark)
		}
		r.Always(procedure.Step{Name: "Remove the copy", Activity: postgres.DropCopy, Options: procedure.Quick, Queue: c.Place.Queue}, c)
		return c, nil
	})
}

// Build restores a copy and compares it with its backup. Place says where, and is asked again when the
// copy is lost on the way.
func Build(r *procedure.Run, place func() (postgres.Copy, error)) (Proven, error) {
	for try := 1; ; try++ {
		p, err := build(r, place)
		if procedure.CopyLost(err) {
			if try%copiesTried != 0 {
				continue
			}
			if err = r.Wait(err); err == nil {
				continue
			}
		}
		if err != nil {
			p.Verdict = procedure.VerdictOf(err)
		}
		return p, err
	}
}

func build(r *procedure.Run, place func() (postgres.Copy, error)) (Proven, error) {
	var p Proven
	c, err := place()
	if err != nil {
		return p, err
	}
	on := func(name, activity string, o procedure.Options) procedure.Step {
		return procedure.Step{Name: name, Activity: activity, Options: o, Queue: c.Place.Queue}
	}
	began := r.Now()
	if err := r.Do(on("Create the database", postgres.CreateDatabase, procedure.Quick), c, &c); err != nil {
		return p, err
	}
	p.Copy = c
	if err := r.Do(on("Restore the rows", postgres.LoadRows, procedure.Long), c, &p.Loaded); err != nil {
		return p, err
	}
	p.RestoreTime = r.Now().Sub(began)
	p.Proof, err = r.Prove(on("Compare the copy with the backup", postgres.Compare, procedure.Long), c)
	return p, err
}
