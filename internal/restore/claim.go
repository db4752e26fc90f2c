package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

const (
	appPrefix = "upkeep-restore "
	maxApp    = 63 // bytes that the server keeps of an application_name

	// The advisory locks, in the copy's own database: of the session that stands for the attempt, and of
	// who begins or finishes the copy. Two attempts that begin at once would trip over each other, and one
	// that begins late must not open what another has finished.
	lockClass, lockObject, lockEnds = 0x55504b50, 1, 2
)

// appName is the application_name of every session that works for a run on a copy.
func appName(owner string) string {
	plain := strings.IndexFunc(owner, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	if plain && len(appPrefix+owner) <= maxApp {
		return appPrefix + owner
	}
	sum := sha256.Sum256([]byte(owner))
	return appPrefix + hex.EncodeToString(sum[:16])
}

// bookkeeping is the schema that remembers what is done. The function is all that the sessions of
// table owners may use of it: it writes a mark, and only for the attempt that holds the claim. The
// claim's row stays locked until the mark is committed, so a newer attempt cannot begin in between.
// Every table has a key: a publication of the backup FOR ALL TABLES demands it of what is updated.
// Fleeting marks are in an unlogged table: a crash of the server empties it with what they speak of.
const bookkeeping = `
CREATE SCHEMA IF NOT EXISTS upkeep_restore;
CREATE TABLE IF NOT EXISTS upkeep_restore.claim (epoch bigint PRIMARY KEY, owner text NOT NULL);
INSERT INTO upkeep_restore.claim SELECT 0, '' WHERE NOT EXISTS (SELECT FROM upkeep_restore.claim);
CREATE TABLE IF NOT EXISTS upkeep_restore.mark (kind text, key text, PRIMARY KEY (kind, key));
CREATE UNLOGGED TABLE IF NOT EXISTS upkeep_restore.fleeting (kind text, key text, PRIMARY KEY (kind, key));
CREATE OR REPLACE FUNCTION upkeep_restore.done(attempt bigint, what text, which text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
	WITH held AS (SELECT FROM upkeep_restore.claim WHERE epoch = attempt FOR SHARE),
	     marked AS (INSERT INTO upkeep_restore.mark SELECT what, which FROM held WHERE what <> '` + markFleeting + `' RETURNING 1),
	     fleeting AS (INSERT INTO upkeep_restore.fleeting SELECT what, which FROM held WHERE what = '` + markFleeting + `' RETURNING 1)
	SELECT (SELECT pg_catalog.count(*) FROM marked) + (SELECT pg_catalog.count(*) FROM fleeting)
$$;
GRANT USAGE ON SCHEMA upkeep_restore TO PUBLIC;`

// prepare makes the bookkeeping in the new database, in one transaction. What has it is prepared, and
// what is finished needs it no more.
func (o Options) prepare(ctx context.Context) error {
	conn, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn) // which ends the transaction, if it is open
	doing := fmt.Sprintf("prepare database %q", o.Database)
	var prepared bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('upkeep_restore.claim') IS NOT NULL").Scan(&prepared); err != nil || prepared {
		return postgres.Classify(err, doing)
	}
	effectPrepare.before.Hit()
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return postgres.Classify(err, doing)
	}
	if err := o.lockEnds(ctx, conn); err != nil {
		return err
	}
	d, err := findDatabase(ctx, conn, o.Database, 0)
	if err != nil || d == nil || o.finished(d) {
		return err
	}
	sql := bookkeeping
	if !o.Private { // nobody looks into a half database, or writes marks there
		sql += "REVOKE ALL ON DATABASE " + postgres.Quote(o.Database) + " FROM PUBLIC;"
	}
	if _, err := conn.Exec(ctx, sql+"COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgres.Classify(err, doing)
	}
	effectPrepare.after.Hit()
	return nil
}

// lockEnds keeps who begins the copy and who finishes it apart, for the session's open transaction. One
// that does not let go is frozen; the next attempt's claim ends it.
func (o Options) lockEnds(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; SELECT pg_advisory_xact_lock(%d, %d); SET LOCAL lock_timeout = 0",
		endTimeout.Milliseconds(), lockClass, lockEnds), pgx.QueryExecModeSimpleProtocol)
	if postgres.State(err) == "55P03" {
		return failure.New(failure.Fenced, "another attempt begins or finishes the copy %q", o.Database)
	}
	return postgres.Classify(err, "begin or finish the copy")
}

// connect opens a session in the copy that belongs to this run.
func (o Options) connect(ctx context.Context, more ...postgres.Option) (*pgx.Conn, error) {
	return o.Server.Connect(ctx, append([]postgres.Option{postgres.WithDatabase(o.Database), postgres.WithApp(appName(o.Owner))}, more...)...)
}

// keeperOf names the application of the session that holds the copy's lock; "" when nobody does.
func keeperOf(ctx context.Context, conn *pgx.Conn, oid uint32) (string, error) {
	var app string
	err := conn.QueryRow(ctx, `SELECT coalesce(a.application_name, '') FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.database = $1 AND l.classid = $2 AND l.objid = $3 AND l.objsubid = 2 AND l.granted`,
		oid, uint32(lockClass), uint32(lockObject)).Scan(&app)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return app, postgres.Classify(err, "see who works on the copy")
}

// claim makes this attempt the only one that works on the copy. Sessions of the same run, and of runs
// whose keeper is gone, are ended; a living other run is left alone.
func (l *loader) claim(ctx context.Context) (err error) {
	if l.keeper, err = l.connect(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for locked := false; !locked; {
		if err := l.keeper.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", lockClass, lockObject).Scan(&locked); err != nil {
			return postgres.Classify(err, "claim the copy")
		}
		if locked {
			break
		}
		holder, err := keeperOf(ctx, l.keeper, l.oid)
		if err != nil {
			return err
		}
		if holder != "" && holder != appName(l.Owner) {
			return failure.New(failure.RestoreBusy, "another run (%s) works on the copy %q", strings.TrimPrefix(holder, appPrefix), l.Database).
				Do("wait for it or cancel it, then resume the run")
		}
		if err := l.endOthers(ctx, appName(l.Owner)); err != nil {
			return err
		}
		if !pause(ctx) {
			return failure.New(failure.Fenced, "an earlier attempt of this run does not let go of the copy %q", l.Database)
		}
	}
	for {
		if err := l.endOthers(ctx, ""); err != nil {
			return err
		}
		var left int
		if err := l.keeper.QueryRow(ctx, "SELECT count(*)"+others, appPrefix, "").Scan(&left); err != nil {
			return postgres.Classify(err, "wait for an earlier attempt to end")
		}
		if left == 0 {
			break
		}
		if !pause(ctx) {
			return failure.New(failure.Fenced, "sessions of an earlier attempt on the copy %q do not end", l.Database)
		}
	}
	effectClaim.before.Hit()
	err = l.keeper.QueryRow(ctx, "UPDATE upkeep_restore.claim SET epoch = epoch + 1, owner = $1 RETURNING epoch", l.Owner).Scan(&l.epoch)
	if err != nil {
		return postgres.Classify(err, "claim the copy")
	}
	effectClaim.after.Hit()
	return nil
}

// others are the sessions of other attempts in this database: of any run, or of the given one.
const others = ` FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
	AND starts_with(application_name, $1) AND ($2 = '' OR application_name = $2)`

func (l *loader) endOthers(ctx context.Context, app string) error {
	_, err := l.keeper.Exec(ctx, "SELECT pg_terminate_backend(pid)"+others, appPrefix, app)
	return postgres.Classify(err, "end the sessions of an earlier attempt")
}

// transact does a piece of work and marks it done, both or neither, and neither when a newer attempt
// has taken over. What is marked already is not done again.
func (l *loader) transact(ctx context.Context, conn *pgx.Conn, e effect, m mark, work func() error) error {
	e.before.Hit()
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return postgres.Classify(err, "begin to restore")
	}
	if err := work(); err != nil {
		return err
	}
	if err := l.record(ctx, conn, m); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return postgres.Classify(err, "commit what was restored")
	}
	e.after.Hit()
	return nil
}

// record writes the mark in the session's open transaction.
func (l *loader) record(ctx context.Context, conn *pgx.Conn, m mark) error {
	effectMark.before.Hit()
	var marked int64
	if err := conn.QueryRow(ctx, "SELECT upkeep_restore.done($1, $2, $3)", l.epoch, m.kind, m.key).Scan(&marked); err != nil {
		return postgres.Classify(err, "mark what was restored")
	}
	if marked != 1 {
		return failure.New(failure.Fenced, "a newer attempt has taken over the copy %q", l.Database)
	}
	effectMark.after.Hit()
	return nil
}

// mark names a piece of work that is done or not: its key is stable over attempts and runs.
type mark struct{ kind, key string }

func (l *loader) readMarks(ctx context.Context) error {
	rows, err := l.keeper.Query(ctx, "SELECT kind, key FROM upkeep_restore.mark UNION ALL SELECT kind, key FROM upkeep_restore.fleeting")
	if err != nil {
		return postgres.Classify(err, "read what is restored already")
	}
	l.marks = make(map[mark]bool)
	var m mark
	_, err = pgx.ForEachRow(rows, []any{&m.kind, &m.key}, func() error {
		l.marks[m] = true
		return nil
	})
	return postgres.Classify(err, "read what is restored already")
}
