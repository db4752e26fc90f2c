package pgserver_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// childDir makes the test binary start a server in the folder, say its pid and wait to be killed.
const childDir = "PGSERVER_TEST_CHILD"

// childConfined makes that child lose the right to make namespaces first.
const childConfined = "PGSERVER_TEST_CONFINED"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if os.Getenv(childConfined) != "" {
			fmt.Fprintln(os.Stderr, confine())
			os.Exit(1)
		}
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
			fmt.Println(s.Pid(), s.Remark())
			<-s.Done()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// confine starts this program again, as a root as containers have it. It returns only when it fails.
func confine() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, childConfined+"=") })
	return syscall.Exec("/proc/self/exe", os.Args, env)
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
		require.NotContains(t, s.Remark(), "OS user")
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
	cmd, pid, _ := startChildWith(t, dir)
	return cmd, pid
}

// startChildWith also returns the server's remark.
func startChildWith(t *testing.T, dir string, env ...string) (*exec.Cmd, int, string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childDir+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	number, remark, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(number)
	require.NoError(t, err)
	return cmd, pid, remark
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

// A superuser's constraint can start programs that leave the server's session, group and folder.
const (
	plainStray  = "setsid sleep %s"
	hidingStray = "cd / && exec env -i setsid sleep %s"
)

// leaveStray makes code in the database leave a program behind, and returns what finds it.
func leaveStray(t *testing.T, url, program string) (running func() bool) {
	mark := fmt.Sprintf("3000.%d", time.Now().UnixNano())
	pgservertest.Exec(t, url, fmt.Sprintf(`CREATE TABLE said (line text); COPY said FROM PROGRAM '( `+program+` ) < /dev/null > /dev/null 2>&1 &'`, mark))
	running = func() bool {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		return slices.ContainsFunc(files, func(file string) bool {
			line, _ := os.ReadFile(file) // it may have ended
			return string(line) == "sleep\x00"+mark+"\x00"
		})
	}
	require.Eventually(t, running, 20*time.Second, 20*time.Millisecond)
	return running
}

func TestNothingThatADatabaseStartedOutlivesItsServer(t *testing.T) {
	cases := map[string]struct {
		port    bool // a server with a port shares the network and the processes of the machine
		program string
	}{"with a port": {true, plainStray}, "apart": {false, plainStray}, "apart and hiding": {false, hidingStray}}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			root := folder(t)
			o, other := pgserver.Options{Dir: filepath.Join(root, "a")}, pgserver.Options{Dir: filepath.Join(root, "ab")}
			if c.port {
				o.TCPPort, other.TCPPort = freePort(t), freePort(t)
			}
			neighbour := start(t, other)
			defer func() { require.NoError(t, neighbour.Remove(deadline(t))) }()
			spared := leaveStray(t, neighbour.DSN("", "postgres"), c.program)

			s := start(t, o)
			if c.program == hidingStray && s.Remark() != "" {
				require.NoError(t, s.Remove(deadline(t)))
				t.Skip(s.Remark())
			}
			running := leaveStray(t, s.DSN("", "postgres"), c.program)
			require.NoError(t, s.Stop(deadline(t)))
			require.False(t, running(), "after Stop")

			s = start(t, o)
			pgservertest.Exec(t, s.DSN("", "postgres"), "DROP TABLE said")
			running = leaveStray(t, s.DSN("", "postgres"), c.program)
			require.NoError(t, s.Remove(deadline(t)))
			require.False(t, running(), "after Remove")
			require.True(t, spared(), "another server's program")
			require.Equal(t, "1", scan(t, neighbour.DSN("", "postgres"), "SELECT '1'"))
		})
	}
}

func TestNothingThatADatabaseStartedOutlivesItsWorker(t *testing.T) {
	cases := map[string]struct {
		env     []string
		program string
	}{"confined": {[]string{childConfined + "=1"}, plainStray}, "apart": {nil, plainStray}, "apart and hiding": {nil, hidingStray}}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 && name != "apart" {
				t.Skip("only root has rights to lose or namespaces to make")
			}
			root := folder(t)
			dir := filepath.Join(root, "a")
			cmd, pid, remark := startChildWith(t, dir, c.env...)
			if c.env != nil {
				require.Contains(t, remark, "CAP_SYS_ADMIN")
			} else if c.program == hidingStray && remark != "" {
				t.Skip(remark)
			}
			running := leaveStray(t, "postgres:///postgres?user=postgres&host="+filepath.Join(dir, "socket"), c.program)
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait() // killed
			require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 20*time.Millisecond)
			require.NoFileExists(t, filepath.Join(dir, "data", "postmaster.pid"), "it ended by itself")
			removed, err := pgserver.Reap(deadline(t), root, time.Hour)
			require.NoError(t, err)
			require.Empty(t, removed)
			require.False(t, running(), "its programs end before its folder does")
			require.NoError(t, pgserver.RemoveFolder(deadline(t), dir))
		})
	}
}

func TestAPipeInPlaceOfAFileHoldsNobodyUp(t *testing.T) {
	dir := filepath.Join(folder(t), "a")
	cmd, pid, _ := startChildWith(t, dir)
	// The postmaster itself reads that file when it is told to end, and never comes back.
	pgservertest.Exec(t, "postgres:///postgres?user=postgres&host="+filepath.Join(dir, "socket"),
		`COPY (SELECT) TO PROGRAM 'for f in postmaster.pid PG_VERSION; do rm $f && mkfifo $f || exit 1; done'`)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	require.NoError(t, pgserver.RemoveFolder(deadline(t), dir))
	require.NoDirExists(t, dir)
	require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 20*time.Millisecond)
}

func TestCodeInADatabaseReachesNoNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	tries := func(s *pgserver.Server) string {
		pgservertest.Exec(t, s.DSN("", "postgres"), fmt.Sprintf(`CREATE TABLE said (line text);
			COPY said FROM PROGRAM 'bash -c "exec 3<>/dev/tcp/127.0.0.1/%d" 2>/dev/null && echo reached || echo closed'`, l.Addr().(*net.TCPAddr).Port))
		return scan(t, s.DSN("", "postgres"), "SELECT line FROM said")
	}
	root := folder(t)
	open := start(t, pgserver.Options{Dir: filepath.Join(root, "open"), TCPPort: freePort(t)})
	defer func() { require.NoError(t, open.Remove(deadline(t))) }()
	require.Equal(t, "reached", tries(open), "a server with a port is in the machine's network")
	require.NotEmpty(t, open.Remark())

	s := start(t, pgserver.Options{Dir: filepath.Join(root, "apart")})
	defer func() { require.NoError(t, s.Remove(deadline(t))) }()
	if s.Remark() != "" {
		t.Skip(s.Remark())
	}
	require.Equal(t, "closed", tries(s))
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
			require.Equal(t, "on", scan(t, url, "SHOW track_counts"), "up to 14 it counts over the loopback")
		})
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().(*net.TCPAddr).Port
}

func TestExtensionsOfPrograms(t *testing.T) {
	for _, major := range []int{pgservertest.Default, 18} { // the distribution's, and some without pg_config
		b, err := pgservertest.Binaries(t.Context(), major)
		require.NoError(t, err)
		have, err := b.Extensions(t.Context())
		require.NoError(t, err)
		require.Contains(t, have, "plpgsql")
	}
	_, err := pgserver.Binaries{Dir: t.TempDir()}.Extensions(t.Context())
	require.ErrorContains(t, err, "pg_config")
}

func TestWhereServersCanBe(t *testing.T) {
	require.NoError(t, pgserver.Reaches("/var/lib/not/there/yet"))
	if os.Geteuid() != 0 {
		t.Skip("without root a server is this user's own")
	}
	closed := t.TempDir()
	require.NoError(t, os.Chmod(closed, 0o700))
	err := pgserver.Reaches(filepath.Join(closed, "not", "there"))
	require.True(t, failure.Is(err, failure.ScratchUnavailable), "%v", err)
	require.ErrorContains(t, err, closed)
}
