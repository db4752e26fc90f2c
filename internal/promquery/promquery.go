// Package promquery asks a Prometheus for the value of a query now. Time and size are bounded, and it
// follows no redirect.
package promquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	within    = 15 * time.Second
	maxReply  = 4 << 20 // bytes
	maxValues = 10_000
)

// Dial opens a connection to Prometheus, wherever it is.
type Dial func(context.Context) (net.Conn, error)

// Instant returns the values that a query has now: those of a vector, or a scalar's one. None is no error:
// there may be no such series. A query that Prometheus does not take is a BadInput; a Prometheus that
// cannot be asked is ServerUnreachable.
func Instant(ctx context.Context, dial Dial, query string) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	client, err := api.NewClient(api.Config{Address: "http://prometheus", Client: &http.Client{
		Transport:     bounded{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	if err != nil {
		return nil, fmt.Errorf("make a client of Prometheus: %w", err)
	}
	value, _, err := promv1.NewAPI(client).Query(ctx, query, time.Time{}, promv1.WithTimeout(within))
	if err != nil {
		return nil, classify(err)
	}
	switch v := value.(type) {
	case *model.Scalar:
		return []float64{float64(v.Value)}, nil
	case model.Vector:
		if len(v) > maxValues {
			return nil, failure.New(failure.BadInput, "the query has %d values, more than %d", len(v), maxValues).Do("aggregate it, for example with sum or max")
		}
		values := make([]float64, 0, len(v))
		for _, sample := range v {
			if sample.Histogram != nil {
				return nil, failure.New(failure.BadInput, "the query gives histograms").Do("make numbers of them, for example with histogram_quantile")
			}
			values = append(values, float64(sample.Value))
		}
		return values, nil
	}
	return nil, failure.New(failure.BadInput, "the query gives a %s and no values of one moment", value.Type()).Do("write a query of an instant vector or a scalar")
}

func classify(err error) error {
	var refused *promv1.Error
	if errors.As(err, &refused) && (refused.Type == promv1.ErrBadData || refused.Type == promv1.ErrExec) {
		return failure.New(failure.BadInput, "Prometheus does not take the query").Because(err).Do("try it in Prometheus' own page")
	}
	if f, ok := failure.As(err); ok {
		return f
	}
	return failure.New(failure.ServerUnreachable, "Prometheus does not answer").Because(err).Do("see that it is up and that the worker reaches it")
}

// bounded cuts replies off that are too large.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	reply, err := b.next.RoundTrip(r)
	if err == nil {
		reply.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(reply.Body, maxReply), reply.Body}
	}
	return reply, err
}
