package starter

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/schedule"
)

// memoSchedule is the memo field of a schedule that says whose it is.
const memoSchedule = "upkeepSchedule"

var overlaps = map[schedule.Overlap]enumspb.ScheduleOverlapPolicy{
	schedule.Skip:      enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
	schedule.BufferOne: enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE,
	schedule.AllowAll:  enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL,
}

// toTemporal writes a schedule as Temporal keeps it, with every policy stated. Its runs are what
// Starter.Start makes of the same order.
func toTemporal(s schedule.Schedule) (*schedulepb.Schedule, error) {
	input, common, err := Prepare(Order{Procedure: s.Procedure, Target: s.Target, Input: s.Input})
	if err != nil {
		return nil, err
	}
	title, shown := announce(s.Procedure, common)
	var payloads [3]*commonpb.Payload
	for i, v := range []any{input, title, shown} {
		if payloads[i], err = converter.GetDefaultDataConverter().ToPayload(v); err != nil {
			return nil, fmt.Errorf("encode schedule %s: %w", s.Mark(), err)
		}
	}
	spec := &schedulepb.ScheduleSpec{TimezoneName: s.Zone, Jitter: durationpb.New(s.Jitter)}
	for _, c := range s.Cron {
		spec.StructuredCalendar = append(spec.StructuredCalendar, &schedulepb.StructuredCalendarSpec{
			Second: ranges(schedule.Set(0).With(0, 0, 1)), Minute: ranges(c.Minute), Hour: ranges(c.Hour),
			DayOfMonth: ranges(c.Day), Month: ranges(c.Month), DayOfWeek: ranges(c.Weekday),
		})
	}
	return &schedulepb.Schedule{
		Spec: spec,
		Policies: &schedulepb.SchedulePolicies{
			OverlapPolicy: overlaps[s.Overlap], CatchupWindow: durationpb.New(s.CatchUp),
			PauseOnFailure: false, // a failed backup is no reason to take none tomorrow
		},
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
			WorkflowId:   s.Mark().ID(), // the server adds the time to it
			WorkflowType: &commonpb.WorkflowType{Name: s.Procedure},
			TaskQueue:    &taskqueuepb.TaskQueue{Name: run.WorkflowQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
			Input:        &commonpb.Payloads{Payloads: payloads[:1]},
			UserMetadata: &sdkpb.UserMetadata{Summary: payloads[1]},
			Memo:         &commonpb.Memo{Fields: map[string]*commonpb.Payload{run.MemoDocument: payloads[2]}},
		}}},
		State: &schedulepb.ScheduleState{},
	}, nil
}

func ranges(s schedule.Set) (all []*schedulepb.Range) {
	for _, r := range s.Ranges() {
		all = append(all, &schedulepb.Range{Start: int32(r.From), End: int32(r.To), Step: 1})
	}
	return all
}

func set(ranges []*schedulepb.Range) (s schedule.Set) {
	for _, r := range ranges {
		s = s.With(int(r.GetStart()), int(max(r.GetStart(), r.GetEnd())), int(r.GetStep()))
	}
	return s
}

// cronOf reads when a schedule begins; more reports whether it has rules that no cron line has.
func cronOf(spec *schedulepb.ScheduleSpec) (c schedule.Cron, more bool) {
	more = len(spec.GetInterval())+len(spec.GetCalendar())+len(spec.GetCronString())+len(spec.GetTimezoneData()) > 0 ||
		len(spec.GetExcludeCalendar())+len(spec.GetExcludeStructuredCalendar()) > 0 || spec.GetStartTime() != nil || spec.GetEndTime() != nil
	for _, k := range spec.GetStructuredCalendar() {
		more = more || len(k.GetYear()) > 0 || set(k.GetSecond()) != schedule.Set(0).With(0, 0, 1)
		c = append(c, schedule.Calendar{
			Minute: set(k.GetMinute()), Hour: set(k.GetHour()), Day: set(k.GetDayOfMonth()), Month: set(k.GetMonth()), Weekday: set(k.GetDayOfWeek()),
		})
	}
	return c, more
}

// fieldsOf is what makes up a schedule, by the names of upkeep.yaml where there is one.
func fieldsOf(p *schedulepb.Schedule) []schedule.Field {
	spec, policies, action := p.GetSpec(), p.GetPolicies(), p.GetAction().GetStartWorkflow()
	cron, more := cronOf(spec)
	when := cron.String()
	if more {
		when += " and rules that were set by hand"
	}
	overlap := policies.GetOverlapPolicy().String()
	for name, policy := range overlaps {
		if policy == policies.GetOverlapPolicy() {
			overlap = string(name)
		}
	}
	var input string
	for _, payload := range action.GetInput().GetPayloads() {
		input += plain(payload)
	}
	id := action.GetWorkflowId()
	if !policies.GetKeepOriginalWorkflowId() {
		id += "-<time>"
	}
	remaining := "no limit"
	if p.GetState().GetLimitedActions() {
		remaining = strconv.FormatInt(p.GetState().GetRemainingActions(), 10)
	}
	return []schedule.Field{
		{Name: "procedure", Value: action.GetWorkflowType().GetName()},
		{Name: "cron", Value: when},
		{Name: "zone", Value: zoneOf(spec)},
		{Name: "input", Value: input},
		{Name: "overlap", Value: overlap},
		{Name: "catchUp", Value: schedule.Duration(policies.GetCatchupWindow().AsDuration())},
		{Name: "jitter", Value: schedule.Duration(spec.GetJitter().AsDuration())},
		{Name: "pause on failure", Value: strconv.FormatBool(policies.GetPauseOnFailure())},
		{Name: "remaining runs", Value: remaining},
		{Name: "workflow id", Value: id},
		{Name: "task queue", Value: action.GetTaskQueue().GetName()},
		{Name: "timeouts", Value: schedule.Duration(action.GetWorkflowExecutionTimeout().AsDuration() + action.GetWorkflowRunTimeout().AsDuration())},
		{Name: "attempts", Value: strconv.Itoa(int(action.GetRetryPolicy().GetMaximumAttempts()))},
		{Name: "title", Value: plain(action.GetUserMetadata().GetSummary())},
		{Name: "document", Value: plain(action.GetMemo().GetFields()[run.MemoDocument])},
	}
}

func zoneOf(spec *schedulepb.ScheduleSpec) string {
	if spec.GetTimezoneName() == "" {
		return "UTC"
	}
	return spec.GetTimezoneName()
}

// plain writes a payload as JSON, equal ones equally. What somebody else put there is not trusted to
// be free of passwords.
func plain(p *commonpb.Payload) string {
	if p == nil {
		return ""
	}
	var v any
	if err := json.Unmarshal(p.GetData(), &v); err != nil {
		return fmt.Sprintf("%d bytes that are no JSON", len(p.GetData()))
	}
	text, err := json.Marshal(v)
	if err != nil || HoldsSecret(string(text)) {
		return "a text with a password"
	}
	return string(text)
}

// markOf reads whose a schedule is.
func markOf(id string, memo *commonpb.Memo) (m schedule.Mark) {
	p := memo.GetFields()[memoSchedule]
	if p == nil || decode(p, &m) != nil || m.ID() != id {
		return schedule.Mark{}
	}
	return m
}

// timed is when a schedule begins; false where that cannot be said by a cron line.
func timed(m schedule.Mark, p *schedulepb.Schedule, shares string) (schedule.Timed, bool) {
	cron, more := cronOf(p.GetSpec())
	zone, err := time.LoadLocation(zoneOf(p.GetSpec()))
	return schedule.Timed{Mark: m, Shares: shares, Cron: cron, Zone: zone, Jitter: p.GetSpec().GetJitter().AsDuration()}, err == nil && !more
}
