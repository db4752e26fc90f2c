package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSaid bounds what is kept of a program's complaints, in bytes.
const maxSaid = 4 << 10

// insistAfter is how long a stronger signal waits for a weaker one.
const insistAfter = 10 * time.Second

// postmaster is a running server process.
type postmaster struct {
	pid   int
	apart bool          // has a network and processes of its own
	done  chan struct{} // closed when the process has ended
	err   error         // why, once done
}

// startPostmaster starts a server that dies with this process. The kernel sends the death signal when
// the thread that forked ends, so a goroutine keeps its thread until the server has ended.
//
// One that shall be apart gets a network namespace, with nothing but a loopback of its own, and a
// process namespace, whose every process the kernel ends with the postmaster, whatever it has done
// to hide. Its unix socket is a path and is reached all the same. Where the kernel refuses (it takes
// CAP_SYS_ADMIN), the server is not apart. In its namespace the postmaster inherits the orphans
// of others; PostgreSQL restarts its sessions when one of these is killed by a signal.
func startPostmaster(command func() *exec.Cmd, apart bool) (*postmaster, error) {
	p := &postmaster{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if apart && unix.Unshare(unix.CLONE_NEWNET) == nil {
			// Never unlocked: the thread is of no use in another network, and ends with the goroutine.
			p.apart = true
			raiseLoopback()
		} else {
			defer runtime.UnlockOSThread()
		}
		cmd := command()
		if p.apart {
			cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
		}
		err := cmd.Start()
		if err != nil && p.apart {
			p.apart = false
			cmd = command()
			err = cmd.Start()
		}
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// raiseLoopback brings up the loopback of this thread's network: PostgreSQL up to 14 counts over it.
// Without, such a server complains in its log and does not count.
func raiseLoopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if lo, err := unix.NewIfreq("lo"); err == nil {
		lo.SetUint16(unix.IFF_UP)
		_ = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
}

// end asks the server to end by the signal, and insists when the context ends.
func (p *postmaster) end(ctx context.Context, first syscall.Signal) error {
	for _, signal := range []syscall.Signal{first, syscall.SIGQUIT, syscall.SIGKILL} {
		select {
		case <-p.done:
			return nil
		default:
		}
		if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), insistAfter)
		defer cancel()
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

// initdb makes a data folder. It is made under another name first, so that one that was killed
// halfway is never taken for a whole one.
func (s *Server) initdb(ctx context.Context) error {
	making := s.path("data.new")
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	if err := s.account.makeFolder(making); err != nil {
		return err
	}
	args := []string{"--pgdata=" + making, "--username=" + s.opts.Superuser, "--encoding=" + s.opts.Encoding, "--locale=" + s.opts.Locale,
		"--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"}
	if s.opts.Durable {
		args = append(args, "--data-checksums")
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(s.opts.Binaries.Dir, "initdb"), args...)
	cmd.Env, cmd.Dir = minimalEnv(), making
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	cmd.SysProcAttr = s.account.attributes(syscall.SIGKILL)
	runtime.LockOSThread() // for the death signal, as above
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := said.String()
		if strings.Contains(text, "No space left") {
			return diskFull(s.dir)
		}
		return unavailable("initdb failed (%v): %s", err, lastPart(text))
	}
	return os.Rename(making, s.path("data"))
}

func lastPart(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > maxSaid {
		text = "..." + text[len(text)-maxSaid:]
	}
	return text
}
