// Package retention decides which backups a target keeps. It is a pure function of the policy and of
// what is known of each backup; it removes nothing.
package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// MaxKept bounds each number of a policy.
const MaxKept = 10000

// Policy says how many backups are kept. A backup that any of its rules wants stays.
type Policy struct {
	Last    int `json:"last,omitempty"`    // the newest so many
	Daily   int `json:"daily,omitempty"`   // the newest of each of the last so many days that have one
	Weekly  int `json:"weekly,omitempty"`  // the same for weeks, which begin on Monday
	Monthly int `json:"monthly,omitempty"` // the same for months
	// ReplacedDays is how many days a database that a backup has replaced is kept; 0: until a person drops it.
	ReplacedDays int `json:"replacedDays,omitempty"`
	// Zone is where the days begin; UTC when empty.
	Zone string `json:"zone,omitempty"`
}

// Set reports whether the policy asks for anything. One that does not would keep nothing, which nobody
// can mean by leaving it out.
func (p Policy) Set() bool { return p.Last > 0 || p.Daily > 0 || p.Weekly > 0 || p.Monthly > 0 }

// String says for people what is kept.
func (p Policy) String() string {
	text := ""
	for _, r := range p.rules() {
		if r.most > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%s %d", r.name, r.most)
		}
	}
	return text
}

// Backup is what is known of a backup.
type Backup struct {
	ID      string
	At      time.Time // the moment that it shows
	Proven  bool      // its newest comparison of a restored copy was PASS, and nothing of it was found damaged since
	Damaged bool      // something of it was found damaged
	Held    bool      // a person has forbidden its removal
}

// Decision is what becomes of a backup.
type Decision struct {
	ID   string   `json:"id"`
	Keep bool     `json:"keep"`
	Why  []string `json:"why"` // the rules that keep it, or why none does
}

// Reasons that are no rule of the policy.
const (
	Held         = "held"
	NewestProven = "the newest that is proven"
	Newest       = "the newest"
	ToCome       = "its time is yet to come, so a clock was wrong"
	NoneNewer    = "damaged, and none newer is whole"
	NoRule       = "no rule keeps it"
)

// rule keeps the newest backup of each of so many periods.
type rule struct {
	name   string
	most   int
	period func(time.Time) string
}

func (p Policy) rules() []rule {
	return []rule{
		{"last", p.Last, nil}, // every backup is a period of its own
		{"daily", p.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{"weekly", p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d week %d", year, week)
		}},
		{"monthly", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	}
}

// toCome leaves an hour for clocks that differ.
func toCome(b Backup, now time.Time) bool { return b.At.After(now.Add(time.Hour)) }

// choose takes the newest of each of the rule's periods. The backups come the newest first.
func (r rule) choose(backups []Backup, zone *time.Location) (chosen []Backup) {
	last := ""
	for _, b := range backups {
		if len(chosen) == r.most {
			break
		}
		period := b.ID
		if r.period != nil {
			period = r.period(b.At.In(zone))
		}
		if period != last {
			chosen, last = append(chosen, b), period
		}
	}
	return chosen
}

// Decide says of each backup whether it stays, the newest first. Held backups stay, and so do the
// newest, whatever its state, and the newest that is proven: while there is a policy at all, a target
// never loses what it would be brought back from. A damaged backup takes no rule's place from a whole
// one, and stays itself as long as if it were whole: it may be again, when a chunk was mended, and until
// a newer one is whole it may be all that there is.
//
// A backup whose time is yet to come stays, and counts for nothing: the others are decided on without it.
func Decide(p Policy, now time.Time, backups []Backup) ([]Decision, error) {
	zone, err := time.LoadLocation(cmp.Or(p.Zone, "UTC"))
	if err != nil {
		return nil, fmt.Errorf("the zone %q of the retention is unknown: %w", p.Zone, err)
	}
	sorted := slices.Clone(backups)
	slices.SortFunc(sorted, func(a, b Backup) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID)) })
	why := make(map[string][]string)
	keep := func(b Backup, reason string) {
		if !slices.Contains(why[b.ID], reason) {
			why[b.ID] = append(why[b.ID], reason)
		}
	}
	all := sorted
	sorted = slices.DeleteFunc(slices.Clone(all), func(b Backup) bool { return toCome(b, now) })
	whole := slices.DeleteFunc(slices.Clone(sorted), func(b Backup) bool { return b.Damaged })
	for _, r := range p.rules() {
		for _, candidates := range [][]Backup{sorted, whole} {
			for _, b := range r.choose(candidates, zone) {
				keep(b, r.name)
			}
		}
	}
	wholeNewer, provenNewer := false, false
	for i, b := range sorted {
		switch {
		case i == 0:
			keep(b, Newest)
		case b.Damaged && !wholeNewer:
			keep(b, NoneNewer)
		}
		if b.Proven && !b.Damaged && !provenNewer {
			provenNewer = true
			keep(b, NewestProven)
		}
		if b.Held {
			keep(b, Held)
		}
		wholeNewer = wholeNewer || !b.Damaged
	}
	decisions := make([]Decision, 0, len(all))
	for _, b := range all {
		if toCome(b, now) {
			keep(b, ToCome)
		}
		d := Decision{ID: b.ID, Keep: len(why[b.ID]) > 0, Why: why[b.ID]}
		if !d.Keep {
			d.Why = []string{NoRule}
		}
		decisions = append(decisions, d)
	}
	return decisions, nil
}
