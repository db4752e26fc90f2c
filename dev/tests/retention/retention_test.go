// Package retention removes old backups on real servers: what must stay stays, what nobody needs goes,
// and what is left can be brought back.
package retention

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/lease"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

func stack(t *testing.T, retention string) (s *harness.Stack, server *pgserver.Server, url string) {
	t.Helper()
	server = pgservertest.Server(t, pgservertest.Default)
	_, url = pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY, name text); INSERT INTO goods SELECT g, 'first ' || g FROM generate_series(1, 500) g")
	s = harness.New(t, harness.Target("shop", url, retention))
	s.Worker(t, "w")
	return s, server, url
}

// backup runs a procedure that takes one, and returns the backup's id.
func backup(t *testing.T, s *harness.Stack, procedure string) string {
	t.Helper()
	doc := s.Run(t, procedure, `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	var result struct{ BackupID string }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	return result.BackupID
}

func prune(t *testing.T, s *harness.Stack, input string) (*run.Document, prunebackups.Result) {
	t.Helper()
	doc := s.Run(t, prunebackups.WorkflowType, input)
	var result prunebackups.Result
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	return doc, result
}

func list(t *testing.T, s *harness.Stack) (all []starter.BackupListed) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(s.Upkeep(t, "backups", "list", "-o", "json").Out), &all))
	return all
}

func files(t *testing.T, s *harness.Stack, pattern ...string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(append([]string{s.Store, "shop"}, pattern...)...))
	require.NoError(t, err)
	return paths
}

// age makes what is condemned two days older, and chunks a little more, as if they had been there before.
func age(t *testing.T, s *harness.Stack) {
	t.Helper()
	const by = 48 * time.Hour
	for _, path := range files(t, s, "chunks", "*", "*.zst") {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.NoError(t, os.Chtimes(path, time.Time{}, info.ModTime().Add(-by-2*time.Hour)))
	}
	for _, path := range files(t, s, "condemned.json") {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var condemned map[string]time.Time
		require.NoError(t, json.Unmarshal(data, &condemned))
		for name := range condemned {
			condemned[name] = condemned[name].Add(-by)
		}
		data, err = json.Marshal(condemned)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
}

const lastOne = "    retention: {last: 1}\n"

func TestWhatNobodyNeedsGoes(t *testing.T) {
	s, server, url := stack(t, lastOne)
	first := backup(t, s, "BackupDatabase")
	pgservertest.Exec(t, url, "UPDATE goods SET name = 'second ' || id")
	proven := backup(t, s, "DrillRecovery")
	pgservertest.Exec(t, url, "UPDATE goods SET name = 'third ' || id")
	newest := backup(t, s, "BackupDatabase")

	all := list(t, s)
	require.Len(t, all, 3)
	require.Equal(t, []string{newest, proven, first}, []string{all[0].ID, all[1].ID, all[2].ID})
	require.Equal(t, []run.Verdict{run.NotProven, run.Pass, run.NotProven}, []run.Verdict{all[0].Verdict, all[1].Verdict, all[2].Verdict})

	_, plan := prune(t, s, `{"target":"shop","dryRun":true}`)
	require.Equal(t, first, plan.Remove[0].ID)
	require.Equal(t, []string{"last", "the newest"}, plan.Keep[0].Why)
	require.Equal(t, []string{"the newest that is proven"}, plan.Keep[1].Why)
	require.Len(t, list(t, s), 3, "a dry run removes nothing")

	require.Zero(t, s.Upkeep(t, "backups", "hold", first, "--reason", "the audit").Code)
	_, held := prune(t, s, `{"target":"shop"}`)
	require.Empty(t, held.Remove)
	require.Contains(t, s.Upkeep(t, "backups", "list").Out, "the audit")
	require.Zero(t, s.Upkeep(t, "backups", "release", first).Code)
	require.Equal(t, starter.ExitRefused, s.Upkeep(t, "backups", "release", first).Code, "it is held no more")

	doc, pruned := prune(t, s, `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{first}, pruned.Removed)
	require.Positive(t, pruned.Condemned)
	require.Zero(t, pruned.Chunks)
	require.Empty(t, files(t, s, "backups", first, "*"))
	require.Contains(t, s.Upkeep(t, "backups", "show", first).Err, "was removed by run "+`"`+doc.RunID)
	require.Equal(t, starter.ExitRefused, s.Upkeep(t, "backups", "hold", first, "--reason", "too late").Code)

	before := len(files(t, s, "chunks", "*", "*.zst"))
	age(t, s)
	_, pruned = prune(t, s, `{"target":"shop"}`)
	require.Positive(t, pruned.Chunks)
	require.Positive(t, pruned.FreedBytes)
	require.Len(t, files(t, s, "chunks", "*", "*.zst"), before-pruned.Chunks)
	require.Empty(t, files(t, s, "condemned.json"))
	for _, id := range []string{proven, newest} {
		result := s.Upkeep(t, "backups", "verify", id, "--wait", "-o", "json")
		require.Zero(t, result.Code, result.Err)
	}
	s.NothingLeft(t, server)
}

// TestACondemnedChunkIsUsedAgain gives the database rows back whose chunk nobody needed for a while.
func TestACondemnedChunkIsUsedAgain(t *testing.T) {
	s, _, url := stack(t, lastOne)
	backup(t, s, "BackupDatabase")
	pgservertest.Exec(t, url, "CREATE TABLE kept AS SELECT * FROM goods; DELETE FROM goods; INSERT INTO goods VALUES (1, 'other')")
	backup(t, s, "BackupDatabase")
	_, pruned := prune(t, s, `{"target":"shop"}`)
	require.Len(t, pruned.Removed, 1)
	require.Positive(t, pruned.Condemned)
	age(t, s)
	pgservertest.Exec(t, url, "TRUNCATE goods; INSERT INTO goods SELECT * FROM kept; DROP TABLE kept")
	again := backup(t, s, "BackupDatabase")
	_, pruned = prune(t, s, `{"target":"shop"}`)
	require.NotContains(t, pruned.Removed, again)
	doc := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+again+`"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
}

func TestWithoutARetentionNothingGoes(t *testing.T) {
	s, _, _ := stack(t, "")
	backup(t, s, "BackupDatabase")
	backup(t, s, "BackupDatabase")
	doc, _ := prune(t, s, `{"target":"shop"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "retention: {last: 7")
	require.Len(t, list(t, s), 2)
}

// TestAPruneWaitsForWhoUsesBackups lets a run have the backups that a prune wants alone.
func TestAPruneWaitsForWhoUsesBackups(t *testing.T) {
	s, _, _ := stack(t, lastOne)
	backup(t, s, "BackupDatabase")
	backup(t, s, "BackupDatabase")
	_, err := s.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "reader", TaskQueue: "nobody"}, "Other")
	require.NoError(t, err)
	answer, err := (&runs.Activities{Client: s.Client}).AskLease(t.Context(), runs.Request{Target: "shop", Lease: lease.Lease{
		Holder: "reader", Claims: []lease.Claim{{Resource: target.Backups, Mode: lease.Shared}}, Purpose: "Other"}})
	require.NoError(t, err)
	require.True(t, answer.Granted)
	id := s.Start(t, prunebackups.WorkflowType, `{"target":"shop"}`)
	doc := s.Until(t, id, func(d *run.Document) bool { return d.WaitingFor != "" })
	require.True(t, strings.HasPrefix(doc.WaitingFor, "waits for reader"), doc.WaitingFor)
	require.Len(t, list(t, s), 2)
	require.NoError(t, s.Client.SignalWorkflow(t.Context(), target.ID("shop"), "", target.ReleaseSignal, "reader"))
	doc = s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Len(t, list(t, s), 1)
}
