package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// A server that crashes empties its unlogged tables and resets its unlogged sequences, and a private
// server crashes with its worker. While a copy is in the making, the marks of what is in them go with
// it. For a finished copy on a private server a row in an unlogged table speaks, in the database beside
// it: as long as it is there, the server has not crashed.
const witness = `CREATE UNLOGGED TABLE IF NOT EXISTS public.upkeep_witness (copy oid PRIMARY KEY)`

// readUnlogged lists what a crash empties: of partitioned tables, those with such a partition.
func readUnlogged(ctx context.Context, conn *pgx.Conn) (map[format.Name]bool, error) {
	const doing = "see which tables are unlogged"
	rows, err := conn.Query(ctx, `SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE `+userSchemas+` AND CASE c.relkind WHEN 'r' THEN c.relpersistence = 'u' WHEN 'S' THEN c.relpersistence = 'u'
		WHEN 'p' THEN EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf AND l.relpersistence = 'u') END`)
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	unlogged := make(map[format.Name]bool)
	var name format.Name
	_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name}, func() error {
		unlogged[name] = true
		return nil
	})
	return unlogged, postgres.Classify(err, doing)
}

// loadedInto is the table that a table's rows are loaded into.
func loadedInto(t format.Table) format.Name {
	if t.Root != nil {
		return *t.Root
	}
	return format.Name{Schema: t.Schema, Name: t.Name}
}

func (l *loader) chunkMark(table int, key string) mark {
	if l.unlogged[loadedInto(l.Manifest.Tables[table])] {
		return mark{markFleeting, key}
	}
	return mark{markChunk, key}
}

// losesInCrash says whether a crash takes anything that is in the backup.
func (o Options) losesInCrash(unlogged map[format.Name]bool) bool {
	for _, t := range o.Manifest.Tables {
		if t.Rows > 0 && unlogged[loadedInto(t)] {
			return true
		}
	}
	for _, s := range o.Manifest.Sequences {
		if unlogged[format.Name{Schema: s.Schema, Name: s.Name}] {
			return true
		}
	}
	return false
}

// vouch makes sure that the server has not crashed since the marks were read, and on a private one calls
// the witness for what comes later. The keeper's session would not have outlived a crash.
func (l *loader) vouch(ctx context.Context) error {
	const doing = "see that the server has not crashed while the copy was made"
	if !l.losesInCrash(l.unlogged) {
		return nil
	}
	if l.Private {
		admin, err := l.connectAdmin(ctx)
		if err != nil {
			return err
		}
		defer closeSession(ctx, admin)
		sql := fmt.Sprintf("%s; INSERT INTO public.upkeep_witness VALUES (%d) ON CONFLICT DO NOTHING", witness, l.oid)
		if _, err := admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return postgres.Classify(err, doing)
		}
	}
	_, err := l.keeper.Exec(ctx, "SELECT")
	return postgres.Classify(err, doing)
}

// Survived gives CopyLost, and drops the copy, when a private server has crashed since it was finished
// and the crash took something of it.
func Survived(ctx context.Context, o Options) error {
	const doing = "see whether the server has crashed since the copy was finished"
	if !o.Private {
		return nil
	}
	conn, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	unlogged, err := readUnlogged(ctx, conn)
	if err != nil || !o.losesInCrash(unlogged) {
		return err
	}
	admin, err := o.connectAdmin(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, admin)
	if _, err := admin.Exec(ctx, witness, pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgres.Classify(err, doing)
	}
	var alive bool
	err = admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM public.upkeep_witness w JOIN pg_database d ON d.oid = w.copy WHERE d.datname = $1)", o.Database).Scan(&alive)
	if err != nil || alive {
		return postgres.Classify(err, doing)
	}
	return o.lose(ctx, conn)
}

// lose drops a copy that cannot be mended, so that the next attempt makes it anew. The session in it
// is closed first.
func (o Options) lose(ctx context.Context, inside *pgx.Conn) error {
	closeSession(ctx, inside)
	if err := Drop(ctx, o); err != nil {
		return err
	}
	return failure.New(failure.CopyLost, "the server crashed and emptied the unlogged tables of the copy %q", o.Database).
		Do("start the restore again")
}
