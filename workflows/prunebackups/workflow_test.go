package prunebackups_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/prune"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

func do(t *testing.T, w *proceduretest.World, input string) (*run.Document, api.Result) {
	t.Helper()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, input)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return doc, r
}

func TestRemovesWhatWasPlannedAloneWithTheBackups(t *testing.T) {
	w := &proceduretest.World{}
	doc, r := do(t, w, `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{configuration.ResolveTarget, store.PlanPrune, store.Prune, store.WriteRun}, w.Calls())
	require.Equal(t, []string{"asks for exclusive backups", "gives back"}, w.Turns())
	require.Len(t, w.Prunes(), 1)
	require.Equal(t, []string{proceduretest.OldBackupID}, w.Prunes()[0].Remove)
	require.Equal(t, doc.RunID, w.Prunes()[0].RunID)
	require.Equal(t, []string{proceduretest.OldBackupID}, r.Removed)
	require.Equal(t, "last 1", r.Retention)
	require.Contains(t, doc.Summary, "1 backup removed, 1 kept (last 1)")
}

func TestADryRunRemovesNothingAndWaitsForNobody(t *testing.T) {
	w := &proceduretest.World{}
	doc, r := do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, store.PlanPrune, store.WriteRun}, w.Calls())
	require.Empty(t, w.Turns())
	require.Equal(t, proceduretest.OldBackupID, r.Remove[0].ID)
	require.Empty(t, r.Removed)
	require.Contains(t, doc.Summary, "dry run: would remove 1 backup of 2 backups")
}

func TestItSaysWhatBecomesOfTheSpace(t *testing.T) {
	for space, says := range map[prune.Space][2]string{
		"":                 {"", "freed"}, // of a plan that was made before it was asked
		prune.SpaceFreed:   {"", "freed"},
		prune.SpaceHidden:  {"the bucket keeps versions", "hidden"},
		prune.SpaceUnknown: {"it is not known whether", "removed"},
	} {
		for _, input := range []string{`{}`, `{"dryRun":true}`} {
			doc, r := do(t, &proceduretest.World{Space: space}, input)
			require.Equal(t, string(space), r.Space)
			require.Contains(t, doc.Summary, says[0])
			if input == `{}` {
				require.Contains(t, doc.Summary, " B "+says[1])
			}
			if says[0] == "" {
				require.NotContains(t, doc.Summary, "versions")
			}
		}
	}
}

func TestWhatTheStoreLocksIsSaid(t *testing.T) {
	doc, r := do(t, &proceduretest.World{Locked: []string{proceduretest.OldBackupID}}, `{}`)
	require.Equal(t, []string{proceduretest.OldBackupID}, r.Locked)
	require.Contains(t, doc.Summary, "the store does not let these go yet: "+proceduretest.OldBackupID)
}

func TestWithoutARetentionItRefuses(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(store.PlanPrune, failure.New(failure.NoRetention, "nothing says what is kept").Do("give the target a retention"))
	doc, _ := do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Empty(t, w.Prunes())
}

func TestABackupThatCannotBeReadIsSaid(t *testing.T) {
	doc, _ := do(t, &proceduretest.World{Unreadable: []string{"20260101T000000Z-00000000"}}, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Contains(t, doc.Steps[1].Detail, "20260101T000000Z-00000000")
}

func TestABackupThatWasHurtFailsTheRun(t *testing.T) {
	doc, r := do(t, &proceduretest.World{Hurt: []string{proceduretest.BackupID}}, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, []string{proceduretest.BackupID}, r.Hurt)
	require.Contains(t, doc.Summary, proceduretest.BackupID)
}

func TestDatabasesThatWereReplacedLongAgoGo(t *testing.T) {
	for _, input := range []string{`{}`, `{"dryRun":true}`} {
		w := &proceduretest.World{ReplacedDays: 7}
		doc, r := do(t, w, input)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Contains(t, w.Calls(), postgres.DropReplaced)
		require.Equal(t, []string{"shop_replaced_20260101_000000"}, r.Dropped)
	}
	w := &proceduretest.World{}
	do(t, w, `{}`)
	require.NotContains(t, w.Calls(), postgres.DropReplaced, "they stay until a person drops them")
}
