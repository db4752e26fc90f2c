package procedure

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Options are the kinds of activities that there are, by how long they may take. Every activity
// heartbeats through the worker's interceptor, so a dead worker is noticed within the heartbeat
// timeout whatever the kind.
type Options int

// The kinds.
const (
	Quick    Options = iota // a look, or a small write
	Long                    // reads or writes a whole database
	Waiting                 // waits for another run, a quarter of an hour at most, and is tried a few times
	Brief                   // a look that nothing waits for longer than three minutes, worker or not
	Patient                 // waits for something outside, for as long as it takes, also while that cannot be reached
	Standing                // goes on for as long as the run waits, and is not waited for when the run goes on
)

const (
	heartbeatTimeout = 10 * time.Second
	// workerReturnsWithin is how long a step waits for the one worker that holds a scratch server.
	workerReturnsWithin = 90 * time.Second
)

func (o Options) activity() workflow.ActivityOptions {
	a := workflow.ActivityOptions{
		StartToCloseTimeout: 2 * time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		WaitForCancellation: true,
		// What may pass by itself is tried for about five minutes; then the run parks.
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 45 * time.Second, MaximumAttempts: 12},
	}
	if o != Quick && o != Brief {
		a.StartToCloseTimeout = 7 * 24 * time.Hour
	}
	if o == Brief {
		a.ScheduleToCloseTimeout, a.RetryPolicy.MaximumAttempts = 3*time.Minute, 3
	}
	if o == Waiting {
		a.StartToCloseTimeout, a.RetryPolicy.MaximumAttempts = 20*time.Minute, 3
	}
	if o == Patient {
		a.RetryPolicy.MaximumInterval, a.RetryPolicy.MaximumAttempts = 10*time.Minute, 0
	}
	if o == Standing {
		a.StartToCloseTimeout, a.WaitForCancellation, a.RetryPolicy.MaximumAttempts = askedFor+24*time.Hour, false, 0
	}
	return a
}
