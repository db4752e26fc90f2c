package worker

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// recorder keeps what is registered; all else is the real interface's, which is not there.
type recorder struct {
	sdkworker.Registry
	workflows, activities []string
}

func (r *recorder) RegisterWorkflowWithOptions(_ any, o workflow.RegisterOptions) {
	r.workflows = append(r.workflows, o.Name)
}

func (r *recorder) RegisterActivityWithOptions(_ any, o activity.RegisterOptions) {
	r.activities = append(r.activities, o.Name)
}

func TestCapabilitiesServeTheirQueues(t *testing.T) {
	w := &Worker{
		configuration: &configuration.Activities{},
		postgres:      &postgres.Activities{Scratch: &postgres.Scratch{Queue: run.DatabaseQueue + "-me"}},
	}
	common := []string{configuration.ResolveTarget, store.WriteRun, store.WritePlan, store.PlanPrune, store.Prune}
	every := []string{target.WorkflowType}
	for _, p := range procedures.All() {
		every = append(every, p.Name)
	}
	for _, c := range []struct {
		name                string
		queues, has, hasNot []string
		workflows           []string
	}{
		{Workflows, []string{run.WorkflowQueue}, []string{runs.AskLease, runs.EndedRuns}, append(slices.Clone(common), postgres.TakeBackup), every},
		{Database, []string{run.DatabaseQueue, run.DatabaseQueue + "-me"}, append(slices.Clone(common), postgres.TakeBackup, postgres.DropCopy), []string{runs.AskLease}, nil},
		{Cluster, []string{run.ClusterQueue}, common, []string{runs.AskLease, postgres.TakeBackup, postgres.ApplySwap}, nil},
		{Code, []string{run.CodeQueue}, append(slices.Clone(common), github.Push, runs.HandOver), []string{runs.AskLease, postgres.TakeBackup}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := chosen([]string{c.name})
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, c.queues, found[0].queues(w))
			var r recorder
			found[0].register(w, &r)
			require.ElementsMatch(t, c.workflows, r.workflows)
			require.Subset(t, r.activities, c.has)
			for _, name := range c.hasNot {
				require.NotContains(t, r.activities, name)
			}
		})
	}
}

func TestCapabilitiesAreChosenByName(t *testing.T) {
	for _, c := range []struct {
		names, want []string
		remedy      string
	}{
		{nil, []string{Workflows, Database, Cluster, Code}, ""},
		{[]string{Cluster, Workflows, Cluster}, []string{Workflows, Cluster}, ""},
		{[]string{Database, "databse"}, nil, `did you mean "database"?`},
		{[]string{"Cluster"}, nil, `did you mean "cluster"?`},
		{[]string{""}, nil, "use one of: workflows, database, cluster, code"},
	} {
		found, err := chosen(c.names)
		if c.remedy != "" {
			require.True(t, failure.Is(err, failure.BadInput), "%v", err)
			require.ErrorContains(t, err, c.remedy)
			continue
		}
		require.NoError(t, err)
		var names []string
		for _, f := range found {
			names = append(names, f.name)
		}
		require.Equal(t, c.want, names)
	}
}
