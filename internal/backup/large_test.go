package backup_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/backup"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/chunk"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/proof"
	"github.com/upkeep-run/upkeep/internal/restore"
)

// childTask makes the test binary carry out one step in a process of its own, whose memory can be
// measured.
const childTask = "BACKUP_TEST_TASK"

type task struct{ Step, Store, Source, Copy string }

func init() {
	raw := os.Getenv(childTask)
	if raw == "" {
		return
	}
	var t task
	err := json.Unmarshal([]byte(raw), &t)
	if err == nil {
		err = t.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(string(status))
	os.Exit(0)
}

func (t task) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	store, err := objstore.Open(ctx, t.Store)
	if err != nil {
		return err
	}
	if t.Step == "backup" {
		_, err := backup.Take(ctx, backup.Options{Source: postgres.Config{URL: t.Source}, Store: store, Target: "shop", BackupID: "b1", Connections: 2, Engine: "test"})
		return err
	}
	m, err := catalog.Load(ctx, store, "shop", "b1", nil)
	if err != nil {
		return err
	}
	open := func(ctx context.Context, c format.Chunk) (io.ReadCloser, error) {
		return chunk.Open(ctx, store, "shop", c, nil)
	}
	if t.Step == "restore" {
		o := restore.Options{Manifest: m, Open: open, Server: postgres.Config{URL: t.Copy}, Private: true, Database: "copy", Final: "copy", Owner: "run-1", Connections: 2}
		if o.Oid, err = restore.Create(ctx, o); err != nil {
			return err
		}
		_, err = restore.Load(ctx, o)
		return err
	}
	r, err := open(ctx, m.Schema.Archive)
	if err != nil {
		return err
	}
	archive, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	checks, err := proof.Compare(ctx, proof.Options{Copy: postgres.Config{URL: t.Copy}, Database: "copy", Manifest: m, Archive: archive, Connections: 2, Properties: true})
	if err == nil && proof.Verdict(checks) != run.Pass {
		err = fmt.Errorf("%v", checks)
	}
	return err
}

// call runs the task in a process of its own and returns what that one printed.
func (t task) call(tb testing.TB, env ...string) (string, error) {
	tb.Helper()
	raw, err := json.Marshal(t)
	require.NoError(tb, err)
	cmd := exec.CommandContext(deadline(tb), os.Args[0])
	cmd.Env = append(append(os.Environ(), childTask+"="+string(raw)), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return string(out), err
}

// peak runs the task and returns the most memory that its process had at once, in bytes.
func (t task) peak(tb testing.TB) int64 {
	tb.Helper()
	out, err := t.call(tb)
	require.NoError(tb, err)
	_, after, found := strings.Cut(out, "VmHWM:")
	require.True(tb, found)
	var kib int64
	_, err = fmt.Sscanf(after, "%d kB", &kib)
	require.NoError(tb, err)
	return kib << 10
}

// children are tasks of a drill whose copy is on a private server.
func (d *drill) children(t testing.TB) task {
	d.manifest = &format.Manifest{} // the server must only know a version and a name
	d.manifest.Server.VersionNum = pgservertest.Default * 10000
	d.scratch(t)
	return task{Store: strings.TrimSuffix(d.options.Store.URL("x"), "/x"), Source: d.options.Source.URL, Copy: d.copied.Server.URL}
}

// Two values of 100 MB, so that each of two sessions can have one in hand at the same time.
func TestMemoryIsBoundedByTheLargestRow(t *testing.T) {
	const size = 100_000_000
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, fmt.Sprintf(`
		CREATE TABLE a (id int PRIMARY KEY, v bytea); CREATE TABLE b (id int PRIMARY KEY, v text);
		INSERT INTO a SELECT 1, convert_to(repeat(md5('a'), %d), 'UTF8'); INSERT INTO b SELECT 1, repeat(md5('b'), %d);
		CREATE TABLE many (v text); INSERT INTO many SELECT repeat(md5(g::text), 10) FROM generate_series(1, 100000) g`, size/32, size/32))
	d := newDrill(t, server, name)
	where := d.children(t)
	const most = 256<<20 + 3*(2*size+16)
	for _, step := range []string{"backup", "restore", "compare"} {
		where.Step = step
		peak := where.peak(t)
		t.Logf("%s: %d MiB of %d", step, peak>>20, most>>20)
		require.Less(t, peak, int64(most), step)
	}
}

// A value of 550 MB makes 1.1 GB of text, more than the server puts into one message.
func TestARowTooLongForTheProtocolIsNamed(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	// Text and bytea look the same on disk, and a conversion would need the memory once more.
	pgservertest.Exec(t, url, `CREATE TABLE "Long" (id int PRIMARY KEY, secret text, v text); INSERT INTO "Long" VALUES (1, 's1', 'short'), (3, 's3', 'short');
		INSERT INTO "Long" SELECT 2, 'hidden', repeat('row value ', 55000000);
		UPDATE pg_attribute SET atttypid = 'bytea'::regtype, attcollation = 0 WHERE attrelid = '"Long"'::regclass AND attname = 'v'`)
	d := newDrill(t, server, name)
	err := d.take(t)
	require.True(t, failure.Is(err, failure.RowTooLong), "%v", err)
	require.ErrorContains(t, err, `"public"."Long"`)
	require.ErrorContains(t, err, "id = 2")
	require.NotContains(t, err.Error(), "hidden")
	require.NotContains(t, err.Error(), "row value")
	requireNoObject(t, d.options.Store, "shop/backups/")
	pgservertest.Exec(t, url, `DELETE FROM "Long" WHERE id = 2`)
	require.NoError(t, d.take(t))
}
