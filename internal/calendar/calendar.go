// Package calendar says when work may begin that others would notice: in windows of the week, and
// outside of freezes.
package calendar

import (
	"fmt"
	"slices"
	"time"
)

// Calendar is when work may begin. The zero value says at any time.
type Calendar struct {
	Zone    string   `json:"zone,omitempty"` // of the windows, as in the IANA database; UTC when empty
	Windows []Window `json:"windows,omitempty"`
	Freezes []Freeze `json:"freezes,omitempty"`
}

// Window is a time that comes again every week. One that ends before it begins ends on the next day.
type Window struct {
	Days []time.Weekday `json:"days,omitempty"` // on which it begins; every day when empty
	From Clock          `json:"from"`
	To   Clock          `json:"to"`
}

// Freeze is a time in which nothing may begin: from From, before To.
type Freeze struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Why  string    `json:"why,omitempty"`
}

// Clock is a time of day in minutes after midnight.
type Clock int

// ParseClock reads a time of day such as 02:30; 24:00 is the end of the day.
func ParseClock(text string) (Clock, error) {
	if text == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != 5 {
		return 0, fmt.Errorf("%.20q is not a time of day such as 02:30", text)
	}
	return Clock(t.Hour()*60 + t.Minute()), nil
}

// on is the moment of the day at which a clock in that place shows c. Where the clock jumps over it,
// it is the moment that Go's time.Date makes of it.
func (c Clock) on(day time.Time) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), 0, int(c), 0, 0, day.Location())
}

// Opening is a time in which work may begin: from From, before To.
type Opening struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// longest is how far the last opening of a calendar without windows reaches.
const longest = 100 * 365 * 24 * time.Hour

// Openings returns the openings that end after now, in order and apart, most of them at most; none
// means that work may begin at any time.
func (c Calendar) Openings(now time.Time, most int) ([]Opening, error) {
	if len(c.Windows) == 0 && len(c.Freezes) == 0 {
		return nil, nil
	}
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		return nil, fmt.Errorf("the calendar's zone: %w", err)
	}
	if len(c.Windows) == 0 {
		return c.thaw([]Opening{{now, now.Add(longest)}}), nil
	}
	// Every week has an opening once the last freeze is over; the second week is for a window that the
	// change of clocks jumps over.
	last := now
	for _, f := range c.Freezes {
		if f.To.After(last) {
			last = f.To
		}
	}
	last = last.AddDate(0, 0, 15)
	var found []Opening
	// One more than asked for, because the last may touch the next.
	for day := now.In(zone).AddDate(0, 0, -1); day.Before(last) && len(found) <= most; day = day.AddDate(0, 0, 1) {
		for _, o := range c.thaw(c.begin(day)) {
			if o.To.After(now) {
				found = append(found, o)
			}
		}
		found = join(found)
	}
	return found[:min(most, len(found))], nil
}

// begin returns the windows that begin on a day.
func (c Calendar) begin(day time.Time) (all []Opening) {
	for _, w := range c.Windows {
		if len(w.Days) > 0 && !slices.Contains(w.Days, day.Weekday()) {
			continue
		}
		end := day
		if w.To <= w.From {
			end = day.AddDate(0, 0, 1)
		}
		if o := (Opening{w.From.on(day), w.To.on(end)}); o.To.After(o.From) {
			all = append(all, o)
		}
	}
	return all
}

// thaw cuts the freezes out.
func (c Calendar) thaw(openings []Opening) []Opening {
	for _, f := range c.Freezes {
		var left []Opening
		for _, o := range openings {
			for _, part := range []Opening{{o.From, earlier(o.To, f.From)}, {later(o.From, f.To), o.To}} {
				if part.To.After(part.From) {
					left = append(left, part)
				}
			}
		}
		openings = left
	}
	return openings
}

// join sorts openings and makes one of those that touch.
func join(openings []Opening) []Opening {
	slices.SortFunc(openings, func(a, b Opening) int { return a.From.Compare(b.From) })
	var joined []Opening
	for _, o := range openings {
		if n := len(joined) - 1; n >= 0 && !o.From.After(joined[n].To) {
			joined[n].To = later(joined[n].To, o.To)
			continue
		}
		joined = append(joined, o)
	}
	return joined
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
