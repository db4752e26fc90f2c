//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/access"
	"github.com/upkeep-run/upkeep/internal/objstore"
)

// estate is a namespace whose access is reviewed.
type estate struct {
	stack.Namespace
	stack *harness.Stack
}

var estates atomic.Int64

// people are the accounts and grants of an estate.
const people = `
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reviewer"}},
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}},
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "deployer"}},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "web"}, "rules": [{"apiGroups": [""], "resources": ["configmaps", "*/status"], "verbs": ["get", "list"]}, {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web-tls"], "verbs": ["get"]}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "web"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "web"}, "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": %[1]q}, {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "\u001b[31mann\u202e"}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "deployer"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": %[1]q}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "lost"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gone"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccounts:%[1]s"}]}
]}`

func newEstate(t *testing.T) estate {
	t.Helper()
	e := estate{Namespace: stack.Namespace(fmt.Sprintf("%s-access-%d", namespace, estates.Add(1)))}
	require.NoError(t, e.Create())
	t.Cleanup(func() { require.NoError(t, e.Remove()) })
	_, err := command(time.Minute, fmt.Sprintf(people, e.Namespace), "kubectl", "--namespace", string(e.Namespace), "apply", "-f", "-")
	require.NoError(t, err)
	e.stack = harness.New(t, fmt.Sprintf(`  - name: shop
    kubernetes: {namespace: %s}
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
`, e.Namespace))
	return e
}

// as writes a kubeconfig that logs in as an account of the estate, and returns its path.
func (e estate) as(t *testing.T, account string) string {
	t.Helper()
	token, err := e.Kubectl("create", "token", account)
	require.NoError(t, err)
	cfg, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	for name := range cfg.AuthInfos {
		cfg.AuthInfos[name].ClientCertificate, cfg.AuthInfos[name].ClientCertificateData = "", nil
		cfg.AuthInfos[name].ClientKey, cfg.AuthInfos[name].ClientKeyData = "", nil
		cfg.AuthInfos[name].Token = strings.TrimSpace(token)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*cfg, path))
	return path
}

func reviewed(t *testing.T, doc *run.Document) (r reviewaccess.Result) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	t.Log(doc.Outcome, doc.Summary, doc.Error)
	return r
}

// mine are the checks about the estate's own changes: others may work in the cluster meanwhile.
func (e estate) mine(r reviewaccess.Result) (all []string) {
	for _, c := range r.Checks {
		if c.Name == "since the baseline" && strings.Contains(c.Detail, string(e.Namespace)+"/") {
			all = append(all, c.Detail)
		}
	}
	return all
}

// TestAccessIsReviewed by an account that may only list, and may not even do that at first.
func TestAccessIsReviewed(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	serve(t, e.stack, "w", "KUBECONFIG="+e.as(t, "reviewer"))

	// What may not be read is named, with the command that grants it. It is the right one: it is run.
	doc := e.stack.Run(t, reviewaccess.WorkflowType, `{"baseline":"compare"}`)
	r := reviewed(t, doc)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome)
	require.Equal(t, []string{"clusterrolebindings", "clusterroles", "pods", "rolebindings", "roles", "serviceaccounts"}, r.Unread)
	require.Contains(t, r.Grant, "--serviceaccount="+string(e.Namespace)+":reviewer")
	own := strings.ReplaceAll(r.Grant, "upkeep-review-access", string(e.Namespace)) // whatever others have of that name
	t.Cleanup(func() {
		_, err := kubectl("delete", "clusterrole,clusterrolebinding", string(e.Namespace))
		require.NoError(t, err)
	})
	out, err := exec.CommandContext(t.Context(), "sh", "-c", own).CombinedOutput()
	require.NoError(t, err, "%s", out)

	// The first run proposes a baseline, and a person accepts it.
	id := e.stack.Start(t, reviewaccess.WorkflowType, `{}`)
	waits := e.stack.Until(t, id, func(d *run.Document) bool { return d.Outcome == run.Waiting || d.Outcome.Ended() })
	require.True(t, waits.AsksApproval(), waits.Summary)
	require.Empty(t, e.chain(t))
	require.NoError(t, e.stack.Starter.DecideOnPlan(t.Context(), id, true, run.PlanDecision{Plan: waits.Approval.Hash, By: "ann", Reason: "seen"}))
	doc = e.stack.Await(t, id)
	r = reviewed(t, doc)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Empty(t, r.Unread)
	chain := e.chain(t)
	require.Len(t, chain, 1)
	require.Equal(t, r.Accepted, chain[0].Hash())
	shown := e.stack.Upkeep(t, "access", "show", id)
	require.Zero(t, shown.Code, shown.Err)
	require.NotContains(t, shown.Out, "\x1b", "names steer no terminal")
	require.NotContains(t, shown.Out, "\u202e")
	require.Contains(t, shown.Out, `user "\x1b[31mann\u202e"`)
	require.Contains(t, shown.Out, "account "+string(e.Namespace)+"/deployer may run pods as any account of the namespace")
	require.Contains(t, shown.Out, "RoleBinding "+string(e.Namespace)+"/lost grants Role "+string(e.Namespace)+"/gone, which is not there")
	whole := e.stack.Upkeep(t, "access", "show", id, "-o", "json")
	var review access.Review
	require.NoError(t, json.Unmarshal([]byte(whole.Out), &review))
	e.agrees(t, &review)

	// Nothing has changed, then somebody may do more, and then not any more.
	r = reviewed(t, e.stack.Run(t, reviewaccess.WorkflowType, `{}`))
	require.Empty(t, e.mine(r))
	_, err = e.Kubectl("create", "role", "door", "--verb=create", "--resource=pods/exec")
	require.NoError(t, err)
	_, err = e.Kubectl("create", "rolebinding", "door", "--role=door", "--serviceaccount="+string(e.Namespace)+":web")
	require.NoError(t, err)
	doc = e.stack.Run(t, reviewaccess.WorkflowType, `{}`)
	r = reviewed(t, doc)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Contains(t, strings.Join(e.mine(r), "\n"), "added high risk: account "+string(e.Namespace)+"/web may run commands in pods")
	differs := e.stack.Upkeep(t, "access", "diff", doc.RunID)
	require.Equal(t, 1, differs.Code, differs.Err)
	require.Contains(t, differs.Out, "added grant: account "+string(e.Namespace)+"/web has Role "+string(e.Namespace)+"/door")
	_, err = e.Kubectl("delete", "rolebinding,role", "door")
	require.NoError(t, err)
	require.Empty(t, e.mine(reviewed(t, e.stack.Run(t, reviewaccess.WorkflowType, `{}`))))

	// Somebody alters the baseline.
	require.Equal(t, 3, e.stack.Upkeep(t, "access", "verify").Code, "nobody said whose key that is")
	require.Zero(t, e.stack.Upkeep(t, "access", "verify", "--key", chain[0].Key, "--has", chain[0].Hash()).Code)
	files, err := filepath.Glob(filepath.Join(e.stack.Store, "shop", "access", "baselines", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], []byte(strings.Replace(string(data), `"by":"ann"`, `"by":"eve"`, 1)), 0o600))
	doc = e.stack.Run(t, reviewaccess.WorkflowType, `{}`)
	require.Equal(t, run.Failed, doc.Outcome)
	require.Equal(t, "BadBaseline", doc.Error.Code)
	require.NotZero(t, reviewed(t, doc).Subjects, "the review is shown all the same")
	refused := e.stack.Upkeep(t, "access", "verify")
	require.Equal(t, 1, refused.Code)
	require.Contains(t, refused.Err, "it was altered")
}

// chain are the baselines in the estate's store.
func (e estate) chain(t *testing.T) []*access.Baseline {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file://"+e.stack.Store)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	all, err := access.Chain(t.Context(), store, "shop")
	require.NoError(t, err)
	return all
}

// agrees holds what a review says of accounts against the API server's own authorizer.
func (e estate) agrees(t *testing.T, review *access.Review) {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	require.NoError(t, err)
	rules := make(map[access.Ref][]access.Rule)
	for _, g := range review.Roles {
		rules[g.Ref] = g.Rules
	}
	asked, allowed := 0, 0
	for _, account := range []string{"web", "deployer", "reviewer", "default"} {
		name := "system:serviceaccount:" + string(e.Namespace) + ":" + account
		who := []access.Subject{{Kind: access.KindAccount, Namespace: string(e.Namespace), Name: account}}
		groups := []string{"system:serviceaccounts:" + string(e.Namespace), "system:serviceaccounts", "system:authenticated"}
		for _, g := range groups {
			who = append(who, access.Subject{Kind: access.KindGroup, Name: g})
		}
		for _, where := range []string{string(e.Namespace), "default", ""} {
			for _, what := range []authorizationv1.ResourceAttributes{
				{Resource: "pods"}, {Resource: "pods", Subresource: "exec"}, {Resource: "pods", Subresource: "status"}, {Resource: "secrets"}, {Resource: "secrets", Name: "web-tls"}, {Resource: "secrets", Name: "other"},
				{Resource: "configmaps"}, {Resource: "serviceaccounts", Subresource: "token"}, {Resource: "serviceaccounts"}, {Resource: "nodes", Subresource: "proxy"}, {Resource: "nodes"},
				{Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "deployments", Subresource: "scale"}, {Group: "batch", Resource: "jobs"},
				{Group: "rbac.authorization.k8s.io", Resource: "roles"}, {Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
			} {
				for _, verb := range []string{"get", "list", "create", "patch", "delete", "escalate", "impersonate"} {
					what.Verb, what.Namespace = verb, where
					answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
						Spec: authorizationv1.SubjectAccessReviewSpec{User: name, Groups: groups, ResourceAttributes: &what}}, metav1.CreateOptions{})
					require.NoError(t, err)
					resource := what.Resource
					if what.Subresource != "" {
						resource += "/" + what.Subresource
					}
					says := slices.ContainsFunc(review.Subjects, func(h access.Holder) bool {
						return slices.Contains(who, h.Subject) && slices.ContainsFunc(h.Grants, func(g access.Grant) bool {
							return (g.Scope == "" || g.Scope == where) && slices.ContainsFunc(rules[g.Role], func(r access.Rule) bool { return r.Allows(verb, what.Group, resource, what.Name) })
						})
					})
					require.Equal(t, answer.Status.Allowed, says, "%s %+v: %s", name, what, answer.Status.Reason)
					asked++
					if says {
						allowed++
					}
				}
			}
		}
	}
	t.Logf("%d questions, %d of them allowed, answered as the API server does", asked, allowed)
	require.NotZero(t, allowed)
}

// accepts is ReviewAccess's trial: whatever is hit, there is one baseline of each run that began, and it is whole.
func (e estate) accepts() trial {
	return trial{
		stack: e.stack, procedure: reviewaccess.WorkflowType, input: `{"baseline":"propose"}`,
		look: func(t *testing.T) string {
			t.Helper()
			text := ""
			for _, b := range e.chain(t) {
				text += b.Hash() + "\n"
			}
			return text
		},
		holds: func(t *testing.T, doc *run.Document, begun int) {
			t.Helper()
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			chain := e.chain(t)
			require.NotEmpty(t, chain)
			require.LessOrEqual(t, len(chain), begun)
			require.Equal(t, reviewed(t, doc).Accepted, chain[len(chain)-1].Hash())
		},
	}
}

// TestReviewAccessIsKilled at each side of each effect: one baseline comes of it.
func TestReviewAccessIsKilled(t *testing.T) {
	t.Parallel()
	every(t, reviewAccessCases(), reviewAccessCases(), func(t *testing.T, c string) {
		newEstate(t).accepts().killed(t, c)
	})
}

// TestReviewAccessHasATwin that was frozen before an effect, and wakes up when another has done it all.
func TestReviewAccessHasATwin(t *testing.T) {
	t.Parallel()
	every(t, before(reviewAccessCases()), before(reviewAccessCases()), func(t *testing.T, c string) {
		newEstate(t).accepts().doubled(t, c)
	})
}

// TestTheButtonsPressedOnAReview in the middle of it: what is left of the first is not in the way of the next.
func TestTheButtonsPressedOnAReview(t *testing.T) {
	t.Parallel()
	every(t, either(reviewAccessCases()), []string{"terminate/access/baseline/after", "reset/access/baseline/before"}, func(t *testing.T, c string) {
		how, point, _ := strings.Cut(c, "/")
		newEstate(t).accepts().pressed(t, how, point)
	})
}
