package scratchpod

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// TestAScratchPodTakesNothingBesideTheImage: what is restored into it may be hostile.
func TestAScratchPodTakesNothingBesideTheImage(t *testing.T) {
	root, user, yes := int64(0), int64(999), true
	database := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "postgresql-0", Labels: map[string]string{"app": "postgresql"}, Annotations: map[string]string{"vault.example/inject": "true"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "postgresql", HostNetwork: true, HostPID: true, NodeSelector: map[string]string{"disk": "fast"},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &root},
			Volumes:         []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
			Containers: []corev1.Container{{
				Name: "postgresql", Image: "postgres:16", Env: []corev1.EnvVar{{Name: "PGPASSWORD", Value: "hush"}}, EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}, SecurityContext: &corev1.SecurityContext{RunAsUser: &user, Privileged: &yes},
				Lifecycle: &corev1.Lifecycle{}, Command: []string{"entrypoint"},
			}},
		},
	}
	o := Options{Key: "shop/copy/run", RunID: "run", Realm: "realm", Superuser: "upkeep", Bytes: 1 << 30}
	p := o.build(database, &database.Spec.Containers[0])

	require.Equal(t, map[string]string{labelScratch: p.Name, labelManagedBy: managedBy}, p.Labels, "no Service and no policy of the database's means it")
	require.NotContains(t, p.Annotations, "vault.example/inject")
	require.Empty(t, p.Spec.ServiceAccountName)
	require.False(t, *p.Spec.AutomountServiceAccountToken)
	require.False(t, p.Spec.HostNetwork || p.Spec.HostPID || p.Spec.HostIPC)
	require.Equal(t, corev1.RestartPolicyNever, p.Spec.RestartPolicy, "what a crash leaves is no copy")
	require.Equal(t, database.Spec.NodeSelector, p.Spec.NodeSelector)
	for _, v := range p.Spec.Volumes {
		require.NotNil(t, v.EmptyDir, v.Name)
	}
	require.Equal(t, "3Gi", p.Spec.Volumes[0].EmptyDir.SizeLimit.String(), "twice the copy, and room")
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		require.Equal(t, "postgres:16", c.Image)
		require.Empty(t, c.EnvFrom)
		require.Equal(t, []corev1.EnvVar{{Name: "LC_ALL", Value: "C"}}, c.Env)
		require.Nil(t, c.Lifecycle)
		s := c.SecurityContext
		require.Equal(t, user, *s.RunAsUser, "the container's own word counts before its pod's")
		require.True(t, s.Privileged == nil && *s.RunAsNonRoot && *s.ReadOnlyRootFilesystem && !*s.AllowPrivilegeEscalation)
		require.Equal(t, []corev1.Capability{"ALL"}, s.Capabilities.Drop)
		require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, s.SeccompProfile.Type)
		require.NotEqual(t, "entrypoint", c.Command[0])
	}
	require.Contains(t, p.Spec.Containers[0].Command, "listen_addresses=127.0.0.1")

	n := policy(p)
	require.Len(t, n.Spec.PolicyTypes, 2, "both ways")
	require.Empty(t, n.Spec.Ingress, "nothing is let in")
	require.Empty(t, n.Spec.Egress, "nothing is let out")
	selector, err := metav1.LabelSelectorAsSelector(&n.Spec.PodSelector)
	require.NoError(t, err)
	require.True(t, selector.Matches(labels.Set(p.Labels)))
	require.False(t, selector.Matches(labels.Set(database.Labels)))

	named := Options{Key: "k", Image: "mirror/postgres:16", RunAsUser: 26, Superuser: "upkeep"}.build(nil, nil)
	require.Equal(t, "mirror/postgres:16", named.Spec.Containers[0].Image)
	require.Equal(t, int64(26), *named.Spec.Containers[0].SecurityContext.RunAsUser)
	require.Equal(t, *resource.NewQuantity(spareBytes, resource.BinarySI), *named.Spec.Volumes[0].EmptyDir.SizeLimit)
}

func TestName(t *testing.T) {
	require.Equal(t, Name("a"), Name("a"))
	require.NotEqual(t, Name("a"), Name("b"))
	require.Len(t, Name(strings.Repeat("x", 10_000)), len("upkeep-scratch-")+12)
}

// TestHowAPodStands: what ended comes no more, what could not even begin is for a person, the rest is waited for.
func TestHowAPodStands(t *testing.T) {
	now := metav1.NewTime(time.Now())
	failed := func(code int32) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
	}
	waits := []corev1.ContainerStatus{{Name: "initdb", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: strings.Repeat("no ", 1000)}}}}
	for name, c := range map[string]struct {
		pod                    corev1.Pod
		running, ended, broken bool
		why                    string
	}{
		"young":          {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, false, false, false, "its phase is Pending"},
		"no image":       {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: waits}}, false, false, false, "container initdb waits: ErrImagePull"},
		"no node":        {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes"}}}}, false, false, false, "Unschedulable: 0/1 nodes"},
		"serves":         {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}, true, false, false, ""},
		"crashed":        {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, InitContainerStatuses: failed(0), ContainerStatuses: failed(2)}}, false, true, false, ""},
		"deleted":        {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}, false, true, false, ""},
		"made no folder": {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, InitContainerStatuses: failed(1)}}, false, false, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.running, running(&c.pod))
			require.Equal(t, c.ended, ended(&c.pod))
			err := broken(&c.pod)
			require.Equal(t, c.broken, failure.Is(err, failure.ScratchUnavailable), "%v", err)
			require.Contains(t, why(&c.pod), c.why)
			require.Less(t, len(why(&c.pod)), 400)
		})
	}
}
