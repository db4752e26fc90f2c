package quarantine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// rbacServer has one RoleBinding, its Role and one account, and answers reviews by them. What a real one answers is
// tested end to end.
type rbacServer struct {
	mu      sync.Mutex
	version int
	binding *rbacv1.RoleBinding
	account *corev1.ServiceAccount
	rules   []rbacv1.PolicyRule
	forbid  string // requests, as "PATCH rolebindings"
	between func() // what somebody else does right before the next change
	remakes bool   // the namespace's own account is made again at once
	allowed string // the user who may do everything
	forgets int    // after so many reviews that he may not
	asked   int
}

func (s *rbacServer) next() string {
	s.version++
	return fmt.Sprint(s.version)
}

func (s *rbacServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(object any) { _ = json.NewEncoder(w).Encode(object) }
	status := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		answer(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason})
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource := parts[len(parts)-1]
	if !slices.Contains([]string{"subjectaccessreviews", "serviceaccounts"}, resource) {
		resource = parts[len(parts)-2]
	}
	if s.forbid == r.Method+" "+resource {
		status(http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	}
	if r.Method != http.MethodGet && s.between != nil && resource != "subjectaccessreviews" {
		s.between()
		s.between = nil
	}
	switch resource {
	case "rolebindings":
		s.bindings(r, answer, status)
	case "roles":
		answer(rbacv1.Role{TypeMeta: metav1.TypeMeta{Kind: "Role", APIVersion: "rbac.authorization.k8s.io/v1"}, Rules: s.rules})
	case "serviceaccounts":
		s.accounts(r, answer, status)
	case "subjectaccessreviews":
		if s.asked++; s.forgets > 0 && s.asked > s.forgets {
			s.allowed = ""
		}
		var review authorizationv1.SubjectAccessReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		review.Kind, review.APIVersion = "SubjectAccessReview", "authorization.k8s.io/v1"
		review.Status.Allowed = review.Spec.User == s.allowed || slices.ContainsFunc(s.binding.Subjects, func(b rbacv1.Subject) bool {
			return "system:serviceaccount:"+b.Namespace+":"+b.Name == review.Spec.User
		})
		answer(review)
	}
}

func (s *rbacServer) bindings(r *http.Request, answer func(any), status func(int, metav1.StatusReason)) {
	switch {
	case s.binding == nil:
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodPatch:
		var sent struct {
			Metadata struct {
				UID, ResourceVersion string
				Annotations          map[string]string
			}
			Subjects []rbacv1.Subject
		}
		_ = json.NewDecoder(r.Body).Decode(&sent)
		if sent.Metadata.UID != string(s.binding.UID) || sent.Metadata.ResourceVersion != s.binding.ResourceVersion {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.binding.ResourceVersion, s.binding.Subjects = s.next(), sent.Subjects
		s.binding.Annotations = sent.Metadata.Annotations
		answer(s.binding)
	default:
		answer(s.binding)
	}
}

func (s *rbacServer) accounts(r *http.Request, answer func(any), status func(int, metav1.StatusReason)) {
	switch {
	case r.Method == http.MethodPost && s.account != nil:
		status(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	case r.Method == http.MethodPost:
		var sent corev1.ServiceAccount
		_ = json.NewDecoder(r.Body).Decode(&sent)
		sent.ResourceVersion = s.next()
		sent.UID = types.UID("made-" + sent.ResourceVersion)
		s.account = &sent
		answer(s.account)
	default:
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
}

// one serves the account by its name.
func (s *rbacServer) one(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(object any) { _ = json.NewEncoder(w).Encode(object) }
	status := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		answer(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason})
	}
	switch {
	case s.forbid == r.Method+" serviceaccounts":
		status(http.StatusForbidden, metav1.StatusReasonForbidden)
	case s.account == nil:
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodDelete:
		var o metav1.DeleteOptions
		_ = json.NewDecoder(r.Body).Decode(&o)
		if o.Preconditions == nil || *o.Preconditions.UID != s.account.UID || *o.Preconditions.ResourceVersion != s.account.ResourceVersion {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.account = nil
		if s.remakes {
			s.account = &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "plain", ResourceVersion: s.next()}}
		}
		answer(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	case r.Method == http.MethodPut:
		var sent corev1.ServiceAccount
		_ = json.NewDecoder(r.Body).Decode(&sent)
		if sent.ResourceVersion != s.account.ResourceVersion {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		sent.ResourceVersion = s.next()
		s.account = &sent
		answer(s.account)
	default:
		answer(s.account)
	}
}

// granted serves a binding of the suspect's account web and of db, which is no suspect.
func granted(t *testing.T) (*rbacServer, *kube.Cluster, AccessPlan, Order) {
	t.Helper()
	b := binding("reads", serviceAccount("web"), serviceAccount("db"))
	b.TypeMeta = metav1.TypeMeta{Kind: "RoleBinding", APIVersion: "rbac.authorization.k8s.io/v1"}
	yes := false
	s := &rbacServer{version: 1, binding: &b, rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list"}}}, account: &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "a1", ResourceVersion: "1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"role": "arn"}},
		Secrets:    []corev1.ObjectReference{{Name: "mounted"}}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}, AutomountServiceAccountToken: &yes,
	}}
	mux := http.NewServeMux()
	mux.Handle("/", s)
	mux.HandleFunc("/api/v1/namespaces/shop/serviceaccounts/web", s.one)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	require.NoError(t, err)
	plan := planned(t, runsAs("web-1=web", "web-2=web"), suspects(t, "web-1"), b)
	return s, &kube.Cluster{Client: client, Namespace: "shop"}, plan, Order{Case: caseID, Target: "shop", At: now}
}

func taking(t *testing.T, c *kube.Cluster, plan AccessPlan, o Order) Withdrawn {
	t.Helper()
	done, err := Withdraw(t.Context(), c, plan, o)
	require.NoError(t, err)
	return done
}

func returning(t *testing.T, c *kube.Cluster, done Withdrawn, o Order, back bool) []Returned {
	t.Helper()
	all, err := PlanReturn(t.Context(), c, done, caseID, back)
	require.NoError(t, err)
	out, err := Return(t.Context(), c, all, o)
	require.NoError(t, err)
	require.False(t, out.Undone)
	return all
}

var (
	webAndDB = []rbacv1.Subject{serviceAccount("web"), serviceAccount("db")}
	dbAndWeb = []rbacv1.Subject{serviceAccount("db"), serviceAccount("web")}
	onlyDB   = []rbacv1.Subject{serviceAccount("db")}
)

func TestOnlyTheSuspectIsTakenOutAndGetsBackIn(t *testing.T) {
	s, c, plan, o := granted(t)
	done := taking(t, c, plan, o)
	require.Equal(t, onlyDB, s.binding.Subjects)
	require.Equal(t, []rbacv1.Subject{serviceAccount("web")}, done.Bindings[0].Subjects)
	require.Equal(t, done, taking(t, c, plan, o), "twice, it is done")
	version := s.binding.ResourceVersion
	taking(t, c, plan, o)
	require.Equal(t, version, s.binding.ResourceVersion, "and changes nothing")

	all := returning(t, c, done, later(o), true)
	require.Empty(t, all[0].Conflicts)
	require.Equal(t, dbAndWeb, s.binding.Subjects)
	version = s.binding.ResourceVersion
	again, err := PlanReturn(t.Context(), c, done, caseID, true)
	require.NoError(t, err)
	require.Contains(t, again[0].Not, "already")
	_, err = Return(t.Context(), c, all, later(o))
	require.NoError(t, err)
	require.Equal(t, version, s.binding.ResourceVersion)
}

func TestABindingOfNobodyElseStays(t *testing.T) {
	s, c, plan, o := granted(t)
	s.binding.Subjects = s.binding.Subjects[:1]
	done := taking(t, c, plan, o)
	require.Empty(t, s.binding.Subjects)
	all := returning(t, c, done, later(o), true)
	require.Contains(t, all[0].Do, `{"op":"add","path":"/subjects","value":[{`)
	require.Equal(t, []rbacv1.Subject{serviceAccount("web")}, s.binding.Subjects)
}

func TestAWithdrawalThatComesLateTakesNothing(t *testing.T) {
	for name, back := range map[string]bool{"it was given back": true, "the pods were deleted": false} {
		t.Run(name, func(t *testing.T) {
			s, c, plan, o := granted(t)
			done := taking(t, c, plan, o)
			returning(t, c, done, later(o), back)
			require.Equal(t, map[bool][]rbacv1.Subject{true: dbAndWeb, false: onlyDB}[back], s.binding.Subjects)
			s.mu.Lock()
			s.binding.Subjects = webAndDB // also where a person has given it back since
			s.mu.Unlock()
			taking(t, c, plan, o)
			require.Equal(t, webAndDB, s.binding.Subjects)
		})
	}
	t.Run("an end beside a later run", func(t *testing.T) {
		s, c, plan, o := granted(t)
		done := taking(t, c, plan, o)
		all, err := PlanReturn(t.Context(), c, done, caseID, true)
		require.NoError(t, err)
		taking(t, c, plan, later(later(o)))
		_, err = Return(t.Context(), c, all, later(o))
		require.NoError(t, err)
		require.Equal(t, onlyDB, s.binding.Subjects)
	})
	t.Run("a new binding of the name", func(t *testing.T) {
		s, c, plan, o := granted(t)
		s.binding.UID = "another"
		done := taking(t, c, plan, o)
		require.Empty(t, done.Bindings)
		require.Contains(t, done.Remarks[0], "gone, or another one")
		require.Equal(t, webAndDB, s.binding.Subjects)
	})
}

func TestWhatOthersChangeMeanwhileStays(t *testing.T) {
	s, c, plan, o := granted(t)
	s.between = func() {
		s.binding.Subjects, s.binding.ResourceVersion = append(slices.Clone(webAndDB), serviceAccount("ann")), s.next()
	}
	done := taking(t, c, plan, o)
	require.Equal(t, []rbacv1.Subject{serviceAccount("db"), serviceAccount("ann")}, s.binding.Subjects, "it is read again")
	s.binding.Subjects = []rbacv1.Subject{serviceAccount("ann")}
	all := returning(t, c, done, later(o), true)
	require.Equal(t, []string{"somebody has changed who else is in it, and that stays"}, all[0].Conflicts)
	require.Equal(t, []rbacv1.Subject{serviceAccount("ann"), serviceAccount("web")}, s.binding.Subjects)
}

func TestOneWhoIsPutBackIsTakenOutAgain(t *testing.T) {
	s, c, plan, o := granted(t)
	done := taking(t, c, plan, o)
	s.binding.Subjects = webAndDB
	proof, err := ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, []string{"RoleBinding shop/reads"}, proof.Back)
	require.Equal(t, run.Fail, proof.Checks[0].Verdict)
	again := taking(t, c, plan, o)
	require.Contains(t, again.Remarks[0], "put the suspects back")
	require.Equal(t, onlyDB, s.binding.Subjects)
	s.binding.Subjects = webAndDB
	all := returning(t, c, again, later(o), true)
	require.Contains(t, all[0].Conflicts[0], "put account shop/web back")
	require.Equal(t, webAndDB, s.binding.Subjects, "once")
}

func TestTwoCasesHoldOneAccount(t *testing.T) {
	s, c, plan, o := granted(t)
	first := taking(t, c, plan, o)
	other := plan
	other.Case = "0ther"
	by := later(o)
	by.Case = other.Case
	second := taking(t, c, other, by)
	require.Len(t, second.Bindings, 1, "it is out already, and held")
	all := returning(t, c, first, later(by).as(caseID), true)
	require.Contains(t, all[0].Conflicts[0], "case 0ther holds account shop/web too")
	require.Equal(t, onlyDB, s.binding.Subjects)
	returned, err := PlanReturn(t.Context(), c, second, other.Case, true)
	require.NoError(t, err)
	_, err = Return(t.Context(), c, returned, later(by))
	require.NoError(t, err)
	require.Equal(t, dbAndWeb, s.binding.Subjects)
}

func (o Order) as(caseID string) Order {
	o.Case = caseID
	return o
}

func TestWhatIsForbiddenStaysAndIsSaid(t *testing.T) {
	for _, forbid := range []string{"GET rolebindings", "PATCH rolebindings"} {
		s, c, plan, o := granted(t)
		s.forbid = forbid
		done := taking(t, c, plan, o)
		require.True(t, done.Undone(), forbid)
		require.Empty(t, done.Bindings)
		require.Contains(t, done.Stay[0].Why, "must be let change it, and bind its role")
		s.forbid = ""
		proof, err := ProveAccess(t.Context(), c, plan, done, true)
		require.NoError(t, err)
		require.Equal(t, run.NotProven, proof.Checks[0].Verdict)
		require.Contains(t, proof.Checks[0].Detail, "RoleBinding shop/reads gives Role reads: the API server forbids it")
		require.Equal(t, webAndDB, s.binding.Subjects)
	}
	s, c, plan, o := granted(t)
	done := taking(t, c, plan, o)
	all, err := PlanReturn(t.Context(), c, done, caseID, true)
	require.NoError(t, err)
	s.forbid = "PATCH rolebindings"
	out, err := Return(t.Context(), c, all, later(o))
	require.NoError(t, err)
	require.True(t, out.Undone)
	require.Equal(t, `give it back: kubectl patch rolebinding reads -n shop --type=json -p '[{"op":"add","path":"/subjects/-","value":{"kind":"ServiceAccount","name":"web","namespace":"shop"}}]'`, out.FollowUps[0])
}

func TestReviewsProveWhatIsWithdrawn(t *testing.T) {
	find := func(proof AccessProof, name string) run.Check {
		i := slices.IndexFunc(proof.Checks, func(c run.Check) bool { return c.Name == name })
		require.GreaterOrEqual(t, i, 0, "%s in %v", name, proof.Checks)
		return proof.Checks[i]
	}
	given := settles
	t.Cleanup(func() { settles = given })
	settles = 0
	const accounts, others = "what the accounts may do", "what others may do"
	s, c, plan, o := granted(t)
	plan.Gaps = nil
	done := taking(t, c, plan, o)
	proof, err := ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.Pass, find(proof, accounts).Verdict, proof.Checks)
	require.Len(t, proof.Checks, 1)
	require.Equal(t, 4, s.asked, "two rights of two accounts")

	s.forbid = "POST subjectaccessreviews"
	proof, err = ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.NotProven, find(proof, accounts).Verdict)
	s.forbid = "GET roles"
	proof, err = ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.NotProven, find(proof, accounts).Verdict)
	s.forbid, s.binding.Subjects = "", nil
	proof, err = ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.NotProven, find(proof, others).Verdict, "somebody else has taken db out")

	s.binding.Subjects, s.allowed = onlyDB, "system:serviceaccount:shop:web"
	proof, err = ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.Fail, find(proof, accounts).Verdict)
	require.Contains(t, find(proof, accounts).Detail, "account shop/web still can get secrets")
	plan.Gaps = []string{"could not list the ClusterRoleBindings"}
	proof, err = ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.NotProven, find(proof, accounts).Verdict, "by what was not seen, maybe")
}

func TestTheAPIServerIsGivenTimeToKnow(t *testing.T) {
	s, c, plan, o := granted(t)
	plan.Gaps = nil
	done := taking(t, c, plan, o)
	s.allowed, s.forgets = "system:serviceaccount:shop:web", 3
	proof, err := ProveAccess(t.Context(), c, plan, done, true)
	require.NoError(t, err)
	require.Equal(t, run.Pass, proof.Checks[0].Verdict, proof.Checks)
}

func TestRequestsAreBounded(t *testing.T) {
	rule := rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "pods/exec"}, Verbs: []string{"get", "*"}, ResourceNames: []string{"a", "b", "c"}}
	all, n := requests([]rbacv1.PolicyRule{rule, {NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}, "shop", 5)
	require.Len(t, all, 5)
	require.Equal(t, 24, n, "a RoleBinding gives no path")
	_, n = requests([]rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}, "", 5)
	require.Equal(t, 1, n)
	all, _ = requests(nil, "shop", -1)
	require.Empty(t, all)
}

func renewals(t *testing.T, c *kube.Cluster, plan AccessPlan) []Renewed {
	t.Helper()
	all, err := PlanRenewal(t.Context(), c, plan.Accounts)
	require.NoError(t, err)
	return all
}

func TestAnAccountIsMadeAnewWithAllThatItHas(t *testing.T) {
	s, c, plan, o := granted(t)
	all := renewals(t, c, plan)
	require.Equal(t, "web-2", all[0].Users())
	had := s.account.DeepCopy()
	out, err := Renew(t.Context(), c, all, o)
	require.NoError(t, err)
	require.False(t, out.Undone)
	require.Equal(t, []Ref{{"shop", "web"}}, out.Renewed)
	made := s.account
	require.NotEqual(t, had.UID, made.UID)
	require.Equal(t, had.Labels, made.Labels)
	require.Equal(t, map[string]string{"role": "arn", renewedNote: caseID}, made.Annotations)
	require.Equal(t, had.Secrets, made.Secrets)
	require.Equal(t, had.ImagePullSecrets, made.ImagePullSecrets)
	require.Equal(t, had.AutomountServiceAccountToken, made.AutomountServiceAccountToken)

	s.account.ImagePullSecrets = nil // a person, since
	out, err = Renew(t.Context(), c, all, o)
	require.NoError(t, err)
	require.Equal(t, []Ref{{"shop", "web"}}, out.Renewed)
	require.Equal(t, made.UID, s.account.UID, "twice, it is done")
	require.Empty(t, s.account.ImagePullSecrets)
}

func TestAnAccountIsNeverLeftAway(t *testing.T) {
	t.Run("half done", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.account = nil
		_, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.Equal(t, "registry", s.account.ImagePullSecrets[0].Name)
	})
	t.Run("it may not be made", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.forbid = "POST serviceaccounts"
		out, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.True(t, out.Undone)
		require.Contains(t, out.FollowUps[0], "kubectl get serviceaccount web -n shop -o yaml | kubectl replace --force -f -")
		require.Equal(t, types.UID("a1"), s.account.UID, "so it is not deleted")
	})
	t.Run("it may not be deleted", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.forbid = "DELETE serviceaccounts"
		out, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.True(t, out.Undone)
		require.Empty(t, out.Renewed)
	})
	t.Run("Kubernetes makes it at once", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.remakes = true
		out, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.Len(t, out.Renewed, 1)
		require.Equal(t, "registry", s.account.ImagePullSecrets[0].Name)
		require.Equal(t, caseID, s.account.Annotations[renewedNote])
	})
	t.Run("somebody has changed it since it was decided", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.account.Labels["new"] = "label"
		out, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.True(t, out.Undone)
		require.Equal(t, types.UID("a1"), s.account.UID)
	})
	t.Run("an attempt that comes too late makes none", func(t *testing.T) {
		s, c, plan, o := granted(t)
		all := renewals(t, c, plan)
		s.account = nil
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		require.Error(t, all[0].make(ctx, c, o, nil))
		require.Nil(t, s.account)
	})
}

func TestAccountsThatAreNotMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(*corev1.ServiceAccount){
		"of a controller": func(a *corev1.ServiceAccount) {
			a.OwnerReferences = []metav1.OwnerReference{{Kind: "Tenant", Name: "shop"}}
		},
		"with finalizers": func(a *corev1.ServiceAccount) { a.Finalizers = []string{"x/y"} },
		"of Upkeep":       func(a *corev1.ServiceAccount) { a.Labels["app.kubernetes.io/part-of"] = "upkeep" },
		"too large":       func(a *corev1.ServiceAccount) { a.Annotations["x"] = strings.Repeat("x", maxAccount) },
	} {
		s, c, plan, o := granted(t)
		spoil(s.account)
		all := renewals(t, c, plan)
		require.NotEmpty(t, all[0].Not, name)
		_, err := Renew(t.Context(), c, all, o)
		require.NoError(t, err)
		require.Equal(t, types.UID("a1"), s.account.UID, name)
	}
	_, c, plan, _ := granted(t)
	plan.Accounts[0].Not = "Upkeep itself runs as it"
	require.Equal(t, "Upkeep itself runs as it", renewals(t, c, plan)[0].Not)
}
