package stores

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
)

const lastOne = "    retention: {last: 1}\n"

// pruned is a prune's result.
type pruned struct {
	Removed, Locked         []string
	FreesBytes, HidesBytes  int64
	FreedBytes, HiddenBytes int64
	Condemned               int
	Space                   string
}

// TestOnABucketThatKeepsVersions takes backups, checks, restores and prunes in buckets that hide what is
// removed, with and without a lock.
func TestOnABucketThatKeepsVersions(t *testing.T) {
	for name, make := range map[string]func(*objstoretest.S3) string{
		"versions": func(s *objstoretest.S3) string { return s.Versioned(t, "backups") },
		"governance": func(s *objstoretest.S3) string {
			return s.Locked(t, "backups", types.ObjectLockRetentionModeGovernance, 1)
		},
		"compliance": func(s *objstoretest.S3) string {
			return s.Locked(t, "backups", types.ObjectLockRetentionModeCompliance, 30)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := objstoretest.StartS3(t)
			s := newSiteIn(t, server, make(server), lastOne)
			first := s.backup(t)
			pgservertest.Exec(t, s.url, "UPDATE orders SET note = md5(note) WHERE id % 2 = 0")
			second := s.backup(t)
			for _, id := range []string{first, second} {
				doc := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+id+`","grade":"decoded"}`)
				require.Equal(t, run.Pass, result[verdict](t, doc).Verdict, doc.Summary)
			}
			doc := s.Run(t, "RestoreDatabase", `{"target":"shop","backup":"latest","database":"kept_`+name+`"}`)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)

			doc = s.Run(t, "PruneBackups", `{"target":"shop","dryRun":true}`)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			plan := result[pruned](t, doc)
			require.Equal(t, "hidden", plan.Space)
			require.Zero(t, plan.FreesBytes)
			require.Positive(t, plan.HidesBytes)
			require.Contains(t, doc.Summary, "the bucket keeps versions")
			doc = s.Run(t, "PruneBackups", `{"target":"shop"}`)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			done := result[pruned](t, doc)
			require.Equal(t, []string{first}, done.Removed)
			require.Zero(t, done.FreedBytes)
			require.Contains(t, doc.Summary, "is freed when its lifecycle rule lets old versions go")
			hidden, err := filepath.Glob(filepath.Join(server.Hidden, "backups", "*"))
			require.NoError(t, err)
			require.NotEmpty(t, hidden, "the server keeps what was removed")

			// What the next backup needs again is written over what was condemned, and what was removed is no
			// backup any more.
			pgservertest.Exec(t, s.url, "UPDATE orders SET note = md5(note) WHERE id % 3 = 0")
			third := s.backup(t)
			doc = s.Run(t, "DrillRecovery", `{"target":"shop","backup":"`+third+`"}`)
			require.Equal(t, run.Pass, result[verdict](t, doc).Verdict, doc.Summary)
			doc = s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+first+`"}`)
			require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
			s.NothingLeft(t, s.server)
		})
	}
}

// backup takes a backup and returns its id.
func (s *site) backup(t *testing.T) string {
	t.Helper()
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	return result[taken](t, doc).BackupID
}

// TestAPruneThatALockRefuses has a server that keeps manifests as a legal hold does where no versions are:
// the backup stays, whole, and it is said.
func TestAPruneThatALockRefuses(t *testing.T) {
	server := objstoretest.StartS3(t)
	way := server.Behind(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete || !strings.HasSuffix(r.URL.Path, "/manifest.json") {
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.</Message></Error>")
		return true
	})
	s := newSiteIn(t, way, way.Bucket(t, "backups"), lastOne)
	first := s.backup(t)
	pgservertest.Exec(t, s.url, "UPDATE orders SET note = md5(note) WHERE id % 2 = 0")
	s.backup(t)
	doc := s.Run(t, "PruneBackups", `{"target":"shop"}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	done := result[pruned](t, doc)
	require.Empty(t, done.Removed)
	require.Equal(t, []string{first}, done.Locked)
	require.Zero(t, done.FreedBytes)
	require.Zero(t, done.Condemned, "what it needs stays")
	require.Contains(t, text(t, doc), "object lock")
	checked := s.Run(t, "VerifyBackup", `{"target":"shop","backup":"`+first+`","grade":"decoded"}`)
	require.Equal(t, run.Pass, result[verdict](t, checked).Verdict, checked.Summary)
}

// TestABackupInAStoreWithoutConditions is refused before anything is written.
func TestABackupInAStoreWithoutConditions(t *testing.T) {
	server := objstoretest.StartS3(t)
	way := server.Unconditional(t, 0, "")
	s := newSiteIn(t, way, way.Bucket(t, "backups"), "")
	doc := s.Run(t, "BackupDatabase", `{"target":"shop"}`)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Contains(t, text(t, doc), "use a store that knows conditional writes")
	manifests, err := filepath.Glob(filepath.Join(s.folder, "shop", "backups", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, manifests)
}

// text is all that a run's document says.
func text(t *testing.T, doc *run.Document) string {
	t.Helper()
	data, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(data)
}
