package starter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/mocks"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/crypto/ssh/agent"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/approval/approvaltest"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/report"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

// asker is a Temporal with one run that waits for a decision, and judges it as a run does.
type asker struct {
	*Starter
	policy approval.Policy
	doc    run.Document
	sent   []run.PlanDecision
	worker bool // there is one that answers
	large  bool // the memo holds no plan
}

func newAsker(t *testing.T, policy approval.Policy) *asker {
	t.Helper()
	plan := json.RawMessage(`{"pods":["web-1"]}`)
	sum := sha256.Sum256(plan)
	now := time.Now()
	a := &asker{policy: policy, doc: run.Document{RunID: "r", Procedure: "ContainIncident", Target: "shop", Outcome: run.Waiting, WaitingFor: "an approval", Approval: &run.Approval{
		Plan: plan, Hash: hex.EncodeToString(sum[:]), Words: "delete web-1", AskedAt: now, ExpiresAt: now.Add(time.Hour), Quorum: policy.Quorum, Signed: policy.Signed,
	}}}
	c := &mocks.Client{}
	c.On("DescribeWorkflowExecution", mock.Anything, "r", "").Return(func(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
		shown, asks := a.doc, *a.doc.Approval
		if shown.Approval = &asks; a.large {
			asks.Plan = nil
		}
		p, err := converter.GetDefaultDataConverter().ToPayload(shown)
		return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: "r"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
			Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{run.MemoDocument: p}},
		}}, err
	})
	c.On("QueryWorkflow", mock.Anything, "r", "", run.StatusQuery).Return(func(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
		if !a.worker {
			return nil, errors.New("no worker")
		}
		p, err := converter.GetDefaultDataConverter().ToPayloads(a.doc)
		return client.NewValue(p), err
	}).Maybe()
	c.On("UpdateWorkflow", mock.Anything, mock.Anything).Return(func(_ context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
		d := o.Args[0].(run.PlanDecision)
		a.sent = append(a.sent, d)
		decided, err := a.policy.Judge(a.doc, map[string]string{run.ApproveUpdate: run.Approved, run.RejectUpdate: run.Rejected}[o.UpdateName], d, now)
		if f, ok := failure.As(err); ok {
			return nil, temporal.NewApplicationErrorWithOptions(err.Error(), string(f.Code), temporal.ApplicationErrorOptions{
				Details: []any{run.Error{Code: string(f.Code), Class: string(f.Class()), What: f.What, Remedy: f.Remedy}}})
		}
		a.doc.Approval.Decisions = append(a.doc.Approval.Decisions, decided)
		if decided.Decision == run.Rejected || a.doc.Approval.Missing() <= 0 {
			a.doc.Approval.Decision, a.doc.Outcome = decided.Decision, run.Running
		}
		h := &mocks.WorkflowUpdateHandle{}
		h.On("Get", mock.Anything, mock.Anything).Return(nil)
		return h, nil
	})
	a.Starter = &Starter{Client: c}
	return a
}

// decide gives the run a decision, as the command line does.
func (a *asker) decide(t *testing.T, v planDecision) (does, out string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	v.id = "r"
	if v.Reason == "" {
		v.Reason = "seen to"
	}
	does, err = (&cli{out: &stdout, err: &stderr, output: "text"}).decideOnPlan(t.Context(), a.Starter, v)
	return does, stdout.String(), err
}

func TestTheFirstOfTwoIsToldThatAnotherIsMissing(t *testing.T) {
	a := newAsker(t, approval.Policy{Quorum: 2})
	does, _, err := a.decide(t, planDecision{approve: true, PlanDecision: run.PlanDecision{By: "ann"}})
	require.NoError(t, err)
	require.Equal(t, "has the approval: 1 of 2 approved by ann, as claimed; waits for one more", does)
	_, _, err = a.decide(t, planDecision{approve: true, PlanDecision: run.PlanDecision{By: "ann"}})
	require.True(t, failure.Is(err, failure.NotWaiting), "%v", err)
	require.ErrorContains(t, err, "have somebody else approve it")
	does, _, err = a.decide(t, planDecision{approve: true, PlanDecision: run.PlanDecision{By: "bob"}})
	require.NoError(t, err)
	require.Equal(t, "applies its plan", does)
	require.Len(t, a.sent, 3)
	a = newAsker(t, approval.Policy{Quorum: 2})
	does, _, err = a.decide(t, planDecision{})
	require.NoError(t, err)
	require.Equal(t, "gives up and undoes what it did", does)
	require.Equal(t, osUser(), a.sent[0].By)
}

func TestSignWithAFile(t *testing.T) {
	ann, eve := approvaltest.New(t, "ann"), approvaltest.New(t, "eve")
	a := newAsker(t, approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}})
	t.Setenv("SSH_AUTH_SOCK", "")
	_, _, err := a.decide(t, planDecision{approve: true})
	require.True(t, failure.Is(err, failure.BadSignature), "%v", err)
	require.ErrorContains(t, err, "--sign-with KEYFILE")
	require.Empty(t, a.sent, "it is not even asked")
	_, _, err = a.decide(t, planDecision{approve: true, signWith: eve.File("")})
	require.True(t, failure.Is(err, failure.BadSignature), "%v", err)
	require.ErrorContains(t, err, "none of those that count")
	_, _, err = a.decide(t, planDecision{approve: true, signWith: ann.File(""), PlanDecision: run.PlanDecision{Plan: strings.Repeat("0", 64)}})
	require.ErrorContains(t, err, "and not with 0000")
	does, _, err := a.decide(t, planDecision{approve: true, signWith: ann.File(""), PlanDecision: run.PlanDecision{Plan: a.doc.Approval.Hash[:12]}})
	require.NoError(t, err)
	require.Equal(t, "applies its plan", does)
	require.Empty(t, a.sent[len(a.sent)-1].By, "whose key it is says the policy")
	require.Equal(t, "ann", a.doc.Approval.Decisions[0].By)
}

func TestNothingIsSignedUnseen(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	a := newAsker(t, approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}})
	a.doc.Approval.Plan = json.RawMessage(`{"pods":["another"]}`)
	for _, v := range []planDecision{{approve: true, signWith: ann.File("")}, {approve: true, print: true}} {
		_, out, err := a.decide(t, v)
		require.ErrorContains(t, err, "its hash is not of")
		require.Empty(t, out)
	}
	require.Empty(t, a.sent)
	a = newAsker(t, approval.Policy{Quorum: 1})
	_, _, err := a.decide(t, planDecision{approve: true, signWith: ann.File("")})
	require.True(t, failure.Is(err, failure.BadSignature), "%v", err)
	require.ErrorContains(t, err, "takes no signatures")
	require.Empty(t, a.sent)
}

// TestAPlanThatIsTooLargeForTheMemo is asked of the run itself, and where that cannot answer nobody signs it.
func TestAPlanThatIsTooLargeForTheMemo(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	a := newAsker(t, approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}})
	a.large = true
	a.doc.Approval.Stored = "file:///plans/r"
	doc, err := a.Show(t.Context(), "r")
	require.NoError(t, err)
	require.Contains(t, report.Text(*doc), "it is stored as file:///plans/r")
	_, _, err = a.decide(t, planDecision{approve: true, signWith: ann.File("")})
	require.ErrorContains(t, err, "so nothing is signed")
	require.Empty(t, a.sent)
	a.worker = true
	doc, err = a.Show(t.Context(), "r")
	require.NoError(t, err)
	require.Contains(t, report.Text(*doc), `{"pods":["web-1"]}`)
	does, _, err := a.decide(t, planDecision{approve: true, signWith: ann.File("")})
	require.NoError(t, err)
	require.Equal(t, "applies its plan", does)
}

// TestSignElsewhere prints what is to be signed, has ssh-keygen sign it, and hands that in.
func TestSignElsewhere(t *testing.T) {
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen here")
	}
	ann := approvaltest.New(t, "ann")
	a := newAsker(t, approval.Policy{Quorum: 1, Signed: true, Keys: []approval.Key{ann.Key()}})
	_, out, err := a.decide(t, planDecision{approve: true, print: true})
	require.NoError(t, err)
	require.Empty(t, a.sent)
	file := filepath.Join(t.TempDir(), "decision")
	require.NoError(t, os.WriteFile(file, []byte(out), 0o600))
	said, err := exec.CommandContext(t.Context(), program, "-Y", "sign", "-n", approval.Namespace, "-f", ann.File(""), file).CombinedOutput()
	require.NoError(t, err, "%s", said)
	_, _, err = a.decide(t, planDecision{approve: true, signature: file + ".sig", PlanDecision: run.PlanDecision{Reason: "another"}})
	require.ErrorContains(t, err, "of something else")
	_, _, err = a.decide(t, planDecision{signature: file + ".sig"})
	require.ErrorContains(t, err, "or of the opposite")
	does, _, err := a.decide(t, planDecision{approve: true, signature: file + ".sig"})
	require.NoError(t, err)
	require.Equal(t, "applies its plan", does)
	_, _, err = newAsker(t, a.policy).decide(t, planDecision{approve: true, signature: filepath.Join(t.TempDir(), "absent")})
	require.ErrorContains(t, err, "--signature")
	require.Equal(t, ExitUsage, exitCode(err))
}

// agentOf is an SSH agent that holds these people's keys.
func agentOf(t *testing.T, people ...approvaltest.Person) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, p := range people {
		private := p.Private()
		require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: &private}))
	}
	dir, err := os.MkdirTemp("", "agent") // the path of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(ring, conn) // until the other side has what it wants
			_ = conn.Close()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
}

func TestSignWithAnAgent(t *testing.T) {
	ann, bob := approvaltest.New(t, "ann"), approvaltest.New(t, "bob")
	message := []byte("a message")
	signs := func(file string) error {
		text, err := signWith(t.Context(), file, message)
		if err != nil {
			require.Equal(t, ExitUsage, exitCode(err))
			return err
		}
		s, err := sshsig.Parse(text)
		require.NoError(t, err)
		require.Equal(t, ann.Public(), s.Key)
		require.True(t, s.Verify(approval.Namespace, message))
		return nil
	}
	plain, encrypted := ann.File(""), ann.File("canary passphrase")
	t.Setenv("SSH_AUTH_SOCK", "")
	require.NoError(t, signs(plain))
	for _, file := range []string{plain + ".pub", encrypted} {
		require.ErrorContains(t, signs(file), "SSH_AUTH_SOCK names none", "an encrypted key is for the agent")
	}
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(t.TempDir(), "absent"))
	require.ErrorContains(t, signs(encrypted), "does not answer")
	agentOf(t, bob)
	require.ErrorContains(t, signs(plain+".pub"), "does not sign")
	agentOf(t, bob, ann)
	for _, file := range []string{plain, plain + ".pub", encrypted} {
		require.NoError(t, signs(file))
	}
}

func TestWhatCannotSign(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	for file, says := range map[string]string{
		filepath.Join(dir, "absent"): "no such file",
		dir:                          "is a directory",
		write("huge", strings.Repeat("x", maxKeyFile+1)):     "more than",
		write("text", "hunter2"):                             "neither an ssh-ed25519 key",
		write("rsa.pub", "ssh-rsa AAAAB3NzaC1yc2E= hunter2"): "neither an ssh-ed25519 key",
	} {
		_, err := signWith(t.Context(), file, []byte("m"))
		require.ErrorContains(t, err, says)
		require.Equal(t, ExitUsage, exitCode(err))
		require.NotContains(t, err.Error(), "hunter2")
	}
	if program, err := exec.LookPath("ssh-keygen"); err == nil {
		file := filepath.Join(dir, "ecdsa")
		out, err := exec.CommandContext(t.Context(), program, "-q", "-t", "ecdsa", "-N", "", "-f", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, err = signWith(t.Context(), file, []byte("m"))
		require.ErrorContains(t, err, "only keys of the type ssh-ed25519 count")
	}
}

func TestFlagsOfADecision(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"approve", "r"}, "--reason must say why"},
		{[]string{"approve", "r", "--reason", "x", "--plan", "00"}, "--plan must be the plan's hash"},
		{[]string{"approve", "r", "--reason", "x", "--print", "--sign-with", "key"}, "give one of"},
		{[]string{"approve", "r", "--reason", "x", "--print", "--signature", "s"}, "give one of"},
		{[]string{"reject", "r", "--reason", "x", "--sign-with", "key", "--signature", "s"}, "give one of"},
		{[]string{"reject", "r", "--reason", "x", "--print", "--wait"}, "--print decides nothing"},
	} {
		code, _, errOut := call(t, c.args...)
		require.Equal(t, ExitUsage, code, errOut)
		require.Contains(t, errOut, c.says)
	}
}
