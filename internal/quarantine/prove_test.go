package quarantine

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/netprobe"
)

// at gives a pod an address and ports.
func at(p corev1.Pod, ip string, ports ...int32) corev1.Pod {
	p.Status.PodIP = ip
	for _, port := range ports {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{ContainerPort: port})
	}
	return p
}

// heldWorld is one in which two pods of web are in quarantine, and one like them, a database and others are not.
func heldWorld(t *testing.T) (World, Plan, Contained) {
	t.Helper()
	set := map[string]string{"app": "web"}
	db := service("db", map[string]string{"app": "db"})
	db.Spec.Ports = []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}, {Port: 53, Protocol: corev1.ProtocolUDP}}
	host := at(pod("host", "", nil), "10.0.0.9", 1)
	host.Spec.HostNetwork = true
	w := World{
		Pods: []corev1.Pod{
			at(pod("web-1", "ReplicaSet/web", set), "10.0.0.1", 80), at(pod("web-2", "ReplicaSet/web", set), "10.0.0.2", 80), at(pod("web-3", "ReplicaSet/web", set), "10.0.0.3", 80),
			at(pod("db", "", map[string]string{"app": "db"}), "10.0.0.4", 5432), host,
		},
		Services:    []corev1.Service{db},
		Controllers: []Controller{controller("ReplicaSet", "web", set)},
	}
	plan := made(t, w, suspects(t, "web-1,web-2"))
	done := Contained{}
	for i, p := range plan.Pods {
		w.Pods[i].Labels = p.remaining(caseID)
		done.Pods = append(done.Pods, Image{p.Ref, p.UID, set})
	}
	return w, plan, done
}

func TestSuspectsOfAKindAreTriedOnceBesideWhatTheyCouldReach(t *testing.T) {
	w, plan, done := heldWorld(t)
	trials, untried := Trials(w, plan, done, "shop", nil)
	require.Empty(t, untried)
	require.Len(t, trials, 1)
	require.Equal(t, 1, trials[0].Others)
	before, now := trials[0].Probes[0], trials[0].Probes[1]
	require.Equal(t, "n1", before.Node)
	require.Equal(t, map[string]string{"app": "web"}, before.Labels)
	require.Equal(t, map[string]string{Label: caseID}, now.Labels)
	address := func(text string, open bool) netprobe.Address {
		return netprobe.Address{Address: netip.MustParseAddrPort(text), Open: open}
	}
	out := func(open bool) []netprobe.Address {
		return []netprobe.Address{address("10.0.0.3:80", open), address("10.0.0.4:5432", open), address("10.0.0.4:8080", open)}
	}
	require.Equal(t, out(false), now.To)
	control := address("10.0.0.3:80", true)
	require.Equal(t, append(out(true), address("10.0.0.1:80", false), control, address("10.0.0.2:80", false), control), before.To)

	_, untried = Trials(w, plan, done, "elsewhere", nil)
	require.Equal(t, []string{"2 pods in other namespaces than elsewhere"}, untried)
	w.Pods[0].UID = "another"
	trials, _ = Trials(w, plan, done, "shop", nil)
	require.Zero(t, trials[0].Others, "one that is gone is not tried")
}

func TestOnlyWhatAnsweredBeforeProvesAnything(t *testing.T) {
	w, plan, done := heldWorld(t)
	trials, _ := Trials(w, plan, done, "shop", nil)
	for name, c := range map[string]struct {
		before, now string // outcomes, as pods write them
		untried     []string
		out, in     run.Verdict
	}{
		"held off":                            {"rrrsrsr", "sss", nil, run.Pass, run.Pass},
		"refused by the network":              {"rrrcrcr", "ccc", nil, run.Pass, run.Pass},
		"one address answers still":           {"rrrsrsr", "srs", nil, run.Fail, run.Pass},
		"even where it did not before":        {"rsrsrsr", "srs", nil, run.Fail, run.Pass},
		"a suspect answers":                   {"rrrsrrr", "sss", nil, run.Pass, run.Fail},
		"nothing answered before":             {"ssssrsr", "sss", nil, run.NotProven, run.Pass},
		"nothing like a suspect answers":      {"rrrsrss", "sss", nil, run.Pass, run.NotProven},
		"now this, now that":                  {"rrrsrsr", "sus", nil, run.NotProven, run.Pass},
		"now this, now that, at a suspect":    {"rrrursr", "sss", nil, run.Pass, run.NotProven},
		"the pods did not run":                {"", "", nil, run.NotProven, run.NotProven},
		"others were not tried":               {"rrrsrsr", "sss", []string{"3 pods"}, run.NotProven, run.NotProven},
		"one answers, and others are unknown": {"rrrsrsr", "rss", []string{"3 pods"}, run.Fail, run.NotProven},
	} {
		found := [][2]netprobe.Found{{{Why: "quota"}, {Why: "quota"}}}
		if c.before != "" {
			found[0] = [2]netprobe.Found{{Outcomes: []netprobe.Outcome(c.before)}, {Outcomes: []netprobe.Outcome(c.now)}}
		}
		checks := Judge(trials, found, c.untried, nil)
		require.Equal(t, c.out, checks[0].Verdict, "%s: %s", name, checks[0].Detail)
		require.Equal(t, c.in, checks[1].Verdict, "%s: %s", name, checks[1].Detail)
	}
	require.Equal(t, run.NotProven, Judge(nil, nil, nil, nil)[0].Verdict, "what was not tried is not proven")
}
