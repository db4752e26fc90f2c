package restore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/census"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

// Steps that others are held against.
const (
	stepSchema    = "creating the schema" // before all others
	stepStructure = "creating what stands on the rows"
)

// Kinds of marks.
const (
	markStep        = "step"
	markChunk       = "chunk"
	markLargeObject = "large object"
	markBuild       = "build"
	markFleeting    = "fleeting" // of what is gone, with its mark, when the server crashes
)

// loader is one attempt to fill a copy.
type loader struct {
	Options
	oid      uint32
	keeper   *pgx.Conn // holds the claim
	epoch    int64
	tool     postgres.Tool
	archive  []byte
	parts    parts
	owners   map[format.Name]string // of the copy's tables, to load as; "" for the session's own role
	unlogged map[format.Name]bool   // relations of the copy that a crash empties
	marks    map[mark]bool          // that earlier attempts left; only read

	mu     sync.Mutex
	result Result
	total  int64        // bytes to load
	loaded atomic.Int64 // bytes of COPY text so far
}

// Load fills the copy: schema, rows, indexes and constraints, what stands on them, sequences, large
// objects, and last, in one transaction, the database's own properties and the end of the
// bookkeeping. A copy that is finished already is left as it is.
func Load(ctx context.Context, o Options) (Result, error) {
	l := &loader{Options: o}
	done, err := l.open(ctx)
	if l.keeper != nil {
		defer closeSession(ctx, l.keeper)
	}
	if err != nil || done {
		return l.result, err
	}
	for _, step := range []func(context.Context) error{
		l.preData, l.loadAndBuild, l.structure, l.foreignKeys, l.rest, l.sequences, l.finish,
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil { // what a session says about its end does not matter then
				err = fmt.Errorf("restore %q: %w", o.Database, ctx.Err())
			}
			return l.result, err
		}
	}
	return l.result, nil
}

// open claims the copy and reads what is done; true when everything is.
func (l *loader) open(ctx context.Context) (done bool, err error) {
	admin, err := l.connectAdmin(ctx)
	if err != nil {
		return false, err
	}
	defer closeSession(ctx, admin)
	d, err := findDatabase(ctx, admin, l.Database, l.Oid)
	switch {
	case err != nil:
		return false, err
	case d == nil:
		return false, failure.New(failure.MissingDatabase, "the half database %q is gone", l.Database).Do("start the restore again")
	case l.finished(d):
		l.countAll()
		if d.name != l.Database { // it was published, and is no longer a copy in the making
			return true, nil
		}
		return true, Survived(ctx, l.Options)
	}
	l.oid = d.oid
	if l.tool, err = l.restoreTool(ctx); err != nil {
		return false, err
	}
	if l.archive, err = l.readArchive(ctx); err != nil {
		return false, err
	}
	if l.parts, err = l.splitArchive(ctx); err != nil {
		return false, err
	}
	if err := l.claim(ctx); err != nil {
		return false, err
	}
	return false, l.readMarks(ctx)
}

// countAll is the result where an earlier attempt has done everything.
func (l *loader) countAll() {
	for _, c := range l.Manifest.Chunks()[1:] { // the first is the schema
		l.count(c, true)
	}
	l.result.Rows -= l.Manifest.LargeObjects.Rows
}

// step does one piece of work in a session of its own, unless it is done.
func (l *loader) step(ctx context.Context, m mark, e effect, work func(*pgx.Conn) error, options ...postgres.Option) error {
	if l.marks[m] {
		return nil
	}
	progress.Report(ctx, progress.Progress{Phase: m.key})
	conn, err := l.connect(ctx, options...)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	return l.transact(ctx, conn, e, m, func() error { return work(conn) })
}

// runEntries runs entries of the archive. Its text is in the database's encoding.
func (l *loader) runEntries(ctx context.Context, conn *pgx.Conn, entries []postgres.ArchiveEntry, doing string) error {
	if len(entries) == 0 {
		return nil
	}
	sql, err := postgres.ArchiveSQL(ctx, l.tool, l.archive, entries)
	if err != nil {
		return err
	}
	return l.run(ctx, conn, sql, doing)
}

func (l *loader) run(ctx context.Context, conn *pgx.Conn, sql, doing string) error {
	sql = withoutUnknownSettings(sql)
	if err := drain(ctx, conn, "SET client_encoding = "+postgres.Literal(l.Manifest.Database.Encoding)); err != nil {
		return postgres.Classify(err, doing)
	}
	if err := drain(ctx, conn, sql); err != nil {
		return explainSQL(err, doing)
	}
	// The text sets what it needs; what follows in this session counts on the pins.
	return postgres.Classify(drain(ctx, conn, "SET client_encoding = 'UTF8'; SET row_security = off; SET search_path = ''; SET default_tablespace = ''"), doing)
}

// drain runs statements and drops what they return.
func drain(ctx context.Context, conn *pgx.Conn, sql string) error {
	results := conn.PgConn().Exec(ctx, sql)
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err != nil {
			_ = results.Close() // the first error is the one to tell
			return err
		}
	}
	return results.Close()
}

// explainSQL gives the failures of SQL that is in the backup the code that says who can mend them.
func explainSQL(err error, doing string) error {
	said := postgres.Classify(err, doing)
	switch state := postgres.State(err); {
	case len(state) < 2:
	case state[:2] == "22" || state[:2] == "23":
		return failure.New(failure.NotEqual, "could not %s: the rows do not allow it", doing).Because(said).
			Do("the rows or the definition in this backup are wrong, or depend on rows elsewhere: see the server's log; try another backup")
	case state == "58P01" || state == "0A000":
		return failure.New(failure.MissingProgram, "could not %s: the server lacks an extension's files or a feature", doing).Because(said).
			Do("install what the server names on the machine where the copy is restored, in the version of the original, then resume the run")
	}
	return said
}

func (l *loader) preData(ctx context.Context) error {
	if !l.marks[mark{markStep, stepSchema}] {
		if err := l.provideTablespaces(ctx); err != nil {
			return err
		}
	}
	err := l.step(ctx, mark{markStep, stepSchema}, effectPreData, func(conn *pgx.Conn) error {
		if err := l.runEntries(ctx, conn, l.parts.pre, "create the schema"); err != nil {
			return err
		}
		if err := l.dropSpare(ctx, conn); err != nil {
			return err
		}
		return l.lendSchemas(ctx, conn)
	})
	if err != nil {
		return err
	}
	if l.unlogged, err = readUnlogged(ctx, l.keeper); err != nil {
		return err
	}
	return l.readOwners(ctx)
}

// dropSpare drops what a new database has and the original had not any more: the schema public and the
// extension plpgsql. The archive is silent about them both where they are as new and where they are
// gone; the census has counted them.
func (l *loader) dropSpare(ctx context.Context, conn *pgx.Conn) error {
	have, err := census.Objects(ctx, conn)
	if err != nil {
		return err
	}
	for _, s := range []struct{ kind, sql string }{{"schemas", "DROP SCHEMA public"}, {"extensions", "DROP EXTENSION plpgsql"}} {
		want, counted := l.Manifest.Census.Objects[s.kind]
		if !counted || have[s.kind] != want+1 {
			continue
		}
		if _, err := conn.Exec(ctx, s.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return postgres.Classify(err, s.sql+", which the original has not")
		}
	}
	return nil
}

// userSchemas are the schemas that a backup's tables can be in.
const userSchemas = `n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'upkeep_restore')`

// lending lists the schemas that owners of tables cannot use as long as the backup's grants are not
// there yet. Owners of schemas are left out: taking back what they were given would take too much.
const lending = ` FROM pg_namespace n, pg_roles o WHERE ` + userSchemas + ` AND n.nspowner <> o.oid AND NOT o.rolsuper
	AND EXISTS (SELECT FROM pg_class c WHERE c.relowner = o.oid AND c.relkind IN ('r', 'p') AND c.oid >= 16384)`

// lendSchemas lets the owners of tables into every schema of a private server's copy while they load.
func (l *loader) lendSchemas(ctx context.Context, conn *pgx.Conn) error {
	return l.forSchemas(ctx, conn, "GRANT USAGE ON SCHEMA %I TO %I")
}

// takeSchemasBack undoes lendSchemas, before the backup's own grants are given.
func (l *loader) takeSchemasBack(ctx context.Context, conn *pgx.Conn) error {
	return l.forSchemas(ctx, conn, "REVOKE USAGE ON SCHEMA %I FROM %I")
}

func (l *loader) forSchemas(ctx context.Context, conn *pgx.Conn, statement string) error {
	if !l.Private {
		return nil
	}
	const doing = "let the owners of tables into their schemas"
	var sql string
	err := conn.QueryRow(ctx, "SELECT coalesce(string_agg(format($1, n.nspname, o.rolname), ';'), '')"+lending, statement).Scan(&sql)
	if err != nil {
		return postgres.Classify(err, doing)
	}
	return postgres.Classify(drain(ctx, conn, sql), doing)
}

// readOwners reads as whom each table's rows are loaded: a CHECK or a domain of the backup runs code
// with the rights of whoever loads.
func (l *loader) readOwners(ctx context.Context) error {
	rows, err := l.keeper.Query(ctx, `
		SELECT n.nspname, c.relname, CASE WHEN $1 THEN pg_get_userbyid(c.relowner)
		       WHEN c.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
		        AND pg_has_role(c.relowner, 'MEMBER') AND has_schema_privilege(c.relowner, n.oid, 'USAGE') THEN pg_get_userbyid(c.relowner) ELSE '' END
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'`, l.Private)
	if err != nil {
		return postgres.Classify(err, "read the owners of the tables")
	}
	l.owners = make(map[format.Name]string)
	var name format.Name
	var owner string
	_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &owner}, func() error {
		l.owners[name] = owner
		return nil
	})
	return postgres.Classify(err, "read the owners of the tables")
}

func (l *loader) structure(ctx context.Context) error {
	return l.step(ctx, mark{markStep, stepStructure}, effectStructure, func(conn *pgx.Conn) error {
		return l.runEntries(ctx, conn, l.parts.structure, "create what stands on the rows")
	})
}

// foreignKeys validates the foreign keys, several at once.
func (l *loader) foreignKeys(ctx context.Context) error {
	s := newSchedule()
	for _, p := range l.Manifest.Schema.PostData {
		if p.Kind == format.PostForeignKey {
			s.add(l.build(p, 0, nil))
		}
	}
	return l.work(ctx, s)
}

// rest is grants, comments, policies, publications and the contents of materialized views.
func (l *loader) rest(ctx context.Context) error {
	return l.step(ctx, mark{markStep, "granting rights"}, effectRest, func(conn *pgx.Conn) error {
		if err := l.takeSchemasBack(ctx, conn); err != nil {
			return err
		}
		return l.runEntries(ctx, conn, l.parts.rest, "grant rights and create what is left")
	})
}

// sequences sets the sequences to where they stood; again after a crash, which resets unlogged ones.
func (l *loader) sequences(ctx context.Context) error {
	return l.step(ctx, mark{markFleeting, "setting sequences"}, effectSequences, func(conn *pgx.Conn) error {
		sequences := l.Manifest.Sequences
		if mutantSkipSequence.On() && len(sequences) > 0 {
			sequences = sequences[:len(sequences)-1]
		}
		var schemas, names []string
		var last []int64
		var called []bool
		for _, s := range sequences {
			schemas, names, last, called = append(schemas, s.Schema), append(names, s.Name), append(last, s.Last), append(called, s.Called)
		}
		_, err := conn.Exec(ctx, `SELECT setval(format('%I.%I', s, n)::regclass, v, c) FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bool[]) AS q(s, n, v, c)`,
			schemas, names, last, called)
		return postgres.Classify(err, "set the sequences")
	})
}

func (l *loader) count(c format.Chunk, skipped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result.Rows += c.Rows
	l.result.Bytes += c.Size
	if skipped {
		l.result.Skipped++
		l.loaded.Add(c.Size)
	} else {
		l.result.Chunks++
	}
}

func dumpKey(p format.PostData) string { return strconv.Itoa(p.DumpID) }

func describe(p format.PostData) string {
	kind := map[string]string{format.PostIndex: "index", format.PostConstraint: "constraint", format.PostForeignKey: "foreign key"}[p.Kind]
	return fmt.Sprintf("%s %s", kind, postgres.Quote(p.Schema, p.Name))
}
