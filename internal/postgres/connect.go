// Package postgres is what Upkeep's engines share when they talk to PostgreSQL:
// sessions with pinned settings, classified errors that show no row value,
// quoting, the client programs, and reading the catalogs.
package postgres

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
)

// connectTimeout bounds the dialling and the login of one session.
const connectTimeout = 10 * time.Second

// readBuffer is how much a session reads from the server at once, in bytes.
const readBuffer = 256 << 10

// Config says how to reach a server. The URL holds no password.
type Config struct {
	URL string
	// Password resolves the password when a session begins; nil: none is needed (trust, peer,
	// .pgpass). It is asked every time, so a changed secret is used by the next session.
	Password func(ctx context.Context) (string, error)
	// Dial opens the connections when the URL's host is only a name, as of a database in a pod; nil: the
	// URL leads there.
	Dial func(ctx context.Context) (net.Conn, error)
	// App is the sessions' application_name.
	App string
	// Untrusted says that code of somebody else may answer in the server's place. Nothing of the
	// worker's own environment is shown to it: no password, no .pgpass.
	Untrusted bool
}

// Option changes one session.
type Option func(*pgx.ConnConfig)

// WithDatabase connects to another database of the server.
func WithDatabase(name string) Option { return func(c *pgx.ConnConfig) { c.Database = name } }

// WithUser logs in as another role.
func WithUser(name string) Option { return func(c *pgx.ConnConfig) { c.User = name } }

// WithApp sets the session's application_name.
func WithApp(name string) Option {
	return func(c *pgx.ConnConfig) { c.RuntimeParams["application_name"] = name }
}

// Connect opens a session with every setting pinned that could change what a statement does or what
// a row looks like, whatever the role's or the database's own settings are. The session speaks
// UTF-8; rows travel in the database's own encoding (see CopyOut, CopyIn).
func (c Config) Connect(ctx context.Context, options ...Option) (*pgx.Conn, error) {
	cfg, err := c.parse(ctx, options)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if State(err) == "42704" { // a parameter of the URL
		return nil, failure.New(failure.BadConfig, "could not connect to %s", describe(cfg)).Because(Classify(err, "begin the session")).
			Do("take the parameter out of the url in upkeep.yaml and start a new run")
	}
	if err != nil {
		return nil, Classify(err, "connect to "+describe(cfg))
	}
	if err := pin(ctx, conn); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, Classify(err, "set up a session on "+describe(cfg))
	}
	return conn, nil
}

func (c Config) parse(ctx context.Context, options []Option) (*pgx.ConnConfig, error) {
	cfg, err := c.read()
	if err != nil {
		return nil, err
	}
	if c.Password != nil {
		password, err := c.Password(ctx)
		if err != nil {
			return nil, err
		}
		cfg.Password = password
	}
	if c.Untrusted {
		cfg.Password = ""
	}
	cfg.ConnectTimeout = connectTimeout
	cfg.DialFunc = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext
	if c.Dial != nil {
		cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
		cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) }
	}
	cfg.RuntimeParams["application_name"] = "upkeep"
	if c.App != "" {
		cfg.RuntimeParams["application_name"] = c.App
	}
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	// Statements are few, long and never repeated: no cache, and poolers are not confused by it.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.StatementCacheCapacity = 0
	cfg.DescriptionCacheCapacity = 0
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		// COPY sends a message a row; pgx alone would ask the kernel for 8 KiB at a time.
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	for _, option := range options {
		option(cfg)
	}
	return cfg, nil
}

// On is the configuration of another database of the same server.
func (c Config) On(database string) (Config, error) {
	var err error
	c.URL, err = withDatabase(c.URL, database)
	return c, err
}

// read reads the URL. An empty one would be read as a database that the environment names.
func (c Config) read() (*pgx.ConnConfig, error) {
	if c.URL == "" {
		return nil, failure.New(failure.BadConfig, "the target has no database").Do("say where it is with database: {url: ...} in upkeep.yaml, and start a new run")
	}
	cfg, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return nil, badURL(err)
	}
	return cfg, nil
}

// Database is the name of the database that the URL leads to.
func (c Config) Database() (string, error) {
	cfg, err := c.read()
	if err != nil {
		return "", err
	}
	if cfg.Database == "" {
		return cfg.User, nil
	}
	return cfg.Database, nil
}

// describe names a server and database without the password.
func describe(cfg *pgx.ConnConfig) string {
	return fmt.Sprintf("database %q at %s as role %q", cfg.Database, net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)), cfg.User)
}

// rowPins shape the text of a row. They are written into every manifest.
var rowPins = []format.Pin{
	{Name: "timezone", Value: "UTC"},
	{Name: "datestyle", Value: "ISO, YMD"},
	{Name: "intervalstyle", Value: "postgres"},
	{Name: "extra_float_digits", Value: "3"},
	{Name: "bytea_output", Value: "hex"},
	{Name: "xmloption", Value: "content"},
	{Name: "array_nulls", Value: "on"},
	{Name: "lc_monetary", Value: "C"},
	{Name: "search_path", Value: ""},
	{Name: "row_security", Value: "off"},
	{Name: "synchronize_seqscans", Value: "off"},
}

// sessionPins keep a long session alive and its statements plain.
var sessionPins = []format.Pin{
	{Name: "statement_timeout", Value: "0"},
	{Name: "lock_timeout", Value: "0"},
	{Name: "idle_in_transaction_session_timeout", Value: "0"},
	{Name: "transaction_timeout", Value: "0"},  // from version 17
	{Name: "idle_session_timeout", Value: "0"}, // from version 14
	{Name: "standard_conforming_strings", Value: "on"},
	{Name: "quote_all_identifiers", Value: "off"},
	{Name: "client_min_messages", Value: "warning"},
	{Name: "default_transaction_isolation", Value: "read committed"},
	{Name: "default_transaction_read_only", Value: "off"},
	{Name: "default_transaction_deferrable", Value: "off"},
	{Name: "check_function_bodies", Value: "off"},
	{Name: "default_tablespace", Value: ""},
	{Name: "jit", Value: "off"},
}

// toolPins are those of the pins that shape the text of a schema and that pg_dump does not set for itself.
var toolPins = []string{"timezone", "bytea_output", "lc_monetary", "standard_conforming_strings", "quote_all_identifiers"}

// Pins are the settings that shape the text of rows, with the encoding in which they travel.
func Pins(encoding string) []format.Pin {
	return append([]format.Pin{{Name: "client_encoding", Value: encoding}}, rowPins...)
}

func pin(ctx context.Context, conn *pgx.Conn) error {
	// Settings that this version does not know are skipped by joining with those that it does.
	var names, values []string
	for _, p := range slices.Concat(rowPins, sessionPins) {
		names, values = append(names, p.Name), append(values, p.Value)
	}
	_, err := conn.Exec(ctx, `
		SELECT pg_catalog.set_config(s.name, p.value, false)
		FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS p(name, value)
		JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) p.name`, names, values)
	return err
}

// Quote writes a qualified name as SQL.
func Quote(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// Literal writes a string as an SQL literal, whatever standard_conforming_strings is.
func Literal(s string) string {
	quoted := "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `'`, `''`) + "'"
	if strings.Contains(s, `\`) {
		return " E" + quoted
	}
	return quoted
}

// Columns writes a column list as SQL, without parentheses.
func Columns(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = Quote(n)
	}
	return strings.Join(quoted, ", ")
}

// CopyOut is the statement that reads a table's own rows of the range, in heap order. Columns that the
// table computes itself are not read.
func CopyOut(t format.Table, r format.Range, encoding string) string {
	var where []string
	if !Whole(r) {
		where = append(where, fmt.Sprintf("ctid >= '(%d,0)'", r.First))
		if r.End >= 0 {
			where = append(where, fmt.Sprintf("ctid < '(%d,0)'", r.End))
		}
	}
	return "COPY (" + selectRows(t, where) + ") TO STDOUT (FORMAT text, ENCODING " + Literal(encoding) + ")"
}

func selectRows(t format.Table, where []string) string {
	q := "SELECT " + Columns(t.Columns) + " FROM ONLY " + Quote(t.Schema, t.Name)
	switch {
	case t.Where != "" && len(where) > 0:
		// An extension writes its condition with the WHERE keyword.
		q = "SELECT " + Columns(t.Columns) + " FROM (SELECT * FROM ONLY " + Quote(t.Schema, t.Name) +
			" WHERE " + strings.Join(where, " AND ") + ") AS " + Quote(t.Name) + " " + t.Where
	case t.Where != "":
		q += " " + t.Where
	case len(where) > 0:
		q += " WHERE " + strings.Join(where, " AND ")
	}
	return q
}

// CopyIn is the statement that loads rows that CopyOut wrote, through the partition root where the
// table asks for it.
func CopyIn(t format.Table, encoding string) string {
	into := Quote(t.Schema, t.Name)
	if t.Root != nil {
		into = Quote(t.Root.Schema, t.Root.Name)
	}
	if len(t.Columns) > 0 { // a table without columns of its own has no list, but it has rows
		into += " (" + Columns(t.Columns) + ")"
	}
	return "COPY " + into + " FROM STDIN (FORMAT text, ENCODING " + Literal(encoding) + ")"
}

// CopyLargeObjects is the statement that reads large objects in pieces of format.LargeObjectPiece
// bytes: (oid, offset, data), an empty object as one row with empty data.
func CopyLargeObjects(oids []uint32, encoding string) string {
	list := make([]string, len(oids))
	for i, oid := range oids {
		list[i] = fmt.Sprint(oid)
	}
	// OFFSET 0 keeps the planner from opening an object once per mention of its size.
	return fmt.Sprintf(`COPY (SELECT s.oid, p.at, lo_get(s.oid, p.at, %[1]d)
		FROM (SELECT o.oid, lo_lseek64(o.fd, 0, 2) + lo_close(o.fd) AS size
		      FROM (SELECT oid, lo_open(oid, 262144) AS fd FROM pg_largeobject_metadata WHERE oid = ANY ('{%[2]s}'::oid[]) ORDER BY oid OFFSET 0) o OFFSET 0) s,
		     generate_series(0::bigint, greatest(s.size - 1, 0), %[1]d) AS p(at)) TO STDOUT (FORMAT text, ENCODING %[3]s)`,
		format.LargeObjectPiece, strings.Join(list, ","), Literal(encoding))
}
