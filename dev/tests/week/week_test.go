// Package week lives through a week of a target on real servers: what is scheduled is triggered day after
// day, people restore twice, and at the end every verdict is true and nothing is left over.
package week

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// plan is the target's: encrypted, and everything that a week is made of.
const plan = `    encryption: {recipients: [%s], identityFrom: {env: SHOP_IDENTITY}}
    retention: {last: 3, replacedDays: 1}
    schedules:
      - {name: nightly-backup, procedure: BackupDatabase, cron: "0 2 * * *"}
      - {name: nightly-prune, procedure: PruneBackups, cron: "0 3 * * *"}
      - {name: weekly-drill, procedure: DrillRecovery, cron: "0 4 * * 0"}
`

type site struct {
	*harness.Stack
	server    *pgserver.Server
	name, url string
	seen      map[string]int // how many runs of a schedule were seen
}

// scheduled starts what a schedule starts, as its hour would, and waits for the run's end.
func (s *site) scheduled(t *testing.T, name string) *run.Document {
	t.Helper()
	h := s.Client.ScheduleClient().GetHandle(t.Context(), "upkeep-shop-"+name)
	require.NoError(t, h.Trigger(t.Context(), client.ScheduleTriggerOptions{}))
	var id string
	require.Eventually(t, func() bool {
		d, err := h.Describe(t.Context())
		if err != nil || len(d.Info.RecentActions) <= s.seen[name] {
			return false
		}
		id = d.Info.RecentActions[len(d.Info.RecentActions)-1].StartWorkflowResult.WorkflowID
		return id != ""
	}, harness.Patience, 50*time.Millisecond)
	s.seen[name]++
	doc := s.Await(t, id)
	require.Equal(t, run.Succeeded, doc.Outcome, "%s: %s", name, doc.Summary)
	return doc
}

// night lets a day pass: everything in the store is a day older.
func (s *site) night(t *testing.T) {
	t.Helper()
	const by = 25 * time.Hour
	for _, path := range glob(t, s.Store, "shop", "chunks", "*", "*") {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.NoError(t, os.Chtimes(path, time.Time{}, info.ModTime().Add(-by)))
	}
	rewrite(t, glob(t, s.Store, "shop", "condemned.json"), func(v any) any { return earlier(v, by) })
	rewrite(t, glob(t, s.Store, "shop", "replaced", "*.json"), func(v any) any { return earlier(v, by) })
}

// earlier moves the times in a JSON object back.
func earlier(v any, by time.Duration) any {
	object := v.(map[string]any)
	for key, value := range object {
		if text, ok := value.(string); ok {
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
				object[key] = at.Add(-by)
			}
		}
	}
	return object
}

func rewrite(t *testing.T, paths []string, change func(any) any) {
	t.Helper()
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var v any
		require.NoError(t, json.Unmarshal(data, &v))
		data, err = json.Marshal(change(v))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
}

func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(parts...))
	require.NoError(t, err)
	return paths
}

func TestAWeek(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE orders (id bigserial PRIMARY KEY, day int, note text); INSERT INTO orders (day, note) SELECT 0, repeat('x', 200) || g FROM generate_series(1, 20000) g")
	ann := keyringtest.NewPerson(t)
	s := &site{Stack: harness.New(t, harness.Target("shop", url, fmt.Sprintf(plan, ann.Recipient))), server: server, name: name, url: url, seen: make(map[string]int)}
	s.Worker(t, "w", "SHOP_IDENTITY="+ann.Secret)
	require.Zero(t, s.Upkeep(t, "schedules", "apply").Code)
	require.Contains(t, s.Upkeep(t, "schedules", "apply").Out, "unchanged")

	rows := func(database string) string {
		return harness.Ask(t, server.DSN("", database), "SELECT count(*)::text FROM orders")[0]
	}
	for day := 1; day <= 7; day++ {
		// A day's work: some rows come, some change, some go.
		pgservertest.Exec(t, url, fmt.Sprintf("INSERT INTO orders (day, note) SELECT %[1]d, repeat('y', 200) || g FROM generate_series(1, 1000) g; UPDATE orders SET note = note || '%[1]d' WHERE id %% 7 = %[1]d %% 7; DELETE FROM orders WHERE day = %[1]d - 3", day))
		s.scheduled(t, "nightly-backup")
		switch day {
		case 3: // somebody wants to look at yesterday
			doc := s.Run(t, "RestoreDatabase", `{"target":"shop","database":"`+name+`_look"}`)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			require.Equal(t, rows(name), rows(name+"_look"))
			pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE "+name+"_look")
		case 5: // somebody has emptied the table
			before := rows(name)
			pgservertest.Exec(t, url, "TRUNCATE orders")
			id := s.Start(t, "RestoreDatabase", `{"target":"shop","mode":"replace","confirm":"`+name+`"}`)
			s.Until(t, id, func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() })
			called := s.Upkeep(t, "approve", id, "--reason", "the table was emptied", "--wait")
			require.Zero(t, called.Code, called.Out+called.Err)
			require.Equal(t, before, rows(name))
		case 7:
			doc := s.scheduled(t, "weekly-drill")
			require.Contains(t, doc.Summary, "PASS")
		}
		s.scheduled(t, "nightly-prune")
		s.night(t)
	}
	s.scheduled(t, "nightly-prune") // what was condemned last, and what was replaced, goes

	store, err := objstore.Open(t.Context(), "file://"+s.Store)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	needed := make(map[string]bool)
	entries, err := catalog.List(t.Context(), store, "shop", nil, func(b *format.Index) {
		for _, c := range b.Chunks {
			needed[format.ChunkKey("shop", c.Name)] = true
		}
	})
	require.NoError(t, err)
	require.Len(t, entries, 3)
	for _, e := range entries {
		require.False(t, e.Damaged(), e.ID)
		doc := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+e.ID+`"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	}
	for _, path := range glob(t, s.Store, "shop", "chunks", "*", "*") {
		key, err := filepath.Rel(s.Store, path)
		require.NoError(t, err)
		require.True(t, needed[filepath.ToSlash(key)], "%s is left over", key)
	}
	require.Empty(t, glob(t, s.Store, "shop", "condemned.json"))
	require.Empty(t, glob(t, s.Store, "shop", "replaced", "*"))
	require.Empty(t, glob(t, s.Store, "shop", "copies", "*"))
	for _, database := range harness.Ask(t, server.DSN("", "postgres"), "SELECT datname::text FROM pg_database") {
		require.False(t, strings.HasPrefix(database, name+"_"), "database %s is left over", database)
	}
	s.NothingLeft(t, server)
}
