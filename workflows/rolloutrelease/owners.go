package rolloutrelease

import (
	"fmt"
	"slices"

	"github.com/upkeep-run/upkeep/activities/helm"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/workflows/owners"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// suspended are those whom the plan suspends, each once.
func (o *rollout) suspended() (all []ownership.Image) {
	for _, s := range o.stages() {
		for _, i := range s.owners.Suspend {
			if !slices.ContainsFunc(all, func(known ownership.Image) bool { return known.UID == i.UID }) {
				all = append(all, i)
			}
		}
	}
	return all
}

// suspend keeps those from acting who would take the stage's upgrade back. One who owns both stages is
// suspended with the first.
func (o *rollout) suspend(s *stage) error {
	fresh := s.owners.Suspend
	if s == o.production && o.staging != nil && o.staging.held != nil {
		fresh = slices.DeleteFunc(slices.Clone(fresh), func(i ownership.Image) bool {
			return slices.ContainsFunc(o.staging.owners.Suspend, func(known ownership.Image) bool { return known.UID == i.UID })
		})
	}
	if len(fresh) == 0 || s.held != nil {
		return nil
	}
	s.held = owners.Hold(o.r, s.Kubernetes, owners.Order(o.r), fresh)
	if err := s.held.Suspend(fmt.Sprintf("Suspend the owners of the workloads (%s)", s.Target)); err != nil {
		return err
	}
	for _, i := range fresh {
		s.out.Suspended = append(s.out.Suspended, i.Owner.String())
	}
	o.show()
	return nil
}

// ofOwnRun are those that the run has suspended, before a reset.
func ofOwnRun(images []ownership.Image, key string) []ownership.Image {
	return slices.DeleteFunc(slices.Clone(images), func(i ownership.Image) bool { return i.HeldBy != key })
}

// resume lets all act again that the run has suspended.
func (o *rollout) resume() error {
	for _, s := range o.stages() {
		if s.held == nil {
			continue
		}
		remarks, err := s.held.Resume()
		if err != nil {
			return err
		}
		s.held, s.out.Remarks = nil, append(s.out.Remarks, remarks...)
		o.show()
	}
	return nil
}

// hand gives the release back to its owners, after a person has seen to it that they leave it as it is, and
// watches it once more while they act. What they make of it then is not rolled back: it is theirs.
func (o *rollout) hand() (good bool, err error) {
	var last *stage
	for _, s := range o.stages() {
		if s.held != nil {
			last = s
		}
	}
	if last == nil {
		return true, nil
	}
	s := o.production
	err = last.held.AskToResume(fmt.Sprintf("release %s is at revision %d and good", s.Kubernetes.Release, s.out.Revision))
	if procedure.GivenUp(err) {
		o.giveUp(s)
	}
	if err != nil {
		return false, err
	}
	if err := o.resume(); err != nil {
		return false, err
	}
	var found helm.Watched
	request := helm.WatchRequest{Place: s.Place, Revision: s.out.Revision, Until: o.r.Now().Add(s.policy.Bake), Before: s.restarts, Checks: s.policy.Checks}
	if err := o.r.Do(o.step(s, "Watch the release with its owners at work", helm.Watch, procedure.Long), request, &found); err != nil {
		return false, err
	}
	s.out.Checks, s.out.Verdict = found.Checks, found.Verdict
	o.r.Mark(found.Verdict, bad(found.Checks))
	o.show()
	if found.Verdict == run.Pass {
		return true, nil
	}
	o.r.Judge(found.Verdict)
	o.r.Say("release %s was at revision %d and good, and is not since its owners act again: %s; see to what they get it from", s.Kubernetes.Release, s.out.Revision, bad(found.Checks))
	return false, nil
}
