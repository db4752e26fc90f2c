package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/dev/stack/probed"
)

func TestJudge(t *testing.T) {
	at := time.Unix(1000, 0)
	call := func(second int, answered bool, count int64) probed.Call {
		began := at.Add(time.Duration(second) * time.Second)
		return probed.Call{Began: began, Ended: began.Add(10 * time.Millisecond), Answered: answered, Count: count}
	}
	s := judge([]probed.Call{call(0, true, 5), call(1, false, 0), call(2, true, 5), call(3, true, 4), call(4, true, 5), call(5, true, 6)}, 5)
	require.Equal(t, seen{calls: 6, failed: 1, wrong: 1, bad: at.Add(time.Second), served: at.Add(4*time.Second + 10*time.Millisecond)}, s)
	s = judge([]probed.Call{call(0, true, 5), call(1, false, 0)}, 5)
	require.True(t, s.served.IsZero(), "the last was not right")
	require.Equal(t, seen{}, judge(nil, 5))
}

func TestDifferences(t *testing.T) {
	was := picture{deployments: map[string]int32{"web": 3}, template: "a", status: "deployed", manifest: "m", tables: "traces|10|7\nschema_version|2|3"}
	require.Empty(t, was.differences(was))
	is := was
	is.deployments, is.status, is.unready = map[string]int32{"web": 1}, "pending-upgrade", 2
	is.tables = "traces|10|8\nschema_version|4|3"
	require.Equal(t, []string{
		"web has 1 replicas, and had 3", "the release is pending-upgrade", "table traces has as many rows, and others",
		"table schema_version has 4 rows, and had 2", "2 pods of the service are not ready",
	}, is.differences(was))
	is.tables = "cannot be read"
	require.Contains(t, is.differences(was), "table traces has no readable rows, and had 10")
}
