package postgres

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

// scratchRoot is a folder that another OS user can reach.
func scratchRoot(t *testing.T) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(pgservertest.Root(), 0o755))
	dir, err := os.MkdirTemp(pgservertest.Root(), "scratch-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func manifest() *format.Manifest {
	m := &format.Manifest{}
	m.Server.VersionNum = pgservertest.Default * 10000
	return m
}

func privateCopy(name, runID string) Copy {
	return Copy{RunID: runID, Place: Place{Kind: PlacePrivate, Scratch: name}}
}

// answers reports what the tidying worker is told of runs.
func answers(ended map[string]bool) func(context.Context, string) (bool, error) {
	return func(_ context.Context, id string) (bool, error) { return ended[id], nil }
}

func started(t *testing.T, s *Scratch, in Copy) *pgserver.Server {
	t.Helper()
	server, err := s.ensure(t.Context(), in, manifest())
	require.NoError(t, err)
	pgservertest.Exec(t, server.DSN("", "postgres"), "SELECT 1")
	return server
}

// TestScratchServerOutlivesItsProcessAndItsWorker kills the server, and then replaces the worker: what
// was restored is still there.
func TestScratchServerOutlivesItsProcessAndItsWorker(t *testing.T) {
	root, in := scratchRoot(t), privateCopy("one", "run-1")
	s := &Scratch{Root: root}
	first := started(t, s, in)
	require.Same(t, first, started(t, s, in), "one server for all steps of a run")
	pgservertest.Exec(t, first.DSN("", "postgres"), "CREATE TABLE restored AS SELECT 1 AS row")
	pgservertest.Exec(t, first.DSN("", "postgres"), "CHECKPOINT") // later commits may be lost, but never half of one
	require.NoError(t, syscall.Kill(first.Pid(), syscall.SIGKILL))
	<-first.Done()
	second := started(t, s, in)
	require.NotSame(t, first, second)
	pgservertest.Exec(t, second.DSN("", "postgres"), "SELECT row FROM restored")

	require.NoError(t, s.Stop(t.Context()))
	<-second.Done()
	next := &Scratch{Root: root}
	long := time.Now().Add(-24 * time.Hour)
	abandoned := filepath.Join(root, in.Place.Scratch, "abandoned")
	require.NoError(t, os.WriteFile(abandoned, nil, 0o600))
	require.NoError(t, os.Chtimes(abandoned, long, long))
	require.NoError(t, next.Reap(t.Context(), answers(nil)), "the run goes on, so nothing is removed, however long it waits")
	pgservertest.Exec(t, started(t, next, in).DSN("", "postgres"), "SELECT row FROM restored")

	require.NoError(t, next.remove(t.Context(), in))
	require.NoError(t, next.remove(t.Context(), in), "done twice, it is done")
	left, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestServersOfEndedRunsAreRemoved also has a server that an earlier process of the worker left.
func TestServersOfEndedRunsAreRemoved(t *testing.T) {
	root := scratchRoot(t)
	earlier, s := &Scratch{Root: root}, &Scratch{Root: root}
	started(t, earlier, privateCopy("left", "run-1"))
	require.NoError(t, earlier.Stop(t.Context()))
	ended := started(t, s, privateCopy("ended", "run-2"))
	going := started(t, s, privateCopy("going", "run-3"))
	t.Cleanup(func() { require.NoError(t, s.remove(context.Background(), privateCopy("going", "run-3"))) })

	require.NoError(t, s.Reap(t.Context(), answers(map[string]bool{"run-1": true, "run-2": true})))
	<-ended.Done()
	pgservertest.Exec(t, going.DSN("", "postgres"), "SELECT 1")
	left, err := filepath.Glob(filepath.Join(root, "*"))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{filepath.Join(root, "going"), filepath.Join(root, "going.json")}, left)
}

func TestScratchNameDoesNotClimb(t *testing.T) {
	s := &Scratch{Root: scratchRoot(t)}
	for _, name := range []string{"", "../escaped", "/etc", "a/b"} {
		_, err := s.ensure(t.Context(), privateCopy(name, "run-1"), manifest())
		require.ErrorContains(t, err, "is not one", name)
		require.ErrorContains(t, s.remove(t.Context(), privateCopy(name, "run-1")), "is not one", name)
	}
}

func TestDiskThatIsTooSmallIsNotBegunOn(t *testing.T) {
	root, m := scratchRoot(t), manifest()
	m.Database.SizeBytes = 1 << 60
	_, err := (&Scratch{Root: root}).ensure(t.Context(), privateCopy("huge", "run-1"), m)
	require.True(t, failure.Is(err, failure.DiskFull), "%v", err)
	left, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Empty(t, left)
}
