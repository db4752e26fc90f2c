package postgres

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
)

// Relation is a relation that holds rows of its own, as the catalog has it.
type Relation struct {
	format.Table
	Oid         uint32
	Partitioned bool   // a partitioned table: it is locked, but its rows are in its leaves
	Filenode    uint32 // in the snapshot of the query
	Readable    bool   // the session's role may read it
	Filtered    bool   // row-level security would hide rows from the session's role
	EstRows     int64
	Unlogged    bool
}

// userSchema is true for the schemas whose objects a dump holds; n is pg_namespace.
const userSchema = `n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'`

// ReadServer reads what server the session is on.
func ReadServer(ctx context.Context, conn *pgx.Conn) (format.Server, error) {
	var s format.Server
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_setting('block_size')::int`).
		Scan(&s.Version, &s.VersionNum, &s.BlockSize)
	if err != nil {
		return s, Classify(err, "read the server's version")
	}
	// Only some roles may see it; it is for people, so without is fine.
	var id string
	if err := conn.QueryRow(ctx, `SELECT CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE') THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '' END`).Scan(&id); err != nil {
		return s, Classify(err, "read the server's identity")
	}
	s.SystemIdentifier = id
	return s, nil
}

// ReadDatabase reads what belongs to the session's database itself.
func ReadDatabase(ctx context.Context, conn *pgx.Conn, versionNum int) (format.Database, error) {
	provider, locale, rules := "'c'", "''", "''"
	switch {
	case versionNum >= 170000:
		provider, locale, rules = "d.datlocprovider::text", "coalesce(d.datlocale, '')", "coalesce(d.daticurules, '')"
	case versionNum >= 160000:
		provider, locale, rules = "d.datlocprovider::text", "coalesce(d.daticulocale, '')", "coalesce(d.daticurules, '')"
	case versionNum >= 150000:
		provider, locale = "d.datlocprovider::text", "coalesce(d.daticulocale, '')"
	}
	var d format.Database
	err := conn.QueryRow(ctx, `
		SELECT d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate::text, d.datctype::text,
		       `+provider+`, `+locale+`, `+rules+`, coalesce(shobj_description(d.oid, 'pg_database'), ''), d.datconnlimit,
		       d.datacl IS NULL, pg_database_size(d.oid)
		FROM pg_database d WHERE d.datname = current_database()`).
		Scan(&d.Name, &d.Owner, &d.Encoding, &d.Collate, &d.Ctype, &d.LocaleProvider, &d.Locale, &d.IcuRules,
			&d.Comment, &d.ConnectionLimit, &d.DefaultACL, &d.SizeBytes)
	if err != nil {
		return d, Classify(err, "read the database's properties")
	}
	d.ACL, err = collect(ctx, conn, "read the database's grants", `
		SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END, pg_get_userbyid(a.grantor), a.privilege_type, a.is_grantable
		FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database() ORDER BY 1, 2, 3, 4`,
		func(rows pgx.Rows) (g format.Grant, err error) {
			return g, rows.Scan(&g.Grantee, &g.Grantor, &g.Privilege, &g.Grantable)
		})
	if err != nil {
		return d, err
	}
	d.Settings, err = collect(ctx, conn, "read the database's settings", `
		SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole) END, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
		FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
		WHERE d.datname = current_database() ORDER BY 1, 2`,
		func(rows pgx.Rows) (s format.RoleSetting, err error) {
			return s, rows.Scan(&s.Role, &s.Name, &s.Value)
		})
	return d, err
}

// ReadRelations reads every relation that holds rows of its own, and the partitioned tables above
// them, sorted by schema and name.
func ReadRelations(ctx context.Context, conn *pgx.Conn) ([]Relation, error) {
	relations, err := collect(ctx, conn, "list the tables", `
		WITH RECURSIVE ext AS (
			SELECT d.objid AS oid, e.extconfig, e.extcondition
			FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
			WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		), unsafe AS ( -- partitioned by a hash that a new database computes otherwise
			SELECT p.partrelid AS oid FROM pg_partitioned_table p
			WHERE p.partstrat = 'h' AND EXISTS (
				SELECT FROM unnest(p.partclass::oid[], p.partcollation::oid[]) AS k(class, coll)
				JOIN pg_opclass o ON o.oid = k.class LEFT JOIN pg_collation l ON l.oid = k.coll
				WHERE o.oid >= 16384 OR NOT coalesce(l.collisdeterministic, true)
				   OR o.opcintype IN ('anyenum'::regtype, 'anyarray'::regtype, 'record'::regtype, 'anyrange'::regtype))
		), up AS (
			SELECT c.oid AS leaf, i.inhparent AS ancestor, 1 AS level FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relispartition
			UNION ALL
			SELECT up.leaf, i.inhparent, up.level + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.ancestor
			JOIN pg_class c ON c.oid = up.ancestor WHERE c.relispartition
		), via AS (
			SELECT leaf, (array_agg(ancestor ORDER BY level DESC))[1] AS root FROM up
			GROUP BY leaf HAVING bool_or(ancestor IN (SELECT oid FROM unsafe))
		)
		SELECT c.oid, n.nspname, c.relname, pg_get_userbyid(c.relowner), c.relkind = 'p', c.relispartition,
		       ext.oid IS NOT NULL, coalesce(ext.extcondition[array_position(ext.extconfig, c.oid)], ''),
		       c.relfilenode, coalesce(has_table_privilege(c.oid, 'SELECT'), true), -- NULL: it was dropped since, as the lock will tell
		       c.relrowsecurity AND row_security_active(c.oid),
		       greatest(c.reltuples, 0)::bigint, c.relpersistence = 'u',
		       coalesce(rn.nspname, ''), coalesce(r.relname, ''),
		       ARRAY(SELECT a.attname::text FROM pg_attribute a
		             WHERE a.attrelid = coalesce(via.root, c.oid) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		             ORDER BY a.attnum)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN ext ON ext.oid = c.oid LEFT JOIN via ON via.leaf = c.oid
		LEFT JOIN pg_class r ON r.oid = via.root LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
		  AND (ext.oid IS NULL AND `+userSchema+` OR c.oid = ANY (ext.extconfig))
		ORDER BY n.nspname, c.relname`,
		func(rows pgx.Rows) (r Relation, err error) {
			var partition, extension bool
			var root format.Name
			err = rows.Scan(&r.Oid, &r.Schema, &r.Name, &r.Owner, &r.Partitioned, &partition, &extension, &r.Where,
				&r.Filenode, &r.Readable, &r.Filtered, &r.EstRows, &r.Unlogged, &root.Schema, &root.Name, &r.Columns)
			r.Kind = "table"
			switch {
			case extension:
				r.Kind = "extension"
			case partition:
				r.Kind = "partition"
			}
			if root.Name != "" {
				r.Root = &root
			}
			return r, err
		})
	if err != nil {
		return nil, err
	}
	for _, r := range relations {
		if err := CheckNames(append([]string{r.Schema, r.Name, r.Owner}, r.Columns...)...); err != nil {
			return nil, err
		}
	}
	return relations, nil
}

// SequenceNames lists the sequences whose positions a backup holds, sorted.
func SequenceNames(ctx context.Context, conn *pgx.Conn) ([]format.Name, error) {
	return collect(ctx, conn, "list the sequences", `
		SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		LEFT JOIN pg_extension e ON e.oid = d.refobjid
		WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND (e.oid IS NULL AND `+userSchema+` OR c.oid = ANY (e.extconfig))
		ORDER BY 1, 2`,
		func(rows pgx.Rows) (n format.Name, err error) { return n, rows.Scan(&n.Schema, &n.Name) })
}

// sequencesAtOnce bounds the length of one statement that reads sequences.
const sequencesAtOnce = 200

// ReadSequences reads the positions of the named sequences. A position is not part of a snapshot:
// what is read is at or past what the snapshot's rows have used.
func ReadSequences(ctx context.Context, conn *pgx.Conn, names []format.Name) ([]format.Sequence, error) {
	out := make([]format.Sequence, 0, len(names))
	for start := 0; start < len(names); start += sequencesAtOnce {
		batch := names[start:min(start+sequencesAtOnce, len(names))]
		parts := make([]string, len(batch))
		for i, n := range batch {
			parts[i] = fmt.Sprintf("SELECT %d AS i, last_value, is_called FROM %s", i, Quote(n.Schema, n.Name))
		}
		read, err := collect(ctx, conn, "read the sequences", strings.Join(parts, " UNION ALL ")+" ORDER BY i",
			func(rows pgx.Rows) (s format.Sequence, err error) {
				var i int
				err = rows.Scan(&i, &s.Last, &s.Called)
				s.Schema, s.Name = batch[i].Schema, batch[i].Name
				return s, err
			})
		if err != nil {
			return nil, err
		}
		out = append(out, read...)
	}
	return out, nil
}

// ReadRoles reads the roles that anything in the session's database refers to, and what they are
// members of, sorted by name. Passwords are not read.
func ReadRoles(ctx context.Context, conn *pgx.Conn) ([]format.Role, error) {
	return collect(ctx, conn, "list the roles", `
		WITH RECURSIVE used AS (
			SELECT d.refobjid AS oid FROM pg_shdepend d
			WHERE d.refclassid = 'pg_authid'::regclass AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
			UNION SELECT datdba FROM pg_database WHERE datname = current_database()
			UNION SELECT unnest(ARRAY[a.grantee, a.grantor]) FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database()
			UNION SELECT s.setrole FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
			UNION SELECT c.relowner FROM pg_class c WHERE c.oid >= 16384
			UNION SELECT n.nspowner FROM pg_namespace n WHERE n.oid >= 16384
			UNION SELECT m.roleid FROM pg_auth_members m JOIN used ON used.oid = m.member
		)
		SELECT r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit,
		       ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1)
		FROM pg_roles r WHERE r.oid IN (SELECT oid FROM used) AND r.rolname NOT LIKE 'pg\_%' ORDER BY r.rolname`,
		func(rows pgx.Rows) (r format.Role, err error) {
			return r, rows.Scan(&r.Name, &r.Superuser, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS, &r.ConnLimit, &r.MemberOf)
		})
}

// CheckNames refuses names that a manifest cannot hold: an SQL_ASCII database may have names in no
// encoding at all.
func CheckNames(names ...string) error {
	for _, n := range names {
		if !utf8.ValidString(n) {
			return failure.New(failure.UnsupportedName, "the name %q is not valid in UTF-8", n).
				Do("rename the object; a database in SQL_ASCII keeps names in no known encoding")
		}
	}
	return nil
}

func collect[T any](ctx context.Context, conn *pgx.Conn, doing, query string, scan func(pgx.Rows) (T, error)) ([]T, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, Classify(err, doing)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (T, error) { return scan(rows) })
	if err != nil {
		return nil, Classify(err, doing)
	}
	return out, nil
}
