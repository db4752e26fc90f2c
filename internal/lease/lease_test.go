package lease_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/calendar"
	"github.com/upkeep-run/upkeep/internal/lease"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func ask(t *testing.T, b *lease.Book, holder string, priority int, claims ...lease.Claim) bool {
	t.Helper()
	granted, err := b.Ask(lease.Lease{Holder: holder, Claims: claims, Priority: priority}, noon)
	require.NoError(t, err)
	return granted
}

func share(resource string) lease.Claim { return lease.Claim{Resource: resource, Mode: lease.Shared} }
func exclude(resource string) lease.Claim {
	return lease.Claim{Resource: resource, Mode: lease.Exclusive}
}

func holders(leases []lease.Lease) (names []string) {
	for _, l := range leases {
		names = append(names, l.Holder)
	}
	return names
}

func TestWhoGoesTogether(t *testing.T) {
	for _, c := range []struct {
		name         string
		first, other lease.Claim
		together     bool
	}{
		{"two that share", share("database"), share("database"), true},
		{"one that excludes comes later", share("database"), exclude("database"), false},
		{"one that excludes came first", exclude("database"), share("database"), false},
		{"two that exclude", exclude("database"), exclude("database"), false},
		{"other resources", exclude("database"), exclude("backups"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b lease.Book
			require.True(t, ask(t, &b, "first", 0, c.first))
			require.Equal(t, c.together, ask(t, &b, "other", 0, c.other))
		})
	}
}

func TestNobodyIsOvertakenByWhomItExcludes(t *testing.T) {
	var b lease.Book
	require.True(t, ask(t, &b, "reader", 0, share("database")))
	require.False(t, ask(t, &b, "writer", 0, exclude("database"), share("backups")))
	require.False(t, ask(t, &b, "late reader", 0, share("database")), "or readers could keep the writer out for ever")
	require.True(t, ask(t, &b, "passer-by", 0, share("backups")))
	require.False(t, ask(t, &b, "pruner", 0, exclude("backups")))
	require.Equal(t, []string{"writer"}, holders(b.Release(noon, "reader")))
	require.Equal(t, []string{"late reader"}, holders(b.Release(noon, "writer")))
	require.Equal(t, []string{"pruner"}, holders(b.Release(noon, "passer-by")))
}

func TestPriorityGoesFirstAndTakesNothingAway(t *testing.T) {
	var b lease.Book
	require.True(t, ask(t, &b, "nightly", 0, exclude("database")))
	require.False(t, ask(t, &b, "weekly", 0, exclude("database")))
	require.False(t, ask(t, &b, "incident", 10, exclude("database")))
	require.False(t, ask(t, &b, "second incident", 10, exclude("database")))
	require.Equal(t, []string{"incident"}, holders(b.Release(noon, "nightly")))
	require.Equal(t, []string{"second incident"}, holders(b.Release(noon, "incident")))
	require.Equal(t, []string{"weekly"}, holders(b.Release(noon, "second incident")))
}

func TestAskedTwiceIsAskedOnce(t *testing.T) {
	var b lease.Book
	require.True(t, ask(t, &b, "a", 0, exclude("database")))
	require.True(t, ask(t, &b, "a", 0, exclude("database")))
	require.False(t, ask(t, &b, "b", 0, share("database")))
	require.False(t, ask(t, &b, "b", 0, share("database")))
	require.Len(t, b.Held, 1)
	require.Len(t, b.Waiting, 1)
	_, err := b.Ask(lease.Lease{Holder: "b", Claims: []lease.Claim{exclude("database")}}, noon)
	require.ErrorIs(t, err, lease.ErrOtherClaims)
	require.Empty(t, b.Release(noon, "nobody"))
	require.Equal(t, []string{"b"}, holders(b.Release(noon, "a")))
	require.Empty(t, b.Release(noon, "a"))
	require.Empty(t, b.Release(noon, "b", "a"))
	require.Equal(t, lease.Book{Held: []lease.Lease{}, Waiting: []lease.Lease{}}, b)
}

func TestAPersonIsToldWhomARunWaitsFor(t *testing.T) {
	var b lease.Book
	for i := range 5 {
		granted, err := b.Ask(lease.Lease{Holder: fmt.Sprint("backup-", i), Purpose: "BackupDatabase", Claims: []lease.Claim{share("database")}}, noon)
		require.NoError(t, err)
		require.True(t, granted)
	}
	require.Empty(t, b.Why("backup-0", noon))
	require.False(t, ask(t, &b, "restore", 0, exclude("database")))
	require.Equal(t, "waits for backup-0 (BackupDatabase), at work since 2026-11-24T12:00:00Z; backup-1 (BackupDatabase), at work since 2026-11-24T12:00:00Z; "+
		"backup-2 (BackupDatabase), at work since 2026-11-24T12:00:00Z; 2 more", b.Why("restore", noon))
	require.False(t, ask(t, &b, "late", 0, share("database")))
	require.Equal(t, "waits for restore, which waits since 2026-11-24T12:00:00Z", b.Why("late", noon))
	require.Empty(t, b.Why("nobody", noon))
}

// TestRandomSchedules lets many runs come and go: what excludes never overlaps, the book survives being
// written down at any moment, and in the end everybody has had a turn.
func TestRandomSchedules(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 7))
		var b lease.Book
		var come, had int
		now := noon
		turn := func(granted []lease.Lease) {
			had += len(granted)
			requireApart(t, b.Held)
		}
		for step := range 200 {
			now = now.Add(time.Second)
			switch {
			case random.IntN(3) > 0 && step < 150:
				l := lease.Lease{Holder: fmt.Sprint(come), Priority: random.IntN(3)}
				for _, resource := range []string{"database", "backups", "cluster"} {
					if n := random.IntN(4); n < 2 {
						l.Claims = append(l.Claims, lease.Claim{Resource: resource, Mode: []lease.Mode{lease.Shared, lease.Exclusive}[n]})
					}
				}
				come++
				granted, err := b.Ask(l, now)
				require.NoError(t, err)
				if granted {
					had++
				}
				requireApart(t, b.Held)
			case len(b.Held) > 0:
				turn(b.Release(now, b.Held[random.IntN(len(b.Held))].Holder))
			}
			if random.IntN(20) == 0 {
				data, err := json.Marshal(b)
				require.NoError(t, err)
				b = lease.Book{}
				require.NoError(t, json.Unmarshal(data, &b))
			}
		}
		for len(b.Held) > 0 {
			turn(b.Release(now, b.Held[0].Holder))
		}
		require.Empty(t, b.Waiting, "seed %d", seed)
		require.Equal(t, come, had, "seed %d", seed)
	}
}

// requireApart requires no two leases to be in conflict, judged by other code than the book's.
func requireApart(t *testing.T, held []lease.Lease) {
	t.Helper()
	users, exclusive := make(map[string]int), make(map[string]bool)
	for _, l := range held {
		for _, c := range l.Claims {
			users[c.Resource]++
			exclusive[c.Resource] = exclusive[c.Resource] || c.Mode == lease.Exclusive
		}
	}
	for resource, n := range users {
		require.False(t, exclusive[resource] && n > 1, "%d hold %s, and one of them exclusively", n, resource)
	}
}

func TestABookHasAnEnd(t *testing.T) {
	var b lease.Book
	var err error
	n := 0
	for ; err == nil; n++ {
		_, err = b.Ask(lease.Lease{Holder: fmt.Sprint(n), Claims: []lease.Claim{exclude("database")}}, noon)
	}
	require.ErrorIs(t, err, lease.ErrFull)
	require.Greater(t, n, 500)
	require.False(t, ask(t, &b, "7", 0, exclude("database")), "who is in it may ask how things stand")
	b.Release(noon, "0")
	require.False(t, ask(t, &b, "one more", 0, exclude("database")))
}

func TestValidate(t *testing.T) {
	good := lease.Lease{Holder: "run", Claims: []lease.Claim{share("database")}, Purpose: "BackupDatabase"}
	require.NoError(t, good.Validate())
	for name, spoil := range map[string]func(*lease.Lease){
		"no holder":          func(l *lease.Lease) { l.Holder = "" },
		"a long holder":      func(l *lease.Lease) { l.Holder = strings.Repeat("x", 1001) },
		"no claim":           func(l *lease.Lease) { l.Claims = nil },
		"many claims":        func(l *lease.Lease) { l.Claims = slices.Repeat(l.Claims, 5) },
		"an unnamed claim":   func(l *lease.Lease) { l.Claims = []lease.Claim{share("")} },
		"a claim of no mode": func(l *lease.Lease) { l.Claims = []lease.Claim{{Resource: "database"}} },
		"a long purpose":     func(l *lease.Lease) { l.Purpose = strings.Repeat("x", 101) },
		"many openings":      func(l *lease.Lease) { l.Openings = make([]calendar.Opening, 9) },
	} {
		l := good
		spoil(&l)
		require.Error(t, l.Validate(), name)
	}
}

// TestTheCalendarKeepsALeaseWaitingAndNobodyElse asks at noon for what may begin at two.
func TestTheCalendarKeepsALeaseWaitingAndNobodyElse(t *testing.T) {
	at := func(hour int) time.Time { return noon.Add(time.Duration(hour-12) * time.Hour) }
	var b lease.Book
	swap := lease.Lease{Holder: "swap", Claims: []lease.Claim{exclude("database")}, Openings: []calendar.Opening{{From: at(10), To: at(12)}, {From: at(14), To: at(15)}}}
	granted, err := b.Ask(swap, at(12))
	require.NoError(t, err)
	require.False(t, granted, "an opening ends before its last moment")
	require.Equal(t, at(14), b.NextOpening(at(12)))
	require.Equal(t, "waits for the target's calendar, which opens at 2026-11-24T14:00:00Z", b.Why("swap", at(12)))
	require.True(t, ask(t, &b, "backup", 0, share("database")), "who waits for the calendar keeps nobody waiting")
	require.Empty(t, b.InTheWay(at(13), 9))

	require.Empty(t, b.Grant(at(14)))
	require.Equal(t, []string{"backup"}, b.InTheWay(at(14), 9))
	require.Equal(t, "waits for backup, at work since 2026-11-24T12:00:00Z", b.Why("swap", at(14)))
	require.Empty(t, b.Release(at(15), "backup"), "the opening is over")
	require.Zero(t, b.NextOpening(at(15)))
	require.Contains(t, b.Why("swap", at(15)), "no opening in sight")

	swap.Openings = append(swap.Openings, calendar.Opening{From: at(20), To: at(21)})
	granted, err = b.Ask(swap, at(16))
	require.NoError(t, err)
	require.False(t, granted)
	require.Equal(t, at(20), b.NextOpening(at(16)), "asked again, it has newer openings")
	require.Equal(t, []string{"swap"}, holders(b.Grant(at(20))))
}
