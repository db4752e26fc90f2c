package quarantine

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/itself"
)

func serviceAccount(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "ServiceAccount", Namespace: "shop", Name: name}
}

func groupOf(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: name}
}

// binding is one of namespace shop, of a role of its name.
func binding(name string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: subjects,
	}
}

// runsAs is a world in which the pods, written as pod=account, run.
func runsAs(pods ...string) (w World) {
	for _, p := range pods {
		name, account, _ := strings.Cut(p, "=")
		one := pod(name, "", map[string]string{"app": name})
		one.Spec.ServiceAccountName = account
		w.Pods = append(w.Pods, one)
	}
	return w
}

func planned(t *testing.T, w World, s Suspects, all ...rbacv1.RoleBinding) AccessPlan {
	t.Helper()
	return PlanAccess(w, Bindings{All: all, Who: "system:serviceaccount:upkeep:upkeep-cluster"}, made(t, w, s), s, Default, now)
}

func TestBindingsOfTheSuspectsAccountsAreFound(t *testing.T) {
	clusterWide := binding("everywhere", serviceAccount("web"))
	clusterWide.Namespace = ""
	plan := planned(t, runsAs("web-1=web", "web-2=web", "db-0=db"), suspects(t, "web-1"),
		binding("reads", serviceAccount("db"), serviceAccount("web")),
		binding("as-user", rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "system:serviceaccount:shop:web"}),
		binding("others", serviceAccount("db")),
		binding("of-all", groupOf("system:serviceaccounts:shop")),
		binding("of-both", groupOf("system:serviceaccounts"), serviceAccount("web")),
		binding("of-other-namespace", groupOf("system:serviceaccounts:other"), rbacv1.Subject{Kind: "ServiceAccount", Namespace: "other", Name: "web"}),
		binding("system:basic-user", groupOf("system:authenticated")),
		clusterWide)
	require.Equal(t, []Suspected{{Ref: Ref{"shop", "web"}, Others: []string{"web-2"}}}, plan.Accounts)
	found := map[string]Grant{}
	for _, g := range plan.Grants {
		found[g.Name] = g
	}
	require.Len(t, found, 5)
	require.Equal(t, []rbacv1.Subject{serviceAccount("web")}, found["reads"].Subjects)
	require.Equal(t, []rbacv1.Subject{serviceAccount("db")}, found["reads"].Others)
	require.Empty(t, found["reads"].Left)
	require.Len(t, found["as-user"].Subjects, 1)
	require.Contains(t, found["of-all"].Left, "system:serviceaccounts:shop, which others are in too")
	require.Empty(t, found["of-all"].Do)
	require.Empty(t, found["of-both"].Left, "what names it alone goes")
	require.Equal(t, []string{"system:serviceaccounts"}, found["of-both"].Groups)
	require.Empty(t, found["everywhere"].Namespace)
	words := plan.Words(true)
	require.Contains(t, words, "take account shop/web out of ClusterRoleBinding everywhere, RoleBinding shop/as-user, RoleBinding shop/of-both, RoleBinding shop/reads")
	require.Contains(t, words, "shop/web is also what web-2 runs as")
	require.NotContains(t, plan.Words(false), "take ")
}

func TestThePlanHasTheCommandsOfAPerson(t *testing.T) {
	plan := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), binding("reads", serviceAccount("web"), serviceAccount("db"), serviceAccount("web")))
	require.Equal(t, `kubectl patch rolebinding reads -n shop --type=json -p `+
		`'[{"op":"test","path":"/subjects/2","value":{"kind":"ServiceAccount","name":"web","namespace":"shop"}},{"op":"remove","path":"/subjects/2"},`+
		`{"op":"test","path":"/subjects/0","value":{"kind":"ServiceAccount","name":"web","namespace":"shop"}},{"op":"remove","path":"/subjects/0"}]'`, plan.Grants[0].Do)
	require.Equal(t, "kubectl create role upkeep-withdraw-reads -n shop --verb=get,patch --resource=rolebindings.rbac.authorization.k8s.io --resource-name=reads && "+
		"kubectl create rolebinding upkeep-withdraw-reads -n shop --role=upkeep-withdraw-reads --serviceaccount=upkeep:upkeep-cluster && "+
		"kubectl create role upkeep-bind-reads -n shop --verb=bind --resource=roles.rbac.authorization.k8s.io --resource-name=reads && "+
		"kubectl create rolebinding upkeep-bind-reads -n shop --role=upkeep-bind-reads --serviceaccount=upkeep:upkeep-cluster", plan.Grants[0].Allow)
	everywhere := binding("e", serviceAccount("web"))
	everywhere.Namespace, everywhere.RoleRef.Kind = "", "ClusterRole"
	plan = planned(t, runsAs("web-1=web"), suspects(t, "web-1"), everywhere)
	require.Contains(t, plan.Grants[0].Do, "kubectl patch clusterrolebinding e --type=json")
	require.Contains(t, plan.Grants[0].Allow, "kubectl create clusterrole upkeep-bind-e --verb=bind --resource=clusterroles.rbac.authorization.k8s.io --resource-name=e")
	require.Contains(t, plan.FollowUps(Withdrawn{}, false)[0], "to take them out: kubectl patch")
	require.Empty(t, plan.FollowUps(Withdrawn{}, true))
	require.Len(t, plan.FollowUps(Withdrawn{Stay: []Stays{{plan.Grants[0].Binding, "forbidden"}}}, true), 1)
}

func TestHostileNamesAreInNoCommand(t *testing.T) {
	hostile := binding("x\x1b[31m'; rm -rf /", serviceAccount("web"))
	hostile.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "'; reboot #:x"}
	plan := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), hostile)
	g := plan.Grants[0]
	require.Empty(t, g.Do)
	require.Empty(t, g.Allow)
	require.NotContains(t, plan.Words(true)+strings.Join(plan.left(Withdrawn{}, true), ""), "\x1b")
	spaced := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), binding("a b;c", serviceAccount("web")))
	require.Contains(t, spaced.Grants[0].Do, "rolebinding 'a b;c' -n shop")
}

func TestWhatIsNotTakenFromAnAccount(t *testing.T) {
	owned := binding("owned", serviceAccount("web"))
	yes := true
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "x.io/v1", Kind: "Tenant", Name: "shop", Controller: &yes}}
	synced := binding("synced", serviceAccount("web"))
	synced.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "shop:rbac.authorization.k8s.io/RoleBinding:shop/synced"}
	protected := binding("protected", serviceAccount("web"))
	protected.Annotations = map[string]string{itself.Protected: ""}
	plan := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), owned, synced, protected)
	require.Contains(t, plan.Grants[0].Left, "Tenant shop")
	require.Contains(t, plan.Grants[1].Left, "the annotation "+itself.Protected)
	require.Contains(t, plan.Grants[2].Left, "Argo CD")
	require.Contains(t, plan.Grants[2].Do, "kubectl patch application shop -n argocd", "its owner goes first")
	require.Contains(t, plan.Grants[2].Do, "kubectl patch rolebinding synced")

	w := runsAs("web-1=web", "worker=web")
	w.Runs = map[Ref]string{{"shop", "worker"}: "the label app.kubernetes.io/part-of=upkeep"}
	plan = planned(t, w, suspects(t, "web-1"), binding("reads", serviceAccount("web")))
	require.Contains(t, plan.Accounts[0].Not, "Upkeep itself runs as it, in pod shop/worker")
	require.Empty(t, plan.Grants)
	require.Contains(t, plan.left(Withdrawn{}, true)[0], "account shop/web keeps all that it has")

	s := suspects(t, "web-1")
	w = runsAs("web-1=web")
	plan = PlanAccess(w, Bindings{Who: "system:serviceaccount:shop:web"}, made(t, w, s), s, Default, now)
	require.Equal(t, "this worker is it", plan.Accounts[0].Not)
}

func TestAccountsAreThoseOfAllSuspects(t *testing.T) {
	w := runsAs("host=agent", "web-1=")
	w.Pods[0].Spec.HostNetwork = true
	s := suspects(t, "host,web-1")
	s.ServiceAccount = "stolen"
	names := []string{}
	for _, a := range planned(t, w, s).Accounts {
		names = append(names, a.Name)
	}
	require.Equal(t, []string{"agent", "default", "stolen"}, names, "one that no policy reaches, and one that nobody runs as, too")
}

func TestThePlanIsBounded(t *testing.T) {
	var all []rbacv1.RoleBinding
	crowd := []rbacv1.Subject{serviceAccount("web")}
	for range 1000 {
		crowd = append(crowd, serviceAccount("db"))
	}
	for i := range MaxGrants + 3 {
		all = append(all, binding("b"+strings.Repeat("x", i), crowd...))
	}
	plan := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), all...)
	require.Len(t, plan.Grants, MaxGrants)
	require.Len(t, plan.Grants[0].Others, maxOthers)
	require.Equal(t, 1000-maxOthers, plan.Grants[0].More)
	require.Contains(t, plan.Gaps[0], "3 more bindings")
}

func TestAnEarlierRunOfTheCaseIsFound(t *testing.T) {
	b := binding("reads", serviceAccount("db"))
	b.Annotations = map[string]string{Note: `{"cases":[{"case":"` + caseID + `","target":"shop","at":"2026-01-01T00:00:00Z","subjects":[{"kind":"ServiceAccount","namespace":"shop","name":"web"}]}]}`}
	plan := planned(t, runsAs("web-1=web"), suspects(t, "web-1"), b)
	require.Equal(t, []rbacv1.Subject{serviceAccount("web")}, plan.Grants[0].Subjects)
	plan = PlanAccess(World{}, Bindings{All: []rbacv1.RoleBinding{b}}, Plan{Case: caseID}, Suspects{Namespace: "shop"}, Default, now)
	require.Len(t, plan.Grants, 1, "when its pods are deleted already, too")
	require.Equal(t, "web", plan.Accounts[0].Name)
	elsewhere := b
	elsewhere.Namespace = "other"
	elsewhere.Annotations = map[string]string{Note: strings.Replace(b.Annotations[Note], `"namespace":"shop"`, `"namespace":"other"`, 1)}
	plan = PlanAccess(World{}, Bindings{All: []rbacv1.RoleBinding{elsewhere}}, Plan{Case: caseID}, Suspects{Namespace: "shop"}, Default, now)
	require.Empty(t, plan.Accounts, "an account of a namespace that is not the case's is none of its suspects")
	b.Annotations[Note] = strings.Replace(b.Annotations[Note], caseID, "0ther", 1)
	plan = planned(t, runsAs("web-1=web"), suspects(t, "web-1"), b)
	require.Len(t, plan.Grants, 1, "what another case holds is held by this one too")
	b.Annotations[Note] = strings.Replace(b.Annotations[Note], `"subjects"`, `"over":true,"subjects"`, 1)
	require.Empty(t, planned(t, runsAs("web-1=web"), suspects(t, "web-1"), b).Grants)
}
