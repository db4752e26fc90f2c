package waits

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

const (
	storeSize   = "48m"
	scratchSize = "900m"
)

// trouble is something that a person can mend.
type trouble struct {
	name string // of the case, and of its target
	// run is the procedure and input fields that run into it; a backup when empty. NAME stands for a
	// name that no other run uses.
	run   []string
	code  string
	says  []string // in what it waits for
	left  []string // what it cannot do when it is given up in the midst of it
	cause func(t *testing.T, s *site) (mend func())
	hurry string // the activity whose attempts are cut short: what may pass by itself is tried for minutes
}

func troubles() []trouble {
	restore := []string{"RestoreDatabase", "--set", "database=NAME"}
	return []trouble{
		{
			name: "full_store", code: "DiskFull", says: []string{"no space to write file://", "free space on the store's disk"},
			left: []string{"the report could not be written"},
			cause: func(t *testing.T, s *site) func() {
				path := filepath.Join(s.Store, "other-data")
				fill(t, path)
				return func() { require.NoError(t, os.Remove(path)) }
			},
		},
		{
			name: "readonly_store", code: "StoreUnwritable", says: []string{"read-only file system", "give the worker's user the right"},
			left: []string{"the report could not be written"},
			cause: func(t *testing.T, s *site) func() {
				remount(t, s.Store, syscall.MS_RDONLY, storeSize)
				return func() { remount(t, s.Store, 0, storeSize) }
			},
		},
		{
			name: "small_scratch", code: "DiskFull", says: []string{"a private server in ", "are free", "give the worker a data folder on a larger one"},
			run: []string{"DrillRecovery", "--set", "backup=latest"},
			cause: func(t *testing.T, s *site) func() {
				dir := filepath.Join(s.Dir, "data-w", "scratch")
				remount(t, dir, 0, "64m")
				return func() { remount(t, dir, 0, scratchSize) }
			},
		},
		{
			name: "locked", code: "LockHeld", says: []string{"holds an exclusive lock on public.orders", "pg_terminate_backend"},
			cause: func(t *testing.T, s *site) func() {
				return s.locks(t, "locked", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
			},
		},
		{
			name: "unreadable", code: "MissingRight", says: []string{`may not read "public"."hidden"`, "GRANT SELECT"},
			cause: func(t *testing.T, s *site) func() {
				s.exec(t, "unreadable", "CREATE TABLE hidden AS SELECT 1 AS n")
				return func() { s.exec(t, "unreadable", "GRANT SELECT ON hidden TO unreadable") }
			},
		},
		{
			name: "closed_schema", code: "MissingRight", says: []string{"permission denied for schema", "grant the right"},
			cause: func(t *testing.T, s *site) func() {
				s.exec(t, "closed_schema", "CREATE SCHEMA closed; CREATE TABLE closed.t AS SELECT 1 AS n; GRANT SELECT ON closed.t TO closed_schema")
				return func() { s.exec(t, "closed_schema", "GRANT USAGE ON SCHEMA closed TO closed_schema") }
			},
		},
		{
			name: "wrong_password", code: "WrongPassword", says: []string{`as role "wrong_password"`, "password authentication failed", "pg_hba.conf"},
			cause: func(t *testing.T, s *site) func() {
				s.secret(t, "wrong_password", "not the right one")
				return func() { s.secret(t, "wrong_password", "right") }
			},
		},
		{
			name: "missing_secret", code: "MissingSecret", says: []string{"/secret-missing_secret", "no such file", "put it into the file"},
			run: restore,
			cause: func(t *testing.T, s *site) func() {
				require.NoError(t, os.Remove(s.secretPath("missing_secret")))
				return func() { s.secret(t, "missing_secret", "right") }
			},
		},
		{
			name: "no_createdb", code: "MissingRight", says: []string{"permission denied to create database", "grant the right"},
			run: restore,
			cause: func(t *testing.T, s *site) func() {
				s.exec(t, "postgres", "ALTER ROLE no_createdb NOCREATEDB")
				return func() { s.exec(t, "postgres", "ALTER ROLE no_createdb CREATEDB") }
			},
		},
		{
			name: "missing_role", code: "MissingRole", says: []string{`"clerk"`, `CREATE ROLE "clerk"`},
			run: restore,
			cause: func(t *testing.T, s *site) func() {
				s.exec(t, "missing_role", "DROP OWNED BY clerk; DROP ROLE clerk")
				return func() { s.exec(t, "postgres", "CREATE ROLE clerk") }
			},
		},
		{
			name: "missing_database", code: "MissingDatabase", says: []string{`"missing_database" does not exist`, "correct the url"},
			cause: func(t *testing.T, s *site) func() {
				s.exec(t, "postgres", "ALTER DATABASE missing_database RENAME TO hidden_away")
				return func() { s.exec(t, "postgres", "ALTER DATABASE hidden_away RENAME TO missing_database") }
			},
		},
		{
			name: "server_down", code: "ServerUnreachable", says: []string{"see whether the server is up"}, hurry: "TakeBackup",
			cause: func(t *testing.T, s *site) func() {
				s.stopServer(t)
				return func() { s.startServer(t) }
			},
		},
	}
}

func (s *site) secretPath(target string) string { return filepath.Join(s.Dir, "secret-"+target) }

// secret writes what a target's reference to a password leads to.
func (s *site) secret(t *testing.T, target, password string) {
	t.Helper()
	require.NoError(t, os.WriteFile(s.secretPath(target), []byte(password+"\n"), 0o600))
}

// configure makes a target of each name: those of passwords over the port that asks for one.
func (s *site) configure(t *testing.T, names ...string) {
	t.Helper()
	targets := ""
	for _, name := range names {
		switch {
		case strings.Contains(name, "password") || strings.Contains(name, "secret"):
			targets += harness.Target(name, s.tcp(name), "      passwordFrom: {file: "+s.secretPath(name)+"}\n")
			s.secret(t, name, "right")
		default:
			targets += harness.Target(name, s.url(name), "")
		}
	}
	s.Configure(t, targets)
}

// TestWaitsUntilItIsMended takes a good backup, makes trouble, and has two runs meet it: one is given
// up, the other is resumed when the trouble is mended.
func TestWaitsUntilItIsMended(t *testing.T) {
	s := startServer(t)
	cases := troubles()
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
		s.database(t, c.name, 2000)
	}
	s.exec(t, "missing_role", "CREATE ROLE clerk; GRANT SELECT ON orders TO clerk")
	s.Stack = harness.New(t, harness.Target("placeholder", "postgres:///", ""))
	s.configure(t, names...)
	small(t, s.Store, storeSize)
	small(t, filepath.Join(s.Dir, "data-w", "scratch"), scratchSize)
	s.Worker(t, "w")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { s.waitsUntilMended(t, c) })
	}
}

func (s *site) waitsUntilMended(t *testing.T, c trouble) {
	first := s.backUp(t, c.name)
	were := s.files(t, c.name)
	s.exec(t, c.name, "INSERT INTO orders SELECT g, 'later ' || g FROM generate_series(10001, 14000) g")
	mended := false
	mend := c.cause(t, s)
	t.Cleanup(func() {
		if !mended {
			mend() // what comes after can still be tested
		}
	})
	givenUp, resumed := strings.ReplaceAll(c.name, "_", "-")+"-given-up", strings.ReplaceAll(c.name, "_", "-")+"-resumed"
	for _, id := range []string{givenUp, resumed} {
		order := append([]string{"run"}, c.run...)
		if len(c.run) == 0 {
			order = append(order, "BackupDatabase")
		}
		for i := range order {
			order[i] = strings.ReplaceAll(order[i], "NAME", copyName(id))
		}
		got := s.Upkeep(t, append(order, "--target", c.name, "--id", id)...)
		require.Zero(t, got.Code, got.Err)
	}
	for _, id := range []string{givenUp, resumed} {
		if c.hurry != "" {
			s.hurry(t, id, c.hurry)
		}
		s.waiting(t, id, c.code, c.says...)
	}
	if c.name != "server_down" {
		for _, id := range []string{givenUp, resumed} {
			require.False(t, s.hasDatabase(t, copyName(id)), "nothing half is visible")
		}
	}
	require.Equal(t, []string{first}, s.backups(t, c.name), "nothing half is visible")
	s.untouched(t, c.name, were)

	s.abandoned(t, givenUp, c.left...)
	require.Equal(t, []string{first}, s.backups(t, c.name))
	s.untouched(t, c.name, were)

	mend()
	mended = true
	doc := s.resumed(t, resumed)
	s.untouched(t, c.name, were)
	s.passes(t, c.name, first, "decoded")
	if doc.Procedure == "BackupDatabase" {
		require.Len(t, s.backups(t, c.name), 2, "the one that was resumed, and none of the one that was given up")
		s.passes(t, c.name, "latest", "decoded")
	}
	if doc.Procedure == "RestoreDatabase" {
		require.Equal(t, []string{"2000"}, harness.Ask(t, s.admin(copyName(resumed)), "SELECT count(*)::text FROM orders"))
		require.False(t, s.hasDatabase(t, copyName(givenUp)))
		s.exec(t, "postgres", "DROP DATABASE "+copyName(resumed))
	}
	if strings.Contains(c.name, "store") || c.name == "small_scratch" {
		s.passes(t, c.name, first, "restored")
	}
	s.NothingLeft(t, s.server)
}

func copyName(id string) string { return "copy_" + strings.ReplaceAll(id, "-", "_") }

// hurry lets a run's activity fail for good at its next attempt.
func (s *site) hurry(t *testing.T, id, activity string) {
	t.Helper()
	eventually(t, func() bool {
		d, err := s.Client.DescribeWorkflowExecution(t.Context(), id, "")
		require.NoError(t, err)
		for _, a := range d.GetPendingActivities() {
			if a.GetActivityType().GetName() == activity && a.GetAttempt() > 1 {
				return true
			}
		}
		return false
	}, "it is tried again by itself")
	doc := s.Until(t, id, func(*run.Document) bool { return true })
	require.Equal(t, run.Running, doc.Outcome)
	require.Contains(t, doc.Summary, "attempt ", "how often it was tried is shown")
	_, err := s.Client.WorkflowService().UpdateActivityOptions(t.Context(), &workflowservice.UpdateActivityOptionsRequest{
		Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: id},
		ActivityOptions: &activitypb.ActivityOptions{RetryPolicy: &commonpb.RetryPolicy{MaximumAttempts: 3}},
		UpdateMask:      &fieldmaskpb.FieldMask{Paths: []string{"retry_policy.maximum_attempts"}},
		Activity:        &workflowservice.UpdateActivityOptionsRequest_Type{Type: activity},
	})
	require.NoError(t, err)
}

// TestScratchDiskFillsUpInTheMiddle fills the disk of the private scratch server while rows are loaded.
func TestScratchDiskFillsUpInTheMiddle(t *testing.T) {
	s := startServer(t)
	s.database(t, "shop", 400000) // too much for what is left in the files that the server has already
	s.Stack = harness.New(t, harness.Target("shop", s.url("shop"), ""))
	scratch := filepath.Join(s.Dir, "data-w", "scratch")
	small(t, scratch, scratchSize)
	w := s.Worker(t, "w", "UPKEEP_FAULT=point=restore/chunk/before:stop", "UPKEEP_FAULT_ONCE="+filepath.Join(s.Dir, "hit"))
	first := s.backUp(t, "shop")
	were := s.files(t, "shop")
	require.Zero(t, s.Upkeep(t, "run", "DrillRecovery", "--target", "shop", "--id", "drill", "--set", "backup="+first).Code)
	eventually(t, w.Frozen, "the point was never hit")
	fill(t, filepath.Join(scratch, "other-data"))
	w.Continue()
	s.waiting(t, "drill", "DiskFull", "free space")
	require.NoError(t, os.Remove(filepath.Join(scratch, "other-data")))
	doc := s.resumed(t, "drill")
	var result struct{ Verdict run.Verdict }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	require.Equal(t, run.Pass, result.Verdict)
	s.untouched(t, "shop", were)
	s.NothingLeft(t, s.server)
}
