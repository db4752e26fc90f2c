#!/bin/sh
# Brings a backup of format 1 back into a new, empty database, without Upkeep.
# It needs sh, psql, pg_restore and zstd, and the folder of the target as it is in the store.
#
#   ./restore.sh NEW_DATABASE
#
# The server is chosen as for psql: PGHOST, PGPORT, PGUSER, PGPASSWORD or .pgpass. The role
# should be a superuser, or own the database and be a member of the owning roles.
# CREATE_ROLES=1 creates the roles that are missing, without passwords.
set -eu

new=${1:?usage: restore.sh NEW_DATABASE}
here=$(cd "$(dirname "$0")" && pwd)
chunks=$(cd "$here/../.." && pwd)/chunks
export MANIFEST="$here/manifest.json"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whatever the role's own settings are, rows are read as they were written.
export PGOPTIONS="-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c standard_conforming_strings=on -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off"
export PGCLIENTENCODING=UTF8

# ask DATABASE SQL: one answer from the manifest; in the SQL the manifest is the table "m" with the column "m".
ask() {
	db=$1
	printf '%s\n' '\set m `cat "$MANIFEST"`' \
		"WITH m AS (SELECT (:'m'::json)->'manifest' AS m) $2;" >"$work/ask.sql"
	PGDATABASE=$db psql -XqAt -v ON_ERROR_STOP=1 -f "$work/ask.sql"
}
run() { PGDATABASE=$1 psql -Xq -v ON_ERROR_STOP=1 -f "$2" >/dev/null; }
whole() { # CHUNK: prints the bytes of a chunk, after checking them
	file="$chunks/$(printf %.2s "$1")/$1.zst"
	[ -f "$file" ] || { echo "restore.sh: $file is missing" >&2; exit 1; }
	[ "$(zstd -dcq --memory=128MB "$file" | sha256sum | cut -d' ' -f1)" = "$1" ] || { echo "restore.sh: $file is damaged" >&2; exit 1; }
	zstd -dcq --memory=128MB "$file"
}

echo "roles" >&2
ask postgres "SELECT format('CREATE ROLE %I %s %s %s %s %s %s %s;', r->>'name',
	CASE WHEN (r->>'superuser')::bool THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN (r->>'inherit')::bool THEN 'INHERIT' ELSE 'NOINHERIT' END,
	CASE WHEN (r->>'createRole')::bool THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN (r->>'createDb')::bool THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
	CASE WHEN (r->>'login')::bool THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN (r->>'replication')::bool THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
	CASE WHEN (r->>'bypassRls')::bool THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END)
	FROM m, json_array_elements(m.m->'roles') r WHERE NOT EXISTS (SELECT FROM pg_roles p WHERE p.rolname = r->>'name')
	UNION ALL SELECT format('GRANT %I TO %I;', g, r->>'name') FROM m, json_array_elements(m.m->'roles') r, json_array_elements_text(coalesce(r->'memberOf', '[]')) g
	WHERE NOT EXISTS (SELECT FROM pg_auth_members a JOIN pg_roles p ON p.oid = a.roleid JOIN pg_roles q ON q.oid = a.member WHERE p.rolname = g AND q.rolname = r->>'name')
	  AND NOT EXISTS (SELECT FROM pg_roles p WHERE p.rolname = r->>'name')" >"$work/roles.sql"
if [ -s "$work/roles.sql" ]; then
	if [ "${CREATE_ROLES:-}" = 1 ]; then
		run postgres "$work/roles.sql"
	else
		echo "restore.sh: these roles are missing; create them, or set CREATE_ROLES=1 to let this script do it:" >&2
		cat "$work/roles.sql" >&2
		exit 1
	fi
fi

echo "database" >&2
export NEW="$new"
printf '%s\n' '\set m `cat "$MANIFEST"`' '\set new `printf %s "$NEW"`' \
	"WITH d AS (SELECT (:'m'::json)->'manifest'->'database' AS d, ((:'m'::json)->'manifest'->'server'->>'versionNum')::int AS v)
	SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L', :'new', d->>'owner', d->>'encoding', d->>'collate', d->>'ctype')
	|| CASE d->>'localeProvider' WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', d->>'locale') WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', d->>'locale') ELSE '' END
	FROM d;" >"$work/ask.sql"
PGDATABASE=postgres psql -XqAt -v ON_ERROR_STOP=1 -f "$work/ask.sql" >"$work/create.sql"
run postgres "$work/create.sql"

echo "tables, types, functions" >&2
whole "$(ask "$new" "SELECT m.m->'schema'->'archive'->>'sha256' FROM m")" >"$work/schema.dump"
pg_restore --list --section=pre-data "$work/schema.dump" | grep -vE '^[0-9]+; [0-9]+ [0-9]+ ACL ' >"$work/pre.list"
pg_restore --exit-on-error --use-list="$work/pre.list" --dbname="dbname='$(printf %s "$new" | sed "s/[\\\\']/\\\\&/g")'" "$work/schema.dump"

tables=$(ask "$new" "SELECT json_array_length(m.m->'tables') FROM m")
i=0
while [ "$i" -lt "$tables" ]; do
	ask "$new" "SELECT c->>'sha256' FROM m, json_array_elements(m.m->'tables'->$i->'ranges') r, json_array_elements(r->'chunks') c" >"$work/chunks"
	if [ -s "$work/chunks" ]; then
		# Rows go through the partition root where the manifest says so.
		ask "$new" "SELECT format('COPY %I.%I%s FROM STDIN (ENCODING %L);', coalesce(t->'root'->>'schema', t->>'schema'), coalesce(t->'root'->>'name', t->>'name'),
			CASE WHEN json_array_length(t->'columns') > 0 THEN ' (' || (SELECT string_agg(quote_ident(c), ', ') FROM json_array_elements_text(t->'columns') c) || ')' ELSE '' END,
			m.m->'database'->>'encoding') FROM m, LATERAL (SELECT m.m->'tables'->$i AS t) s" >"$work/copy"
		echo "rows of table $((i + 1)) of $tables" >&2
		while read -r c; do
			{ cat "$work/copy"; whole "$c"; printf '\\.\n'; } >"$work/load.sql"
			run "$new" "$work/load.sql"
		done <"$work/chunks"
	fi
	i=$((i + 1))
done

ask "$new" "SELECT c->>'sha256' FROM m, json_array_elements(m.m->'largeObjects'->'chunks') c" >"$work/chunks"
if [ -s "$work/chunks" ]; then
	echo "large objects" >&2
	while read -r c; do
		{
			echo 'BEGIN; CREATE TEMP TABLE upkeep_lo (loid oid, at bigint, data bytea) ON COMMIT DROP; COPY pg_temp.upkeep_lo FROM STDIN;'
			whole "$c"
			printf '\\.\nSELECT lo_put(loid, at, data) FROM pg_temp.upkeep_lo; COMMIT;\n'
		} >"$work/load.sql"
		run "$new" "$work/load.sql"
	done <"$work/chunks"
fi

echo "sequences" >&2
ask "$new" "SELECT format('SELECT setval(%L, %s, %s);', format('%I.%I', s->>'schema', s->>'name'), s->>'last', s->>'called') FROM m, json_array_elements(m.m->'sequences') s" >"$work/sequences.sql"
run "$new" "$work/sequences.sql"

echo "indexes, constraints, triggers, grants" >&2
# The grants of the tables come after their rows: an owner may have taken rights from itself.
pg_restore --list "$work/schema.dump" | grep -vE '^;' >"$work/all.list"
grep -vxFf "$work/pre.list" "$work/all.list" >"$work/post.list" || true
if [ -s "$work/post.list" ]; then
	pg_restore --exit-on-error --use-list="$work/post.list" --dbname="dbname='$(printf %s "$new" | sed "s/[\\\\']/\\\\&/g")'" "$work/schema.dump"
fi

echo "the database's own settings, grants and comment" >&2
printf '%s\n' '\set m `cat "$MANIFEST"`' '\set new `printf %s "$NEW"`' \
	"WITH d AS (SELECT (:'m'::json)->'manifest'->'database' AS d)
	SELECT format('ALTER %s SET %I = %s;', CASE WHEN coalesce(s->>'role', '') = '' THEN format('DATABASE %I', :'new') ELSE format('ROLE %I IN DATABASE %I', s->>'role', :'new') END, s->>'name',
		CASE WHEN s->>'name' IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries', 'unix_socket_directories') AND s->>'value' <> '' THEN s->>'value' ELSE quote_literal(s->>'value') END)
	FROM d, json_array_elements(d->'settings') s
	UNION ALL SELECT format('COMMENT ON DATABASE %I IS %L;', :'new', d->>'comment') FROM d WHERE coalesce(d->>'comment', '') <> ''
	UNION ALL SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s;', :'new', d->>'connectionLimit') FROM d
	UNION ALL SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC;', :'new') FROM d WHERE NOT (d->>'defaultAcl')::bool
	UNION ALL SELECT format('GRANT %s ON DATABASE %I TO %s%s;', a->>'privilege', :'new', CASE WHEN a->>'grantee' = '' THEN 'PUBLIC' ELSE quote_ident(a->>'grantee') END,
		CASE WHEN (a->>'grantable')::bool THEN ' WITH GRANT OPTION' ELSE '' END)
	FROM d, json_array_elements(coalesce(nullif(d->>'acl', ''), '[]')::json) a;" >"$work/ask.sql"
PGDATABASE=$new psql -XqAt -v ON_ERROR_STOP=1 -f "$work/ask.sql" >"$work/finish.sql"
run "$new" "$work/finish.sql"
echo "done: database $new" >&2
