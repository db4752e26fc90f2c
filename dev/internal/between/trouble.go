package between

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kind is what an API server in trouble does to a request.
type Kind string

// The kinds of trouble.
const (
	None     Kind = ""
	Busy     Kind = "429"       // turned away, to come again in a second
	Down     Kind = "503"       // turned away
	Broken   Kind = "500"       // turned away
	Conflict Kind = "409"       // a change that somebody else was faster than
	Lost     Kind = "lost"      // it is done, and the answer never comes
	Never    Kind = "not there" // it never comes to be done
)

// Trouble is a proxy that does to each request what Decide says.
type Trouble struct {
	Kubeconfig string // the path of one that leads through the proxy

	mu     sync.Mutex
	given  map[Kind]int
	decide func(n int, r *http.Request) Kind
	n      int
}

// NewTrouble starts a proxy to the API server of a kubeconfig. It is reached on loopback, by a path that
// nobody guesses, with the rights of that kubeconfig. Decide is asked with the number of the request, one
// call at a time.
func NewTrouble(t testing.TB, kubeconfig string, decide func(n int, r *http.Request) Kind) *Trouble {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	config.NextProtos = []string{"http/1.1"} // which forwarded ports need
	transport, err := rest.TransportFor(config)
	require.NoError(t, err)
	to, err := url.Parse(config.Host)
	require.NoError(t, err)
	x := &Trouble{given: make(map[Kind]int), decide: decide}
	secret := "/" + rand.Text()
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.URL.Path, r.Out.URL.RawPath = strings.TrimSuffix(to.Path, "/")+strings.TrimPrefix(r.In.URL.Path, secret), ""
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, secret+"/") {
			http.NotFound(w, r)
			return
		}
		x.serve(w, r, proxy)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	file, cluster := load(t, kubeconfig)
	*cluster = clientcmdapi.Cluster{Server: server.URL + secret}
	file.AuthInfos[file.Contexts[file.CurrentContext].AuthInfo] = clientcmdapi.NewAuthInfo()
	x.Kubeconfig = save(t, file)
	return x
}

// Given is how often each kind of trouble was made.
func (x *Trouble) Given() map[Kind]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make(map[Kind]int)
	for kind, n := range x.given {
		all[kind] = n
	}
	return all
}

func (x *Trouble) serve(w http.ResponseWriter, r *http.Request, proxy http.Handler) {
	x.mu.Lock()
	x.n++
	kind := x.decide(x.n, r)
	x.given[kind]++
	x.mu.Unlock()
	status := map[Kind]int{Busy: http.StatusTooManyRequests, Down: http.StatusServiceUnavailable, Broken: http.StatusInternalServerError, Conflict: http.StatusConflict}[kind]
	switch {
	case kind == None:
		proxy.ServeHTTP(w, r)
	case kind == Lost:
		proxy.ServeHTTP(nowhere{header: make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	case kind == Never:
		panic(http.ErrAbortHandler)
	default:
		reason := map[Kind]string{Busy: "TooManyRequests", Down: "ServiceUnavailable", Broken: "InternalError", Conflict: "Conflict"}[kind]
		w.Header().Set("Content-Type", "application/json")
		if kind == Busy {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "message": "in trouble, as the test says", "code": %d}`, reason, status)
	}
}

// nowhere is where an answer goes that nobody gets.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}

// Changes reports whether a request changes something.
func Changes(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasSuffix(r.URL.Path, "/portforward")
}
