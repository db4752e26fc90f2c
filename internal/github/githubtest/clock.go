package githubtest

import (
	"context"
	"sync"
	"time"
)

// Clock is the stand-in's time, and that of the client that is tested with it. Whoever sleeps by it does not
// wait: time passes.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at a fixed moment.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)} }

// Now is the clock's moment.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance lets time pass.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Sleep lets time pass at once.
func (c *Clock) Sleep(ctx context.Context, d time.Duration) error {
	c.Advance(max(d, 0))
	return ctx.Err()
}

// Fast is a clock that is so many times as fast as the machine's.
type Fast struct {
	Times int
	Began time.Time // when it began to be fast; when it is first asked, if nothing is said
	once  sync.Once
}

// Now is the clock's moment.
func (c *Fast) Now() time.Time {
	c.once.Do(func() {
		if c.Began.IsZero() {
			c.Began = time.Now()
		}
	})
	return c.Began.Add(time.Since(c.Began) * time.Duration(c.Times))
}

// Sleep waits for a time of this clock.
func (c *Fast) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d / time.Duration(c.Times))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Machine is the machine's clock.
type Machine struct{}

// Now is the moment.
func (Machine) Now() time.Time { return time.Now() }
