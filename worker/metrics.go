package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.uber.org/zap"

	"github.com/upkeep-run/upkeep/api/procedures"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/catalog"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/objstore"
	"github.com/upkeep-run/upkeep/internal/trend"
)

// proofsEvery is how often the store is asked for the newest proofs. A scrape never asks it.
const proofsEvery = time.Minute

// The bounds of histograms, in seconds.
var (
	runBounds     = []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600}
	latencyBounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 600, 3600}
)

// metrics are what Prometheus reads at /metrics: what runs came to, how old each target's newest
// proven backup is, Temporal's own figures and those of the process. Labels are names of the code and
// of the configuration, never what a caller chose.
type metrics struct {
	Handler  http.Handler
	Temporal client.MetricsHandler
	log      *zap.Logger

	runs, checks, bytes metric.Int64Counter
	seconds             metric.Float64Histogram

	mu     sync.Mutex
	newest map[string]time.Time // by target: when its newest proven backup was taken; zero: none is
}

func newMetrics(log *zap.Logger) (*metrics, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("prepare the metrics: %w", err)
		}
	}
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("prepare the metrics: %w", err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithView(
		sdkmetric.NewView(sdkmetric.Instrument{Name: "temporal_*", Kind: sdkmetric.InstrumentKindHistogram},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: latencyBounds}})))
	m := &metrics{
		Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}),
		Temporal: opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
			Meter: provider.Meter("temporal"), UseMonotonicCounters: true,
			OnError: func(err error) { log.Warn("a metric of Temporal's SDK is lost", zap.Error(err)) },
		}),
		log: log,
	}
	if err := m.instruments(provider.Meter("upkeep")); err != nil {
		return nil, fmt.Errorf("prepare the metrics: %w", err)
	}
	return m, nil
}

// instruments makes Upkeep's own. The exporter adds _total to the names of counters.
func (m *metrics) instruments(meter metric.Meter) error {
	var all [5]error
	m.runs, all[0] = meter.Int64Counter("upkeep_runs", metric.WithDescription("Runs that ended, dry ones aside."))
	m.checks, all[1] = meter.Int64Counter("upkeep_checks", metric.WithDescription("Checks of runs that ended, by what they found."))
	m.bytes, all[2] = meter.Int64Counter("upkeep_backup_bytes", metric.WithDescription("Bytes that backups read, and that they added to the store."))
	m.seconds, all[3] = meter.Float64Histogram("upkeep_run_seconds", metric.WithExplicitBucketBoundaries(runBounds...),
		metric.WithDescription("How long the steps of runs that ended took, with what they waited."))
	_, all[4] = meter.Float64ObservableGauge("upkeep_newest_pass_age_seconds", metric.WithFloat64Callback(m.observeAges),
		metric.WithDescription("How old the newest backup is that was restored and found equal; infinite where none was."))
	return errors.Join(all[:]...)
}

// ended counts a run that has ended.
func (m *metrics) ended(doc run.Document, at time.Time) {
	m.log.Info("a run ended", zap.String("run", doc.RunID), zap.String("procedure", doc.Procedure), zap.String("target", doc.Target),
		zap.String("outcome", string(doc.Outcome)), zap.Bool("dryRun", doc.DryRun))
	if doc.DryRun {
		return
	}
	ctx := context.Background()
	procedure, target := attribute.String("procedure", doc.Procedure), attribute.String("target", doc.Target)
	outcome := attribute.String("outcome", string(doc.Outcome))
	m.runs.Add(ctx, 1, metric.WithAttributes(procedure, target, outcome))
	took := 0.0
	for _, s := range doc.Steps {
		took += s.Seconds
	}
	m.seconds.Record(ctx, took, metric.WithAttributes(procedure, outcome))
	var result struct {
		Checks []run.Check `json:"checks"`
	}
	// A result of another shape has no checks.
	_ = json.Unmarshal(doc.Result, &result)
	for _, c := range result.Checks {
		switch c.Verdict {
		case run.Pass, run.Fail, run.NotProven:
			m.checks.Add(ctx, 1, metric.WithAttributes(attribute.String("verdict", string(c.Verdict))))
		}
	}
	if p, ok := trend.Of(doc, at); ok && p.Fresh {
		for kind, n := range map[string]int64{"read": p.BytesRead, "stored": p.BytesStored} {
			m.bytes.Add(ctx, max(n, 0), metric.WithAttributes(target, attribute.String("kind", kind)))
		}
	}
}

func (m *metrics) observeAges(_ context.Context, o metric.Float64Observer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for target, taken := range m.newest {
		age := math.Inf(1) // so that one rule finds what is too old and what never was
		if !taken.IsZero() {
			age = time.Since(taken).Seconds()
		}
		o.Observe(age, metric.WithAttributes(attribute.String("target", target)))
	}
	return nil
}

// announce begins the counters of runs at nothing, so that already the first to fail is an increase.
func (m *metrics) announce(targets []config.Target) {
	for _, t := range targets {
		for _, p := range procedures.All() {
			for _, o := range []run.Outcome{run.Succeeded, run.PartiallySucceeded, run.Failed, run.Refused, run.Cancelled} {
				m.runs.Add(context.Background(), 0, metric.WithAttributes(attribute.String("procedure", p.Name),
					attribute.String("target", t.Name), attribute.String("outcome", string(o))))
			}
		}
	}
}

// watch looks for the newest proofs, again and again.
func (m *metrics) watch(ctx context.Context, load func() (*config.Config, error)) {
	tick := time.NewTicker(proofsEvery)
	defer tick.Stop()
	for {
		if err := m.look(ctx, load); err != nil && ctx.Err() == nil {
			m.log.Warn("could not see how old the newest proofs are", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look asks the store for the newest proof of every target. What it does not answer stays as it was
// known: its age goes on growing.
func (m *metrics) look(ctx context.Context, load func() (*config.Config, error)) error {
	ctx, cancel := context.WithTimeout(ctx, proofsEvery)
	defer cancel()
	c, err := load()
	if err != nil {
		return err
	}
	targets := c.Databases()
	m.announce(targets)
	store, err := objstore.Open(ctx, c.Store)
	if err != nil {
		return err
	}
	var all error
	found := make(map[string]time.Time)
	for _, t := range targets {
		taken, err := catalog.NewestProven(ctx, store, t.Name)
		all = errors.Join(all, err)
		if err == nil {
			found[t.Name] = taken
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := make(map[string]time.Time)
	for _, t := range targets {
		taken, ok := found[t.Name]
		if !ok {
			taken, ok = m.newest[t.Name]
		}
		if ok {
			newest[t.Name] = taken
		}
	}
	m.newest = newest
	return errors.Join(all, store.Close())
}
