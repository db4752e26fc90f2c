package pgserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// DefaultAccount is the OS user that private servers run as when the worker is root.
const DefaultAccount = "upkeep-scratch"

// account is the OS user that a server's processes run as.
type account struct {
	uid, gid int
	own      bool // not the worker's own
}

// openAccount finds the OS user, and makes it when it is missing. Only root can run a server as
// another user; otherwise the worker's own is used, and the worker is closed to processes of its
// own user, so that code in a restored database cannot read the worker's memory or environment.
func openAccount(ctx context.Context, name string) (account, error) {
	if os.Geteuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return account{}, unavailable("could not close the worker to other processes of its user").Because(err)
		}
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if err := addUser(ctx, name); err != nil {
			return account{}, err
		}
		if u, err = user.Lookup(name); err != nil {
			return account{}, unavailable("the OS user %s cannot be found after it was made", name).Because(err)
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	if uid == 0 {
		return account{}, unavailable("the OS user %s is root, and PostgreSQL refuses to run as root", name)
	}
	return account{uid: uid, gid: gid, own: true}, nil
}

func addUser(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		if _, err := user.Lookup(name); err == nil {
			return nil // another process was faster
		}
		return failure.New(failure.ScratchUnavailable, "could not make the OS user %s for private servers: %.500s", name, out).Because(err).
			Do("make it by hand (useradd --system %s), then resume the run", name)
	}
	return nil
}

// attributes make a child run as the account, in a process group of its own so that a terminal's
// Ctrl-C does not reach it, and end with the thread that started it.
func (a account) attributes(deathSignal syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: deathSignal}
	if a.own {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// makeFolder makes a folder that only the account (and root) can enter.
func (a account) makeFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := int(st.Sys().(*syscall.Stat_t).Uid)
	if !st.IsDir() || owner != a.uid && owner != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of ours", dir)
	}
	if err := os.Lchown(dir, a.uid, a.gid); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// reaches says whether the account can pass through every folder above and including dir.
func (a account) reaches(dir string) error {
	if !a.own {
		return nil
	}
	for d := dir; ; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		bit := os.FileMode(0o001)
		switch {
		case int(sys.Uid) == a.uid:
			bit = 0o100
		case int(sys.Gid) == a.gid:
			bit = 0o010
		}
		if st.Mode().Perm()&bit == 0 {
			return unavailable("the OS user of private servers may not pass through the folder %s", d).
				Do("choose a data folder that other users can pass through, such as /var/lib/upkeep, or allow it with chmod o+x %s", d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

func unavailable(what string, args ...any) *failure.Error {
	return failure.New(failure.ScratchUnavailable, what, args...).Do("see to it on the worker's machine, then resume the run")
}
