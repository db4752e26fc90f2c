package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheReportShowsLosses(t *testing.T) {
	all, err := choose("wedged,image")
	require.NoError(t, err)
	wedged, image := all[0], all[1]
	fine := func(served, whole, ended float64, harmed bool) found {
		return found{harmed: harmed, served: moment{harmed, served}, whole: moment{true, whole}, ended: ended, seen: seen{failed: 40}}
	}
	never := found{harmed: true, ended: 4, err: errors.New("exit status 1"), left: []string{"3 pods of the service are not ready"}}
	kept := fine(6, 12, 20, true)
	kept.beside = 1
	r := &results{done: 2, scenarios: all, found: map[string][]found{
		"wedged/" + wedged.ways[0].name: {fine(4, 10, 18, true), kept},
		"wedged/" + wedged.ways[1].name: {fine(2, 8, 6, true), fine(9, 9, 6, true)},
		"wedged/" + wedged.ways[2].name: {never, never},
		"image/" + image.ways[0].name:   {fine(0, 10, 11, false)},
		"image/" + image.ways[2].name:   {fine(0, 32, 33, false)},
	}}
	var b strings.Builder
	require.NoError(t, r.write(&b))
	for _, line := range []string{
		"| Upkeep, RecoverService | 5.0 (4.0 to 6.0) [2] | 11.0 (10.0 to 12.0) [2] | 19.0 (18.0 to 20.0) [2] | 1.00 | 40, 0 |",
		"| the guide, Restart failed pods | 5.5 (2.0 to 9.0) [2] | 8.5 (8.0 to 9.0) [2] | 6.0 (6.0 to 6.0) [2] | 1.00 | 40, 0 |",
		"| the guide, Service Outage | never | never | 4.0 (4.0 to 4.0) [2] | never | 0, 0 |",
		"**callers have no right answers** (2 of 2); 3 pods of the service are not ready (2 of 2); it says itself that it did not succeed (2 of 2)",
		"on purpose: the database that was replaced, under another name (1 of 2)",
		"| Upkeep, RolloutRelease | always | 10.0 (10.0 to 10.0) [1] | 11.0 (11.0 to 11.0) [1] | 1.00 | 40, 0 |",
		"| helm upgrade --atomic | always | 32.0 (32.0 to 32.0) [1] | 33.0 (33.0 to 33.0) [1] | 3.20 | 40, 0 |",
	} {
		require.Contains(t, b.String(), line)
	}
}
