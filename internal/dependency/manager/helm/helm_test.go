package helm

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const whole = `apiVersion: v2
name: app
version: 1.2.3
dependencies: # what it needs
  - name: postgresql
    version: "~15.2.0"   # not 16
    repository: https://charts.example.com/bitnami
    condition: postgresql.enabled
  - {name: redis, version: 18.1.0, repository: "oci://registry.example.com/charts"}
  - name: common
    version: 2.x.x
    repository: https://charts.example.com/bitnami
    alias: shared
  - {name: range, version: ">= 1.2.0 < 2", repository: "https://charts.example.com"}
  - name: mine
    version: 0.1.0
    repository: file://../mine
  - name: named
    version: 0.1.0
    repository: "@team"
  - name: secret
    version: 0.1.0
    repository: https://user:word@charts.example.com
`

const lock = `dependencies:
- name: postgresql
  repository: https://charts.example.com/bitnami
  version: 15.2.9
- name: redis
  repository: oci://registry.example.com/charts
  version: 18.1.0
digest: sha256:00
generated: "2026-01-01T00:00:00Z"
`

func TestExtract(t *testing.T) {
	all, err := Manager{}.Extract(t.Context(), fstest.MapFS{"c/Chart.yaml": {Data: []byte(whole)}, "c/Chart.lock": {Data: []byte(lock)}}, "c/Chart.yaml")
	require.NoError(t, err)
	require.Equal(t, []string{
		"postgresql ~15.2.0 now=15.2.9 of=postgresql@https://charts.example.com/bitnami",
		"redis 18.1.0 of=charts/redis@registry.example.com",
		"common 2.x.x now=2 of=common@https://charts.example.com/bitnami",
		"range >= 1.2.0 < 2 now=1.2.0 of=range@https://charts.example.com",
		"mine 0.1.0 skip: it is a chart of this repository",
		"named 0.1.0 skip: its repository is a name that only somebody's Helm knows",
		"secret 0.1.0 skip: its repository is no http or https URL, or one with a user, a query or a fragment",
	}, managertest.Lines(all))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager{}, "Chart.yaml", whole)
	managertest.Edits(t, Manager{}, "Chart.yaml", strings.ReplaceAll(whole, "\n", "\r\n"))
}

func FuzzChart(f *testing.F) { managertest.Fuzz(f, Manager{}, "Chart.yaml", whole) }
