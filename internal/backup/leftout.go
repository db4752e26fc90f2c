package backup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/postgres"
)

// readElsewhere names what looks like data and is not this database's own, and indexes that are none:
// pg_dump leaves out what a failed CREATE INDEX CONCURRENTLY has left.
func readElsewhere(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	return readTexts(ctx, conn, "list what is not compared", `
		SELECT CASE c.relkind WHEN 'f' THEN 'foreign table ' ELSE 'materialized view ' END || quote_ident(n.nspname) || '.' || quote_ident(c.relname)
		       || CASE c.relkind WHEN 'f' THEN ': its rows are on another server' ELSE ': computed again at restore' END
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('f', 'm') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		UNION ALL
		SELECT 'index ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ': it is not valid, so it is not made again'
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT i.indisvalid AND t.relkind <> 'p' AND n.nspname NOT LIKE 'pg\_%'
		ORDER BY 1`)
}

// readLeftOut names what the database has and no dump shows: what somebody made in the system's own
// schemas, what only a superuser sees, what an extension keeps to itself, and what the server hides.
func readLeftOut(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	hidden, err := readTexts(ctx, conn, "look for what is left out", `
		WITH made AS (
			SELECT c.tableoid, c.oid, c.relnamespace AS namespace, quote_ident(c.relname) AS name FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
			UNION ALL SELECT p.tableoid, p.oid, p.pronamespace, 'function ' || p.oid::regprocedure FROM pg_proc p
			UNION ALL SELECT o.tableoid, o.oid, o.oprnamespace, 'operator ' || o.oid::regoperator FROM pg_operator o
			UNION ALL SELECT t.tableoid, t.oid, t.typnamespace, 'type ' || quote_ident(t.typname) FROM pg_type t WHERE t.typrelid = 0 AND t.typelem = 0
		)
		SELECT m.name || ' stands in the schema ' || n.nspname || ' of the system, which no dump reads'
		FROM made m JOIN pg_namespace n ON n.oid = m.namespace
		WHERE m.oid >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema')
		  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = m.tableoid AND d.objid = m.oid AND d.deptype = 'e')
		UNION ALL
		SELECT 'rows on damaged pages, if there are any: the setting ' || name || ' is on, which hides them'
		FROM pg_settings WHERE name IN ('zero_damaged_pages', 'ignore_checksum_failure') AND setting = 'on'
		UNION ALL
		SELECT 'the options of the user mapping of ' || quote_ident(m.usename) || ' on server ' || quote_ident(m.srvname) || ', if it has any: only a superuser sees them'
		FROM pg_user_mappings m WHERE m.umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
		ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	kept, err := readKept(ctx, conn)
	return append(hidden, kept...), err
}

// readKept names the tables and sequences with contents that belong to an extension which does not say
// that they are to be dumped. Whether its script made the contents, nobody can tell.
func readKept(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	const doing = "look for rows that belong to extensions"
	rows, err := conn.Query(ctx, `
		SELECT n.nspname, c.relname, e.extname, c.relkind = 'S' AND pg_sequence_last_value(c.oid) IS NOT NULL, c.relkind = 'r'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		JOIN pg_extension e ON e.oid = d.refobjid
		WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND NOT coalesce(c.oid = ANY (e.extconfig), false)
		ORDER BY 1, 2`)
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	type member struct {
		Schema, Name, Extension string
		Moved, Table            bool
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[member])
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	var kept []string
	for _, m := range members {
		name := postgres.Quote(m.Schema, m.Name)
		holds := m.Moved
		if m.Table {
			if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ONLY "+name+")").Scan(&holds); err != nil {
				return nil, postgres.Classify(err, "see whether table "+name+" of an extension has rows")
			}
		}
		if holds {
			kept = append(kept, fmt.Sprintf("what is in %s: it belongs to the extension %s, which does not mark it to be dumped (pg_extension_config_dump)", name, m.Extension))
		}
	}
	return kept, nil
}

// readTexts reads a query's one column. No rows are an empty list, not none: so it is in the manifest.
func readTexts(ctx context.Context, conn *pgx.Conn, doing, query string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return append([]string{}, texts...), postgres.Classify(err, doing)
}
