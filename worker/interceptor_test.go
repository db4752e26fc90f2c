package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// environment runs one activity behind the interceptor.
func environment(t *testing.T, work func(context.Context) error, o sdkworker.Options) (*testsuite.TestActivityEnvironment, func() error) {
	t.Helper()
	env := (&testsuite.WorkflowTestSuite{}).NewTestActivityEnvironment()
	o.Interceptors = Interceptors()
	env.SetWorkerOptions(o)
	env.RegisterActivityWithOptions(work, activity.RegisterOptions{Name: "Work"})
	return env, func() error {
		_, err := env.ExecuteActivity("Work")
		return err
	}
}

// TestRunningActivityHeartbeats checks that an activity that does no more than report its progress is
// known to live, and how far it is, well within the 5 s that are promised.
func TestRunningActivityHeartbeats(t *testing.T) {
	var (
		beats = make(chan progress.Progress, 8)
		began = time.Now()
	)
	env, execute := environment(t, func(ctx context.Context) error {
		progress.Report(ctx, progress.Progress{Done: 1})
		progress.Report(ctx, progress.Progress{Done: 2})
		select {
		case p := <-beats:
			require.Equal(t, int64(2), p.Done, "the newest counts")
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("no heartbeat")
		}
	}, sdkworker.Options{})
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var p progress.Progress
		require.NoError(t, details.Get(&p))
		beats <- p
	})
	require.NoError(t, execute())
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestStoppingWorkerEndsItsActivities(t *testing.T) {
	stop := make(chan struct{})
	env, execute := environment(t, func(ctx context.Context) error {
		close(stop)
		<-ctx.Done()
		return failure.New(failure.ScratchUnavailable, "initdb was killed") // which would ask for a person
	}, sdkworker.Options{})
	env.SetWorkerStopChannel(stop)
	err := execute()
	var app *temporal.ApplicationError
	require.ErrorAs(t, err, &app)
	require.False(t, app.NonRetryable(), "the next attempt goes on")
	require.Equal(t, string(failure.WorkerStopped), app.Type())
}

func TestErrorsAreTranslated(t *testing.T) {
	long := strings.Repeat("é", 3000)
	for _, c := range []struct {
		name  string
		err   error
		want  run.Error
		retry bool
	}{
		{"a person's", failure.New(failure.DiskFull, "no space on %s", "/var").Do("free some"), run.Error{Code: "DiskFull", Class: "NeedsPerson", What: "no space on /var", Remedy: "free some"}, false},
		{"a passing one", failure.New(failure.StoreUnreachable, "no answer").Because(errors.New("reset")), run.Error{Code: "StoreUnreachable", Class: "Transient", What: "no answer: reset"}, true},
		{"damage", failure.New(failure.BackupDamaged, "wrong sum"), run.Error{Code: "BackupDamaged", Class: "Damaged", What: "wrong sum"}, false},
		{"one that is wrapped", errors.Join(errors.New("outside"), failure.New(failure.BadInput, "no")), run.Error{Code: "BadInput", Class: "InvalidInput", What: "no"}, false},
		{"a raw one of the server", &pgconn.PgError{Code: "23505", Message: "Key (name)=(ann) exists"}, run.Error{Code: "Internal", Class: "Transient", What: "SQLSTATE 23505 (see the server's log)"}, true},
		{"one with a raw cause", failure.New(failure.MissingRight, "no right").Because(fmt.Errorf("say: %w", &pgconn.PgError{Code: "42501", Message: "row ann"})), run.Error{Code: "MissingRight", Class: "NeedsPerson", What: "no right: SQLSTATE 42501 (see the server's log)"}, false},
		{"one without a code", errors.New("a\x00b\xff"), run.Error{Code: "Internal", Class: "Transient", What: "ab?"}, true},
		{"a long one", errors.New(long), run.Error{Code: "Internal", Class: "Transient", What: long[:2000] + "..."}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, execute := environment(t, func(context.Context) error { return c.err }, sdkworker.Options{})
			var app *temporal.ApplicationError
			require.ErrorAs(t, execute(), &app)
			require.Equal(t, c.want.Code, app.Type())
			require.Equal(t, !c.retry, app.NonRetryable())
			var got run.Error
			require.NoError(t, app.Details(&got))
			require.Equal(t, c.want, got)
		})
	}
}

func TestPanicOfAnActivityIsAnError(t *testing.T) {
	_, execute := environment(t, func(context.Context) error { panic("a fault") }, sdkworker.Options{})
	var panicked *temporal.PanicError
	require.ErrorAs(t, execute(), &panicked)
}

// TestNothingIsBeatenAfterTheEnd makes sure that no goroutine outlives its activity.
func TestNothingIsBeatenAfterTheEnd(t *testing.T) {
	var (
		mu    sync.Mutex
		inner context.Context
	)
	_, execute := environment(t, func(ctx context.Context) error {
		mu.Lock()
		inner = ctx
		mu.Unlock()
		return nil
	}, sdkworker.Options{})
	require.NoError(t, execute())
	mu.Lock()
	defer mu.Unlock()
	require.ErrorIs(t, inner.Err(), context.Canceled)
}
