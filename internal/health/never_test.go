package health

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestNever(t *testing.T) {
	waiting := func(reason, message string) *corev1.Pod {
		p := &corev1.Pod{}
		p.Name = "web-1"
		p.Status.ContainerStatuses = []corev1.ContainerStatus{
			{Name: "fine", Image: "fine:1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
			{Name: "main", Image: "shop:2", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}},
		}
		return p
	}
	for _, never := range []*corev1.Pod{
		waiting("ErrImageNeverPull", ""), waiting("InvalidImageName", ""),
		waiting("ErrImagePull", "rpc error: code = NotFound desc = failed to pull and unpack image"),
		waiting("ImagePullBackOff", `Back-off pulling image "shop:2": ErrImagePull: rpc error: code = NotFound desc = no such tag`),
	} {
		require.Contains(t, Never(never), "pod web-1 cannot get the image shop:2")
	}
	for _, perhaps := range []*corev1.Pod{
		waiting("ErrImagePull", "rpc error: code = Unavailable desc = connection refused"), waiting("ImagePullBackOff", `Back-off pulling image "shop:2"`),
		waiting("ContainerCreating", ""), waiting("CrashLoopBackOff", ""), {},
	} {
		require.Empty(t, Never(perhaps))
	}
}
