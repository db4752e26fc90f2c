package verifybackup_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/run"
	api "github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// looks are the activities of each grade, between the look for the backup and the report.
var looks = map[api.Grade][]string{
	api.Stored:  {postgres.CheckStored},
	api.Decoded: {postgres.CheckDecoded},
	api.Restored: {postgres.CheckStored, postgres.PrepareScratch, postgres.CreateDatabase, postgres.LoadRows,
		postgres.Compare, postgres.DropCopy},
	"": {postgres.CheckStored, postgres.PrepareScratch, postgres.CreateDatabase, postgres.LoadRows, postgres.Compare, postgres.DropCopy},
}

func result(t *testing.T, doc *run.Document) api.Result {
	t.Helper()
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

func input(t *testing.T, in api.Input) string {
	t.Helper()
	data, err := json.Marshal(in)
	require.NoError(t, err)
	return string(data)
}

func TestGrades(t *testing.T) {
	for grade, want := range looks {
		t.Run(string(grade), func(t *testing.T) {
			w := &proceduretest.World{}
			doc := proceduretest.New(t, w).Do(api.WorkflowType, input(t, api.Input{Grade: grade}))
			require.Equal(t, run.Succeeded, doc.Outcome)
			require.Equal(t, slices.Concat([]string{configuration.ResolveTarget, postgres.FindBackup}, want, []string{store.WriteRun}), w.Calls())
			require.Equal(t, run.Pass, result(t, doc).Verdict)
			require.Equal(t, proceduretest.BackupID, result(t, doc).BackupID)
		})
	}
}

// TestChecksDecide lets every check of every grade find a fault, or end with one.
func TestChecksDecide(t *testing.T) {
	for grade, steps := range looks {
		for _, step := range steps {
			if step != postgres.CheckStored && step != postgres.CheckDecoded && step != postgres.Compare {
				continue
			}
			t.Run(string(grade)+step, func(t *testing.T) {
				w := &proceduretest.World{}
				w.Find(step, run.Fail, "one row differs")
				doc := proceduretest.New(t, w).Do(api.WorkflowType, input(t, api.Input{Grade: grade}))
				require.Equal(t, run.Failed, doc.Outcome)
				require.Equal(t, run.Fail, result(t, doc).Verdict)
				require.Contains(t, doc.Summary, "one row differs")

				w = &proceduretest.World{}
				w.Fail(step, failure.New(failure.UnsafeArchive, "a path climbs out"))
				doc = proceduretest.New(t, w).Do(api.WorkflowType, input(t, api.Input{Grade: grade}))
				require.Equal(t, run.Failed, doc.Outcome)
				require.Equal(t, run.Fail, result(t, doc).Verdict)

				w = &proceduretest.World{}
				w.Fail(step, failure.New(failure.ServerTooNew, "install a newer pg_dump"))
				doc = proceduretest.New(t, w).Do(api.WorkflowType, input(t, api.Input{Grade: grade}))
				require.Equal(t, run.Refused, doc.Outcome)
				require.Equal(t, run.NotProven, result(t, doc).Verdict)
			})
		}
	}
}

func TestUnknownGradeIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"grade":"restore"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, `grade "restore" is unknown; to mend it: did you mean "restored"?`)
	require.NotContains(t, w.Calls(), postgres.FindBackup)
}

func TestUnknownBackupIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.FindBackup, failure.New(failure.UnknownBackup, "there is no such backup"))
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"backup":"yesterday"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "there is no such backup")
}

func TestDryRunChangesNothing(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, postgres.FindBackup, store.WriteRun}, w.Calls())
}

// What is not proven of the files keeps nobody from bringing them back: only what is wrong does.
func TestFilesThatAreNotProvenAreRestoredAllTheSame(t *testing.T) {
	w := &proceduretest.World{}
	w.Find(postgres.CheckStored, run.NotProven, "something was left out")
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Equal(t, run.NotProven, result(t, doc).Verdict)
	require.Contains(t, doc.Summary, "something was left out")
	require.Contains(t, w.Calls(), postgres.Compare)
}
