// Package node is the machine within the machine that the cluster runs on: one process with its own
// process ids, mounts, network and host name, in which containerd, the control plane, the kubelet and
// all pods live. When it ends, by whatever, the kernel ends everything in it, and with it go mounts,
// links, routes, packet filters and sockets; nothing has to be undone one by one.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// Argument is how the program is called to be the node.
const Argument = "node"

// Config is what the node is told by the one who starts it.
type Config struct {
	Programs map[string]string // of the parts, by name
}

// Start makes the node's namespaces and its first process, which waits for what go() sends; if that
// never comes, because whoever starts the node has died, it ends by itself.
func Start(logPath string) (process *os.Process, goAhead func(Config) error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	output, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer output.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer read.Close()
	command := exec.Command(self, Argument)
	command.Dir, command.Stdin, command.Stdout, command.Stderr = "/", read, output, output
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := command.Start(); err != nil {
		write.Close()
		return nil, nil, fmt.Errorf("making the node's namespaces: %w; it needs root with CAP_SYS_ADMIN", err)
	}
	return command.Process, func(c Config) error {
		defer write.Close()
		return json.NewEncoder(write).Encode(c)
	}, nil
}

// Run is the node's first process.
func Run() error {
	log.SetFlags(log.Ldate | log.Ltime | log.LUTC)
	if os.Getpid() != 1 {
		return fmt.Errorf("%q is for the program itself; say \"up\"", Argument)
	}
	var config Config
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 1<<20)).Decode(&config); err != nil {
		return fmt.Errorf("whoever started the node did not say how to go on: %w", err)
	}
	if err := syscall.Sethostname([]byte(layout.NodeName)); err != nil {
		return err
	}
	if err := mounts(); err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return supervise(ctx, config.Programs)
}
