package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serverMark is the environment variable that every program inherits from its postmaster.
const serverMark = "UPKEEP_SERVER"

// endLeftover ends a postmaster that an earlier process left in the server's folder and whatever came
// from it, and frees what it could not free itself.
func endLeftover(ctx context.Context, dir string) error {
	data := filepath.Join(dir, "data")
	content := readOwned(filepath.Join(data, "postmaster.pid")) // nothing, where code in a database removed it
	lines := strings.Split(string(content), "\n")
	for _, pid := range inhabitants(data) {
		if ownPid(pid) == strings.TrimSpace(lines[0]) {
			if err := endProcess(ctx, pid, data); err != nil {
				return err
			}
		}
	}
	// The processes of a postmaster that was killed end by themselves, but not at once; until then
	// they hold its shared memory, and a new server would not start.
	insist := time.Now().Add(insistAfter)
	for _, pid := range inhabitants(data) {
		if err := outlive(ctx, pid, data, insist); err != nil {
			return err
		}
	}
	if err := endStrays(dir); err != nil {
		return err
	}
	if len(lines) > 6 {
		freeSegment(lines[6])
	}
	return nil
}

// maxOwned bounds what is read of a file that the server's own user can write, in bytes.
const maxOwned = 64 << 10

// readOwned reads the beginning of a file in whose place code in a database may have put anything: a
// link, a pipe that nobody writes to. What is no plain file counts as empty.
func readOwned(path string) []byte {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }() // only read
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	content, _ := io.ReadAll(io.LimitReader(file, maxOwned)) // what could be read says enough
	return content
}

// ownPid is a process's id as it knows it itself, in its own namespace: what a postmaster writes
// down. Empty when the process is gone.
func ownPid(pid int) string {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status") // gone: empty
	_, ids, _ := strings.Cut(string(status), "\nNSpid:")
	ids, _, _ = strings.Cut(ids, "\n")
	if fields := strings.Fields(ids); len(fields) > 0 {
		return fields[len(fields)-1]
	}
	return ""
}

// markOf is what the environment of a server's processes holds.
func markOf(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	return serverMark + "=" + real, err
}

// endStrays kills what programs that a database started have left behind, once their postmaster has
// ended. For a server that is apart the kernel has done it already. Otherwise they are known by the
// server's mark in their environment and by a working folder within the server's: a program that got
// rid of both on purpose is not found, and neither is any by a root without CAP_SYS_PTRACE. Killing
// all of the OS user's processes would find them, and other servers' too.
func endStrays(dir string) error {
	st, err := os.Stat(filepath.Join(dir, "data"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for insist := time.Now().Add(insistAfter); ; <-tick.C {
		pids := strays(real, owner)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(insist) {
			return fmt.Errorf("processes %v of the server in %s do not end", pids, dir)
		}
		for _, pid := range pids { // again each time: they may multiply
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
}

// strays are the processes of the server's OS user that carry its mark or work in its folder.
func strays(dir string, owner uint32) []int {
	processes, _ := filepath.Glob("/proc/[0-9]*") // a bad pattern is the only error
	mark := []byte(serverMark + "=" + dir)
	var pids []int
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || pid == os.Getpid() {
			continue
		}
		st, err := os.Stat(process)
		if err != nil || st.Sys().(*syscall.Stat_t).Uid != owner {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(process, "environ")) // it ends, or is closed to us
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		// A shell of the worker's own user may stand in the folder, to look at it.
		within := int(owner) != os.Geteuid() && (cwd == dir || strings.HasPrefix(cwd, dir+"/"))
		if within || slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
			pids = append(pids, pid)
		}
	}
	return pids
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

// outlive waits for the end of an orphan, and ends it when it has not by then.
func outlive(ctx context.Context, pid int, data string, insist time.Time) error {
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
