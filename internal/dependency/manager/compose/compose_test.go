package compose

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

const sha = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const whole = `# nginx:1.25 is a comment
x-base: &base
  image: "ghcr.io/org/base:v1.2.3"   # quoted
services:
  web: {image: nginx:1.25, ports: [80]}
  same:
    image:   'nginx:1.25'
  api:
    <<: *base
  built:
    build: .
    image: example.com/built:1
  db:
    image: postgres:15.3-alpine@` + sha + `
  any: {image: "redis:${TAG:-7}"}
  tagged: {image: !!str redis:7.2}
  folded:
    image: >-
      redis:7.4
  "non-ascii é": {image: busybox:1.36}
  anchored: {image: &same   "memcached:1.6"}
  aliased: {image: *same}
  nothing: {image: }
volumes: {image: not/this:1}
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"ghcr.io/org/base v1.2.3 of=org/base@ghcr.io",
		"nginx 1.25 of=library/nginx",
		"postgres 15.3-alpine of=library/postgres digest=sha256:01234",
		"redis:${TAG:-7}  of= skip: a variable is a part of it",
		"redis:7.2  of= skip: it is written in an unusual way",
		"redis:7.4  of= skip: it is written in an unusual way",
		"busybox 1.36 of=library/busybox",
		"memcached 1.6 of=library/memcached",
	}, managertest.Lines(managertest.Extract(t, Manager, "docker-compose.prod.yml", whole)))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager, "compose.yaml", whole)
	managertest.Edits(t, Manager, "compose.yaml", "\ufeff"+strings.ReplaceAll(whole, "\n", "\r\n"))
	managertest.Edits(t, Manager, "compose.yaml", "services: {a: {image: a/b:1}}")
}

func TestMalformed(t *testing.T) {
	_, err := Manager.Extract(t.Context(), fstest.MapFS{"compose.yaml": {Data: []byte("services:\n  a:\n    image: 'x\n")}}, "compose.yaml")
	require.Error(t, err)
	require.Regexp(t, `^compose\.yaml:[0-9]+: `, err.Error())
}

func FuzzCompose(f *testing.F) { managertest.Fuzz(f, Manager, "compose.yaml", whole) }
