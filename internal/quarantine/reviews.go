package quarantine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// maxAsked bounds the reviews that are asked for one binding, and maxOthersAsked those for each other subject.
	maxAsked       = 200
	maxOthersAsked = 5
	// maxQuestions bounds them all.
	maxQuestions = 2000
	askAgain     = 200 * time.Millisecond
	maxReviewed  = 200 // bytes of what the API server says of a review
)

// settles is how long the API server is given to know of a change of its bindings.
var settles = 5 * time.Second

// question is one that is asked of the API server: may a subject do what a rule of a role gives?
type question struct {
	binding Binding
	subject access.Subject
	request request
	want    bool // it may
}

// request is what may be done.
type request struct{ namespace, verb, group, resource, name, path string }

func (r request) String() string {
	if r.path != "" {
		return r.verb + " " + access.Show(r.path)
	}
	words := r.verb + " " + access.Show(r.resource)
	if r.group != "" {
		words += "." + access.Show(r.group)
	}
	if r.name != "" {
		words += " " + access.Show(r.name)
	}
	return words
}

// requests are what rules give, most at most, and how many there are. A wildcard is asked for as it is: only who has
// one gets a yes.
func requests(rules []rbacv1.PolicyRule, namespace string, most int) (all []request, n int) {
	add := func(r request) {
		if n++; n <= most {
			all = append(all, r)
		}
	}
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						add(request{namespace, verb, group, resource, name, ""})
					}
				}
			}
			for _, path := range rule.NonResourceURLs {
				if namespace == "" { // a RoleBinding gives none
					add(request{verb: verb, path: path})
				}
			}
		}
	}
	return all, n
}

// review asks the API server one question.
func (q question) review(ctx context.Context, c *kube.Cluster) (may bool, why string, err error) {
	user, groups := q.subject.As()
	spec := authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups}
	if r := q.request; r.path != "" {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: r.path, Verb: r.verb}
	} else {
		resource, sub, _ := strings.Cut(r.resource, "/")
		spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Namespace: r.namespace, Verb: r.verb, Group: r.group, Resource: resource, Subresource: sub, Name: r.name}
	}
	got, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, "", kube.Classify(err, "ask what "+q.subject.String()+" may do")
	}
	why = got.Status.Reason
	return got.Status.Allowed, access.Show(why[:min(len(why), maxReviewed)]), nil
}

// rules are what a role gives; nil where it is not there.
func rules(ctx context.Context, c *kube.Cluster, namespace string, role rbacv1.RoleRef) ([]rbacv1.PolicyRule, error) {
	doing := fmt.Sprintf("read %s %s", role.Kind, access.Show(role.Name))
	if role.Kind == "ClusterRole" {
		got, err := c.Client.RbacV1().ClusterRoles().Get(ctx, role.Name, metav1.GetOptions{})
		if err = kube.Classify(err, doing); failure.Is(err, failure.MissingObject) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return got.Rules, nil
	}
	got, err := c.Client.RbacV1().Roles(namespace).Get(ctx, role.Name, metav1.GetOptions{})
	if err = kube.Classify(err, doing); failure.Is(err, failure.MissingObject) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return got.Rules, nil
}

// AccessProof is how the suspects' access stands.
type AccessProof struct {
	Checks []run.Check `json:"checks"`
	// Back are bindings into which somebody has put an account back.
	Back []string `json:"back,omitempty"`
}

func (p *AccessProof) add(name string, v run.Verdict, parts ...string) {
	detail := strings.Join(parts[:min(len(parts), shown)], "; ")
	if len(parts) > shown {
		detail += fmt.Sprintf("; and %d more", len(parts)-shown)
	}
	p.Checks = append(p.Checks, run.Check{Name: name, Verdict: v, Detail: detail})
}

// PutBack names the bindings that have accounts again which were taken out.
func PutBack(ctx context.Context, c *kube.Cluster, done Withdrawn) (back []string, err error) {
	for _, h := range done.Bindings {
		b, err := h.get(ctx, c, h.UID)
		switch {
		case failure.Is(err, failure.ClusterForbids): // which the proof says
		case err != nil:
			return nil, err
		case b != nil && h.isBack(b):
			back = append(back, h.Binding.String())
		}
	}
	return back, nil
}

// isBack reports whether accounts that were taken out of the binding are in it.
func (h Held) isBack(b *rbacv1.RoleBinding) bool {
	return slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return slices.Contains(h.Subjects, s) })
}

// ProveAccess sees what the suspects' accounts still are given, and asks the API server what they, and those who stay
// in the bindings, may do. What may not be asked is not proven.
func ProveAccess(ctx context.Context, c *kube.Cluster, plan AccessPlan, done Withdrawn, asked bool) (AccessProof, error) {
	out := AccessProof{Checks: []run.Check{}}
	left := plan.left(done, asked)
	var questions []question
	var untried, gone []string
	for _, h := range done.Bindings {
		b, err := h.get(ctx, c, h.UID)
		switch {
		case failure.Is(err, failure.ClusterForbids):
			untried = append(untried, h.Binding.String()+" may not be read")
			continue
		case err != nil:
			return out, err
		case b == nil:
			continue // and gives nobody anything
		}
		if h.isBack(b) {
			out.Back = append(out.Back, h.Binding.String())
			continue
		}
		given, err := rules(ctx, c, h.Namespace, h.Role)
		if failure.Is(err, failure.ClusterForbids) {
			untried = append(untried, fmt.Sprintf("%s %s of %s may not be read", h.Role.Kind, access.Show(h.Role.Name), h.Binding))
			continue
		} else if err != nil {
			return out, err
		}
		all, n := requests(given, h.Namespace, min(maxAsked, (maxQuestions-len(questions))/(len(h.Subjects)+1)))
		if n > len(all) {
			untried = append(untried, fmt.Sprintf("%d of the %d rights that %s gives", n-len(all), n, h.Binding))
		}
		for _, s := range h.Subjects {
			for _, r := range all {
				questions = append(questions, question{h.Binding, access.NewSubject(s.Kind, s.Namespace, s.Name), r, false})
			}
		}
		others := plan.others(h.Binding)
		for _, s := range others {
			if !slices.Contains(b.Subjects, s) {
				gone = append(gone, fmt.Sprintf("%s is no longer in %s", access.NewSubject(s.Kind, s.Namespace, s.Name), h.Binding))
				continue
			}
			for _, r := range all[:min(len(all), maxOthersAsked)] {
				questions = append(questions, question{h.Binding, access.NewSubject(s.Kind, s.Namespace, s.Name), r, true})
			}
		}
	}
	if len(out.Back) > 0 {
		out.add("access", run.Fail, "somebody has put the accounts back into "+few(out.Back))
	}
	if len(left) > 0 {
		out.add("access that is left", run.NotProven, left...)
	}
	if len(done.Bindings) == 0 {
		if len(left)+len(out.Back) == 0 {
			out.add("access", run.Pass, "no binding names the suspects' accounts")
		}
		return out, nil
	}
	if len(questions)+len(untried)+len(gone) == 0 {
		return out, nil
	}
	return out, out.judge(ctx, c, questions, untried, gone, len(left) > 0 || len(out.Back) > 0)
}

// others are those who keep what a binding gives, as far as the plan names them.
func (plan AccessPlan) others(b Binding) []rbacv1.Subject {
	for _, g := range plan.Grants {
		if g.Binding == b {
			return g.Others
		}
	}
	return nil
}

// left are what the suspects' accounts are still given, as far as it is known, in words.
func (plan AccessPlan) left(done Withdrawn, asked bool) (left []string) {
	for _, g := range plan.Grants {
		what := fmt.Sprintf("%s gives %s %s", g.Binding, g.Role.Kind, access.Show(g.Role.Name))
		i := slices.IndexFunc(done.Stay, func(s Stays) bool { return s.Binding == g.Binding })
		switch {
		case g.Left != "":
			left = append(left, what+": "+g.Left)
		case !asked:
			left = append(left, what+": nobody has asked for its withdrawal (access: withdraw)")
		case i >= 0:
			left = append(left, what+": "+done.Stay[i].Why)
		case len(g.Groups) > 0:
			left = append(left, what+" to the group "+access.Show(g.Groups[0])+" too, which others are in")
		}
	}
	for _, a := range plan.Accounts {
		if a.Not != "" {
			left = append(left, "account "+a.String()+" keeps all that it has: "+a.Not)
		}
	}
	return append(left, plan.Gaps...)
}

// FollowUps are what a person must see to of what is left to the accounts.
func (plan AccessPlan) FollowUps(done Withdrawn, asked bool) (all []string) {
	for _, g := range plan.Grants {
		stays := slices.ContainsFunc(done.Stay, func(s Stays) bool { return s.Binding == g.Binding })
		if g.Do == "" || g.Left == "" && asked && !stays {
			continue
		}
		words := fmt.Sprintf("%s still gives the suspects' accounts %s %s; to take them out: %s", g.Binding, g.Role.Kind, access.Show(g.Role.Name), g.Do)
		if g.Allow != "" {
			words += "; or let Upkeep do it the next time: " + g.Allow
		}
		all = append(all, words)
	}
	return all
}

// judge asks all questions, those whose answer is not as it must be again until the API server has had time to learn
// of the change, and judges. Explained says that something is known by which an account still may.
func (p *AccessProof) judge(ctx context.Context, c *kube.Cluster, questions []question, untried, gone []string, explained bool) error {
	n := len(questions)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := time.Now().Add(settles)
	var wrong []answered
	for {
		var err error
		if wrong, err = ask(ctx, c, questions); failure.Is(err, failure.ClusterForbids) {
			p.add("what the accounts may do", run.NotProven, "it may not be asked: the worker needs create on subjectaccessreviews.authorization.k8s.io in the whole cluster (docs/kubernetes.md)")
			return nil
		} else if err != nil {
			return err
		}
		if len(wrong) == 0 || time.Now().After(end) {
			break
		}
		questions = questions[:0:0]
		for _, w := range wrong {
			questions = append(questions, w.question)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
	var can, cannot []string
	for _, w := range wrong {
		if w.want {
			cannot = append(cannot, fmt.Sprintf("%s can no longer %s, which %s gives it", w.subject, w.request, w.binding))
		} else {
			can = append(can, strings.TrimSuffix(fmt.Sprintf("%s still can %s (%s)", w.subject, w.request, w.why), " ()"))
		}
	}
	slices.Sort(can)
	slices.Sort(cannot)
	switch {
	case len(can) > 0 && explained:
		p.add("what the accounts may do", run.NotProven, can...)
	case len(can) > 0:
		p.add("what the accounts may do", run.Fail, can...)
	case len(untried) > 0:
		p.add("what the accounts may do", run.NotProven, append([]string{"not asked"}, untried...)...)
	default:
		p.add("what the accounts may do", run.Pass, fmt.Sprintf("%d access reviews: the accounts may no longer do what they were given, and those who stay in the bindings may", n))
	}
	switch {
	case len(cannot) > 0:
		p.add("what others may do", run.Fail, cannot...)
	case len(gone) > 0:
		p.add("what others may do", run.NotProven, append([]string{"somebody else has changed who is granted what"}, gone...)...)
	}
	return nil
}

// answered is a question whose answer is not as it must be.
type answered struct {
	question
	why string
}

// ask asks questions at once, and returns those with a wrong answer.
func ask(ctx context.Context, c *kube.Cluster, questions []question) (wrong []answered, err error) {
	var lock sync.Mutex
	each(questions, func(q question) {
		may, why, e := q.review(ctx, c)
		lock.Lock()
		defer lock.Unlock()
		if e != nil && err == nil {
			err = e
		}
		if e == nil && may != q.want {
			wrong = append(wrong, answered{q, why})
		}
	})
	return wrong, err
}
