package updates

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

const hookSecret = "what GitHub signs with"

// takeWebhooks starts `upkeep webhooks`, which ends with the test, and returns its address.
func (s *site) takeWebhooks(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.Config)
	require.NoError(t, err)
	text = append(text, "webhooks: {listen: '127.0.0.1:0', secretFrom: {env: HOOK}}\n"...)
	require.NoError(t, os.WriteFile(s.Config, text, 0o600))
	cmd := exec.Command(harness.Binary(t, "github.com/upkeep-run/upkeep/cmd/upkeep", ""), "webhooks")
	cmd.Env = []string{"HOME=" + s.Dir, "TEMPORAL_ADDRESS=" + s.Temporal.Address, "UPKEEP_CONFIG=" + s.Config, "HOOK=" + hookSecret}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := new(bytes.Buffer)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), "told to stop, it ends well")
		require.NotContains(t, said.String(), hookSecret)
		if t.Failed() {
			t.Logf("upkeep webhooks: %s", said)
		}
	})
	require.NoError(t, err, said)
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "taking webhooks at ")
	require.True(t, ok, line)
	return url
}

// events counts what has happened to a run, by kind.
func (s *site) events(t *testing.T, id string) map[enumspb.EventType]int {
	t.Helper()
	count := make(map[enumspb.EventType]int)
	for all := s.Client.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); all.HasNext(); {
		e, err := all.Next()
		require.NoError(t, err)
		count[e.GetEventType()]++
	}
	return count
}

// runs counts all runs there have been.
func (s *site) runs(t *testing.T) int64 {
	t.Helper()
	c, err := s.Client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default"})
	require.NoError(t, err)
	return c.GetCount()
}

const signalled = enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED

// TestWebhooksWakeARun lives a pull request's life with nothing but what GitHub sends: the base moves, a check
// passes, it is merged.
func TestWebhooksWakeARun(t *testing.T) {
	s := newSite(t)
	s.github.Webhook(s.takeWebhooks(t), hookSecret)
	s.Worker(t, "w", s.env...)
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	id := s.follower(t)
	_, first := s.branch(t)
	before := s.events(t, id)[signalled]

	s.repo.Push("main", "ada", "docs", map[string]string{"README.md": "A shop.\n"})
	require.Eventually(t, func() bool { _, now := s.branch(t); return now != first }, harness.Patience, 100*time.Millisecond, "a push to the base wakes it")
	s.until(t, pullrequest.Await, "")
	require.NoError(t, s.github.Wait(t.Context()))
	require.Greater(t, s.events(t, id)[signalled], before)

	_, second := s.branch(t)
	green := time.Now()
	s.repo.SetCheck(second, "unit", "completed", "success")
	end := s.Await(t, id)
	require.Equal(t, run.Succeeded, end.Outcome, end.Summary)
	require.True(t, s.one(t).Merged)
	t.Logf("merged and ended %s after its check has passed", time.Since(green).Round(time.Millisecond))
	require.NoError(t, s.github.Wait(t.Context()))
	for _, d := range s.github.Deliveries() {
		require.Equal(t, http.StatusAccepted, d.Status, "%s: %.200s", d.Event, d.Payload)
	}
	require.NotZero(t, s.events(t, id)[enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED], "what waited for news was told to look")
	require.Empty(t, s.github.Violations())
}

// TestLookingIsEnough merges without any webhook, by requests that cost nothing as long as nothing changes.
func TestLookingIsEnough(t *testing.T) {
	s := newSite(t)
	s.Worker(t, "w", s.env...)
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	_, sha := s.branch(t)
	green := time.Now()
	s.repo.SetCheck(sha, "unit", "completed", "success")
	end := s.Await(t, s.follower(t))
	require.Equal(t, run.Succeeded, end.Outcome, end.Summary)
	require.True(t, s.one(t).Merged)
	t.Logf("merged and ended %s after its check has passed", time.Since(green).Round(time.Millisecond))
	require.Zero(t, s.events(t, s.follower(t))[signalled])
}

// TestWebhooksThatWakeNobody sends what is forged, altered, replayed, too large or about nobody.
func TestWebhooksThatWakeNobody(t *testing.T) {
	s := newSite(t)
	url := s.takeWebhooks(t)
	s.Worker(t, "w", s.env...)
	require.Equal(t, run.Succeeded, s.Run(t, update, `{}`).Outcome)
	branch, sha := s.branch(t)
	id := s.follower(t)
	s.github.Webhook(url, hookSecret)
	s.repo.SetCheck(sha, "lint", "completed", "neutral") // no success, so it is looked at and stays as it is
	require.NoError(t, s.github.Wait(t.Context()))
	genuine := s.github.Deliveries()[0]
	require.Equal(t, "check_run", genuine.Event)
	require.Equal(t, http.StatusAccepted, genuine.Status)
	require.Contains(t, string(genuine.Payload), branch)
	woken, runs := s.events(t, id)[signalled], s.runs(t)
	require.NotZero(t, woken)

	send := func(d githubtest.Delivery, change func(*http.Request)) int {
		r := githubtest.NewRequest(url, hookSecret, d)
		if change != nil {
			change(r)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil { // it does not read what is too much
			return http.StatusRequestEntityTooLarge
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	fresh := func(payload string) githubtest.Delivery {
		return githubtest.Delivery{ID: "fresh-" + sha[:8] + "-" + time.Now().Format("150405.000000000")[7:], Event: "check_run", Payload: []byte(payload)}
	}
	other := genuine
	other.ID = "11111111-242f-11e5-81e1-c7b6966d2516"
	require.Equal(t, http.StatusUnauthorized, send(fresh(string(genuine.Payload)+" "), func(r *http.Request) {
		r.Header.Set("X-Hub-Signature-256", githubtest.Sign("a guess", append(genuine.Payload, ' ')))
	}), "forged")
	require.Equal(t, http.StatusUnauthorized, send(other, func(r *http.Request) {
		altered := bytes.Replace(genuine.Payload, []byte("neutral"), []byte("success"), 1)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(altered)), int64(len(altered))
	}), "altered")
	require.Equal(t, http.StatusConflict, send(genuine, nil), "replayed")
	require.Equal(t, http.StatusConflict, send(other, nil), "replayed under another id, which is not signed")
	require.Equal(t, http.StatusRequestEntityTooLarge, send(fresh(`{"a":"`+strings.Repeat("x", 26<<20)+`"}`), nil), "too large")
	require.Equal(t, http.StatusAccepted, send(fresh(`{"repository":{"full_name":"octo/other","default_branch":"main"},"check_run":{"check_suite":{"head_branch":"upkeep/x"}}}`), nil), "of a repository that no target has")
	require.Equal(t, http.StatusAccepted, send(fresh(`{"repository":{"full_name":"octo/shop","default_branch":"main"},"check_run":{"check_suite":{"head_branch":"upkeep/patch/none"}}}`), nil), "of a pull request that nobody follows")
	require.Equal(t, http.StatusAccepted, send(fresh(`{"repository":{"full_name":"octo/shop","default_branch":"main"},"check_run":{"check_suite":{"head_branch":"ada/own"}}}`), nil), "of a person's branch")
	require.Equal(t, woken, s.events(t, id)[signalled], "nobody was woken")
	require.Equal(t, runs, s.runs(t), "nothing was started")
	require.False(t, s.one(t).Merged)
}
