package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// ServerError is what a server said, without the parts that may hold a row's values.
type ServerError struct {
	SQLState string
	text     string
}

func (e *ServerError) Error() string { return e.text }

// Classify turns an error of pgx into a failure of the catalogue. Doing says what was tried, as in
// "read table x". Messages about data (SQLSTATE classes 22 and 23, and what functions raise) are
// replaced by their code and place, so that no row value leaves the server.
func Classify(err error, doing string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	}
	if _, ok := failure.As(err); ok {
		return err
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return classifyLink(err, doing)
	}
	said := &ServerError{SQLState: pg.Code, text: scrub(pg)}
	fail := func(code failure.Code) *failure.Error {
		return failure.New(code, "could not %s", doing).Because(said)
	}
	switch {
	case pg.Code == "28P01" || pg.Code == "28000":
		return fail(failure.WrongPassword).Do("check the role, its password and pg_hba.conf, then resume the run")
	case pg.Code == "3D000":
		return fail(failure.MissingDatabase).Do("create the database or correct the url in upkeep.yaml, then resume the run")
	case pg.Code == "42501":
		return fail(failure.MissingRight).Do("grant the right that the server names to the role that Upkeep uses, then resume the run")
	case pg.Code == "53100":
		return fail(failure.DiskFull).Do("free space on the database server's disk, then resume the run")
	case pg.Code == "55P03":
		return fail(failure.LockHeld).Do("see who holds the lock (pg_blocking_pids, pg_locks), end it or wait for it, then resume the run")
	case pg.Code == "53300":
		return fail(failure.ServerUnreachable).Do("end other sessions, or raise the limit of the role or the database (CONNECTION LIMIT) or of the server (max_connections), then resume the run; " +
			"or lower connections: of the target in upkeep.yaml (a backup needs that many sessions and about 4 more) and start a new run")
	case pg.Code == "53200": // of all sessions together, so it may pass by itself
		return fail(failure.ServerUnreachable).Do("if the server is out of shared memory, it has no room for more locks: raise max_locks_per_transaction and restart it; " +
			"if it is out of memory, end other sessions or give it more; then resume the run")
	case pg.Code == "22021": // of what Upkeep reads, only names and comments are converted
		return fail(failure.UnsupportedName).Do("rename or drop what has a name or a comment that is not valid in the database's encoding; databases of other encodings share roles and the databases' comments")
	case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57P"), pg.Code == "25006" && recovering(pg):
		return fail(failure.ServerUnreachable).Do("see whether the server is up and accepts connections")
	}
	return fail(failure.Internal)
}

func recovering(pg *pgconn.PgError) bool { return strings.Contains(pg.Message, "recovery") }

func classifyLink(err error, doing string) error {
	var op *net.OpError
	text := "the connection broke"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		text = "no answer in time"
	case errors.As(err, &op):
		text = op.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
	default:
		var parse *pgconn.ParseConfigError
		if errors.As(err, &parse) {
			return badURL(err)
		}
		var connect *pgconn.ConnectError
		if !errors.As(err, &connect) && !pgconn.SafeToRetry(err) && !strings.Contains(err.Error(), "conn closed") {
			return failure.New(failure.Internal, "could not %s", doing).Because(err)
		}
	}
	return failure.New(failure.ServerUnreachable, "could not %s: %s", doing, text).
		Do("see whether the server is up and reachable from the worker")
}

// lostLink is what libpq says, in the language that Run sets, when a server is gone or not there.
var lostLink = regexp.MustCompile(`server closed the connection unexpectedly|connection to server .* failed: [^F]|FATAL:  the database system is|no connection to the server|` +
	`could not (receive data from|send data to) server|SSL (SYSCALL error|connection has been closed)|terminating connection due to`)

// classifyTool turns the failure of a client program that lost its server into a failure of the
// catalogue, and leaves others to who called it.
func classifyTool(err error, doing string) error {
	if err == nil {
		return nil
	}
	var failed *ToolError
	if errors.As(err, &failed) && lostLink.MatchString(failed.Said) {
		return failure.New(failure.ServerUnreachable, "could not %s", doing).Because(err).
			Do("see whether the server is up and reachable from the worker")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func badURL(error) error {
	// The parser's own text may quote the URL.
	return failure.New(failure.BadConfig, "a database url cannot be read").
		Do("write it as postgres://role@host:port/database, with no password in it")
}

// State returns the SQLSTATE inside err, or "".
func State(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	var said *ServerError
	if errors.As(err, &said) {
		return said.SQLState
	}
	return ""
}

// scrub keeps what names things and drops what may quote a row.
func scrub(pg *pgconn.PgError) string {
	place := ""
	for _, part := range []struct{ kind, name string }{
		{"schema", pg.SchemaName}, {"table", pg.TableName}, {"column", pg.ColumnName},
		{"type", pg.DataTypeName}, {"constraint", pg.ConstraintName},
	} {
		if part.name != "" {
			place += fmt.Sprintf(" %s %q", part.kind, part.name)
		}
	}
	if raised(pg) {
		place = "" // these too are what the function says
	}
	if quotesRow(pg) {
		return fmt.Sprintf("SQLSTATE %s%s (the message is left out, since it may quote a row; see the server's log)", pg.Code, place)
	}
	message := pg.Message
	if len(message) > 500 {
		message = message[:500] + "..."
	}
	return fmt.Sprintf("%s (SQLSTATE %s%s)", message, pg.Code, place)
}

// quotesRow reports whether a message may hold a row's value: by its class; because a function raised
// it, under whatever code; or because it was said while a row or a function was in hand.
func quotesRow(pg *pgconn.PgError) bool {
	switch pg.Code[:min(2, len(pg.Code))] {
	case "22", "23", "P0", "38", "39", "44":
		return true
	case "08", "53", "57", "58": // of the machine and the connection, unless a function says so
		return raised(pg) || strings.Contains(pg.Where, "function")
	}
	return pg.Where != "" || raised(pg)
}

// raised reports whether a PL/pgSQL function chose the error's code and all of its texts.
func raised(pg *pgconn.PgError) bool { return pg.Routine == "exec_stmt_raise" }
