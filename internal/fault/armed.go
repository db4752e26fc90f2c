//go:build fault

package fault

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// UPKEEP_FAULT arms the process, once per start:
//
//	point=<name>:<kill|stop>[:N]   act at the N-th hit of the point (1 when left out)
//	mutant=<name>                  switch the mutant on
//
// With UPKEEP_FAULT_ONCE=<file> a point acts only while the file does not
// exist, and creates it before it acts, so that a restarted process goes on.
// UPKEEP_FAULT_RECORD=<file> writes down each point that is hit, a line each:
// a test learns from a run that goes well how often a point can be hit.
// UPKEEP_FAULT_CLOCK=<n>@<seconds> lets the clock by which GitHub is asked go n times as fast since a moment.
type plan struct {
	point, mutant string
	signal        syscall.Signal
	at            int64
	once          string
}

var (
	armed = parse(os.Getenv("UPKEEP_FAULT"), os.Getenv("UPKEEP_FAULT_ONCE"))
	hits  atomic.Int64

	record   = os.Getenv("UPKEEP_FAULT_RECORD")
	recordMu sync.Mutex
)

func parse(spec, once string) plan {
	p := plan{once: once, at: 1, signal: syscall.SIGKILL}
	if name, ok := strings.CutPrefix(spec, "mutant="); ok {
		p.mutant = name
	}
	if rest, ok := strings.CutPrefix(spec, "point="); ok {
		parts := strings.Split(rest, ":")
		p.point = parts[0]
		if len(parts) > 1 && parts[1] == "stop" {
			p.signal = syscall.SIGSTOP
		}
		if len(parts) > 2 {
			if n, err := strconv.ParseInt(parts[2], 10, 64); err == nil {
				p.at = n
			}
		}
	}
	return p
}

// Hit kills or freezes the process if it is armed for this point.
func (p Point) Hit() {
	if record != "" {
		p.write()
	}
	if p.name != armed.point || hits.Add(1) != armed.at {
		return
	}
	if armed.once != "" {
		f, err := os.OpenFile(armed.once, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return // it acted in an earlier life of the process
		}
		_ = f.Close()
	}
	if armed.signal == syscall.SIGSTOP {
		freeze(p.name)
		return
	}
	_ = syscall.Kill(os.Getpid(), armed.signal)
}

// write adds the point to what was hit.
func (p Point) write() {
	recordMu.Lock()
	defer recordMu.Unlock()
	if f, err := os.OpenFile(record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.WriteString(p.name + "\n")
		_ = f.Close()
	}
}

// times and since are of the clock that a test has set.
var times, since = func() (int, time.Time) {
	n, at, _ := strings.Cut(os.Getenv("UPKEEP_FAULT_CLOCK"), "@")
	times, err := strconv.Atoi(n)
	seconds, err2 := strconv.ParseInt(at, 10, 64)
	if err != nil || err2 != nil || times < 1 {
		return 1, time.Time{}
	}
	return times, time.Unix(seconds, 0)
}()

// Times says how many times as fast as the machine's clock the one of the tests is.
func Times() int { return times }

// Now is the moment by the clock of the tests; all processes with the same setting agree on it.
func Now() time.Time {
	now := time.Now()
	return now.Add(now.Sub(since) * time.Duration(times-1))
}

// freeze stops the process here: a stop reaches other threads first at times, and this one would go on past
// its point for a moment. It says so, as where it is in a pod nobody sees its state.
func freeze(point string) {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	fmt.Fprintln(os.Stderr, "fault: frozen at", point)
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-continued
}

// On reports whether the process is armed with this mutant.
func (m Mutant) On() bool { return m.name == armed.mutant }
