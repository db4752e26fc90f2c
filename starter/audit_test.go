package starter

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/mocks"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/audit"
)

func kept(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestAnchorsAreReadAsTheyWerePrinted reads every form of them, and says of what is none where it stands.
func TestAnchorsAreReadAsTheyWerePrinted(t *testing.T) {
	first, second := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	want := []audit.Anchor{{Seq: 7, Hash: first}, {Seq: 12, Hash: second}}
	document := `{"checkpoints":12,"runs":9,"anchor":{"seq":12,"hash":"` + second + `"},"against":[],"keys":[],"findings":[],"notProven":["x"]}`
	for name, text := range map[string]string{
		"objects":        `{"seq":7,"hash":"` + first + `"}` + "\n" + `{"seq":12,"hash":"` + second + `"}`,
		"printed lines":  `anchor: {"seq":7,"hash":"` + first + `"}` + "\r\n\n  " + `anchor: {"seq":12,"hash":"` + second + `"}` + "\n",
		"a document":     `{"seq":7,"hash":"` + first + `"}` + "\n" + document + "\n",
		"many lines":     "{\n \"seq\": 7,\n \"hash\": \"" + first + "\"\n}\n" + strings.ReplaceAll(document, ",", ",\n  "),
		"without breaks": `{"seq":7,"hash":"` + first + `"}` + document,
	} {
		got, err := readAnchors(kept(t, text))
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for name, c := range map[string]struct{ text, says string }{
		"nothing":          {"\n \n", "holds no anchor"},
		"other text":       {`{"seq":7,"hash":"` + first + `"}` + "\nPASS\n", "at line 2 of"},
		"an empty store's": {`{"checkpoints":0,"anchor":{"seq":0,"hash":""}}`, "at line 1 of"},
		"no hash":          {`{"seq":7,"hash":"ab"}`, "at line 1 of"},
		"another type":     {"\n\n" + `anchor: {"seq":"7","hash":"` + first + `"}`, "at line 3 of"},
		"a list":           {`[{"seq":7,"hash":"` + first + `"}]`, "at line 1 of"},
		"cut off":          {`anchor: {"seq":7,"ha`, "at line 1 of"},
		"too much":         {strings.Repeat(" ", maxAnchors+1), "has more than"},
	} {
		_, err := readAnchors(kept(t, c.text))
		require.ErrorAs(t, err, &usage{}, name)
		require.ErrorContains(t, err, c.says, name)
	}
}

// TestBadArgumentsOfAnAuditAreUsage says what is wrong before anything is looked at, and repeats no key.
func TestBadArgumentsOfAnAuditAreUsage(t *testing.T) {
	good := strings.Repeat("0aF3", 16)
	keys, err := readKeys([]string{good})
	require.NoError(t, err)
	require.Equal(t, []string{strings.ToLower(good)}, keys)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--key", "3b6a27"}, "--key: number 1 is no public key of 64 hex digits, as \"upkeep audit verify\" prints them: it has 6 characters"},
		{[]string{"--key", good, "--key", good[:62] + "zz"}, "--key: number 2 is no public key of 64 hex digits, as \"upkeep audit verify\" prints them: it has other characters than hex digits"},
		{[]string{"--key", ""}, "it has 0 characters"},
		{[]string{"--anchors", filepath.Join(t.TempDir(), "absent")}, "--anchors: open"},
		{[]string{"--anchors", kept(t, "x")}, "there is no anchor such as"},
	} {
		var out, errOut bytes.Buffer
		require.Equal(t, ExitUsage, Main(context.Background(), append([]string{"audit", "verify"}, c.args...), &out, &errOut), "%v", c.args)
		require.Contains(t, errOut.String(), c.says)
		require.NotContains(t, errOut.String(), good[:62])
		require.Empty(t, out.String())
	}
}

// TestEndedRunsAreBounded asks a server that knows more runs than are looked at.
func TestEndedRunsAreBounded(t *testing.T) {
	document := func(d run.Document) *commonpb.Memo {
		p, err := converter.GetDefaultDataConverter().ToPayload(d)
		require.NoError(t, err)
		return &commonpb.Memo{Fields: map[string]*commonpb.Payload{run.MemoDocument: p}}
	}
	d := run.Document{Outcome: run.Refused, Summary: "no", Report: "file:///s/r", Audit: &run.Audit{Entries: 3, Head: "ab", Checkpoint: &run.Checkpoint{Seq: 7, Hash: "cd"}}}
	page := make([]*workflowpb.WorkflowExecutionInfo, 200)
	for i := range page {
		page[i] = &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: "r"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, Memo: document(d),
		}
	}
	c := &mocks.Client{}
	c.On("ListWorkflow", mock.Anything, mock.Anything).Return(&workflowservice.ListWorkflowExecutionsResponse{Executions: page, NextPageToken: []byte("more")}, nil)
	h, err := (&Starter{Client: c}).ended(t.Context())
	require.NoError(t, err)
	require.True(t, h.More)
	require.Len(t, h.Ended, maxListed)
	require.Equal(t, audit.Ended{
		Run: "r", Outcome: "Refused", Why: "no", Report: "file:///s/r", Head: &audit.Head{Entries: 3, Head: "ab"}, Checkpoint: &audit.Anchor{Seq: 7, Hash: "cd"},
	}, h.Ended[0])
}
