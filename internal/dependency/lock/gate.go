package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
)

// gate is the only way by which npm reaches anything: a package may be asked for by a URL that somebody has
// written into a package.json, or into a package of the registry. It is a proxy on this machine's loopback. The
// operator's registries may be anywhere; what else is asked is asked by https, and is not inside of somebody's
// network.
type gate struct {
	server   *http.Server
	address  string
	registry map[string]bool // host:port of the operator's

	mu      sync.Mutex
	refused []string
}

// dialWithin bounds the wait for a connection.
const dialWithin = 30 * time.Second

func openGate(registries []string) (*gate, error) {
	g := &gate{registry: make(map[string]bool)}
	for _, r := range registries {
		if u, err := url.Parse(r); err == nil && u.Host != "" {
			g.registry[withPort(u)] = true
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, noSpace(err)
	}
	g.address = "http://" + listener.Addr().String()
	forward := &httputil.ReverseProxy{
		Rewrite: func(*httputil.ProxyRequest) {},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "it does not answer", http.StatusBadGateway)
		},
		Transport: &http.Transport{DialContext: g.dial, DisableKeepAlives: true},
	}
	g.server = &http.Server{ReadHeaderTimeout: dialWithin, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			g.tunnel(w, r)
		case r.URL.IsAbs() && g.registry[withPort(r.URL)]:
			forward.ServeHTTP(w, r)
		default:
			g.refuse(w, r.URL.Host)
		}
	})}
	go func() { _ = g.server.Serve(listener) }() // it ends with an error whenever it is closed
	return g, nil
}

func (g *gate) close() { _ = g.server.Close() }

func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func (g *gate) refuse(w http.ResponseWriter, host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if host = dependency.Printable(host); !slices.Contains(g.refused, host) && len(g.refused) < 10 {
		g.refused = append(g.refused, host)
	}
	http.Error(w, "not a registry of the operator's, and not on the internet", http.StatusForbidden)
}

// said are the hosts that were refused.
func (g *gate) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.refused, ", ")
}

var errInside = errors.New("it is inside of a network")

// dial connects to a registry of the operator's, or to what is on the internet. The address is looked at when it
// is connected to, so a name cannot be resolved to another one in between.
func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialWithin}
	if !g.registry[strings.ToLower(address)] {
		if !strings.HasSuffix(address, ":443") {
			return nil, errInside
		}
		d.Control = func(_, at string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(at)
			if err != nil || httpcache.Internal(to.Addr()) {
				return errInside
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}

func (g *gate) tunnel(w http.ResponseWriter, r *http.Request) {
	out, err := g.dial(r.Context(), "tcp", r.Host)
	if errors.Is(err, errInside) {
		g.refuse(w, r.Host)
		return
	}
	if err != nil {
		http.Error(w, "it does not answer", http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "no tunnel", http.StatusInternalServerError)
		return
	}
	in, buffered, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer func() { _ = in.Close() }()
	if _, err := fmt.Fprint(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(out, buffered) // either side may leave; then both are closed
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}

// registries are those that an .npmrc names, beside npm's own.
func registries(npmrc string) ([]string, error) {
	all := []string{"https://registry.npmjs.org"}
	if npmrc == "" {
		return all, nil
	}
	f, err := os.Open(npmrc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if name = strings.TrimSpace(name); ok && (name == "registry" || strings.HasSuffix(name, ":registry")) {
			all = append(all, strings.Trim(strings.TrimSpace(value), `"'`))
		}
	}
	return all, lines.Err()
}
