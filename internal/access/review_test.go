package access

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rule reads "get,list secrets", "create apps/deployments", "get secrets named a,b".
func rule(text string) rbacv1.PolicyRule {
	text, names, named := strings.Cut(text, " named ")
	verbs, rest, _ := strings.Cut(text, " ")
	r := rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{""}}
	if strings.HasPrefix(rest, "/") {
		return rbacv1.PolicyRule{Verbs: r.Verbs, NonResourceURLs: []string{rest}}
	}
	if group, resource, ok := strings.Cut(rest, ":"); ok {
		r.APIGroups, rest = []string{group}, resource
	}
	r.Resources = strings.Split(rest, ",")
	if named {
		r.ResourceNames = strings.Split(names, ",")
	}
	return r
}

// world is a cluster in the making.
type world struct{ Seen }

func (w *world) role(namespace, name string, rules ...string) Ref {
	ref := Ref{kindClusterRole, "", name}
	if namespace != "" {
		ref = Ref{kindRole, namespace, name}
	}
	var all []rbacv1.PolicyRule
	for _, r := range rules {
		all = append(all, rule(r))
	}
	w.Roles = append(w.Roles, Role{Ref: ref, Rules: ordered(all)})
	return ref
}

func (w *world) bind(namespace string, role Ref, subjects ...Subject) {
	ref := Ref{kindClusterRoleBinding, "", fmt.Sprint("b", len(w.Bindings))}
	if namespace != "" {
		ref = Ref{kindRoleBinding, namespace, ref.Name}
	}
	w.Bindings = append(w.Bindings, Binding{ref, role, subjects})
	for _, s := range subjects {
		if s.Kind == KindAccount {
			w.account(s)
		}
	}
}

func (w *world) account(s Subject) {
	if a := (Account{s.Namespace, s.Name}); !slices.Contains(w.Accounts, a) {
		w.Accounts = append(w.Accounts, a)
	}
}

// grant gives a subject a role of its own.
func (w *world) grant(namespace string, s Subject, rules ...string) {
	w.bind(namespace, w.role(namespace, fmt.Sprint("r", len(w.Roles)), rules...), s)
}

func (w *world) review() *Review { return Judge(&w.Seen, []string{"shop"}) }

func account(namespace, name string) Subject { return Subject{KindAccount, namespace, name} }

var (
	web = account("shop", "web")
	ann = Subject{Kind: KindUser, Name: "ann"}
)

func TestARuleAllowsWhatTheAPIServerWould(t *testing.T) {
	for _, c := range []struct {
		rule, verb, group, resource, name string
		allows                            bool
	}{
		{"get pods", "get", "", "pods", "a", true},
		{"get pods", "list", "", "pods", "", false},
		{"get pods", "get", "apps", "pods", "a", false},
		{"* pods", "escalate", "", "pods", "", true},
		{"get *", "get", "", "pods/exec", "a", true},
		{"get pods", "get", "", "pods/exec", "a", false},
		{"get */exec", "get", "", "pods/exec", "a", true},
		{"get */exec", "get", "", "pods", "a", false},
		{"get pods/*", "get", "", "pods/exec", "a", false},
		{"get *:pods", "get", "metrics.k8s.io", "pods", "a", true},
		{"get secrets named a,b", "get", "", "secrets", "b", true},
		{"get secrets named a,b", "get", "", "secrets", "c", false},
		{"get secrets named a,b", "list", "", "secrets", "", false},
		{"get /metrics", "get", "", "pods", "", false},
	} {
		require.Equal(t, c.allows, ordered([]rbacv1.PolicyRule{rule(c.rule)})[0].Allows(c.verb, c.group, c.resource, c.name), "%+v", c)
	}
}

// risks are those of a subject, as severity and kind.
func risks(r *Review, s Subject) (all []string) {
	for _, x := range r.Risks {
		if x.Subject == s {
			all = append(all, x.Severity+" "+x.Kind)
		}
	}
	slices.Sort(all)
	return all
}

func TestWhatIsRisky(t *testing.T) {
	rbac := rbacv1.GroupName + ":"
	for _, c := range []struct {
		rule               string
		cluster, namespace []string // severity and kind
	}{
		{"get,list,watch pods,services,configmaps", nil, nil},
		{"get /healthz", nil, nil},
		{"* *:*", []string{"critical everything"}, []string{"high everything"}},
		{"* configmaps", []string{"high wildcard"}, []string{"medium wildcard"}},
		{"escalate " + rbac + "clusterroles", []string{"critical escalate"}, []string{"high escalate"}},
		{"bind " + rbac + "roles", []string{"critical bind"}, []string{"high bind"}},
		{"bind " + rbac + "clusterroles named view", []string{"high bind"}, []string{"medium bind"}},
		{"impersonate users", []string{"critical impersonate"}, nil},
		{"impersonate serviceaccounts", []string{"critical impersonate-accounts"}, []string{"high impersonate-accounts"}},
		{"create serviceaccounts/token", []string{"critical tokens"}, []string{"high tokens"}},
		{"create serviceaccounts/token named web", []string{"high tokens"}, []string{"medium tokens"}},
		{"get nodes/proxy", []string{"critical nodes-proxy"}, nil},
		{"update certificates.k8s.io:certificatesigningrequests/approval", []string{"critical certificates-approve"}, nil},
		{"sign certificates.k8s.io:signers", []string{"critical certificates-sign"}, nil},
		{"patch admissionregistration.k8s.io:mutatingwebhookconfigurations", []string{"critical admission"}, nil},
		{"list secrets", []string{"high secrets"}, []string{"high secrets"}},
		{"get secrets named web-tls", []string{"medium secrets"}, []string{"medium secrets"}},
		{"create secrets", []string{"high secrets-write"}, []string{"medium secrets-write"}},
		{"create secrets named no-creation-has-a-name", nil, nil},
		{"create pods/exec", []string{"high exec"}, []string{"high exec"}},
		{"get pods/exec", []string{"high exec"}, []string{"high exec"}},
		{"patch pods/ephemeralcontainers", []string{"high exec"}, []string{"high exec"}},
		{"create pods", []string{"high workloads"}, []string{"high workloads"}},
		{"patch apps:deployments", []string{"high workloads"}, []string{"high workloads"}},
		{"create batch:cronjobs", []string{"high workloads"}, []string{"high workloads"}},
		{"patch pods", []string{"medium pods-change"}, []string{"medium pods-change"}},
		{"create persistentvolumes", []string{"high volumes"}, nil},
		{"patch nodes", []string{"high nodes"}, nil},
		{"patch namespaces", []string{"high namespaces"}, []string{"medium namespaces"}},
		{"create " + rbac + "rolebindings", []string{"medium bindings-write"}, []string{"low bindings-write"}},
		{"create " + rbac + "clusterrolebindings", []string{"medium cluster-bindings-write"}, nil},
	} {
		var w world
		w.grant("", ann, c.rule)
		w.grant("shop", web, c.rule)
		r := w.review()
		require.Equal(t, c.cluster, risks(r, ann), "%s, in the whole cluster", c.rule)
		require.Equal(t, c.namespace, risks(r, web), "%s, in a namespace", c.rule)
		for _, x := range r.Risks {
			require.NotEmpty(t, x.Why)
			require.NotEmpty(t, x.Source)
		}
	}
}

func TestGrantsToEverybodyAndToDefaultAccounts(t *testing.T) {
	var w world
	for _, name := range []string{anybody, everybody, allAccounts, accountsPrefix + "shop"} {
		w.grant("shop", Subject{Kind: KindGroup, Name: name}, "get configmaps")
	}
	w.bind("", w.role("", "system:discovery", "get /api"), Subject{Kind: KindGroup, Name: everybody})
	w.grant("shop", Subject{Kind: KindUser, Name: anonymous}, "get secrets")
	w.grant("shop", account("shop", "default"), "get configmaps")
	r := w.review()
	require.Equal(t, []string{"critical everybody"}, risks(r, Subject{Kind: KindGroup, Name: anybody}))
	require.Equal(t, []string{"medium everybody"}, risks(r, Subject{Kind: KindGroup, Name: everybody}), "what comes with Kubernetes is no risk")
	require.Equal(t, []string{"medium everybody"}, risks(r, Subject{Kind: KindGroup, Name: accountsPrefix + "shop"}))
	require.Equal(t, []string{"critical everybody", "high secrets"}, risks(r, Subject{Kind: KindUser, Name: anonymous}))
	require.Equal(t, []string{"medium default-account"}, risks(r, account("shop", "default")))
}

// TestWhoReachesIn: who is granted something only elsewhere, and cannot come here, is not of this review.
func TestWhoReachesIn(t *testing.T) {
	var w world
	w.grant("shop", web, "get pods")
	w.grant("other", account("other", "stranger"), "create pods")
	w.grant("other", account("shop", "guest"), "get pods")
	w.grant("", account("other", "reader"), "get pods")
	w.grant("other", account("other", "climber"), "create pods")
	w.grant("", account("other", "chief"), "create clusterrolebindings", "bind "+rbacv1.GroupName+":clusterroles", "create "+rbacv1.GroupName+":clusterrolebindings")
	r := w.review()
	var names []string
	for _, h := range r.Subjects {
		names = append(names, h.Namespace+"/"+h.Name)
	}
	require.Equal(t, []string{"other/chief", "other/climber", "other/reader", "other/stranger", "shop/guest", "shop/web"}, names, "two of them by the account that they can run pods as")
	w.Bindings = w.Bindings[:len(w.Bindings)-1]
	names = nil
	for _, h := range w.review().Subjects {
		names = append(names, h.Namespace+"/"+h.Name)
	}
	require.Equal(t, []string{"other/reader", "shop/guest", "shop/web"}, names)
}

func TestPaths(t *testing.T) {
	rbac := rbacv1.GroupName + ":"
	bot, root := account("ops", "bot"), account("ops", "root")
	for name, c := range map[string]struct {
		make func(*world)
		from Subject
		to   string
		want string // "" : there is none
	}{
		"a pod as another account": {func(w *world) {
			w.grant("ops", web, "create pods")
			w.grant("", bot, "bind "+rbac+"clusterroles", "create "+rbac+"clusterrolebindings")
		}, web, "", "account shop/web can come to the whole cluster: may run pods as any account of namespace ops (Role ops/r0 by RoleBinding ops/b0); then as account ops/bot may grant any role in the whole cluster (ClusterRole r1 by ClusterRoleBinding b1)"},
		"three steps": {func(w *world) {
			w.grant("ops", web, "create pods/exec")
			w.grant("lab", bot, "create serviceaccounts/token")
			w.grant("", account("lab", "x"), "impersonate groups")
		}, web, "", "account shop/web can come to the whole cluster: may run commands in pods of namespace ops as their accounts (Role ops/r0 by RoleBinding ops/b0); then as account ops/bot may issue a token of any account of namespace lab (Role lab/r1 by RoleBinding lab/b1); then as account lab/x may act as any user and group (ClusterRole r2 by ClusterRoleBinding b2)"},
		"two grants together": {func(w *world) {
			w.grant("ops", web, "get secrets")
			w.grant("ops", web, "create secrets")
			w.grant("", root, "* *:*")
		}, web, "", "account shop/web can come to the whole cluster: may make a Secret that is filled with the token of any account of namespace ops, and read it (Role ops/r0 by RoleBinding ops/b0) (Role ops/r1 by RoleBinding ops/b1); then as account ops/root may do everything (ClusterRole r2 by ClusterRoleBinding b2)"},
		"one with its group's": {func(w *world) {
			w.grant("ops", Subject{Kind: KindGroup, Name: accountsPrefix + "shop"}, "get secrets")
			w.grant("", web, "create secrets")
			w.grant("", root, "* *:*")
		}, web, "", "account shop/web can come to the whole cluster: may make a Secret that is filled with the token of any account of namespace ops, and read it (ClusterRole r1 by ClusterRoleBinding b1) (Role ops/r0 by RoleBinding ops/b0); then as account ops/root may do everything (ClusterRole r2 by ClusterRoleBinding b2)"},
		"as one named account": {func(w *world) {
			w.grant("ops", web, "create serviceaccounts/token named root")
			w.grant("", root, "* *:*")
			w.grant("ops", bot, "get pods")
		}, web, "", "account shop/web can come to the whole cluster: may act as account ops/root (Role ops/r0 by RoleBinding ops/b0); then as account ops/root may do everything (ClusterRole r1 by ClusterRoleBinding b1)"},
		"as another named account": {func(w *world) {
			w.grant("ops", web, "create serviceaccounts/token named bot")
			w.grant("", root, "* *:*")
			w.grant("ops", bot, "get pods")
		}, web, "", ""},
		"as the group of masters": {func(w *world) { w.grant("", web, "impersonate groups named system:masters") }, web, "",
			"account shop/web can come to the whole cluster: may act as group system:masters (ClusterRole r0 by ClusterRoleBinding b0); then as group system:masters is not limited by RBAC"},
		"as a user that is an account": {func(w *world) {
			w.grant("", web, "impersonate users named system:serviceaccount:ops:root")
			w.grant("", root, "* *:*")
		}, web, "", "account shop/web can come to the whole cluster: may act as account ops/root (ClusterRole r0 by ClusterRoleBinding b0); then as account ops/root may do everything (ClusterRole r1 by ClusterRoleBinding b1)"},
		"secrets that it may only read": {func(w *world) {
			w.grant("ops", web, "get secrets")
			w.grant("", root, "* *:*")
		}, web, "", ""},
		"bind of a harmless role": {func(w *world) {
			w.grant("", web, "bind "+rbac+"clusterroles named view", "create "+rbac+"clusterrolebindings")
			w.role("", "cluster-admin", "* *:*")
		}, web, "", ""},
		"bind of the mightiest": {func(w *world) {
			w.grant("", web, "bind "+rbac+"clusterroles named boss", "create "+rbac+"clusterrolebindings")
			w.role("", "boss", "* *:*")
		}, web, "", "account shop/web can come to the whole cluster: may grant any role in the whole cluster (ClusterRole r0 by ClusterRoleBinding b0)"},
		"certificates for clients": {func(w *world) {
			w.grant("", web, "update certificates.k8s.io:certificatesigningrequests/approval", "approve certificates.k8s.io:signers named kubernetes.io/kube-apiserver-client")
		}, web, "", "account shop/web can come to the whole cluster: may approve a certificate in any name (ClusterRole r0 by ClusterRoleBinding b0)"},
		"certificates for something else": {func(w *world) {
			w.grant("", web, "update certificates.k8s.io:certificatesigningrequests/approval", "approve certificates.k8s.io:signers named example.com/web")
		}, web, "", ""},
		"the nodes' files": {func(w *world) { w.grant("", ann, "create persistentvolumes", "create pods") }, ann, "",
			"user ann can come to the whole cluster: may run pods with the nodes' own files (ClusterRole r0 by ClusterRoleBinding b0)"},
		"the nodes' API":                {func(w *world) { w.grant("", ann, "get nodes/proxy") }, ann, "", "user ann can come to the whole cluster: may run commands in every pod of the nodes, the control plane's too (ClusterRole r0 by ClusterRoleBinding b0)"},
		"into the target":               {func(w *world) { w.grant("shop", ann, "patch apps:deployments") }, ann, "shop", "user ann can come to namespace shop: may run pods as any account of namespace shop (Role shop/r0 by RoleBinding shop/b0)"},
		"into the target by everywhere": {func(w *world) { w.grant("", ann, "create pods/exec") }, ann, "shop", "user ann can come to namespace shop: may run commands in pods of any namespace as their accounts (ClusterRole r0 by ClusterRoleBinding b0)"},
		"everything is no news":         {func(w *world) { w.grant("", ann, "* *:*") }, ann, "", ""},
		"the control plane is no news":  {func(w *world) { w.grant("", account("kube-system", "gc"), "get nodes/proxy") }, account("kube-system", "gc"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var w world
			w.account(web)
			c.make(&w)
			got := ""
			for _, p := range w.review().Paths {
				if p.From == c.from && p.To == c.to {
					got = p.String()
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// TestAggregation: what a role takes from others counts, also from those that do the same, in a circle.
func TestAggregation(t *testing.T) {
	var w world
	takes := func(label string) []metav1.LabelSelector {
		return []metav1.LabelSelector{{MatchLabels: map[string]string{"to": label}}}
	}
	whole := w.role("", "whole")
	w.role("", "part", "create pods/exec")
	w.role("", "deep", "get nodes/proxy")
	w.role("", "other", "impersonate users")
	w.Roles[0].Aggregates, w.Roles[0].Labels = takes("whole"), map[string]string{"to": "part"}
	w.Roles[1].Aggregates, w.Roles[1].Labels = takes("part"), map[string]string{"to": "whole"}
	w.Roles[2].Labels = map[string]string{"to": "part"}
	w.Roles[3].Labels = map[string]string{"to": "nowhere"}
	w.bind("", whole, ann)
	r := w.review()
	require.Equal(t, []string{"critical nodes-proxy", "high exec"}, risks(r, ann))
	require.Len(t, r.Roles, 1)
	require.Len(t, r.Roles[0].Rules, 2)
}

func TestWhatIsNotThereOrNotUsed(t *testing.T) {
	var w world
	w.grant("shop", web, "get pods")
	w.bind("shop", Ref{kindRole, "shop", "gone"}, ann)
	w.bind("shop", w.role("", "view", "get pods"))
	w.bind("elsewhere", Ref{kindRole, "elsewhere", "gone"}, ann)
	w.grant("shop", account("shop", "lost"), "get pods")
	w.Accounts = slices.DeleteFunc(w.Accounts, func(a Account) bool { return a.Name == "lost" })
	w.account(account("shop", "default"))
	w.account(account("shop", "idle"))
	w.Uses = map[Subject]Use{account("shop", "default"): {Pods: 2, Token: 1}}
	r := w.review()
	var dangling, accounts []string
	for _, m := range r.Dangling {
		dangling = append(dangling, m.What)
	}
	for _, m := range r.Accounts {
		accounts = append(accounts, m.Kind+": "+m.What)
	}
	require.Equal(t, []string{
		"RoleBinding shop/b1 grants Role shop/gone, which is not there: whoever makes one of that name decides what it grants",
		"RoleBinding shop/b2 grants ClusterRole view to nobody",
		"RoleBinding shop/b4 grants Role shop/r2 to account shop/lost, which is not there: whoever makes one of that name has it",
	}, dangling)
	require.Equal(t, []string{
		"token: account shop/default has no grants of its own, and 1 of its 2 pods have its token in their files: automountServiceAccountToken: false keeps it out",
		"unused: account shop/idle has no grants of its own, and no pod runs as it now",
		"unused: account shop/web has 1 grants, and no pod runs as it now",
	}, accounts)
	w.Unread = []Unread{{Resource: "serviceaccounts"}, {Resource: "roles", Only: "other"}, {Resource: "pods"}}
	r = w.review()
	require.Len(t, r.Dangling, 1, "of what was not read it is not said that it is not there")
	require.Empty(t, r.Accounts)
}

// TestTheSameStateIsTheSameBytes in whatever order it is read.
func TestTheSameStateIsTheSameBytes(t *testing.T) {
	w := large(1000, 3)
	first := w.review().Encode()
	require.NotEmpty(t, w.review().Risks)
	require.NotEmpty(t, w.review().Paths)
	for range 5 {
		rand.Shuffle(len(w.Roles), func(i, j int) { w.Roles[i], w.Roles[j] = w.Roles[j], w.Roles[i] })
		rand.Shuffle(len(w.Bindings), func(i, j int) { w.Bindings[i], w.Bindings[j] = w.Bindings[j], w.Bindings[i] })
		rand.Shuffle(len(w.Accounts), func(i, j int) { w.Accounts[i], w.Accounts[j] = w.Accounts[j], w.Accounts[i] })
		require.Equal(t, string(first), string(w.review().Encode()))
	}
	again, err := Decode(first, HashOf(first))
	require.NoError(t, err)
	require.Equal(t, first, again.Encode())
}

// TestHostileNames: RBAC lets names have any character but / and %.
func TestHostileNames(t *testing.T) {
	for _, name := range []string{"\x1b[31mred", "a\nb", "ад\u202emin", "`rm`", strings.Repeat("x", 5000), "\x00"} {
		var w world
		w.bind("shop", w.role("shop", name, "* *:*"), Subject{Kind: KindUser, Name: name}, account("shop", name))
		w.bind("shop", Ref{kindRole, "shop", name + "gone"}, Subject{Kind: KindGroup, Name: name})
		r := w.review()
		texts := []string{Show(name)}
		for _, x := range r.Risks {
			texts = append(texts, x.String())
		}
		for _, x := range r.Paths {
			texts = append(texts, x.String())
		}
		for _, x := range append(r.Dangling, r.Accounts...) {
			texts = append(texts, x.What)
		}
		for _, c := range Compare(&Review{Version: Version}, r).Changes {
			texts = append(texts, c.String())
		}
		require.Greater(t, len(texts), 4)
		for _, text := range texts {
			require.NotRegexp(t, `[^ -~]`, text)
			require.Less(t, len(text), 1000)
		}
		require.NotEqual(t, Show(name), Show(name+"2"))
	}
}

func TestDrift(t *testing.T) {
	build := func(change func(*world)) *Review {
		var w world
		w.grant("shop", web, "get pods")
		w.grant("shop", ann, "list secrets")
		w.grant("", account("ops", "bot"), "get nodes")
		change(&w)
		return w.review()
	}
	before := build(func(*world) {})
	for name, c := range map[string]struct {
		change func(*world)
		more   bool
		want   []string
	}{
		"nothing": {func(*world) {}, false, nil},
		"a grant": {func(w *world) { w.bind("shop", w.Roles[1].Ref, web) }, true, []string{
			"added high risk: account shop/web may read Secrets; list and watch show their contents too in namespace shop (Role shop/r1 by RoleBinding shop/b3)",
			"added grant: account shop/web has Role shop/r1 by RoleBinding shop/b3 in namespace shop"}},
		"a rule": {func(w *world) {
			w.Roles[0].Rules = ordered([]rbacv1.PolicyRule{rule("get pods"), rule("create pods/exec")})
		}, true, []string{
			"added high risk: account shop/web may run commands in pods, and so read their Secrets and act as their accounts in namespace shop (Role shop/r0 by RoleBinding shop/b0)",
			"changed role: Role shop/r0 now grants create of pods/exec"}},
		"less": {func(w *world) { w.Bindings = slices.Delete(w.Bindings, 1, 2) }, false, []string{
			"removed high risk: user ann may read Secrets; list and watch show their contents too in namespace shop (Role shop/r1 by RoleBinding shop/b1)",
			"removed grant: user ann has Role shop/r1 by RoleBinding shop/b1 in namespace shop",
			"removed subject: user ann with 1 grants"}},
		"a path": {func(w *world) {
			w.bind("ops", w.role("ops", "x", "create pods"), web)
			w.bind("", w.role("", "y", "* *:*"), account("ops", "bot"))
		}, true, []string{
			"added critical risk: account ops/bot may do everything in the whole cluster (ClusterRole y by ClusterRoleBinding b4)",
			"added high risk: account shop/web may run pods as any account of the namespace, with any of its Secrets in namespace ops (Role ops/x by RoleBinding ops/b3)",
			"added path: account shop/web can come to the whole cluster: may run pods as any account of namespace ops (Role ops/x by RoleBinding ops/b3); then as account ops/bot may do everything (ClusterRole y by ClusterRoleBinding b4)",
			"added grant: account ops/bot has ClusterRole y by ClusterRoleBinding b4 in the whole cluster",
			"added grant: account shop/web has Role ops/x by RoleBinding ops/b3 in namespace ops"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := Compare(before, build(c.change))
			var got []string
			for _, x := range d.Changes {
				got = append(got, x.String())
			}
			require.Equal(t, c.want, got)
			require.Equal(t, c.more, d.More())
			require.Empty(t, d.Blind)
		})
	}
	// What is not read now is not said to be gone.
	blind := build(func(w *world) {
		w.Unread = []Unread{{Resource: "clusterrolebindings"}}
		w.Bindings = w.Bindings[:2]
	})
	d := Compare(before, blind)
	require.Empty(t, d.Changes)
	require.Equal(t, []string{"clusterrolebindings"}, d.Blind)
}

// large is a cluster of so many roles and bindings, of accounts in so many namespaces.
func large(n, namespaces int) *world {
	w := &world{}
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	kinds := []string{"pods", "secrets", "configmaps", "services", "serviceaccounts/token", "pods/exec", "nodes/proxy", "endpoints", "events"}
	for i := range n {
		namespace := fmt.Sprint("team-", i%namespaces)
		if i%2 == 0 {
			namespace = "shop"
		}
		rules := []string{"get,list configmaps named only-" + fmt.Sprint(i), "get,list,watch pods,services,endpoints"}
		if i%10 == 0 {
			rules = append(rules, verbs[i/10%len(verbs)]+" "+kinds[i/70%len(kinds)])
		}
		scope := namespace
		if i%20 == 1 {
			scope = ""
		}
		w.grant(scope, account(namespace, fmt.Sprint("app-", i)), rules...)
	}
	w.grant("team-0", account("team-1", "climber"), "create pods")
	w.grant("", account("team-0", "chief"), "* *:*")
	return w
}

func BenchmarkReview(b *testing.B) {
	w := large(10_000, 200)
	b.ReportAllocs()
	for b.Loop() {
		r := w.review()
		HashOf(r.Encode())
	}
}

func BenchmarkDrift(b *testing.B) {
	before, now := large(10_000, 200).review(), large(10_001, 200).review()
	b.ReportAllocs()
	for b.Loop() {
		Compare(before, now)
	}
}
