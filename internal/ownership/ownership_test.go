package ownership_test

import (
	"strings"
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
		"a name that is none": {
			metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop; reboot:apps/Deployment:shop/web"}},
			[]string{"Argo CD"},
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

var (
	flux     = ownership.Owner{By: "Flux", Ref: ownership.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	keda     = ownership.Owner{By: "KEDA", Ref: ownership.Ref{Group: "keda.sh", Kind: "ScaledObject", Namespace: "shop", Name: "web"}, Why: "a label", Suspendable: true}
	operator = ownership.Owner{By: "an operator", Ref: ownership.Ref{Group: "example.com", Kind: "Shop", Namespace: "shop", Name: "web"}, Why: "a reference"}
)

func TestDecide(t *testing.T) {
	stop := func(owners ...ownership.Owner) []ownership.Change {
		return []ownership.Change{{Words: "stop Deployment web", Command: "kubectl scale deployment web -n shop --replicas=0", Owners: owners}, {Words: "stop CronJob report", Owners: owners}}
	}
	for name, c := range map[string]struct {
		policy   string
		owners   []ownership.Owner
		suspends []ownership.Owner
		proposes int
		refuses  string
	}{
		"nobody":                     {"", nil, nil, 0, ""},
		"by default":                 {"", []ownership.Owner{flux}, nil, 0, "flux suspend helmrelease web -n shop"},
		"refuse":                     {ownership.PolicyRefuse, []ownership.Owner{flux}, nil, 0, "flux suspend helmrelease web -n shop"},
		"suspend":                    {ownership.PolicySuspend, []ownership.Owner{flux}, []ownership.Owner{flux}, 0, ""},
		"suspend an operator":        {ownership.PolicySuspend, []ownership.Owner{flux, operator}, nil, 0, "make the change where an operator gets it from"},
		"propose":                    {ownership.PolicyPropose, []ownership.Owner{flux}, nil, 2, ""},
		"propose to an operator":     {ownership.PolicyPropose, []ownership.Owner{operator}, nil, 2, ""},
		"an autoscaler goes with it": {"", []ownership.Owner{keda}, []ownership.Owner{keda}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			suspends, proposals, err := ownership.Decide(c.policy, stop(c.owners...))
			if c.refuses != "" {
				require.True(t, failure.Is(err, failure.OwnedByOther), "%v", err)
				require.ErrorContains(t, err, c.refuses)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.suspends, suspends, "each once")
			require.Len(t, proposals, c.proposes)
		})
	}
}

func TestAProposalSaysWhatToType(t *testing.T) {
	change := ownership.Change{Words: "stop Deployment web", Command: "kubectl scale deployment web -n shop --replicas=0", Owners: []ownership.Owner{flux}}
	_, proposals, err := ownership.Decide(ownership.PolicyPropose, []ownership.Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"flux suspend helmrelease web -n shop", change.Command, "flux resume helmrelease web -n shop"}, proposals[0].Commands)
	require.Contains(t, proposals[0].String(), "stop Deployment web is not done, since Flux (HelmRelease web in namespace shop) would take it back (a label)")
	refusal := ownership.Proposed(proposals)
	require.True(t, failure.Is(refusal, failure.OwnedByOther))
	require.ErrorContains(t, refusal, change.Command)
}

// FuzzDetect: labels and annotations are anybody's, and a person types what Upkeep says. So no word of a
// command comes from there that a shell would read as more than a word.
func FuzzDetect(f *testing.F) {
	f.Add("shop:apps/Deployment:shop/web", "web", "flux", "web")
	f.Add("$(reboot):x", "web; reboot", "a b", "`reboot`")
	f.Add("team_shop;x:y", "../../x", "-n", "--all")
	f.Fuzz(func(t *testing.T, tracking, name, namespace, scaled string) {
		for _, labels := range []map[string]string{
			{"helm.toolkit.fluxcd.io/name": name, "helm.toolkit.fluxcd.io/namespace": namespace, "kustomize.toolkit.fluxcd.io/name": name, "scaledobject.keda.sh/name": scaled},
			{"argocd.argoproj.io/instance": name, "app.kubernetes.io/instance": scaled},
		} {
			o := metav1.ObjectMeta{
				Name: "web", Namespace: "shop", Labels: labels, Annotations: map[string]string{"argocd.argoproj.io/tracking-id": tracking},
				ManagedFields: []metav1.ManagedFieldsEntry{managed("argocd-controller", "", `{"f:spec":{}}`, time.Minute)},
			}
			for _, owner := range ownership.Detect(&o, now) {
				if owner.Suspendable != (owner.Ref != ownership.Ref{}) {
					t.Fatalf("%+v can be suspended by no name, or not by one", owner)
				}
				for _, word := range []string{owner.Ref.Name, owner.Ref.Namespace} {
					if strings.ContainsAny(word, " \t\n\r;&|<>$`\"'\\(){}[]*?~#!/") || strings.HasPrefix(word, "-") {
						t.Fatalf("%q gets into a command: %s", word, owner.SuspendCommand())
					}
				}
			}
		}
	})
}
