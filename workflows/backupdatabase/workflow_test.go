package backupdatabase_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

func TestBackup(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, postgres.TakeBackup, store.WriteRun}, w.Calls())
	var got api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &got))
	require.Equal(t, api.Result{BackupID: w.Backups()[0].BackupID, Rows: 42, BytesRead: 4096, BytesStored: 1024}, got)
	require.Contains(t, doc.Summary, "a drill is what proves it")
}

func TestDryRunChangesNothing(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.True(t, doc.DryRun)
	require.Equal(t, []string{configuration.ResolveTarget, postgres.PlanBackup, store.WriteRun}, w.Calls())
	var plan postgres.BackupPlan
	require.NoError(t, json.Unmarshal(doc.Result, &plan))
	require.Equal(t, 3, plan.Tables)
}

func TestWhatIsLeftOutIsNoSuccess(t *testing.T) {
	w := &proceduretest.World{LeftOut: []string{"rows of foreign table x"}}
	require.Equal(t, run.PartiallySucceeded, proceduretest.New(t, w).Do(api.WorkflowType, `{}`).Outcome)
}
