package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
)

const (
	// endTimeout bounds the wait for sessions that were told to end.
	endTimeout = 30 * time.Second
	// pollEvery is how often a state that cannot be waited for is looked at.
	pollEvery = 50 * time.Millisecond
)

// database is a row of pg_database.
type database struct {
	oid   uint32
	name  string
	limit int  // of connections
	open  bool // sessions may begin in it
}

// findDatabase finds a database by its oid where one is given, else by its name; nil when there is none.
func findDatabase(ctx context.Context, conn *pgx.Conn, name string, oid uint32) (*database, error) {
	var d database
	err := conn.QueryRow(ctx, "SELECT oid, datname, datconnlimit, datallowconn FROM pg_database WHERE CASE WHEN $2::oid = 0 THEN datname = $1 ELSE oid = $2 END", name, oid).
		Scan(&d.oid, &d.name, &d.limit, &d.open)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, postgres.Classify(err, fmt.Sprintf("look for database %q", name))
	}
	return &d, nil
}

// buildingLimit is the connection limit of a copy from its creation to the transaction that finishes
// it. It is set by the statement that creates the database and differs from the final limit, so one
// look at the catalog tells a whole copy from one in the making.
func (o Options) buildingLimit() int {
	const limit = 1000
	if o.Manifest.Database.ConnectionLimit == limit {
		return limit + 1
	}
	return limit
}

// finished says whether the copy was finished: its own properties are set last.
func (o Options) finished(d *database) bool { return d.limit != o.buildingLimit() }

// Create makes the empty database under its building name, or finds the one that an earlier attempt
// made, and returns its oid.
func Create(ctx context.Context, o Options) (uint32, error) {
	admin, err := o.connectAdmin(ctx)
	if err != nil {
		return 0, err
	}
	defer closeSession(ctx, admin)
	server, err := postgres.ReadServer(ctx, admin)
	if err != nil {
		return 0, err
	}
	if err := o.checkVersion(server); err != nil {
		return 0, err
	}
	if err := o.provideRoles(ctx, admin); err != nil {
		return 0, err
	}
	d, err := findDatabase(ctx, admin, o.Database, 0)
	if err != nil {
		return 0, err
	}
	if d == nil {
		if err := o.refuseTaken(ctx, admin); err != nil {
			return 0, err
		}
		effectCreateDatabase.before.Hit()
		_, err := admin.Exec(ctx, o.createStatement(server.VersionNum), pgx.QueryExecModeSimpleProtocol)
		if err != nil && postgres.State(err) != "42P04" { // another attempt was faster
			return 0, o.explainCreate(err)
		}
		effectCreateDatabase.after.Hit()
		if d, err = findDatabase(ctx, admin, o.Database, 0); err != nil {
			return 0, err
		}
		if d == nil {
			return 0, failure.New(failure.Fenced, "database %q went away while it was made", o.Database)
		}
	}
	if !o.finished(d) {
		return d.oid, o.prepare(ctx)
	}
	return d.oid, unseal(ctx, admin, d) // an earlier run may have waited to put it in place
}

// unseal lets sessions into a copy again that was sealed.
func unseal(ctx context.Context, admin *pgx.Conn, d *database) error {
	if d.open {
		return nil
	}
	_, err := admin.Exec(ctx, allowConnections(d.name, true), pgx.QueryExecModeSimpleProtocol)
	return postgres.Classify(err, fmt.Sprintf("open the copy %q", d.name))
}

// createStatement gives the copy the original's encoding and locale.
func (o Options) createStatement(versionNum int) string {
	return fmt.Sprintf("CREATE DATABASE %s%s CONNECTION LIMIT %d", postgres.Quote(o.Database), postgres.DatabaseLocale(o.Manifest.Database, versionNum), o.buildingLimit())
}

// explainCreate says what a person must do where the server cannot make such a database.
func (o Options) explainCreate(err error) error {
	d := o.Manifest.Database
	switch postgres.State(err) {
	case "42809", "22023", "0A000", "42601":
		return failure.New(failure.MissingProgram, "the server cannot make a database with encoding %s, collation %q, character type %q and locale %q", d.Encoding, d.Collate, d.Ctype, d.Locale).
			Because(postgres.Classify(err, "create the database")).
			Do("install the locale on the server's machine (Debian: apt-get install locales-all, then restart PostgreSQL), then resume the run")
	}
	return postgres.Classify(err, fmt.Sprintf("create database %q", o.Database))
}

// Publish gives the finished copy its final name. Done twice, it finds it done.
func Publish(ctx context.Context, o Options) error {
	admin, err := o.connectAdmin(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, admin)
	d, err := findDatabase(ctx, admin, o.Database, o.Oid)
	switch {
	case err != nil:
		return err
	case d == nil:
		return failure.New(failure.CopyLost, "the copy %q is gone: somebody dropped it", o.Database).Do("start the restore again")
	case d.name == o.Final:
		return nil
	case d.name != o.Database:
		return failure.New(failure.MissingDatabase, "the copy %q was renamed to %q by somebody", o.Database, d.name).Do("rename it back, then resume the run, or abandon it")
	case !o.finished(d):
		return failure.New(failure.Internal, "the copy %q is not finished and cannot be published", o.Database)
	}
	if taken, err := findDatabase(ctx, admin, o.Final, 0); err != nil {
		return err
	} else if taken != nil {
		return o.nameTaken()
	}
	effectRename.before.Hit()
	if err := o.rename(ctx, admin, d.oid); err != nil {
		return err
	}
	effectRename.after.Hit()
	return nil
}

// rename ends the sessions in the copy and renames it.
func (o Options) rename(ctx context.Context, admin *pgx.Conn, oid uint32) error {
	err := o.alone(ctx, admin, oid, "ALTER DATABASE "+postgres.Quote(o.Database)+" RENAME TO "+postgres.Quote(o.Final), fmt.Sprintf("rename %q to %q", o.Database, o.Final))
	if postgres.State(err) == "42P04" {
		return o.nameTaken()
	}
	return err
}

// nameTaken is for a copy that is whole: the other database can make way for it.
func (o Options) nameTaken() error {
	return failure.New(failure.NameTaken, "a database named %q is already there", o.Final).
		Do("rename or drop that one, then resume the run: the whole copy waits as %q; nothing is ever restored over a database", o.Database)
}

// inside are the sessions of roles in a database; the last column says whether this role may end them.
// Others see little of them, and autovacuum's workers are none: the server itself ends those.
const inside = ` FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid CROSS JOIN LATERAL (
	SELECT m.rolsuper OR NOT r.rolsuper AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')) AS mine
	FROM pg_roles m WHERE m.rolname = current_user) may WHERE a.datid = $1 AND a.pid <> pg_backend_pid()`

// alone runs a statement that needs the copy without sessions in it. It ends them, and one that comes
// in between too; those that it may not end are named.
func (o Options) alone(ctx context.Context, admin *pgx.Conn, oid uint32, sql, doing string) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for {
		if _, err := admin.Exec(ctx, "SELECT pg_terminate_backend(a.pid)"+inside+" AND mine", oid); err != nil {
			return postgres.Classify(err, fmt.Sprintf("end the sessions in %q", o.Database))
		}
		_, err := admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		if postgres.State(err) != "55006" { // in use
			return postgres.Classify(err, doing)
		}
		foreign, err := foreigners(ctx, admin, oid)
		if err != nil {
			return err
		}
		if foreign != "" {
			return failure.New(failure.LockHeld, "could not %s: %s is in it, and Upkeep's role may not end that", doing, foreign).
				Do("end it (as its own role or a superuser: SELECT pg_terminate_backend(pid)), then resume the run")
		}
		if !pause(ctx) {
			return failure.New(failure.LockHeld, "could not %s: sessions keep coming into it", doing).Do("end them, then resume the run")
		}
	}
}

// Drop removes the copy while it has its building name; what was published stays, and so does what
// another run works on now. Done twice, it finds it done.
func Drop(ctx context.Context, o Options) error {
	admin, err := o.connectAdmin(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, admin)
	d, err := findDatabase(ctx, admin, o.Database, 0)
	if err != nil || d == nil || o.Oid != 0 && d.oid != o.Oid {
		return err
	}
	holder, err := keeperOf(ctx, admin, d.oid)
	if err != nil {
		return err
	}
	if holder != "" && holder != appName(o.Owner) {
		return nil
	}
	if err := o.dropSubscriptions(ctx, admin); err != nil {
		return err
	}
	effectDrop.before.Hit()
	reload := proof.ReloadName(o.Database)
	if _, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+postgres.Quote(reload)+" WITH (FORCE)", pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgres.Classify(err, fmt.Sprintf("drop database %q", reload))
	}
	doing := fmt.Sprintf("drop the half database %q", o.Database)
	drop := "DROP DATABASE IF EXISTS " + postgres.Quote(o.Database)
	_, err = admin.Exec(ctx, drop+" WITH (FORCE)", pgx.QueryExecModeSimpleProtocol)
	if postgres.State(err) == "42501" { // it may not end every session, such as autovacuum's, by force
		err = o.alone(ctx, admin, d.oid, drop, doing)
	}
	if err != nil {
		return postgres.Classify(err, doing)
	}
	effectDrop.after.Hit()
	return nil
}

// dropSubscriptions removes the copy's subscriptions, which would keep it from being dropped. They let
// go of their slot first: it is the original's.
func (o Options) dropSubscriptions(ctx context.Context, admin *pgx.Conn) error {
	doing := fmt.Sprintf("remove the subscriptions of the half database %q", o.Database)
	rows, err := admin.Query(ctx, "SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1", o.Database)
	if err != nil {
		return postgres.Classify(err, doing)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return postgres.Classify(err, doing)
	}
	d, err := findDatabase(ctx, admin, o.Database, 0)
	if err != nil || d == nil {
		return err
	}
	if err := unseal(ctx, admin, d); err != nil {
		return err
	}
	conn, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	for _, name := range names {
		sub := postgres.Quote(name)
		for _, sql := range []string{"ALTER SUBSCRIPTION " + sub + " DISABLE", "ALTER SUBSCRIPTION " + sub + " SET (slot_name = NONE)", "DROP SUBSCRIPTION IF EXISTS " + sub} {
			if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil && postgres.State(err) != "42704" { // a twin was faster
				return postgres.Classify(err, doing)
			}
		}
	}
	return nil
}

// pause waits a little; false when the context is over.
func pause(ctx context.Context) bool { return pauseFor(ctx, pollEvery) }

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
