package worker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

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

func (i *inbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu     sync.Mutex
		newest progress.Progress
	)
	ctx = progress.With(ctx, func(p progress.Progress) {
		mu.Lock()
		newest = p
		mu.Unlock()
	})
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		tick := time.NewTicker(heartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-activity.GetWorkerStopChannel(ctx):
				// The worker stops and will be killed: the activity ends now, and its next attempt
				// goes on from what is finished.
				cancel()
				return
			case <-tick.C:
				mu.Lock()
				p := newest
				mu.Unlock()
				activity.RecordHeartbeat(ctx, p)
			}
		}
	}()
	result, err := i.Next.ExecuteActivity(ctx, in)
	cancel()
	<-beating
	return result, translate(err)
}

// translate turns an engine's error into one whose type and class Temporal and the workflow know. The
// outermost error decides whether Temporal retries, so nothing wraps it after this.
func translate(err error) error {
	if err == nil {
		return nil
	}
	f, ok := failure.As(err)
	if !ok {
		if errors.Is(err, context.Canceled) {
			return err
		}
		var app *temporal.ApplicationError
		if errors.As(err, &app) || temporal.IsCanceledError(err) {
			return err
		}
		f = failure.New(failure.Internal, "%s", printable(err.Error()))
	}
	e := run.Error{Code: string(f.Code), Class: string(f.Class()), What: what(f), Remedy: f.Remedy}
	return temporal.NewApplicationErrorWithOptions(e.What, e.Code, temporal.ApplicationErrorOptions{
		NonRetryable: f.Class() != failure.Transient,
		Details:      []any{e},
	})
}

// what says what happened and why, without the remedy, which has a field of its own.
func what(f *failure.Error) string {
	text := f.What
	if f.Cause != nil {
		text += ": " + f.Cause.Error()
	}
	return printable(text)
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
