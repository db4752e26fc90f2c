package quarantine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/podreader"
	"github.com/upkeep-run/upkeep/internal/procread"
)

const aContainer = "0b7c4b5f0f1d4e0e8f6b7a9d5c3e2f1a0b7c4b5f0f1d4e0e8f6b7a9d5c3e2f1a"

// readable is a held world whose pods have what a reader needs to find them.
func readable(t *testing.T) (World, Plan, Contained, []Ref) {
	t.Helper()
	w, plan, done := heldWorld(t)
	for i := range w.Pods {
		p := &w.Pods[i]
		p.UID = types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i))
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{ContainerID: "containerd://" + aContainer}}
		for j := range done.Pods {
			if done.Pods[j].Name == p.Name {
				done.Pods[j].UID, plan.Pods[j].UID = p.UID, p.UID
			}
		}
	}
	return w, plan, done, []Ref{{"shop", "web-1"}, {"shop", "web-2"}, {"shop", "host"}}
}

// has is a pod with a process, these sockets at both looks, and packets that came in between.
func has(uid string, received uint64, first, second []procread.Socket) procread.Seen {
	look := func(s []procread.Socket) procread.Look {
		return procread.Look{Processes: []procread.Process{{PID: 1, Name: "nc"}}, Sockets: s}
	}
	a, b := look(first), look(second)
	b.Received = received
	return procread.Seen{UID: uid, First: a, Second: b}
}

func to(remote string) procread.Socket {
	return procread.Socket{Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort(remote), State: "ESTABLISHED", Inode: 7}
}

func TestWhatIsReadOfWhichNode(t *testing.T) {
	w, _, done, pods := readable(t)
	all := w.Watch(append(pods, Ref{"shop", "none"}), done)
	require.Len(t, all.Nodes, 1)
	require.Equal(t, "n1", all.Nodes[0].Name)
	require.Len(t, all.Nodes[0].Pods, 3)
	require.Equal(t, procread.Pod{UID: string(w.Pods[0].UID), Containers: []string{aContainer}}, all.Nodes[0].Pods[0])
	require.Equal(t, "it is gone", all.Pods[3].Why)

	w.Pods[0].Status.Phase = corev1.PodPending
	w.Pods[1].Status.ContainerStatuses[0].ContainerID = "containerd://../../x"
	all = w.Watch(pods, done)
	require.Equal(t, "it does not run", all.Pods[0].Why)
	require.Contains(t, all.Pods[1].Why, "not named as runtimes do")

	w, _, done, _ = readable(t)
	pods = nil
	for i := range procread.MaxPods + 2 {
		p := *w.Pods[0].DeepCopy()
		p.Name, p.UID = fmt.Sprint("web-1", i), types.UID(fmt.Sprintf("00000000-0000-0000-0001-%012d", i))
		w.Pods = append(w.Pods, p)
		pods = append(pods, Ref{"shop", p.Name})
	}
	for i := range podreader.MaxNodes + 1 {
		p := *w.Pods[0].DeepCopy()
		p.Name, p.UID, p.Spec.NodeName = fmt.Sprint("far-", i), types.UID(fmt.Sprintf("00000000-0000-0000-0002-%012d", i)), fmt.Sprint("far-", i)
		w.Pods = append(w.Pods, p)
		pods = append(pods, Ref{"shop", p.Name})
	}
	all = w.Watch(pods, done)
	require.Len(t, all.Nodes, podreader.MaxNodes)
	require.Len(t, all.Nodes[0].Pods, procread.MaxPods)
	left := 0
	for _, x := range all.Pods {
		if x.Why != "" {
			require.Contains(t, x.Why, "are read at once")
			left++
		}
	}
	require.Equal(t, 2+2, left, "what is too much is said")
}

func TestAConnectionLivesOnOrItDoesNot(t *testing.T) {
	stuck := to("10.0.0.4:5432")
	stuck.Unsent, stuck.Again = 100, 5
	quiet := []procread.Socket{to("10.0.0.4:5432")}
	for name, c := range map[string]struct {
		one, two procread.Seen
		want     run.Verdict
		says     string
	}{
		"none":            {has("", 9, nil, nil), has("", 9, nil, nil), run.Pass, "0 have ended"},
		"ended":           {has("", 9, quiet, nil), has("", 9, nil, nil), run.Pass, "1 have ended within 10s, and 0 send in vain"},
		"stuck":           {has("", 9, quiet, []procread.Socket{stuck}), has("", 9, nil, nil), run.Pass, "0 have ended within 10s, and 1 send in vain"},
		"lives":           {has("", 9, nil, nil), has("", 9, quiet, quiet), run.Fail, "an old connection of shop/web-2 to 10.0.0.4:5432 (pod shop/db) lives on: delete the pods now"},
		"quiet":           {has("", 0, quiet, quiet), has("", 9, nil, nil), run.NotProven, "nothing came in while it was looked at"},
		"quiet and lives": {has("", 0, quiet, quiet), has("", 9, quiet, quiet), run.Fail, "lives on"},
		"one is not seen": {has("", 9, nil, nil), procread.Seen{}, run.NotProven, "shop/web-2: none of its processes was found"},
	} {
		w, _, done, pods := readable(t)
		all := w.Watch(pods, done)
		host := has("", 9, quiet, quiet) // that is not cut off, so nothing is said of it here
		all.Note([]podreader.Found{{Seen: []procread.Seen{c.one, c.two, host}}})
		r := w.JudgeOld(all)
		require.Equal(t, c.want, r.Check.Verdict, name)
		require.Contains(t, r.Check.Detail, c.says, name)
		require.Equal(t, c.want == run.Fail, len(r.Lives) > 0, name)
		require.NotNil(t, all.Pods[2].Seen, "it is evidence all the same")
	}
}

func TestWhatNobodyReadIsNotProven(t *testing.T) {
	w, _, done, pods := readable(t)
	all := w.Watch(pods, done)
	all.Note([]podreader.Found{{Why: "violates PodSecurity"}})
	r := w.JudgeOld(all)
	require.Equal(t, run.NotProven, r.Check.Verdict)
	require.Contains(t, r.Check.Detail, "shop/web-1: violates PodSecurity")
	require.Contains(t, r.Check.Detail, "delete the pods to be sure")
	require.NotContains(t, r.Check.Detail, "shop/host")

	cut := has("", 9, nil, nil)
	cut.Second.Cut = true
	all = w.Watch(pods[:1], done)
	all.Note([]podreader.Found{{Seen: []procread.Seen{cut}}})
	require.Equal(t, run.NotProven, w.JudgeOld(all).Check.Verdict)

	require.Equal(t, run.NotProven, w.JudgeOld(w.Watch(pods[2:], done)).Check.Verdict, "nobody who was cut off")
}

// TestMuchThatLivesStaysReadable: what goes into the history has a bound.
func TestMuchThatLivesStaysReadable(t *testing.T) {
	w, _, done, pods := readable(t)
	var many []procread.Socket
	for i := range procread.MaxSockets {
		s := to(fmt.Sprintf("10.9.%d.%d:443", i/200, i%200+1))
		s.Inode = uint64(i)
		many = append(many, s)
	}
	for port := range 300 {
		many = append(many, procread.Socket{Local: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port+1)), State: "LISTEN"})
	}
	all := w.Watch(pods, done)
	all.Note([]podreader.Found{{Seen: []procread.Seen{has("", 9, many, many), has("", 9, nil, nil), has("", 9, nil, nil)}}})
	r := w.JudgeOld(all)
	require.Len(t, r.Lives, maxPorts)
	require.Len(t, r.Listens[0].Ports, maxPorts)
	require.Less(t, len(r.Check.Detail), 2000)
}

// TestASuspectLikeNobodyShowsByItselfThatItListens: by its kubelet's look, or by what it was seen to do.
func TestASuspectLikeNobodyShowsByItselfThatItListens(t *testing.T) {
	w, plan, done, _ := readable(t)
	w.Pods = slices.DeleteFunc(w.Pods, func(p corev1.Pod) bool { return p.Name == "web-3" })
	verdict := func(seen []Listening, doors int) run.Verdict {
		t.Helper()
		trials, _ := Trials(w, plan, done, "shop", seen)
		require.Len(t, trials[0].in, doors)
		outcomes := func(p netprobe.Probe, open netprobe.Outcome) []netprobe.Outcome {
			all := slices.Repeat([]netprobe.Outcome{netprobe.Silent}, len(p.To))
			for i, to := range p.To {
				if to.Open {
					all[i] = open
				}
			}
			return all
		}
		found := [2]netprobe.Found{{Outcomes: outcomes(trials[0].Probes[0], netprobe.Reached)}, {Outcomes: outcomes(trials[0].Probes[1], netprobe.Silent)}}
		return Judge(trials, [][2]netprobe.Found{found}, nil, nil)[1].Verdict
	}
	require.Equal(t, run.NotProven, verdict(nil, 2), "nothing shows that they listen")

	seen := []Listening{{Ref: plan.Pods[0].Ref, UID: plan.Pods[0].UID, Ports: []uint16{80}}, {Ref: plan.Pods[1].Ref, UID: plan.Pods[1].UID, Ports: []uint16{80, 4444}}}
	require.Equal(t, run.Pass, verdict(seen, 3), "also one that it does not declare")
	seen[1].UID = "another"
	require.Equal(t, run.NotProven, verdict(seen, 2))

	for i := range w.Pods[:2] {
		probe := &corev1.Probe{}
		probe.TCPSocket = &corev1.TCPSocketAction{}
		probe.TCPSocket.Port.IntVal = 80
		w.Pods[i].Spec.Containers[0].ReadinessProbe = probe
		w.Pods[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	require.Equal(t, run.Pass, verdict(nil, 2))
	w.Pods[0].Status.Conditions[0].Status = corev1.ConditionFalse
	require.Equal(t, run.NotProven, verdict(nil, 2), "not ready, it may not listen")
	w.Pods[0].Status.Conditions[0].Status = corev1.ConditionTrue
	w.Pods[0].Spec.Containers[0].ReadinessProbe.TCPSocket.Host = strings.Repeat("1.", 3) + "1"
	require.Equal(t, run.NotProven, verdict(nil, 2), "its kubelet asks another")
}
