// Package followpullrequest is the procedure FollowPullRequest.
package followpullrequest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/github"
	api "github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

const (
	// firstOrder is how long a run waits to be told what it is for.
	firstOrder = time.Minute
	// stepsShown is how many steps are shown of a run that may take thousands.
	stepsShown = 30
	// mostActs bounds what is done without anything to wait for between: each act should bring the pull
	// request nearer to where nothing is to be done.
	mostActs = 20
)

// follower is one run.
type follower struct {
	r      *procedure.Run
	place  github.Place
	state  pullrequest.Follower
	result api.Result
	orders int  // that have come
	done   int  // of them
	woken  bool // something happened on GitHub
	over   bool
}

// Workflow follows a pull request.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	f := &follower{}
	if err := f.listen(ctx); err != nil { // before anything blocks: it is started with its first order
		return nil, err
	}
	return procedure.Execute(ctx, api.WorkflowType, input, second, f.body)
}

func (f *follower) listen(ctx workflow.Context) error {
	woken := workflow.GetSignalChannel(ctx, api.WakeSignal)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for woken.Receive(ctx, nil) {
			f.wake("news from GitHub")
		}
	})
	return workflow.SetUpdateHandlerWithOptions(ctx, api.FollowUpdate,
		func(ctx workflow.Context, order pullrequest.Follower) (api.Answer, error) {
			f.state = order
			f.orders++
			mine := f.orders
			f.wake("a new order")
			err := workflow.Await(ctx, func() bool { return f.over || f.done >= mine || f.r != nil && f.r.Parked() != "" })
			a := api.Answer{Number: f.result.Number, Act: f.result.Act, Why: f.result.Why}
			if f.done < mine && !f.over {
				a = api.Answer{Number: f.result.Number, Act: pullrequest.Await, Why: "the run waits: " + f.r.Parked()}
			}
			return a, err
		},
		workflow.UpdateHandlerOptions{
			Description: "Say what the pull request is to propose, or that it is not needed any more.",
			Validator: func(order pullrequest.Follower) error {
				switch {
				case f.over:
					return fmt.Errorf("the run is at its end; ask again")
				case !pullrequest.Ours(order.Proposal.Branch):
					return fmt.Errorf("%.100q is no branch of Upkeep's", order.Proposal.Branch)
				case f.state.Proposal.Branch != "" && f.state.Proposal.Branch != order.Proposal.Branch:
					return fmt.Errorf("the run follows the branch %s, and no other", f.state.Proposal.Branch)
				}
				return nil
			},
		})
}

func (f *follower) wake(why string) {
	f.woken = true
	if f.r != nil {
		f.r.Nudge(why)
	}
}

func (f *follower) body(r *procedure.Run, in api.Input) error {
	defer func() { f.over = true }()
	f.r = r
	at := slices.IndexFunc(r.Repositories(), func(o config.Repository) bool { return strings.EqualFold(o.GitHub, in.Repository) })
	if at < 0 {
		return failure.New(failure.BadInput, "target %s has no repository %.140q", r.Target().Name, in.Repository).Do("name one of its repositories in upkeep.yaml, as owner/name")
	}
	if !pullrequest.Ours(in.Branch) {
		return failure.New(failure.BadInput, "%.100q is no branch of Upkeep's", in.Branch).Do("start UpdateDependencies instead: it starts this procedure for each of its pull requests")
	}
	f.place = github.Place{Target: r.Target().Name, Store: r.Target().Store, Repository: r.Repositories()[at]}
	f.result.Repository, f.result.Branch = f.place.Repository.GitHub, in.Branch
	if in.Last != nil && f.orders == 0 {
		f.state = *in.Last
	}
	if r.DryRun() {
		return f.foresee()
	}
	if f.state.Proposal.Branch == "" {
		ordered, err := r.Await(firstOrder, func() bool { return f.orders > 0 })
		if err != nil {
			return err
		}
		if !ordered {
			return failure.New(failure.BadInput, "nothing says what branch %s is to propose", in.Branch).Do("start UpdateDependencies instead: it starts this procedure for each of its pull requests")
		}
	}
	if f.state.Proposal.Branch != in.Branch {
		return failure.New(failure.BadInput, "the run of branch %s was told to follow %s", in.Branch, f.state.Proposal.Branch)
	}
	for {
		over, err := f.settle()
		if over || err != nil {
			return err
		}
		if r.HistoryIsLong() {
			last := f.state
			in.Last = &last
			return r.Again(in)
		}
	}
}

// settle does what is to be done until there is something to wait for, and waits for it.
func (f *follower) settle() (over bool, err error) {
	for acts := 0; ; acts++ {
		f.r.KeepSteps(stepsShown)
		f.woken = false
		order := f.orders
		sight, choice, err := f.look()
		if err != nil {
			return false, err
		}
		switch choice.Act {
		case pullrequest.Tidy, pullrequest.Refuse:
			return true, f.end(sight, choice)
		case pullrequest.Await, pullrequest.Leave:
			if choice.Act == pullrequest.Leave {
				if err := f.do("Say that it is left alone", github.Leave, sight, choice, nil); err != nil && !outdated(err) {
					return false, err
				}
			}
			f.done = order
			f.r.Say("%s: %s", f.name(), choice.Why)
			return false, f.watch(sight)
		}
		if acts == mostActs {
			err := failure.New(failure.StillFailing, "%s is not where it should be after %d steps", f.name(), acts).Do("see who else changes it, then resume the run")
			if err := f.r.Wait(err); err != nil {
				return false, err
			}
			acts = 0
		}
		if err := f.act(sight, choice); err != nil && !outdated(err) && !f.moot(err, sight) {
			return false, err
		}
	}
}

// moot reports whether what stands cannot be brought to the newest base any more, as when a person has made the
// update there by hand: the pull request is closed then, with that word, and the next scan proposes what is left.
func (f *follower) moot(err error, sight github.Sight) bool {
	if !procedure.HasCode(err, failure.NotEditable) || sight.Seen.Head == "" || f.state.Superseded != "" {
		return false
	}
	f.state.Superseded = sight.Policy.Base + " has moved, and what this updates is not there any more as it was"
	return true
}

// look sees how the pull request stands, and what is next.
func (f *follower) look() (sight github.Sight, choice pullrequest.Choice, err error) {
	err = f.r.Do(step("Look at the pull request", github.Look, procedure.Patient), github.BranchRequest{Place: f.place, Branch: f.result.Branch}, &sight)
	if err != nil {
		return sight, choice, err
	}
	choice = pullrequest.Next(f.state, sight.Seen, sight.Policy)
	f.r.Detail(choice.Why)
	f.result.Title, f.result.Number, f.result.Link = f.state.Proposal.Title, sight.Seen.Number, sight.Link
	f.result.Act, f.result.Why, f.result.Merged = choice.Act, choice.Why, sight.Seen.Merged
	f.r.SetResult(f.result)
	return sight, choice, nil
}

// act does what was decided. What has changed since makes it a PlanVoid, and is looked at anew.
func (f *follower) act(sight github.Sight, choice pullrequest.Choice) error {
	switch choice.Act {
	case pullrequest.Push:
		order := f.order(sight, choice)
		var pushed github.Pushed
		if err := f.r.Do(step("Make the commit and push it", github.Push, procedure.Patient), order, &pushed); err != nil {
			return err
		}
		order.Pushed = pushed.Commit
		f.result.Pushes++
		return f.ensure(order)
	case pullrequest.Open:
		return f.ensure(f.order(sight, choice))
	case pullrequest.Merge:
		return f.merge(sight, choice)
	case pullrequest.Close:
		return f.do("Close the pull request", github.Close, sight, choice, nil)
	}
	return fmt.Errorf("nothing is known of the act %q", choice.Act)
}

// ensure has the pull request there, and its description as it should be.
func (f *follower) ensure(order github.Order) error {
	var pull github.Pull
	if err := f.r.Do(step("Open the pull request, or bring its description up to date", github.Ensure, procedure.Patient), order, &pull); err != nil {
		return err
	}
	f.result.Number, f.result.Link = pull.Number, pull.Link
	f.r.SetResult(f.result)
	return nil
}

// merge merges it in its turn: what another has merged meanwhile makes it one that is on an older base.
func (f *follower) merge(sight github.Sight, choice pullrequest.Choice) error {
	if err := f.r.Turn(procedure.Exclude(target.Merges(f.place.Repository.GitHub))); err != nil {
		return err
	}
	defer f.r.EndTurn()
	return f.do("Merge the pull request", github.Merge, sight, choice, nil)
}

// watch waits until something has changed, or the run is told to look.
func (f *follower) watch(sight github.Sight) error {
	request := github.NewsRequest{BranchRequest: github.BranchRequest{Place: f.place, Branch: f.result.Branch}, Base: sight.Policy.Base, Known: sight.Seen, Merges: slices.Contains(sight.Policy.Merge, f.state.Proposal.Type)}
	return f.r.Watch(step("Wait for news of the pull request", github.AwaitNews, procedure.Patient), request, nil, func() bool { return f.woken })
}

// end is the end of a pull request's life, or of a proposal that nobody wants.
func (f *follower) end(sight github.Sight, choice pullrequest.Choice) error {
	if choice.Expect != "" {
		if err := f.do("Remove the branch, if it is as it was left", github.Tidy, sight, choice, nil); err != nil && !outdated(err) {
			return err
		}
	}
	if sight.Seen.Merged {
		f.rollOut()
	}
	f.r.SetResult(f.result)
	f.r.Say("%s: %s", f.name(), choice.Why)
	if f.result.Rollout != "" {
		f.r.Say("%s: %s; run %s %s", f.name(), choice.Why, f.result.Rollout, f.result.RolloutStands)
	}
	return nil
}

// rollOut rolls the merged update out as the policy says. It may come here again, after a reset or in another
// part of the run: an offer that waits already is enough, and what was started is started only once.
func (f *follower) rollOut() {
	if f.r.Rollout() == nil {
		return
	}
	var err error
	name, input := f.r.Target().Name, rolloutrelease.Input{Common: run.Common{Target: f.r.Target().Name}}
	id, stands, before := "", "", ""
	switch f.place.Repository.Rollout {
	case config.RolloutOffer:
		id, stands, before = rolloutrelease.OfferID(name), "offers to roll it out", "offers to roll it out"
		err = f.r.Start(rolloutrelease.WorkflowType, id, input)
	case config.RolloutStart:
		id, stands, before = rolloutrelease.MergedID(name, f.result.Repository, f.result.Number), "rolls it out, as the policy says", "was started before to roll it out"
		input.Merged = fmt.Sprintf("%s#%d", f.result.Repository, f.result.Number)
		err = f.r.StartOnce(rolloutrelease.WorkflowType, id, input)
	default:
		return
	}
	switch {
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		stands = before
	case err != nil:
		f.r.Left("the rollout of the merged update was not started: %s", procedure.What(err))
		return
	}
	f.result.Rollout, f.result.RolloutStands = id, stands
}

// foresee is all of a dry run.
func (f *follower) foresee() error {
	_, choice, err := f.look()
	if err != nil {
		return err
	}
	f.r.Say("dry run: %s: %s; next: %s", f.name(), choice.Why, choice.Act)
	return nil
}

func (f *follower) order(sight github.Sight, choice pullrequest.Choice) github.Order {
	return github.Order{Place: f.place, Follower: f.state, Choice: choice, Number: sight.Seen.Number, Newest: sight.Newest, Base: sight.Policy.Base}
}

func (f *follower) do(name, activity string, sight github.Sight, choice pullrequest.Choice, result any) error {
	return f.r.Do(step(name, activity, procedure.Patient), f.order(sight, choice), result)
}

func (f *follower) name() string {
	if f.result.Number == 0 {
		return f.result.Repository + " " + f.result.Branch
	}
	return fmt.Sprintf("%s#%d", f.result.Repository, f.result.Number)
}

// outdated reports whether an act was not done because what it was decided on has changed.
func outdated(err error) bool {
	return procedure.HasCode(err, failure.PlanVoid) || procedure.HasCode(err, failure.BranchMoved) || procedure.HasCode(err, failure.PullChanged) || procedure.HasCode(err, failure.NotMergeable)
}

func step(name, activity string, o procedure.Options) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: o, Queue: run.CodeQueue}
}
