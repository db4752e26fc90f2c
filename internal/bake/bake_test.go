package bake

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
)

func TestJudgement(t *testing.T) {
	low, high := 1.0, 5.0
	up := func(values ...float64) []Reading { return []Reading{{Values: values}} }
	away := []Reading{{Err: errors.New("no answer")}}
	bad := []string{"Deployment web: 0 of 1 pods are ready"}
	for name, c := range map[string]struct {
		samples []Sample // one every 10 s
		early   bool
		want    run.Verdict
	}{
		"good":                          {[]Sample{{Readings: up(1)}, {Readings: up(5, 2)}}, false, run.Pass},
		"unready for a moment":          {[]Sample{{Unready: bad, Readings: up(1)}, {Readings: up(1)}}, false, run.Pass},
		"unready at the end":            {[]Sample{{Readings: up(1)}, {Unready: bad, Readings: up(1)}}, false, run.Fail},
		"unready for too long":          {[]Sample{{Unready: bad, Readings: up(1)}, {Unready: bad, Readings: up(1)}, {Unready: bad, Readings: up(1)}, {Unready: bad, Readings: up(1)}, {Unready: bad, Readings: up(1)}}, true, run.Fail},
		"ready in between":              {[]Sample{{Unready: bad, Readings: up(1)}, {Unready: bad, Readings: up(1)}, {Readings: up(1)}, {Unready: bad, Readings: up(1)}, {Readings: up(1)}}, false, run.Pass},
		"restarted":                     {[]Sample{{Restarted: []string{"web/main"}, Readings: up(1)}}, true, run.Fail},
		"restarted, and then ready":     {[]Sample{{Restarted: []string{"web/main"}, Readings: up(1)}, {Readings: up(1)}}, true, run.Fail},
		"too low at the end":            {[]Sample{{Readings: up(0.5)}}, false, run.Fail},
		"too high once":                 {[]Sample{{Readings: up(1, 9)}, {Readings: up(1)}}, false, run.Pass},
		"too high again and again":      {[]Sample{{Readings: up(9)}, {Readings: up(9)}, {Readings: up(9)}}, true, run.Fail},
		"Prometheus away at the end":    {[]Sample{{Readings: up(1)}, {Readings: away}}, false, run.NotProven},
		"Prometheus away for a while":   {[]Sample{{Readings: away}, {Readings: up(1)}}, false, run.Pass},
		"away in between, and too high": {[]Sample{{Readings: up(9)}, {Readings: away}, {Readings: up(9)}, {Readings: up(9)}}, true, run.Fail},
		"no value":                      {[]Sample{{Readings: up()}}, false, run.NotProven},
		"no number":                     {[]Sample{{Readings: up(math.NaN())}}, false, run.NotProven},
		"the cluster away":              {[]Sample{{Err: errors.New("no answer"), Readings: up(1)}}, false, run.NotProven},
		"nobody looked":                 {nil, false, run.NotProven},
	} {
		t.Run(name, func(t *testing.T) {
			w := Watch{Bounds: []Bound{{Name: "up", Min: &low, Max: &high}}}
			early := false
			for i, s := range c.samples {
				s.At = time.Unix(int64(10*i), 0)
				early = w.Add(s) || early
			}
			require.Equal(t, c.early, early)
			require.Equal(t, c.want, Verdict(w.Checks()), w.Checks())
		})
	}
}

func TestRestartsSince(t *testing.T) {
	require.Equal(t, []string{"a/main (1 times)", "new/main (2 times)"}, Restarts{"a/main": 3, "b/main": 1, "new/main": 2}.Since(Restarts{"a/main": 2, "b/main": 1, "gone/main": 9}))
	require.Empty(t, Restarts(nil).Since(nil))
}
