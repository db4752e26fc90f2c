// Package failpoints kills and freezes the worker at every point around every outside effect, and
// breaks the engine on purpose. However a run is hit, it ends as if it had not been, does nothing
// twice, and leaves nothing over; however the engine is broken, the proof says FAIL.
package failpoints

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"

	_ "github.com/upkeep-run/upkeep/worker" // registers every point and every mutant
)

// database has a little of everything that has an effect of its own: rows, an index, a constraint, a
// foreign key, a grant, a sequence, a large object, an unlogged table, a table that nothing but the proof watches.
const database = `
CREATE ROLE clerk;
CREATE TABLE customers (id int PRIMARY KEY, name text, note text);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int REFERENCES customers, total numeric);
CREATE TABLE log (at timestamptz, what text);
CREATE UNLOGGED TABLE cache (id serial PRIMARY KEY, what text);
INSERT INTO cache (what) SELECT 'cached ' || g FROM generate_series(1, 500) g;
CREATE INDEX orders_customer ON orders (customer);
INSERT INTO customers SELECT g, 'customer ' || g, CASE WHEN g % 3 > 0 THEN 'note ' || g END FROM generate_series(1, 3000) g;
INSERT INTO orders (customer, total) SELECT 1 + g % 3000, g / 7.0 FROM generate_series(1, 20000) g;
INSERT INTO log SELECT '2026-01-01'::timestamptz + g * interval '1 s', CASE WHEN g % 2 = 0 THEN repeat('entry ' || g, 40) END FROM generate_series(1, 60000) g;
CREATE FUNCTION total(int) RETURNS numeric LANGUAGE sql AS 'SELECT sum(total) FROM public.orders WHERE customer = $1';
CREATE VIEW big AS SELECT * FROM orders WHERE total > 100;
SELECT lo_from_bytea(0, repeat('large object', 10000)::bytea), lo_from_bytea(0, 'second');
GRANT SELECT ON orders TO clerk;
`

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// sealed begins the names of cases whose backups are encrypted.
const sealed = "sealed/"

// cases are all points, and those of what an encrypted backup does in its own way once more. Those of what
// works on a cluster or on a repository have tests there.
func cases() []string {
	var all []string
	for _, point := range fault.Points() {
		if harness.OnCluster(point) || harness.OfCode(point) {
			continue
		}
		if !strings.HasPrefix(point, "key/") {
			all = append(all, point)
		}
		for _, prefix := range []string{"key/", "chunk/create", "backup/manifest", "catalog/", "restore/chunk", "prune/"} {
			if strings.HasPrefix(point, prefix) {
				all = append(all, sealed+point)
			}
		}
	}
	return all
}

func stack(t *testing.T, encrypted bool) (*harness.Stack, *pgserver.Server, string) {
	t.Helper()
	shop := "    retention: {last: 1}\n"
	if encrypted {
		ann := keyringtest.NewPerson(t)
		t.Setenv("SHOP_IDENTITY", ann.Secret) // of the starter; the worker's is in its own environment
		shop += "    encryption:\n      recipients: [" + ann.Recipient + "]\n      identityFrom: {env: SHOP_IDENTITY}\n"
	}
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "DROP ROLE IF EXISTS clerk")
	pgservertest.Exec(t, url, database)
	t.Cleanup(func() { pgservertest.Exec(t, url, "DROP OWNED BY clerk; DROP ROLE clerk") })
	return harness.New(t, harness.Target("shop", url, shop)+
		harness.Target("onserver", url, "      scratch: {server: \""+server.DSN("", "postgres")+"\"}\n")), server, name
}

// sample are the points of the sample: each engine's commit, and the ends of effects.
var sample = []string{
	"backup/manifest/before", "backup/manifest/after", "store/create/written", "restore/chunk/after", "restore/index/before", "restore/rename/after", "report/after",
	"prune/backup/after", "prune/chunk/after", "swap/before", "sealed/key/create/after", "sealed/chunk/create/after", "sealed/catalog/renew/before",
}

// work is what is run so that a point is hit.
func work(point, database string) (procedure, input string) {
	switch {
	case replaces(point):
		return "RestoreDatabase", `{"target":"shop","mode":"replace","confirm":"` + database + `"}`
	case strings.HasPrefix(point, "restore/rename"):
		return "RestoreDatabase", `{"target":"shop","database":"brought_back"}`
	case strings.HasPrefix(point, "restore/drop"):
		return "DrillRecovery", `{"target":"onserver"}`
	case strings.HasPrefix(point, "prune/"):
		return "PruneBackups", `{"target":"shop"}`
	case strings.HasPrefix(point, "store/delete"):
		return "VerifyBackup", `{"target":"shop","grade":"stored"}`
	}
	return "DrillRecovery", `{"target":"shop"}`
}

// replaces reports whether a point is one of a replacement's.
func replaces(point string) bool {
	return strings.HasPrefix(point, "seal/") || strings.HasPrefix(point, "swap/") || strings.HasPrefix(point, "plan/")
}

// approve approves whatever plan the run asks for, until it has ended.
func approve(t *testing.T, s *harness.Stack, id string) {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		doc, err := s.Starter.Show(t.Context(), id)
		switch {
		case err == nil && doc.Outcome.Ended():
			return
		case err == nil && doc.AsksApproval(): // refused when somebody was faster, or no worker is there
			_ = s.Starter.DecideOnPlan(t.Context(), id, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "a test", Reason: "to hit the point"})
		}
		select {
		case <-t.Context().Done():
			return
		case <-look.C:
		}
	}
}

// prepare brings about what must be there before the point can be hit.
func prepare(t *testing.T, s *harness.Stack, point string) {
	t.Helper()
	needsBackup := strings.HasPrefix(point, "restore/rename") || strings.HasPrefix(point, "store/delete") || strings.HasPrefix(point, "store/move") || strings.HasPrefix(point, "chunk/quarantine") || strings.HasPrefix(point, "catalog/") || strings.HasPrefix(point, "prune/") || replaces(point)
	if !needsBackup {
		return
	}
	w := s.Worker(t, "before", identity())
	defer w.Stop()
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	switch {
	case strings.HasPrefix(point, "restore/") || replaces(point):
		return
	case strings.HasPrefix(point, "prune/"):
		doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		condemn(t, s, unneeded(t, s, "due"))
		unneeded(t, s, "new")
		return
	case strings.HasPrefix(point, "catalog/renew"):
		condemn(t, s, chunks(t, s)...)
		return
	}
	damageChunks(t, s)
	if strings.HasPrefix(point, "store/delete") { // a mark that a look takes away again
		damaged := s.Run(t, "VerifyBackup", `{"target":"shop","grade":"stored"}`)
		require.Equal(t, run.Failed, damaged.Outcome)
		repairChunks(t, s)
	}
}

// unneeded puts a chunk into the store that no backup needs, and that is three days old.
func unneeded(t *testing.T, s *harness.Stack, text string) (path string) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	path = filepath.Join(s.Store, filepath.FromSlash(format.ChunkKey("shop", hex.EncodeToString(sum[:]))))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(-72*time.Hour)))
	return path
}

// condemn lists chunks as condemned two days ago.
func condemn(t *testing.T, s *harness.Stack, paths ...string) {
	t.Helper()
	list := make(map[string]time.Time)
	for _, p := range paths {
		list[strings.TrimSuffix(filepath.Base(p), ".zst")] = time.Now().Add(-48 * time.Hour).UTC()
	}
	data, err := json.Marshal(list)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.Store, "shop", "condemned.json"), data, 0o600))
}

// damageChunks cuts the last byte off every chunk and keeps the whole ones beside.
func damageChunks(t *testing.T, s *harness.Stack) {
	t.Helper()
	for _, path := range chunks(t, s) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path+".whole", data, 0o600))
		require.NoError(t, os.Truncate(path, int64(len(data)-1)))
	}
}

func repairChunks(t *testing.T, s *harness.Stack) {
	t.Helper()
	for _, path := range chunks(t, s) {
		require.NoError(t, os.Rename(path+".whole", path))
	}
}

func chunks(t *testing.T, s *harness.Stack) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.Store, "shop", "chunks", "*", "*"))
	require.NoError(t, err)
	paths = slices.DeleteFunc(paths, func(p string) bool { return filepath.Ext(p) == ".whole" })
	require.NotEmpty(t, paths)
	return paths
}

// TestKilled kills the worker at each point, once, and starts it again.
func TestKilled(t *testing.T) {
	for _, c := range harness.Choose(t, cases(), sample) {
		t.Run(c, func(t *testing.T) {
			point, encrypted := strings.CutPrefix(c, sealed)
			s, server, name := stack(t, encrypted)
			prepare(t, s, point)
			once := filepath.Join(s.Dir, "hit")
			first := s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":kill", "UPKEEP_FAULT_ONCE="+once, identity())
			id := s.Start(t, first2(work(point, name)), second2(work(point, name)))
			go approve(t, s, id)
			select {
			case <-first.Done():
			case <-time.After(harness.Patience):
				t.Fatal("the point was never hit")
			}
			require.FileExists(t, once, "the worker died of something else")
			s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":kill", "UPKEEP_FAULT_ONCE="+once, identity())
			check(t, s, server, s.Await(t, id))
		})
	}
}

// TestFrozen stops the worker at each point for longer than it may be silent, lets another take
// over, and wakes it: the stale twin must do no harm.
func TestFrozen(t *testing.T) {
	for _, c := range harness.Choose(t, cases(), []string{"backup/manifest/before", "restore/chunk/before", "sealed/backup/manifest/before", "sealed/key/create/before"}) {
		t.Run(c, func(t *testing.T) {
			point, encrypted := strings.CutPrefix(c, sealed)
			s, server, name := stack(t, encrypted)
			prepare(t, s, point)
			once := filepath.Join(s.Dir, "hit")
			first := s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":stop", "UPKEEP_FAULT_ONCE="+once, identity())
			id := s.Start(t, first2(work(point, name)), second2(work(point, name)))
			go approve(t, s, id)
			require.Eventually(t, first.Frozen, harness.Patience, 20*time.Millisecond, "the point was never hit")
			s.Worker(t, "other", identity())
			// Longer than the heartbeat timeout, or until the other has done it all.
			silent := time.Now().Add(13 * time.Second)
			s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || time.Now().After(silent) })
			first.Continue()
			check(t, s, server, s.Await(t, id))
		})
	}
}

// identity hands the worker what stack has set.
func identity() string { return "SHOP_IDENTITY=" + os.Getenv("SHOP_IDENTITY") }

// TestPressed holds the worker at each point, terminates or resets the run there, and wakes the worker: a
// stale twin of a run that nobody waits for any more. What begins anew ends well, and does nothing twice.
func TestPressed(t *testing.T) {
	const terminate, reset = "terminate/", "reset/"
	var all []string
	for _, c := range cases() {
		all = append(all, terminate+c, reset+c)
	}
	for _, c := range harness.Choose(t, all, []string{
		"terminate/backup/manifest/after", "reset/restore/chunk/after", "terminate/prune/backup/before", "reset/swap/after", "terminate/sealed/key/create/after",
	}) {
		t.Run(c, func(t *testing.T) {
			how, point, _ := strings.Cut(c, "/")
			point, encrypted := strings.CutPrefix(point, sealed)
			s, server, name := stack(t, encrypted)
			prepare(t, s, point)
			first := s.Worker(t, "w", "UPKEEP_FAULT=point="+point+":stop", "UPKEEP_FAULT_ONCE="+filepath.Join(s.Dir, "hit"), identity())
			before := manifests(t, s, "shop")
			procedure, input := work(point, name)
			id := s.Start(t, procedure, input)
			go approve(t, s, id)
			require.Eventually(t, first.Frozen, harness.Patience, 20*time.Millisecond, "the point was never hit")
			if how+"/" == terminate {
				require.NoError(t, s.Client.TerminateWorkflow(t.Context(), id, "", "the test"))
				id = s.Start(t, procedure, input)
				go approve(t, s, id)
			} else {
				s.Reset(t, id)
			}
			s.Worker(t, "other", identity())
			first.Continue()
			doc := s.Await(t, id)
			if how+"/" == terminate { // a worker clears away what ended runs left: every few minutes, and when it starts
				first.Stop()
				s.Worker(t, "w", identity())
			}
			checkPressed(t, s, server, name, before, doc)
		})
	}
}

// manifests are the paths of the manifests of a target's backups.
func manifests(t *testing.T, s *harness.Stack, target string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Store, target, "backups", "*", "manifest.json"))
	require.NoError(t, err)
	return found
}

// checkPressed holds what a run left that began anew against what people would find.
func checkPressed(t *testing.T, s *harness.Stack, server *pgserver.Server, live string, before []string, doc *run.Document) {
	t.Helper()
	if doc.Procedure == "RestoreDatabase" && doc.Outcome == run.Refused { // it was there already
		require.Equal(t, string(failure.DatabaseExists), doc.Error.Code, doc.Summary)
	} else {
		require.Equal(t, run.Succeeded, doc.Outcome, "%s; left %v", doc.Summary, doc.Left)
	}
	if doc.Procedure == "PruneBackups" {
		require.Equal(t, run.Succeeded, s.Run(t, "PruneBackups", `{"target":"shop"}`).Outcome)
		require.Eventually(t, func() bool { // the late twin tidies up too
			files, err := filepath.Glob(filepath.Join(s.Store, "shop", "backups", "*", "*"))
			return err == nil && len(files) == 3
		}, 30*time.Second, 50*time.Millisecond)
	}
	found := manifests(t, s, doc.Target)
	require.NotEmpty(t, found)
	require.LessOrEqual(t, len(found), 3, "one of each run, and one from before where the case needs it")
	for _, m := range found { // a late twin must not have hurt the backup of another
		if slices.Contains(before, m) && doc.Procedure == "DrillRecovery" {
			continue // the case may have damaged it
		}
		backup := filepath.Base(filepath.Dir(m))
		verified := s.Run(t, "VerifyBackup", `{"target":"`+doc.Target+`","grade":"decoded","backup":"`+backup+`"}`)
		require.Equal(t, run.Succeeded, verified.Outcome, verified.Summary)
	}
	if doc.Procedure == "RestoreDatabase" {
		var result struct{ Database string }
		require.NoError(t, json.Unmarshal(doc.Result, &result))
		if result.Database == "" {
			result.Database = "brought_back"
		}
		require.Equal(t, []string{"60000"}, harness.Ask(t, server.DSN("", result.Database), "SELECT count(*)::text FROM log"))
	}
	require.Equal(t, []string{"60000"}, harness.Ask(t, server.DSN("", live), "SELECT count(*)::text FROM log"))
	// What the terminated run was building on somebody's server is dropped half an hour later, by its note.
	for _, left := range harness.Ask(t, server.DSN("", "postgres"), `SELECT datname::text FROM pg_database WHERE datname ~ '^upkeep_' OR datname = 'brought_back' OR starts_with(datname, '`+live+`_replaced_')`) {
		if strings.HasPrefix(left, "upkeep_") {
			require.FileExists(t, filepath.Join(s.Store, doc.Target, "copies", left+".json"))
		}
		pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE "+pgx.Identifier{left}.Sanitize()+" WITH (FORCE)")
	}
	s.NothingLeft(t, server)
}

func first2(a, _ string) string  { return a }
func second2(_, b string) string { return b }

// check holds a run that was hit against one that was not.
func check(t *testing.T, s *harness.Stack, server *pgserver.Server, doc *run.Document) {
	t.Helper()
	require.Equal(t, run.Succeeded, doc.Outcome, "%s; left %v", doc.Summary, doc.Left)
	if doc.Procedure == "PruneBackups" {
		checkPruned(t, s, doc)
		intact(t, s)
		s.NothingLeft(t, server)
		return
	}
	var result struct {
		BackupID string
		Verdict  run.Verdict
		Database string
		Kept     string
	}
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	require.Equal(t, run.Pass, result.Verdict)
	manifests, err := filepath.Glob(filepath.Join(s.Store, doc.Target, "backups", "*", "manifest.json"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(manifests), 2, "one of the run, and one from before where the case needs it")
	require.FileExists(t, filepath.Join(s.Store, doc.Target, "backups", result.BackupID, "manifest.json"))
	reports, err := filepath.Glob(filepath.Join(s.Store, "runs", doc.RunID, "*"))
	require.NoError(t, err)
	plans, err := filepath.Glob(filepath.Join(s.Store, "runs", doc.RunID, "plan-*.json"))
	require.NoError(t, err)
	require.Len(t, reports, 5+len(plans), "%v", reports)
	intact(t, s)
	if doc.Procedure == "DrillRecovery" {
		points, err := filepath.Glob(filepath.Join(s.Store, doc.Target, "trend", doc.Procedure, "*.json"))
		require.NoError(t, err)
		require.Len(t, points, 1, "what the run measured is noted once")
	}
	if doc.Procedure == "RestoreDatabase" {
		rows := harness.Ask(t, server.DSN("", result.Database), "SELECT count(*)::text FROM log")
		require.Equal(t, []string{"60000"}, rows)
		gone := result.Database
		if result.Kept != "" {
			gone = result.Kept
		}
		pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE "+pgx.Identifier{gone}.Sanitize())
	}
	s.NothingLeft(t, server)
}

// intact checks that the audit trail is whole: whoever was hit while it was written.
func intact(t *testing.T, s *harness.Stack) {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file://"+s.Store)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	r, err := audit.Verify(t.Context(), store, audit.Outside{})
	require.NoError(t, err)
	require.Empty(t, r.Findings)
	require.NotZero(t, r.Checkpoints)
}

// checkPruned holds a prune that was hit against one that was not: of two backups the older is gone, and
// of two chunks that nobody needs the one that was due.
func checkPruned(t *testing.T, s *harness.Stack, doc *run.Document) {
	t.Helper()
	var result struct{ Removed []string }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	require.Len(t, result.Removed, 1)
	manifests, err := filepath.Glob(filepath.Join(s.Store, "shop", "backups", "*", "*"))
	require.NoError(t, err)
	require.Len(t, manifests, 3, "one manifest with its guide")
	require.FileExists(t, filepath.Join(s.Store, "shop", "removed", result.Removed[0]+".json"))
	due, young := sha256.Sum256([]byte("due")), sha256.Sum256([]byte("new"))
	require.NoFileExists(t, filepath.Join(s.Store, filepath.FromSlash(format.ChunkKey("shop", hex.EncodeToString(due[:])))))
	require.FileExists(t, filepath.Join(s.Store, filepath.FromSlash(format.ChunkKey("shop", hex.EncodeToString(young[:])))))
	condemned, err := os.ReadFile(filepath.Join(s.Store, "shop", "condemned.json"))
	require.NoError(t, err)
	require.Contains(t, string(condemned), hex.EncodeToString(young[:]))
	require.NotContains(t, string(condemned), hex.EncodeToString(due[:]))
	verified := s.Run(t, "VerifyBackup", `{"target":"shop","grade":"decoded"}`)
	require.Equal(t, run.Succeeded, verified.Outcome, verified.Summary)
}

// TestBroken breaks the engine in each way that a mutant knows. A drill must say FAIL.
func TestBroken(t *testing.T) {
	for _, mutant := range harness.Choose(t, fault.Mutants(), []string{"backup-null-becomes-empty", "backup-skip-last-range", "restore-skip-grant", "restore-repeat-chunk"}) {
		t.Run(mutant, func(t *testing.T) {
			s, server, _ := stack(t, false)
			s.Worker(t, "w", "UPKEEP_FAULT=mutant="+mutant)
			doc := s.Run(t, "DrillRecovery", `{"target":"shop"}`)
			require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
			var result struct{ Verdict run.Verdict }
			require.NoError(t, json.Unmarshal(doc.Result, &result))
			require.Equal(t, run.Fail, result.Verdict, doc.Summary)
			s.NothingLeft(t, server)
		})
	}
}

// TestSound is the same without a fault: what the others are held against.
func TestSound(t *testing.T) {
	s, server, _ := stack(t, false)
	s.Worker(t, "w")
	check(t, s, server, s.Run(t, "DrillRecovery", `{"target":"shop"}`))
	check(t, s, server, s.Run(t, "DrillRecovery", `{"target":"onserver"}`))
}
