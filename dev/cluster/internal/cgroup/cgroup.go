// Package cgroup keeps all processes of the cluster in one group, by which they are found, ended and
// counted, whatever became of those who started them.
package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Group is a folder below the root of every hierarchy: of the one that cgroup v2 has, or of each of v1's.
type Group struct{ name string }

// New names a group; it need not be there.
func New(name string) Group { return Group{name} }

// hierarchy is a mounted tree of groups.
type hierarchy struct {
	path string
	v2   bool
}

func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []hierarchy
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(kind) < 1 || !strings.HasPrefix(kind[0], "cgroup") || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			continue
		}
		found = append(found, hierarchy{path: fields[4], v2: kind[0] == "cgroup2"})
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroups are mounted at /sys/fs/cgroup, and a kubelet needs them")
	}
	return found, nil
}

// Create makes the group in every hierarchy, with the part "system" for processes that are in no pod.
func (g Group) Create() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if h.v2 {
			if err := passOnControllers(h.path); err != nil {
				return err
			}
		}
		for _, folder := range []string{filepath.Join(h.path, g.name), filepath.Join(h.path, g.name, "system")} {
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("making a control group: %w", err)
			}
			if h.v2 {
				continue
			}
			// A new group of v1's cpuset has no processor and no memory until it is given some.
			for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
				inherited, err := os.ReadFile(filepath.Join(filepath.Dir(folder), name))
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err == nil {
					err = os.WriteFile(filepath.Join(folder, name), inherited, 0o644)
				}
				if err != nil {
					return err
				}
			}
		}
		if h.v2 {
			if err := passOnControllers(filepath.Join(h.path, g.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// passOnControllers lets the groups below one of cgroup v2 have the controllers that it has.
func passOnControllers(folder string) error {
	controllers, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		// Some cannot be passed on, such as rt's share; the kubelet says so if it misses one.
		_ = os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
	return nil
}

// Enter puts a process, and with it what it will start, into the group.
func (g Group) Enter(pid int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.path, g.name, "system", "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("putting process %d into a control group: %w", pid, err)
		}
	}
	return nil
}

// Processes are all of the group and of the groups below it.
func (g Group) Processes() ([]int, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, h := range all {
		err := filepath.WalkDir(filepath.Join(h.path, g.name), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
				return nil
			}
			if err != nil || entry.Name() != "cgroup.procs" {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil { // the group has just gone, or has threads only
				return nil
			}
			for _, field := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// Kill ends every process of the group at once and waits until none is left.
func (g Group) Kill(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := g.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes of the cluster do not end, the first is %d; look at /proc/%d/stack", len(pids), pids[0], pids[0])
		case <-tick.C:
		}
	}
}

// Remove removes the group, which must have no process, and the groups below it.
func (g Group) Remove(ctx context.Context) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := removeTree(ctx, filepath.Join(h.path, g.name)); err != nil {
			return err
		}
	}
	return nil
}

func removeTree(ctx context.Context, folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(ctx, filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Rmdir(folder)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) { // busy: the kernel is still letting go of a process that has ended
			return fmt.Errorf("removing the control group %s: %w", folder, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the control group %s stays busy", folder)
		case <-tick.C:
		}
	}
}
