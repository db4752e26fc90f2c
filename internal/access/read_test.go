package access

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// apiServer answers lists of ClusterRoles by pages, and refuses what it is told to; the rest is empty. What
// a real one answers is tested end to end.
type apiServer struct {
	roles   []rbacv1.ClusterRole
	expires int             // so many continue tokens have become too old
	forbids map[string]bool // paths
	mu      sync.Mutex
	limits  []string // that were asked for
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	status := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "no: " + r.URL.Path})
	}
	if s.forbids[r.URL.Path] {
		status(http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/selfsubjectreviews") {
		fmt.Fprint(w, `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":"system:serviceaccount:upkeep:worker"}}}`)
		return
	}
	kinds := map[string]string{"clusterroles": "ClusterRoleList", "clusterrolebindings": "ClusterRoleBindingList", "roles": "RoleList", "rolebindings": "RoleBindingList", "serviceaccounts": "ServiceAccountList", "pods": "PodList"}
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	version := "rbac.authorization.k8s.io/v1"
	if strings.HasPrefix(r.URL.Path, "/api/") {
		version = "v1"
	}
	if resource != "clusterroles" {
		fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"items":[]}`, kinds[resource], version)
		return
	}
	var from, limit int
	_, _ = fmt.Sscan(r.URL.Query().Get("continue"), &from)
	_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
	s.limits = append(s.limits, r.URL.Query().Get("limit"))
	if from > 0 && s.expires > 0 {
		s.expires--
		status(http.StatusGone, metav1.StatusReasonExpired)
		return
	}
	to := min(from+limit, len(s.roles))
	page := rbacv1.ClusterRoleList{TypeMeta: metav1.TypeMeta{Kind: kinds[resource], APIVersion: version}, Items: s.roles[from:to]}
	if to < len(s.roles) {
		page.Continue = fmt.Sprint(to)
	}
	_ = json.NewEncoder(w).Encode(page)
}

func (s *apiServer) look(t *testing.T) (*Seen, error) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return Look(t.Context(), &kube.Cluster{Config: &rest.Config{Host: server.URL, QPS: -1}, Namespace: "shop"})
}

func roles(n, size int) (all []rbacv1.ClusterRole) {
	for i := range n {
		all = append(all, rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("r", i)}, Rules: []rbacv1.PolicyRule{rule("get pods named " + fmt.Sprint(i) + strings.Repeat("x", size))}})
	}
	return all
}

func TestListsAreReadByPages(t *testing.T) {
	s := &apiServer{roles: roles(1200, 0), expires: 2}
	seen, err := s.look(t)
	require.NoError(t, err)
	require.Len(t, seen.Roles, 1200, "begun anew when it had become too old, and nothing is there twice")
	require.Equal(t, "500", s.limits[0])
	require.Empty(t, seen.Unread)
	_, err = (&apiServer{roles: roles(600, 0), expires: 10}).look(t)
	require.Error(t, err)
}

// TestAnswersAreBounded: a page of large objects is asked for in smaller ones, and an object that is larger
// than any page is refused.
func TestAnswersAreBounded(t *testing.T) {
	s := &apiServer{roles: roles(40, 1<<20)}
	seen, err := s.look(t)
	require.NoError(t, err)
	require.Len(t, seen.Roles, 40)
	require.Contains(t, s.limits, "62")
	require.Contains(t, s.limits, "7")
	_, err = (&apiServer{roles: roles(1, maxPage)}).look(t)
	require.True(t, failure.Is(err, failure.TooManyGrants), "%v", err)
	_, err = (&apiServer{roles: roles(80, 1<<20)}).look(t)
	require.True(t, failure.Is(err, failure.TooManyGrants), "more than is kept: %v", err)
}

func TestWhatMayNotBeReadIsNamed(t *testing.T) {
	const group = "/apis/rbac.authorization.k8s.io/v1"
	s := &apiServer{roles: roles(1, 0), forbids: map[string]bool{group + "/clusterrolebindings": true, group + "/roles": true, "/api/v1/serviceaccounts": true, "/api/v1/namespaces/shop/serviceaccounts": true}}
	seen, err := s.look(t)
	require.NoError(t, err)
	var named []string
	for _, u := range seen.Unread {
		named = append(named, u.String())
		require.Equal(t, "kubectl create clusterrole upkeep-review-access --verb=list --resource="+strings.Join(wanted, ",")+
			" && kubectl create clusterrolebinding upkeep-review-access --clusterrole=upkeep-review-access --serviceaccount=upkeep:worker", u.Command)
	}
	require.Equal(t, []string{"clusterrolebindings", "roles of other namespaces than shop", "serviceaccounts"}, named)
	for who, want := range map[string]string{"ann": "--user=ann", "$(rm)": "--user='$(rm)'", "o'neil x": `--user='o'\''neil x'`, "": "--user=NAME_OF_THE_USER"} {
		require.Contains(t, grant(who), " "+want)
	}
}
