package doctor_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/doctor"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestACheckBecomesAFinding(t *testing.T) {
	doctor.Hurry(t, 50*time.Millisecond)
	never := make(chan struct{})
	for _, c := range []struct {
		name  string
		check func(context.Context) (string, error)
		want  doctor.Finding
	}{
		{"it passes", func(context.Context) (string, error) { return "there", nil },
			doctor.Finding{Check: run.Check{Verdict: run.Pass, Detail: "there"}}},
		{"it fails by the catalogue", func(context.Context) (string, error) {
			return "", failure.New(failure.DiskFull, "the disk is full").Because(errors.New("no space")).Do("free some, then resume the run")
		}, doctor.Finding{Check: run.Check{Verdict: run.Fail, Detail: "the disk is full: no space"}, Code: failure.DiskFull, Remedy: "free some"}},
		{"it fails otherwise", func(context.Context) (string, error) { return "", errors.New("oh") },
			doctor.Finding{Check: run.Check{Verdict: run.Fail, Detail: "oh"}, Remedy: "see that it is there and can be reached from this machine"}},
		{"it is in doubt", func(context.Context) (string, error) {
			return "", &doctor.Doubt{Found: "who knows", Remedy: "ask", Optional: true}
		}, doctor.Finding{Check: run.Check{Verdict: run.NotProven, Detail: "who knows", Optional: true}, Remedy: "ask"}},
		{"it is late", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() },
			doctor.Finding{Check: run.Check{Verdict: run.NotProven, Detail: "it could not be seen within 50ms"}, Remedy: "look again when the machine and the server have less to do"}},
		{"it hangs", func(context.Context) (string, error) { <-never; return "", nil },
			doctor.Finding{Check: run.Check{Verdict: run.NotProven, Detail: "it could not be seen within 50ms"}, Remedy: "look again when the machine and the server have less to do"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &doctor.List{Subject: "it"}
			require.Equal(t, c.want.Verdict == run.Pass, l.Look(t.Context(), "works", c.check))
			c.want.Subject, c.want.Name = "it", "works"
			require.Equal(t, []doctor.Finding{c.want}, l.Findings)
		})
	}
	l := &doctor.List{Subject: "it"}
	require.False(t, l.Reach(t.Context(), "answers", func(context.Context) (string, error) { <-never; return "", nil }))
	require.Equal(t, run.Fail, l.Findings[0].Verdict, "silence is an answer")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, l.Reach(cancelled, "answers", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }))
	require.Equal(t, run.NotProven, l.Findings[1].Verdict, "a person broke it off")
}

func TestReport(t *testing.T) {
	pass := doctor.Finding{Subject: "store", Check: run.Check{Name: "opens", Verdict: run.Pass, Detail: "file:///backups"}}
	optional := doctor.Finding{Subject: "target shop: database", Check: run.Check{Name: "encryption", Verdict: run.NotProven, Detail: "none", Optional: true}, Remedy: "turn it on"}
	unproven := doctor.Finding{Subject: "store", Check: run.Check{Name: "free space", Verdict: run.NotProven, Detail: "maybe enough"}, Remedy: "free some"}
	fail := doctor.Finding{Subject: "target shop: database", Check: run.Check{Name: "connection", Verdict: run.Fail, Detail: "refused"}, Code: failure.WrongPassword, Remedy: "check it"}
	for _, c := range []struct {
		verdict  run.Verdict
		findings []doctor.Finding
	}{
		{run.Pass, []doctor.Finding{pass, optional}},
		{run.NotProven, []doctor.Finding{pass, unproven, optional}},
		{run.Fail, []doctor.Finding{pass, unproven, fail, optional}},
		{run.NotProven, nil},
	} {
		require.Equal(t, c.verdict, doctor.NewReport(c.findings).Verdict)
	}
	r := doctor.NewReport([]doctor.Finding{pass, unproven, fail, optional})
	r.Machine, r.User = "box", "anna"
	var text strings.Builder
	r.Text(&text)
	require.Equal(t, `store
  PASS        opens: file:///backups
  NOT_PROVEN  free space: maybe enough
target shop: database
  FAIL        connection: WrongPassword: refused
  NOT_PROVEN  encryption: none (not required)

To do:
  1. store, free space: free some
  2. target shop: database, connection: check it
  3. target shop: database, encryption: turn it on

FAIL: of 4 checks 1 are PASS, 1 FAIL, 1 NOT_PROVEN, and 1 that are not required are NOT_PROVEN
Looked from machine box as OS user anna. What a worker elsewhere, or with another environment, would find may differ: run it where the worker runs.
`, text.String())
}
