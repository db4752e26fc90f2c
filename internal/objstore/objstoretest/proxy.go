package objstoretest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Fault is what a proxy does to the connections through it. The zero Fault does nothing.
type Fault struct {
	Refuse    bool          // reset each new connection
	Silent    bool          // take what is sent, hand nothing on, answer nothing
	Mute      bool          // hand on what is sent, and lose the answers
	Answer    string        // answer each request with this HTTP response, without asking the server
	Latency   time.Duration // before each piece of an answer
	Rate      int           // bytes a second, each way; 0: as fast as it goes
	CutSent   int           // reset a connection after so many bytes that were sent; 0: never
	CutAnswer int           // reset a connection after so many bytes of answers; 0: never
	Times     int           // only so many connections, then none is harmed; 0: all
}

// Proxy stands between a client and a server.
type Proxy struct {
	Address string

	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	ctx      context.Context // ends with the proxy
	working  sync.WaitGroup

	sent, answered atomic.Int64 // bytes

	mu    sync.Mutex
	fault Fault
	harm  int // connections that were harmed since Set
	open  map[net.Conn]bool
	cut   context.CancelFunc // ends what waits in the connections
	until context.Context
}

// StartProxy listens on a port of its own until the test ends.
func StartProxy(t testing.TB, dial func(context.Context) (net.Conn, error)) *Proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{Address: listener.Addr().String(), listener: listener, dial: dial, ctx: ctx, open: make(map[net.Conn]bool)}
	p.Set(Fault{})
	p.working.Go(p.serve)
	t.Cleanup(func() {
		cancel()
		_ = listener.Close() // the only way to end its Accept
		p.Set(Fault{})
		p.working.Wait()
	})
	return p
}

// Set changes what is done to connections, and resets those that are open.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut != nil {
		p.cut()
	}
	p.until, p.cut = context.WithCancel(p.ctx)
	for c := range p.open {
		reset(c)
	}
	p.fault, p.harm = f, 0
}

// Carried is how many bytes clients have sent, and how many of answers they were given, harmed or not.
func (p *Proxy) Carried() (sent, answered int64) { return p.sent.Load(), p.answered.Load() }

// Harmed is how many connections felt the fault.
func (p *Proxy) Harmed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.harm
}

// admit takes a connection in, and says what is done to it and for how long.
func (p *Proxy) admit(c net.Conn) (Fault, context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = true
	if p.fault == (Fault{}) || p.fault.Times > 0 && p.harm >= p.fault.Times {
		return Fault{}, p.until
	}
	p.harm++
	return p.fault, p.until
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	_ = c.Close() // it may be closed
}

// reset closes a connection so that the other side sees it broken, not ended.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it may be closed
	}
	_ = c.Close()
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.working.Go(func() {
			f, until := p.admit(c)
			defer p.forget(c)
			p.handle(c, f, until)
		})
	}
}

func (p *Proxy) handle(c net.Conn, f Fault, until context.Context) {
	switch {
	case f.Refuse:
		reset(c)
		return
	case f.Silent:
		_, _ = io.Copy(io.Discard, c) // until the client gives up
		return
	case f.Answer != "":
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			_, _ = io.Copy(io.Discard, request.Body)
			_, _ = io.WriteString(c, f.Answer)
		}
		return
	}
	server, err := p.dial(until)
	if err != nil {
		reset(c)
		return
	}
	defer func() { _ = server.Close() }()
	var both sync.WaitGroup
	both.Go(func() {
		pass(until, server, c, f.Rate, f.CutSent, 0, &p.sent)
		if f.CutSent > 0 {
			reset(c)
		}
		_ = server.Close() // wakes the other way
	})
	both.Go(func() {
		if f.Mute {
			_, _ = io.Copy(io.Discard, server)
		} else {
			pass(until, c, server, f.Rate, f.CutAnswer, f.Latency, &p.answered)
		}
		if f.CutAnswer > 0 {
			reset(c)
		}
		if !f.Mute {
			_ = c.Close()
		}
	})
	both.Wait()
}

// pass copies until either side ends, or so many bytes have passed.
func pass(until context.Context, to io.Writer, from io.Reader, rate, most int, latency time.Duration, count *atomic.Int64) {
	const beat = 20 * time.Millisecond
	piece := make([]byte, 128<<10)
	if rate > 0 {
		piece = piece[:min(len(piece), max(1, rate/int(time.Second/beat)))]
	}
	for passed := 0; ; {
		if most > 0 {
			piece = piece[:min(len(piece), most-passed)]
		}
		n, err := from.Read(piece)
		count.Add(int64(n))
		if n > 0 {
			if !wait(until, latency) || rate > 0 && !wait(until, time.Duration(n)*time.Second/time.Duration(rate)) {
				return
			}
			if _, err := to.Write(piece[:n]); err != nil {
				return
			}
		}
		if passed += n; err != nil || most > 0 && passed >= most {
			return
		}
	}
}

// wait reports whether the time has passed before the end.
func wait(until context.Context, d time.Duration) bool {
	if d == 0 {
		return until.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-until.Done():
		return false
	}
}
