//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// TestWhatIsUndoneWhilePeopleAreWaitedForIsDoneAgain: of the pod, of its policy and of its account, and by a worker
// that takes the place of one that was killed too.
func TestWhatIsUndoneWhilePeopleAreWaitedForIsDoneAgain(t *testing.T) {
	t.Parallel()
	here := setSmall(t)
	s := harness.New(t, fmt.Sprintf(withAccess, here, "upkeep:"+imageTag()))
	w := serve(t, s, "w")
	id := s.Start(t, api.WorkflowType, `{"reason":"it fights back","pods":"intruder","access":"withdraw"}`)
	asked := time.Time{}
	asks := func() *run.Document {
		t.Helper()
		doc := s.Until(t, id, func(d *run.Document) bool {
			return d.Outcome.Ended() || d.AsksApproval() && d.Approval.AskedAt.After(asked)
		})
		require.True(t, doc.AsksApproval(), doc.Summary)
		asked = doc.Approval.AskedAt
		return doc
	}
	var found api.Result
	require.NoError(t, json.Unmarshal(asks().Result, &found))

	cutOff := func() error {
		label, err := here.Kubectl("get", "pod", "intruder", "-o", `jsonpath={.metadata.labels['upkeep\.run/quarantine']}`)
		if err == nil && strings.TrimSpace(label) != found.Case {
			err = errors.New("the pod is at large")
		}
		return err
	}
	denied := func() error {
		policies, err := here.Kubectl("get", "networkpolicies", quarantine.DenyName(found.Case), "--ignore-not-found", "-o", "name")
		if err == nil && strings.TrimSpace(policies) == "" {
			err = errors.New("no policy denies it anything")
		}
		return err
	}
	require.NoError(t, cutOff())
	require.NoError(t, denied())
	again := func(how func() error) { t.Helper(); require.NoError(t, until(time.Minute, how)) }

	letGo(t, here)
	again(cutOff)
	doc := asks()
	require.NoError(t, json.Unmarshal(doc.Result, &found))
	require.Contains(t, fmt.Sprint(found.Remarks), "somebody has taken the quarantine's label from pod "+string(here)+"/intruder")

	// From now on it goes on for a minute before it asks anew.
	_, err := here.Kubectl("delete", "networkpolicies", quarantine.DenyName(found.Case))
	require.NoError(t, err)
	again(denied)
	_, err = here.Kubectl("patch", "rolebinding", "reads", "--type=json", "-p", `[{"op":"add","path":"/subjects/-","value":{"kind":"ServiceAccount","name":"intruder","namespace":"`+string(here)+`"}}]`)
	require.NoError(t, err)
	again(func() error {
		if who := bound(t, here); who != "friend" {
			return errors.New("bound are " + who)
		}
		return nil
	})
	doc = asks()
	require.NoError(t, json.Unmarshal(doc.Result, &found))
	require.Len(t, found.Remarks, 1, "%q", found.Remarks)
	require.Contains(t, found.Remarks[0], "it was undone ")

	w.Kill()
	letGo(t, here)
	serve(t, s, "next")
	again(cutOff)

	decides(t, s, id, run.ApproveUpdate, "")
	doc = s.Await(t, id)
	require.NoError(t, json.Unmarshal(doc.Result, &found))
	require.Equal(t, api.Deleted, found.Ended, doc.Summary)
	require.NotContains(t, shapes(t, here, "db", "neighbour"), "quarantine")
	require.Equal(t, "friend", bound(t, here))
}

// letGo takes the quarantine's label from the intruder, as somebody would who can.
func letGo(t *testing.T, here stack.Namespace) {
	t.Helper()
	_, err := here.Kubectl("label", "pod", "intruder", quarantine.Label+"-", "access=db")
	require.NoError(t, err)
}
