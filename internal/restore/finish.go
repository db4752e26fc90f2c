package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// finish ends the restore in one transaction: the database gets the original's own properties, the
// bookkeeping goes, event triggers come. It waits for the disk, and with it for all that came before.
func (l *loader) finish(ctx context.Context) error {
	const doing = "finish the copy"
	progress.Report(ctx, progress.Progress{Phase: "finishing"})
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	if _, err := conn.Exec(ctx, "BEGIN; SET LOCAL synchronous_commit = on", pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgres.Classify(err, doing)
	}
	if err := l.lockEnds(ctx, conn); err != nil {
		return err
	}
	if err := l.record(ctx, conn, mark{markStep, "finish"}); err != nil {
		return err
	}
	if err := l.vouch(ctx); err != nil {
		return err
	}
	if err := drain(ctx, conn, properties(l.Database, l.Manifest.Database)+"DROP SCHEMA upkeep_restore CASCADE;"); err != nil {
		return explainSQL(err, "set the database's own properties")
	}
	if err := l.runEntries(ctx, conn, l.parts.last, "create event triggers"); err != nil {
		return err
	}
	effectFinish.before.Hit()
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return postgres.Classify(err, doing)
	}
	effectFinish.after.Hit()
	return nil
}

// properties are the statements that give a database the owner, grants, settings, comment and
// connection limit of another.
func properties(name string, d format.Database) string {
	var sql strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&sql, format+";\n", args...) }
	database := postgres.Quote(name)
	add("ALTER DATABASE %s OWNER TO %s", database, postgres.Quote(d.Owner))
	add("ALTER DATABASE %s CONNECTION LIMIT %d", database, d.ConnectionLimit)
	comment := "NULL"
	if d.Comment != "" {
		comment = postgres.Literal(d.Comment)
	}
	add("COMMENT ON DATABASE %s IS %s", database, comment)
	for _, s := range d.Settings {
		whose := "DATABASE " + database
		if s.Role != "" {
			whose = "ROLE " + postgres.Quote(s.Role) + " IN " + whose
		}
		add("ALTER %s SET %s TO %s", whose, postgres.Quote(s.Name), settingValue(s))
	}
	add("REVOKE ALL ON DATABASE %s FROM PUBLIC, %s", database, postgres.Quote(d.Owner))
	// The owner's own grants first: others may have passed on what the owner allowed them to.
	grants := slices.Clone(d.ACL)
	slices.SortStableFunc(grants, func(a, b format.Grant) int { return rank(a, d.Owner) - rank(b, d.Owner) })
	for _, g := range grants {
		grantee, option := "PUBLIC", ""
		if g.Grantee != "" {
			grantee = postgres.Quote(g.Grantee)
		}
		if g.Grantable {
			option = " WITH GRANT OPTION"
		}
		if g.Grantor != d.Owner {
			add("SET LOCAL ROLE %s", postgres.Quote(g.Grantor))
		}
		add("GRANT %s ON DATABASE %s TO %s%s", g.Privilege, database, grantee, option)
		if g.Grantor != d.Owner {
			add("RESET ROLE")
		}
	}
	return sql.String()
}

func rank(g format.Grant, owner string) int {
	if g.Grantor == owner {
		return 0
	}
	return 1
}

// listSettings hold lists of names, which the server keeps quoted one by one.
var listSettings = []string{
	"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
}

func settingValue(s format.RoleSetting) string {
	if !slices.Contains(listSettings, strings.ToLower(s.Name)) {
		return postgres.Literal(s.Value)
	}
	names := splitNames(s.Value)
	if len(names) == 0 {
		return "''"
	}
	for i, n := range names {
		names[i] = postgres.Literal(n)
	}
	return strings.Join(names, ", ")
}

// splitNames takes apart a list such as `"$user", public, "a""b"`.
func splitNames(list string) []string {
	var names []string
	for rest := strings.TrimSpace(list); rest != ""; {
		var name string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			for {
				part, after, _ := strings.Cut(quoted, `"`)
				name += part
				rest = after
				if quoted, ok = strings.CutPrefix(after, `"`); !ok {
					break
				}
				name += `"`
			}
		} else {
			end := strings.IndexByte(rest, ',')
			if end < 0 {
				end = len(rest)
			}
			name, rest = strings.TrimSpace(rest[:end]), rest[end:]
		}
		names = append(names, name)
		rest = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ","))
	}
	return names
}
