package access

import (
	"fmt"
	"slices"
)

// way is how somebody with these abilities, all of them, becomes another.
type way struct {
	has   ability
	words string
}

// Ways in a namespace, to all of its accounts.
var namespaceWays = []way{
	{allAbility, "may do everything in %s"},
	{actsAsAccounts, "may act as any account of %s"},
	{makesTokens, "may issue a token of any account of %s"},
	{runsPods, "may run pods as any account of %s"},
	{entersPods, "may run commands in pods of %s as their accounts"},
	{readsSecrets | writesSecrets, "may make a Secret that is filled with the token of any account of %s, and read it"},
	{bindsRoles | writesBindings, "may grant any role in %s"},
	{escalates | writesRoles, "may give a role of %s any right"},
}

// Ways in the whole cluster, to all of it.
var clusterWays = []way{
	{allAbility, "may do everything"},
	{bindsRoles | writesClusterBindings, "may grant any role in the whole cluster"},
	{escalates | writesClusterRoles, "may give a role of the cluster any right"},
	{actsAsOthers, "may act as any user and group"},
	{approves | approvesSigner, "may approve a certificate in any name"},
	{signs | writesStatus, "may sign a certificate in any name"},
	{controlsAdmission, "may change what anybody sends to the API server"},
	{proxiesNodes, "may run commands in every pod of the nodes, the control plane's too"},
	{makesVolumes | runsPods, "may run pods with the nodes' own files"},
}

// Path is how a subject can come to more than it is granted.
type Path struct {
	From  Subject `json:"from"`
	To    string  `json:"to"` // a namespace with all its accounts; "": the whole cluster
	Steps []Step  `json:"steps"`
}

// Step is one step of a path.
type Step struct {
	Who   Subject `json:"who"`
	Words string  `json:"words"`
	By    []Grant `json:"by,omitempty"`
}

func (p Path) String() string {
	to := "the whole cluster"
	if p.To != "" {
		to = "namespace " + Show(p.To)
	}
	text := p.From.String() + " can come to " + to + ": "
	for i, s := range p.Steps {
		if i > 0 {
			text += "; then as " + s.Who.String() + " "
		}
		text += s.Words
		for _, g := range s.By {
			text += fmt.Sprintf(" (%s)", g)
		}
	}
	return text
}

// edge leads from a node to another; words is empty where nothing is to be done.
type edge struct {
	from  int
	words string
	by    []Grant
}

// inGroup begins the words of a membership.
const inGroup = "is in "

// graph has the subjects as nodes, and what stands for all accounts of a namespace, for those of all
// namespaces, and for the whole cluster. Edges are kept at the node that they lead to.
type graph struct {
	subjects []Subject // of the nodes; that of a node that is none is empty
	of       map[Subject]int
	hubs     map[string]int // by namespace
	into     [][]edge
	all, top int
}

func newGraph() *graph {
	g := &graph{of: make(map[Subject]int), hubs: make(map[string]int)}
	g.top = g.add(Subject{})
	g.all = g.add(Subject{})
	return g
}

func (g *graph) add(s Subject) int {
	g.subjects, g.into = append(g.subjects, s), append(g.into, nil)
	return len(g.subjects) - 1
}

// node is that of a subject. One that is new also has what its groups are granted.
func (g *graph) node(s Subject) int {
	at, ok := g.of[s]
	if ok {
		return at
	}
	at = g.add(s)
	g.of[s] = at
	for _, group := range s.groups() {
		g.link(at, g.node(group), inGroup+group.String(), nil)
	}
	if s.Kind == KindUser && s.Name != anonymous {
		g.link(at, g.node(Subject{Kind: KindGroup, Name: everybody}), inGroup+"group "+everybody, nil)
	}
	if s.Kind == KindAccount {
		g.link(g.hub(s.Namespace), at, "", nil)
	}
	if (s == Subject{Kind: KindGroup, Name: masters}) {
		g.link(at, g.top, "is not limited by RBAC", nil)
	}
	return at
}

// hub is the node of all accounts of a namespace.
func (g *graph) hub(namespace string) int {
	at, ok := g.hubs[namespace]
	if !ok {
		at = g.add(Subject{})
		g.hubs[namespace] = at
		g.link(g.all, at, "", nil)
	}
	return at
}

func (g *graph) link(from, to int, words string, by []Grant) {
	g.into[to] = append(g.into[to], edge{from, words, by})
}

// lead links a subject to all that it can become by what it is granted in a scope.
func (g *graph) lead(s Subject, scope string, granted []granted) {
	var can ability
	for _, x := range granted {
		can |= x.can
	}
	from := g.node(s)
	if scope == "" {
		if w := open(clusterWays, can); w != nil {
			g.link(from, g.top, w.words, w.by(granted))
			return // nothing is shorter
		}
	}
	if w := open(namespaceWays, can); w != nil {
		to, where := g.all, "any namespace"
		if scope != "" {
			to, where = g.hub(scope), "namespace "+Show(scope)
		}
		g.link(from, to, fmt.Sprintf(w.words, where), w.by(granted))
	}
	for _, x := range granted {
		for _, f := range x.named {
			for _, name := range f.names {
				for _, other := range g.called(f.gives, scope, name) {
					if other != s {
						g.link(from, g.node(other), "may act as "+other.String(), []Grant{x.Grant})
					}
				}
			}
		}
	}
}

// called finds whom a rule means that names somebody.
func (g *graph) called(kind ability, scope, name string) (all []Subject) {
	if kind == actsAsOthers {
		return []Subject{NewSubject(KindUser, "", name), {Kind: KindGroup, Name: name}}
	}
	if scope != "" {
		return []Subject{{Kind: KindAccount, Namespace: scope, Name: name}}
	}
	for namespace := range g.hubs {
		if s := (Subject{Kind: KindAccount, Namespace: namespace, Name: name}); g.of[s] != 0 {
			all = append(all, s)
		}
	}
	return all
}

// open is the first way that the abilities open.
func open(ways []way, can ability) *way {
	for i, w := range ways {
		if can&w.has == w.has {
			return &ways[i]
		}
	}
	return nil
}

// by are the grants that give the abilities of a way: one for each.
func (w way) by(granted []granted) (all []Grant) {
	var have ability
	for _, x := range granted {
		if x.can&w.has&^have != 0 {
			have |= x.can
			all = append(all, x.Grant)
		}
	}
	return all
}

// ways are the shortest from all nodes to one.
type ways struct {
	g    *graph
	next []*edge // the first edge of the way from a node; nil: there is none
	to   []int   // where it leads
}

// shortest finds the shortest ways to a node that do not pass through another.
func (g *graph) shortest(sink, not int) ways {
	w := ways{g, make([]*edge, len(g.subjects)), make([]int, len(g.subjects))}
	for queue := []int{sink}; len(queue) > 0; queue = queue[1:] {
		for i := range g.into[queue[0]] {
			e := &g.into[queue[0]][i]
			if e.from == sink || e.from == not || w.next[e.from] != nil {
				continue
			}
			w.next[e.from], w.to[e.from] = e, queue[0]
			queue = append(queue, e.from)
		}
	}
	return w
}

// from is the way of a subject; nil where it has none.
func (w ways) from(s Subject) (steps []Step) {
	at, ok := w.g.of[s]
	if !ok {
		return nil
	}
	for ; w.next[at] != nil; at = w.to[at] {
		if e := w.next[at]; e.words != "" {
			steps = append(steps, Step{w.g.subjects[at], e.words, e.by})
		}
	}
	return steps
}

// order makes the graph the same whatever order things were read in.
func (g *graph) order() {
	for _, edges := range g.into {
		slices.SortStableFunc(edges, func(a, b edge) int { return compareSubjects(g.subjects[a.from], g.subjects[b.from]) })
	}
}
