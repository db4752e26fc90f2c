package helmrelease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmkube "helm.sh/helm/v3/pkg/kube"
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
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// requestWithin bounds one request to the API server.
	requestWithin = 30 * time.Second
	// maxReply bounds what is read of one reply of the API server.
	maxReply = 64 << 20
)

// fieldManager is who changed a field, in the eyes of the API server; Helm's library knows it globally.
const fieldManager = "upkeep"

func init() { helmkube.ManagedFieldsManager = fieldManager }

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

// again asks again for what was only read, a few times, when the API server is in trouble: a restart of
// it need not be the end of an attempt. What changes something is sent once, and looked at by the next attempt.
type again struct{ next http.RoundTripper }

const (
	readTries = 5
	// discoverTries are fewer: a group of an API that somebody added may be down for good.
	discoverTries = 3
)

func (a again) RoundTrip(r *http.Request) (*http.Response, error) {
	tries := readTries
	if discovers(r.URL.Path) {
		tries = discoverTries
	}
	for try := 1; ; try++ {
		reply, err := a.next.RoundTrip(r)
		if !reads(r) || try == tries || err == nil && !passes(reply.StatusCode) {
			return reply, err
		}
		if err == nil {
			_ = reply.Body.Close()
		}
		if !pause(r.Context(), 100*time.Millisecond<<try) {
			return nil, context.Cause(r.Context())
		}
	}
}

// answers keeps what kind of errors the API server gave. Helm's library joins errors to one text, which
// does not say whether to try again.
type answers struct{ passing, denied atomic.Bool }

func (a *answers) note(reply *http.Response, err error) {
	switch {
	case err != nil:
		a.passing.Store(true)
	case reply.StatusCode == http.StatusUnauthorized || reply.StatusCode == http.StatusForbidden:
		a.denied.Store(true)
	case passes(reply.StatusCode):
		a.passing.Store(true)
	}
}

func (a *answers) reset() {
	a.passing.Store(false)
	a.denied.Store(false)
}

// passes reports whether a status of HTTP may be another one the next time.
func passes(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooManyRequests || status >= 500
}

// discovers reports whether a path is one of discovery, in which a group that does not answer is
// nobody's failure.
func discovers(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch parts[0] {
	case "api":
		return len(parts) <= 2
	case "apis":
		return len(parts) <= 3
	}
	return parts[0] == "openapi" || parts[0] == "version"
}

type gated struct {
	next    http.RoundTripper
	gate    gate
	answers *answers
	// changes lets one change at a time through the gate and out. Helm sends them side by side, and of those
	// that are past the gate when the process freezes, each would still go out when it wakes up.
	changes *sync.Mutex
}

func (g gated) RoundTrip(r *http.Request) (*http.Response, error) {
	if !reads(r) {
		g.changes.Lock()
		defer g.changes.Unlock()
	}
	if err := g.gate(r); err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	reply, err := g.next.RoundTrip(r)
	// Of discovery only what says that the API server itself is in trouble: one group may be down for good.
	if !discovers(r.URL.Path) || err != nil || reply.StatusCode == http.StatusTooManyRequests {
		g.answers.note(reply, err)
	}
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
	getter  *getter
	kube    *helmkube.Client
	set     kubernetes.Interface
	last    *said
	answers *answers
}

// said keeps the last thing that the library had to say.
type said struct{ text string }

func (s *said) log(format string, args ...any) { s.text = fmt.Sprintf(format, args...) }

func (r *Release) client(ctx context.Context, g gate) (*client, error) {
	config := rest.CopyConfig(r.config)
	var given answers
	var changes sync.Mutex
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return gated{next, func(request *http.Request) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return g(request)
		}, &given, &changes}
	})
	look, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	cached := memory.NewMemCacheClient(look)
	get := &getter{
		config: config, namespace: r.namespace, discovery: cached,
		mapper: restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil),
	}
	c := &client{getter: get, kube: helmkube.New(get), set: set, last: &said{}, answers: &given}
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

// classify gives an error of Helm's library its code, if it is the cluster's; nil if it is not.
func (c *client) classify(err error, what string) error {
	switch {
	case ofCluster(err):
		return kube.Classify(err, what)
	case c.answers.passing.Load():
		return failure.New(failure.ClusterUnreachable, "could not %s", what).Because(err).Do("see whether the API server is up and can be reached from the worker")
	case c.answers.denied.Load():
		return failure.New(failure.ClusterForbids, "could not %s", what).Because(err).Do("grant the right to the worker's account (upkeep rbac prints what it needs for the chart), then resume the run")
	}
	return nil
}

// ofCluster reports whether an error came from the API server or the way to it, not from a chart.
func ofCluster(err error) bool {
	var status apierrors.APIStatus
	var timeout interface{ Timeout() bool }
	_, own := failure.As(err)
	return own || errors.As(err, &status) || errors.As(err, &timeout) || errors.Is(err, context.Canceled)
}
