package starter

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/schedule"
	"github.com/upkeep-run/upkeep/internal/version"
)

const (
	// maxTries is how often a schedule is brought to where it is wanted while others change it too.
	maxTries = 5
	// busyFor is how long a call is made again that the server is too busy for.
	busyFor = 10 * time.Second
	// foretold is how many of the next starts are told of a schedule that Temporal does not have so.
	foretold = 3
)

// ScheduleState is how a schedule stands to the configuration.
type ScheduleState string

// The states. The first are those of what was applied, or would be by a dry run; the others those of a list.
const (
	ScheduleCreated   ScheduleState = "created"
	ScheduleUpdated   ScheduleState = "updated"
	ScheduleUnchanged ScheduleState = "unchanged"
	ScheduleRemoved   ScheduleState = "removed"
	ScheduleLeftOver  ScheduleState = "leftOver" // the configuration has it no more
	ScheduleAgrees    ScheduleState = "agrees"
	ScheduleDiffers   ScheduleState = "differs"
	ScheduleMissing   ScheduleState = "missing" // Temporal does not have it yet
	ScheduleTaken     ScheduleState = "taken"   // somebody else's has its id
	ScheduleUnknown   ScheduleState = "unknown" // there is no configuration to hold it against
)

// Schedules are schedules, and what is odd about them.
type Schedules struct {
	Config    string      `json:"config"` // the file; empty when there is none
	DryRun    bool        `json:"dryRun,omitempty"`
	Schedules []Scheduled `json:"schedules"`
	Warnings  []string    `json:"warnings"`
}

// Scheduled is how a schedule stands.
type Scheduled struct {
	ID        string            `json:"id"`
	Target    string            `json:"target"`
	Name      string            `json:"name"`
	Procedure string            `json:"procedure"`
	Cron      string            `json:"cron"`
	Zone      string            `json:"zone"`
	State     ScheduleState     `json:"state"`
	Changes   []schedule.Change `json:"changes"` // what was updated, or differs
	Paused    bool              `json:"paused"`
	Note      string            `json:"note"`           // why it is paused, or where it is from
	Kept      bool              `json:"kept,omitempty"` // a person paused it or let it go on, and that stays
	Next      []time.Time       `json:"next"`
	Last      *LastRun          `json:"last,omitempty"`
	Running   int               `json:"running"` // runs of it that go on
	Skipped   int64             `json:"skipped"` // starts that were left out because the run before went on
	Missed    int64             `json:"missed"`  // starts that came too late to be made up for
}

// LastRun is the newest run that a schedule started.
type LastRun struct {
	RunID      string      `json:"runId"`
	StartedAt  time.Time   `json:"startedAt"`
	Outcome    run.Outcome `json:"outcome"` // empty when nothing is known of the run any more
	WaitingFor string      `json:"waitingFor,omitempty"`
}

// Application says how a configuration's schedules are applied.
type Application struct {
	Target string // only this one's; all when empty
	DryRun bool   // say what would be done and change nothing
	Remove bool   // remove what the configuration has no more
}

// wanted is a schedule of the configuration, with what Temporal has under its id.
type wanted struct {
	schedule.Wanted
	proto *schedulepb.Schedule
}

// found is a schedule that Temporal has.
type found struct {
	schedule.Found
	proto *schedulepb.Schedule
	info  *schedulepb.ScheduleInfo
	token []byte // of what was seen, so that an update does not write over what was not
}

// ApplySchedules makes Temporal have the schedules of a configuration. What is so already is left
// alone, and so is a pause that a person set, and what is not Upkeep's. It may be done twice, or
// beside another.
func (s *Starter) ApplySchedules(ctx context.Context, c *config.Config, o Application) (*Schedules, error) {
	all, err := wantedOf(c)
	if err != nil {
		return nil, err
	}
	if o.Target != "" {
		if _, err := c.Target(o.Target); err != nil {
			return nil, err
		}
	}
	answer := &Schedules{Config: c.Path, DryRun: o.DryRun, Schedules: []Scheduled{}, Warnings: []string{}}
	marks, err := s.marks(ctx, answer)
	if err != nil {
		return nil, err
	}
	var mine []wanted
	before := make(map[schedule.Mark]*found)
	for _, w := range all { // all are looked at before any is touched
		if o.Target != "" && w.Mark.Target != o.Target {
			continue
		}
		mine = append(mine, w)
		if before[w.Mark], err = s.findSchedule(ctx, w.Mark.ID()); err != nil {
			return nil, err
		}
		if decide(w, before[w.Mark]).Action == schedule.Refuse {
			return nil, taken(w.Mark)
		}
	}
	paused := make(map[schedule.Mark]bool)
	for _, w := range mine {
		has, decision := before[w.Mark], decide(w, before[w.Mark])
		if !o.DryRun {
			if has, decision, err = s.settle(ctx, w); err != nil {
				return nil, err
			}
		}
		paused[w.Mark] = decision.Paused
		answer.Schedules = append(answer.Schedules, applied(w, has, decision))
	}
	left, err := s.leftOver(ctx, marks, all, o)
	if err != nil {
		return nil, err
	}
	answer.Schedules = append(answer.Schedules, left...)
	var times []schedule.Timed
	for _, w := range all {
		isPaused, known := paused[w.Mark]
		if t, ok := timed(w.Mark, w.proto, shares(c, w.Mark)); ok && !isPaused && (known || !w.Paused) {
			times = append(times, t)
		}
	}
	answer.Warnings = append(answer.Warnings, warnings(times, o.Target, time.Now())...)
	return answer, nil
}

// leftOver tells of the schedules that the configuration has no more, and removes them where that is
// asked for.
func (s *Starter) leftOver(ctx context.Context, marks []schedule.Mark, all []wanted, o Application) (rows []Scheduled, err error) {
	for _, m := range marks {
		if slices.ContainsFunc(all, func(w wanted) bool { return w.Mark == m }) || o.Target != "" && m.Target != o.Target {
			continue
		}
		has, err := s.findSchedule(ctx, m.ID())
		if err != nil {
			return nil, err
		}
		if has == nil || has.Mark != m {
			continue // the list is older than this
		}
		row := about(m, has.proto, has)
		row.State = ScheduleLeftOver
		if o.Remove {
			row.State = ScheduleRemoved
			if !o.DryRun {
				err = s.removeSchedule(ctx, m)
			}
			if err != nil {
				return nil, err
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// ListSchedules tells how the schedules of Temporal stand, and whether a configuration agrees with
// them; c is nil when there is none.
func (s *Starter) ListSchedules(ctx context.Context, c *config.Config, target string) (*Schedules, error) {
	answer := &Schedules{Schedules: []Scheduled{}, Warnings: []string{}}
	marks, err := s.marks(ctx, answer)
	if err != nil {
		return nil, err
	}
	var all []wanted
	if c != nil {
		answer.Config = c.Path
		if all, err = wantedOf(c); err != nil {
			return nil, err
		}
	}
	for _, w := range all {
		if !slices.Contains(marks, w.Mark) {
			marks = append(marks, w.Mark)
		}
	}
	slices.SortFunc(marks, compare)
	var times []schedule.Timed
	for _, m := range marks {
		has, err := s.findSchedule(ctx, m.ID())
		if err != nil {
			return nil, err
		}
		if has != nil && has.Mark == m && !has.Paused {
			if t, ok := timed(m, has.proto, shares(c, m)); ok {
				times = append(times, t)
			}
		}
		if target != "" && m.Target != target {
			continue
		}
		if row, there := stands(m, has, all, c != nil); there {
			if has != nil && has.Mark == m {
				row.Last = s.last(ctx, has.info)
			}
			answer.Schedules = append(answer.Schedules, row)
		}
	}
	if c != nil && target != "" && len(answer.Schedules) == 0 {
		if _, err := c.Target(target); err != nil { // nobody has heard of it
			return nil, err
		}
	}
	answer.Warnings = append(answer.Warnings, warnings(times, target, time.Now())...)
	return answer, nil
}

// stands tells how a schedule stands to the configuration, where there is one; false when neither has
// it, because the list of Temporal was older than what it has.
func stands(m schedule.Mark, has *found, all []wanted, configured bool) (row Scheduled, there bool) {
	i := slices.IndexFunc(all, func(w wanted) bool { return w.Mark == m })
	mine := has != nil && has.Mark == m
	if mine {
		row = about(m, has.proto, has)
	}
	switch {
	case i < 0 && !mine:
		return row, false
	case i < 0 && configured:
		row.State = ScheduleLeftOver
	case i < 0:
		row.State = ScheduleUnknown
	case !mine:
		row = about(m, all[i].proto, nil)
		if row.State = ScheduleMissing; has != nil {
			row.State = ScheduleTaken
		}
	default:
		d := decide(all[i], has)
		row.Changes, row.Kept = append(row.Changes, d.Changes...), d.Kept
		if row.State = ScheduleAgrees; d.Action == schedule.Update {
			row.State = ScheduleDiffers
		}
	}
	return row, true
}

// wantedOf writes a configuration's schedules as Temporal shall have them.
func wantedOf(c *config.Config) ([]wanted, error) {
	var all []wanted
	note := fmt.Sprintf("%s, SHA-256 %s", schedule.NotePrefix, c.SHA256)
	for _, t := range c.Targets {
		for _, s := range t.Schedules {
			p, err := toTemporal(s)
			if err != nil {
				return nil, fmt.Errorf("schedule %s: %w", s.Mark(), err)
			}
			all = append(all, wanted{schedule.Wanted{Mark: s.Mark(), Fields: fieldsOf(p), Paused: s.Paused, Note: note}, p})
		}
	}
	return all, nil
}

func decide(w wanted, has *found) schedule.Decision {
	if has == nil {
		return schedule.Decide(w.Wanted, nil)
	}
	return schedule.Decide(w.Wanted, &has.Found)
}

// settle brings a schedule to where it is wanted, and returns how it is then and what was done. It
// looks again after each act: a pause or another apply may have come between, and some servers drop an
// update with an old conflict token without a word.
func (s *Starter) settle(ctx context.Context, w wanted) (*found, schedule.Decision, error) {
	var did schedule.Decision
	for range maxTries {
		has, err := s.findSchedule(ctx, w.Mark.ID())
		if err != nil {
			return nil, did, err
		}
		next := decide(w, has)
		switch next.Action {
		case schedule.Refuse:
			return nil, did, taken(w.Mark)
		case schedule.Nothing:
			if did.Action == "" {
				did = next
			}
			did.Paused, did.Note, did.Kept = next.Paused, next.Note, next.Kept
			return has, did, nil
		case schedule.Create:
			err = s.createSchedule(ctx, w, next)
		case schedule.Update:
			err = s.updateSchedule(ctx, w, has, next)
		}
		switch {
		case err == nil:
			if did.Action == "" {
				did = next
			}
		case !outrun(err):
			return nil, did, unreachable(err)
		}
	}
	return nil, did, failure.New(failure.StillFailing, "the schedule %s is not as it was written, %d times: somebody else changes it too", w.Mark.ID(), maxTries).
		Do("see who does, and apply again")
}

// outrun reports whether an act came to nothing because somebody else was faster.
func outrun(err error) bool {
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	var exists *serviceerror.AlreadyExists
	var changed *serviceerror.FailedPrecondition // the conflict token is old
	return isGone(err) || errors.As(err, &started) || errors.As(err, &exists) || errors.As(err, &changed)
}

func taken(m schedule.Mark) error {
	return failure.New(failure.ScheduleExists, "there is a schedule %s in Temporal that is not Upkeep's %s", m.ID(), m).
		Do("give yours another name in upkeep.yaml, or delete the other; nothing was changed")
}

// patient calls the server, and again while it is too busy: it takes few queries of one schedule at once.
func patient[Q, R, O any](ctx context.Context, call func(context.Context, Q, ...O) (R, error), request Q) (R, error) {
	for until, wait := time.Now().Add(busyFor), 50*time.Millisecond; ; wait *= 2 {
		r, err := call(ctx, request)
		var busy *serviceerror.ResourceExhausted
		if !errors.As(err, &busy) || time.Now().Add(wait).After(until) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, err
		case <-time.After(wait):
		}
	}
}

func identity() string { return "upkeep " + version.String() }

func (s *Starter) namespace() string { return cmp.Or(s.Namespace, client.DefaultNamespace) }

// findSchedule returns a schedule, or nil when there is none of that id.
func (s *Starter) findSchedule(ctx context.Context, id string) (*found, error) {
	r, err := patient(ctx, s.Client.WorkflowService().DescribeSchedule, &workflowservice.DescribeScheduleRequest{Namespace: s.namespace(), ScheduleId: id})
	switch {
	case isGone(err):
		return nil, nil
	case err != nil:
		return nil, unreachable(err)
	}
	p := r.GetSchedule()
	return &found{
		Found: schedule.Found{Mark: markOf(id, r.GetMemo()), Fields: fieldsOf(p), Paused: p.GetState().GetPaused(), Note: p.GetState().GetNotes()},
		proto: p, info: r.GetInfo(), token: r.GetConflictToken(),
	}, nil
}

func (s *Starter) createSchedule(ctx context.Context, w wanted, d schedule.Decision) error {
	mark, err := converter.GetDefaultDataConverter().ToPayload(w.Mark)
	if err != nil {
		return err
	}
	_, err = patient(ctx, s.Client.WorkflowService().CreateSchedule, &workflowservice.CreateScheduleRequest{
		Namespace: s.namespace(), ScheduleId: w.Mark.ID(), Schedule: w.in(d), Identity: identity(), RequestId: rand.Text(),
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoSchedule: mark}},
	})
	return err
}

func (s *Starter) updateSchedule(ctx context.Context, w wanted, has *found, d schedule.Decision) error {
	_, err := patient(ctx, s.Client.WorkflowService().UpdateSchedule, &workflowservice.UpdateScheduleRequest{
		Namespace: s.namespace(), ScheduleId: w.Mark.ID(), Schedule: w.in(d), ConflictToken: has.token, Identity: identity(), RequestId: rand.Text(),
	})
	return err
}

// in is the schedule in the state that was decided.
func (w wanted) in(d schedule.Decision) *schedulepb.Schedule {
	return &schedulepb.Schedule{
		Spec: w.proto.GetSpec(), Action: w.proto.GetAction(), Policies: w.proto.GetPolicies(),
		State: &schedulepb.ScheduleState{Paused: d.Paused, Notes: d.Note},
	}
}

func (s *Starter) removeSchedule(ctx context.Context, m schedule.Mark) error {
	_, err := patient(ctx, s.Client.WorkflowService().DeleteSchedule, &workflowservice.DeleteScheduleRequest{Namespace: s.namespace(), ScheduleId: m.ID(), Identity: identity()})
	if err != nil && !isGone(err) {
		return unreachable(err)
	}
	return nil
}

// marks lists the schedules that are Upkeep's. The list may be some moments old.
func (s *Starter) marks(ctx context.Context, answer *Schedules) ([]schedule.Mark, error) {
	var all []schedule.Mark
	var page []byte
	for looked := 0; looked < maxListed; {
		r, err := patient(ctx, s.Client.WorkflowService().ListSchedules, &workflowservice.ListSchedulesRequest{Namespace: s.namespace(), MaximumPageSize: 200, NextPageToken: page})
		if err != nil {
			return nil, unreachable(err)
		}
		for _, entry := range r.GetSchedules() {
			if m := markOf(entry.GetScheduleId(), entry.GetMemo()); m != (schedule.Mark{}) && !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
		looked += len(r.GetSchedules())
		if page = r.GetNextPageToken(); len(page) == 0 {
			slices.SortFunc(all, compare)
			return all, nil
		}
	}
	answer.Warnings = append(answer.Warnings, fmt.Sprintf("Temporal has more than %d schedules; only so many were looked at for what is left over", maxListed))
	return all, nil
}

func compare(a, b schedule.Mark) int {
	return cmp.Or(strings.Compare(a.Target, b.Target), strings.Compare(a.Name, b.Name))
}

// about tells of a schedule that is so, or shall be; has is what Temporal has, nil for nothing.
func about(m schedule.Mark, p *schedulepb.Schedule, has *found) Scheduled {
	cron, _ := cronOf(p.GetSpec())
	row := Scheduled{
		ID: m.ID(), Target: m.Target, Name: m.Name, Procedure: p.GetAction().GetStartWorkflow().GetWorkflowType().GetName(),
		Cron: cron.String(), Zone: zoneOf(p.GetSpec()), Changes: []schedule.Change{}, Next: []time.Time{},
	}
	zone, err := time.LoadLocation(row.Zone)
	if err != nil {
		zone = time.UTC // one that only the server knows
	}
	if has == nil || p != has.proto {
		for t := range cron.Starts(zone, time.Now(), time.Now().Add(schedule.Ahead)) {
			if row.Next = append(row.Next, t); len(row.Next) == foretold {
				break
			}
		}
	}
	if has == nil {
		return row
	}
	if p == has.proto {
		for _, t := range has.info.GetFutureActionTimes() {
			row.Next = append(row.Next, t.AsTime().In(zone))
		}
	}
	row.Paused, row.Note = has.Paused, has.Note
	row.Running, row.Skipped, row.Missed = len(has.info.GetRunningWorkflows()), has.info.GetOverlapSkipped(), has.info.GetMissedCatchupWindow()
	return row
}

// applied tells of a schedule of the configuration, and what was decided.
func applied(w wanted, has *found, d schedule.Decision) Scheduled {
	p := w.proto
	if has != nil && slices.Equal(has.Fields, w.Fields) {
		p = has.proto // as it is wanted
	}
	row := about(w.Mark, p, has)
	row.Paused, row.Note, row.Kept = d.Paused, d.Note, d.Kept
	row.Changes = append(row.Changes, d.Changes...)
	row.State = map[schedule.Action]ScheduleState{schedule.Create: ScheduleCreated, schedule.Update: ScheduleUpdated, schedule.Nothing: ScheduleUnchanged}[d.Action]
	return row
}

// last is the newest run of a schedule; nil when there is none.
func (s *Starter) last(ctx context.Context, info *schedulepb.ScheduleInfo) *LastRun {
	recent := info.GetRecentActions()
	if len(recent) == 0 {
		return nil
	}
	newest := recent[len(recent)-1]
	l := &LastRun{RunID: newest.GetStartWorkflowResult().GetWorkflowId(), StartedAt: newest.GetActualTime().AsTime()}
	if doc, err := s.Show(ctx, l.RunID); err == nil {
		l.Outcome, l.WaitingFor = doc.Outcome, doc.WaitingFor
	}
	return l
}

// shares is what the schedules of a target share with others: the database server, where it is known.
func shares(c *config.Config, m schedule.Mark) string {
	if c != nil {
		for _, t := range c.Targets {
			if t.Name == m.Target && t.HasDatabase() {
				return "the database server " + t.Database.Server()
			}
		}
	}
	return "the target " + m.Target
}

// warnings say which schedules get in each other's way, and which the clocks jump over.
func warnings(times []schedule.Timed, target string, now time.Time) (all []string) {
	for _, c := range schedule.Collisions(times, now) {
		if target != "" && !slices.ContainsFunc(c.Of, func(m schedule.Mark) bool { return m.Target == target }) {
			continue
		}
		names := make([]string, len(c.Of))
		for i, m := range c.Of {
			names[i] = m.String()
		}
		all = append(all, fmt.Sprintf("%s begin together, first on %s: they share %s; those that exclude each other wait for their turn, the others slow each other down",
			strings.Join(names, " and "), c.At.Format(whenForm), c.Shares))
	}
	for _, t := range times {
		if day, jumped := t.Cron.Jumped(t.Zone, now, now.Add(schedule.Ahead)); jumped && (target == "" || t.Mark.Target == target) {
			all = append(all, fmt.Sprintf("%s does not begin on %s: the clocks of %s jump over its time (%s); choose another hour, or zone: UTC",
				t.Mark, day.Format("Mon 2 Jan 2006"), t.Zone, t.Cron))
		}
	}
	return all
}
