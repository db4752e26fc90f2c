package node

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// mounts gives the node its own /proc and /run and its own of each folder whose path is compiled into
// a program.
func mounts() error {
	// What the machine mounts later is seen in the node, what the node mounts is not seen outside; and
	// within, between containerd, kubelet and pods, mounts are shared as on any node.
	for _, flags := range []uintptr{syscall.MS_SLAVE, syscall.MS_SHARED} {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|flags, ""); err != nil {
			return fmt.Errorf("parting the node's mounts from the machine's: %w", err)
		}
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=256m"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	for _, place := range layout.MountPoints {
		own := layout.In("node", filepath.Base(place))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(own, place, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", place, err)
		}
	}
	return nil
}
