package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/quarantine"
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

func TestIncidentsAreBounded(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(clustered))
	require.NoError(t, err)
	require.Equal(t, quarantine.Default, c.Targets[0].Kubernetes.QuarantinePolicy())
	c, err = Parse("upkeep.yaml", []byte(strings.Replace(clustered, "      release: lang", "      incidents: {namespaces: [jobs], pods: 3, inAtOnce: 2, reader: {image: \"upkeep:v1\"}}\n      release: lang", 1)))
	require.NoError(t, err)
	require.Equal(t, quarantine.Policy{Namespaces: []string{"jobs"}, Pods: 3, PodsPerHour: quarantine.Default.PodsPerHour, InAtOnce: 2, Reader: quarantine.Reader{Image: "upkeep:v1"}}, c.Targets[0].Kubernetes.QuarantinePolicy())
	c, err = Parse("upkeep.yaml", []byte(strings.Replace(clustered, "      release: lang", "      incidents: {access: {roles: [reader], clusterRoles: [view], everywhere: [\"system:node-reader\"], accounts: [web]}}\n      release: lang", 1)))
	require.NoError(t, err)
	require.Equal(t, &quarantine.AccessPolicy{Roles: []string{"reader"}, ClusterRoles: []string{"view"}, Everywhere: []string{"system:node-reader"}, Accounts: []string{"web"}}, c.Targets[0].Kubernetes.QuarantinePolicy().Access)
}

func TestAStandingProberIsNamed(t *testing.T) {
	with := func(prober string) (*Config, error) {
		return Parse("upkeep.yaml", []byte(strings.Replace(clustered, "      release: lang", "      network: {prober: "+prober+"}\n      release: lang", 1)))
	}
	c, err := with(`{image: "upkeep:v1", standing: upkeep-prober}`)
	require.NoError(t, err)
	require.Equal(t, netcheck.Prober{Image: "upkeep:v1", Standing: "upkeep-prober"}, c.Targets[0].Kubernetes.Network.Prober)
	c, err = with(`{image: "upkeep:v1"}`)
	require.NoError(t, err)
	require.Empty(t, c.Targets[0].Kubernetes.Network.Prober.Standing)
}

func TestParseNamesWhatIsWrongOfACluster(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"the cluster's own namespace":      {"namespace: lang-observatory", "namespace: kube-system", "upkeep.yaml:8: kubernetes.namespace must not be kube-system"},
		"no namespace":                     {"      namespace: lang-observatory\n", "", `kubernetes lacks the key "namespace"`},
		"a namespace that climbs":          {"namespace: lang-observatory", "namespace: ../x", "must be the name of a namespace"},
		"a release that is none":           {"release: lang-observatory", "release: Lang_Observatory", "must be the name of a Helm release"},
		"a service that is none":           {"service: lang-observatory-postgresql", "service: a/b", "must be a name in Kubernetes"},
		"no role":                          {"      role: langfuse\n", "", `lacks the key "name" or the key "role"`},
		"a url too":                        {"service: lang-observatory-postgresql", "service: pg\n      url: postgres://a@b/c", "give one or the other"},
		"an incident in the cluster's own": {"release: lang-observatory", "release: lang-observatory\n      incidents: {namespaces: [kube-system]}", "must not be kube-system"},
		"a reader without an image":        {"release: lang-observatory", "release: lang-observatory\n      incidents: {reader: {}}", "lacks the key \"image\""},
		"a prober without an image":        {"release: lang-observatory", "release: lang-observatory\n      network: {prober: {standing: watch}}", "lacks the key \"image\""},
		"a prober misspelt":                {"release: lang-observatory", "release: lang-observatory\n      network: {prober: {image: x, standin: watch}}", "\"standing\""},
		"a prober that is none":            {"release: lang-observatory", "release: lang-observatory\n      network: {prober: {image: x, standing: a.b}}", "must be the name of a StatefulSet"},
		"no prober, in words":              {"release: lang-observatory", "release: lang-observatory\n      network: {prober: {image: x, standing: \"\"}}", "must be the name of a StatefulSet"},
		"a prober that is no name":         {"release: lang-observatory", "release: lang-observatory\n      network: {prober: {image: x, standing: true}}", "kubernetes.network.prober.standing must be a text"},
		"every role":                       {"release: lang-observatory", "release: lang-observatory\n      incidents: {access: {roles: [\"*\"]}}", "kubernetes.incidents.access.roles"},
		"too many pods of an incident":     {"release: lang-observatory", "release: lang-observatory\n      incidents: {pods: 100000}", "kubernetes.incidents.pods must be a whole number"},

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

// whole is what a target in a cluster may say besides.
const whole = `      owners: suspend
      clients:
        - {kind: StatefulSet, name: queue}
        - {kind: DaemonSet, name: agent}
        - {kind: Job, name: load}
      probes:
        - {name: front, service: web, port: 80}
        - {name: traces, service: web, port: 3000, path: "/traces/count?of=all", scheme: https, status: 202, contains: count}
`

func TestParseOwnersClientsAndProbes(t *testing.T) {
	c, err := Parse("upkeep.yaml", []byte(strings.Replace(clustered, "    database:\n", whole+"    database:\n", 1)))
	require.NoError(t, err)
	k := c.Targets[0].Kubernetes
	require.Equal(t, "suspend", k.Owners)
	require.Equal(t, []Client{{"StatefulSet", "queue"}, {"DaemonSet", "agent"}, {"Job", "load"}}, k.Clients, "in the order in which they start")
	require.Equal(t, []health.Probe{
		{Name: "front", Service: "web", Port: 80, Path: "/"},
		{Name: "traces", Service: "web", Port: 3000, Path: "/traces/count?of=all", Scheme: "https", Status: 202, Contains: "count"},
	}, k.Probes)
}

func TestParseNamesWhatIsWrongOfOwnersClientsAndProbes(t *testing.T) {
	probe := "{name: front, service: web, port: 80}"
	with := func(more string) string { return strings.Replace(probe, "}", ", "+more+"}", 1) }
	for name, c := range map[string]struct{ from, to, want string }{
		"a policy that is none":         {"owners: suspend", "owners: ignore", "must be one of refuse, propose, suspend"},
		"a kind that cannot be stopped": {"kind: DaemonSet", "kind: Pod", "must be one of CronJob, DaemonSet, Deployment"},
		"a kind as kubectl writes it":   {"kind: DaemonSet", "kind: daemonset", "must be one of CronJob, DaemonSet, Deployment"},
		"a client of another namespace": {"name: agent", "name: kube-system/agent", "must be a name in Kubernetes"},
		"a client without a name":       {"{kind: DaemonSet, name: agent}", "{kind: DaemonSet}", `lacks the key "name"`},
		"a client without a kind":       {"{kind: DaemonSet, name: agent}", "{name: agent}", `lacks the key "kind"`},
		"a client twice":                {"{kind: DaemonSet, name: agent}", "{kind: StatefulSet, name: queue}", "names StatefulSet queue twice"},
		"clients that are none":         {"      clients:\n        - {kind: StatefulSet, name: queue}\n        - {kind: DaemonSet, name: agent}\n        - {kind: Job, name: load}\n", "      clients: []\n", "must be a list of 1 to 100 workloads"},
		"a client that is a text":       {"{kind: DaemonSet, name: agent}", "DaemonSet/agent", "kubernetes.clients"},
		"a selector":                    {"{kind: DaemonSet, name: agent}", "{kind: DaemonSet, selector: {}}", `"selector"`},
		"a probe without a port":        {probe, "{name: front, service: web}", `lacks the key "port"`},
		"a port that is none":           {probe, "{name: front, service: web, port: 70000}", "a probe's port"},
		"a service elsewhere":           {probe, "{name: front, service: web.other/x, port: 80}", "must be a name in Kubernetes"},
		"a path that is a url":          {probe, with(`path: "http://elsewhere/"`), "must be a path that begins with /"},
		"a path to another host":        {probe, with(`path: "//elsewhere/x"`), "must be a path that begins with /"},
		"a path with a fragment":        {probe, with(`path: "/x#y"`), "must be a path that begins with /"},
		"a scheme that is none":         {probe, with("scheme: ftp"), "a probe's scheme"},
		"a status that is none":         {probe, with("status: 99"), "a probe's status"},
		"nothing to contain":            {probe, with(`contains: ""`), "must be a text of 1 to 200 bytes"},
		"much to contain":               {probe, with("contains: " + strings.Repeat("x", 201)), "must be a text of 1 to 200 bytes"},
		"two of a name":                 {probe, "{name: traces, service: web, port: 80}", `two probes named "traces"`},
		"a key that is none":            {probe, with("paht: /x"), `did you mean "path"?`},
	} {
		t.Run(name, func(t *testing.T) {
			good := strings.Replace(clustered, "    database:\n", whole+"    database:\n", 1)
			text := strings.Replace(good, c.from, c.to, 1)
			require.NotEqual(t, good, text)
			_, err := Parse("upkeep.yaml", []byte(text))
			require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestATargetInNoClusterIsRefused(t *testing.T) {
	_, err := (*Kubernetes)(nil).Connect(t.Context())
	require.True(t, failure.Is(err, failure.NoCluster))
	_, err = (&Kubernetes{}).Read(t.Context(), Secret{Secret: SecretKey{Name: "a", Key: "b"}})
	require.True(t, failure.Is(err, failure.NoCluster))
}
