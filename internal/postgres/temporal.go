package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// HoldsTemporal reports whether a Temporal server keeps its state in the session's database: its
// persistence or its visibility, known by their tables. Upkeep itself may run on it, so nothing may
// stop or replace such a database.
func HoldsTemporal(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var holds bool
	err := conn.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM pg_class c WHERE c.relkind IN ('r', 'p') GROUP BY c.relnamespace
			HAVING count(*) FILTER (WHERE c.relname IN ('executions', 'history_node', 'namespaces', 'schema_version')) = 4
			    OR count(*) FILTER (WHERE c.relname IN ('executions_visibility', 'schema_version')) = 2)`).Scan(&holds)
	return holds, Classify(err, "look for Temporal's tables")
}

// HoldsNamespace reports whether a Temporal server keeps the namespace of this id in the session's database.
func HoldsNamespace(ctx context.Context, conn *pgx.Conn, id string) (holds bool, err error) {
	var is bool
	if err := conn.QueryRow(ctx, `SELECT coalesce((SELECT atttypid = 'bytea'::regtype FROM pg_attribute
		WHERE attrelid = to_regclass('namespaces') AND attname = 'id' AND NOT attisdropped), false)`).Scan(&is); err != nil || !is {
		return false, Classify(err, "look for Temporal's namespaces")
	}
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM namespaces WHERE encode(id, 'hex') = $1)", strings.ReplaceAll(id, "-", "")).Scan(&holds)
	return holds, Classify(err, "look for Temporal's namespaces")
}
