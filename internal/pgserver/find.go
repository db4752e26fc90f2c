package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// Binaries is a folder with a server's programs.
type Binaries struct {
	Dir   string // holds initdb and postgres
	Major int
}

var serverVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// Find returns the programs of an installed server of exactly this major version; of the newest
// version that is installed when major is 0. It looks in $UPKEEP_PG_BIN, where distributions put
// PostgreSQL, and in $PATH.
func Find(ctx context.Context, major int) (Binaries, error) {
	var best Binaries
	for _, dir := range candidates() {
		b, err := Inspect(ctx, dir)
		switch {
		case err != nil:
			continue
		case b.Major == major:
			return b, nil
		case major == 0 && b.Major > best.Major:
			best = b
		}
	}
	if best.Dir != "" {
		return best, nil
	}
	what, name := "PostgreSQL server", "postgresql"
	if major > 0 {
		what, name = fmt.Sprintf("PostgreSQL %d server", major), fmt.Sprintf("postgresql-%d", major)
	}
	return Binaries{}, failure.New(failure.MissingProgram, "the programs of a %s (initdb, postgres) are not installed on the worker", what).
		Do("apt-get install %s (from apt.postgresql.org where the distribution lacks it), or set UPKEEP_PG_BIN to the folder that has them, then resume the run", name)
}

// Inspect looks at the programs in a folder.
func Inspect(ctx context.Context, dir string) (Binaries, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.Env, cmd.Stdout = minimalEnv(), &out
	if err := cmd.Run(); err != nil {
		return Binaries{}, fmt.Errorf("ask %s for its version: %w", cmd.Path, err)
	}
	m := serverVersion.FindSubmatch(out.Bytes())
	if m == nil {
		return Binaries{}, errors.New(cmd.Path + " prints no PostgreSQL version")
	}
	major, err := strconv.Atoi(string(m[1]))
	return Binaries{Dir: dir, Major: major}, err
}

func candidates() []string {
	var dirs []string
	if dir := os.Getenv("UPKEEP_PG_BIN"); dir != "" {
		dirs = append(dirs, dir)
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern) // a bad pattern is the only error
		dirs = append(dirs, found...)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// minimalEnv is all that a server's programs get to see of the environment.
func minimalEnv() []string { return []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"} }
