package health

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// probeWithin bounds one probe.
	probeWithin = 10 * time.Second
	// maxBody is how much of an answer is looked at, in bytes.
	maxBody = 1 << 20
)

// Probe is one request that only a working service answers rightly.
type Probe struct {
	Name     string `json:"name"`
	Service  string `json:"service"`
	Port     int    `json:"port"` // of the Service
	Path     string `json:"path"`
	Scheme   string `json:"scheme,omitempty"`   // http or https; http when empty
	Status   int    `json:"status,omitempty"`   // that is right; any of 200 to 299 when 0
	Contains string `json:"contains,omitempty"` // that the answer must have in its first MiB
}

// Answer is what came of a probe. Nothing of the service's own words is in it.
type Answer struct {
	Probe     string      `json:"probe"`
	Verdict   run.Verdict `json:"verdict"`
	Detail    string      `json:"detail"`
	Workloads []string    `json:"workloads,omitempty"` // behind the probe's Service, as Workload.String says them
}

// Ask sends the probe. An error is one that no answer can be got around, such as a cancelled context.
func (p Probe) Ask(ctx context.Context, c *kube.Cluster) (Answer, error) {
	a := Answer{Probe: p.Name, Verdict: run.Fail}
	within, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	address := &url.URL{Scheme: cmp.Or(p.Scheme, "http"), Host: net.JoinHostPort(p.Service, strconv.Itoa(p.Port)), Path: "/"}
	if at, err := url.Parse(p.Path); err == nil {
		address.Path, address.RawPath, address.RawQuery = at.Path, at.RawPath, at.RawQuery
	}
	request, err := http.NewRequestWithContext(within, http.MethodGet, address.String(), nil)
	if err != nil {
		return a, failure.New(failure.BadConfig, "probe %s cannot be sent", p.Name).Because(err).Do("correct kubernetes.probes in upkeep.yaml and start a new run")
	}
	var dialled error
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := c.Dial(ctx, kube.Endpoint{Service: p.Service, Port: p.Port})
			dialled = err
			return conn, err
		},
		// Services in a cluster have certificates for other names, if any. Nothing secret is sent, and whoever
		// could answer in the service's place would be inside the cluster already.
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		MaxResponseHeaderBytes: 64 << 10,
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if ctx.Err() != nil {
		return a, kube.Classify(ctx.Err(), "send probe "+p.Name)
	}
	if err != nil {
		return p.unanswered(a, err, dialled, within.Err() != nil)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	switch {
	case p.Status != 0 && response.StatusCode != p.Status:
		a.Detail = fmt.Sprintf("answered %d, not %d", response.StatusCode, p.Status)
	case p.Status == 0 && response.StatusCode/100 != 2:
		a.Detail = fmt.Sprintf("answered %d", response.StatusCode)
	case err != nil:
		a.Detail = "broke off in the middle of its answer"
	case p.Contains != "" && !strings.Contains(string(body), p.Contains):
		a.Detail = fmt.Sprintf("answered %d without %q", response.StatusCode, p.Contains)
	default:
		a.Verdict, a.Detail = run.Pass, fmt.Sprintf("answered %d", response.StatusCode)
	}
	return a, nil
}

// unanswered says what it means that no answer came: a service that is down fails, what kept the probe from
// being sent proves nothing.
func (p Probe) unanswered(a Answer, err, dialled error, late bool) (Answer, error) {
	f, known := failure.As(dialled)
	switch {
	case known && f.Code == failure.BadConfig:
		return a, dialled
	case known && (f.Code == failure.ServerUnreachable || f.Code == failure.MissingObject):
		a.Detail = clip(f.What)
	case known:
		a.Verdict, a.Detail = run.NotProven, clip("could not be sent: "+f.Error())
	case late:
		a.Detail = fmt.Sprintf("no answer within %s", probeWithin)
	default:
		a.Detail = clip("no answer: " + err.Error())
	}
	return a, nil
}
