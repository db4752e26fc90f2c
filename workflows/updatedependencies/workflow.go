// Package updatedependencies is the procedure UpdateDependencies.
package updatedependencies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/github"
	"github.com/upkeep-run/upkeep/activities/runs"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	api "github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Workflow finds updates, hands them over, and ends.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

func body(r *procedure.Run, in api.Input) error {
	if in.Type != "" && !slices.Contains(dependency.Types, in.Type) {
		return strictjson.Unknown("type", in.Type, dependency.Types)
	}
	repositories, err := chosen(r, in.Repository)
	if err != nil {
		return err
	}
	if !r.DryRun() {
		if err := r.Turn(procedure.Exclude(target.Updates)); err != nil {
			return err
		}
	}
	result := api.Result{Repositories: []api.Repository{}}
	for _, repository := range repositories {
		s := &scan{r: r, in: in, told: make(map[string]bool), place: github.Place{Target: r.Target().Name, Store: r.Target().Store, Repository: repository}}
		s.out = api.Repository{Name: repository.GitHub, Proposed: []api.Proposed{}}
		err := s.run()
		result.Repositories = append(result.Repositories, s.out)
		r.SetResult(result)
		if err != nil {
			return err
		}
	}
	say(r, result)
	return nil
}

func chosen(r *procedure.Run, name string) ([]config.Repository, error) {
	all := r.Repositories()
	if len(all) == 0 {
		return nil, failure.New(failure.BadConfig, "target %s has no repositories in the configuration", r.Target().Name).
			Do("name them with repositories: [{github: owner/name, tokenFrom: ...}] in upkeep.yaml, and start a new run")
	}
	if name == "" {
		return all, nil
	}
	var names []string
	for _, repository := range all {
		if strings.EqualFold(repository.GitHub, name) {
			return []config.Repository{repository}, nil
		}
		names = append(names, repository.GitHub)
	}
	return nil, strictjson.Unknown("repository", name, names)
}

// scan is the work on one repository.
type scan struct {
	r     *procedure.Run
	in    api.Input
	place github.Place
	found github.Scanned
	board pullrequest.Dashboard
	out   api.Repository
	told  map[string]bool // the branches whose pull requests the run has heard of
}

func (s *scan) run() error {
	name := s.place.Repository.GitHub
	request := github.ScanRequest{Place: s.place, RunID: s.r.ID(), Diffs: s.r.DryRun()}
	if err := s.r.Do(step("Look for updates in "+name, github.Scan, procedure.Long), request, &s.found); err != nil {
		return err
	}
	s.r.Detail(fmt.Sprintf("%d updates to propose, %d too young, %d not proposed, %d not read or not looked up", len(s.found.Proposals), len(s.found.Young), len(s.found.Held), len(s.found.Unread)))
	s.out.Base, s.out.Plan = s.found.Head, s.found.Plan
	s.out.Young, s.out.Held, s.out.Unread = len(s.found.Young), len(s.found.Held), len(s.found.Unread)
	s.board = pullrequest.Dashboard{Young: s.found.Young, Held: s.found.Held, Unread: s.found.Unread}
	admitted, limited := pullrequest.Admit(s.wanted(), s.found.Standing, s.place.Repository.Limits, s.r.Now())
	s.out.Limited = limited
	for _, w := range limited {
		s.board.Limited = append(s.board.Limited, pullrequest.Line{What: w.Title, Why: w.Why})
	}
	if s.r.DryRun() {
		for _, p := range admitted {
			s.out.Proposed = append(s.out.Proposed, api.Proposed{Branch: p.Branch, Title: p.Title, Type: p.Type, Diff: s.found.Diffs[p.Branch]})
		}
		return nil
	}
	for _, p := range admitted {
		if err := s.handOver(pullrequest.Follower{Proposal: p}); err != nil {
			return err
		}
	}
	if err := s.endObsolete(); err != nil {
		return err
	}
	for _, o := range s.found.Standing { // of other types: the dashboard forgets none
		if !s.told[o.Branch] && o.Number != 0 {
			s.board.Open = append(s.board.Open, pullrequest.Line{Number: o.Number, What: o.Title})
		}
	}
	if err := s.seeRollouts(); err != nil {
		return err
	}
	slices.SortStableFunc(s.board.Open, func(a, b pullrequest.Line) int { return cmp.Compare(a.Number, b.Number) })
	return s.r.Do(step("Write the dashboard of "+name, github.Dashboard, procedure.Quick), github.DashboardRequest{Place: s.place, Dashboard: s.board}, &s.out.Dashboard)
}

// seeRollouts puts down how the merged updates are rolled out. That it is not known now is no fault of the updates.
func (s *scan) seeRollouts() error {
	policy := s.place.Repository.Rollout
	if s.r.Rollout() == nil || policy != config.RolloutOffer && policy != config.RolloutStart {
		return nil
	}
	err := s.r.Try(step("Look at the rollouts of what was merged", runs.Rollouts, procedure.Waiting), runs.RolloutsRequest{Target: s.place.Target}, &s.board.Rollouts)
	if procedure.GivenUp(err) {
		return err
	}
	if err != nil {
		s.board.Rollouts = []pullrequest.Line{{What: "not known", Why: procedure.What(err)}}
	}
	return nil
}

// wanted are the proposals of the types that the run is for. The others are for a run of theirs.
func (s *scan) wanted() (all []pullrequest.Proposal) {
	for _, p := range s.found.Proposals {
		stands := slices.ContainsFunc(s.found.Standing, func(o pullrequest.Standing) bool { return o.Branch == p.Branch && o.Number != 0 })
		switch {
		case s.in.Type == "" || p.Type == s.in.Type:
			all = append(all, p)
		case !stands:
			s.board.Limited = append(s.board.Limited, pullrequest.Line{What: p.Title, Why: "a run that looks for " + p.Type + " updates proposes it"})
		}
	}
	return all
}

// endObsolete ends pull requests that propose what is needed no more.
func (s *scan) endObsolete() error {
	var types []string
	if s.in.Type != "" {
		types = []string{s.in.Type}
	}
	for _, o := range pullrequest.Obsolete(s.found.Standing, s.found.Proposals, types) {
		if slices.ContainsFunc(s.out.Limited, func(w pullrequest.Waiting) bool { return w.Branch == o.Branch }) {
			continue
		}
		f := pullrequest.Follower{Proposal: pullrequest.Proposal{Branch: o.Branch, Title: o.Title}, Superseded: "nothing is left to update here: the base has it, or another pull request proposes more"}
		if err := s.handOver(f); err != nil {
			return err
		}
	}
	return nil
}

// handOver gives an order to the run of a pull request. That this run cannot do it now is its own matter:
// one that is stuck keeps no other waiting.
func (s *scan) handOver(order pullrequest.Follower) error {
	p := order.Proposal
	s.told[p.Branch] = true
	request := runs.HandOverRequest{Target: s.place.Target, Repository: s.place.Repository.GitHub, Order: order, Key: s.r.Key() + "/" + p.Branch}
	hand := procedure.Step{Name: "Hand over: " + p.Title, Activity: runs.HandOver, Options: procedure.Waiting, Queue: run.CodeQueue}
	var answer followpullrequest.Answer
	if err := s.r.Try(hand, request, &answer); err != nil {
		if procedure.GivenUp(err) {
			return err
		}
		s.r.Judge(run.NotProven)
		answer = followpullrequest.Answer{Act: pullrequest.Await, Why: procedure.What(err)}
	} else {
		s.r.Mark(run.Pass, answer.Why)
	}
	s.out.Proposed = append(s.out.Proposed, api.Proposed{Branch: p.Branch, Title: p.Title, Type: p.Type, Number: answer.Number, Act: answer.Act, Why: answer.Why})
	line := pullrequest.Line{Number: answer.Number, What: p.Named(), Why: answer.Why}
	switch answer.Act {
	case pullrequest.Refuse, pullrequest.Leave:
		s.board.Refused = append(s.board.Refused, line)
	case pullrequest.Tidy, pullrequest.Close:
	default:
		s.board.Open = append(s.board.Open, line)
	}
	return nil
}

func say(r *procedure.Run, result api.Result) {
	proposed, limited := 0, 0
	for _, repository := range result.Repositories {
		proposed += len(repository.Proposed)
		limited += len(repository.Limited)
	}
	if r.DryRun() {
		r.Say("dry run: %d updates would be proposed, and %d would wait for a limit, in %d repositories", proposed, limited, len(result.Repositories))
		return
	}
	r.Say("%d updates are handed over to pull requests, and %d wait for a limit, in %d repositories", proposed, limited, len(result.Repositories))
}

func step(name, activity string, o procedure.Options) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: o, Queue: run.CodeQueue}
}
