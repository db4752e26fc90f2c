package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/node"
)

// Signal sends a signal to one of the node's own programs, by its name.
func Signal(program string, signal syscall.Signal) error {
	pids, err := group.Processes()
	if err != nil {
		return err
	}
	sent := 0
	for _, pid := range pids {
		if !runs(pid, program) {
			continue
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("sending %s to process %d (%s): %w", signal, pid, program, err)
		}
		sent++
	}
	if sent == 0 {
		return fmt.Errorf("no program %q runs in the cluster; see node.log", program)
	}
	return nil
}

// runs reports whether a process is of a program of the node. Those of Kubernetes are one file, and are
// told by their first argument; what pods run has other parents than the node's first process.
func runs(pid int, program string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false // it has just ended
	}
	words := bytes.Split(line, []byte{0})
	named := filepath.Base(string(words[0])) == program || len(words) > 1 && string(words[1]) == program
	return named && ofNode(pid)
}

// ofNode reports whether a process's parent is the node's first.
func ofNode(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var state string
	var parent int
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	if _, err := fmt.Sscan(string(rest), &state, &parent); err != nil {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parent))
	if err != nil {
		return false
	}
	words := bytes.Split(line, []byte{0})
	return len(words) > 1 && string(words[1]) == node.Argument
}
