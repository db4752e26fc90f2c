// Package waits brings about what a person can mend, and mends it: the run waits, says why and what
// to do, and goes on when it is told to; or it is given up and leaves nothing. What cannot be mended
// is refused. The backup that was there before is untouched all the while.
package waits

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

func TestMain(m *testing.M) {
	harness.ServeApart()
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site is a stack and the server that its targets are on, which asks for passwords on its TCP port.
type site struct {
	*harness.Stack
	server  *pgserver.Server
	options pgserver.Options
}

// startServer starts a PostgreSQL server of the test's own, which the test may stop.
func startServer(t *testing.T) *site {
	t.Helper()
	binaries, err := pgservertest.Binaries(t.Context(), pgservertest.Default)
	require.NoError(t, err)
	s := &site{options: pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("waits-%d-%s", os.Getpid(), t.Name())), Binaries: binaries, TCPPort: harness.FreePort(t),
	}}
	s.server, err = pgserver.Start(t.Context(), s.options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.server.Remove(context.Background())) })
	return s
}

func (s *site) stopServer(t *testing.T) {
	t.Helper()
	require.NoError(t, s.server.Stop(t.Context()))
}

func (s *site) startServer(t *testing.T) {
	t.Helper()
	var err error
	s.server, err = pgserver.Start(context.Background(), s.options) // also when the test is over
	require.NoError(t, err)
}

// admin is the superuser's URL of a database.
func (s *site) admin(database string) string { return s.server.DSN("", database) }

func (s *site) exec(t *testing.T, database, sql string) {
	t.Helper()
	pgservertest.Exec(t, s.admin(database), sql)
}

// database makes a database for a target of the same name, which a role of that name owns.
func (s *site) database(t *testing.T, name string, rows int) {
	t.Helper()
	s.exec(t, "postgres", fmt.Sprintf("CREATE ROLE %[1]s LOGIN CREATEDB PASSWORD 'right'", name))
	s.exec(t, "postgres", fmt.Sprintf("CREATE DATABASE %[1]s OWNER %[1]s TEMPLATE template0", name))
	s.exec(t, name, fmt.Sprintf(`SET ROLE %s;
		CREATE TABLE orders (id int PRIMARY KEY, what text);
		INSERT INTO orders SELECT g, 'order ' || g FROM generate_series(1, %d) g;
		CREATE INDEX ON orders (what)`, name, rows))
}

// url is the target's own URL of its database, over the socket where no password is asked for.
func (s *site) url(name string) string { return s.server.DSN(name, name) }

// tcp is the same over the port where the password is asked for.
func (s *site) tcp(name string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s", name, s.options.TCPPort, name)
}

// backUp takes a backup as a person does, and returns its id.
func (s *site) backUp(t *testing.T, target string) string {
	t.Helper()
	got := s.Upkeep(t, "run", "BackupDatabase", "--target", target, "--wait", "-o", "json")
	require.Zero(t, got.Code, got.Err)
	var result struct{ BackupID string }
	require.NoError(t, json.Unmarshal(got.Document(t).Result, &result))
	require.NotEmpty(t, result.BackupID)
	return result.BackupID
}

// files are the files of a target in the store, by the sum of their bytes.
func (s *site) files(t *testing.T, target string) map[string][32]byte {
	t.Helper()
	sums := make(map[string][32]byte)
	err := filepath.WalkDir(filepath.Join(s.Store, target), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		sums[path] = sha256.Sum256(data)
		return err
	})
	require.NoError(t, err)
	return sums
}

// untouched checks that files are there and what they were.
func (s *site) untouched(t *testing.T, target string, were map[string][32]byte) {
	t.Helper()
	now := s.files(t, target)
	for path, sum := range were {
		require.Equal(t, sum, now[path], path)
	}
}

// backups are the ids of a target's backups.
func (s *site) backups(t *testing.T, target string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Store, target, "backups", "*", "manifest.json"))
	require.NoError(t, err)
	for i := range found {
		found[i] = filepath.Base(filepath.Dir(found[i]))
	}
	return found
}

func (s *site) hasDatabase(t *testing.T, name string) bool {
	t.Helper()
	return len(harness.Ask(t, s.admin("postgres"), "SELECT datname::text FROM pg_database WHERE datname = '"+name+"'")) > 0
}

// waiting waits until a run waits for a person, and checks what it says through the command line.
func (s *site) waiting(t *testing.T, id, code string, says ...string) {
	t.Helper()
	s.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting || d.Outcome.Ended() })
	got := s.Upkeep(t, "show", id, "-o", "json")
	require.Zero(t, got.Code, got.Err)
	doc := got.Document(t)
	require.Equal(t, run.Waiting, doc.Outcome, doc.Summary)
	require.Equal(t, code, s.lastFailure(t, id), doc.WaitingFor)
	text := s.Upkeep(t, "show", id)
	require.Zero(t, text.Code, text.Err)
	require.Regexp(t, "^Waiting ", text.Out)
	for _, word := range append(says, "; to mend it: ", "then resume the run") {
		require.Contains(t, doc.WaitingFor, word)
		require.Contains(t, text.Out, word)
	}
	for _, command := range []string{"upkeep resume " + id, "upkeep abandon " + id} {
		require.Contains(t, text.Out, command)
	}
}

// lastFailure is the code of the newest failure in a run's history.
func (s *site) lastFailure(t *testing.T, id string) string {
	t.Helper()
	code := ""
	for events := s.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		require.NoError(t, err)
		if f := e.GetActivityTaskFailedEventAttributes().GetFailure(); f != nil {
			code = f.GetApplicationFailureInfo().GetType()
		}
	}
	return code
}

// abandoned gives a waiting run up and checks that it is undone; left is what it may say of what it
// could not do.
func (s *site) abandoned(t *testing.T, id string, left ...string) {
	t.Helper()
	got := s.Upkeep(t, "abandon", id, "--by", "anna", "--reason", "not today", "--wait", "-o", "json")
	require.Equal(t, 5, got.Code, got.Err)
	doc := got.Document(t)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, "given up by anna (not today)", doc.Summary)
	require.Len(t, doc.Left, len(left), "%q", doc.Left)
	for i := range left {
		require.Contains(t, doc.Left[i], left[i])
	}
}

// resumed tells a run to go on and checks that it succeeds.
func (s *site) resumed(t *testing.T, id string) *run.Document {
	t.Helper()
	got := s.Upkeep(t, "resume", id, "--reason", "mended", "--wait", "-o", "json")
	require.Zero(t, got.Code, "%s\n%s", got.Out, got.Err)
	doc := got.Document(t)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Empty(t, doc.Left)
	require.FileExists(t, strings.TrimPrefix(doc.Report, "file://"))
	require.JSONEq(t, got.Out, s.Upkeep(t, "show", id, "-o", "json").Out)
	return doc
}

// passes verifies a backup.
func (s *site) passes(t *testing.T, target, backup, grade string) {
	t.Helper()
	got := s.Upkeep(t, "run", "VerifyBackup", "--target", target, "--set", "backup="+backup, "--set", "grade="+grade, "--wait", "-o", "json")
	require.Zero(t, got.Code, got.Err)
	var result struct{ Verdict run.Verdict }
	require.NoError(t, json.Unmarshal(got.Document(t).Result, &result))
	require.Equal(t, run.Pass, result.Verdict)
}

// small mounts a file system of its own on a folder. Only root can.
func small(t *testing.T, dir, size string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	err := syscall.Mount("upkeep-test", dir, "tmpfs", 0, "mode=0755,size="+size)
	if os.Geteuid() != 0 || os.IsPermission(err) {
		t.Skip("only root can mount the small disks of this test")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

func remount(t *testing.T, dir string, flags uintptr, size string) {
	t.Helper()
	require.NoError(t, syscall.Mount("upkeep-test", dir, "tmpfs", syscall.MS_REMOUNT|flags, "mode=0755,size="+size))
}

// fill writes a file until its disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for _, size := range []int{1 << 20, 4 << 10} { // the last blocks too
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		err = nil
	}
}

// locks holds a lock in a session of its own until the returned function is called.
func (s *site) locks(t *testing.T, database, sql string) (release func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	t.Cleanup(cancel)
	conn, err := pgx.Connect(ctx, s.admin(database))
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "BEGIN; "+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	released := false
	release = func() {
		if !released {
			require.NoError(t, conn.Close(context.Background()))
			released = true
		}
	}
	t.Cleanup(release)
	return release
}

// eventually waits for a condition.
func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, harness.Patience, 50*time.Millisecond, what)
}
