// Package prober is a standing prober: a pod of Upkeep's own that tries, all the time, the TCP ports that the pods of
// its namespace declare, and knows when each answered last. So of a pod that is cut off later it is known that
// something listens there.
//
// It sends nothing over the connections that it opens, may do nothing but list and watch the pods of its namespace, and
// listens on its pod's loopback alone, where nobody comes but by a port that the API server forwards.
package prober

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/upkeep-run/upkeep/internal/netprobe"
	"github.com/upkeep-run/upkeep/internal/ownpod"
)

const (
	// Every is how often each port is tried.
	Every = 5 * time.Second
	// Listen is where it answers, in its pod.
	Listen = 8092
	// atOnce bounds the connections that are tried at once.
	atOnce = 32
)

// Options say what a prober tries, and how.
type Options struct {
	// Pods are those of the namespace now; an error: they are not known.
	Pods func() ([]*corev1.Pod, error)
	// Self is the name of its own pod, which it does not try.
	Self string
	// Every is how often each port is tried.
	Every time.Duration
	// Connect is netprobe.Connect.
	Connect func(context.Context, netip.AddrPort) netprobe.Outcome
}

// Prober tries ports, and answers what it knows of them.
type Prober struct {
	Options
	began time.Time

	lock  sync.Mutex
	ports map[port]*Port
	over  int
	err   error // why the pods are not known
}

// port is one that is tried. A container that begins anew may listen no more, so that what was known of it is over.
type port struct {
	pod       types.UID
	container string // its id
	to        netip.AddrPort
}

// New makes a prober that knows nothing yet.
func New(o Options) *Prober {
	return &Prober{Options: o, began: time.Now(), ports: map[port]*Port{}}
}

// Run tries the ports until the context ends. A round that takes longer than Every is followed by the next at once.
func (p *Prober) Run(ctx context.Context) {
	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	for {
		p.round(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round tries each port once.
func (p *Prober) round(ctx context.Context) {
	pods, err := p.Pods()
	var all []port
	if err == nil {
		all = ports(pods, p.Self)
	}
	p.lock.Lock()
	if p.err = err; err == nil {
		p.over = max(0, len(all)-MaxPorts)
		all = all[:min(len(all), MaxPorts)]
		kept := make(map[port]*Port, len(all))
		for _, to := range all {
			kept[to] = cmp.Or(p.ports[to], &Port{Pod: to.pod, To: to.to})
		}
		p.ports = kept
	}
	p.lock.Unlock()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, to := range all {
		group.Go(func() error {
			p.try(ctx, to)
			return nil
		})
	}
	_ = group.Wait() // nothing in it returns an error
}

func (p *Prober) try(ctx context.Context, to port) {
	at := p.now()
	outcome := p.Connect(ctx, to.to)
	if ctx.Err() != nil {
		return // it was broken off
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	known := p.ports[to]
	known.Tried, known.Outcome = at, netprobe.Write([]netprobe.Outcome{outcome})
	if known.Reached() {
		known.Answered, known.Silent = at, 0
	} else {
		known.Silent++
	}
}

// now is the time of answers.
func (p *Prober) now() int64 { return 1 + time.Since(p.began).Milliseconds() }

// ports are those to try: what the containers that run declare, in an order of their own.
func ports(pods []*corev1.Pod, self string) (all []port) {
	for _, pod := range pods {
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil || pod.Status.Phase != corev1.PodRunning || pod.Spec.HostNetwork || ownpod.Is(pod) || pod.Name == self {
			continue
		}
		for _, c := range pod.Spec.Containers {
			i := slices.IndexFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
			if i < 0 || pod.Status.ContainerStatuses[i].State.Running == nil {
				continue
			}
			for _, declared := range c.Ports {
				if n := declared.ContainerPort; n > 0 && n < 1<<16 && cmp.Or(declared.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
					all = append(all, port{pod.UID, pod.Status.ContainerStatuses[i].ContainerID, netip.AddrPortFrom(ip, uint16(n))})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b port) int { return cmp.Or(a.to.Compare(b.to), cmp.Compare(a.pod, b.pod)) })
	return slices.CompactFunc(all, func(a, b port) bool { return a.to == b.to && a.pod == b.pod }) // declared twice
}

// Answer is what it knows now; an error: it does not know the pods.
func (p *Prober) Answer() (Answer, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.err != nil {
		return Answer{}, p.err
	}
	a := Answer{At: p.now(), Ports: []Port{}, Over: p.over}
	for _, known := range p.ports {
		if known.Tried > 0 {
			a.Ports = append(a.Ports, *known)
		}
	}
	slices.SortFunc(a.Ports, func(a, b Port) int { return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Pod, b.Pod)) })
	return a, nil
}

// ServeHTTP answers what it knows.
func (p *Prober) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	a, err := p.Answer()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // who asks sees that it is not whole
}
