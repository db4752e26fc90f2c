//go:build e2e

// Package helm tests the engine for Helm releases on a real cluster: upgrades, rollbacks, and what is
// killed, frozen or broken in the middle of one. It needs the cluster of KUBECONFIG, helm and kubectl,
// and the build tag "fault" beside "e2e"; dev/e2e.sh runs it.
package helm

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
)

// namespace has a name of its own in every run.
var namespace = fmt.Sprintf("upkeep-helm-%d", time.Now().UnixMilli())

func TestMain(m *testing.M) {
	if task := os.Getenv("HELM_TASK"); task != "" {
		os.Exit(child(task))
	}
	if os.Getenv("KUBECONFIG") == "" {
		log.Fatal("no cluster: KUBECONFIG is not set; \"make e2e\" brings one up")
	}
	if _, err := command("kubectl", "create", "namespace", namespace); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	if code != 0 {
		out, _ := command("kubectl", "--namespace", namespace, "get", "pods,jobs,leases", "-o", "wide")
		log.Print(out)
	}
	if _, err := command("kubectl", "delete", "namespace", namespace, "--wait=true"); err != nil && code == 0 {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

func command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command("kubectl", append([]string{"--namespace", namespace}, args...)...)
	require.NoError(t, err)
	return out
}

func config() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
}

// rig is one release of the chart, installed, and a watch of its Jobs.
type rig struct {
	name    string
	chart   string
	release *helmrelease.Release
	set     kubernetes.Interface

	mu   sync.Mutex
	jobs map[string]*batchv1.Job // as they were last seen, by UID
}

func install(t *testing.T, name string, set ...string) *rig {
	t.Helper()
	chart, err := command("realpath", "chart")
	require.NoError(t, err)
	r := &rig{name: name, chart: chart, jobs: make(map[string]*batchv1.Job)}
	args := []string{"install", name, chart, "--namespace", namespace, "--wait", "--timeout", "2m"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	_, err = command("helm", args...)
	require.NoError(t, err)
	c, err := config()
	require.NoError(t, err)
	r.release, err = helmrelease.Open(c, namespace, name)
	require.NoError(t, err)
	r.set, err = kubernetes.NewForConfig(c)
	require.NoError(t, err)
	watch, err := r.set.BatchV1().Jobs(namespace).Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	go func() {
		for event := range watch.ResultChan() {
			if job, ok := event.Object.(*batchv1.Job); ok && strings.HasPrefix(job.Name, name+"-") {
				r.mu.Lock()
				r.jobs[string(job.UID)] = job
				r.mu.Unlock()
			}
		}
	}()
	t.Cleanup(watch.Stop)
	return r
}

// seen are the Jobs of a name that there were, as they were last seen.
func (r *rig) seen(name string) (jobs []*batchv1.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, job := range r.jobs {
		if job.Name == r.name+"-"+name {
			jobs = append(jobs, job)
		}
	}
	return jobs
}

func (r *rig) request(values map[string]any) helmrelease.UpgradeRequest {
	return helmrelease.UpgradeRequest{Chart: helmrelease.Chart{Path: r.chart}, Values: values}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// task is what a child process does; it goes through JSON, as a plan does on its way to be approved.
type task struct {
	Release   string
	Plan      helmrelease.Plan
	Request   helmrelease.UpgradeRequest
	Operation string
	Attempt   string
}

func (r *rig) upgrade(t *testing.T, operation string, values map[string]any) task {
	t.Helper()
	plan, err := r.release.PlanUpgrade(deadline(t), r.request(values))
	require.NoError(t, err)
	return task{Release: r.name, Plan: plan, Request: r.request(values), Operation: operation, Attempt: "test"}
}

func (r *rig) rollback(t *testing.T, operation string, to int) task {
	t.Helper()
	plan, err := r.release.PlanRollback(deadline(t), to)
	require.NoError(t, err)
	return task{Release: r.name, Plan: plan, Operation: operation, Attempt: "test"}
}

func (w task) do(ctx context.Context, release *helmrelease.Release, beat func(string)) (helmrelease.Applied, error) {
	order := helmrelease.Order{Plan: w.Plan, Operation: w.Operation, Attempt: w.Attempt, Ready: 20 * time.Second, Beat: beat}
	if w.Plan.Kind == helmrelease.KindRollback {
		return release.Rollback(ctx, order)
	}
	return release.Upgrade(ctx, helmrelease.UpgradeOrder{Order: order, Request: w.Request})
}

// child does a task in a process of its own, and prints how it failed, if it did.
func child(raw string) int {
	var w task
	if err := json.Unmarshal([]byte(raw), &w); err != nil {
		log.Fatal(err)
	}
	c, err := config()
	if err != nil {
		log.Fatal(err)
	}
	release, err := helmrelease.Open(c, os.Getenv("HELM_NAMESPACE"), w.Release)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if _, err := w.do(ctx, release, nil); err != nil {
		f, _ := failure.As(err)
		if f != nil {
			fmt.Print(f.Code)
		}
		log.Print(err)
		return 1
	}
	return 0
}

// start does the task in a child that is armed.
func (w task) start(t *testing.T, armed string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	raw, err := json.Marshal(w)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "HELM_TASK="+string(raw), "HELM_NAMESPACE="+namespace, "UPKEEP_FAULT="+armed)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	require.NoError(t, cmd.Start())
	return cmd, &out
}

func (r *rig) history(t *testing.T) []helmrelease.Revision {
	t.Helper()
	revisions, err := r.release.History(deadline(t))
	require.NoError(t, err)
	return revisions
}

func (r *rig) setting(t *testing.T, key string) string {
	t.Helper()
	return kubectl(t, "get", "configmap", r.name+"-settings", "-o", "jsonpath={.data."+key+"}")
}

// requireFree says that nothing keeps the release locked, by letting Helm itself upgrade it.
func (r *rig) requireFree(t *testing.T) {
	t.Helper()
	_, err := command("helm", "upgrade", r.name, r.chart, "--namespace", namespace, "--reset-then-reuse-values", "--wait", "--timeout", "1m")
	require.NoError(t, err)
	require.Empty(t, r.history(t)[0].Operation, "what Helm made by itself is not ours")
}
