package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
)

// Called is what a call of the command line left.
type Called struct {
	Code     int
	Out, Err string
}

// Command prepares a call of the command line, in an environment of its own: more is added to it, and
// stands against what is there already.
func (s *Stack) Command(t testing.TB, more []string, args ...string) (cmd *exec.Cmd, out, errOut *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep", ""), args...)
	cmd.Env = append([]string{"HOME=" + s.Dir, "TEMPORAL_ADDRESS=" + s.Temporal.Address, "UPKEEP_CONFIG=" + s.Config}, more...)
	cmd.Dir = s.Dir
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, errOut
	return cmd, out, errOut
}

// Upkeep calls the command line as a person does, and waits for its end.
func (s *Stack) Upkeep(t testing.TB, args ...string) Called {
	t.Helper()
	cmd, out, errOut := s.Command(t, nil, args...)
	return Finish(t, cmd.Run(), cmd, out, errOut)
}

// Finish is what a call left that has ended with the error.
func Finish(t testing.TB, err error, cmd *exec.Cmd, out, errOut *bytes.Buffer) Called {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return Called{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// Document reads the one document on stdout, and checks that every key is there.
func (c Called) Document(t testing.TB) *run.Document {
	t.Helper()
	var keys map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(c.Out), &keys), "stdout %q, stderr %q", c.Out, c.Err)
	for _, key := range []string{"runId", "procedure", "target", "outcome", "summary", "waitingFor", "steps", "report", "result"} {
		require.Contains(t, keys, key)
	}
	var doc run.Document
	require.NoError(t, json.Unmarshal([]byte(c.Out), &doc))
	return &doc
}
