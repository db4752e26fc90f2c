package rbac

import (
	"slices"
	"strings"
)

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
	if n.Standing != "" && !n.dry && namespace == n.Namespace {
		n.forward(n.Standing)
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
