package worker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// heartbeatEvery is how often a running activity says that it lives, and how far it is.
const heartbeatEvery = 2500 * time.Millisecond

// edge is where every activity meets Temporal: it heartbeats for the activity and translates its
// errors, so that no activity does either by itself.
type edge struct {
	interceptor.WorkerInterceptorBase
}

// Interceptors are what every worker of Upkeep puts around its activities.
func Interceptors() []interceptor.WorkerInterceptor { return []interceptor.WorkerInterceptor{&edge{}} }

func (*edge) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	in := &inbound{}
	in.Next = next
	return in
}

type inbound struct {
	interceptor.ActivityInboundInterceptorBase
}

// errStopping is why an activity's context ends when its worker stops.
var errStopping = errors.New("the worker stops")

func (i *inbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	work, end := context.WithCancelCause(ctx)
	defer end(nil)
	var newest atomic.Pointer[progress.Progress]
	work = progress.With(work, func(p progress.Progress) { newest.Store(&p) })
	var (
		over    = make(chan struct{})
		beating sync.WaitGroup
	)
	beating.Go(func() {
		tick := time.NewTicker(heartbeatEvery)
		defer tick.Stop()
		stop := activity.GetWorkerStopChannel(ctx)
		for {
			select {
			case <-over:
				return
			case <-stop:
				// The worker will be killed: the activity ends now, and its next attempt goes on from
				// what is finished.
				end(errStopping)
				stop = nil
			case <-tick.C:
				p := newest.Load()
				if p == nil {
					p = &progress.Progress{}
				}
				activity.RecordHeartbeat(ctx, *p)
			}
		}
	})
	result, err := i.Next.ExecuteActivity(work, in)
	close(over)
	beating.Wait()
	switch {
	case err == nil:
		return result, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, ctx.Err() // whatever an engine says of being cut off
	case errors.Is(context.Cause(work), errStopping):
		err = failure.New(failure.WorkerStopped, "the worker stopped before the step was done")
	}
	return nil, translate(err)
}

// translate turns an engine's error into one whose type and class Temporal and the workflow know. The
// outermost error decides whether Temporal retries, so nothing wraps it after this.
func translate(err error) error {
	f, ok := failure.As(err)
	if !ok {
		var app *temporal.ApplicationError
		if errors.As(err, &app) || temporal.IsCanceledError(err) {
			return err
		}
		f = failure.New(failure.Internal, "%s", text(err))
	}
	e := run.Error{Code: string(f.Code), Class: string(f.Class()), What: what(f), Remedy: f.Remedy}
	return temporal.NewApplicationErrorWithOptions(e.What, e.Code, temporal.ApplicationErrorOptions{
		NonRetryable:   f.Class() != failure.Transient,
		NextRetryDelay: f.After, // as the server wishes; 0: as the policy says
		Details:        []any{e},
	})
}

// what says what happened and why, without the remedy, which has a field of its own.
func what(f *failure.Error) string {
	if f.Cause == nil {
		return printable(f.What)
	}
	return printable(f.What + ": " + text(f.Cause))
}

// text is an error's text. The engines take out of a server's message what may quote a row; what
// comes past them is named by its code alone.
func text(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return "SQLSTATE " + server.Code + " (see the server's log)"
	}
	return err.Error()
}

// printable bounds a text and drops what no history may hold.
func printable(text string) string {
	const most = 2000
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
