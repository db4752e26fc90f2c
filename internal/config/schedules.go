package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/schedule"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

const (
	maxSchedules = 20
	// catchUp is how late a start is made up for: a night's work is not for the next noon.
	catchUp    = 6 * time.Hour
	minCatchUp = 10 * time.Second // Temporal takes less for this
	maxCatchUp = 7 * 24 * time.Hour
	maxJitter  = 12 * time.Hour
	// anyPort is PostgreSQL's port where a URL has none.
	anyPort = "5432"
)

// usual are the schedules of a target that says nothing of them: a nightly backup and a weekly drill of its
// database, a review of the access to its namespace each month, the updates of its repositories, the graver
// the oftener, and the rotation of its secrets. All begin at hours apart.
func usual(t Target) (all []schedule.Schedule) {
	add := func(name, procedure, input string, cron schedule.Cron) {
		s := blank(t)
		s.Name, s.Procedure, s.Input, s.Cron = name, procedure, json.RawMessage(input), cron
		all = append(all, s)
	}
	if t.HasDatabase() {
		add("nightly-backup", backupdatabase.WorkflowType, "{}", schedule.At(2))
		add("weekly-drill", drillrecovery.WorkflowType, "{}", schedule.At(4, time.Sunday))
	}
	if t.Kubernetes.Namespace != "" {
		add("monthly-access-review", reviewaccess.WorkflowType, `{"baseline":"compare"}`, must("0 9 1 * *"))
	}
	if len(t.Repositories) > 0 {
		add("daily-security-updates", updatedependencies.WorkflowType, `{"type":"security"}`, schedule.At(5))
		add("weekly-patches", updatedependencies.WorkflowType, `{"type":"patch"}`, schedule.At(6, time.Monday))
		add("monthly-minor-updates", updatedependencies.WorkflowType, `{"type":"minor"}`, must("0 7 1 * *"))
		add("quarterly-major-updates", updatedependencies.WorkflowType, `{"type":"major","dryRun":true}`, must("0 8 1 */3 *"))
	}
	for _, e := range t.Secrets { // each asks before it changes anything
		add("quarterly-rotation-"+e.Name, rotatesecret.WorkflowType, `{"secret":"`+e.Name+`"}`, must("0 10 1 */3 *"))
	}
	return all
}

// must reads a line of our own.
func must(line string) schedule.Cron {
	c, err := schedule.ParseCron(line)
	if err != nil {
		panic(err)
	}
	return c
}

// schedules reads what begins by itself.
func (p *parser) schedules(n *yaml.Node, t Target) []schedule.Schedule {
	if n == nil {
		return usual(t)
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) > maxSchedules {
		p.fail(n, "schedules must be a list of at most %d; [] means none, and leaving it out a nightly backup and a weekly drill", maxSchedules)
		return nil
	}
	all := []schedule.Schedule{}
	for _, item := range n.Content {
		s := p.schedule(item, t)
		if slices.ContainsFunc(all, func(o schedule.Schedule) bool { return o.Name == s.Name && s.Name != "" }) {
			p.fail(item, "there are two schedules named %q", s.Name)
		}
		all = append(all, s)
	}
	return all
}

// blank is a schedule with what is left out. A start is skipped while the run before goes on: it would
// begin at an hour that nobody chose, and do what has just been done.
func blank(t Target) schedule.Schedule {
	s := schedule.Schedule{Target: t.Name, Zone: t.Calendar.Zone, Input: json.RawMessage("{}"), Overlap: schedule.Skip, CatchUp: catchUp}
	if s.Zone == "" {
		s.Zone = "UTC"
	}
	return s
}

func (p *parser) schedule(n *yaml.Node, t Target) schedule.Schedule {
	s := blank(t)
	var zone, overlap string
	var input *yaml.Node
	p.fields(n, "a schedule", map[string]func(*yaml.Node){
		"name":      p.text(&s.Name, "a schedule's name", checkWord),
		"procedure": p.text(&s.Procedure, "a schedule's procedure", checkProcedure),
		"cron": func(n *yaml.Node) {
			if n.Kind != yaml.ScalarNode {
				p.fail(n, "a schedule's cron must be a text")
				return
			}
			var err error
			if s.Cron, err = schedule.ParseCron(n.Value); err != nil {
				p.fail(n, "a schedule's cron %v", err)
			}
		},
		"zone":    p.text(&zone, "a schedule's zone", checkZone),
		"input":   func(n *yaml.Node) { input = n },
		"overlap": p.text(&overlap, "a schedule's overlap", oneOf(schedule.Overlaps)),
		"catchUp": p.duration(&s.CatchUp, "a schedule's catchUp", minCatchUp, maxCatchUp),
		"jitter":  p.duration(&s.Jitter, "a schedule's jitter", 0, maxJitter),
		"paused":  p.flag(&s.Paused, "a schedule's paused"),
	}, "name", "procedure", "cron")
	if zone != "" {
		s.Zone = zone
	}
	if overlap != "" {
		s.Overlap = schedule.Overlap(overlap)
	}
	if input != nil && s.Procedure != "" { // after the procedure, which says what there is
		s.Input = p.input(input, s.Procedure)
	}
	return s
}

// input reads the input of a schedule's runs as a run does: a mistake is found now, not at night.
func (p *parser) input(n *yaml.Node, procedure string) json.RawMessage {
	all := procedures.All()
	i := slices.IndexFunc(all, func(o procedures.Procedure) bool { return o.Name == procedure })
	said := make(map[string]any)
	known := make(map[string]func(*yaml.Node))
	for field := range strictjson.Fields(all[i].NewInput()) {
		known[field] = func(n *yaml.Node) {
			var value any
			err := n.Decode(&value)
			var data []byte
			if err == nil {
				data, err = json.Marshal(map[string]any{field: value})
			}
			if err == nil {
				err = strictjson.Decode(data, all[i].NewInput())
			}
			if f, ok := failure.As(err); ok {
				p.fail(n, "input: %s", f.What)
			} else if err != nil {
				p.fail(n, "input: the value of %q cannot be written as JSON", field)
			}
			said[field] = value
		}
	}
	known["target"] = func(n *yaml.Node) {
		p.fail(n, "input needs no target: it is the one that the schedule stands under")
	}
	wrong := len(p.wrong)
	p.fields(n, "input", known)
	if len(p.wrong) > wrong {
		return nil
	}
	data, err := json.Marshal(said)
	if err != nil {
		p.fail(n, "input cannot be written as JSON")
	}
	return data
}

// apart checks that no schedule of a target has the id of another target's: the names of a-b and c are
// those of a and b-c when they are written together.
func (p *parser) apart(n *yaml.Node, others []Target, t Target) {
	ids := make(map[string]schedule.Mark)
	for _, o := range others {
		for _, s := range o.Schedules {
			ids[s.Mark().ID()] = s.Mark()
		}
	}
	for _, s := range t.Schedules {
		if other, taken := ids[s.Mark().ID()]; taken && other.Target != t.Name {
			p.fail(n, "the schedules %s and %s would both be %s in Temporal; give one another name", other, s.Mark(), s.Mark().ID())
		}
	}
}

func (p *parser) duration(into *time.Duration, what string, low, high time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || d < low || d > high {
			p.fail(n, "%s must be a duration such as 90m, from %s to %s", what, schedule.Duration(low), schedule.Duration(high))
			return
		}
		*into = d
	}
}

func checkProcedure(v string) string {
	var names []string
	for _, p := range procedures.All() {
		names = append(names, p.Name)
	}
	return oneOf(names)(v)
}

// oneOf checks that a text is one of some.
func oneOf(known []string) func(string) string {
	return func(v string) string {
		if slices.Contains(known, v) {
			return ""
		}
		hint := "use one of: " + strings.Join(known, ", ")
		if near := strictjson.Nearest(v, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return fmt.Sprintf("cannot be %.60q; %s", v, hint)
	}
}

// Server is the host and port that the database is on, as its URL has them.
func (d Database) Server() string {
	u, err := url.Parse(d.URL)
	if err != nil {
		return "" // checked when it was read
	}
	host, port := u.Hostname(), u.Port()
	if h := u.Query().Get("host"); h != "" {
		host = h
	}
	if p := u.Query().Get("port"); p != "" {
		port = p
	}
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = anyPort
	}
	return strings.ToLower(host) + ":" + port
}
