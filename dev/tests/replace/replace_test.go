// Package replace puts backups in the place of live databases on real servers: only when it is written
// out and approved, and never without keeping what was there.
package replace

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site is a database whose rows were lost after its backup.
type site struct {
	*harness.Stack
	server *pgserver.Server
	name   string
	url    string
}

func newSite(t *testing.T) *site {
	t.Helper()
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY); INSERT INTO goods SELECT generate_series(1, 500); COMMENT ON DATABASE "+name+" IS 'the shop'")
	s := &site{Stack: harness.New(t, harness.Target("shop", url, "")), server: server, name: name, url: url}
	s.Worker(t, "w")
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	pgservertest.Exec(t, url, "DELETE FROM goods WHERE id > 10")
	return s
}

func (s *site) rows(t *testing.T, database string) string {
	t.Helper()
	return harness.Ask(t, s.server.DSN("", database), "SELECT count(*)::text FROM goods")[0]
}

// begin starts a replacement and waits until it asks for an approval.
func (s *site) begin(t *testing.T) (string, *run.Document) {
	t.Helper()
	id := s.Start(t, api.WorkflowType, `{"target":"shop","mode":"replace","confirm":"`+s.name+`"}`)
	return id, s.Until(t, id, func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() })
}

func (s *site) result(t *testing.T, doc *run.Document) (r api.Result) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	return r
}

func (s *site) dropKept(t *testing.T, r api.Result) {
	t.Helper()
	pgservertest.Exec(t, s.server.DSN("", "postgres"), `DROP DATABASE "`+r.Kept+`"`)
}

// TestTwoPeopleSign what replaces a database: one with a key, and one elsewhere.
func TestTwoPeopleSign(t *testing.T) {
	s := newSite(t)
	ann, bob, eve := approvaltest.New(t, "ann"), approvaltest.New(t, "bob"), approvaltest.New(t, "eve")
	s.Configure(t, harness.Target("shop", s.url, "    approvals: {quorum: 2, signed: true, keys: [{name: ann, key: "+ann.Key().Key+"}, {name: bob, key: "+bob.Key().Key+"}]}\n"))
	id, doc := s.begin(t)
	require.True(t, doc.AsksApproval(), doc.Summary)
	shown := s.Upkeep(t, "show", id).Out
	require.Contains(t, shown, "--reason WHY --sign-with KEYFILE")
	require.Contains(t, shown, "0 of 2 approved; waits for 2 more")
	// What is configured from now on is for later runs.
	s.Configure(t, harness.Target("shop", s.url, ""))
	refused := func(says string, args ...string) {
		t.Helper()
		got := s.Upkeep(t, append([]string{"approve", id, "--reason", "rows were lost"}, args...)...)
		require.Equal(t, starter.ExitRefused, got.Code, got.Err)
		require.Contains(t, got.Err, says)
	}
	refused("takes only signed decisions")
	refused("none of those that count", "--sign-with", eve.File(""))
	err := s.Starter.DecideOnPlan(t.Context(), id, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "by another way"})
	require.True(t, failure.Is(err, failure.BadSignature), "%v", err)

	first := s.Upkeep(t, "approve", id, "--reason", "rows were lost", "--sign-with", ann.File(""))
	require.Zero(t, first.Code, first.Err)
	require.Contains(t, first.Out, "1 of 2 approved by ann; waits for one more")
	require.Contains(t, s.Upkeep(t, "show", id).Out, "1 of 2 approved by ann; waits for one more")
	refused("counts once", "--sign-with", ann.File(""))
	require.Equal(t, "10", s.rows(t, s.name), "nothing has happened")

	printed := s.Upkeep(t, "approve", id, "--reason", "rows were lost", "--print")
	require.Zero(t, printed.Code, printed.Err)
	file := filepath.Join(t.TempDir(), "signature")
	require.NoError(t, os.WriteFile(file, []byte(bob.Sign(approval.Namespace, []byte(printed.Out))), 0o600))
	second := s.Upkeep(t, "approve", id, "--reason", "rows were lost", "--signature", file, "--wait", "-o", "json")
	require.Zero(t, second.Code, second.Err)
	done := second.Document(t)
	require.Equal(t, "ann and bob, by signature", done.Approval.Who())
	require.Len(t, done.Approval.Decisions, 2)
	require.Equal(t, "500", s.rows(t, s.name))
	s.dropKept(t, s.result(t, done))
}

func TestReplaceByTheCommandLine(t *testing.T) {
	s := newSite(t)
	id, doc := s.begin(t)
	require.True(t, doc.AsksApproval(), doc.Summary)
	shown := s.Upkeep(t, "show", id).Out
	require.Contains(t, shown, "upkeep approve "+id+" --plan "+doc.Approval.Hash[:12]+" --reason WHY")
	require.Contains(t, shown, `"live":{"name":"`+s.name+`"`)
	plan, err := os.ReadFile(filepath.Join(s.Store, "runs", id, "plan-"+doc.Approval.Hash+".json"))
	require.NoError(t, err)
	sum := sha256.Sum256(plan)
	require.Equal(t, doc.Approval.Hash, hex.EncodeToString(sum[:]), "what is approved is in the store")

	require.Equal(t, starter.ExitUsage, s.Upkeep(t, "approve", id).Code, "without a reason")
	require.Equal(t, starter.ExitRefused, s.Upkeep(t, "approve", id, "--reason", "x", "--plan", "000000000000").Code, "another plan")
	require.Equal(t, starter.ExitUsage, s.Upkeep(t, "approve", id, "--reason", "x", "--plan", "00").Code, "too few digits")
	require.Equal(t, starter.ExitRefused, s.Upkeep(t, "resume", id).Code, "there is nothing to try again")
	require.Equal(t, "10", s.rows(t, s.name), "nothing has happened")

	called := s.Upkeep(t, "approve", id, "--reason", "rows were lost", "--by", "ann", "--plan", doc.Approval.Hash[:12], "--wait", "-o", "json")
	require.Zero(t, called.Code, called.Err)
	doc = called.Document(t)
	require.Equal(t, "ann", doc.Approval.By)
	r := s.result(t, doc)
	require.Equal(t, "500", s.rows(t, s.name))
	require.Equal(t, "10", s.rows(t, r.Kept), "what it was is kept")
	require.Equal(t, []string{"the shop"}, harness.Ask(t, s.url, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"))
	require.Equal(t, starter.ExitRefused, s.Upkeep(t, "approve", id, "--reason", "again").Code)
	kept, err := filepath.Glob(filepath.Join(s.Store, "shop", "replaced", "*.json"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	s.NothingLeft(t, s.server)
	require.Equal(t, run.Succeeded, s.Run(t, "DrillRecovery", `{"target":"shop"}`).Outcome, "it is the target's database now")

	s.Configure(t, harness.Target("shop", s.url, "    retention: {last: 9, replacedDays: 1}\n"))
	prune := func() (p struct{ Dropped []string }) {
		doc := s.Run(t, "PruneBackups", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.NoError(t, json.Unmarshal(doc.Result, &p))
		return p
	}
	require.Empty(t, prune().Dropped, "it was replaced today")
	var note map[string]any
	data, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &note))
	note["replaced"] = time.Now().Add(-25 * time.Hour)
	data, err = json.Marshal(note)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(kept[0], data, 0o600))
	require.Equal(t, []string{r.Kept}, prune().Dropped)
	require.Equal(t, []string{"0"}, harness.Ask(t, s.url, "SELECT count(*)::text FROM pg_database WHERE datname = '"+r.Kept+"'"))
	require.NoFileExists(t, kept[0])
	require.Equal(t, "500", s.rows(t, s.name))
}

func TestARejectedPlanLeavesNothing(t *testing.T) {
	s := newSite(t)
	id, _ := s.begin(t)
	called := s.Upkeep(t, "reject", id, "--reason", "the rows were found", "--wait")
	require.Equal(t, starter.ExitRefused, called.Code, called.Err)
	require.Equal(t, "10", s.rows(t, s.name))
	s.NothingLeft(t, s.server)
}

func TestAnotherNameIsRefused(t *testing.T) {
	s := newSite(t)
	called := s.Upkeep(t, "run", api.WorkflowType, "--target", "shop", "--set", "mode=replace", "--set", "confirm=postgres", "--wait")
	require.Equal(t, starter.ExitUsage, called.Code, called.Err)
	require.Contains(t, called.Out, "the live database of target shop is")
}

// TestAPlanThatIsOvertaken was approved for a database that is another by now.
func TestAPlanThatIsOvertaken(t *testing.T) {
	s := newSite(t)
	id, first := s.begin(t)
	admin := s.server.DSN("", "postgres")
	pgservertest.Exec(t, admin, `ALTER DATABASE "`+s.name+`" RENAME TO "`+s.name+`_away"`)
	pgservertest.Exec(t, admin, `CREATE DATABASE "`+s.name+`"`)
	require.Zero(t, s.Upkeep(t, "approve", id, "--reason", "go").Code)
	again := s.Until(t, id, func(d *run.Document) bool {
		return d.Outcome.Ended() || d.AsksApproval() && d.Approval.Hash != first.Approval.Hash
	})
	require.True(t, again.AsksApproval(), again.Summary)
	require.Zero(t, s.Upkeep(t, "approve", id, "--reason", "go").Code)
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "500", s.rows(t, s.name))
	s.dropKept(t, s.result(t, doc))
	pgservertest.Exec(t, admin, `DROP DATABASE "`+s.name+`_away"`)
	s.NothingLeft(t, s.server)
}

// TestARunThatWasTerminatedWhileItAsked leaves its copy to the next.
func TestARunThatWasTerminatedWhileItAsked(t *testing.T) {
	s := newSite(t)
	id, _ := s.begin(t)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "by a person"))
	id, doc := s.begin(t)
	require.True(t, doc.AsksApproval(), doc.Summary)
	require.Zero(t, s.Upkeep(t, "approve", id, "--reason", "go").Code)
	doc = s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "500", s.rows(t, s.name))
	s.dropKept(t, s.result(t, doc))
	s.NothingLeft(t, s.server)
}
