package itself

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/upkeep-run/upkeep/internal/failure"
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

func TestDescribe(t *testing.T) {
	web := &metav1.ObjectMeta{Name: "web"}
	w, err := Describe("Deployment", web, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, map[string]string{"app": "web", "x": "y"})
	require.NoError(t, err)
	require.True(t, w.Selector.Matches(labels.Set(w.Pods)))
	none, err := Describe("Job", web, nil, nil)
	require.NoError(t, err)
	require.False(t, none.Selector.Matches(labels.Set{"app": "web"}), "no selector is not all pods")
	_, err = Describe("Deployment", web, &metav1.LabelSelector{}, nil)
	require.True(t, failure.Is(err, failure.ObjectRefused))
}
