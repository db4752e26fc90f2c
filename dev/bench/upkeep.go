package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/product"
	"github.com/upkeep-run/upkeep/starter"
)

// upkeep is the product, with each set as a target, in clear and encrypted.
type upkeep struct{ *product.Upkeep }

func startUpkeep(ctx context.Context, o options, d *database, scratch string) (*upkeep, error) {
	reader, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	targets := ""
	for _, s := range sets {
		targets += fmt.Sprintf("  - name: %s\n    database: {url: %q}\n", s.name, d.server.DSN("", s.name))
		targets += fmt.Sprintf("  - name: %s\n    database: {url: %q}\n    encryption: {recipients: [%s], identityFrom: {env: BENCH_IDENTITY}}\n",
			s.sealed().name, d.server.DSN("", s.name), reader.Recipient())
	}
	u, err := product.Start(ctx, product.Options{Dir: scratch, Worker: o.worker, Targets: targets, Env: []string{"BENCH_IDENTITY=" + reader.String()}})
	return &upkeep{u}, err
}

// do runs a procedure on a set. Only a success is a measurement.
func (u *upkeep) do(ctx context.Context, procedure string, s set, fields map[string]string) (*run.Document, error) {
	return u.Succeed(ctx, starter.Order{Procedure: procedure, Target: s.name, Set: fields})
}

// forget empties the store.
func (u *upkeep) forget() error { return os.RemoveAll(u.Store) }

// forgetTarget removes what is a set's alone.
func (u *upkeep) forgetTarget(s set) error { return os.RemoveAll(filepath.Join(u.Store, s.name)) }

// sealed is the set as a target whose backups are encrypted.
func (s set) sealed() set {
	s.name += "-sealed"
	return s
}

// backup takes a backup and returns the bytes that it added to the store.
func (u *upkeep) backup(ctx context.Context, s set) (added int64, err error) {
	before, err := sizeOf(u.Store)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if _, err := u.do(ctx, backupdatabase.WorkflowType, s, nil); err != nil {
		return 0, err
	}
	after, err := sizeOf(u.Store)
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
