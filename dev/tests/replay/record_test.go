// Package replay records runs for the replay tests of workflows: real histories of a real server, of
// workflows and activity types under their production names.
package replay

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/lease"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/recovery"
	"github.com/upkeep-run/upkeep/internal/rotation"
	"github.com/upkeep-run/upkeep/worker"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// recorded names the environment variable that holds the release to record, such as v0.1.0.
const recorded = "UPKEEP_RECORD"

// scenario is one run to record.
type scenario struct {
	procedure, name, input string
	world                  func(*proceduretest.World)
	during                 func(t *testing.T, c client.Client, id string) // with the run
	status                 enumspb.WorkflowExecutionStatus
}

var scenarios = []scenario{
	{procedure: backupdatabase.WorkflowType, name: "whole", input: `{"target":"shop"}`},
	{procedure: backupdatabase.WorkflowType, name: "dry-run", input: `{"dryRun":true}`},
	{procedure: backupdatabase.WorkflowType, name: "refused-input", input: `{"dry_run":true}`, status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: backupdatabase.WorkflowType, name: "parked-and-resumed", input: `{}`, world: parks(postgres.TakeBackup), during: decide(run.RetryUpdate)},
	{procedure: verifybackup.WorkflowType, name: "stored", input: `{"grade":"stored"}`},
	{procedure: verifybackup.WorkflowType, name: "decoded", input: `{"grade":"decoded"}`},
	{procedure: verifybackup.WorkflowType, name: "restored", input: `{}`},
	{procedure: verifybackup.WorkflowType, name: "damaged", input: `{}`, status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
		world: func(w *proceduretest.World) { w.Find(postgres.CheckStored, run.Fail, "a chunk is gone") }},
	{procedure: restoredatabase.WorkflowType, name: "whole", input: `{"database":"shop_copy"}`},
	{procedure: restoredatabase.WorkflowType, name: "parked-and-given-up", input: `{}`, world: parks(postgres.LoadRows), during: decide(run.AbandonUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED},
	{procedure: restoredatabase.WorkflowType, name: "replaced", input: `{"mode":"replace","confirm":"shop"}`, during: decideOnPlan(run.ApproveUpdate)},
	{procedure: restoredatabase.WorkflowType, name: "rejected", input: `{"mode":"replace","confirm":"shop"}`, during: decideOnPlan(run.RejectUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: prunebackups.WorkflowType, name: "whole", input: `{}`},
	{procedure: prunebackups.WorkflowType, name: "dry-run", input: `{"dryRun":true}`},
	{procedure: drillrecovery.WorkflowType, name: "whole", input: `{}`},
	{procedure: drillrecovery.WorkflowType, name: "differs", input: `{"backup":"latest"}`, status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
		world: func(w *proceduretest.World) { w.Find(postgres.Compare, run.Fail, "one row differs") }},
	{procedure: drillrecovery.WorkflowType, name: "copy-lost", input: `{}`,
		world: func(w *proceduretest.World) {
			w.Fail(postgres.LoadRows, failure.New(failure.CopyLost, "the server is new"))
		}},
	{procedure: drillrecovery.WorkflowType, name: "parked-and-cancelled", input: `{}`, world: parks(postgres.LoadRows), status: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
		during: func(t *testing.T, c client.Client, id string) {
			waitUntilParked(t, c, id)
			require.NoError(t, c.CancelWorkflow(t.Context(), id, ""))
		}},
	{procedure: rolloutrelease.WorkflowType, name: "whole", input: `{}`, world: rollsOut(run.Pass), during: decideOnPlan(run.ApproveUpdate)},
	{procedure: rolloutrelease.WorkflowType, name: "dry-run", input: `{"dryRun":true}`, world: rollsOut(run.Pass)},
	{procedure: rolloutrelease.WorkflowType, name: "rolled-back", input: `{"skipStaging":true}`, world: rollsOut(run.Fail), during: decideOnPlan(run.ApproveUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: rolloutrelease.WorkflowType, name: "owned", input: `{"skipStaging":true}`, world: owned(rollsOut(run.Pass)), during: func(t *testing.T, c client.Client, id string) {
		decideOnPlan(run.ApproveUpdate)(t, c, id)
		decide(run.RetryUpdate)(t, c, id)
	}},
	{procedure: recoverdata.WorkflowType, name: "whole", input: `{"confirm":"shop"}`, world: inCluster, during: decideOnPlan(run.ApproveUpdate)},
	{procedure: recoverdata.WorkflowType, name: "rejected", input: `{"confirm":"shop"}`, world: inCluster, during: decideOnPlan(run.RejectUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: recoverservice.WorkflowType, name: "healthy", input: `{}`, world: inCluster},
	{procedure: recoverservice.WorkflowType, name: "restarted", input: `{}`, world: crashes},
	{procedure: containincident.WorkflowType, name: "deleted", input: `{"reason":"it talks to the database","pods":"web-1"}`, world: suspects, during: decideOnPlan(run.ApproveUpdate)},
	{procedure: containincident.WorkflowType, name: "lives-on", input: `{"reason":"it talks to the database","pods":"web-1"}`, world: livesOn, during: decideOnPlan(run.ApproveUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: containincident.WorkflowType, name: "withdrawn", input: `{"reason":"it talks to the database","pods":"web-1","access":"withdraw","recreateAccount":true}`, world: granted,
		during: decideOnPlan(run.ApproveUpdate)},
	{procedure: containincident.WorkflowType, name: "given-up", input: `{"reason":"it talks to the database","pods":"web-1"}`, world: suspects, during: decide(run.AbandonUpdate),
		status: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED},
	{procedure: containincident.WorkflowType, name: "signed-by-two", input: `{"reason":"it talks to the database","pods":"web-1"}`, world: signedByTwo, during: signBoth},
	{procedure: containincident.WorkflowType, name: "dry-run", input: `{"dryRun":true,"reason":"it talks to the database","pods":"web-1"}`, world: suspects},
	{procedure: validatenetwork.WorkflowType, name: "proven", input: `{}`, world: connects(run.Pass)},
	{procedure: validatenetwork.WorkflowType, name: "open", input: `{}`, world: connects(run.Fail), status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: validatenetwork.WorkflowType, name: "dry-run", input: `{"dryRun":true}`, world: connects(run.Pass)},
	{procedure: recoverservice.WorkflowType, name: "straight-back", input: `{}`, world: released},
	{procedure: reviewaccess.WorkflowType, name: "accepted", input: `{}`, world: unreviewed, during: decideOnPlan(run.ApproveUpdate)},
	{procedure: reviewaccess.WorkflowType, name: "same", input: `{}`, world: inCluster},
	{procedure: reviewaccess.WorkflowType, name: "drifted", input: `{}`, world: drifted, status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED},
	{procedure: rotatesecret.WorkflowType, name: "whole", input: `{}`, world: rotates, during: decideOnPlan(run.ApproveUpdate)},
	{procedure: rotatesecret.WorkflowType, name: "dry-run", input: `{"dryRun":true}`, world: rotates},
	{procedure: rotatesecret.WorkflowType, name: "undone", input: `{}`, during: decideOnPlan(run.ApproveUpdate), status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
		world: func(w *proceduretest.World) {
			rotates(w)
			w.Fail(kubernetes.RestartConsumer, failure.New(failure.NotReady, "Deployment web does not come up"))
		}},
	{procedure: rotatesecret.WorkflowType, name: "given-up-with-sessions-left", input: `{}`, status: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
		world: func(w *proceduretest.World) {
			rotates(w)
			w.Secrets[0] = rotation.Entry{Name: "app", Secret: "shop-db", Keys: rotation.Keys{Password: "password"}, Role: "shop"}
			w.OldSessions = []postgres.OldSessions{{Left: 2, Who: "2 from 10.0.0.7"}}
		},
		during: func(t *testing.T, c client.Client, id string) {
			decideOnPlan(run.ApproveUpdate)(t, c, id)
			decide(run.AbandonUpdate)(t, c, id)
		}},
	{procedure: updatedependencies.WorkflowType, name: "whole", input: `{}`, world: hasRepository},
	{procedure: updatedependencies.WorkflowType, name: "dry-run", input: `{"dryRun":true}`, world: hasRepository},
	{procedure: followpullrequest.WorkflowType, name: "merged", input: follow, world: hasRepository, during: order},
	{procedure: followpullrequest.WorkflowType, name: "left-alone", input: follow, world: touched, during: order},
	{procedure: followpullrequest.WorkflowType, name: "rolled-out", input: follow, world: rollsMergedOut, during: orderAndRollOut},
	{procedure: updatedependencies.WorkflowType, name: "rollouts", input: `{}`, world: rollsMergedOut},
	{procedure: rolloutrelease.WorkflowType, name: "by-policy", input: `{"merged":"shop/web#7"}`, world: rollsMergedOut},
	{procedure: recoverservice.WorkflowType, name: "owned", input: `{}`, world: left, during: decide(run.RetryUpdate)},
}

// inCluster puts the world's target into a cluster.
func inCluster(w *proceduretest.World) {
	w.Cluster = &config.Kubernetes{Namespace: "shop", Release: "shop"}
}

// suspects puts the world's target into a cluster, where one of its pods is suspected.
func suspects(w *proceduretest.World) {
	inCluster(w)
	w.Quarantine = quarantine.Plan{Pods: []quarantine.Pod{{Ref: quarantine.Ref{Namespace: "shop", Name: "web-1"}, UID: "u"}}, Deny: []string{"shop"}}
}

// livesOn has a suspect whose old connection lives on, as a reader sees.
func livesOn(w *proceduretest.World) {
	suspects(w)
	w.Cluster.Incidents = &quarantine.Policy{Pods: 20, PodsPerHour: 60, InAtOnce: 1, Reader: quarantine.Reader{Image: "upkeep:test"}}
	w.Readings = []quarantine.Reading{{
		Check: run.Check{Name: quarantine.OldConnections, Verdict: run.Fail, Detail: "an old connection of shop/web-1 to 10.0.0.4:5432 lives on: delete the pods now"},
		Lives: []string{"an old connection of shop/web-1 to 10.0.0.4:5432 lives on"},
	}}
}

// granted has a suspect whose account is in a binding.
func granted(w *proceduretest.World) {
	suspects(w)
	binding, role := quarantine.Binding{Namespace: "shop", Name: "web-reads"}, rbacv1.RoleRef{Kind: "Role", Name: "reader"}
	web := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "shop", Name: "web"}}
	w.Granted = quarantine.AccessPlan{
		Accounts: []quarantine.Suspected{{Ref: quarantine.Ref{Namespace: "shop", Name: "web"}}},
		Grants:   []quarantine.Grant{{Binding: binding, UID: "b", Role: role, Subjects: web}},
	}
	w.Withdrawn = quarantine.Withdrawn{Bindings: []quarantine.Held{{Binding: binding, UID: "b", Role: role, Subjects: web}}}
}

// signedByTwo has what becomes of the suspects be decided on by two people, who sign.
func signedByTwo(w *proceduretest.World) {
	suspects(w)
	w.Approvals = &approval.Policy{Quorum: 2, Signed: true, Keys: []approval.Key{approvaltest.New(nil, "ann").Key(), approvaltest.New(nil, "bob").Key()}}
}

// signBoth has both of them approve.
func signBoth(t *testing.T, c client.Client, id string) {
	doc := waitUntilParked(t, c, id)
	for _, name := range []string{"ann", "bob"} {
		h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: run.ApproveUpdate,
			Args: []any{approvaltest.New(t, name).Decide(doc, run.Approved, "seen to")}, WaitForStage: client.WorkflowUpdateStageCompleted})
		require.NoError(t, err)
		require.NoError(t, h.Get(t.Context(), nil))
	}
}

// connects has one connection to try in the world's cluster, and this come of it.
func connects(v run.Verdict) func(*proceduretest.World) {
	return func(w *proceduretest.World) {
		inCluster(w)
		c := netcheck.Check{From: "Deployment/web", To: "StatefulSet/db", Port: "5432/TCP", Model: "denied", Want: "denied"}
		w.Network = netcheck.Plan{Policies: 1, Pods: 2, Checks: []netcheck.Check{c}, Sources: []netcheck.Source{{Name: c.From}}}
		w.Connections = []netcheck.Finding{{Check: c, Seen: map[run.Verdict]string{run.Pass: "blocked", run.Fail: "reached"}[v], Verdict: v}}
	}
}

// unreviewed has no baseline of access.
func unreviewed(w *proceduretest.World) {
	inCluster(w)
	w.Drift.None = true
}

// drifted has somebody be granted more than in the baseline.
func drifted(w *proceduretest.World) {
	inCluster(w)
	w.Drift.DriftSummary = access.DriftSummary{Added: 1, Changes: []string{"added grant: account shop/web has ClusterRole edit"}, More: []bool{true}}
}

// rotates gives the world's target a password that two roles have in turn.
func rotates(w *proceduretest.World) {
	inCluster(w)
	w.Secrets = []rotation.Entry{{Name: "app", Secret: "shop-db", Keys: rotation.Keys{Username: "user", Password: "password"}, Owner: "shop", Roles: []string{"shop_a", "shop_b"}}}
}

// hasRepository gives the world's target a repository.
func hasRepository(w *proceduretest.World) {
	w.Repositories = []config.Repository{{GitHub: "shop/web", Limits: pullrequest.DefaultLimits}}
}

// rollsMergedOut has the policy of the world's repository roll merged updates out.
func rollsMergedOut(w *proceduretest.World) {
	hasRepository(w)
	rollsOut(run.Pass)(w)
	w.Migrations = nil // else a person is asked
	w.Repositories[0].Rollout = config.RolloutStart
}

// touched has a person push to the branch of the pull request, and close it.
func touched(w *proceduretest.World) {
	hasRepository(w)
	w.Hub.Touched = true
}

var follow = `{"repository":"shop/web","branch":"` + proceduretest.Proposal.Branch + `"}`

// order tells the run of a pull request what it is for.
func order(t *testing.T, c client.Client, id string) {
	h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: followpullrequest.FollowUpdate,
		Args: []any{pullrequest.Follower{Proposal: proceduretest.Proposal}}, WaitForStage: client.WorkflowUpdateStageCompleted})
	require.NoError(t, err)
	require.NoError(t, h.Get(t.Context(), nil))
}

// orderAndRollOut is order, and waits for the end of the rollout of what was merged.
func orderAndRollOut(t *testing.T, c client.Client, id string) {
	order(t, c, id)
	require.Eventually(t, func() bool {
		return c.GetWorkflow(t.Context(), rolloutrelease.MergedID("shop", "shop/web", 7), "").Get(t.Context(), nil) == nil
	}, time.Minute, 100*time.Millisecond)
}

// crashes has a pod of the world's service crash at the first look.
func crashes(w *proceduretest.World) {
	inCluster(w)
	w.Services = []recovery.State{{State: health.State{Workloads: []health.Workload{{
		Kind: health.Deployment, Name: "web", UID: "u", Desired: 1, Total: 1, Updated: 1, Pods: []health.Pod{{Name: "web-1", UID: "p", Newest: true, Reason: health.CrashLoop}},
	}}}}}
}

// released has a release of a minute ago break the world's service: its pod is young, and then crashes.
func released(w *proceduretest.World) {
	var seen []recovery.State
	for _, reason := range []health.Reason{health.Starting, health.CrashLoop} {
		crashes(w)
		s := w.Services[0]
		at := time.Now().Add(-time.Minute)
		s.Workloads[0].Pods[0].Reason, s.Workloads[0].Pods[0].Made = reason, at.Add(time.Second)
		s.Release = recovery.Release{Latest: 2, Status: "deployed", At: at, Age: time.Minute, Back: recovery.Back{Revision: 1, Proven: true}}
		seen = append(seen, s)
	}
	w.Services, w.Waits = seen, []run.Verdict{run.Fail}
}

// flux is an owner as it was before it was suspended; heldBy is who has left it so.
func flux(heldBy string) ownership.Image {
	return ownership.Image{Owner: ownership.Owner{
		By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "shop"}, Why: "a label", Suspendable: true,
	}, UID: "f", Before: json.RawMessage("null"), HeldBy: heldBy}
}

// owned has somebody else own the release, who is suspended meanwhile.
func owned(world func(*proceduretest.World)) func(*proceduretest.World) {
	return func(w *proceduretest.World) {
		world(w)
		w.Owners.Suspend = []ownership.Image{flux("")}
	}
}

// left has an earlier run have left an owner suspended.
func left(w *proceduretest.World) {
	inCluster(w)
	w.Services = []recovery.State{{Owners: []ownership.Image{flux("before")}}}
}

// rollsOut gives the world's target a release, whose watches come to this verdict.
func rollsOut(v run.Verdict) func(*proceduretest.World) {
	return func(w *proceduretest.World) {
		w.Rollout = &config.Rollout{Chart: config.Chart{Path: "/charts/shop"}, Staging: "staging", Migrations: config.MigrationsCompatible, Bake: time.Minute, Timeout: time.Minute, BackupWithin: time.Hour}
		w.Migrations = []string{"Job migrate (pre-upgrade)"}
		w.WatchFinds(v, v)
	}
}

func parks(activity string) func(*proceduretest.World) {
	return func(w *proceduretest.World) {
		w.Fail(activity, failure.New(failure.DiskFull, "no space left").Do("free some space"))
	}
}

func decide(update string) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		waitUntilParked(t, c, id)
		h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: update,
			Args: []any{run.Decision{By: "ann", Reason: "seen to"}}, WaitForStage: client.WorkflowUpdateStageCompleted})
		require.NoError(t, err)
		require.NoError(t, h.Get(t.Context(), nil))
	}
}

func decideOnPlan(update string) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		doc := waitUntilParked(t, c, id)
		h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: update,
			Args: []any{run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "seen to"}}, WaitForStage: client.WorkflowUpdateStageCompleted})
		require.NoError(t, err)
		require.NoError(t, h.Get(t.Context(), nil))
	}
}

func waitUntilParked(t *testing.T, c client.Client, id string) (doc run.Document) {
	require.Eventually(t, func() bool {
		answer, err := c.QueryWorkflow(t.Context(), id, "", run.StatusQuery)
		doc = run.Document{}
		return err == nil && answer.Get(&doc) == nil && doc.Outcome == run.Waiting
	}, 30*time.Second, 50*time.Millisecond)
	return doc
}

// TestRecord writes the histories of the release that UPKEEP_RECORD names into the workflows' folders.
// Without it, it checks that every scenario can still be recorded.
func TestRecord(t *testing.T) {
	tag := os.Getenv(recorded)
	s, err := devserver.Start(t.Context(), devserver.Options{Dir: t.TempDir(), SearchAttributes: worker.Attributes()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	o := s.ClientOptions()
	o.Identity = "recorder"
	c, err := client.Dial(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	w := &proceduretest.World{Attributes: true}
	for _, queue := range []string{run.WorkflowQueue, run.DatabaseQueue, run.ClusterQueue, run.CodeQueue, proceduretest.PrivateQueue} {
		s := sdkworker.New(c, queue, sdkworker.Options{Interceptors: worker.Interceptors(), Identity: "recorder"})
		worker.RegisterWorkflows(s)
		w.Register(s)
		w.RegisterHub(s)
		require.NoError(t, s.Start())
		t.Cleanup(s.Stop)
	}
	for _, sc := range scenarios {
		t.Run(sc.procedure+"/"+sc.name, func(t *testing.T) {
			w.Forget()
			sc.play(t, c, w)
			write(t, tag, sc.procedure, sc.name, historyOf(t, c, sc.id()))
		})
	}
	t.Run(target.WorkflowType+"/leases", func(t *testing.T) {
		id := playLeases(t, c)
		write(t, tag, target.WorkflowType, "leases", historyOf(t, c, id))
		require.NoError(t, c.TerminateWorkflow(t.Context(), id, "", "recorded"))
	})
}

// write writes a history into its workflow's folder.
func write(t *testing.T, tag, workflow, name string, history *historypb.History) {
	t.Helper()
	if tag == "" {
		return
	}
	data, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(history)
	require.NoError(t, err)
	dir := filepath.Join("..", "..", "..", "workflows", strings.ToLower(workflow), "testdata", "replay", tag)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644))
}

// playLeases lets two runs that are none share a target's database, and a third wait for both.
func playLeases(t *testing.T, c client.Client) (id string) {
	ask := func(holder string, mode lease.Mode) (answer target.Answer) {
		id = target.ID("recorded")
		op := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{ID: id, TaskQueue: run.WorkflowQueue,
			WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING}, target.WorkflowType, target.State{Target: "recorded"})
		h, err := c.UpdateWithStartWorkflow(t.Context(), client.UpdateWithStartWorkflowOptions{StartWorkflowOperation: op,
			UpdateOptions: client.UpdateWorkflowOptions{UpdateName: target.AcquireUpdate, WaitForStage: client.WorkflowUpdateStageCompleted,
				Args: []any{lease.Lease{Holder: holder, Claims: []lease.Claim{{Resource: target.Database, Mode: mode}}}}}})
		require.NoError(t, err)
		require.NoError(t, h.Get(t.Context(), &answer))
		return answer
	}
	require.True(t, ask("one", lease.Shared).Granted)
	require.True(t, ask("two", lease.Shared).Granted)
	require.Contains(t, ask("three", lease.Exclusive).Why, "waits for one")
	for _, holder := range []string{"one", "two"} {
		require.NoError(t, c.SignalWorkflow(t.Context(), id, "", target.ReleaseSignal, holder))
	}
	require.Eventually(t, func() bool { // "three" is no run, so it gives its lease back as soon as it has it
		answer, err := c.QueryWorkflow(t.Context(), id, "", target.StatusQuery)
		var s target.Status
		return err == nil && answer.Get(&s) == nil && len(s.Held)+len(s.Waiting) == 0
	}, 30*time.Second, 50*time.Millisecond)
	return id
}

func (sc scenario) id() string { return strings.ToLower(sc.procedure) + "-" + sc.name }

// play runs the scenario to its end.
func (sc scenario) play(t *testing.T, c client.Client, w *proceduretest.World) {
	t.Helper()
	if sc.world != nil {
		sc.world(w)
	}
	id := sc.id()
	started, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: run.WorkflowQueue}, sc.procedure, json.RawMessage(sc.input))
	require.NoError(t, err)
	if sc.during != nil {
		sc.during(t, c, id)
	}
	_ = started.Get(t.Context(), nil) // how it ended is looked at below
	described, err := c.DescribeWorkflowExecution(t.Context(), id, started.GetRunID())
	require.NoError(t, err)
	want := sc.status
	if want == enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED {
		want = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	}
	require.Equal(t, want, described.GetWorkflowExecutionInfo().GetStatus(), "%v", described.GetWorkflowExecutionInfo().GetMemo())
}

// historyOf reads the history of the newest run of an id, as far as it goes.
func historyOf(t *testing.T, c client.Client, id string) *historypb.History {
	t.Helper()
	history := &historypb.History{}
	for events := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		require.NoError(t, err)
		history.Events = append(history.Events, e)
	}
	return history
}
