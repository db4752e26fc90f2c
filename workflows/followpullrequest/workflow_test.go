package followpullrequest_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/github"
	api "github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

const (
	procedure = api.WorkflowType
	input     = `{"repository": "shop/web", "branch": "`
)

var proposal = pullrequest.Propose([]pullrequest.Change{{
	Dependency: dependency.Dependency{Manager: "gomod", File: "go.mod", Name: "example.com/a", Current: "v1.0.0", Written: "v1.0.0", Package: dependency.Package{Datasource: "goproxy", Name: "example.com/a", Versioning: "go"}},
	Update:     dependency.Update{Type: dependency.Patch, Version: "v1.0.1", Written: "v1.0.1"},
}}, nil)[0]

// hub is a GitHub that does at once what it is told, and where things happen each time the run waits.
type hub struct {
	*proceduretest.Run
	t     testing.TB
	world *proceduretest.World
	mu    sync.Mutex

	sight   github.Sight
	news    []func(*github.Sight) // what happens at the next waits; a person closes it when there is no more
	acts    []string
	fails   map[string][]error
	answers []api.Answer
	rejects []error
}

func newHub(t testing.TB, own ...any) *hub {
	t.Helper()
	w := &proceduretest.World{Repositories: []config.Repository{{GitHub: "shop/web", Rollout: config.RolloutOffer}}}
	h := &hub{Run: proceduretest.New(t, w, own...), t: t, world: w, fails: make(map[string][]error)}
	h.sight = github.Sight{Policy: pullrequest.Policy{Base: "main", Merge: []string{dependency.Patch}}, Seen: pullrequest.Seen{BaseHead: "tip"}}
	for name, fn := range map[string]any{
		github.Look: func(context.Context, github.BranchRequest) (github.Sight, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.sight, h.fail(github.Look)
		},
		github.Push: act(h, github.Push, func(o github.Order) github.Pushed {
			s := &h.sight.Seen
			require.Equal(t, s.Head, o.Choice.Expect)
			made := "on " + o.Choice.Base
			s.Head, s.Pushed, s.Parent, s.Changes, s.Checks = made, made, o.Choice.Base, o.Follower.Proposal.Hash(), pullrequest.Pending
			return github.Pushed{Commit: made}
		}),
		github.Ensure: act(h, github.Ensure, func(o github.Order) github.Pull {
			h.sight.Seen.Number, h.sight.Seen.Open, h.sight.Seen.BaseRef = 7, true, "main"
			return github.Pull{Number: 7}
		}),
		github.Leave: act(h, github.Leave, func(github.Order) struct{} { return struct{}{} }),
		github.Merge: act(h, github.Merge, func(o github.Order) struct{} {
			require.Equal(t, h.sight.Seen.Head, o.Choice.Expect)
			h.sight.Seen.Open, h.sight.Seen.Merged = false, true
			return struct{}{}
		}),
		github.Close: act(h, github.Close, func(github.Order) struct{} {
			h.sight.Seen.Open, h.sight.Seen.ClosedBy = false, "Upkeep"
			return struct{}{}
		}),
		github.Tidy: act(h, github.Tidy, func(github.Order) struct{} { return struct{}{} }),
		github.AwaitNews: act(h, github.AwaitNews, func(github.NewsRequest) struct{} {
			if len(h.news) == 0 {
				h.sight.Seen.Open, h.sight.Seen.ClosedBy = false, "ada"
				return struct{}{}
			}
			h.news[0](&h.sight)
			h.news = h.news[1:]
			return struct{}{}
		}),
	} {
		h.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return h
}

func (h *hub) fail(name string) error {
	errs := h.fails[name]
	if len(errs) == 0 {
		return nil
	}
	h.fails[name] = errs[1:]
	return errs[0]
}

func act[In, Out any](h *hub, name string, do func(In) Out) any {
	return func(_ context.Context, in In) (out Out, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := h.fail(name); err != nil {
			return out, err
		}
		h.acts = append(h.acts, name)
		return do(in), nil
	}
}

// order gives the run an order so long after its start.
func (h *hub) order(after time.Duration, f pullrequest.Follower) {
	h.RegisterDelayedCallback(func() {
		h.UpdateWorkflow(api.FollowUpdate, "", &testsuite.TestUpdateCallback{
			OnAccept: func() {},
			OnReject: func(err error) { h.rejects = append(h.rejects, err) },
			OnComplete: func(answer any, err error) {
				require.NoError(h.t, err)
				h.answers = append(h.answers, answer.(api.Answer))
			},
		}, f)
	}, after)
}

func (h *hub) follow() *run.Document { return h.Do(procedure, input+proposal.Branch+`"}`) }

// did lists what was done, without the waits.
func (h *hub) did() []string {
	return slices.DeleteFunc(slices.Clone(h.acts), func(a string) bool { return a == github.AwaitNews })
}

func checks(c pullrequest.Checks) func(*github.Sight) {
	return func(s *github.Sight) { s.Seen.Checks = c }
}

func TestAWholeLife(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.news = []func(*github.Sight){func(s *github.Sight) { s.Seen.BaseHead = "new" }, checks(pullrequest.Pending), checks(pullrequest.Passed)}
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{github.Push, github.Ensure, github.Push, github.Ensure, github.Merge, github.Tidy}, h.did())
	require.Equal(t, "shop/web#7: it is merged", doc.Summary)
	require.Equal(t, []api.Answer{{Number: 7, Act: pullrequest.Await, Why: "its checks run"}}, h.answers, "the scan hears of it when it stands")
	require.NotContains(t, string(doc.Result), "rollout", "the target has no release")
}

func TestWhatAPersonTouchesIsLeftAlone(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.news = []func(*github.Sight){
		func(s *github.Sight) { s.Seen.Head = "theirs" },
		func(s *github.Sight) { s.Seen.BaseHead = "new" },
		checks(pullrequest.Passed),
	}
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{github.Push, github.Ensure, github.Leave, github.Leave, github.Leave, github.Tidy}, h.did(), "each look may say it again, and it is there once")
}

func TestWhatIsNotWanted(t *testing.T) {
	h := newHub(t)
	h.sight.Seen.ClosedBy, h.sight.Seen.Mark = "ada", pullrequest.Mark{Means: proposal.Means()}
	h.order(0, pullrequest.Follower{Proposal: proposal})
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Empty(t, h.did())
	require.Equal(t, pullrequest.Refuse, h.answers[0].Act)
	require.Contains(t, h.answers[0].Why, "ada closed it")
}

func TestWhatIsNotNeededAnyMore(t *testing.T) {
	h := newHub(t)
	h.sight.Seen = pullrequest.Seen{Number: 7, Open: true, Head: "x", Pushed: "x", Parent: "tip", BaseHead: "tip", BaseRef: "main", Changes: proposal.Hash()}
	h.order(0, pullrequest.Follower{Proposal: pullrequest.Proposal{Branch: proposal.Branch}, Superseded: "the base has it"})
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{github.Close, github.Tidy}, h.did())
	require.Equal(t, pullrequest.Tidy, h.answers[0].Act)
}

func TestWhatHasChangedIsLookedAtAgain(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.fails[github.Push] = []error{failure.New(failure.BranchMoved, "moved")}
	h.fails[github.Merge] = []error{failure.New(failure.PullChanged, "the base has moved"), failure.New(failure.NotMergeable, "not now")}
	h.news = []func(*github.Sight){checks(pullrequest.Passed)}
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Equal(t, []string{github.Push, github.Ensure, github.Merge, github.Tidy}, h.did())
}

// A person may make the update on the base by hand, and then there is nothing to bring to the new base.
func TestWhatTheBaseHasIsClosedWithAWord(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.news = []func(*github.Sight){func(s *github.Sight) {
		s.Seen.BaseHead = "new"
		h.fails[github.Push] = []error{failure.New(failure.NotEditable, "example.com/a is v1.0.1")}
	}}
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{github.Push, github.Ensure, github.Close, github.Tidy}, h.did())
	require.Contains(t, doc.Summary, "main has moved")
}

func TestAnEditThatCannotBeMadeIsSaid(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.fails[github.Push] = []error{failure.New(failure.NotEditable, "it is written in an unusual way")}
	doc := h.follow()
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "unusual way")
	require.Empty(t, h.acts, "there is nothing to close")
}

func TestAStuckRunSaysSoAndGoesOnWithTheNextOrder(t *testing.T) {
	h := newHub(t)
	h.fails[github.Push] = []error{failure.New(failure.GitHubForbids, "the token may not push")}
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.order(time.Hour, pullrequest.Follower{Proposal: proposal})
	doc := h.follow()
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Contains(t, h.answers[0].Why, "the token may not push")
	require.Len(t, h.answers, 2)
	require.Equal(t, 7, h.answers[1].Number)
}

func TestOrdersThatAreNotItsOwn(t *testing.T) {
	h := newHub(t)
	h.order(0, pullrequest.Follower{Proposal: pullrequest.Proposal{Branch: "main"}})
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.order(0, pullrequest.Follower{Proposal: pullrequest.Proposal{Branch: "upkeep/patch/other"}})
	h.follow()
	require.Len(t, h.rejects, 2)
	require.ErrorContains(t, h.rejects[0], "no branch of Upkeep's")
	require.ErrorContains(t, h.rejects[1], "and no other")
}

func TestStartedByHand(t *testing.T) {
	for given, says := range map[string]string{
		input + proposal.Branch + `"}`:                                                 "nothing says what branch",
		`{"repository": "shop/web", "branch": "main"}`:                                 "no branch of Upkeep's",
		`{"repository": "shop/other", "branch": "upkeep/patch/a"}`:                     "no repository",
		`{"repository": "shop/web", "branch": "` + proposal.Branch + `", "brunch": 1}`: `did you mean "branch"?`,
	} {
		h := newHub(t)
		doc := h.Do(procedure, given)
		require.Equal(t, run.Refused, doc.Outcome)
		require.Contains(t, doc.Summary, says)
		require.Empty(t, h.acts)
	}
}

func TestADryRunOnlyLooks(t *testing.T) {
	h := newHub(t)
	h.sight.Seen = pullrequest.Seen{Number: 7, Open: true, Head: "x", Pushed: "y", BaseHead: "tip", BaseRef: "main"}
	doc := h.Do(procedure, `{"dryRun": true, "repository": "shop/web", "branch": "`+proposal.Branch+`"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Empty(t, h.acts)
	require.Contains(t, doc.Summary, "a person has pushed to its branch; next: leave")
}

func TestALongLifeHasParts(t *testing.T) {
	h := newHub(t)
	h.SetContinueAsNewSuggested(true)
	h.order(0, pullrequest.Follower{Proposal: proposal})
	h.news = []func(*github.Sight){checks(pullrequest.Pending)}
	h.ExecuteWorkflow(procedure, converter.NewRawValue(proceduretest.JSON(input+proposal.Branch+`"}`)))
	var again *workflow.ContinueAsNewError
	require.True(t, errors.As(h.GetWorkflowError(), &again), "%v", h.GetWorkflowError())
	var next api.Input
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	require.Equal(t, proposal.Hash(), next.Last.Proposal.Hash())

	second := newHub(t)
	second.sight = h.sight
	data, err := converter.GetDefaultDataConverter().ToPayload(next)
	require.NoError(t, err)
	doc := second.DoRaw(procedure, data)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, []string{github.Tidy}, second.did(), "it knows what it follows")
}
