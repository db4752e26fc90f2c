package waits

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// TestWhatCannotBeMendedIsRefused names things that are not there and asks for what is forbidden. The
// run ends, says what to do instead, and has changed nothing.
func TestWhatCannotBeMendedIsRefused(t *testing.T) {
	s := startServer(t)
	s.database(t, "shop", 1000)
	s.database(t, "secretive", 10)
	s.exec(t, "secretive", "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY")
	s.Stack = harness.New(t, harness.Target("shop", s.url("shop"), "")+harness.Target("secretive", s.url("secretive"), ""))
	s.Worker(t, "w")
	first := s.backUp(t, "shop")
	were := s.files(t, "shop")
	near := first[:len(first)-1] // a letter is lost
	for _, c := range []struct {
		name string
		args []string
		exit int
		code string
		says []string
	}{
		{"unknown target", []string{"BackupDatabase", "--target", "shpo"}, 4, "UnknownTarget", []string{`no target "shpo"`, `did you mean "shop"?`, "secretive"}},
		{"target left out", []string{"BackupDatabase", "--config", "no-config"}, 2, "BadConfig", []string{"no-config"}},
		{"unknown backup", []string{"VerifyBackup", "--target", "shop", "--set", "backup=" + near}, 4, "UnknownBackup", []string{near, `did you mean "` + first + `"?`}},
		{"no backup yet", []string{"DrillRecovery", "--target", "secretive", "--set", "backup=latest"}, 4, "UnknownBackup", []string{"has no backup", "upkeep run BackupDatabase --target secretive"}},
		{"a path for a backup", []string{"RestoreDatabase", "--target", "shop", "--set", "backup=../shop"}, 4, "UnknownBackup", []string{"is not the id of a backup"}},
		{"unknown grade", []string{"VerifyBackup", "--target", "shop", "--set", "grade=store"}, 2, "BadInput", []string{`did you mean "stored"?`}},
		{"a name that is too long", []string{"RestoreDatabase", "--target", "shop", "--set", "database=a123456789b123456789c123456789d123456789e123456789f123456789g123"}, 2, "BadInput", []string{"choose a shorter name"}},
		{"a database that exists", []string{"RestoreDatabase", "--target", "shop", "--set", "database=secretive"}, 4, "DatabaseExists", []string{`"secretive" is already there`, "choose another name"}},
		{"row security", []string{"BackupDatabase", "--target", "secretive"}, 4, "RowSecurity", []string{`"public"."orders"`, "BYPASSRLS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.Upkeep(t, append([]string{"run", "--wait", "-o", "json"}, c.args...)...)
			require.Equal(t, c.exit, got.Code, "%s\n%s", got.Out, got.Err)
			doc := got.Document(t)
			require.Equal(t, run.Refused, doc.Outcome)
			require.Equal(t, c.code, doc.Error.Code)
			for _, word := range c.says {
				require.Contains(t, doc.Summary, word)
			}
		})
	}
	s.untouched(t, "shop", were)
	require.Len(t, s.files(t, "shop"), len(were))
	require.NoDirExists(t, filepath.Join(s.Store, "shpo"))
	_, err := os.Stat(filepath.Join(s.Store, "secretive", "backups"))
	require.ErrorIs(t, err, os.ErrNotExist)
	s.NothingLeft(t, s.server)
}
