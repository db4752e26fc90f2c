// Command bench-incident measures the containment of an incident on a real cluster: how long it takes from the start
// of the run until the API server has taken policies and labels, beside other ways to do that; how long after that a
// connection is still answered; and how long the evidence takes, and how much memory. The many pods are objects on a
// hollow node, since one machine does not hold 500; the one that is really cut off is real.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8s "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/measure"
	"github.com/upkeep-run/upkeep/dev/internal/product"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/kube"
	"github.com/upkeep-run/upkeep/starter"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "runs", 5, "how often everything is measured; the responder with most pods once")
	flag.StringVar(&o.worker, "worker", "../bin/upkeep-worker", "the worker to measure")
	flag.StringVar(&o.out, "out", "", "the Markdown file to write; standard output when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-incident:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds      int
	worker, out string
}

const (
	// logSize is how much each pod has written, in bytes.
	logSize = 64 << 10
	target  = "crime"
)

// field is what is measured on.
type field struct {
	config    *rest.Config
	client    k8s.Interface
	namespace string
	hollow    *hollow
	upkeep    *product.Upkeep
	empty     *empty
}

func bench(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "upkeep-bench-incident-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := &field{namespace: fmt.Sprintf("upkeep-bench-incident-%d", time.Now().Unix())}
	cluster, err := kube.Connect(ctx, kube.Options{Namespace: f.namespace})
	if err != nil {
		return err
	}
	f.config, f.client = cluster.Config, cluster.Client
	here := stack.Namespace(f.namespace)
	if err := here.Create(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, here.Remove()) }()
	if err := makeAccount(ctx, f.client, f.namespace); err != nil {
		return err
	}
	if f.hollow, err = newHollow(ctx, f.config, logOf(logSize)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, clear(context.Background(), f.client, f.namespace), f.hollow.remove())
	}()
	f.upkeep, err = product.Start(ctx, product.Options{Dir: dir, Worker: o.worker, Targets: fmt.Sprintf(
		"  - name: %s\n    kubernetes: {namespace: %s, incidents: {pods: 1000, podsPerHour: 100000}}\n", target, f.namespace)})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // which the folder is about to take with it
			log, _ := os.ReadFile(filepath.Join(dir, "worker.log"))
			fmt.Fprintf(os.Stderr, "the worker's log ends with:\n%s\n", log[max(0, len(log)-4000):])
		}
		err = errors.Join(err, f.upkeep.Stop())
	}()
	if f.empty, err = newEmpty(f.upkeep.Starter.Client); err != nil {
		return err
	}
	defer f.empty.worker.Stop()
	r := &results{began: time.Now(), rounds: o.rounds}
	version, err := f.client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	r.kubernetes = "Kubernetes " + version.GitVersion
	if err := f.contained(ctx, r); err != nil {
		return err
	}
	if err := f.blocked(ctx, r); err != nil {
		return err
	}
	if err := f.kept(ctx, r); err != nil {
		return err
	}
	return measure.Write(o.out, r.write)
}

// start starts a case of all pods of the account, and waits until it asks what is to become of them. Its run is then
// given up: they stay in quarantine, and are removed.
func (f *field) start(ctx context.Context, name string) (*run.Document, error) {
	id, err := f.upkeep.Starter.Start(ctx, starter.Order{Procedure: api.WorkflowType, Target: target, Set: map[string]string{
		"reason": "it is measured", "event": name, "serviceAccount": account,
	}})
	if err != nil {
		return nil, err
	}
	var doc *run.Document
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if doc, err = f.upkeep.Starter.Show(ctx, id); err != nil {
			return nil, err
		}
		if doc.AsksApproval() {
			return doc, f.upkeep.Starter.Client.CancelWorkflow(ctx, id, "")
		}
		if doc.Outcome.Ended() || doc.Outcome == run.Waiting {
			return nil, fmt.Errorf("the case: %s: %s %s", doc.Outcome, doc.Summary, doc.WaitingFor)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// contained measures until policies and labels are taken.
func (f *field) contained(ctx context.Context, r *results) error {
	for _, n := range []int{1, 50, 500} {
		s := &size{pods: n}
		r.sizes = append(r.sizes, s)
		for round := range r.rounds {
			measure.Say("%d pods, round %d of %d", n, round+1, r.rounds)
			if err := f.hollow.pods(ctx, f.namespace, n); err != nil {
				return err
			}
			doc, err := f.start(ctx, fmt.Sprintf("contain-%d-%d", n, round))
			if err != nil {
				return err
			}
			whole, err := upTo(ctx, f.upkeep.Starter.Client, doc.RunID, kubernetes.Contain)
			if err != nil {
				return err
			}
			nothing, err := f.empty.run(ctx, whole.steps)
			if err != nil {
				return err
			}
			s.steps = whole.steps
			s.upkeep, s.empty = append(s.upkeep, whole.took().Seconds()), append(s.empty, nothing.Seconds())
			s.above = append(s.above, (whole.took() - nothing).Seconds())
			others := []struct {
				into *[]float64
				do   func() error
				slow bool
			}{
				{&s.responder, func() error { return responder(ctx, f.config, f.namespace) }, n > 50},
				{&s.typed, func() error { return typed(f.namespace) }, false},
			}
			for _, other := range others {
				if other.slow && round > 0 {
					continue
				}
				if err := errors.Join(clear(ctx, f.client, f.namespace), f.hollow.pods(ctx, f.namespace, n)); err != nil {
					return err
				}
				began := time.Now()
				if err := other.do(); err != nil {
					return err
				}
				*other.into = append(*other.into, time.Since(began).Seconds())
			}
			if err := clear(ctx, f.client, f.namespace); err != nil {
				return err
			}
		}
	}
	return nil
}

// pods of the real cut: one serves, the other asks it without a pause, and its log has the time of each answer.
const pods = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "served", "labels": {"app": "served"}}, "spec": {"serviceAccountName": "suspect", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
    {"name": "main", "image": "upkeep.test/busybox:dev", "imagePullPolicy": "Never", "command": ["sh", "-c", "mkdir /tmp/www; echo open > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"]}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}, "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
    {"name": "main", "image": "upkeep.test/busybox:dev", "imagePullPolicy": "Never", "command": ["sh", "-c", "while [ ! -e /tmp/url ]; do usleep 10000; done; while :; do timeout 1 wget -qO- $(cat /tmp/url) || echo shut; usleep 10000; done"]}]}}
]}`

// blocked measures when the last connection was answered, seen from another pod, after the policies were taken.
func (f *field) blocked(ctx context.Context, r *results) error {
	here := stack.Namespace(f.namespace)
	for round := range r.rounds {
		measure.Say("a real pod, round %d of %d", round+1, r.rounds)
		if err := here.Apply(pods); err != nil {
			return err
		}
		if _, err := here.Kubectl("wait", "--for=condition=Ready", "pod/served", "pod/asks", "--timeout=80s"); err != nil {
			return err
		}
		served, err := f.client.CoreV1().Pods(f.namespace).Get(ctx, "served", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, err := here.Kubectl("exec", "asks", "--", "sh", "-c", "echo http://"+served.Status.PodIP+":8080/index.html > /tmp/url.new && mv /tmp/url.new /tmp/url"); err != nil {
			return err
		}
		answers := func() (last time.Time, shut int, err error) {
			log, err := here.Kubectl("logs", "--timestamps", "asks")
			for line := range strings.Lines(log) {
				at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
				switch what {
				case "open":
					last, err = time.Parse(time.RFC3339Nano, at)
					shut = 0
				case "shut":
					shut++
				}
			}
			return last, shut, err
		}
		err = stack.Until(time.Minute, func() error {
			last, _, err := answers()
			if err == nil && last.IsZero() {
				err = errors.New("the pod was never answered")
			}
			return err
		})
		if err != nil {
			return err
		}
		doc, err := f.start(ctx, fmt.Sprintf("blocked-%d", round))
		if err != nil {
			return err
		}
		whole, err := upTo(ctx, f.upkeep.Starter.Client, doc.RunID, kubernetes.Contain)
		if err != nil {
			return err
		}
		var last time.Time
		err = stack.Until(time.Minute, func() error {
			at, shut, err := answers()
			if last = at; err == nil && shut < 3 {
				err = errors.New("the pod is still answered")
			}
			return err
		})
		if err != nil {
			return err
		}
		r.blocked = append(r.blocked, max(0, last.Sub(whole.ended).Seconds()))
		if err := clear(ctx, f.client, f.namespace); err != nil {
			return err
		}
	}
	return nil
}

// kept measures the evidence of most pods.
func (f *field) kept(ctx context.Context, r *results) error {
	const n = 500
	for round := range r.rounds {
		measure.Say("evidence of %d pods, round %d of %d", n, round+1, r.rounds)
		if err := f.upkeep.Replace(); err != nil { // so that its memory is this case's
			return err
		}
		if err := f.hollow.pods(ctx, f.namespace, n); err != nil {
			return err
		}
		took, err := dumped(f.namespace)
		if err != nil {
			return err
		}
		r.dumped = append(r.dumped, n/took.Seconds())
		doc, err := f.start(ctx, fmt.Sprintf("evidence-%d", round))
		if err != nil {
			return err
		}
		step := slices.IndexFunc(doc.Steps, func(s run.Step) bool { return s.Name == "Keep the evidence" })
		if step < 0 {
			return errors.New("the case has no step that keeps the evidence")
		}
		r.kept, r.items = append(r.kept, n/doc.Steps[step].Seconds), doc.Steps[step].Detail
		memory, err := f.upkeep.Memory()
		if err != nil {
			return err
		}
		r.memory = append(r.memory, float64(memory)/(1<<20))
		if err := clear(ctx, f.client, f.namespace); err != nil {
			return err
		}
	}
	return nil
}
