package ownpod

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

func cluster(t *testing.T, objects ...runtime.Object) (*fake.Clientset, *kube.Cluster) {
	t.Helper()
	client := fake.NewClientset(objects...)
	return client, &kube.Cluster{Client: client, Namespace: "shop"}
}

// left counts what is there.
func left(t *testing.T, c *kube.Cluster) (pods, owners int) {
	t.Helper()
	p, err := c.Client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	o, err := c.Client.CoreV1().ConfigMaps("shop").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	return len(p.Items), len(o.Items)
}

func TestTheSamePodsAreFoundAgain(t *testing.T) {
	_, c := cluster(t)
	g := Group{RunID: "r", Realm: "n", Kind: "readers", Look: "/1"}
	for range 2 {
		set, refused, err := g.Make(t.Context(), c, make([]corev1.Pod, 2))
		require.NoError(t, err)
		require.Equal(t, []string{"", ""}, refused)
		seen := map[int]bool{}
		require.NoError(t, set.Await(t.Context(), c, func(i int, p *corev1.Pod) bool {
			require.True(t, Is(p))
			require.False(t, *p.Spec.AutomountServiceAccountToken)
			seen[i] = true
			return true
		}))
		require.Len(t, seen, 2)
	}
	pods, owners := left(t, c)
	require.Equal(t, []int{2, 1}, []int{pods, owners})
}

func TestARunsPodsAreRemovedAndNoOthers(t *testing.T) {
	_, c := cluster(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}})
	for _, g := range []Group{
		{RunID: "r", Realm: "n", Kind: "probes"}, {RunID: "r", Realm: "n", Kind: "readers", Look: "/1"}, {RunID: "r", Realm: "n", Kind: "readers", Look: "/2"},
		{RunID: "r", Realm: "other", Kind: "probes"}, {RunID: "s", Realm: "n", Kind: "probes"},
	} {
		_, _, err := g.Make(t.Context(), c, make([]corev1.Pod, 1))
		require.NoError(t, err)
	}
	for range 2 {
		require.NoError(t, Remove(t.Context(), c, "n", "r"))
		pods, owners := left(t, c)
		require.Equal(t, []int{1 + 2, 2}, []int{pods, owners})
	}
	ended := func(_ context.Context, id string) (bool, error) { return id == "s", nil }
	require.NoError(t, Reap(t.Context(), c, "n", ended))
	pods, owners := left(t, c)
	require.Equal(t, []int{1 + 1, 1}, []int{pods, owners}, "another realm's stay")
	_, _, err := Group{RunID: "t", Realm: "n", Kind: "probes"}.Make(t.Context(), c, nil)
	require.NoError(t, err)
	require.Error(t, Reap(t.Context(), c, "n", func(context.Context, string) (bool, error) { return false, errors.New("Temporal is away") }))
	_, owners = left(t, c)
	require.Equal(t, 2, owners, "what nobody can tell stays")
}

// TestAnotherOfTheNameIsLeft: a pod that was made anew meanwhile has another UID.
func TestAnotherOfTheNameIsLeft(t *testing.T) {
	client, c := cluster(t)
	g := Group{RunID: "r", Realm: "n", Kind: "probes"}
	_, _, err := g.Make(t.Context(), c, make([]corev1.Pod, 1))
	require.NoError(t, err)
	var sent []metav1.DeleteOptions
	client.PrependReactor("delete", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		sent = append(sent, a.(clienttesting.DeleteActionImpl).DeleteOptions)
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "x", errors.New("the UID is another"))
	})
	require.NoError(t, Remove(t.Context(), c, "n", "r"))
	require.Len(t, sent, 2)
	for _, o := range sent {
		require.NotNil(t, o.Preconditions.UID)
	}
}

func TestWhatMayNotBeMadeIsSaid(t *testing.T) {
	client, c := cluster(t)
	client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New(`violates PodSecurity "baseline:latest"`))
	})
	set, refused, err := Group{RunID: "r", Realm: "n", Kind: "readers"}.Make(t.Context(), c, make([]corev1.Pod, 1))
	require.NoError(t, err)
	require.Contains(t, refused[0], "violates PodSecurity")
	require.NoError(t, set.Await(t.Context(), c, func(int, *corev1.Pod) bool { t.Error("there is none"); return false }), "nothing is waited for")

	client.PrependReactor("create", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "x", errors.New("no"))
	})
	_, _, err = Group{RunID: "s", Realm: "n", Kind: "readers"}.Make(t.Context(), c, make([]corev1.Pod, 1))
	require.True(t, failure.Is(err, failure.ClusterForbids), err)
}

func TestAnOwnerThatIsSomebodyElsesIsLeft(t *testing.T) {
	g := Group{RunID: "r", Realm: "n", Kind: "probes"}
	_, c := cluster(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: g.Name()}})
	_, _, err := g.Make(t.Context(), c, nil)
	require.True(t, failure.Is(err, failure.ObjectConflict), err)
	require.NoError(t, Remove(t.Context(), c, "n", "r"))
	_, owners := left(t, c)
	require.Equal(t, 1, owners)
}

func TestAWaitEnds(t *testing.T) {
	_, c := cluster(t)
	set, _, err := Group{RunID: "r", Realm: "n", Kind: "probes"}.Make(t.Context(), c, make([]corev1.Pod, 1))
	require.NoError(t, err)
	never := func(int, *corev1.Pod) bool { return false }
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.NoError(t, set.Await(short, c, never), "what has been seen until then counts")
	gone, end := context.WithCancel(t.Context())
	end()
	require.ErrorIs(t, set.Await(gone, c, never), context.Canceled)
}

func TestWhatAPodWaitsFor(t *testing.T) {
	waiting := func(reason string) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}}}
	}
	require.Contains(t, Waits(waiting("ImagePullBackOff")), "ImagePullBackOff")
	require.Empty(t, Waits(waiting("ContainerCreating")))
	require.Contains(t, Waits(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "DeadlineExceeded"}}), "DeadlineExceeded")
	require.Contains(t, Waits(&corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no room"}}}}), "no room")
}
