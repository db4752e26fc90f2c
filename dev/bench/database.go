package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/sample"
	"github.com/upkeep-run/upkeep/internal/pgserver"
)

// set is a database to measure on.
type set struct {
	name         string
	observations int // of each trace: the more, the larger the one table
	about        string
}

// The two shapes of the sample: one that two processes can share evenly, and one that they cannot.
var (
	even  = set{name: "even", observations: 3, about: "no table holds half of it"}
	large = set{name: "large", observations: 12, about: "one table holds about 70% of it"}
	sets  = []set{even, large}
)

// database is the private server with the sets.
type database struct {
	server   *pgserver.Server
	binaries pgserver.Binaries
	admin    *pgx.Conn
}

// settings are what an owner of such a machine would set. Autovacuum would come and go at moments of
// its own choice.
var settings = map[string]string{
	"shared_buffers": "1GB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB", "autovacuum": "off", "max_connections": "50",
}

func openDatabase(ctx context.Context, o options) (_ *database, err error) {
	binaries, err := pgserver.Find(ctx, 0)
	if err != nil {
		return nil, err
	}
	server, err := pgserver.Start(ctx, pgserver.Options{Dir: filepath.Join(o.data, "server"), Binaries: binaries, Durable: true, Settings: settings})
	if err != nil {
		return nil, err
	}
	d := &database{server: server, binaries: binaries}
	if d.admin, err = pgx.Connect(ctx, server.DSN("", "postgres")); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the private server: %w", err), d.stop())
	}
	return d, nil
}

func (d *database) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.admin != nil {
		_ = d.admin.Close(ctx) // the server ends next
	}
	return d.server.Stop(ctx)
}

func (d *database) exec(ctx context.Context, sql string) error {
	_, err := d.admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// megabytes is the size of a database, in MiB.
func (d *database) megabytes(ctx context.Context, name string) (size int, err error) {
	err = d.admin.QueryRow(ctx, "SELECT (pg_database_size($1) >> 20)::int", name).Scan(&size)
	return size, err
}

// fill makes a set unless one of that size is there from an earlier time.
func (d *database) fill(ctx context.Context, s set, megabytes int) error {
	var there bool
	made := fmt.Sprintf("upkeep-bench %d MiB, %d observations", megabytes, s.observations)
	err := d.admin.QueryRow(ctx, "SELECT coalesce((SELECT shobj_description(oid, 'pg_database') = $2 FROM pg_database WHERE datname = $1), false)", s.name, made).Scan(&there)
	if err != nil || there {
		return err
	}
	measure.Say("filling the set %s, once", s.name)
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + s.name, "CREATE DATABASE " + s.name} {
		if err := d.exec(ctx, sql); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, d.server.DSN("", s.name))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := sample.Fill(ctx, conn, sample.Size{Traces: s.traces(megabytes), Observations: s.observations}); err != nil {
		return err
	}
	// So that no reader has anything to write.
	if _, err := conn.Exec(ctx, "VACUUM (FREEZE, ANALYZE)"); err != nil {
		return err
	}
	return d.exec(ctx, fmt.Sprintf("COMMENT ON DATABASE %s IS '%s'", s.name, made))
}

// traces is how many make the size: measured once, bytes on disk with indexes.
func (s set) traces(megabytes int) int {
	const base, perTrace, perObservation = 12 << 20, 1350, 355
	return max(1000, (megabytes<<20-base)/(perTrace+perObservation*s.observations))
}

// largest is the share of a set's largest table in all tables, in percent.
func (d *database) largest(ctx context.Context, s set) (percent int, err error) {
	conn, err := pgx.Connect(ctx, d.server.DSN("", s.name))
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, "SELECT (100 * max(pg_table_size(oid)) / sum(pg_table_size(oid)))::int FROM pg_class WHERE relkind = 'r'").Scan(&percent)
	return percent, err
}

// settle lets what the last measurement left behind be written, so that the next does not pay for it.
func (d *database) settle(ctx context.Context) error { return d.exec(ctx, "CHECKPOINT") }
