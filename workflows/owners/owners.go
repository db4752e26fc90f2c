// Package owners keeps those from acting, for a run's time, who would take its changes back. What each had is
// kept on its own object, so that whatever becomes of the run, it can be given back; a later run of the target
// takes over what an earlier one has left suspended.
package owners

import (
	"strings"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/held"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/workflows/procedure"
)

// Held are owners that a run keeps from acting.
type Held struct {
	run   *procedure.Run
	order kubernetes.OwnersOrder
}

// Order is a new order of the run for its target. Its time tells it from every other of the run, also from
// that of a run that was reset.
func Order(r *procedure.Run) held.Order {
	return held.Order{Key: r.Key(), Target: r.Target().Name, At: r.Now().UTC()}
}

// Hold is to be called before anything is suspended for an order: however the run ends from then on, the
// owners act again.
func Hold(r *procedure.Run, k *config.Kubernetes, order held.Order, images []ownership.Image) *Held {
	h := &Held{r, kubernetes.OwnersOrder{Kubernetes: k, Owners: images, Order: order}}
	r.OnFailure(step("Let the owners act again", kubernetes.ResumeOwners), h.order)
	return h
}

// Again registers once more that the owners act again, after the run has kept what it did, and reports whether
// there are any.
func (h *Held) Again() bool {
	h.run.OnFailure(step("Let the owners act again", kubernetes.ResumeOwners), h.order)
	return len(h.order.Owners) > 0
}

// Suspend keeps the owners from acting. Those that an earlier run has left suspended are this run's then.
func (h *Held) Suspend(name string) error { return h.do(name, kubernetes.SuspendOwners, nil) }

// Resume lets them act as before, and returns what somebody changed meanwhile.
func (h *Held) Resume() (remarks []string, err error) {
	err = h.do("Let the owners act again", kubernetes.ResumeOwners, &remarks)
	return remarks, err
}

func (h *Held) do(name, activity string, into *[]string) error {
	var remarks []string
	if err := h.run.Do(step(name, activity), h.order, &remarks); err != nil {
		return err
	}
	if len(remarks) > 0 {
		h.run.Detail(strings.Join(remarks, "; "))
	}
	if into != nil {
		*into = remarks
	}
	return nil
}

// Names are the owners, for people.
func Names(images []ownership.Image) string {
	names := make([]string, len(images))
	for i, o := range images {
		names[i] = o.Owner.String()
	}
	return strings.Join(names, ", ")
}

// AskToResume makes the run wait until a person has seen to it that the owners, when they act again, leave
// what the run has made of the release as it is.
func (h *Held) AskToResume(what string) error {
	names := Names(h.order.Owners)
	return h.run.Wait(failure.New(failure.OwnedByOther, "%s, and %s would take that back", what, names).
		Do("make the same change where %s gets it from; then resume the run, and it acts again; abandon the run, and it acts again at once", names))
}

// Proposed is the end of a run whose plan only proposes; the words are for its result.
func Proposed(proposals []ownership.Proposal) (words []string, refusal error) {
	for _, p := range proposals {
		words = append(words, p.String())
	}
	return words, ownership.Proposed(proposals)
}

func step(name, activity string) procedure.Step {
	return procedure.Step{Name: name, Activity: activity, Options: procedure.Quick, Queue: run.ClusterQueue}
}
