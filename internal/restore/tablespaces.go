package restore

import (
	"context"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// inPlace is the first version that keeps a tablespace inside the data folder, as server_version_num.
const inPlace = 150000

// usedTablespace is how pg_restore says where the next objects go.
var usedTablespace = regexp.MustCompile(`(?m)^SET default_tablespace = ("(?:[^"\n]|"")+"|[a-z_][a-z0-9_$]*);$`)

// provideTablespaces makes the tablespaces that the schema names on a private server, and asks a
// person for them elsewhere.
func (l *loader) provideTablespaces(ctx context.Context) error {
	text, err := postgres.ArchiveSQL(ctx, l.tool, l.archive, nil)
	if err != nil {
		return err
	}
	named := []string{}
	for _, m := range usedTablespace.FindAllStringSubmatch(text, -1) {
		named = append(named, strings.ToValidUTF8(m[1], "?"))
	}
	rows, err := l.keeper.Query(ctx, "SELECT DISTINCT n FROM unnest($1::text[]) n WHERE n NOT IN (SELECT quote_ident(spcname) FROM pg_tablespace)", named)
	if err != nil {
		return postgres.Classify(err, "look for the backup's tablespaces")
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return postgres.Classify(err, "look for the backup's tablespaces")
	}
	if len(missing) == 0 {
		return nil
	}
	var version int
	if err := l.keeper.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return postgres.Classify(err, "read the server's version")
	}
	if !l.Private || version < inPlace {
		return failure.New(failure.MissingRight, "the server lacks tablespaces that the backup's tables are in: %s", strings.Join(missing, ", ")).
			Do("create them on the server (CREATE TABLESPACE ... LOCATION ...), or name a server that has them as the target's scratch server, then resume the run")
	}
	for _, name := range missing { // quoted already
		if err := drain(ctx, l.keeper, "SET allow_in_place_tablespaces = on"); err != nil {
			return postgres.Classify(err, "allow tablespaces in the data folder")
		}
		err := drain(ctx, l.keeper, "CREATE TABLESPACE "+name+" LOCATION ''")
		if err != nil && postgres.State(err) != "42710" { // another attempt was faster
			return postgres.Classify(err, "create tablespace "+name)
		}
	}
	return nil
}
