package github

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time { return c.now }

func (c *manualClock) Sleep(_ context.Context, d time.Duration) error {
	c.now = c.now.Add(d)
	return nil
}

// distant is a GitHub to which each request is under way for some time, and so is each answer.
type distant struct {
	clock    *manualClock
	underway func() time.Duration
	arrived  []time.Time
}

func (d *distant) RoundTrip(*http.Request) (*http.Response, error) {
	d.clock.now = d.clock.now.Add(d.underway())
	d.arrived = append(d.arrived, d.clock.now)
	d.clock.now = d.clock.now.Add(d.underway())
	return httptest.NewRecorder().Result(), nil
}

// GitHub counts what arrives, and how long that takes is not the same twice.
func TestLimitsHoldWhateverIsUnderWay(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, underway := range map[string]func() time.Duration{
		"no time":      func() time.Duration { return 0 },
		"any time":     func() time.Duration { return time.Duration(random.Int64N(int64(3 * time.Second))) },
		"once a while": func() time.Duration { return time.Duration(random.IntN(40)/39) * 20 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			clock := &manualClock{now: time.Unix(1_800_000_000, 0)}
			github := &distant{clock: clock, underway: underway}
			transport := limited{limits: NewLimits(clock), next: github}
			for range perHour + 100 {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://github.test/repos/octo/shop/pulls", nil)
				answer, err := transport.RoundTrip(r)
				if err != nil { // it would have to wait for longer than a request waits
					clock.now = clock.now.Add(time.Minute)
					continue
				}
				require.NoError(t, answer.Body.Close())
			}
			require.Greater(t, len(github.arrived), perMinute)
			for n, at := range github.arrived {
				if n >= perMinute {
					require.GreaterOrEqual(t, at.Sub(github.arrived[n-perMinute]), time.Minute, "request %d", n)
				}
				if n >= perHour {
					require.GreaterOrEqual(t, at.Sub(github.arrived[n-perHour]), time.Hour, "request %d", n)
				}
				if n > 0 {
					require.GreaterOrEqual(t, at.Sub(github.arrived[n-1]), apart, "request %d", n)
				}
			}
		})
	}
}
