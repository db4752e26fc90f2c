package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/dev/stack/probed"
)

// prober follows what the prober's pod writes.
type prober struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu    sync.Mutex
	calls []probed.Call
	late  time.Duration // the least that a line was behind its call: the way of it, and what the clocks differ by
}

// follow follows the pod's log until stop.
func follow(namespace, pod string) *prober {
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{cancel: cancel, ended: make(chan struct{}), late: time.Hour}
	go func() {
		defer close(p.ended)
		for ctx.Err() == nil { // a broken stream is begun again where it ended, and lines come twice
			if err := p.stream(ctx, namespace, pod); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "the prober's log:", err)
				time.Sleep(time.Second)
			}
		}
	}()
	return p
}

func (p *prober) stream(ctx context.Context, namespace, pod string) error {
	cmd := exec.CommandContext(ctx, "kubectl", "--namespace", namespace, "logs", "--follow", "--since=10s", pod, "-c", "prober")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var c probed.Call
		if json.Unmarshal(lines.Bytes(), &c) == nil {
			p.add(c)
		}
	}
	return cmd.Wait()
}

func (p *prober) add(c probed.Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = min(p.late, time.Since(c.Ended))
	p.calls = append(p.calls, c)
}

func (p *prober) stop() {
	p.cancel()
	<-p.ended
}

// since are the calls that began since a moment, in their order.
func (p *prober) since(at time.Time) []probed.Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make(map[time.Time]bool)
	var some []probed.Call
	for _, c := range p.calls {
		if !c.Began.Before(at) && !seen[c.Began] {
			seen[c.Began] = true
			some = append(some, c)
		}
	}
	sortCalls(some)
	return some
}

// forget drops what is not looked at any more.
func (p *prober) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = nil
}

// seen is what callers saw from a moment on.
type seen struct {
	calls, failed, wrong int
	bad                  time.Time // the first call that was not right began; zero: there was none
	served               time.Time // the first right answer after which all were right; zero: the last calls were not right
}

// judge counts. An answer is right that has as many traces as there should be, or more.
func judge(calls []probed.Call, traces int64) (s seen) {
	s.calls = len(calls)
	for _, c := range calls {
		switch {
		case c.Answered && c.Count >= traces:
			if s.served.IsZero() {
				s.served = c.Ended
			}
			continue
		case c.Answered:
			s.wrong++
		default:
			s.failed++
		}
		s.served = time.Time{}
		if s.bad.IsZero() {
			s.bad = c.Began
		}
	}
	return s
}

// steady waits until all calls of the last while were right, or wrong.
func (p *prober) steady(ctx context.Context, traces int64, right bool, while, within time.Duration) error {
	began := time.Now()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		now := time.Now()
		s := judge(p.since(now.Add(-while)), traces)
		good := s.calls - s.failed - s.wrong
		if now.Sub(began) >= while && s.calls >= int(while/(100*time.Millisecond)) && (right && good == s.calls || !right && good == 0) {
			return nil
		}
		if now.Sub(began) > within {
			return fmt.Errorf("of the last %d calls %d were right, %d without the data and %d failed", s.calls, good, s.wrong, s.failed)
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("told to stop"), ctx.Err())
		case <-tick.C:
		}
	}
}

func sortCalls(calls []probed.Call) {
	slices.SortFunc(calls, func(a, b probed.Call) int { return a.Began.Compare(b.Began) })
}
