package recovery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

func TestNext(t *testing.T) {
	web := func(kind string, desired int32, pods ...health.Pod) health.Workload {
		w := health.Workload{Kind: kind, Name: "web", UID: "u", Desired: desired, Total: int32(len(pods)), Updated: desired, Pods: pods}
		for _, p := range pods {
			if p.Ready {
				w.Ready++
			}
		}
		w.Available = w.Ready
		return w
	}
	good := health.Pod{Name: "good", UID: "g", Ready: true, Newest: true}
	old := health.Pod{Name: "old", UID: "o", Ready: true}
	bad := func(r health.Reason) health.Pod {
		return health.Pod{Name: "bad", UID: "b", Newest: true, Reason: r, Node: "n1"}
	}
	also := health.Pod{Name: "also", UID: "a", Newest: true, Reason: health.CrashLoop}
	of := func(w ...health.Workload) State {
		return State{State: health.State{Workloads: w}, Release: Release{Latest: 3, Status: "deployed", Back: Back{Revision: 2}}}
	}
	release := func(s State, change func(*Release)) State { change(&s.Release); return s }
	broken := of(web(health.Deployment, 1, bad(health.ImagePull)))
	wedged := of(web(health.Deployment, 1, good))
	wedged.Answers = []health.Answer{{Probe: "front", Verdict: run.Fail, Workloads: []string{"Deployment web"}}}
	// A release that came with the pods, where the one before was proven healthy.
	began := time.Now().Add(-time.Minute)
	came := func(s State, since time.Time) State {
		s = release(s, func(r *Release) { r.Back.Proven, r.At, r.Age = true, began, time.Minute })
		s.Workloads = slices.Clone(s.Workloads)
		for i := range s.Workloads {
			s.Workloads[i].Pods = slices.Clone(s.Workloads[i].Pods)
			for j := range s.Workloads[i].Pods {
				if p := &s.Workloads[i].Pods[j]; p.Newest {
					p.Made = since
				}
			}
		}
		return s
	}
	crashing := of(web(health.Deployment, 1, bad(health.CrashLoop)))
	// A rollout that is at its work: the old pods are what is to be mended, and are replaced.
	rolling := func(kind string, updated int32, pods ...health.Pod) State {
		w := web(kind, 2, pods...)
		w.Updated, w.Generation, w.Observed = updated, 2, 2
		return of(w)
	}
	stale := health.Pod{Name: "stale", UID: "s", Reason: health.NotReady}
	starting := health.Pod{Name: "new", UID: "n", Newest: true, Reason: health.Starting}
	unseen := rolling(health.Deployment, 2, bad(health.NotReady))
	unseen.Workloads[0].Observed = 1
	locked := func(age time.Duration, ours bool) State {
		return release(of(web(health.Deployment, 1, good)), func(r *Release) {
			r.Locked, r.Status, r.Age, r.Ours, r.Record = true, "pending-upgrade", age, ours, helmrelease.Record{UID: "s", ResourceVersion: "7"}
		})
	}
	paused := web(health.Deployment, 1, bad(health.CrashLoop))
	paused.Paused = true
	pausedYoung := web(health.Deployment, 1, bad(health.Starting))
	pausedYoung.Paused = true
	pausedOld := web(health.Deployment, 2, stale, starting)
	pausedOld.Paused, pausedOld.Updated = true, 1
	quota := web(health.Deployment, 1)
	quota.Refused = "exceeded quota"
	for name, c := range map[string]struct {
		state State
		tried []Step
		upTo  Rung
		want  Rung // "": none
		says  string
		asks  bool
		pod   string
	}{
		"a pod crashes":                        {state: of(web(health.Deployment, 1, bad(health.CrashLoop))), want: Restart, pod: "b"},
		"one of two crashes":                   {state: of(web(health.Deployment, 2, good, bad(health.CrashLoop))), want: Restart, pod: "b"},
		"both crash":                           {state: of(web(health.Deployment, 2, also, bad(health.CrashLoop))), want: Rollout, says: "not one pod"},
		"it is wedged":                         {state: wedged, want: Restart, pod: "g", says: "probe front"},
		"wedged after a restart":               {state: wedged, tried: []Step{{Rung: Restart, UID: "u"}}, want: Rollout},
		"still crashes after a restart":        {state: of(web(health.Deployment, 1, bad(health.CrashLoop))), tried: []Step{{Rung: Restart, UID: "u"}}, want: Rollout, says: "did not help"},
		"still, after a rollout":               {state: of(web(health.Deployment, 1, bad(health.CrashLoop))), tried: []Step{{Rung: Restart, UID: "u"}, {Rung: Rollout, UID: "u"}}, want: Recreate},
		"still, after all":                     {state: of(web(health.Deployment, 1, bad(health.CrashLoop))), tried: []Step{{Rung: Restart, UID: "u"}, {Rung: Rollout, UID: "u"}, {Rung: Recreate, UID: "u"}}, want: Rollback, says: "NOT_PROVEN"},
		"nothing is left":                      {state: of(web(health.Deployment, 1, bad(health.CrashLoop))), tried: []Step{{Rung: Restart, UID: "u"}, {Rung: Rollout, UID: "u"}, {Rung: Recreate, UID: "u"}, {Rung: Rollback}}, says: "read its log"},
		"a wrong image":                        {state: broken, want: Rollback, says: "does not mend"},
		"a wrong image beside the old":         {state: of(web(health.Deployment, 1, old, bad(health.ImagePull))), want: Rollback},
		"a wrong image, and the old not ready": {state: of(web(health.Deployment, 1, stale, bad(health.ImagePull))), want: Rollback, says: "pod bad ImagePull, which a new pod does not mend"},
		"a crash beside the old":               {state: of(web(health.Deployment, 2, old, bad(health.CrashLoop))), want: Rollback, says: "the one before serves"},
		"no further than a rollout":            {state: broken, upTo: Rollout, says: "upTo is rollout"},
		"it was healthy before":                {state: release(broken, func(r *Release) { r.Proven = true }), says: "was healthy before"},
		"back to a proven one":                 {state: release(broken, func(r *Release) { r.Back.Proven = true }), want: Rollback, says: "proven healthy"},
		"back past a migration":                {state: release(broken, func(r *Release) { r.Back.Hooks = []string{"Job migrate"} }), want: Rollback, asks: true},
		"nowhere to go back to":                {state: release(broken, func(r *Release) { r.Back = Back{} }), says: "correct the image"},
		"an old lock":                          {state: locked(time.Hour, false), want: Clear},
		"a young lock":                         {state: locked(time.Minute, false), want: Clear, asks: true},
		"our lock":                             {state: locked(time.Hour, true), want: Clear, asks: true},
		"a lock that was not to be cleared":    {state: locked(time.Hour, false), upTo: Recreate, says: "upTo is recreate"},
		"a lost node":                          {state: of(web(health.Deployment, 1, bad(health.NodeLost))), want: Recreate, asks: true, pod: "b"},
		"a pod that does not end":              {state: of(web(health.Deployment, 1, bad(health.StuckEnding))), want: Recreate, pod: "b"},
		"one of a StatefulSet":                 {state: of(web(health.StatefulSet, 1, bad(health.StuckEnding))), want: Recreate, asks: true, pod: "b"},
		"young":                                {state: of(web(health.Deployment, 1, bad(health.Starting))), want: Wait},
		"paused":                               {state: of(paused), tried: []Step{{Rung: Restart, UID: "u"}, {Rung: Recreate, UID: "u"}}, says: "rollout resume"},
		"paused, and young":                    {state: of(pausedYoung), want: Wait},
		"paused in a rollout's middle":         {state: of(pausedOld), want: Recreate, pod: "s"},
		"a quota":                              {state: of(quota), says: "exceeded quota"},
		"a release that broke it":              {state: came(crashing, began), want: Rollback, says: "no restart is tried first"},
		"in the second of its pods":            {state: came(crashing, began.Truncate(time.Second)), want: Rollback, says: "no restart is tried first"},
		"a release whose pods only answer":     {state: came(wedged, began), want: Rollback, says: "came with revision 3, 1m0s ago"},
		"that, proposed no further":            {state: came(crashing, began), upTo: Rollout, want: Restart},
		"that, back past a migration":          {state: release(came(crashing, began), func(r *Release) { r.Back.Hooks = []string{"Job migrate"} }), want: Rollback, asks: true},
		"that, and it did not help":            {state: came(crashing, began), tried: []Step{{Rung: Rollback}}, want: Restart, says: "did not help"},
		"pods older than the release":          {state: came(crashing, began.Add(-time.Hour)), want: Restart},
		"another of its pods serves":           {state: came(of(web(health.Deployment, 2, good, bad(health.CrashLoop))), began), want: Restart, pod: "b"},
		"a release of yesterday":               {state: release(came(crashing, began), func(r *Release) { r.Age = 24 * time.Hour }), want: Restart},
		"nobody saw the one before healthy":    {state: release(came(crashing, began), func(r *Release) { r.Back.Proven = false }), want: Restart},
		"a release that was healthy":           {state: release(came(crashing, began), func(r *Release) { r.Proven = true }), want: Restart},
		"a lost node after a release":          {state: came(of(web(health.Deployment, 1, bad(health.NodeLost))), began), want: Recreate, asks: true},
		"a locked release":                     {state: release(came(crashing, began), func(r *Release) { r.Locked = true }), want: Restart},
		"back past one that was left":          {state: release(broken, func(r *Release) { r.Back = Back{Revision: 1, Left: []int{2}} }), want: Rollback, says: "revision 2 is later, and was rolled back from before"},
		"young after a release":                {state: came(of(web(health.Deployment, 1, bad(health.Starting))), began), want: Wait},
		"a rollout that nobody saw yet":        {state: unseen, want: Wait},
		"a rollout without a new pod yet":      {state: rolling(health.Deployment, 0, stale, stale), want: Wait},
		"a rollout in its middle":              {state: rolling(health.Deployment, 1, stale, starting), want: Wait},
		"a rollout near its end":               {state: rolling(health.Deployment, 1, stale, good), want: Wait},
		"a StatefulSet's, in its middle":       {state: rolling(health.StatefulSet, 1, stale, starting), want: Wait},
		"a StatefulSet's that stands":          {state: rolling(health.StatefulSet, 1, stale, good), want: Restart, pod: "s"},
		"a rollout that was waited for":        {state: rolling(health.Deployment, 0, stale, stale), tried: []Step{{Rung: Wait, UID: "u"}}, want: Rollout},
		"a rollout whose new pod crashes":      {state: rolling(health.Deployment, 1, old, also), want: Rollback},
		"all scaled to 0":                      {state: of(web(health.Deployment, 0)), says: "scaled to 0"},
	} {
		t.Run(name, func(t *testing.T) {
			upTo := c.upTo
			if upTo == "" {
				upTo = Rollback
			}
			got := Next(c.state, c.tried, Policy{UpTo: upTo, Lock: 15 * time.Minute})
			text := strings.Join(append(got.Skipped, got.Person...), "; ")
			require.False(t, got.Done)
			if c.want == "" {
				require.Nil(t, got.Step, text)
				require.Contains(t, text, c.says)
				return
			}
			require.NotNil(t, got.Step, text)
			require.Equal(t, c.want, got.Step.Rung)
			require.Contains(t, got.Step.Words+"; "+text, c.says)
			require.Equal(t, c.asks, got.Step.Asks != "", got.Step.Asks)
			if c.pod != "" {
				require.Equal(t, c.pod, got.Step.Pods[0].UID)
			}
		})
	}
	healthy := of(web(health.Deployment, 1, good))
	require.True(t, Next(healthy, nil, Policy{UpTo: Rollback}).Done)
	cut := release(healthy, func(r *Release) { r.Status, r.CutOff = "failed", 1 })
	cleared := Step{Rung: Clear, Revision: 3}
	got := Next(cut, []Step{cleared}, Policy{UpTo: Rollback})
	require.False(t, got.Done)
	require.Equal(t, 1, got.Step.Revision)
	require.Contains(t, got.Step.Words, "bring the rollback to revision 1 to its end, in which revision 3 was cut off")
	require.Contains(t, got.Step.Asks, "all is healthy")
	require.True(t, Next(cut, []Step{cleared, {Rung: Rollback}}, Policy{UpTo: Rollback}).Done)
	require.True(t, Next(cut, nil, Policy{UpTo: Rollback}).Done, "another run took the lock away")
	require.True(t, Next(cut, []Step{cleared}, Policy{UpTo: Rollout}).Done)
}

// TestWhatOthersOwn: by policy, a step that its object's owner would take back is left out, proposed, or taken
// while the owner is suspended. What nobody would take back is done all the same.
func TestWhatOthersOwn(t *testing.T) {
	flux := ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	operator := ownership.Owner{By: "an operator", Ref: ownership.Ref{Group: "example.com", Kind: "Shop", Namespace: "shop", Name: "web"}, Why: "a reference"}
	state := func(reason health.Reason, owner ownership.Owner, seen bool) State {
		w := health.Workload{Kind: health.Deployment, Name: "web", UID: "u", Desired: 1, Total: 1, Updated: 1, Owners: []ownership.Owner{owner}, Pods: []health.Pod{{Name: "bad", UID: "b", Newest: true, Reason: reason}}}
		s := State{State: health.State{Workloads: []health.Workload{w}}, Release: Release{Latest: 3, Status: "deployed", Back: Back{Revision: 2}}}
		if seen {
			s.Owners = []ownership.Image{{Owner: owner, UID: "f", Before: []byte("null")}}
		}
		return s
	}
	restarted := []Step{{Rung: Restart, UID: "u"}}
	for name, c := range map[string]struct {
		state    State
		tried    []Step
		policy   string
		want     Rung
		suspends int
		proposes string
		skips    string
	}{
		"the restart of a pod is nobody's":    {state(health.CrashLoop, flux, false), nil, "", Restart, 0, "", ""},
		"a rollout is left out":               {state(health.CrashLoop, flux, false), restarted, "", Recreate, 0, "", "would take it back"},
		"a rollout is proposed":               {state(health.CrashLoop, flux, false), restarted, ownership.PolicyPropose, Recreate, 0, "kubectl rollout restart deployment web -n shop", "it is proposed"},
		"a rollout, suspended":                {state(health.CrashLoop, flux, true), restarted, ownership.PolicySuspend, Rollout, 1, "", ""},
		"a rollback is proposed":              {state(health.ImagePull, flux, false), nil, ownership.PolicyPropose, "", 0, "helm rollback shop 2 -n shop", "it is proposed"},
		"a rollback, suspended":               {state(health.ImagePull, flux, true), nil, ownership.PolicySuspend, Rollback, 1, "", ""},
		"an operator cannot be suspended":     {state(health.ImagePull, operator, false), nil, ownership.PolicySuspend, "", 0, "", "an operator (Shop web in namespace shop) would take it back"},
		"nor one of whom nothing can be seen": {state(health.ImagePull, flux, false), nil, ownership.PolicySuspend, "", 0, "", "it is not seen how that is"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Next(c.state, c.tried, Policy{UpTo: Rollback, Owners: c.policy, Release: "shop", Namespace: "shop"})
			if c.want == "" {
				require.Nil(t, got.Step)
			} else {
				require.NotNil(t, got.Step, got.Skipped)
				require.Equal(t, c.want, got.Step.Rung)
				require.Len(t, got.Step.Owners, c.suspends)
				require.Equal(t, c.suspends > 0, strings.HasPrefix(got.Step.Words, "suspend Flux"))
			}
			require.Contains(t, strings.Join(got.Skipped, "; "), c.skips)
			if c.proposes == "" {
				require.Empty(t, got.Proposed)
			} else {
				require.Contains(t, got.Proposed[0].Commands, c.proposes)
			}
		})
	}
}

// TestWhereItGoesBackTo: of each history, as "<number> <status> <rendering>", the newest first; "<" is a rollback.
func TestWhereItGoesBackTo(t *testing.T) {
	for name, c := range map[string]struct {
		history []string
		proven  []int
		want    int
		left    []int
	}{
		"the one before":                                          {[]string{"2 deployed B", "1 superseded A"}, nil, 1, nil},
		"no other":                                                {[]string{"1 deployed A"}, nil, 0, nil},
		"only the same":                                           {[]string{"2 deployed A", "1 superseded A"}, nil, 0, nil},
		"not one that failed":                                     {[]string{"3 deployed C", "2 failed B", "1 superseded A"}, nil, 1, nil},
		"an older one that is proven":                             {[]string{"3 deployed C", "2 superseded B", "1 superseded A"}, []int{1}, 1, nil},
		"an upgrade that failed":                                  {[]string{"2 failed B", "1 deployed A"}, nil, 1, nil},
		"an upgrade that is cut off":                              {[]string{"2 pending-upgrade B", "1 deployed A"}, nil, 1, nil},
		"an upgrade of hooks alone that failed":                   {[]string{"3 failed B", "2 deployed B", "1 superseded A"}, nil, 1, nil},
		"a rollback that is cut off":                              {[]string{"3 pending-rollback A", "2 deployed B", "1 superseded A"}, nil, 1, []int{2}},
		"a rollback that was cut off and cleared":                 {[]string{"3 failed A", "2 deployed B", "1 superseded A"}, nil, 1, []int{2}},
		"even if it was proven once":                              {[]string{"3 failed A", "2 deployed B", "1 superseded A"}, []int{2}, 1, []int{2}},
		"twice":                                                   {[]string{"4 failed A", "3 failed A", "2 deployed B", "1 superseded A"}, nil, 1, []int{2}},
		"and after it an upgrade that failed":                     {[]string{"4 failed C", "3 failed A", "2 deployed B", "1 superseded A"}, nil, 1, []int{2}},
		"a rollback that came to its end":                         {[]string{"3 deployed A", "2 superseded B", "1 superseded A"}, nil, 0, nil},
		"that, with one before":                                   {[]string{"4 deployed A", "3 superseded B", "2 superseded A", "1 superseded Z"}, nil, 1, []int{3}},
		"after one, a newer one":                                  {[]string{"4 deployed C", "3 superseded A", "2 superseded B", "1 superseded A"}, nil, 3, nil},
		"what was left comes again, and the one between was good": {[]string{"4 deployed B", "3 superseded A", "2 superseded B", "1 superseded A"}, []int{1, 3}, 3, nil},
		"the same, by a rollback to it":                           {[]string{"4 deployed B<", "3 superseded A", "2 superseded B", "1 superseded A"}, []int{1, 3}, 0, nil},
		"the same, and back once more":                            {[]string{"5 deployed A<", "4 superseded B", "3 superseded A<", "2 superseded B", "1 superseded A"}, []int{1, 3}, 0, nil},
		"the same, and a third time":                              {[]string{"6 deployed B", "5 superseded A<", "4 superseded B", "3 superseded A<", "2 superseded B", "1 superseded A"}, []int{5}, 5, nil},
		"what was left once, and came again later":                {[]string{"5 deployed C", "4 superseded B", "3 superseded A", "2 superseded B", "1 superseded A"}, nil, 4, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var history []helmrelease.Revision
			for _, text := range c.history {
				var r helmrelease.Revision
				_, err := fmt.Sscan(text, &r.Number, &r.Status, &r.ManifestSHA256)
				require.NoError(t, err)
				if as, back := strings.CutSuffix(r.ManifestSHA256, "<"); back {
					r.ManifestSHA256, r.Description = as, "Rollback to 1"
				}
				history = append(history, r)
			}
			got, err := ofHistory(history, func(r helmrelease.Revision) (bool, error) { return slices.Contains(c.proven, r.Number), nil }, time.Now())
			require.NoError(t, err)
			require.Equal(t, c.want, got.Back.Revision)
			require.Equal(t, c.left, got.Back.Left)
		})
	}
}

// TestARollbackThatWasCutOff is to be brought to its end only where somebody has taken its lock away.
func TestARollbackThatWasCutOff(t *testing.T) {
	never := func(helmrelease.Revision) (bool, error) { return false, nil }
	for description, want := range map[string]int{"Was pending-rollback and was cleared by Upkeep: so": 1, "Was pending-upgrade and was cleared by Upkeep: so": 0, "Rollback failed": 0} {
		history := []helmrelease.Revision{
			{Number: 3, Status: "failed", ManifestSHA256: "A", Description: description}, {Number: 2, Status: "deployed", ManifestSHA256: "B"}, {Number: 1, Status: "superseded", ManifestSHA256: "A"},
		}
		got, err := ofHistory(history, never, time.Now())
		require.NoError(t, err)
		require.Equal(t, want, got.CutOff, description)
		history[0].ManifestSHA256 = "C" // what it went back to is no more
		got, err = ofHistory(history, never, time.Now())
		require.NoError(t, err)
		require.Zero(t, got.CutOff)
	}
}
