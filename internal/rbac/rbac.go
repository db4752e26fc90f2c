// Package rbac knows what each procedure asks of a cluster's API server, and makes the least Roles for it. It
// asks nobody anything: what is known of a target, and of its release, it is told.
//
// A request that is added elsewhere, and not here, is refused on a cluster: the end-to-end tests run the
// procedures with these Roles and read the API server's audit log, in which nothing may be forbidden, and
// nothing granted that was not used.
package rbac

import (
	"slices"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/api/verifybackup"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/prober"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/quiesce"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Procedures are those that ask a cluster for something.
func Procedures() []string {
	return []string{
		backupdatabase.WorkflowType, verifybackup.WorkflowType, restoredatabase.WorkflowType, drillrecovery.WorkflowType,
		recoverservice.WorkflowType, recoverdata.WorkflowType, rolloutrelease.WorkflowType, reviewaccess.WorkflowType, rotatesecret.WorkflowType, validatenetwork.WorkflowType,
		containincident.WorkflowType,
	}
}

// The capabilities whose accounts are given rights.
const (
	Database = "database"
	Cluster  = "cluster"
)

// Capabilities are all of them.
func Capabilities() []string { return []string{Database, Cluster} }

// Target is what is known of a target. What is not known is granted by kind, and not by name.
type Target struct {
	Namespace string
	Release   string
	// Outside says that the workers are not in the target's cluster.
	Outside  bool
	Database kube.Endpoint // zero: in no pod
	Secrets  []string      // that hold passwords
	// ScratchPods says that drills run in pods, ScratchImage that their image is written out.
	ScratchPods, ScratchImage bool
	Probes                    []string // Services that are asked
	Checks                    []string // Services of Prometheus
	// Restores says that a release that is rolled back may restore the database.
	Restores bool
	Clients  []quiesce.Ref // of the database; none: not known before a run
	// Suspends says that owners are suspended. ClientOwners and ReleaseOwners are those that are known of the
	// clients and of the release's workloads; nil: it was not looked.
	Suspends                    bool
	ClientOwners, ReleaseOwners []ownership.Ref
	// Past is the release as it is, and what it can be rolled back to; Rollout is the release as it is, and
	// what it is upgraded to. Nil: not known.
	Past, Rollout *helmrelease.Footprint
	// Rotated are the Secrets whose keys are rotated, and the pending ones beside them.
	Rotated []string
	// Tries says that connections are tried from pods. Others are the namespaces beside the target's that the
	// expectations of its network name.
	Tries  bool
	Others []string
	// Standing is the pod of a standing prober; "": there is none.
	Standing string
	// Incidents are the namespaces beside the target's in which pods may be cut off. Reads says that the suspects'
	// processes are read by pods on their nodes.
	Incidents []string
	Reads     bool
	// Withdraws is what a case may change of access; nil: nothing.
	Withdraws *quarantine.AccessPolicy
}

// Of is what a configuration says of a target.
func Of(t *config.Target) Target {
	k, d := t.Kubernetes, t.Database
	out := Target{
		Namespace: k.Namespace, Release: k.Release, Outside: k.Kubeconfig != (config.Secret{}) || k.Context != "", Database: d.In,
		ScratchPods: d.Scratch.Runner == config.RunnerPod, ScratchImage: d.Scratch.Image != "", Suspends: k.Owners == ownership.PolicySuspend,
	}
	for _, s := range []config.Secret{d.Password, d.Scratch.Password} {
		if s.Secret.Name != "" {
			out.Secrets = append(out.Secrets, s.Secret.Name)
		}
	}
	for _, c := range k.Clients {
		out.Clients = append(out.Clients, quiesce.Ref{Kind: c.Kind, Name: c.Name})
	}
	for _, p := range k.Probes {
		out.Probes = append(out.Probes, p.Service)
	}
	out.Tries, out.Others = k.Network.Prober.Image != "", k.Network.Others()
	if standing := k.Network.Prober.Standing; standing != "" {
		out.Standing = prober.Pod(standing)
	}
	out.Incidents, out.Reads, out.Withdraws = k.QuarantinePolicy().Namespaces, k.QuarantinePolicy().Reader.Image != "", k.QuarantinePolicy().Access
	for _, s := range t.Secrets {
		out.Rotated = append(out.Rotated, s.Secret, s.PendingName())
	}
	if t.Rollout != nil {
		out.Restores = t.Rollout.Migrations == config.MigrationsRestore
		for _, c := range t.Rollout.Checks {
			out.Checks = append(out.Checks, c.Prometheus.Service)
		}
	}
	return out
}

// Needs is what procedures need on the target, by the capability whose account does it. Dry: for dry runs.
func (t Target) Needs(procedures []string, dry bool) (map[string]*Set, error) {
	needs := map[string]*Set{Database: newSet(), Cluster: newSet()}
	for _, p := range procedures {
		if !slices.Contains(Procedures(), p) {
			return nil, strictjson.Unknown("the procedure", p, Procedures())
		}
		d := need{newSet(), t, dry}
		d.database(p)
		needs[Database].join(d.Set)
		c := need{newSet(), t, dry}
		if err := c.cluster(p); err != nil {
			return nil, err
		}
		needs[Cluster].join(c.Set)
	}
	return needs, nil
}

// need is a set that is put together.
type need struct {
	*Set
	Target
	dry bool
}

func (n need) in(group, resource, verbs string, names ...string) {
	n.allow(n.Namespace, group, resource, verbs, names...)
}

const (
	apps        = "apps"
	autoscaling = "autoscaling"
	batch       = "batch"
	discovery   = "discovery.k8s.io"
	networking  = "networking.k8s.io"
	leases      = "coordination.k8s.io"
	rbacGroup   = "rbac.authorization.k8s.io"
	// authorization is the group of access reviews.
	authorization = "authorization.k8s.io"
)

// database is what the account of the capability database needs.
func (n need) database(procedure string) {
	source, scratch := false, false
	switch procedure {
	case backupdatabase.WorkflowType, restoredatabase.WorkflowType, recoverdata.WorkflowType:
		source = true
	case verifybackup.WorkflowType:
		scratch = !n.dry
	case drillrecovery.WorkflowType:
		source, scratch = true, !n.dry
	case rolloutrelease.WorkflowType:
		source = n.Restores && !n.dry
	case rotatesecret.WorkflowType:
		source = true
		n.in("", "secrets", "get", n.Rotated...)
	default:
		return
	}
	if source {
		n.reach(n.Database)
	}
	if len(n.Secrets) > 0 && (source || scratch) {
		n.in("", "secrets", "get", n.Secrets...)
	}
	if !n.ScratchPods {
		return
	}
	n.in("", "pods", "list") // the worker looks now and then what drills have left
	if scratch {
		if !n.ScratchImage {
			n.find(n.Database)
		}
		n.in("", "pods", "get create delete")
		n.in(networking, "networkpolicies", "create delete")
		n.forward()
	}
}

// find is what finding the pod of an endpoint takes.
func (n need) find(e kube.Endpoint) {
	switch {
	case e.Service != "":
		n.in("", "services", "get", e.Service)
		n.in(discovery, "endpointslices", "list")
	case e.Pod != "":
		n.in("", "pods", "get", e.Pod)
	}
}

// reach is what a connection to an endpoint takes.
func (n need) reach(e kube.Endpoint) {
	if e == (kube.Endpoint{}) {
		return
	}
	n.find(e)
	if n.Outside {
		if e.Pod != "" {
			n.forward(e.Pod)
			return
		}
		n.forward()
	}
}

// forward is what a connection through the API server takes. It is asked for by WebSocket, which is a get to
// all API servers that know it, and a create besides since 1.35; one that does not know it is asked by create.
func (n need) forward(pods ...string) { n.in("", "pods/portforward", "get create", pods...) }

// probes is what asking through Services takes.
func (n need) probes(services []string) {
	for _, service := range services {
		n.reach(kube.Endpoint{Service: service})
	}
}

// cluster is what the account of the capability cluster needs.
func (n need) cluster(procedure string) error {
	switch procedure {
	case recoverservice.WorkflowType:
		n.observe()
		n.probes(n.Probes)
		n.itself()
		n.history()
		n.releaseOwners()
		if n.dry {
			return nil
		}
		n.in("", "pods", "delete")
		n.operate()
		if n.Past == nil {
			n.in(apps, "deployments", "get patch")
			n.in(apps, "statefulsets", "get patch")
			n.in(apps, "daemonsets", "get patch")
			n.remark("RecoverService: for a rollback it needs the kinds of the release's chart besides; they are added where the release can be looked at")
			return nil
		}
		for _, o := range workloads(*n.Past) { // whose pods a rollout restart replaces
			n.allow(o.Namespace, o.Group, o.Resource, "get patch", o.Name)
		}
		return n.change(*n.Past)
	case recoverdata.WorkflowType:
		n.quiesce()
	case rolloutrelease.WorkflowType:
		n.history()
		n.itself()
		n.releaseOwners()
		if !n.dry {
			n.operate()
			n.in(apps, "replicasets", "list") // by which Helm tells that a Deployment is ready
			n.probes(n.Probes)
			n.probes(n.Checks)
		}
		if n.Rollout == nil {
			n.remark("RolloutRelease: it needs the kinds of the release's chart besides; upkeep rbac --target adds them, where it can render the chart")
			return nil
		}
		return n.change(*n.Rollout)
	case containincident.WorkflowType:
		for _, namespace := range append([]string{n.Namespace}, n.Incidents...) {
			n.contain(namespace)
		}
	case rotatesecret.WorkflowType:
		n.rotate()
	case reviewaccess.WorkflowType:
		for _, resource := range []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"} {
			n.allow("", rbacGroup, resource, "list")
		}
		n.allow("", "", "serviceaccounts", "list")
		n.in("", "pods", "list")
	case validatenetwork.WorkflowType:
		n.network()
	}
	return nil
}

// rotate is what rotating the keys of Secrets takes. Which workloads read them is found by looking at all.
func (n need) rotate() {
	n.itself()
	n.find(n.Database)
	if n.Database != (kube.Endpoint{}) {
		n.in("", "pods", "get")
	}
	n.in("", "secrets", "get", n.Rotated...)
	if n.Release != "" || n.Namespace == Anywhere { // it is seen that it is there
		n.observe()
	}
	for _, resource := range []string{"deployments", "statefulsets", "daemonsets"} {
		n.in(apps, resource, "list")
	}
	n.in("", "pods", "list")
	n.releaseOwners()
	if n.dry {
		return
	}
	n.in("", "secrets", "create")
	n.in("", "secrets", "patch delete", n.Rotated...)
	for _, resource := range []string{"deployments", "statefulsets", "daemonsets"} {
		n.in(apps, resource, "get patch")
	}
	n.probes(n.Probes)
}

// network is what looking at who reaches whom takes, and trying it.
func (n need) network() {
	for _, namespace := range append([]string{n.Namespace}, n.Others...) {
		if namespace == Anywhere {
			n.allow(namespace, "", "namespaces", "get")
		} else {
			n.allow(namespace, "", "namespaces", "get", namespace)
		}
		n.allow(namespace, "", "pods", "list")
		n.allow(namespace, networking, "networkpolicies", "list")
	}
	n.in("", "services", "list")
	if n.Tries && !n.dry {
		n.in("", "pods", "create delete")
		n.in("", "configmaps", "create get list delete")
	}
}

// observe is what looking at a release takes, but for its probes.
func (n need) observe() {
	for _, resource := range []string{"deployments", "statefulsets", "daemonsets", "replicasets"} {
		n.in(apps, resource, "list")
	}
	n.in("", "pods", "list")
	n.in(batch, "jobs", "list")
}

// history is what reading Helm's records takes.
func (n need) history() { n.in("", "secrets", "get list") }

// itself is what it takes to see that Upkeep does not run there.
func (n need) itself() {
	if n.Namespace == Anywhere {
		n.in("", "namespaces", "get")
	} else {
		n.in("", "namespaces", "get", n.Namespace)
	}
	n.in("", "services", "list")
	n.in("", "pods", "list")
}

// quiesce is what stopping and starting the clients of a database takes.
func (n need) quiesce() {
	n.itself()
	n.find(n.Database)
	if n.Database != (kube.Endpoint{}) {
		n.in("", "pods", "get")
	}
	n.in(apps, "replicasets", "get") // from pods to what made them
	n.in(batch, "jobs", "get")
	n.in(autoscaling, "horizontalpodautoscalers", "list")
	for _, kind := range quiesce.Kinds() { // what an earlier run has left stopped is known by the notes on it
		group, resource := quiesce.Resource(kind)
		n.in(group, resource, "list")
		if len(n.Clients) == 0 {
			n.in(group, resource, n.holding())
		}
	}
	for _, c := range n.Clients {
		group, resource := quiesce.Resource(c.Kind)
		n.in(group, resource, n.holding(), c.Name)
	}
	if len(n.Clients) == 0 {
		n.remark("RecoverData: all workloads may be stopped, as kubernetes.clients does not say which use the database")
	}
	n.suspend("RecoverData", "the clients", n.ClientOwners, func(kind string) bool {
		return n.Suspends || kind == "ScaledObject" // an autoscaler is part of what is stopped
	})
	if n.Release != "" {
		n.observe()
		if !n.dry {
			n.probes(n.Probes)
		}
	}
}
