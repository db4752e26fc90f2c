package node

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
)

// readyWithin is how long a program may take until those after it can start.
const readyWithin = 2 * time.Minute

// supervise starts the programs and starts again what ends, until the node is to end. As the first
// process it also reaps what others leave behind, such as containerd's shims; so it alone waits for
// children, and nobody may use exec's Wait beside it.
func supervise(ctx context.Context, parts map[string]string) error {
	all, err := programs(parts)
	if err != nil {
		return err
	}
	s := &supervisor{running: map[int]*program{}, ended: make(chan *program, len(all))}
	go s.reap()
	for i := range all {
		p := &all[i]
		if err := s.start(p); err != nil {
			return err
		}
		if err := s.await(ctx, p); err != nil {
			return err
		}
	}
	log.Print("all programs run")
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-s.ended:
			s.startLater(ctx, p)
		}
	}
}

type supervisor struct {
	mu      sync.Mutex // held over starting a program, so that its end is not seen before it is known
	running map[int]*program
	ended   chan *program
}

func (s *supervisor) start(p *program) error {
	output, err := os.OpenFile(layout.In("log", p.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(p.path, p.args...)
	command.Dir, command.Stdout, command.Stderr = layout.Dir, output, output
	command.Env = append([]string{"HOME=" + layout.Dir, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, p.env...)
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	s.running[command.Process.Pid] = p
	log.Printf("%s started as process %d", p.name, command.Process.Pid)
	return command.Process.Release()
}

// startLater starts a program again a second after it ended, so that one that cannot run does not
// keep a processor busy.
func (s *supervisor) startLater(ctx context.Context, p *program) {
	go func() {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			if err := s.start(p); err != nil {
				log.Print(err)
				s.ended <- p
			}
		}
	}()
}

func (s *supervisor) await(ctx context.Context, p *program) error {
	if p.ready == nil {
		return nil
	}
	deadline := time.Now().Add(readyWithin)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w; see %s", p.name, readyWithin, err, layout.In("log", p.name+".log"))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ended := <-s.ended:
			s.startLater(ctx, ended)
		case <-tick.C:
		}
	}
}

func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.ECHILD) {
			time.Sleep(50 * time.Millisecond) // there are no children just now, and nothing tells of the next
			continue
		}
		if err != nil {
			continue
		}
		s.mu.Lock()
		p := s.running[pid]
		delete(s.running, pid)
		s.mu.Unlock()
		if p == nil {
			continue
		}
		if status.Signaled() {
			log.Printf("%s was ended by signal %d; starting it again", p.name, status.Signal())
		} else {
			log.Printf("%s ended with exit code %d; starting it again", p.name, status.ExitStatus())
		}
		s.ended <- p
	}
}
