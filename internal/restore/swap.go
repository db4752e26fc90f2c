package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
)

const (
	// swapVersion is the version of a swap's plan.
	swapVersion = 1
	// lockWithin is how long the lock on the live database is waited for, with whoever wants to connect
	// behind it.
	lockWithin = 2 * time.Second
	// MaxName is the longest name of a database, in bytes.
	MaxName = 63
)

var (
	effectSeal = effect{fault.NewPoint("seal/before"), fault.NewPoint("seal/after")}
	effectSwap = effect{fault.NewPoint("swap/before"), fault.NewPoint("swap/after")}
)

// Named is a database as its server knows it.
type Named struct {
	Name string `json:"name"`
	Oid  uint32 `json:"oid"`
}

// Swap is the plan by which a finished copy takes a live database's name. All but Sessions and Remarks
// are facts: a plan whose facts have changed is void.
type Swap struct {
	Version int    `json:"version"` // of the plan's schema
	Server  string `json:"server"`  // its system identifier; empty where the role may not read it
	Backup  string `json:"backup"`
	Live    Named  `json:"live"` // goes
	Copy    Named  `json:"copy"` // comes
	Kept    string `json:"kept"` // the name under which the live one stays

	Sessions int      `json:"sessions"` // in the live database when the plan was made; they are ended
	Remarks  []string `json:"remarks"`  // what a person should know
}

// Swapped is what a swap did.
type Swapped struct {
	Ended  int           // sessions
	Closed time.Duration // from the first lock on the live database to the end, at most
	Before bool          // an earlier attempt did it
}

// CheckReplaceable refuses what cannot be replaced, before anything is restored.
func CheckReplaceable(ctx context.Context, o Options, live string) error {
	admin, err := o.connectApart(ctx, live)
	if err != nil {
		return err
	}
	defer closeSession(ctx, admin)
	d, err := findDatabase(ctx, admin, live, 0)
	if err != nil {
		return err
	}
	if d == nil {
		return failure.New(failure.MissingDatabase, "there is no database %q to replace", live).
			Do("restore beside instead, under that name: leave out mode and confirm, and set database=%s", live)
	}
	return o.replaceable(ctx, admin, d)
}

// replaceable refuses a database that the server would not rename, or that holds what Upkeep stands on.
func (o Options) replaceable(ctx context.Context, admin *pgx.Conn, live *database) error {
	var template, mine, create bool
	var prepared []string
	err := admin.QueryRow(ctx, `SELECT d.datistemplate, pg_has_role(d.datdba, 'USAGE'), r.rolsuper OR r.rolcreatedb,
		ARRAY(SELECT gid FROM pg_prepared_xacts WHERE database = d.datname ORDER BY gid LIMIT 5)::text[]
		FROM pg_database d, pg_roles r WHERE d.oid = $1 AND r.rolname = current_user`, live.oid).Scan(&template, &mine, &create, &prepared)
	switch {
	case err != nil:
		return postgres.Classify(err, fmt.Sprintf("look at database %q", live.name))
	case template:
		return failure.New(failure.NotReplaceable, "database %q is a template", live.name).Do("see why it is one; ALTER DATABASE ... IS_TEMPLATE false")
	case !mine || !create:
		return failure.New(failure.MissingRight, "Upkeep's role may not rename database %q", live.name).
			Do("give the role CREATEDB and make it a member of the database's owner, then resume the run")
	case len(prepared) > 0:
		return failure.New(failure.LockHeld, "prepared transactions are open in database %q: %s", live.name, strings.Join(prepared, ", ")).
			Do("commit or roll them back, then resume the run")
	}
	return o.refuseTemporal(ctx, live.name)
}

// refuseTemporal refuses a database that holds Temporal's own state: the run that replaced it would be
// cut off from its own history in the middle of the swap.
func (o Options) refuseTemporal(ctx context.Context, name string) error {
	conn, err := o.Server.Connect(ctx, postgres.WithDatabase(name), postgres.WithApp("upkeep-admin"))
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	temporal, err := postgres.HoldsTemporal(ctx, conn)
	if err != nil {
		return err
	}
	if temporal {
		return failure.New(failure.NotReplaceable, "database %q holds the state of a Temporal server, which a run must not replace", name).
			Do("stop Temporal, restore beside without it (upkeep restore --direct), and rename by hand")
	}
	return nil
}

// connectApart opens a session in a database that is none of those.
func (o Options) connectApart(ctx context.Context, but ...string) (*pgx.Conn, error) {
	var last error
	for _, name := range []string{"postgres", "template1"} {
		if slices.Contains(but, name) {
			continue
		}
		conn, err := o.Server.Connect(ctx, postgres.WithDatabase(name), postgres.WithApp("upkeep-admin"))
		if err == nil {
			return conn, nil
		}
		if last == nil {
			last = err
		}
	}
	return nil, last
}

// Seal keeps everybody out of the finished copy, so that what was compared is what is put in place. Done
// twice, it finds it done; Create opens the copy again.
func Seal(ctx context.Context, o Options) error {
	admin, err := o.connectApart(ctx, o.Database)
	if err != nil {
		return err
	}
	defer closeSession(ctx, admin)
	d, err := findDatabase(ctx, admin, o.Database, o.Oid)
	switch {
	case err != nil:
		return err
	case d == nil || d.name != o.Database:
		return failure.New(failure.CopyLost, "the copy %q is gone: somebody dropped or renamed it", o.Database).Do("start the restore again")
	case !o.finished(d):
		return failure.New(failure.Internal, "the copy %q is not finished and cannot be sealed", o.Database)
	}
	if d.open {
		effectSeal.before.Hit()
		if _, err := admin.Exec(ctx, allowConnections(d.name, false), pgx.QueryExecModeSimpleProtocol); err != nil {
			return postgres.Classify(err, fmt.Sprintf("keep sessions out of the copy %q", d.name))
		}
		effectSeal.after.Hit()
	}
	_, err = admin.Exec(ctx, "SELECT pg_terminate_backend(a.pid)"+inside+" AND mine", d.oid)
	return postgres.Classify(err, fmt.Sprintf("end the sessions in the copy %q", d.name))
}

func allowConnections(name string, allow bool) string {
	return fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %t", postgres.Quote(name), allow)
}

// PlanSwap says how the sealed copy of a backup would take the live database's name. It changes nothing,
// and needs neither the backup nor its manifest.
func PlanSwap(ctx context.Context, o Options, backup, live string, at time.Time) (*Swap, error) {
	admin, err := o.connectApart(ctx, live, o.Database)
	if err != nil {
		return nil, err
	}
	defer closeSession(ctx, admin)
	server, err := postgres.ReadServer(ctx, admin)
	if err != nil {
		return nil, err
	}
	from, err := findDatabase(ctx, admin, live, 0)
	if err != nil {
		return nil, err
	}
	if from == nil {
		return nil, failure.New(failure.MissingDatabase, "there is no database %q to replace any more", live).
			Do("see who dropped or renamed it; to go on without it, abandon the run and restore beside under that name")
	}
	to, err := findDatabase(ctx, admin, o.Database, o.Oid)
	if err != nil {
		return nil, err
	}
	if to == nil || to.name != o.Database {
		return nil, failure.New(failure.CopyLost, "the copy %q is gone: somebody dropped or renamed it", o.Database).Do("start the restore again")
	}
	if err := o.replaceable(ctx, admin, from); err != nil {
		return nil, err
	}
	s := &Swap{
		Version: swapVersion, Server: server.SystemIdentifier, Backup: backup, Live: Named{from.name, from.oid}, Copy: Named{to.name, to.oid},
		Kept: keptName(live, at), Remarks: []string{},
	}
	var slots, subscriptions int
	err = admin.QueryRow(ctx, `SELECT (SELECT count(*)`+inside+`),
		(SELECT count(*) FROM pg_replication_slots WHERE database = $2), (SELECT count(*) FROM pg_subscription WHERE subdbid = $1)`, from.oid, from.name).
		Scan(&s.Sessions, &slots, &subscriptions)
	if err != nil {
		return nil, postgres.Classify(err, fmt.Sprintf("see who uses database %q", live))
	}
	if slots > 0 {
		s.Remarks = append(s.Remarks, fmt.Sprintf("%d logical replication slots of %q stay with the database that is kept as %q: who reads them goes on reading that one", slots, live, s.Kept))
	}
	if subscriptions > 0 {
		s.Remarks = append(s.Remarks, fmt.Sprintf("%d subscriptions of %q stay with the database that is kept as %q, and go on there; those of the copy are disabled", subscriptions, live, s.Kept))
	}
	return s, nil
}

// keptName is the name under which a replaced database stays.
func keptName(live string, at time.Time) string {
	suffix := "_replaced_" + at.UTC().Format("20060102_150405")
	for len(live)+len(suffix) > MaxName {
		runes := []rune(live)
		live = string(runes[:len(runes)-1])
	}
	return live + suffix
}

// Apply puts the copy in the live database's place. The live one's name is taken away while it is locked
// against new sessions and those in it are ended by another session; the server does that, and gives
// the name to the copy, in one transaction that needs nothing of this process. So whatever dies, there
// is always one of the two under the name, and it is open. Done twice, it finds it done.
func (s Swap) Apply(ctx context.Context, o Options) (Swapped, error) {
	admin, err := o.connectApart(ctx, s.Live.Name, s.Copy.Name, s.Kept)
	if err != nil {
		return Swapped{}, err
	}
	defer closeSession(ctx, admin)
	done, err := s.check(ctx, o, admin)
	if err != nil || done {
		return Swapped{Before: true}, err
	}
	ender, err := o.connectApart(ctx, s.Live.Name, s.Copy.Name, s.Kept)
	if err != nil {
		return Swapped{}, err
	}
	defer closeSession(ctx, ender)
	progress.Report(ctx, progress.Progress{Phase: "putting the copy in place", Note: s.Live.Name})
	within, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	var out Swapped
	for {
		if foreign, err := foreigners(within, admin, s.Live.Oid); err != nil {
			return out, err
		} else if foreign != "" { // before anybody is thrown out for nothing
			return out, failure.New(failure.LockHeld, "could not %s: %s is in it, and Upkeep's role may not end that", s.doing(), foreign).
				Do("end it (as its own role or a superuser: SELECT pg_terminate_backend(pid)), then resume the run")
		}
		began := time.Now()
		effectSwap.before.Hit()
		err := s.rename(within, admin, ender, &out.Ended)
		out.Closed = time.Since(began)
		switch {
		case err == nil:
			effectSwap.after.Hit()
			return out, nil
		case postgres.State(err) == "22012":
			return out, s.void("another attempt, or somebody, has renamed one of the databases")
		case postgres.State(err) != "55006" && postgres.State(err) != "55P03": // in use, or its lock is
			return out, postgres.Classify(err, s.doing())
		}
		if _, err := admin.Exec(within, "ROLLBACK"); err != nil {
			return out, postgres.Classify(err, s.doing())
		}
		// Meanwhile the database is open: somebody may need it to let go of what is in the way.
		if !pauseFor(within, lockWithin) {
			return out, failure.New(failure.LockHeld, "could not %s: somebody locks it, or sessions in it do not end", s.doing()).
				Do("see pg_stat_activity and pg_locks for who does, then resume the run")
		}
		if done, err := s.check(ctx, o, admin); err != nil || done {
			return Swapped{Before: true}, err
		}
	}
}

// Done asks the server whether the copy has the live database's name. It changes nothing.
func (s Swap) Done(ctx context.Context, o Options) (bool, error) {
	admin, err := o.connectApart(ctx, s.Live.Name, s.Copy.Name, s.Kept)
	if err != nil {
		return false, err
	}
	defer closeSession(ctx, admin)
	server, err := postgres.ReadServer(ctx, admin)
	if err != nil {
		return false, err
	}
	copied, err := findDatabase(ctx, admin, "", s.Copy.Oid)
	return err == nil && server.SystemIdentifier == s.Server && copied != nil && copied.name == s.Live.Name, err
}

func (s Swap) doing() string { return fmt.Sprintf("replace database %q", s.Live.Name) }

// rename does the swap in one transaction, while the other session ends those who are in the way.
func (s Swap) rename(ctx context.Context, admin, ender *pgx.Conn, ended *int) error {
	name, kept, temporary := postgres.Quote(s.Live.Name), postgres.Quote(s.Kept), postgres.Quote(s.Copy.Name)
	batch := strings.Join([]string{
		"BEGIN",
		fmt.Sprintf("SET LOCAL lock_timeout = %d", lockWithin.Milliseconds()),
		"SET LOCAL synchronous_commit = on",
		"ALTER DATABASE " + name + " RENAME TO " + kept,
		"ALTER DATABASE " + temporary + " RENAME TO " + name,
		allowConnections(s.Live.Name, true),
		// A name can be another database's by now: unless each of the two is what the plan says, it fails.
		fmt.Sprintf("SELECT 1 / ((SELECT count(*) FROM pg_database WHERE oid = %d AND datname = %s OR oid = %d AND datname = %s) / 2)",
			s.Live.Oid, postgres.Literal(s.Kept), s.Copy.Oid, postgres.Literal(s.Live.Name)),
		"COMMIT",
	}, ";\n")
	result := make(chan error, 1)
	go func() {
		_, err := admin.Exec(ctx, batch, pgx.QueryExecModeSimpleProtocol)
		result <- err
	}()
	for {
		var n int
		err := ender.QueryRow(ctx, "SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))"+inside+" AND mine"+behindLock, s.Live.Oid, int32(admin.PgConn().PID())).Scan(&n)
		*ended = max(*ended, n) // one that takes a moment to end is told again
		if err != nil {
			if renamed := <-result; renamed == nil {
				return nil
			}
			return postgres.Classify(err, "end the sessions of "+name)
		}
		select {
		case err := <-result:
			return err
		case <-time.After(pollEvery / 5):
		}
	}
}

// behindLock holds once a session has the lock that keeps others from coming into the database: before
// that nobody is thrown out.
const behindLock = ` AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = $2 AND l.locktype = 'object' AND l.classid = 'pg_database'::regclass
	AND l.objid = $1 AND l.mode = 'AccessExclusiveLock' AND l.granted)`

// check holds the plan's facts against the server; done says that the swap has been made.
func (s Swap) check(ctx context.Context, o Options, admin *pgx.Conn) (done bool, err error) {
	void := s.void
	server, err := postgres.ReadServer(ctx, admin)
	if err != nil {
		return false, err
	}
	if s.Version != swapVersion || server.SystemIdentifier != s.Server {
		return false, void("it is another server's, or of another version of Upkeep")
	}
	to, err := findDatabase(ctx, admin, "", s.Copy.Oid)
	if err != nil {
		return false, err
	}
	from, err := findDatabase(ctx, admin, "", s.Live.Oid)
	if err != nil {
		return false, err
	}
	switch {
	case to == nil:
		return false, void("the copy %q is gone", s.Copy.Name)
	case to.name == s.Live.Name:
		return true, nil
	case to.name != s.Copy.Name:
		return false, void("the copy %q was renamed to %q", s.Copy.Name, to.name)
	case to.open:
		return false, void("the copy %q was opened since it was compared", s.Copy.Name)
	case from == nil || from.name != s.Live.Name:
		return false, void("the database that had the name %q is gone, or has another name", s.Live.Name)
	}
	kept, err := findDatabase(ctx, admin, s.Kept, 0)
	if err != nil {
		return false, err
	}
	if kept != nil {
		return false, void("there is a database %q already", s.Kept)
	}
	return false, o.replaceable(ctx, admin, from)
}

func (s Swap) void(format string, args ...any) error {
	return failure.New(failure.PlanVoid, "the plan is void: "+format, args...).Do("look at the new plan and decide again")
}

// foreigners names the sessions in a database that this role may not end; "" when there are none.
func foreigners(ctx context.Context, admin *pgx.Conn, oid uint32) (string, error) {
	var foreign string
	err := admin.QueryRow(ctx, "SELECT coalesce(string_agg(format('the session with pid %s of %s', a.pid, r.rolname), ', ' ORDER BY a.pid), '')"+inside+" AND NOT mine", oid).Scan(&foreign)
	return foreign, postgres.Classify(err, "see who is in the database")
}

// Kept is a database that a copy has replaced, and that stays for a while.
type Kept struct {
	Server   string    `json:"server"` // its system identifier
	Database Named     `json:"database"`
	Replaced time.Time `json:"replaced"`
	RunID    string    `json:"runId"`
	Backup   string    `json:"backup"` // what took its place
}

// DropKept drops a database that was replaced, if it is still the one and has still that name. Done
// twice, it finds it done. It reports whether there is nothing of it any more.
func DropKept(ctx context.Context, server postgres.Config, k Kept) (gone bool, err error) {
	o := Options{Server: server}
	admin, err := o.connectApart(ctx, k.Database.Name)
	if err != nil {
		return false, err
	}
	defer closeSession(ctx, admin)
	is, err := postgres.ReadServer(ctx, admin)
	if err != nil || is.SystemIdentifier != k.Server {
		return false, err
	}
	d, err := findDatabase(ctx, admin, "", k.Database.Oid)
	if err != nil {
		return false, err
	}
	if d == nil {
		return true, nil
	}
	if d.name != k.Database.Name {
		return false, nil // somebody uses it under another name
	}
	effectDrop.before.Hit()
	doing := fmt.Sprintf("drop the replaced database %q", d.name)
	// Not by force: who is in it, or subscribes through it, uses it.
	_, err = admin.Exec(ctx, "DROP DATABASE IF EXISTS "+postgres.Quote(d.name), pgx.QueryExecModeSimpleProtocol)
	if postgres.State(err) == "55006" {
		return false, nil
	}
	if err != nil {
		return false, postgres.Classify(err, doing)
	}
	effectDrop.after.Hit()
	return true, nil
}
