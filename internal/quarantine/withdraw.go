package quarantine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/fault"
	"github.com/upkeep-run/upkeep/internal/kube"
)

var (
	accessBefore = fault.NewPoint("quarantine/access/before")
	accessAfter  = fault.NewPoint("quarantine/access/after")
)

// withdrawal is what is written on a binding: for which cases somebody was taken out of it. Who may write there may
// bind the role: the API server lets nobody else change a binding.
type withdrawal struct {
	Cases []taken `json:"cases"`
}

// taken is what one case has taken out of a binding. It stays as a tombstone.
type taken struct {
	Order
	Subjects []rbacv1.Subject `json:"subjects,omitempty"`
	Over     bool             `json:"over,omitempty"`
}

// readWithdrawal reads a binding's note. One that cannot be read is none.
func readWithdrawal(annotations map[string]string) (w withdrawal) {
	if text := annotations[Note]; len(text) > maxNote || text != "" && json.Unmarshal([]byte(text), &w) != nil {
		return withdrawal{}
	}
	return w
}

// with returns the note with what a case holds. It forgets the oldest that are over.
func (w withdrawal) with(t taken) withdrawal {
	out := withdrawal{Cases: slices.DeleteFunc(slices.Clone(w.Cases), func(other taken) bool { return other.Case == t.Case })}
	for i := 0; i < len(out.Cases) && len(out.Cases) >= maxCases; {
		if out.Cases[i].Over {
			out.Cases = slices.Delete(out.Cases, i, i+1)
		} else {
			i++
		}
	}
	out.Cases = append(out.Cases, t)
	return out
}

// of is how a case stands in the note.
func (w withdrawal) of(caseID string) (t taken, ok bool) {
	for _, t := range w.Cases {
		if t.Case == caseID {
			return t, true
		}
	}
	return taken{}, false
}

// elsewhere names another case that holds a subject; "": none.
func (w withdrawal) elsewhere(caseID string, s rbacv1.Subject) string {
	for _, t := range w.Cases {
		if t.Case != caseID && !t.Over && slices.Contains(t.Subjects, s) {
			return t.Case
		}
	}
	return ""
}

// Held is what a case holds of a binding.
type Held struct {
	Binding
	UID      types.UID        `json:"uid"`
	Role     rbacv1.RoleRef   `json:"role"`
	Subjects []rbacv1.Subject `json:"subjects"` // that were taken out of it
	Rest     string           `json:"rest"`     // tells whether others were changed since: the SHA-256 of them
}

// Stays is a binding that was to be changed, and was not.
type Stays struct {
	Binding
	Why string `json:"why"`
}

// Withdrawn is what came of taking accounts out of bindings.
type Withdrawn struct {
	Bindings []Held   `json:"bindings"`
	Stay     []Stays  `json:"stay,omitempty"`
	Remarks  []string `json:"remarks,omitempty"`
}

// Undone reports whether something of the plan is not done.
func (w Withdrawn) Undone() bool { return len(w.Stay) > 0 }

// stays says why a binding cannot be changed, where that is for a person to see to; "": it is an error.
func stays(err error, role rbacv1.RoleRef) string {
	switch {
	case failure.Is(err, failure.ClusterForbids):
		return "the API server forbids it: who changes a binding, also to take somebody out of it, must be let change it, and bind its role or hold all that it gives"
	case failure.Is(err, failure.MissingObject):
		return fmt.Sprintf("its %s %s is not there, so it gives nothing now; whoever makes one of that name decides what it gives", role.Kind, access.Show(role.Name))
	case failure.Is(err, failure.ObjectConflict):
		return "somebody changes it all the time"
	case failure.Is(err, failure.ObjectRefused):
		return "the API server takes the change for wrong"
	}
	return ""
}

// Withdraw takes the suspects' accounts out of the bindings of the plan. Done twice, it finds it done. What it may not
// change it leaves, and says so: nothing waits for it.
func Withdraw(ctx context.Context, c *kube.Cluster, plan AccessPlan, o Order) (Withdrawn, error) {
	var (
		lock sync.Mutex
		errs []error
		out  = Withdrawn{Bindings: []Held{}}
	)
	each(plan.Grants, func(g Grant) {
		if g.Left != "" {
			return
		}
		held, remark, err := withdraw(ctx, c, g, o)
		lock.Lock()
		defer lock.Unlock()
		if remark != "" {
			out.Remarks = append(out.Remarks, remark)
		}
		if why := stays(err, g.Role); why != "" {
			out.Stay = append(out.Stay, Stays{g.Binding, why})
		} else if err != nil {
			errs = append(errs, err)
		}
		if len(held.Subjects) > 0 {
			out.Bindings = append(out.Bindings, held)
		}
	})
	slices.SortFunc(out.Bindings, func(a, b Held) int { return a.compare(b.Binding) })
	slices.SortFunc(out.Stay, func(a, b Stays) int { return a.compare(b.Binding) })
	slices.Sort(out.Remarks)
	return out, errors.Join(errs...)
}

func (b Binding) compare(o Binding) int {
	return cmp.Or(cmp.Compare(b.Namespace, o.Namespace), cmp.Compare(b.Name, o.Name))
}

// get reads a binding; nil: there is none, or another one.
func (b Binding) get(ctx context.Context, c *kube.Cluster, uid types.UID) (*rbacv1.RoleBinding, error) {
	var (
		got *rbacv1.RoleBinding
		err error
	)
	if b.Namespace != "" {
		got, err = c.Client.RbacV1().RoleBindings(b.Namespace).Get(ctx, b.Name, metav1.GetOptions{})
	} else {
		var one *rbacv1.ClusterRoleBinding
		if one, err = c.Client.RbacV1().ClusterRoleBindings().Get(ctx, b.Name, metav1.GetOptions{}); err == nil {
			same := rbacv1.RoleBinding(*one)
			got = &same
		}
	}
	err = kube.Classify(err, "read "+b.String())
	if failure.Is(err, failure.MissingObject) || err == nil && got.UID != uid {
		return nil, nil
	}
	return got, err
}

// change gives a binding other subjects and another note; it holds only for the binding as it was read.
func (b Binding) change(ctx context.Context, c *kube.Cluster, was *rbacv1.RoleBinding, subjects []rbacv1.Subject, w withdrawal) error {
	text, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	if subjects == nil {
		subjects = []rbacv1.Subject{} // none, and not as they were
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": was.ResourceVersion, "uid": string(was.UID), "annotations": map[string]string{Note: string(text)}},
		"subjects": subjects,
	})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	accessBefore.Hit()
	if b.Namespace != "" {
		_, err = c.Client.RbacV1().RoleBindings(b.Namespace).Patch(ctx, b.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: manager})
	} else {
		_, err = c.Client.RbacV1().ClusterRoleBindings().Patch(ctx, b.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: manager})
	}
	accessAfter.Hit()
	return kube.Classify(err, "change "+b.String())
}

// withdraw takes the accounts out of one binding, and says what the case holds of it.
func withdraw(ctx context.Context, c *kube.Cluster, g Grant, o Order) (held Held, remark string, err error) {
	err = again(func() error {
		held, remark = Held{Binding: g.Binding, UID: g.UID, Role: g.Role}, ""
		b, err := g.get(ctx, c, g.UID)
		if err != nil {
			return err
		}
		if b == nil {
			remark = g.Binding.String() + " was gone, or another one, before anything was taken from it"
			return nil
		}
		out := takeOut(b, g, o)
		held.Subjects, held.Rest, remark = out.subjects, digest(out.rest), out.remark
		if out.done {
			return nil
		}
		if err := g.change(ctx, c, b, out.rest, readWithdrawal(b.Annotations).with(taken{Order: o, Subjects: out.subjects})); err != nil {
			held.Subjects = nil
			return err
		}
		return nil
	})
	return held, remark, err
}

// outcome is what taking subjects out of a binding comes to.
type outcome struct {
	subjects, rest []rbacv1.Subject
	remark         string
	done           bool // there is nothing to change
}

// takeOut decides who is taken out of a binding.
func takeOut(b *rbacv1.RoleBinding, g Grant, o Order) (out outcome) {
	w := readWithdrawal(b.Annotations)
	was, ours := w.of(o.Case)
	live := ours && !was.Over
	if ours && (was.At.After(o.At) || was.Over && !was.At.Before(o.At)) {
		out.done, out.rest = true, b.Subjects
		if live {
			out.subjects = was.Subjects
		}
		out.remark = g.Binding.String() + " was changed by a later run of the case, and stays as it is"
		return out
	}
	if live {
		out.subjects = slices.Clone(was.Subjects)
	}
	hold := func(s rbacv1.Subject) {
		if !slices.Contains(out.subjects, s) {
			out.subjects = append(out.subjects, s)
		}
	}
	for _, s := range b.Subjects {
		if slices.Contains(g.Subjects, s) {
			hold(s)
		} else {
			out.rest = append(out.rest, s)
		}
	}
	for _, s := range g.Subjects {
		if w.elsewhere(o.Case, s) != "" { // it is out already, and must stay out when that case ends
			hold(s)
		}
	}
	back := len(out.rest) < len(b.Subjects)
	if live && was.At.Equal(o.At) && back {
		out.remark = "somebody put the suspects back into " + g.Binding.String() + ", and they were taken out again"
	}
	out.done = len(out.subjects) == 0 || live && was.At.Equal(o.At) && !back && len(out.subjects) == len(was.Subjects)
	return out
}

// digest names subjects by what they are.
func digest(subjects []rbacv1.Subject) string {
	data, _ := json.Marshal(append([]rbacv1.Subject{}, subjects...)) // plain data always encodes
	return access.HashOf(data)
}
