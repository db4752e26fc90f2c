// Package product runs Upkeep as the benchmarks measure it: the embedded Temporal server in this process,
// and the worker as a process of its own, as in production.
package product

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// askEvery is how often a run is asked whether it wants an approval.
const askEvery = 50 * time.Millisecond

// Options say what runs, and where.
type Options struct {
	Dir     string   // for everything that it writes
	Worker  string   // the program
	Targets string   // of the configuration: the items of a YAML list
	Env     []string // of the worker, besides this process's own
}

// Upkeep is a running server and worker.
type Upkeep struct {
	Store    string // the store's folder
	Temporal *devserver.Server
	Starter  *starter.Starter

	options Options
	client  client.Client
	worker  *exec.Cmd
	ended   chan error
}

// Start starts both.
func Start(ctx context.Context, o Options) (_ *Upkeep, err error) {
	u := &Upkeep{Store: filepath.Join(o.Dir, "store"), options: o}
	text := fmt.Sprintf("version: 1\nstore: file://%s\ntargets:\n%s", u.Store, o.Targets)
	if err := os.WriteFile(o.config(), []byte(text), 0o600); err != nil {
		return nil, err
	}
	u.Temporal, err = devserver.Start(ctx, devserver.Options{Dir: filepath.Join(o.Dir, "temporal"), SearchAttributes: worker.Attributes()})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Stop())
		}
	}()
	if u.client, err = client.DialContext(ctx, u.Temporal.ClientOptions()); err != nil {
		return nil, fmt.Errorf("reach Temporal: %w", err)
	}
	u.Starter = &starter.Starter{Client: u.client}
	return u, u.serve()
}

func (o Options) config() string { return filepath.Join(o.Dir, "upkeep.yaml") }

// serve starts the worker.
func (u *Upkeep) serve() error {
	o := u.options
	log, err := os.OpenFile(filepath.Join(o.Dir, "worker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the worker has its own
	u.worker = exec.Command(o.Worker, "--config", o.config(), "--data", filepath.Join(o.Dir, "worker"), "--health-address", "", "--name", "bench")
	u.worker.Env = append(append(os.Environ(), o.Env...), "TEMPORAL_ADDRESS="+u.Temporal.Address)
	u.worker.Stderr = log
	u.worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to pass on
	if err := u.worker.Start(); err != nil {
		return fmt.Errorf("start the worker (make build): %w", err)
	}
	u.ended = make(chan error, 1)
	go func() { u.ended <- u.worker.Wait() }()
	return nil
}

// Replace kills the worker, and starts another as a supervisor would.
func (u *Upkeep) Replace() error {
	u.end(syscall.SIGKILL)
	return u.serve()
}

func (u *Upkeep) end(by os.Signal) {
	if u.ended != nil {
		_ = u.worker.Process.Signal(by) // it may have ended
		<-u.ended
		u.ended = nil
	}
}

// Stop ends both.
func (u *Upkeep) Stop() error {
	u.end(syscall.SIGTERM)
	if u.client != nil {
		u.client.Close()
	}
	return u.Temporal.Stop()
}

// Succeed runs a procedure to its end, as anybody would start it. Only a success is no error.
func (u *Upkeep) Succeed(ctx context.Context, o starter.Order) (*run.Document, error) {
	doc, err := u.Run(ctx, o)
	if err == nil && doc.Outcome != run.Succeeded {
		err = fmt.Errorf("%s on %s: %s: %s", o.Procedure, o.Target, doc.Outcome, doc.Summary)
	}
	return doc, err
}

// Run runs a procedure to its end, whatever that is. A run that waits for a person is an error.
func (u *Upkeep) Run(ctx context.Context, o starter.Order) (*run.Document, error) {
	id, err := u.Starter.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	return u.await(ctx, o, id)
}

// Approved is Run of a procedure that asks for an approval of its plan, and gets it at once.
func (u *Upkeep) Approved(ctx context.Context, o starter.Order) (*run.Document, error) {
	id, err := u.Starter.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	for tick := time.NewTicker(askEvery); ; {
		doc, err := u.Starter.Show(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case doc.AsksApproval():
			err := u.Starter.DecideOnPlan(ctx, id, true, run.PlanDecision{Plan: doc.Approval.Hash, By: "bench", Reason: "it is measured"})
			if err != nil {
				return nil, err
			}
			return u.await(ctx, o, id)
		case doc.Outcome.Ended() || doc.Outcome == run.Waiting:
			return u.await(ctx, o, id)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// await waits for a run's end.
func (u *Upkeep) await(ctx context.Context, o starter.Order, id string) (*run.Document, error) {
	for {
		err := u.ends(ctx, id)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		doc, shown := u.Starter.Show(ctx, id)
		switch {
		case shown != nil && errors.Is(err, context.DeadlineExceeded):
		case shown != nil:
			return nil, fmt.Errorf("%s on %s: %w", o.Procedure, o.Target, errors.Join(err, shown))
		case doc.Outcome == run.Waiting:
			return nil, fmt.Errorf("%s on %s waits: %s", o.Procedure, o.Target, doc.WaitingFor)
		case doc.Outcome.Ended():
			return doc, nil
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("%s on %s: %w", o.Procedure, o.Target, err)
		}
	}
}

// ends waits a while for a run's end.
func (u *Upkeep) ends(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := u.client.GetWorkflow(ctx, id, "").Get(ctx, nil)
	var late *serviceerror.DeadlineExceeded // said by the connection a moment before the context does
	if errors.As(err, &late) {
		err = context.DeadlineExceeded
	}
	return err
}

// Memory is the most that the worker has held, in bytes.
func (u *Upkeep) Memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.worker.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("the kernel does not say how much memory the worker has held")
}
