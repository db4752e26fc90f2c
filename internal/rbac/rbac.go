// Package rbac knows what each procedure asks of a cluster's API server, and makes the least Roles for it. It
// asks nobody anything: what is known of a target, and of its release, it is told.
//
// A request that is added elsewhere, and not here, is refused on a cluster: the end-to-end tests run the
// procedures with these Roles and read the API server's audit log, in which nothing may be forbidden, and
// nothing granted that was not used.
package rbac

import (
	"slices"
	"strings"

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
	// Incidents are the namespaces beside the target's in which pods may be cut off. Reads says that the suspects'
	// processes are read by pods on their nodes.
	Incidents []string
	Reads     bool
	// Withdraws is what a case may change of access; nil: nothing.
	Withdraws *quarantine.AccessPolicy
}

// contain is what an incident's suspects are found and cut off with in a namespace, and their evidence is kept.
func (n need) contain(namespace string) {
	for _, r := range []struct{ group, resource, looks, acts string }{
		{"", "namespaces", "get", ""},
		{"", "pods", "list", "get patch delete"},
		{"", "services", "list", ""}, {"", "replicationcontrollers", "list", ""},
		{apps, "replicasets", "list", ""}, {apps, "statefulsets", "list", ""}, {apps, "daemonsets", "list", ""}, {batch, "jobs", "list", ""},
		{networking, "networkpolicies", "list", "get create patch delete"},
		{"", "pods/log", "", "get"}, {"", "events", "", "list"}, {"", "serviceaccounts", "", "list"}, {discovery, "endpointslices", "", "list"},
		{apps, "deployments", "", "list"}, {rbacGroup, "roles", "", "list"}, {rbacGroup, "rolebindings", "list", ""},
	} {
		verbs := r.looks
		if !n.dry {
			verbs = strings.TrimSpace(verbs + " " + r.acts)
		}
		if verbs != "" {
			n.allow(namespace, r.group, r.resource, verbs)
		}
	}
	if (n.Tries || n.Reads) && !n.dry && namespace == n.Namespace {
		n.in("", "pods", "create")
		n.in("", "configmaps", "create get list delete")
	}
	if n.Reads && !n.dry {
		n.remark("ContainIncident: the pods that read suspects' processes share their node's process ids, which Pod Security forbids in namespaces that are not privileged")
	}
	n.withdraw(namespace)
	n.remark("ContainIncident: a suspect node needs get, and patch, on nodes besides; evidence of what the pods may do in the whole cluster list on clusterroles and clusterrolebindings; without them these are gaps")
}

// withdraw is what taking roles from accounts of a namespace takes, and making accounts anew: of those that are named.
func (n need) withdraw(namespace string) {
	w := n.Withdraws
	if w == nil {
		return
	}
	n.seeAccess()
	if n.dry {
		return
	}
	n.allow("", authorization, "subjectaccessreviews", "create")
	of := func(namespace, bindings, resource string, roles []string) {
		if len(roles) > 0 {
			n.allow(namespace, rbacGroup, bindings, "get patch")
			n.allow(namespace, rbacGroup, resource, "bind", roles...)
		}
	}
	of(namespace, "rolebindings", "roles", w.Roles)
	of(namespace, "rolebindings", "clusterroles", w.ClusterRoles)
	of("", "clusterrolebindings", "clusterroles", w.Everywhere)
	if len(w.Roles) > 0 {
		n.allow(namespace, rbacGroup, "roles", "get", w.Roles...)
	}
	if named := slices.Concat(w.ClusterRoles, w.Everywhere); len(named) > 0 {
		n.allow("", rbacGroup, "clusterroles", "get", named...)
	}
	if len(w.Accounts) > 0 {
		n.allow(namespace, "", "serviceaccounts", "create")
		n.allow(namespace, "", "serviceaccounts", "get update delete", w.Accounts...)
	}
}

// seeAccess is what finding the bindings of an account takes.
func (n need) seeAccess() {
	n.allow("", rbacGroup, "rolebindings", "list")
	n.allow("", rbacGroup, "clusterrolebindings", "list")
}

// Access is what a case needs to take accounts of a namespace out of any binding, but for the right to bind the roles
// that these give, which somebody has to grant by their names. Dry: only looking.
func Access(namespace string, dry bool) *Set {
	n := need{newSet(), Target{Namespace: namespace}, dry}
	n.seeAccess()
	if !dry {
		n.allow("", authorization, "subjectaccessreviews", "create")
		n.allow("", rbacGroup, "clusterrolebindings", "get patch")
		n.allow("", rbacGroup, "clusterroles", "get")
		n.allow(namespace, rbacGroup, "rolebindings", "get patch")
		n.allow(namespace, rbacGroup, "roles", "get")
	}
	return n.Set
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

// operate is what changing Helm's records takes, one attempt at a time.
func (n need) operate() {
	n.in("", "secrets", "create update delete")
	n.in(leases, "leases", "create")
	if n.Release == "" {
		n.in(leases, "leases", "get update")
		return
	}
	n.in(leases, "leases", "get update", helmrelease.LeaseName(n.Release))
}

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

// releaseOwners is what keeping the owners of a release's workloads from acting takes.
func (n need) releaseOwners() {
	if n.Suspends {
		n.suspend("RecoverService and RolloutRelease", "the release's workloads", n.ReleaseOwners, func(kind string) bool { return kind != "ScaledObject" })
	}
}

// suspend is what keeping owners from acting takes: those that are known, or all of some kinds.
func (n need) suspend(who, of string, known []ownership.Ref, may func(kind string) bool) {
	if known != nil {
		for _, o := range known {
			if group, resource, is := ownership.Resource(o.Group, o.Kind); is {
				n.allow(o.Namespace, group, resource, n.holding(), o.Name)
			}
		}
		return
	}
	n.suspendAny(may)
	if n.Suspends {
		n.remark("%s: owners of %s are looked for in namespace %s alone; where they are in another, such as argocd, it needs the same there", who, of, n.Namespace)
	}
}

func (n need) suspendAny(may func(kind string) bool) {
	for _, o := range ownership.Suspendable() {
		if group, resource, _ := ownership.Resource(o.Group, o.Kind); may(o.Kind) {
			n.allow(n.Namespace, group, resource, n.holding())
		}
	}
}

// Owners is what keeping any owner in a namespace from acting takes. Dry: only looking at it.
func Owners(namespace string, dry bool) *Set {
	n := need{newSet(), Target{Namespace: namespace}, dry}
	n.suspendAny(func(string) bool { return true })
	return n.Set
}

// holding are the verbs of what is held at a value for a run's time.
func (n need) holding() string {
	if n.dry {
		return "get"
	}
	return "get patch"
}

// workloads are those of a release as it is.
func workloads(f helmrelease.Footprint) (all []helmrelease.Placed) {
	if len(f.States) == 0 {
		return nil
	}
	for _, o := range f.States[0].Objects {
		if o.Group == apps && slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, o.Kind) {
			all = append(all, o)
		}
	}
	return all
}

// change is what going from any state of a release to any other takes.
func (n need) change(f helmrelease.Footprint) error {
	for _, a := range f.Reads {
		n.allow(a.Namespace, a.Group, a.Resource, a.Verb, named(a.Name)...)
	}
	if f.Lookups {
		n.remark("the chart's templates look things up in the cluster (lookup); what that needs is added where the cluster can be reached")
	}
	if n.dry {
		for _, o := range workloads(f) { // on which it is seen what others own
			n.allow(o.Namespace, o.Group, o.Resource, "get", o.Name)
		}
		return nil
	}
	in := map[helmrelease.Placed]int{}
	for _, s := range f.States {
		for _, o := range s.Objects {
			o.Version = "" // of one object, whichever version a chart writes it in
			in[o]++
		}
	}
	for o, states := range in {
		n.allow(o.Namespace, o.Group, o.Resource, "get", o.Name)
		if states > 1 || len(f.States) == 1 && !f.States[0].New {
			n.allow(o.Namespace, o.Group, o.Resource, "patch", o.Name)
		}
		if states < len(f.States) || f.States[0].New {
			n.allow(o.Namespace, o.Group, o.Resource, "create")
			n.allow(o.Namespace, o.Group, o.Resource, "delete", o.Name)
		}
		if len(f.States) == 1 && f.States[0].New { // what it is now is not known
			n.allow(o.Namespace, o.Group, o.Resource, "patch", o.Name)
		}
		if o.Group == "" && o.Resource == "replicationcontrollers" || o.Group == apps && o.Resource == "replicasets" {
			n.allow(o.Namespace, "", "pods", "list") // by which Helm tells that they are ready
		}
		if o.Group == apps && o.Resource == "deployments" {
			n.allow(o.Namespace, apps, "replicasets", "list")
		}
	}
	for _, o := range f.Gone {
		n.allow(o.Namespace, o.Group, o.Resource, "create")
	}
	for _, s := range f.States {
		n.hooks(s)
		for _, g := range s.Grants {
			if g.Binds != nil && slices.ContainsFunc(s.Grants, func(o helmrelease.Grant) bool { return o.By.Kind == g.Binds.Kind && o.By.Name == g.Binds.Name }) {
				continue // what the role gives is granted, which is enough to bind it
			}
			if err := n.hand(g); err != nil {
				return err
			}
		}
	}
	return nil
}

func named(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// hooks is what the hooks of a state take, and the log of one that fails.
func (n need) hooks(s helmrelease.State) {
	events := []string{"pre-rollback", "post-rollback"}
	if s.New {
		events = []string{"pre-upgrade", "post-upgrade"}
	}
	for _, h := range s.Hooks {
		n.allow(h.Namespace, h.Group, h.Resource, "get", h.Name) // also to see that none of a killed operation's works
		if !slices.ContainsFunc(h.Events, func(e string) bool { return slices.Contains(events, e) }) {
			continue
		}
		n.allow(h.Namespace, h.Group, h.Resource, "create")
		if h.Kind != "CustomResourceDefinition" {
			n.allow(h.Namespace, h.Group, h.Resource, "delete", h.Name)
		}
		if h.Kind == "Job" || h.Kind == "Pod" {
			n.allow(h.Namespace, "", "pods", "list")
			n.allow(h.Namespace, "", "pods/log", "get")
		}
	}
}

// hand is what handing rights on takes: nobody gives what he has not.
func (n need) hand(g helmrelease.Grant) error {
	if g.Binds != nil {
		n.allow(g.Namespace, rbacGroup, strings.ToLower(g.Binds.Kind)+"s", "bind", g.Binds.Name)
		return nil
	}
	return n.grant(g.By.String(), g.Namespace, g.Rules)
}
