package kubernetes

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const whole = `---
# a manifest of several
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
      - image: busybox:1.36
        name: wait
      containers:
      - name: web
        image: registry.k8s.io/ingress-nginx/controller:v1.9.4   # keep in step
        env: [{name: LEGEND, value: "{{instance}}"}]
      volumes:
      - name: model
        image: {reference: quay.io/org/model:2.0}
---
kind: List
apiVersion: v1
items:
- apiVersion: batch/v1
  kind: CronJob
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a, image: "alpine:3.20"}]}}}}}
---
kind: ConfigMap
apiVersion: v1
data:
  image: not/this:1
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"busybox 1.36 of=library/busybox",
		"registry.k8s.io/ingress-nginx/controller v1.9.4 of=ingress-nginx/controller@registry.k8s.io",
		"quay.io/org/model 2.0 of=org/model@quay.io",
		"alpine 3.20 of=library/alpine",
	}, managertest.Lines(managertest.Extract(t, Manager, "k8s/all.yaml", whole)))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager, "all.yaml", whole)
	managertest.Edits(t, Manager, "all.yaml", strings.ReplaceAll(whole, "\n", "\r\n"))
}

// Most YAML is for somebody else, and a template is no YAML: neither is a problem.
func TestNotForKubernetes(t *testing.T) {
	for _, content := range []string{
		"a: [image\n",
		"{{- if .Values.x }}\napiVersion: v1\nkind: Pod\nspec:\n  containers:\n  {{- range .Values.all }}\n  - image: {{ .image }}\n  {{- end }}\n{{- end }}\n",
		"apiVersion: v1\nkind: Pod\nspec: {containers: [{image: \"{{ .Values.image }}:1\"}]}\n",
	} {
		require.Empty(t, managertest.Extract(t, Manager, "x.yaml", content), content)
	}
	_, err := Manager.Extract(t.Context(), fstest.MapFS{"x.yaml": {Data: []byte("apiVersion: v1\nkind: Pod\nimage: [\n")}}, "x.yaml")
	require.ErrorContains(t, err, "x.yaml:")
}

func FuzzKubernetes(f *testing.F) { managertest.Fuzz(f, Manager, "x.yaml", whole) }
