package starter

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/progress"
)

func TestPrepare(t *testing.T) {
	for _, c := range []struct {
		name    string
		order   Order
		want    string
		refused string
	}{
		{name: "nothing said", order: Order{Procedure: "BackupDatabase"}, want: `{}`},
		{name: "flags", order: Order{Procedure: "BackupDatabase", Target: "shop", DryRun: true}, want: `{"target":"shop","dryRun":true}`},
		{name: "input and fields", order: Order{Procedure: "VerifyBackup", Input: []byte(`{"target":"a","grade":"stored"}`), Set: map[string]string{"grade": "decoded"}, Target: "a"}, want: `{"target":"a","grade":"decoded"}`},
		{name: "a field rules over the input", order: Order{Procedure: "BackupDatabase", Input: []byte(`{"target":"a","dryRun":false}`), Set: map[string]string{"target": "b", "dryRun": "true"}, Target: "b", DryRun: true}, want: `{"target":"b","dryRun":true}`},
		{name: "typed by the input", order: Order{Procedure: "BackupDatabase", Set: map[string]string{"dryRun": "true", "target": "true"}}, want: `{"dryRun":true,"target":"true"}`},
		{name: "null input", order: Order{Procedure: "BackupDatabase", Input: []byte("null\n"), Target: "a"}, want: `{"target":"a"}`},
		{name: "no name in the input", order: Order{Procedure: "BackupDatabase", Input: []byte(`{"target":""}`), Target: "a"}, want: `{"target":"a"}`},
		{name: "another target in a field", order: Order{Procedure: "BackupDatabase", Target: "a", Set: map[string]string{"target": "b"}}, refused: `--target says "a" and --set says the target is "b"`},
		{name: "another target in the input", order: Order{Procedure: "BackupDatabase", Target: "a", Input: []byte(`{"target":"b"}`)}, refused: `--target says "a" and --input says the target is "b"`},
		{name: "a dry run that a field calls real", order: Order{Procedure: "BackupDatabase", DryRun: true, Set: map[string]string{"dryRun": "false"}}, refused: "--dry-run and the dryRun of --set"},
		{name: "a dry run that the input calls real", order: Order{Procedure: "BackupDatabase", DryRun: true, Input: []byte(`{"dryRun":false}`)}, refused: "--dry-run and the dryRun of --input"},
		{name: "a password for a target", order: Order{Procedure: "BackupDatabase", Target: "host=x password = canary"}, refused: "target of --target cannot be one: a target's name must be of small letters"},
		{name: "any text for a target", order: Order{Procedure: "BackupDatabase", Target: "canary canary"}, refused: "target of --target"},
		{name: "any text for a target in a field", order: Order{Procedure: "BackupDatabase", Target: "a", Set: map[string]string{"target": "postgres://h/x?pass%77ord=canary"}}, refused: "target of --set"},
		{name: "any text for a target in the input", order: Order{Procedure: "BackupDatabase", Input: []byte(`{"target":"Canary's canary"}`)}, refused: "target of --input"},
		{name: "the folder of the runs for a target", order: Order{Procedure: "BackupDatabase", Target: "runs"}, refused: "must be another"},
		{name: "the id of what stands for a target", order: Order{Procedure: "BackupDatabase", ID: "target-shop"}, refused: "may not begin with target-"},
		{name: "unknown procedure", order: Order{Procedure: "backup-database"}, refused: `did you mean "BackupDatabase"?`},
		{name: "no procedure", order: Order{}, refused: "use one of: BackupDatabase"},
		{name: "unknown field", order: Order{Procedure: "DrillRecovery", Set: map[string]string{"backups": "latest"}}, refused: `did you mean "backup"?`},
		{name: "mistyped field", order: Order{Procedure: "DrillRecovery", Set: map[string]string{"dryRun": "yes"}}, refused: "true or false"},
		{name: "null field", order: Order{Procedure: "DrillRecovery", Input: []byte(`{"dryRun":null}`)}, refused: "null"},
		{name: "mistyped input", order: Order{Procedure: "DrillRecovery", Input: []byte(`{"dryRun":"true"}`)}, refused: "true or false"},
		{name: "a secret", order: Order{Procedure: "DrillRecovery", Set: map[string]string{"backup": "postgres://u:canary@h/d"}}, refused: "holds a password"},
		{name: "a hidden secret", order: Order{Procedure: "DrillRecovery", Input: []byte(`{"backup":"postgres://u:canary\u0040h/d"}`)}, refused: "holds a password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, common, err := Prepare(c.order)
			if c.refused != "" {
				require.True(t, failure.Is(err, failure.BadInput), "%v", err)
				require.ErrorContains(t, err, c.refused)
				require.NotContains(t, err.Error(), "canary")
				return
			}
			require.NoError(t, err)
			require.JSONEq(t, c.want, string(got))
			var want run.Common
			require.NoError(t, json.Unmarshal([]byte(c.want), &want))
			require.Equal(t, want, common)
		})
	}
}

func TestIDsSayWhatTheyAre(t *testing.T) {
	for _, p := range procedures.All() {
		require.Regexp(t, regexp.MustCompile(`^[a-z]+(-[a-z]+)+-shop-\d{8}-\d{6}-[a-z0-9]{4}$`), newID(p.Name, "shop"))
	}
	require.Regexp(t, `^drill-recovery-\d{8}-\d{6}-[a-z0-9]{4}$`, newID("DrillRecovery", ""))
	require.NotEqual(t, newID("DrillRecovery", "shop"), newID("DrillRecovery", "shop"))
}

func TestHoldsSecret(t *testing.T) {
	for text, want := range map[string]bool{
		"postgres://u:p@h/d": true, "postgresql://:p@h": true, "s3://key:secret@bucket": true, "host=h password=p": true, "postgres://h/d?sslmode=require&password=p": true,
		"host=h password = p": true, "host=h PASSWORD\t=p": true, "PGPASSWORD=p": true, "postgres://h/d?pass%77ord=p": true, "postgres://h/d?password%3Dp&x=100%": true, "postgres%3A//u%3Ap%40h/d": true,
		"postgres://h/d?pass%2577ord=p": true, "postgres://h/d?sslpassword=p": true, "the password is mended": false, "passwordFrom=x": false, "100%25 = all": false, strings.Repeat("%25", 99): false,
		"postgres://u@h:5432/d": false, "http://h:1/a@b": false, "--config": false, "it is 12:30 @home": false, "s3://bucket?region=eu": false,
	} {
		require.Equal(t, want, HoldsSecret(text), text)
	}
}

// call runs the command line where no Temporal is.
func call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	t.Setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
	var stdout, stderr bytes.Buffer
	code = Main(t.Context(), args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestATextThatIsNoTargetIsRefusedAndNotRepeated(t *testing.T) {
	input := filepath.Join(t.TempDir(), "input.json")
	require.NoError(t, os.WriteFile(input, []byte(`{"target":"my canary"}`), 0o600))
	for _, args := range [][]string{
		{"--target", "host=x password = canary"}, {"--target", "postgres://h/x?pass%77ord=canary"}, {"--target", "my canary"},
		{"--set", "target=my canary"}, {"--input", input}, {"--target", "shop", "--input", input},
	} {
		code, out, errOut := call(t, append([]string{"run", "BackupDatabase", "-o", "json"}, args...)...)
		require.Equal(t, ExitUsage, code, "%v: %s", args, errOut)
		require.NotContains(t, out+errOut, "canary")
		require.Contains(t, out, `"outcome":"Refused"`)
	}
}

func TestAnOutcomeThatThereIsNotIsRefused(t *testing.T) {
	for text, want := range map[string]string{"Wating": `did you mean "Waiting"?`, "Succeded": `did you mean "Succeeded"?`, "foo": "use one of: Running, Waiting"} {
		code, out, errOut := call(t, "runs", "--outcome", text)
		require.Equal(t, ExitUsage, code, errOut)
		require.Empty(t, out)
		require.Contains(t, errOut, want)
	}
	code, _, errOut := call(t, "runs", "--procedure", "Drill")
	require.Equal(t, ExitUsage, code, errOut)
	require.Contains(t, errOut, "DrillRecovery")
	_, err := (&Starter{}).Runs(t.Context(), Filter{Outcome: "waiting", Procedure: "none"})
	require.ErrorContains(t, err, `procedure "none"`, "another case is the same outcome")
}

func TestExitCodes(t *testing.T) {
	for want, doc := range map[int]run.Document{
		ExitSucceeded: {Outcome: run.Succeeded}, ExitPartially: {Outcome: run.PartiallySucceeded}, ExitFailed: {Outcome: run.Failed},
		ExitCancelled: {Outcome: run.Cancelled}, ExitRefused: {Outcome: run.Refused, Error: &run.Error{Class: string(failure.NotFound)}},
		ExitUsage: {Outcome: run.Refused, Error: &run.Error{Class: string(failure.InvalidInput)}},
	} {
		require.Equal(t, want, ExitCode(&doc), doc.Outcome)
	}
}

func TestJSONIsAskedFor(t *testing.T) {
	for text, want := range map[string]bool{
		"show x -o json": true, "show x -ojson": true, "--output json runs": true, "runs --output=json": true, "runs -o=json": true,
		"show x": false, "show json": false, "show x -o text": false, "show x -o": false,
	} {
		require.Equal(t, want, asksForJSON(strings.Fields(text)), text)
	}
}

func TestARunWithoutADocumentIsShown(t *testing.T) {
	doc := fromInfo(&workflowpb.WorkflowExecutionInfo{Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING})
	require.Equal(t, run.Running, doc.Outcome)
	require.NotNil(t, doc.Steps)
	require.JSONEq(t, "{}", string(doc.Result))
}

func TestProgressIsSaidOnce(t *testing.T) {
	var out bytes.Buffer
	l := &live{out: &out, began: time.Now()}
	doc := &run.Document{RunID: "r", Outcome: run.Running, Summary: "Back up the database", Steps: []run.Step{{Name: "Back up the database"}}}
	l.show(doc, nil)
	l.show(doc, &progress.Progress{Phase: "copying rows", Done: 5, Total: 10, Unit: "rows"})
	require.Equal(t, "    0:00  Back up the database\n", out.String(), "progress is sparse where there is no terminal")

	out.Reset()
	doc.Steps[0].Verdict, doc.Steps[0].Seconds, doc.Steps[0].Detail = run.Pass, 2, "of \x1b[2Jevil\nname"
	doc.Outcome, doc.WaitingFor = run.Waiting, "the disk is full"
	l.show(doc, nil)
	l.show(doc, nil)
	require.Equal(t, 1, strings.Count(out.String(), "Back up the database: PASS in 2.0 s"))
	require.Equal(t, 1, strings.Count(out.String(), "the disk is full"))
	require.Contains(t, out.String(), "upkeep resume r")
	require.NotContains(t, out.String(), "\x1b")
}

func TestNobodyIsWaitedForUnattended(t *testing.T) {
	dir := t.TempDir()
	data, err := json.Marshal(run.Document{RunID: "r", Outcome: run.Waiting, WaitingFor: "the disk is full"})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "runs", "r"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "runs", "r", "run.json"), data, 0o600))
	s := &Starter{Store: func(context.Context) (*config.Config, error) { return &config.Config{Store: "file://" + dir}, nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	doc, err := FollowUnattended(ctx, s, "r", &out)
	require.NoError(t, err)
	require.Equal(t, run.Waiting, doc.Outcome)
	require.Contains(t, out.String(), "the disk is full")
}

func TestProgressOnATerminalIsOneLine(t *testing.T) {
	var out bytes.Buffer
	l := &live{out: &out, width: 60, began: time.Now()}
	doc := &run.Document{Outcome: run.Running, Summary: "Restore", Steps: []run.Step{{Name: "Restore"}}}
	p := &progress.Progress{Phase: "loading rows", Done: 3 << 20, Total: 12 << 20, Unit: "bytes", Note: strings.Repeat("table", 40)}
	l.show(doc, p)
	l.show(doc, p)
	require.NotContains(t, out.String(), "\n")
	for _, line := range strings.Split(out.String(), "\r\033[K") {
		require.LessOrEqual(t, len([]rune(line)), 60)
	}
	require.Contains(t, out.String(), "25%, 3.0 MiB of 12.0 MiB")
	l.phaseAt = time.Now().Add(-10 * time.Second)
	p.Done += 3 << 20
	require.Regexp(t, `6\.0 MiB of 12\.0 MiB, (30\d|2\d\d)\.\d KiB/s, about 0:[23]\d to go`, l.measure(*p))
}

func TestAnEventIsOneRun(t *testing.T) {
	id := func(input string) string { return eventID("ContainIncident", json.RawMessage(input)) }
	one := id(`{"target":"shop","event":"e-1","pods":"a"}`)
	require.NotEmpty(t, one)
	require.Equal(t, one, id(`{"target":"shop","event":"e-1","pods":"b"}`))
	require.NotEqual(t, one, id(`{"target":"other","event":"e-1","pods":"a"}`))
	require.Empty(t, id(`{"target":"shop","pods":"a"}`), "the same suspects may be suspected again")
	require.Empty(t, id(`{"target":"shop","event":"e-1","dryRun":true}`))
	require.Empty(t, eventID("BackupDatabase", json.RawMessage(`{"event":"e-1"}`)))
}
