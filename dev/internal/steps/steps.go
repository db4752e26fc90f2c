// Package steps measures what a durable step costs on a Temporal server: one activity that does
// nothing, after another.
package steps

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// WorkflowType is the name of the workflow that Measure runs.
const WorkflowType = "Steps"

// nothing is the activity's name.
const nothing = "Nothing"

// Measure runs n steps one after another on a server, and returns how long each took.
func Measure(ctx context.Context, server client.Options, n int) (took []time.Duration, err error) {
	c, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, fmt.Errorf("reach Temporal: %w", err)
	}
	defer c.Close()
	queue := "steps-" + rand.Text()
	w := worker.New(c, queue, worker.Options{})
	w.RegisterWorkflowWithOptions(inSequence, workflow.RegisterOptions{Name: WorkflowType})
	w.RegisterActivityWithOptions(func(context.Context) error { return nil }, activity.RegisterOptions{Name: nothing})
	if err := w.Start(); err != nil {
		return nil, fmt.Errorf("start the worker of the steps: %w", err)
	}
	defer w.Stop()
	r, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: queue}, WorkflowType, n)
	if err != nil {
		return nil, fmt.Errorf("start the steps: %w", err)
	}
	if err := r.Get(ctx, &took); err != nil {
		return nil, fmt.Errorf("run the steps: %w", err)
	}
	return took, nil
}

func inSequence(ctx workflow.Context, n int) ([]time.Duration, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	took := make([]time.Duration, n)
	for i := range took {
		began := workflow.Now(ctx)
		if err := workflow.ExecuteActivity(ctx, nothing).Get(ctx, nil); err != nil {
			return nil, err
		}
		took[i] = workflow.Now(ctx).Sub(began)
	}
	return took, nil
}
