// Package encryption runs the procedures over a target whose backups are encrypted, with the identity,
// without, and with another's.
package encryption

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/keyring/keyringtest"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site is a stack with one target, whose encryption a test chooses.
type site struct {
	*harness.Stack
	url  string
	runs []string
}

// encrypted configures the target: its readers, and where the identity is, if anywhere.
func (s *site) encrypted(t *testing.T, readers []keyringtest.Person, identity string, keys ...string) {
	t.Helper()
	text := "    retention: {last: 1}\n    encryption:\n      recipients:\n"
	for _, r := range readers {
		text += "        - " + r.Recipient + "\n"
	}
	if identity != "" {
		text += fmt.Sprintf("      identityFrom: {file: %s}\n", identity)
	}
	if len(keys) > 0 {
		text += fmt.Sprintf("      keys: [%s]\n", strings.Join(keys, ", "))
	}
	s.Configure(t, harness.Target("shop", s.url, text))
}

func (s *site) do(t *testing.T, procedure, input string) *run.Document {
	t.Helper()
	doc := s.Run(t, procedure, input)
	s.runs = append(s.runs, doc.RunID)
	return doc
}

func write(t *testing.T, path string, p keyringtest.Person) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(p.Secret+"\n"), 0o600))
}

func TestATargetThatIsEncrypted(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY, name text); INSERT INTO goods SELECT g, 'topsecret' || g FROM generate_series(1, 20000) g")
	s := &site{Stack: harness.New(t, harness.Target("shop", url, "")), url: url}
	ann, bob := keyringtest.NewPerson(t), keyringtest.NewPerson(t)
	identity := filepath.Join(s.Dir, "identity")
	write(t, identity, ann)
	s.encrypted(t, []keyringtest.Person{ann}, identity)
	s.Worker(t, "w")

	require.Contains(t, s.Upkeep(t, "keys", "list").Out, "no repository key")
	require.Equal(t, run.Succeeded, s.do(t, "BackupDatabase", `{"target":"shop"}`).Outcome)
	var keys []starter.KeyListed
	require.NoError(t, json.Unmarshal([]byte(s.Upkeep(t, "keys", "list", "-o", "json").Out), &keys))
	require.Len(t, keys, 1)
	require.True(t, keys[0].Opens)
	trusted := keys[0].Fingerprint
	s.encrypted(t, []keyringtest.Person{ann}, identity, trusted)
	for procedure, input := range map[string]string{
		"DrillRecovery":   `{"target":"shop"}`,
		"VerifyBackup":    `{"target":"shop"}`,
		"RestoreDatabase": `{"target":"shop","database":"beside"}`,
	} {
		doc := s.do(t, procedure, input)
		require.Equal(t, run.Succeeded, doc.Outcome, "%s: %s", procedure, doc.Summary)
	}
	t.Cleanup(func() {
		for _, name := range []string{"beside", "direct"} {
			pgservertest.Exec(t, server.DSN("", "postgres"), "DROP DATABASE IF EXISTS "+name)
		}
	})
	require.Equal(t, []string{"20000"}, harness.Ask(t, server.DSN("", "beside"), "SELECT count(*)::text FROM goods WHERE name LIKE 'topsecret%'"))
	require.Contains(t, s.Upkeep(t, "backups", "list").Out, "encrypted")

	t.Run("without an identity", func(t *testing.T) {
		s.encrypted(t, []keyringtest.Person{ann}, "", trusted)
		require.Equal(t, run.Succeeded, s.do(t, "VerifyBackup", `{"target":"shop","grade":"stored"}`).Outcome)
		for _, grade := range []string{"decoded", "restored"} {
			doc := s.do(t, "VerifyBackup", `{"target":"shop","grade":"`+grade+`"}`)
			require.Equal(t, run.PartiallySucceeded, doc.Outcome, "%s: %s", grade, doc.Summary)
			require.Contains(t, doc.Summary, "NOT_PROVEN")
			require.Contains(t, doc.Summary, "no identity")
		}
		for procedure, input := range map[string]string{
			"BackupDatabase": `{"target":"shop"}`, "DrillRecovery": `{"target":"shop","dryRun":true}`, "RestoreDatabase": `{"target":"shop","database":"other"}`,
		} {
			doc := s.do(t, procedure, input)
			require.Equal(t, run.Refused, doc.Outcome, "%s: %s", procedure, doc.Summary)
			require.Equal(t, string(failure.NoIdentity), doc.Error.Code)
		}
		doc := s.do(t, "PruneBackups", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Contains(t, s.Upkeep(t, "backups", "list").Out, "sealed")
		require.Equal(t, starter.ExitRefused, s.Upkeep(t, "restore", "--direct", "--database", "direct").Code)
	})

	t.Run("with another's identity", func(t *testing.T) {
		s.encrypted(t, []keyringtest.Person{ann}, identity, trusted)
		write(t, identity, bob)
		id := s.Start(t, "VerifyBackup", `{"target":"shop","grade":"decoded"}`)
		s.runs = append(s.runs, id)
		waits := s.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting })
		require.Contains(t, waits.WaitingFor, "is not wrapped to it")
		require.NotZero(t, s.Upkeep(t, "keys", "rewrap").Code)
		write(t, identity, ann)
		require.Zero(t, s.Upkeep(t, "resume", id).Code)
		require.Equal(t, run.Succeeded, s.Await(t, id).Outcome)
	})

	t.Run("with a backup in clear that is newer", func(t *testing.T) {
		s.Configure(t, harness.Target("shop", url, "")) // as somebody could make it elsewhere
		plain := s.do(t, "BackupDatabase", `{"target":"shop"}`)
		var made struct{ BackupID string }
		require.NoError(t, json.Unmarshal(plain.Result, &made))
		s.encrypted(t, []keyringtest.Person{ann}, identity, trusted)
		require.Contains(t, s.Upkeep(t, "backups", "list").Out, "in clear, so it may be anybody's")
		doc := s.do(t, "VerifyBackup", `{"target":"shop","grade":"decoded"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.NotContains(t, doc.Summary, made.BackupID, "the newest is one of ours")
		doc = s.do(t, "VerifyBackup", `{"target":"shop","backup":"`+made.BackupID+`"}`)
		require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary, "in clear")
		live := harness.Ask(t, url, "SELECT current_database()::text")[0]
		doc = s.do(t, "RestoreDatabase", `{"target":"shop","mode":"replace","confirm":"`+live+`","backup":"`+made.BackupID+`"}`)
		require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
		require.NoError(t, os.RemoveAll(filepath.Join(s.Store, "shop", "backups", made.BackupID)))
		leaves, err := filepath.Glob(filepath.Join(s.Store, "shop", "chunks", "*", "*.zst"))
		require.NoError(t, err)
		for _, path := range leaves {
			require.NoError(t, os.Remove(path))
		}
	})

	t.Run("for another reader", func(t *testing.T) {
		s.encrypted(t, []keyringtest.Person{ann, bob}, identity, trusted)
		require.Zero(t, s.Upkeep(t, "keys", "rewrap").Code)
		write(t, identity, bob)
		called := s.Upkeep(t, "restore", "--direct", "--database", "direct")
		require.Zero(t, called.Code, called.Err)
		require.Equal(t, []string{"20000"}, harness.Ask(t, server.DSN("", "direct"), "SELECT count(*)::text FROM goods"))
	})

	t.Run("with a new key", func(t *testing.T) {
		var made struct {
			Fingerprint string
			Keys        []string
		}
		require.NoError(t, json.Unmarshal([]byte(s.Upkeep(t, "keys", "new", "-o", "json").Out), &made))
		require.Equal(t, []string{made.Fingerprint, trusted}, made.Keys)
		s.encrypted(t, []keyringtest.Person{ann, bob}, identity, made.Keys...)
		doc := s.do(t, "DrillRecovery", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		doc = s.do(t, "VerifyBackup", `{"target":"shop"}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	})

	// Neither a row nor a secret is anywhere that it should not be.
	secrets := [][]byte{[]byte("topsecret"), []byte(ann.Secret[20:]), []byte(bob.Secret[20:])}
	for _, id := range s.runs {
		for events := s.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			event, err := events.Next()
			require.NoError(t, err)
			for _, secret := range secrets {
				require.NotContains(t, event.String(), string(secret))
			}
		}
	}
	for _, dir := range []string{s.Store, filepath.Join(s.Dir, "w.log")} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			for _, secret := range secrets {
				require.False(t, bytes.Contains(data, secret), "%s holds %s", path, secret)
			}
			return err
		}))
	}
	s.NothingLeft(t, server)
}
