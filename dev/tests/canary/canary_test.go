package canary

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// canaries are what must be nowhere. The letters are such that no encoding of JSON or of a URL changes
// them.
var canaries = map[string]string{
	"a row's value":               "rowCanary7q2w",
	"a row's key":                 "keyCanary8e4r",
	"a number in a row":           "774411990022",
	"a value in JSON":             "jsonCanary5t6y",
	"a value in bytea":            "byteCanary3u9i",
	"a large object":              "blobCanary1o0p",
	"the password in the env":     "pwEnvCanary2a5s",
	"the password in the file":    "pwFileCanary6d8f",
	"the scratch password":        "pwScratchCanary4g7h",
	"the wrong password":          "pwWrongCanary9j3k",
	"a value that a check quotes": "checkCanary2l5z",
}

// control is a canary that is put where it must be found.
var control = map[string]string{"the control": "controlCanary8x1c"}

// mine is a stack whose database is full of canaries.
type mine struct {
	*harness.Stack
	server    *pgserver.Server
	port      int
	logFrom   int64 // where the server's log begins to count
	printed   []hay // by the command line
	ids       []string
	described []hay // runs while their steps were tried again, with the newest failure
}

// dig starts a server that logs every statement, and makes the databases.
func dig(t *testing.T) *mine {
	t.Helper()
	binaries, err := pgservertest.Binaries(t.Context(), pgservertest.Default)
	require.NoError(t, err)
	m := &mine{port: harness.FreePort(t)}
	m.server, err = pgserver.Start(t.Context(), pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("canary-%d", os.Getpid())), Binaries: binaries, TCPPort: m.port,
		Settings: map[string]string{"log_statement": "all", "log_min_error_statement": "error", "log_error_verbosity": "verbose", "log_min_messages": "info", "log_connections": "on"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.server.Remove(context.Background())) })
	for role, password := range map[string]string{"by_env": "the password in the env", "by_file": "the password in the file", "scratcher": "the scratch password"} {
		m.exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN SUPERUSER PASSWORD '%s'", role, canaries[password]))
	}
	m.exec(t, "postgres", "CREATE DATABASE shop")
	m.exec(t, "shop", fill(`
		CREATE TABLE people (id text PRIMARY KEY, name text, number numeric UNIQUE, data jsonb, raw bytea);
		INSERT INTO people SELECT '{a row's key}' || g, '{a row's value}', {a number in a row}000 + g, '{"v": "{a value in JSON}"}', '{a value in bytea}' FROM generate_series(1, 5000) g;
		CREATE TABLE loose (note text, other text);
		INSERT INTO loose SELECT '{a row's value}', CASE WHEN g % 2 = 0 THEN '{a row's value}' END FROM generate_series(1, 100) g;
		SELECT lo_from_bytea(0, repeat('{a large object}', 1000)::bytea);`))
	// Each of these can be backed up and not be restored: what is right in it depends on where it is.
	for name, ddl := range bad {
		m.exec(t, "postgres", "CREATE DATABASE "+name)
		m.exec(t, name, fill(ddl))
	}
	info, err := os.Stat(filepath.Join(m.server.Dir(), "log"))
	require.NoError(t, err)
	m.logFrom = info.Size()
	return m
}

// bad are databases whose restore fails with a message, a detail or a context that quotes a row.
var bad = map[string]string{
	"bad_check":  `CREATE TABLE t (v text CHECK (current_database() = 'bad_check' OR length(v) < 3)); INSERT INTO t VALUES ('{a value that a check quotes}')`,
	"bad_cast":   `CREATE TABLE t (v text CHECK (current_database() = 'bad_cast' OR v::int > 0)); INSERT INTO t VALUES ('{a value that a check quotes}')`,
	"bad_domain": `CREATE DOMAIN d AS text CHECK (current_database() = 'bad_domain' OR length(value) < 3); CREATE TABLE t (v d); INSERT INTO t VALUES ('{a value that a check quotes}')`,
	"bad_unique": `CREATE FUNCTION part(v text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT CASE WHEN current_database() = 'bad_unique' THEN v ELSE left(v, -1) END$$;
		CREATE TABLE t (v text); CREATE UNIQUE INDEX ON t (part(v)); INSERT INTO t VALUES ('{a value that a check quotes}1'), ('{a value that a check quotes}2')`,
	"bad_raise": `CREATE FUNCTION agree(v text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF current_database() <> 'bad_raise' THEN
			RAISE EXCEPTION 'no place for %', v USING ERRCODE = 'insufficient_privilege', DETAIL = v, HINT = v, TABLE = v, COLUMN = v, CONSTRAINT = v; END IF; RETURN true; END$$;
		CREATE TABLE t (v text CHECK (agree(v))); INSERT INTO t VALUES ('{a value that a check quotes}')`,
	"bad_names": `CREATE TABLE t (v text); CREATE FUNCTION look(v text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF current_database() <> 'bad_names' THEN
			EXECUTE 'SELECT 1 FROM "' || v || '"'; END IF; RETURN true; END$$;
		INSERT INTO t VALUES ('{a value that a check quotes}'); ALTER TABLE t ADD CHECK (look(v))`,
}

// fill writes the canaries for their names in braces.
func fill(sql string) string {
	for name, canary := range canaries {
		sql = strings.ReplaceAll(sql, "{"+name+"}", canary)
	}
	return sql
}

func (m *mine) exec(t *testing.T, database, sql string) {
	t.Helper()
	pgservertest.Exec(t, m.server.DSN("", database), sql)
}

func (m *mine) tcp(role, database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s", role, m.port, database)
}

func (m *mine) secret(t *testing.T, name, password string) string {
	t.Helper()
	path := filepath.Join(m.Dir, "secret-"+name)
	require.NoError(t, os.WriteFile(path, []byte(password+"\n"), 0o600))
	return path
}

// upkeep calls the command line and keeps what it printed.
func (m *mine) upkeep(t *testing.T, args ...string) harness.Called {
	t.Helper()
	got := m.Upkeep(t, args...)
	m.printed = append(m.printed, hay{"the output of upkeep " + strings.Join(args, " "), []byte(got.Out + got.Err)})
	return got
}

// ends runs a procedure to an end, and shows it in every way.
func (m *mine) ends(t *testing.T, exit int, id string, args ...string) *run.Document {
	t.Helper()
	got := m.upkeep(t, append([]string{"run", "--id", id, "--wait", "-o", "json"}, args...)...)
	m.ids = append(m.ids, id)
	require.Equal(t, exit, got.Code, "%s\n%s", got.Out, got.Err)
	m.upkeep(t, "show", id)
	return got.Document(t)
}

// parks runs a procedure until it waits, shows it, and gives it up.
func (m *mine) parks(t *testing.T, id, says string, args ...string) {
	t.Helper()
	require.Zero(t, m.upkeep(t, append([]string{"run", "--id", id}, args...)...).Code)
	m.ids = append(m.ids, id)
	doc := m.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting || d.Outcome.Ended() })
	require.Equal(t, run.Waiting, doc.Outcome, doc.Summary)
	require.Contains(t, doc.WaitingFor, says)
	m.upkeep(t, "show", id)
	m.upkeep(t, "show", id, "-o", "json")
	require.Equal(t, 5, m.upkeep(t, "abandon", id, "--wait", "-o", "json").Code)
}

// tries runs a procedure whose error is tried again by itself, shows it meanwhile, and cancels it.
func (m *mine) tries(t *testing.T, id string, args ...string) {
	t.Helper()
	require.Zero(t, m.upkeep(t, append([]string{"run", "--id", id}, args...)...).Code)
	m.ids = append(m.ids, id)
	m.Until(t, id, func(d *run.Document) bool {
		require.False(t, d.Outcome.Ended(), d.Summary)
		return strings.Contains(d.Summary, "attempt ")
	})
	m.upkeep(t, "show", id)
	m.described = append(m.described, m.histories(t)...)
	require.Equal(t, 5, m.upkeep(t, "cancel", id, "--wait", "-o", "json").Code)
}

// histories are all that Temporal knows of the runs: every event with all payloads, and what describes
// a run: memo, search attributes, details.
func (m *mine) histories(t *testing.T) []hay {
	t.Helper()
	var hays []hay
	for _, id := range m.ids {
		var all []byte
		for events := m.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			e, err := events.Next()
			require.NoError(t, err)
			data, err := proto.Marshal(e) // payloads are in it as they are, not in base64
			require.NoError(t, err)
			all = append(all, data...)
		}
		d, err := m.Client.DescribeWorkflowExecution(t.Context(), id, "")
		require.NoError(t, err)
		data, err := proto.Marshal(d)
		require.NoError(t, err)
		hays = append(hays, hay{"the history of " + id, all}, hay{"the description of " + id, data})
	}
	list, err := m.Client.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{})
	require.NoError(t, err)
	data, err := proto.Marshal(list)
	require.NoError(t, err)
	return append(hays, hay{"the list of runs", data})
}

// serverLog is what the people's own server has logged.
func (m *mine) serverLog(t *testing.T) hay {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(m.server.Dir(), "log"))
	require.NoError(t, err)
	return hay{"the log of the target's server", log[m.logFrom:]}
}

func TestNoPasswordAndNoRowIsAnywhere(t *testing.T) {
	m := dig(t)
	m.Stack = harness.New(t, harness.Target("placeholder", "postgres:///", ""))
	scratch := fmt.Sprintf("      scratch: {server: %q, passwordFrom: {file: %s}}\n", m.tcp("scratcher", "postgres"), m.secret(t, "scratch", canaries["the scratch password"]))
	byFile := "      passwordFrom: {file: " + m.secret(t, "right", canaries["the password in the file"]) + "}\n"
	targets := harness.Target("env", m.tcp("by_env", "shop"), "      passwordFrom: {env: CANARY_PASSWORD}\n") +
		harness.Target("file", m.tcp("by_file", "shop"), byFile+scratch) +
		harness.Target("wrong", m.tcp("by_file", "shop"), "      passwordFrom: {file: "+m.secret(t, "wrong", canaries["the wrong password"])+"}\n")
	for name := range bad {
		targets += harness.Target(name, m.tcp("by_file", name), byFile+scratch)
	}
	m.Configure(t, targets)
	before, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	w := watch(t, filepath.Join(m.Dir, "data-*", "scratch", "*", "log"))
	worker := m.Worker(t, "w", "CANARY_PASSWORD="+canaries["the password in the env"])

	// To success.
	doc := m.ends(t, 0, "backup", "BackupDatabase", "--target", "env")
	var result struct{ BackupID string }
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	m.ends(t, 0, "verify", "VerifyBackup", "--target", "env")
	m.ends(t, 0, "restore", "RestoreDatabase", "--target", "env", "--set", "database=copy")
	m.ends(t, 0, "drill", "DrillRecovery", "--target", "file")
	m.ends(t, 0, "plan", "RestoreDatabase", "--target", "env", "--dry-run")
	require.Empty(t, found([]hay{m.serverLog(t)}, canaries), "not even where every statement is logged")

	// To a pause.
	m.parks(t, "wrong-password", "password authentication failed", "BackupDatabase", "--target", "wrong")
	m.parks(t, "raises", "", "DrillRecovery", "--target", "bad_raise")

	// To failure, by rows that the copy refuses.
	for _, name := range []string{"bad_check", "bad_cast", "bad_domain", "bad_unique"} {
		doc := m.ends(t, 1, name, "DrillRecovery", "--target", name)
		require.Contains(t, doc.Summary, "SQLSTATE 2", name)
	}
	m.tries(t, "names", "DrillRecovery", "--target", "bad_names")
	passwords := make(map[string]string)
	for name, canary := range canaries {
		if strings.Contains(name, "password") {
			passwords[name] = canary
		}
	}
	require.Empty(t, found([]hay{m.serverLog(t)}, passwords), "that server's own log of an error may quote its rows, but no password")

	// To failure, by an engine that is broken, and by a damaged chunk.
	worker.Stop()
	worker = m.Worker(t, "w", "CANARY_PASSWORD="+canaries["the password in the env"], "UPKEEP_FAULT=mutant=restore-null-becomes-empty")
	require.Contains(t, m.ends(t, 1, "broken", "DrillRecovery", "--target", "file").Summary, "FAIL")
	worker.Stop()
	worker = m.Worker(t, "w", "CANARY_PASSWORD="+canaries["the password in the env"])
	m.damage(t, "env")
	m.ends(t, 1, "damaged", "VerifyBackup", "--target", "env", "--set", "backup="+result.BackupID)
	m.ends(t, 1, "damaged-decoded", "VerifyBackup", "--target", "env", "--set", "grade=decoded")
	m.ends(t, 1, "damaged-restore", "RestoreDatabase", "--target", "env")
	m.upkeep(t, "runs")
	m.upkeep(t, "runs", "-o", "json")

	// The control: a canary where it must be found.
	_, err = m.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "control", TaskQueue: run.WorkflowQueue}, "DrillRecovery",
		map[string]string{"target": "env", "backup": control["the control"]})
	require.NoError(t, err)
	m.ids = append(m.ids, "control")
	require.Equal(t, run.Refused, m.Await(t, "control").Outcome)
	m.upkeep(t, "show", "control")
	m.watchControl(t, w)

	worker.Stop()
	m.NothingLeft(t, m.server)
	for _, what := range []string{"cmdline of pg_dump", "environ of pg_dump", "cmdline of pg_restore", "environ of pg_restore", "environ of postgres", "cmdline of postgres", "log of a scratch server"} {
		require.True(t, w.has(what), "never seen: %s", what)
	}
	seen := w.end()
	groups := map[string][]hay{
		"histories":                 append(m.described, m.histories(t)...),
		"Temporal's own files":      files(t, filepath.Join(m.Dir, "temporal"), func(string) bool { return false }),
		"the command line's output": m.printed,
		"the store": files(t, m.Store, func(path string) bool {
			return strings.HasSuffix(path, ".zst") || strings.Contains(path, "/quarantine/")
		}),
		"the worker's": files(t, m.Dir, func(path string) bool {
			return strings.HasPrefix(path, m.Store) || strings.HasPrefix(path, filepath.Join(m.Dir, "temporal")) || strings.Contains(path, "/secret-")
		}),
		"processes":                         seen,
		"what is new among temporary files": fresh(t, before),
	}
	for name, hays := range groups {
		if name != "what is new among temporary files" {
			require.NotEmpty(t, hays, name)
		}
		if name == "processes" {
			hays = meant(hays)
		}
		require.Empty(t, found(hays, canaries), name)
	}
	for _, name := range []string{"histories", "Temporal's own files", "the command line's output", "the store", "processes"} {
		require.NotEmpty(t, found(groups[name], control), "the search of %s does not see", name)
	}
	require.NotEmpty(t, found(seen, passwords), "where a password is meant to be, it is seen")
	require.NotEmpty(t, found(files(t, m.Dir, func(path string) bool { return !strings.Contains(path, "/secret-") }), passwords))
}

// meant leaves out where a password belongs: the worker's environment, which passwordFrom points to,
// and that of pg_dump, which libpq takes it from.
func meant(seen []hay) []hay {
	var rest []hay
	for _, h := range seen {
		if h.name != "environ of pg_dump" && h.name != "environ of upkeep-worker" {
			rest = append(rest, h)
		}
	}
	return rest
}

// damage turns a bit in every chunk of a target.
func (m *mine) damage(t *testing.T, target string) {
	t.Helper()
	chunks, err := filepath.Glob(filepath.Join(m.Store, target, "chunks", "*", "*.zst"))
	require.NoError(t, err)
	require.NotEmpty(t, chunks)
	for _, path := range chunks {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		data[len(data)/2] ^= 1
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
}

// watchControl runs a program with the control in its arguments until it was seen.
func (m *mine) watchControl(t *testing.T, w *watcher) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.Args[0] = control["the control"]
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	defer func() { _ = cmd.Process.Kill() }()
	require.Eventually(t, func() bool { return w.has("cmdline of sleep") }, harness.Patience, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for text := range w.seen["cmdline of sleep"] {
			if bytes.Contains([]byte(text), []byte(control["the control"])) {
				return true
			}
		}
		return false
	}, harness.Patience, 10*time.Millisecond)
}

// fresh are the files that have come into the folder of temporary files, but those of tests.
func fresh(t *testing.T, before []os.DirEntry) []hay {
	t.Helper()
	had := make(map[string]bool)
	for _, e := range before {
		had[e.Name()] = true
	}
	now, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	var hays []hay
	for _, e := range now {
		if !had[e.Name()] && !e.IsDir() && e.Type().IsRegular() {
			data, err := os.ReadFile(filepath.Join(os.TempDir(), e.Name()))
			if err == nil {
				hays = append(hays, hay{"temporary file " + e.Name(), data})
			}
		}
	}
	return hays
}
