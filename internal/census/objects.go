package census

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/postgres"
)

// notExtension leaves out what CREATE EXTENSION makes: its version at the copy may be another.
const notExtension = ` AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.oid AND d.classid = o.tableoid AND d.deptype IN ('e', 'x'))`

// kinds are the queries that count one kind of object each. Every one selects from the catalog as o.
var kinds = []struct{ name, query string }{
	{"valid indexes", `SELECT count(*) FROM pg_class o JOIN pg_index i ON i.indexrelid = o.oid` + in("o.relnamespace") + ` WHERE o.relkind = 'i' AND i.indisvalid AND i.indisready AND i.indislive` + notExtension},
	{"partitioned indexes", `SELECT count(*) FROM pg_class o` + in("o.relnamespace") + ` WHERE o.relkind = 'I'` + notExtension},
	{"validated constraints", `SELECT count(*) FROM pg_constraint o` + in("o.connamespace") + ` WHERE o.convalidated AND o.contype IN ('p', 'u', 'x', 'f', 'c')` + notExtension},
	{"constraints not validated", `SELECT count(*) FROM pg_constraint o` + in("o.connamespace") + ` WHERE NOT o.convalidated AND o.contype IN ('p', 'u', 'x', 'f', 'c')` + notExtension},
	{"enabled triggers", `SELECT count(*) FROM pg_trigger o JOIN pg_class c ON c.oid = o.tgrelid` + in("c.relnamespace") + ` WHERE NOT o.tgisinternal AND o.tgenabled <> 'D'` + notExtension},
	{"disabled triggers", `SELECT count(*) FROM pg_trigger o JOIN pg_class c ON c.oid = o.tgrelid` + in("c.relnamespace") + ` WHERE NOT o.tgisinternal AND o.tgenabled = 'D'` + notExtension},
	{"rules", `SELECT count(*) FROM pg_rewrite o JOIN pg_class c ON c.oid = o.ev_class` + in("c.relnamespace") + ` WHERE true` + notExtension},
	{"policies", `SELECT count(*) FROM pg_policy o JOIN pg_class c ON c.oid = o.polrelid` + in("c.relnamespace") + ` WHERE true` + notExtension},
	{"tables with row security", `SELECT count(*) FROM pg_class o` + in("o.relnamespace") + ` WHERE o.relrowsecurity` + notExtension},
	{"views", `SELECT count(*) FROM pg_class o` + in("o.relnamespace") + ` WHERE o.relkind = 'v'` + notExtension},
	{"populated materialized views", `SELECT count(*) FROM pg_class o` + in("o.relnamespace") + ` WHERE o.relkind = 'm' AND o.relispopulated` + notExtension},
	{"foreign tables", `SELECT count(*) FROM pg_class o` + in("o.relnamespace") + ` WHERE o.relkind = 'f'` + notExtension},
	{"functions", `SELECT count(*) FROM pg_proc o` + in("o.pronamespace") + ` WHERE true` + notExtension},
	{"types", `SELECT count(*) FROM pg_type o` + in("o.typnamespace") + ` WHERE o.typtype IN ('d', 'e', 'r', 'm', 'b') AND o.typelem = 0` + notExtension},
	{"enum labels", `SELECT count(*) FROM pg_enum e JOIN pg_type o ON o.oid = e.enumtypid` + in("o.typnamespace") + ` WHERE true` + notExtension},
	{"column defaults", `SELECT count(*) FROM pg_attrdef o JOIN pg_class c ON c.oid = o.adrelid` + in("c.relnamespace") + ` WHERE true` + notExtension},
	{"statistics objects", `SELECT count(*) FROM pg_statistic_ext o` + in("o.stxnamespace") + ` WHERE true` + notExtension},
	{"operators", `SELECT count(*) FROM pg_operator o` + in("o.oprnamespace") + ` WHERE o.oprcode <> 0` + notExtension},
	{"collations", `SELECT count(*) FROM pg_collation o` + in("o.collnamespace") + ` WHERE true` + notExtension},
	{"extensions", `SELECT count(*) FROM pg_extension o WHERE o.extname <> 'amcheck'`},
	{"event triggers", `SELECT count(*) FROM pg_event_trigger o WHERE true` + notExtension},
	{"publications", `SELECT count(*) FROM pg_publication o`},
	{"schemas", `SELECT count(*) FROM pg_namespace o WHERE left(o.nspname, 3) <> 'pg_' AND o.nspname NOT IN ('information_schema', 'upkeep_restore')` + notExtension},
	{"grants on relations", `SELECT count(*) FROM (SELECT DISTINCT o.oid, a.grantee, a.privilege_type, a.is_grantable FROM pg_class o` + in("o.relnamespace") +
		`, aclexplode(coalesce(o.relacl, acldefault(CASE o.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, o.relowner))) a WHERE o.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')` + notExtension + `) g`},
	{"grants on columns", `SELECT count(*) FROM (SELECT DISTINCT t.attrelid, t.attnum, a.grantee, a.privilege_type FROM pg_attribute t JOIN pg_class o ON o.oid = t.attrelid` + in("o.relnamespace") +
		`, aclexplode(t.attacl) a WHERE t.attacl IS NOT NULL AND NOT t.attisdropped` + notExtension + `) g`},
	{"grants on functions", `SELECT count(*) FROM (SELECT DISTINCT o.oid, a.grantee, a.privilege_type FROM pg_proc o` + in("o.pronamespace") + `, aclexplode(coalesce(o.proacl, acldefault('f', o.proowner))) a WHERE true` + notExtension + `) g`},
	{"grants on schemas", `SELECT count(*) FROM (SELECT DISTINCT o.oid, a.grantee, a.privilege_type FROM pg_namespace o, aclexplode(coalesce(o.nspacl, acldefault('n', o.nspowner))) a
		WHERE left(o.nspname, 3) <> 'pg_' AND o.nspname NOT IN ('information_schema', 'upkeep_restore')` + notExtension + `) g`},
	{"default privileges", `SELECT count(*) FROM pg_default_acl o, aclexplode(o.defaclacl) a`},
	{"comments", `SELECT count(*) FROM pg_description s WHERE s.objoid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = s.objoid AND d.classid = s.classoid AND d.deptype IN ('e', 'x'))
		AND s.classoid <> 'pg_extension'::regclass AND s.classoid <> 'pg_largeobject'::regclass
		AND NOT (s.classoid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_index i JOIN pg_class o ON o.oid = i.indexrelid WHERE o.oid = s.objoid AND o.relkind = 'i' AND NOT i.indisvalid))`},
}

// in limits a count to people's schemas.
func in(namespace string) string {
	return ` JOIN pg_namespace n ON n.oid = ` + namespace + ` AND left(n.nspname, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'upkeep_restore')`
}

// Objects counts what the catalog holds besides rows, by kind.
func Objects(ctx context.Context, conn *pgx.Conn) (map[string]int64, error) {
	counts := make(map[string]int64, len(kinds))
	for _, k := range kinds {
		var n int64
		if err := conn.QueryRow(ctx, k.query).Scan(&n); err != nil {
			return nil, postgres.Classify(err, "count the "+k.name)
		}
		counts[k.name] = n
	}
	return counts, nil
}
