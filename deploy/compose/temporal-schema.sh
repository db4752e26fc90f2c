#!/bin/sh
# Makes Temporal's two databases on PostgreSQL and brings their schemas to this version. The password
# is in SQL_PASSWORD.
set -eu
for database in temporal temporal_visibility; do
	schema=${database#temporal_}
	tool() { temporal-sql-tool --plugin postgres12_pgx --endpoint "${POSTGRES_HOST:-postgres}" --port "${POSTGRES_PORT:-5432}" --user "${POSTGRES_USER:-temporal}" --db "$database" "$@"; }
	tool create-database
	tool setup-schema -v 0.0
	tool update-schema --schema-name "postgresql/v12/$schema"
done
