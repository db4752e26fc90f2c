package calendar_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/calendar"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return v
}

func clock(t *testing.T, text string) calendar.Clock {
	t.Helper()
	c, err := calendar.ParseClock(text)
	require.NoError(t, err)
	return c
}

func window(t *testing.T, from, to string, days ...time.Weekday) calendar.Window {
	t.Helper()
	return calendar.Window{Days: days, From: clock(t, from), To: clock(t, to)}
}

func TestOpenings(t *testing.T) {
	const berlin = "Europe/Berlin"
	for _, c := range []struct {
		name     string
		calendar calendar.Calendar
		now      string
		want     [][2]string
	}{
		{"no calendar", calendar.Calendar{}, "2026-11-24T12:00:00Z", nil},
		{"every night", calendar.Calendar{Windows: []calendar.Window{window(t, "02:00", "04:00")}}, "2026-11-24T12:00:00Z",
			[][2]string{{"2026-11-25T02:00:00Z", "2026-11-25T04:00:00Z"}, {"2026-11-26T02:00:00Z", "2026-11-26T04:00:00Z"}}},
		{"in the middle of one", calendar.Calendar{Windows: []calendar.Window{window(t, "02:00", "04:00", time.Tuesday)}}, "2026-11-24T03:00:00Z",
			[][2]string{{"2026-11-24T02:00:00Z", "2026-11-24T04:00:00Z"}, {"2026-12-01T02:00:00Z", "2026-12-01T04:00:00Z"}}},
		{"at the end of one", calendar.Calendar{Windows: []calendar.Window{window(t, "02:00", "04:00", time.Tuesday)}}, "2026-11-24T04:00:00Z",
			[][2]string{{"2026-12-01T02:00:00Z", "2026-12-01T04:00:00Z"}, {"2026-12-08T02:00:00Z", "2026-12-08T04:00:00Z"}}},
		{"over midnight, begun yesterday", calendar.Calendar{Windows: []calendar.Window{window(t, "22:00", "03:00", time.Monday)}}, "2026-11-24T01:00:00Z",
			[][2]string{{"2026-11-23T22:00:00Z", "2026-11-24T03:00:00Z"}, {"2026-11-30T22:00:00Z", "2026-12-01T03:00:00Z"}}},
		{"two that touch are one", calendar.Calendar{Windows: []calendar.Window{window(t, "22:00", "24:00", time.Tuesday), window(t, "00:00", "02:00", time.Wednesday)}}, "2026-11-24T12:00:00Z",
			[][2]string{{"2026-11-24T22:00:00Z", "2026-11-25T02:00:00Z"}, {"2026-12-01T22:00:00Z", "2026-12-02T02:00:00Z"}}},
		{"in a zone, when clocks go back", calendar.Calendar{Zone: berlin, Windows: []calendar.Window{window(t, "01:00", "04:00")}}, "2026-10-25T12:00:00Z",
			[][2]string{{"2026-10-26T00:00:00Z", "2026-10-26T03:00:00Z"}, {"2026-10-27T00:00:00Z", "2026-10-27T03:00:00Z"}}},
		{"in a zone, the night itself is an hour longer", calendar.Calendar{Zone: berlin, Windows: []calendar.Window{window(t, "01:00", "04:00", time.Sunday)}}, "2026-10-24T12:00:00Z",
			[][2]string{{"2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z"}, {"2026-11-01T00:00:00Z", "2026-11-01T03:00:00Z"}}},
		{"a freeze cuts a window", calendar.Calendar{Windows: []calendar.Window{window(t, "02:00", "06:00", time.Tuesday)},
			Freezes: []calendar.Freeze{{From: at(t, "2026-12-01T03:00:00Z"), To: at(t, "2026-12-01T04:00:00Z")}}}, "2026-11-24T12:00:00Z",
			[][2]string{{"2026-12-01T02:00:00Z", "2026-12-01T03:00:00Z"}, {"2026-12-01T04:00:00Z", "2026-12-01T06:00:00Z"}}},
		{"a long freeze", calendar.Calendar{Windows: []calendar.Window{window(t, "02:00", "06:00", time.Tuesday)},
			Freezes: []calendar.Freeze{{From: at(t, "2026-11-01T00:00:00Z"), To: at(t, "2028-01-04T03:00:00Z")}}}, "2026-11-24T12:00:00Z",
			[][2]string{{"2028-01-04T03:00:00Z", "2028-01-04T06:00:00Z"}, {"2028-01-11T02:00:00Z", "2028-01-11T06:00:00Z"}}},
		{"only a freeze", calendar.Calendar{Freezes: []calendar.Freeze{{From: at(t, "2026-11-25T00:00:00Z"), To: at(t, "2026-11-26T00:00:00Z")}}}, "2026-11-24T12:00:00Z",
			[][2]string{{"2026-11-24T12:00:00Z", "2026-11-25T00:00:00Z"}, {"2026-11-26T00:00:00Z", ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.calendar.Openings(at(t, c.now), 2)
			require.NoError(t, err)
			require.Len(t, got, len(c.want))
			for i, w := range c.want {
				require.Equal(t, w[0], got[i].From.UTC().Format(time.RFC3339))
				if w[1] != "" {
					require.Equal(t, w[1], got[i].To.UTC().Format(time.RFC3339))
				}
			}
		})
	}
}

func TestUnknownZone(t *testing.T) {
	_, err := calendar.Calendar{Zone: "Mars/Olympus", Windows: []calendar.Window{{To: 60}}}.Openings(time.Now(), 1)
	require.ErrorContains(t, err, "Mars/Olympus")
}

func TestParseClock(t *testing.T) {
	for text, want := range map[string]calendar.Clock{"00:00": 0, "02:30": 150, "23:59": 1439, "24:00": 1440} {
		require.Equal(t, want, clock(t, text))
	}
	for _, text := range []string{"", "2:30", "24:01", "02:60", "02:30:00", " 2:30", "02.30"} {
		_, err := calendar.ParseClock(text)
		require.Error(t, err, text)
	}
}

// TestOpeningsAgreeWithTheirDefinition asks of random moments whether work may begin, and holds the
// openings against it.
func TestOpeningsAgreeWithTheirDefinition(t *testing.T) {
	zone, err := time.LoadLocation("America/New_York")
	require.NoError(t, err)
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 3))
		now := time.Date(2026, 1, 1, 0, random.IntN(365*24*60), 0, 0, time.UTC)
		c := calendar.Calendar{Zone: zone.String()}
		for range 1 + random.IntN(3) {
			w := calendar.Window{From: calendar.Clock(random.IntN(24 * 60)), To: calendar.Clock(random.IntN(24*60 + 1))}
			for range random.IntN(3) {
				w.Days = append(w.Days, time.Weekday(random.IntN(7)))
			}
			c.Windows = append(c.Windows, w)
		}
		for range random.IntN(3) {
			from := now.Add(time.Duration(random.IntN(20*24)) * time.Hour)
			c.Freezes = append(c.Freezes, calendar.Freeze{From: from, To: from.Add(time.Duration(1+random.IntN(100)) * time.Hour)})
		}
		openings, err := c.Openings(now, 1000)
		require.NoError(t, err)
		require.NotEmpty(t, openings)
		for i, o := range openings {
			require.True(t, o.From.Before(o.To))
			require.True(t, i == 0 || openings[i-1].To.Before(o.From))
		}
		for range 200 {
			moment := now.Add(time.Duration(random.IntN(14*24*60)) * time.Minute)
			in := false
			for _, o := range openings {
				in = in || !moment.Before(o.From) && moment.Before(o.To)
			}
			require.Equal(t, mayBegin(c, moment.In(zone)), in, "seed %d, %s, %+v", seed, moment.In(zone), c)
		}
	}
}

// mayBegin is the definition, of a moment's own clock.
func mayBegin(c calendar.Calendar, moment time.Time) bool {
	for _, f := range c.Freezes {
		if !moment.Before(f.From) && moment.Before(f.To) {
			return false
		}
	}
	for _, w := range c.Windows {
		on := func(day time.Time) bool {
			for _, d := range w.Days {
				if d == day.Weekday() {
					return true
				}
			}
			return len(w.Days) == 0
		}
		minute := calendar.Clock(moment.Hour()*60 + moment.Minute())
		if w.To > w.From {
			if on(moment) && minute >= w.From && minute < w.To {
				return true
			}
			continue
		}
		if on(moment) && minute >= w.From || on(moment.AddDate(0, 0, -1)) && minute < w.To {
			return true
		}
	}
	return false
}
