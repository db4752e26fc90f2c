package restore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// maxStatements bounds how many statements a remedy quotes.
const maxStatements = 20

// ScratchSuperuser is the name that the superuser of a private server for this backup should have:
// one that does not lend its powers to a role of the backup that had none.
func ScratchSuperuser(m *format.Manifest) string {
	const usual = "postgres"
	for _, r := range m.Roles {
		if r.Name == usual && !r.Superuser {
			return "upkeep_scratch_admin"
		}
	}
	return usual
}

func missingRoles(ctx context.Context, conn *pgx.Conn, roles []format.Role) ([]format.Role, error) {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.Name
	}
	rows, err := conn.Query(ctx, "SELECT w FROM unnest($1::text[]) w WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = w)", names)
	if err != nil {
		return nil, postgres.Classify(err, "look for the backup's roles")
	}
	absent, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, postgres.Classify(err, "look for the backup's roles")
	}
	isAbsent := make(map[string]bool, len(absent))
	for _, name := range absent {
		isAbsent[name] = true
	}
	var missing []format.Role
	for _, r := range roles {
		if isAbsent[r.Name] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// provideRoles makes the backup's roles on a private server, and asks a person for them elsewhere.
func (o Options) provideRoles(ctx context.Context, admin *pgx.Conn) error {
	missing, err := missingRoles(ctx, admin, o.Manifest.Roles)
	if err != nil {
		return err
	}
	if !o.Private {
		return demandRoles(missing)
	}
	var sql strings.Builder
	for _, r := range missing {
		sql.WriteString(createRole(r, true))
	}
	for _, r := range o.Manifest.Roles { // granting twice is harmless
		sql.WriteString(grantRoles(r))
	}
	effectRoles.before.Hit()
	if _, err := admin.Exec(ctx, "BEGIN;"+sql.String()+"COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgres.Classify(err, "create the backup's roles on the private server")
	}
	effectRoles.after.Hit()
	return nil
}

func demandRoles(missing []format.Role) error {
	if len(missing) == 0 {
		return nil
	}
	var names, statements []string
	for i, r := range missing {
		names = append(names, postgres.Quote(r.Name))
		if i < maxStatements {
			statements = append(statements, strings.TrimSpace(createRole(r, false)+" "+grantRoles(r)))
		}
	}
	more := ""
	if len(missing) > maxStatements {
		more = " and so on for the others"
	}
	return failure.New(failure.MissingRole, "the server lacks roles that the backup's objects belong to or are granted to: %s", strings.Join(names, ", ")).
		Do("create them, then resume the run: %s%s", strings.Join(statements, " "), more)
}

// createRole is the statement that makes a role as it was, without a password. On a private server
// every role may log in, which only sessions of Upkeep itself can do there.
func createRole(r format.Role, private bool) string {
	sql := "CREATE ROLE " + postgres.Quote(r.Name)
	for _, a := range []struct {
		on   bool
		word string
	}{
		{!private && r.ConnLimit >= 0, fmt.Sprintf(" CONNECTION LIMIT %d", r.ConnLimit)},
		{r.Superuser, " SUPERUSER"}, {!r.Inherit, " NOINHERIT"}, {r.CreateRole, " CREATEROLE"}, {r.CreateDB, " CREATEDB"},
		{private || r.Login, " LOGIN"}, {r.Replication, " REPLICATION"}, {r.BypassRLS, " BYPASSRLS"},
	} {
		if a.on {
			sql += a.word
		}
	}
	return sql + ";"
}

func grantRoles(r format.Role) string {
	var sql strings.Builder
	for _, group := range r.MemberOf {
		sql.WriteString("GRANT " + postgres.Quote(group) + " TO " + postgres.Quote(r.Name) + ";")
	}
	return sql.String()
}
