package quarantine

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const caseID = "c0ffee"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pod is one of namespace shop; of is its controller, as Kind/name.
func pod(name, of string, set map[string]string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: set}}
	p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "shop/web:1"}}
	if kind, owner, ok := strings.Cut(of, "/"); ok {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, UID: types.UID("uid-" + owner), Controller: &yes}}
	}
	return p
}

func controller(kind, name string, set map[string]string) Controller {
	return Controller{Kind: kind, Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Selector: &metav1.LabelSelector{MatchLabels: set}}
}

// allow is a policy that lets everything in to what the selector selects.
func allow(name string, s metav1.LabelSelector) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: s, Ingress: []networkingv1.NetworkPolicyIngressRule{{}}},
	}
}

func selector(key string, op metav1.LabelSelectorOperator, values ...string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func service(name string, set map[string]string) corev1.Service {
	return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{Selector: set}}
}

func suspects(t *testing.T, pods string) Suspects {
	t.Helper()
	s, err := Parse("shop", pods, "", "", "", "")
	require.NoError(t, err)
	return s
}

func made(t *testing.T, w World, s Suspects) Plan {
	t.Helper()
	plan, err := Make(w, s, Default, caseID, now)
	require.NoError(t, err)
	return plan
}

func keys(p Pod) (all []string) {
	for _, s := range p.Strip {
		all = append(all, s.Key+" "+strings.Join(s.By, "+"))
	}
	return all
}

func TestLabelsAreTakenByWhichSomebodySelectsThePod(t *testing.T) {
	web := map[string]string{"app": "web", "tier": "front", "version": "1", "pod-template-hash": "abc"}
	w := World{
		Pods:        []corev1.Pod{pod("web-1", "ReplicaSet/web-abc", web), pod("web-2", "ReplicaSet/web-abc", web)},
		Services:    []corev1.Service{service("web", map[string]string{"app": "web"}), service("db", map[string]string{"app": "db"}), service("by-hand", nil)},
		Controllers: []Controller{controller("ReplicaSet", "web-abc", map[string]string{"app": "web", "pod-template-hash": "abc"})},
		Policies: []networkingv1.NetworkPolicy{
			allow("front", selector("tier", metav1.LabelSelectorOpIn, "front", "edge")),
			allow("back", selector("tier", metav1.LabelSelectorOpIn, "back")),
			allow("all", metav1.LabelSelector{}),
			allow("not-db", selector("app", metav1.LabelSelectorOpNotIn, "db")),
			allow("nameless", selector("app", metav1.LabelSelectorOpDoesNotExist)),
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "egress-unused"}, Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{"Ingress"}, Egress: []networkingv1.NetworkPolicyEgressRule{{}},
			}},
		},
	}
	plan := made(t, w, suspects(t, "web-1"))
	require.Len(t, plan.Pods, 1)
	require.Equal(t, []string{"app ReplicaSet web-abc+Service web", "pod-template-hash ReplicaSet web-abc", "tier NetworkPolicy front"}, keys(plan.Pods[0]))
	require.Equal(t, []string{"version"}, plan.Pods[0].Kept)
	require.Equal(t, web, plan.Pods[0].Labels, "the image is of all labels")
	require.Equal(t, []string{"shop"}, plan.Deny)
	narrowed := []string{}
	for _, n := range plan.Narrow {
		narrowed = append(narrowed, n.Name)
	}
	require.Equal(t, []string{"all", "nameless", "not-db"}, narrowed, "those that need no label, also one that only now would select it")
	require.Contains(t, plan.Pods[0].Then, "makes another in its place")
}

func TestLabelsAreTakenByWhichOthersLetThePodThrough(t *testing.T) {
	guard := func(namespace string, peer networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicy {
		p := allow("guard-"+namespace, metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}})
		p.Namespace, p.Spec.Ingress[0].From = namespace, []networkingv1.NetworkPolicyPeer{peer}
		return p
	}
	to := &metav1.LabelSelector{MatchLabels: map[string]string{"access": "db"}}
	labels := map[string]string{"access": "db", "note": "kept"}
	for name, c := range map[string]struct {
		policy networkingv1.NetworkPolicy
		by     []string
	}{
		"its own namespace's":         {guard("shop", networkingv1.NetworkPolicyPeer{PodSelector: to}), []string{"access NetworkPolicy guard-shop for others"}},
		"another's, of its own pods":  {guard("other", networkingv1.NetworkPolicyPeer{PodSelector: to}), nil},
		"another's, of other pods":    {guard("other", networkingv1.NetworkPolicyPeer{PodSelector: to, NamespaceSelector: &metav1.LabelSelector{}}), []string{"access NetworkPolicy guard-other for others"}},
		"that asks for another label": {guard("shop", networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"access": "web"}}}), nil},
		"that asks for none":          {guard("shop", networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}), nil},
	} {
		plan := made(t, World{Pods: []corev1.Pod{pod("a", "", labels)}, Policies: []networkingv1.NetworkPolicy{c.policy}}, suspects(t, "a"))
		require.Equal(t, c.by, keys(plan.Pods[0]), name)
	}
}

func TestWhatBecomesOfEachKindOfSuspect(t *testing.T) {
	set := func(app string) map[string]string { return map[string]string{"app": app} }
	host := pod("host", "DaemonSet/agent", set("agent"))
	host.Spec.HostNetwork = true
	ended := pod("ended", "", set("x"))
	ended.Status.Phase = corev1.PodSucceeded
	system := pod("dns", "", set("dns"))
	system.Namespace = "kube-system"
	other := pod("else", "", set("x"))
	other.Namespace = "other"
	w := World{
		Pods: []corev1.Pod{
			pod("web", "ReplicaSet/web", set("web")), pod("db-0", "StatefulSet/db", set("db")), pod("agent", "DaemonSet/agent", set("agent")), pod("bare", "", nil),
			pod("job", "Job/load", set("load")), pod("own", "Rollout/own", set("own")), host, ended, system, other, pod("worker", "", set("upkeep")),
		},
		Controllers: []Controller{
			controller("ReplicaSet", "web", set("web")), controller("StatefulSet", "db", set("db")), controller("DaemonSet", "agent", set("agent")), controller("Job", "load", set("load")),
		},
		Runs: map[Ref]string{{"shop", "worker"}: "this worker is it"},
	}
	plan := made(t, w, suspects(t, "web,db-0,agent,bare,job,own,host,ended,kube-system/dns,other/else,worker,nowhere"))
	then := make(map[string]string)
	for _, p := range plan.Pods {
		then[p.Name] = p.Then
	}
	require.Equal(t, map[string]string{
		"web":   "ReplicaSet web lets go of it, and makes another in its place",
		"db-0":  "StatefulSet db lets go of it, and can make no other of its name until it is gone",
		"agent": "DaemonSet agent lets go of it, and makes another on the node, if there is room",
		"bare":  "nothing makes another in its place",
		"job":   "Job load lets go of it, and makes another in its place",
		"own":   "what Rollout own does about it is not known",
	}, then)
	not := make(map[string]string)
	free := []string{}
	for _, n := range plan.Not {
		not[n.Pod.String()] = n.Why
		if n.Free {
			require.NotEmpty(t, n.Do, n.Pod)
			free = append(free, n.Pod.Name)
		}
	}
	require.Contains(t, not["shop/host"], "no NetworkPolicy reaches it")
	require.Equal(t, "it has ended", not["shop/ended"])
	require.Contains(t, not["kube-system/dns"], "the cluster's own")
	require.Contains(t, not["other/else"], "not among those")
	require.Equal(t, "Upkeep itself runs on it (this worker is it)", not["shop/worker"])
	require.Contains(t, not["shop/nowhere"], "not there")
	require.ElementsMatch(t, []string{"host", "dns", "else", "worker"}, free)
}

func TestSuspectsMeanPods(t *testing.T) {
	odd := pod("odd", "ReplicaSet/web-2", nil)
	odd.Spec.NodeName, odd.Spec.ServiceAccountName = "n2", "robot"
	odd.Status.ContainerStatuses = []corev1.ContainerStatus{{ImageID: "docker.io/shop/web@sha256:dead"}}
	yes := true
	w := World{
		Pods:        []corev1.Pod{pod("plain", "ReplicaSet/web-1", nil), odd},
		Controllers: []Controller{controller("ReplicaSet", "web-1", map[string]string{"a": "b"}), controller("ReplicaSet", "web-2", map[string]string{"a": "b"})},
		Node:        &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", UID: "n"}},
	}
	w.Controllers[1].Above = &metav1.OwnerReference{Kind: "Deployment", Name: "web", Controller: &yes}
	for name, c := range map[string]struct {
		workload, node, account, image string
		want                           []string
	}{
		"a Deployment":        {workload: "Deployment/web", want: []string{"odd"}},
		"a ReplicaSet":        {workload: "ReplicaSet/web-1", want: []string{"plain"}},
		"a node":              {node: "n2", want: []string{"odd"}},
		"an account":          {account: "robot", want: []string{"odd"}},
		"the default account": {account: "default", want: []string{"plain"}},
		"an image":            {image: "shop/web:1", want: []string{"odd", "plain"}},
		"a digest":            {image: "sha256:dead", want: []string{"odd"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse("shop", "", c.workload, c.node, c.account, c.image)
			require.NoError(t, err)
			plan := made(t, w, s)
			names := []string{}
			for _, p := range plan.Pods {
				names = append(names, p.Name)
			}
			require.Equal(t, c.want, names)
			if c.node == "" {
				require.Empty(t, plan.Cordon)
			} else {
				require.Equal(t, []Cordoned{{"n2", "n", "null"}}, plan.Cordon)
			}
		})
	}
	_, err := Make(w, suspects(t, "plain"), Policy{}, caseID, now)
	require.NoError(t, err)
	s, err := Parse("shop", "", "Deployment/none", "", "", "")
	require.NoError(t, err)
	_, err = Make(w, s, Default, caseID, now)
	require.True(t, failure.Is(err, failure.MissingObject), err)
}

func TestWrongSuspects(t *testing.T) {
	for name, c := range map[string][5]string{
		"none": {}, "a name that is none": {"Web"}, "twice": {"a,shop/a"}, "a kind": {"", "Pod/a"}, "a workload without a name": {"", "Deployment/"},
		"a node": {"", "", "../n"}, "an account": {"", "", "", "a b"}, "an image": {"", "", "", "", "a\x1b[2J"}, "too deep": {"a/b/c"},
	} {
		_, err := Parse("shop", c[0], c[1], c[2], c[3], c[4])
		require.True(t, failure.Is(err, failure.BadInput), "%s: %v", name, err)
	}
}

func TestThePolicyBoundsWhatIsCutOff(t *testing.T) {
	w := World{Policies: []networkingv1.NetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: DenyName("earlier"), CreationTimestamp: metav1.NewTime(now.Add(-time.Minute)), Annotations: map[string]string{countNote: "4"}},
	}, {
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: DenyName("long-ago"), CreationTimestamp: metav1.NewTime(now.Add(-2 * time.Hour)), Annotations: map[string]string{countNote: "400"}},
	}}}
	for _, name := range []string{"a", "b", "c"} {
		w.Pods = append(w.Pods, pod(name, "", nil))
	}
	away := pod("d", "", nil)
	away.Namespace = "other"
	w.Pods = append(w.Pods, away)
	for name, c := range map[string]struct {
		p    Policy
		over []string
	}{
		"within":                  {Policy{Namespaces: []string{"other"}, Pods: 4, PodsPerHour: 8, InAtOnce: 2}, nil},
		"too many pods":           {Policy{Namespaces: []string{"other"}, Pods: 3, PodsPerHour: 8, InAtOnce: 2}, []string{"4 pods in one case, where the policy lets 3"}},
		"too many namespaces":     {Policy{Namespaces: []string{"other"}, Pods: 4, PodsPerHour: 8, InAtOnce: 1}, []string{"2 namespaces in one case, where the policy lets 1"}},
		"too many within an hour": {Policy{Namespaces: []string{"other"}, Pods: 4, PodsPerHour: 7, InAtOnce: 2}, []string{"8 pods within an hour, where the policy lets 7"}},
	} {
		plan, err := Make(w, suspects(t, "a,b,c,other/d"), c.p, caseID, now)
		require.NoError(t, err)
		require.Equal(t, c.over, plan.Over, name)
	}
}

// TestWhoeverSaysItIsInQuarantineIsNotBelieved: the label and the note can be written by whoever runs in a pod.
func TestWhoeverSaysItIsInQuarantineIsNotBelieved(t *testing.T) {
	said, err := json.Marshal(note{Order: Order{Case: "other", At: now}})
	require.NoError(t, err)
	liar := pod("liar", "", map[string]string{Label: "other", "app": "web"})
	liar.Annotations = map[string]string{Note: string(said)}
	w := World{Pods: []corev1.Pod{liar}}
	require.Len(t, made(t, w, suspects(t, "liar")).Pods, 1, "no policy denies it")

	deny := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: DenyName("other")}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{Label: "other"}}, PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"},
	}}
	w.Policies = []networkingv1.NetworkPolicy{deny}
	plan := made(t, w, suspects(t, "liar"))
	require.Empty(t, plan.Pods)
	require.Equal(t, "it is in the quarantine of case other", plan.Not[0].Why)

	w.Policies = append(w.Policies, allow("web", metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}))
	require.Len(t, made(t, w, suspects(t, "liar")).Pods, 1, "a policy lets it through")
}

// apply does to a world what a plan says, as Contain does to a cluster.
func apply(w World, plan Plan, o Order) (World, Contained) {
	w.Pods, w.Policies = slices.Clone(w.Pods), slices.Clone(w.Policies)
	var out Contained
	for _, p := range plan.Pods {
		at := slices.IndexFunc(w.Pods, func(q corev1.Pod) bool { return q.Namespace == p.Namespace && q.Name == p.Name })
		live := w.Pods[at].DeepCopy()
		change, n, _, done := take(live, p, o)
		if !done {
			merge(live, change, n)
		}
		w.Pods[at] = *live
		out.Pods = append(out.Pods, Image{p.Ref, p.UID, n.Labels})
	}
	for _, n := range plan.Narrow {
		at := slices.IndexFunc(w.Policies, func(q networkingv1.NetworkPolicy) bool { return q.Name == n.Name })
		live := w.Policies[at].DeepCopy()
		live.Spec.PodSelector.MatchExpressions = append(live.Spec.PodSelector.MatchExpressions, except)
		w.Policies[at] = *live
	}
	return w, out
}

// merge is what the API server makes of a patch.
func merge(p *corev1.Pod, change map[string]any, n note) {
	if p.Labels = maps.Clone(p.Labels); p.Labels == nil {
		p.Labels = map[string]string{}
	}
	for key, value := range change {
		if value == nil {
			delete(p.Labels, key)
		} else {
			p.Labels[key] = value.(string)
		}
	}
	text, _ := json.Marshal(n)
	p.Annotations = map[string]string{Note: string(text)}
}

func TestContainedTwiceBesideWhoeverFightsBack(t *testing.T) {
	first := Order{Case: caseID, Target: "shop", At: now}
	set := map[string]string{"app": "web", "keep": "it"}
	w := World{Pods: []corev1.Pod{pod("web", "ReplicaSet/web", set)}, Controllers: []Controller{controller("ReplicaSet", "web", map[string]string{"app": "web"})}}
	plan := made(t, w, suspects(t, "web"))
	after, done := apply(w, plan, first)
	require.Equal(t, map[string]string{"keep": "it", Label: caseID}, after.Pods[0].Labels)
	require.Equal(t, map[string]string{"app": "web"}, done.Pods[0].Labels)

	_, _, _, again := take(&after.Pods[0], plan.Pods[0], first)
	require.True(t, again, "done twice, it is done")

	fought := after.Pods[0].DeepCopy()
	fought.Labels["app"] = "other"
	change, n, remark, finished := take(fought, plan.Pods[0], first)
	require.False(t, finished)
	require.Equal(t, map[string]any{"app": nil, Label: caseID}, change)
	require.Equal(t, "web", n.Labels["app"], "what it was first is what it gets back")
	require.Contains(t, remark, "somebody gave shop/web labels back")

	// A later run of the case takes over, and an attempt of the earlier one that wakes up changes nothing.
	later := Order{Case: caseID, Target: "shop", At: now.Add(time.Hour)}
	over := made(t, after, suspects(t, "web"))
	require.True(t, over.Pods[0].Already)
	taken, images := apply(after, over, later)
	require.Equal(t, map[string]string{"app": "web"}, images.Pods[0].Labels)
	_, _, remark, finished = take(&taken.Pods[0], plan.Pods[0], first)
	require.True(t, finished)
	require.Contains(t, remark, "a later run")
}

func TestReleaseGivesBackWhatNobodyHasChanged(t *testing.T) {
	o := Order{Case: caseID, Target: "shop", At: now}
	set := map[string]string{"app": "web", "tier": "front"}
	w := World{
		Pods: []corev1.Pod{pod("web", "ReplicaSet/web", set), pod("db-0", "StatefulSet/db", map[string]string{"app": "db"}), pod("agent", "DaemonSet/agent", map[string]string{"app": "agent"}), pod("bare", "", set)},
		Controllers: []Controller{
			controller("ReplicaSet", "web", map[string]string{"app": "web", "tier": "front"}), controller("StatefulSet", "db", map[string]string{"app": "db"}), controller("DaemonSet", "agent", map[string]string{"app": "agent"}),
		},
		Policies: []networkingv1.NetworkPolicy{allow("all", metav1.LabelSelector{})},
	}
	w.Controllers[0].Selector.MatchLabels["pod-template-hash"] = "x"
	w.Pods[0].Labels = map[string]string{"app": "web", "tier": "front", "pod-template-hash": "x"}
	plan := made(t, w, suspects(t, "web,db-0,agent,bare"))
	after, done := apply(w, plan, o)
	for i := range after.Pods { // what their controllers do
		after.Pods[i].OwnerReferences = nil
	}
	out := PlanRelease(after, plan, done, false)
	then := make(map[string]string)
	for _, p := range out.Pods {
		require.Empty(t, p.Conflicts, p.Name)
		then[p.Name] = p.Then
	}
	require.Equal(t, map[string]string{
		"web":   "ReplicaSet web takes it back, has one too many then, and ends one of its pods, which may be another",
		"db-0":  "StatefulSet db takes it back as the pod of its name",
		"agent": "DaemonSet agent takes it back, has two on node n1 then, and ends one of them",
		"bare":  "no controller takes it back",
	}, then)
	require.Empty(t, out.Conflicts)

	t.Run("conflicts are shown and stay", func(t *testing.T) {
		changed := World{Pods: []corev1.Pod{*after.Pods[0].DeepCopy(), after.Pods[1]}, Controllers: after.Controllers, Policies: []networkingv1.NetworkPolicy{*after.Policies[0].DeepCopy()}}
		changed.Pods[0].Labels["app"] = "mine"
		changed.Pods[0].Annotations[Note] = strings.Replace(changed.Pods[0].Annotations[Note], "front", "back", 1)
		changed.Policies[0].Spec.PodSelector.MatchLabels = map[string]string{"new": "one"}
		delete(changed.Pods[1].Labels, Label)
		out := PlanRelease(changed, plan, done, false)
		require.Equal(t, []Ref{{"shop", "agent"}, {"shop", "bare"}}, out.Gone)
		for _, p := range out.Pods {
			switch p.Name {
			case "web":
				require.Equal(t, map[string]string{"tier": "front", "pod-template-hash": "x"}, p.Back, "what the run has kept, not what the note says")
				require.Len(t, p.Conflicts, 2)
				require.Contains(t, p.Conflicts[1], `was "web" and was set to "mine" by somebody, and stays`)
			case "db-0":
				require.Equal(t, []string{"somebody has taken the quarantine's label from it"}, p.Conflicts)
			}
		}
		require.Contains(t, out.Conflicts[0], "was changed by somebody")
	})
	t.Run("deleted, a StatefulSet has its name again", func(t *testing.T) {
		for _, p := range PlanRelease(after, plan, done, true).Pods {
			require.Empty(t, p.Back)
			if p.Name == "db-0" {
				require.Equal(t, "StatefulSet db makes another of its name", p.Then)
			}
		}
	})
}

func TestWhatIsLeftOfACaseWhosePodsAreGoneIsTakenOver(t *testing.T) {
	note, err := json.Marshal(exception{}.with(Order{Case: caseID, At: now}, false))
	require.NoError(t, err)
	deny := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: DenyName(caseID)}}
	all, over := allow("all", metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{except}}), allow("over", metav1.LabelSelector{})
	all.Annotations = map[string]string{Note: string(note)}
	plan := made(t, World{Policies: []networkingv1.NetworkPolicy{deny, all, over}}, suspects(t, "web-1"))
	require.Empty(t, plan.Pods)
	require.Equal(t, []string{"shop"}, plan.Deny)
	require.Len(t, plan.Narrow, 1)
	require.Equal(t, "all", plan.Narrow[0].Name)
	require.Empty(t, plan.Narrow[0].Before.MatchExpressions)
}

func TestAnExceptionServesManyCases(t *testing.T) {
	a, b := Order{Case: "a", At: now}, Order{Case: "b", At: now.Add(time.Minute)}
	var e exception
	e = e.with(a, false).with(b, false)
	e = e.with(a, true)
	require.True(t, e.needed(), "the other case needs it")
	h, ok := e.of("a")
	require.True(t, ok && h.Over)
	require.False(t, e.with(b, true).needed())
	for i := range 2 * maxCases {
		e = e.with(Order{Case: strings.Repeat("x", i+1), At: now}, true)
	}
	require.LessOrEqual(t, len(e.Cases), maxCases)
	require.True(t, e.needed(), "one that is held is not forgotten")
}

// FuzzContainment: whatever labels and selectors there are, no policy lets a suspect through, no Service finds it,
// no neighbour is selected otherwise than before, and a release gives back what was.
func FuzzContainment(f *testing.F) {
	f.Add("app", "web", "app", "web", "tier", uint8(0))
	f.Add("app", "web", "tier", "web", "app", uint8(1))
	f.Add("app", "web", "app", "db", "app", uint8(2))
	f.Add(Label, "x", "app", "db", Label, uint8(3))
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2, key3 string, shape uint8) {
		ops := []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}
		op := ops[int(shape)%len(ops)]
		s := selector(key3, op)
		if op == metav1.LabelSelectorOpIn || op == metav1.LabelSelectorOpNotIn {
			s = selector(key3, op, value1)
		}
		if shape&4 != 0 {
			s.MatchLabels = map[string]string{key2: value2}
		}
		if _, err := metav1.LabelSelectorAsSelector(&s); err != nil {
			t.Skip("the API server takes no such selector")
		}
		if !utf8.ValidString(key1 + value1 + key2 + value2) {
			t.Skip("the API server takes no such label")
		}
		set, neighbour := map[string]string{key1: value1, key2: value2}, map[string]string{key2: value2}
		if _, has := set[Label]; has {
			t.Skip("a pod that says so itself has a test of its own")
		}
		w := World{
			Pods:        []corev1.Pod{pod("web", "ReplicaSet/web", set), pod("near", "ReplicaSet/web", neighbour)},
			Services:    []corev1.Service{service("one", map[string]string{key1: value1}), service("two", map[string]string{key2: value2})},
			Controllers: []Controller{controller("ReplicaSet", "web", map[string]string{key2: value2})},
			Policies:    []networkingv1.NetworkPolicy{allow("fuzz", s), allow("all", metav1.LabelSelector{})},
		}
		plan := made(t, w, suspects(t, "web"))
		after, done := apply(w, plan, Order{Case: caseID, At: now})
		left := after.Pods[0].Labels
		for i, p := range after.Policies {
			if matches(&p.Spec.PodSelector, left) {
				t.Fatalf("policy %s lets %v through", p.Name, left)
			}
			if matches(&p.Spec.PodSelector, neighbour) != matches(&w.Policies[i].Spec.PodSelector, neighbour) {
				t.Fatalf("policy %s treats the neighbour otherwise", p.Name)
			}
		}
		for _, service := range after.Services {
			if labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(left)) {
				t.Fatalf("Service %s finds %v", service.Name, left)
			}
		}
		freed := PlanRelease(after, plan, done, false).Pods[0]
		back := maps.Clone(left)
		delete(back, Label)
		maps.Copy(back, freed.Back)
		if !maps.Equal(back, set) || len(freed.Conflicts) > 0 {
			t.Fatalf("%v came back as %v (%v)", set, back, freed.Conflicts)
		}
	})
}
