package rotation

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pace"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

const (
	// endWithin is how long sessions that are ended may take.
	endWithin = 30 * time.Second
	// maxSessions bounds what is told of sessions.
	maxSessions = 20
)

// count counts the sessions that logged in with the old password: those of the role, or where it is the same
// role, those that are older than the change.
func (r Roles) count(ctx context.Context, db querier, e Entry, from string, changed time.Time) (n int, err error) {
	var hidden int
	err = db.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE backend_start IS NULL) FROM pg_stat_activity
		WHERE usename = $1 AND pid <> pg_backend_pid() AND ($2 OR backend_start IS NULL OR backend_start < $3)`, from, changed.IsZero(), changed).Scan(&n, &hidden)
	if err == nil && hidden > 0 && !e.Overlap() && !changed.IsZero() {
		return 0, failure.New(failure.MissingRight, "Upkeep may not see since when the sessions of role %s are there", from).Do("GRANT pg_read_all_stats to the role that Upkeep uses, then resume the run")
	}
	return n, postgres.Classify(err, "count the sessions of role "+from)
}

// changedAt is when the old password of an order was replaced, where it has no overlap; zero otherwise.
func changedAt(o Order, m *mark) time.Time {
	if o.Entry.Overlap() || m == nil {
		return time.Time{}
	}
	return m.Changed
}

// Sessions waits until nobody is left who logged in with the old password, or the time is over. It says who
// is.
func (r Roles) Sessions(ctx context.Context, o Order, wait time.Duration, tell func(string)) (left int, who string, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	m, err := readMark(ctx, conn, o.Entry.Privileged())
	if err != nil {
		return 0, "", err
	}
	since := changedAt(o, m)
	if !o.Entry.Overlap() && since.IsZero() {
		return 0, "", void("it is not noted on role %s when its password was changed", o.From)
	}
	for began := time.Now(); ; {
		left, err = r.count(ctx, conn, o.Entry, o.From, since)
		if err != nil || left == 0 {
			return left, "", err
		}
		if time.Since(began) > wait {
			who, err = r.who(ctx, conn, o.From, since)
			return left, who, err
		}
		tell(fmt.Sprintf("%d sessions of role %s are left", left, o.From))
		select {
		case <-ctx.Done():
			return left, "", ctx.Err()
		case <-time.After(pace.Next(began, lookEvery)):
		}
	}
}

// who says from where sessions are.
func (r Roles) who(ctx context.Context, conn *pgx.Conn, from string, since time.Time) (string, error) {
	rows, err := conn.Query(ctx, `SELECT count(*) || ' from ' || coalesce(host(client_addr), 'the server itself') FROM pg_stat_activity
		WHERE usename = $1 AND ($2 OR backend_start < $3) GROUP BY client_addr ORDER BY count(*) DESC LIMIT $4`, from, since.IsZero(), since, maxSessions)
	if err != nil {
		return "", postgres.Classify(err, "look at the sessions of role "+from)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(all, ", "), postgres.Classify(err, "look at the sessions of role "+from)
}

// end ends the sessions that logged in with the old password.
func (r Roles) end(ctx context.Context, o Order, since time.Time) (ended int, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for began := time.Now(); ; {
		var n int
		err := conn.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE usename = $1 AND pid <> pg_backend_pid() AND ($2 OR backend_start < $3)`, o.From, since.IsZero(), since).Scan(&n)
		if err != nil || n == 0 {
			return ended, postgres.Classify(err, "end the sessions of role "+o.From)
		}
		ended = max(ended, n)
		if time.Since(began) > endWithin {
			return ended, failure.New(failure.LockHeld, "%d sessions of role %s do not end", n, o.From).Do("see what they do (pg_stat_activity), then resume the run")
		}
		select {
		case <-ctx.Done():
			return ended, ctx.Err()
		case <-time.After(pace.Next(began, lookEvery)):
		}
	}
}

// unused waits until no session uses the new role.
func (r Roles) unused(ctx context.Context, o Order, wait time.Duration, tell func(string)) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for began := time.Now(); ; {
		n, err := r.count(ctx, conn, o.Entry, o.To, time.Time{})
		if err != nil || n == 0 {
			return err
		}
		if time.Since(began) > wait {
			return failure.New(failure.LockHeld, "%d sessions still use role %s, so the role stays", n, o.To).Do("restart what makes them, then ALTER ROLE %s NOLOGIN PASSWORD NULL", postgres.Quote(o.To))
		}
		tell(fmt.Sprintf("%d sessions use role %s", n, o.To))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pace.Next(began, lookEvery)):
		}
	}
}
