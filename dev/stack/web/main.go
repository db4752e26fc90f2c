// Command web is the service of the test stack: it writes traces to PostgreSQL and reads them back, as
// small as a real one can be. "web migrate" brings its database to a version; "web probe" calls the service
// again and again for the benchmarks.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "probe" {
		return probe(ctx, args[1])
	}
	pool, err := connect()
	if err != nil {
		return err
	}
	defer pool.Close()
	switch {
	case len(args) == 0:
		return serve(ctx, pool)
	case len(args) == 2 && args[0] == "migrate":
		version, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("migrate to which version? %w", err)
		}
		return migrate(ctx, pool, version)
	}
	return errors.New("usage: web [migrate VERSION], with DATABASE_URL and PGPASSWORD; web probe URL")
}

func connect() (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, errors.New("DATABASE_URL is no address of a database")
	}
	config.MaxConns = 8
	config.ConnConfig.ConnectTimeout = 2 * time.Second // a dead pod's address must not hold a request for minutes
	return pgxpool.NewWithConfig(context.Background(), config)
}

// service answers requests.
type service struct {
	pool    *pgxpool.Pool
	written atomic.Int64
	failed  atomic.Int64
	wedged  atomic.Bool
}

func serve(ctx context.Context, pool *pgxpool.Pool) error {
	s := &service{pool: pool}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ready", s.ready)
	mux.HandleFunc("POST /traces", s.write)
	mux.HandleFunc("GET /traces/count", s.count)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("POST /wedge", s.wedge)
	server := &http.Server{Addr: ":3000", Handler: http.TimeoutHandler(s.unlessWedged(mux), 10*time.Second, "too slow\n"), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return server.Shutdown(last)
	}
}

func (s *service) fail(w http.ResponseWriter, err error) {
	s.failed.Add(1)
	log.Print(err)
	http.Error(w, "the database does not answer as it should", http.StatusServiceUnavailable)
}

// ready says whether the database is there. It does not ask for tables: "helm install --wait" waits for
// this before it runs the hook that makes them.
func (s *service) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.pool.Ping(r.Context()); err != nil {
		s.fail(w, err)
		return
	}
	fmt.Fprintln(w, "ready")
}

// wedge makes the program as one that has locked itself up: it lives, answers nothing that it is for, and
// only a new start helps.
func (s *service) wedge(w http.ResponseWriter, _ *http.Request) {
	s.wedged.Store(true)
	fmt.Fprintln(w, "wedged")
}

func (s *service) unlessWedged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.wedged.Load() && r.URL.Path != "/health" {
			http.Error(w, "wedged", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *service) write(w http.ResponseWriter, r *http.Request) {
	var trace struct{ Name string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&trace); err != nil || trace.Name == "" {
		http.Error(w, `give it as {"name": "..."}`, http.StatusBadRequest)
		return
	}
	var id int64
	if err := s.pool.QueryRow(r.Context(), "INSERT INTO traces (name) VALUES ($1) RETURNING id", trace.Name).Scan(&id); err != nil {
		s.fail(w, err)
		return
	}
	s.written.Add(1)
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "{\"id\": %d}\n", id)
}

func (s *service) count(w http.ResponseWriter, r *http.Request) {
	var count int64
	if err := s.pool.QueryRow(r.Context(), "SELECT count(*) FROM traces").Scan(&count); err != nil {
		s.fail(w, err)
		return
	}
	version, err := versionOf(r.Context(), s.pool)
	if err != nil {
		s.fail(w, err)
		return
	}
	fmt.Fprintf(w, "{\"count\": %d, \"schema\": %d}\n", count, version)
}

func (s *service) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# TYPE langfuse_traces_written_total counter\nlangfuse_traces_written_total %d\n", s.written.Load())
	fmt.Fprintf(w, "# TYPE langfuse_requests_failed_total counter\nlangfuse_requests_failed_total %d\n", s.failed.Load())
}
