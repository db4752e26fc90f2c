package doctor_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// TestAStandingProberIsLookedAt on an API server that has it or not, and that forwards nothing.
func TestAStandingProberIsLookedAt(t *testing.T) {
	yes := true
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "watch-0", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "watch", Controller: &yes}}},
		Spec:       corev1.PodSpec{ServiceAccountName: "watch", Containers: []corev1.Container{{Image: "upkeep:1"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	list, code := []corev1.Pod{}, http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path != "/api/v1/namespaces/shop/pods" || r.Method != http.MethodGet:
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonForbidden, Message: "no right", Code: http.StatusForbidden})
		case code != http.StatusOK:
			w.WriteHeader(code)
		default:
			_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: list})
		}
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [{"name": "x", "cluster": {"server": %q}}], "contexts": [{"name": "x", "context": {"cluster": "x"}}]}`, server.URL), 0o600))
	_, store := newStore(t)
	target := func(prober string) string {
		return fmt.Sprintf("  - name: shop\n    kubernetes: {namespace: shop, kubeconfigFrom: {file: %s}, network: {prober: {%s}}}\n", kubeconfig, prober)
	}
	const there, answers = "target shop: standing prober, is there", "target shop: standing prober, answers"
	require.NotContains(t, examine(t, store, target(`image: "upkeep:1"`)), there, "none is configured")

	standing := target(`image: "upkeep:1", standing: watch`)
	found := examine(t, store, standing)
	requireFail(t, found.named(t, there), failure.MissingObject, "there is no pod watch-0 in namespace shop", "prober.namespaces")
	requireUnproven(t, found.named(t, answers), false, "not looked at")

	list = []corev1.Pod{pod}
	found = examine(t, store, standing)
	require.Equal(t, run.Pass, found.named(t, there).Verdict)
	requireUnproven(t, found.named(t, answers), true, "no right", "upkeep rbac prints")

	list[0].Spec.Containers[0].Image = "other:1"
	requireFail(t, examine(t, store, standing).named(t, there), failure.MissingObject, `has the image "other:1"`)

	code = http.StatusForbidden
	requireUnproven(t, examine(t, store, standing).named(t, there), true, "the account of the capability cluster")
}
