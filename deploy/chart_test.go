// Package deploy has no code, only these tests of what is deployed.
package deploy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/internal/prober"
)

const chart = "charts/upkeep"

const plain = `
temporal: {address: "temporal.example:7233"}
config: |
  version: 1
  store: s3://bucket?region=eu-central-1
  targets: []
`

// full has every part of the chart on.
const full = `
image: {repository: registry.example/upkeep, digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
imagePullSecrets: [{name: registry}]
temporal:
  address: temporal.example:7233
  tls: {secretName: temporal-tls, serverName: temporal}
  apiKey: {secretName: temporal-key}
config: |
  version: 1
  store: file:///var/lib/upkeep
  targets: []
store: {claim: upkeep-store}
auditKey: {secretName: audit}
database:
  env: [{name: SHOP_PASSWORD, secretName: shop, key: password}, {name: AWS_REGION, value: eu-central-1}]
  mounts: [{path: /etc/keys, secret: keys}]
  targets: [{namespace: shop, secrets: [shop-postgresql], scratchPods: true}, {namespace: blog}]
  rules: [{namespace: shop, rules: [{apiGroups: [""], resources: [pods], verbs: [watch]}]}]
cluster:
  mounts: [{path: /charts, configMap: charts}, {path: /more, claim: more}]
  podLabels: {access: shop}
  podAnnotations: {team: platform}
code:
  enabled: true
  image: {tag: 0.1.0-code}
  env: [{name: GITHUB_TOKEN, secretName: github, key: token}, {name: GOPROXY, value: "https://goproxy.example"}]
  mounts: [{path: /etc/registries, secret: registries}]
rbac:
  rules:
  - namespace: shop
    rules: [{apiGroups: [apps], resources: [deployments], verbs: [get, list, patch]}]
  - namespace: blog
    rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, delete]}]
  - namespace: shop
    rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
  clusterRules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
prober: {namespaces: [shop, blog, shop], podLabels: {access: shop}, podAnnotations: {"sidecar.istio.io/inject": "false"}}
networkPolicy:
  metricsFrom: [{namespaceSelector: {}, podSelector: {matchLabels: {app: prometheus}}}]
  egress: [{ports: [{port: 443}]}]
  codeEgress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}], ports: [{port: 443}]}]
  temporalTo: [{ipBlock: {cidr: 10.1.2.3/32}}]
  dnsTo: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
priorityClassName: high
`

// render renders the chart as Helm does, with its schema, and returns the objects' texts and the notes.
func render(t *testing.T, values string) (objects []string, notes string, err error) {
	t.Helper()
	c, err := loader.Load(chart)
	require.NoError(t, err)
	given, err := chartutil.ReadValues([]byte(values))
	require.NoError(t, err)
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: "upkeep", Namespace: "upkeep", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Render(c, all)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Base(name) == "NOTES.txt" {
			notes = files[name]
			continue
		}
		for _, object := range strings.Split("\n"+files[name], "\n---\n") {
			if strings.TrimSpace(object) != "" {
				objects = append(objects, object)
			}
		}
	}
	return objects, notes, err
}

// kinds decodes the objects of one kind.
func kinds[T any](t *testing.T, objects []string, kind string) (all []T) {
	t.Helper()
	for _, text := range objects {
		var of struct{ Kind string }
		require.NoError(t, yaml.Unmarshal([]byte(text), &of), text)
		if of.Kind != kind {
			continue
		}
		var object T
		require.NoError(t, yaml.UnmarshalStrict([]byte(text), &object), text)
		all = append(all, object)
	}
	return all
}

func TestHelmLintHasNothingToSay(t *testing.T) {
	for _, values := range []string{plain, full} {
		given, err := chartutil.ReadValues([]byte(values))
		require.NoError(t, err)
		for _, m := range lint.All(chart, given, "upkeep", true).Messages {
			if m.Severity > support.InfoSev {
				t.Error(m)
			}
		}
	}
}

func TestPodsAreConfined(t *testing.T) {
	for values, want := range map[string]int{plain: 3, full: 4} {
		objects, _, err := render(t, values)
		require.NoError(t, err)
		deployments := kinds[appsv1.Deployment](t, objects, "Deployment")
		require.Len(t, deployments, want)
		for _, d := range deployments {
			spec := d.Spec.Template.Spec
			require.True(t, *spec.SecurityContext.RunAsNonRoot)
			require.NotZero(t, *spec.SecurityContext.RunAsUser)
			require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, spec.SecurityContext.SeccompProfile.Type)
			require.False(t, spec.HostNetwork || spec.HostPID || spec.HostIPC)
			require.Len(t, spec.Containers, 1)
			require.Empty(t, spec.InitContainers)
			c := spec.Containers[0]
			require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
			require.Nil(t, c.SecurityContext.Privileged)
			require.Equal(t, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, c.SecurityContext.Capabilities)
			require.False(t, c.Resources.Limits.Memory().IsZero())
			for _, v := range spec.Volumes {
				require.Nil(t, v.HostPath, v.Name)
			}
			for _, m := range c.VolumeMounts {
				own := slices.Contains([]string{"tmp", "data", "store"}, m.Name)
				require.Equal(t, own, !m.ReadOnly, m.Name)
			}
			if d.Spec.Template.Labels["app.kubernetes.io/component"] == "workflows" {
				require.False(t, *spec.AutomountServiceAccountToken)
				require.NotContains(t, strings.Join(c.Args, " "), "--config")
				for _, e := range c.Env {
					require.True(t, strings.HasPrefix(e.Name, "TEMPORAL_"), e.Name)
				}
			}
		}
		for _, a := range kinds[corev1.ServiceAccount](t, objects, "ServiceAccount") {
			require.False(t, *a.AutomountServiceAccountToken)
		}
		require.Empty(t, kinds[corev1.Secret](t, objects, "Secret"))
	}
}

func TestRightsAreThoseThatAreNamed(t *testing.T) {
	objects, _, err := render(t, full)
	require.NoError(t, err)
	cluster := kinds[rbacv1.ClusterRole](t, objects, "ClusterRole")
	require.Len(t, cluster, 1)
	require.Equal(t, []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}}}, cluster[0].Rules)
	require.Len(t, kinds[rbacv1.ClusterRoleBinding](t, objects, "ClusterRoleBinding"), 1)
	var found []string
	for _, role := range kinds[rbacv1.Role](t, objects, "Role") {
		for _, rule := range role.Rules {
			found = append(found, strings.Join([]string{role.Namespace, role.Name, strings.Join(rule.Resources, ","), strings.Join(rule.ResourceNames, ","), strings.Join(rule.Verbs, ",")}, " "))
		}
	}
	require.Equal(t, []string{
		"blog upkeep-database pods  get,list", "blog upkeep-database services  get", "blog upkeep-database endpointslices  list",
		"shop upkeep-database pods  get,list,create,delete", "shop upkeep-database services  get", "shop upkeep-database endpointslices  list",
		"shop upkeep-database secrets shop-postgresql get", "shop upkeep-database pods/portforward  get,create",
		"shop upkeep-database networkpolicies  create,delete", "shop upkeep-database pods  watch",
		"blog upkeep-cluster pods  get,list,delete", "shop upkeep-cluster deployments  get,list,patch", "shop upkeep-cluster pods  get",
	}, slices.DeleteFunc(slices.Clone(found), func(line string) bool { return strings.Contains(line, "prober") }))
	require.Subset(t, found, []string{"blog upkeep-prober pods  list,watch", "shop upkeep-prober pods  list,watch"})
	require.Len(t, found, 15)
	for _, d := range kinds[appsv1.Deployment](t, objects, "Deployment") {
		token := d.Name == "upkeep-cluster" || d.Name == "upkeep-database"
		require.Equal(t, token, *d.Spec.Template.Spec.AutomountServiceAccountToken, d.Name)
	}
	for _, binding := range kinds[rbacv1.RoleBinding](t, objects, "RoleBinding") {
		of := "upkeep"
		if binding.Name == "upkeep-prober" {
			of = binding.Namespace
		}
		require.Equal(t, []rbacv1.Subject{{Kind: "ServiceAccount", Name: binding.Name, Namespace: of}}, binding.Subjects)
		require.Equal(t, binding.Name, binding.RoleRef.Name)
	}

	objects, _, err = render(t, plain)
	require.NoError(t, err)
	require.Empty(t, kinds[rbacv1.Role](t, objects, "Role"), "nothing is given that was not asked for")
	for _, d := range kinds[appsv1.Deployment](t, objects, "Deployment") {
		require.Equal(t, d.Name == "upkeep-cluster", *d.Spec.Template.Spec.AutomountServiceAccountToken, d.Name)
	}
	require.Empty(t, kinds[rbacv1.ClusterRole](t, objects, "ClusterRole"))
}

func TestTheNetworkIsAsSaid(t *testing.T) {
	policy := func(values, capability string) networkingv1.NetworkPolicySpec {
		objects, _, err := render(t, values)
		require.NoError(t, err)
		policies := kinds[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy")
		i := slices.IndexFunc(policies, func(p networkingv1.NetworkPolicy) bool { return p.Name == "upkeep-"+capability })
		require.Len(t, policies[i].Spec.PolicyTypes, 2)
		return policies[i].Spec
	}
	for _, capability := range []string{"workflows", "database", "cluster"} {
		require.Empty(t, policy(plain, capability).Ingress)
		require.Len(t, policy(full, capability).Ingress, 1)
	}
	workflows := policy(full, "workflows").Egress
	require.Len(t, workflows, 2)
	for _, rule := range workflows {
		require.Len(t, rule.To, 1)
	}
	require.Equal(t, int32(7233), policy(full, "workflows").Egress[0].Ports[0].Port.IntVal)
	require.Equal(t, int32(17233), policy(strings.Replace(plain, ":7233", ":17233", 1), "workflows").Egress[0].Ports[0].Port.IntVal)
	require.Equal(t, int32(7234), policy(plain+"networkPolicy: {temporalPort: 7234}", "workflows").Egress[0].Ports[0].Port.IntVal)
	require.Equal(t, []networkingv1.NetworkPolicyEgressRule{{}}, policy(plain, "database").Egress)
	require.Len(t, policy(full, "database").Egress, 3)
	require.Equal(t, []networkingv1.NetworkPolicyEgressRule{{}}, policy(plain+"code: {enabled: true}", "code").Egress)
	code := policy(full, "code").Egress
	require.Len(t, code, 3, "DNS, Temporal, and what is its own")
	require.Equal(t, []string{"10.0.0.0/8"}, code[2].To[0].IPBlock.Except)
}

// TestAStandingProberIsOneThatIsBelieved: what the chart installs is what a worker takes for one, and it is confined.
func TestAStandingProberIsOneThatIsBelieved(t *testing.T) {
	objects, notes, err := render(t, full)
	require.NoError(t, err)
	sets := kinds[appsv1.StatefulSet](t, objects, "StatefulSet")
	require.Len(t, sets, 2, "one for each namespace")
	policies := kinds[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy")
	for _, set := range sets {
		template := set.Spec.Template
		yes := true
		pod := corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}}
		pod.Namespace, pod.Name = set.Namespace, set.Name+"-0"
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: set.APIVersion, Kind: set.Kind, Name: set.Name, Controller: &yes}}
		image := "registry.example/upkeep:0.1.0@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		_, err := prober.Find([]corev1.Pod{pod}, set.Namespace, "upkeep-prober", image)
		require.NoError(t, err)
		require.Contains(t, notes, fmt.Sprintf("network: {prober: {image: %q, standing: upkeep-prober}}", image))

		require.Equal(t, "shop", template.Labels["access"], "by which policies let it in")
		require.Subset(t, template.Labels, set.Spec.Selector.MatchLabels)
		spec, c := template.Spec, template.Spec.Containers[0]
		require.Equal(t, []string{"upkeep", "prober"}, c.Args)
		require.True(t, *spec.SecurityContext.RunAsNonRoot)
		require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, spec.SecurityContext.SeccompProfile.Type)
		require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
		require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
		require.Equal(t, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, c.SecurityContext.Capabilities)
		require.False(t, c.Resources.Limits.Memory().IsZero())
		require.Empty(t, spec.Volumes)
		require.Empty(t, c.Env)
		require.Empty(t, c.Ports, "it has no surface on the network")
		i := slices.IndexFunc(policies, func(p networkingv1.NetworkPolicy) bool {
			return p.Name == "upkeep-prober" && p.Namespace == set.Namespace
		})
		require.Empty(t, policies[i].Spec.Ingress)
		require.Len(t, policies[i].Spec.PolicyTypes, 2)
		require.Equal(t, &metav1.LabelSelector{}, policies[i].Spec.Egress[0].To[0].PodSelector)
		require.Equal(t, int32(443), policies[i].Spec.Egress[1].Ports[0].Port.IntVal, "and the API server")
	}

	objects, notes, err = render(t, plain)
	require.NoError(t, err)
	require.Empty(t, kinds[appsv1.StatefulSet](t, objects, "StatefulSet"), "none is installed that was not asked for")
	require.NotContains(t, notes, "prober")
	objects, _, err = render(t, plain+"prober: {namespaces: [shop]}")
	require.NoError(t, err)
	policies = kinds[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy")
	i := slices.IndexFunc(policies, func(p networkingv1.NetworkPolicy) bool { return p.Name == "upkeep-prober" })
	require.Equal(t, []networkingv1.NetworkPolicyEgressRule{{}}, policies[i].Spec.Egress)
}

func TestACapabilityMayHaveAnImageOfItsOwn(t *testing.T) {
	images := func(values string) map[string]string {
		objects, _, err := render(t, values)
		require.NoError(t, err)
		of := map[string]string{}
		for _, d := range kinds[appsv1.Deployment](t, objects, "Deployment") {
			of[d.Name] = d.Spec.Template.Spec.Containers[0].Image
		}
		return of
	}
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	require.Equal(t, map[string]string{
		"upkeep-workflows": "registry.example/upkeep:0.1.0@" + digest, "upkeep-cluster": "registry.example/upkeep:0.1.0@" + digest,
		"upkeep-database": "registry.example/upkeep:0.1.0@" + digest, "upkeep-code": "registry.example/upkeep:0.1.0-code",
	}, images(full), "the digest of the others is not of this tag")
	require.Equal(t, map[string]string{
		"upkeep-workflows": "upkeep:1", "upkeep-cluster": "upkeep:1", "upkeep-database": "upkeep:1-server", "upkeep-code": "upkeep:1@" + digest,
	}, images(plain+"image: {tag: '1'}\ndatabase: {image: {tag: 1-server}}\ncode: {enabled: true, image: {digest: '"+digest+"'}}"))
}

// TestClonesHaveRoom, and what they leave has too.
func TestClonesHaveRoom(t *testing.T) {
	objects, _, err := render(t, plain+"code: {enabled: true, scratch: {sizeLimit: 3Gi}}")
	require.NoError(t, err)
	for _, d := range kinds[appsv1.Deployment](t, objects, "Deployment") {
		want := map[string][2]string{"upkeep-code": {"3Gi", "3Gi"}, "upkeep-database": {"256Mi", "10Gi"}, "upkeep-cluster": {"256Mi", "64Mi"}, "upkeep-workflows": {"256Mi", ""}}[d.Name]
		has := map[string]string{}
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.EmptyDir != nil {
				has[v.Name] = v.EmptyDir.SizeLimit.String()
			}
		}
		require.Equal(t, want, [2]string{has["tmp"], has["data"]}, d.Name)
	}
}

func TestTheNotesSayWhatToExpect(t *testing.T) {
	_, notes, err := render(t, plain)
	require.NoError(t, err)
	require.Contains(t, notes, "kubectl --namespace upkeep exec deploy/upkeep-database -- upkeep doctor")
	require.Contains(t, notes, "cluster has no rights in Kubernetes")
	require.Contains(t, notes, "auditKey.secretName is not set")
	_, notes, err = render(t, full)
	require.NoError(t, err)
	require.NotContains(t, notes, "no rights")
	require.NotContains(t, notes, "auditKey")
	require.NotContains(t, notes, "wait for them; all others go on", "its image has what makes lock files")
	require.NotContains(t, notes, "Not served here")
	_, notes, err = render(t, plain+"cluster: {enabled: false}\nstore: {emptyDir: true}\n")
	require.NoError(t, err)
	require.Contains(t, notes, "Not served here, so by workers elsewhere, or runs that need it wait: cluster.")
	require.Contains(t, notes, "LOST")
	repositories := strings.Replace(plain, "targets: []", "targets: [{name: web, repositories: [{github: shop/web, tokenFrom: {env: GITHUB_TOKEN}}]}]", 1)
	_, notes, err = render(t, repositories)
	require.NoError(t, err)
	require.Contains(t, notes, "runs that need it wait: code.")
	_, notes, err = render(t, repositories+"code: {enabled: true}\ndatabase: {enabled: false}\ncluster: {enabled: false}\n")
	require.NoError(t, err)
	require.Contains(t, notes, "exec deploy/upkeep-code -- upkeep run UpdateDependencies --target <target> --dry-run")
	require.Contains(t, notes, "code has an image whose tag does not end in -code")
}

func TestBadValuesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ values, want string }{
		"no address":                   {`config: "version: 1"`, "temporal.address is missing"},
		"no configuration":             {`temporal: {address: "t:7233"}`, "config is missing"},
		"an address without a port":    {`temporal: {address: temporal.example}`, "/temporal/address"},
		"a key that is misspelled":     {"temporal: {adress: 't:7233'}", "'adress' not allowed"},
		"a capability that is unknown": {plain + "clusters: {enabled: true}", "'clusters' not allowed"},
		"a secret in clear":            {plain + "database: {env: [{name: SHOP_PASSWORD, value: secret}]}", "/database/env/0"},
		"a variable of nothing":        {plain + "database: {env: [{name: SHOP}]}", "/database/env/0"},
		"a wildcard":                   {plain + "rbac: {rules: [{namespace: shop, rules: [{apiGroups: [apps], resources: ['*'], verbs: [get]}]}]}", "have a wildcard"},
		"a wildcard of subresources":   {plain + "rbac: {rules: [{namespace: shop, rules: [{apiGroups: [apps], resources: ['*/scale'], verbs: [get]}]}]}", "have a wildcard"},
		"a node's proxy":               {plain + "rbac: {rules: [{namespace: shop, rules: [{apiGroups: [''], resources: [nodes/proxy], verbs: [get]}]}]}", "nodes/proxy"},
		"to be somebody else":          {plain + "rbac: {rules: [{namespace: shop, rules: [{apiGroups: [''], resources: [users], verbs: [impersonate]}]}]}", "impersonate"},
		"rules without a namespace":    {plain + "rbac: {rules: [{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}]}", "missing property 'namespace'"},
		"the cluster's own namespace":  {plain + "rbac: {rules: [{namespace: kube-system, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}]}", "kube-system"},
		"a wildcard for databases":     {plain + "database: {rules: [{namespace: shop, rules: [{apiGroups: [''], resources: [pods], verbs: ['*']}]}]}", "have a wildcard"},
		"a wildcard of the cluster":    {plain + "rbac: {clusterRules: [{apiGroups: ['*'], resources: [nodes], verbs: [get]}]}", "the rules of the cluster have a wildcard"},
		"a target in kube-system":      {plain + "database: {targets: [{namespace: kube-system}]}", "kube-system"},
		"a tag that is none":           {plain + "image: {tag: 'a b'}", "/image/tag"},
		"a mount over the data":        {plain + "database: {mounts: [{path: /var/lib/upkeep-worker/keys, secret: keys}]}", "/database/mounts/0"},
		"a mount over the root":        {plain + "database: {mounts: [{path: /, secret: keys}]}", "/database/mounts/0"},
		"a mount of two":               {plain + "cluster: {mounts: [{path: /charts, secret: a, configMap: b}]}", "/cluster/mounts/0"},
		"a mount of the node's":        {plain + "cluster: {mounts: [{path: /charts, hostPath: /}]}", "'hostPath' not allowed"},
		"a token in clear":             {plain + "code: {env: [{name: GITHUB_TOKEN, value: secret}]}", "/code/env/0"},
		"a prober in kube-system":      {plain + "prober: {namespaces: [kube-system]}", "kube-system"},
		"a prober of no namespace":     {plain + "prober: {namespaces: ['a b']}", "/prober/namespaces/0"},
		"a prober's key misspelled":    {plain + "prober: {namespace: shop}", "'namespace' not allowed"},
		"rights for code":              {plain + "code: {rules: [{namespace: shop, rules: []}]}", "'rules' not allowed"},
		"another repository for one":   {plain + "code: {image: {repository: other}}", "'repository' not allowed"},
		"two stores":                   {plain + "store: {claim: a, emptyDir: true}", "say one"},
		"a store that is nowhere":      {strings.Replace(plain, "s3://bucket?region=eu-central-1", "file:///var/lib/upkeep", 1), "set store.claim"},
		"a configuration that is none": {"temporal: {address: 't:7233'}\nconfig: 'version: [1'", "config is no YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := render(t, c.values)
			require.ErrorContains(t, err, c.want)
		})
	}
}
