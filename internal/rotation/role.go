package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

const (
	// setting is the role's setting in which what was done is noted. Sessions of the role have it, and it
	// means nothing to them.
	setting = "upkeep.rotation"
)

var (
	prepareBefore  = fault.NewPoint("rotate/prepare/before")
	prepareAfter   = fault.NewPoint("rotate/prepare/after")
	withdrawBefore = fault.NewPoint("rotate/withdraw/before")
	withdrawAfter  = fault.NewPoint("rotate/withdraw/after")
	retireBefore   = fault.NewPoint("rotate/retire/before")
	retireAfter    = fault.NewPoint("rotate/retire/after")
)

// How far a rotation has come, as the role says.
const (
	prepared  = "prepared"
	withdrawn = "withdrawn"
	retired   = "retired"
)

// mark is what is noted on the role that has the privileges.
type mark struct {
	held.Order
	To      string    `json:"to"`
	State   string    `json:"state"`
	Pending types.UID `json:"pending"`
	Made    bool      `json:"made,omitempty"`   // the role was not there before
	Changed time.Time `json:"changed,omitzero"` // when a password was replaced that there is no overlap of, by the server's clock
}

// Roles changes the roles of a rotation. The new password, and the one before, it reads from the pending
// Secret itself.
type Roles struct {
	Secrets Secrets
	Server  postgres.Config
}

// RolesPlan is what of a rotation is in the database.
type RolesPlan struct {
	Sessions int      `json:"sessions"` // of the role that logs in now
	Makes    bool     `json:"makes"`    // the new role is not there yet
	Remarks  []string `json:"remarks,omitempty"`
}

// role is what is known of one.
type role struct {
	oid                                         uint32
	login, super, creates, replicates, bypasses bool
	limit                                       int
	expires                                     bool
	owns                                        int // objects that are its own, or that were granted to it
	others                                      []string
}

func (r Roles) connect(ctx context.Context) (*pgx.Conn, error) { return r.Server.Connect(ctx) }

// lookUp reads a role; nil: there is none.
func lookUp(ctx context.Context, db querier, name, privileged string) (*role, error) {
	var r role
	err := db.QueryRow(ctx, `
		SELECT r.oid, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolreplication, r.rolbypassrls, r.rolconnlimit, coalesce(r.rolvaliduntil < 'infinity', false),
			(SELECT count(*) FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype IN ('o', 'a', 'r')),
			coalesce((SELECT array_agg(o.rolname::text ORDER BY 1) FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.roleid WHERE m.member = r.oid AND o.rolname <> $2), '{}')
		FROM pg_roles r WHERE r.rolname = $1`, name, privileged).
		Scan(&r.oid, &r.login, &r.super, &r.creates, &r.replicates, &r.bypasses, &r.limit, &r.expires, &r.owns, &r.others)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &r, postgres.Classify(err, "look at role "+name)
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func notRotatable(format string, args ...any) *failure.Error {
	return failure.New(failure.NotRotatable, format, args...)
}

// Look says what a rotation would do in the database. It changes nothing, and refuses what cannot be done
// safely. Left says that an earlier run's is gone on with.
func (r Roles) Look(ctx context.Context, e Entry, from, to string, left bool) (p RolesPlan, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return p, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if holds, err := postgres.HoldsTemporal(ctx, conn); err != nil {
		return p, err
	} else if holds {
		return p, failure.New(failure.NotItself, "could not rotate secret %s: a Temporal server keeps its state in this database, on which Upkeep itself may run", e.Name).Do("rotate it by hand, with that Temporal stopped")
	}
	var self string
	var super, creates bool
	err = conn.QueryRow(ctx, "SELECT rolname::text, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = session_user").Scan(&self, &super, &creates)
	if err != nil {
		return p, postgres.Classify(err, "look at Upkeep's own role")
	}
	for _, name := range []string{from, to, e.Privileged()} {
		if name == self {
			return p, failure.New(failure.NotItself, "could not rotate secret %s: Upkeep itself logs in as role %s", e.Name, name).Do("give Upkeep a role of its own, and start a new run")
		}
		if strings.HasPrefix(name, "pg_") || name == "postgres" {
			return p, notRotatable("role %s is the server's own", name).Do("give the programs a role of their own, and start a new run")
		}
	}
	if !super && !creates {
		return p, failure.New(failure.MissingRight, "the role %s that Upkeep uses may not change other roles", self).
			Do("ALTER ROLE %s CREATEROLE, and from version 16 on GRANT %s TO %[1]s WITH ADMIN OPTION, then resume the run", postgres.Quote(self), postgres.Quote(e.Privileged()))
	}
	if err := r.lookAt(ctx, conn, e, from, to, left, &p); err != nil {
		return p, err
	}
	if p.Sessions, err = r.count(ctx, conn, e, from, time.Time{}); err != nil {
		return p, err
	}
	return p, r.control(ctx, from)
}

// lookAt refuses roles that cannot be rotated.
func (r Roles) lookAt(ctx context.Context, conn *pgx.Conn, e Entry, from, to string, left bool, p *RolesPlan) error {
	privileged := e.Privileged()
	for _, name := range []string{privileged, from, to} {
		found, err := lookUp(ctx, conn, name, privileged)
		if err != nil {
			return err
		}
		if found == nil {
			if name == to && e.Overlap() {
				p.Makes = true
				continue
			}
			return failure.New(failure.MissingRole, "the server has no role %s, which secret %s in upkeep.yaml names", name, e.Name).Do("create it, or correct upkeep.yaml, then resume the run")
		}
		switch {
		case found.super || found.replicates:
			return notRotatable("role %s is a superuser's or of replication: whoever else logs in with it is not known to Upkeep", name).Do("rotate its password by hand, or give the programs a role with the rights that they need")
		case e.Overlap() && name != privileged && found.creates:
			return notRotatable("role %s may create roles, which goes by no membership", name).Do("ALTER ROLE %s NOCREATEROLE, and start a new run", postgres.Quote(name))
		case e.Overlap() && name != privileged && (found.owns > 0 || len(found.others) > 0):
			what := fmt.Sprintf("%d objects or rights of its own", found.owns)
			if len(found.others) > 0 {
				what += ", and is a member of " + strings.Join(found.others, ", ")
			}
			return notRotatable("role %s has %s, which another that logs in for %s would not have", name, what, privileged).
				Do("give them to %s (REASSIGN OWNED BY %s TO %s, GRANT), and start a new run", privileged, postgres.Quote(name), postgres.Quote(privileged))
		case name == from && !found.login && !left:
			return notRotatable("role %s, which the Secret names, may not log in", name).Do("see who uses the Secret at all")
		case e.Overlap() && name == to && found.login && !left:
			return notRotatable("role %s may log in already, and the Secret does not name it", name).Do("see who logs in with it; when nobody does, ALTER ROLE %s NOLOGIN PASSWORD NULL, and start a new run", postgres.Quote(name))
		case name == from && found.expires:
			p.Remarks = append(p.Remarks, fmt.Sprintf("the password of role %s has an end (VALID UNTIL), which the new one has not", name))
		}
	}
	return nil
}

// control checks that the server refuses a wrong password where the worker comes from: else a login that
// works would prove nothing.
func (r Roles) control(ctx context.Context, name string) error {
	err := r.login(ctx, name, newPassword(), nil)
	if failure.Is(err, failure.WrongPassword) {
		return nil
	}
	if err != nil {
		return err
	}
	return notRotatable("the server lets role %s in with any password from where the worker connects, so no login can be proven", name).
		Do("see pg_hba.conf (trust), or run the worker elsewhere, and start a new run")
}

// login logs in and asks something.
func (r Roles) login(ctx context.Context, name, password string, ask func(*pgx.Conn) error) error {
	c := r.Server
	c.Password = func(context.Context) (string, error) { return password, nil }
	conn, err := c.Connect(ctx, postgres.WithUser(name))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if ask == nil {
		return nil
	}
	return ask(conn)
}

// inTransaction works in one that no other rotation for the same privileges works beside, on what is noted.
func (r Roles) inTransaction(ctx context.Context, o Order, doing string, before, after fault.Point, work func(tx pgx.Tx, had *mark) (*mark, error)) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	fail := func(err error) error { return postgres.Classify(err, doing) }
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing, once it is committed
	privileged := o.Entry.Privileged()
	// Whoever is frozen in the middle holds the lock no longer than its next attempt waits for it.
	for _, sql := range []string{"SET LOCAL idle_in_transaction_session_timeout = '15s'", "SET LOCAL lock_timeout = '45s'", "SET LOCAL synchronous_commit = 'on'"} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fail(err)
		}
	}
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('upkeep rotates ' || $1::text, 0))", privileged); err != nil {
		return fail(err)
	}
	had, err := readMark(ctx, tx, privileged)
	if err != nil {
		return err
	}
	now, err := work(tx, had)
	if err != nil || now == nil {
		return fail(err)
	}
	text, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode a mark: %w", err)
	}
	if _, err := tx.Exec(ctx, "ALTER ROLE "+postgres.Quote(privileged)+" SET "+setting+" = "+postgres.Literal(string(text))); err != nil {
		return fail(err)
	}
	before.Hit()
	if err := tx.Commit(ctx); err != nil {
		return fail(err)
	}
	after.Hit()
	return nil
}

func readMark(ctx context.Context, db querier, privileged string) (*mark, error) {
	var text string
	err := db.QueryRow(ctx, `SELECT substr(o, length($2) + 2) FROM pg_db_role_setting s, unnest(s.setconfig) AS o
		WHERE s.setdatabase = 0 AND s.setrole = (SELECT oid FROM pg_roles WHERE rolname = $1) AND starts_with(o, $2 || '=')`, privileged, setting).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, postgres.Classify(err, "read what is noted on role "+privileged)
	}
	var m mark
	if json.Unmarshal([]byte(text), &m) != nil || m.At.IsZero() {
		return nil, notRotatable("the setting %s of role %s cannot be read", setting, privileged).Do("ALTER ROLE %s RESET %s, and start a new run", postgres.Quote(privileged), setting)
	}
	return &m, nil
}

// Prepare gives the role that comes next the new password: one that logs in for the owner is made if it is
// not there, with the settings of the one before. Done twice, it finds it done.
func (r Roles) Prepare(ctx context.Context, o Order) error {
	p, err := r.Secrets.ours(ctx, o)
	if err != nil {
		return err
	}
	return r.prepare(ctx, o, p)
}

func (r Roles) prepare(ctx context.Context, o Order, p *pending) error {
	secret, err := verifier(p.password)
	if err != nil {
		return err
	}
	return r.inTransaction(ctx, o, "prepare role "+o.To, prepareBefore, prepareAfter, func(tx pgx.Tx, had *mark) (*mark, error) {
		now := &mark{Order: o.Order, To: o.To, State: prepared, Pending: p.object.UID}
		if had != nil {
			switch same := had.Pending == p.object.UID; {
			case had.At.After(o.Order.At):
				return nil, void("a later run has come to role %s", o.To)
			case had.At.Equal(o.Order.At) && had.State != prepared:
				return nil, void("this run has ended already what it began with role %s", o.To)
			case same && had.State == withdrawn:
				return nil, void("an earlier run has withdrawn the old password already")
			case same && had.State == prepared:
				now.Made, now.Changed = had.Made, had.Changed
			}
		}
		if !o.Entry.Overlap() {
			if now.Changed.IsZero() {
				if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now.Changed); err != nil {
					return nil, err
				}
			}
			_, err := tx.Exec(ctx, "ALTER ROLE "+postgres.Quote(o.To)+" PASSWORD "+postgres.Literal(secret))
			return now, err
		}
		made, err := prepareLogin(ctx, tx, o, secret)
		now.Made = now.Made || made
		return now, err
	})
}

// prepareLogin makes the second role one that logs in for the owner as the first does.
func prepareLogin(ctx context.Context, tx pgx.Tx, o Order, secret string) (made bool, err error) {
	to, owner := postgres.Quote(o.To), postgres.Quote(o.Entry.Owner)
	is, err := lookUp(ctx, tx, o.To, o.Entry.Owner)
	if err != nil {
		return false, err
	}
	first, err := lookUp(ctx, tx, o.From, o.Entry.Owner)
	if err != nil {
		return false, err
	}
	if first == nil {
		return false, void("role %s is gone", o.From)
	}
	statements := []string{}
	if is == nil {
		made = true
		statements = append(statements, "CREATE ROLE "+to+" NOLOGIN")
	}
	statements = append(statements, "GRANT "+owner+" TO "+to, "ALTER ROLE "+to+" RESET ALL",
		fmt.Sprintf("ALTER ROLE %s LOGIN CONNECTION LIMIT %d PASSWORD %s VALID UNTIL 'infinity'", to, first.limit, postgres.Literal(secret)))
	rows, err := tx.Query(ctx, `SELECT coalesce((SELECT quote_ident(d.datname) FROM pg_database d WHERE d.oid = s.setdatabase), ''), o
		FROM pg_db_role_setting s, unnest(s.setconfig) WITH ORDINALITY AS u(o, n) WHERE s.setrole = $1 ORDER BY s.setdatabase, n`, first.oid)
	if err != nil {
		return false, err
	}
	type item struct{ Database, Setting string }
	settings, err := pgx.CollectRows(rows, pgx.RowToStructByPos[item])
	if err != nil {
		return false, err
	}
	if is != nil { // it may have some of the time when it logged in before
		rows, err := tx.Query(ctx, "SELECT quote_ident(d.datname) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE s.setrole = $1", is.oid)
		if err != nil {
			return false, err
		}
		databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return false, err
		}
		for _, d := range databases {
			statements = append(statements, "ALTER ROLE "+to+" IN DATABASE "+d+" RESET ALL")
		}
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s.Setting, "=")
		if name == setting || name == "role" {
			continue
		}
		in := ""
		if s.Database != "" {
			in = " IN DATABASE " + s.Database
		}
		statements = append(statements, "ALTER ROLE "+to+in+" SET "+quoteSetting(name)+" = "+values(name, value))
	}
	statements = append(statements, "ALTER ROLE "+to+" SET role = "+postgres.Literal(o.Entry.Owner))
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return false, err
		}
	}
	return made, nil
}

// quoteSetting writes a setting's name, which may have a dot.
func quoteSetting(name string) string { return postgres.Quote(strings.Split(name, ".")...) }

// lists are settings whose value is a list of names, as pg_dumpall knows them: the catalog has each of them
// quoted already.
var lists = []string{"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories"}

func values(name, value string) string {
	for _, list := range lists {
		if strings.EqualFold(name, list) && value != "" {
			return value
		}
	}
	return postgres.Literal(value)
}

// ProveLogin logs in with the new password, and sees that a wrong one is refused.
func (r Roles) ProveLogin(ctx context.Context, o Order) ([]run.Check, error) {
	p, err := r.Secrets.ours(ctx, o)
	if err != nil {
		return nil, err
	}
	return r.proveLogin(ctx, o, p)
}

func (r Roles) proveLogin(ctx context.Context, o Order, p *pending) ([]run.Check, error) {
	if err := r.control(ctx, o.To); err != nil {
		return nil, err
	}
	var acts string
	err := r.login(ctx, o.To, p.password, func(conn *pgx.Conn) error {
		return postgres.Classify(conn.QueryRow(ctx, "SELECT current_user::text").Scan(&acts), "ask who is logged in")
	})
	check := run.Check{Name: "login", Verdict: run.Pass, Detail: fmt.Sprintf("role %s logs in with the new password and acts as %s; a wrong one is refused", o.To, acts)}
	switch {
	case failure.Is(err, failure.WrongPassword):
		return nil, failure.New(failure.LoginNotProven, "role %s cannot log in with the new password", o.To).Because(err).Do("see pg_hba.conf, and start a new run")
	case err != nil:
		return nil, err
	case acts != o.Entry.Privileged():
		return nil, failure.New(failure.LoginNotProven, "role %s logs in and acts as %s, not as %s", o.To, acts, o.Entry.Privileged()).Do("see the settings of the role and of the database (role), and start a new run")
	}
	return []run.Check{check}, nil
}

// Withdraw takes the old password away. With end, sessions that logged in with it are ended too, else it is
// not taken while there are some. Done twice, it finds it done.
func (r Roles) Withdraw(ctx context.Context, o Order, end bool) (ended int, err error) {
	p, err := r.Secrets.ours(ctx, o)
	if err != nil {
		return 0, err
	}
	return r.withdraw(ctx, o, p, end)
}

func (r Roles) withdraw(ctx context.Context, o Order, p *pending, end bool) (ended int, err error) {
	var since time.Time
	err = r.inTransaction(ctx, o, "withdraw role "+o.From, withdrawBefore, withdrawAfter, func(tx pgx.Tx, had *mark) (*mark, error) {
		switch {
		case had == nil || had.Pending != p.object.UID || had.To != o.To:
			return nil, void("role %s was prepared by another run", o.To)
		case had.At.After(o.Order.At):
			return nil, void("a later run has come to role %s", o.To)
		case had.State == retired:
			return nil, void("role %s was taken back", o.To)
		}
		since = changedAt(o, had)
		if had.State == withdrawn && had.At.Equal(o.Order.At) {
			return nil, nil
		}
		now := *had
		now.Order, now.State = o.Order, withdrawn
		if n, err := r.count(ctx, tx, o.Entry, o.From, since); err != nil {
			return nil, err
		} else if n > 0 && !end {
			return nil, failure.New(failure.LockHeld, "%d sessions that logged in with the old password of role %s are there again", n, o.From).Do("see who makes them (pg_stat_activity), then resume the run")
		}
		if !o.Entry.Overlap() { // it went with the change
			return &now, nil
		}
		if is, err := lookUp(ctx, tx, o.To, o.Entry.Owner); err != nil {
			return nil, err
		} else if is == nil || !is.login {
			return nil, failure.New(failure.LoginNotProven, "role %s cannot log in any more, so role %s is not withdrawn", o.To, o.From).Do("see who changed it, and start a new run")
		}
		_, err := tx.Exec(ctx, "ALTER ROLE "+postgres.Quote(o.From)+" NOLOGIN PASSWORD NULL")
		return &now, err
	})
	if err != nil || !end {
		return 0, err
	}
	return r.end(ctx, o, since)
}

// IsWithdrawn reports whether the old password was withdrawn for an order.
func (r Roles) IsWithdrawn(ctx context.Context, o Order) (bool, error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	m, err := readMark(ctx, conn, o.Entry.Privileged())
	return m != nil && m.At.Equal(o.Order.At) && m.State == withdrawn, err
}

// ProveWithdrawn sees that the old password is refused, and that the new one still is not.
func (r Roles) ProveWithdrawn(ctx context.Context, o Order) ([]run.Check, error) {
	p, err := r.Secrets.ours(ctx, o)
	if err != nil {
		return nil, err
	}
	return r.proveWithdrawn(ctx, o, p)
}

func (r Roles) proveWithdrawn(ctx context.Context, o Order, p *pending) ([]run.Check, error) {
	old, err := p.old(o.Entry)
	if err != nil {
		return nil, err
	}
	if err := r.login(ctx, o.To, p.password, nil); err != nil {
		if failure.Is(err, failure.WrongPassword) {
			return nil, failure.New(failure.LoginNotProven, "role %s cannot log in with the new password any more", o.To).Because(err).Do("see who changed it (pg_roles, pg_hba.conf)")
		}
		return nil, err
	}
	err = r.login(ctx, o.From, old, nil)
	check := run.Check{Name: "old password", Verdict: run.Pass, Detail: fmt.Sprintf("the server refuses role %s with its old password, and takes role %s with the new one", o.From, o.To)}
	switch {
	case err == nil:
		check.Verdict, check.Detail = run.Fail, fmt.Sprintf("role %s still logs in with its old password", o.From)
	case !failure.Is(err, failure.WrongPassword):
		return nil, err
	}
	return []run.Check{check}, nil
}

// Retire takes the new password back, in a rotation that is undone: a role that was made goes, unless
// something is its own by now; where there is no overlap, the old password is the role's again. It is left
// alone while the programs' Secret names it, while sessions use it, and once the old one is withdrawn.
func (r Roles) Retire(ctx context.Context, o Order, wait time.Duration, tell func(string)) (remark string, err error) {
	programs, n, err := r.Secrets.programs(ctx, o)
	if failure.Is(err, failure.PlanVoid) || failure.Is(err, failure.MissingObject) {
		return "the roles are left as they are: they are not this run's any more", nil
	}
	if err != nil {
		return "", err
	}
	if n != nil && n.State == Withdrawing {
		return "the roles are left as they are: the old password is being withdrawn", nil
	}
	p, err := r.Secrets.ours(ctx, o)
	if failure.Is(err, failure.PlanVoid) { // nothing was made for this order, or a later one goes on with it
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if o.Entry.Overlap() {
		if names, _, err := o.Entry.read(programs.Data); err != nil || names == o.To {
			return "", failure.New(failure.LockHeld, "Secret %s still names role %s, so the role stays", programs.Name, o.To).Do("see who changed the Secret; start the run again, which goes on from there")
		}
		if err := r.unused(ctx, o, wait, tell); err != nil {
			return "", err
		}
	}
	return r.retire(ctx, o, p)
}

// retire is Retire in the database.
func (r Roles) retire(ctx context.Context, o Order, p *pending) (remark string, err error) {
	err = r.inTransaction(ctx, o, "take role "+o.To+" back", retireBefore, retireAfter, func(tx pgx.Tx, had *mark) (*mark, error) {
		switch {
		case had != nil && had.At.After(o.Order.At), had != nil && had.At.Equal(o.Order.At) && had.State != prepared:
			return nil, nil
		case had == nil || had.Pending != p.object.UID || had.State != prepared: // it was never prepared: a late attempt finds that it must not be
			return &mark{Order: o.Order, To: o.To, State: retired}, nil
		}
		now := *had
		now.Order, now.State = o.Order, retired
		if o.Entry.Overlap() {
			remark, err = drop(ctx, tx, o.To, had.Made)
			return &now, err
		}
		old, err := p.old(o.Entry)
		if err != nil {
			return nil, err
		}
		secret, err := verifier(old)
		if err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, "ALTER ROLE "+postgres.Quote(o.To)+" PASSWORD "+postgres.Literal(secret))
		return &now, err
	})
	return remark, err
}

// drop takes a role's password away, and the role itself if it was made for the rotation and nothing is its
// own.
func drop(ctx context.Context, tx pgx.Tx, name string, made bool) (remark string, err error) {
	if _, err := tx.Exec(ctx, "ALTER ROLE "+postgres.Quote(name)+" NOLOGIN PASSWORD NULL"); err != nil {
		return "", err
	}
	is, err := lookUp(ctx, tx, name, "")
	if err != nil || !made || is == nil {
		return "", err
	}
	if is.owns > 0 {
		return fmt.Sprintf("role %s has objects of its own by now and stays, without a password", name), nil
	}
	_, err = tx.Exec(ctx, "DROP ROLE "+postgres.Quote(name))
	return "", err
}
