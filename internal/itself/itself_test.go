package itself

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMarked(t *testing.T) {
	for _, c := range []struct {
		object metav1.ObjectMeta
		is     bool
	}{
		{metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/part-of": "upkeep"}}, true},
		{metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "temporal"}}, true},
		{metav1.ObjectMeta{Annotations: map[string]string{Protected: ""}}, true},
		{metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/part-of": "shop", "app.kubernetes.io/name": "upkeeper"}}, false},
		{metav1.ObjectMeta{}, false},
	} {
		require.Equal(t, c.is, Marked(&c.object) != "", "%+v", c.object)
	}
}

func TestNamed(t *testing.T) {
	for host, is := range map[string]bool{
		"frontend.temporal": true, "frontend.temporal.svc": true, "Frontend.Temporal.svc.cluster.local.": true,
		"frontend": false, "frontend.temporal.example.com": false, "frontend.temporal2": false, "front.temporal": false, "": false,
	} {
		require.Equal(t, is, named(host, "frontend", "temporal", "upkeep"), host)
	}
	require.True(t, named("frontend", "frontend", "temporal", "temporal"), "from its own namespace")
}

func TestFind(t *testing.T) {
	t.Setenv("POD_NAME", "worker-1")
	t.Setenv("POD_NAMESPACE", "upkeep")
	require.Equal(t, Self{Pod: "worker-1", Namespace: "upkeep", Endpoints: map[string]string{"Temporal": "frontend:7233", "the store": "minio.store:9000"}},
		Find("frontend:7233", "s3://backups?endpoint=http://minio.store:9000&region=x"))
	require.Empty(t, Find("", "file:///var/lib").Endpoints)
}
