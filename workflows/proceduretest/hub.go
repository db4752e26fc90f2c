package proceduretest

import (
	"context"

	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// Proposal is what the world's repository should have.
var Proposal = pullrequest.Propose([]pullrequest.Change{{
	Dependency: dependency.Dependency{Manager: "gomod", File: "go.mod", Name: "example.com/a", Current: "v1.0.0", Written: "v1.0.0", Package: dependency.Package{Datasource: dependency.SourceGo, Name: "example.com/a", Versioning: dependency.VersioningGo}},
	Update:     dependency.Update{Type: dependency.Patch, Version: "v1.0.1", Written: "v1.0.1"},
}}, nil)[0]

// Hub is the world's GitHub, with one pull request. Each time its run waits, something happens: its checks pass,
// and it is merged; or, Touched, a person pushes to its branch and then closes it.
type Hub struct {
	Touched bool
	sight   github.Sight
}

// RegisterHub registers the activities of the world's GitHub.
func (w *World) RegisterHub(s sdkworker.ActivityRegistry) {
	seen := func() *pullrequest.Seen { return &w.Hub.sight.Seen }
	for name, fn := range map[string]any{
		github.Scan: answer(w, github.Scan, func(github.ScanRequest) github.Scanned {
			return github.Scanned{Base: "main", Head: "c0ffee", Proposals: []pullrequest.Proposal{Proposal}, Standing: []pullrequest.Standing{}}
		}),
		runs.HandOver: answer(w, runs.HandOver, func(runs.HandOverRequest) followpullrequest.Answer {
			return followpullrequest.Answer{Number: 7, Act: pullrequest.Await, Why: "its checks run"}
		}),
		runs.Rollouts: answer(w, runs.Rollouts, func(runs.RolloutsRequest) []pullrequest.Line {
			return []pullrequest.Line{{What: "run rollout", Why: "it goes on"}}
		}),
		github.Dashboard: answer(w, github.Dashboard, func(github.DashboardRequest) int { return 3 }),
		github.Look: answer(w, github.Look, func(github.BranchRequest) github.Sight {
			w.Hub.sight.Policy = pullrequest.Policy{Base: "main", Merge: []string{dependency.Patch}}
			seen().BaseHead = "tip"
			return w.Hub.sight
		}),
		github.Push: answer(w, github.Push, func(o github.Order) github.Pushed {
			s := seen()
			s.Head, s.Pushed, s.Parent, s.Changes, s.Checks = "made", "made", o.Choice.Base, o.Follower.Proposal.Hash(), pullrequest.Pending
			return github.Pushed{Commit: "made"}
		}),
		github.Ensure: answer(w, github.Ensure, func(github.Order) github.Pull {
			seen().Number, seen().Open, seen().BaseRef = 7, true, "main"
			return github.Pull{Number: 7}
		}),
		github.AwaitNews: answer(w, github.AwaitNews, func(github.NewsRequest) struct{} {
			s := seen()
			switch {
			case !w.Hub.Touched:
				s.Checks = pullrequest.Passed
			case s.Head == s.Pushed:
				s.Head = "theirs"
			default:
				s.Open, s.ClosedBy = false, "ada"
			}
			return struct{}{}
		}),
		github.Merge: answer(w, github.Merge, func(github.Order) struct{} {
			seen().Open, seen().Merged = false, true
			return struct{}{}
		}),
		github.Leave: nothing(w, github.Leave), github.Close: nothing(w, github.Close), github.Tidy: nothing(w, github.Tidy),
	} {
		s.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
}

// nothing is an activity of which only the call counts.
func nothing(w *World, activityType string) any {
	return func(ctx context.Context, _ github.Order) error { return w.enter(ctx, activityType) }
}
