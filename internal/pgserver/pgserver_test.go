package pgserver_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// childDir makes the test binary start a server in the folder, say its pid and wait to be killed.
const childDir = "PGSERVER_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(pgservertest.Main(m))
}

func child(dir string) int {
	ctx := context.Background()
	binaries, err := pgserver.Find(ctx, 0)
	if err == nil {
		var s *pgserver.Server
		if s, err = pgserver.Start(ctx, pgserver.Options{Dir: dir, Binaries: binaries}); err == nil {
			fmt.Println(s.Pid())
			<-s.Done()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// folder is one that the server's OS user can reach, which those of the testing package are not.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "upkeep-pgserver-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func start(t *testing.T, o pgserver.Options) *pgserver.Server {
	var err error
	o.Binaries, err = pgserver.Find(deadline(t), 0)
	require.NoError(t, err)
	s, err := pgserver.Start(deadline(t), o)
	require.NoError(t, err)
	return s
}

func scan(t *testing.T, url, sql string) (out string) {
	conn, err := pgx.Connect(deadline(t), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, conn.QueryRow(deadline(t), sql).Scan(&out))
	return out
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestAServerKeepsItsDataUntilItIsRemoved(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	s := start(t, pgserver.Options{Dir: dir})
	pgservertest.Exec(t, s.DSN("", "postgres"), `CREATE DATABASE "odd / na+me?%41"; `)
	pgservertest.Exec(t, s.DSN("", "odd / na+me?%41"), `CREATE TABLE t AS SELECT 'kept' AS v; CREATE ROLE "a +b" LOGIN`)
	require.NoError(t, s.Stop(deadline(t)))
	require.False(t, alive(s.Pid()))

	s = start(t, pgserver.Options{Dir: dir})
	require.Equal(t, "kept", scan(t, s.DSN("", "odd / na+me?%41"), "SELECT v FROM t"))
	require.Equal(t, "a +b", scan(t, s.DSN("a +b", "postgres"), "SELECT current_user"))
	require.NoError(t, s.Remove(deadline(t)))
	require.NoDirExists(t, dir)
}

func TestAServerIsClosedToOthers(t *testing.T) {
	t.Setenv("UPKEEP_CANARY", "canary-in-the-environment")
	dir := filepath.Join(folder(t), "a")
	s := start(t, pgserver.Options{Dir: dir})
	defer func() { require.NoError(t, s.Remove(deadline(t))) }()
	for _, sub := range []string{"data", "socket"} {
		st, err := os.Stat(filepath.Join(dir, sub))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), st.Mode().Perm(), sub)
	}
	require.Equal(t, "", scan(t, s.DSN("", "postgres"), "SHOW listen_addresses"))
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Pid()))
	require.NoError(t, err)
	require.NotContains(t, string(environ), "canary")
	if os.Geteuid() == 0 {
		require.True(t, s.Isolated())
		// Even a superuser's program sees nothing of this process.
		pgservertest.Exec(t, s.DSN("", "postgres"), fmt.Sprintf(`CREATE TABLE seen (line text);
			COPY seen FROM PROGRAM 'id -u; cat /proc/%d/environ /proc/%d/maps 2>&1 || true'`, os.Getpid(), os.Getpid()))
		said := scan(t, s.DSN("", "postgres"), "SELECT string_agg(line, ' ') FROM seen")
		require.NotContains(t, said, "canary")
		require.Contains(t, said, "Permission denied")
		require.False(t, strings.HasPrefix(said, "0 "), "it runs as root")
	}
}

func TestAHeldFolderIsRefused(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	s := start(t, pgserver.Options{Dir: dir})
	defer func() { require.NoError(t, s.Remove(deadline(t))) }()
	binaries, err := pgserver.Find(deadline(t), 0)
	require.NoError(t, err)
	_, err = pgserver.Start(deadline(t), pgserver.Options{Dir: dir, Binaries: binaries})
	require.True(t, failure.Is(err, failure.RestoreBusy), "%v", err)
	removed, err := pgserver.Reap(deadline(t), filepath.Dir(dir), 0)
	require.NoError(t, err)
	require.Empty(t, removed)
	require.Equal(t, "1", scan(t, s.DSN("", "postgres"), "SELECT '1'"))
}

// startChild starts a server from another process and returns that process and the postmaster's pid.
func startChild(t *testing.T, dir string) (*exec.Cmd, int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(line, &pid)
	require.NoError(t, err)
	return cmd, pid
}

func TestAServerDiesWithItsProcessAndIsAdoptedOrReaped(t *testing.T) {
	root := folder(t)
	dir := filepath.Join(root, "a")
	cmd, pid := startChild(t, dir)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 20*time.Millisecond)

	removed, err := pgserver.Reap(deadline(t), root, time.Hour)
	require.NoError(t, err)
	require.Empty(t, removed, "a folder is kept for its worker to come back")
	s := start(t, pgserver.Options{Dir: dir})
	require.Equal(t, "1", scan(t, s.DSN("", "postgres"), "SELECT '1'"))
	require.NoError(t, s.Stop(deadline(t)))

	removed, err = pgserver.Reap(deadline(t), root, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, removed)
	require.NoDirExists(t, dir)
}

func TestAKilledPostmasterLeavesNothing(t *testing.T) {
	root := folder(t)
	cmd, pid := startChild(t, filepath.Join(root, "a"))
	before := segments(t, pid)
	require.NotZero(t, before, "the server has a segment while it lives")
	// The postmaster cannot clean up, and its starter not either.
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := pgserver.Reap(deadline(t), root, 0)
		require.NoError(t, err)
		return segments(t, pid) == 0
	}, 20*time.Second, 100*time.Millisecond)
	require.NoDirExists(t, filepath.Join(root, "a"))
}

// segments counts the System V segments that a process made.
func segments(t *testing.T, creator int) (n int) {
	raw, err := os.ReadFile("/proc/sysvipc/shm")
	require.NoError(t, err)
	for _, line := range strings.Split(string(raw), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 4 && f[4] == fmt.Sprint(creator) {
			n++
		}
	}
	return n
}

func TestAServerThatDoesNotListenIsKilled(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	s := start(t, pgserver.Options{Dir: dir})
	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGSTOP))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Stop(ctx))
	require.False(t, alive(s.Pid()))
	require.NoError(t, pgserver.RemoveFolder(deadline(t), dir))
	require.NoDirExists(t, dir)
}

func TestAHalfMadeFolderIsMadeAnew(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700))
	s := start(t, pgserver.Options{Dir: dir})
	require.Equal(t, "1", scan(t, s.DSN("", "postgres"), "SELECT '1'"))
	require.NoError(t, s.Remove(deadline(t)))
}

func TestALongPathGetsAShortSocket(t *testing.T) {
	root := folder(t)
	dir := filepath.Join(root, strings.Repeat("long", 30))
	s := start(t, pgserver.Options{Dir: dir})
	require.Equal(t, "1", scan(t, s.DSN("", "postgres"), "SELECT '1'"))
	sockets := scan(t, s.DSN("", "postgres"), "SHOW unix_socket_directories")
	require.NoError(t, s.Remove(deadline(t)))
	require.NoDirExists(t, sockets)
}

func TestATCPPortWantsThePassword(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	port := freePort(t)
	s := start(t, pgserver.Options{Dir: dir, TCPPort: port, Durable: true})
	defer func() { require.NoError(t, s.Remove(deadline(t))) }()
	cfg, err := pgx.ParseConfig(s.TCPURL("postgres"))
	require.NoError(t, err)
	cfg.Password = "wrong"
	_, err = pgx.ConnectConfig(deadline(t), cfg)
	require.ErrorContains(t, err, "28P01")
	cfg.Password = s.Password()
	conn, err := pgx.ConnectConfig(deadline(t), cfg)
	require.NoError(t, err)
	require.NoError(t, conn.Close(deadline(t)))
	st, err := os.Stat(s.PasswordFile())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

func TestSpaceIsAskedForBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet")
	require.NoError(t, pgserver.RequireFree(dir, 1))
	require.True(t, failure.Is(pgserver.RequireFree(dir, 1<<60), failure.DiskFull))
}

func TestAMissingVersionSaysWhatToInstall(t *testing.T) {
	_, err := pgserver.Find(deadline(t), 99)
	require.True(t, failure.Is(err, failure.MissingProgram))
	require.ErrorContains(t, err, "apt-get install postgresql-99")
}

func TestOtherVersionsStart(t *testing.T) {
	for _, major := range []int{13, 14, 16, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := pgservertest.Server(t, major)
			_, url := pgservertest.Database(t, s)
			require.True(t, strings.HasPrefix(scan(t, url, "SHOW server_version"), fmt.Sprint(major)))
		})
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().(*net.TCPAddr).Port
}
