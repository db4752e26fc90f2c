package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

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
	conn, err := o.Source.Connect(ctx, postgres.WithApp(o.app())) // the keeper's transaction is broken
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	oids := make([]uint32, len(tables))
	for i, r := range tables {
		oids[i] = r.Oid
	}
	found, err := readTexts(ctx, conn, "see who holds a lock", `
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
	return found
}
