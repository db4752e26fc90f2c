package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// pageSize is how many objects are asked for at once.
	pageSize = 500
	// maxPage bounds the bytes of one answer. Where a page is larger, a smaller one is asked for.
	maxPage = 16 << 20
	// maxKept bounds the bytes of names and rules that are kept.
	maxKept = 64 << 20
	// restarts is how often a list is begun anew that has become too old while it was read.
	restarts = 3
)

// role is the name of the ClusterRole that the command makes which grants what is missing.
const role = "upkeep-review-access"

// wanted are the resources that are read, as kubectl names them.
var wanted = []string{"clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", "serviceaccounts", "pods"}

// reader reads a cluster.
type reader struct {
	client kubernetes.Interface
	kept   atomic.Int64

	mu   sync.Mutex
	seen *Seen
}

// Look reads who may do what in the cluster, and the pods of its namespace. It only lists; what it may not
// list it names.
func Look(ctx context.Context, c *kube.Cluster) (*Seen, error) {
	cfg := rest.CopyConfig(c.Config)
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	r := &reader{client: client, seen: &Seen{Uses: make(map[Subject]Use)}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reading sync.WaitGroup
	for _, part := range []struct {
		resource string
		within   string // "": in the whole cluster, and where that may not be in the target's namespace
		read     func(context.Context, string) error
	}{
		{"clusterroles", "", r.clusterRoles}, {"clusterrolebindings", "", r.clusterRoleBindings}, {"roles", "", r.roles}, {"rolebindings", "", r.roleBindings},
		{"serviceaccounts", "", r.accounts}, {"pods", c.Namespace, r.pods},
	} {
		reading.Go(func() {
			err := part.read(ctx, part.within)
			if apierrors.IsForbidden(err) {
				gap := Unread{Resource: part.resource, Why: reason(err)}
				if part.within == "" && !strings.HasPrefix(part.resource, "cluster") {
					if err = part.read(ctx, c.Namespace); err == nil {
						gap.Only = c.Namespace
					}
				}
				if err == nil || apierrors.IsForbidden(err) {
					r.mu.Lock()
					r.seen.Unread = append(r.seen.Unread, gap)
					r.mu.Unlock()
					return
				}
			}
			if err != nil {
				cancel(kube.Classify(err, "list "+part.resource))
			}
		})
	}
	reading.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(r.seen.Unread) > 0 {
		r.say(ctx)
	}
	return r.seen, nil
}

// reason is what the API server says of a refusal, without what others may have put into it.
func reason(err error) string {
	text := err.Error()
	if len(text) > 300 {
		text = text[:300]
	}
	return strings.ToValidUTF8(text, "?")
}

// say adds to what was not read who may not, and the command that grants it.
func (r *reader) say(ctx context.Context) {
	slices.SortFunc(r.seen.Unread, func(a, b Unread) int { return strings.Compare(a.Resource, b.Resource) })
	who := ""
	if me, err := r.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err == nil {
		who = me.Status.UserInfo.Username
	}
	for i := range r.seen.Unread {
		r.seen.Unread[i].Who, r.seen.Unread[i].Command = who, grant(who)
	}
}

// grant is the command that lets somebody read what a review needs.
func grant(who string) string {
	return fmt.Sprintf("kubectl create clusterrole %s --verb=list --resource=%s && kubectl create clusterrolebinding %s --clusterrole=%s %s", role, strings.Join(wanted, ","), role, role, For(who))
}

// For is how kubectl is told to whom something is granted; who is a user's name as the API server knows it.
func For(who string) string {
	if s := NewSubject(KindUser, "", who); s.Kind == KindAccount {
		return "--serviceaccount=" + Quote(s.Namespace+":"+s.Name)
	}
	if who == "" {
		return "--user=NAME_OF_THE_USER"
	}
	return "--user=" + Quote(who)
}

// Quote keeps a shell from reading a name.
func Quote(name string) string {
	if strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(":-._@/", r))
	}) < 0 {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// keep counts what is kept of an object.
func (r *reader) keep(lists ...[]string) error {
	n := int64(200) // what an object takes besides
	for _, list := range lists {
		for _, v := range list {
			n += int64(len(v)) + 32
		}
	}
	if r.kept.Add(n) > maxKept {
		return failure.New(failure.TooManyGrants, "the cluster's roles and bindings have more than %d MiB of names and rules", maxKept>>20).
			Do("see who makes so many: kubectl get clusterroles,roles,clusterrolebindings,rolebindings -A")
	}
	return nil
}

// list is a page of a list.
type list interface {
	GetContinue() string
}

// pages lists page after page. A list that has become too old while it was read begins anew.
func pages[L list](ctx context.Context, ask func(context.Context, metav1.ListOptions) (L, error), reset func(), fold func(L) error) error {
	o := metav1.ListOptions{Limit: pageSize}
	for tries := 0; ; {
		page, err := ask(ctx, o)
		switch {
		case errors.Is(err, errLarge) && o.Limit > 1:
			o.Limit /= 8
			o.Limit = max(o.Limit, 1)
			continue
		case errors.Is(err, errLarge):
			return failure.New(failure.TooManyGrants, "an object of the cluster has more than %d MiB", maxPage>>20).Do("see who makes it, and why")
		case apierrors.IsResourceExpired(err) && tries < restarts:
			tries++
			reset()
			o.Continue = ""
			continue
		case err != nil:
			return err
		}
		if err := fold(page); err != nil {
			return err
		}
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// terms keeps each text once: most rules are made of the same words.
type terms map[string]string

func (t terms) list(all []string) []string {
	for i, v := range all {
		if w, ok := t[v]; ok {
			all[i] = w
		} else {
			t[v] = v
		}
	}
	return all
}

// rules keeps the rules of a role, and the same ones once.
func (r *reader) rules(given []rbacv1.PolicyRule, t terms, same map[content][]Rule) ([]Rule, error) {
	rules := ordered(given)
	key := key(rules)
	if kept, ok := same[key]; ok {
		return kept, r.keep()
	}
	for _, rule := range rules {
		if err := r.keep(t.list(rule.Verbs), t.list(rule.Groups), t.list(rule.Resources), t.list(rule.Names), t.list(rule.URLs)); err != nil {
			return nil, err
		}
	}
	same[key] = rules
	return rules, nil
}

func (r *reader) clusterRoles(ctx context.Context, _ string) error {
	var all []Role
	t, same := terms{}, map[content][]Rule{}
	err := pages(ctx, r.client.RbacV1().ClusterRoles().List, func() { all = nil }, func(page *rbacv1.ClusterRoleList) error {
		for i := range page.Items {
			o := &page.Items[i]
			rules, err := r.rules(o.Rules, t, same)
			if err != nil {
				return err
			}
			one := Role{Ref: Ref{Kind: kindClusterRole, Name: o.Name}, Rules: rules, Labels: o.Labels}
			if o.AggregationRule != nil {
				one.Aggregates = o.AggregationRule.ClusterRoleSelectors
			}
			all = append(all, one)
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Roles = append(s.Roles, all...) })
}

func (r *reader) roles(ctx context.Context, namespace string) error {
	var all []Role
	t, same := terms{}, map[content][]Rule{}
	err := pages(ctx, r.client.RbacV1().Roles(namespace).List, func() { all = nil }, func(page *rbacv1.RoleList) error {
		for i := range page.Items {
			o := &page.Items[i]
			rules, err := r.rules(o.Rules, t, same)
			if err != nil {
				return err
			}
			all = append(all, Role{Ref: Ref{kindRole, o.Namespace, o.Name}, Rules: rules})
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Roles = append(s.Roles, all...) })
}

func (r *reader) clusterRoleBindings(ctx context.Context, _ string) error {
	var all []Binding
	err := pages(ctx, r.client.RbacV1().ClusterRoleBindings().List, func() { all = nil }, func(page *rbacv1.ClusterRoleBindingList) error {
		for i := range page.Items {
			o := &page.Items[i]
			b, err := r.binding(Ref{kindClusterRoleBinding, "", o.Name}, o.RoleRef, o.Subjects)
			if err != nil {
				return err
			}
			all = append(all, b)
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Bindings = append(s.Bindings, all...) })
}

func (r *reader) roleBindings(ctx context.Context, namespace string) error {
	var all []Binding
	err := pages(ctx, r.client.RbacV1().RoleBindings(namespace).List, func() { all = nil }, func(page *rbacv1.RoleBindingList) error {
		for i := range page.Items {
			o := &page.Items[i]
			b, err := r.binding(Ref{kindRoleBinding, o.Namespace, o.Name}, o.RoleRef, o.Subjects)
			if err != nil {
				return err
			}
			all = append(all, b)
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Bindings = append(s.Bindings, all...) })
}

func (r *reader) binding(ref Ref, to rbacv1.RoleRef, subjects []rbacv1.Subject) (Binding, error) {
	b := Binding{Ref: ref, Role: Ref{Kind: to.Kind, Name: to.Name}}
	if to.Kind == kindRole {
		b.Role.Namespace = ref.Namespace
	}
	for _, s := range subjects {
		if err := r.keep([]string{s.Kind, s.Namespace, s.Name}); err != nil {
			return b, err
		}
		b.Subjects = append(b.Subjects, NewSubject(s.Kind, s.Namespace, s.Name))
	}
	return b, r.keep([]string{ref.Namespace, ref.Name, to.Name})
}

func (r *reader) accounts(ctx context.Context, namespace string) error {
	var all []Account
	err := pages(ctx, r.client.CoreV1().ServiceAccounts(namespace).List, func() { all = nil }, func(page *corev1.ServiceAccountList) error {
		for i := range page.Items {
			o := &page.Items[i]
			if err := r.keep([]string{o.Namespace, o.Name}); err != nil {
				return err
			}
			all = append(all, Account{o.Namespace, o.Name})
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Accounts = append(s.Accounts, all...) })
}

// tokenPath is where a pod has the token of its account.
const tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"

func (r *reader) pods(ctx context.Context, namespace string) error {
	uses := make(map[Subject]Use)
	err := pages(ctx, r.client.CoreV1().Pods(namespace).List, func() { clear(uses) }, func(page *corev1.PodList) error {
		for i := range page.Items {
			o := &page.Items[i]
			if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
				continue
			}
			s := Subject{KindAccount, strings.Clone(o.Namespace), strings.Clone(o.Spec.ServiceAccountName)}
			use := uses[s]
			use.Pods++
			if slices.ContainsFunc(slices.Concat(o.Spec.InitContainers, o.Spec.Containers), func(c corev1.Container) bool {
				return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath })
			}) {
				use.Token++
			}
			uses[s] = use
		}
		return nil
	})
	return r.add(err, func(s *Seen) { s.Uses = uses })
}

// add adds what was read to the whole.
func (r *reader) add(err error, to func(*Seen)) error {
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	to(r.seen)
	return nil
}

// errLarge says that an answer has more bytes than are read.
var errLarge = errors.New("the answer is too large")

// bounded lets no answer be larger than maxPage.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err == nil {
		answer.Body = &limited{answer.Body, maxPage}
	}
	return answer, err
}

type limited struct {
	io.ReadCloser
	left int
}

func (l *limited) Read(into []byte) (int, error) {
	n, err := l.ReadCloser.Read(into)
	if l.left -= n; l.left < 0 {
		return 0, errLarge
	}
	return n, err
}
