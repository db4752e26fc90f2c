package rbac_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/internal/ownership"
	"github.com/upkeep-run/upkeep/internal/quarantine"
	"github.com/upkeep-run/upkeep/internal/quiesce"
	"github.com/upkeep-run/upkeep/internal/rbac"
)

const fixed = "../../deploy/rbac"

// unknown is a target of which nothing is known but that its database is in a pod.
var unknown = rbac.Target{Namespace: rbac.Anywhere, Outside: true, ScratchPods: true, Tries: true}

// fixedRoles are the files of deploy/rbac.
func fixedRoles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	const made = "upkeep rbac prints one for a target, which names more of it. Made by the test of internal/rbac (UPKEEP_WRITE=1)."
	write := func(name string, remarks []string, objects []any) {
		text, err := rbac.YAML(append(remarks, made), objects...)
		require.NoError(t, err)
		files[name+".yaml"] = text
	}
	words := regexp.MustCompile(`([a-z])([A-Z])`)
	for _, procedure := range rbac.Procedures() {
		for _, dry := range []bool{false, true} {
			needs, err := unknown.Needs([]string{procedure}, dry)
			require.NoError(t, err)
			name := strings.ToLower(words.ReplaceAllString(procedure, "$1-$2"))
			remarks := []string{"What " + procedure + " needs in the namespace of any target: kubectl apply --namespace NAMESPACE -f FILE."}
			if dry {
				name += "-dry-run"
				remarks = []string{"What dry runs of " + procedure + " need in the namespace of any target: nothing that writes."}
			}
			var objects []any
			for _, capability := range rbac.Capabilities() {
				objects = append(objects, needs[capability].Manifest("upkeep-"+name+"-"+capability, rbac.Account{Namespace: "upkeep", Name: "upkeep-" + capability})...)
				remarks = append(remarks, needs[capability].Remarks...)
			}
			write(name, remarks, objects)
		}
	}
	for name, dry := range map[string]bool{"suspend-owners": false, "suspend-owners-dry-run": true} {
		remarks := []string{"What RecoverService, RecoverData and RolloutRelease need besides where kubernetes.owners is suspend, in the namespace of the owners."}
		if dry {
			remarks = []string{"What dry runs of RecoverService, RecoverData and RolloutRelease need besides where kubernetes.owners is suspend, in the namespace of the owners."}
		}
		write(name, remarks, rbac.Owners(rbac.Anywhere, dry).Manifest("upkeep-"+name, rbac.Account{Namespace: "upkeep", Name: "upkeep-" + rbac.Cluster}))
	}
	for name, dry := range map[string]bool{"withdraw-access": false, "withdraw-access-dry-run": true} {
		remarks := []string{
			"What ContainIncident needs besides where it is to take accounts out of bindings (access: withdraw), in the namespace of the accounts and in the whole cluster.",
			"It lets it change no binding yet: for that somebody grants it bind on the roles by their names, as in",
			"kubectl create role NAME -n NAMESPACE --verb=bind --resource=roles.rbac.authorization.k8s.io --resource-name=ROLE, and a binding of that.",
		}
		if dry {
			remarks = []string{"What dry runs of ContainIncident need besides to see all bindings of accounts, in the whole cluster."}
		}
		write(name, remarks, rbac.Access(rbac.Anywhere, dry).Manifest("upkeep-"+name, rbac.Account{Namespace: "upkeep", Name: "upkeep-" + rbac.Cluster}))
	}
	return files
}

// TestTheFixedRolesAreThoseOfTheCode writes them with UPKEEP_WRITE=1.
func TestTheFixedRolesAreThoseOfTheCode(t *testing.T) {
	want := fixedRoles(t)
	if os.Getenv("UPKEEP_WRITE") == "1" {
		require.NoError(t, os.MkdirAll(fixed, 0o755))
		for name, text := range want {
			require.NoError(t, os.WriteFile(filepath.Join(fixed, name), []byte(text), 0o644))
		}
	}
	entries, err := os.ReadDir(fixed)
	require.NoError(t, err)
	require.Len(t, entries, len(want))
	for name, text := range want {
		have, err := os.ReadFile(filepath.Join(fixed, name))
		require.NoError(t, err)
		require.Equal(t, text, string(have), "%s: UPKEEP_WRITE=1 writes it anew", name)
		names := regexp.MustCompile(`(?m)^kind: \w+\nmetadata:\n(?:    .*\n|  labels:\n)*  name: .*$`).FindAllString(text, -1)
		require.Len(t, names, strings.Count(text, "metadata:"))
		slices.Sort(names)
		require.Equal(t, slices.Compact(slices.Clone(names)), names, "kubectl apply takes two objects of a name for one")
	}
}

func placed(group, resource, kind, name string) helmrelease.Placed {
	return helmrelease.Placed{Object: helmrelease.Object{Group: group, Version: "v1", Kind: kind, Namespace: "shop", Name: name}, Resource: resource}
}

// known is a target of which everything is known: an upgrade makes the ConfigMap new and removes the ConfigMap
// old, and somebody has deleted the Service.
func known() rbac.Target {
	web, service := placed("apps", "deployments", "Deployment", "web"), placed("", "services", "Service", "web")
	before, after := placed("", "configmaps", "ConfigMap", "old"), placed("", "configmaps", "ConfigMap", "new")
	class := helmrelease.Placed{Object: helmrelease.Object{Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass", Name: "fast"}, Resource: "storageclasses"}
	hook := helmrelease.PlacedHook{Placed: placed("batch", "jobs", "Job", "migrate"), Events: []string{"pre-upgrade"}}
	now := helmrelease.State{Objects: []helmrelease.Placed{web, service, before, class}}
	next := helmrelease.State{New: true, Objects: []helmrelease.Placed{web, service, after, class}, Hooks: []helmrelease.PlacedHook{hook}}
	return rbac.Target{
		Namespace: "shop", Release: "shop", Database: kube.Endpoint{Pod: "db-0", Port: 5432}, Secrets: []string{"db"}, ScratchPods: true, ScratchImage: true,
		Probes: []string{"web"}, Checks: []string{"prometheus"}, Clients: []quiesce.Ref{{Kind: "Deployment", Name: "web"}}, Suspends: true,
		ClientOwners:  []ownership.Ref{{Group: "argoproj.io", Kind: "Application", Namespace: "argocd", Name: "shop"}},
		ReleaseOwners: []ownership.Ref{{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "flux-system", Name: "shop"}},
		Withdraws:     &quarantine.AccessPolicy{Roles: []string{"reader"}, ClusterRoles: []string{"view"}, Everywhere: []string{"nodes"}, Accounts: []string{"web"}},
		Past:          &helmrelease.Footprint{States: []helmrelease.State{now}},
		Rollout: &helmrelease.Footprint{
			States: []helmrelease.State{now, next}, Gone: []helmrelease.Placed{service},
			Reads: []helmrelease.Access{{Namespace: "shop", Resource: "secrets", Verb: "get", Name: "looked-up"}},
		},
	}
}

// flat writes rules as lines, as in "get,patch deployments.apps web".
func flat(rules []rbacv1.PolicyRule) (lines []string) {
	for _, r := range rules {
		for _, resource := range r.Resources {
			line := strings.Join(r.Verbs, ",") + " " + resource
			if r.APIGroups[0] != "" {
				line += "." + r.APIGroups[0]
			}
			lines = append(lines, strings.TrimSpace(line+" "+strings.Join(r.ResourceNames, ",")))
		}
	}
	slices.Sort(lines)
	return lines
}

func TestWhatEachProcedureNeeds(t *testing.T) {
	const database, cluster = rbac.Database, rbac.Cluster
	for _, c := range []struct {
		procedure, capability, namespace string
		dry                              bool
		want                             []string
	}{
		{"BackupDatabase", database, "shop", false, []string{"get pods db-0", "get secrets db", "list pods"}},
		{"VerifyBackup", database, "shop", true, []string{"list pods"}},
		{"VerifyBackup", database, "shop", false, []string{
			"create,delete networkpolicies.networking.k8s.io", "get secrets db", "get,create pods/portforward", "get,list,create,delete pods"}},
		{"RecoverService", cluster, "shop", true, []string{
			"get namespaces shop", "get services web", "get,list secrets", "list daemonsets.apps", "list deployments.apps", "list endpointslices.discovery.k8s.io", "list jobs.batch", "list pods",
			"list replicasets.apps", "list services", "list statefulsets.apps"}},
		{"RecoverService", cluster, "flux-system", true, []string{"get helmreleases.helm.toolkit.fluxcd.io shop"}},
		{"RecoverService", cluster, "flux-system", false, []string{"get,patch helmreleases.helm.toolkit.fluxcd.io shop"}},
		{"RecoverService", cluster, "shop", false, []string{
			"create leases.coordination.k8s.io", "get namespaces shop", "get,list,create,update,delete secrets", "get,patch configmaps old", "get,patch deployments.apps web", "get,patch services web",
			"get,update leases.coordination.k8s.io upkeep-shop", "list daemonsets.apps", "list deployments.apps", "list endpointslices.discovery.k8s.io", "list jobs.batch",
			"list replicasets.apps", "list services", "list statefulsets.apps", "list,delete pods"}},
		{"RecoverService", cluster, "", false, []string{"get,patch storageclasses.storage.k8s.io fast"}},
		{"RecoverData", cluster, "argocd", false, []string{"get,patch applications.argoproj.io shop"}},
		{"RecoverData", cluster, "shop", true, []string{
			"get deployments.apps web", "get namespaces shop", "get,list jobs.batch", "get,list pods", "get,list replicasets.apps", "list cronjobs.batch", "list daemonsets.apps", "list deployments.apps",
			"list horizontalpodautoscalers.autoscaling", "list services", "list statefulsets.apps"}},
		{"RolloutRelease", cluster, "flux-system", false, []string{"get,patch helmreleases.helm.toolkit.fluxcd.io shop"}},
		{"RolloutRelease", cluster, "shop", true, []string{
			"get deployments.apps web", "get namespaces shop", "get,list secrets", "list pods", "list services"}},
		{"RolloutRelease", cluster, "shop", false, []string{
			"create configmaps", "create jobs.batch", "create leases.coordination.k8s.io", "get namespaces shop", "get pods/log", "get services prometheus,web",
			"get,delete configmaps new,old", "get,delete jobs.batch migrate", "get,list,create,update,delete secrets", "get,patch deployments.apps web",
			"get,update leases.coordination.k8s.io upkeep-shop", "list endpointslices.discovery.k8s.io", "list pods", "list replicasets.apps", "list,create services", "patch services web"}},
	} {
		needs, err := known().Needs([]string{c.procedure}, c.dry)
		require.NoError(t, err)
		require.Equal(t, c.want, flat(needs[c.capability].Rules(c.namespace)), "%s of %s in %q, dry run: %v", c.capability, c.procedure, c.namespace, c.dry)
	}
	target := known()
	target.ClientOwners, target.ReleaseOwners = nil, nil
	needs, err := target.Needs([]string{"RecoverData"}, false)
	require.NoError(t, err)
	require.Subset(t, flat(needs[cluster].Rules("shop")), flat(rbac.Owners("shop", false).Rules("shop")), "owners that nobody has looked for are granted by kind")
	require.Contains(t, flat(rbac.Owners("shop", false).Rules("shop")), "get,patch applications.argoproj.io")
	_, err = known().Needs([]string{"RecoverServices"}, false)
	require.ErrorContains(t, err, "RecoverService")
}

// TestReadersAreGrantedWhereTheyAreAskedFor: what makes pods is given for those that probe or read, and else not.
func TestReadersAreGrantedWhereTheyAreAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		tries, reads, dry bool
		want              bool
	}{
		"neither": {}, "probes": {tries: true, want: true}, "readers": {reads: true, want: true}, "a dry run": {tries: true, reads: true, dry: true},
	} {
		needs, err := rbac.Target{Namespace: "shop", Incidents: []string{"jobs"}, Tries: c.tries, Reads: c.reads}.Needs([]string{"ContainIncident"}, c.dry)
		require.NoError(t, err)
		lines := strings.Join(flat(needs[rbac.Cluster].Rules("shop")), "\n")
		require.Equal(t, c.want, strings.Contains(lines, "create,patch,delete pods"), "%s: %s", name, lines)
		require.Equal(t, c.want, strings.Contains(lines, "configmaps"), "%s: %s", name, lines)
		require.NotContains(t, strings.Join(flat(needs[rbac.Cluster].Rules("jobs")), "\n"), "configmaps", "they are made in the target's own namespace")
		require.Equal(t, c.reads && !c.dry, strings.Contains(strings.Join(needs[rbac.Cluster].Remarks, "\n"), "Pod Security"), name)
	}
}

// TestOnlyAStandingProbersPodIsForwardedTo, and only where there is one.
func TestOnlyAStandingProbersPodIsForwardedTo(t *testing.T) {
	for name, c := range map[string]struct {
		standing  string
		dry, want bool
	}{
		"none": {}, "one": {standing: "watch-0", want: true}, "a dry run": {standing: "watch-0", dry: true},
	} {
		needs, err := rbac.Target{Namespace: "shop", Incidents: []string{"jobs"}, Tries: true, Standing: c.standing}.Needs([]string{"ContainIncident"}, c.dry)
		require.NoError(t, err)
		lines := flat(needs[rbac.Cluster].Rules("shop"))
		require.Equal(t, c.want, slices.Contains(lines, "get,create pods/portforward watch-0"), "%s: %s", name, lines)
		require.Equal(t, c.want, strings.Contains(strings.Join(lines, "\n"), "portforward"), "%s: %s", name, lines)
		require.NotContains(t, strings.Join(flat(needs[rbac.Cluster].Rules("jobs")), "\n"), "portforward")
	}
}

func TestNothingIsGrantedThatUpkeepIsNeverGiven(t *testing.T) {
	for _, target := range []rbac.Target{unknown, known()} {
		for _, dry := range []bool{false, true} {
			needs, err := target.Needs(rbac.Procedures(), dry)
			require.NoError(t, err)
			for _, set := range needs {
				for _, namespace := range set.Namespaces() {
					for _, r := range set.Rules(namespace) {
						all := slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.ResourceNames)
						require.NotContains(t, strings.Join(all, " "), "*")
						require.NotContains(t, r.Resources, "nodes/proxy")
						require.True(t, !slices.Contains(r.Verbs, "bind") || len(r.ResourceNames) > 0, "bind without a name is every right there is")
						for _, verb := range r.Verbs {
							if dry {
								require.True(t, verb == "get" || verb == "list" || verb == "create" && slices.Equal(r.Resources, []string{"pods/portforward"}), "a dry run may %s %v", verb, r.Resources)
							}
							if len(r.ResourceNames) > 0 && verb != "get" && verb != "patch" && verb != "update" && verb != "delete" {
								require.True(t, verb == "bind" || slices.Equal([]string{"pods/portforward"}, r.Resources), "a name does not narrow %s", verb)
							}
						}
					}
				}
			}
		}
	}
}

// TestAccessIsChangedByName: what a case may take from accounts is granted where the configuration names it, and
// nowhere else.
func TestAccessIsChangedByName(t *testing.T) {
	needs, err := known().Needs([]string{"ContainIncident"}, false)
	require.NoError(t, err)
	require.Equal(t, []string{
		"bind clusterroles.rbac.authorization.k8s.io nodes", "create subjectaccessreviews.authorization.k8s.io", "get clusterroles.rbac.authorization.k8s.io nodes,view",
		"get,list,patch clusterrolebindings.rbac.authorization.k8s.io", "list rolebindings.rbac.authorization.k8s.io",
	}, flat(needs[rbac.Cluster].Rules("")))
	within := flat(needs[rbac.Cluster].Rules("shop"))
	require.Subset(t, within, []string{
		"bind clusterroles.rbac.authorization.k8s.io view", "get,bind roles.rbac.authorization.k8s.io reader",
		"get,list,patch rolebindings.rbac.authorization.k8s.io", "get,update,delete serviceaccounts web", "list,create serviceaccounts",
	})
	needs, err = known().Needs([]string{"ContainIncident"}, true)
	require.NoError(t, err)
	require.NotContains(t, strings.Join(append(flat(needs[rbac.Cluster].Rules("")), flat(needs[rbac.Cluster].Rules("shop"))...), "\n"), "bind ")
	target := known()
	target.Withdraws = nil
	needs, err = target.Needs([]string{"ContainIncident"}, false)
	require.NoError(t, err)
	require.NotContains(t, needs[rbac.Cluster].Namespaces(), "")
	require.NotContains(t, strings.Join(flat(needs[rbac.Cluster].Rules("shop")), "\n"), "bind ")
}

// TestAChartThatHandsRightsOn: whoever makes a role has what it gives, and what Upkeep is never given is refused.
func TestAChartThatHandsRightsOn(t *testing.T) {
	with := func(grants ...helmrelease.Grant) rbac.Target {
		target := known()
		target.Rollout.States[1].Grants = grants
		return target
	}
	role := helmrelease.Grant{By: helmrelease.Object{Kind: "Role", Name: "reader"}, Namespace: "shop", Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"endpoints"}, Verbs: []string{"get", "watch"}, ResourceNames: []string{"web"}}}}
	own := helmrelease.Grant{Namespace: "shop", Binds: &rbacv1.RoleRef{Kind: "Role", Name: "reader"}}
	others := helmrelease.Grant{Namespace: "shop", Binds: &rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}}
	metrics := helmrelease.Grant{By: helmrelease.Object{Kind: "ClusterRole", Name: "metrics"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}}
	needs, err := with(role, own, others, metrics).Needs([]string{"RolloutRelease"}, false)
	require.NoError(t, err)
	lines := flat(needs[rbac.Cluster].Rules("shop"))
	require.Contains(t, lines, "get,watch endpoints web")
	require.Contains(t, lines, "bind clusterroles.rbac.authorization.k8s.io view")
	require.NotContains(t, strings.Join(lines, "\n"), "bind roles", "what it gives is enough")
	require.Contains(t, needs[rbac.Cluster].Rules(""), rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})

	for what, rule := range map[string]rbacv1.PolicyRule{
		"a wildcard":  {APIGroups: []string{"*"}, Resources: []string{"pods"}, Verbs: []string{"get"}},
		"nodes/proxy": {APIGroups: []string{""}, Resources: []string{"nodes/proxy"}, Verbs: []string{"get"}},
	} {
		_, err := with(helmrelease.Grant{By: helmrelease.Object{Kind: "ClusterRole", Name: "much"}, Rules: []rbacv1.PolicyRule{rule}}).Needs([]string{"RolloutRelease"}, false)
		require.True(t, failure.Is(err, failure.BadChart), "%v", err)
		require.ErrorContains(t, err, "ClusterRole much")
		require.ErrorContains(t, err, what)
	}
}

func TestWhatIsPrintedDoesNotChange(t *testing.T) {
	var first string
	for range 20 {
		needs, err := known().Needs(rbac.Procedures(), false)
		require.NoError(t, err)
		text, err := rbac.YAML(nil, append(needs[rbac.Cluster].Manifest("upkeep", rbac.Account{Namespace: "upkeep", Name: "worker"}), rbac.Values(needs[rbac.Database], needs[rbac.Cluster]))...)
		require.NoError(t, err)
		if first == "" {
			first = text
		}
		require.Equal(t, first, text)
	}
	require.Contains(t, first, "kind: ClusterRoleBinding")
	require.Contains(t, first, "clusterRules:")
}
