package config

import (
	"context"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/netcheck"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/postgres"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/quiesce"
)

// Kubernetes says where a target lives in a cluster. It is kept in the histories of runs.
type Kubernetes struct {
	Kubeconfig Secret `json:"kubeconfig,omitzero"` // its text; none: the pod's own account, or the worker's $KUBECONFIG
	Context    string `json:"context,omitempty"`   // of the kubeconfig; its current one when empty
	Namespace  string `json:"namespace"`
	Release    string `json:"release,omitempty"` // of Helm
	// Owners says what may be done about others who own what a run changes: one of ownership's policies,
	// refuse when empty.
	Owners string `json:"owners,omitempty"`
	// Clients are the workloads that use the database, in the order in which they start; none: found by
	// their sessions.
	Clients []Client `json:"clients,omitempty"`
	// Incidents bounds what an incident's containment cuts off without an approval; nil: quarantine.Default.
	Incidents *quarantine.Policy `json:"incidents,omitempty"`
	// Probes are requests that prove the target's service to work.
	Probes []health.Probe `json:"probes,omitempty"`
	// Network says what should come through, for ValidateNetwork.
	Network netcheck.Network `json:"network,omitzero"`
	// BaselineKeys are the public keys whose accepted reviews of access count, besides the worker's own.
	BaselineKeys []string `json:"baselineKeys,omitempty"`
}

// Client is a workload that uses the database.
type Client struct {
	Kind string `json:"kind"` // one of quiesce's
	Name string `json:"name"`
}

// maxClients bounds the clients of a target.
const maxClients = 100

// maxProbes bounds the probes of a target, which are all sent at each look.
const maxProbes = 20

// Connect reaches the cluster. A target that is in none is refused.
func (k *Kubernetes) Connect(ctx context.Context) (*kube.Cluster, error) {
	if k == nil || k.Namespace == "" {
		return nil, failure.New(failure.NoCluster, "the target is in no cluster").Do("say where it is with kubernetes: {namespace: ..., release: ...} in upkeep.yaml, and start a new run")
	}
	return kube.Connect(ctx, kube.Options{Kubeconfig: k.Kubeconfig.Resolver(), Context: k.Context, Namespace: k.Namespace})
}

// Read reads a secret that may be in the cluster.
func (k *Kubernetes) Read(ctx context.Context, s Secret) (string, error) {
	if s.Secret == (SecretKey{}) {
		return s.Read()
	}
	c, err := k.Connect(ctx)
	if err != nil {
		return "", err
	}
	return c.ReadSecret(ctx, s.Secret.Name, s.Secret.Key)
}

// Postgres says how to reach a database of the target: at its URL, or where it is in the cluster.
func (k *Kubernetes) Postgres(url string, in kube.Endpoint, password Secret, app string) postgres.Config {
	c := postgres.Config{URL: url, App: app}
	if password != (Secret{}) {
		c.Password = func(ctx context.Context) (string, error) { return k.Read(ctx, password) }
	}
	if in != (kube.Endpoint{}) {
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			cluster, err := k.Connect(ctx)
			if err != nil {
				return nil, err
			}
			return cluster.Dial(ctx, in)
		}
	}
	return c
}

// Source says how to reach the target's database.
func (t *Target) Source(app string) postgres.Config {
	return t.Kubernetes.Postgres(t.Database.URL, t.Database.In, t.Database.Password, app)
}

// ScratchServer says how to reach the server that the configuration names for drills.
func (t *Target) ScratchServer(app string) postgres.Config {
	return t.Kubernetes.Postgres(t.Database.Scratch.URL, kube.Endpoint{}, t.Database.Scratch.Password, app)
}

func (p *parser) kubernetes(n *yaml.Node) Kubernetes {
	var k Kubernetes
	p.fields(n, "kubernetes", map[string]func(*yaml.Node){
		"kubeconfigFrom": func(n *yaml.Node) { k.Kubeconfig = p.secret(n, "kubernetes.kubeconfigFrom") },
		"context":        p.text(&k.Context, "kubernetes.context", checkContext),
		"namespace":      p.text(&k.Namespace, "kubernetes.namespace", kube.NamespaceProblem),
		"release":        p.text(&k.Release, "kubernetes.release", kube.ReleaseProblem),
		"owners":         p.text(&k.Owners, "kubernetes.owners", ownership.PolicyProblem),
		"clients":        func(n *yaml.Node) { k.Clients = p.clients(n) },
		"baselineKeys":   p.texts(&k.BaselineKeys, "kubernetes.baselineKeys", maxRecipients, checkPublicKey),
		"probes":         func(n *yaml.Node) { k.Probes = p.probes(n) },
		"incidents":      func(n *yaml.Node) { k.Incidents = p.incidents(n) },
		"network":        func(n *yaml.Node) { k.Network = p.network(n) },
	}, "namespace")
	return k
}

const (
	// maxNamespaces bounds the namespaces of incidents.
	maxNamespaces = 20
	// maxRoles bounds the roles of each kind that a case may take from an account.
	maxRoles = 50
)

// incidents reads what may be cut off without an approval, and how suspects' processes are read.
func (p *parser) incidents(n *yaml.Node) *quarantine.Policy {
	q := quarantine.Default
	p.fields(n, "kubernetes.incidents", map[string]func(*yaml.Node){
		"namespaces":  p.texts(&q.Namespaces, "kubernetes.incidents.namespaces", maxNamespaces, kube.NamespaceProblem),
		"pods":        p.number(&q.Pods, "kubernetes.incidents.pods", 0, quarantine.MaxPods),
		"podsPerHour": p.number(&q.PodsPerHour, "kubernetes.incidents.podsPerHour", 0, 100*quarantine.MaxPods),
		"inAtOnce":    p.number(&q.InAtOnce, "kubernetes.incidents.inAtOnce", 0, maxNamespaces+1),
		"reader": func(n *yaml.Node) {
			p.fields(n, "kubernetes.incidents.reader", map[string]func(*yaml.Node){
				"image": p.text(&q.Reader.Image, "kubernetes.incidents.reader.image", checkImage),
			}, "image")
		},
		"access": func(n *yaml.Node) {
			const what = "kubernetes.incidents.access"
			q.Access = &quarantine.AccessPolicy{}
			p.fields(n, what, map[string]func(*yaml.Node){
				"roles":        p.texts(&q.Access.Roles, what+".roles", maxRoles, checkRole),
				"clusterRoles": p.texts(&q.Access.ClusterRoles, what+".clusterRoles", maxRoles, checkRole),
				"everywhere":   p.texts(&q.Access.Everywhere, what+".everywhere", maxRoles, checkRole),
				"accounts":     p.texts(&q.Access.Accounts, what+".accounts", maxRoles, kube.NameProblem),
			})
		},
	})
	return &q
}

// QuarantinePolicy bounds what an incident's containment cuts off without an approval.
func (k *Kubernetes) QuarantinePolicy() quarantine.Policy {
	if k.Incidents == nil {
		return quarantine.Default
	}
	return *k.Incidents
}

func (p *parser) clients(n *yaml.Node) (clients []Client) {
	const what = "kubernetes.clients"
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxClients {
		p.fail(n, "%s must be a list of 1 to %d workloads, as in [{kind: Deployment, name: web}]", what, maxClients)
		return nil
	}
	for _, item := range n.Content {
		var c Client
		p.fields(item, what, map[string]func(*yaml.Node){
			"kind": p.text(&c.Kind, what+".kind", quiesce.KindProblem),
			"name": p.text(&c.Name, what+".name", kube.NameProblem),
		}, "kind", "name")
		if slices.Contains(clients, c) {
			p.fail(item, "%s names %s %s twice", what, c.Kind, c.Name)
		}
		clients = append(clients, c)
	}
	return clients
}

var publicKey = regexp.MustCompile(`^[0-9a-f]{64}$`)

func checkPublicKey(v string) string {
	if !publicKey.MatchString(v) {
		return "must be public keys of 64 hex digits: see upkeep access verify"
	}
	return ""
}

func checkContext(v string) string {
	if v == "" || len(v) > 253 {
		return "must be the name of a context in the kubeconfig"
	}
	return ""
}

// inCluster refuses what needs a cluster in a target that is in none.
func (p *parser) inCluster(n *yaml.Node, t *Target) {
	if t.Kubernetes.Namespace != "" || has(n, "kubernetes") {
		return
	}
	if len(t.Secrets) > 0 {
		p.fail(n, `a target with secrets lacks the key "kubernetes": what is rotated is in a Secret of its cluster`)
	}
	d := t.Database
	if d.In != (kube.Endpoint{}) || d.Scratch.Runner == RunnerPod || d.Password.Secret != (SecretKey{}) || d.Scratch.Password.Secret != (SecretKey{}) {
		p.fail(n, `a target whose database, password or scratch runner is in a cluster lacks the key "kubernetes"`)
	}
}

// probes reads requests that prove a service to work.
func (p *parser) probes(n *yaml.Node) (all []health.Probe) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxProbes {
		p.fail(n, "kubernetes.probes must be a list of 1 to %d probes", maxProbes)
		return nil
	}
	for _, item := range n.Content {
		probe := health.Probe{Path: "/"}
		p.fields(item, "a probe", map[string]func(*yaml.Node){
			"name":     p.text(&probe.Name, "a probe's name", kube.NameProblem),
			"service":  p.text(&probe.Service, "a probe's service", kube.NameProblem),
			"port":     p.number(&probe.Port, "a probe's port", 1, 65535),
			"path":     p.text(&probe.Path, "a probe's path", checkPath),
			"scheme":   p.text(&probe.Scheme, "a probe's scheme", oneOf([]string{"http", "https"})),
			"status":   p.number(&probe.Status, "a probe's status", 100, 599),
			"contains": p.text(&probe.Contains, "a probe's contains", checkContains),
		}, "name", "service", "port")
		if slices.ContainsFunc(all, func(o health.Probe) bool { return o.Name == probe.Name }) {
			p.fail(item, "there are two probes named %q", probe.Name)
		}
		all = append(all, probe)
	}
	return all
}

// checkRole checks the name of a role, which a right is granted by.
func checkRole(v string) string {
	if v == "" || len(v) > 253 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/%*", r) }) {
		return "must be the name of a role"
	}
	return ""
}

func checkPath(v string) string {
	if u, err := url.Parse(v); err != nil || len(v) > 1000 || !strings.HasPrefix(v, "/") || strings.HasPrefix(v, "//") || u.Fragment != "" {
		return "must be a path that begins with /, at most 1000 bytes"
	}
	return ""
}

func checkContains(v string) string {
	if v == "" || len(v) > 200 {
		return "must be a text of 1 to 200 bytes that the right answer has"
	}
	return ""
}
