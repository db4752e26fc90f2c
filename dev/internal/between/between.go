// Package between stands between a worker and the API server, for tests: a line that can be cut, and a proxy
// that answers as an API server in trouble does. Each writes a kubeconfig that leads through it.
package between

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Line is a TCP connection's way to the API server.
type Line struct {
	Kubeconfig string // the path of one that leads through the line

	mu    sync.Mutex
	whole chan struct{} // closed while the line is whole
	held  chan struct{} // closed when something has been held by the cut line
}

// NewLine lays a line to the API server of a kubeconfig.
func NewLine(t testing.TB, kubeconfig string) *Line {
	t.Helper()
	file, cluster := load(t, kubeconfig)
	server, err := url.Parse(cluster.Server)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	if cluster.TLSServerName == "" {
		cluster.TLSServerName = server.Hostname()
	}
	to := server.Host
	if server.Port() == "" {
		to = net.JoinHostPort(server.Hostname(), "443")
	}
	server.Host = listener.Addr().String()
	cluster.Server = server.String()
	l := &Line{Kubeconfig: save(t, file), whole: make(chan struct{})}
	close(l.whole)
	t.Cleanup(l.Mend)
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go l.connect(from, to)
		}
	}()
	return l
}

func (l *Line) connect(from net.Conn, to string) {
	defer func() { _ = from.Close() }()
	l.pass()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		l.copy(server, from)
		_ = server.Close()
	}()
	l.copy(from, server)
}

// copy hands on what is read; what comes while the line is cut is held back, as by a network that loses
// packets, and nobody is told.
func (l *Line) copy(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.pass()
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			l.pass()
			return
		}
	}
}

// pass waits until the line is whole.
func (l *Line) pass() {
	l.mu.Lock()
	whole := l.whole
	select {
	case <-whole:
	default:
		select {
		case <-l.held:
		default:
			close(l.held)
		}
	}
	l.mu.Unlock()
	<-whole
}

// Cut cuts the line. The returned channel is closed when something has been held back.
func (l *Line) Cut() (held <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole, l.held = make(chan struct{}), make(chan struct{})
	return l.held
}

// Mend makes the line whole.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.whole:
	default:
		close(l.whole)
	}
}

func load(t testing.TB, kubeconfig string) (*clientcmdapi.Config, *clientcmdapi.Cluster) {
	t.Helper()
	file, err := clientcmd.LoadFromFile(kubeconfig)
	require.NoError(t, err)
	require.NoError(t, clientcmdapi.MinifyConfig(file))
	require.NoError(t, clientcmdapi.FlattenConfig(file))
	return file, file.Clusters[file.Contexts[file.CurrentContext].Cluster]
}

func save(t testing.TB, file *clientcmdapi.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*file, path))
	require.NoError(t, os.Chmod(path, 0o600))
	return path
}
