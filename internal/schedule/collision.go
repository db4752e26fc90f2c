package schedule

import (
	"iter"
	"slices"
	"strings"
	"time"
)

const (
	// Near is how close two begin that count as begun together.
	Near = 10 * time.Minute
	// Ahead is how far is looked for them: every day of a year, and what the clocks do in it.
	Ahead = 400 * 24 * time.Hour
)

// Timed is when a schedule begins, for the search for others that begin with it.
type Timed struct {
	Mark   Mark
	Shares string // what it shares with others, such as a database server
	Cron   Cron
	Zone   *time.Location
	Jitter time.Duration // so much later it may begin
}

// Collision is some schedules that share something and begin together.
type Collision struct {
	At     time.Time // when the first of them begins, the first time that they do
	Of     []Mark
	Shares string
}

// Collisions are the schedules that begin together within the time Ahead. Each two of them are named
// once, at their first time.
func Collisions(all []Timed, now time.Time) []Collision {
	var found []Collision
	sharing := make(map[string][]Timed)
	for _, t := range all {
		sharing[t.Shares] = append(sharing[t.Shares], t)
	}
	for _, group := range sharing {
		found = append(found, collide(group, now)...)
	}
	slices.SortFunc(found, func(a, b Collision) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Shares, b.Shares)
	})
	return found
}

// collide walks through the starts of all in the order of time.
func collide(group []Timed, now time.Time) (found []Collision) {
	next := make([]func() (time.Time, bool), len(group))
	ahead := make([]time.Time, len(group)) // the next start of each; zero when there is none
	for i, t := range group {
		var stop func()
		next[i], stop = iter.Pull(t.Cron.Starts(t.Zone, now, now.Add(Ahead)))
		defer stop()
		ahead[i], _ = next[i]()
	}
	last := make([]time.Time, len(group))
	seen := make(map[[2]int]bool)
	for len(seen) < len(group)*(len(group)-1)/2 { // until every two are named
		i := first(ahead)
		if i < 0 {
			break
		}
		at := ahead[i]
		ahead[i], _ = next[i]()
		last[i] = at
		var with []int
		fresh := false
		for j, t := range group {
			if i != j && !last[j].IsZero() && at.Sub(last[j]) <= Near+t.Jitter {
				pair := [2]int{min(i, j), max(i, j)}
				fresh = fresh || !seen[pair]
				seen[pair] = true
				with = append(with, j)
			}
		}
		if fresh {
			found = join(found, group, i, with, last)
		}
	}
	return found
}

// first is the index of the earliest time; less than 0 when there is none.
func first(times []time.Time) int {
	earliest := -1
	for i, t := range times {
		if !t.IsZero() && (earliest < 0 || t.Before(times[earliest])) {
			earliest = i
		}
	}
	return earliest
}

// join adds a schedule that has just begun to the collision that those which it meets are in, or
// makes one of them.
func join(found []Collision, group []Timed, i int, with []int, last []time.Time) []Collision {
	at, of := last[i], []Mark(nil)
	for _, j := range with {
		of = append(of, group[j].Mark)
		if last[j].Before(at) {
			at = last[j]
		}
	}
	of = append(of, group[i].Mark)
	if n := len(found) - 1; n >= 0 && found[n].At.Equal(at) {
		c := &found[n]
		known := func(m Mark) bool { return slices.Contains(c.Of, m) }
		if !slices.ContainsFunc(of[:len(with)], func(m Mark) bool { return !known(m) }) {
			if !known(group[i].Mark) {
				c.Of = append(c.Of, group[i].Mark)
			}
			return found
		}
	}
	return append(found, Collision{At: at, Of: of, Shares: group[i].Shares})
}
