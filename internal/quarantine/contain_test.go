package quarantine

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/kube"
)

// apiServer has one pod and one policy, each or neither, and changes of them that hold for what was read alone. What
// a real one answers is tested end to end.
type apiServer struct {
	mu      sync.Mutex
	pod     *corev1.Pod
	policy  *networkingv1.NetworkPolicy
	version int
	between func() // what somebody else does right before a policy is deleted, under the lock
}

func (s *apiServer) next() string {
	s.version++
	return fmt.Sprint(s.version)
}

// apply applies a policy, and reports whether it was not there.
func (s *apiServer) apply(sent networkingv1.NetworkPolicy) bool {
	made := s.policy == nil
	switch {
	case made:
		sent.ResourceVersion = s.next()
		sent.UID = types.UID("p" + sent.ResourceVersion)
		s.policy = &sent
	case fmt.Sprint(s.policy.Annotations) != fmt.Sprint(sent.Annotations):
		s.policy.Annotations, s.policy.ResourceVersion = sent.Annotations, s.next()
	}
	return made
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	status := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason})
	}
	policies := strings.HasSuffix(r.URL.Path, "/networkpolicies/"+DenyName("0badcafe"))
	switch {
	case policies && r.Method == http.MethodPatch:
		var sent networkingv1.NetworkPolicy
		_ = json.NewDecoder(r.Body).Decode(&sent)
		if s.apply(sent) {
			w.WriteHeader(http.StatusCreated)
		}
		_ = json.NewEncoder(w).Encode(s.policy)
	case policies && s.policy == nil, strings.HasSuffix(r.URL.Path, "/pods/web-1") && s.pod == nil:
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
	case policies && r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(s.policy)
	case policies && r.Method == http.MethodDelete:
		if s.between != nil {
			s.between()
			s.between = nil
		}
		var o metav1.DeleteOptions
		_ = json.NewDecoder(r.Body).Decode(&o)
		if o.Preconditions == nil || *o.Preconditions.UID != s.policy.UID || *o.Preconditions.ResourceVersion != s.policy.ResourceVersion {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.policy = nil
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	case strings.HasSuffix(r.URL.Path, "/pods"):
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		if s.pod != nil && r.URL.Query().Get("labelSelector") == Label+"="+s.pod.Labels[Label] {
			list.Items = append(list.Items, *s.pod)
		}
		_ = json.NewEncoder(w).Encode(list)
	case r.Method == http.MethodPatch:
		var sent struct {
			Metadata struct {
				UID, ResourceVersion string
				Labels               map[string]*string
				Annotations          map[string]string
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&sent)
		if sent.Metadata.UID != string(s.pod.UID) || sent.Metadata.ResourceVersion != s.pod.ResourceVersion {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.pod.ResourceVersion, s.pod.Annotations = s.next(), sent.Metadata.Annotations
		for key, value := range sent.Metadata.Labels {
			if delete(s.pod.Labels, key); value != nil {
				s.pod.Labels[key] = *value
			}
		}
		_ = json.NewEncoder(w).Encode(s.pod)
	default:
		_ = json.NewEncoder(w).Encode(s.pod)
	}
}

// quarantined serves one pod that is suspected, and returns the plan and the order to cut it off.
func quarantined(t *testing.T) (*apiServer, *kube.Cluster, Plan, Order) {
	t.Helper()
	s := &apiServer{version: 1, pod: &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u1", ResourceVersion: "1", Labels: map[string]string{"app": "web"}},
	}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	require.NoError(t, err)
	plan := Plan{Case: "0badcafe", Deny: []string{"shop"}, Pods: []Pod{{
		Ref: Ref{"shop", "web-1"}, UID: "u1", Version: "1", Labels: map[string]string{"app": "web"}, Strip: []Stripped{{"app", "web", []string{"Service web"}}},
	}}}
	return s, &kube.Cluster{Client: client, Namespace: "shop"}, plan, Order{Case: plan.Case, Target: "shop", At: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
}

func later(o Order) Order {
	o.At = o.At.Add(time.Minute)
	return o
}

// ends ends the case, by letting go of its pod, or by deleting it.
func ends(t *testing.T, c *kube.Cluster, s *apiServer, plan Plan, o Order, remove bool) {
	t.Helper()
	end := ReleasePlan{Case: plan.Case, Deny: plan.Deny, Pods: []Freed{{Ref: plan.Pods[0].Ref, UID: "u1", Back: map[string]string{"app": "web"}}}}
	if remove {
		s.mu.Lock()
		s.pod = nil
		s.mu.Unlock()
	}
	_, err := Free(t.Context(), c, end, o)
	require.NoError(t, err)
	_, err = Lift(t.Context(), c, end, o)
	require.NoError(t, err)
}

func TestAContainmentThatComesLateLeavesNothing(t *testing.T) {
	for name, remove := range map[string]bool{"the pods were let go of": false, "the pods were deleted": true} {
		t.Run(name, func(t *testing.T) {
			s, c, plan, o := quarantined(t)
			_, err := Contain(t.Context(), c, plan, o)
			require.NoError(t, err)
			require.NotNil(t, s.policy)
			require.Equal(t, map[string]string{Label: plan.Case}, s.pod.Labels)
			_, err = Contain(t.Context(), c, plan, o)
			require.NoError(t, err)
			require.NotNil(t, s.policy, "twice, it is done")

			ends(t, c, s, plan, later(o), remove)
			require.Nil(t, s.policy)
			_, err = Contain(t.Context(), c, plan, o)
			require.NoError(t, err)
			require.Nil(t, s.policy, "it denies nobody")
			if !remove {
				require.Equal(t, map[string]string{"app": "web"}, s.pod.Labels)
			}
		})
	}
}

func TestAContainmentThatComesLateTakesBackOnlyWhatItMade(t *testing.T) {
	t.Run("somebody else's", func(t *testing.T) {
		s, c, plan, o := quarantined(t)
		_, err := Contain(t.Context(), c, plan, o)
		require.NoError(t, err)
		s.pod = nil
		_, err = Contain(t.Context(), c, plan, o)
		require.NoError(t, err)
		require.NotNil(t, s.policy, "it was there before")
	})
	t.Run("what a later run has applied since", func(t *testing.T) {
		s, c, plan, o := quarantined(t)
		s.pod = nil
		s.between = func() {
			sent := *s.policy.DeepCopy()
			sent.Annotations[sinceNote] = later(o).At.Format(time.RFC3339Nano)
			s.apply(sent)
		}
		_, err := Contain(t.Context(), c, plan, o)
		require.NoError(t, err)
		require.NotNil(t, s.policy)
	})
	t.Run("a pod has the label", func(t *testing.T) {
		s, c, plan, o := quarantined(t)
		s.pod.UID, s.pod.Labels = "another", map[string]string{Label: plan.Case}
		_, err := Contain(t.Context(), c, plan, o)
		require.NoError(t, err)
		require.NotNil(t, s.policy)
	})
}

func TestAnEndThatComesLateLeavesALaterRunsPolicy(t *testing.T) {
	s, c, plan, o := quarantined(t)
	end := ReleasePlan{Case: plan.Case, Deny: plan.Deny}
	_, _, err := deny(t.Context(), c, "shop", later(o), 1)
	require.NoError(t, err)
	_, err = Lift(t.Context(), c, end, o)
	require.NoError(t, err)
	require.NotNil(t, s.policy, "its pods do not have the label yet")
	_, err = Lift(t.Context(), c, end, later(later(o)))
	require.NoError(t, err)
	require.Nil(t, s.policy)
}
