package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// ReloadName is the database beside a copy in which the stored schema is made once more, by pg_restore.
// It is there while the schema is compared; who drops the copy drops it too.
func ReloadName(copy string) string {
	const suffix, most = "_schema", 63
	return copy[:min(len(copy), most-len(suffix))] + suffix
}

// reload says what PostgreSQL's own pg_restore makes of the stored schema, as pg_dump writes it down: some
// expressions come back in other words, such as CHECK (v IN ('a', 'b')) of a varchar. What is made is
// thrown away at once.
func (c *checker) reload(ctx context.Context, dump, restore postgres.Tool) (_ []string, err error) {
	name := ReloadName(c.Database)
	admin, err := c.Copy.Connect(ctx, postgres.WithApp("upkeep-compare "+c.Manifest.Backup))
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	drop := func(ctx context.Context) error {
		_, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+postgres.Quote(name)+" WITH (FORCE)", pgx.QueryExecModeSimpleProtocol)
		return postgres.Classify(err, fmt.Sprintf("drop database %q", name))
	}
	if err := drop(ctx); err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, drop(ctx))
	}()
	for _, sql := range []string{
		"CREATE DATABASE " + postgres.Quote(name) + postgres.DatabaseLocale(c.Manifest.Database, c.server.VersionNum),
		"REVOKE CONNECT ON DATABASE " + postgres.Quote(name) + " FROM PUBLIC",
	} {
		if _, err := admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, postgres.Classify(err, fmt.Sprintf("create database %q", name))
		}
	}
	made, err := oidOf(ctx, admin, name)
	if err != nil {
		return nil, err
	}
	// An attempt that was frozen until now may find that the copy has been published or dropped, and that
	// nobody would look for this database any more.
	if copied, err := oidOf(ctx, admin, c.Database); err != nil || copied == 0 {
		return nil, cmp.Or(err, error(failure.New(failure.Fenced, "the copy %q went away while it was compared", c.Database)))
	}
	if err := postgres.RestoreSchema(ctx, restore, c.Copy, name, c.Archive); err != nil {
		return nil, err
	}
	archive, _, err := postgres.DumpSchema(ctx, dump, c.Copy, name, "", 10*time.Second)
	if err != nil {
		return nil, err
	}
	// A twin makes a database of its own under the name, and what was dumped may be half of that.
	if now, err := oidOf(ctx, admin, name); err != nil || now != made {
		return nil, cmp.Or(err, error(failure.New(failure.Fenced, "another attempt compares the copy %q", c.Database)))
	}
	text, err := postgres.SchemaText(ctx, restore, archive)
	return statements(text), err
}

// oidOf is the oid of a database; 0 where there is none.
func oidOf(ctx context.Context, conn *pgx.Conn, database string) (oid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce((SELECT oid FROM pg_database WHERE datname = $1), 0)", database).Scan(&oid)
	return oid, postgres.Classify(err, fmt.Sprintf("look for database %q", database))
}

// reworded reports whether the copy's statements differ from the stored ones in words only: they are as
// many and have the same headings, and those that differ are what a reload makes of the stored ones.
func reworded(missing, extra, reloaded []string) bool {
	headings := func(all []string) []string {
		names := make([]string, len(all))
		for i, s := range all {
			names[i] = heading(s)
		}
		return names
	}
	less, more := difference(sorted(headings(missing)), sorted(headings(extra)))
	unexplained, _ := difference(extra, reloaded)
	return len(less)+len(more)+len(unexplained) == 0
}
