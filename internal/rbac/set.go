package rbac

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// right is a verb on a kind of object in a namespace; none: in all, or of the cluster.
type right struct{ namespace, group, resource, verb string }

// Set is what an account needs. A right without names is for all objects of its kind.
type Set struct {
	rights map[right][]string
	paths  map[string][]string // of requests that are for no object, and their verbs
	// Remarks are for who grants it.
	Remarks []string
}

func newSet() *Set { return &Set{rights: map[right][]string{}, paths: map[string][]string{}} }

// Empty says that nothing is needed.
func (s *Set) Empty() bool { return len(s.rights)+len(s.paths) == 0 }

func (s *Set) remark(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(s.Remarks, text) {
		s.Remarks = append(s.Remarks, text)
	}
}

// allow adds verbs on a resource, written as in "apps/deployments" or "pods/log" of the group "". Names narrow
// them where a role can: who lists or makes objects names none.
func (s *Set) allow(namespace, group, resource, verbs string, names ...string) {
	for _, verb := range strings.Fields(verbs) {
		r := right{namespace, group, resource, verb}
		narrow := names
		if verb == "list" || verb == "create" && !strings.Contains(resource, "/") {
			narrow = nil
		}
		have, known := s.rights[r]
		switch {
		case len(narrow) == 0:
			s.rights[r] = nil
		case known && len(have) == 0: // all of them already
		default:
			all := append(slices.Clone(have), narrow...)
			slices.Sort(all)
			s.rights[r] = slices.Compact(all)
		}
	}
}

// grant adds what a role of the chart's gives, which who makes the role must have. What Upkeep is never given
// is refused.
func (s *Set) grant(by, namespace string, rules []rbacv1.PolicyRule) error {
	for _, rule := range rules {
		all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.NonResourceURLs)
		switch {
		case slices.ContainsFunc(all, func(v string) bool { return strings.Contains(v, "*") }):
			return failure.New(failure.BadChart, "the chart's %s has a wildcard: to make it, Upkeep would need that right itself", by).
				Do("name what is meant in the chart, or leave the role out of it and apply it by hand")
		case slices.Contains(rule.Resources, "nodes/proxy"):
			return failure.New(failure.BadChart, "the chart's %s gives nodes/proxy, which is every right on a node: to make it, Upkeep would need that itself", by).
				Do("take it out of the chart, or leave the role out of it and apply it by hand")
		}
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					// As the role has it: a name that a role cannot narrow by is no narrower here either.
					r := right{namespace, group, resource, verb}
					if have, known := s.rights[r]; known && len(have) == 0 {
						continue
					}
					if len(rule.ResourceNames) == 0 {
						s.rights[r] = nil
						continue
					}
					names := append(slices.Clone(s.rights[r]), rule.ResourceNames...)
					slices.Sort(names)
					s.rights[r] = slices.Compact(names)
				}
			}
			for _, path := range rule.NonResourceURLs {
				s.paths[path] = append(s.paths[path], verb)
			}
		}
	}
	return nil
}

// join adds all of another.
func (s *Set) join(other *Set) {
	for r, names := range other.rights {
		if have, known := s.rights[r]; known && len(have) == 0 {
			continue
		}
		if len(names) == 0 {
			s.rights[r] = nil
			continue
		}
		all := append(slices.Clone(s.rights[r]), names...)
		slices.Sort(all)
		s.rights[r] = slices.Compact(all)
	}
	for path, verbs := range other.paths {
		s.paths[path] = append(s.paths[path], verbs...)
	}
	for _, remark := range other.Remarks {
		s.remark("%s", remark)
	}
}

// Right is one verb on one object, or without a name on all of its kind.
type Right struct{ Namespace, Group, Resource, Verb, Name string }

// Rights are all of the set, each by itself, in an order that does not change.
func (s *Set) Rights() (all []Right) {
	for r, names := range s.rights {
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			all = append(all, Right{r.namespace, r.group, r.resource, r.verb, name})
		}
	}
	slices.SortFunc(all, func(a, b Right) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource), byVerb(a.Verb, b.Verb), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// Namespaces are those of the set, sorted; "" is the cluster.
func (s *Set) Namespaces() []string {
	seen := map[string]bool{}
	for r := range s.rights {
		seen[r.namespace] = true
	}
	if len(s.paths) > 0 {
		seen[""] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// Rules are those of a namespace, in an order that does not change.
func (s *Set) Rules(namespace string) []rbacv1.PolicyRule {
	type what struct{ group, verbs, names, resource string }
	verbs := map[what][]string{}
	for r, names := range s.rights {
		if r.namespace == namespace {
			key := what{group: r.group, names: strings.Join(names, ","), resource: r.resource}
			verbs[key] = append(verbs[key], r.verb)
		}
	}
	together := map[what][]string{} // resources
	for key, of := range verbs {
		slices.SortFunc(of, byVerb)
		resource := key.resource
		key.verbs, key.resource = strings.Join(of, ","), ""
		if key.names != "" {
			key.resource = resource // names are of one kind
		}
		together[key] = append(together[key], resource)
	}
	var rules []rbacv1.PolicyRule
	for key, resources := range together {
		slices.Sort(resources)
		rule := rbacv1.PolicyRule{APIGroups: []string{key.group}, Resources: resources, Verbs: strings.Split(key.verbs, ",")}
		if key.names != "" {
			rule.ResourceNames = strings.Split(key.names, ",")
		}
		rules = append(rules, rule)
	}
	slices.SortFunc(rules, func(a, b rbacv1.PolicyRule) int {
		return cmp.Or(cmp.Compare(a.APIGroups[0], b.APIGroups[0]), slices.Compare(a.Resources, b.Resources),
			cmp.Compare(len(a.ResourceNames), len(b.ResourceNames)), slices.Compare(a.ResourceNames, b.ResourceNames), slices.Compare(a.Verbs, b.Verbs))
	})
	if namespace == "" {
		for _, path := range slices.Sorted(maps.Keys(s.paths)) {
			of := slices.Clone(s.paths[path])
			slices.SortFunc(of, byVerb)
			rules = append(rules, rbacv1.PolicyRule{NonResourceURLs: []string{path}, Verbs: slices.Compact(of)})
		}
	}
	return rules
}

// byVerb orders verbs as people do: first what only reads.
func byVerb(a, b string) int {
	order := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	at := func(v string) int {
		if i := slices.Index(order, v); i >= 0 {
			return i
		}
		return len(order)
	}
	return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a, b))
}
