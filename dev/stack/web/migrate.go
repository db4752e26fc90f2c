package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// migrations bring the database from one version to the next.
var migrations = []string{
	`CREATE TABLE traces (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		name text NOT NULL,
		written timestamptz NOT NULL DEFAULT now())`,
	`ALTER TABLE traces ADD COLUMN environment text NOT NULL DEFAULT 'default'`,
}

// migrate waits for the server, which may start at the same time, and applies what is missing. Two at
// once do it once.
func migrate(ctx context.Context, pool *pgxpool.Pool, to int) error {
	if to < 1 || to > len(migrations) {
		return fmt.Errorf("there is no version %d of the schema; the newest is %d", to, len(migrations))
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for tick := time.NewTicker(time.Second); pool.Ping(ctx) != nil; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database does not answer: %w", pool.Ping(context.WithoutCancel(ctx)))
		case <-tick.C:
		}
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(20261126)"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version int NOT NULL)"); err != nil {
			return err
		}
		var at int
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM schema_version").Scan(&at); err != nil {
			return err
		}
		for ; at < to; at++ {
			log.Printf("migrating to version %d", at+1)
			if _, err := tx.Exec(ctx, migrations[at]); err != nil {
				return fmt.Errorf("version %d: %w", at+1, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO schema_version VALUES ($1)", at+1); err != nil {
				return err
			}
		}
		return nil
	})
}

func versionOf(ctx context.Context, pool *pgxpool.Pool) (version int, err error) {
	err = pool.QueryRow(ctx, "SELECT max(version) FROM schema_version").Scan(&version)
	return version, err
}
