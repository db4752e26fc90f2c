// Package buttons presses the buttons that people have, in the middle of a run: Terminate, Reset,
// Cancel, stopping the worker, restarting PostgreSQL. Whatever is pressed, nothing is done twice,
// nothing is left over, and what may go on goes on.
package buttons

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

const database = `
CREATE TABLE orders (id bigserial PRIMARY KEY, customer text, total numeric);
INSERT INTO orders (customer, total) SELECT 'customer ' || g, g / 7.0 FROM generate_series(1, 40000) g;
CREATE INDEX orders_customer ON orders (customer);`

// inTheMiddle is where the worker is held: a chunk is loaded, and others are not.
const inTheMiddle = "restore/chunk/after"

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site is a stack whose database is restored beside itself, or in a private server.
type site struct {
	*harness.Stack
	server *pgserver.Server
}

func newSite(t *testing.T) *site { t.Helper(); return newSiteWith(t, "") }

// newSiteWith is newSite with more keys of the target.
func newSiteWith(t *testing.T, keys string) *site {
	t.Helper()
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, database)
	return &site{harness.New(t, harness.Target("shop", url, keys)), server}
}

// held starts a run on a worker that freezes at the point, and waits until it has.
func (s *site) held(t *testing.T, procedure, input, point string) (*harness.Worker, string) {
	t.Helper()
	w := s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":stop", "UPKEEP_FAULT_ONCE="+filepath.Join(s.Dir, "hit"))
	id := s.Start(t, procedure, input)
	require.Eventually(t, w.Frozen, harness.Patience, 20*time.Millisecond, "the point was never hit")
	return w, id
}

// takeBackup takes a backup with a worker of its own.
func (s *site) takeBackup(t *testing.T) {
	t.Helper()
	w := s.Worker(t, "before")
	defer w.Stop()
	require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{"target":"shop"}`).Outcome)
}

// backups lists the backups in the store.
func (s *site) backups(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Store, "shop", "backups", "*"))
	require.NoError(t, err)
	return found
}

// proven checks a run's end, and that its verdict is PASS.
func proven(t *testing.T, doc *run.Document) {
	t.Helper()
	require.Equal(t, run.Succeeded, doc.Outcome, "%s; left %v", doc.Summary, doc.Left)
	var result struct{ Verdict run.Verdict }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	require.Equal(t, run.Pass, result.Verdict)
}

// restored checks the restored database and drops it.
func (s *site) restored(t *testing.T, name string) {
	t.Helper()
	require.Equal(t, []string{"40000"}, harness.Ask(t, s.server.DSN("", name), "SELECT count(*)::text FROM orders"))
	pgservertest.Exec(t, s.server.DSN("", "postgres"), "DROP DATABASE "+name+" WITH (FORCE)")
}

func TestTerminatedRestoreIsTakenOver(t *testing.T) {
	s := newSite(t)
	s.takeBackup(t)
	input := `{"target":"shop","database":"taken_over"}`
	w, id := s.held(t, "RestoreDatabase", input, inTheMiddle)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
	s.Worker(t, "other")
	next := s.Start(t, "RestoreDatabase", input)
	w.Continue()
	proven(t, s.Await(t, next))
	s.restored(t, "taken_over")
	require.Equal(t, run.Cancelled, s.Await(t, id).Outcome)
	s.NothingLeft(t, s.server)
}

func TestTerminatedDrillLeavesNothing(t *testing.T) {
	s := newSite(t)
	w, id := s.held(t, "DrillRecovery", `{"target":"shop"}`, inTheMiddle)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
	w.Kill()
	w = s.Worker(t, "w") // it looks for what ended runs left
	s.NothingLeft(t, s.server)
	proven(t, s.Run(t, "DrillRecovery", `{"target":"shop"}`))
	w.Stop()
	s.NothingLeft(t, s.server)
}

func TestResetInTheMiddleDoublesNothing(t *testing.T) {
	s := newSite(t)
	w, id := s.held(t, "DrillRecovery", `{"target":"shop"}`, inTheMiddle)
	s.Reset(t, id)
	w.Continue()
	proven(t, s.Await(t, id))
	require.Len(t, s.backups(t), 1)
	s.NothingLeft(t, s.server)
}

func TestResetAfterTheEndDoublesNothing(t *testing.T) {
	s := newSite(t)
	s.Worker(t, "w")
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	s.Reset(t, doc.RunID)
	again := s.Await(t, doc.RunID)
	require.Equal(t, run.Succeeded, again.Outcome, again.Summary)
	require.JSONEq(t, string(doc.Result), string(again.Result), "it is the same backup")
	require.Len(t, s.backups(t), 1)
}

func TestCancelledInTheMiddleUndoes(t *testing.T) {
	for procedure, input := range map[string]string{"DrillRecovery": `{"target":"shop"}`, "RestoreDatabase": `{"target":"shop","database":"never_there"}`} {
		t.Run(procedure, func(t *testing.T) {
			s := newSite(t)
			s.takeBackup(t)
			w, id := s.held(t, procedure, input, inTheMiddle)
			require.NoError(t, s.Starter.Cancel(t.Context(), id))
			w.Continue()
			doc := s.Await(t, id)
			require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
			require.Empty(t, doc.Left)
			require.FileExists(t, filepath.Join(s.Store, "runs", id, "run.json"))
			s.NothingLeft(t, s.server)
			require.Equal(t, []string{"0"}, harness.Ask(t, s.server.DSN("", "postgres"), "SELECT count(*)::text FROM pg_database WHERE datname = 'never_there'"))
		})
	}
}

// TestStoppedWorkerGoesOnWhereItWas stops the worker as a supervisor does, in the middle of a step.
func TestStoppedWorkerGoesOnWhereItWas(t *testing.T) {
	s := newSite(t)
	w, id := s.held(t, "DrillRecovery", `{"target":"shop"}`, inTheMiddle)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.Stop() // it hears when it is awake again
	}()
	w.Continue()
	<-stopped
	require.Equal(t, run.Running, s.Until(t, id, func(*run.Document) bool { return true }).Outcome, "nobody has to see to it")
	s.Worker(t, "w")
	doc := s.Await(t, id)
	proven(t, doc)
	require.Len(t, s.backups(t), 1)
	s.NothingLeft(t, s.server)
}

// TestServerOfPeopleIsRestarted kills PostgreSQL while it is read, and while it is restored into.
func TestServerOfPeopleIsRestarted(t *testing.T) {
	for _, c := range []struct{ procedure, input, point string }{
		{"BackupDatabase", `{"target":"shop"}`, "chunk/create/after"},
		{"RestoreDatabase", `{"target":"shop","database":"brought_back"}`, inTheMiddle},
	} {
		t.Run(c.procedure, func(t *testing.T) {
			ctx := t.Context()
			binaries, err := pgservertest.Binaries(ctx, pgservertest.Default)
			require.NoError(t, err)
			o := pgserver.Options{Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("restarted-%d-%s", os.Getpid(), c.procedure)), Binaries: binaries, Durable: true}
			server, err := pgserver.Start(ctx, o)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Remove(context.Background())) })
			pgservertest.Exec(t, server.DSN("", "postgres"), "CREATE DATABASE shop")
			pgservertest.Exec(t, server.DSN("", "shop"), database)
			s := &site{harness.New(t, harness.Target("shop", server.DSN("", "shop"), "")), server}
			if c.procedure != "BackupDatabase" {
				s.takeBackup(t)
			}
			w, id := s.held(t, c.procedure, c.input, c.point)
			require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGKILL))
			<-server.Done()
			require.NoError(t, server.Stop(ctx))
			w.Continue()
			server, err = pgserver.Start(ctx, o)
			require.NoError(t, err)
			s.server = server
			doc := s.Await(t, id)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			if c.procedure == "RestoreDatabase" {
				s.restored(t, "brought_back")
			}
			s.NothingLeft(t, server)
		})
	}
}

// TestPruneIsPressed terminates or resets a prune between the manifest and the rest of a backup.
func TestPruneIsPressed(t *testing.T) {
	for name, press := range map[string]func(*testing.T, *site, string){
		"Terminate": func(t *testing.T, s *site, id string) {
			require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
		},
		"Reset": func(t *testing.T, s *site, id string) { s.Reset(t, id) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSiteWith(t, "    retention: {last: 1}\n")
			s.takeBackup(t)
			s.takeBackup(t)
			w, id := s.held(t, "PruneBackups", `{"target":"shop"}`, "prune/backup/after")
			press(t, s, id)
			w.Continue()
			s.Worker(t, "other")
			if name == "Reset" {
				require.Equal(t, run.Succeeded, s.Await(t, id).Outcome)
			}
			require.Equal(t, run.Succeeded, s.Run(t, "PruneBackups", `{"target":"shop"}`).Outcome)
			require.Eventually(t, func() bool { // a late twin tidies up too
				files, err := filepath.Glob(filepath.Join(s.Store, "shop", "backups", "*", "*"))
				return err == nil && len(files) == 3
			}, 30*time.Second, 50*time.Millisecond)
			require.Equal(t, run.Succeeded, s.Run(t, "VerifyBackup", `{"target":"shop","grade":"decoded"}`).Outcome)
		})
	}
}

// TestReplaceIsPressed resets a replacement whose copy is in place: nothing is replaced again unless a
// person approves that too.
func TestReplaceIsPressed(t *testing.T) {
	s := newSite(t)
	s.takeBackup(t)
	s.Worker(t, "w")
	live := harness.Ask(t, s.server.DSN("", "postgres"), "SELECT datname::text FROM pg_database WHERE datname LIKE 'test\\_%'")[0]
	id := s.Start(t, "RestoreDatabase", `{"target":"shop","mode":"replace","confirm":"`+live+`"}`)
	asks := func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() }
	doc := s.Until(t, id, asks)
	require.NoError(t, s.Starter.DecideOnPlan(t.Context(), id, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "the test"}))
	doc = s.Await(t, id)
	proven(t, doc)
	var result struct{ Kept string }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	s.Reset(t, id)
	doc = s.Until(t, id, asks)
	require.True(t, doc.AsksApproval(), doc.Summary)
	require.NoError(t, s.Starter.DecideOnPlan(t.Context(), id, false, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "it is done"}))
	require.Equal(t, run.Refused, s.Await(t, id).Outcome)
	require.Equal(t, []string{"40000"}, harness.Ask(t, s.server.DSN("", live), "SELECT count(*)::text FROM orders"))
	pgservertest.Exec(t, s.server.DSN("", "postgres"), "DROP DATABASE "+result.Kept)
	s.NothingLeft(t, s.server)
}
