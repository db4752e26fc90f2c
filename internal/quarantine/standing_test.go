package quarantine

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/prober"
)

var byName = netcheck.Prober{Image: "upkeep:1", Standing: "watch"}

// watched is a held world that has a standing prober, and in which no pod is like the suspects.
func watched(t *testing.T) (World, Plan, Contained) {
	t.Helper()
	w, plan, done := heldWorld(t)
	w.Pods[2].Spec.Containers[0].Image = "another"
	yes := true
	p := pod("watch-0", "", nil)
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "watch", Controller: &yes}}
	p.Spec.ServiceAccountName, p.Spec.Containers = "watch", []corev1.Container{{Image: "upkeep:1"}}
	p.Status.Phase, p.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	w.Pods = append(w.Pods, p)
	return w, plan, done
}

// hurry lets nothing be waited for.
func hurry(t *testing.T) {
	t.Helper()
	within, every := standingWithin, askEvery
	standingWithin, askEvery = 20*time.Millisecond, time.Millisecond
	t.Cleanup(func() { standingWithin, askEvery = within, every })
}

// says answers one after the other, and the last again and again; nil is an error.
func says(answers ...*prober.Answer) func(context.Context, string) (prober.Answer, error) {
	return func(context.Context, string) (prober.Answer, error) {
		a := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		if a == nil {
			return prober.Answer{}, errors.New("no way there")
		}
		return *a, nil
	}
}

func TestWhatAStandingProberKnows(t *testing.T) {
	hurry(t)
	const minute = 60_000
	const began = 20 * minute // the first answer
	of := func(pod types.UID, ip, outcome string, tried, answered int64, silent int) prober.Port {
		return prober.Port{Pod: pod, To: netip.MustParseAddrPort(ip + ":80"), Outcome: outcome, Tried: tried, Answered: answered, Silent: silent}
	}
	at := func(at int64, ports ...prober.Port) *prober.Answer { return &prober.Answer{At: at, Ports: ports} }
	w, plan, done := watched(t)
	one, two := done.Pods[0].UID, done.Pods[1].UID
	first, later := at(began), int64(began+10_000)
	off := func(pod types.UID, ip string) prober.Port { return of(pod, ip, "s", later, began-minute, 5) }
	both := []prober.Port{off(one, "10.0.0.1"), off(two, "10.0.0.2")}
	trials, untried := Trials(w, plan, done, "shop", nil)
	require.Len(t, trials[0].in, 2)

	for name, c := range map[string]struct {
		answers []*prober.Answer
		cut     time.Duration // how long ago
		pods    string        // what the pods found of the suspects' ports; "": they did not run
		in      run.Verdict
		says    string
	}{
		"both are cut off":                      {[]*prober.Answer{first, at(later, both...)}, 0, "ss", run.Pass, ": 2 answered the standing prober before"},
		"refused is as good":                    {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "c", later, began-minute, 2), both[1])}, 0, "ss", run.Pass, ": 2 answered"},
		"one answers still":                     {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "r", later, later, 0), both[1])}, 0, "ss", run.Fail, "10.0.0.1:80 is reached by the standing prober"},
		"one that nobody knew before":           {[]*prober.Answer{first, at(later, append(both, of(one, "10.0.0.1", "r", later, later, 0), prober.Port{Pod: two, To: netip.MustParseAddrPort("10.0.0.2:99"), Outcome: "r", Tried: later, Answered: later})...)}, 0, "ss", run.Fail, "10.0.0.2:99 is reached"},
		"another that is no suspect":            {[]*prober.Answer{first, at(later, append(both, of("u-db", "10.0.0.4", "r", later, later, 0))...)}, 0, "ss", run.Pass, ""},
		"another pod had the address":           {[]*prober.Answer{first, at(later, off("gone", "10.0.0.1"), both[1])}, 0, "ss", run.NotProven, "10.0.0.1:80: no answer, and nothing shows"},
		"one never answered":                    {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "s", later, 0, 9), both[1])}, time.Hour, "ss", run.NotProven, "nothing shows that it listens"},
		"one answered long ago":                 {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "s", later, began-6*minute, 9), both[1])}, 0, "ss", run.NotProven, "nothing shows"},
		"long ago, but cut off since":           {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "s", later, began-6*minute, 9), both[1])}, 2 * time.Minute, "ss", run.Pass, ""},
		"one was not tried since":               {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "s", began, began-minute, 9), both[1])}, 0, "ss", run.NotProven, "nothing shows"},
		"one answered, and was not tried since": {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "r", began, began, 0), both[1])}, 0, "ss", run.NotProven, "nothing shows"},
		"one was silent once":                   {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "s", later, began-minute, 1), both[1])}, 0, "ss", run.NotProven, "nothing shows"},
		"it answered until a moment ago":        {[]*prober.Answer{first, at(later, of(one, "10.0.0.1", "r", later, later, 0), both[1]), at(later+9000, of(one, "10.0.0.1", "s", later+9000, later, 2), both[1])}, 0, "ss", run.Pass, ""},
		"a pod like the suspect reaches it":     {[]*prober.Answer{first, at(later, both...)}, 0, "rs", run.Fail, "10.0.0.1:80 is reached"},
		"a pod like it is not sure":             {[]*prober.Answer{first, at(later, both...)}, 0, "us", run.NotProven, "now this, now that"},
		"the pods did not run":                  {[]*prober.Answer{first, at(later, both...)}, 0, "", run.Pass, ": 2 answered"},
		"nor has it seen one":                   {[]*prober.Answer{first, at(later, both[1])}, 0, "", run.NotProven, "quota"},
		"it cannot be asked":                    {[]*prober.Answer{nil}, 0, "ss", run.NotProven, "could not be asked: no way there"},
		"it cannot be asked again":              {[]*prober.Answer{at(began, both...), nil}, 0, "ss", run.NotProven, "could not be asked: no way there"},
		"it is silent for a moment":             {[]*prober.Answer{first, nil, at(later, both...)}, 0, "ss", run.Pass, ""},
		"it has begun anew":                     {[]*prober.Answer{first, at(9000, of(one, "10.0.0.1", "s", 8000, 2000, 2))}, 0, "ss", run.NotProven, "it has begun anew"},
		"it knows it all from before the cut":   {[]*prober.Answer{at(began, off(one, "10.0.0.1"), off(two, "10.0.0.2"))}, 0, "ss", run.NotProven, "nothing shows"},
	} {
		if name == "it knows it all from before the cut" {
			c.answers[0].Ports[0].Tried, c.answers[0].Ports[1].Tried = began, began
		}
		s := FindStanding(w, plan, byName, "shop")
		s.Begin(t.Context(), done, "shop", c.cut, says(c.answers...))
		s.End(t.Context())
		found := [][2]netprobe.Found{{{Why: "quota"}, {Why: "quota"}}}
		if c.pods != "" {
			found[0] = [2]netprobe.Found{{Outcomes: []netprobe.Outcome("rrr" + c.pods)}, {Outcomes: []netprobe.Outcome("sss")}}
		}
		checks := Judge(trials, found, untried, s)
		require.Equal(t, c.in, checks[1].Verdict, "%s: %s", name, checks[1].Detail)
		require.Contains(t, checks[1].Detail, c.says, name)
		require.Equal(t, map[bool]run.Verdict{true: run.Pass, false: run.NotProven}[c.pods != ""], checks[0].Verdict, "%s: what goes out it knows nothing of", name)
	}
}

func TestAStandingProberThatIsNoneSaysNothing(t *testing.T) {
	w, plan, _ := watched(t)
	require.Nil(t, FindStanding(w, plan, netcheck.Prober{Image: "upkeep:1"}, "shop"), "none is configured")
	require.Equal(t, "the standing prober, pod watch-0, is there and ready", FindStanding(w, plan, byName, "shop").Words())
	asked := func(context.Context, string) (prober.Answer, error) {
		t.Error("it was asked")
		return prober.Answer{}, nil
	}
	for why, change := range map[string]func(*World, *Plan){
		"there is no pod watch-0":  func(w *World, _ *Plan) { w.Pods = w.Pods[:len(w.Pods)-1] },
		"it is a suspect itself":   func(_ *World, p *Plan) { p.Pods = append(p.Pods, Pod{Ref: Ref{"shop", "watch-0"}}) },
		"not of the StatefulSet":   func(w *World, _ *Plan) { w.Pods[len(w.Pods)-1].OwnerReferences = nil },
		"has the account \"evil\"": func(w *World, _ *Plan) { w.Pods[len(w.Pods)-1].Spec.ServiceAccountName = "evil" },
	} {
		w, plan, done := watched(t)
		change(&w, &plan)
		s := FindStanding(w, plan, byName, "shop")
		s.Begin(t.Context(), done, "shop", 0, asked)
		s.End(t.Context())
		require.Contains(t, s.Words(), why)
		require.True(t, strings.HasPrefix(s.Words(), "the standing prober could not be asked"), s.Words())
		require.Contains(t, Judge(nil, nil, nil, s)[1].Detail, why)
	}
}

func TestWhatAStandingProberLeavesOutIsSaid(t *testing.T) {
	hurry(t)
	w, plan, done := watched(t)
	s := FindStanding(w, plan, byName, "shop")
	s.Begin(t.Context(), done, "shop", 0, says(&prober.Answer{At: 1, Over: 7}, &prober.Answer{At: 2, Over: 7}))
	s.End(t.Context())
	require.Contains(t, Judge(nil, nil, nil, s)[1].Detail, "leaves out 7")
}
