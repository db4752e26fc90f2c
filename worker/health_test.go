package worker

import (
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"
)

func status(t *testing.T, h *health, path string) int {
	t.Helper()
	answer, err := http.Get("http://" + h.Address + path)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}

// TestHealthWithoutTemporal checks a worker whose Temporal server is away: it lives, and is not ready.
func TestHealthWithoutTemporal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close()) // nobody listens there now
	c, err := client.NewLazyClient(client.Options{HostPort: address})
	require.NoError(t, err)
	defer c.Close()
	m, err := newMetrics(zap.NewNop())
	require.NoError(t, err)
	h, err := startHealth("127.0.0.1:0", c, m.Handler)
	require.NoError(t, err)
	defer func() { require.NoError(t, h.close(t.Context())) }()

	require.Equal(t, http.StatusOK, status(t, h, "/livez"))
	require.Equal(t, http.StatusServiceUnavailable, status(t, h, "/readyz"), "it has not started")
	h.serving.Store(true)
	require.Equal(t, http.StatusServiceUnavailable, status(t, h, "/readyz"), "the server is away")
	require.Equal(t, http.StatusOK, status(t, h, "/livez"))
	fatal := errors.New("the namespace is gone")
	h.fatal.Store(&fatal)
	require.Equal(t, http.StatusServiceUnavailable, status(t, h, "/livez"))
	require.Equal(t, http.StatusNotFound, status(t, h, "/"))
	require.Equal(t, http.StatusOK, status(t, h, "/metrics"), "they are read whatever is wrong")

	_, err = startHealth(h.Address, c, m.Handler)
	require.ErrorContains(t, err, "--health-address")
}
