package reviewaccess_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

func inShop() *proceduretest.World {
	return &proceduretest.World{
		Cluster: &config.Kubernetes{Namespace: "shop", BaselineKeys: []string{"ab"}},
		Access: access.Summary{SHA256: "5a", URL: "file:///s/runs/x/access-5a.json", Subjects: 3, Grants: 4, Critical: 1, Paths: 1, Lines: []access.Line{
			{Kind: "critical risk", What: "account shop/web may do everything"}, {Kind: "unused account", What: "account shop/idle"}}},
		Drift: store.AccessDrift{Baseline: "0ld", Seq: 2, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), By: "ann", Key: "ab"},
	}
}

func do(t *testing.T, w *proceduretest.World, input string, decide func(*proceduretest.Run)) (*run.Document, api.Result) {
	t.Helper()
	r := proceduretest.New(t, w)
	if decide != nil {
		decide(r)
	}
	doc := r.Do(api.WorkflowType, input)
	var result api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	return doc, result
}

func TestHeldAgainstTheBaseline(t *testing.T) {
	for name, c := range map[string]struct {
		drift   access.DriftSummary
		unread  []string
		outcome run.Outcome
		says    string
	}{
		"nothing has changed": {access.DriftSummary{}, nil, run.Succeeded, "nothing has changed"},
		"less":                {access.DriftSummary{Other: 1, Changes: []string{"removed grant: x"}, More: []bool{false}}, nil, run.Succeeded, "by none of which anybody may do more"},
		"more":                {access.DriftSummary{Added: 1, Changes: []string{"added grant: x"}, More: []bool{true}}, nil, run.Failed, "1 grant more than baseline 2 of 2026-01-02: added grant: x"},
		"blind":               {access.DriftSummary{Blind: []string{"clusterrolebindings"}}, nil, run.PartiallySucceeded, "not compared"},
		"not all is read":     {access.DriftSummary{}, []string{"clusterrolebindings"}, run.PartiallySucceeded, "nothing has changed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := inShop()
			w.Drift.DriftSummary, w.Access.Unread, w.Access.Command = c.drift, c.unread, "kubectl create clusterrole"
			doc, r := do(t, w, `{}`, nil)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Contains(t, doc.Summary, c.says)
			require.Equal(t, map[run.Outcome]run.Verdict{run.Succeeded: run.Pass, run.Failed: run.Fail, run.PartiallySucceeded: run.NotProven}[c.outcome], r.Verdict)
			require.Equal(t, []string{configuration.ResolveTarget, kubernetes.ReviewAccess, store.CompareAccess, store.WriteRun}, w.Calls())
			if c.unread != nil {
				require.Contains(t, r.Checks[0].Detail, "clusterrolebindings; to grant it: kubectl create clusterrole")
			}
		})
	}
}

// TestTheFirstRunProposes a baseline, and a person accepts it by the plan's hash.
func TestTheFirstRunProposes(t *testing.T) {
	w := inShop()
	w.Drift = store.AccessDrift{None: true}
	doc, r := do(t, w, `{}`, func(p *proceduretest.Run) {
		p.WhenWaiting(func(doc run.Document) {
			require.Empty(t, w.Accepted())
			require.Contains(t, doc.WaitingFor, "accept as the baseline of access to target shop: 3 subjects with 4 grants: 1 critical")
			require.Contains(t, string(doc.Result), "account shop/web may do everything", "who decides sees it")
			require.JSONEq(t, `{"version":1,"target":"shop","review":"5a","replaces":"","subjects":3,"grants":4,"criticalRisks":1,"highRisks":0,"paths":1}`, string(doc.Approval.Plan))
			p.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen"})
		})
	})
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, w.Accepted(), 1)
	a := w.Accepted()[0]
	require.Equal(t, []string{"5a", doc.Approval.Hash, "", "ann", "seen", "ab"}, []string{a.SHA256, a.Plan, a.Replaces, a.By, a.Reason, a.Trusted[0]})
	require.Equal(t, "ba5e", r.Accepted)
	require.Equal(t, run.Pass, r.Verdict)
}

func TestNothingIsAcceptedByItself(t *testing.T) {
	for name, c := range map[string]struct {
		input   string
		decide  func(*proceduretest.Run)
		outcome run.Outcome
	}{
		"a dry run": {`{"dryRun":true}`, nil, run.PartiallySucceeded},
		"compare":   {`{"baseline":"compare"}`, nil, run.PartiallySucceeded},
		"rejected": {`{}`, func(p *proceduretest.Run) {
			p.WhenWaiting(func(doc run.Document) {
				p.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "no"})
			})
		}, run.Refused},
		"nobody decides": {`{}`, func(p *proceduretest.Run) { p.WhenWaiting(func(run.Document) {}) }, run.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			w := inShop()
			w.Drift = store.AccessDrift{None: true}
			doc, r := do(t, w, c.input, c.decide)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Empty(t, w.Accepted())
			require.Equal(t, run.NotProven, r.Verdict)
			require.NotEmpty(t, r.Checks)
		})
	}
}

func TestANewBaselineReplacesTheOld(t *testing.T) {
	w := inShop()
	w.Drift.DriftSummary = access.DriftSummary{Added: 2, Changes: []string{"added grant: x"}, More: []bool{true}}
	doc, _ := do(t, w, `{"baseline":"propose"}`, func(p *proceduretest.Run) {
		p.WhenWaiting(func(doc run.Document) {
			require.Contains(t, doc.WaitingFor, "it replaces baseline 2, with 2 changes by which somebody may do more")
			p.DecideOnPlan(run.ApproveUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "meant"})
		})
	})
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "0ld", w.Accepted()[0].Replaces)
}

func TestABadBaselineIsRefusedAndTheReviewShown(t *testing.T) {
	w := inShop()
	w.Fail(store.CompareAccess, failure.New(failure.BadBaseline, "the signature does not fit").Do("bring it back"))
	doc, r := do(t, w, `{}`, nil)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, string(failure.BadBaseline), doc.Error.Code)
	require.Equal(t, 1, r.Critical)
	require.Contains(t, r.Checks[len(r.Checks)-1].Detail, "the signature does not fit")
}

func TestWhatIsRefused(t *testing.T) {
	w := inShop()
	doc, _ := do(t, w, `{"baseline":"acept"}`, nil)
	require.Equal(t, string(failure.BadInput), doc.Error.Code)
	doc, _ = do(t, &proceduretest.World{}, `{}`, nil)
	require.Equal(t, string(failure.NoCluster), doc.Error.Code)
}
