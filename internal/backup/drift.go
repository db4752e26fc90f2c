package backup

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// definition is one catalog row that shapes what a dump or a row's text looks like and that the locks
// do not protect: an enum's label can be renamed while rows are read, an index or a role while pg_dump
// has definitions spelled out, which the server does with the names of the present, and a column
// between the snapshot and the lock.
type definition struct {
	Catalog string
	Oid     uint32
	Mark    string // differs once the row was changed
	Name    string
}

// readDefinitions reads the definitions as the session's transaction sees them.
func readDefinitions(ctx context.Context, conn *pgx.Conn) ([]definition, error) {
	rows, err := conn.Query(ctx, `
		SELECT * FROM (
			SELECT 'schema' AS catalog, n.oid, n.xmin::text AS mark, n.nspname::text AS name, n.oid AS namespace FROM pg_namespace n
			UNION ALL SELECT 'type', t.oid, t.xmin::text, t.typname::text, t.typnamespace FROM pg_type t
			UNION ALL SELECT 'label of type', e.oid, e.xmin::text, t.typname::text, t.typnamespace FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
			UNION ALL SELECT 'function', p.oid, p.xmin::text, p.proname::text, p.pronamespace FROM pg_proc p
			UNION ALL SELECT 'rule of', r.oid, r.xmin::text, c.relname::text, c.relnamespace FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
			UNION ALL SELECT 'statistics object', s.oid, s.xmin::text, s.stxname::text, s.stxnamespace FROM pg_statistic_ext s
			UNION ALL SELECT 'trigger', g.oid, g.xmin::text, g.tgname::text, c.relnamespace FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal
			UNION ALL SELECT 'collation', l.oid, l.xmin::text, l.collname::text, l.collnamespace FROM pg_collation l
			UNION ALL SELECT 'operator', o.oid, o.xmin::text, o.oprname::text, o.oprnamespace FROM pg_operator o
			UNION ALL SELECT 'operator class', o.oid, o.xmin::text, o.opcname::text, o.opcnamespace FROM pg_opclass o
			UNION ALL SELECT 'text search configuration', f.oid, f.xmin::text, f.cfgname::text, f.cfgnamespace FROM pg_ts_config f
			UNION ALL SELECT 'text search dictionary', d.oid, d.xmin::text, d.dictname::text, d.dictnamespace FROM pg_ts_dict d
			UNION ALL SELECT 'role', r.oid, r.rolname::text, r.rolname::text, NULL FROM pg_roles r
			-- Their rows change with every TRUNCATE or RESTART; it is the name that others spell out.
			UNION ALL SELECT CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'index' END, c.oid, c.relnamespace || '.' || c.relname, c.relname::text, c.relnamespace
			          FROM pg_class c WHERE c.relkind IN ('S', 'i', 'I', 'f') AND c.relnamespace <> 'pg_toast'::regnamespace
			UNION ALL SELECT 'column of', c.oid, (SELECT string_agg(a.xmin::text, ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0), c.relname::text, c.relnamespace
			          FROM pg_class c WHERE c.relkind IN ('r', 'p', 'c', 'v', 'm', 'f')
		) AS d
		WHERE d.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = d.namespace AND n.nspname LIKE 'pg\_temp%')
		  AND coalesce(d.mark, '') <> ''`)
	if err != nil {
		return nil, postgres.Classify(err, "read the definitions")
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d definition, err error) {
		var namespace *uint32
		return d, row.Scan(&d.Catalog, &d.Oid, &d.Mark, &d.Name, &namespace)
	})
	return out, postgres.Classify(err, "read the definitions")
}

// drift gives ConcurrentDDL when a definition that the snapshot had was changed or dropped since. New
// ones do not matter: the snapshot does not show them.
func (k *keeper) drift(ctx context.Context, o Options) error {
	now, err := o.Source.Connect(ctx, postgres.WithApp(o.app()))
	if err != nil {
		return err
	}
	defer func() { _ = now.Close(context.WithoutCancel(ctx)) }()
	current, err := readDefinitions(ctx, now)
	if err != nil {
		return err
	}
	type key struct {
		catalog string
		oid     uint32
	}
	seen := make(map[key]string, len(current))
	for _, d := range current {
		seen[key{d.Catalog, d.Oid}] = d.Mark
	}
	for _, d := range k.marks {
		if d.Catalog == "role" && !slices.ContainsFunc(k.roles, func(r format.Role) bool { return r.Name == d.Name }) {
			continue // nothing in the database refers to it
		}
		if seen[key{d.Catalog, d.Oid}] != d.Mark {
			return failure.New(failure.ConcurrentDDL, "the %s %q was changed or dropped while the backup was read", d.Catalog, d.Name)
		}
	}
	return nil
}
