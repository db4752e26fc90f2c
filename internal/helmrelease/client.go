package helmrelease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// requestWithin bounds one request to the API server.
	requestWithin = 30 * time.Second
	// maxReply bounds what is read of one reply of the API server.
	maxReply = 64 << 20
)

// gate decides on each request of a client before it is sent.
type gate func(*http.Request) error

// reads reports whether a request changes nothing.
func reads(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
}

// onlyReads is the gate of whoever plans.
func onlyReads(r *http.Request) error {
	if !reads(r) {
		return failure.New(failure.Internal, "a plan would send %s %s to the cluster, which it must not", r.Method, r.URL.Path)
	}
	return nil
}

type gated struct {
	next http.RoundTripper
	gate gate
}

func (g gated) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := g.gate(r); err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	reply, err := g.next.RoundTrip(r)
	if err == nil {
		reply.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(reply.Body, maxReply), reply.Body}
	}
	return reply, err
}

// client is the cluster as Helm's library wants it, behind a gate. Helm's requests know no context, so
// the gate is also where they learn of its end.
type client struct {
	getter *getter
	kube   *kube.Client
	set    kubernetes.Interface
	last   *said
}

// said keeps the last thing that the library had to say.
type said struct{ text string }

func (s *said) log(format string, args ...any) { s.text = fmt.Sprintf(format, args...) }

func (r *Release) client(ctx context.Context, g gate) (*client, error) {
	config := rest.CopyConfig(r.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return gated{next, func(request *http.Request) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return g(request)
		}}
	})
	look, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, classify(err, "make a client of the cluster")
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, classify(err, "make a client of the cluster")
	}
	cached := memory.NewMemCacheClient(look)
	get := &getter{
		config: config, namespace: r.namespace, discovery: cached,
		mapper: restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil),
	}
	c := &client{getter: get, kube: kube.New(get), set: set, last: &said{}}
	c.kube.Namespace = r.namespace
	c.kube.Log = c.last.log
	return c, nil
}

// configuration is what Helm's actions want, with no storage but memory: records are made and changed
// only by this package, which does it with preconditions.
func (c *client) configuration() *action.Configuration {
	return &action.Configuration{RESTClientGetter: c.getter, KubeClient: c.kube, Releases: storage.Init(driver.NewMemory()), Log: c.last.log}
}

// getter gives Helm's library the clients of one configuration, and knows no file and no environment.
type getter struct {
	config    *rest.Config
	namespace string
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{}, &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}

// classify gives an error of the cluster its code. What says what was done, in the infinitive.
func classify(err error, what string) error {
	if err == nil {
		return nil
	}
	if f, ok := failure.As(err); ok {
		return f
	}
	if apierrors.IsForbidden(err) {
		return failure.New(failure.MissingRight, "could not %s", what).Because(err).Do("give Upkeep's account the right, then resume the run")
	}
	return failure.New(failure.Internal, "could not %s", what).Because(err)
}

// ofCluster reports whether an error came from the API server or the way to it, not from a chart.
func ofCluster(err error) bool {
	var status apierrors.APIStatus
	var timeout interface{ Timeout() bool }
	_, own := failure.As(err)
	return own || errors.As(err, &status) || errors.As(err, &timeout) || errors.Is(err, context.Canceled)
}
