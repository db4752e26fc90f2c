// Package sample fills a database with a made-up product's data: many of PostgreSQL's features, and
// text that compresses as real text does. The same size gives the same rows.
package sample

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

var (
	//go:embed schema.sql
	schema string
	//go:embed fill.sql
	fill string
)

// DefaultTraces makes a database of about 300 MB.
const DefaultTraces = 100_000

// Fill creates the sample's schema and rows in an empty database. Ten thousand traces make about 30
// MB on disk.
func Fill(ctx context.Context, conn *pgx.Conn, traces int) error {
	for _, script := range []string{schema, strings.ReplaceAll(fill, ":traces", strconv.Itoa(traces))} {
		if _, err := conn.Exec(ctx, script, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("fill the sample database: %w", err)
		}
	}
	return nil
}
