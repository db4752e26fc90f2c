//go:build fault

package restore_test

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/fault"
)

// TestASwapThatIsHit kills and freezes the process around the swap. Whatever comes of it, one of the two
// databases is open under the name, and the next attempt, or the twin that wakes up, does nothing twice.
func TestASwapThatIsHit(t *testing.T) {
	n := 0
	for _, point := range fault.Points() {
		if point != "swap/before" && point != "swap/after" {
			continue
		}
		n++
		for _, how := range []string{"kill", "stop"} {
			t.Run(point+":"+how, func(t *testing.T) {
				s := newSwapRig(t, "CREATE TABLE goods (id int); INSERT INTO goods SELECT generate_series(1, 100)")
				plan := s.plan(t)
				raw, err := json.Marshal(plan)
				require.NoError(t, err)
				work := task{Store: s.rig.url, Server: s.o.Server.URL, Database: s.o.Database, Oid: s.o.Oid, Swap: raw}
				cmd, ended := work.start(t, "point="+point+":"+how)
				if how == "kill" {
					requireKilled(t, <-ended)
				} else {
					require.Eventually(t, func() bool { return stopped(cmd.Process.Pid) }, time.Minute, 10*time.Millisecond)
				}
				found := query[uint32](t, s.url(s.live), "SELECT oid FROM pg_database WHERE datname = current_database()")
				require.Contains(t, []uint32{plan.Live.Oid, plan.Copy.Oid}, found, "one of the two is open")
				_, err = plan.Apply(deadline(t), s.o)
				require.NoError(t, err)
				if how == "stop" {
					require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
					<-ended // it may find everything done, or that it is not what was planned any more
				}
				require.Equal(t, plan.Copy.Oid, s.oid(t, s.live))
				require.Equal(t, plan.Live.Oid, s.oid(t, plan.Kept))
				require.Equal(t, 100, query[int](t, s.url(s.live), "SELECT count(*) FROM goods"))
			})
		}
	}
	require.Equal(t, 2, n)
}
