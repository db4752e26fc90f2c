package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/restore"
	"github.com/upkeep-run/upkeep/internal/verify"
)

// guideSQL makes a small database whose names and values would hurt a careless script. It needs the
// role "ann ' \" of the server.
const guideSQL = `
	DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = E'ann \' \\ \n"x') THEN
		CREATE ROLE "ann ' \ 
""x" NOLOGIN CONNECTION LIMIT 7; CREATE ROLE "readers $(touch pwned)" CREATEDB; GRANT "readers $(touch pwned)", pg_monitor TO "ann ' \ 
""x"; END IF; END $$;
	CREATE SCHEMA "a'b\
""c" AUTHORIZATION "ann ' \ 
""x";
	CREATE TABLE "a'b\
""c"."t
\! touch pwned
\.
" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "$(touch pwned)" text, ":new" text[], t money, "` + "`touch pwned`" + `" interval, doc xml, at date);
	ALTER TABLE "a'b\
""c"."t
\! touch pwned
\.
" OWNER TO "ann ' \ 
""x";
	INSERT INTO "a'b\
""c"."t
\! touch pwned
\.
" ("$(touch pwned)", ":new", t, "` + "`touch pwned`" + `", doc, at) VALUES (E'\\.\n\\! touch pwned\n\\.', '{NULL,"NULL",a}', 1234.5, '-1 year 2 days 03:04:05', 'a<b/>c', '2020-02-01'), (NULL, NULL, NULL, NULL, NULL, '0044-03-15 BC');
	CREATE INDEX "i
; \! touch pwned" ON "a'b\
""c"."t
\! touch pwned
\.
" ("$(touch pwned)");
	CREATE SEQUENCE "a'b\
""c"."s'\
" INCREMENT -1;
	CREATE FUNCTION "a'b\
""c"."f';" () RETURNS text LANGUAGE sql AS $f$ SELECT E'\\! touch pwned\n\\.' $f$;
	COMMENT ON SCHEMA "a'b\
""c" IS E'\\! touch pwned\n\\q';
	SELECT lo_from_bytea(4711, 'a large object');`

// A twin of another version that wakes when the backup is taken leaves its guide as it is; one that
// comes before the manifest puts its own in the place of a guide that nothing vouches for.
func TestALateTwinLeavesTheGuideAlone(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (a int)")
	d := newDrill(t, server, name)
	store := d.options.Store
	key := format.BackupKey("shop", "b1", "restore.sh")
	require.NoError(t, store.Create(deadline(t), key, []byte("#!/bin/sh\n# of version 0\n")))
	require.NoError(t, d.take(t))
	first := encoded(t, d.manifest)
	checks, err := verify.Stored(deadline(t), store, "shop", "b1", nil)
	require.NoError(t, err)
	requirePass(t, checks)

	// The other version's guide is what the manifest vouches for; the twin does not see the backup when it begins.
	other := []byte("#!/bin/sh\n# of version 2\n")
	d = newDrill(t, server, name)
	store = d.options.Store
	d.options.Store = &watchedStore{Store: store, pattern: "shop/backups/*/RESTORE.md", act: func() {
		sum := sha256.Sum256(other)
		m, err := format.Decode([]byte(first), "shop", "b1")
		require.NoError(t, err)
		for i := range m.Files {
			if m.Files[i].Name == "restore.sh" {
				m.Files[i].Size, m.Files[i].SHA256 = int64(len(other)), hex.EncodeToString(sum[:])
			}
		}
		data, err := format.Encode(m)
		require.NoError(t, err)
		require.NoError(t, store.Create(deadline(t), key, other))
		require.NoError(t, store.Create(deadline(t), format.ManifestKey("shop", "b1"), data))
	}}
	require.NoError(t, d.take(t))
	kept, err := store.Read(deadline(t), key, 1<<20)
	require.NoError(t, err)
	require.Equal(t, string(other), string(kept))
}

// tools makes a folder with what the guide says is needed, and nothing else.
func tools(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"psql", "pg_restore"} {
		tool, err := postgres.FindTool(deadline(t), name, pgservertest.Default)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(tool.Path, filepath.Join(dir, name)))
	}
	for _, name := range []string{"zstd", "sh", "base64", "cat", "cut", "dirname", "grep", "head", "mktemp", "rm", "sed", "sha256sum", "tail", "tr", "wc"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	return dir
}

// script is a run of a backup's restore.sh on a server.
type script struct {
	path   string
	server *pgserver.Server
	env    []string
	cwd    string // where a command that breaks out would leave its trace
}

func newScript(t testing.TB, folder string, server *pgserver.Server, env ...string) *script {
	t.Helper()
	cfg, err := pgx.ParseConfig(server.DSN("", "postgres"))
	require.NoError(t, err)
	return &script{path: filepath.Join(folder, "restore.sh"), server: server, cwd: t.TempDir(), env: append([]string{
		"PATH=" + tools(t), "TMPDIR=" + t.TempDir(), "PGHOST=" + cfg.Host, fmt.Sprintf("PGPORT=%d", cfg.Port), "PGUSER=" + cfg.User,
	}, env...)}
}

// needs lets the script find more programs.
func (s *script) needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		path, err := exec.LookPath(program)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(strings.TrimPrefix(s.env[0], "PATH="), program)))
	}
}

// command is the script's call for a new database.
func (s *script) command(ctx context.Context, name string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, "/bin/sh", s.path, name)
	cmd.Env, cmd.Dir = s.env, s.cwd
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	return cmd, &said
}

// run runs the script, and requires that nothing broke out of it and that it left nothing behind.
func (s *script) run(t testing.TB, name string) (said string, err error) {
	t.Helper()
	cmd, out := s.command(deadline(t), name)
	err = cmd.Run()
	s.requireClean(t)
	return out.String(), err
}

func (s *script) requireClean(t testing.TB) {
	t.Helper()
	require.Zero(t, query[int](t, s.server.DSN("", "postgres"), `SELECT count(*)::int FROM pg_database WHERE datname LIKE 'upkeep%'`), "a half database is left")
	for _, dir := range []string{s.cwd, strings.TrimPrefix(s.env[1], "TMPDIR=")} {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func (s *script) databases(t testing.TB) string {
	return query[string](t, s.server.DSN("", "postgres"), `SELECT string_agg(quote_ident(datname), ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate`)
}

var emptyServers atomic.Int64

// emptyServer is a new server on which somebody has chosen all settings badly.
func emptyServer(t testing.TB) *pgserver.Server {
	t.Helper()
	binaries, err := pgservertest.Binaries(deadline(t), pgservertest.Default)
	require.NoError(t, err)
	server, err := pgserver.Start(deadline(t), pgserver.Options{
		Dir: filepath.Join(pgservertest.Root(), fmt.Sprintf("guide-%d-%d", os.Getpid(), emptyServers.Add(1))), Binaries: binaries, Encoding: "SQL_ASCII",
		Settings: map[string]string{
			"datestyle": "German, DMY", "timezone": "Asia/Tokyo", "intervalstyle": "sql_standard", "array_nulls": "off", "xmloption": "document",
			"bytea_output": "escape", "default_transaction_read_only": "on",
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Remove(context.Background())) })
	return server
}

// elsewhere copies what a person needs of a store, as by hand, and returns the backup's folder.
func (d *drill) elsewhere(t testing.TB) string {
	t.Helper()
	store := strings.TrimPrefix(d.options.Store.URL("shop"), "file://")
	there := filepath.Join(t.TempDir(), "a copy's folder")
	parts := []string{"chunks", filepath.Join("backups", d.options.BackupID)}
	if d.options.Keys != nil && d.manifest.Key != "" {
		parts = append(parts, "keys")
	}
	for _, part := range parts {
		require.NoError(t, os.CopyFS(filepath.Join(there, part), os.DirFS(filepath.Join(store, part))))
	}
	return filepath.Join(there, "backups", d.options.BackupID)
}

// proveCopy holds a database that the script made against the backup, with every check but amcheck.
func (d *drill) proveCopy(t testing.TB, server *pgserver.Server, name string) {
	t.Helper()
	d.copied = restore.Options{Server: postgres.Config{URL: server.DSN("", "postgres")}, Database: name}
	requirePass(t, d.compare(t))
}

func TestTheScriptAloneBringsABackupBack(t *testing.T) {
	source := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, source)
	everything, err := os.ReadFile("../restore/testdata/everything.sql")
	require.NoError(t, err)
	pgservertest.Exec(t, url, string(everything))
	pgservertest.Exec(t, url, "ALTER EVENT TRIGGER watch DISABLE; "+guideSQL+"; ALTER EVENT TRIGGER watch ENABLE")
	d := newDrill(t, source, database)
	require.NoError(t, d.take(t))
	folder := d.elsewhere(t)
	text, err := os.ReadFile(filepath.Join(folder, "RESTORE.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "sh shop/backups/"+d.options.BackupID+"/restore.sh NEW_DATABASE")
	require.NotContains(t, string(text), "{{")
	s := newScript(t, folder, emptyServer(t))
	require.Equal(t, "postgres", s.databases(t))

	said, err := s.run(t, "shop")
	require.Error(t, err, "roles are missing")
	for _, statement := range []string{`CREATE ROLE "Reader""s"`, `CREATE ROLE helper `, `GRANT helper TO "shop owner";`, "CREATE ROLE \"ann ' \\ \n\"\"x\"", " CONNECTION LIMIT 7;"} {
		require.Contains(t, said, statement)
	}
	require.Equal(t, "postgres", s.databases(t))

	s.env = append(s.env, "CREATE_ROLES=1")
	const name = "a \"copy\"; isn't it \\ $(touch pwned) :new"
	said, err = s.run(t, name)
	require.NoError(t, err, said)
	require.Contains(t, said, "done: database "+name)
	d.proveCopy(t, s.server, name)

	said, err = s.run(t, name)
	require.Error(t, err)
	require.Contains(t, said, "is there already")
	said, err = s.run(t, strings.Repeat("x", 64))
	require.Error(t, err)
	require.Contains(t, said, "63 bytes")
	d.proveCopy(t, s.server, name)
}

func TestTheScriptKnowsOtherEncodings(t *testing.T) {
	source := pgservertest.Server(t, pgservertest.Default)
	admin := source.DSN("", "postgres")
	pgservertest.Exec(t, admin, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
	t.Cleanup(func() { pgservertest.Exec(t, admin, "DROP DATABASE latin WITH (FORCE)") })
	pgservertest.Exec(t, source.DSN("", "latin"), "CREATE TABLE \"größe\" (\"ü\" text); INSERT INTO \"größe\" VALUES ('ÄÖÜ é'); CREATE INDEX \"ß\" ON \"größe\" (\"ü\"); COMMENT ON DATABASE latin IS 'für alle'")
	d := newDrill(t, source, "latin")
	require.NoError(t, d.take(t))
	s := newScript(t, d.elsewhere(t), emptyServer(t))
	said, err := s.run(t, "copy")
	require.NoError(t, err, said)
	d.proveCopy(t, s.server, "copy")
}

func TestTheScriptDropsWhatTheOriginalDropped(t *testing.T) {
	source := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, source)
	pgservertest.Exec(t, url, `DROP SCHEMA public; CREATE SCHEMA app; CREATE TABLE app.t (a int PRIMARY KEY); INSERT INTO app.t VALUES (1); DROP EXTENSION plpgsql; SELECT lo_from_bytea(0, 'x')`)
	d := newDrill(t, source, database)
	require.NoError(t, d.take(t))
	s := newScript(t, d.elsewhere(t), emptyServer(t))
	said, err := s.run(t, "copy")
	require.NoError(t, err, said)
	d.proveCopy(t, s.server, "copy")
}

// guided is a small backup, copied elsewhere, and a server that has its roles.
func guided(t testing.TB) (*drill, *script) {
	t.Helper()
	source := pgservertest.Server(t, pgservertest.Default)
	database, url := pgservertest.Database(t, source)
	pgservertest.Exec(t, url, guideSQL)
	d := newDrill(t, source, database)
	require.NoError(t, d.take(t))
	return d, newScript(t, d.elsewhere(t), source)
}

// again undoes what a case did to the script's copy of the backup.
func (d *drill) again(t testing.TB, s *script) string {
	t.Helper()
	folder := d.elsewhere(t)
	s.path = filepath.Join(folder, "restore.sh")
	return folder
}

func chunkFile(folder string, c format.Chunk) string {
	return filepath.Join(folder, "..", "..", "chunks", c.SHA256[:2], c.SHA256+".zst")
}

func TestTheScriptFailsOnADamagedBackup(t *testing.T) {
	d, s := guided(t)
	before := s.databases(t)
	rows, object, archive := d.manifest.Tables[0].Ranges[0].Chunks[0], d.manifest.LargeObjects.Chunks[0], d.manifest.Schema.Archive
	change := func(how func([]byte) []byte) func(string) {
		return func(path string) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, how(data), 0o600))
		}
	}
	flip := change(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	remove := func(path string) { require.NoError(t, os.Remove(path)) }
	bomb := change(func([]byte) []byte { return packed(t, make([]byte, 64<<20)) })
	manifest := func(folder string) string { return filepath.Join(folder, "manifest.json") }
	of := func(c format.Chunk) func(string) string {
		return func(folder string) string { return chunkFile(folder, c) }
	}
	for name, c := range map[string]struct {
		file func(folder string) string
		how  func(string)
		says string
	}{
		"a bit of the rows":               {of(rows), flip, "is damaged"},
		"rows that are gone":              {of(rows), remove, "is missing"},
		"a bomb":                          {of(rows), bomb, "is damaged"},
		"a bit of the schema":             {of(archive), flip, "is damaged"},
		"large objects that are gone":     {of(object), remove, "is missing"},
		"a bit of the manifest":           {manifest, flip, "is damaged"},
		"a manifest that is gone":         {manifest, remove, "is missing"},
		"half a manifest":                 {manifest, change(func(b []byte) []byte { return b[:len(b)/2] }), "is damaged"},
		"a manifest that is empty":        {manifest, change(func([]byte) []byte { return nil }), "is damaged"},
		"a manifest of a newer format":    {manifest, change(func(b []byte) []byte { return bytes.Replace(b, []byte(`"format":1`), []byte(`"format":3`), 1) }), "no manifest of format 1 or 2"},
		"a manifest with something after": {manifest, change(func(b []byte) []byte { return append(b, "}\n"...) }), "is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := d.again(t, s)
			file := c.file(folder)
			c.how(file)
			said, err := s.run(t, "copy")
			require.Error(t, err)
			require.Contains(t, said, filepath.Base(file)+" is ")
			require.Contains(t, said, c.says)
			require.NotContains(t, said, "done")
			require.Equal(t, before, s.databases(t))
		})
	}
}

func packed(t testing.TB, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return w.EncodeAll(plain, nil)
}

// reseal changes a manifest as a forger would: the checksum is right again.
func reseal(t testing.TB, folder string, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(folder, "manifest.json")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var envelope struct {
		Manifest map[string]any `json:"manifest"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&envelope))
	change(envelope.Manifest)
	raw, err := json.Marshal(envelope.Manifest)
	require.NoError(t, err)
	sum := sha256.Sum256(raw)
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"upkeep":"backup","format":1,"sha256":"%s","manifest":%s}`+"\n", hex.EncodeToString(sum[:]), raw), 0o600))
}

// at walks to a value in JSON.
func at[T any](v any, path ...any) T {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			v = v.(map[string]any)[step]
		case int:
			v = v.([]any)[step]
		}
	}
	return v.(T)
}

// Whoever can write a manifest must not get a shell, a psql command, or a file elsewhere. (That the
// restored schema is code of the backup is said in RESTORE.md.)
func TestTheScriptBelievesNothing(t *testing.T) {
	d, s := guided(t)
	before := s.databases(t)
	firstChunk := func(m map[string]any) map[string]any {
		return at[map[string]any](m, "tables", 0, "ranges", 0, "chunks", 0)
	}
	put := func(folder string, plain []byte, c map[string]any, rows int) {
		sum := sha256.Sum256(plain)
		c["sha256"], c["size"], c["rows"] = hex.EncodeToString(sum[:]), len(plain), rows
		path := chunkFile(folder, format.Chunk{SHA256: hex.EncodeToString(sum[:])})
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, packed(t, plain), 0o600))
	}
	type m = map[string]any
	for name, c := range map[string]struct {
		change func(folder string, m m)
		says   string // "" where the value is data and does no harm
	}{
		"a chunk that climbs": {func(_ string, m m) { firstChunk(m)["sha256"] = "../../../../../../etc/passwd" }, "cannot be one"},
		"a chunk with a line of its own": {func(_ string, m m) {
			firstChunk(m)["sha256"] = strings.Repeat("a", 64) + " 1 1\ntable 1 1 " + base64.StdEncoding.EncodeToString([]byte(`\! touch pwned`)) + "\nchunk"
		}, "cannot be one"},
		"an archive of two columns": {func(_ string, m m) { at[map[string]any](m, "schema", "archive")["sha256"] = "$(touch pwned) 1" }, "cannot be one"},
		"a size that is a command":  {func(_ string, m m) { firstChunk(m)["size"] = "1+$(touch pwned)" }, "invalid input syntax"},
		"a table and its columns": {func(_ string, m m) {
			table := at[map[string]any](m, "tables", 0)
			table["name"], table["columns"] = "x; \n\\! touch pwned\n", []string{"x) FROM PROGRAM 'touch pwned' --"}
		}, "does not exist"},
		"an encoding that is more":    {func(_ string, m m) { at[map[string]any](m, "database")["encoding"] = "UTF8'; \\! touch pwned" }, "is not a valid encoding"},
		"a limit that is more":        {func(_ string, m m) { at[map[string]any](m, "database")["connectionLimit"] = "5; \\! touch pwned" }, "invalid input syntax"},
		"a sequence that is more":     {func(_ string, m m) { at[map[string]any](m, "sequences", 0)["last"] = "1); \\! touch pwned\n--" }, "invalid input syntax"},
		"a database that is a number": {func(_ string, m m) { m["database"] = 5 }, "ERROR"},
		"a grant that is more": {func(_ string, m m) {
			at[map[string]any](m, "database", "acl", 0)["privilege"] = "CONNECT ON DATABASE x TO y; \\! touch pwned\n"
		}, "syntax error"},
		"texts that are more": {func(_ string, m m) {
			database := at[map[string]any](m, "database")
			database["settings"] = []any{map[string]string{"name": "search_path", "value": "x; \n\\! touch pwned\n\", '`touch pwned`"}}
			database["comment"] = "'; \\! touch pwned\n\\q `touch pwned` :new :'new'"
		}, ""},
		"a role that is a command":  {func(_ string, m m) { at[map[string]any](m, "roles", 0)["name"] = "x\n\\! touch pwned\n" }, "roles are missing"},
		"fewer rows than are there": {func(_ string, m m) { firstChunk(m)["rows"] = 1 }, "should hold 1 rows"},
		"rows that end the COPY": {func(f string, m m) {
			put(f, []byte("\\.\n\\! touch pwned\nDROP DATABASE postgres;\n"), firstChunk(m), 3)
		}, "should hold 3 rows"},
		"objects that end the COPY": {func(f string, m m) {
			put(f, []byte("\\.\n\\! touch pwned\n"), at[map[string]any](m, "largeObjects", "chunks", 0), 2)
		}, "should hold 2 pieces"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := d.again(t, s)
			reseal(t, folder, func(m map[string]any) { c.change(folder, m) })
			said, err := s.run(t, "copy") // which looks for what broke out
			if c.says == "" {
				require.NoError(t, err, said)
				pgservertest.Exec(t, s.server.DSN("", "postgres"), "DROP DATABASE copy")
			} else {
				require.Error(t, err)
				require.Contains(t, said, c.says)
			}
			require.Equal(t, before, s.databases(t))
		})
	}
}

// A service of the caller's own must not lead the script into another database.
func TestTheScriptStaysInItsDatabase(t *testing.T) {
	d, s := guided(t)
	_, url := pgservertest.Database(t, s.server)
	service := filepath.Join(t.TempDir(), "services")
	name := query[string](t, url, "SELECT current_database()")
	require.NoError(t, os.WriteFile(service, []byte("[live]\ndbname="+name+"\noptions=-c search_path=public\n"), 0o600))
	s.env = append(s.env, "PGSERVICEFILE="+service, "PGSERVICE=live", "PGDATABASE="+name)
	said, err := s.run(t, "beside")
	require.NoError(t, err, said)
	t.Cleanup(func() { pgservertest.Exec(t, s.server.DSN("", "postgres"), "DROP DATABASE beside") })
	d.proveCopy(t, s.server, "beside")
	require.Zero(t, query[int](t, url, "SELECT count(*)::int FROM pg_class WHERE oid >= 16384"))
}

func TestTheScriptThatIsEndedLeavesNothing(t *testing.T) {
	_, s := guided(t)
	admin := s.server.DSN("", "postgres")
	before := s.databases(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, said := s.command(ctx, "ended")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		return query[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_database WHERE datname LIKE 'upkeep\_restoring\_%')`)
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 143, cmd.ProcessState.ExitCode(), said)
	s.requireClean(t)
	require.Equal(t, before, s.databases(t))
}
