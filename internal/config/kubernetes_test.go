package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const clustered = `version: 1
store: file:///var/lib/upkeep
targets:
  - name: observatory
    kubernetes:
      kubeconfigFrom: {file: /etc/upkeep/kubeconfig}
      context: production
      namespace: lang-observatory
      release: lang-observatory
    database:
      service: lang-observatory-postgresql
      name: lang/fuse
      role: langfuse
      passwordFrom: {secret: {name: langfuse-postgresql, key: password}}
`

func TestParseADatabaseInACluster(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(clustered))
	require.NoError(t, err)
	got := c.Targets[0]
	require.Equal(t, Kubernetes{Kubeconfig: Secret{File: "/etc/upkeep/kubeconfig"}, Context: "production", Namespace: "lang-observatory", Release: "lang-observatory"}, got.Kubernetes)
	require.Equal(t, Database{
		URL: "postgres://langfuse@lang-observatory-postgresql:5432/lang%2Ffuse", In: kube.Endpoint{Service: "lang-observatory-postgresql", Port: 5432},
		Password: Secret{Secret: SecretKey{Name: "langfuse-postgresql", Key: "password"}}, Connections: DefaultConnections, Scratch: Scratch{Runner: RunnerPod},
	}, got.Database)
	require.NotNil(t, got.Source("upkeep").Dial)

	c, err = Parse("upkeep.yaml", []byte(strings.Replace(clustered, "service: lang-observatory-postgresql", "pod: pg-0\n      port: 5433\n      scratch: {runner: local}", 1)))
	require.NoError(t, err)
	require.Equal(t, kube.Endpoint{Pod: "pg-0", Port: 5433}, c.Targets[0].Database.In)
	require.Equal(t, RunnerLocal, c.Targets[0].Database.Scratch.Runner)

	c, err = Parse("upkeep.yaml", []byte(strings.Replace(clustered, "connections", "", 1)+"      scratch: {runner: pod, image: \"postgres:17\", runAsUser: 999}\n"))
	require.NoError(t, err)
	require.Equal(t, Scratch{Runner: RunnerPod, Image: "postgres:17", RunAsUser: 999}, c.Targets[0].Database.Scratch)
}

func TestParseNamesWhatIsWrongOfACluster(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"the cluster's own namespace": {"namespace: lang-observatory", "namespace: kube-system", "upkeep.yaml:8: kubernetes.namespace must not be kube-system"},
		"no namespace":                {"      namespace: lang-observatory\n", "", `kubernetes lacks the key "namespace"`},
		"a namespace that climbs":     {"namespace: lang-observatory", "namespace: ../x", "must be the name of a namespace"},
		"a release that is none":      {"release: lang-observatory", "release: Lang_Observatory", "must be the name of a Helm release"},
		"a service that is none":      {"service: lang-observatory-postgresql", "service: a/b", "must be a name in Kubernetes"},
		"no role":                     {"      role: langfuse\n", "", `lacks the key "name" or the key "role"`},
		"a url too":                   {"service: lang-observatory-postgresql", "service: pg\n      url: postgres://a@b/c", "give one or the other"},
		"neither":                     {"      service: lang-observatory-postgresql\n", "", `lacks the key "url"`},
		"a pod too":                   {"service: lang-observatory-postgresql", "service: pg\n      pod: pg-0", "give one of them"},
		"two secrets":                 {"{secret: {name: langfuse-postgresql, key: password}}", "{env: A, secret: {name: a, key: b}}", "must have one of the keys env, file and secret"},
		"a key that is none":          {"key: password", "key: pass word", "must be a key of a Secret"},
		"a kubeconfig in the cluster": {"{file: /etc/upkeep/kubeconfig}", "{secret: {name: a, key: b}}", "cannot be a Secret of the cluster"},
		"a scratch runner misspelt":   {"      role: langfuse\n", "      role: langfuse\n      scratch: {runner: pods}\n", `did you mean "pod"?`},
		"a server without a server":   {"      role: langfuse\n", "      role: langfuse\n      scratch: {runner: server}\n", `lacks the key "server"`},
		"an image without a pod":      {"      role: langfuse\n", "      role: langfuse\n      scratch: {runner: local, image: x}\n", "go with the runner pod only"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(clustered, c.from, c.to, 1)
			require.NotEqual(t, clustered, text)
			_, err := Parse("upkeep.yaml", []byte(text))
			require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
			require.ErrorContains(t, err, c.want)
		})
	}
	without := clustered[:strings.Index(clustered, "    kubernetes:")] + clustered[strings.Index(clustered, "    database:"):]
	_, err := Parse("upkeep.yaml", []byte(without))
	require.ErrorContains(t, err, `lacks the key "kubernetes"`)
}

func TestATargetInNoClusterIsRefused(t *testing.T) {
	_, err := (*Kubernetes)(nil).Connect(t.Context())
	require.True(t, failure.Is(err, failure.NoCluster))
	_, err = (&Kubernetes{}).Read(t.Context(), Secret{Secret: SecretKey{Name: "a", Key: "b"}})
	require.True(t, failure.Is(err, failure.NoCluster))
}
