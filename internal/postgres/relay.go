package postgres

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// relay is a unix socket, in a folder that only this OS user can enter, by which a client program reaches a
// server that only Dial leads to.
type relay struct {
	dir      string
	listener net.Listener
	stop     context.CancelFunc
	open     sync.WaitGroup

	mu     sync.Mutex
	failed error // why a connection could not be made: the program only sees that it is closed
}

func startRelay(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*relay, error) {
	dir, err := os.MkdirTemp("", "upkeep-relay-") // 0700
	if err != nil {
		return nil, fmt.Errorf("make a folder for a socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("listen on a socket: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	r := &relay{dir: dir, listener: listener, stop: stop}
	r.open.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			r.open.Go(func() { r.serve(ctx, near, dial) })
		}
	})
	return r, nil
}

func (r *relay) serve(ctx context.Context, near net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer func() { _ = near.Close() }()
	dialling, cancel := context.WithTimeout(ctx, connectTimeout)
	far, err := dial(dialling)
	cancel()
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failed = err
		return
	}
	defer func() { _ = far.Close() }()
	ended := make(chan struct{}, 2)
	pump := func(to io.Writer, from io.Reader) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, readBuffer))
		ended <- struct{}{}
	}
	go pump(far, near)
	go pump(near, far)
	select { // either end closes both: PostgreSQL's protocol has no half that goes on
	case <-ended:
	case <-ctx.Done():
	}
}

// url leads a client program to the relay, with the role and the database of the server's own URL. What
// that says of TLS is for the way to the server, and not for a socket.
func (r *relay) url(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", badURL(err)
	}
	q := u.Query()
	for key := range q {
		if key == "host" || key == "port" || strings.HasPrefix(key, "ssl") || key == "channel_binding" {
			q.Del(key)
		}
	}
	q.Set("host", r.dir)
	q.Set("port", "5432")
	u.Host, u.RawQuery = "", strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String(), nil
}

// close ends every connection, and returns why one could not be made.
func (r *relay) close() error {
	r.stop()
	_ = r.listener.Close()
	r.open.Wait()
	_ = os.RemoveAll(r.dir)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}
