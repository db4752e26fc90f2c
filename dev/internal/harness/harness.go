// Package harness runs the real things for tests: Temporal's server, PostgreSQL, and Upkeep's worker
// as a process of its own that a test can kill and freeze.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// Patience bounds the wait for a run's end.
const Patience = 3 * time.Minute

// Stack is a Temporal server, a configuration with its store, and the workers that serve them.
type Stack struct {
	Temporal *devserver.Server
	Client   client.Client
	Starter  *starter.Starter
	Dir      string
	Config   string // path of the configuration
	Store    string // the store's folder
	StoreURL string // the store, where it is no folder

	namespace string // Temporal's; "default" when empty
}

var build struct {
	sync.Mutex
	path map[string]string
}

// Binary builds one of Upkeep's commands, once per test binary, with the given build tags.
func Binary(t testing.TB, command, tags string) string {
	t.Helper()
	build.Lock()
	defer build.Unlock()
	if p := build.path[command+tags]; p != "" {
		return p
	}
	dir, err := os.MkdirTemp("", "upkeep-bin-")
	require.NoError(t, err)
	path := filepath.Join(dir, filepath.Base(command))
	out, err := exec.Command("go", "build", "-tags", tags, "-o", path, command).CombinedOutput()
	require.NoError(t, err, string(out))
	if build.path == nil {
		build.path = make(map[string]string)
	}
	build.path[command+tags] = path
	return path
}

// RemoveBinaries removes what Binary built; call it at the end of TestMain.
func RemoveBinaries() {
	build.Lock()
	defer build.Unlock()
	for _, p := range build.path {
		_ = os.RemoveAll(filepath.Dir(p)) // only tidying
	}
}

// New starts a Temporal server and writes a configuration with the given targets (YAML list items).
func New(t testing.TB, targets string) *Stack {
	t.Helper()
	return NewOn(t, "", targets)
}

// NewOn is New with the store at a URL; empty: in a folder.
func NewOn(t testing.TB, storeURL, targets string) *Stack {
	t.Helper()
	s := prepare(t, storeURL, targets)
	var err error
	s.Temporal, err = devserver.Start(t.Context(), devserver.Options{Dir: filepath.Join(s.Dir, "temporal"), SearchAttributes: worker.Attributes()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Temporal.Stop()) })
	s.connect(t)
	return s
}

// Beside is New on the server of another stack, in a namespace of its own there, which is made if there is none.
func (s *Stack) Beside(t testing.TB, namespace, targets string) *Stack {
	t.Helper()
	_, err := s.Client.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{Namespace: namespace, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour)})
	var there *serviceerror.NamespaceAlreadyExists
	if !errors.As(err, &there) {
		require.NoError(t, err)
	}
	beside := prepare(t, "", targets)
	beside.Temporal, beside.namespace = s.Temporal, namespace
	beside.connect(t)
	require.Eventually(t, func() bool { // the server reads its namespaces now and then
		_, err := beside.Client.DescribeTaskQueue(t.Context(), run.WorkflowQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
		return err == nil
	}, Patience, 100*time.Millisecond)
	return beside
}

// EndAll terminates what still runs, so that nothing is left for the next who uses the namespace.
func (s *Stack) EndAll(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // the test's own is over when it cleans up
	defer cancel()
	open, err := s.Client.ListOpenWorkflow(ctx, &workflowservice.ListOpenWorkflowExecutionsRequest{Namespace: s.namespace, MaximumPageSize: 1000})
	require.NoError(t, err)
	for _, e := range open.GetExecutions() {
		_ = s.Client.TerminateWorkflow(ctx, e.GetExecution().GetWorkflowId(), "", "the test is over") // it may have ended
	}
}

// prepare makes the stack's folder and configuration.
func prepare(t testing.TB, storeURL, targets string) *Stack {
	t.Helper()
	dir, err := os.MkdirTemp("", "upkeep-stack-") // t.TempDir is not reachable for another OS user
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	s := &Stack{Dir: dir, Config: filepath.Join(dir, "upkeep.yaml"), Store: filepath.Join(dir, "store"), StoreURL: storeURL}
	s.Configure(t, targets)
	return s
}

func (s *Stack) newStarter() *starter.Starter {
	return &starter.Starter{Client: s.Client, Store: func(context.Context) (*config.Config, error) { return config.Load(s.Config) }}
}

// Configure writes the configuration anew.
func (s *Stack) Configure(t testing.TB, targets string) {
	t.Helper()
	store := s.StoreURL
	if store == "" {
		store = "file://" + s.Store
	}
	text := "version: 1\nstore: " + store + "\ntargets:\n" + targets
	_, err := config.Parse(s.Config, []byte(text))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.Config, []byte(text), 0o600))
}

// Target writes a target of the configuration.
func Target(name, url, more string) string {
	return fmt.Sprintf("  - name: %s\n    database:\n      url: %q\n%s", name, url, more)
}

// Worker is a worker's process.
type Worker struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  *os.File
}

// Worker starts a worker with the fault build, in an environment of its own.
func (s *Stack) Worker(t testing.TB, name string, env ...string) *Worker {
	t.Helper()
	return s.WorkerOf(t, worker.Capabilities(), name, env...)
}

// WorkerOf is Worker for some capabilities.
func (s *Stack) WorkerOf(t testing.TB, capabilities []string, name string, env ...string) *Worker {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	cmd := exec.Command(Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep-worker", "fault"),
		"--config", s.Config, "--capabilities", strings.Join(capabilities, ","), "--name", name, "--data", filepath.Join(s.Dir, "data-"+name), "--health-address", "127.0.0.1:0")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "TEMPORAL_ADDRESS=" + s.Temporal.Address, "TEMPORAL_NAMESPACE=" + s.Namespace()}, env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is ended by its timeout cleans up nothing, and a frozen worker would stay for ever.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	w := &Worker{cmd: cmd, done: make(chan struct{}), log: log}
	go func() {
		_ = cmd.Wait() // killed on purpose, often
		close(w.done)
	}()
	t.Cleanup(func() {
		w.Kill()
		_ = log.Close()
		if t.Failed() {
			if data, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("log of worker %s:\n%s", name, lastLines(data, 4000))
			}
		}
	})
	return w
}

func lastLines(data []byte, n int) []byte {
	if len(data) > n {
		data = data[len(data)-n:]
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	return data
}

// Kill ends the worker at once and waits for its end.
func (w *Worker) Kill() { w.signal(syscall.SIGKILL); <-w.done }

// Stop ends the worker as a supervisor would, and waits for its end.
func (w *Worker) Stop() { w.signal(syscall.SIGTERM); <-w.done }

// Continue wakes a frozen worker.
func (w *Worker) Continue() { w.signal(syscall.SIGCONT) }

func (w *Worker) signal(s syscall.Signal) { _ = w.cmd.Process.Signal(s) } // it may have ended

// Done is closed when the worker has ended.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Frozen reports whether the worker's process is stopped.
func (w *Worker) Frozen() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "T")
}

// Memory is the most memory that the worker has held, in bytes.
func (w *Worker) Memory(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	require.NoError(t, err)
	for _, line := range strings.Split(string(status), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	require.Fail(t, "no VmHWM")
	return 0
}

// Start starts a run and returns its id.
func (s *Stack) Start(t testing.TB, procedure, input string) string {
	t.Helper()
	id, err := s.Starter.Start(t.Context(), starter.Order{Procedure: procedure, Input: []byte(input)})
	require.NoError(t, err)
	return id
}

// Await waits for a run's end and returns its document.
func (s *Stack) Await(t testing.TB, id string) *run.Document {
	t.Helper()
	return s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() })
}

// Until waits until a run's document is as wanted.
func (s *Stack) Until(t testing.TB, id string, wanted func(*run.Document) bool) *run.Document {
	t.Helper()
	var (
		newest *run.Document
		last   error // of the newest look
	)
	for deadline, tick := time.Now().Add(Patience), time.Tick(100*time.Millisecond); ; <-tick {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a question may have gone to a frozen worker
		doc, err := s.Starter.Show(ctx, id)
		cancel()
		if last = err; err == nil {
			newest = doc
			if wanted(doc) {
				return doc
			}
		}
		if time.Now().After(deadline) {
			text, _ := json.MarshalIndent(newest, "", " ") // plain data
			require.Fail(t, "what is waited for did not come", "run %s (%v): %s\n%s", id, last, text, s.pending(id))
		}
	}
}

// pending says what Temporal has of a run's activities.
func (s *Stack) pending(id string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := s.Client.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("at %s: %s, %d events", time.Now().UTC().Format(time.RFC3339Nano), d.GetWorkflowExecutionInfo().GetStatus(), d.GetWorkflowExecutionInfo().GetHistoryLength())
	for _, a := range d.GetPendingActivities() {
		text += fmt.Sprintf("\npending %s", a)
	}
	return text
}

// Run starts a run and waits for its end.
func (s *Stack) Run(t testing.TB, procedure, input string) *run.Document {
	t.Helper()
	return s.Await(t, s.Start(t, procedure, input))
}

// Reset begins a run again from its first decision.
func (s *Stack) Reset(t testing.TB, id string) {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), id, "")
	require.NoError(t, err)
	first := int64(0)
	for events := s.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); first == 0 && events.HasNext(); {
		e, err := events.Next()
		require.NoError(t, err)
		if e.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			first = e.GetEventId()
		}
	}
	_, err = s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: s.Namespace(), WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: d.GetWorkflowExecutionInfo().GetExecution().GetRunId()},
		Reason: "the test", WorkflowTaskFinishEventId: first, RequestId: t.Name(),
	})
	require.NoError(t, err)
}

// Namespace is Temporal's.
func (s *Stack) Namespace() string {
	if s.namespace == "" {
		return client.DefaultNamespace
	}
	return s.namespace
}

// NothingLeft checks that ended runs left nothing: no scratch server's process or folder, no half
// database, no session, no temporary file in the store.
func (s *Stack) NothingLeft(t testing.TB, servers ...*pgserver.Server) {
	t.Helper()
	for deadline, tick := time.Now().Add(Patience), time.Tick(100*time.Millisecond); ; <-tick {
		found := s.leftovers(t, servers)
		if found == "" {
			return
		}
		require.True(t, time.Now().Before(deadline), "something is left: %s", found)
	}
}

// Leftovers lists what NothingLeft looks for.
func (s *Stack) leftovers(t testing.TB, servers []*pgserver.Server) string {
	t.Helper()
	var found []string
	folders, err := filepath.Glob(filepath.Join(s.Dir, "data-*", "scratch", "*"))
	require.NoError(t, err)
	found = append(found, folders...)
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range processes {
		if cmdline, err := os.ReadFile(p); err == nil && bytes.Contains(cmdline, []byte(s.Dir+"/data-")) && bytes.Contains(cmdline, []byte("/scratch/")) {
			found = append(found, "process "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	for _, server := range servers {
		found = append(found, ask(t, server.DSN("", "postgres"), `SELECT 'database ' || datname FROM pg_database WHERE datname LIKE 'upkeep\_%'
			UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity WHERE application_name LIKE 'upkeep-%'`)...)
	}
	err = filepath.WalkDir(s.Store, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && strings.HasPrefix(d.Name(), ".upkeep-tmp-") {
			found = append(found, path)
		}
		return err
	})
	require.NoError(t, err)
	return strings.Join(found, "\n")
}

func ask(t testing.TB, url, sql string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, sql)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return out
}

// Ask returns the first column of a query's rows, as texts.
func Ask(t testing.TB, url, sql string) []string { t.Helper(); return ask(t, url, sql) }
