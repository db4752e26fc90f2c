package github

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// TestPace: what is merged when its checks pass is looked at within a minute of that, whatever they do now.
func TestPace(t *testing.T) {
	request := func(checks pullrequest.Checks, merges bool) NewsRequest {
		return NewsRequest{Known: pullrequest.Seen{Open: true, Checks: checks}, Merges: merges}
	}
	for _, checks := range []pullrequest.Checks{pullrequest.NoChecks, pullrequest.Pending, pullrequest.Broken, pullrequest.Passed} {
		for _, waited := range []time.Duration{0, 11 * time.Minute, 72 * time.Hour} {
			require.Less(t, pace(request(checks, true), waited), time.Minute, "%s after %s", checks, waited)
		}
	}
	require.Equal(t, lookEvery, pace(request(pullrequest.NoChecks, false), time.Minute), "checks may begin yet")
	require.Equal(t, lookSeldom, pace(request(pullrequest.NoChecks, false), time.Hour))
	require.Equal(t, lookSeldom, pace(request(pullrequest.Broken, false), 0))
	closed := request(pullrequest.NoChecks, true)
	closed.Known.Open = false
	require.Equal(t, lookSeldom, pace(closed, time.Hour))
}
