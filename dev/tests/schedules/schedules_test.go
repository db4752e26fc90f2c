// Package schedules applies schedules to a real Temporal server: what is wanted is made, what a person
// did stays, and what they start are runs like any other.
package schedules

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/internal/schedule"
	"github.com/upkeep-run/upkeep/starter"
)

func TestMain(m *testing.M) {
	code := pgservertest.Main(m)
	harness.RemoveBinaries()
	os.Exit(code)
}

// site is a stack, and the command line beside it.
type site struct {
	*harness.Stack
	url string
}

func newSite(t *testing.T, url string) *site {
	t.Helper()
	s := &site{harness.New(t, harness.Target("shop", url, "")), url}
	t.Setenv("TEMPORAL_ADDRESS", s.Temporal.Address)
	t.Setenv("UPKEEP_CONFIG", s.Config)
	return s
}

// schedules writes the configuration's schedules anew.
func (s *site) schedules(t *testing.T, items ...string) {
	t.Helper()
	more := "    schedules:\n"
	if len(items) == 0 {
		more = "    schedules: []\n"
	}
	for _, item := range items {
		more += "      - " + item + "\n"
	}
	s.Configure(t, harness.Target("shop", s.url, more))
}

// call calls the command line.
func call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = starter.Main(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// ask calls one of the two commands, and reads the one document that it answers.
func ask(t *testing.T, args ...string) starter.Schedules {
	t.Helper()
	code, out, errOut := call(t, append([]string{"schedules", "-o", "json"}, args...)...)
	require.Zero(t, code, errOut)
	require.Equal(t, 1, strings.Count(out, "\n"))
	var answer starter.Schedules
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	return answer
}

// states are the states of an answer by the schedules' names.
func states(answer starter.Schedules) map[string]starter.ScheduleState {
	all := make(map[string]starter.ScheduleState)
	for _, s := range answer.Schedules {
		all[s.Name] = s.State
	}
	return all
}

type want = map[string]starter.ScheduleState

func named(t *testing.T, answer starter.Schedules, name string) starter.Scheduled {
	t.Helper()
	for _, s := range answer.Schedules {
		if s.Name == name {
			return s
		}
	}
	require.Failf(t, "not there", "%s in %+v", name, answer)
	return starter.Scheduled{}
}

// until asks until the list of Temporal, which may be some moments old, is as it is wanted.
func until(t *testing.T, wanted want, args ...string) {
	t.Helper()
	var newest want
	require.Eventually(t, func() bool {
		newest = states(ask(t, args...))
		return maps.Equal(wanted, newest)
	}, 30*time.Second, 50*time.Millisecond, "%v", &newest)
}

func (s *site) describe(t *testing.T, id string) *workflowservice.DescribeScheduleResponse {
	t.Helper()
	r, err := s.Client.WorkflowService().DescribeSchedule(t.Context(), &workflowservice.DescribeScheduleRequest{Namespace: client.DefaultNamespace, ScheduleId: id})
	require.NoError(t, err)
	return r
}

func (s *site) handle(t *testing.T, id string) client.ScheduleHandle {
	t.Helper()
	return s.Client.ScheduleClient().GetHandle(t.Context(), id)
}

// untouched checks that a schedule is as it was.
func (s *site) untouched(t *testing.T, was *workflowservice.DescribeScheduleResponse, id string) {
	t.Helper()
	is := s.describe(t, id)
	require.True(t, proto.Equal(was.GetSchedule(), is.GetSchedule()), "%v\n%v", was.GetSchedule(), is.GetSchedule())
	require.Equal(t, was.GetConflictToken(), is.GetConflictToken())
}

func TestApplyAndList(t *testing.T) {
	s := newSite(t, "postgres://nobody@127.0.0.1:1/shop")
	const backup, drill, foreign = "upkeep-shop-nightly-backup", "upkeep-shop-weekly-drill", "upkeep-shop-by-hand"
	_, err := s.Client.ScheduleClient().Create(t.Context(), client.ScheduleOptions{
		ID: foreign, Spec: client.ScheduleSpec{CronExpressions: []string{"0 5 * * *"}}, Action: &client.ScheduleWorkflowAction{ID: "by-hand", Workflow: "BackupDatabase", TaskQueue: "nobody"},
	})
	require.NoError(t, err)
	byHand := s.describe(t, foreign)

	t.Run("a dry run makes nothing", func(t *testing.T) {
		answer := ask(t, "apply", "--dry-run")
		require.True(t, answer.DryRun)
		require.Equal(t, want{"nightly-backup": starter.ScheduleCreated, "weekly-drill": starter.ScheduleCreated}, states(answer))
		require.Equal(t, want{"nightly-backup": starter.ScheduleMissing, "weekly-drill": starter.ScheduleMissing}, states(ask(t, "list")))
	})

	t.Run("what is missing is made, with every policy", func(t *testing.T) {
		answer := ask(t, "apply")
		require.Equal(t, want{"nightly-backup": starter.ScheduleCreated, "weekly-drill": starter.ScheduleCreated}, states(answer))
		require.Empty(t, answer.Warnings)
		next := named(t, answer, "weekly-drill").Next
		require.Len(t, next, 10)
		var foreseen []time.Time
		for at := range schedule.At(4, time.Sunday).Starts(time.UTC, next[0].Add(-24*time.Hour), next[9].Add(time.Minute)) {
			foreseen = append(foreseen, at)
		}
		require.Equal(t, foreseen, next, "begins are foreseen as Temporal does")
		has := s.describe(t, backup).GetSchedule()
		require.Equal(t, enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, has.GetPolicies().GetOverlapPolicy())
		require.Equal(t, 6*time.Hour, has.GetPolicies().GetCatchupWindow().AsDuration())
		require.Equal(t, "UTC", has.GetSpec().GetTimezoneName())
		file, err := config.Load(s.Config)
		require.NoError(t, err)
		require.Contains(t, has.GetState().GetNotes(), file.SHA256)
	})

	t.Run("the second time does nothing", func(t *testing.T) {
		before := s.describe(t, backup)
		require.Equal(t, want{"nightly-backup": starter.ScheduleUnchanged, "weekly-drill": starter.ScheduleUnchanged}, states(ask(t, "apply")))
		s.untouched(t, before, backup)
		s.Configure(t, "  # another file that says the same\n"+harness.Target("shop", s.url, ""))
		require.Equal(t, want{"nightly-backup": starter.ScheduleUnchanged, "weekly-drill": starter.ScheduleUnchanged}, states(ask(t, "apply")))
		s.untouched(t, before, backup)
		require.Equal(t, want{"nightly-backup": starter.ScheduleAgrees, "weekly-drill": starter.ScheduleAgrees}, states(ask(t, "list")))
	})

	t.Run("a pause survives another cron", func(t *testing.T) {
		require.NoError(t, s.handle(t, backup).Pause(t.Context(), client.SchedulePauseOptions{Note: "anna: the disk is replaced"}))
		s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 1 * * *", jitter: 5m}`, `{name: weekly-drill, procedure: DrillRecovery, cron: "0 4 * * 0"}`)
		listed := named(t, ask(t, "list"), "nightly-backup")
		require.Equal(t, starter.ScheduleDiffers, listed.State)
		require.Equal(t, "0 2 * * *", listed.Cron, "as it is")
		answer := named(t, ask(t, "apply"), "nightly-backup")
		require.Equal(t, starter.ScheduleUpdated, answer.State)
		require.Equal(t, []schedule.Change{{Field: "cron", From: "0 2 * * *", To: "0 1 * * *"}, {Field: "jitter", From: "0s", To: "5m"}}, answer.Changes)
		require.True(t, answer.Paused && answer.Kept)
		has := s.describe(t, backup).GetSchedule()
		require.True(t, has.GetState().GetPaused())
		require.Equal(t, "anna: the disk is replaced", has.GetState().GetNotes())
		require.EqualValues(t, 1, has.GetSpec().GetStructuredCalendar()[0].GetHour()[0].GetStart())
		_, out, _ := call(t, "schedules", "apply")
		require.Contains(t, out, "unchanged  nightly-backup of shop  PAUSED in Temporal (anna: the disk is replaced), and stays so")
		require.NoError(t, s.handle(t, backup).Unpause(t.Context(), client.ScheduleUnpauseOptions{Note: "anna: done"}))
		require.Equal(t, starter.ScheduleUnchanged, named(t, ask(t, "apply"), "nightly-backup").State)
	})

	t.Run("what was changed by hand is seen, and mended", func(t *testing.T) {
		require.NoError(t, s.handle(t, backup).Update(t.Context(), client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			in.Description.Schedule.Policy.Overlap = enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
			in.Description.Schedule.Action.(*client.ScheduleWorkflowAction).TaskQueue = "nobody"
			return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
		}}))
		_, out, _ := call(t, "schedules", "list")
		require.Contains(t, out, "DIFFERS from upkeep.yaml: overlap: allowAll -> skip, task queue: nobody -> upkeep-workflows; mend it with: upkeep schedules apply")
		require.Equal(t, starter.ScheduleUpdated, named(t, ask(t, "apply"), "nightly-backup").State)
		require.Equal(t, starter.ScheduleAgrees, named(t, ask(t, "list"), "nightly-backup").State)
	})

	t.Run("many who apply at once do no harm", func(t *testing.T) {
		s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 3 * * *"}`, `{name: weekly-drill, procedure: DrillRecovery, cron: "0 4 * * 0"}`, `{name: verified, procedure: VerifyBackup, cron: "0 6 * * *", input: {grade: stored}}`)
		file, err := config.Load(s.Config)
		require.NoError(t, err)
		var all sync.WaitGroup
		failed := make([]error, 5)
		for i := range failed {
			all.Go(func() { _, failed[i] = s.Starter.ApplySchedules(t.Context(), file, starter.Application{}) })
		}
		all.Wait()
		for _, err := range failed {
			require.NoError(t, err)
		}
		until(t, want{"nightly-backup": starter.ScheduleAgrees, "weekly-drill": starter.ScheduleAgrees, "verified": starter.ScheduleAgrees}, "list")
	})

	t.Run("what begins together is said", func(t *testing.T) {
		s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 3 * * *"}`, `{name: weekly-drill, procedure: DrillRecovery, cron: "5 3 * * 0"}`, `{name: verified, procedure: VerifyBackup, cron: "0 6 * * *", input: {grade: stored}}`)
		answer := ask(t, "apply")
		require.Len(t, answer.Warnings, 1)
		require.Contains(t, answer.Warnings[0], "nightly-backup of shop and weekly-drill of shop begin together, first on Sun")
		require.Contains(t, answer.Warnings[0], "they share the database server 127.0.0.1:1")
		require.Equal(t, answer.Warnings, ask(t, "list").Warnings)
		_, out, _ := call(t, "schedules", "list")
		require.Contains(t, out, "warning: nightly-backup of shop and")
		require.NoError(t, s.handle(t, drill).Pause(t.Context(), client.SchedulePauseOptions{Note: "not now"}))
		require.Empty(t, ask(t, "list").Warnings, "what is paused is in nobody's way")
	})

	t.Run("what the file has no more is named, and goes when that is said", func(t *testing.T) {
		s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 3 * * *"}`)
		left := want{"nightly-backup": starter.ScheduleUnchanged, "weekly-drill": starter.ScheduleLeftOver, "verified": starter.ScheduleLeftOver}
		until(t, left, "apply")
		s.describe(t, drill)
		removed := want{"nightly-backup": starter.ScheduleUnchanged, "weekly-drill": starter.ScheduleRemoved, "verified": starter.ScheduleRemoved}
		require.Equal(t, removed, states(ask(t, "apply", "--remove", "--dry-run")))
		require.Equal(t, left, states(ask(t, "apply")))
		require.Equal(t, removed, states(ask(t, "apply", "--remove")))
		_, err := s.handle(t, drill).Describe(t.Context())
		require.Error(t, err)
		require.Equal(t, want{"nightly-backup": starter.ScheduleUnchanged}, states(ask(t, "apply", "--remove")))
	})

	t.Run("without a configuration Temporal still answers", func(t *testing.T) {
		t.Setenv("UPKEEP_CONFIG", "")
		t.Chdir(t.TempDir())
		if config.Find() != "" {
			t.Skip("this machine has a configuration of its own")
		}
		require.Equal(t, want{"nightly-backup": starter.ScheduleUnknown}, states(ask(t, "list")))
		code, _, errOut := call(t, "schedules", "apply")
		require.Equal(t, starter.ExitUsage, code, errOut)
	})

	t.Run("what is not Upkeep's is not touched", func(t *testing.T) {
		s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 7 * * *"}`, `{name: by-hand, procedure: BackupDatabase, cron: "0 5 * * *"}`)
		before := s.describe(t, backup)
		code, out, errOut := call(t, "schedules", "apply", "--remove", "-o", "json")
		require.Equal(t, starter.ExitRefused, code, errOut)
		require.Contains(t, out, `"code":"ScheduleExists"`)
		s.untouched(t, before, backup)
		s.untouched(t, byHand, foreign)
		require.Equal(t, starter.ScheduleTaken, named(t, ask(t, "list"), "by-hand").State)
		code, _, errOut = call(t, "schedules", "list", "--target", "shpo")
		require.Equal(t, starter.ExitRefused, code)
		require.Contains(t, errOut, `did you mean "shop"?`)
	})
}

// meddled is a client beside which somebody does something right before its first update of a schedule.
type meddled struct {
	client.Client
	service meddledService
}

type meddledService struct {
	workflowservice.WorkflowServiceClient
	once   *sync.Once
	meddle func()
}

func (m meddled) WorkflowService() workflowservice.WorkflowServiceClient { return m.service }

func (m meddledService) UpdateSchedule(ctx context.Context, in *workflowservice.UpdateScheduleRequest, o ...grpc.CallOption) (*workflowservice.UpdateScheduleResponse, error) {
	m.once.Do(m.meddle)
	return m.WorkflowServiceClient.UpdateSchedule(ctx, in, o...)
}

// TestAPauseThatComesBetween is not written over, though the server drops the update without a word.
func TestAPauseThatComesBetween(t *testing.T) {
	s := newSite(t, "postgres://nobody@127.0.0.1:1/shop")
	s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 2 * * *"}`)
	ask(t, "apply")
	s.schedules(t, `{name: nightly-backup, procedure: BackupDatabase, cron: "0 3 * * *"}`)
	file, err := config.Load(s.Config)
	require.NoError(t, err)
	const id = "upkeep-shop-nightly-backup"
	pause := func() {
		require.NoError(t, s.handle(t, id).Pause(t.Context(), client.SchedulePauseOptions{Note: "anna: stop"}))
	}
	beside := &starter.Starter{Client: meddled{s.Client, meddledService{s.Client.WorkflowService(), new(sync.Once), pause}}}
	answer, err := beside.ApplySchedules(t.Context(), file, starter.Application{})
	require.NoError(t, err)
	row := named(t, *answer, "nightly-backup")
	require.Equal(t, starter.ScheduleUpdated, row.State)
	require.True(t, row.Paused && row.Kept)
	has := s.describe(t, id).GetSchedule()
	require.True(t, has.GetState().GetPaused())
	require.Equal(t, "anna: stop", has.GetState().GetNotes())
	require.EqualValues(t, 3, has.GetSpec().GetStructuredCalendar()[0].GetHour()[0].GetStart())
}

// TestAScheduledRun is like any other.
func TestAScheduledRun(t *testing.T) {
	_, url := pgservertest.Database(t, pgservertest.Server(t, pgservertest.Default))
	pgservertest.Exec(t, url, "CREATE TABLE goods (id int PRIMARY KEY)")
	s := newSite(t, url)
	ask(t, "apply")
	const id = "upkeep-shop-nightly-backup"
	require.NoError(t, s.handle(t, id).Trigger(t.Context(), client.ScheduleTriggerOptions{}))
	var began string
	require.Eventually(t, func() bool {
		recent := s.describe(t, id).GetInfo().GetRecentActions()
		if len(recent) > 0 {
			began = recent[0].GetStartWorkflowResult().GetWorkflowId()
		}
		return began != ""
	}, 30*time.Second, 50*time.Millisecond)
	require.True(t, strings.HasPrefix(began, id+"-20"), began)
	doc, err := s.Starter.Show(t.Context(), began)
	require.NoError(t, err)
	require.Equal(t, began, doc.RunID)
	require.Equal(t, run.Running, doc.Outcome)
	require.Equal(t, "waiting for a worker", doc.Summary)
	require.Equal(t, "shop", doc.Target)

	byHand, err := s.Starter.Start(t.Context(), starter.Order{Procedure: "BackupDatabase", Target: "shop"})
	require.NoError(t, err)
	scheduled, ordered := s.first(t, began), s.first(t, byHand)
	a, b := scheduled.GetWorkflowExecutionStartedEventAttributes(), ordered.GetWorkflowExecutionStartedEventAttributes()
	require.True(t, proto.Equal(a.GetInput(), b.GetInput()), "%v\n%v", a.GetInput(), b.GetInput())
	require.Equal(t, b.GetWorkflowType().GetName(), a.GetWorkflowType().GetName())
	require.Equal(t, b.GetTaskQueue().GetName(), a.GetTaskQueue().GetName())
	require.True(t, proto.Equal(scheduled.GetUserMetadata(), ordered.GetUserMetadata()), "%v\n%v", scheduled.GetUserMetadata(), ordered.GetUserMetadata())
	require.Equal(t, document(t, b.GetMemo()), document(t, a.GetMemo()))

	s.Worker(t, "w")
	require.Equal(t, run.Succeeded, s.Await(t, byHand).Outcome)
	doc = s.Await(t, began)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.FileExists(t, strings.TrimPrefix(doc.Report, "file://"))
	last := named(t, ask(t, "list"), "nightly-backup").Last
	require.NotNil(t, last)
	require.Equal(t, began, last.RunID)
	require.Equal(t, run.Succeeded, last.Outcome)
}

// first is the event that a run began with.
func (s *site) first(t *testing.T, id string) *historypb.HistoryEvent {
	t.Helper()
	events := s.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	e, err := events.Next()
	require.NoError(t, err)
	return e
}

// document is what a run shows before a worker has it, without its id.
func document(t *testing.T, memo *commonpb.Memo) (doc run.Document) {
	t.Helper()
	require.Len(t, memo.GetFields(), 1)
	require.NoError(t, converter.GetDefaultDataConverter().FromPayload(memo.GetFields()[run.MemoDocument], &doc))
	doc.RunID = ""
	return doc
}
