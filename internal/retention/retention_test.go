package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// day is the n-th day, at noon.
func day(n int) time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

// kept lists the ids that stay, the newest first.
func kept(t *testing.T, p Policy, backups ...Backup) []string {
	t.Helper()
	decisions, err := Decide(p, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), backups)
	require.NoError(t, err)
	require.Len(t, decisions, len(backups))
	ids := []string{}
	for _, d := range decisions {
		require.NotEmpty(t, d.Why, d.ID)
		if d.Keep {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

func TestDecide(t *testing.T) {
	a, b, c, d := Backup{ID: "a", At: day(0)}, Backup{ID: "b", At: day(1)}, Backup{ID: "c", At: day(1).Add(time.Hour)}, Backup{ID: "d", At: day(40)}
	proven := func(b Backup) Backup { b.Proven = true; return b }
	damaged := func(b Backup) Backup { b.Damaged = true; return b }
	held := func(b Backup) Backup { b.Held = true; return b }
	for _, test := range []struct {
		name    string
		policy  Policy
		backups []Backup
		want    []string
	}{
		{"none", Policy{Last: 1}, nil, []string{}},
		{"the last", Policy{Last: 2}, []Backup{a, b, c, d}, []string{"d", "c"}},
		{"more than there are", Policy{Last: 9}, []Backup{a, b}, []string{"b", "a"}},
		{"a day's newest", Policy{Daily: 2}, []Backup{a, b, c, d}, []string{"d", "c"}},
		{"days without a backup do not count", Policy{Daily: 3}, []Backup{a, b, c, d}, []string{"d", "c", "a"}},
		{"a week's newest", Policy{Weekly: 2}, []Backup{a, b, c, d}, []string{"d", "c"}},
		{"a month's newest", Policy{Monthly: 9}, []Backup{a, b, c, d}, []string{"d", "c"}},
		{"rules add up", Policy{Last: 1, Monthly: 2, Daily: 3}, []Backup{a, b, c, d}, []string{"d", "c", "a"}},
		{"the newest proven", Policy{Last: 1}, []Backup{proven(a), proven(b), c, d}, []string{"d", "b"}},
		{"proven, then damaged, is not proven", Policy{Last: 1}, []Backup{proven(a), damaged(proven(b)), c, d}, []string{"d", "a"}},
		{"held", Policy{Last: 1}, []Backup{held(a), b, c, d}, []string{"d", "a"}},
		{"a damaged one takes nobody's place", Policy{Last: 1}, []Backup{a, b, c, damaged(d)}, []string{"d", "c"}},
		{"damaged ones stay as long as if they were whole", Policy{Last: 3}, []Backup{a, damaged(b), damaged(c), d}, []string{"d", "c", "b", "a"}},
		{"a damaged one goes when a newer is whole", Policy{Last: 1}, []Backup{a, b, damaged(c), d}, []string{"d"}},
		{"all are damaged", Policy{Last: 1}, []Backup{damaged(a), damaged(b)}, []string{"b", "a"}},
	} {
		t.Run(test.name, func(t *testing.T) { require.Equal(t, test.want, kept(t, test.policy, test.backups...)) })
	}
}

func TestDaysBeginInTheirZone(t *testing.T) {
	late, early := Backup{ID: "late", At: time.Date(2026, 1, 1, 22, 30, 0, 0, time.UTC)}, Backup{ID: "early", At: time.Date(2026, 1, 1, 23, 30, 0, 0, time.UTC)}
	require.Equal(t, []string{"early"}, kept(t, Policy{Daily: 5}, late, early), "one day in UTC")
	require.Equal(t, []string{"early", "late"}, kept(t, Policy{Daily: 5, Zone: "Europe/Berlin"}, late, early), "midnight lies between them")
	_, err := Decide(Policy{Last: 1, Zone: "Mars/Olympus"}, day(0), nil)
	require.ErrorContains(t, err, "Mars/Olympus")
}

func TestSet(t *testing.T) {
	require.False(t, Policy{Zone: "UTC"}.Set())
	require.True(t, Policy{Monthly: 1}.Set())
	require.Equal(t, "last 3, monthly 12", Policy{Last: 3, Monthly: 12}.String())
}

// TestWhateverThePolicy holds random shelves of backups against what must never happen.
func TestWhateverThePolicy(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := Policy{Last: r.IntN(4), Daily: r.IntN(4), Weekly: r.IntN(4), Monthly: r.IntN(4)}
		var backups []Backup
		for i := range r.IntN(40) {
			backups = append(backups, Backup{
				ID: fmt.Sprint("b", i), At: day(r.IntN(120)).Add(time.Duration(r.IntN(1440)) * time.Minute),
				Proven: r.IntN(3) == 0, Damaged: r.IntN(5) == 0, Held: r.IntN(9) == 0,
			})
		}
		ids := kept(t, p, backups...)
		stays := func(b Backup) bool { return slices.Contains(ids, b.ID) }
		var newest, newestProven, newestWhole Backup
		whole := 0
		for _, b := range backups {
			if b.Held {
				require.True(t, stays(b), "seed %d: a held backup goes", seed)
			}
			if newest.ID == "" || !b.At.Before(newest.At) {
				newest = b
			}
			if b.Damaged {
				continue
			}
			whole++
			if newestWhole.ID == "" || b.At.After(newestWhole.At) {
				newestWhole = b
			}
			if b.Proven && (newestProven.ID == "" || b.At.After(newestProven.At)) {
				newestProven = b
			}
		}
		if newestProven.ID != "" {
			require.True(t, slices.ContainsFunc(backups, func(b Backup) bool { return b.At.Equal(newestProven.At) && b.Proven && stays(b) }), "seed %d: the newest PASS goes", seed)
		}
		if len(backups) > 0 {
			require.NotEmpty(t, ids, "seed %d: nothing stays", seed)
			require.True(t, slices.ContainsFunc(backups, func(b Backup) bool { return b.At.Equal(newest.At) && stays(b) }), "seed %d: the newest goes", seed)
		}
		if p.Set() && whole > 0 {
			require.True(t, slices.ContainsFunc(backups, func(b Backup) bool { return b.At.Equal(newestWhole.At) && stays(b) }), "seed %d: the newest whole one goes", seed)
		}
		wholeKept := 0
		for _, b := range backups {
			if stays(b) && !b.Damaged {
				wholeKept++
			}
		}
		require.GreaterOrEqual(t, wholeKept, min(p.Last, whole), "seed %d", seed)
		shuffled := slices.Clone(backups)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		require.Equal(t, ids, kept(t, p, shuffled...), "seed %d: the order of the list decides", seed)

		// What a removal leaves is what the policy keeps of it again: a second run removes nothing more.
		var left []Backup
		for _, b := range backups {
			if stays(b) {
				left = append(left, b)
			}
		}
		require.Equal(t, ids, kept(t, p, left...), "seed %d: a second run removes more", seed)
	}
}

// TestAClockThatWasWrong has taken backups whose times are yet to come: they take nobody's place.
func TestAClockThatWasWrong(t *testing.T) {
	var backups []Backup
	for i := range 3 {
		backups = append(backups, Backup{ID: fmt.Sprint("future", i), At: day(3650 + i), Proven: true}, Backup{ID: fmt.Sprint("real", i), At: day(i)})
	}
	decisions, err := Decide(Policy{Last: 2}, day(3), backups)
	require.NoError(t, err)
	stays := make(map[string]bool)
	for _, d := range decisions {
		stays[d.ID] = d.Keep
	}
	require.Equal(t, map[string]bool{"future0": true, "future1": true, "future2": true, "real0": false, "real1": true, "real2": true}, stays)
}
