package updatedependencies_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	api "github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/workflows/proceduretest"
)

// site is a target with two repositories, and what was ordered and written.
type site struct {
	*proceduretest.Run
	mu      sync.Mutex
	world   *proceduretest.World
	found   github.Scanned
	scans   []github.ScanRequest
	orders  []runs.HandOverRequest
	answers map[string]followpullrequest.Answer // by branch
	fails   map[string]error
	boards  []pullrequest.Dashboard
	asked   []runs.RolloutsRequest
}

func newSite(t *testing.T) *site {
	t.Helper()
	w := &proceduretest.World{Repositories: []config.Repository{{GitHub: "shop/web", Limits: pullrequest.Limits{Open: 2, PerHour: 2}}}}
	s := &site{Run: proceduretest.New(t, w), world: w, answers: make(map[string]followpullrequest.Answer), fails: make(map[string]error)}
	var changes []pullrequest.Change
	for _, name := range []string{"a", "b", "c"} {
		changes = append(changes, pullrequest.Change{
			Dependency: dependency.Dependency{Manager: "npm", File: "package.json", Name: name, Current: "1.0.0", Written: "1.0.0", Package: dependency.Package{Name: name}},
			Update:     dependency.Update{Type: dependency.Patch, Version: "1.0.1", Written: "1.0.1"},
		})
	}
	s.found = github.Scanned{Base: "main", Head: "c0ffee", Proposals: pullrequest.Propose(changes, nil), Young: []pullrequest.Line{{What: "d"}}, Plan: "file:///plan"}
	for name, fn := range map[string]any{
		github.Scan: func(_ context.Context, in github.ScanRequest) (github.Scanned, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.scans = append(s.scans, in)
			return s.found, nil
		},
		runs.HandOver: func(_ context.Context, in runs.HandOverRequest) (followpullrequest.Answer, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.orders = append(s.orders, in)
			branch := in.Order.Proposal.Branch
			if err := s.fails[branch]; err != nil {
				return followpullrequest.Answer{}, err
			}
			if a, ok := s.answers[branch]; ok {
				return a, nil
			}
			return followpullrequest.Answer{Number: 7, Act: pullrequest.Await, Why: "its checks run"}, nil
		},
		runs.Rollouts: func(_ context.Context, in runs.RolloutsRequest) ([]pullrequest.Line, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked = append(s.asked, in)
			return []pullrequest.Line{{What: "run rollout", Why: "it goes on"}}, s.fails[runs.Rollouts]
		},
		github.Dashboard: func(_ context.Context, in github.DashboardRequest) (int, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.boards = append(s.boards, in.Dashboard)
			return 3, nil
		},
	} {
		s.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return s
}

func (s *site) do(t *testing.T, input string) (*run.Document, api.Result) {
	t.Helper()
	doc := s.Do(api.WorkflowType, input)
	var result api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &result))
	return doc, result
}

func TestItHandsOverAndEnds(t *testing.T) {
	s := newSite(t)
	doc, result := s.do(t, `{}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "2 updates are handed over to pull requests, and 1 wait for a limit, in 1 repositories", doc.Summary)
	require.Len(t, s.orders, 2)
	require.Len(t, result.Repositories[0].Limited, 1)
	require.Equal(t, 3, result.Repositories[0].Dashboard)
	require.Equal(t, []pullrequest.Line{{Number: 7, What: "chore(deps): update a to 1.0.1", Why: "its checks run"}, {Number: 7, What: "chore(deps): update b to 1.0.1", Why: "its checks run"}}, s.boards[0].Open)
	require.Len(t, s.boards[0].Young, 1)
	require.Contains(t, s.world.Turns(), "asks for exclusive updates")
}

func TestADryRunHandsNothingOver(t *testing.T) {
	s := newSite(t)
	s.found.Proposals = append(s.found.Proposals, major())
	s.found.Diffs = map[string]string{s.found.Proposals[0].Branch: "-1.0.0\n+1.0.1\n"}
	doc, result := s.do(t, `{"dryRun": true, "type": "patch"}`)
	require.Equal(t, run.Succeeded, doc.Outcome)
	require.Empty(t, s.orders)
	require.Empty(t, s.boards)
	require.Empty(t, s.world.Turns())
	require.Len(t, result.Repositories[0].Proposed, 2, "the major update is for another run")
	require.True(t, s.scans[0].Diffs)
	require.Equal(t, "-1.0.0\n+1.0.1\n", result.Repositories[0].Proposed[0].Diff)
}

// major is a proposal of another type.
func major() pullrequest.Proposal {
	return pullrequest.Propose([]pullrequest.Change{{
		Dependency: dependency.Dependency{Manager: "npm", File: "package.json", Name: "z", Current: "1.0.0", Written: "1.0.0", Package: dependency.Package{Name: "z"}},
		Update:     dependency.Update{Type: dependency.Major, Version: "2.0.0", Written: "2.0.0"},
	}}, nil)[0]
}

// TestTheDashboardForgetsNothing: a run for one type of updates writes down what stands and waits of the others.
func TestTheDashboardForgetsNothing(t *testing.T) {
	s := newSite(t)
	s.found.Proposals = append(s.found.Proposals, major())
	s.found.Standing = []pullrequest.Standing{{Branch: "upkeep/major/y", Number: 5, Title: "y to 2"}}
	s.do(t, `{"type": "patch"}`)
	require.Len(t, s.orders, 2-1, "one place of two is taken")
	require.Equal(t, pullrequest.Line{Number: 5, What: "y to 2"}, s.boards[0].Open[0])
	require.Contains(t, s.boards[0].Limited, pullrequest.Line{What: "chore(deps): update z to 2.0.0", Why: "a run that looks for major updates proposes it"})
}

func TestOneThatIsStuckKeepsNoOtherWaiting(t *testing.T) {
	s := newSite(t)
	s.fails[s.found.Proposals[0].Branch] = failure.New(failure.NoAnswer, "it does not answer")
	s.answers[s.found.Proposals[1].Branch] = followpullrequest.Answer{Act: pullrequest.Refuse, Why: "ada closed it"}
	doc, result := s.do(t, `{}`)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Contains(t, result.Repositories[0].Proposed[0].Why, "does not answer")
	require.Equal(t, "ada closed it", s.boards[0].Refused[0].Why)
}

func TestWhatIsNotNeededAnyMoreIsEnded(t *testing.T) {
	s := newSite(t)
	s.found.Standing = []pullrequest.Standing{{Branch: "upkeep/patch/old", Number: 5}, {Branch: "upkeep/major/old", Number: 6}, {Branch: s.found.Proposals[2].Branch, Number: 7}}
	s.do(t, `{"type": "patch"}`)
	var ended []string
	for _, o := range s.orders {
		if o.Order.Superseded != "" {
			ended = append(ended, o.Order.Proposal.Branch)
		}
	}
	require.Equal(t, []string{"upkeep/patch/old"}, ended, "majors were not looked for")
}

// TestTheDashboardTellsOfRollouts where there is a release, and the policy rolls out.
func TestTheDashboardTellsOfRollouts(t *testing.T) {
	for _, c := range []struct {
		policy string
		fails  error
		told   []pullrequest.Line
	}{
		{config.RolloutStart, nil, []pullrequest.Line{{What: "run rollout", Why: "it goes on"}}},
		{config.RolloutOffer, nil, []pullrequest.Line{{What: "run rollout", Why: "it goes on"}}},
		{config.RolloutOffer, failure.New(failure.NoAnswer, "no list"), []pullrequest.Line{{What: "not known", Why: "no list"}}},
		{config.RolloutNever, nil, nil},
	} {
		s := newSite(t)
		s.world.Rollout, s.fails[runs.Rollouts] = &config.Rollout{}, c.fails
		s.world.Repositories[0].Rollout = c.policy
		doc, _ := s.do(t, `{}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, c.told, s.boards[0].Rollouts)
		if c.told != nil {
			require.Equal(t, runs.RolloutsRequest{Target: "shop"}, s.asked[0])
		}
	}
}

func TestBadInput(t *testing.T) {
	for input, says := range map[string]string{
		`{"type": "pacth"}`:           `did you mean "patch"?`,
		`{"repository": "shop/webb"}`: `did you mean "shop/web"?`,
		`{"repo": "shop/web"}`:        "unknown",
	} {
		s := newSite(t)
		doc, _ := s.do(t, input)
		require.Equal(t, run.Refused, doc.Outcome)
		require.Contains(t, doc.Summary, says)
		require.Empty(t, s.scans)
	}
	s := newSite(t)
	s.world.Repositories = nil
	doc, _ := s.do(t, `{}`)
	require.Equal(t, run.Refused, doc.Outcome)
	require.Contains(t, doc.Summary, "has no repositories")
}
