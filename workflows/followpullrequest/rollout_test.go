package followpullrequest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	api "github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// rollouts are the rollouts that were started, by their ids.
type rollouts map[string][]rolloutrelease.Input

// merged is a GitHub on which the pull request is merged, of a target with a release. A rollout takes an hour.
func merged(t *testing.T, policy string) (*hub, rollouts) {
	h := newHub(t, twice)
	h.world.Repositories[0].Rollout = policy
	h.world.Rollout = &config.Rollout{Chart: config.Chart{Path: "/charts/shop"}}
	h.sight.Seen = pullrequest.Seen{Number: 7, Merged: true, BaseHead: "tip", BaseRef: "main"}
	started := make(rollouts)
	h.OnWorkflow(rolloutrelease.WorkflowType, mock.Anything, mock.Anything, mock.Anything).Return(&run.Document{}, nil).After(time.Hour)
	h.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
		if info.WorkflowType.Name != rolloutrelease.WorkflowType {
			return
		}
		var in rolloutrelease.Input
		require.NoError(t, args.Get(&in))
		started[info.WorkflowExecution.ID] = append(started[info.WorkflowExecution.ID], in)
	})
	return h, started
}

// twice has two runs come to the end of the same pull request, the second so much later, and gives its document.
func twice(ctx workflow.Context, later time.Duration) (doc run.Document, err error) {
	in := api.Input{Repository: "shop/web", Branch: proposal.Branch, Last: &pullrequest.Follower{Proposal: proposal}}
	for range 2 {
		if err := workflow.ExecuteChildWorkflow(ctx, procedure, in).Get(ctx, &doc); err != nil {
			return doc, err
		}
		if err := workflow.Sleep(ctx, later); err != nil {
			return doc, err
		}
	}
	return doc, nil
}

func TestAMergedUpdateIsRolledOutAsThePolicySays(t *testing.T) {
	common := run.Common{Target: "shop"}
	for policy, c := range map[string]struct {
		id   string
		in   rolloutrelease.Input
		says string
	}{
		config.RolloutOffer: {rolloutrelease.OfferID("shop"), rolloutrelease.Input{Common: common}, "offers to roll it out"},
		config.RolloutStart: {rolloutrelease.MergedID("shop", "shop/web", 7), rolloutrelease.Input{Common: common, Merged: "shop/web#7"}, "rolls it out, as the policy says"},
		config.RolloutNever: {},
	} {
		h, started := merged(t, policy)
		h.order(0, pullrequest.Follower{Proposal: proposal})
		doc := h.follow()
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Empty(t, doc.Left)
		if c.id == "" {
			require.Empty(t, started)
			require.Equal(t, "shop/web#7: it is merged", doc.Summary)
			continue
		}
		require.Equal(t, rollouts{c.id: {c.in}}, started)
		require.Equal(t, "shop/web#7: it is merged; run "+c.id+" "+c.says, doc.Summary)
		require.JSONEq(t, `"`+c.says+`"`, string(field(t, doc, "rolloutStands")))
	}
}

// TestARolloutIsStartedOnce: a run that was reset, or another of the same pull request, comes to the same end
// again, and starts no other rollout; an offer that is over is made again. (While one goes on, Temporal refuses
// another of its id; the test environment forgets what a run that is over has left behind.)
func TestARolloutIsStartedOnce(t *testing.T) {
	for policy, c := range map[string]struct {
		wait   time.Duration
		starts int
		stands string
	}{
		config.RolloutStart + " 0s":    {0, 1, "was started before to roll it out"},
		config.RolloutStart + " 2h0m":  {2 * time.Hour, 1, "was started before to roll it out"},
		config.RolloutOffer + " after": {2 * time.Hour, 2, "offers to roll it out"},
	} {
		t.Run(policy, func(t *testing.T) {
			h, started := merged(t, policy[:len(config.RolloutStart)])
			h.ExecuteWorkflow(twice, c.wait)
			require.NoError(t, h.GetWorkflowError())
			var second run.Document
			require.NoError(t, h.GetWorkflowResult(&second))
			require.Equal(t, run.Succeeded, second.Outcome)
			require.Len(t, started, 1)
			for _, inputs := range started {
				require.Len(t, inputs, c.starts)
			}
			require.JSONEq(t, `"`+c.stands+`"`, string(field(t, &second, "rolloutStands")))
		})
	}
}

func TestTheNextPartOfALongLifeRollsOut(t *testing.T) {
	h, started := merged(t, config.RolloutStart)
	data, err := converter.GetDefaultDataConverter().ToPayload(api.Input{Repository: "shop/web", Branch: proposal.Branch, Last: &pullrequest.Follower{Proposal: proposal}})
	require.NoError(t, err)
	doc := h.DoRaw(procedure, data)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, started[rolloutrelease.MergedID("shop", "shop/web", 7)], 1)
}

// field is one of the result's.
func field(t *testing.T, doc *run.Document, name string) json.RawMessage {
	t.Helper()
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(doc.Result, &all))
	return all[name]
}
