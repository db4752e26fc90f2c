package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

// verified calls "upkeep audit verify" and reads its report.
func (s *shell) verified(t *testing.T, code int, args ...string) *audit.Report {
	t.Helper()
	got := s.call(t, append([]string{"audit", "verify", "-o", "json"}, args...)...)
	require.Equal(t, code, got.Code, "%s\n%s", got.Out, got.Err)
	var r audit.Report
	require.NoError(t, json.Unmarshal([]byte(got.Out), &r))
	return &r
}

// TestAuditTrail plays runs that end in every way, and then changes what they left as somebody may who can
// write in the store and has neither a worker's key nor Temporal.
func TestAuditTrail(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
	absent := filepath.Join(t.TempDir(), "password")
	s := &shell{}
	s.Stack = harness.New(t, harness.Target("shop", url, "")+harness.Target("locked", url, "      passwordFrom: {file: "+absent+"}\n"))
	s.address = s.Temporal.Address
	worker := s.Worker(t, "w")
	ran := func(code int, args ...string) {
		t.Helper()
		got := s.call(t, append([]string{"run"}, append(args, "--wait", "-o", "json")...)...)
		require.Equal(t, code, got.Code, got.Err)
	}
	trails := func(id string) []string {
		found, err := filepath.Glob(filepath.Join(s.Store, "runs", id, "audit-*.jsonl"))
		require.NoError(t, err)
		return found
	}
	ran(0, "BackupDatabase", "--target", "shop", "--id", "again")
	// The id is used a second time: the trail of the first stays beside its own.
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), "again", "")
	require.NoError(t, err)
	_, err = s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "again", RunId: d.GetWorkflowExecutionInfo().GetExecution().GetRunId()},
		Reason: "the test", WorkflowTaskFinishEventId: 4, RequestId: t.Name(),
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(trails("again")) == 2 }, harness.Patience, 100*time.Millisecond)
	s.until(t, "again", run.Succeeded)
	require.Zero(t, s.call(t, "run", "BackupDatabase", "--target", "locked", "--id", "given-up").Code)
	s.until(t, "given-up", run.Waiting)
	require.Equal(t, starter.ExitCancelled, s.call(t, "abandon", "given-up", "--reason", "not today", "--wait").Code)
	ran(starter.ExitRefused, "VerifyBackup", "--target", "shop", "--set", "backup=20200101T000000Z-00000000", "--id", "refused")
	ran(0, "BackupDatabase", "--target", "shop", "--id", "newest")

	// The server lists a run a moment after its end.
	var whole *audit.Report
	require.Eventually(t, func() bool {
		whole = s.verified(t, starter.ExitPartially)
		return len(whole.Against) == 1 && strings.HasPrefix(whole.Against[0], "the histories of 5 runs in Temporal")
	}, harness.Patience, 200*time.Millisecond, "%+v", &whole)
	require.Equal(t, "the histories of 5 runs in Temporal, whose trails are intact however they ended (1 ended Cancelled, 1 ended Refused, 3 ended Succeeded)", whole.Against[0])
	require.Equal(t, []string{"whose the keys are that signed: give those that you trust"}, whole.NotProven)
	require.Len(t, whole.Keys, 1)
	key := whole.Keys[0]
	require.Empty(t, s.verified(t, 0, "--key", key).NotProven)

	// What is printed can be given the next time, as it is.
	text := s.call(t, "audit", "verify", "--key", key)
	require.Zero(t, text.Code, text.Out+text.Err)
	require.Contains(t, text.Out, "PASS the trails of 4 runs and the 5 checkpoints over them are as they were written\nheld against the histories of 5 runs in Temporal")
	document := s.call(t, "audit", "verify", "-o", "json")
	kept := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.WriteFile(kept, []byte(regexp.MustCompile(`(?m)^anchor: .*\n`).FindString(text.Out)+document.Out), 0o600))
	offline := s.call(t, "audit", "verify", "--offline", "--key", key)
	require.Equal(t, starter.ExitPartially, offline.Code)
	require.Contains(t, offline.Out, "held against nothing from outside the store\nNOT_PROVEN whether checkpoints after 5 were cut off")
	require.Zero(t, s.call(t, "audit", "verify", "--offline", "--key", key, "--anchors", kept).Code)

	older := trails("again")[0]
	if data, err := os.ReadFile(older); err == nil && strings.Contains(checkpoint(t, s, 2), headOf(data)) {
		older = trails("again")[1]
	}
	runs := func(id, file string) string { return filepath.Join(s.Store, "runs", id, file) }
	cut := func(t *testing.T) {
		require.NoError(t, os.Remove(filepath.Join(s.Store, "audit", "checkpoints", "000000000005.json")))
		require.NoError(t, os.RemoveAll(runs("newest", "")))
		require.NoError(t, os.WriteFile(filepath.Join(s.Store, "audit", "newest"), []byte("4\n"), 0o600))
	}
	edit := func(path, old, with string) func(*testing.T) {
		return func(t *testing.T) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Contains(t, string(data), old)
			require.NoError(t, os.WriteFile(path, bytes.Replace(data, []byte(old), []byte(with), 1), 0o600))
		}
	}
	// anew makes a refusal a success, and all checkpoints again with a key of its own.
	anew := func(t *testing.T) {
		edit(runs("refused", "run.json"), `"Refused"`, `"Succeeded"`)(t)
		store, err := objstore.Open(t.Context(), "file://"+s.Store)
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		var all []audit.Checkpoint
		for seq := range 5 {
			var c audit.Checkpoint
			require.NoError(t, json.Unmarshal([]byte(checkpoint(t, s, seq+1)), &c))
			all = append(all, c)
		}
		require.NoError(t, os.RemoveAll(filepath.Join(s.Store, "audit")))
		own, err := audit.LoadKey(t.TempDir())
		require.NoError(t, err)
		for _, c := range all {
			trail, err := os.ReadFile(runs(c.Run, "audit-"+c.Head+".jsonl"))
			require.NoError(t, err)
			chain, err := audit.Decode(trail, c.Run)
			require.NoError(t, err)
			document, err := os.ReadFile(runs(c.Run, "run-"+c.Document+".json"))
			require.NoError(t, err)
			if c.Run == "refused" {
				require.NoError(t, os.Remove(runs(c.Run, "run-"+c.Document+".json")))
				document, err = os.ReadFile(runs(c.Run, "run.json"))
				require.NoError(t, err)
			}
			_, err = audit.Add(t.Context(), store, own, audit.Ending{Run: c.Run, Chain: chain, Document: document, At: c.At})
			require.NoError(t, err)
		}
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T)
		says string
		args []string
	}{
		{"the trail of a run before a reset is altered", edit(older, "Back up", "Pack up"), "was altered", []string{"--offline"}},
		{"a refusal is made a success", edit(runs("refused", "run.json"), "Refused", "Succeeded"), "its document, run.json, is not the one", []string{"--offline"}},
		{"a decision is somebody else's", edit(trails("given-up")[0], "not today", "not to-day"), "was altered", []string{"--offline"}},
		{"something follows the newest checkpoint", edit(filepath.Join(s.Store, "audit", "checkpoints", "000000000005.json"), `"}`, `"} `), "something was added to it", []string{"--offline"}},
		{"the newest run is gone without a trace", cut, "run newest: its history says that it ended Succeeded with a trail of", nil},
		{"all is signed anew", anew, "run refused: the checkpoint that its history names is another one", nil},
		{"and a known key shows it", anew, "which is not trusted", []string{"--offline", "--key", key}},
		{"an anchor shows what is gone too", cut, "checkpoint 5: the checkpoint that was kept as anchor is gone", []string{"--offline", "--anchors", kept}},
	} {
		t.Run(c.name, func(t *testing.T) {
			saved := filepath.Join(t.TempDir(), "saved")
			require.NoError(t, os.CopyFS(saved, os.DirFS(s.Store)))
			c.do(t)
			got := s.call(t, append([]string{"audit", "verify"}, c.args...)...)
			require.Equal(t, starter.ExitFailed, got.Code, got.Out+got.Err)
			require.Contains(t, got.Out, c.says)
			require.NoError(t, os.RemoveAll(s.Store))
			require.NoError(t, os.CopyFS(s.Store, os.DirFS(saved)))
		})
	}
	t.Run("what only the outside shows is said to be open without it", func(t *testing.T) {
		saved := filepath.Join(t.TempDir(), "saved")
		require.NoError(t, os.CopyFS(saved, os.DirFS(s.Store)))
		anew(t)
		r := s.verified(t, starter.ExitPartially, "--offline")
		require.Equal(t, "whose the keys are that signed: give those that you trust", r.NotProven[1])
		require.NoError(t, os.RemoveAll(s.Store))
		require.NoError(t, os.CopyFS(s.Store, os.DirFS(saved)))
		cut(t)
		r = s.verified(t, starter.ExitPartially, "--offline", "--key", key)
		require.Equal(t, []string{"whether checkpoints after 4 were cut off, for want of a newer anchor: keep the one below and give it the next time"}, r.NotProven)
		require.NoError(t, os.RemoveAll(s.Store))
		require.NoError(t, os.CopyFS(s.Store, os.DirFS(saved)))
	})
	t.Run("a run that could not write is named", func(t *testing.T) {
		require.Zero(t, s.call(t, "run", "BackupDatabase", "--target", "locked", "--id", "terminated").Code)
		s.until(t, "terminated", run.Waiting)
		require.NoError(t, s.Client.TerminateWorkflow(t.Context(), "terminated", "", "by the test"))
		ran(starter.ExitRefused, "BackupDatabase", "--target", "shpo", "--id", "mistyped")
		var r *audit.Report
		require.Eventually(t, func() bool {
			r = s.verified(t, starter.ExitPartially, "--key", key)
			return len(r.NotProven) == 2
		}, harness.Patience, 200*time.Millisecond, "%+v", &r)
		require.Contains(t, r.NotProven[0], "what run mistyped did: it ended Refused and left no trail (")
		require.Contains(t, r.NotProven[1], "what run terminated did: it ended Cancelled and left no trail (terminated from outside by ")
		require.Contains(t, r.NotProven[1], "by the test")
		require.Empty(t, r.Findings)
	})
	worker.Stop()
}

// checkpoint reads a checkpoint's file.
func checkpoint(t *testing.T, s *shell, seq int) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Store, "audit", "checkpoints", "*.json"))
	require.NoError(t, err)
	data, err := os.ReadFile(files[seq-1])
	require.NoError(t, err)
	return string(data)
}

// headOf is the head of a trail's file.
func headOf(data []byte) string {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var e audit.Entry
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &e) // what cannot be read has no head
	return e.Hash
}
