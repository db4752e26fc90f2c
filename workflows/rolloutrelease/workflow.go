// Package rolloutrelease is the procedure RolloutRelease.
package rolloutrelease

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/activities/store"
	api "github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/api/target"
	"github.com/upkeep-run/upkeep/internal/bake"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/workflows/owners"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// plansTried is how often a plan whose facts have changed is made anew before a person is told.
const plansTried = 5

// Workflow rolls a release out.
func Workflow(ctx workflow.Context, input, second converter.RawValue) (*run.Document, error) {
	return procedure.Execute(ctx, api.WorkflowType, input, second, body)
}

// Plan is what is approved.
type Plan struct {
	Version    int               `json:"version"` // of the plan's schema
	Staging    *helmrelease.Plan `json:"staging,omitempty"`
	Production helmrelease.Plan  `json:"production"`
	Migrations string            `json:"migrations"`         // what becomes of the data if it fails
	BackupID   string            `json:"backupId,omitempty"` // the drilled backup that it relies on
	Override   string            `json:"override,omitempty"` // why it goes without
	Bake       time.Duration     `json:"bake"`
	Owners     []ownership.Image `json:"owners,omitempty"` // suspended meanwhile
}

// rollout is one run.
type rollout struct {
	r                   *procedure.Run
	in                  api.Input
	policy              *config.Rollout
	staging, production *stage // staging is nil where there is none
	result              api.Result
}

// stage is one of the releases.
type stage struct {
	helm.Change
	policy   *config.Rollout
	plan     helmrelease.Plan
	stands   helm.Stands
	lock     helm.Lock // that another run has left
	undo     string    // the key of its rollback
	out      *api.Stage
	good     bool          // it was seen to be good
	restarts bake.Restarts // when its watch began
	owners   ownership.Measures
	held     *owners.Held // nil while nobody is suspended
}

func body(r *procedure.Run, in api.Input) error {
	o, err := prepare(r, in)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := o.once()
		if procedure.HasCode(err, failure.PlanVoid) && try < plansTried {
			if err := o.resume(); err != nil {
				return err
			}
			r.Say("the plan's facts have changed; it is made anew")
			continue
		}
		return err
	}
}

// prepare sees what is to be rolled out, and where.
func prepare(r *procedure.Run, in api.Input) (*rollout, error) {
	policy := r.Rollout()
	if policy == nil {
		return nil, failure.New(failure.BadConfig, "target %s has no rollout in the configuration", r.Target().Name).
			Do("say how its release is upgraded with rollout: {chart: ...} in upkeep.yaml, and start a new run")
	}
	chart, version := policy.Chart, policy.Version
	if in.Chart != "" {
		var problem string
		if chart, problem = config.ParseChart(in.Chart); problem != "" {
			return nil, failure.New(failure.BadInput, "chart %s", problem)
		}
	}
	if in.Version != "" {
		version = in.Version
	}
	if err := helm.CheckSet(in.Set); err != nil {
		return nil, err
	}
	if len(in.Override) > 1000 {
		return nil, failure.New(failure.BadInput, "override has more than 1000 bytes").Do("say in a sentence why no backup is needed")
	}
	if err := merged(r, in); err != nil {
		return nil, err
	}
	o := &rollout{r: r, in: in, policy: policy}
	at := func(name string, k *config.Kubernetes, policy *config.Rollout) *stage {
		return &stage{
			Change: helm.Change{
				Place: helm.Place{Target: name, Kubernetes: k, Store: r.Target().Store}, Chart: chart, Version: version, Values: policy.Values, Set: in.Set,
				Operation: r.Key() + "/" + name + "/upgrade", Undo: r.Key() + "/" + name + "/rollback",
			},
			policy: policy, undo: r.Key() + "/" + name + "/rollback",
			out: &api.Stage{Target: name, Namespace: k.Namespace, Release: k.Release},
		}
	}
	o.production = at(r.Target().Name, r.Kubernetes(), policy)
	o.result.Production = o.production.out
	if policy.Staging != "" && !in.SkipStaging {
		other, err := r.Other(policy.Staging)
		if err != nil {
			return nil, err
		}
		own := other.Rollout
		if own == nil { // it is watched as production is, but for what only production's Prometheus knows
			own = &config.Rollout{Bake: policy.Bake, Timeout: policy.Timeout}
		}
		o.staging = at(other.Name, other.Kubernetes, own)
		o.result.Staging = o.staging.out
	}
	return o, nil
}

func (o *rollout) stages() []*stage {
	if o.staging == nil {
		return []*stage{o.production}
	}
	return []*stage{o.staging, o.production}
}

// once plans, has approved, and applies; a plan that is void by then is a PlanVoid.
func (o *rollout) once() error {
	r := o.r
	r.EndTurn() // a decision may take days
	for _, s := range o.stages() {
		if s.good {
			continue
		}
		if err := o.planStage(s); err != nil {
			return err
		}
	}
	o.show()
	for _, s := range o.stages() {
		if ended, err := o.pickUp(s); ended || err != nil {
			return err
		}
	}
	if r.DryRun() {
		return o.preview()
	}
	if o.in.Merged != "" && o.changesNothing() {
		return o.sayNothing()
	}
	if o.production.stands == helm.New {
		if err := o.approve(); err != nil {
			return err
		}
	}
	if err := r.Turn(procedure.Exclude(target.Release)); err != nil {
		return err
	}
	if o.staging != nil && !o.staging.good {
		verdict, err := o.apply(o.staging)
		if err != nil {
			return err
		}
		if verdict != run.Pass {
			return o.endAtStaging(verdict)
		}
		o.staging.good = true
	}
	if o.production.stands == helm.New && !r.Approved() {
		return failure.New(failure.PlanVoid, "the approval ended before production's turn came").Do("decide again")
	}
	verdict, err := o.apply(o.production)
	switch {
	case err != nil:
		return err
	case verdict != run.Pass:
		return o.endBadly()
	}
	if good, err := o.hand(); !good || err != nil {
		return err
	}
	r.Say("release %s in namespace %s is at revision %d (%s), watched for %s and good%s", o.production.Kubernetes.Release, o.production.Kubernetes.Namespace,
		o.production.out.Revision, o.result.Chart, o.policy.Bake, o.afterStaging())
	return nil
}

func (o *rollout) afterStaging() string {
	switch {
	case o.staging != nil:
		return ", after staging target " + o.staging.Target
	case o.policy.Staging != "":
		return "; staging was left out"
	}
	return ""
}

func (o *rollout) show() { o.r.SetResult(o.result) }

func (o *rollout) step(s *stage, name, activity string, options procedure.Options) procedure.Step {
	return procedure.Step{Name: fmt.Sprintf("%s (%s)", name, s.Target), Activity: activity, Options: options, Queue: run.ClusterQueue}
}

func (o *rollout) planStage(s *stage) error {
	var planned helm.Planned
	if err := o.r.Do(o.step(s, "Plan the upgrade", helm.PlanUpgrade, procedure.Quick), s.Change, &planned); err != nil {
		return err
	}
	s.stands, s.plan, s.lock, s.owners = planned.Stands, planned.Plan, planned.Lock, planned.Owners
	if len(s.owners.Propose) > 0 {
		var refusal error
		s.out.Proposed, refusal = owners.Proposed(s.owners.Propose)
		o.show()
		return refusal
	}
	if s.stands == helm.Locked {
		o.r.Detail(fmt.Sprintf("another run of Upkeep has left it locked: revision %d is %s", s.lock.Revision, s.lock.Status))
		return nil
	}
	if s.stands != helm.New {
		s.out.Revision = planned.Revision
		o.r.Detail(fmt.Sprintf("this run began it before, as revision %d", planned.Revision))
		return nil
	}
	s.out.From = planned.Plan.From
	o.result.Chart = planned.Plan.Chart.Name + " " + planned.Plan.Chart.Version
	if s == o.production {
		o.result.Migrations = planned.Plan.Migrations
	}
	d := planned.Plan.Diff
	o.r.Detail(fmt.Sprintf("%d objects added, %d changed, %d removed", d.Added, d.Changed, d.Removed))
	if len(planned.Plan.Blocked) > 0 {
		return failure.New(failure.ObjectRefused, "the cluster would refuse the upgrade of release %s: %s", s.Kubernetes.Release, strings.Join(planned.Plan.Blocked, "; ")).
			Do("change the chart or its values so that this stays as it is, or change it by hand first")
	}
	return nil
}

// pickUp goes on with what an earlier try of this run, before a reset, has left. It reports whether the run
// is over with that.
func (o *rollout) pickUp(s *stage) (ended bool, err error) {
	switch s.stands {
	case helm.Halfway:
		if o.r.DryRun() {
			return false, nil
		}
		if err := o.r.Turn(procedure.Exclude(target.Release)); err != nil {
			return true, err
		}
		if err := o.suspend(s); err != nil {
			return true, err
		}
		s.out.Error = "the run was begun again in the middle of the upgrade"
		if s == o.staging {
			return true, o.endAtStaging(run.NotProven)
		}
		return true, o.endBadly()
	case helm.Locked:
		return true, o.takeOver(s)
	case helm.Over:
		if !o.r.DryRun() {
			owners.Hold(o.r, s.Kubernetes, owners.Order(o.r), ofOwnRun(s.owners.Suspend, o.r.Key())) // they act again with the run's end
		}
		return true, failure.New(failure.PlanVoid, "this run has upgraded release %s before, as revision %d, and that is over", s.Kubernetes.Release, s.out.Revision).
			Do("see helm history %s --namespace %s, and start a new run", s.Kubernetes.Release, s.Kubernetes.Namespace)
	}
	return false, nil
}

// takeOver takes away the lock that another run has left on a release, after which it is planned anew. In
// its turn, no other run of the target works on it; of staging's release, that is for a person to say.
func (o *rollout) takeOver(s *stage) error {
	words := fmt.Sprintf("take away the lock that another run of Upkeep has left on release %s of target %s: revision %d is %s", s.Kubernetes.Release, s.Target, s.lock.Revision, s.lock.Status)
	if o.r.DryRun() {
		o.r.Say("dry run: would first %s, and then plan the upgrade", words)
		return nil
	}
	if s == o.staging {
		if err := o.r.Approve(words+"; see that no run of that target goes on with it (upkeep runs)", s.lock); err != nil {
			return err
		}
	}
	if err := o.r.Turn(procedure.Exclude(target.Release)); err != nil {
		return err
	}
	order := helm.TakeOverOrder{Place: s.Place, Lock: s.lock, Operation: fmt.Sprintf("%s/%s/takeover/%d", o.r.Key(), s.Target, s.lock.Revision)}
	if err := o.r.Do(o.step(s, "Take the release over", helm.TakeOver, procedure.Long), order, nil); err != nil {
		return err
	}
	return failure.New(failure.PlanVoid, "release %s was taken over from another run", s.Kubernetes.Release)
}

func (o *rollout) migrates() bool { return len(o.production.plan.Migrations) > 0 }

// prove looks for the backup that a release with migrations needs.
func (o *rollout) prove() error {
	if !o.migrates() {
		return nil
	}
	t := o.r.Target()
	var found store.Proven
	err := o.r.Do(procedure.Step{Name: "Find a drilled backup", Activity: store.FindProven, Options: procedure.Quick},
		store.ProvenRequest{Store: t.Store, Target: t.Name, Encryption: t.Encryption, After: o.r.Now().Add(-o.policy.BackupWithin)}, &found)
	if procedure.HasCode(err, failure.NoProof) && o.in.Override != "" {
		return nil
	}
	if err == nil {
		o.result.BackupID, o.result.BackupAt = found.BackupID, found.At.UTC().Format(time.RFC3339)
		o.show()
	}
	return err
}

func (o *rollout) preview() error {
	without := ""
	if err := o.prove(); procedure.HasCode(err, failure.NoProof) {
		without = "; it would be refused: " + procedure.What(err)
	} else if err != nil {
		return err
	}
	o.r.Say("dry run: would %s%s", o.words(), without)
	return nil
}

// words say what the plan would do.
func (o *rollout) words() string {
	p := o.production.plan
	var b strings.Builder
	if o.staging != nil {
		fmt.Fprintf(&b, "%supgrade release %s of staging target %s, watch it for %s, then ", o.staging.owners.Words(), o.staging.Kubernetes.Release, o.staging.Target, o.staging.policy.Bake)
	}
	fmt.Fprintf(&b, "%supgrade release %s in namespace %s from revision %d to %s (%d objects added, %d changed, %d removed) and watch it for %s",
		o.production.owners.Words(), p.Release, p.Namespace, p.From, o.result.Chart, p.Diff.Added, p.Diff.Changed, p.Diff.Removed, o.policy.Bake)
	if o.staging == nil && o.policy.Staging != "" {
		b.WriteString("; staging is LEFT OUT")
	}
	if o.migrates() {
		fmt.Fprintf(&b, "; it migrates (%s)", strings.Join(p.Migrations, ", "))
		switch {
		case o.result.BackupID != "":
			fmt.Fprintf(&b, ", backup %s of %s is drilled", o.result.BackupID, o.result.BackupAt)
		case o.in.Override != "":
			fmt.Fprintf(&b, ", WITHOUT a drilled backup (%s)", o.in.Override)
		}
		fmt.Fprintf(&b, "; if it fails: %s", map[string]string{
			config.MigrationsCompatible: "rolled back by itself, the data stay as migrated",
			config.MigrationsRestore:    "after another approval the backup is restored in the database's place, then rolled back",
			config.MigrationsRefuse:     "a person decides, nothing is rolled back by itself",
		}[o.policy.Migrations])
	}
	if suspended := o.suspended(); len(suspended) > 0 {
		fmt.Fprintf(&b, "; at the end it waits until the same change is made where %s gets it from, which then acts again", owners.Names(suspended))
	}
	if len(p.OneWay) > 0 {
		fmt.Fprintf(&b, "; no rollback takes back: %s", strings.Join(p.OneWay, ", "))
	}
	if len(p.Remarks) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(p.Remarks, "; "))
	}
	return b.String()
}

func (o *rollout) approve() error {
	if err := o.prove(); err != nil {
		return err
	}
	plan := Plan{Version: 1, Production: o.production.plan, Migrations: o.policy.Migrations, BackupID: o.result.BackupID, Bake: o.policy.Bake}
	if o.migrates() && plan.BackupID == "" {
		plan.Override = o.in.Override
	}
	if o.staging != nil && !o.staging.good {
		plan.Staging = &o.staging.plan
	}
	plan.Owners = o.suspended()
	if o.byPolicy() {
		return o.r.ApproveBy("the policy of "+repositoryOf(o.in.Merged), "rollout: start in upkeep.yaml, and "+o.in.Merged+" is merged", o.words(), plan)
	}
	return o.r.Approve(o.words(), plan)
}

// apply upgrades one release and watches it. A run that is given up meanwhile takes the upgrade back.
func (o *rollout) apply(s *stage) (run.Verdict, error) {
	if err := o.suspend(s); err != nil {
		return run.NotProven, err
	}
	verdict, err := o.upgrade(s)
	if err == nil && verdict == run.Pass {
		verdict, err = o.bake(s)
	}
	s.out.Verdict = verdict
	o.show()
	if procedure.GivenUp(err) {
		o.giveUp(s)
	}
	return verdict, err
}

func (o *rollout) upgrade(s *stage) (run.Verdict, error) {
	if s.stands == helm.Done {
		return run.Pass, nil
	}
	step := o.step(s, "Upgrade the release", helm.Upgrade, procedure.Long)
	step.Whole = true // a migration that has begun is waited for
	var applied helmrelease.Applied
	err := o.r.Do(step, helm.UpgradeOrder{Change: s.Change, Plan: s.plan, Ready: s.policy.Timeout}, &applied)
	s.out.UpgradedAt = o.r.Now()
	for _, code := range []failure.Code{failure.HookFailed, failure.NotReady, failure.ApplyFailed} {
		if procedure.HasCode(err, code) {
			s.out.Error = procedure.What(err)
			return run.Fail, nil
		}
	}
	if err != nil {
		return run.NotProven, err
	}
	s.out.Revision = applied.Revision
	return run.Pass, nil
}

// bake watches a release for its time. What cannot be looked at in the end is not good enough for staging,
// and in production a person decides: resume to watch it once more, or abandon to roll it back.
func (o *rollout) bake(s *stage) (run.Verdict, error) {
	s.restarts = nil
	if err := o.r.Do(o.step(s, "Count restarts", helm.CountRestarts, procedure.Quick), s.Place, &s.restarts); err != nil {
		return run.NotProven, err
	}
	for {
		var found helm.Watched
		request := helm.WatchRequest{Place: s.Place, Revision: s.out.Revision, Until: o.r.Now().Add(s.policy.Bake), Before: s.restarts, Checks: s.policy.Checks}
		if err := o.r.Do(o.step(s, "Watch the release", helm.Watch, procedure.Long), request, &found); err != nil {
			return run.NotProven, err
		}
		s.out.Checks = found.Checks
		o.r.Mark(found.Verdict, bad(found.Checks))
		o.show()
		if found.Verdict == run.Pass {
			return run.Pass, o.noteHealthy(s, found)
		}
		if found.Verdict == run.Fail || s == o.staging {
			return found.Verdict, nil
		}
		if err := o.r.Wait(failure.New(failure.StillFailing, "release %s is at revision %d, and it is not proven that it is good: %s", s.Kubernetes.Release, s.out.Revision, bad(found.Checks)).
			Do("see to what could not be looked at and resume the run, which watches it once more; or abandon the run, which rolls it back")); err != nil {
			return run.NotProven, err
		}
	}
}

// bad names what did not pass.
func bad(checks []run.Check) string {
	var all []string
	for _, c := range checks {
		if c.Verdict != run.Pass {
			all = append(all, fmt.Sprintf("%s: %s", c.Name, c.Detail))
		}
	}
	return strings.Join(all, "; ")
}

func (o *rollout) noteHealthy(s *stage, found helm.Watched) error {
	s.out.EndedAt = o.r.Now()
	return o.r.Do(procedure.Step{Name: fmt.Sprintf("Note that the revision is good (%s)", s.Target), Activity: store.NoteHealthy, Options: procedure.Quick},
		store.HealthyRecord{Store: o.r.Target().Store, Target: s.Target, Note: catalog.Healthy{
			Release: s.Kubernetes.Release, Revision: s.out.Revision, ManifestSHA256: found.ManifestSHA256, At: o.r.Now(), RunID: o.r.ID(),
		}}, nil)
}
