package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/version"
)

const (
	checkPassword   = "password"
	checkConnection = "connection"
	checkVersion    = "version and client programs"
	checkEncryption = "encryption"
	checkSize       = "size"
	checkBackup     = "a backup can read it"
	checkNumbers    = "rights on sequences and large objects"
	checkBeside     = "rights to restore beside it"
	checkSessions   = "room for sessions"
	checkEnds       = "may end its own sessions"
	checkOld        = "no old transactions"
	checkUpkeep     = "what Upkeep itself runs on"
)

const (
	// oldest and newest are the major versions that Upkeep is tested with.
	oldest, newest = 13, 18
	// backupPatience lets a plan say itself who holds a lock: it waits 10 s for each.
	backupPatience = 25 * time.Second
	// besideReaders is how many sessions a backup has beside those that read rows.
	besideReaders = 4
	// maxNamed bounds how many of many things are named.
	maxNamed = 5
	// maxDatabases bounds how many other databases of a server are looked into.
	maxDatabases = 50
)

// oldAfter is how old a transaction is that somebody may have forgotten. A variable only for tests.
var oldAfter = time.Hour

// patient is a target that is looked at.
type patient struct {
	options  Options
	target   config.Target
	source   postgres.Config
	database List
	scratch  List

	conn *pgx.Conn // made anew when a check has lost it
	said serverSaid
	size int64
}

func newPatient(o Options, t config.Target) *patient {
	return &patient{
		options: o, target: t,
		source:   t.Source("upkeep-doctor"),
		database: List{Subject: "target " + t.Name + ": database"},
		scratch:  List{Subject: "target " + t.Name + ": scratch server"},
	}
}

func (p *patient) examine(ctx context.Context) {
	defer func() {
		if p.conn != nil {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = p.conn.Close(closing) // only read
		}
	}()
	checks := []struct {
		name  string
		limit time.Duration
		check func(context.Context) (string, error)
	}{
		{checkVersion, patience, p.version},
		{checkEncryption, patience, p.encryption},
		{checkSize, patience, p.readSize},
		{checkBackup, backupPatience, p.backup},
		{checkNumbers, patience, p.numbers},
		{checkBeside, patience, p.beside},
		{checkSessions, patience, p.sessions},
		{checkEnds, patience, p.ends},
		{checkOld, patience, p.oldTransactions},
		{checkUpkeep, patience, p.upkeep},
	}
	why := ""
	switch {
	case !secret(ctx, &p.database, &p.target.Kubernetes, p.target.Database.Password):
		why = "its password is missing"
		p.database.Skip(why, checkConnection)
	case !p.database.Reach(ctx, checkConnection, p.connect):
		why = "there is no connection"
	}
	for _, c := range checks {
		if why != "" {
			p.database.Skip(why, c.name)
			continue
		}
		p.database.within(ctx, c.limit, c.name, c.check, &Doubt{
			Found: fmt.Sprintf("it could not be seen within %s", c.limit), Remedy: "look again when the server has less to do",
		})
	}
	switch p.target.Database.Scratch.Runner {
	case config.RunnerServer:
		p.configuredScratch(ctx, why)
	case config.RunnerPod:
		p.podScratch(ctx)
	default:
		p.privateScratch(ctx, why)
	}
}

// session is the session in hand, or a new one where a check has lost it.
func (p *patient) session(ctx context.Context) (*pgx.Conn, error) {
	if p.conn == nil || p.conn.IsClosed() {
		conn, err := p.source.Connect(ctx)
		if err != nil {
			return nil, err
		}
		p.conn = conn
	}
	return p.conn, nil
}

// serverSaid is what a server says of itself and of the session's role.
type serverSaid struct {
	format.Server
	born           time.Time // when it started, to the microsecond: no other server did then
	standby        bool
	super, creates bool // the role is a superuser, may create databases
}

func (s serverSaid) major() int { return s.VersionNum / 10000 }

func (s serverSaid) String() string {
	if s.standby {
		return "PostgreSQL " + s.Version + ", a standby"
	}
	return "PostgreSQL " + s.Version + ", a primary"
}

func ask(ctx context.Context, conn *pgx.Conn) (serverSaid, error) {
	server, err := postgres.ReadServer(ctx, conn)
	if err != nil {
		return serverSaid{}, err
	}
	s := serverSaid{Server: server}
	err = conn.QueryRow(ctx, "SELECT pg_postmaster_start_time(), pg_is_in_recovery(), rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user").
		Scan(&s.born, &s.standby, &s.super, &s.creates)
	return s, postgres.Classify(err, "look at the server")
}

// where names what a session leads to.
func where(conn *pgx.Conn) string {
	c := conn.Config()
	return fmt.Sprintf("database %q at %s as role %q", c.Database, net.JoinHostPort(c.Host, fmt.Sprint(c.Port)), c.User)
}

func (p *patient) connect(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	if p.said, err = ask(ctx, conn); err != nil {
		return "", err
	}
	return where(conn) + ": " + p.said.String(), nil
}

func (p *patient) version(ctx context.Context) (string, error) {
	if p.said.major() < oldest {
		return "", failure.New(failure.ServerTooOld, "the server is PostgreSQL %s; version %d is the oldest that is supported", p.said.Version, oldest).Do("upgrade the server")
	}
	dump, err := postgres.FindTool(ctx, "pg_dump", p.said.major())
	if err != nil {
		return "", err
	}
	restore, err := postgres.FindTool(ctx, "pg_restore", dump.Major)
	if err != nil {
		return "", err
	}
	if p.said.major() > newest {
		return "", &Doubt{Found: fmt.Sprintf("the server is PostgreSQL %s, and Upkeep is tested with versions up to %d", p.said.Version, newest), Remedy: "use a newer Upkeep, if there is one"}
	}
	return fmt.Sprintf("PostgreSQL %s; %s is %s, %s is %s", p.said.Version, dump.Path, dump.Version, restore.Path, restore.Version), nil
}

func (p *patient) encryption(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	link := conn.PgConn().Conn()
	if encrypted, ok := link.(*tls.Conn); ok {
		state, settings := encrypted.ConnectionState(), conn.Config().TLSConfig
		found := tls.VersionName(state.Version)
		if len(state.VerifiedChains) == 0 && (settings == nil || settings.VerifyPeerCertificate == nil) {
			return found + "; who the server is, is not checked: sslmode=verify-full in the url would", nil
		}
		return found + ", and the server's certificate is checked", nil
	}
	if near(link) {
		return "none, and none is needed: the session does not leave this machine", nil
	}
	return "", &Doubt{
		Found:  "the session is not encrypted",
		Remedy: "turn ssl on at the server and add sslmode=verify-full&sslrootcert=... to the url; leave it where nobody can listen", Optional: true,
	}
}

// near reports whether a session ends on this machine.
func near(link net.Conn) bool {
	remote, ok := link.RemoteAddr().(*net.TCPAddr)
	return !ok || remote.IP.IsLoopback() // a Unix socket
}

func (p *patient) readSize(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	if err := conn.QueryRow(ctx, "SELECT pg_database_size(current_database())").Scan(&p.size); err != nil {
		return "", postgres.Classify(err, "read the database's size")
	}
	return size(p.size), nil
}

// backup looks at the database as a backup would, which refuses what it could not read.
func (p *patient) backup(ctx context.Context) (string, error) {
	plan, err := backup.Plan(ctx, backup.Options{
		Source: p.source, Target: p.target.Name, BackupID: "doctor", Connections: p.target.Database.Connections, Engine: version.String(),
	})
	if err != nil {
		return "", err
	}
	found := fmt.Sprintf("%d tables, about %d rows", plan.Tables, plan.Rows)
	if len(plan.LeftOut) > 0 {
		return "", &Doubt{
			Found:  found + "; a backup leaves out " + strings.Join(plan.LeftOut, "; "),
			Remedy: "see what of it is needed, and keep that in another way; every backup names what it leaves out",
		}
	}
	if len(plan.Elsewhere) > 0 {
		found += "; not in a backup by its nature: " + named(plan.Elsewhere)
	}
	return found, nil
}

// named names the first few of many.
func named(names []string) string {
	if len(names) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
	}
	return strings.Join(names, ", ")
}

// numbers looks at the rights that a backup needs only when the rows have been read.
func (p *patient) numbers(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	names, err := postgres.SequenceNames(ctx, conn)
	if err != nil {
		return "", err
	}
	sequences := make([]string, len(names))
	for i, n := range names {
		sequences[i] = postgres.Quote(n.Schema, n.Name)
	}
	unread, err := texts(ctx, conn, "look at the rights on sequences", `
		SELECT name FROM unnest($1::text[]) AS name WHERE NOT coalesce(has_sequence_privilege(to_regclass(name)::oid, 'SELECT'), true)`, sequences)
	if err != nil {
		return "", err
	}
	if len(unread) > 0 {
		return "", failure.New(failure.MissingRight, "the role that Upkeep uses may not read the sequences %s", named(unread)).
			Do("GRANT SELECT ON them, or GRANT pg_read_all_data (version 14 and newer), to the role")
	}
	var all, closed int64
	var first *uint32
	err = conn.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE hidden), min(oid) FILTER (WHERE hidden) FROM (
			SELECT m.oid, NOT (r.rolsuper OR pg_has_role(m.lomowner, 'USAGE') OR current_setting('lo_compat_privileges')::boolean
				OR EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))) AS hidden
			FROM pg_largeobject_metadata m, pg_roles r WHERE r.rolname = current_user) AS o`).Scan(&all, &closed, &first)
	if err != nil {
		return "", postgres.Classify(err, "look at the rights on large objects")
	}
	if closed > 0 {
		return "", failure.New(failure.MissingRight, "the role that Upkeep uses may not read %d of %d large objects, such as %d", closed, all, *first).
			Do("GRANT SELECT ON LARGE OBJECT %d (and the others) to the role, or use their owner", *first)
	}
	return fmt.Sprintf("%d sequences and %d large objects can be read", len(sequences), all), nil
}

// beside looks at what RestoreDatabase needs to make a copy on the target's own server.
func (p *patient) beside(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	if p.said.standby {
		return "", &Doubt{Found: "the server is a standby, on which no database can be made", Remedy: "restore on another server", Optional: true}
	}
	if p.said.super {
		return "the role is a superuser", nil
	}
	var wrong, remedies []string
	role := postgres.Quote(conn.Config().User)
	if !p.said.creates {
		wrong = append(wrong, "it may not create databases")
		remedies = append(remedies, "ALTER ROLE "+role+" CREATEDB")
	}
	right := "MEMBER"
	if p.said.major() >= 16 {
		right = "SET"
	}
	owners, err := texts(ctx, conn, "look for the owners of what is in the database", `
		WITH owned AS (
			SELECT tableoid, oid, relowner AS owner FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
			UNION ALL SELECT tableoid, oid, nspowner FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%'
			UNION ALL SELECT tableoid, oid, proowner FROM pg_proc
			UNION ALL SELECT tableoid, oid, typowner FROM pg_type WHERE typrelid = 0 AND typcategory <> 'A')
		SELECT quote_ident(pg_get_userbyid(owner)) FROM (
			SELECT o.owner FROM owned o WHERE o.oid >= 16384
			  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.tableoid AND d.objid = o.oid AND d.deptype = 'e')
			UNION SELECT datdba FROM pg_database WHERE datname = current_database()) AS owners
		WHERE NOT pg_has_role(owner, $1) ORDER BY 1`, right)
	if err != nil {
		return "", err
	}
	if len(owners) > 0 {
		wrong = append(wrong, "it may not act for the owners "+named(owners))
		remedies = append(remedies, "GRANT "+named(owners)+" TO "+role)
	}
	closed, err := texts(ctx, conn, "look for extensions that need a superuser", `
		SELECT quote_ident(e.extname) FROM pg_extension e JOIN pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
		WHERE v.superuser AND NOT v.trusted ORDER BY 1`)
	if err != nil {
		return "", err
	}
	if len(closed) > 0 {
		wrong = append(wrong, "it may not create the extensions "+named(closed)+", which are a superuser's")
		remedies = append(remedies, "restore as a superuser, or only on scratch servers")
	}
	if len(wrong) > 0 {
		return "", failure.New(failure.MissingRight, "the role could not restore the database beside the original: %s", strings.Join(wrong, "; ")).
			Do("%s (only RestoreDatabase needs it)", strings.Join(remedies, "; "))
	}
	return "the role may create databases and act for the owners of everything", nil
}

// sessions compares the sessions that a backup needs with what the server, the role and the database
// have left.
func (p *patient) sessions(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	var free, most int
	err = conn.QueryRow(ctx, `
		WITH others AS (
			SELECT usesysid, datid FROM pg_stat_activity
			WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()
		), limits AS (
			SELECT current_setting('max_connections')::int - CASE WHEN r.rolsuper THEN 0 ELSE
			           current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) END AS most,
			       (SELECT count(*) FROM others) AS used
			FROM pg_roles r WHERE r.rolname = current_user
			UNION ALL
			SELECT r.rolconnlimit, (SELECT count(*) FROM others WHERE usesysid = r.oid) FROM pg_roles r
			WHERE r.rolname = current_user AND r.rolconnlimit >= 0 AND NOT r.rolsuper
			UNION ALL
			SELECT d.datconnlimit, (SELECT count(*) FROM others WHERE datid = d.oid) FROM pg_database d, pg_roles r
			WHERE d.datname = current_database() AND r.rolname = current_user AND d.datconnlimit >= 0 AND NOT r.rolsuper
		)
		SELECT most - used, most FROM limits ORDER BY 1 LIMIT 1`).Scan(&free, &most)
	if err != nil {
		return "", postgres.Classify(err, "count the sessions")
	}
	need := p.target.Database.Connections + besideReaders
	if free < need {
		return "", failure.New(failure.ServerUnreachable, "a backup needs about %d sessions, and of %d that the role may have, %d are free now", need, most, max(free, 0)).
			Do("end other sessions, or raise the limit of the role or the database (CONNECTION LIMIT) or of the server (max_connections), or lower connections: of the target")
	}
	return fmt.Sprintf("a backup needs about %d, and %d of %d are free now", need, free, most), nil
}

func (p *patient) ends(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	var may bool
	var function string
	err = conn.QueryRow(ctx, `
		SELECT has_function_privilege(p.oid, 'EXECUTE'), p.oid::regprocedure::text FROM pg_proc p
		WHERE p.proname = 'pg_terminate_backend' AND p.pronamespace = 'pg_catalog'::regnamespace ORDER BY 1 DESC LIMIT 1`).Scan(&may, &function)
	if err != nil {
		return "", postgres.Classify(err, "look at the right to end sessions")
	}
	if !may {
		return "", failure.New(failure.MissingRight, "the role may not end its own sessions, as a run must when its worker was killed or frozen").
			Do("GRANT EXECUTE ON FUNCTION %s TO %s", function, postgres.Quote(conn.Config().User))
	}
	return "yes", nil
}

// oldTransactions names transactions that hold locks, and that somebody may have forgotten.
func (p *patient) oldTransactions(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	old, err := texts(ctx, conn, "look for old transactions", `
		SELECT said FROM (
			SELECT 'the prepared transaction ' || quote_literal(gid) || ' of ' || quote_ident(owner) AS said, prepared AS since
			FROM pg_prepared_xacts WHERE database = current_database()
			UNION ALL
			SELECT 'the session with pid ' || a.pid || coalesce(' of ' || quote_ident(a.usename), '') || coalesce(' (' || nullif(a.application_name, '') || ')', ''), a.xact_start
			FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
			  AND NOT (a.usename = current_user AND a.application_name LIKE 'upkeep-%') -- a backup that is at work
			  AND EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.pid = a.pid AND l.locktype = 'relation' AND d.datname = current_database())
		) AS x WHERE since <= clock_timestamp() - $1::bigint * interval '1 ms' ORDER BY since`, oldAfter.Milliseconds())
	if err != nil {
		return "", err
	}
	if len(old) > 0 {
		return "", &Doubt{
			Found:    fmt.Sprintf("open for more than %s, and holding locks: %s", oldAfter, named(old)),
			Remedy:   "end what nobody needs (ROLLBACK PREPARED, pg_terminate_backend): a change of a table waits for it, and a backup for that change",
			Optional: true,
		}
	}
	var sees bool
	if err := conn.QueryRow(ctx, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')").Scan(&sees); err != nil {
		return "", postgres.Classify(err, "look at the role")
	}
	if !sees {
		return "", &Doubt{Found: "the role does not see how old the transactions of others are", Remedy: "GRANT pg_monitor to the role, if you want this to be looked at", Optional: true}
	}
	return fmt.Sprintf("none is open for more than %s and holds locks", oldAfter), nil
}

// upkeep looks for what Upkeep itself runs on: the state of its Temporal on the target's server, and the
// store among the server's files.
func (p *patient) upkeep(ctx context.Context) (string, error) {
	conn, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	if err := p.storeWithin(ctx, conn); err != nil {
		return "", err
	}
	here, err := postgres.HoldsTemporal(ctx, conn)
	if err != nil {
		return "", err
	}
	var found, unseen []string
	if here {
		found = append(found, "in this database")
	}
	others, err := texts(ctx, conn, "list the server's databases", `
		SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> current_database() ORDER BY datname`)
	if err != nil {
		return "", err
	}
	for i, name := range others {
		var holds bool
		if i < maxDatabases {
			holds, err = p.otherHoldsTemporal(ctx, name)
		}
		switch {
		case err != nil || i >= maxDatabases:
			unseen = append(unseen, fmt.Sprintf("%q", name))
		case holds:
			found = append(found, fmt.Sprintf("in database %q of this server", name))
		}
	}
	if len(found) > 0 {
		return "Upkeep's own Temporal keeps its state here, as its tables say: " + named(found) + "; Upkeep never stops or replaces that", nil
	}
	if len(unseen) > 0 {
		return "", &Doubt{Found: "no Temporal keeps its state in what could be looked at; not in these databases: " + named(unseen), Remedy: "let the role connect to them, if you want them to be looked at", Optional: true}
	}
	return "nothing of it is on this server", nil
}

func (p *patient) otherHoldsTemporal(ctx context.Context, name string) (bool, error) {
	conn, err := p.source.Connect(ctx, postgres.WithDatabase(name))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return postgres.HoldsTemporal(ctx, conn)
}

// storeWithin refuses a store among the files of the server whose backups it holds, where that can be
// seen: on this machine, and by a role that may read where they are.
func (p *patient) storeWithin(ctx context.Context, conn *pgx.Conn) error {
	folder := storeFolder(p.options.Config.Store)
	if folder == "" || !near(conn.PgConn().Conn()) {
		return nil
	}
	data, err := texts(ctx, conn, "see where the server's files are", "SELECT setting FROM pg_settings WHERE name = 'data_directory'") // no row: not for this role
	if err != nil || len(data) == 0 || data[0] == "" || !inside(folder, data[0]) {
		return err
	}
	return failure.New(failure.BadConfig, "the store %s is inside the server's own folder %s: what destroys the database takes its backups along", folder, data[0]).
		Do("move the store to another disk, and correct store: in the configuration")
}

// texts reads a query's one column.
func texts(ctx context.Context, conn *pgx.Conn, doing, query string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, postgres.Classify(err, doing)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return found, postgres.Classify(err, doing)
}
