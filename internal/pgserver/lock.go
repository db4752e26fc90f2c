package pgserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const lockName = "owner.lock"

// errHeld says that a living process holds the folder.
var errHeld = errors.New("a living process holds the folder")

// lockFolder makes the folder when it is missing and takes its lock, which the kernel frees when
// this process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		lock, err := takeLock(dir, os.O_CREATE)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by a reaper between the two steps
		}
		return lock, err
	}
}

// takeLock takes the lock of a folder that is there.
func takeLock(dir string, flags int) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, errHeld)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// A lock on a file that a reaper has removed meanwhile guards nothing.
	mine, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(path); err == nil && !os.SameFile(mine, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// removeFolder removes a folder whose lock is held; the lock file goes last, so that a removal that
// is killed halfway is found and finished by a reaper.
func removeFolder(dir string, lock *os.File) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return lock.Close()
}
