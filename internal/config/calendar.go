package config

import (
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on machines without them too

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/calendar"
)

const (
	maxWindows = 50
	maxFreezes = 50
	// maxFreeze bounds how far a freeze reaches.
	maxFreeze = 10 * 366 * 24 * time.Hour
	maxWhy    = 200
)

// weekdays are the names of days, as calendars write them.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// calendar reads when work may begin that others would notice.
func (p *parser) calendar(n *yaml.Node) calendar.Calendar {
	var c calendar.Calendar
	var freezes []*yaml.Node
	p.fields(n, "calendar", map[string]func(*yaml.Node){
		"zone": p.text(&c.Zone, "calendar.zone", checkZone),
		"windows": func(n *yaml.Node) {
			for _, w := range p.list(n, "calendar.windows", maxWindows) {
				c.Windows = append(c.Windows, p.window(w))
			}
		},
		"freezes": func(n *yaml.Node) { freezes = p.list(n, "calendar.freezes", maxFreezes) },
	})
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		return c // said already
	}
	for _, f := range freezes { // after the zone, which their dates are in
		c.Freezes = append(c.Freezes, p.freeze(f, zone))
	}
	return c
}

func (p *parser) window(n *yaml.Node) calendar.Window {
	var w calendar.Window
	clock := func(into *calendar.Clock, what string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			var err error
			if *into, err = calendar.ParseClock(n.Value); err != nil || n.Kind != yaml.ScalarNode {
				p.fail(n, "%s must be a time of day such as \"02:30\"", what)
			}
		}
	}
	p.fields(n, "a window", map[string]func(*yaml.Node){
		"days": func(n *yaml.Node) {
			for _, d := range p.list(n, "a window's days", len(weekdays)) {
				day := slices.Index(weekdays, strings.ToLower(d.Value))
				if day < 0 {
					p.fail(d, "%.20q is no day; use: %s", d.Value, strings.Join(weekdays, ", "))
					continue
				}
				w.Days = append(w.Days, time.Weekday(day))
			}
		},
		"from": clock(&w.From, "a window's from"),
		"to":   clock(&w.To, "a window's to"),
	}, "from", "to")
	return w
}

// freeze reads a freeze. A date is the whole day: a freeze from Monday to Tuesday ends as Wednesday begins.
func (p *parser) freeze(n *yaml.Node, zone *time.Location) calendar.Freeze {
	var f calendar.Freeze
	moment := func(into *time.Time, what string, days int) func(*yaml.Node) {
		return func(n *yaml.Node) {
			t, err := time.Parse(time.RFC3339, n.Value)
			if err != nil {
				if t, err = time.ParseInLocation(time.DateOnly, n.Value, zone); err == nil {
					t = t.AddDate(0, 0, days)
				}
			}
			if err != nil || n.Kind != yaml.ScalarNode {
				p.fail(n, "%s must be a date such as 2026-12-24, or a moment such as 2026-12-24T18:00:00Z", what)
				return
			}
			*into = t.UTC()
		}
	}
	p.fields(n, "a freeze", map[string]func(*yaml.Node){
		"from": moment(&f.From, "a freeze's from", 0),
		"to":   moment(&f.To, "a freeze's to", 1),
		"why": p.text(&f.Why, "a freeze's why", func(v string) string {
			if len(v) > maxWhy {
				return "is too long"
			}
			return ""
		}),
	}, "from", "to")
	if length := f.To.Sub(f.From); !f.From.IsZero() && !f.To.IsZero() && (length <= 0 || length > maxFreeze) {
		p.fail(n, "a freeze must end after it begins, within ten years")
	}
	return f
}

// list reads a list of at most so many.
func (p *parser) list(n *yaml.Node, what string, most int) []*yaml.Node {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > most {
		p.fail(n, "%s must be a list of one to %d", what, most)
		return nil
	}
	return n.Content
}

func checkZone(v string) string {
	if _, err := time.LoadLocation(v); err != nil || v == "Local" {
		return "must be a zone such as Europe/Berlin"
	}
	return ""
}
