package helmrelease

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	helmkube "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// Footprint is what of a cluster a release consists of, in each of the states between which it may go:
// what a role for that has to name.
type Footprint struct {
	States []State
	Reads  []Access // what planning the upgrade has read, what templates look up included
	Gone   []Placed // objects of the newest revision that are not in the cluster
	// Lookups says that templates look things up, and that it is not known what.
	Lookups bool
}

// State is a release at one revision, or as a chart renders it.
type State struct {
	New     bool // it is upgraded to; to others it is rolled back
	Objects []Placed
	Hooks   []PlacedHook
	Grants  []Grant
}

// Placed is an object, and how the cluster serves it.
type Placed struct {
	Object          // its namespace written out; none: it is the cluster's
	Resource string // as in deployments
}

// PlacedHook is a hook, and how the cluster serves it.
type PlacedHook struct {
	Placed
	Events   []string
	Policies []string
}

// Grant is what a role of the chart gives, or a binding hands on. Whoever makes it must have that.
type Grant struct {
	By        Object
	Namespace string // empty: in all
	Rules     []rbacv1.PolicyRule
	// Binds is the role that a binding hands on.
	Binds *rbacv1.RoleRef
}

// Access is a request.
type Access struct{ Namespace, Group, Resource, Verb, Name string }

// Footprint looks at the release as it is, at the revisions that it can be rolled back to and, with a
// request, at what an upgrade would make of it. It changes nothing.
func (r *Release) Footprint(ctx context.Context, request *UpgradeRequest) (Footprint, error) {
	heads, err := r.present(ctx)
	if err != nil {
		return Footprint{}, err
	}
	f := Footprint{}
	c, err := r.client(ctx, onlyReads)
	if err != nil {
		return f, err
	}
	seen := make(map[string]bool)
	for i, h := range heads {
		if i > 0 && h.status != release.StatusDeployed && h.status != release.StatusSuperseded {
			continue // nobody goes back to it
		}
		rec, err := r.read(ctx, h.number)
		if err != nil {
			return f, err
		}
		if rec == nil || seen[rec.manifestHash()] {
			continue
		}
		seen[rec.manifestHash()] = true
		s, err := stateOf(rec.release, c.place)
		if err != nil {
			return f, err
		}
		f.States = append(f.States, s)
		if request != nil && h.status == release.StatusDeployed {
			break // an upgrade that fails goes back there, and no further
		}
	}
	if len(f.States) > 0 {
		if f.Gone, err = r.gone(ctx, f.States[0]); err != nil {
			return f, err
		}
	}
	if request == nil {
		return f, nil
	}
	heard := &listener{}
	listened := *r
	listened.config = rest.CopyConfig(r.config)
	listened.config.Wrap(heard.wrap)
	p, err := listened.look(ctx)
	if err != nil {
		return f, err
	}
	files, err := request.Chart.load(ctx)
	if err != nil {
		return f, err
	}
	rel, err := listened.render(ctx, p, files, *request)
	if err != nil {
		return f, err
	}
	goal, err := renderingOf(rel)
	if err != nil {
		return f, err
	}
	if err := listened.findObstacles(ctx, &Plan{}, goal); err != nil {
		return f, err
	}
	s, err := stateOf(rel, c.place)
	s.New = true
	f.States, f.Reads = append(f.States, s), heard.accesses()
	return f, err
}

// FootprintOffline is what the chart renders to without a cluster: with the chart's own values under those of
// the request, and kinds that Kubernetes itself has.
func FootprintOffline(ctx context.Context, namespace, name string, request UpgradeRequest) (Footprint, error) {
	files, err := request.Chart.load(ctx)
	if err != nil {
		return Footprint{}, err
	}
	chart, err := files.chart()
	if err != nil {
		return Footprint{}, badChart(request.Chart, err).Do("see helm lint, and helm dependency build if a dependency is missing")
	}
	values, err := copied(request.Values)
	if err != nil {
		return Footprint{}, failure.New(failure.BadInput, "the values are no JSON").Because(err)
	}
	config := &action.Configuration{
		Releases: storage.Init(driver.NewMemory()), KubeClient: &helmkube.PrintingKubeClient{Out: io.Discard}, Log: func(string, ...any) {},
	}
	install := action.NewInstall(config)
	install.DryRun, install.ClientOnly, install.ReleaseName, install.Namespace = true, true, name, namespace
	rel, err := install.RunWithContext(ctx, chart, values)
	if err != nil {
		return Footprint{}, badChart(request.Chart, err).Do("see helm template and the values of the request")
	}
	s, err := stateOf(rel, placeBuiltIn)
	s.New = true
	looks := slices.ContainsFunc(files, func(f *loader.BufferedFile) bool {
		return strings.Contains(f.Name, "templates/") && bytes.Contains(f.Data, []byte("lookup "))
	})
	return Footprint{States: []State{s}, Lookups: looks}, err
}

// placer says how objects of a kind are served.
type placer func(schema.GroupVersionKind) (resource string, namespaced bool, err error)

// place asks the cluster.
func (c *client) place(kind schema.GroupVersionKind) (string, bool, error) {
	mapping, err := c.getter.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return "", false, failure.New(failure.BadChart, "the cluster does not know the kind %s of %s", kind.Kind, kind.GroupVersion()).
			Do("install its custom resource definition first")
	}
	if err != nil {
		return "", false, kube.Classify(err, "find the kind "+kind.Kind)
	}
	return mapping.Resource.Resource, mapping.Scope.Name() == meta.RESTScopeNameNamespace, nil
}

// global are Kubernetes' own kinds that are in no namespace.
var global = []string{
	"APIService", "CertificateSigningRequest", "ClusterRole", "ClusterRoleBinding", "ClusterTrustBundle", "CSIDriver", "CSINode", "CustomResourceDefinition",
	"DeviceClass", "FlowSchema", "IngressClass", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration", "Namespace", "Node",
	"PersistentVolume", "PriorityClass", "PriorityLevelConfiguration", "RuntimeClass", "ServiceCIDR", "IPAddress", "StorageClass", "ValidatingAdmissionPolicy",
	"ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration", "VolumeAttachment", "VolumeAttributesClass",
}

// placeBuiltIn knows the kinds that Kubernetes has without custom resource definitions.
func placeBuiltIn(kind schema.GroupVersionKind) (string, bool, error) {
	extension := kind.Kind == "CustomResourceDefinition" && kind.Group == "apiextensions.k8s.io" || kind.Kind == "APIService" && kind.Group == "apiregistration.k8s.io"
	if !scheme.Scheme.Recognizes(kind) && !extension {
		return "", false, failure.New(failure.BadChart, "without a cluster it is not known how the kind %s of %s is served", kind.Kind, kind.GroupVersion()).
			Do("let this machine reach the cluster (kubernetes.kubeconfigFrom in upkeep.yaml, or KUBECONFIG), where its custom resource definition is installed")
	}
	plural, _ := meta.UnsafeGuessKindToResource(kind)
	return plural.Resource, !slices.Contains(global, kind.Kind), nil
}

func stateOf(rel *release.Release, place placer) (State, error) {
	var s State
	r, err := renderingOf(rel)
	if err != nil {
		return s, err
	}
	at := func(o object) (Placed, error) {
		resource, namespaced, err := place(schema.GroupVersionKind{Group: o.Group, Version: o.Version, Kind: o.Kind})
		p := Placed{o.Object, resource}
		switch {
		case !namespaced:
			p.Namespace = ""
		case p.Namespace == "":
			p.Namespace = rel.Namespace
		}
		return p, err
	}
	for _, o := range r.objects {
		p, err := at(o)
		if err != nil {
			return s, err
		}
		s.Objects = append(s.Objects, p)
		if g, err := grantOf(p, o.body); err != nil || g != nil {
			if err != nil {
				return s, err
			}
			s.Grants = append(s.Grants, *g)
		}
	}
	for i, o := range r.hooks {
		p, err := at(o)
		if err != nil {
			return s, err
		}
		s.Hooks = append(s.Hooks, PlacedHook{p, r.kinds[i].Events, r.kinds[i].Policies})
		if g, err := grantOf(p, o.body); err != nil || g != nil {
			if err != nil {
				return s, err
			}
			s.Grants = append(s.Grants, *g)
		}
	}
	return s, nil
}

// grantOf is what a role or a binding hands on; nil for what is neither.
func grantOf(p Placed, body map[string]any) (*Grant, error) {
	if p.Group != rbacv1.GroupName {
		return nil, nil
	}
	read := func(into any) error {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(body, into); err != nil {
			return failure.New(failure.BadChart, "%s of the chart cannot be read", p.Object).Because(err).Do("mend the chart's templates")
		}
		return nil
	}
	g := &Grant{By: p.Object, Namespace: p.Namespace}
	switch p.Kind {
	case "Role", "ClusterRole":
		var role rbacv1.ClusterRole // a Role has the same rules
		if err := read(&role); err != nil {
			return nil, err
		}
		g.Rules = role.Rules
	case "RoleBinding", "ClusterRoleBinding":
		var binding rbacv1.RoleBinding // a ClusterRoleBinding has the same reference
		if err := read(&binding); err != nil {
			return nil, err
		}
		g.Binds = &binding.RoleRef
	default:
		return nil, nil
	}
	return g, nil
}

// gone are the objects of a state that are not there. One that may not be looked at counts as there.
func (r *Release) gone(ctx context.Context, s State) ([]Placed, error) {
	var gone []Placed
	for _, o := range s.Objects {
		_, err := r.meta.Resource(schema.GroupVersionResource{Group: o.Group, Version: o.Version, Resource: o.Resource}).Namespace(o.Namespace).Get(ctx, o.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			gone = append(gone, o)
		case err != nil && !apierrors.IsForbidden(err):
			return nil, kube.Classify(err, "look at "+o.String())
		}
	}
	return gone, nil
}

// listener notes what is asked of the API server.
type listener struct {
	mu    sync.Mutex
	heard map[Access]bool
}

func (l *listener) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if a, ok := accessOf(r); ok {
			l.mu.Lock()
			if l.heard == nil {
				l.heard = make(map[Access]bool)
			}
			l.heard[a] = true
			l.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (l *listener) accesses() (all []Access) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for a := range l.heard {
		all = append(all, a)
	}
	return all
}

// accessOf reads what a request that only reads is for, if it is for an object or a list of them.
func accessOf(r *http.Request) (a Access, ok bool) {
	if !reads(r) || discovers(r.URL.Path) {
		return a, false
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] == "apis" {
		a.Group, parts = parts[1], parts[3:]
	} else {
		parts = parts[2:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		a.Namespace, parts = parts[1], parts[2:]
	}
	a.Resource, a.Verb = parts[0], "list"
	if len(parts) > 1 {
		a.Verb, a.Name = "get", parts[1]
	}
	return a, true
}
