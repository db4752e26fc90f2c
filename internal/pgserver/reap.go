package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// abandonedName marks a folder that a reaper found without an owner.
const abandonedName = "abandoned"

// Reap looks at every server's folder under root. It ends what processes a dead owner left there,
// and removes a folder that has had no owner for at least the grace: time for a restarted worker
// to adopt it. Those of the given names stay. The names of the removed folders are returned, also
// with an error.
func Reap(ctx context.Context, root string, grace time.Duration, stay ...string) (removed []string, err error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for abandoned servers: %w", err)
	}
	var all error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		gone, err := reapFolder(ctx, filepath.Join(root, e.Name()), grace, slices.Contains(stay, e.Name()))
		if err != nil {
			all = errors.Join(all, fmt.Errorf("remove the abandoned server %s: %w", e.Name(), err))
		}
		if gone {
			removed = append(removed, e.Name())
		}
	}
	return removed, all
}

func reapFolder(ctx context.Context, dir string, grace time.Duration, stays bool) (bool, error) {
	lock, err := takeLock(dir, 0)
	switch {
	case errors.Is(err, errHeld):
		return false, nil
	case errors.Is(err, os.ErrNotExist):
		// Not a server's folder, or one whose maker died before it took the lock: then it is empty,
		// and nothing but an empty folder is removed like this.
		return os.Remove(dir) == nil, nil
	case err != nil:
		return false, err
	}
	defer func() { _ = lock.Close() }() // a second close, after the removal, does no harm
	if err := endLeftover(ctx, dir); err != nil {
		return false, err
	}
	if stays {
		return false, nil
	}
	since, err := abandonedSince(dir)
	if err != nil || time.Since(since) < grace {
		return false, err
	}
	if err := os.RemoveAll(shortSocketFolder(dir)); err != nil {
		return false, err
	}
	return true, removeFolder(dir, lock)
}

// abandonedSince is when a reaper first found the folder without an owner: now, if none did.
func abandonedSince(dir string) (time.Time, error) {
	path := filepath.Join(dir, abandonedName)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return time.Now(), os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}

// RemoveFolder removes the folder of a server that this process does not hold, and what processes
// are left in it. One that a living process holds is refused; one that is not there is fine.
func RemoveFolder(ctx context.Context, dir string) error {
	if _, err := reapFolder(ctx, dir, 0, false); err != nil {
		return fmt.Errorf("remove the private server %s: %w", filepath.Base(dir), err)
	}
	if _, err := os.Stat(dir); err == nil {
		return failure.New(failure.RestoreBusy, "the private server in %s is held by another worker process", dir).
			Do("wait for it or end it, then resume the run")
	}
	return nil
}
