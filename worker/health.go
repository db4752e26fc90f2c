package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
)

// health answers /livez and /readyz, and /metrics beside them. Alive is a process that no fatal error has ended, whatever the
// Temporal server does; ready is one that serves its queues and reaches the server.
type health struct {
	server  *http.Server
	Address string
	fatal   atomic.Pointer[error]
	serving atomic.Bool
}

func startHealth(address string, c client.Client, metrics http.Handler) (*health, error) {
	h := &health{}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks (--health-address): %w", err)
	}
	h.Address = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		if err := h.fatal.Load(); err != nil {
			answer(w, http.StatusServiceUnavailable, "a fatal error ended the worker")
			return
		}
		answer(w, http.StatusOK, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if !h.serving.Load() {
			answer(w, http.StatusServiceUnavailable, "starting or stopping")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if _, err := c.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
			answer(w, http.StatusServiceUnavailable, "the Temporal server does not answer")
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", metrics)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() {
		if err := h.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			h.fatal.Store(&err)
		}
	}()
	return h, nil
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": text}) // the asker may be gone
}

func (h *health) close(ctx context.Context) error { return h.server.Shutdown(ctx) }
