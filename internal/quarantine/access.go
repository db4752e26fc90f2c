package quarantine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/itself"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

const (
	// MaxGrants bounds the bindings of a plan, which must fit into a history.
	MaxGrants = 100
	// maxOthers bounds the subjects of a binding that are named beside the suspects', and looked at after it.
	maxOthers = 10
	// maxUsers bounds the pods that are named which use an account besides.
	maxUsers = 100
)

// AccessPolicy names what a case may change of access: the rights for it are granted by name.
type AccessPolicy struct {
	Roles        []string `json:"roles,omitempty"`        // that RoleBindings give
	ClusterRoles []string `json:"clusterRoles,omitempty"` // that RoleBindings give
	Everywhere   []string `json:"everywhere,omitempty"`   // ClusterRoles that ClusterRoleBindings give
	Accounts     []string `json:"accounts,omitempty"`     // that are made anew
}

// Binding names a RoleBinding, or without a namespace a ClusterRoleBinding.
type Binding struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (b Binding) String() string {
	if b.Namespace == "" {
		return "ClusterRoleBinding " + access.Show(b.Name)
	}
	return "RoleBinding " + access.Show(b.Namespace) + "/" + access.Show(b.Name)
}

// at is how kubectl is told which binding is meant.
func (b Binding) at() string {
	if b.Namespace == "" {
		return "clusterrolebinding " + access.Quote(b.Name)
	}
	return "rolebinding " + access.Quote(b.Name) + " -n " + b.Namespace
}

// Suspected is an account as which suspects run, or that is a suspect by itself.
type Suspected struct {
	Ref
	// Others are pods that run as it too and are no suspects: what it loses they lose.
	Others []string `json:"others,omitempty"`
	More   int      `json:"more,omitempty"` // others besides
	Not    string   `json:"not,omitempty"`  // why nothing is taken from it
}

// Grant is a binding that gives suspected accounts something.
type Grant struct {
	Binding
	UID      types.UID        `json:"uid"`
	Role     rbacv1.RoleRef   `json:"role"`
	Subjects []rbacv1.Subject `json:"subjects,omitempty"` // the accounts, as the binding names them
	Others   []rbacv1.Subject `json:"others,omitempty"`   // some of those who keep what they have
	More     int              `json:"more,omitempty"`     // others besides
	Groups   []string         `json:"groups,omitempty"`   // through which it gives it besides: they are never touched
	Left     string           `json:"left,omitempty"`     // why it stays as it is
	Do       string           `json:"do,omitempty"`       // what takes the accounts out of it by hand
	Allow    string           `json:"allow,omitempty"`    // what lets Upkeep do it
}

// AccessPlan says what the suspects' accounts are given, and by which bindings.
type AccessPlan struct {
	Version  int         `json:"version"`
	Case     string      `json:"case"`
	Accounts []Suspected `json:"accounts"`
	Grants   []Grant     `json:"grants"`
	Gaps     []string    `json:"gaps,omitempty"`
	Who      string      `json:"who,omitempty"` // the worker is to the API server
}

// Bindings are what is seen of who is granted what.
type Bindings struct {
	All  []rbacv1.RoleBinding // a ClusterRoleBinding has no namespace
	Who  string               // the worker is to the API server; "": not known
	Gaps []string
}

// LookAtBindings reads the bindings of the namespaces that a case may touch, and those of the whole cluster. What may
// not be read is a gap: nobody waits for it.
func LookAtBindings(ctx context.Context, c *kube.Cluster, p Policy) (b Bindings, err error) {
	if me, err := c.Client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err == nil {
		b.Who = me.Status.UserInfo.Username
	}
	read := func(doing string, list func(metav1.ListOptions) (string, int, error)) bool {
		e := kube.Pages(doing, list)
		switch {
		case e == nil:
		case failure.Is(e, failure.ClusterForbids), failure.Is(e, failure.BadConfig): // the latter: too many
			b.Gaps = append(b.Gaps, "could not "+doing+", so what they give the suspects is not known")
		default:
			err = errors.Join(err, e)
		}
		return e == nil
	}
	bindings := func(namespace string) func(metav1.ListOptions) (string, int, error) {
		return func(o metav1.ListOptions) (string, int, error) {
			got, err := c.Client.RbacV1().RoleBindings(namespace).List(ctx, o)
			if err != nil {
				return "", 0, err
			}
			b.All = append(b.All, got.Items...)
			return got.Continue, len(got.Items), nil
		}
	}
	if p.Access == nil || !read("list the RoleBindings of all namespaces", bindings("")) {
		b.All = nil
		namespaces := append([]string{c.Namespace}, p.Namespaces...)
		slices.Sort(namespaces)
		for _, n := range slices.Compact(namespaces) {
			read("list the RoleBindings of namespace "+n, bindings(n))
		}
		if p.Access == nil {
			b.Gaps = append(b.Gaps, "RoleBindings of other namespaces are not looked at: kubernetes.incidents.access is not in upkeep.yaml")
		}
	}
	read("list the ClusterRoleBindings", func(o metav1.ListOptions) (string, int, error) {
		got, err := c.Client.RbacV1().ClusterRoleBindings().List(ctx, o)
		if err != nil {
			return "", 0, err
		}
		for _, one := range got.Items {
			b.All = append(b.All, rbacv1.RoleBinding(one))
		}
		return got.Continue, len(got.Items), nil
	})
	return b, err
}

// PlanAccess says what the accounts of a plan's suspects are given. It is a function of what is seen alone.
func PlanAccess(w World, b Bindings, plan Plan, s Suspects, p Policy, now time.Time) AccessPlan {
	out := AccessPlan{Version: planVersion, Case: plan.Case, Accounts: w.accounts(plan, s, p, b), Grants: []Grant{}, Gaps: slices.Clone(b.Gaps), Who: b.Who}
	more := 0
	for i := range b.All {
		g := out.grant(&b.All[i], now)
		switch {
		case g == nil:
		case len(out.Grants) == MaxGrants:
			more++
		default:
			out.Grants = append(out.Grants, *g)
		}
	}
	if more > 0 {
		out.Gaps = append(out.Gaps, fmt.Sprintf("%d more bindings give the suspects something, and stay: a case has at most %d", more, MaxGrants))
	}
	slices.SortFunc(out.Grants, func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Users are the accounts of a plan with who runs as them now.
func Users(w World, plan Plan, a AccessPlan) []Suspected {
	suspects := make(map[Ref]bool)
	for _, p := range plan.Pods {
		if pod := find(w.Pods, p.Ref); pod != nil && pod.UID == p.UID {
			suspects[p.Ref] = true
		}
	}
	all := slices.Clone(a.Accounts)
	for i := range all {
		all[i].Others, all[i].More = nil, 0
		w.users(&all[i], suspects, a.Who)
	}
	return all
}

// accounts are those of the suspects: of those that are cut off, of those that cannot be, what is named, and what the
// case holds already.
func (w World) accounts(plan Plan, s Suspects, p Policy, b Bindings) (all []Suspected) {
	suspects := make(map[Ref]bool)
	within := func(namespace string) bool {
		return namespace == s.Namespace || slices.Contains(p.Namespaces, namespace)
	}
	add := func(ref Ref) {
		if !slices.ContainsFunc(all, func(a Suspected) bool { return a.Ref == ref }) {
			all = append(all, Suspected{Ref: ref})
		}
	}
	for _, one := range plan.Pods {
		if pod := find(w.Pods, one.Ref); pod != nil && pod.UID == one.UID {
			suspects[one.Ref] = true
			add(Ref{pod.Namespace, account(pod)})
		}
	}
	for _, n := range plan.Not { // on its node's network no policy reaches it, and its account can be all the same
		pod := find(w.Pods, n.Pod)
		if n.Free && pod != nil && pod.Spec.HostNetwork && w.Runs[n.Pod] == "" && within(pod.Namespace) {
			suspects[n.Pod] = true
			add(Ref{pod.Namespace, account(pod)})
		}
	}
	if s.ServiceAccount != "" {
		add(Ref{s.Namespace, s.ServiceAccount})
	}
	// Of pods that an earlier run of the case has deleted. A note elsewhere is another Upkeep's, whose case of another
	// target is called the same, or somebody's who wants an account taken for a suspect.
	for i := range b.All {
		if t, ours := readWithdrawal(b.All[i].Annotations).of(plan.Case); ours && !t.Over {
			for _, one := range t.Subjects {
				if named := access.NewSubject(one.Kind, one.Namespace, one.Name); named.Kind == access.KindAccount && within(named.Namespace) {
					add(Ref{named.Namespace, named.Name})
				}
			}
		}
	}
	for i := range all {
		w.users(&all[i], suspects, b.Who)
	}
	slices.SortFunc(all, func(a, b Suspected) int { return compare(a.Ref, b.Ref) })
	return all
}

// users says who runs as an account besides the suspects, and whether Upkeep does.
func (w World) users(a *Suspected, suspects map[Ref]bool, who string) {
	if access.NewSubject(access.KindUser, "", who) == a.subject() {
		a.Not = "this worker is it"
	}
	if kube.NamespaceProblem(a.Namespace) != "" {
		a.Not = "namespace " + a.Namespace + " is the cluster's own"
	}
	for i := range w.Pods {
		pod := &w.Pods[i]
		ref := Ref{pod.Namespace, pod.Name}
		if pod.Namespace != a.Namespace || account(pod) != a.Name || suspects[ref] || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if why := w.Runs[ref]; why != "" {
			a.Not = "Upkeep itself runs as it, in pod " + ref.String() + " (" + why + ")"
		}
		if len(a.Others) == maxUsers {
			a.More++
			continue
		}
		a.Others = append(a.Others, pod.Name)
	}
	slices.Sort(a.Others)
}

func (a Suspected) subject() access.Subject {
	return access.Subject{Kind: access.KindAccount, Namespace: a.Namespace, Name: a.Name}
}

// shared says whom it hits besides.
func (a Suspected) shared() string {
	if len(a.Others) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is also what %s runs as", a.Ref, few(a.Others))
}

// means reports whether a subject of a binding is an account of the plan from which something may be taken.
func (plan *AccessPlan) means(s rbacv1.Subject) bool {
	subject := access.NewSubject(s.Kind, s.Namespace, s.Name)
	return slices.ContainsFunc(plan.Accounts, func(a Suspected) bool { return a.Not == "" && a.subject() == subject })
}

// group reports whether a subject is a group that an account of the plan is in.
func (plan *AccessPlan) group(s rbacv1.Subject) bool {
	return s.Kind == rbacv1.GroupKind && slices.ContainsFunc(plan.Accounts, func(a Suspected) bool {
		_, groups := a.subject().As()
		return a.Not == "" && slices.Contains(groups, s.Name)
	})
}

// grant is what a binding gives the plan's accounts; nil: nothing.
func (plan *AccessPlan) grant(b *rbacv1.RoleBinding, now time.Time) *Grant {
	g := &Grant{Binding: Binding{b.Namespace, b.Name}, UID: b.UID, Role: b.RoleRef}
	for _, s := range b.Subjects {
		switch {
		case plan.means(s):
			g.Subjects = append(g.Subjects, s)
			continue
		case plan.group(s) && !access.Basic(b.Name, b.RoleRef.Name):
			g.Groups = append(g.Groups, s.Name)
		}
		if len(g.Others) == maxOthers {
			g.More++
			continue
		}
		g.Others = append(g.Others, s)
	}
	g.Do = takeByHand(b, g.Subjects)
	// What an earlier run of the case has taken out, and what another case has: whoever ends last gives it back.
	for _, t := range readWithdrawal(b.Annotations).Cases {
		for _, s := range t.Subjects {
			if !t.Over && !slices.Contains(g.Subjects, s) && plan.means(s) {
				g.Subjects = append(g.Subjects, s)
			}
		}
	}
	if len(g.Subjects)+len(g.Groups) == 0 {
		return nil
	}
	owners := ownership.Detect(b, now)
	switch why := itself.Marked(b); {
	case why != "":
		g.Left, g.Do = "it has "+why, ""
	case len(g.Subjects) == 0:
		g.Left, g.Do = "it names the group "+access.Show(g.Groups[0])+", which others are in too", ""
	case len(owners) > 0:
		g.Left = owners[0].String() + " would put it back (" + owners[0].Why + ")"
		if suspend := owners[0].SuspendCommand(); suspend != "" && g.Do != "" {
			g.Do = suspend + " && " + g.Do
		}
	default:
		g.Allow = g.allow(plan.Who)
	}
	return g
}

// Words say what is taken from whom.
func (plan AccessPlan) Words(withdraw bool) string {
	take, stay := []string{}, []string{}
	for _, g := range plan.Grants {
		if g.Left == "" && withdraw {
			take = append(take, g.Binding.String())
			continue
		}
		stay = append(stay, g.Binding.String()+" ("+cmp.Or(g.Left, "it is not asked for")+")")
	}
	words := []string{}
	if len(take) > 0 {
		words = append(words, "take "+plan.names()+" out of "+few(take))
	}
	if len(stay) > 0 {
		words = append(words, "leave what they are given by "+few(stay))
	}
	for _, a := range plan.Accounts {
		if a.Not != "" {
			words = append(words, "take nothing from account "+a.String()+": "+a.Not)
		} else if shared := a.shared(); shared != "" && len(take) > 0 {
			words = append(words, shared)
		}
	}
	return strings.Join(words, "; ")
}

func (plan AccessPlan) names() string {
	names := []string{}
	for _, a := range plan.Accounts {
		if a.Not == "" {
			names = append(names, a.String())
		}
	}
	return "account " + few(names)
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// byHand is the command that a person gives to change a binding, which names everything that it stands on.
func (b Binding) byHand(all []operation) string {
	if access.Show(b.Name) != b.Name {
		return "" // no command carries such a name to where it is pasted
	}
	text, _ := json.Marshal(all) // plain data always encodes
	return "kubectl patch " + b.at() + " --type=json -p " + access.Quote(string(text))
}

// takeByHand takes subjects out of a binding, the last first: each by its place, if it is still there.
func takeByHand(b *rbacv1.RoleBinding, subjects []rbacv1.Subject) string {
	var all []operation
	for i := len(b.Subjects) - 1; i >= 0; i-- {
		if path := fmt.Sprintf("/subjects/%d", i); slices.Contains(subjects, b.Subjects[i]) {
			all = append(all, operation{"test", path, b.Subjects[i]}, operation{"remove", path, nil})
		}
	}
	if len(all) == 0 {
		return ""
	}
	return Binding{b.Namespace, b.Name}.byHand(all)
}

// putByHand puts subjects into a binding; b is how it is now.
func putByHand(b *rbacv1.RoleBinding, subjects []rbacv1.Subject) string {
	binding := Binding{b.Namespace, b.Name}
	if len(b.Subjects) == 0 {
		return binding.byHand([]operation{{"add", "/subjects", subjects}})
	}
	all := []operation{}
	for _, s := range subjects {
		all = append(all, operation{"add", "/subjects/-", s})
	}
	return binding.byHand(all)
}

// allow is the command that lets the worker change the binding: to change it, and to bind its role, by their names.
// The API server asks for the latter at every change of a binding, also at one that takes somebody out of it.
func (g Grant) allow(who string) string {
	if access.Show(g.Name) != g.Name || access.Show(g.Role.Name) != g.Role.Name {
		return ""
	}
	kind, binding, within, changes := "role", "rolebinding", " -n "+g.Namespace, "rolebindings"
	if g.Namespace == "" {
		kind, binding, within, changes = "clusterrole", "clusterrolebinding", "", "clusterrolebindings"
	}
	resource := "roles"
	if g.Role.Kind == "ClusterRole" {
		resource = "clusterroles"
	}
	var all []string
	for _, r := range [][4]string{{"upkeep-withdraw-" + g.Name, "get,patch", changes, g.Name}, {"upkeep-bind-" + g.Role.Name, "bind", resource, g.Role.Name}} {
		name := access.Quote(r[0])
		all = append(all,
			fmt.Sprintf("kubectl create %s %s%s --verb=%s --resource=%s.%s --resource-name=%s", kind, name, within, r[1], r[2], rbacv1.GroupName, access.Quote(r[3])),
			fmt.Sprintf("kubectl create %s %s%s --%s=%s %s", binding, name, within, kind, name, access.For(who)))
	}
	return strings.Join(all, " && ")
}
