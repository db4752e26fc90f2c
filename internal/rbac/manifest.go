package rbac

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Account is who is given rights.
type Account struct{ Namespace, Name string }

// Manifest is one account's Roles and RoleBindings, and its ClusterRole and ClusterRoleBinding where it needs
// something of the cluster's. Without a namespace of their own the Roles are for that of kubectl.
func (s *Set) Manifest(name string, to Account) []any {
	labels := map[string]string{"app.kubernetes.io/part-of": "upkeep"}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: to.Name, Namespace: to.Namespace}}
	var objects []any
	for _, namespace := range s.Namespaces() {
		m := metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels}
		kind, binding := "Role", "RoleBinding"
		if namespace == "" {
			kind, binding = "ClusterRole", "ClusterRoleBinding"
		}
		if namespace == Anywhere {
			m.Namespace = ""
		}
		of := func(kind string) metav1.TypeMeta {
			return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
		}
		objects = append(objects,
			rbacv1.Role{TypeMeta: of(kind), ObjectMeta: m, Rules: s.Rules(namespace)},
			rbacv1.RoleBinding{TypeMeta: of(binding), ObjectMeta: m, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}})
	}
	return objects
}

// Anywhere is the namespace of a target that is not known: the Roles name none.
const Anywhere = "(anywhere)"

// NamespaceRules are rules as deploy/charts/upkeep takes them.
type NamespaceRules struct {
	Namespace string              `json:"namespace"`
	Rules     []rbacv1.PolicyRule `json:"rules"`
}

type chartRules struct {
	Rules        []NamespaceRules    `json:"rules"`
	ClusterRules []rbacv1.PolicyRule `json:"clusterRules,omitempty"`
}

// Values are the sets as values of deploy/charts/upkeep.
func Values(database, cluster *Set) any {
	of := func(s *Set) chartRules {
		rules := chartRules{Rules: []NamespaceRules{}}
		if s == nil {
			return rules
		}
		for _, namespace := range s.Namespaces() {
			if namespace == "" {
				rules.ClusterRules = s.Rules("")
				continue
			}
			rules.Rules = append(rules.Rules, NamespaceRules{namespace, s.Rules(namespace)})
		}
		return rules
	}
	values := map[string]chartRules{}
	if database != nil {
		values["database"] = of(database)
	}
	if cluster != nil {
		values["rbac"] = of(cluster)
	}
	return values
}

// YAML writes objects as kubectl reads them, with remarks above them.
func YAML(remarks []string, objects ...any) (string, error) {
	var b strings.Builder
	for _, remark := range remarks {
		fmt.Fprintf(&b, "# %s\n", remark)
	}
	for i, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		for _, line := range strings.SplitAfter(string(text), "\n") {
			if !strings.Contains(line, "creationTimestamp: null") {
				b.WriteString(line)
			}
		}
	}
	return b.String(), nil
}
