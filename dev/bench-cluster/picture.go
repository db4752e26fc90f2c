package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/dev/internal/stack"
)

// picture is how a place is, as far as a way should leave it as it found it.
type picture struct {
	deployments map[string]int32 // replicas that are wanted
	template    string           // hash of what the service's pods are made of
	status      string           // of the release's newest revision
	manifest    string           // its hash
	tables      string           // rows and hash of each
	databases   []string         // that are none of the stack's
	unready     int              // pods
}

const service = stack.Release + "-langfuse"

// look takes a picture.
func (p *place) look() (s picture, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	deployments, err := p.cluster.Client.AppsV1().Deployments(p.cluster.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, err
	}
	s.deployments = make(map[string]int32)
	for _, d := range deployments.Items {
		s.deployments[d.Name] = *d.Spec.Replicas // the API server fills it in
		if d.Name == service {
			s.template = templateOf(&d)
		}
	}
	pods, err := p.cluster.Client.CoreV1().Pods(p.cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=langfuse"})
	if err != nil {
		return s, err
	}
	for _, pod := range pods.Items {
		ready := false
		for _, c := range pod.Status.Conditions {
			ready = ready || c.Type == "Ready" && c.Status == "True"
		}
		if !ready && pod.DeletionTimestamp == nil {
			s.unready++
		}
	}
	out, err := p.Helm("status", stack.Release, "-o", "json")
	if err != nil {
		return s, err
	}
	var release struct {
		Info     struct{ Status string }
		Manifest string
	}
	if err := json.Unmarshal([]byte(out), &release); err != nil {
		return s, err
	}
	s.status, s.manifest = release.Info.Status, hash(release.Manifest)
	const of = "SELECT '%s', count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %s t"
	s.tables, err = p.Psql("langfuse", fmt.Sprintf(of+" UNION ALL "+of, "traces", "traces", "schema_version", "schema_version"))
	if err != nil {
		s.tables = "cannot be read"
	}
	names, err := p.Psql("postgres", "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'langfuse', '"+master+"') ORDER BY 1")
	s.databases = strings.Fields(names)
	return s, err
}

// differences say what is not as it was. A database that is kept beside is no fault, and said by kept.
func (s picture) differences(before picture) (all []string) {
	for name, n := range before.deployments {
		if now, ok := s.deployments[name]; !ok || now != n {
			all = append(all, fmt.Sprintf("%s has %d replicas, and had %d", name, now, n))
		}
	}
	if s.template != before.template {
		all = append(all, "the service's pods are made of something else")
	}
	if s.status != before.status {
		all = append(all, "the release is "+s.status)
	}
	if s.manifest != before.manifest {
		all = append(all, "the release's newest revision is the bad one")
	}
	if s.tables != before.tables {
		is, was := rows(s.tables), rows(before.tables)
		for _, table := range []string{"traces", "schema_version"} {
			switch {
			case is[table] == was[table]:
			case strings.Fields(is[table] + " 0")[0] == strings.Fields(was[table] + " 0")[0]:
				all = append(all, "table "+table+" has as many rows, and others")
			default:
				all = append(all, fmt.Sprintf("table %s has %s rows, and had %s", table, count(is[table]), count(was[table])))
			}
		}
	}
	if s.unready > 0 {
		all = append(all, fmt.Sprintf("%d pods of the service are not ready", s.unready))
	}
	return all
}

// rows are count and hash of each table.
func rows(tables string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(tables) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), "|"); ok {
			all[name] = strings.ReplaceAll(rest, "|", " ")
		}
	}
	return all
}

func count(table string) string {
	n, _, _ := strings.Cut(table, " ")
	if n == "" {
		return "no readable"
	}
	return n
}

func templateOf(d *appsv1.Deployment) string {
	t := d.Spec.Template.DeepCopy()
	t.Annotations = nil // a rollout restart leaves one
	raw, _ := json.Marshal(t)
	return hash(string(raw))
}

func hash(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// watch sees since when the service's Deployment has been whole, and made of what it was.
type watch struct {
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	whole time.Time // since when; zero while it is not
}

func (p *place) watch() *watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			d, err := p.cluster.Client.AppsV1().Deployments(p.cluster.Namespace).Get(ctx, service, metav1.GetOptions{})
			if err == nil {
				w.note(p.before.template == templateOf(d) && p.before.deployments[service] == *d.Spec.Replicas && settled(d))
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

// changes waits until the service's pods are to be made of something else.
func (p *place) changes(ctx context.Context) error {
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		d, err := p.cluster.Client.AppsV1().Deployments(p.cluster.Namespace).Get(ctx, service, metav1.GetOptions{})
		if err == nil && templateOf(d) != p.before.template {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (w *watch) note(whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !whole:
		w.whole = time.Time{}
	case w.whole.IsZero():
		w.whole = time.Now()
	}
}

func (w *watch) since() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.whole
}

func settled(d *appsv1.Deployment) bool {
	s, n := d.Status, *d.Spec.Replicas
	return s.ObservedGeneration >= d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.ReadyReplicas == n
}
