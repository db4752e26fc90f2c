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
	conn, err := o.Source.Connect(ctx, postgres.WithApp("upkeep-backup "+o.BackupID))
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
		  AND a.backend_start < own.backend_start - $2 * interval '1 ms'`, "upkeep-backup "+o.BackupID, staleAfter.Milliseconds())
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

// locksAtOnce bounds the length of one LOCK statement.
const locksAtOnce = 100

func (k *keeper) lock(ctx context.Context, o Options) error {
	if _, err := k.conn.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
		return postgres.Classify(err, "set the lock timeout")
	}
	for start := 0; start < len(k.relations); start += locksAtOnce {
		batch := k.relations[start:min(start+locksAtOnce, len(k.relations))]
		stmt, names := "LOCK TABLE ", make([]string, len(batch))
		for i, r := range batch {
			names[i] = postgres.Quote(r.Schema, r.Name)
			if i > 0 {
				stmt += ", "
			}
			stmt += "ONLY " + names[i]
		}
		if _, err := k.conn.Exec(ctx, stmt+" IN ACCESS SHARE MODE"); err != nil {
			switch postgres.State(err) {
			case "42P01", "3F000", "42809": // gone, or another kind of thing by now
				return failure.New(failure.ConcurrentDDL, "a table was dropped or replaced right after the snapshot")
			case "55P03":
				return o.lockHeld(ctx, batch, lockTimeout, postgres.Classify(err, "lock "+listed(names)+" against changes of definition"))
			}
			return postgres.Classify(err, "lock "+listed(names)+" against changes of definition")
		}
	}
	// A table's lock keeps nobody from its indexes, which what counts will need too.
	if _, err := k.conn.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", patience.Milliseconds())); err != nil {
		return postgres.Classify(err, "set the lock timeout")
	}
	oids, files, quoted := make([]uint32, 0, len(k.relations)), make([]uint32, 0, len(k.relations)), make([]string, 0, len(k.relations))
	for _, r := range k.relations {
		if !r.Partitioned { // a partitioned table has no file
			oids, files, quoted = append(oids, r.Oid), append(files, r.Filenode), append(quoted, postgres.Quote(r.Schema, r.Name))
		}
	}
	// pg_relation_filenode and to_regclass see the present, the snapshot's query saw the past.
	var moved []string
	err := k.conn.QueryRow(ctx, `
		SELECT coalesce(array_agg(p.name), '{}') FROM unnest($1::oid[], $2::oid[], $3::text[]) AS p(oid, filenode, name)
		WHERE pg_relation_filenode(p.oid) IS DISTINCT FROM p.filenode OR to_regclass(p.name)::oid IS DISTINCT FROM p.oid`,
		oids, files, quoted).Scan(&moved)
	if err != nil {
		return postgres.Classify(err, "compare the tables with the snapshot")
	}
	if len(moved) > 0 {
		return failure.New(failure.ConcurrentDDL, "%s was truncated, rewritten or replaced between the snapshot and the lock", listed(moved))
	}
	return nil
}

// lockHeld names who has the lock that was waited for in vain; if nobody has it any more, err stays.
func (o Options) lockHeld(ctx context.Context, tables []postgres.Relation, waited time.Duration, err error) error {
	holders := o.holders(ctx, tables)
	if len(holders) == 0 {
		return err
	}
	return failure.New(failure.LockHeld, "a lock was waited for %s in vain: %s", waited, listed(holders)).
		Do("wait for who holds it or end it (pg_terminate_backend, ROLLBACK PREPARED), then resume the run")
}

// holders says who holds, or stands in the queue for, a lock that keeps readers out of the tables:
// their own, or that of an index, of what is stored out of line, or of its index. Nothing if nobody
// does any more, or it cannot be asked.
func (o Options) holders(ctx context.Context, tables []postgres.Relation) []string {
	conn, err := o.Source.Connect(ctx, postgres.WithApp("upkeep-backup "+o.BackupID)) // the keeper's transaction is broken
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	oids := make([]uint32, len(tables))
	for i, r := range tables {
		oids[i] = r.Oid
	}
	rows, err := conn.Query(ctx, `
		WITH heaps AS (SELECT c.oid, c.oid AS owner FROM pg_class c WHERE c.oid = ANY ($1)
		               UNION ALL SELECT c.reltoastrelid, c.oid FROM pg_class c WHERE c.oid = ANY ($1) AND c.reltoastrelid <> 0),
		     needed AS (SELECT * FROM heaps UNION ALL SELECT i.indexrelid, h.owner FROM heaps h JOIN pg_index i ON i.indrelid = h.oid)
		SELECT CASE WHEN x.gid IS NOT NULL THEN 'the prepared transaction ' || quote_literal(x.gid)
		            ELSE 'the session with pid ' || l.pid || coalesce(' of ' || quote_ident(a.usename), '') || coalesce(' (' || nullif(a.application_name, '') || ')', '') END
		       || CASE WHEN l.granted THEN ' holds ' ELSE ' waits for ' END || 'an exclusive lock on ' || l.relation::regclass::text
		       || CASE WHEN n.oid <> n.owner THEN ', which belongs to ' || n.owner::regclass::text ELSE '' END
		FROM pg_locks l JOIN needed n ON n.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = l.virtualtransaction
		LEFT JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
		WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
		  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		ORDER BY l.granted DESC, l.pid`, oids)
	if err != nil {
		return nil
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil
	}
	return found
}

// readElsewhere names what looks like data and is not this database's own.
func readElsewhere(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT CASE c.relkind WHEN 'f' THEN 'foreign table ' ELSE 'materialized view ' END || quote_ident(n.nspname) || '.' || quote_ident(c.relname)
		       || CASE c.relkind WHEN 'f' THEN ': its rows are on another server' ELSE ': computed again at restore' END
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('f', 'm') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		ORDER BY 1`)
	if err != nil {
		return nil, postgres.Classify(err, "list foreign tables and materialized views")
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, postgres.Classify(err, "list foreign tables and materialized views")
	}
	return append([]string{}, names...), nil
}

// readLeftOut names what the database has and no dump shows: what somebody made in the system's own
// schemas, what only a superuser sees, what an extension keeps to itself, and what the server hides.
func readLeftOut(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `
		WITH made AS (
			SELECT c.tableoid, c.oid, c.relnamespace AS namespace, quote_ident(c.relname) AS name FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
			UNION ALL SELECT p.tableoid, p.oid, p.pronamespace, 'function ' || p.oid::regprocedure FROM pg_proc p
			UNION ALL SELECT o.tableoid, o.oid, o.oprnamespace, 'operator ' || o.oid::regoperator FROM pg_operator o
			UNION ALL SELECT t.tableoid, t.oid, t.typnamespace, 'type ' || quote_ident(t.typname) FROM pg_type t WHERE t.typrelid = 0 AND t.typelem = 0
		)
		SELECT m.name || ' stands in the schema ' || n.nspname || ' of the system, which no dump reads'
		FROM made m JOIN pg_namespace n ON n.oid = m.namespace
		WHERE m.oid >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema')
		  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = m.tableoid AND d.objid = m.oid AND d.deptype = 'e')
		UNION ALL
		SELECT 'rows on damaged pages, if there are any: the setting ' || name || ' is on, which hides them'
		FROM pg_settings WHERE name IN ('zero_damaged_pages', 'ignore_checksum_failure') AND setting = 'on'
		UNION ALL
		SELECT 'the options of the user mapping of ' || quote_ident(m.usename) || ' on server ' || quote_ident(m.srvname) || ', if it has any: only a superuser sees them'
		FROM pg_user_mappings m WHERE m.umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
		ORDER BY 1`)
	if err != nil {
		return nil, postgres.Classify(err, "look for what is left out")
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, postgres.Classify(err, "look for what is left out")
	}
	kept, err := readKept(ctx, conn)
	return append(append([]string{}, names...), kept...), err
}

// readKept names the tables and sequences with contents that belong to an extension which does not say
// that they are to be dumped. Whether its script made the contents, nobody can tell.
func readKept(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	const doing = "look for rows that belong to extensions"
	rows, err := conn.Query(ctx, `
		SELECT n.nspname, c.relname, e.extname, c.relkind = 'S' AND pg_sequence_last_value(c.oid) IS NOT NULL, c.relkind = 'r'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		JOIN pg_extension e ON e.oid = d.refobjid
		WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND NOT coalesce(c.oid = ANY (e.extconfig), false)
		ORDER BY 1, 2`)
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	type member struct {
		Schema, Name, Extension string
		Moved, Table            bool
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[member])
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	var kept []string
	for _, m := range members {
		name := postgres.Quote(m.Schema, m.Name)
		holds := m.Moved
		if m.Table {
			if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ONLY "+name+")").Scan(&holds); err != nil {
				return nil, postgres.Classify(err, "see whether table "+name+" of an extension has rows")
			}
		}
		if holds {
			kept = append(kept, fmt.Sprintf("what is in %s: it belongs to the extension %s, which does not mark it to be dumped (pg_extension_config_dump)", name, m.Extension))
		}
	}
	return kept, nil
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
