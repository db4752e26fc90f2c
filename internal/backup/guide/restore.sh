#!/bin/sh
# Brings a backup of format 1, or an encrypted one of format 2, back into a new database, without Upkeep.
#
#   sh restore.sh NEW_DATABASE
#
# It needs psql, pg_restore and zstd, for an encrypted backup age and AGE_IDENTITY=FILE, the small programs
# that every system has, and the folder of the target as it is in the store (of it: this backup's folder,
# chunks/ and keys/). The server is chosen as for
# psql: PGHOST, PGPORT, PGUSER, PGPASSWORD or .pgpass. The role should be a superuser; another one
# needs CREATEDB and membership in the roles that own things. CREATE_ROLES=1 creates the roles that
# are missing, without passwords.
#
# The database is built as upkeep_restoring_... and gets its name when all is in it. What fails, or is
# broken off, is dropped. A database that exists is never touched.
set -eu
export LC_ALL=C
umask 077
unset CDPATH PGOPTIONS PGDATABASE

fail() {
	printf 'restore.sh: %s\n' "$*" >&2
	exit 1
}
say() { printf '%s\n' "$*" >&2; }

new=${1:?usage: restore.sh NEW_DATABASE}
here=$(cd -- "$(dirname -- "$0")" && pwd)
chunks=$(cd -- "$here/../.." && pwd)/chunks
manifest=$here/manifest.json
for program in psql pg_restore zstd sha256sum base64 mktemp; do
	command -v "$program" >/dev/null || fail "the program $program is not there; install it"
done
[ -f "$manifest" ] || fail "$manifest is missing: without it this is no backup"
# The checksum is of the bytes behind the first 117 and before the last 2.
check() { # check FORMAT: sets size, and ends the script unless the manifest is one of that format and whole
	size=$(wc -c <"$manifest")
	sum=$(head -c 200 "$manifest" | sed -n '1s/^{"upkeep":"backup","format":'"$1"',"sha256":"\([0-9a-f]\{64\}\)","manifest":{.*/\1/p')
	[ -n "$sum" ] || fail "$manifest is damaged: it is no manifest of format 1 or 2"
	[ "$(inside | sha256sum | cut -d' ' -f1)" = "$sum" ] || fail "$manifest is damaged: its checksum is wrong"
}
open() { printf '%s\n' "$key" | age -d -i - -o "$2" "$1"; }
inside() { tail -c +118 "$manifest" | head -c "$((size - 119))"; }
key= # the repository key, unwrapped, of an encrypted backup; it is in no file
case $(head -c 40 "$manifest") in
'{"upkeep":"backup","format":2,'*)
	check 2
	command -v age >/dev/null && command -v age-keygen >/dev/null || fail "the backup is encrypted and the program age is not there; install it"
	[ -n "${AGE_IDENTITY:-}" ] || fail "the backup is encrypted; name the file with your identity of age: AGE_IDENTITY=FILE sh restore.sh ..."
	[ -f "$AGE_IDENTITY" ] || fail "there is no file $AGE_IDENTITY"
	key=yes
	;;
*)
	check 1
	[ -z "${AGE_IDENTITY:-}" ] || fail "this backup is in clear: whoever can write to the store can have made it; if you trust it, unset AGE_IDENTITY"
	;;
esac

work=$(mktemp -d)
tag=$(printf %s "${work##*.}" | tr A-Z a-z | tr -cd a-z0-9)
build=upkeep_restoring_$tag # the new database until it is whole
desk=upkeep_manifest_$tag   # holds the manifest, in UTF-8 whatever the server's own encoding is
made=                       # which of the two may be there: said before they are made, for a signal may come in between
clean() {
	for database in $made; do
		sql postgres -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" || say "restore.sh: the database $database is left over; drop it"
	done
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "$key" ]; then
	fingerprint=$(head -c 4096 "$manifest" | tr ',' '\n' | sed -n 's/^"key":"\([0-9a-f]\{32\}\)"$/\1/p' | head -n 1)
	[ -n "$fingerprint" ] || fail "$manifest names no repository key"
	wrapped=${chunks%/chunks}/keys/$fingerprint.age
	[ -f "$wrapped" ] || fail "$wrapped is missing: without it nobody can read the backup"
	key=$(age -d -i "$AGE_IDENTITY" "$wrapped") || fail "$AGE_IDENTITY does not open $wrapped"
	recipient=$(printf '%s\n' "$key" | age-keygen -y) || fail "$wrapped holds no key"
	[ "$(printf 'upkeep repository key 1\n%s' "$recipient" | sha256sum | head -c 32)" = "$fingerprint" ] || fail "$wrapped holds another key: somebody has changed it"
	# Sealed in it is a manifest like that of format 1.
	inside | tr ',' '\n' | sed -n 's/^"sealed":"\([A-Za-z0-9+/=]*\)"}$/\1/p' | base64 -d >"$work/sealed"
	open "$work/sealed" "$work/packed" || fail "what is sealed in $manifest cannot be opened"
	zstd -dcq --memory=128MB "$work/packed" >"$work/manifest.json" || fail "what is sealed in $manifest cannot be unpacked"
	manifest=$work/manifest.json
	check 2
	case $(head -c 400 "$manifest") in
	*'"backup":"'"${here##*/}"'"'*) ;;
	*) fail "what is sealed in the manifest is another backup's" ;;
	esac
fi

# Whatever the role's own settings are, rows are read as they were written.
session="client_encoding=UTF8 options='-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c lc_monetary=C -c xmloption=content -c array_nulls=on"
session="$session -c search_path= -c standard_conforming_strings=on -c client_min_messages=warning -c check_function_bodies=off -c default_tablespace="
session="$session -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off'"

# sql DATABASE ...: one session of psql. What comes from the manifest reaches it as text that the server
# itself has quoted, or as data; never as a word of this shell.
sql() {
	database=$1
	shift
	psql -XqAt -v ON_ERROR_STOP=1 -d "dbname=$database $session" "$@"
}

# unpack SHA256 SIZE NAME FILE: writes a chunk's plain bytes, and ends the script unless they are the right
# ones. NAME is the chunk's file.
unpack() {
	case ${3%.???} in *[!0-9a-f]* | '') fail "$manifest names the chunk '$3', which cannot be one" ;; esac
	[ ${#3} -eq 68 ] || fail "$manifest names the chunk '$3', which cannot be one"
	chunk=$chunks/$(printf %.2s "$3")/$3
	[ -f "$chunk" ] || fail "$chunk is missing"
	packed=$chunk
	if [ -n "$key" ]; then
		packed=$work/packed
		rm -f "$packed"
		open "$chunk" "$packed" || fail "$chunk cannot be decrypted into $work"
	fi
	zstd -dcq --memory=128MB "$packed" | head -c "$(($2 + 1))" >"$4" || fail "$chunk cannot be unpacked into $work"
	[ "$(sha256sum <"$4" | cut -d' ' -f1)" = "$1" ] || fail "$chunk is damaged"
}

sql postgres -v new="$new" -f - >"$work/there" <<'SQL'
SELECT octet_length(:'new') > 63, EXISTS (SELECT FROM pg_database WHERE datname = :'new');
SQL
case $(cat "$work/there") in
t*) fail "a name of a database can have 63 bytes, and '$new' has more" ;;
*t) fail "a database named '$new' is there already; choose another name" ;;
esac

# Everything that has to be said to the server is written first, by the server itself, which knows how
# to quote. The manifest is one line of plain ASCII, so this "CSV" takes it as it is.
cat >"$work/say.sql" <<'SQL'
CREATE FUNCTION pg_temp.items(list jsonb) RETURNS TABLE (item jsonb, n bigint) LANGUAGE sql
	AS $$ SELECT * FROM jsonb_array_elements(CASE jsonb_typeof(list) WHEN 'array' THEN list ELSE '[]' END) WITH ORDINALITY $$;
-- A chunk's checksum and its file: one word each, so that neither can begin a line of its own below.
CREATE FUNCTION pg_temp.sum(chunk jsonb) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(chunk->>'sha256', '[^0-9a-f]', '?', 'g') $$;
CREATE FUNCTION pg_temp.file(chunk jsonb) RETURNS text LANGUAGE sql
	AS $$ SELECT coalesce(regexp_replace(chunk->>'name', '[^0-9a-f.ge]', '?', 'g'), pg_temp.sum(chunk) || '.zst') $$;

\o roles.sql
WITH missing AS (SELECT item AS r, n FROM pg_temp.manifest, pg_temp.items(m->'roles') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = item->>'name'))
SELECT s FROM (
	SELECT 1 AS step, n, 0 AS k, format('CREATE ROLE %I %s %s %s %s %s %s %s CONNECTION LIMIT %s;', r->>'name',
		CASE WHEN (r->>'superuser')::bool THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN (r->>'inherit')::bool THEN 'INHERIT' ELSE 'NOINHERIT' END,
		CASE WHEN (r->>'createRole')::bool THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN (r->>'createDb')::bool THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
		CASE WHEN (r->>'login')::bool THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN (r->>'replication')::bool THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
		CASE WHEN (r->>'bypassRls')::bool THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, (r->>'connLimit')::int) AS s FROM missing
	UNION ALL SELECT 2, missing.n, g.n, format('GRANT %I TO %I;', g.item #>> '{}', r->>'name') FROM missing, pg_temp.items(r->'memberOf') g
) q ORDER BY step, n, k;

\o create.sql
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', :'build', d->>'encoding', d->>'collate', d->>'ctype')
	|| CASE WHEN current_setting('server_version_num')::int < 150000 THEN ''
		WHEN d->>'localeProvider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', d->>'locale') || CASE WHEN d->>'icuRules' <> '' THEN format(' ICU_RULES %L', d->>'icuRules') ELSE '' END
		WHEN d->>'localeProvider' = 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', d->>'locale')
		ELSE ' LOCALE_PROVIDER libc' END || ';'
FROM (SELECT m->'database' AS d FROM pg_temp.manifest) q;

\o archive
SELECT concat_ws(' ', pg_temp.sum(m->'schema'->'archive'), (m->'schema'->'archive'->>'size')::bigint, pg_temp.file(m->'schema'->'archive')) FROM pg_temp.manifest;

\o counts
SELECT concat_ws(' ', (m->'census'->'objects'->>'schemas')::bigint, (m->'census'->'objects'->>'extensions')::bigint) FROM pg_temp.manifest
WHERE m->'census'->'objects' ?& '{schemas,extensions}';

\o rows
-- A line for each table, with its COPY in base64 because names can hold anything, and under it its chunks.
WITH t AS (SELECT item AS t, n FROM pg_temp.manifest, pg_temp.items(m->'tables'))
SELECT line FROM (
	SELECT n, 0 AS r, 0 AS c, concat_ws(' ', 'table', n, (SELECT count(*) FROM t), translate(encode(convert_to(
		format('COPY %I.%I', coalesce(t->'root'->>'schema', t->>'schema'), coalesce(t->'root'->>'name', t->>'name'))
		|| coalesce((SELECT ' (' || string_agg(quote_ident(item #>> '{}'), ', ' ORDER BY x.n) || ')' FROM pg_temp.items(t->'columns') x), '')
		|| format(' FROM STDIN (FORMAT text, ENCODING %L)', m->'database'->>'encoding'), 'UTF8'), 'base64'), E'\n', '')) AS line
	FROM t, pg_temp.manifest
	UNION ALL SELECT t.n, r.n, c.n, concat_ws(' ', 'chunk', pg_temp.sum(c.item), (c.item->>'size')::bigint, (c.item->>'rows')::bigint, pg_temp.file(c.item))
	FROM t, pg_temp.items(t->'ranges') r, pg_temp.items(r.item->'chunks') c
) q ORDER BY n, r, c;

\o objects
SELECT concat_ws(' ', pg_temp.sum(item), (item->>'size')::bigint, (item->>'rows')::bigint, pg_temp.file(item)) FROM pg_temp.manifest, pg_temp.items(m->'largeObjects'->'chunks') ORDER BY n;

\o sequences.sql
SELECT format('SELECT setval(%L, %s, %L);', format('%I.%I', item->>'schema', item->>'name'), (item->>'last')::bigint, (item->>'called')::bool)
FROM pg_temp.manifest, pg_temp.items(m->'sequences') ORDER BY n;

\o finish.sql
WITH d AS (SELECT m->'database' AS d, m->'database'->>'owner' AS owner FROM pg_temp.manifest)
SELECT s FROM (
	SELECT 1 AS step, 0 AS n, format('ALTER DATABASE %1$I OWNER TO %2$I; ALTER DATABASE %1$I CONNECTION LIMIT %3$s; COMMENT ON DATABASE %1$I IS %4$L;',
		:'build', owner, (d->>'connectionLimit')::int, nullif(d->>'comment', '')) AS s FROM d
	UNION ALL SELECT 2, n, format('ALTER %s SET %I TO %s;',
		CASE WHEN coalesce(item->>'role', '') = '' THEN format('DATABASE %I', :'build') ELSE format('ROLE %I IN DATABASE %I', item->>'role', :'build') END, item->>'name',
		CASE WHEN lower(item->>'name') IN ('local_preload_libraries', 'search_path', 'session_preload_libraries', 'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
		THEN coalesce((SELECT string_agg(quote_literal(coalesce(replace(p[1], '""', '"'), btrim(p[2]))), ', ' ORDER BY i) -- a list of names, each quoted or not
			FROM regexp_matches(item->>'value', '"((?:[^"]|"")*)"|([^",[:space:]][^",]*)', 'g') WITH ORDINALITY AS x(p, i)), '''''')
		ELSE quote_literal(item->>'value') END) FROM d, pg_temp.items(d->'settings')
	UNION ALL SELECT 3, 0, format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I;', :'build', owner) FROM d
	UNION ALL SELECT CASE WHEN item->>'grantor' = owner THEN 4 ELSE 5 END, n, -- others may have passed on what the owner allowed them to
		CASE WHEN item->>'grantor' <> owner THEN format('SET LOCAL ROLE %I; ', item->>'grantor') ELSE '' END
		|| format('GRANT %s ON DATABASE %I TO %s%s;', CASE WHEN item->>'privilege' IN ('CONNECT', 'CREATE', 'TEMPORARY') THEN item->>'privilege' END, :'build',
			CASE WHEN item->>'grantee' = '' THEN 'PUBLIC' ELSE quote_ident(item->>'grantee') END, CASE WHEN (item->>'grantable')::bool THEN ' WITH GRANT OPTION' ELSE '' END)
		|| CASE WHEN item->>'grantor' <> owner THEN ' RESET ROLE;' ELSE '' END FROM d, pg_temp.items(d->'acl')
) q ORDER BY step, n;
SQL
made=$desk
sql postgres -c "CREATE DATABASE $desk TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
cd "$work"
inside | sql "$desk" -v build="$build" -c 'CREATE TEMPORARY TABLE manifest (m jsonb)' \
	-c "COPY pg_temp.manifest FROM STDIN (FORMAT csv, QUOTE E'\\001', DELIMITER E'\\002')" -f say.sql

if [ -s roles.sql ] && [ "${CREATE_ROLES:-}" != 1 ]; then
	say "restore.sh: these roles are missing; create them, or set CREATE_ROLES=1 to let this script do it:"
	cat roles.sql >&2
	exit 1
fi
say "roles and database"
sql "$desk" -1 -f roles.sql
made="$build $desk"
sql "$desk" -f create.sql
sql postgres -c "REVOKE ALL ON DATABASE $build FROM PUBLIC" -c "DROP DATABASE $desk WITH (FORCE)"
made=$build

say "tables, types, functions"
read -r sum size file <archive
unpack "$sum" "$size" "$file" schema.dump
# The grants come after the rows: an owner may have taken rights from itself.
pg_restore --list schema.dump >contents
pg_restore --list --section=pre-data schema.dump >pre-data
grep -E '^[0-9]+; ' pre-data | grep -vE '^[0-9]+; [0-9]+ [0-9]+ (DEFAULT )?ACL ' >before || true # there may be none
grep -E '^[0-9]+; ' contents | grep -vxFf before >after || true
pg_restore --exit-on-error --use-list=before --dbname="dbname=$build $session" schema.dump

while read -r kind a b c file <&3; do
	if [ "$kind" = table ]; then
		say "rows of table $a of $b"
		copy=$(printf %s "$c" | base64 -d)
		continue
	fi
	unpack "$a" "$b" "$file" plain
	# The rows are the input of a COPY that came as an argument: no line of them can be a command.
	psql -XAt -v ON_ERROR_STOP=1 -d "dbname=$build $session" -c "$copy" <plain >said
	[ "$(cat said)" = "COPY $c" ] || fail "$chunk should hold $c rows, and the server says: $(cat said)"
done 3<rows

[ ! -s objects ] || say "large objects"
while read -r a b c file <&3; do
	unpack "$a" "$b" "$file" plain
	psql -XAt -1 -v ON_ERROR_STOP=1 -d "dbname=$build $session" -c 'CREATE TEMPORARY TABLE piece (object oid, at bigint, data bytea)' \
		-c 'COPY pg_temp.piece FROM STDIN' -c 'DO $$ BEGIN PERFORM lo_put(object, at, data) FROM pg_temp.piece; END $$' <plain >said
	grep -qx "COPY $c" said || fail "$chunk should hold $c pieces of large objects, and the server says: $(cat said)"
done 3<objects

say "sequences"
sql "$build" -1 -f sequences.sql >said

# A new database has the schema public and the extension plpgsql. The archive is silent where the original
# had dropped them, but they were counted.
if [ -s counts ]; then
	read -r schemas extensions <counts
	sql "$build" -v schemas="$schemas" -v extensions="$extensions" -f - <<'SQL'
SELECT 'DROP SCHEMA public' FROM pg_namespace o WHERE left(o.nspname, 3) <> 'pg_' AND o.nspname <> 'information_schema'
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.oid AND d.classid = o.tableoid AND d.deptype IN ('e', 'x')) HAVING count(*) = :schemas + 1
\gexec
SELECT 'DROP EXTENSION plpgsql' FROM pg_extension WHERE extname <> 'amcheck' HAVING count(*) = :extensions + 1
\gexec
SQL
fi

say "indexes, constraints, triggers, grants"
if [ -s after ]; then
	pg_restore --exit-on-error --use-list=after --dbname="dbname=$build $session" schema.dump
fi

say "the database's own settings, grants and comment"
sql "$build" -1 -f finish.sql
sql postgres -v build="$build" -v new="$new" -f - <<'SQL'
ALTER DATABASE :"build" RENAME TO :"new";
SQL
made=
say "done: database $new"
