//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/config"
)

const upkeepChart = "../../../deploy/charts/upkeep"

// workers are what serves a stack: a process on this machine, or pods.
type workers interface {
	Kill()
	Stop()
	Continue()
	Frozen() bool
	Done() <-chan struct{}
}

// allInPods says that every test's workers are to be pods: WORKERS=pods.
var allInPods = os.Getenv("WORKERS") == "pods"

// beside skips a test whose workers have to be processes beside it, where they are to be pods, and says why.
func beside(t *testing.T, why string) {
	t.Helper()
	if allInPods {
		t.Skip("its workers are beside it: " + why)
	}
}

// Why some tests have no workers in pods.
const (
	wakesTwin   = "it wakes one that is frozen, and follows what it does then"
	configures  = "it changes their configuration while they work, and pods see that a minute later"
	ownAccounts = "it gives them accounts of its own"

	breaksCluster = "it breaks the API server, the way to it or the kubelet"
)

// imageTag is that of Upkeep's image on the nodes; the one whose workers can be told where to break has another.
func imageTag() string { return cmp.Or(os.Getenv("UPKEEP_E2E_TAG"), "e2e") }

// serve starts workers for a stack, which take the place of those that were killed; env may say at which
// point they are killed or freeze.
func serve(t *testing.T, s *harness.Stack, name string, env ...string) workers {
	t.Helper()
	if allInPods {
		return serveInPods(t, s, env...)
	}
	return s.Worker(t, name, append([]string{"KUBECONFIG=" + os.Getenv("KUBECONFIG")}, env...)...)
}

// home is the namespace that pods of workers are in, which the tests make when one is the first to need it.
var (
	home     = namespace + "-upkeep"
	makeHome = sync.OnceValue(func() error {
		objects := fmt.Sprintf(homeObjects, home)
		if _, err := command(time.Minute, objects, "kubectl", "apply", "-f", "-"); err != nil {
			return err
		}
		return giveCharts()
	})
	// charts is a folder of packed charts, which the workers' pods find in /charts.
	charts = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "upkeep-charts-") })
)

// shelf has what tests side by side share.
var shelf struct {
	sync.Mutex
	packed map[string]string // a chart's folder on this machine, by where the pods have it
	crews  map[*harness.Stack]*crew
	number int // of crews that there were
}

const homeObjects = `
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %[1]q, "labels": {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}},
  {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "upkeep-store", "namespace": %[1]q},
   "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}}}
]}`

// letIn is the policy by which a stack lets Upkeep's pods in.
const letIn = `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "upkeep", "namespace": %[1]q},
 "spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "lang-observatory"}},
  "ingress": [{"ports": [{"port": 5432}, {"port": 3000}, {"port": 9090}], "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": %[2]q}},
   "podSelector": {"matchLabels": {"app.kubernetes.io/name": "upkeep"}}}]}]}}`

// crew is Upkeep's chart, installed for one stack.
type crew struct {
	t       testing.TB
	name    string // the release's
	stack   *harness.Stack
	address string             // Temporal's, as the pods know it
	rights  []string           // arguments of "upkeep rbac"
	printed map[string]granted // what it has printed, by them
	armed   int                // how often workers were told to break; each has a mark of its own in the store's volume
	last    *inPods
}

// crewOf is what serves a stack in pods, or nil.
func crewOf(s *harness.Stack) *crew {
	shelf.Lock()
	defer shelf.Unlock()
	return shelf.crews[s]
}

// serveInPods is serve with workers in pods, which have the rights that "upkeep rbac" prints.
func serveInPods(t testing.TB, s *harness.Stack, env ...string) workers {
	t.Helper()
	return serveAs(t, s, nil, env...)
}

// serveAs is serveInPods with those rights alone that "upkeep rbac" prints with more arguments.
func serveAs(t testing.TB, s *harness.Stack, rights []string, env ...string) workers {
	t.Helper()
	c := crewFor(t, s)
	c.rights = rights
	return c.serve(env)
}

// crewFor is the crew of a stack, which has yet to be installed if there was none.
func crewFor(t testing.TB, s *harness.Stack) *crew {
	t.Helper()
	c := crewOf(s)
	if c == nil {
		require.NoError(t, makeHome())
		c = &crew{t: t, stack: s, address: forward(t, s.Temporal.Address), printed: map[string]granted{}}
		shelf.Lock()
		shelf.number++
		c.name = fmt.Sprintf("upkeep-%d", shelf.number)
		if shelf.crews == nil {
			shelf.crews = map[*harness.Stack]*crew{}
		}
		shelf.crews[s] = c
		shelf.Unlock()
		t.Cleanup(func() {
			shelf.Lock()
			delete(shelf.crews, s)
			shelf.Unlock()
			if t.Failed() {
				logs, _ := upkeep("logs", "--selector", c.pods(), "--tail=30", "--prefix")
				t.Log(logs)
			}
			c.remove()
			_, err := command(2*time.Minute, "", "helm", "--namespace", home, "uninstall", c.name, "--wait", "--ignore-not-found")
			require.NoError(t, err)
		})
	}
	return c
}

// pods is the selector of the crew's.
func (c *crew) pods() string { return "app.kubernetes.io/instance=" + c.name }

// upkeep is kubectl in the workers' namespace.
func upkeep(args ...string) (string, error) {
	return command(90*time.Second, "", "kubectl", append([]string{"--namespace", home}, args...)...)
}

func (c *crew) serve(env []string) workers {
	c.t.Helper()
	w := &inPods{crew: c, done: make(chan struct{})}
	if c.last != nil && c.last.evicted != "" && c.last.replaces(env) {
		return c.last // another pod has taken the place of the one that was evicted
	}
	c.last = w
	var variables []map[string]string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "UPKEEP_FAULT":
			// What is to be killed is frozen there, and evicted then.
			w.dies = strings.Contains(value, ":kill")
			c.armed++
			variables = append(variables,
				map[string]string{"name": name, "value": strings.Replace(value, ":kill", ":stop", 1)},
				map[string]string{"name": "UPKEEP_FAULT_ONCE", "value": fmt.Sprintf("/var/lib/upkeep/%s.%d", filepath.Base(c.stack.Dir), c.armed)})
		case "UPKEEP_FAULT_ONCE": // has been said: the pod that takes over must not break again
		case "KUBECONFIG": // it has its own account
		default:
			require.Fail(c.t, "a worker in a pod gets no "+name)
		}
	}
	c.install(variables)
	if w.dies {
		go w.die(c.t.Context())
	}
	return w
}

// granted are values of the chart with rights.
type granted map[string]map[string][]any

// grants are the rights on the stack's targets, as they are printed when they are asked for first: a release that
// is locked, later, has none.
func (c *crew) grants(targets []config.Target) granted {
	c.t.Helper()
	key := strings.Join(c.rights, " ")
	if all := c.printed[key]; all != nil {
		return all
	}
	all := granted{"database": {"rules": {}}, "rbac": {}}
	for _, target := range targets {
		args := append([]string{"rbac", "--target", target.Name, "-o", "values"}, c.rights...)
		if target.Rollout != nil {
			args = append(args, "--chart", unpacked(target.Rollout.Chart.Path))
		}
		cmd, out, errOut := c.stack.Command(c.t, []string{"KUBECONFIG=" + os.Getenv("KUBECONFIG")}, args...)
		called := harness.Finish(c.t, cmd.Run(), cmd, out, errOut)
		require.Zero(c.t, called.Code, called.Err)
		var of granted
		require.NoError(c.t, yaml.Unmarshal([]byte(called.Out), &of), called.Out)
		for part, lists := range of {
			for name, list := range lists {
				all[part][name] = append(all[part][name], list...)
			}
		}
	}
	c.printed[key] = all
	return all
}

// read is the stack's configuration.
func (c *crew) read() (string, *config.Config) {
	c.t.Helper()
	text, err := os.ReadFile(c.stack.Config)
	require.NoError(c.t, err)
	parsed, err := config.Parse(c.stack.Config, text)
	require.NoError(c.t, err)
	return string(text), parsed
}

// install installs the chart, or upgrades it to what it is to be now, with workers at work.
func (c *crew) install(env []map[string]string) {
	c.t.Helper()
	text, parsed := c.read()
	type object = map[string]any
	for _, target := range parsed.Targets { // several tests' may be in one namespace, and apply it at once
		_, err := command(time.Minute, fmt.Sprintf(letIn, target.Kubernetes.Namespace, home), "kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-")
		require.NoError(c.t, err)
	}
	all := c.grants(parsed.Targets)
	values, err := json.Marshal(object{
		"image":     object{"repository": "upkeep", "tag": imageTag() + "-fault-server-code", "pullPolicy": "Never"},
		"temporal":  object{"address": c.address},
		"store":     object{"claim": "upkeep-store"},
		"config":    strings.Replace(text, "file://"+c.stack.Store, "file://"+c.store(), 1),
		"workflows": object{"replicas": 1},
		"database":  object{"env": env, "rules": all["database"]["rules"]},
		"cluster":   object{"env": env, "mounts": []object{{"path": "/charts", "configMap": "charts"}}},
		"rbac":      all["rbac"],
	})
	require.NoError(c.t, err)
	_, err = command(4*time.Minute, string(values), "helm", "--namespace", home, "upgrade", "--install", c.name, upkeepChart, "--wait", "--timeout", "2m", "--values", "-")
	require.NoError(c.t, err)
}

// store is the stack's store, in the pods.
func (c *crew) store() string { return "/var/lib/upkeep/" + filepath.Base(c.stack.Dir) }

// remove ends all pods at once, and makes no others.
func (c *crew) remove() {
	c.t.Helper()
	c.last = nil
	if deployments, err := upkeep("get", "deployments", "--selector", c.pods(), "-o", "name"); err == nil && deployments == "" {
		return // it could not be installed
	}
	_, err := upkeep("scale", "deployment", "--selector", c.pods(), "--replicas=0")
	require.NoError(c.t, err)
	pods, err := upkeep("get", "pods", "--selector", c.pods(), "-o", "jsonpath={.items[*].metadata.name}")
	require.NoError(c.t, err)
	for _, pod := range strings.Fields(pods) {
		require.NoError(c.t, evict(home, pod, 1))
	}
	_, err = upkeep("wait", "--for=delete", "pod", "--selector", c.pods(), "--timeout=60s")
	require.NoError(c.t, err)
}

// evict evicts a pod, as a node's drain does, and waits until it is gone.
func evict(namespace, pod string, grace int) error {
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q}, "deleteOptions": {"gracePeriodSeconds": %d}}`, pod, grace)
	err := until(30*time.Second, func() error { // its budget may be a moment behind
		_, err := command(time.Minute, eviction, "kubectl", "create", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+"/eviction", "-f", "-")
		if err != nil && strings.Contains(err.Error(), "NotFound") {
			return nil
		}
		return err
	})
	if err == nil {
		_, err = command(90*time.Second, "", "kubectl", "--namespace", namespace, "wait", "--for=delete", "pod/"+pod, "--timeout=80s")
	}
	return err
}

// inPods are the workers of a crew, as they were started with a fault, or without.
type inPods struct {
	*crew
	dies      bool
	continued bool
	evicted   string // the pod that was evicted at its point, when done
	done      chan struct{}
	once      sync.Once
}

func (w *inPods) Done() <-chan struct{} { return w.done }
func (w *inPods) Kill()                 { w.crew.remove(); w.ended() }
func (w *inPods) Stop()                 { w.Kill() }
func (w *inPods) Frozen() bool          { return !w.continued && w.frozen() != "" }
func (w *inPods) ended()                { w.once.Do(func() { close(w.done) }) }

// replaces reports whether workers without a fault are all that is asked for: those that came after an eviction
// have none left.
func (w *inPods) replaces(env []string) bool {
	return !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "UPKEEP_") })
}

// frozen is the pod whose worker is stopped at a point, by what its log says, or "".
func (w *inPods) frozen() string {
	logs, _ := upkeep("logs", "--selector", w.pods(), "--tail=-1", "--prefix") // a pod that has not started has none
	for line := range strings.Lines(logs) {
		if strings.Contains(line, "fault: frozen at ") {
			pod, _, _ := strings.Cut(strings.TrimPrefix(line, "[pod/"), "/")
			return pod
		}
	}
	return ""
}

// Continue wakes the worker that is frozen.
func (w *inPods) Continue() {
	w.t.Helper()
	pod := w.frozen()
	require.NotEmpty(w.t, pod)
	_, err := upkeep("exec", pod, "--", "busybox", "kill", "-CONT", "-1")
	require.NoError(w.t, err)
	w.continued = true
}

// die evicts the pod whose worker comes to its point; another takes its place.
func (w *inPods) die(ctx context.Context) {
	err := until(harness.Patience, func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-w.done:
			return nil
		default:
		}
		pod := w.frozen()
		if pod == "" {
			return errors.New("the point is not reached")
		}
		w.evicted = pod
		return evict(home, pod, 1)
	})
	if err != nil && ctx.Err() == nil {
		w.t.Error(err)
	}
	w.ended()
}

// chartFor is where the workers find a chart of this machine.
func chartFor(t *testing.T, pods bool, folder string) string {
	t.Helper()
	path, err := filepath.Abs(folder)
	require.NoError(t, err)
	if !pods {
		return path
	}
	require.NoError(t, makeHome())
	shelf.Lock()
	defer shelf.Unlock()
	all, err := charts()
	require.NoError(t, err)
	before, err := filepath.Glob(filepath.Join(all, "*.tgz"))
	require.NoError(t, err)
	out, err := command(time.Minute, "", "helm", "package", path, "--destination", t.TempDir())
	require.NoError(t, err)
	_, archive, found := strings.Cut(strings.TrimSpace(out), "saved it to: ")
	require.True(t, found, out)
	name := fmt.Sprintf("%d.tgz", len(before))
	require.NoError(t, os.Rename(archive, filepath.Join(all, name)))
	require.NoError(t, giveCharts())
	if shelf.packed == nil {
		shelf.packed = map[string]string{}
	}
	shelf.packed["/charts/"+name] = path
	return "/charts/" + name
}

// unpacked is the folder on this machine of a chart that pods have.
func unpacked(path string) string {
	shelf.Lock()
	defer shelf.Unlock()
	return cmp.Or(shelf.packed[path], path)
}

// giveCharts puts the packed charts where the pods have them; those that run see them a minute later.
func giveCharts() error {
	all, err := charts()
	if err != nil {
		return err
	}
	object, err := command(time.Minute, "", "kubectl", "create", "configmap", "charts", "--from-file="+all, "--dry-run=client", "-o", "json")
	if err == nil {
		_, err = command(time.Minute, object, "kubectl", "--namespace", home, "apply", "--server-side", "--force-conflicts", "-f", "-")
	}
	return err
}

// stored lists a folder of the stack's store.
func stored(t *testing.T, s *harness.Stack, folder string) []string {
	t.Helper()
	if c := crewOf(s); c != nil {
		names, err := upkeep("exec", "deploy/"+c.name+"-database", "--", "busybox", "ls", c.store()+"/"+folder)
		require.NoError(t, err)
		return strings.Fields(names)
	}
	entries, err := os.ReadDir(filepath.Join(s.Store, folder))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// forward lets pods reach a port of this machine's loopback, by an address that they know the machine by.
func forward(t testing.TB, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(os.Getenv("UPKEEP_E2E_HOST"), "10.243.0.1"), "0"))
	require.NoError(t, err, "set UPKEEP_E2E_HOST to an address of this machine that the cluster's pods reach")
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer from.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				go func() {
					_, _ = io.Copy(server, from) // either side may be gone
					_ = server.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(from, server)
			}()
		}
	}()
	return l.Addr().String()
}
