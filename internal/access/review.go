package access

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Version is that of what a review looks like.
const Version = 1

// Review is who may do what in some namespaces, and who reaches into them. Two reviews of the same state are
// the same bytes.
type Review struct {
	Version    int       `json:"version"`
	Namespaces []string  `json:"namespaces"`
	Unread     []Unread  `json:"unread,omitempty"`
	Subjects   []Holder  `json:"subjects"`
	Roles      []Granted `json:"roles"` // that they are granted
	Risks      []Risk    `json:"risks"`
	Paths      []Path    `json:"paths"`
	Dangling   []Remark  `json:"dangling,omitempty"` // bindings of what is not there
	Accounts   []Remark  `json:"accounts,omitempty"` // of the namespaces: unused ones, and needless tokens
}

// Holder is a subject with its grants.
type Holder struct {
	Subject
	Missing bool    `json:"missing,omitempty"` // an account that is not there
	Grants  []Grant `json:"grants"`
}

// Grant is a role that a subject has in a namespace, or in the whole cluster.
type Grant struct {
	Scope   string `json:"scope,omitempty"` // the namespace; "": the whole cluster
	Role    Ref    `json:"role"`
	Binding Ref    `json:"binding"`
}

func (g Grant) String() string { return g.Role.String() + " by " + g.Binding.String() }

// where says in words where a grant counts.
func where(scope string) string {
	if scope == "" {
		return "in the whole cluster"
	}
	return "in namespace " + Show(scope)
}

// Granted is a role with its rights.
type Granted struct {
	Ref
	Rules []Rule `json:"rules"`
}

// Risk is a risky grant.
type Risk struct {
	Severity string   `json:"severity"`
	Kind     string   `json:"kind"`
	Subject  Subject  `json:"subject"`
	System   bool     `json:"system,omitempty"` // it comes with Kubernetes
	Scope    string   `json:"scope,omitempty"`
	Names    []string `json:"names,omitempty"` // of the only objects that it is about
	Grant    Grant    `json:"grant"`
	Why      string   `json:"why"`
	Source   string   `json:"source"`
}

func (r Risk) String() string {
	text := fmt.Sprintf("%s %s %s", r.Subject, r.Why, where(r.Scope))
	if len(r.Names) > 0 {
		shown := make([]string, 0, 5)
		for _, n := range r.Names[:min(len(r.Names), 5)] {
			shown = append(shown, Show(n))
		}
		text += ", only of " + strings.Join(shown, ", ")
		if more := len(r.Names) - len(shown); more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	return text + " (" + r.Grant.String() + ")"
}

// Remark is something that is not as it should be, and grants nothing.
type Remark struct {
	Kind string `json:"kind"`
	What string `json:"what"`
}

// granted is a grant with what it makes possible.
type granted struct {
	Grant
	*rights
}

// holder is a subject while a review is made.
type holder struct {
	subject Subject
	grants  []granted
	scopes  map[string][]granted // the same by where they count
}

// known is what was seen, by name.
type known struct {
	seen     *Seen
	roles    map[Ref]*rights
	accounts map[Subject]Account
	holders  map[Subject]*holder
	graph    *graph
}

// unknown are the rights of a role that is not there, or could not be read.
var unknown = &rights{}

// Judge makes the review of namespaces.
func Judge(seen *Seen, namespaces []string) *Review {
	k := &known{seen: seen, accounts: make(map[Subject]Account, len(seen.Accounts)), holders: make(map[Subject]*holder), graph: newGraph()}
	k.resolve()
	for _, a := range seen.Accounts {
		k.accounts[Subject{KindAccount, a.Namespace, a.Name}] = a
	}
	r := &Review{Version: Version, Namespaces: sorted(namespaces), Unread: seen.Unread, Subjects: []Holder{}, Roles: []Granted{}, Risks: []Risk{}, Paths: []Path{}}
	for _, b := range seen.Bindings {
		k.bind(b, r)
	}
	k.link()
	r.fill(k)
	return r
}

// resolve finds what each role grants, with what it takes from others by their labels.
func (k *known) resolve() {
	roles := make(map[Ref]*Role, len(k.seen.Roles))
	labelled := []*Role{}
	mighty := make(map[string]bool)
	for i := range k.seen.Roles {
		r := &k.seen.Roles[i]
		roles[r.Ref] = r
		if r.Kind == kindClusterRole && len(r.Labels) > 0 {
			labelled = append(labelled, r)
		}
		if r.Kind == kindClusterRole && everything(r.Rules) {
			mighty[r.Name] = true
		}
	}
	k.roles = make(map[Ref]*rights, len(roles))
	same := make(map[content]*rights) // by their content: many roles grant the same
	for ref, r := range roles {
		rules := r.Rules
		if len(r.Aggregates) > 0 {
			rules = aggregate(r, labelled, map[Ref]bool{})
		}
		key := key(rules)
		if same[key] == nil {
			same[key] = weigh(rules, func(name string) bool { return mighty[name] })
		}
		k.roles[ref] = same[key]
	}
}

// content is what tells rules from others: a hash, since there are many, whose texts are long.
type content [sha256.Size]byte

// key is the content of rules. Texts may have any character, so each is told with its length.
func key(rules []Rule) content {
	var b []byte
	for _, r := range rules {
		for _, list := range [][]string{r.Verbs, r.Groups, r.Resources, r.Names, r.URLs} {
			b = append(strconv.AppendInt(b, int64(len(list)), 10), ':')
			for _, v := range list {
				b = append(strconv.AppendInt(b, int64(len(v)), 10), ':')
				b = append(b, v...)
			}
		}
	}
	return sha256.Sum256(b)
}

// aggregate is what a role grants, and what it will once its controller has looked at the labels again.
func aggregate(r *Role, labelled []*Role, passed map[Ref]bool) []Rule {
	passed[r.Ref] = true
	rules := slices.Clone(r.Rules)
	for _, selector := range r.Aggregates {
		for _, other := range labelled {
			if passed[other.Ref] || !selects(selector, other.Labels) {
				continue
			}
			if len(other.Aggregates) > 0 {
				rules = append(rules, aggregate(other, labelled, passed)...)
				continue
			}
			rules = append(rules, other.Rules...)
		}
	}
	slices.SortFunc(rules, compareRules)
	return slices.CompactFunc(rules, func(a, b Rule) bool { return compareRules(a, b) == 0 })
}

// bind gives the subjects of a binding its role, and remarks what is not there.
func (k *known) bind(b Binding, r *Review) {
	scope := b.Namespace
	rights, ok := k.roles[b.Role]
	if !ok {
		rights = unknown
	}
	concerns := scope == "" || slices.Contains(r.Namespaces, scope)
	for _, s := range b.Subjects {
		concerns = concerns || s.Kind == KindAccount && slices.Contains(r.Namespaces, s.Namespace)
	}
	remark := func(format string, args ...any) {
		if concerns {
			r.Dangling = append(r.Dangling, Remark{"dangling", b.String() + " " + fmt.Sprintf(format, args...)})
		}
	}
	if !ok && k.seen.knows(b.Role) {
		remark("grants %s, which is not there: whoever makes one of that name decides what it grants", b.Role)
	}
	if len(b.Subjects) == 0 {
		remark("grants %s to nobody", b.Role)
	}
	for _, s := range b.Subjects {
		h := k.holders[s]
		if h == nil {
			h = &holder{subject: s}
			k.holders[s] = h
		}
		h.grants = append(h.grants, granted{Grant{scope, b.Role, b.Ref}, rights})
		if k.missing(s) {
			remark("grants %s to %s, which is not there: whoever makes one of that name has it", b.Role, s)
		}
	}
}

// missing says that a subject is an account that is known not to be there.
func (k *known) missing(s Subject) bool {
	_, ok := k.accounts[s]
	return s.Kind == KindAccount && !ok && k.seen.knows(Ref{Kind: KindAccount, Namespace: s.Namespace})
}

// resources are the names by which the API lists what a reference is to.
var resources = map[string]string{
	kindRole: "roles", kindClusterRole: "clusterroles", kindRoleBinding: "rolebindings", kindClusterRoleBinding: "clusterrolebindings", KindAccount: "serviceaccounts",
}

// knows says that what a reference is to was read, whether it is there or not.
func (s *Seen) knows(r Ref) bool { return wasRead(s.Unread, r) }

func wasRead(all []Unread, r Ref) bool {
	u := unread(all, resources[r.Kind])
	return u == nil || u.Only != "" && u.Only == r.Namespace
}

// link makes the graph of who can become whom.
func (k *known) link() {
	for s := range k.accounts {
		k.graph.node(s)
	}
	for _, h := range k.holders {
		slices.SortFunc(h.grants, func(a, b granted) int { return compareGrants(a.Grant, b.Grant) })
		k.graph.node(h.subject)
	}
	for _, s := range slices.SortedFunc(maps.Keys(k.graph.of), compareSubjects) {
		k.lead(s)
	}
	k.graph.order()
}

// lead links a subject that is granted something to whom it can become. What its groups are granted counts
// too: two grants may make possible what neither does alone.
func (k *known) lead(s Subject) {
	own := k.byScope(s)
	if len(own) == 0 {
		return // its groups lead by themselves
	}
	everywhere := slices.Clone(own[""])
	scopes := slices.Collect(maps.Keys(own))
	for _, group := range s.groups() {
		theirs := k.byScope(group)
		everywhere = append(everywhere, theirs[""]...)
		if len(own[""]) > 0 {
			scopes = slices.AppendSeq(scopes, maps.Keys(theirs))
		}
	}
	if len(own[""]) > 0 {
		k.graph.lead(s, "", everywhere)
	}
	for _, scope := range sorted(scopes) {
		if scope == "" {
			continue
		}
		there := slices.Concat(own[scope], everywhere)
		for _, group := range s.groups() {
			there = append(there, k.byScope(group)[scope]...)
		}
		k.graph.lead(s, scope, there)
	}
}

// byScope are the grants of a subject by where they count.
func (k *known) byScope(s Subject) map[string][]granted {
	h := k.holders[s]
	if h == nil {
		return nil
	}
	if h.scopes == nil {
		h.scopes = make(map[string][]granted)
		for _, g := range h.grants {
			h.scopes[g.Scope] = append(h.scopes[g.Scope], g)
		}
	}
	return h.scopes
}

// fill writes down who is concerned.
func (r *Review) fill(k *known) {
	sink := k.graph.shortest(k.graph.top, -1)
	toThem := make(map[string]ways)
	for _, n := range r.Namespaces {
		toThem[n] = k.graph.shortest(k.graph.hub(n), k.graph.top)
	}
	roles := make(map[Ref]bool)
	for _, s := range slices.SortedFunc(maps.Keys(k.graph.of), compareSubjects) {
		inside := s.Kind == KindAccount && slices.Contains(r.Namespaces, s.Namespace)
		h := k.holders[s]
		if h == nil {
			h = &holder{subject: s}
		}
		r.path(s, "", sink.from(s))
		reaches := len(sink.from(s)) > 0
		for _, n := range r.Namespaces {
			steps := toThem[n].from(s)
			reaches = reaches || len(steps) > 0
			if !(inside && s.Namespace == n) {
				r.path(s, n, steps)
			}
		}
		within := slices.ContainsFunc(h.grants, func(g granted) bool { return g.Scope == "" || slices.Contains(r.Namespaces, g.Scope) })
		if !inside && !within && (!reaches || len(h.grants) == 0) {
			continue
		}
		out := Holder{Subject: s, Missing: k.missing(s), Grants: []Grant{}}
		for _, g := range h.grants {
			out.Grants = append(out.Grants, g.Grant)
			roles[g.Role] = true
			r.risks(s, g)
		}
		out.Grants = slices.Compact(out.Grants)
		r.Subjects = append(r.Subjects, out)
	}
	for ref := range roles {
		g := Granted{ref, []Rule{}}
		if rights := k.roles[ref]; rights != nil && len(rights.rules) > 0 {
			g.Rules = rights.rules
		}
		r.Roles = append(r.Roles, g)
	}
	slices.SortFunc(r.Roles, func(a, b Granted) int { return compareRefs(a.Ref, b.Ref) })
	slices.SortFunc(r.Dangling, func(a, b Remark) int { return cmp.Compare(a.What, b.What) })
	r.once()
	r.remark(k)
}

// controllers are the users that the control plane's programs are.
var controllers = []string{"system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"}

// bootstrap says that a grant is one of those that the API server makes by itself, for itself. By its names
// and its subject: a label anybody can write.
func bootstrap(s Subject, g Grant) bool {
	name := g.Binding.Name
	switch {
	case name != g.Role.Name:
		return false
	case s.Kind == KindAccount:
		return s.Namespace == "kube-system" && (name == "system:controller:"+s.Name || name == "system:kube-dns" && s.Name == "kube-dns")
	case s.Kind == KindGroup:
		return s.Name == masters && name == "cluster-admin"
	}
	return slices.Contains(controllers, s.Name) && strings.HasPrefix(name, "system:")
}

// system says that a subject has no other grants than those.
func (h Holder) system() bool {
	return len(h.Grants) > 0 && !slices.ContainsFunc(h.Grants, func(g Grant) bool { return !bootstrap(h.Subject, g) })
}

// path notes a way, unless it is no news: by what comes with Kubernetes, or of one who may do everything.
func (r *Review) path(s Subject, to string, steps []Step) {
	if len(steps) == 0 || strings.HasPrefix(steps[0].Words, inGroup) || (s == Subject{Kind: KindGroup, Name: masters}) { // that is the group's
		return
	}
	if by := steps[0].By; len(by) > 0 && !slices.ContainsFunc(by, func(g Grant) bool { return !bootstrap(s, g) }) {
		return
	}
	if len(steps) == 1 && (steps[0].Words == clusterWays[0].words || steps[0].Words == fmt.Sprintf(namespaceWays[0].words, "namespace "+Show(to))) {
		return // the risk says it
	}
	r.Paths = append(r.Paths, Path{s, to, steps})
}

// harmless are the roles that Kubernetes itself grants to everybody.
var harmless = []string{"system:basic-user", "system:discovery", "system:public-info-viewer", "system:service-account-issuer-discovery"}

// risks notes the risks of a grant.
func (r *Review) risks(s Subject, g granted) {
	add := func(f found) {
		if severity := f.severity(g.Scope); severity != "" {
			r.Risks = append(r.Risks, Risk{severity, f.id, s, bootstrap(s, g.Grant), g.Scope, f.names, g.Grant, f.why, f.source})
		}
	}
	for _, f := range g.rights.risks {
		add(f)
	}
	if s.crowd() && !slices.Contains(harmless, g.Role.Name) {
		severity := Medium
		if g.can != 0 || s.Name == anybody || s.Name == anonymous {
			severity = Critical
		}
		add(found{&danger{id: riskCrowd, cluster: severity, namespace: severity, why: "stands for many, and all of them have this", source: practices + "Hardening"}, nil})
	}
	if s.Kind == KindAccount && s.Name == "default" {
		add(found{&danger{id: riskDefault, cluster: Medium, namespace: Medium, why: "is the account of every pod that names none, and has rights", source: "CIS 5.1.5"}, nil})
	}
}

// once puts risks in their order, each once: another grant of the same is in the list of grants.
func (r *Review) once() {
	slices.SortStableFunc(r.Risks, func(a, b Risk) int {
		return cmp.Or(cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)), compareSubjects(a.Subject, b.Subject),
			cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Kind, b.Kind), slices.Compare(a.Names, b.Names))
	})
	r.Risks = slices.CompactFunc(r.Risks, func(a, b Risk) bool { return a.id() == b.id() })
}

// id is what makes a risk another one.
func (r Risk) id() string {
	return string(canonical([]any{r.Kind, r.Subject, r.Scope, r.Names, r.Severity}))
}

// remark notes which accounts of the namespaces nobody uses, and which pods have a token for nothing.
func (r *Review) remark(k *known) {
	for _, s := range slices.SortedFunc(maps.Keys(k.accounts), compareSubjects) {
		if !slices.Contains(r.Namespaces, s.Namespace) || unread(k.seen.Unread, "pods") != nil {
			continue
		}
		use, grants := k.seen.Uses[s], 0
		if h := k.holders[s]; h != nil {
			grants = len(h.grants)
		}
		add := func(kind, format string, args ...any) {
			r.Accounts = append(r.Accounts, Remark{kind, s.String() + " " + fmt.Sprintf(format, args...)})
		}
		switch {
		case use.Pods == 0 && grants > 0:
			add("unused", "has %d grants, and no pod runs as it now", grants)
		case use.Pods == 0 && s.Name != "default":
			add("unused", "has no grants of its own, and no pod runs as it now")
		case use.Token > 0 && grants == 0:
			add("token", "has no grants of its own, and %d of its %d pods have its token in their files: automountServiceAccountToken: false keeps it out", use.Token, use.Pods)
		}
	}
}

func compareSubjects(a, b Subject) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareGrants(a, b Grant) int {
	return cmp.Or(cmp.Compare(a.Scope, b.Scope), compareRefs(a.Role, b.Role), compareRefs(a.Binding, b.Binding))
}
