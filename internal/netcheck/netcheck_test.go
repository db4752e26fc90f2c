package netcheck_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/reach"
)

const image = "upkeep:test"

// shop has a web with two pods, a database that only the web may reach, and a Service for each.
func shop(t *testing.T) netcheck.State {
	t.Helper()
	pod := func(name, app, ip string, port int32, probe *corev1.Probe) corev1.Pod {
		yes := true
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": app, "pod-template-hash": "7d4"},
				OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: app + "-7d4", Controller: &yes}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "main", ContainerPort: port}}, ReadinessProbe: probe}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: "192.0.2.1",
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
	}
	service := func(app string, port int32) corev1.Service {
		return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromString("main")}}}}
	}
	tcp := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("main")}}}
	return netcheck.State{
		Namespace: "shop",
		World: reach.World{
			Namespaces: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
			Pods:       []corev1.Pod{pod("web-1", "web", "10.0.0.1", 3000, tcp), pod("web-2", "web", "10.0.0.2", 3000, tcp), pod("db-1", "db", "10.0.0.3", 5432, nil)},
			Policies:   []networkingv1.NetworkPolicy{policy(t, "db", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`)},
		},
		Services: []corev1.Service{service("web", 80), service("db", 5432)},
	}
}

func policy(t *testing.T, name, spec string) networkingv1.NetworkPolicy {
	t.Helper()
	p := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	require.NoError(t, yaml.UnmarshalStrict([]byte(spec), &p.Spec))
	return p
}

var prober = netcheck.Network{Prober: netcheck.Prober{Image: image}}

// found has each source reach what reached says, and hear nothing of the rest.
func found(p netcheck.Plan, reached map[string][]string) []netprobe.Found {
	all := make([]netprobe.Found, len(p.Sources))
	for i, s := range p.Sources {
		for _, to := range s.To {
			o := netprobe.Silent
			for _, address := range reached[s.Name] {
				if netip.MustParseAddrPort(address) == to.Address {
					o = netprobe.Reached
				}
			}
			all[i].Outcomes = append(all[i].Outcomes, o)
		}
	}
	return all
}

func TestTheMatrix(t *testing.T) {
	p := netcheck.Make(shop(t), prober)
	require.Equal(t, []netcheck.Row{
		{To: "Deployment/db", Port: "5432/TCP", Allowed: []string{"Deployment/web"}, Denied: []string{netcheck.Anybody}},
		{To: "Deployment/web", Port: "3000/TCP", Allowed: []string{"Deployment/db", netcheck.Anybody}},
	}, p.Matrix)
}

// TestWhatPoliciesProtectIsTried: by somebody whom they let in, and somebody whom they keep out.
func TestWhatPoliciesProtectIsTried(t *testing.T) {
	p := netcheck.Make(shop(t), prober)
	require.Len(t, p.Checks, 2)
	require.Equal(t, []netcheck.Source{
		{Name: netcheck.Anybody, To: []netprobe.Address{{Address: netip.MustParseAddrPort("10.0.0.3:5432")}}},
		{Name: "Deployment/web", Labels: map[string]string{"app": "web", "pod-template-hash": "7d4"}, To: []netprobe.Address{{Address: netip.MustParseAddrPort("10.0.0.3:5432"), Open: true}}},
	}, p.Sources)

	for name, c := range map[string]struct {
		reached map[string][]string
		want    [2]run.Verdict // the stranger's, the web's
	}{
		"as the policies say":        {map[string][]string{"Deployment/web": {"10.0.0.3:5432"}}, [2]run.Verdict{run.Pass, run.Pass}},
		"policies are not enforced":  {map[string][]string{"Deployment/web": {"10.0.0.3:5432"}, netcheck.Anybody: {"10.0.0.3:5432"}}, [2]run.Verdict{run.Fail, run.Pass}},
		"nothing listens, for all":   {nil, [2]run.Verdict{run.NotProven, run.NotProven}},
		"only the wrong one reaches": {map[string][]string{netcheck.Anybody: {"10.0.0.3:5432"}}, [2]run.Verdict{run.Fail, run.Fail}},
	} {
		t.Run(name, func(t *testing.T) {
			findings := netcheck.Judge(p, found(p, c.reached))
			require.Equal(t, c.want, [2]run.Verdict{findings[0].Verdict, findings[1].Verdict}, "%v", findings)
		})
	}
}

func TestNothingTriedProvesNothing(t *testing.T) {
	p := netcheck.Make(shop(t), netcheck.Network{})
	require.Empty(t, p.Sources)
	for _, f := range netcheck.Judge(p, nil) {
		require.Equal(t, run.NotProven, f.Verdict)
		require.Contains(t, f.Why, "prober.image")
	}
	p = netcheck.Make(shop(t), prober)
	for _, f := range netcheck.Judge(p, []netprobe.Found{{Why: "its pod waits: ImagePullBackOff"}, {Outcomes: []netprobe.Outcome{netprobe.Unsteady}}}) {
		require.Equal(t, run.NotProven, f.Verdict, "%v", f)
	}
}

func TestExpectations(t *testing.T) {
	at := func(service string) netcheck.Selector { return netcheck.Selector{Service: service} }
	pods := func(app string) netcheck.Selector {
		return netcheck.Selector{Pods: map[string]string{"app": app}}
	}
	for name, c := range map[string]struct {
		e       netcheck.Expectation
		reached map[string][]string // by the source's name
		want    run.Verdict
		why     string
	}{
		"allowed, and so it is":               {netcheck.Expectation{From: pods("web"), To: at("db"), Port: 5432, Allowed: true}, map[string][]string{"pods app=web": {"10.0.0.3:5432"}}, run.Pass, ""},
		"denied, and reached":                 {netcheck.Expectation{From: pods("web"), To: at("db"), Port: 5432}, map[string][]string{"pods app=web": {"10.0.0.3:5432"}}, run.Fail, ""},
		"denied, and so it is":                {netcheck.Expectation{From: pods("batch"), To: at("db"), Port: 5432}, map[string][]string{"Deployment/web": {"10.0.0.3:5432"}}, run.Pass, "no answer; Deployment/web reaches it"},
		"denied, and nobody knows":            {netcheck.Expectation{From: pods("batch"), To: at("db"), Port: 5432}, nil, run.NotProven, "not known that anything listens"},
		"denied, and the kubelet knows":       {netcheck.Expectation{From: pods("db"), To: at("web"), Port: 80}, nil, run.Pass, "its readiness probe connects to it"},
		"no such Service":                     {netcheck.Expectation{From: pods("web"), To: at("cache"), Port: 80}, nil, run.NotProven, "no Service cache"},
		"no such port":                        {netcheck.Expectation{From: pods("web"), To: at("db"), Port: 80}, nil, run.NotProven, "no port 80"},
		"no such pods":                        {netcheck.Expectation{From: pods("web"), To: pods("cache"), Port: 80}, nil, run.NotProven, "no pods app=cache runs"},
		"from where no pod may be made":       {netcheck.Expectation{From: netcheck.Selector{Namespace: "ops"}, To: at("web"), Port: 80, Allowed: true}, nil, run.NotProven, "the target's namespace only"},
		"from where the policies say already": {netcheck.Expectation{From: netcheck.Selector{Namespace: "ops"}, To: at("db"), Port: 5432, Allowed: true}, nil, run.Fail, "the target's namespace only"},
	} {
		t.Run(name, func(t *testing.T) {
			c.e.Name = "the one"
			p := netcheck.Make(shop(t), netcheck.Network{Prober: prober.Prober, Expect: []netcheck.Expectation{c.e}})
			f := netcheck.Judge(p, found(p, c.reached))[0]
			require.Equal(t, "the one", f.Name)
			require.Equal(t, c.want, f.Verdict, "%v", f)
			require.Contains(t, f.Why, c.why)
		})
	}
}

// TestAPodThatWouldGetTraffic: no pod is given labels by which a Service that publishes addresses which are
// not ready would send it something.
func TestAPodThatWouldGetTraffic(t *testing.T) {
	s := shop(t)
	s.Services[0].Spec.PublishNotReadyAddresses = true
	for _, f := range netcheck.Judge(netcheck.Make(s, prober), nil) {
		if f.From == "Deployment/web" {
			require.Contains(t, f.Why, "Service web publishes addresses that are not ready")
			require.Equal(t, run.NotProven, f.Verdict)
		}
	}
}

// TestControls: who is tried only to know that something listens is no finding.
func TestControls(t *testing.T) {
	e := netcheck.Expectation{Name: "out", From: netcheck.Selector{Pods: map[string]string{"app": "batch"}}, To: netcheck.Selector{Pods: map[string]string{"app": "db"}}, Port: 9999}
	p := netcheck.Make(shop(t), netcheck.Network{Prober: prober.Prober, Expect: []netcheck.Expectation{e}})
	control := p.Checks[len(p.Checks)-1]
	require.True(t, control.OnlyControl)
	require.Equal(t, "Deployment/web", control.From)
	findings := netcheck.Judge(p, found(p, map[string][]string{"Deployment/web": {"10.0.0.3:9999"}}))
	require.Len(t, findings, len(p.Checks)-1)
	require.Equal(t, run.Pass, findings[0].Verdict, "%v", findings[0])
}
