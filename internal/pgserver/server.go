// Package pgserver runs private PostgreSQL servers from the machine's own binaries: for copies that
// are restored, compared and thrown away, for the demonstration, and for tests. A server has an OS
// user and a network of its own when the worker is root, an empty environment, a unix socket that
// nobody else can reach, and it dies with the process that started it. Its folder carries a lock, so a later
// process can tell a dead one's folder from a living one's, and adopt or remove it.
package pgserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// startTimeout bounds the wait for a server that replays what a dead one left.
	startTimeout = 5 * time.Minute
	// maxSocketPath is what Linux allows for the path of a unix socket, in bytes.
	maxSocketPath = 107
	socketFile    = ".s.PGSQL.5432"
)

// Options say what server to run.
type Options struct {
	// Dir is the server's folder. It is made when missing; one that holds a server is started again.
	Dir      string
	Binaries Binaries
	// Durable servers survive a crash of the machine; others trade that for speed, and are made anew
	// after one.
	Durable   bool
	Superuser string // "postgres" when empty
	Encoding  string // of the template databases; "UTF8" when empty
	Locale    string // of the template databases; "C.UTF-8" when empty, or "C" with another encoding
	// Account is the OS user of the server when this process is root; DefaultAccount when empty.
	Account string
	// TCPPort also opens this port on 127.0.0.1, with a random password of the superuser: see Password.
	// Such a server is in this process's network.
	TCPPort  int
	Settings map[string]string // of postgresql.conf, over the defaults
}

// Server is a running private server.
type Server struct {
	opts     Options
	dir      string
	sockets  string
	lock     *os.File
	account  account
	process  *postmaster
	password string
}

// Start starts a server in a folder, and initialises it first when the folder has none. A folder
// that a living process holds is refused with RestoreBusy; one that a dead process left is adopted.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	if o.Binaries.Dir == "" {
		return nil, errors.New("pgserver: no binaries given")
	}
	o = o.withDefaults()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(dir)
	switch {
	case errors.Is(err, errHeld):
		return nil, failure.New(failure.RestoreBusy, "the private server in %s is held by another worker process", dir).
			Do("wait for it or end it, then resume the run")
	case errors.Is(err, os.ErrPermission):
		return nil, unavailable("the folder %s cannot be made", dir).Because(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return nil, diskFull(dir)
	case err != nil:
		return nil, err
	}
	s := &Server{opts: o, dir: dir, lock: lock}
	defer func() {
		if err != nil {
			_ = lock.Close() // the folder stays for a next try or for the reaper
		}
	}()
	if s.account, err = openAccount(ctx, o.Account); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, asFailure(dir, err)
	}
	if err := s.launch(ctx); err != nil {
		return nil, asFailure(dir, err)
	}
	if err := s.ready(ctx); err != nil {
		_ = s.process.end(expired(ctx), syscall.SIGQUIT)
		return nil, asFailure(dir, err)
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Superuser == "" {
		o.Superuser = "postgres"
	}
	if o.Encoding == "" {
		o.Encoding = "UTF8"
	}
	if o.Locale == "" {
		o.Locale = "C"
		if o.Encoding == "UTF8" {
			o.Locale = "C.UTF-8"
		}
	}
	if o.Account == "" {
		o.Account = DefaultAccount
	}
	return o
}

// prepare leaves a whole data folder and nobody working in it.
func (s *Server) prepare(ctx context.Context) error {
	_ = os.Remove(s.path(abandonedName)) // only there when a reaper saw the folder
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return err
	}
	if err := s.account.reaches(s.dir); err != nil {
		return err
	}
	if err := endLeftover(ctx, s.dir); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if last, err := os.ReadFile(s.path("boot")); err == nil && string(last) != boot && !s.opts.Durable {
		// Without durability nothing that was written before a crash of the machine can be trusted.
		if err := os.RemoveAll(s.path("data")); err != nil {
			return err
		}
	}
	if err := os.WriteFile(s.path("boot"), []byte(boot), 0o600); err != nil {
		return err
	}
	s.sockets = s.path("socket")
	if len(filepath.Join(s.sockets, socketFile)) > maxSocketPath {
		s.sockets = shortSocketFolder(s.dir)
	}
	if err := s.account.makeFolder(s.sockets); err != nil {
		return err
	}
	if _, err := os.Lstat(s.path("data", "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		if err := s.initdb(ctx); err != nil {
			return err
		}
	}
	if major := strings.TrimSpace(string(readOwned(s.path("data", "PG_VERSION")))); major != strconv.Itoa(s.opts.Binaries.Major) {
		return unavailable("the server in %s is of version %s, and the programs are of version %d", s.dir, major, s.opts.Binaries.Major).
			Do("remove the folder, or install PostgreSQL %s", major)
	}
	return nil
}

// shortSocketFolder stands in for a folder whose path is too long for a socket.
func shortSocketFolder(dir string) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("upkeep-%x", sha256.Sum256([]byte(dir)))[:23])
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// launch starts the postmaster.
func (s *Server) launch(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own descriptor
	args := []string{"-D", s.path("data")}
	settings := s.settings()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	mark, err := markOf(s.dir)
	if err != nil {
		return err
	}
	s.process, err = startPostmaster(func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(s.opts.Binaries.Dir, "postgres"), args...)
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(minimalEnv(), mark), s.path("data"), log, log
		cmd.SysProcAttr = s.account.attributes(syscall.SIGQUIT)
		return cmd
	}, s.account.own && s.opts.TCPPort == 0)
	return err
}

// settings are those of the command line, which nothing in the data folder overrides.
func (s *Server) settings() map[string]string {
	set := common()
	if !s.opts.Durable {
		set = Throwaway()
	}
	set["unix_socket_directories"] = s.sockets
	if s.opts.TCPPort > 0 {
		set["listen_addresses"], set["port"] = "127.0.0.1", strconv.Itoa(s.opts.TCPPort)
	}
	maps.Copy(set, s.opts.Settings)
	return set
}

// common are the settings of every private server.
func common() map[string]string {
	return map[string]string{
		"listen_addresses": "", "port": "5432", "unix_socket_permissions": "0700",
		"max_connections": "50", "shared_buffers": "128MB", "dynamic_shared_memory_type": "mmap", "max_locks_per_transaction": "2048",
		"timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C", "jit": "off", "logging_collector": "off",
		// No row value and no statement belongs into the log.
		"log_statement": "none", "log_min_error_statement": "panic", "log_error_verbosity": "terse",
		"log_min_duration_statement": "-1", "log_checkpoints": "off", "log_autovacuum_min_duration": "-1",
	}
}

// Throwaway are the settings of a server whose data no crash survives, and need not.
func Throwaway() map[string]string {
	set := common()
	maps.Copy(set, map[string]string{
		"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "wal_level": "minimal", "max_wal_senders": "0",
		"max_wal_size": "1GB", "wal_init_zero": "off", "wal_buffers": "16MB", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h", "autovacuum": "off",
		"log_min_messages": "fatal",
	})
	return set
}

// ready waits until the server takes connections, and sets the password where there is a port.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cfg, err := pgx.ParseConfig(s.DSN("", "postgres"))
	if err != nil {
		return err
	}
	cfg.Password = "" // no password of this process's environment is for this server
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err == nil {
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			return s.setPassword(ctx, conn)
		}
		select {
		case <-tick.C:
		case <-s.process.done:
			return unavailable("the private server in %s did not start (%v): %s", s.dir, s.process.err, s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("wait for the private server: %w", ctx.Err())
		}
	}
}

func (s *Server) setPassword(ctx context.Context, conn *pgx.Conn) error {
	if s.opts.TCPPort == 0 {
		return nil
	}
	file := s.path("password")
	password, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		password = []byte(rand.Text())
		err = os.WriteFile(file, password, 0o600)
	}
	if err != nil {
		return err
	}
	s.password = string(password)
	// The text is letters and digits only.
	_, err = conn.Exec(ctx, "ALTER ROLE "+pgx.Identifier{s.opts.Superuser}.Sanitize()+" PASSWORD '"+s.password+"'", pgx.QueryExecModeSimpleProtocol)
	return err
}

func (s *Server) logTail() string {
	log, err := os.Open(s.path("log"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = log.Close() }() // only read
	if size, err := log.Seek(0, io.SeekEnd); err == nil {
		_, _ = log.Seek(max(0, size-2*maxSaid), io.SeekStart) // the worst is that it is read from its end
	}
	text, _ := io.ReadAll(io.LimitReader(log, 2*maxSaid)) // what could be read says enough
	return lastPart(string(text))
}

// DSN is the URL of a database over the unix socket, where every role may log in without a
// password. An empty user is the superuser.
func (s *Server) DSN(user, database string) string {
	if user == "" {
		user = s.opts.Superuser
	}
	port := 5432
	if s.opts.TCPPort > 0 {
		port = s.opts.TCPPort
	}
	u := url.URL{Scheme: "postgres", Path: "/" + database, RawPath: "/" + escapeSegment(database)}
	// libpq takes a plus sign for itself, not for a space.
	u.RawQuery = strings.ReplaceAll(url.Values{"host": {s.sockets}, "port": {strconv.Itoa(port)}, "user": {user}}.Encode(), "+", "%20")
	return u.String()
}

// TCPURL is the URL of a database over the TCP port, as the superuser and without the password.
func (s *Server) TCPURL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(s.opts.Superuser), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.opts.TCPPort)),
		Path: "/" + database, RawPath: "/" + escapeSegment(database)}
	return u.String()
}

func escapeSegment(name string) string { return strings.ReplaceAll(url.PathEscape(name), "/", "%2F") }

// Password is the superuser's, for the TCP port; empty without one.
func (s *Server) Password() string { return s.password }

// PasswordFile holds the superuser's password, readable by this process's user only.
func (s *Server) PasswordFile() string { return s.path("password") }

// Remark says what code in the server's databases can reach that it should not, and why; empty when
// the server has an OS user and a network of its own.
func (s *Server) Remark() string {
	switch {
	case !s.account.own:
		return "the scratch server runs as the worker's own OS user and in its network, because the worker is not root"
	case !s.process.apart:
		return "the scratch server can reach the worker's network, because the worker may not make network and process namespaces (CAP_SYS_ADMIN)"
	}
	return ""
}

// Dir is the server's folder.
func (s *Server) Dir() string { return s.dir }

// Pid is the postmaster's process id.
func (s *Server) Pid() int { return s.process.pid }

// Done is closed when the server has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.process.done }

// Stop ends the server and frees its folder, which keeps the data. Sessions are cut off; when the
// context ends before the server does, it is killed.
func (s *Server) Stop(ctx context.Context) error {
	err := s.process.end(ctx, syscall.SIGINT)
	return errors.Join(err, endStrays(s.dir), s.lock.Close())
}

// Remove ends the server and removes its folder.
func (s *Server) Remove(ctx context.Context) error {
	if err := s.process.end(ctx, syscall.SIGQUIT); err != nil {
		return err
	}
	if err := endStrays(s.dir); err != nil { // at once: nothing here has to end by itself
		return err
	}
	if err := endLeftover(ctx, s.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(s.sockets); err != nil {
		return err
	}
	return removeFolder(s.dir, s.lock)
}

func (s *Server) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// expired is a context that is over already but keeps its values: end insists at once.
func expired(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	return ctx
}

// asFailure gives errors of the machine the code that says who can mend them.
func asFailure(dir string, err error) error {
	if _, ok := failure.As(err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return diskFull(dir)
	}
	return unavailable("could not start a private server in %s", dir).Because(err)
}
