// Package recovery brings a release's service back with the least step that can work: it chooses the next
// rung of the ladder from what is seen, and takes it. It never touches data.
package recovery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

// Rung is a step of the ladder.
type Rung string

// The rungs, the least first.
const (
	Wait     Rung = "wait"     // pods that are young, or end, are given time
	Restart  Rung = "restart"  // one pod is deleted, and made anew
	Rollout  Rung = "rollout"  // all pods of a workload are replaced, one after the other
	Recreate Rung = "recreate" // pods are removed without their grace
	Clear    Rung = "clear"    // the lock that a killed operation left on the release is taken away
	Rollback Rung = "rollback" // the release goes back to an earlier revision
)

// Rungs are all that change something, the least first.
func Rungs() []string {
	return []string{string(Restart), string(Rollout), string(Recreate), string(Clear), string(Rollback)}
}

// State is what a step is chosen from: the workloads, and the release.
type State struct {
	health.State
	Release Release `json:"release"`
	// Owners are those of the workloads who can be suspended, where the target lets them be.
	Owners []ownership.Image `json:"owners,omitempty"`
}

// Release is what Helm's history says.
type Release struct {
	Latest int                `json:"latest"`
	Status string             `json:"status"`
	Record helmrelease.Record `json:"record"`
	// Locked says that an operation works on it, or was killed; Ours, that it is one of Upkeep's.
	Locked bool          `json:"locked,omitempty"`
	Ours   bool          `json:"ours,omitempty"`
	Age    time.Duration `json:"age,omitempty"` // of the newest revision, which is that of the lock
	At     time.Time     `json:"at,omitzero"`   // when it was made. Zero: of a run that was begun by an older version
	// Proven says that the newest revision was seen healthy, with probes, by an earlier run.
	Proven bool `json:"proven,omitempty"`
	Back   Back `json:"back,omitzero"`
	// CutOff is where a rollback went whose lock was taken away before it came to its end: the newest revision.
	CutOff int `json:"cutOff,omitempty"`
}

// Back is where a rollback would go.
type Back struct {
	Revision int      `json:"revision,omitempty"` // 0: there is no revision to go back to
	Proven   bool     `json:"proven,omitempty"`   // it was seen healthy; else it is merely the last that was deployed
	Hooks    []string `json:"hooks,omitempty"`    // Jobs of the revisions after it, which may have migrated data
	Left     []int    `json:"left,omitempty"`     // later ones, which somebody has rolled back from before
}

// Policy bounds the ladder.
type Policy struct {
	UpTo Rung          `json:"upTo"` // the last rung that may be taken
	Lock time.Duration `json:"lock"` // a younger lock may still be worked under
	// Owners is what may be done about others who own the workloads: one of ownership's policies.
	Owners    string `json:"owners,omitempty"`
	Release   string `json:"release"`   // for the words of what is proposed
	Namespace string `json:"namespace"` // likewise
}

// Step is one step, as it is planned and taken.
type Step struct {
	Rung     Rung   `json:"rung"`
	Kind     string `json:"kind,omitempty"` // of the workload
	Workload string `json:"workload,omitempty"`
	UID      string `json:"uid,omitempty"`
	// Generation is the workload's when it was looked at. 0: of a run that was begun by an older version.
	Generation int64    `json:"generation,omitempty"`
	Pods       []PodRef `json:"pods,omitempty"`
	// Revision is the locked one, with its Record, or the one to go back to.
	Revision int                `json:"revision,omitempty"`
	Record   helmrelease.Record `json:"record,omitzero"`
	Plan     *helmrelease.Plan  `json:"plan,omitempty"`   // of a rollback
	Owners   []ownership.Image  `json:"owners,omitempty"` // to suspend meanwhile
	Asks     string             `json:"asks,omitempty"`   // why a person must approve it; empty: nobody needs to
	Words    string             `json:"words"`            // what it does and why
}

// PodRef is a pod that a step means, and no later one of the same name.
type PodRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Choice is what the ladder says.
type Choice struct {
	Done    bool     `json:"done,omitempty"` // it is healthy, and the release is not locked
	Step    *Step    `json:"step,omitempty"` // nil when Done, and when no step can help
	Skipped []string `json:"skipped,omitempty"`
	Person  []string `json:"person,omitempty"` // what a person must see to
	// Proposed are steps that are not taken, since somebody else would take them back.
	Proposed []ownership.Proposal `json:"proposed,omitempty"`
}

// Next chooses the least step that can work and was not taken before.
func Next(s State, tried []Step, p Policy) Choice {
	verdict, _ := health.Judge(s.State)
	l := ladder{state: s, tried: tried, policy: p}
	if verdict == run.Pass && !s.Release.Locked {
		l.choice.Step = l.finish()
		l.choice.Done = l.choice.Step == nil
		return l.choice
	}
	bad := l.bad()
	rungs := []Rung{Wait, Restart, Rollout, Recreate, Clear, Rollback}
	if p.UpTo == Rollback && l.released(bad) {
		rungs = []Rung{Wait, Rollback, Restart, Rollout, Recreate}
	}
	for _, rung := range rungs {
		if p.UpTo != "" && slices.Index(Rungs(), string(rung)) > slices.Index(Rungs(), string(p.UpTo)) {
			l.skip("%s and what follows: upTo is %s", rung, p.UpTo)
			break
		}
		var step *Step
		switch rung {
		case Clear:
			step = l.clear()
		case Rollback:
			step = l.rollback(bad)
		default:
			for _, f := range bad {
				if step = l.mend(rung, f); step != nil {
					break
				}
			}
		}
		if step != nil {
			l.choice.Step = step
			return l.choice
		}
	}
	l.people(bad)
	return l.choice
}

// Young reports whether all that is wrong may pass by itself: pods start or end, or a rollout replaces them.
func Young(s State) bool {
	l := ladder{state: s}
	bad := l.bad()
	return len(bad) > 0 && !slices.ContainsFunc(bad, func(f trouble) bool { return !f.young() })
}

type ladder struct {
	state  State
	tried  []Step
	policy Policy
	choice Choice
	// direct says that the release is what broke the service, so that less than a rollback is not tried first.
	direct bool
}

// trouble is a workload that does not do what it should.
type trouble struct {
	health.Workload
	bad     []health.Pod // its pods that do not serve
	serving int          // its pods that do
	newest  int          // of those that serve, those of the newest revision
	older   bool         // an older revision serves, and of the newest no pod does
	probe   string       // the probe that fails although all its pods are ready
}

// young reports whether it is to be waited for: nothing is wrong yet with the pods that do not serve, or they
// are of an older revision, which a rollout replaces just now. To restart what is being replaced would
// replace it twice.
func (f trouble) young() bool {
	if f.Refused != "" || f.probe != "" && f.Whole() || f.Paused && len(f.bad) == 0 {
		return false
	}
	if f.Observed < f.Generation {
		return true
	}
	comes := f.Kind == health.Deployment && (f.Updated < f.Desired || f.Total > f.Updated)
	for _, p := range f.bad {
		comes = comes || p.Newest && p.Reason == health.Starting || p.Reason == health.Ending
	}
	return !slices.ContainsFunc(f.bad, func(p health.Pod) bool {
		switch p.Reason {
		case health.Starting, health.Ending:
			return false
		case health.NodeLost, health.StuckEnding:
			return true
		}
		return p.Newest || !comes || f.OnDelete || f.Paused
	})
}

// fresh is how long ago the newest revision may have come that is held to have broken the service.
const fresh = 30 * time.Minute

// released reports whether it is the newest revision that broke the service: it came a short while ago and
// nobody has seen it healthy, as the one before was; and in all that is in trouble, the pods have come with
// it and none of them serves. Then new pods of the same would not serve either.
func (l *ladder) released(bad []trouble) bool {
	r := l.state.Release
	l.direct = len(bad) > 0 && !r.Locked && !r.Proven && r.Back.Proven && !r.At.IsZero() && r.Age < fresh && !slices.ContainsFunc(bad, func(f trouble) bool {
		came := 0
		for _, p := range f.Pods {
			switch {
			case !p.Newest:
			case p.Made.Before(r.At), p.Reason == health.NodeLost, p.Reason == health.StuckEnding:
				return true
			default:
				came++
			}
		}
		return came == 0 || f.newest > 0 && f.probe == ""
	})
	return l.direct
}

// bad lists what is in trouble.
func (l *ladder) bad() (all []trouble) {
	for _, w := range l.state.Workloads {
		f := trouble{Workload: w}
		for _, p := range w.Pods {
			switch {
			case p.Ready:
				f.serving++
				if p.Newest {
					f.newest++
				}
			case p.Reason != health.Ended:
				f.bad = append(f.bad, p)
			}
		}
		f.older = f.serving > 0 && f.newest == 0 && slices.ContainsFunc(f.bad, func(p health.Pod) bool { return p.Newest })
		for _, a := range l.state.Answers {
			if a.Verdict == run.Fail && len(f.bad) == 0 && slices.Contains(a.Workloads, w.String()) {
				f.probe = a.Probe
			}
		}
		if w.Desired > 0 && (!w.Whole() || f.probe != "") {
			all = append(all, f)
		}
	}
	return all
}

func (l *ladder) skip(format string, args ...any) {
	l.choice.Skipped = append(l.choice.Skipped, fmt.Sprintf(format, args...))
}

// Only these are mended by a new pod of the same revision.
var restartable = []health.Reason{health.CrashLoop, health.NotReady}

// mend chooses a step of a rung that works on one workload; nil when that cannot help.
func (l *ladder) mend(rung Rung, f trouble) *Step {
	if slices.ContainsFunc(l.tried, func(s Step) bool { return s.Rung == rung && s.UID == f.UID }) {
		l.skip("%s of %s: it was done, and did not help", rung, f)
		return nil
	}
	step := &Step{Rung: rung, Kind: f.Kind, Workload: f.Name, UID: f.UID, Generation: f.Generation}
	pods := func(reasons ...health.Reason) (some []health.Pod) {
		for _, p := range f.bad {
			if slices.Contains(reasons, p.Reason) {
				some = append(some, p)
			}
		}
		return some
	}
	refer := func(some []health.Pod) {
		for _, p := range some {
			step.Pods = append(step.Pods, PodRef{p.Name, p.UID})
		}
	}
	if rung == Wait {
		if f.young() {
			step.Words = fmt.Sprintf("wait for %s: %d of %d pods are ready, and the others start, end or are replaced just now", f, f.Ready, f.Desired)
			return step
		}
		return nil
	}
	if rung == Recreate {
		return l.recreate(f, step, pods, refer)
	}
	if f.older {
		l.skip("%s of %s: its newest revision fails and the one before serves", rung, f)
		return nil
	}
	some := pods(restartable...)
	if len(some) == 0 && f.probe == "" {
		if len(f.bad) > 0 {
			l.skip("%s of %s: pod %s %s, which a new pod does not mend", rung, f, f.bad[0].Name, f.bad[0].Reason)
		}
		return nil
	}
	switch {
	case rung == Restart && len(some) == 1 && len(f.bad) == 1:
		refer(some)
		step.Words = fmt.Sprintf("restart pod %s of %s: it %s", some[0].Name, f, says(some[0]))
	case rung == Restart && len(f.bad) == 0 && len(f.Pods) == 1:
		refer(f.Pods)
		step.Words = fmt.Sprintf("restart pod %s of %s: it is ready, and probe %s fails", f.Pods[0].Name, f, f.probe)
	case rung == Restart:
		l.skip("restart of a pod of %s: it is not one pod that is bad", f)
		return nil
	case f.Paused || f.OnDelete:
		l.skip("rollout restart of %s: its rollouts are paused, or left to a person", f)
		return nil
	case !l.owned(step, ownership.Change{
		Words: "rollout restart of " + f.String(), Owners: f.Owners,
		Command: fmt.Sprintf("kubectl rollout restart %s %s -n %s", strings.ToLower(f.Kind), f.Name, l.policy.Namespace),
	}):
		return nil
	case len(some) > 0:
		step.Words = fmt.Sprintf("restart all pods of %s, one after the other: %d do not serve (pod %s %s)", f, len(some), some[0].Name, says(some[0]))
	default:
		step.Words = fmt.Sprintf("restart all pods of %s, one after the other: they are ready, and probe %s fails", f, f.probe)
	}
	step.Words = ownership.Measures{Suspend: step.Owners}.Words() + step.Words
	return step
}

// owned reports whether a step may be taken as far as the owners of what it changes are concerned, and adds
// to it whom to suspend meanwhile. A step that may not is proposed, or skipped.
func (l *ladder) owned(step *Step, change ownership.Change) bool {
	suspend, proposals, err := ownership.Decide(l.policy.Owners, []ownership.Change{change})
	if len(proposals) > 0 {
		l.choice.Proposed = append(l.choice.Proposed, proposals...)
		l.skip("%s: it is proposed, since %s would take it back", change.Words, proposals[0].Owner)
		return false
	}
	if err != nil {
		l.skip("%s: %s would take it back (%s)", change.Words, change.Owners[0], change.Owners[0].Why)
		return false
	}
	for _, o := range suspend {
		at := slices.IndexFunc(l.state.Owners, func(i ownership.Image) bool { return i.Owner.Ref == o.Ref })
		if at < 0 {
			l.skip("%s: %s would take it back, and it is not seen how that is", change.Words, o)
			return false
		}
		step.Owners = append(step.Owners, l.state.Owners[at])
	}
	return true
}

func says(p health.Pod) string {
	if p.Detail == "" {
		return "is " + string(p.Reason)
	}
	return fmt.Sprintf("is %s, %s", p.Reason, p.Detail)
}

// recreate removes pods without their grace. Where the old pod may still run, and two must not, a person
// has to know that it does not.
func (l *ladder) recreate(f trouble, step *Step, pods func(...health.Reason) []health.Pod, refer func([]health.Pod)) *Step {
	lost := pods(health.NodeLost)
	some := append(pods(health.StuckEnding), lost...)
	if !f.older {
		some = append(some, pods(restartable...)...)
	}
	if len(some) == 0 {
		return nil
	}
	refer(some)
	step.Words = fmt.Sprintf("remove %d pods of %s at once, without their grace: pod %s %s", len(some), f, some[0].Name, says(some[0]))
	switch {
	case len(lost) > 0:
		step.Asks = "nothing is heard of node " + lost[0].Node + ": its pod may still run, and then there are two; see that the node is off"
	case f.Kind == health.StatefulSet:
		step.Asks = "a pod of a StatefulSet may still run when it is removed by force, and then there are two on one volume"
	}
	return step
}

// clear takes away a lock.
func (l *ladder) clear() *Step {
	r := l.state.Release
	if !r.Locked || slices.ContainsFunc(l.tried, func(s Step) bool { return s.Rung == Clear && s.Record == r.Record }) {
		return nil
	}
	step := &Step{
		Rung: Clear, Revision: r.Latest, Record: r.Record,
		Words: fmt.Sprintf("take away the release's lock: revision %d has been %s for %s, and nobody of ours works on it", r.Latest, r.Status, r.Age.Round(time.Second)),
	}
	switch {
	case r.Ours:
		step.Words = fmt.Sprintf("take away the release's lock: revision %d has been %s for %s by another run of Upkeep", r.Latest, r.Status, r.Age.Round(time.Second))
		step.Asks = "it is the lock of a run of Upkeep, which should go on or be given up instead (upkeep runs)"
	case r.Age < l.policy.Lock:
		step.Asks = fmt.Sprintf("it is younger than %s: somebody's helm may still run", l.policy.Lock)
	}
	return step
}

// rollback goes back to an earlier revision.
func (l *ladder) rollback(bad []trouble) *Step {
	r := l.state.Release
	switch {
	case slices.ContainsFunc(l.tried, func(s Step) bool { return s.Rung == Rollback }):
		l.skip("rollback: it was done, and did not help")
		return nil
	case r.Locked:
		l.skip("rollback: the release is locked")
		return nil
	case r.Proven:
		l.skip("rollback: revision %d was healthy before, so what broke it is not in the release", r.Latest)
		return nil
	case r.Back.Revision == 0:
		l.skip("rollback: the release has no earlier revision that was deployed")
		return nil
	case len(bad) == 0:
		return nil
	case slices.ContainsFunc(bad, func(f trouble) bool { return f.Paused || f.Refused != "" }):
		l.skip("rollback: a rollout is paused, or the cluster takes no pods; a rollback would stop there too")
		return nil
	}
	step := l.back(r.Back.Revision)
	if step == nil {
		return nil
	}
	proof := "the last that was deployed; that it was healthy is NOT_PROVEN"
	if r.Back.Proven {
		proof = "the last that was proven healthy"
	}
	if len(r.Back.Left) > 0 {
		proof += fmt.Sprintf("; revision %d is later, and was rolled back from before", r.Back.Left[0])
	}
	if l.direct {
		proof += fmt.Sprintf("; no restart is tried first, since the pods that do not serve came with revision %d, %s ago, which was never seen healthy", r.Latest, r.Age.Round(time.Second))
	}
	step.Words = ownership.Measures{Suspend: step.Owners}.Words() + fmt.Sprintf("roll the release back from revision %d to %d, %s; data stays as it is", r.Latest, r.Back.Revision, proof)
	if len(r.Back.Hooks) > 0 {
		step.Asks = fmt.Sprintf("hooks after revision %d may have changed the database, which is not rolled back: %v", r.Back.Revision, r.Back.Hooks)
	}
	return step
}

// finish brings a rollback to its end that was cut off and has helped all the same: what it was to leave is
// still the deployed revision to Helm, and the next upgrade would stand on that.
func (l *ladder) finish() *Step {
	r := l.state.Release
	done := slices.ContainsFunc(l.tried, func(s Step) bool { return s.Rung == Rollback })
	if r.CutOff == 0 || done || l.policy.UpTo != Rollback {
		return nil
	}
	step := l.back(r.CutOff)
	if step != nil {
		step.Words = ownership.Measures{Suspend: step.Owners}.Words() + fmt.Sprintf("bring the rollback to revision %d to its end, in which revision %d was cut off; all is healthy by it, and Helm does not know", r.CutOff, r.Latest)
	}
	return step
}

// back is a rollback to a revision, if the owners of the workloads let it be.
func (l *ladder) back(to int) *Step {
	step := &Step{Rung: Rollback, Revision: to}
	change := ownership.Change{Words: fmt.Sprintf("rollback to revision %d", to), Command: fmt.Sprintf("helm rollback %s %d -n %s", l.policy.Release, to, l.policy.Namespace)}
	for _, w := range l.state.Workloads {
		for _, o := range w.Owners {
			if !slices.Contains(change.Owners, o) {
				change.Owners = append(change.Owners, o)
			}
		}
	}
	if !l.owned(step, change) {
		return nil
	}
	return step
}

// people says what nobody but a person mends.
func (l *ladder) people(bad []trouble) {
	say := func(format string, args ...any) {
		l.choice.Person = append(l.choice.Person, fmt.Sprintf(format, args...))
	}
	for _, w := range l.state.Workloads {
		if w.Desired == 0 && w.Kind != health.DaemonSet {
			say("%s is scaled to 0: scale it up if it should run", w)
		}
	}
	for _, f := range bad {
		switch {
		case f.Refused != "":
			say("the cluster takes no pod of %s (%s): see to the quota or policy", f, f.Refused)
		case f.Paused:
			say("the rollout of %s is paused: kubectl rollout resume it when that is meant to end", f)
		}
		for _, p := range f.bad {
			if remedy := remedies[p.Reason]; remedy != "" {
				say("pod %s is %s (%s): %s", p.Name, p.Reason, p.Detail, remedy)
			}
		}
		for _, o := range f.Owners {
			if o.SuspendCommand() == "" {
				say("%s acts on %s: mend it where that gets it from", o, f)
				continue
			}
			say("%s acts on %s: mend it where that gets it from, or suspend it (%s)", o, f, o.SuspendCommand())
		}
		if f.probe != "" {
			say("probe %s fails with ready pods of %s: read their logs", f.probe, f)
		}
	}
	for _, a := range l.state.Answers {
		if a.Verdict != run.Pass && len(a.Workloads) == 0 {
			say("probe %s: %s", a.Probe, a.Detail)
		}
	}
}

var remedies = map[health.Reason]string{
	health.ImagePull: "correct the image, or let the cluster pull it", health.BadReference: "make the Secret or ConfigMap that it names",
	health.OutOfMemory: "give it more memory", health.Unschedulable: "add room, or see to its node selectors", health.VolumePending: "see to its volume claims",
	health.NodeLost: "bring the node back, or remove it", health.CrashLoop: "read its log (kubectl logs --previous)", health.NotReady: "read its log",
	health.StuckEnding: "see to its finalizers, or to its node",
}
