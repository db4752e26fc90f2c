package kube

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// forwardBuffer is how much is handed on at once through a forwarded connection, in bytes.
	forwardBuffer = 128 << 10
	// maxForwardError bounds what the node says of a connection that it cannot make, in bytes.
	maxForwardError = 4 << 10
)

// Endpoint names a port of a pod, or of whichever ready pod is behind a Service.
type Endpoint struct {
	Service string `json:"service,omitempty"`
	Pod     string `json:"pod,omitempty"`
	Port    int    `json:"port"` // the Service's, or the pod's
}

func (e Endpoint) String() string {
	if e.Service != "" {
		return fmt.Sprintf("Service %s port %d", e.Service, e.Port)
	}
	return fmt.Sprintf("pod %s port %d", e.Pod, e.Port)
}

// backend is a pod's port behind an endpoint.
type backend struct {
	pod     string
	address string
	port    int
}

// Dial opens a connection to an endpoint: straight to the pod from inside the cluster, through the API
// server (as kubectl port-forward) from elsewhere. The context bounds the opening.
func (c *Cluster) Dial(ctx context.Context, e Endpoint) (net.Conn, error) {
	b, err := c.backend(ctx, e)
	if err != nil {
		return nil, err
	}
	if !c.Inside {
		conn, err := c.Forward(ctx, b.pod, b.port)
		if failure.Is(err, failure.MissingObject) { // it went away in between
			return nil, unanswered("pod %s in namespace %s is gone", b.pod, c.Namespace)
		}
		return conn, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(b.address, strconv.Itoa(b.port)))
	if err != nil {
		return nil, failure.New(failure.ServerUnreachable, "pod %s does not answer on port %d", b.pod, b.port).Because(err).
			Do("see that the pod is up and that its NetworkPolicies let the worker in")
	}
	return conn, nil
}

// Pod finds the pod of an endpoint, and the port there.
func (c *Cluster) Pod(ctx context.Context, e Endpoint) (*corev1.Pod, int, error) {
	b, err := c.backend(ctx, e)
	if err != nil {
		return nil, 0, err
	}
	p, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, b.pod, metav1.GetOptions{})
	return p, b.port, Classify(err, "read pod "+b.pod+" in namespace "+c.Namespace)
}

// backend finds the pod of an endpoint.
func (c *Cluster) backend(ctx context.Context, e Endpoint) (backend, error) {
	if e.Pod != "" {
		p, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, e.Pod, metav1.GetOptions{})
		if err != nil {
			err = Classify(err, "find pod "+e.Pod+" in namespace "+c.Namespace)
			if failure.Is(err, failure.MissingObject) { // a pod of a StatefulSet comes back under its name
				return backend{}, unanswered("there is no pod %s in namespace %s", e.Pod, c.Namespace)
			}
			return backend{}, err
		}
		if p.Status.PodIP == "" || p.DeletionTimestamp != nil {
			return backend{}, unanswered("pod %s in namespace %s is not up (%s)", e.Pod, c.Namespace, p.Status.Phase)
		}
		return backend{pod: p.Name, address: p.Status.PodIP, port: e.Port}, nil
	}
	s, err := c.service(ctx, e.Service)
	if err != nil {
		return backend{}, err
	}
	at := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return int(p.Port) == e.Port })
	if at < 0 {
		return backend{}, failure.New(failure.BadConfig, "Service %s in namespace %s has no port %d", e.Service, c.Namespace, e.Port).
			Do("correct the port in upkeep.yaml (kubectl get service %s -n %s shows them) and start a new run", e.Service, c.Namespace)
	}
	slices_, err := c.Client.DiscoveryV1().EndpointSlices(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + e.Service, Limit: 100})
	if err != nil {
		return backend{}, Classify(err, "find the pods behind Service "+e.Service+" in namespace "+c.Namespace)
	}
	var ready []backend
	for _, slice := range slices_.Items {
		port := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && (p.Name == nil && s.Spec.Ports[at].Name == "" || p.Name != nil && *p.Name == s.Spec.Ports[at].Name)
		})
		if port < 0 {
			continue
		}
		for _, p := range slice.Endpoints {
			if p.TargetRef != nil && p.TargetRef.Kind == "Pod" && len(p.Addresses) > 0 && p.Conditions.Ready != nil && *p.Conditions.Ready {
				ready = append(ready, backend{pod: p.TargetRef.Name, address: p.Addresses[0], port: int(*slice.Ports[port].Port)})
			}
		}
	}
	if len(ready) == 0 {
		return backend{}, unanswered("no pod behind Service %s in namespace %s is ready", e.Service, c.Namespace)
	}
	return slices.MinFunc(ready, func(a, b backend) int { return cmp.Compare(a.pod, b.pod) }), nil
}

// FindService refuses a Service that is not there with a MissingObject. Whether a pod is behind it is not asked.
func (c *Cluster) FindService(ctx context.Context, name string) error {
	_, err := c.service(ctx, name)
	return err
}

func (c *Cluster) service(ctx context.Context, name string) (*corev1.Service, error) {
	s, err := c.Client.CoreV1().Services(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	return s, Classify(err, "find Service "+name+" in namespace "+c.Namespace)
}

func unanswered(format string, args ...any) error {
	return failure.New(failure.ServerUnreachable, format, args...).Do("see why it is not ready (kubectl get pods, kubectl describe pod), or let RecoverService look at it")
}

// Forward opens a connection to a port of a pod through the API server and the node, past all
// NetworkPolicies, to the pod's own loopback.
func (c *Cluster) Forward(ctx context.Context, pod string, port int) (net.Conn, error) {
	doing := fmt.Sprintf("forward a connection to pod %s port %d", pod, port)
	type opened struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan opened, 1) // with room, so that one that comes too late is not waited for
	go func() {
		conn, err := c.tunnel(pod)
		if err == nil && ctx.Err() != nil {
			_ = conn.Close()
			err = ctx.Err()
		}
		done <- opened{conn, err}
	}()
	var tunnel httpstream.Connection
	select {
	case o := <-done:
		if o.err != nil {
			return nil, Classify(o.err, doing)
		}
		tunnel = o.conn
	case <-ctx.Done():
		go func() { // it may still come
			if o := <-done; o.err == nil {
				_ = o.conn.Close()
			}
		}()
		return nil, Classify(ctx.Err(), doing)
	}
	conn, err := forward(tunnel, port)
	if err != nil {
		_ = tunnel.Close()
		return nil, Classify(err, doing)
	}
	return conn, nil
}

// tunnel opens a stream connection to a pod's node, by WebSocket, and by SPDY where the server or what is
// in between does not know that.
func (c *Cluster) tunnel(pod string) (httpstream.Connection, error) {
	url := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.Namespace).Name(pod).SubResource("portforward").URL()
	modern, err := portforward.NewSPDYOverWebsocketDialer(url, c.Config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport, Timeout: requestTimeout}, http.MethodPost, url)
	conn, protocol, err := portforward.NewFallbackDialer(modern, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}).Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		_ = conn.Close()
		return nil, fmt.Errorf("the server speaks %.40q", protocol)
	}
	return conn, nil
}

// forward makes one connection of a tunnel, which ends with it. What the caller has is one end of a pair of
// sockets: streams know no deadlines, by which drivers break off, and have no descriptor to wait on.
func forward(tunnel httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	complaints, err := tunnel.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = complaints.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := tunnel.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	near, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	conn := &forwarded{UnixConn: near}
	var once sync.Once
	end := func() {
		once.Do(func() {
			_ = data.Reset()
			_ = tunnel.Close()
			_ = far.Close()
		})
	}
	go func() { // the node says there why a connection cannot be made, or broke
		said, _ := io.ReadAll(io.LimitReader(complaints, maxForwardError))
		if len(said) > 0 {
			conn.fail(fmt.Errorf("the node says: %s", said))
			end()
		}
	}()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{data}, make([]byte, forwardBuffer))
		end()
	}()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{data}, struct{ io.Reader }{far}, make([]byte, forwardBuffer))
		end()
	}()
	return conn, nil
}

// socketPair makes two sockets that are connected to each other.
func socketPair() (near, far *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "forwarded")
		conn, err := net.FileConn(file)
		_ = file.Close() // the connection has a descriptor of its own
		if err != nil {
			return nil, nil, fmt.Errorf("use a pair of sockets: %w", err)
		}
		ends[i] = conn.(*net.UnixConn) // of a socket of that kind
	}
	return ends[0], ends[1], nil
}

// forwarded is a connection that says why it broke.
type forwarded struct {
	*net.UnixConn
	mu  sync.Mutex
	why error
}

func (f *forwarded) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = err
}

func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.UnixConn.Read(p)
	if err == io.EOF {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.why != nil {
			err = f.why
		}
	}
	return n, err
}
