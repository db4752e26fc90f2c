package pgserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Extensions lists the extensions that a server of these programs can make, by their control files.
func (b Binaries) Extensions(ctx context.Context) ([]string, error) {
	share, err := b.share(ctx)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(share, "extension")
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list the extensions: %w", err)
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".control"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// share is the folder of the programs' files that do not depend on the machine: as pg_config says, or,
// where that is not installed, where it is beside programs that were not moved apart.
func (b Binaries) share(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(b.Dir, "pg_config"), "--sharedir")
	cmd.Env, cmd.Stdout = minimalEnv(), &out
	err := cmd.Run()
	if err == nil {
		return strings.TrimSpace(out.String()), nil
	}
	beside := filepath.Join(filepath.Dir(b.Dir), "share", "postgresql")
	if _, statErr := os.Stat(filepath.Join(beside, "extension")); statErr == nil {
		return beside, nil
	}
	return "", fmt.Errorf("ask %s for the folder of the extensions: %w", cmd.Path, err)
}

// Reaches says whether the OS user of private servers could pass through the folders above dir and dir
// itself, as far as they are there. It makes neither a folder nor the user.
func Reaches(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	a := account{uid: -1, gid: -1, own: true} // not made yet: one like any other
	if u, err := user.Lookup(DefaultAccount); err == nil {
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil {
			a.uid, a.gid = uid, gid
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return a.reaches(dir)
}
