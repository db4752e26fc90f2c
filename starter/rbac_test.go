package starter

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const rightsChart = `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {note: {{ .Values.note | quote }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: {{ .Release.Name }}-reader}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: pre-upgrade}}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}
{{- if .Values.monitor }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: web}
{{- end }}
`

// rightsOf calls "upkeep rbac" for a target whose chart is the one above, without a cluster.
func rightsOf(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "chart", "templates"), 0o755))
	for file, text := range map[string]string{
		"chart/Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n", "chart/values.yaml": "{note: a, monitor: false}\n", "chart/templates/all.yaml": rightsChart,
		"upkeep.yaml": fmt.Sprintf("version: 1\nstore: file://%s/store\ntargets:\n"+
			"  - {name: shop, database: {url: postgres://a@b/c}, kubernetes: {namespace: shop, release: web}, rollout: {chart: %[1]s/chart}}\n"+
			"  - {name: bare, database: {url: postgres://a@b/d}}\n", dir),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	var o, e bytes.Buffer
	code = Main(t.Context(), append([]string{"rbac", "--offline", "--config", filepath.Join(dir, "upkeep.yaml")}, args...), &o, &e)
	return code, o.String(), e.String()
}

func TestRightsOfAChart(t *testing.T) {
	code, out, errOut := rightsOf(t, "--target", "shop", "--procedure", "RolloutRelease", "--service-account", "ops/worker")
	require.Zero(t, code, errOut)
	roles := map[string]rbacv1.Role{}
	for _, text := range bytes.Split([]byte(out), []byte("---\n")) {
		var r rbacv1.Role
		require.NoError(t, yaml.Unmarshal(text, &r))
		roles[r.Kind] = r
	}
	require.Len(t, roles, 4)
	require.Equal(t, "shop", roles["Role"].Namespace)
	require.Contains(t, roles["Role"].Rules, rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"web-settings"}, Verbs: []string{"get", "patch", "delete"}})
	require.Contains(t, roles["Role"].Rules, rbacv1.PolicyRule{
		APIGroups: []string{"batch"}, Resources: []string{"jobs"}, ResourceNames: []string{"migrate"}, Verbs: []string{"get", "delete"}}, "hooks too")
	require.Equal(t, []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}}, // which the chart's own role gives
		{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles"}, Verbs: []string{"create"}},
		{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles"}, ResourceNames: []string{"web-reader"}, Verbs: []string{"get", "patch", "delete"}},
	}, roles["ClusterRole"].Rules)
	require.Contains(t, out, "name: worker\n  namespace: ops")
	require.Contains(t, out, "# The chart was rendered without the cluster")

	code, out, errOut = rightsOf(t, "--target", "shop", "--procedure", "RecoverService", "--dry-run-only", "-o", "values")
	require.Zero(t, code, errOut)
	var values struct {
		RBAC struct{ Rules []struct{ Namespace string } }
	}
	require.NoError(t, yaml.Unmarshal([]byte(out), &values))
	require.Equal(t, "shop", values.RBAC.Rules[0].Namespace)
}

func TestRightsThatCannotBeSaid(t *testing.T) {
	for want, args := range map[string][]string{
		"kind ServiceMonitor of monitoring.coreos.com/v1": {"--target", "shop", "--set", "monitor=true"},
		"target bare is in no cluster":                    {"--target", "bare"},
		`"RecoverServise"`:                                {"--target", "shop", "--procedure", "RecoverServise"},
		`"code"`:                                          {"--target", "shop", "--capability", "code"},
		"is not namespace/name":                           {"--target", "shop", "--service-account", "worker"},
		"an argument holds a password":                    {"--target", "shop", "--set", "db.password=x"},
		"--output \"table\" is unknown":                   {"--target", "shop", "-o", "table"},
	} {
		code, out, errOut := rightsOf(t, args...)
		require.NotZero(t, code, args)
		require.Contains(t, errOut, want)
		require.Empty(t, out)
	}
}
