// Package census counts what a database holds with the server's own means: other queries and other
// code than those that read a backup, so that a fault of the reader shows. It is taken in the
// snapshot of a backup and again of every restored copy.
package census

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// Tables lists the relations with rows of their own straight from the catalog, by schema and name.
func Tables(ctx context.Context, conn *pgx.Conn) ([]format.Name, error) {
	rows, err := conn.Query(ctx, `
		SELECT relnamespace::regnamespace::oid, n.nspname, c.relname
		FROM pg_class c, pg_namespace n
		WHERE n.oid = c.relnamespace AND c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
		  AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema'
		  AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
		       OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig)))
		ORDER BY n.nspname, c.relname`)
	if err != nil {
		return nil, postgres.Classify(err, "list the tables for the census")
	}
	names, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (format.Name, error) {
		var oid uint32
		var n format.Name
		return n, row.Scan(&oid, &n.Schema, &n.Name)
	})
	return names, postgres.Classify(err, "list the tables for the census")
}

// Count counts one table's own rows, the NULLs in each of the given columns, and the heap's pages.
// Where is an extension's condition, with its keyword, or empty.
func Count(ctx context.Context, conn *pgx.Conn, table format.Name, columns []string, where string) (format.Count, error) {
	c := format.Count{Schema: table.Schema, Name: table.Name}
	doing := fmt.Sprintf("count the rows of table %s", postgres.Quote(table.Schema, table.Name))
	var nullable []bool
	err := conn.QueryRow(ctx, `
		SELECT array_agg(NOT a.attnotnull ORDER BY p.i) FROM unnest($1::text[]) WITH ORDINALITY AS p(name, i)
		JOIN pg_attribute a ON a.attname = p.name::name AND a.attrelid = $2::text::regclass AND NOT a.attisdropped`,
		columns, postgres.Quote(table.Schema, table.Name)).Scan(&nullable)
	if err != nil {
		return c, postgres.Classify(err, doing)
	}
	if len(columns) > 0 && len(nullable) != len(columns) {
		return c, fmt.Errorf("%s: the catalog knows %d of the %d columns", doing, len(nullable), len(columns))
	}
	counts := []string{"count(*)"}
	for i, name := range columns {
		if nullable[i] {
			counts = append(counts, "count(*) - count("+postgres.Quote(name)+")")
		} else {
			counts = append(counts, "0::bigint") // the catalog vouches for it
		}
	}
	var all []int64
	quoted := postgres.Quote(table.Schema, table.Name)
	err = conn.QueryRow(ctx, "SELECT ARRAY["+strings.Join(counts, ", ")+"] FROM ONLY "+quoted+" "+where).Scan(&all)
	if err != nil {
		return c, postgres.Classify(err, doing)
	}
	c.Rows, c.Nulls = all[0], all[1:]
	err = conn.QueryRow(ctx, "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint", quoted).Scan(&c.Pages)
	return c, postgres.Classify(err, doing)
}

// Take counts everything that a backup must hold. Columns and conditions are those that the
// backup's reader uses; the set of tables, the rows, the sequences and the large objects are the
// census's own.
func Take(ctx context.Context, conn *pgx.Conn, read []format.Table) (format.Census, error) {
	var out format.Census
	names, err := Tables(ctx, conn)
	if err != nil {
		return out, err
	}
	known := make(map[format.Name]format.Table, len(read))
	for _, t := range read {
		known[format.Name{Schema: t.Schema, Name: t.Name}] = t
	}
	for i, n := range names {
		progress.Report(ctx, progress.Progress{Phase: "counting", Done: int64(i), Total: int64(len(names)), Unit: "tables", Note: n.Schema + "." + n.Name})
		t := known[n]
		c, err := Count(ctx, conn, n, t.Columns, t.Where)
		if err != nil {
			return out, err
		}
		if c.Generated, err = Generated(ctx, conn, n); err != nil {
			return out, err
		}
		out.Tables = append(out.Tables, c)
	}
	err = conn.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		        WHERE c.relkind = 'S' AND c.relpersistence IN ('p', 'u') AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema'
		          AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
		               OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig)))),
		       (SELECT count(*) FROM pg_largeobject_metadata)`).Scan(&out.Sequences, &out.LargeObjects)
	if err != nil {
		return out, postgres.Classify(err, "count the sequences and large objects")
	}
	out.Objects, err = Objects(ctx, conn)
	return out, err
}
