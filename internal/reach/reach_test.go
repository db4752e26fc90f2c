package reach_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/internal/reach"
)

// pods: web and db in namespace shop, job in namespace ops, an agent with node 1's network, and one pod that
// has ended. web and db run on node 1, job on node 2.
func pods() []corev1.Pod {
	pod := func(namespace, name, ip, node string, set map[string]string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: set},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "pg", ContainerPort: 5432}}}}},
			Status:     corev1.PodStatus{HostIP: node, PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	agent := pod("ops", "agent", "192.0.2.1", "192.0.2.1", map[string]string{"app": "agent"})
	agent.Spec.HostNetwork = true
	far := pod("ops", "far-agent", "192.0.2.2", "192.0.2.2", map[string]string{"app": "agent"})
	far.Spec.HostNetwork = true
	ended := pod("shop", "ended", "10.0.0.2", "192.0.2.1", map[string]string{"app": "ended"})
	ended.Status.Phase = corev1.PodSucceeded
	return []corev1.Pod{
		pod("shop", "web", "10.0.0.1", "192.0.2.1", map[string]string{"app": "web"}),
		pod("shop", "db", "10.0.0.2", "192.0.2.1", map[string]string{"app": "db"}),
		pod("ops", "job", "10.0.1.1", "192.0.2.2", map[string]string{"app": "job"}),
		agent, far, ended,
	}
}

func model(t *testing.T, policies string, foreign ...reach.Foreign) *reach.Model {
	t.Helper()
	w := reach.World{Pods: pods(), Foreign: foreign, Namespaces: []corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "ops", Labels: map[string]string{"team": "ops"}}},
	}}
	for i, text := range strings.Split(policies, "\n---\n") {
		var p networkingv1.NetworkPolicy
		require.NoError(t, yaml.UnmarshalStrict([]byte(text), &p.Spec))
		p.Namespace, p.Name = "shop", fmt.Sprint("p", i)
		if strings.TrimSpace(text) != "" {
			w.Policies = append(w.Policies, p)
		}
	}
	return reach.New(w)
}

func end(t *testing.T, text string) reach.End {
	t.Helper()
	if namespace, name, pod := strings.Cut(text, "/"); pod {
		return reach.PodEnd(namespace, name)
	}
	a, err := netip.ParseAddr(text)
	require.NoError(t, err)
	return reach.External(a)
}

func TestBetween(t *testing.T) {
	const onlyWeb = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}`
	const denyAll = `{podSelector: {}, policyTypes: [Ingress, Egress]}`
	cases := []struct {
		name, policies, from, to string
		port                     int32
		want                     reach.Answer
		because                  string
	}{
		{"no policy", "", "ops/job", "shop/db", 5432, reach.Allowed, ""},
		{"who is let in", onlyWeb, "shop/web", "shop/db", 5432, reach.Allowed, "policy shop/p0 lets it through"},
		{"on another port", onlyWeb, "shop/web", "shop/db", 5433, reach.Denied, "isolated by shop/p0"},
		{"who is not let in", onlyWeb, "ops/job", "shop/db", 5432, reach.Denied, "isolated by shop/p0"},
		{"from outside", onlyWeb, "198.51.100.7", "shop/db", 5432, reach.Denied, ""},
		{"a policy of ingress alone lets everything out", onlyWeb, "shop/db", "ops/job", 80, reach.Allowed, ""},
		{"a deny takes nothing away", onlyWeb + "\n---\n" + `{podSelector: {}}`, "shop/web", "shop/db", 5432, reach.Allowed, ""},
		{"deny all, out", denyAll, "shop/web", "198.51.100.7", 443, reach.Denied, "egress"},
		{"deny all, to itself", denyAll, "shop/web", "shop/web", 443, reach.Allowed, "itself"},
		{"no rules of egress, and not of that type", `{podSelector: {}, policyTypes: [Ingress]}`, "shop/web", "ops/job", 443, reach.Allowed, ""},
		{"rules of egress make it isolate both ways", `{podSelector: {matchLabels: {app: web}}, egress: [{}]}`, "ops/job", "shop/web", 443, reach.Denied, "ingress"},
		{"a rule without anything lets all through", `{podSelector: {}, ingress: [{}]}`, "ops/job", "shop/web", 443, reach.Allowed, ""},
		{"a namespace by its labels", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`, "ops/job", "shop/web", 443, reach.Allowed, ""},
		{"both selectors in one peer", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}]}]}`, "ops/job", "shop/web", 443, reach.Denied, ""},
		{"an empty selector of pods is this namespace's", `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "ops/job", "shop/web", 443, reach.Denied, ""},
		{"an empty selector of namespaces is all", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, "ops/job", "shop/web", 443, reach.Allowed, ""},
		{"a port's name is the destination's", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: pg}]}]}`, "shop/web", "shop/db", 5432, reach.Allowed, ""},
		{"a port's name that the destination has for another", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: pg}]}]}`, "shop/web", "shop/db", 80, reach.Denied, ""},
		{"a port's name outside", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: pg}]}]}`, "shop/web", "198.51.100.7", 5432, reach.Unknown, "no names of ports"},
		{"a range of ports", `{podSelector: {}, ingress: [{ports: [{port: 100, endPort: 200}]}]}`, "ops/job", "shop/web", 200, reach.Allowed, ""},
		{"outside of a range", `{podSelector: {}, ingress: [{ports: [{port: 100, endPort: 200}]}]}`, "ops/job", "shop/web", 201, reach.Denied, ""},
		{"another protocol", `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`, "ops/job", "shop/web", 53, reach.Denied, ""},
		{"a block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/32]}}]}]}`, "198.51.100.7", "shop/web", 443, reach.Allowed, ""},
		{"a block's exception", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/32]}}]}]}`, "198.51.100.8", "shop/web", 443, reach.Denied, ""},
		{"a block with a pod's address", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`, "ops/job", "shop/web", 443, reach.Unknown, "has block 0.0.0.0/0 with the address of pod ops/job"},
		{"a block without it", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}`, "ops/job", "shop/web", 443, reach.Denied, ""},
		{"a doubt that does not matter", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}, {namespaceSelector: {}}]}]}`, "ops/job", "shop/web", 443, reach.Allowed, "lets it through"},
		{"an address that is a pod's", onlyWeb, "10.0.0.1", "shop/db", 5432, reach.Allowed, ""},
		{"an ended pod's address is who has it now", onlyWeb, "shop/web", "10.0.0.2", 5432, reach.Allowed, ""},
		{"its own node", onlyWeb, "ops/agent", "shop/db", 5432, reach.Allowed, "own node"},
		{"its own node's address", onlyWeb, "192.0.2.1", "shop/db", 5432, reach.Allowed, "own node"},
		{"another node's pod", onlyWeb, "ops/far-agent", "shop/db", 5432, reach.Denied, ""},
		{"another node's pod that is selected", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, "ops/far-agent", "shop/db", 5432, reach.Unknown, "its node's network"},
		{"neither selector nor block", `{podSelector: {}, ingress: [{from: [{}]}]}`, "ops/job", "shop/db", 5432, reach.Unknown, "shop/p0"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := model(t, c.policies)
			v, err := m.Between(end(t, c.from), end(t, c.to), reach.Port{Protocol: corev1.ProtocolTCP, Number: c.port})
			require.NoError(t, err)
			require.Equal(t, c.want, v.Answer, "%v", v.Because)
			require.Contains(t, strings.Join(v.Because, "\n"), c.because)
		})
	}
}

// TestAPodOnItsNodesNetwork is not held by policies that can be told.
func TestAPodOnItsNodesNetwork(t *testing.T) {
	w := reach.World{Pods: pods(), Policies: []networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ops", Name: "deny"}}}}
	v, err := reach.New(w).Between(end(t, "shop/web"), end(t, "ops/far-agent"), reach.Port{Protocol: corev1.ProtocolTCP, Number: 80})
	require.NoError(t, err)
	require.Equal(t, reach.Unknown, v.Answer)
}

func TestPoliciesOfOtherKinds(t *testing.T) {
	web := reach.Port{Protocol: corev1.ProtocolTCP, Number: 80}
	here := reach.Foreign{Kind: "CiliumNetworkPolicy", Namespace: "shop", Name: "x"}
	v, err := model(t, "", here).Between(end(t, "ops/job"), end(t, "shop/web"), web)
	require.NoError(t, err)
	require.Equal(t, reach.Verdict{Answer: reach.Unknown, Because: []string{"CiliumNetworkPolicy shop/x may have a say, and is not of a kind that can be read here"}}, v)
	v, err = model(t, "", here).Between(end(t, "ops/job"), end(t, "198.51.100.7"), web)
	require.NoError(t, err)
	require.Equal(t, reach.Allowed, v.Answer, "it is of another namespace")
	v, err = model(t, "", reach.Foreign{Kind: "AdminNetworkPolicy", Name: "x"}).Between(end(t, "ops/job"), end(t, "198.51.100.7"), web)
	require.NoError(t, err)
	require.Equal(t, reach.Unknown, v.Answer)
}

func TestAPodThatIsNotThere(t *testing.T) {
	_, err := model(t, "").Between(end(t, "shop/ended"), end(t, "shop/web"), reach.Port{})
	require.ErrorContains(t, err, "pod shop/ended does not run")
}

// TestTheMatrixIsWhatEachPairSays: the two ways to ask never differ.
func TestTheMatrixIsWhatEachPairSays(t *testing.T) {
	m := reach.New(large(60, 40))
	ports := []reach.Port{{Protocol: corev1.ProtocolTCP, Number: 5432}}
	n := map[reach.Answer]int{}
	m.Matrix(func(reach.End) []reach.Port { return ports }, func(from, to reach.End, p reach.Port, a reach.Answer) {
		v, err := m.Between(from, to, p)
		require.NoError(t, err)
		require.Equal(t, v.Answer, a, "%s to %s: %v", from, to, v.Because)
		n[a]++
	})
	require.Equal(t, 60*59, n[reach.Allowed]+n[reach.Denied]+n[reach.Unknown])
	require.NotZero(t, n[reach.Allowed])
	require.NotZero(t, n[reach.Denied])
}

// large is a world of so many pods in ten namespaces, with policies that select a part of them each.
func large(pods, policies int) reach.World {
	var w reach.World
	for n := range 10 {
		w.Namespaces = append(w.Namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n), Labels: map[string]string{"n": fmt.Sprint(n)}}})
	}
	for i := range pods {
		w.Pods = append(w.Pods, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", i%10), Name: fmt.Sprint("p", i), Labels: map[string]string{"app": fmt.Sprint(i % 20)}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "pg", ContainerPort: 5432}}}}},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i % 256)}).String()}}},
		})
	}
	for i := range policies {
		app := map[string]string{"app": fmt.Sprint(i % 20)}
		other := map[string]string{"app": fmt.Sprint((i + 1) % 20)}
		w.Policies = append(w.Policies, networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", i%10), Name: fmt.Sprint("policy", i)},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: app},
				Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
					{PodSelector: &metav1.LabelSelector{MatchLabels: other}, NamespaceSelector: &metav1.LabelSelector{}},
					{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/28"}},
				}}},
			},
		})
	}
	return w
}

// BenchmarkMatrix: all pairs of 1,000 pods under 200 policies, the reading of them included.
func BenchmarkMatrix(b *testing.B) {
	w := large(1000, 200)
	ports := []reach.Port{{Protocol: corev1.ProtocolTCP, Number: 5432}}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		reach.New(w).Matrix(func(reach.End) []reach.Port { return ports }, func(_, _ reach.End, _ reach.Port, a reach.Answer) {
			if a == reach.Allowed {
				n++
			}
		})
		if n == 0 {
			b.Fatal("nothing is allowed")
		}
	}
}
