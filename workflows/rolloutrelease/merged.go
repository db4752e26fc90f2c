package rolloutrelease

import (
	"regexp"
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/activities/helm"
	api "github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

var pullRequest = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}#[1-9][0-9]{0,9}$`)

// repositoryOf is the repository of a pull request as owner/name#number.
func repositoryOf(merged string) string {
	name, _, _ := strings.Cut(merged, "#")
	return name
}

// merged checks the pull request that is rolled out. Whoever starts the run says which one it is, so it lends its
// policy to nothing but what the configuration itself names.
func merged(r *procedure.Run, in api.Input) error {
	switch {
	case in.Merged == "":
		return nil
	case !pullRequest.MatchString(in.Merged):
		return failure.New(failure.BadInput, "merged is %.100q, which is no pull request", in.Merged).Do("give it as owner/name#number, or leave it out")
	case in.Chart != "" || in.Version != "" || len(in.Set) > 0 || in.SkipStaging || in.Override != "":
		return failure.New(failure.BadInput, "merged goes with none of chart, version, set, skipStaging and override").
			Do("leave merged out, and a person approves what these change; or change rollout in upkeep.yaml")
	case policyOf(r, in.Merged) == "":
		return failure.New(failure.BadInput, "target %s has no repository %.140q", r.Target().Name, repositoryOf(in.Merged)).Do("name one of its repositories in upkeep.yaml, as owner/name#number")
	}
	return nil
}

// policyOf is what the configuration says that follows a merged update; empty when the repository is none of the
// target's.
func policyOf(r *procedure.Run, merged string) string {
	all := r.Repositories()
	at := slices.IndexFunc(all, func(o config.Repository) bool { return strings.EqualFold(o.GitHub, repositoryOf(merged)) })
	if at < 0 {
		return ""
	}
	return all[at].Rollout
}

// byPolicy reports whether the configuration approves the plan. What no rollback takes back waits for a person, and so
// does everything where the configuration itself wants signatures or more than one.
func (o *rollout) byPolicy() bool {
	if o.in.Merged == "" || policyOf(o.r, o.in.Merged) != config.RolloutStart || o.migrates() || o.r.AsksPeople() {
		return false
	}
	return !slices.ContainsFunc(o.stages(), func(s *stage) bool { return len(s.plan.OneWay) > 0 || len(s.plan.Migrations) > 0 })
}

// changesNothing reports whether the chart renders what is there already.
func (o *rollout) changesNothing() bool {
	return !slices.ContainsFunc(o.stages(), func(s *stage) bool {
		d := s.plan.Diff
		return s.stands != helm.New || d.Added+d.Changed+d.Removed > 0 || len(s.plan.Hooks)+len(s.plan.Migrations) > 0
	})
}

// sayNothing ends a rollout that has nothing to roll out: the update is merged, and the release has it already or
// not yet, which only who builds the chart knows.
func (o *rollout) sayNothing() error {
	o.r.Judge(run.NotProven)
	needs := "rollout.version or the values in upkeep.yaml name what was built of it"
	if o.policy.Chart.Path != "" {
		needs = "the chart on the worker, or the values in upkeep.yaml, name what was built of it"
	}
	o.r.Say("%s is merged, and nothing is rolled out: chart %s with the values of the configuration is what release %s in namespace %s has already. Once %s, start RolloutRelease",
		o.in.Merged, o.result.Chart, o.production.Kubernetes.Release, o.production.Kubernetes.Namespace, needs)
	return nil
}
