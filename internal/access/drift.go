package access

import (
	"cmp"
	"fmt"
	"slices"
)

// How something differs from the baseline.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Change is one difference from the baseline.
type Change struct {
	How  string `json:"how"`
	Kind string `json:"kind"` // subject, grant, role, risk, path or dangling
	What string `json:"what"`
	// More says that somebody may do more than before.
	More     bool   `json:"more"`
	Severity string `json:"severity,omitempty"` // of a risk
}

func (c Change) String() string {
	text := c.How + " " + c.Kind + ": " + c.What
	if c.Severity != "" {
		text = c.How + " " + c.Severity + " risk: " + c.What
	}
	return text
}

// Drift is how a review differs from an accepted one.
type Drift struct {
	Changes []Change `json:"changes"`
	// Blind is what was read for one of the two and not for the other, so that it was not compared.
	Blind []string `json:"blind,omitempty"`
}

// More reports whether somebody may do more than before.
func (d Drift) More() bool {
	return slices.ContainsFunc(d.Changes, func(c Change) bool { return c.More })
}

// Compare finds what has changed since a review was accepted.
func Compare(before, now *Review) Drift {
	d := Drift{Changes: []Change{}}
	for _, r := range slices.Concat(before.Unread, now.Unread) {
		if !slices.Contains(d.Blind, r.Resource) {
			d.Blind = append(d.Blind, r.Resource)
		}
	}
	slices.Sort(d.Blind)
	both := func(g Grant) bool {
		return wasRead(before.Unread, g.Binding) && wasRead(now.Unread, g.Binding) && wasRead(before.Unread, g.Role) && wasRead(now.Unread, g.Role)
	}
	was, is := before.holds(both), now.holds(both)
	differ(was, is, func(how string, s Subject, h Holder) {
		d.add(how, "subject", fmt.Sprintf("%s with %d grants", s, len(h.Grants)), how == Added && len(h.Grants) > 0)
	})
	differ(before.grants(both), now.grants(both), func(how string, of held, _ struct{}) {
		d.add(how, "grant", fmt.Sprintf("%s has %s %s", of.Subject, of.Grant, where(of.Scope)), how == Added)
	})
	d.roles(before, now)
	differ(before.risky(both), now.risky(both), func(how string, _ string, r Risk) {
		d.Changes = append(d.Changes, Change{how, "risk", r.String(), how == Added, r.Severity})
	})
	if len(d.Blind) == 0 {
		type ends struct {
			from Subject
			to   string
		}
		paths := func(r *Review) map[ends]Path {
			return index(r.Paths, func(p Path) ends { return ends{p.From, p.To} })
		}
		differ(paths(before), paths(now), func(how string, _ ends, p Path) { d.add(how, "path", p.String(), how == Added) })
		dangling := func(r *Review) map[string]Remark {
			return index(r.Dangling, func(m Remark) string { return m.What })
		}
		differ(dangling(before), dangling(now), func(how string, what string, _ Remark) { d.add(how, "dangling", what, false) })
	}
	slices.SortStableFunc(d.Changes, func(a, b Change) int {
		return cmp.Or(-compareBool(a.More, b.More), cmp.Compare(weight(a), weight(b)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.How, b.How), cmp.Compare(a.What, b.What))
	})
	return d
}

// weight puts risks before paths, and both before the rest.
func weight(c Change) int {
	if i := slices.Index(severities, c.Severity); i >= 0 {
		return i
	}
	if c.Kind == "path" {
		return len(severities)
	}
	return len(severities) + 1
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (d *Drift) add(how, kind, what string, more bool) {
	d.Changes = append(d.Changes, Change{How: how, Kind: kind, What: what, More: more})
}

// held is a grant of a subject.
type held struct {
	Subject
	Grant
}

func (r *Review) holds(both func(Grant) bool) map[Subject]Holder {
	return index(slices.DeleteFunc(slices.Clone(r.Subjects), func(h Holder) bool {
		return len(h.Grants) > 0 && !slices.ContainsFunc(h.Grants, both)
	}), func(h Holder) Subject { return h.Subject })
}

func (r *Review) grants(both func(Grant) bool) map[held]struct{} {
	all := make(map[held]struct{})
	for _, h := range r.Subjects {
		for _, g := range h.Grants {
			if both(g) {
				all[held{h.Subject, g}] = struct{}{}
			}
		}
	}
	return all
}

func (r *Review) risky(both func(Grant) bool) map[string]Risk {
	all := make(map[string]Risk)
	for _, risk := range r.Risks {
		if both(risk.Grant) {
			all[risk.id()] = risk
		}
	}
	return all
}

// roles compares what the roles grant that both have.
func (d *Drift) roles(before, now *Review) {
	was := index(before.Roles, func(g Granted) Ref { return g.Ref })
	for _, is := range now.Roles {
		old, ok := was[is.Ref]
		if !ok || !wasRead(before.Unread, is.Ref) || !wasRead(now.Unread, is.Ref) {
			continue // the grants say it
		}
		tell := func(from, to []Rule, verb string, more bool) {
			have := index(to, func(r Rule) content { return key([]Rule{r}) })
			for _, r := range from {
				if _, ok := have[key([]Rule{r})]; !ok {
					d.add(Changed, "role", fmt.Sprintf("%s %s %s", is.Ref, verb, r), more)
				}
			}
		}
		tell(is.Rules, old.Rules, "now grants", true)
		tell(old.Rules, is.Rules, "no longer grants", false)
	}
}

func index[K comparable, V any](all []V, key func(V) K) map[K]V {
	out := make(map[K]V, len(all))
	for _, v := range all {
		out[key(v)] = v
	}
	return out
}

// differ tells what only one of two has.
func differ[K comparable, V any](was, is map[K]V, tell func(how string, k K, v V)) {
	for k, v := range is {
		if _, ok := was[k]; !ok {
			tell(Added, k, v)
		}
	}
	for k, v := range was {
		if _, ok := is[k]; !ok {
			tell(Removed, k, v)
		}
	}
}
