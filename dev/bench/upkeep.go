package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// upkeep is the product: the embedded Temporal server in this process, and the worker as a process of
// its own, as in production.
type upkeep struct {
	temporal *devserver.Server
	client   client.Client
	starter  *starter.Starter
	worker   *exec.Cmd
	ended    chan error
	store    string
}

func startUpkeep(ctx context.Context, o options, d *database, scratch string) (_ *upkeep, err error) {
	reader, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	u := &upkeep{store: filepath.Join(scratch, "store"), ended: make(chan error, 1)}
	config := fmt.Sprintf("version: 1\nstore: file://%s\ntargets:\n", u.store)
	for _, s := range sets {
		config += fmt.Sprintf("  - name: %s\n    database: {url: %q}\n", s.name, d.server.DSN("", s.name))
		config += fmt.Sprintf("  - name: %s\n    database: {url: %q}\n    encryption: {recipients: [%s], identityFrom: {env: BENCH_IDENTITY}}\n",
			s.sealed().name, d.server.DSN("", s.name), reader.Recipient())
	}
	configPath := filepath.Join(scratch, "upkeep.yaml")
	if err := os.WriteFile(configPath, []byte(config), 0o600); err != nil {
		return nil, err
	}
	u.temporal, err = devserver.Start(ctx, devserver.Options{Dir: filepath.Join(scratch, "temporal"), SearchAttributes: worker.Attributes()})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.stop())
		}
	}()
	if u.client, err = client.DialContext(ctx, u.temporal.ClientOptions()); err != nil {
		return nil, fmt.Errorf("reach Temporal: %w", err)
	}
	u.starter = &starter.Starter{Client: u.client}
	u.worker = exec.Command(o.worker, "--config", configPath, "--data", filepath.Join(scratch, "worker"), "--health-address", "", "--name", "bench")
	u.worker.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+u.temporal.Address, "BENCH_IDENTITY="+reader.String())
	log, err := os.Create(filepath.Join(scratch, "worker.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the worker has its own
	u.worker.Stderr = log
	u.worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to pass on
	if err := u.worker.Start(); err != nil {
		return nil, fmt.Errorf("start the worker (make build): %w", err)
	}
	go func() { u.ended <- u.worker.Wait() }()
	return u, nil
}

func (u *upkeep) stop() error {
	if u.worker != nil && u.worker.Process != nil {
		_ = u.worker.Process.Signal(syscall.SIGTERM) // it may have ended
		<-u.ended
	}
	if u.client != nil {
		u.client.Close()
	}
	return u.temporal.Stop()
}

// do runs a procedure to its end, as anybody would start it. Only a success is a measurement.
func (u *upkeep) do(ctx context.Context, procedure string, s set, fields map[string]string) (*run.Document, error) {
	id, err := u.starter.Start(ctx, starter.Order{Procedure: procedure, Target: s.name, Set: fields})
	if err != nil {
		return nil, err
	}
	for {
		doc, err := u.result(ctx, id)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			// Not yet, or it has parked.
			if doc, err = u.starter.Show(ctx, id); err != nil || doc.Outcome != run.Waiting {
				continue
			}
			return nil, fmt.Errorf("%s on %s waits: %s", procedure, s.name, doc.WaitingFor)
		case err != nil:
			return nil, fmt.Errorf("%s on %s: %w", procedure, s.name, err)
		case doc.Outcome != run.Succeeded:
			return nil, fmt.Errorf("%s on %s: %s: %s", procedure, s.name, doc.Outcome, doc.Summary)
		}
		return doc, nil
	}
}

// result waits a while for a run's end.
func (u *upkeep) result(ctx context.Context, id string) (*run.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var doc run.Document
	err := u.client.GetWorkflow(ctx, id, "").Get(ctx, &doc)
	var late *serviceerror.DeadlineExceeded // said by the connection a moment before the context does
	if errors.As(err, &late) {
		err = context.DeadlineExceeded
	}
	return &doc, err
}

// forget empties the store.
func (u *upkeep) forget() error { return os.RemoveAll(u.store) }

// forgetTarget removes what is a set's alone.
func (u *upkeep) forgetTarget(s set) error { return os.RemoveAll(filepath.Join(u.store, s.name)) }

// sealed is the set as a target whose backups are encrypted.
func (s set) sealed() set {
	s.name += "-sealed"
	return s
}

// backup takes a backup and returns the bytes that it added to the store.
func (u *upkeep) backup(ctx context.Context, s set) (added int64, err error) {
	before, err := sizeOf(u.store)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if _, err := u.do(ctx, backupdatabase.WorkflowType, s, nil); err != nil {
		return 0, err
	}
	after, err := sizeOf(u.store)
	return after - before, err
}

// restore brings the newest backup back as a new database. It returns how long it took from making
// the database to its last constraint: without the checks before and after, which pg_restore has none of.
func (u *upkeep) restore(ctx context.Context, s set, name string) (building time.Duration, err error) {
	doc, err := u.do(ctx, restoredatabase.WorkflowType, s, map[string]string{"backup": "latest", "database": name})
	if err != nil {
		return 0, err
	}
	var seconds float64
	found := 0
	for _, step := range doc.Steps {
		if step.Name == "Create the database" || step.Name == "Restore the rows" {
			seconds += step.Seconds
			found++
		}
	}
	if found != 2 {
		steps, _ := json.Marshal(doc.Steps) // plain data always encodes
		return 0, fmt.Errorf("the steps of a restore have other names now: %s", steps)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// drill drills the newest backup.
func (u *upkeep) drill(ctx context.Context, s set) error {
	_, err := u.do(ctx, drillrecovery.WorkflowType, s, map[string]string{"backup": "latest"})
	return err
}

// memory is the most that the worker has held, in bytes.
func (u *upkeep) memory() (int64, error) {
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
