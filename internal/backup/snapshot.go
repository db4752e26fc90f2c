package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/census"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

var pointSnapshotAfter = fault.NewPoint("backup/snapshot/after")

// mutantSkipSequence leaves a sequence out of what is read.
var mutantSkipSequence = fault.NewMutant("backup-skip-sequence")

// keeper is the session that holds the exported snapshot and a lock on every table.
type keeper struct {
	conn      *pgx.Conn
	id        string // of the exported snapshot
	at        time.Time
	server    format.Server
	database  format.Database
	roles     []format.Role
	relations []postgres.Relation
	elsewhere []string
	leftOut   []string // what the snapshot has and the backup will not
	warned    []string // what pg_dump said that it left out
	pgDump    postgres.Tool
	pgRestore postgres.Tool
	builtOn   []uint32     // the tables of the schema's PostData, by oid
	marks     []definition // what the snapshot's definitions looked like, for drift
}

// openSnapshot exports a snapshot in which no table can have lost its rows unseen. Between the
// snapshot and the lock, TRUNCATE, CLUSTER or a rewriting ALTER would leave the old snapshot an
// empty table; so every table is locked right after, and one whose file or name is no longer the
// snapshot's gives ConcurrentDDL.
func openSnapshot(ctx context.Context, o Options) (_ *keeper, err error) {
	conn, err := o.Source.Connect(ctx, postgres.WithApp(o.app()))
	if err != nil {
		return nil, err
	}
	k := &keeper{conn: conn, elsewhere: []string{}, leftOut: []string{}}
	defer func() {
		if err != nil {
			k.close(ctx)
		}
	}()
	if k.server, err = postgres.ReadServer(ctx, conn); err != nil {
		return nil, err
	}
	if k.server.VersionNum < minVersion {
		return nil, failure.New(failure.ServerTooOld, "the server is PostgreSQL %s; backups are supported from version %d on", k.server.Version, minVersion/10000).
			Do("upgrade the server")
	}
	if k.pgDump, err = postgres.FindTool(ctx, "pg_dump", k.server.VersionNum/10000); err != nil {
		return nil, err
	}
	if k.pgRestore, err = postgres.FindTool(ctx, "pg_restore", k.pgDump.Major); err != nil {
		return nil, err
	}
	if o.endStale {
		o.endOlder(ctx, conn)
	}
	// What counts beside the readers takes no more of the server than one session.
	if _, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL max_parallel_workers_per_gather = 0"); err != nil {
		return nil, postgres.Classify(err, "begin the snapshot")
	}
	if err = conn.QueryRow(ctx, "SELECT pg_export_snapshot(), now()").Scan(&k.id, &k.at); err != nil {
		return nil, postgres.Classify(err, "export the snapshot")
	}
	k.at = k.at.UTC()
	pointSnapshotAfter.Hit()
	if k.relations, err = postgres.ReadRelations(ctx, conn); err != nil {
		return nil, err
	}
	if err = refuse(k.relations); err != nil {
		return nil, err
	}
	if err = refuseSchema(ctx, conn); err != nil {
		return nil, err
	}
	if err = refuseStandby(ctx, conn); err != nil {
		return nil, err
	}
	if err = k.lock(ctx, o); err != nil {
		return nil, err
	}
	if k.database, err = postgres.ReadDatabase(ctx, conn, k.server.VersionNum); err != nil {
		return nil, err
	}
	if k.roles, err = postgres.ReadRoles(ctx, conn); err != nil {
		return nil, err
	}
	if k.elsewhere, err = readElsewhere(ctx, conn); err != nil {
		return nil, err
	}
	if k.leftOut, err = readLeftOut(ctx, conn); err != nil {
		return nil, err
	}
	if k.marks, err = readDefinitions(ctx, conn); err != nil {
		return nil, err
	}
	return k, nil
}

// endOlder ends the sessions of an earlier attempt at the same backup. Its worker may be frozen, and
// would hold its snapshot and locks for as long; one that lives on loses its server, takes no backup,
// and is no attempt that counts any more. Twins that begin together leave each other alone: whoever
// is first to write the manifest has taken the backup. A session that cannot be ended harms only
// what it harmed before, so errors are left to the next statement.
func (o Options) endOlder(ctx context.Context, conn *pgx.Conn) {
	_, _ = conn.Exec(ctx, `
		SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, pg_stat_activity own
		WHERE own.pid = pg_backend_pid() AND a.pid <> own.pid AND a.application_name = $1 AND a.datname = own.datname AND a.usename = own.usename
		  AND a.backend_start < own.backend_start - $2 * interval '1 ms'`, o.app(), staleAfter.Milliseconds())
}

// refuse names every table whose rows the role would not see, all at once.
func refuse(relations []postgres.Relation) error {
	var filtered, unreadable []string
	for _, r := range relations {
		name := postgres.Quote(r.Schema, r.Name)
		if r.Filtered {
			filtered = append(filtered, name)
		}
		if !r.Readable {
			unreadable = append(unreadable, name)
		}
	}
	if len(filtered) > 0 {
		return failure.New(failure.RowSecurity, "row-level security would hide rows of %s from the role that Upkeep uses", listed(filtered)).
			Do("give the role BYPASSRLS (ALTER ROLE ... BYPASSRLS), or use the tables' owner where row security is not forced")
	}
	if len(unreadable) > 0 {
		return failure.New(failure.MissingRight, "the role that Upkeep uses may not read %s", listed(unreadable)).
			Do("GRANT SELECT on them, or GRANT pg_read_all_data (version 14 and newer) to the role, then resume the run")
	}
	return nil
}

// refuseSchema refuses a database with a schema of the name that restores keep their books in.
func refuseSchema(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'upkeep_restore')").Scan(&there); err != nil {
		return postgres.Classify(err, "read the schemas")
	}
	if there {
		return failure.New(failure.UnsupportedName, "the database has a schema named upkeep_restore, which is the name that a restore needs for its own work").
			Do("rename that schema (ALTER SCHEMA upkeep_restore RENAME TO ...); if a restore that was broken off made it, this is its half database: restore the backup again instead")
	}
	return nil
}

// refuseStandby refuses a standby whose primary has what is not written ahead: it is not there to read.
func refuseStandby(ctx context.Context, conn *pgx.Conn) error {
	unlogged, err := readTexts(ctx, conn, "look for unlogged tables on a standby", `
		SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE pg_is_in_recovery() AND c.relpersistence = 'u' AND c.relkind IN ('r', 'S', 'm') ORDER BY 1`)
	if err != nil || len(unlogged) == 0 {
		return err
	}
	return failure.New(failure.UnloggedOnStandby, "the server is a standby, which does not have what is unlogged: %s", listed(unlogged)).
		Do("back up the primary, or make them logged (ALTER TABLE ... SET LOGGED)")
}

// listed names the first few of many.
func listed(names []string) string {
	const most = 10
	text := ""
	for i, n := range names {
		if i == most {
			return text + fmt.Sprintf(" and %d more", len(names)-most)
		}
		if i > 0 {
			text += ", "
		}
		text += n
	}
	return text
}

func (k *keeper) census(ctx context.Context) (format.Census, error) {
	var tables []format.Table
	for _, r := range k.relations {
		if !r.Partitioned {
			tables = append(tables, r.Table)
		}
	}
	return census.Take(ctx, k.conn, tables)
}

func (k *keeper) readSequences(ctx context.Context) ([]format.Sequence, error) {
	names, err := postgres.SequenceNames(ctx, k.conn)
	if err != nil {
		return nil, err
	}
	if mutantSkipSequence.On() && len(names) > 0 {
		names = names[1:]
	}
	return postgres.ReadSequences(ctx, k.conn, names)
}

// blame tells an error that DDL caused (a definition that vanished under pg_dump or a reader) from
// one of its own, and says who had a lock that was waited for in vain.
func (k *keeper) blame(ctx context.Context, o Options, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if postgres.State(err) == lockTimedOut {
		return o.lockHeld(ctx, k.relations, patience, err)
	}
	if f, ok := failure.As(err); ok && f.Class() != failure.Transient && f.Class() != failure.Damaged {
		return err
	}
	if drift := k.drift(ctx, o); failure.Is(drift, failure.ConcurrentDDL) {
		return drift
	}
	return err
}

func (k *keeper) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = k.conn.Close(ctx) // ends the transaction, the snapshot and the locks with it
}
