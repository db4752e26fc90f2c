package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/pace"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/progress"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// The activity types that look at who uses the target's database.
const (
	LookSessions     = "LookSessions"
	DrainSessions    = "DrainSessions"
	CheckForeignKeys = "CheckForeignKeys"
)

const (
	// maxSessions bounds the groups of sessions that are told.
	maxSessions = 500
	// drainWithin is how long sessions of stopped clients may take to end; after that the swap ends them.
	drainWithin = 60 * time.Second
	// drainEvery is the most that passes between looks at them.
	drainEvery = time.Second
)

// Use is who uses the target's database.
type Use struct {
	Database restore.Named `json:"database"`
	Sessions []Session     `json:"sessions"`
}

// Session is the sessions of one role from one address.
type Session struct {
	Address string `json:"address"` // empty: not by TCP, or hidden from Upkeep's role
	Role    string `json:"role"`
	Count   int    `json:"count"`
}

// DrainRequest names the addresses whose sessions are to end.
type DrainRequest struct {
	Target    Target   `json:"target"`
	Addresses []string `json:"addresses"`
}

const ofOthers = ` FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
	AND pid <> pg_backend_pid() AND application_name NOT LIKE 'upkeep%'`

// LookSessions says who uses the target's database. It changes nothing.
func (a *Activities) LookSessions(ctx context.Context, in Target) (Use, error) {
	return inDatabase(ctx, in, func(conn *pgx.Conn) (Use, error) {
		use := Use{Sessions: []Session{}}
		err := conn.QueryRow(ctx, "SELECT datname, oid FROM pg_database WHERE datname = current_database()").Scan(&use.Database.Name, &use.Database.Oid)
		if err != nil {
			return use, err
		}
		rows, err := conn.Query(ctx, `SELECT coalesce(host(client_addr), ''), coalesce(usename, ''), count(*)`+ofOthers+` GROUP BY 1, 2 ORDER BY 1, 2 LIMIT $1`, maxSessions)
		if err != nil {
			return use, err
		}
		use.Sessions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Session])
		return use, err
	})
}

// DrainSessions waits until the addresses have no sessions any more, and returns how many have stayed.
func (a *Activities) DrainSessions(ctx context.Context, in DrainRequest) (int, error) {
	return inDatabase(ctx, in.Target, func(conn *pgx.Conn) (left int, err error) {
		for began := time.Now(); ; {
			err := conn.QueryRow(ctx, "SELECT count(*)"+ofOthers+" AND host(client_addr) = ANY($1)", in.Addresses).Scan(&left)
			if err != nil || left == 0 || time.Since(began) > drainWithin {
				return left, err
			}
			progress.Report(ctx, progress.Progress{Phase: "waiting for sessions to end", Note: fmt.Sprint(left)})
			select {
			case <-ctx.Done():
				return left, ctx.Err()
			case <-time.After(pace.Next(began, drainEvery)):
			}
		}
	})
}

// CheckForeignKeys checks that every foreign key of the target's database is one that the server has
// validated.
func (a *Activities) CheckForeignKeys(ctx context.Context, in Target) (Proof, error) {
	return inDatabase(ctx, in, func(conn *pgx.Conn) (Proof, error) {
		var all int
		var invalid []string
		err := conn.QueryRow(ctx, `SELECT count(*), coalesce((array_agg(conrelid::regclass || '.' || conname) FILTER (WHERE NOT convalidated))[1:5], '{}')
			FROM pg_constraint WHERE contype = 'f'`).Scan(&all, &invalid)
		if err != nil {
			return Proof{}, err
		}
		c := run.Check{Name: "foreign keys", Verdict: run.Pass, Detail: fmt.Sprintf("%d, all validated by the server", all)}
		if len(invalid) > 0 {
			c.Verdict, c.Detail = run.NotProven, "not validated, as they were in the backup: "+strings.Join(invalid, ", ")
		}
		return Proof{Verdict: c.Verdict, Checks: []run.Check{c}}, nil
	})
}

// inDatabase works in a session of the target's database.
func inDatabase[T any](ctx context.Context, t Target, work func(*pgx.Conn) (T, error)) (result T, err error) {
	conn, err := t.source().Connect(ctx)
	if err != nil {
		return result, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	result, err = work(conn)
	return result, postgres.Classify(err, "look at the database of target "+t.Name)
}
