package helmvalues

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const sha = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const whole = `image:
  registry: docker.io
  repository: bitnami/postgresql
  tag: 15.3.0-debian-12-r1   # the tag
  digest: ""
  pullPolicy: IfNotPresent
web:
  image: {repository: ghcr.io/org/web, tag: "v1.2.3", digest: ` + sha + `}
sidecar:
  - image: nginx:1.25
backgroundImage: /img/a.png
initImage: busybox
metricsImage:
  repository: quay.io/org/metrics
  version: 1.20
pinned:
  image: {repository: org/pinned, tag: 2.0@` + sha + `}
default:
  image: {repository: org/app, tag: ""}
  other: {repository: org/not-an-image, tag: 1}
templated:
  image: {repository: "{{ .Values.x }}", tag: "1"}
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"docker.io/bitnami/postgresql 15.3.0-debian-12-r1 of=bitnami/postgresql",
		"ghcr.io/org/web v1.2.3 of=org/web@ghcr.io digest=sha256:01234",
		"nginx 1.25 of=library/nginx",
		"quay.io/org/metrics 1.20 of=org/metrics@quay.io",
		"org/pinned 2.0 digest=sha256:01234",
		"{{ .Values.x }}  of= skip: a variable is a part of it",
	}, managertest.Lines(managertest.Extract(t, Manager, "chart/values.yaml", whole)))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager, "values-production.yaml", whole)
	managertest.Edits(t, Manager, "values.yml", strings.ReplaceAll(whole, "\n", "\r\n"))
}

// YAML reads 1.30 as the number 1.3, and Helm writes a large number as a power: such a tag needs quotes, any
// other stays without.
func TestTagsThatAreNumbers(t *testing.T) {
	before := "image: {repository: a/b, tag: 1.28}\n"
	d := managertest.Extract(t, Manager, "values.yaml", before)[0]
	for written, after := range map[string]string{"1.29": "1.29", "1.30": `"1.30"`, "202601010": `"202601010"`, "1.29.1": "1.29.1", "1e3": `"1e3"`, "2": "2", "2026-01-01": `"2026-01-01"`} {
		edited, err := Manager.Edit([]byte(before), d, dependency.Update{Written: written})
		require.NoError(t, err)
		require.Equal(t, "image: {repository: a/b, tag: "+after+"}\n", string(edited))
	}
}

func FuzzValues(f *testing.F) { managertest.Fuzz(f, Manager, "values.yaml", whole) }
