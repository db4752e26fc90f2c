package rbac

import (
	"slices"
	"strings"

	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/ownership"
)

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
