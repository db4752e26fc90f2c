package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// Down removes the cluster, or what a crash has left of it. Saying it twice does no harm.
func (c *Cluster) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("taking the cluster down needs root; say: sudo make cluster-down")
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.clean(ctx); err != nil {
		return err
	}
	c.Say("the cluster is gone")
	return os.Remove(layout.Dir + ".lock")
}

// clean ends all processes; the kernel then removes what belongs to their namespaces. What is left are
// control groups, folders, the kernel's settings and the link, if its other end is still going.
func (c *Cluster) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		return err
	}
	if err := group.Remove(ctx); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/class/net/" + layout.Link); err == nil {
		if err := run(ctx, "ip link delete "+layout.Link); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			return err
		}
	}
	if err := restoreSettings(); err != nil {
		return err
	}
	if err := unmountBelow(layout.Dir); err != nil {
		return err
	}
	if err := os.RemoveAll(layout.Dir); err != nil {
		return err
	}
	for _, place := range layout.MountPoints {
		if place == "/var/log" {
			continue
		}
		// Empty, it was made for the cluster; else it is somebody's.
		if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
			return err
		}
	}
	return nil
}

// unmountBelow sees to it that removing a folder does not reach into what somebody has mounted there.
func unmountBelow(folder string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer file.Close()
	var places []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], folder+"/") {
			places = append(places, fields[4])
		}
	}
	slices.Reverse(places) // the innermost first
	for _, place := range places {
		if err := syscall.Unmount(place, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", place, err)
		}
	}
	return nil
}

// kubeletSettings are the kernel's settings that a kubelet changes for the whole machine.
var kubeletSettings = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

func settingsFile() string { return layout.In("settings.json") }

func saveSettings() error {
	values := map[string]string{}
	for _, name := range kubeletSettings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return err
		}
		values[name] = strings.TrimSpace(string(value))
	}
	content, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return os.WriteFile(settingsFile(), content, 0o644)
}

func restoreSettings() error {
	content, err := os.ReadFile(settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	values := map[string]string{}
	if err := json.Unmarshal(content, &values); err != nil {
		return fmt.Errorf("%s: %w", settingsFile(), err)
	}
	for _, name := range kubeletSettings {
		if value, saved := values[name]; saved {
			if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
				return fmt.Errorf("restoring %s: %w", name, err)
			}
		}
	}
	return nil
}
