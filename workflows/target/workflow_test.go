package target_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/runs"
	api "github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/lease"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// site is a target's workflow and the runs around it.
type site struct {
	*testsuite.TestWorkflowEnvironment
	t     testing.TB
	ended map[string]bool // runs that are over without having said so
	gone  map[string]bool // runs that cannot be signalled
	told  []string        // runs that were told that they have what they waited for
	looks int
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{TestWorkflowEnvironment: proceduretest.Environment(), t: t, ended: make(map[string]bool), gone: make(map[string]bool)}
	s.RegisterActivityWithOptions(func(ids []string) (over []string, err error) {
		s.looks++
		if s.ended["the server does not answer"] {
			return nil, errors.New("no answer")
		}
		for _, id := range ids {
			if s.ended[id] {
				over = append(over, id)
			}
		}
		return over, nil
	}, activity.RegisterOptions{Name: runs.EndedRuns})
	s.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, api.GrantedSignal, mock.Anything).Return(
		func(_, id, _, _ string, arg any) error {
			if s.gone[id] {
				return errors.New("no such run")
			}
			require.Equal(t, "shop", arg)
			s.told = append(s.told, id)
			return nil
		})
	return s
}

// at does something so long after the beginning.
func (s *site) at(after time.Duration, do func()) { s.RegisterDelayedCallback(do, after) }

func (s *site) ask(l lease.Lease, then func(api.Answer)) {
	s.UpdateWorkflow(api.AcquireUpdate, "", &testsuite.TestUpdateCallback{
		OnAccept: func() {},
		OnReject: func(err error) { require.NoError(s.t, err) },
		OnComplete: func(answer any, err error) {
			require.NoError(s.t, err)
			then(answer.(api.Answer))
		},
	}, l)
}

func (s *site) release(holder string) { s.SignalWorkflow(api.ReleaseSignal, holder) }

func (s *site) status() (status api.Status) {
	answer, err := s.QueryWorkflow(api.StatusQuery)
	require.NoError(s.t, err)
	require.NoError(s.t, answer.Get(&status))
	return status
}

// serve runs the workflow until it continues as new, and returns what with.
func (s *site) serve(state api.State) (next api.State) {
	s.ExecuteWorkflow(api.WorkflowType, state)
	require.True(s.t, s.IsWorkflowCompleted())
	var again *workflow.ContinueAsNewError
	require.ErrorAs(s.t, s.GetWorkflowError(), &again)
	require.NoError(s.t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	return next
}

func (s *site) endAt(after time.Duration) {
	s.at(after, func() {
		s.SetContinueAsNewSuggested(true)
		s.ask(claim("the last", lease.Shared), func(api.Answer) {})
		s.release("the last")
	})
}

func claim(holder string, mode lease.Mode) lease.Lease {
	return lease.Lease{Holder: holder, Claims: []lease.Claim{{Resource: api.Database, Mode: mode}}}
}

func TestOneAfterTheOther(t *testing.T) {
	s := newSite(t)
	s.at(time.Second, func() { s.ask(claim("backup", lease.Shared), func(a api.Answer) { require.True(t, a.Granted) }) })
	s.at(2*time.Second, func() {
		s.ask(claim("restore", lease.Exclusive), func(a api.Answer) {
			require.False(t, a.Granted)
			require.Contains(t, a.Why, "waits for backup")
		})
	})
	s.at(3*time.Second, func() {
		status := s.status()
		require.Equal(t, "backup", status.Held[0].Holder)
		require.Equal(t, "restore", status.Waiting[0].Holder)
		require.Contains(t, status.Waiting[0].Why, "waits for backup")
		s.release("backup")
	})
	s.at(4*time.Second, func() {
		require.Equal(t, []string{"restore"}, s.told)
		require.Empty(t, s.status().Waiting)
	})
	s.endAt(5 * time.Second)
	next := s.serve(api.State{Target: "shop"})
	require.Len(t, next.Book.Held, 1)
	require.Equal(t, "shop", next.Target)
}

func TestARunThatEndedWithoutAWordHoldsNothing(t *testing.T) {
	s := newSite(t)
	s.at(time.Second, func() { s.ask(claim("terminated", lease.Exclusive), func(api.Answer) {}) })
	s.at(2*time.Second, func() {
		s.ended["terminated"] = true
		s.ask(claim("next", lease.Exclusive), func(a api.Answer) { require.False(t, a.Granted) })
	})
	s.at(3*time.Second, func() { require.Equal(t, []string{"next"}, s.told, "it is looked at as soon as somebody waits") })
	s.at(4*time.Second, func() { s.ask(claim("last", lease.Exclusive), func(a api.Answer) { require.False(t, a.Granted) }) })
	s.at(5*time.Second, func() { s.ended["next"], s.ended["the server does not answer"] = true, true })
	s.at(10*time.Minute, func() {
		require.Equal(t, []string{"next"}, s.told)
		delete(s.ended, "the server does not answer")
	})
	s.at(12*time.Minute, func() { require.Equal(t, []string{"next", "last"}, s.told, "and again as long as somebody waits") })
	looks := 0
	s.at(13*time.Minute, func() { looks = s.looks })
	s.at(24*time.Hour, func() { require.Equal(t, looks, s.looks, "nobody is looked at for nothing") })
	s.endAt(25 * time.Hour)
	s.serve(api.State{Target: "shop"})
}

func TestARunThatIsGoneWhenItsTurnComesIsPassedOver(t *testing.T) {
	s := newSite(t)
	s.gone["gone"] = true
	for i, holder := range []string{"first", "gone", "third"} {
		s.at(time.Duration(i+1)*time.Second, func() { s.ask(claim(holder, lease.Exclusive), func(api.Answer) {}) })
	}
	s.at(5*time.Second, func() { s.release("first") })
	s.at(6*time.Second, func() {
		require.Equal(t, []string{"third"}, s.told)
		require.Equal(t, "third", s.status().Held[0].Holder)
	})
	s.endAt(7 * time.Second)
	s.serve(api.State{Target: "shop"})
}

func TestTheCalendarOpens(t *testing.T) {
	s := newSite(t)
	began := s.Now()
	swap := claim("swap", lease.Exclusive)
	swap.Openings = []calendar.Opening{{From: began.Add(3 * time.Hour), To: began.Add(4 * time.Hour)}}
	s.at(time.Second, func() { s.ask(swap, func(a api.Answer) { require.Contains(t, a.Why, "calendar, which opens at") }) })
	s.at(time.Hour, func() { s.ask(claim("backup", lease.Shared), func(a api.Answer) { require.True(t, a.Granted) }) })
	s.at(2*time.Hour, func() { s.release("backup") })
	s.at(3*time.Hour-time.Second, func() { require.Empty(t, s.told) })
	s.at(3*time.Hour+time.Second, func() { require.Equal(t, []string{"swap"}, s.told) })
	s.endAt(5 * time.Hour)
	s.serve(api.State{Target: "shop"})
}

func TestBadLeasesAreRefused(t *testing.T) {
	s := newSite(t)
	refused := 0
	s.at(time.Second, func() {
		s.UpdateWorkflow(api.AcquireUpdate, "", &testsuite.TestUpdateCallback{
			OnAccept: func() { t.Error("accepted") }, OnReject: func(error) { refused++ }, OnComplete: func(any, error) {},
		}, lease.Lease{Holder: "run"})
		s.ask(claim("run", lease.Shared), func(api.Answer) {})
	})
	s.endAt(3 * time.Second)
	next := s.serve(api.State{Target: "shop"})
	require.Equal(t, 1, refused)
	require.Len(t, next.Book.Held, 1)
}

// TestARunOfTheSameIDReplacesWhatAnEarlierOneLeft asks for something else than is in the book under its id.
func TestARunOfTheSameIDReplacesWhatAnEarlierOneLeft(t *testing.T) {
	s := newSite(t)
	s.at(time.Second, func() { s.ask(claim("again", lease.Exclusive), func(a api.Answer) { require.True(t, a.Granted) }) })
	s.at(2*time.Second, func() { s.ask(claim("other", lease.Shared), func(a api.Answer) { require.False(t, a.Granted) }) })
	s.at(3*time.Second, func() { s.ask(claim("again", lease.Shared), func(a api.Answer) { require.True(t, a.Granted) }) })
	s.at(4*time.Second, func() { require.Equal(t, []string{"other"}, s.told) })
	s.endAt(5 * time.Second)
	next := s.serve(api.State{Target: "shop"})
	require.Len(t, next.Book.Held, 2)
}

// TestTenThousandLeases lets ten thousand runs come and go while the workflow continues as new every
// hundred: what excludes never overlaps, and everybody has a turn, but for those that end while they wait.
func TestTenThousandLeases(t *testing.T) {
	const all, each = 10000, 100
	state := api.State{Target: "shop"}
	random := rand.New(rand.NewPCG(1, 2))
	come, had := 0, make(map[string]bool)
	for come < all {
		s := newSite(t)
		for i := range each {
			id := fmt.Sprint(come + i)
			l := claim(id, lease.Shared)
			if random.IntN(25) == 0 {
				l = claim(id, lease.Exclusive)
			}
			s.at(time.Duration(i+1)*time.Minute, func() {
				s.ask(l, func(a api.Answer) {
					if a.Granted {
						had[id] = true
					}
				})
			})
			if i%4 > 0 {
				continue
			}
			s.at(time.Duration(i+1)*time.Minute+30*time.Second, func() {
				held := s.status().Held
				requireApart(t, held)
				for _, l := range held {
					switch random.IntN(10) {
					case 0: // it goes on
					case 1:
						s.ended[l.Holder] = true // it says nothing
					default:
						s.release(l.Holder)
					}
				}
			})
		}
		come += each
		s.endAt((each + 1) * time.Minute)
		ended := s.ended
		state = s.serve(state)
		for _, id := range s.told {
			had[id] = true
		}
		for id := range ended { // those that the next one's world would not know any more
			state.Book.Release(s.Now(), id)
		}
		state.Book.Release(s.Now(), "the last")
	}
	for len(state.Book.Held) > 0 {
		requireApart(t, state.Book.Held)
		for _, l := range state.Book.Release(time.Now(), state.Book.Held[0].Holder) {
			had[l.Holder] = true
		}
	}
	require.Empty(t, state.Book.Waiting)
	delete(had, "the last")
	require.Equal(t, all, len(had))
}

func requireApart(t *testing.T, held []lease.Lease) {
	t.Helper()
	for _, l := range held {
		require.False(t, l.Excludes() && len(held) > 1, "%s is not alone", l.Holder)
	}
}
