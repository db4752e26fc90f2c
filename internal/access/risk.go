package access

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Severities of risks, the gravest first.
const (
	Critical = "critical"
	High     = "high"
	Medium   = "medium"
	Low      = "low"
)

var severities = []string{Critical, High, Medium, Low}

// ability is something that a rule makes possible and that matters for the way to other subjects. Many of
// them are a set.
type ability uint32

const (
	allAbility ability = 1 << iota
	runsPods
	entersPods
	makesTokens
	readsSecrets
	writesSecrets
	bindsRoles
	bindsAnywhere // roles to subjects in the whole cluster
	escalates
	writesRoles
	writesClusterRoles
	writesBindings
	writesClusterBindings
	actsAsAccounts
	actsAsOthers
	proxiesNodes
	makesVolumes
	controlsAdmission
	approves
	approvesSigner
	signs
	writesStatus // of requests for certificates, where what was signed is put
)

// need is a request that a rule must allow for a risk.
type need struct {
	group, resource string
	verbs           []string
}

// danger is a kind of risk.
type danger struct {
	id string
	// In the whole cluster, and in one namespace, where it means something there.
	cluster, namespace string
	gives              ability
	why, source        string
	needs              []need // any of them
}

var (
	change = []string{"create", "update", "patch"}
	alter  = []string{"update", "patch"}
	read   = []string{"get", "list", "watch"}
)

const (
	rbacGroup    = rbacv1.GroupName
	certificates = "certificates.k8s.io"
	admission    = "admissionregistration.k8s.io"
	practices    = "Kubernetes RBAC Good Practices, "
)

// dangers are the kinds of risky grants, as the field names them.
var dangers = []danger{
	{"escalate", Critical, High, escalates, "may give a role rights that it does not have itself", practices + "Escalate verb; CIS 5.1.8",
		[]need{{rbacGroup, "roles", []string{"escalate"}}, {rbacGroup, "clusterroles", []string{"escalate"}}}},
	{"bind", Critical, High, bindsRoles, "may grant roles with rights that it does not have itself", practices + "Bind verb; CIS 5.1.8",
		[]need{{rbacGroup, "roles", []string{"bind"}}, {rbacGroup, "clusterroles", []string{"bind"}}}},
	{"impersonate", Critical, "", actsAsOthers, "may act as other users and groups", practices + "Impersonate verb; CIS 5.1.8",
		[]need{{"", "users", []string{"impersonate"}}, {"", "groups", []string{"impersonate"}}}},
	{"impersonate-accounts", Critical, High, actsAsAccounts, "may act as service accounts", practices + "Impersonate verb; CIS 5.1.8",
		[]need{{"", "serviceaccounts", []string{"impersonate"}}}},
	{"tokens", Critical, High, makesTokens, "may issue tokens of service accounts", practices + "Token request; CIS 5.1.13",
		[]need{{"", "serviceaccounts/token", []string{"create"}}}},
	{"nodes-proxy", Critical, "", proxiesNodes, "may run commands in every pod through the nodes' own API, past the audit log and admission; get alone is enough", practices + "Access to proxy subresource of Nodes; CIS 5.1.10",
		[]need{{"", "nodes/proxy", []string{"get", "create", "update", "patch", "delete"}}}},
	{"certificates-approve", Critical, "", approves, "may approve client certificates in any name", practices + "CSRs and certificate issuing; CIS 5.1.11",
		[]need{{certificates, "certificatesigningrequests/approval", alter}}},
	{"", "", "", approvesSigner, "", "", []need{{certificates, "signers", []string{"approve"}}}},
	{"", "", "", writesStatus, "", "", []need{{certificates, "certificatesigningrequests/status", alter}}},
	{"certificates-sign", Critical, "", signs, "may sign certificates as a signer of the cluster", practices + "CSRs and certificate issuing",
		[]need{{certificates, "signers", []string{"sign"}}}},
	{"admission", Critical, "", controlsAdmission, "may change what is admitted to the cluster, and read all of it", practices + "Control admission webhooks; CIS 5.1.12",
		[]need{{admission, "mutatingwebhookconfigurations", change}, {admission, "validatingwebhookconfigurations", change}, {admission, "mutatingadmissionpolicies", change}, {admission, "mutatingadmissionpolicybindings", change}}},
	{"secrets", High, High, readsSecrets, "may read Secrets; list and watch show their contents too", practices + "Listing secrets; CIS 5.1.2",
		[]need{{"", "secrets", read}}},
	{"secrets-write", High, Medium, writesSecrets, "may replace Secrets that others trust, or make one that is filled with an account's token", "Kubernetes, Service account token Secrets",
		[]need{{"", "secrets", change}}},
	{"exec", High, High, entersPods, "may run commands in pods, and so read their Secrets and act as their accounts", "MITRE ATT&CK T1609, Container Administration Command",
		[]need{{"", "pods/exec", []string{"create", "get"}}, {"", "pods/attach", []string{"create", "get"}}, {"", "pods/ephemeralcontainers", alter}}},
	{"workloads", High, High, runsPods, "may run pods as any account of the namespace, with any of its Secrets", practices + "Workload creation; CIS 5.1.4",
		[]need{{"", "pods", []string{"create"}}, {"", "replicationcontrollers", change}, {"apps", "deployments", change}, {"apps", "statefulsets", change}, {"apps", "daemonsets", change}, {"apps", "replicasets", change}, {"batch", "jobs", change}, {"batch", "cronjobs", change}}},
	{"pods-change", Medium, Medium, entersPods, "may put another image into pods that run", practices + "Workload creation",
		[]need{{"", "pods", alter}}},
	{"port-forward", Medium, Medium, 0, "may reach ports of pods past network policies", "MITRE ATT&CK T1609, Container Administration Command",
		[]need{{"", "pods/portforward", []string{"create", "get"}}, {"", "pods/proxy", []string{"get", "create", "update", "patch", "delete"}}, {"", "services/proxy", []string{"get", "create", "update", "patch", "delete"}}}},
	{"volumes", High, "", makesVolumes, "may make volumes of folders of the nodes", practices + "Persistent volume creation; CIS 5.1.9",
		[]need{{"", "persistentvolumes", change}}},
	{"nodes", High, "", 0, "may change nodes: draw pods to one, or drive them off", practices + "Minimize distribution of privileged tokens",
		[]need{{"", "nodes", change}, {"", "nodes/status", alter}}},
	{"namespaces", High, Medium, 0, "may change a namespace's labels, and with them which pods and traffic are let in", practices + "Namespace modification",
		[]need{{"", "namespaces", alter}}},
	{"roles-write", Medium, Low, writesRoles, "may change roles, as far as its own rights go", practices + "Least privilege",
		[]need{{rbacGroup, "roles", change}}},
	{"cluster-roles-write", Medium, "", writesClusterRoles, "may change roles of the cluster, as far as its own rights go", practices + "Least privilege",
		[]need{{rbacGroup, "clusterroles", change}}},
	{"bindings-write", Medium, Low, writesBindings, "may hand its own rights on", practices + "Least privilege",
		[]need{{rbacGroup, "rolebindings", change}}},
	{"cluster-bindings-write", Medium, "", writesClusterBindings, "may hand its own rights on in the whole cluster", practices + "Least privilege",
		[]need{{rbacGroup, "clusterrolebindings", change}}},
}

// Kinds of risks that no single request shows.
const (
	riskAll      = "everything"
	riskWildcard = "wildcard"
	riskCrowd    = "everybody"
	riskDefault  = "default-account"
)

// clientSigner signs what the API server takes for a user's certificate.
const clientSigner = "kubernetes.io/kube-apiserver-client"

// found is a risk of a role's rules.
type found struct {
	*danger
	names []string // of the only objects that it is about
}

var (
	dangerAll      = &danger{id: riskAll, cluster: Critical, namespace: High, why: "may do everything", source: practices + "Least privilege; CIS 5.1.1"}
	dangerWildcard = &danger{id: riskWildcard, cluster: High, namespace: Medium, why: "has a wildcard, which also grants what will be added later", source: practices + "Least privilege; CIS 5.1.3"}
)

// rights are the rules of one or more roles, with what follows from them.
type rights struct {
	rules []Rule
	risks []found
	can   ability
	named []found // who makes possible what only for the accounts, users and groups that it names
}

// everything says that rules let somebody do all that there is.
func everything(rules []Rule) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool {
		return len(r.Names) == 0 && slices.Contains(r.Verbs, rbacv1.VerbAll) && slices.Contains(r.Resources, rbacv1.ResourceAll) && slices.Contains(r.Groups, rbacv1.APIGroupAll)
	})
}

// weigh finds what is risky in rules, and what they make possible. Mighty says which roles let somebody do
// everything, by their names.
func weigh(rules []Rule, mighty func(string) bool) *rights {
	w := &rights{rules: rules}
	if everything(rules) {
		w.risks, w.can = []found{{dangerAll, nil}}, allAbility
		return w
	}
	if slices.ContainsFunc(rules, func(r Rule) bool {
		return len(r.Resources) > 0 && (slices.Contains(r.Verbs, rbacv1.VerbAll) || slices.Contains(r.Resources, rbacv1.ResourceAll))
	}) {
		w.risks = append(w.risks, found{dangerWildcard, nil})
	}
	for i := range dangers {
		d := &dangers[i]
		free, names := d.in(rules)
		if !free && len(names) == 0 {
			continue
		}
		if d.id != "" {
			w.risks = append(w.risks, found{d, names})
		}
		switch {
		case free:
			w.can |= d.gives
		case d.gives == makesTokens, d.gives == actsAsAccounts, d.gives == actsAsOthers:
			w.named = append(w.named, found{d, names})
		case d.gives == bindsRoles && !slices.ContainsFunc(names, mighty),
			(d.gives == signs || d.gives == approvesSigner) && !slices.Contains(names, clientSigner) && !slices.Contains(names, "kubernetes.io/*"),
			d.gives == readsSecrets, d.gives == writesSecrets, d.gives == makesVolumes, d.gives == writesBindings, d.gives == writesClusterBindings:
		default: // who may change one such object is taken for one who may change the right one
			w.can |= d.gives
		}
	}
	return w
}

// severity is that of a grant in a namespace, or in the whole cluster; "" where it means nothing there.
func (f found) severity(scope string) string {
	s := f.cluster
	if scope != "" {
		s = f.namespace
	}
	if len(f.names) > 0 {
		s = less(s)
	}
	return s
}

// in reports whether rules have the danger, and else for which objects alone.
func (d danger) in(rules []Rule) (free bool, names []string) {
	for _, r := range rules {
		for _, n := range d.needs {
			for _, verb := range n.verbs {
				if !r.Allows(verb, n.group, n.resource, first(r.Names)) {
					continue
				}
				// Who creates an object does not name it to the authorizer, so a rule with names lets nobody.
				if len(r.Names) > 0 && verb == "create" && !strings.Contains(n.resource, "/") {
					continue
				}
				if len(r.Names) == 0 {
					return true, nil
				}
				names = append(names, r.Names...)
			}
		}
	}
	return false, sorted(names)
}

func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// less is the severity below.
func less(severity string) string {
	i := slices.Index(severities, severity)
	if i < 0 {
		return severity
	}
	return severities[min(i+1, len(severities)-1)]
}
