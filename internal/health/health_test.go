package health

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestJudge(t *testing.T) {
	whole := Workload{Kind: Deployment, Name: "web", Generation: 2, Observed: 2, Desired: 2, Updated: 2, Ready: 2, Available: 2}
	with := func(change func(*Workload)) Workload {
		w := whole
		change(&w)
		return w
	}
	passes, fails, unknown := Answer{Probe: "front", Verdict: run.Pass}, Answer{Probe: "front", Verdict: run.Fail, Detail: "answered 500"}, Answer{Probe: "front", Verdict: run.NotProven, Detail: "could not be sent"}
	stopped := with(func(w *Workload) { w.Desired, w.Updated, w.Ready, w.Available = 0, 0, 0, 0 })
	for name, c := range map[string]struct {
		state   State
		verdict run.Verdict
		says    string
	}{
		"whole":                        {State{Workloads: []Workload{whole}}, run.Pass, ""},
		"whole and probed":             {State{Workloads: []Workload{whole}, Answers: []Answer{passes}}, run.Pass, ""},
		"a probe fails":                {State{Workloads: []Workload{whole}, Answers: []Answer{passes, fails}}, run.Fail, "probe front: answered 500"},
		"a probe cannot run":           {State{Workloads: []Workload{whole}, Answers: []Answer{unknown}}, run.NotProven, "could not be sent"},
		"a probe cannot run, and down": {State{Workloads: []Workload{with(func(w *Workload) { w.Ready = 0 })}, Answers: []Answer{unknown}}, run.Fail, "0 of 2 pods are ready"},
		"not seen yet":                 {State{Workloads: []Workload{with(func(w *Workload) { w.Observed = 1 })}}, run.Fail, "has not seen its newest change"},
		"ready but not for long":       {State{Workloads: []Workload{with(func(w *Workload) { w.Available = 1 })}}, run.Fail, "1 available"},
		"the old revision serves": {State{Workloads: []Workload{with(func(w *Workload) {
			w.Updated, w.Pods = 1, []Pod{{Name: "new", Newest: true, Reason: ImagePull, Detail: "shop:typo"}, {Name: "old", Ready: true}}
		})}}, run.Fail, "pod new cannot get its image (shop:typo)"},
		"the old one is all that serves": {State{Workloads: []Workload{with(func(w *Workload) { w.Total = 3 })}}, run.Fail, "and 3 there are"},
		"paused":                         {State{Workloads: []Workload{with(func(w *Workload) { w.Paused, w.Updated = true, 0 })}}, run.Fail, "paused"},
		"paused and whole":               {State{Workloads: []Workload{with(func(w *Workload) { w.Paused = true })}}, run.Pass, ""},
		"a quota":                        {State{Workloads: []Workload{with(func(w *Workload) { w.Ready, w.Refused = 1, "exceeded quota" })}}, run.Fail, "exceeded quota"},
		"one of two is off":              {State{Workloads: []Workload{whole, stopped}}, run.Pass, ""},
		"all are off":                    {State{Workloads: []Workload{stopped}}, run.Fail, "scaled to 0"},
		"replaced on delete":             {State{Workloads: []Workload{with(func(w *Workload) { w.OnDelete, w.Updated = true, 0 })}}, run.Pass, ""},
		"a pod on a lost node":           {State{Workloads: []Workload{with(func(w *Workload) { w.Pods = []Pod{{Name: "a", Reason: NodeLost, Detail: "n1"}} })}}, run.Fail, "nothing is heard"},
		"an evicted pod":                 {State{Workloads: []Workload{with(func(w *Workload) { w.Pods = []Pod{{Name: "a", Reason: Ended}} })}}, run.Pass, ""},
	} {
		t.Run(name, func(t *testing.T) {
			verdict, problems := Judge(c.state)
			require.Equal(t, c.verdict, verdict)
			require.Contains(t, Words(problems), c.says)
			require.Equal(t, c.verdict == run.Pass, len(problems) == 0)
		})
	}
}

// TestLacks is what a bake judges by: a workload by itself, without the release around it.
func TestLacks(t *testing.T) {
	of := func(change func(*Workload)) Workload {
		w := Workload{Kind: Deployment, Name: "web", Generation: 2, Observed: 2, Desired: 2, Total: 2, Updated: 2, Ready: 2, Available: 2}
		change(&w)
		return w
	}
	require.Empty(t, of(func(*Workload) {}).Lacks())
	require.Empty(t, of(func(w *Workload) { w.Desired, w.Ready, w.Updated, w.Available, w.Total = 0, 0, 0, 0, 0 }).Lacks(), "none is wanted")
	require.Contains(t, of(func(w *Workload) { w.Observed = 1 }).Lacks(), "has not seen")
	require.Contains(t, of(func(w *Workload) { w.Updated = 1 }).Lacks(), "1 of 2 pods are of the newest revision")
	require.Contains(t, of(func(w *Workload) { w.Ready = 1 }).Lacks(), "1 of 2 pods are ready")
	require.Contains(t, of(func(w *Workload) { w.Total = 3 }).Lacks(), "3 there are", "one of an older revision")
	require.Contains(t, of(func(w *Workload) { w.Pods = []Pod{{Name: "a", Reason: StuckEnding}} }).Lacks(), "pod a does not end")
}

func TestRestartsAreCounted(t *testing.T) {
	counts := map[string]int32{"b/main": 1}
	countRestarts(counts, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", RestartCount: 2}, {Name: "side"}}}})
	require.Equal(t, map[string]int32{"a/main": 2, "b/main": 1}, counts)
}

// TestASelectorThatSelectsEverythingIsRefused: whatever is done to such a workload would be done to others' pods.
func TestASelectorThatSelectsEverythingIsRefused(t *testing.T) {
	for _, selector := range []*metav1.LabelSelector{{}, {MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}} {
		_, err := ofDeployment(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: selector}})
		require.True(t, failure.Is(err, failure.ObjectRefused), "%v", err)
		_, err = ofStatefulSet(&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{Selector: selector}})
		require.True(t, failure.Is(err, failure.ObjectRefused), "%v", err)
		_, err = ofDaemonSet(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DaemonSetSpec{Selector: selector}})
		require.True(t, failure.Is(err, failure.ObjectRefused), "%v", err)
	}
}

func TestReasons(t *testing.T) {
	now := time.Now()
	waiting := func(reason string) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}}
	}
	killed := waiting("CrashLoopBackOff")
	killed.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}
	is := func(kind corev1.PodConditionType, status corev1.ConditionStatus, message string) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: status, Message: message}
	}
	runs := func(started, turned time.Duration, restarts int32) corev1.PodStatus { // both ago
		ready := is(corev1.PodReady, corev1.ConditionFalse, "")
		ready.LastTransitionTime = metav1.NewTime(now.Add(-turned))
		yes := true
		return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{ready, is(corev1.ContainersReady, corev1.ConditionFalse, "")}, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "main", RestartCount: restarts, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-started))}}}}}
	}
	for name, c := range map[string]struct {
		status  corev1.PodStatus
		deleted time.Duration // ago
		want    Reason
	}{
		"crash":      {waiting("CrashLoopBackOff"), 0, CrashLoop},
		"memory":     {killed, 0, OutOfMemory},
		"image":      {waiting("ImagePullBackOff"), 0, ImagePull},
		"no image":   {waiting("ErrImageNeverPull"), 0, ImagePull},
		"config":     {waiting("CreateContainerConfigError"), 0, BadReference},
		"young":      {waiting("ContainerCreating"), 0, Starting},
		"no node":    {corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{is(corev1.PodScheduled, corev1.ConditionFalse, "0/1 nodes: Insufficient cpu")}}, 0, Unschedulable},
		"no volume":  {corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{is(corev1.PodScheduled, corev1.ConditionFalse, "pod has unbound immediate PersistentVolumeClaims")}}, 0, VolumePending},
		"silent":     {corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{is(corev1.PodReady, corev1.ConditionFalse, ""), is(corev1.ContainersReady, corev1.ConditionTrue, "")}}, 0, NodeLost},
		"ends":       {waiting("ContainerCreating"), time.Second, Ending},
		"cannot end": {waiting("ContainerCreating"), time.Hour, StuckEnding},
		"evicted":    {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, 0, Ended},
		"comes up":   {runs(10*time.Second, 11*time.Second, 0), 0, Starting},
		"not coming": {runs(time.Minute, time.Minute, 0), 0, NotReady},
		"was ready":  {runs(10*time.Second, 5*time.Second, 0), 0, NotReady},
		"came again": {runs(10*time.Second, time.Minute, 3), 0, NotReady},
		"not ready":  {corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{is(corev1.PodReady, corev1.ConditionFalse, ""), is(corev1.ContainersReady, corev1.ConditionFalse, "")}}, 0, NotReady},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Status: c.status}
			if c.deleted > 0 {
				p.DeletionTimestamp = &metav1.Time{Time: now.Add(-c.deleted)}
			}
			require.Equal(t, c.want, ofPod(p, &Workload{}, now).Reason)
		})
	}
}

func TestBelongs(t *testing.T) {
	object := func(label, annotation string) *metav1.ObjectMeta {
		m := &metav1.ObjectMeta{Labels: map[string]string{}, Annotations: map[string]string{}}
		if label != "" {
			m.Labels[instanceLabel] = label
		}
		if annotation != "" {
			m.Annotations[releaseAnnotation] = annotation
		}
		return m
	}
	require.True(t, Belongs(object("shop", ""), "shop"))
	require.True(t, Belongs(object("", "shop"), "shop"))
	require.True(t, Belongs(object("other", "shop"), "shop"))
	require.False(t, Belongs(object("shop", "other"), "shop"), "what Helm wrote counts")
	require.False(t, Belongs(object("", ""), ""), "no release is not every release")
}
