package schedule

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return v
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	require.NoError(t, err)
	return z
}

func cron(t *testing.T, text string) Cron {
	t.Helper()
	c, err := ParseCron(text)
	require.NoError(t, err)
	return c
}

func TestParseCron(t *testing.T) {
	for text, want := range map[string]string{
		"0 2 * * *":           "0 2 * * *",
		" 0  4 * *  sun ":     "0 4 * * 0",
		"0 4 * * 7":           "0 4 * * 0",
		"0 4 * * 5-7":         "0 4 * * 0,5-6",
		"0 4 * * */7":         "0 4 * * 0",
		"*/15 8-18 * * 1-5":   "0,15,30,45 8-18 * * 1-5",
		"0-59 * * * *":        "* * * * *",
		"5,4,3 0 1 JAN,jul *": "3-5 0 1 1,7 *",
		"10-50/20 0 * * *":    "10,30,50 0 * * *",
		"0 3 1 * mon":         "0 3 1 * * or 0 3 * * 1",
		"0 3 */2 * 1":         "0 3 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * 1",
		"0 0 29 2 *":          "0 0 29 2 *",
		"0 0 31 2 1":          "0 0 31 2 * or 0 0 * 2 1",
	} {
		require.Equal(t, want, cron(t, text).String(), text)
	}
	require.Equal(t, cron(t, "0 2 * * *"), At(2))
	require.Equal(t, cron(t, "0 4 * * 0,3"), At(4, time.Sunday, time.Wednesday))
	for text, want := range map[string]string{
		"":                  "must have five parts",
		"0 2 * *":           "must have five parts",
		"0 0 2 * * *":       "must have five parts",
		"@daily":            "must have five parts",
		"60 2 * * *":        `the minute "60"; it is *, a number from 0 to 59`,
		"0 24 * * *":        `the hour "24"`,
		"0 2 0 * *":         `the day of the month "0"`,
		"0 2 * 13 *":        `the month "13"`,
		"0 2 * * 8":         `the day of the week "8"`,
		"0 2 * * monday":    `the day of the week "monday"`,
		"0 5-2 * * *":       `the hour "5-2"`,
		"0 2/3 * * *":       `the hour "2/3"`,
		"*/0 2 * * *":       `the minute "*/0"`,
		"0, 2 * * *":        `the minute ""`,
		"+1 2 * * *":        `the minute "+1"`,
		"0 2 30 2 *":        "names a day that no month of it has",
		"0 2 31 4,6,9 *":    "names a day that no month of it has",
		"999999999 * * * *": `the minute "999999999"`,
	} {
		_, err := ParseCron(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestStarts(t *testing.T) {
	for _, c := range []struct {
		name, cron, zone, from, to string
		want                       []string
	}{
		{"every day", "30 2 * * *", "UTC", "2026-11-25T02:30:00Z", "2026-11-27T02:30:00Z", []string{"2026-11-25T02:30:00Z", "2026-11-26T02:30:00Z"}},
		{"begins after a part of a minute", "30 2 * * *", "UTC", "2026-11-25T02:30:01Z", "2026-11-27T00:00:00Z", []string{"2026-11-26T02:30:00Z"}},
		{"the first of the month or a Monday", "0 3 1 * 1", "UTC", "2026-11-28T00:00:00Z", "2026-12-08T00:00:00Z", []string{"2026-11-30T03:00:00Z", "2026-12-01T03:00:00Z", "2026-12-07T03:00:00Z"}},
		{"in a zone of half an hour", "0 2 * * *", "Asia/Kolkata", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z", []string{"2026-11-25T20:30:00Z"}},
		{"the clock jumps over it", "0 2 * * *", "Europe/Berlin", "2027-03-27T00:00:00Z", "2027-03-30T00:00:00Z", []string{"2027-03-27T01:00:00Z", "2027-03-29T00:00:00Z"}},
		{"the clock shows it twice", "30 2 * * *", "Europe/Berlin", "2027-10-30T22:00:00Z", "2027-10-31T22:00:00Z", []string{"2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z"}},
		{"a day without a midnight", "0 1 * * *", "Africa/Cairo", "2027-04-29T12:00:00Z", "2027-05-01T12:00:00Z", []string{"2027-04-29T22:00:00Z", "2027-04-30T22:00:00Z"}},
		{"a leap day", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for s := range cron(t, c.cron).Starts(zone(t, c.zone), at(t, c.from), at(t, c.to)) {
				got = append(got, s.UTC().Format(time.RFC3339))
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestJumped(t *testing.T) {
	from := at(t, "2026-11-25T00:00:00Z")
	day, jumped := cron(t, "0 2 * * *").Jumped(zone(t, "Europe/Berlin"), from, from.Add(Ahead))
	require.True(t, jumped)
	require.Equal(t, "2027-03-28", day.Format(time.DateOnly))
	for text, name := range map[string]string{"0 2 * * *": "UTC", "0 4 * * *": "Europe/Berlin", "0 2,4 * * *": "Europe/Berlin", "0 2 * * 1": "Europe/Berlin", "0 * * * *": "Europe/Berlin"} {
		_, jumped := cron(t, text).Jumped(zone(t, name), from, from.Add(Ahead))
		require.False(t, jumped, "%s in %s", text, name)
	}
}

func TestSetAndRanges(t *testing.T) {
	s := Set(0).With(1, 3, 1).With(5, 5, 0).With(60, 99, 1)
	require.Equal(t, []Range{{1, 3}, {5, 5}, {60, 63}}, s.Ranges())
	require.False(t, s.Has(4))
	require.Empty(t, Set(0).Ranges())
}

func FuzzParseCron(f *testing.F) {
	f.Add("*/15 8-18 1,15 jan mon-fri")
	f.Add("0 3 1 * 1")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCron(text)
		if err != nil {
			return
		}
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for range c.Starts(time.UTC, from, from.AddDate(45, 0, 0)) {
			return
		}
		require.Fail(t, "what is accepted begins some day", "%q", text)
	})
}
