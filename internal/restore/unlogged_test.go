package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// mortal is a private server that a test can let crash.
type mortal struct {
	*pgserver.Server
	options pgserver.Options
}

func (r *rig) mortal(t *testing.T) *mortal {
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	m := &mortal{options: pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("mortal-%d-%d", os.Getpid(), time.Now().UnixNano())), Binaries: binaries,
		Superuser: restore.ScratchSuperuser(r.manifest),
	}}
	m.Server, err = pgserver.Start(deadline(t), m.options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Remove(context.Background())) })
	return m
}

// crash does to the server what the death of its worker does, when all that can be is on disk, and
// starts it again.
func (m *mortal) crash(t *testing.T, o *restore.Options) {
	pgservertest.Exec(t, m.DSN("", "postgres"), "CHECKPOINT")
	require.NoError(t, syscall.Kill(m.Pid(), syscall.SIGQUIT))
	<-m.Done()
	require.NoError(t, m.Stop(deadline(t)))
	var err error
	m.Server, err = pgserver.Start(deadline(t), m.options)
	require.NoError(t, err)
	o.Server = postgres.Config{URL: m.DSN("", "postgres")}
}

// loadUntil breaks a restore off when it comes to a phase.
func loadUntil(t *testing.T, o restore.Options, phase string) {
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	_, err := restore.Load(progress.With(ctx, func(p progress.Progress) {
		if p.Phase == phase {
			cancel()
		}
	}), o)
	require.ErrorIs(t, err, context.Canceled)
}

// A crash empties unlogged tables, and their rows are loaded again or the whole copy is.
func TestACrashEmptiesUnloggedTables(t *testing.T) {
	r := newRig(t, pgservertest.Default, `CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 1000);
		CREATE UNLOGGED TABLE u (id serial PRIMARY KEY, v text UNIQUE); INSERT INTO u (v) SELECT g FROM generate_series(1, 500) g;
		CREATE UNLOGGED TABLE h (a int) PARTITION BY RANGE (a); CREATE UNLOGGED TABLE h0 PARTITION OF h DEFAULT; INSERT INTO h VALUES (1), (2);
		CREATE FUNCTION twist() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.v = 'twisted ' || NEW.v; RETURN NEW; END $f$;
		CREATE TRIGGER twist BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION twist()`)
	s := r.mortal(t)
	o := create(t, r.options(s.Server))
	loadUntil(t, o, "creating what stands on the rows")
	s.crash(t, &o)
	result, err := restore.Load(deadline(t), o)
	require.NoError(t, err)
	require.Equal(t, 2, result.Chunks, "the unlogged ones")
	r.requireEqual(t, o, "copy")
	require.NoError(t, restore.Survived(deadline(t), o))

	requireLost := func(err error) {
		t.Helper()
		require.True(t, failure.Is(err, failure.CopyLost), "%v", err)
		o = create(t, o) // anew: the lost one is dropped
	}
	s.crash(t, &o)
	requireLost(restore.Survived(deadline(t), o))
	loadUntil(t, o, "finishing") // triggers are there, and would fire
	s.crash(t, &o)
	_, err = restore.Load(deadline(t), o)
	requireLost(err)
	_, err = restore.Load(deadline(t), o)
	require.NoError(t, err)
	r.requireEqual(t, o, "copy")
	s.crash(t, &o)
	_, err = restore.Load(deadline(t), o)
	requireLost(err)
}

// What no crash takes is kept.
func TestAFinishedCopyWithoutUnloggedTablesOutlivesACrash(t *testing.T) {
	r := newRig(t, pgservertest.Default, `CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 1000); CREATE UNLOGGED TABLE u (id int)`)
	s := r.mortal(t)
	o := create(t, r.options(s.Server))
	restoreAll(t, o)
	s.crash(t, &o)
	require.NoError(t, restore.Survived(deadline(t), o))
	require.NotZero(t, restoreAll(t, o).Skipped)
	r.requireEqual(t, o, "copy")
}
