//go:build e2e

package e2e

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// unusable are rights that are granted although no run on this cluster can use them, and why.
var unusable = map[string]string{
	"create pods/portforward": "a WebSocket is a get alone to API servers before 1.35; later ones ask for create besides, and one that speaks no WebSocket is asked by create",
}

// account is a ServiceAccount that has exactly what "upkeep rbac" prints.
type account struct {
	user, kubeconfig string
	granted          []rbacv1.Role // a ClusterRole has no namespace
}

// env is the environment of a worker that acts as the account.
func (a *account) env() string { return "KUBECONFIG=" + a.kubeconfig }

// narrow makes an account for the stack's target, as its configuration is now.
func narrow(t *testing.T, s *harness.Stack, name string, args ...string) *account {
	t.Helper()
	if allInPods {
		return &account{} // workers in pods have accounts of their own
	}
	args = append([]string{"rbac", "--outside", "--service-account", namespace + "/" + name, "-o", "json"}, args...)
	cmd, out, errOut := s.Command(t, []string{"KUBECONFIG=" + os.Getenv("KUBECONFIG")}, args...)
	called := harness.Finish(t, cmd.Run(), cmd, out, errOut)
	require.Zero(t, called.Code, called.Err)
	_, err := kubectl("create", "serviceaccount", name)
	require.NoError(t, err)
	_, err = command(time.Minute, called.Out, "kubectl", "apply", "-f", "-")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := command(time.Minute, called.Out, "kubectl", "delete", "--ignore-not-found", "-f", "-")
		require.NoError(t, err)
	})
	a := &account{user: "system:serviceaccount:" + namespace + ":" + name, kubeconfig: filepath.Join(s.Dir, name+".kubeconfig"), granted: roles(t, called.Out)}
	token, err := kubectl("create", "token", name)
	require.NoError(t, err)
	config, err := kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal([]byte(config), &file))
	file["users"].([]any)[0].(map[string]any)["user"] = map[string]string{"token": strings.TrimSpace(token)}
	text, err := json.Marshal(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.kubeconfig, text, 0o600))
	return a
}

// roles are the Roles and ClusterRoles of a list of objects.
func roles(t *testing.T, list string) (all []rbacv1.Role) {
	t.Helper()
	var objects struct{ Items []rbacv1.Role }
	require.NoError(t, json.Unmarshal([]byte(list), &objects))
	for _, o := range objects.Items {
		if strings.HasSuffix(o.Kind, "Role") {
			all = append(all, o)
		}
	}
	require.NotEmpty(t, all)
	return all
}

// asked is a request as the audit log has it.
type asked struct {
	Verb       string
	RequestURI string
	User       struct{ Username string }
	ObjectRef  struct{ Resource, Namespace, Name, APIGroup, Subresource string }

	ResponseStatus struct {
		Code    int
		Message string
	}
}

func (a asked) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", a.Verb, resource(a.ObjectRef.APIGroup, a.ObjectRef.Resource, a.ObjectRef.Subresource), a.ObjectRef.Name))
}

func resource(group, name, sub string) string {
	if sub != "" {
		name += "/" + sub
	}
	if group != "" {
		name += "." + group
	}
	return name
}

// auditLog is what the API server wrote of an account's requests.
func auditLog(t *testing.T, user string) (all []asked) {
	t.Helper()
	path := cmp.Or(os.Getenv("UPKEEP_AUDIT_LOG"), "/var/lib/upkeep-cluster/log/audit.log")
	files, err := filepath.Glob(strings.TrimSuffix(path, ".log") + "*.log") // and what it was before it was full
	require.NoError(t, err)
	require.Contains(t, files, path, "the API server's audit log cannot be found; set UPKEEP_AUDIT_LOG to where this machine can read it (docs/cluster.md)")
	for _, file := range files {
		f, err := os.Open(file)
		require.NoError(t, err, "the API server's audit log has to be readable")
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if !strings.Contains(lines.Text(), `"`+user+`"`) {
				continue
			}
			var a asked
			require.NoError(t, json.Unmarshal(lines.Bytes(), &a))
			if a.User.Username == user {
				all = append(all, a)
			}
		}
		require.NoError(t, lines.Err())
		require.NoError(t, f.Close())
	}
	return all
}

// audited checks what the account has asked for, by the API server's audit log: nothing that was forbidden, and
// everything that it was granted, but for rights that only other tests use.
func (a *account) audited(t *testing.T, others ...string) {
	t.Helper()
	if allInPods {
		return // the workers are not this account
	}
	mark := "/version?mark=" + fmt.Sprint(time.Now().UnixNano())
	_, err := command(time.Minute, "", "kubectl", "--kubeconfig", a.kubeconfig, "get", "--raw", mark)
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, func() error {
		if !slices.ContainsFunc(auditLog(t, a.user), func(e asked) bool { return e.RequestURI == mark }) {
			return fmt.Errorf("the audit log does not have %s", mark)
		}
		return nil
	}))
	a.used(t, others...)
}

// used is audited without waiting for what was asked last.
func (a *account) used(t *testing.T, others ...string) {
	t.Helper()
	used := map[string]bool{}
	var forbidden, unused []string
	for _, e := range auditLog(t, a.user) {
		if e.ResponseStatus.Code == 403 {
			forbidden = append(forbidden, e.String()+": "+e.ResponseStatus.Message)
		}
		for _, name := range []string{"", e.ObjectRef.Name} {
			used[fmt.Sprintf("%s %s %s %s", e.Verb, resource(e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Subresource), e.ObjectRef.Namespace, name)] = true
		}
	}
	for _, role := range a.granted {
		for _, rule := range role.Rules {
			require.Empty(t, rule.NonResourceURLs)
			for _, verb := range rule.Verbs {
				for _, of := range rule.Resources {
					require.NotContains(t, verb+of+rule.APIGroups[0], "*")
					require.NotEqual(t, "nodes/proxy", of)
					for _, name := range append(rule.ResourceNames, "")[:max(1, len(rule.ResourceNames))] {
						right := fmt.Sprintf("%s %s", verb, resource(rule.APIGroups[0], of, ""))
						if !used[fmt.Sprintf("%s %s %s", right, role.Namespace, name)] && unusable[right] == "" && !slices.Contains(others, right) {
							unused = append(unused, strings.TrimSpace(right+" "+name))
						}
					}
				}
			}
		}
	}
	slices.Sort(forbidden)
	t.Logf("%s: %d requests of %d kinds", a.user, len(auditLog(t, a.user)), len(used))
	require.Empty(t, slices.Compact(forbidden), "forbidden, and asked for")
	require.Empty(t, unused, "granted, and not used")
}

// TestTheFixedRolesCanBeApplied: the API server takes the files as they are.
func TestTheFixedRolesCanBeApplied(t *testing.T) {
	out, err := kubectl("apply", "--dry-run=server", "-f", "../../../deploy/rbac")
	require.NoError(t, err)
	require.Contains(t, out, "role.rbac.authorization.k8s.io/upkeep-recover-data-cluster created (server dry run)")
}

// A release that uses every right of a rollout: its upgrade brings an object more, changes all others, runs a
// hook and looks something up; it has a Role, which only who has its rights may touch.
const rightsChart = `{{- $note := (lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt").metadata.name | printf "%s %s" .Values.note }}
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-web, annotations: {note: {{ $note }}}}
spec: {selector: {app: {{ .Release.Name }}-web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web, annotations: {note: {{ $note }}}}
spec:
  selector: {matchLabels: {app: {{ .Release.Name }}-web}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}-web}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: upkeep.test/busybox:dev
        imagePullPolicy: Never
        command: [sh, -c, "mkdir -p /tmp/www; echo open > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}-reader, annotations: {note: {{ $note }}}}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [{{ .Release.Name }}-extra], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}-reader, annotations: {note: {{ $note }}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}-reader}
subjects: [{kind: ServiceAccount, name: default, namespace: {{ .Release.Namespace }}}]
{{- if .Values.extra }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-extra}
data: {a: b}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-hook
  annotations: {helm.sh/hook: pre-upgrade, helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded,hook-failed"}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers: [{name: hook, image: upkeep.test/busybox:dev, imagePullPolicy: Never, command: [sh, -c, "echo said by the hook; {{ not .Values.fail }}"]}]
`

// TestRolloutUnderItsOwnRights: an upgrade that is rolled back, and one whose hook fails, by an account that
// has what "upkeep rbac" renders of the chart, and nothing else.
func TestRolloutUnderItsOwnRights(t *testing.T) {
	beside(t, ownAccounts)
	const name = "rights"
	chart := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(chart, "templates"), 0o755))
	for file, text := range map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: rights\nversion: 1.0.0\n", "values.yaml": "{note: one, extra: false, fail: false}\n", "templates/all.yaml": rightsChart,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(chart, file), []byte(text), 0o600))
	}
	_, err := helm("install", name, chart, "--wait", "--timeout", "1m")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := helm("uninstall", name, "--wait")
		require.NoError(t, err)
	})
	manyRevisions(t, name, chart, "note")
	s := harness.New(t, fmt.Sprintf(`  - name: shop
    kubernetes: {namespace: %s, release: %s, probes: [{name: front, service: %[2]s-web, port: 80, path: /index.html}]}
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
    rollout:
      chart: %s
      bake: 10s
      timeout: 60s
      migrations: compatible
      checks: [{name: never, query: vector(0), min: 1, prometheus: {service: prometheus-server, port: 9090}}]
`, namespace, name, chart))
	args := []string{"--procedure", rolloutrelease.WorkflowType, "--set", "extra=true", "--set", "note=two"}

	looker := narrow(t, s, "rollout-looker", append(args, "--dry-run-only")...)
	w := s.Worker(t, "looker", looker.env())
	doc := s.Run(t, rolloutrelease.WorkflowType, `{"dryRun": true, "set": {"extra": true, "note": "two"}}`)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	w.Kill()
	looker.audited(t)

	doer := narrow(t, s, "rollout-doer", args...)
	s.Worker(t, "doer", doer.env())
	doc = s.Await(t, approved(t, s, `{"override": "the test has no data", "set": {"extra": true, "note": "two"}}`))
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "was rolled back to revision")
	doc = s.Await(t, approved(t, s, `{"override": "the test has no data", "set": {"fail": true}}`))
	require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "said by the hook")
	doer.audited(t)
}

// manyRevisions gives a release as many as are kept, so that the next one removes the oldest.
func manyRevisions(t *testing.T, name, chart, value string) {
	t.Helper()
	for i := range 9 {
		_, err := helm("upgrade", name, chart, "--no-hooks", "--set", fmt.Sprintf("%s=n%d", value, i))
		require.NoError(t, err)
	}
}
