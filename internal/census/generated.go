package census

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// Generated sums up a table's stored generated columns, which no COPY reads and a restore computes
// anew, each row's with its primary key, or with all of the row where there is none: the order-free sum
// of the 64-bit hash of their text, as a decimal. It is empty for a table without such columns. The
// server's hash of a text has been the same in every version that is supported.
func Generated(ctx context.Context, conn *pgx.Conn, table format.Name) (string, error) {
	quoted := postgres.Quote(table.Schema, table.Name)
	doing := fmt.Sprintf("sum up the generated columns of table %s", quoted)
	var columns string
	// By name: the order of columns can change when inheritance is made anew.
	err := conn.QueryRow(ctx, `
		SELECT coalesce(CASE WHEN bool_or(attgenerated = 's') THEN string_agg(quote_ident(attname), ', ' ORDER BY attname) END, '')
		FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
		  AND (attgenerated = 's' OR attgenerated = '' AND (i.indexrelid IS NULL OR a.attnum = ANY (i.indkey)))`, quoted).Scan(&columns)
	if err != nil || columns == "" {
		return "", postgres.Classify(err, doing)
	}
	var sum string
	err = conn.QueryRow(ctx, `SELECT coalesce(sum(hashtextextended(ROW(`+columns+`)::text COLLATE "C", 0)), 0)::text FROM ONLY `+quoted).Scan(&sum)
	return sum, postgres.Classify(err, doing)
}
