package ownership_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func managed(manager, subresource, fields string, ago time.Duration) metav1.ManagedFieldsEntry {
	at := metav1.NewTime(now.Add(-ago))
	return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, Time: &at, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
}

func TestDetect(t *testing.T) {
	yes := true
	spec := `{"f:spec":{"f:replicas":{}}}`
	for name, c := range map[string]struct {
		object metav1.ObjectMeta
		want   []string
	}{
		"nobody":                    {metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/instance": "shop"}}, nil},
		"a Deployment's ReplicaSet": {metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", Controller: &yes}}}, nil},
		"a built-in name of a foreign group": {
			metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Deployment", Name: "web", Controller: &yes}}},
			[]string{"an operator (Deployment web in namespace shop)"},
		},
		"an owner that is no controller": {metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Thing", Name: "x"}}}, nil},
		"Flux's HelmRelease": {
			metav1.ObjectMeta{Labels: map[string]string{"helm.toolkit.fluxcd.io/name": "web", "helm.toolkit.fluxcd.io/namespace": "flux"}},
			[]string{"Flux (HelmRelease web in namespace flux)"},
		},
		"Argo CD's tracking": {
			metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}, Labels: map[string]string{"argocd.argoproj.io/instance": "shop"}},
			[]string{"Argo CD (Application shop in namespace argocd)"},
		},
		"Argo CD's tracking in another namespace": {
			metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "team_shop:apps/Deployment:shop/web"}},
			[]string{"Argo CD (Application shop in namespace team)"},
		},
		"KEDA's autoscaler":              {metav1.ObjectMeta{Labels: map[string]string{"scaledobject.keda.sh/name": "web"}}, []string{"KEDA (ScaledObject web in namespace shop)"}},
		"a manager that is at it":        {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{managed("reconciler", "", spec, time.Minute)}}, []string{"the field manager reconciler"}},
		"one that was at it long ago":    {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{managed("reconciler", "", spec, 2*time.Hour)}}, nil},
		"one that made it":               {metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Minute)), ManagedFields: []metav1.ManagedFieldsEntry{managed("installer", "", spec, time.Minute)}}, nil},
		"an autoscaler":                  {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{managed("kube-controller-manager", "scale", spec, time.Minute)}}, nil},
		"a person":                       {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{managed("kubectl-edit", "", spec, time.Minute)}}, nil},
		"a manager that touches no spec": {metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{managed("labeller", "", `{"f:metadata":{}}`, time.Minute)}}, nil},
	} {
		c.object.Namespace, c.object.Name = "shop", "web"
		var found []string
		for _, o := range ownership.Detect(&c.object, now) {
			found = append(found, o.String())
			require.NotEmpty(t, o.Why, name)
		}
		require.Equal(t, c.want, found, name)
	}
}

func TestAllow(t *testing.T) {
	flux := ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	operator := ownership.Owner{By: "an operator", Ref: ownership.Ref{Group: "example.com", Kind: "Shop", Namespace: "shop", Name: "web"}, Why: "a reference"}
	require.NoError(t, ownership.Allow("", "stop web", nil))
	require.NoError(t, ownership.Allow(ownership.PolicySuspend, "stop web", []ownership.Owner{flux}))
	for policy, owner := range map[string]ownership.Owner{"": flux, ownership.PolicyRefuse: flux, ownership.PolicyPropose: flux, ownership.PolicySuspend: operator} {
		err := ownership.Allow(policy, "stop web", []ownership.Owner{owner})
		require.True(t, failure.Is(err, failure.OwnedByOther), policy)
		require.ErrorContains(t, err, owner.Ref.String())
		if owner.Suspendable {
			require.ErrorContains(t, err, "flux suspend helmrelease web -n shop")
		}
	}
}
