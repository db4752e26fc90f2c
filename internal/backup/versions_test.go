package backup_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/postgres"
)

// Distributions have the client programs of one version, and no program reads a server newer than
// itself. So for newer servers the test binary stands in for pg_dump and pg_restore: its dump is that
// of a twin, a database on an older server that the same SQL made. Only the schema's text comes from
// there; rows, counts, sequences, large objects, indexes and properties are those of the real server.
type standIn struct {
	Major int
	Twin  string            // the URL of the twin
	Real  map[string]string // the programs that do the work
}

const standInFile = "stand-in.json"

func init() {
	name := filepath.Base(os.Args[0])
	if name != "pg_dump" && name != "pg_restore" {
		return
	}
	if err := playProgram(name, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var oids = regexp.MustCompile(`(?m)^(\d+); \d+ \d+ `)

func playProgram(name string, args []string) error {
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), standInFile))
	if err != nil {
		return err
	}
	var s standIn
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	if slices.Equal(args, []string{"--version"}) {
		fmt.Printf("%s (PostgreSQL) %d.0\n", name, s.Major)
		return nil
	}
	call := []string{s.Real[name]}
	for _, a := range args {
		switch {
		case strings.HasPrefix(a, "--snapshot="): // of the other server
		case strings.HasPrefix(a, "--dbname="):
			call = append(call, "--dbname="+s.Twin)
		default:
			call = append(call, a)
		}
	}
	if !slices.Contains(args, "--list") {
		return syscall.Exec(call[0], call, os.Environ())
	}
	// The twin's oids mean nothing, or another thing, on the server.
	cmd := exec.Command(call[0], call[1:]...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(oids.ReplaceAll(list, []byte("$1; 0 0 ")))
	return err
}

// standFor lets the test binary be the client programs of a version.
func standFor(t *testing.T, major int, sql string) {
	t.Helper()
	name, url := pgservertest.Database(t, pgservertest.Server(t, pgservertest.Default))
	pgservertest.Exec(t, url, sql)
	s := standIn{Major: major, Twin: pgservertest.Server(t, pgservertest.Default).DSN("", name), Real: map[string]string{}}
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	for _, program := range []string{"pg_dump", "pg_restore"} {
		tool, err := postgres.FindTool(deadline(t), program, pgservertest.Default)
		require.NoError(t, err)
		s.Real[program] = tool.Path
		require.NoError(t, os.Symlink(self, filepath.Join(dir, program)))
	}
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, standInFile), raw, 0o600))
	t.Setenv("UPKEEP_PG_BIN", dir)
}

func TestEveryVersionIsProven(t *testing.T) {
	for _, major := range []int{13, 14, 16, 17, 18} { // the default one has tests of its own
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			server := pgservertest.Server(t, major)
			if _, err := postgres.FindTool(deadline(t), "pg_dump", major); err != nil {
				standFor(t, major, wideSQL+hostileSQL)
			}
			name, url := pgservertest.Database(t, server)
			pgservertest.Exec(t, url, wideSQL+hostileSQL)
			d := newDrill(t, server, name)
			require.NoError(t, d.take(t))
			require.Equal(t, major, d.manifest.Server.VersionNum/10000)
			for _, x := range d.manifest.Tables {
				if x.Name == "wide" {
					require.Equal(t, major >= 14, len(x.Ranges) > 1, "ranges of pages are read from version 14 on")
				}
			}
			d.restore(t)
			for _, c := range d.compare(t) {
				if c.Optional && c.Verdict == run.NotProven {
					continue // amcheck does not come with every server
				}
				require.Equal(t, run.Pass, c.Verdict, "%s: %s", c.Name, c.Detail)
			}
		})
	}
}

// wideSQL makes a table of more than one range of pages.
const wideSQL = `CREATE TABLE wide (id int, v text) WITH (fillfactor = 10); INSERT INTO wide SELECT g, repeat('x', 200) FROM generate_series(1, 5000) g;`
