package procedure_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"

	"github.com/upkeep-run/upkeep/activities/configuration"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/store"
	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const backup = backupdatabase.WorkflowType

func TestInputIsDecodedStrictly(t *testing.T) {
	for _, c := range []struct{ name, input, says string }{
		{"misspelt", `{"dry_run":true}`, `field "dry_run" is unknown; to mend it: did you mean "dryRun"?`},
		{"another case", `{"DryRun":true}`, `did you mean "dryRun"?`},
		{"unknown", `{"colour":"red"}`, "use one of: dryRun, target"},
		{"mistyped", `{"dryRun":"yes"}`, `field "dryRun" is a string and must be true or false`},
		{"twice", `{"dryRun":true,"dryRun":false}`, `field "dryRun" is there twice`},
		{"null", `{"dryRun":null}`, `field "dryRun" is null`},
		{"a list", `[]`, "not a JSON object"},
		{"a text", `"shop"`, "not a JSON object"},
		{"cut", `{"dryRun":true`, "cannot be read"},
		{"two values", `{} {}`, "something after the end"},
		{"huge", `{"target":"` + strings.Repeat("x", 2<<20) + `"}`, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &proceduretest.World{}
			doc := proceduretest.New(t, w).Do(backup, c.input)
			require.Equal(t, run.Refused, doc.Outcome)
			require.Equal(t, string(failure.BadInput), doc.Error.Code)
			require.Contains(t, doc.Summary, c.says)
			require.Empty(t, w.Calls(), "nothing may be touched")
		})
	}
}

func TestInputInAnotherEncodingIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	doc := proceduretest.New(t, w).DoRaw(backup, &commonpb.Payload{
		Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingBinary)}, Data: []byte(`{"dryRun":true}`),
	})
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "json/plain")
	require.Empty(t, w.Calls())
}

// TestSecondInputIsRefused starts a run as "temporal workflow start --input A --input B" does.
func TestSecondInputIsRefused(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.ExecuteWorkflow(backup, map[string]any{"target": "shop"}, map[string]any{"dryRun": true})
	require.ErrorContains(t, r.GetWorkflowError(), "there is more than one input")
	require.Empty(t, w.Calls())
}

func TestNoInputMeansDefaults(t *testing.T) {
	t.Run("no argument", func(t *testing.T) {
		r := proceduretest.New(t, &proceduretest.World{})
		r.ExecuteWorkflow(backup)
		require.NoError(t, r.GetWorkflowError())
	})
	for name, input := range map[string]*commonpb.Payload{
		"nothing": {Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingNil)}},
		"null":    {Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)}, Data: []byte("null")},
		"empty":   {Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)}, Data: []byte("{}")},
	} {
		t.Run(name, func(t *testing.T) {
			doc := proceduretest.New(t, &proceduretest.World{}).DoRaw(backup, input)
			require.Equal(t, run.Succeeded, doc.Outcome)
			require.Equal(t, "shop", doc.Target)
		})
	}
}

// TestClassDecides runs into one error of every class, at the step that takes the backup.
func TestClassDecides(t *testing.T) {
	for _, c := range []struct {
		code    failure.Code
		outcome run.Outcome
		verdict run.Verdict // of the step
	}{
		{failure.BadConfig, run.Refused, run.NotProven},
		{failure.UnknownBackup, run.Refused, run.NotProven},
		{failure.NotWaiting, run.Refused, run.NotProven},
		{failure.RowTooLong, run.Refused, run.NotProven},
		{failure.BackupIncomplete, run.Failed, run.Fail},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			w := &proceduretest.World{}
			w.Fail(postgres.TakeBackup, failure.New(c.code, "it went wrong").Do("mend it").Because(errors.New("the cause")))
			doc := proceduretest.New(t, w).Do(backup, `{}`)
			require.Equal(t, c.outcome, doc.Outcome)
			require.Equal(t, &run.Error{Code: string(c.code), Class: string(failure.New(c.code, "").Class()), What: "it went wrong: the cause", Remedy: "mend it"}, doc.Error)
			require.Equal(t, "it went wrong: the cause; to mend it: mend it", doc.Summary)
			require.Equal(t, c.verdict, doc.Steps[len(doc.Steps)-1].Verdict)
			require.Equal(t, []string{configuration.ResolveTarget, postgres.TakeBackup, store.WriteRun}, w.Calls(), "tried once, and written down")
			require.Equal(t, c.outcome, w.Records()[0].Document.Outcome)
		})
	}
}

func TestTransientErrorIsTriedAgain(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.ServerUnreachable, "no answer"), errors.New("a fault without a code"))
	doc := proceduretest.New(t, w).Do(backup, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{configuration.ResolveTarget, postgres.TakeBackup, postgres.TakeBackup, postgres.TakeBackup, store.WriteRun}, w.Calls())
	ids := w.Backups()
	require.Len(t, ids, 1)
}

// TestTransientErrorThatStaysParks fails for longer than the retries last, and then no more.
func TestTransientErrorThatStaysParks(t *testing.T) {
	w := &proceduretest.World{}
	for range 12 {
		w.Fail(postgres.TakeBackup, failure.New(failure.ServerUnreachable, "no answer").Do("start the server"))
	}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(d run.Document) {
		require.Contains(t, d.WaitingFor, "no answer; to mend it: start the server, then resume the run")
		r.Decide(run.RetryUpdate, run.Decision{})
	})
	began := r.Now()
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Greater(t, r.Now().Sub(began), 4*time.Minute, "it is tried for minutes before a person is asked")
}

func TestParkedRunGoesOn(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.DiskFull, "no space left").Do("free some space"))
	r := proceduretest.New(t, w)
	var first, second *proceduretest.Answer
	r.WhenWaiting(func(d run.Document) {
		require.Equal(t, "no space left; to mend it: free some space", d.WaitingFor)
		require.Empty(t, d.Steps[len(d.Steps)-1].Verdict, "the step is not over")
		first = r.Decide(run.RetryUpdate, run.Decision{By: "ann", Reason: "deleted old files"})
		second = r.Decide(run.AbandonUpdate, run.Decision{})
	})
	doc := r.Do(backup, `{}`)
	require.True(t, first.Taken)
	require.Error(t, second.Refused, "it waits no longer")
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Len(t, doc.Steps, 2, "trying again is no other step")
	require.Equal(t, run.Pass, doc.Steps[1].Verdict)
}

func TestParkedRunIsGivenUp(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.WrongPassword, "the login was refused"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) {
		r.Decide(run.AbandonUpdate, run.Decision{By: "ann", Reason: "not today"})
	})
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, "given up by ann (not today)", doc.Summary)
	require.Equal(t, run.Cancelled, w.Records()[0].Document.Outcome)
}

// TestADecisionStaysShort keeps an entry of the audit trail readable.
func TestADecisionStaysShort(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.DiskFull, "no space left"))
	r := proceduretest.New(t, w)
	var long, longer *proceduretest.Answer
	r.WhenWaiting(func(run.Document) {
		long = r.Decide(run.RetryUpdate, run.Decision{Reason: strings.Repeat("x", 1001)})
		longer = r.Decide(run.AbandonUpdate, run.Decision{By: strings.Repeat("x", 100_000)})
		r.Decide(run.RetryUpdate, run.Decision{By: "ann", Reason: strings.Repeat("\x01", 1000)})
	})
	require.Equal(t, run.Succeeded, r.Do(backup, `{}`).Outcome)
	require.ErrorContains(t, long.Refused, "at most 1000 bytes")
	require.ErrorContains(t, longer.Refused, "at most 1000 bytes")
	data, err := (&audit.Chain{Entries: w.Records()[0].Trail}).Encode()
	require.NoError(t, err)
	_, err = audit.Decode(data, proceduretest.WorkflowID)
	require.NoError(t, err)
}

// TestStoredPlansAreNamedAtTheEnd looks at what the run's checkpoint will hold.
func TestStoredPlansAreNamedAtTheEnd(t *testing.T) {
	w := &proceduretest.World{}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(doc run.Document) {
		r.DecideOnPlan(run.RejectUpdate, run.PlanDecision{Plan: doc.Approval.Hash, By: "ann", Reason: "not today"})
	})
	doc := r.Do(restoredatabase.WorkflowType, `{"mode":"replace","confirm":"shop"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, []string{doc.Approval.Hash}, w.Records()[0].Plans)
}

func TestParkedRunIsCancelled(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.LockHeld, "somebody holds a lock"))
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(run.Document) { r.CancelWorkflow() })
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Len(t, w.Records(), 1)
}

func TestDecisionIsRefusedWhileNobodyIsWaitedFor(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(postgres.TakeBackup, failure.New(failure.ServerUnreachable, "no answer"))
	r := proceduretest.New(t, w)
	var answers []*proceduretest.Answer
	r.RegisterDelayedCallback(func() { // while it waits for the next attempt
		answers = append(answers, r.Decide(run.RetryUpdate, run.Decision{}), r.Decide(run.AbandonUpdate, run.Decision{}))
	}, 500*time.Millisecond)
	require.Equal(t, run.Succeeded, r.Do(backup, `{}`).Outcome)
	require.Len(t, answers, 2)
	for _, a := range answers {
		require.ErrorContains(t, a.Refused, "not waiting for anybody: it is Running")
	}
}

func TestRunWithoutReportSaysSo(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(store.WriteRun, failure.New(failure.StoreUnwritable, "the store refuses"))
	doc := proceduretest.New(t, w).Do(backup, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Equal(t, []string{"the report could not be written: the store refuses"}, doc.Left)
	require.Empty(t, doc.Report)
}

func TestUnknownTargetLeavesNoReport(t *testing.T) {
	w := &proceduretest.World{}
	w.Fail(configuration.ResolveTarget, failure.New(failure.UnknownTarget, `target "shpo" is unknown`).Do(`did you mean "shop"?`))
	doc := proceduretest.New(t, w).Do(backup, `{"target":"shpo"}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Equal(t, "shpo", doc.Target)
	require.Contains(t, doc.Summary, `did you mean "shop"?`)
	require.False(t, slices.Contains(w.Calls(), store.WriteRun), "there is no store to write to")
}

// TestDocumentIsShown checks what people see without asking the run: the memo, and the search
// attributes where the server has them.
func TestDocumentIsShown(t *testing.T) {
	for name, attributes := range map[string]bool{"with search attributes": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			r := proceduretest.New(t, &proceduretest.World{Attributes: attributes})
			var outcomes []run.Outcome
			r.OnUpsertMemo(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
				outcomes = append(outcomes, args.Get(0).(map[string]any)[run.MemoDocument].(run.Document).Outcome)
			})
			typed := 0
			r.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Run(func(mock.Arguments) { typed++ }).Maybe()
			require.Equal(t, run.Succeeded, r.Do(backup, `{}`).Outcome)
			require.Greater(t, len(outcomes), 3, "shown while it runs")
			for _, o := range outcomes[:len(outcomes)-1] {
				require.Equal(t, run.Running, o, "an outcome is final only at the end")
			}
			require.Equal(t, run.Succeeded, outcomes[len(outcomes)-1])
			require.Equal(t, attributes, typed > 0)
			require.LessOrEqual(t, len(outcomes), 4, "each adds to the history: once a step, and at the end")
		})
	}
}
