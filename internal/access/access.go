// Package access reviews who may do what in a cluster by RBAC: the subjects with what they are granted and by
// whom, the grants that are risky, and the ways by which one subject can become another. It holds a review
// against a signed baseline that a person has accepted. It reads, and changes nothing in the cluster.
package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Kinds of subjects, roles and bindings, as RBAC calls them.
const (
	KindAccount = rbacv1.ServiceAccountKind
	KindUser    = rbacv1.UserKind
	KindGroup   = rbacv1.GroupKind

	kindRole               = "Role"
	kindClusterRole        = "ClusterRole"
	kindRoleBinding        = "RoleBinding"
	kindClusterRoleBinding = "ClusterRoleBinding"
)

// Groups that the API server itself puts subjects into.
const (
	everybody      = "system:authenticated"
	anybody        = "system:unauthenticated"
	anonymous      = "system:anonymous" // a user
	masters        = "system:masters"   // whom RBAC does not limit
	allAccounts    = "system:serviceaccounts"
	accountsPrefix = "system:serviceaccounts:"
	accountPrefix  = "system:serviceaccount:" // of a user's name that is an account's
)

// Subject is one to whom something is granted.
type Subject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// NewSubject is a subject as a binding names it. An account may be named as a user too.
func NewSubject(kind, namespace, name string) Subject {
	if rest, ok := strings.CutPrefix(name, accountPrefix); ok && kind == KindUser {
		if namespace, name, ok := strings.Cut(rest, ":"); ok && namespace != "" && name != "" {
			return Subject{KindAccount, namespace, name}
		}
	}
	if kind != KindAccount {
		namespace = ""
	}
	return Subject{kind, namespace, name}
}

func (s Subject) String() string {
	switch s.Kind {
	case KindAccount:
		return "account " + Show(s.Namespace) + "/" + Show(s.Name)
	case KindGroup:
		return "group " + Show(s.Name)
	}
	return "user " + Show(s.Name)
}

// crowd says that it stands for many who have little in common.
func (s Subject) crowd() bool {
	return s == Subject{Kind: KindUser, Name: anonymous} || s.Kind == KindGroup &&
		(s.Name == everybody || s.Name == anybody || s.Name == allAccounts || strings.HasPrefix(s.Name, accountsPrefix))
}

// groups are those that the API server puts an account into.
func (s Subject) groups() []Subject {
	if s.Kind != KindAccount {
		return nil
	}
	return []Subject{{Kind: KindGroup, Name: accountsPrefix + s.Namespace}, {Kind: KindGroup, Name: allAccounts}, {Kind: KindGroup, Name: everybody}}
}

// As is a subject as the API server sees its requests: the user's name, and its groups. A group is seen as one of its
// members, who has no name.
func (s Subject) As() (user string, groups []string) {
	switch s.Kind {
	case KindGroup:
		return "", []string{s.Name}
	case KindUser:
		return s.Name, []string{everybody}
	}
	for _, g := range s.groups() {
		groups = append(groups, g.Name)
	}
	return accountPrefix + s.Namespace + ":" + s.Name, groups
}

// Basic reports whether a binding gives everybody what Kubernetes itself gives everybody, which is harmless.
func Basic(binding, role string) bool { return binding == role && slices.Contains(harmless, role) }

// Ref names a role or a binding.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (r Ref) String() string {
	if r.Namespace != "" {
		return r.Kind + " " + Show(r.Namespace) + "/" + Show(r.Name)
	}
	return r.Kind + " " + Show(r.Name)
}

// Rule is one rule of a role, its lists in order: the same rights have the same bytes.
type Rule struct {
	Verbs     []string `json:"verbs"`
	Groups    []string `json:"groups,omitempty"` // of the API; "" is the core's
	Resources []string `json:"resources,omitempty"`
	Names     []string `json:"names,omitempty"` // of the only objects that it is about
	URLs      []string `json:"urls,omitempty"`
}

// Allows reports whether the rule allows a request for an object, as the API server's authorizer does. A
// resource may have a subresource: "pods/exec". Who asks for no object by name has the name "".
func (r Rule) Allows(verb, group, resource, name string) bool {
	return (slices.Contains(r.Verbs, verb) || slices.Contains(r.Verbs, rbacv1.VerbAll)) &&
		(slices.Contains(r.Groups, group) || slices.Contains(r.Groups, rbacv1.APIGroupAll)) &&
		r.about(resource) && (len(r.Names) == 0 || slices.Contains(r.Names, name))
}

func (r Rule) about(resource string) bool {
	if slices.Contains(r.Resources, resource) || slices.Contains(r.Resources, rbacv1.ResourceAll) {
		return true
	}
	_, sub, ok := strings.Cut(resource, "/")
	return ok && slices.Contains(r.Resources, "*/"+sub)
}

func (r Rule) String() string {
	list := func(all []string) string {
		shown := make([]string, len(all))
		for i, v := range all {
			shown[i] = Show(v)
		}
		return strings.Join(shown, ",")
	}
	if len(r.URLs) > 0 {
		return list(r.Verbs) + " of " + list(r.URLs)
	}
	text := list(r.Verbs) + " of " + list(r.Resources)
	if groups := slices.DeleteFunc(slices.Clone(r.Groups), func(g string) bool { return g == "" }); len(groups) > 0 {
		text += " (" + list(groups) + ")"
	}
	if len(r.Names) > 0 {
		text += ", only " + list(r.Names)
	}
	return text
}

// ordered makes rules comparable: each with its lists in order, and the rules too.
func ordered(rules []rbacv1.PolicyRule) []Rule {
	all := make([]Rule, 0, len(rules))
	for _, r := range rules {
		all = append(all, Rule{sorted(r.Verbs), sorted(r.APIGroups), sorted(r.Resources), sorted(r.ResourceNames), sorted(r.NonResourceURLs)})
	}
	slices.SortFunc(all, compareRules)
	return slices.CompactFunc(all, func(a, b Rule) bool { return compareRules(a, b) == 0 })
}

func compareRules(a, b Rule) int {
	for _, c := range []int{slices.Compare(a.Groups, b.Groups), slices.Compare(a.Resources, b.Resources), slices.Compare(a.Names, b.Names), slices.Compare(a.URLs, b.URLs)} {
		if c != 0 {
			return c
		}
	}
	return slices.Compare(a.Verbs, b.Verbs)
}

func sorted(all []string) []string {
	if len(all) == 0 {
		return nil
	}
	all = slices.Clone(all)
	slices.Sort(all)
	return slices.Compact(all)
}

// Role is a role of the cluster.
type Role struct {
	Ref
	Rules      []Rule
	Labels     map[string]string // of a ClusterRole, by which others take its rules
	Aggregates []metav1.LabelSelector
}

// Binding grants a role to subjects.
type Binding struct {
	Ref
	Role     Ref
	Subjects []Subject
}

// Account is a service account.
type Account struct{ Namespace, Name string }

// Use is how pods use an account.
type Use struct {
	Pods  int // that run as it
	Token int // of them with its token in their files
}

// Seen is what was read of a cluster.
type Seen struct {
	Roles    []Role
	Bindings []Binding
	Accounts []Account
	Uses     map[Subject]Use
	Unread   []Unread
}

// Unread is something that may not be read, so that nothing is said of it.
type Unread struct {
	Resource string `json:"resource"`          // as the API calls it
	Only     string `json:"only,omitempty"`    // the namespace in which it was read all the same
	Why      string `json:"why"`               // as the API server says
	Who      string `json:"who,omitempty"`     // may not: the user that Upkeep is to the cluster
	Command  string `json:"command,omitempty"` // that grants it
}

// selects reports whether a selector takes an object with these labels.
func selects(selector metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(&selector)
	return err == nil && s.Matches(labels.Set(of))
}

// unread finds what was not read of a resource.
func unread(all []Unread, resource string) *Unread {
	if i := slices.IndexFunc(all, func(u Unread) bool { return u.Resource == resource }); i >= 0 {
		return &all[i]
	}
	return nil
}

// maxShown bounds a name of the cluster in a text, in characters.
const maxShown = 120

// Show makes a name of the cluster harmless in a text: RBAC lets names have any character but / and %, also
// those that steer a terminal or look like another name.
func Show(name string) string {
	plain := strings.IndexFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsPrint(r) || strings.ContainsRune("`\"\\", r)
	}) < 0
	if !plain {
		name = strconv.QuoteToASCII(name)
	}
	if len(name) > maxShown {
		sum := sha256.Sum256([]byte(name))
		name = fmt.Sprintf("%s... (%d bytes, sha256 %x)", name[:maxShown], len(name), sum[:4])
	}
	return name
}

// canonical is a value as JSON whose bytes depend on nothing but the value.
func canonical(v any) []byte {
	data, _ := json.Marshal(v) // plain data always encodes
	return data
}

// HashOf names a text by its content.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
