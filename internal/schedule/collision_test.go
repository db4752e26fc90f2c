package schedule

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCollisions(t *testing.T) {
	now := at(t, "2026-11-25T12:00:00Z") // a Wednesday
	with := func(name, line string, more ...func(*Timed)) Timed {
		timed := Timed{Mark: Mark{"shop", name}, Shares: "db:5432", Cron: cron(t, line), Zone: time.UTC}
		for _, f := range more {
			f(&timed)
		}
		return timed
	}
	in := func(name string) func(*Timed) { return func(x *Timed) { x.Zone = zone(t, name) } }
	late := func(d time.Duration) func(*Timed) { return func(x *Timed) { x.Jitter = d } }
	on := func(server string) func(*Timed) { return func(x *Timed) { x.Shares = server } }
	of := func(target string) func(*Timed) { return func(x *Timed) { x.Mark.Target = target } }
	type seen struct {
		at    string
		names []string
	}
	for _, c := range []struct {
		name string
		all  []Timed
		want []seen
	}{
		{name: "none", all: nil},
		{name: "one alone, however often", all: []Timed{with("a", "* * * * *")}},
		{name: "the defaults", all: []Timed{with("nightly-backup", "0 2 * * *"), with("weekly-drill", "0 4 * * 0")}},
		{name: "the guide's Mondays", all: []Timed{with("a", "0 2 * * *"), with("b", "0 2 * * 1")}, want: []seen{{"2026-11-30T02:00:00Z", []string{"a", "b"}}}},
		{name: "the guide's firsts of the month", all: []Timed{with("a", "0 3 * * 0"), with("b", "0 3 1 * *")}, want: []seen{{"2027-08-01T03:00:00Z", []string{"a", "b"}}}},
		{name: "ten minutes apart", all: []Timed{with("a", "0 2 * * *"), with("b", "10 2 * * *")}, want: []seen{{"2026-11-26T02:00:00Z", []string{"a", "b"}}}},
		{name: "eleven minutes apart", all: []Timed{with("a", "0 2 * * *"), with("b", "11 2 * * *")}},
		{name: "around midnight", all: []Timed{with("a", "2 0 * * *"), with("b", "55 23 * * *")}, want: []seen{{"2026-11-25T23:55:00Z", []string{"b", "a"}}}},
		{name: "late by the jitter", all: []Timed{with("a", "0 2 * * *", late(30*time.Minute)), with("b", "40 2 * * *")}, want: []seen{{"2026-11-26T02:00:00Z", []string{"a", "b"}}}},
		{name: "the jitter of the later one", all: []Timed{with("a", "0 2 * * *"), with("b", "40 2 * * *", late(30*time.Minute))}},
		{name: "only when the clocks differ", all: []Timed{with("a", "30 2 * * *", in("Europe/Berlin")), with("b", "30 0 * * *")}, want: []seen{{"2027-03-29T00:30:00Z", []string{"a", "b"}}}},
		{name: "on another server", all: []Timed{with("a", "0 2 * * *"), with("b", "0 2 * * *", on("other:5432"))}},
		{name: "of two targets on one server", all: []Timed{with("a", "0 2 * * *"), with("a", "0 2 * * *", of("till"))}, want: []seen{{"2026-11-26T02:00:00Z", []string{"a", "a"}}}},
		{name: "many at once are one", all: []Timed{with("a", "0 2 * * *"), with("b", "0 2 * * *"), with("c", "5 2 * * *"), with("d", "0 2 * * 1")}, want: []seen{
			{"2026-11-26T02:00:00Z", []string{"a", "b", "c"}}, {"2026-11-30T02:00:00Z", []string{"a", "b", "d", "c"}}}},
		{name: "later than is looked ahead", all: []Timed{with("a", "0 0 29 2 *"), with("b", "0 0 28-29 2 *")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []seen
			for _, found := range Collisions(c.all, now) {
				s := seen{at: found.At.UTC().Format(time.RFC3339)}
				for _, m := range found.Of {
					s.names = append(s.names, m.Name)
				}
				got = append(got, s)
			}
			require.Equal(t, c.want, got)
		})
	}
}
