package procedure_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const (
	reads     = "asks for shared backups"
	adds      = "asks for shared database shared backups"
	givesBack = "gives back"
)

func TestEveryRunTakesItsTurn(t *testing.T) {
	for _, c := range []struct {
		procedure, input string
		want             []string
	}{
		{backup, `{}`, []string{adds, givesBack}},
		{backup, `{"dryRun":true}`, nil},
		{drillrecovery.WorkflowType, `{}`, []string{adds, givesBack}},
		{drillrecovery.WorkflowType, `{"backup":"latest"}`, []string{reads, givesBack}},
		{drillrecovery.WorkflowType, `{"backup":"latest","dryRun":true}`, nil},
		{verifybackup.WorkflowType, `{"grade":"stored"}`, []string{reads, givesBack}},
		{restoredatabase.WorkflowType, `{}`, []string{reads, givesBack}},
		{restoredatabase.WorkflowType, `{"dryRun":true}`, nil},
	} {
		t.Run(c.procedure+c.input, func(t *testing.T) {
			w := &proceduretest.World{}
			require.Equal(t, run.Succeeded, proceduretest.New(t, w).Do(c.procedure, c.input).Outcome)
			require.Equal(t, c.want, w.Turns())
		})
	}
}

// TestARunWaitsForItsTurn is told that its turn has come once, and asks by itself after that.
func TestARunWaitsForItsTurn(t *testing.T) {
	w := &proceduretest.World{}
	w.Keep(target.Answer{Why: "waits for a"}, target.Answer{Why: "waits for b"}, target.Answer{Why: "waits for c"})
	r := proceduretest.New(t, w)
	r.RegisterDelayedCallback(func() {
		doc := r.Status()
		require.Equal(t, run.Running, doc.Outcome, "it waits for nobody's help")
		require.Equal(t, "waits for a", doc.WaitingFor)
		require.Empty(t, doc.Steps[len(doc.Steps)-1].Verdict)
		r.SignalWorkflow(target.GrantedSignal, "shop")
	}, 10*time.Second)
	r.RegisterDelayedCallback(func() { require.Equal(t, "waits for b", r.Status().WaitingFor) }, 20*time.Second)
	began := r.Now()
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{adds, adds, adds, adds, givesBack}, w.Turns())
	require.Equal(t, "Wait for other runs of the target", doc.Steps[1].Name)
	require.Equal(t, run.Pass, doc.Steps[1].Verdict)
	require.Greater(t, r.Now().Sub(began), 2*time.Minute, "nobody asks all the time")
}

func TestARunThatIsCancelledWhileItWaitsForItsTurnGivesItBack(t *testing.T) {
	w := &proceduretest.World{}
	w.Keep(target.Answer{Why: "waits for a"})
	r := proceduretest.New(t, w)
	r.RegisterDelayedCallback(r.CancelWorkflow, 10*time.Second)
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Cancelled, doc.Outcome)
	require.Equal(t, []string{adds, givesBack}, w.Turns())
	require.NotContains(t, w.Calls(), postgres.TakeBackup)
	require.Equal(t, run.NotProven, doc.Steps[1].Verdict)
}

// TestATargetThatDoesNotAnswerParksTheRun until somebody has seen to it.
func TestATargetThatDoesNotAnswerParksTheRun(t *testing.T) {
	w := &proceduretest.World{}
	for range 12 {
		w.Fail(runs.AskLease, failure.New(failure.NoLease, "the workflow target-shop did not answer").Do("see to it"))
	}
	r := proceduretest.New(t, w)
	r.WhenWaiting(func(d run.Document) {
		require.Contains(t, d.WaitingFor, "target-shop did not answer; to mend it: see to it")
		r.Decide(run.RetryUpdate, run.Decision{})
	})
	doc := r.Do(backup, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, givesBack, w.Turns()[len(w.Turns())-1])
}
