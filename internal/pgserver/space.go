package pgserver

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// FreeBytes is the space that is left on the disk of a folder, which need not exist yet.
func FreeBytes(dir string) (int64, error) {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if !os.IsNotExist(err) || dir == filepath.Dir(dir) {
			return 0, err
		}
		dir = filepath.Dir(dir)
	}
}

// RequireFree is a DiskFull failure when the disk of a folder has less than the bytes left.
func RequireFree(dir string, bytes int64) error {
	free, err := FreeBytes(dir)
	if err != nil {
		return unavailable("could not look at the free space of %s", dir).Because(err)
	}
	if free < bytes {
		return failure.New(failure.DiskFull, "a private server in %s needs about %d MB, and %d MB are free", dir, bytes>>20, free>>20).
			Do("free %d MB on that disk, or give the worker a data folder on a larger one, then resume the run", (bytes-free)>>20+1)
	}
	return nil
}

func diskFull(dir string) error {
	return failure.New(failure.DiskFull, "no space is left for a private server in %s", dir).
		Do("free space on that disk, or give the worker a data folder on a larger one, then resume the run")
}
