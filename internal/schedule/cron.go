package schedule

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Set is a set of numbers from 0 to 63, such as the minutes of an hour.
type Set uint64

// With is the set with the numbers from low to high, in steps.
func (s Set) With(low, high, step int) Set {
	for n := max(low, 0); n <= min(high, 63); n += max(step, 1) {
		s |= 1 << n
	}
	return s
}

// Has reports whether the number is in the set.
func (s Set) Has(n int) bool { return s&(1<<n) != 0 }

// Range is the numbers from From to To.
type Range struct{ From, To int }

// Ranges is the set as the fewest ranges, in order.
func (s Set) Ranges() (all []Range) {
	for n := range 64 {
		switch last := len(all) - 1; {
		case !s.Has(n):
		case last >= 0 && all[last].To == n-1:
			all[last].To = n
		default:
			all = append(all, Range{n, n})
		}
	}
	return all
}

// Calendar matches the minutes of which every part is in its set, as Temporal's calendars do.
type Calendar struct{ Minute, Hour, Day, Month, Weekday Set }

// Cron is when something begins: in every minute that one of its calendars matches.
type Cron []Calendar

// part is one of the five parts of a cron line.
type part struct {
	what      string
	low, high int
	names     []string // of low and what follows
}

var parts = [5]part{
	{what: "minute", high: 59},
	{what: "hour", high: 23},
	{what: "day of the month", low: 1, high: 31},
	{what: "month", low: 1, high: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{what: "day of the week", high: 6, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// longest is how many days the months have at most.
var longest = [12]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// maxCron bounds a cron line, in bytes.
const maxCron = 200

// ParseCron reads a cron line of five parts, as crontab(5) describes them. Where both the day of the
// month and the day of the week are given, either is enough: Temporal alone would want both.
func ParseCron(text string) (Cron, error) {
	words := strings.Fields(text)
	if len(words) != len(parts) || len(text) > maxCron {
		return nil, errors.New(`must have five parts, as in "30 2 * * 0": minute, hour, day of the month, month, day of the week`)
	}
	var sets [len(parts)]Set
	for i, w := range words {
		var err error
		if sets[i], err = parts[i].parse(w); err != nil {
			return nil, err
		}
	}
	both := Calendar{sets[0], sets[1], sets[2], sets[3], sets[4]}
	cron := Cron{both}
	if words[2][0] != '*' && words[4][0] != '*' {
		byDay, byWeekday := both, both
		byDay.Weekday, byWeekday.Day = parts[4].all(), parts[2].all()
		cron = Cron{byDay, byWeekday}
	}
	if !slices.ContainsFunc(cron, Calendar.happens) {
		return nil, errors.New("names a day that no month of it has")
	}
	return cron, nil
}

// At is at an hour of some days of the week; of every day when none is given.
func At(hour int, weekdays ...time.Weekday) Cron {
	c := Calendar{Minute: Set(0).With(0, 0, 1), Hour: Set(0).With(hour, hour, 1), Day: parts[2].all(), Month: parts[3].all(), Weekday: parts[4].all()}
	if len(weekdays) > 0 {
		c.Weekday = 0
	}
	for _, d := range weekdays {
		c.Weekday = c.Weekday.With(int(d), int(d), 1)
	}
	return Cron{c}
}

func (p part) all() Set { return Set(0).With(p.low, p.high, 1) }

func (p part) parse(text string) (Set, error) {
	var set Set
	for _, item := range strings.Split(text, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		low, high, step := p.low, p.high, 1
		ok := true
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			low, ok = p.number(from)
			if high = low; ranged {
				var known bool
				high, known = p.number(to)
				ok = ok && known && low <= high
			}
			ok = ok && (ranged || !stepped)
		}
		if stepped {
			n, err := strconv.ParseUint(stepText, 10, 8)
			step = int(n)
			ok = ok && err == nil && n > 0
		}
		if !ok {
			return 0, fmt.Errorf("has the %s %.40q; it is *, a number from %d to %d, a range such as %d-%d, a step such as */2, or several with commas between",
				p.what, item, p.low, p.high, p.low, p.high)
		}
		set = set.With(low, high, step)
	}
	if p.high == 6 && set.Has(7) { // Sunday too
		set = set&^(1<<7) | 1
	}
	return set, nil
}

// number reads one number or name.
func (p part) number(text string) (int, bool) {
	if i := slices.Index(p.names, strings.ToLower(text)); i >= 0 {
		return p.low + i, true
	}
	n, err := strconv.ParseUint(text, 10, 8)
	high := p.high
	if high == 6 {
		high = 7
	}
	return int(n), err == nil && int(n) >= p.low && int(n) <= high
}

// happens reports whether there is a day that the calendar matches.
func (c Calendar) happens() bool {
	for month, days := range longest {
		if c.Month.Has(month+1) && c.Day&Set(0).With(1, days, 1) != 0 {
			return true
		}
	}
	return false
}

// String writes the calendar as a cron line; equal calendars are written equally.
func (c Calendar) String() string {
	words := make([]string, len(parts))
	for i, set := range []Set{c.Minute, c.Hour, c.Day, c.Month, c.Weekday} {
		if set == parts[i].all() {
			words[i] = "*"
			continue
		}
		var ranges []string
		for _, r := range set.Ranges() {
			text := strconv.Itoa(r.From)
			if r.To > r.From {
				text += "-" + strconv.Itoa(r.To)
			}
			ranges = append(ranges, text)
		}
		words[i] = strings.Join(ranges, ",")
	}
	return strings.Join(words, " ")
}

func (c Cron) String() string {
	lines := make([]string, len(c))
	for i, k := range c {
		lines[i] = k.String()
	}
	return strings.Join(lines, " or ")
}

func (c Calendar) day(t time.Time) bool {
	return c.Month.Has(int(t.Month())) && c.Day.Has(t.Day()) && c.Weekday.Has(int(t.Weekday()))
}

func (c Calendar) hour(t time.Time) bool { return c.day(t) && c.Hour.Has(t.Hour()) }

func (c Calendar) minute(t time.Time) bool { return c.hour(t) && c.Minute.Has(t.Minute()) }

func (c Cron) any(matches func(Calendar, time.Time) bool, t time.Time) bool {
	return slices.ContainsFunc(c, func(k Calendar) bool { return matches(k, t) })
}

// Starts are the moments from one on, before another, at which it begins, in order. They are found as
// Temporal finds them, by what the clock of the zone shows: a time that it jumps over does not begin,
// one that it shows twice begins twice.
func (c Cron) Starts(zone *time.Location, from, before time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		t := from.Truncate(time.Minute)
		if t.Before(from) {
			t = t.Add(time.Minute)
		}
		for t.Before(before) {
			shown := t.In(zone)
			if !c.any(Calendar.hour, shown) {
				t = t.Add(time.Duration(60-shown.Minute()) * time.Minute)
				continue
			}
			if c.any(Calendar.minute, shown) && !yield(shown) {
				return
			}
			t = t.Add(time.Minute)
		}
	}
}

// Jumped is the first day after one moment and before another on which it should begin and does not,
// because the clock of the zone jumps over its times.
func (c Cron) Jumped(zone *time.Location, from, before time.Time) (time.Time, bool) {
	start := from.In(zone)
	// At noon, because not every day has a midnight.
	for n := 1; ; n++ {
		day := time.Date(start.Year(), start.Month(), start.Day()+n, 12, 0, 0, 0, zone)
		if !day.Before(before) {
			return time.Time{}, false
		}
		if c.any(Calendar.day, day) && !c.any(Calendar.shown, day) {
			return day, true
		}
	}
}

// shown reports whether the clock shows one of the calendar's times on a day.
func (c Calendar) shown(day time.Time) bool {
	if !c.day(day) {
		return false
	}
	for _, hours := range c.Hour.Ranges() {
		for hour := hours.From; hour <= hours.To; hour++ {
			for _, minutes := range c.Minute.Ranges() {
				for minute := minutes.From; minute <= minutes.To; minute++ {
					if time.Date(day.Year(), day.Month(), day.Day(), hour, minute, 0, 0, day.Location()).Hour() == hour {
						return true
					}
				}
			}
		}
	}
	return false
}
