package rolloutrelease_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

func world(change ...func(*proceduretest.World)) *proceduretest.World {
	w := &proceduretest.World{Rollout: &config.Rollout{
		Chart: config.Chart{Path: "/charts/shop"}, Staging: "staging", Migrations: config.MigrationsRefuse, Bake: time.Minute, Timeout: time.Minute, BackupWithin: time.Hour,
	}}
	for _, c := range change {
		c(w)
	}
	return w
}

func alone(w *proceduretest.World)     { w.Rollout.Staging = "" }
func migrating(w *proceduretest.World) { w.Migrations = []string{"Job migrate (pre-upgrade)"} }
func policy(p string) func(*proceduretest.World) {
	return func(w *proceduretest.World) { w.Rollout.Migrations = p }
}

// do runs it; each decision in turn is made of a plan that is asked for, or of a run that waits.
func do(t *testing.T, w *proceduretest.World, input string, decisions ...string) (*run.Document, api.Result) {
	t.Helper()
	r := proceduretest.New(t, w)
	var next func(run.Document)
	next = func(doc run.Document) {
		if len(decisions) == 0 {
			r.CancelWorkflow()
			return
		}
		d := decisions[0]
		decisions = decisions[1:]
		if d == run.ApproveUpdate || d == run.RejectUpdate {
			r.DecideOnPlan(d, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "so"})
		} else {
			r.Decide(d, run.Decision{By: "ann"})
		}
		r.WhenWaiting(next)
	}
	r.WhenWaiting(next)
	doc := r.Do(api.WorkflowType, input)
	require.Empty(t, decisions, "decisions that nobody asked for")
	var result api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	return doc, result
}

func times(w *proceduretest.World, activity string) (n int) {
	for _, c := range w.Calls() {
		if c == activity {
			n++
		}
	}
	return n
}

func TestStagingThenProduction(t *testing.T) {
	w := world()
	doc, r := do(t, w, `{}`, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, run.Pass, r.Staging.Verdict)
	require.Equal(t, run.Pass, r.Production.Verdict)
	require.Equal(t, 2, times(w, helm.Upgrade))
	require.Equal(t, 2, times(w, store.NoteHealthy))
	require.Empty(t, w.RolledBack())
	require.Zero(t, times(w, store.FindProven), "it does not migrate")
}

func TestADryRunChangesNothing(t *testing.T) {
	w := world(migrating)
	doc, _ := do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "it migrates (Job migrate (pre-upgrade))")
	for _, effect := range []string{helm.Upgrade, helm.Rollback, store.NoteHealthy, store.WritePlan} {
		require.Zero(t, times(w, effect), effect)
	}
	require.Empty(t, w.Turns())

	w = world(migrating)
	w.Fail(store.FindProven, failure.New(failure.NoProof, "no drilled backup"))
	doc, _ = do(t, w, `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Contains(t, doc.Summary, "it would be refused: no drilled backup")
}

func TestWhatCannotBeginIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		world *proceduretest.World
		input string
		says  string
	}{
		"no rollout":  {&proceduretest.World{}, `{}`, "no rollout"},
		"a bad chart": {world(), `{"chart":"charts/shop"}`, "absolute path"},
		"a secret":    {world(), `{"set":{"db.password":"x"}}`, "looks like a secret"},
		"a bad path":  {world(), `{"set":{"a..b":1}}`, "is no path"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, _ := do(t, c.world, c.input)
			require.Equal(t, run.Refused, doc.Outcome)
			require.Contains(t, doc.Summary, c.says)
			require.Zero(t, times(c.world, helm.PlanUpgrade))
		})
	}
}

func TestAMigrationNeedsADrilledBackup(t *testing.T) {
	w := world(migrating)
	w.Fail(store.FindProven, failure.New(failure.NoProof, "none").Do("run DrillRecovery"))
	doc, _ := do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "run DrillRecovery")
	require.Zero(t, times(w, helm.Upgrade))

	w = world(migrating)
	w.Fail(store.FindProven, failure.New(failure.NoProof, "none"))
	doc, _ = do(t, w, `{"override":"an empty table is added"}`, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Approval.Words, "WITHOUT a drilled backup (an empty table is added)")
	require.Contains(t, string(doc.Approval.Plan), `"override":"an empty table is added"`)

	w = world(migrating)
	doc, r := do(t, w, `{}`, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, proceduretest.BackupID, r.BackupID)
}

func TestBadStagingKeepsProductionAsItIs(t *testing.T) {
	for name, prepare := range map[string]func(*proceduretest.World){
		"its watch fails":       func(w *proceduretest.World) { w.WatchFinds(run.Fail) },
		"its watch is no proof": func(w *proceduretest.World) { w.WatchFinds(run.NotProven) },
		"its hook fails": func(w *proceduretest.World) {
			w.Fail(helm.Upgrade, failure.New(failure.HookFailed, "the migration failed"))
		},
		"it is not ready": func(w *proceduretest.World) {
			w.Fail(helm.Upgrade, failure.New(failure.NotReady, "the image is not there"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(migrating, prepare)
			doc, r := do(t, w, `{}`, run.ApproveUpdate)
			require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
			require.Contains(t, doc.Summary, "production was not touched")
			require.Equal(t, []string{"staging"}, w.RolledBack())
			require.Equal(t, 1, times(w, helm.Upgrade))
			require.Equal(t, 1, r.Staging.RolledBackTo)
			require.Zero(t, r.Production.Revision)
		})
	}
}

func TestABadReleaseIsRolledBackByItself(t *testing.T) {
	for name, prepare := range map[string]func(*proceduretest.World){
		"its watch fails": func(w *proceduretest.World) { w.WatchFinds(run.Fail) },
		"its hook fails":  func(w *proceduretest.World) { w.Fail(helm.Upgrade, failure.New(failure.ApplyFailed, "refused")) },
		"compatible data": func(w *proceduretest.World) {
			migrating(w)
			policy(config.MigrationsCompatible)(w)
			w.WatchFinds(run.Fail)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(alone, prepare)
			doc, r := do(t, w, `{}`, run.ApproveUpdate)
			require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
			require.Contains(t, doc.Summary, "was rolled back to revision 1")
			require.Equal(t, []string{"shop"}, w.RolledBack())
			require.Equal(t, 1, r.Production.RolledBackTo)
			require.Zero(t, times(w, store.NoteHealthy))
		})
	}
}

func TestAPersonDecidesOnMigratedData(t *testing.T) {
	w := world(alone, migrating)
	w.WatchFinds(run.Fail)
	doc, _ := do(t, w, `{}`, run.ApproveUpdate, run.ApproveUpdate)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Contains(t, doc.Approval.Words, proceduretest.BackupID)
	require.Equal(t, []string{"shop"}, w.RolledBack())

	w = world(alone, migrating)
	w.WatchFinds(run.Fail)
	doc, _ = do(t, w, `{}`, run.ApproveUpdate, run.RejectUpdate)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Contains(t, doc.Summary, "the rollback was not approved")
	require.Contains(t, doc.Summary, proceduretest.BackupID)
	require.Empty(t, w.RolledBack())
}

func TestTheBackupIsRestoredFirst(t *testing.T) {
	w := world(alone, migrating, policy(config.MigrationsRestore))
	w.WatchFinds(run.Fail)
	r := proceduretest.New(t, w)
	restored := false
	r.OnWorkflow("RestoreDatabase", anything, anything, anything).Return(func(_ context, in, _ raw) (*run.Document, error) {
		restored = true
		require.Empty(t, w.RolledBack(), "the data come first")
		require.JSONEq(t, `{"target":"shop","backup":"`+proceduretest.BackupID+`","mode":"replace","confirm":"shop"}`, string(in.Payload().GetData()))
		return &run.Document{RunID: "r", Outcome: run.Succeeded}, nil
	})
	approve(r, 2)
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.True(t, restored)
	require.Equal(t, []string{"shop"}, w.RolledBack())
}

func TestWhatIsNotProvenInProductionAsksAPerson(t *testing.T) {
	w := world(alone)
	w.WatchFinds(run.NotProven)
	doc, _ := do(t, w, `{}`, run.ApproveUpdate, run.RetryUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, 2, times(w, helm.Watch))

	w = world(alone)
	w.WatchFinds(run.NotProven)
	doc, _ = do(t, w, `{}`, run.ApproveUpdate, run.AbandonUpdate)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, []string{"shop"}, w.RolledBack())
}

func TestARejectedPlanTouchesNothing(t *testing.T) {
	w := world()
	doc, _ := do(t, w, `{}`, run.RejectUpdate)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Zero(t, times(w, helm.Upgrade))
}

func TestAPlanThatNobodyDecidesOnTouchesNothing(t *testing.T) {
	w := world()
	doc := proceduretest.New(t, w).Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "nobody decided")
	require.Zero(t, times(w, helm.Upgrade))
}

func TestAVoidPlanIsMadeAndApprovedAnew(t *testing.T) {
	w := world(alone)
	w.Fail(helm.Upgrade, failure.New(failure.PlanVoid, "the release has changed"))
	doc, _ := do(t, w, `{}`, run.ApproveUpdate, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, 2, times(w, helm.PlanUpgrade))
}

func TestAfterAResetItGoesOn(t *testing.T) {
	w := world(func(w *proceduretest.World) { w.Stands = helm.Done })
	doc, _ := do(t, w, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Zero(t, times(w, helm.Upgrade))
	require.Equal(t, 2, times(w, helm.Watch))

	w = world(func(w *proceduretest.World) { w.Stands = helm.Halfway })
	doc, _ = do(t, w, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, []string{"staging"}, w.RolledBack())

	w = world(func(w *proceduretest.World) { w.Stands = helm.Over })
	doc, _ = do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Empty(t, w.RolledBack())
}

func TestACancelledRunTakesItsUpgradeBack(t *testing.T) {
	for _, at := range []string{helm.PlanUpgrade, helm.Upgrade, helm.CountRestarts, helm.Watch} {
		t.Run(at, func(t *testing.T) {
			w := world(alone)
			r := proceduretest.New(t, w)
			approve(r, 1)
			if at == helm.Watch || at == helm.PlanUpgrade {
				began := w.Hang(at)
				go func() { <-began; r.CancelWorkflow() }()
			} else {
				r.OnStarted(func(activity, _ string) {
					if activity == at {
						r.CancelWorkflow()
					}
				})
			}
			doc := r.Do(api.WorkflowType, `{}`)
			require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
			require.Equal(t, slices.Contains(w.Calls(), helm.Upgrade), len(w.RolledBack()) == 1)
		})
	}
}

func TestACancelledRunLeavesMigratedDataToAPerson(t *testing.T) {
	w := world(alone, migrating)
	r := proceduretest.New(t, w)
	approve(r, 1)
	r.OnStarted(func(activity, _ string) {
		if activity == helm.CountRestarts {
			r.CancelWorkflow()
		}
	})
	doc := r.Do(api.WorkflowType, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Empty(t, w.RolledBack())
	require.Contains(t, doc.Left[0], proceduretest.BackupID)
}

var flux = ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}

func owned(w *proceduretest.World) {
	w.Owners.Suspend = []ownership.Image{{Owner: flux, UID: "f", Before: json.RawMessage("null")}}
}

func TestAnOwnerIsSuspendedUntilAPersonHasSeenToItsSource(t *testing.T) {
	w := world(owned)
	doc, r := do(t, w, `{}`, run.ApproveUpdate, run.RetryUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Approval.Words, "suspend Flux (HelmRelease web in namespace shop), upgrade release")
	require.Contains(t, string(doc.Approval.Plan), `"uid":"f"`)
	require.Len(t, w.Suspended(), 1, "one who owns both is suspended once")
	require.Equal(t, w.Suspended(), w.Resumed())
	require.NotEmpty(t, r.Staging.Suspended)
	require.Equal(t, 3, times(w, helm.Watch), "once more while it acts")
	calls := w.Calls()
	require.Equal(t, []string{kubernetes.ResumeOwners, helm.Watch, store.WriteRun}, calls[len(calls)-3:])
}

func TestAnOwnerActsAgainHoweverItEnds(t *testing.T) {
	for name, c := range map[string]struct {
		prepare   func(*proceduretest.World)
		decisions []string
		outcome   run.Outcome
		back      []string
	}{
		"it is bad":               {func(w *proceduretest.World) { w.WatchFinds(run.Fail) }, []string{run.ApproveUpdate}, run.Failed, []string{"shop"}},
		"given up at the end":     {func(*proceduretest.World) {}, []string{run.ApproveUpdate, run.AbandonUpdate}, run.Cancelled, []string{"shop"}},
		"its owner takes it back": {func(w *proceduretest.World) { w.WatchFinds(run.Pass, run.Fail) }, []string{run.ApproveUpdate, run.RetryUpdate}, run.Failed, nil},
		"cut off in the middle":   {func(w *proceduretest.World) { w.Stands = helm.Halfway }, []string{run.ApproveUpdate}, run.Failed, []string{"shop"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(alone, owned, c.prepare)
			doc, _ := do(t, w, `{}`, c.decisions...)
			require.Equal(t, c.outcome, doc.Outcome, doc.Summary)
			require.Equal(t, c.back, w.RolledBack())
			require.Len(t, w.Suspended(), 1)
			require.Contains(t, w.Resumed(), w.Suspended()[0])
		})
	}
}

func TestWhatIsOnlyProposed(t *testing.T) {
	w := world(func(w *proceduretest.World) {
		_, w.Owners.Propose, _ = ownership.Decide(ownership.PolicyPropose, []ownership.Change{{Words: "upgrade release shop", Command: "helm upgrade shop '/charts/shop' -n shop", Owners: []ownership.Owner{flux}}})
	})
	doc, r := do(t, w, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, string(failure.OwnedByOther), doc.Error.Code)
	require.Contains(t, r.Staging.Proposed[0], "helm upgrade shop '/charts/shop' -n shop")
	require.Zero(t, times(w, helm.Upgrade))
}

// TestAnApprovalExpires: the turn comes two days after it was given, so the plan is made, and asked for, again.
func TestAnApprovalExpires(t *testing.T) {
	w := world(alone)
	w.Keep(proceduretest.NotYet(48 * time.Hour)...)
	doc, _ := do(t, w, `{}`, run.ApproveUpdate, run.ApproveUpdate)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, 2, times(w, helm.PlanUpgrade))
	require.Equal(t, 1, times(w, helm.Upgrade))
}
