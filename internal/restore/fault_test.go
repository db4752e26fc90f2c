//go:build fault

package restore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// childTask makes the test binary carry out one task, with the fault of UPKEEP_FAULT in it.
const childTask = "RESTORE_TEST_TASK"

// task is what a child does: a whole restore up to the final name, or the removal of what is left.
type task struct {
	Store, Server, Database, Final string
	Oid                            uint32 // 0: the child makes the database
	Private, Drop                  bool
	Swap                           json.RawMessage // the plan by which the copy is put in place
}

func init() {
	if raw := os.Getenv(childTask); raw != "" {
		var t task
		err := json.Unmarshal([]byte(raw), &t)
		if err == nil {
			err = t.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func (t task) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	store, err := objstore.Open(ctx, t.Store)
	if err != nil {
		return err
	}
	m, err := catalog.Load(ctx, store, "shop", "b1", nil)
	if err != nil {
		return err
	}
	o := restore.Options{
		Manifest: m, Server: postgres.Config{URL: t.Server}, Private: t.Private, Database: t.Database, Final: t.Final, Oid: t.Oid, Owner: "run-1", Connections: 2,
		Open: func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
			return chunk.Open(ctx, store, "shop", c, nil)
		},
	}
	if t.Drop {
		return restore.Drop(ctx, o)
	}
	if t.Swap != nil {
		var plan restore.Swap
		if err := json.Unmarshal(t.Swap, &plan); err != nil {
			return err
		}
		_, err := plan.Apply(ctx, o)
		return err
	}
	if o.Oid == 0 {
		if o.Oid, err = restore.Create(ctx, o); err != nil {
			return err
		}
	}
	if _, err := restore.Load(ctx, o); err != nil {
		return err
	}
	return restore.Publish(ctx, o)
}

// start starts a child with a fault; its end is told over the channel.
func (t task) start(tb testing.TB, spec string) (*exec.Cmd, <-chan error) {
	raw, err := json.Marshal(t)
	require.NoError(tb, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childTask+"="+string(raw), "UPKEEP_FAULT="+spec)
	var said strings.Builder
	cmd.Stderr = &said
	require.NoError(tb, cmd.Start())
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err != nil && said.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
		ended <- err
	}()
	return cmd, ended
}

func requireKilled(t *testing.T, err error) {
	t.Helper()
	exit, ok := err.(*exec.ExitError)
	require.True(t, ok, "the point was not reached: %v", err)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
}

// making are the points before the database's oid is known to the run.
func making(point string) bool {
	return slices.ContainsFunc([]string{"roles", "create-database", "prepare"}, func(e string) bool {
		return strings.HasPrefix(point, "restore/"+e+"/")
	})
}

// faultRig is a backup and tasks on a private server.
func faultRig(t *testing.T) (*rig, func(n int) (task, restore.Options)) {
	r := &rig{source: pgservertest.Server(t, pgservertest.Default)}
	name, url := pgservertest.Database(t, r.source)
	pgservertest.Exec(t, url, everythingSQL)
	r.backUp(t, name)
	s := r.scratch(t, pgservertest.Default)
	return r, func(n int) (task, restore.Options) {
		o := r.options(s)
		o.Final = fmt.Sprintf("final_%d", n)
		o.Database = restore.BuildName("shop", "b1", o.Final)
		return task{Store: r.url, Server: o.Server.URL, Database: o.Database, Final: o.Final, Private: true}, o
	}
}

func TestKilledAtEveryPoint(t *testing.T) {
	r, newTask := faultRig(t)
	n := 0
	for _, point := range fault.Points() {
		if !strings.HasPrefix(point, "restore/") {
			continue
		}
		for _, hit := range []string{"1", "3"} {
			n++
			task, o := newTask(n)
			t.Run(point+":"+hit, func(t *testing.T) {
				if !making(point) {
					o = create(t, o)
					task.Oid = o.Oid
				}
				task.Drop = strings.HasPrefix(point, "restore/drop/")
				_, ended := task.start(t, "point="+point+":kill:"+hit)
				err := <-ended
				if hit != "1" && err == nil {
					return // it is not reached that often
				}
				requireKilled(t, err)
				if task.Drop {
					require.NoError(t, restore.Drop(deadline(t), o))
				} else {
					require.NoError(t, task.run())
					r.requireEqual(t, o, o.Final)
				}
				url := o.Server.URL
				require.Zero(t, query[int](t, url, "SELECT count(*) FROM pg_database WHERE datname LIKE 'upkeep_restore%'"), "a half database is left")
				require.Eventually(t, func() bool {
					return query[int](t, url, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'upkeep-%'") == 0
				}, 10*time.Second, 50*time.Millisecond, "a session is left")
				pgservertest.Exec(t, url, `DROP DATABASE IF EXISTS "`+o.Final+`"`)
			})
		}
	}
	require.NotZero(t, n)
}

func TestFrozenAtEveryPoint(t *testing.T) {
	r, newTask := faultRig(t)
	n := 0
	for _, point := range fault.Points() {
		if !strings.HasPrefix(point, "restore/") || strings.HasPrefix(point, "restore/drop/") {
			continue
		}
		n++
		task, o := newTask(n)
		t.Run(point, func(t *testing.T) {
			if !making(point) {
				task.Oid = create(t, o).Oid
			}
			cmd, ended := task.start(t, "point="+point+":stop")
			require.Eventually(t, func() bool { return stopped(cmd.Process.Pid) }, time.Minute, 10*time.Millisecond)
			err := task.run()
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			late := <-ended // the stale twin may find everything done, or that it was overtaken
			if err != nil { // an open transaction of the twin can hold the new attempt up for a while
				f, ok := failure.As(err)
				require.True(t, ok, "%v", err)
				require.Equal(t, failure.Transient, f.Class(), "%v", err)
				if late != nil {
					require.NoError(t, task.run())
				}
			}
			r.requireEqual(t, o, o.Final)
			pgservertest.Exec(t, o.Server.URL, `DROP DATABASE "`+o.Final+`" WITH (FORCE)`)
			require.NoError(t, restore.Drop(deadline(t), o))
		})
	}
	require.NotZero(t, n)
}

func stopped(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(after, "T")
}

func TestEveryMutantIsFound(t *testing.T) {
	r, newTask := faultRig(t)
	n := 0
	for _, mutant := range fault.Mutants() {
		if !strings.HasPrefix(mutant, "restore-") {
			continue
		}
		n++
		task, o := newTask(n)
		t.Run(mutant, func(t *testing.T) {
			_, ended := task.start(t, "mutant="+mutant)
			require.NoError(t, <-ended)
			require.Equal(t, run.Fail, proof.Verdict(r.compare(t, o, o.Final)))
		})
	}
	require.NotZero(t, n)
}
