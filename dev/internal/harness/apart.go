package harness

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/worker"
)

// apartEnv makes the test binary a Temporal server: it names the folder and the port.
const apartEnv = "UPKEEP_TEST_TEMPORAL"

// ServeApart is for TestMain of packages that use NewApart: in a process that NewApart has started it
// serves and does not return.
func ServeApart() {
	dir := os.Getenv(apartEnv)
	if dir == "" {
		return
	}
	if err := serveApart(filepath.Dir(dir), filepath.Base(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "temporal apart:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveApart(dir, port string) error {
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	s, err := devserver.Start(context.Background(), devserver.Options{Dir: dir, Port: p, SearchAttributes: worker.Attributes()})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test, however that ends
	return s.Stop()
}

// Temporal is a Temporal server in a process of its own, on a SQLite file.
type Temporal struct {
	dir   string
	port  int
	cmd   *exec.Cmd
	stdin io.Closer
}

// NewApart is New with Temporal in a process of its own, which can be killed and started again.
func NewApart(t testing.TB, targets string) (*Stack, *Temporal) {
	t.Helper()
	s := prepare(t, "", targets)
	server := &Temporal{dir: filepath.Join(s.Dir, "temporal"), port: FreePort(t)}
	server.Start(t)
	t.Cleanup(server.Kill)
	s.Temporal = &devserver.Server{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(server.port))}
	s.connect(t)
	return s, server
}

// Start starts the server, on the same port and file each time, and waits until it answers.
func (s *Temporal) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s/%d", apartEnv, s.dir, s.port))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s.cmd, s.stdin = cmd, in
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line
	}()
	select {
	case line := <-ready:
		require.Equal(t, "ready\n", line)
	case <-time.After(Patience):
		require.Fail(t, "Temporal does not start")
	}
}

// Kill ends the server at once, and waits for its end.
func (s *Temporal) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // killed on purpose
	s.cmd = nil
}

// Stop ends the server in good order, and waits for its end.
func (s *Temporal) Stop(t testing.TB) {
	t.Helper()
	require.NoError(t, s.stdin.Close())
	require.NoError(t, s.cmd.Wait())
	s.cmd = nil
}

// FreePort is a TCP port on loopback that nobody else gets.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := devserver.FreePort()
	require.NoError(t, err)
	return port
}

// connect makes the stack's clients of its Temporal server.
func (s *Stack) connect(t testing.TB) {
	t.Helper()
	var err error
	options := s.Temporal.ClientOptions()
	options.Namespace = s.namespace
	s.Client, err = client.Dial(options)
	require.NoError(t, err)
	t.Cleanup(s.Client.Close)
	s.Starter = s.newStarter()
}
