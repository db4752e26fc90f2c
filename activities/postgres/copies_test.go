package postgres

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/pgserver"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/restore"
)

func TestMain(m *testing.M) { os.Exit(pgservertest.Main(m)) }

// site is a database with a backup, and the activities of a worker.
type site struct {
	*Activities
	server *pgserver.Server
	store  objstore.Store
	dir    string
	copy   Copy // to be restored beside the original
}

func newSite(t *testing.T) *site {
	t.Helper()
	server := pgservertest.Server(t, pgservertest.Default)
	name, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY, name text); INSERT INTO goods SELECT g, 'thing ' || g FROM generate_series(1, 500) g")
	s := &site{Activities: &Activities{Version: "test", Realm: "here"}, server: server, dir: t.TempDir()}
	target := Target{Name: "shop", DatabaseURL: url, Store: "file://" + s.dir, Connections: 2}
	backup, err := s.TakeBackup(t.Context(), BackupRequest{Target: target, BackupID: "20260102T030405Z-0a1b2c3d"})
	require.NoError(t, err)
	require.Equal(t, int64(500), backup.Rows)
	s.store, err = objstore.Open(t.Context(), target.Store)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.store.Close()) })
	final := name + "_copy"
	s.copy = Copy{
		Target: target, BackupID: backup.BackupID, Database: restore.BuildName("shop", backup.BackupID, final), Final: final,
		Owner: "0a1b2c", RunID: "run-1", Place: Place{Kind: PlaceTarget, Queue: run.DatabaseQueue},
	}
	t.Cleanup(func() {
		for _, d := range []string{s.copy.Database, s.copy.Final} {
			pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE IF EXISTS "+d)
		}
	})
	return s
}

// notes lists the notes about copies.
func (s *site) notes(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "shop", "copies", "*"))
	require.NoError(t, err)
	return found
}

func (s *site) exists(t *testing.T, database string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.server.DSN("", "postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	var found bool
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&found))
	return found
}

// TestHalfDatabaseOfAnEndedRunIsRemoved is about runs that were terminated, and could not undo.
func TestHalfDatabaseOfAnEndedRunIsRemoved(t *testing.T) {
	s := newSite(t)
	_, err := s.CreateDatabase(t.Context(), s.copy)
	require.NoError(t, err)
	require.Len(t, s.notes(t), 1)

	require.NoError(t, s.ReapCopies(t.Context(), s.store, "shop", answers(nil)))
	require.True(t, s.exists(t, s.copy.Database), "the run goes on")
	elsewhere := &Activities{Realm: "elsewhere"}
	ended := answers(map[string]bool{"run-1": true})
	require.NoError(t, elsewhere.ReapCopies(t.Context(), s.store, "shop", ended))
	require.True(t, s.exists(t, s.copy.Database), "nobody there can know of the run")

	require.NoError(t, s.ReapCopies(t.Context(), s.store, "shop", ended))
	require.False(t, s.exists(t, s.copy.Database))
	require.Empty(t, s.notes(t))
	require.NoError(t, s.ReapCopies(t.Context(), s.store, "shop", ended), "done twice, it is done")

	_, err = s.LoadRows(t.Context(), s.copy)
	require.True(t, failure.Is(err, failure.CopyLost), "%v", err)
}

// TestCopyThatWasTakenOverIsNotForgotten drops a copy late, for a run that has lost it to another.
func TestCopyThatWasTakenOverIsNotForgotten(t *testing.T) {
	s := newSite(t)
	_, err := s.CreateDatabase(t.Context(), s.copy)
	require.NoError(t, err)
	later := s.copy
	later.Owner, later.RunID = "3d4e5f", "run-2"
	s.Ended = answers(map[string]bool{"run-1": true})
	_, err = s.CreateDatabase(t.Context(), later)
	require.NoError(t, err)
	require.Len(t, s.notes(t), 1, "it is one copy")
	require.NoError(t, s.forget(t.Context(), s.store, s.copy))
	require.Len(t, s.notes(t), 1)
	require.NoError(t, s.ReapCopies(t.Context(), s.store, "shop", answers(map[string]bool{"run-1": true})))
	require.True(t, s.exists(t, s.copy.Database))
	require.NoError(t, s.DropCopy(t.Context(), later))
	require.Empty(t, s.notes(t))
}

// TestCopyOfALivingRunIsLeftToIt gives the same order twice, and gives the second one up.
func TestCopyOfALivingRunIsLeftToIt(t *testing.T) {
	s := newSite(t)
	s.Ended = answers(nil)
	created, err := s.CreateDatabase(t.Context(), s.copy)
	require.NoError(t, err)
	second := s.copy
	second.Owner, second.RunID = "3d4e5f", "run-2"
	_, err = s.CreateDatabase(t.Context(), second)
	require.True(t, failure.Is(err, failure.RestoreBusy), "%v", err)
	require.ErrorContains(t, err, "upkeep cancel run-1", "it says which run")
	require.NoError(t, s.DropCopy(t.Context(), second), "it undoes what it never did")
	_, err = s.LoadRows(t.Context(), created)
	require.NoError(t, err)
	require.NoError(t, s.DropCopy(t.Context(), second))
	require.True(t, s.exists(t, s.copy.Database), "nobody works on it at this moment, and it is not theirs")
	_, err = s.Publish(t.Context(), created)
	require.NoError(t, err)
	require.Empty(t, s.notes(t))
}

// TestRunThatIsStartedAnewTakesOver has the id of the run that failed.
func TestRunThatIsStartedAnewTakesOver(t *testing.T) {
	s := newSite(t)
	s.Ended = answers(nil) // the newest run of the id, which is the one that asks
	_, err := s.CreateDatabase(t.Context(), s.copy)
	require.NoError(t, err)
	again := s.copy
	again.Owner = "3d4e5f"
	_, err = s.CreateDatabase(t.Context(), again)
	require.NoError(t, err)
	require.NoError(t, s.DropCopy(t.Context(), again))
	require.False(t, s.exists(t, s.copy.Database))
}

// TestLateTwinLeavesNoDatabase freezes an attempt between its note and its database, until the copy is
// another run's, until it is published, and until it is gone.
func TestLateTwinLeavesNoDatabase(t *testing.T) {
	s := newSite(t)
	s.Ended = answers(map[string]bool{"run-1": true})
	late := func(refused failure.Code) {
		t.Helper()
		o, err := s.restoreOptions(t.Context(), s.store, s.copy)
		require.NoError(t, err)
		_, err = createRemembered(t.Context(), s.store, o, s.copy)
		require.True(t, failure.Is(err, refused), "%v", err)
	}
	require.NoError(t, s.remember(t.Context(), s.store, s.copy))
	other := s.copy
	other.Owner, other.RunID = "3d4e5f", "run-2"
	created, err := s.CreateDatabase(t.Context(), other)
	require.NoError(t, err)
	late(failure.Fenced)
	_, err = s.LoadRows(t.Context(), created)
	require.NoError(t, err, "the other's copy stays")
	_, err = s.Publish(t.Context(), created)
	require.NoError(t, err)
	late(failure.DatabaseExists)
	require.False(t, s.exists(t, s.copy.Database))
	require.True(t, s.exists(t, s.copy.Final))
	pgservertest.Exec(t, s.server.DSN("", "postgres"), `DROP DATABASE "`+s.copy.Final+`"`)
	late(failure.Fenced)
	require.False(t, s.exists(t, s.copy.Database), "nobody would look for it")
}

func TestRestoreBesideTheOriginal(t *testing.T) {
	s := newSite(t)
	plan, err := s.PlanRestore(t.Context(), s.copy)
	require.NoError(t, err)
	require.Equal(t, int64(500), plan.Rows)
	created, err := s.CreateDatabase(t.Context(), s.copy)
	require.NoError(t, err)
	require.NotZero(t, created.Oid)
	loaded, err := s.LoadRows(t.Context(), created)
	require.NoError(t, err)
	require.Equal(t, int64(500), loaded.Rows)
	proof, err := s.Compare(t.Context(), created)
	require.NoError(t, err)
	require.Equal(t, run.Pass, proof.Verdict, "%+v", proof.Checks)
	for range 2 {
		_, err = s.Publish(t.Context(), created)
		require.NoError(t, err)
	}
	require.Empty(t, s.notes(t), "what is published is nobody's to remove")
	require.NoError(t, s.DropCopy(t.Context(), s.copy))
	require.True(t, s.exists(t, s.copy.Final))
	_, err = s.PlanRestore(t.Context(), s.copy)
	require.True(t, failure.Is(err, failure.DatabaseExists), "%v", err)
}
