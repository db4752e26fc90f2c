package quarantine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// Returned is a binding as it is when the case ends.
type Returned struct {
	Binding
	UID      types.UID        `json:"uid"`
	Role     rbacv1.RoleRef   `json:"role"`
	Subjects []rbacv1.Subject `json:"subjects"` // that get back in; or stay out
	Stay     bool             `json:"stay,omitempty"`
	// Conflicts are what somebody has changed, and stays.
	Conflicts []string `json:"conflicts,omitempty"`
	Not       string   `json:"not,omitempty"` // why nothing is done to it
	Do        string   `json:"do,omitempty"`  // what puts them back by hand
}

// PlanReturn says what becomes of the bindings when the case ends: the accounts are put back into them, or stay out
// for good. It changes nothing. What was taken out is what the run has kept.
func PlanReturn(ctx context.Context, c *kube.Cluster, done Withdrawn, caseID string, back bool) (all []Returned, err error) {
	for _, h := range done.Bindings {
		b, err := h.get(ctx, c, h.UID)
		switch {
		case failure.Is(err, failure.ClusterForbids):
			all = append(all, Returned{Binding: h.Binding, UID: h.UID, Role: h.Role, Subjects: h.Subjects, Stay: !back, Not: "it may not be read"})
		case err != nil:
			return nil, err
		default:
			all = append(all, returned(b, h, caseID, back))
		}
	}
	return all, nil
}

// returned decides what one binding gets back; b is nil when it is gone.
func returned(b *rbacv1.RoleBinding, h Held, caseID string, back bool) Returned {
	r := Returned{Binding: h.Binding, UID: h.UID, Role: h.Role, Stay: !back, Subjects: []rbacv1.Subject{}}
	if b == nil {
		r.Not = "it is gone, or another one"
		return r
	}
	w := readWithdrawal(b.Annotations)
	was, ours := w.of(caseID)
	if ours && was.Over {
		r.Not = "it was given back already"
		return r
	}
	conflict := func(format string, args ...any) { r.Conflicts = append(r.Conflicts, fmt.Sprintf(format, args...)) }
	rest := []rbacv1.Subject{}
	for _, s := range b.Subjects {
		if !slices.Contains(h.Subjects, s) {
			rest = append(rest, s)
		}
	}
	if digest(rest) != h.Rest {
		conflict("somebody has changed who else is in it, and that stays")
	}
	if !ours || !slices.Equal(was.Subjects, h.Subjects) {
		conflict("the note on it is not the one that was written; what the run has kept counts")
	}
	for _, s := range h.Subjects {
		name := access.NewSubject(s.Kind, s.Namespace, s.Name).String()
		switch other := w.elsewhere(caseID, s); {
		case slices.Contains(b.Subjects, s):
			conflict("somebody has put %s back", name)
		case other != "":
			conflict("case %s holds %s too, which gets back in when that one ends", other, name)
		default:
			r.Subjects = append(r.Subjects, s)
		}
	}
	if len(r.Subjects) > 0 {
		r.Do = putByHand(b, r.Subjects)
	}
	return r
}

// Return puts the accounts back into the bindings, or notes that they stay out. Done twice, it finds it done; from
// then on an attempt of the same or an earlier order that comes late changes nothing.
func Return(ctx context.Context, c *kube.Cluster, all []Returned, o Order) (out Released, err error) {
	var (
		lock sync.Mutex
		errs []error
	)
	each(all, func(r Returned) {
		if r.Not != "" {
			return
		}
		err := again(func() error {
			b, err := r.get(ctx, c, r.UID)
			if err != nil || b == nil {
				return err
			}
			w := readWithdrawal(b.Annotations)
			if was, ours := w.of(o.Case); ours && (was.At.After(o.At) || was.Over && !was.At.Before(o.At)) {
				return nil // done, or a later run's
			}
			return r.change(ctx, c, b, r.putBack(b, w, o.Case), w.with(taken{Order: o, Over: true}))
		})
		lock.Lock()
		defer lock.Unlock()
		if why := stays(err, r.Role); why != "" {
			what := " gives the account nothing back: "
			if r.Stay {
				what = " keeps the note of the case: "
			}
			out.Remarks = append(out.Remarks, r.Binding.String()+what+why)
			if out.Undone = true; !r.Stay && r.Do != "" {
				out.FollowUps = append(out.FollowUps, "give it back: "+r.Do)
			}
		} else if err != nil {
			errs = append(errs, err)
		}
	})
	slices.Sort(out.Remarks)
	slices.Sort(out.FollowUps)
	return out, errors.Join(errs...)
}

// putBack are the subjects that a binding has when the case ends: what others have changed stays.
func (r Returned) putBack(b *rbacv1.RoleBinding, w withdrawal, caseID string) []rbacv1.Subject {
	all := slices.Clone(b.Subjects)
	for _, s := range r.Subjects {
		if !r.Stay && !slices.Contains(all, s) && w.elsewhere(caseID, s) == "" {
			all = append(all, s)
		}
	}
	return all
}

// words say what becomes of the bindings.
func (r ReleasePlan) accessWords() (words string, conflicts []string) {
	back, out := []string{}, []string{}
	for _, a := range r.Access {
		for _, c := range a.Conflicts {
			conflicts = append(conflicts, a.Binding.String()+": "+c)
		}
		switch {
		case a.Not != "":
			conflicts = append(conflicts, a.Binding.String()+": "+a.Not)
		case a.Stay && len(a.Subjects) > 0:
			out = append(out, a.Binding.String())
		case len(a.Subjects) > 0:
			back = append(back, a.Binding.String())
		}
	}
	if len(back) > 0 {
		words += "; put the accounts back into " + few(back)
	}
	if len(out) > 0 {
		words += "; the accounts stay out of " + few(out)
	}
	for _, a := range r.Accounts {
		if a.Not != "" {
			conflicts = append(conflicts, "account "+a.String()+" is not made anew: "+a.Not)
			continue
		}
		words += "; make account " + a.String() + " anew, which ends every token of it"
		if users := a.Users(); users != "" {
			words += ", also those of " + users
		}
	}
	if len(r.Rotate) > 0 {
		words += "; then rotate the secrets " + few(r.Rotate) + ", each with an approval of its own"
	}
	return words, conflicts
}
