package helmrelease

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestElsewhere(t *testing.T) {
	const chart = `apiVersion: v1
kind: ConfigMap
metadata: {name: own}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: written, namespace: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: watched, namespace: monitoring}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
`
	objects, err := parse(chart, "shop")
	require.NoError(t, err)
	blocked, remarks := elsewhere(rendering{objects: objects[:3], hooks: objects[3:]})
	require.Len(t, blocked, 1)
	require.Contains(t, blocked[0], `ConfigMap coredns: its namespace "kube-system"`)
	require.Equal(t, []string{"ConfigMap watched is in another namespace, monitoring"}, remarks)
}
