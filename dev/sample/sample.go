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

// Size says how much there is.
type Size struct {
	// Traces are the rows that the others follow from: ten thousand are about 35 MB on disk, indexes
	// included, where each has five observations.
	Traces int
	// Observations of each trace; five when zero. With five no table holds half of the database, with
	// twelve one table holds 70% of it.
	Observations int
}

// Default is a database of about 350 MB.
var Default = Size{Traces: 100_000}

const observations = 5

// Fill creates the sample's schema and rows in an empty database.
func Fill(ctx context.Context, conn *pgx.Conn, size Size) error {
	if size.Observations == 0 {
		size.Observations = observations
	}
	numbers := strings.NewReplacer(":traces", strconv.Itoa(size.Traces), ":per", strconv.Itoa(size.Observations))
	for _, script := range []string{schema, numbers.Replace(fill)} {
		if _, err := conn.Exec(ctx, script, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("fill the sample database: %w", err)
		}
	}
	return nil
}
