package health

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Never says why a pod will not start, however long it is waited for: its image is nowhere, by the node's
// or the registry's own word. "" while it may.
func Never(p *corev1.Pod) string {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff":
			if !strings.Contains(w.Message, "code = NotFound") { // it may be the way there, or a login
				continue
			}
		case "ErrImageNeverPull", "InvalidImageName":
		default:
			continue
		}
		return clip(fmt.Sprintf("pod %s cannot get the image %s (%s)", p.Name, s.Image, w.Reason))
	}
	return ""
}
