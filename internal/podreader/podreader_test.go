package podreader

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/procread"
)

const (
	uid   = "6c1f5c0e-6b6b-4c55-a3d5-0a2a3c0c0d01"
	other = "6c1f5c0e-6b6b-4c55-a3d5-0a2a3c0c0d02"
)

// apiServer takes what is made of ConfigMaps and pods, whose pods end at once and have a log. What a real one answers
// is tested end to end.
type apiServer struct {
	mu     sync.Mutex
	pods   map[string]*corev1.Pod
	log    func(p *corev1.Pod) []byte
	refuse string            // why pods may not be made
	state  func(*corev1.Pod) // how a pod is that was made
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fail := func(code int, reason metav1.StatusReason, message string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/log"):
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(s.log(s.pods[strings.Split(r.URL.Path, "/")[6]]))
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/configmaps"):
		var m corev1.ConfigMap
		_ = json.NewDecoder(r.Body).Decode(&m)
		m.UID = "owner"
		_ = json.NewEncoder(w).Encode(m)
	case r.Method == http.MethodPost && s.refuse != "":
		fail(http.StatusForbidden, metav1.StatusReasonForbidden, s.refuse)
	case r.Method == http.MethodPost:
		var p corev1.Pod
		_ = json.NewDecoder(r.Body).Decode(&p)
		p.Namespace = "shop"
		s.state(&p)
		s.pods[p.Name] = &p
		_ = json.NewEncoder(w).Encode(p)
	default:
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, p := range s.pods {
			list.Items = append(list.Items, *p)
		}
		_ = json.NewEncoder(w).Encode(list)
	}
}

func serve(t *testing.T) (*apiServer, *kube.Cluster) {
	t.Helper()
	s := &apiServer{pods: map[string]*corev1.Pod{}, state: func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0}}}}
	}}
	s.log = func(p *corev1.Pod) []byte { // what the program prints of the pods on its command line
		pods, err := procread.Pods(p.Spec.Containers[0].Command[3:])
		require.NoError(t, err)
		var seen []procread.Seen
		for _, of := range pods {
			seen = append(seen, procread.Seen{UID: of.UID})
		}
		var b bytes.Buffer
		require.NoError(t, procread.Write(&b, seen))
		return b.Bytes()
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	require.NoError(t, err)
	return s, &kube.Cluster{Client: client, Namespace: "shop"}
}

var (
	options = Options{RunID: "r", Realm: "n", Look: 1, Image: "upkeep:test", Command: []string{"upkeep", "processes", "--"}}
	two     = []Node{{"n1", []procread.Pod{{UID: uid}, {UID: other}}}, {"n2", []procread.Pod{{UID: other}}}}
)

func TestEachNodesPodsAreRead(t *testing.T) {
	s, c := serve(t)
	found, err := Read(t.Context(), c, options, two)
	require.NoError(t, err)
	require.Len(t, s.pods, 2)
	require.Empty(t, found[0].Why)
	require.Equal(t, []string{uid, other}, []string{found[0].Seen[0].UID, found[0].Seen[1].UID})
	require.Equal(t, other, found[1].Seen[0].UID)
}

// TestAReaderHasNoMoreThanItNeeds is the list of what it has, so that nobody adds to it unseen.
func TestAReaderHasNoMoreThanItNeeds(t *testing.T) {
	s, c := serve(t)
	_, err := Read(t.Context(), c, options, two[:1])
	require.NoError(t, err)
	for _, p := range s.pods {
		require.Equal(t, "n1", p.Spec.NodeName)
		require.True(t, p.Spec.HostPID)
		require.False(t, p.Spec.HostNetwork || p.Spec.HostIPC)
		require.False(t, *p.Spec.AutomountServiceAccountToken)
		require.Empty(t, p.Spec.Volumes)
		require.Empty(t, p.Spec.Containers[0].Env)
		require.LessOrEqual(t, *p.Spec.ActiveDeadlineSeconds, int64(60))
		require.Len(t, p.Labels, 1, "nothing selects it")
		require.Len(t, p.OwnerReferences, 1)
		have := p.Spec.Containers[0].SecurityContext
		require.Equal(t, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"SYS_PTRACE"}}, have.Capabilities)
		require.True(t, *have.ReadOnlyRootFilesystem)
		require.False(t, *have.AllowPrivilegeEscalation)
		require.Nil(t, have.Privileged)
		require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, p.Spec.SecurityContext.SeccompProfile.Type)
	}
}

func TestWhatCannotRunHasSeenNothingAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*apiServer)
		why    string
	}{
		"Pod Security": {func(s *apiServer) {
			s.refuse = `violates PodSecurity "restricted:latest": host namespaces (hostPID=true)`
		}, "violates PodSecurity"},
		"it prints another thing": {func(s *apiServer) { s.log = func(*corev1.Pod) []byte { return []byte("panic: no\x1b[31m") } }, "exit code 0: it is not what a reader prints"},
		"it prints too much": {func(s *apiServer) {
			s.log = func(*corev1.Pod) []byte { return bytes.Repeat([]byte("x"), procread.MaxOutput+1) }
		}, "it is too long"},
		"its deadline": {func(s *apiServer) {
			s.state = func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "DeadlineExceeded" }
		}, "DeadlineExceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			s, cluster := serve(t)
			c.change(s)
			found, err := Read(t.Context(), cluster, options, two[:1])
			require.NoError(t, err)
			require.Empty(t, found[0].Seen)
			require.Contains(t, found[0].Why, c.why)
			require.NotContains(t, found[0].Why, "\x1b")
		})
	}
}
