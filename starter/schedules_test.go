package starter

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/schedule"
)

func nightly() schedule.Schedule {
	return schedule.Schedule{
		Target: "shop", Name: "nightly-backup", Procedure: "BackupDatabase", Cron: schedule.At(2), Zone: "UTC",
		Input: json.RawMessage(`{"dryRun":true}`), Overlap: schedule.Skip, CatchUp: 6 * time.Hour, Jitter: time.Minute,
	}
}

func TestAScheduleStatesEveryPolicy(t *testing.T) {
	p, err := toTemporal(nightly())
	require.NoError(t, err)
	require.Equal(t, []schedule.Field{
		{Name: "procedure", Value: "BackupDatabase"}, {Name: "cron", Value: "0 2 * * *"}, {Name: "zone", Value: "UTC"},
		{Name: "input", Value: `{"dryRun":true,"target":"shop"}`}, {Name: "overlap", Value: "skip"}, {Name: "catchUp", Value: "6h"}, {Name: "jitter", Value: "1m"},
		{Name: "pause on failure", Value: "false"}, {Name: "remaining runs", Value: "no limit"}, {Name: "workflow id", Value: "upkeep-shop-nightly-backup-<time>"},
		{Name: "task queue", Value: "upkeep-workflows"}, {Name: "timeouts", Value: "0s"}, {Name: "attempts", Value: "0"}, {Name: "title", Value: `"BackupDatabase of shop"`},
		{Name: "document", Value: `{"dryRun":true,"outcome":"Running","procedure":"BackupDatabase","report":"","result":{},"runId":"","steps":[],"summary":"waiting for a worker","target":"shop","waitingFor":""}`},
	}, fieldsOf(p))
	doc := fromInfo(&workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: "upkeep-shop-nightly-backup-2026-11-26T02:00:00Z"}, Memo: p.GetAction().GetStartWorkflow().GetMemo(),
	})
	require.Equal(t, "upkeep-shop-nightly-backup-2026-11-26T02:00:00Z", doc.RunID, "the memo could not know it")
	require.Equal(t, "shop", doc.Target)
	require.True(t, doc.DryRun)
}

func TestWhatSomebodyChangedByHandIsSeen(t *testing.T) {
	want, err := toTemporal(nightly())
	require.NoError(t, err)
	for field, change := range map[string]func(*schedulepb.Schedule){
		"procedure": func(p *schedulepb.Schedule) { p.Action.GetStartWorkflow().WorkflowType.Name = "DrillRecovery" },
		"cron":      func(p *schedulepb.Schedule) { p.Spec.StructuredCalendar[0].Minute[0].Start = 5 },
		"zone":      func(p *schedulepb.Schedule) { p.Spec.TimezoneName = "Europe/Berlin" },
		"input": func(p *schedulepb.Schedule) {
			p.Action.GetStartWorkflow().Input.Payloads[0].Data = []byte(`{"target":"shop"}`)
		},
		"overlap": func(p *schedulepb.Schedule) {
			p.Policies.OverlapPolicy = enumspb.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER
		},
		"catchUp":          func(p *schedulepb.Schedule) { p.Policies.CatchupWindow = durationpb.New(365 * 24 * time.Hour) },
		"jitter":           func(p *schedulepb.Schedule) { p.Spec.Jitter = nil },
		"pause on failure": func(p *schedulepb.Schedule) { p.Policies.PauseOnFailure = true },
		"remaining runs":   func(p *schedulepb.Schedule) { p.State.LimitedActions = true },
		"workflow id":      func(p *schedulepb.Schedule) { p.Policies.KeepOriginalWorkflowId = true },
		"task queue":       func(p *schedulepb.Schedule) { p.Action.GetStartWorkflow().TaskQueue.Name = "nobody" },
		"timeouts": func(p *schedulepb.Schedule) {
			p.Action.GetStartWorkflow().WorkflowRunTimeout = durationpb.New(time.Hour)
		},
		"attempts": func(p *schedulepb.Schedule) {
			p.Action.GetStartWorkflow().RetryPolicy = &commonpb.RetryPolicy{MaximumAttempts: 3}
		},
		"title":    func(p *schedulepb.Schedule) { p.Action.GetStartWorkflow().UserMetadata = nil },
		"document": func(p *schedulepb.Schedule) { p.Action.GetStartWorkflow().Memo = nil },
	} {
		has := proto.Clone(want).(*schedulepb.Schedule)
		change(has)
		d := schedule.Decide(schedule.Wanted{Fields: fieldsOf(want)}, &schedule.Found{Fields: fieldsOf(has)})
		require.Equal(t, schedule.Update, d.Action, field)
		require.Len(t, d.Changes, 1, field)
		require.Equal(t, field, d.Changes[0].Field)
	}
	for name, change := range map[string]func(*schedulepb.ScheduleSpec){
		"an interval": func(s *schedulepb.ScheduleSpec) {
			s.Interval = []*schedulepb.IntervalSpec{{Interval: durationpb.New(time.Hour)}}
		},
		"seconds": func(s *schedulepb.ScheduleSpec) { s.StructuredCalendar[0].Second = []*schedulepb.Range{{Start: 30}} },
		"years":   func(s *schedulepb.ScheduleSpec) { s.StructuredCalendar[0].Year = []*schedulepb.Range{{Start: 2030}} },
		"an exclusion": func(s *schedulepb.ScheduleSpec) {
			s.ExcludeStructuredCalendar = []*schedulepb.StructuredCalendarSpec{{}}
		},
	} {
		has := proto.Clone(want).(*schedulepb.Schedule)
		change(has.Spec)
		require.Contains(t, fieldsOf(has), schedule.Field{Name: "cron", Value: "0 2 * * * and rules that were set by hand"}, name)
	}
	same := proto.Clone(want).(*schedulepb.Schedule) // as a server may write the same
	same.Spec.StructuredCalendar[0].Hour = []*schedulepb.Range{{Start: 2}}
	same.Spec.StructuredCalendar[0].Month = []*schedulepb.Range{{Start: 1, End: 6, Step: 1}, {Start: 7, End: 12}}
	require.Equal(t, fieldsOf(want), fieldsOf(same))
}

func TestASecretIsNeitherScheduledNorShown(t *testing.T) {
	s := nightly()
	s.Procedure, s.Input = "VerifyBackup", json.RawMessage(`{"backup":"postgres://u:canary@h/d"}`)
	_, err := toTemporal(s)
	require.True(t, failure.Is(err, failure.BadInput), "%v", err)
	require.NotContains(t, err.Error(), "canary")
	require.NotContains(t, plain(&commonpb.Payload{Data: []byte(`{"backup":"postgres://u:canary@h/d"}`)}), "canary")
	require.Equal(t, "3 bytes that are no JSON", plain(&commonpb.Payload{Data: []byte("abc")}))
}

func TestAMarkIsOfItsSchedule(t *testing.T) {
	memo := func(text string) *commonpb.Memo {
		return &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoSchedule: {Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}}}
	}
	require.Equal(t, schedule.Mark{Target: "shop", Name: "a"}, markOf("upkeep-shop-a", memo(`{"target":"shop","name":"a"}`)))
	require.Zero(t, markOf("upkeep-shop-b", memo(`{"target":"shop","name":"a"}`)), "copied from another")
	require.Zero(t, markOf("upkeep-shop-a", memo(`[]`)))
	require.Zero(t, markOf("upkeep-shop-a", nil))
}

func TestSchedulesForATiredPerson(t *testing.T) {
	next := []time.Time{time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC)}
	row := Scheduled{ID: "upkeep-shop-a", Target: "shop", Name: "a", Procedure: "BackupDatabase", Cron: "0 2 * * *", Zone: "UTC", Note: schedule.NotePrefix + ", SHA-256 x", Next: next}
	with := func(change func(*Scheduled)) Scheduled {
		r := row
		change(&r)
		return r
	}
	var out bytes.Buffer
	printApplied(&out, &Schedules{Config: "/etc/upkeep.yaml", Warnings: []string{"mind this"}, Schedules: []Scheduled{
		with(func(r *Scheduled) { r.State = ScheduleCreated }),
		with(func(r *Scheduled) {
			r.State, r.Changes = ScheduleUpdated, []schedule.Change{{Field: "cron", From: "0 1 * * *", To: "0 2 * * *"}}
			r.Paused, r.Kept, r.Note = true, true, "disk\x1b[2J"
		}),
		with(func(r *Scheduled) { r.State = ScheduleLeftOver }),
		with(func(r *Scheduled) { r.State = ScheduleRemoved }),
	}})
	for _, part := range []string{
		"created    a of shop  BackupDatabase, 0 2 * * * (UTC); next: Thu 26 Nov 2026 02:00 UTC\n",
		"updated    a of shop  cron: 0 1 * * * -> 0 2 * * *; PAUSED in Temporal (disk [2J), and stays so\n",
		"left over  a of shop  upkeep.yaml has it no more; remove it with: upkeep schedules apply --remove\n",
		"removed    a of shop", "\nwarning: mind this\n",
	} {
		require.Contains(t, out.String(), part)
	}
	out.Reset()
	printApplied(&out, &Schedules{DryRun: true, Schedules: []Scheduled{with(func(r *Scheduled) { r.State = ScheduleCreated })}})
	require.Contains(t, out.String(), "would create")

	out.Reset()
	printListed(&out, &Schedules{Schedules: []Scheduled{
		with(func(r *Scheduled) {
			r.State, r.Skipped, r.Missed = ScheduleDiffers, 2, 1
			r.Changes = []schedule.Change{{Field: "input", To: "{}"}}
			r.Last = &LastRun{RunID: "upkeep-shop-a-2026-11-25T02:00:00Z", Outcome: run.Waiting, WaitingFor: "a disk"}
		}),
		with(func(r *Scheduled) { r.State = ScheduleMissing }),
		with(func(r *Scheduled) { r.State, r.Paused = ScheduleAgrees, true }),
		with(func(r *Scheduled) { r.State, r.Kept, r.Note = ScheduleAgrees, true, "needed" }),
	}})
	for _, part := range []string{
		"a of shop: BackupDatabase, 0 2 * * * (UTC)\n  next: Thu 26 Nov 2026 02:00 UTC\n", ": Waiting\n        upkeep show upkeep-shop-a-2026-11-25T02:00:00Z\n", "it waits: a disk",
		"skipped: 2", "missed: 1", "DIFFERS from upkeep.yaml: input: (none) -> {}; mend it with: upkeep schedules apply", "NOT THERE", "PAUSED by upkeep.yaml", "somebody let it go on in Temporal (needed)",
		"no upkeep.yaml was found",
	} {
		require.Contains(t, out.String(), part)
	}
}

func TestWarnings(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	times := []schedule.Timed{
		{Mark: schedule.Mark{Target: "shop", Name: "a"}, Shares: "the database server db:5432", Cron: schedule.At(2), Zone: berlin},
		{Mark: schedule.Mark{Target: "till", Name: "b"}, Shares: "the database server db:5432", Cron: schedule.At(1), Zone: time.UTC},
	}
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	collides := "a of shop and b of till begin together, first on Fri 27 Nov 2026 "
	jumped := "a of shop does not begin on Sun 28 Mar 2027: the clocks of Europe/Berlin jump over its time (0 2 * * *)"
	for target, want := range map[string][]string{"": {collides, jumped}, "shop": {collides, jumped}, "till": {collides}, "other": {}} {
		got := warnings(times, target, now)
		require.Len(t, got, len(want), target)
		for i, part := range want {
			require.Contains(t, got[i], part)
		}
	}
}

func TestTheCommandOfSchedulesNeedsAWord(t *testing.T) {
	for _, args := range [][]string{{"schedules", "aply"}, {"schedules", "apply", "x"}, {"schedules", "list", "--remove"}} {
		code, out, errOut := call(t, args...)
		require.Equal(t, ExitUsage, code, "%v: %s", args, errOut)
		require.Empty(t, out)
	}
	t.Chdir(t.TempDir())
	t.Setenv("UPKEEP_CONFIG", "absent.yaml")
	code, _, errOut := call(t, "schedules", "apply")
	require.Equal(t, ExitUsage, code)
	require.Contains(t, errOut, "absent.yaml")
}
