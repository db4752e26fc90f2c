package pgserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endLeftover ends a postmaster that an earlier process left on the data folder, and frees what it
// could not free itself.
func endLeftover(ctx context.Context, data string) error {
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err == nil && pid > 1 && worksIn(pid, data) {
		if err := endProcess(ctx, pid, data); err != nil {
			return err
		}
	}
	// The processes of a postmaster that was killed end by themselves, but not at once; until then
	// they hold its shared memory, and a new server would not start.
	for _, pid := range inhabitants(data) {
		if err := outlive(ctx, pid, data); err != nil {
			return err
		}
	}
	if len(lines) > 6 {
		freeSegment(lines[6])
	}
	return nil
}

// worksIn says whether a process is the postmaster of the data folder; a pid alone may be another's
// by now. A server's working folder is its data folder.
func worksIn(pid int, data string) bool {
	cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(data)
	return err == nil && (cwd == real || cwd == real+" (deleted)")
}

// inhabitants are the processes whose working folder is the data folder.
func inhabitants(data string) []int {
	folders, _ := filepath.Glob("/proc/[0-9]*/cwd") // a bad pattern is the only error
	var pids []int
	for _, cwd := range folders {
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(cwd))); err == nil && worksIn(pid, data) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// outlive waits for the end of an orphan, and ends it when it takes too long.
func outlive(ctx context.Context, pid int, data string) error {
	insist := time.Now().Add(insistAfter)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for worksIn(pid, data) {
		if time.Now().After(insist) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// endProcess asks for an immediate shutdown and insists after a while.
func endProcess(ctx context.Context, pid int, data string) error {
	signal, insist := syscall.SIGQUIT, time.Now().Add(insistAfter)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for worksIn(pid, data) {
		if signal == syscall.SIGQUIT && time.Now().After(insist) {
			signal = syscall.SIGKILL
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// freeSegment removes the System V segment of a postmaster that was killed, when nobody uses it any
// more. The line is the one of postmaster.pid that holds key and id.
func freeSegment(line string) {
	fields := strings.Fields(line)
	if len(fields) != 2 {
		return
	}
	key, err1 := strconv.ParseUint(fields[0], 10, 32)
	id, err2 := strconv.Atoi(fields[1])
	if err1 != nil || err2 != nil {
		return
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		return // gone already
	}
	// The id may be another's after a reboot: the key must be the same too.
	if uint32(desc.Perm.Key) == uint32(key) && desc.Nattch == 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // the next start under this key reuses it
	}
}
