package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

const (
	// gather is how long a session that reads in bulk lets the server go on before it looks again.
	gather = 500 * time.Microsecond
	// gathered is how many bytes at once are enough to look again without a pause.
	gathered = 64 << 10
)

// WithBulkReads makes a session read seldom and much instead of often and little. A server sends
// COPY in pieces of 8 KiB and each wakes whoever waits for it; on a busy machine the waking costs
// both sides more than what is done with the bytes. Every answer comes up to half a millisecond
// later, so it is for sessions that read tables. A deadline that passes ends such a session.
func WithBulkReads() Option {
	return func(c *pgx.ConnConfig) {
		dial := c.DialFunc
		c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			bulk, err := newBulkConn(conn)
			if err != nil {
				return nil, fmt.Errorf("take over the connection to %s: %w", address, err)
			}
			return bulk, nil
		}
	}
}

// bulkConn is a connection outside of the runtime's poller, which would be told of every piece that
// comes, whether anybody reads or not.
type bulkConn struct {
	file          *os.File // of the socket, blocking
	local, remote net.Addr
	drained       bool // the last read left nothing, and found little

	mu    sync.Mutex
	timer *time.Timer // of the deadline
	late  atomic.Bool // it has passed
}

// newBulkConn takes the socket out of a connection, which ends with it.
func newBulkConn(conn net.Conn) (*bulkConn, error) {
	defer func() { _ = conn.Close() }() // what goes on is its copy
	c := &bulkConn{local: conn.LocalAddr(), remote: conn.RemoteAddr()}
	owner, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T has no socket", conn)
	}
	raw, err := owner.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if controlErr := raw.Control(func(socket uintptr) { fd, err = unix.FcntlInt(socket, unix.F_DUPFD_CLOEXEC, 0) }); controlErr != nil {
		return nil, controlErr
	}
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	c.file = os.NewFile(uintptr(fd), c.remote.String())
	return c, nil
}

func (c *bulkConn) Read(p []byte) (int, error) {
	if c.drained {
		time.Sleep(gather)
	}
	n, err := c.file.Read(p)
	c.drained = n < len(p) && n < gathered
	return n, c.reason(err)
}

func (c *bulkConn) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	return n, c.reason(err)
}

// reason tells a deadline from a server that went away.
func (c *bulkConn) reason(err error) error {
	if err != nil && c.late.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// hangUp wakes whoever reads or writes.
func (c *bulkConn) hangUp() {
	if raw, err := c.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // it may be gone already
	}
}

func (c *bulkConn) Close() error {
	_ = c.SetDeadline(time.Time{})
	c.hangUp()
	return c.file.Close()
}

// SetDeadline ends the connection at that time, unless it is set anew before; the zero time is never.
func (c *bulkConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if !t.IsZero() {
		c.timer = time.AfterFunc(time.Until(t), func() {
			c.late.Store(true)
			c.hangUp()
		})
	}
	return nil
}

func (c *bulkConn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *bulkConn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }
func (c *bulkConn) LocalAddr() net.Addr                { return c.local }
func (c *bulkConn) RemoteAddr() net.Addr               { return c.remote }
