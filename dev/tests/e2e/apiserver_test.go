//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/between"
)

// own calls dev/cluster for the cluster of this machine. The programs of another cluster are not ours to
// stop, and what needs that is left out there.
func own(t *testing.T, args ...string) {
	t.Helper()
	call := func(args ...string) (string, error) {
		if program := os.Getenv("UPKEEP_CLUSTER"); program != "" {
			return command(time.Minute, "", program, args...)
		}
		return command(3*time.Minute, "", "go", append([]string{"run", "-C", "../../cluster", "./cmd/cluster"}, args...)...)
	}
	if is, err := call("status"); err != nil || strings.TrimSpace(is) != os.Getenv("KUBECONFIG") {
		t.Skip("the cluster of KUBECONFIG is not the one that dev/cluster has made on this machine")
	}
	_, err := call(args...)
	require.NoError(t, err)
}

// running is a trial whose run has begun.
type running struct {
	trial
	worker workers
	id     string
}

// begins starts a trial's run with a worker that has the environment.
func (x trial) begins(t *testing.T, env ...string) running {
	t.Helper()
	w := serve(t, x.stack, "first", env...)
	return running{x, w, x.start(t)}
}

// stops is the environment of a worker that is frozen at a point, once.
func (x trial) stops(point string) []string {
	return []string{"UPKEEP_FAULT=point=" + at(point, "stop"), "UPKEEP_FAULT_ONCE=" + filepath.Join(x.stack.Dir, "once")}
}

// trials are one of each procedure, and the point in its middle; RecoverData, which needs a stack of its own,
// where time does not count.
func trials(t *testing.T) (all []trial, points []string) {
	t.Helper()
	all = []trial{newStall(t, "replicas=2").recovers(t, "rollout"), newStall(t, "hooks=true").rollsOut(t, "good")}
	points = []string{"recover/rollout/before", "helm/apply/before"}
	if long() {
		l := <-lanes(t, 1)
		all, points = append(all, l.loses(t)), append(points, "client-stop/before")
	}
	return all, points
}

// answers waits until the API server answers.
func answers(t *testing.T) {
	t.Helper()
	require.NoError(t, until(2*time.Minute, func() error {
		_, err := command(10*time.Second, "", "kubectl", "get", "--raw", "/readyz")
		return err
	}))
}

// TestTheAPIServerIsKilled in the middle of each procedure, whose next request finds nobody there.
func TestTheAPIServerIsKilled(t *testing.T) {
	beside(t, breaksCluster)
	all, points := trials(t)
	var begun []running
	for i, x := range all {
		begun = append(begun, x.begins(t, x.stops(points[i])...))
	}
	for _, r := range begun {
		frozen(t, r.worker)
	}
	own(t, "kill", "kube-apiserver")
	for _, r := range begun {
		r.worker.Continue()
	}
	answers(t)
	for _, r := range begun {
		r.holds(t, r.stack.Await(t, r.id), 1)
	}
}

// TestTheLineToTheAPIServerIsCut in the middle of each procedure: what is sent is held back and nobody is
// told, for a minute where time does not count, else until something was held back.
func TestTheLineToTheAPIServerIsCut(t *testing.T) {
	beside(t, breaksCluster)
	all, points := trials(t)
	var begun []running
	var lines []*between.Line
	for i, x := range all {
		line := between.NewLine(t, os.Getenv("KUBECONFIG"))
		lines, begun = append(lines, line), append(begun, x.begins(t, append(x.stops(points[i]), "KUBECONFIG="+line.Kubeconfig)...))
	}
	var held []<-chan struct{}
	for i, r := range begun {
		frozen(t, r.worker)
		held = append(held, lines[i].Cut())
		r.worker.Continue()
	}
	for _, h := range held {
		require.NoError(t, until(time.Minute, func() error {
			select {
			case <-h:
				return nil
			default:
				return errors.New("nothing was sent")
			}
		}))
	}
	if long() {
		over := time.NewTimer(time.Minute) // the minute that the line is cut for
		<-over.C
	}
	for i, r := range begun {
		doc, err := r.stack.Starter.Show(t.Context(), r.id)
		require.NoError(t, err)
		require.False(t, doc.Outcome.Ended(), "%s while the line is cut: %s", doc.Outcome, doc.Summary)
		lines[i].Mend()
	}
	for _, r := range begun {
		r.holds(t, r.stack.Await(t, r.id), 1)
	}
}

// TestTheAPIServerIsInTrouble for a while: it turns requests away, takes others and does not answer, breaks
// down, and has somebody else be faster.
func TestTheAPIServerIsInTrouble(t *testing.T) {
	beside(t, breaksCluster)
	all, _ := trials(t)
	var begun []running
	var troubles []*between.Trouble
	for _, x := range all {
		kinds, conflict := []between.Kind{between.Busy, between.Down, between.Lost, between.Broken, between.Never}, false
		most := 12
		if long() {
			most = 40
		}
		trouble := between.NewTrouble(t, os.Getenv("KUBECONFIG"), func(n int, r *http.Request) between.Kind {
			switch {
			case r.Method == http.MethodPatch && !conflict:
				conflict = true
				return between.Conflict
			case n%11 == 0 && n/11 <= most:
				return kinds[n/11%len(kinds)]
			}
			return between.None
		})
		troubles, begun = append(troubles, trouble), append(begun, x.begins(t, "KUBECONFIG="+trouble.Kubeconfig))
	}
	for i, r := range begun {
		r.holds(t, r.stack.Await(t, r.id), 1)
		given := troubles[i].Given()
		t.Log(given)
		for _, kind := range []between.Kind{between.Busy, between.Down, between.Lost, between.Broken, between.Never, between.Conflict} {
			require.Positive(t, given[kind], "%s in %s", kind, r.procedure)
		}
	}
}

// TestTheKubeletIsFrozen in the middle of a recovery and of a rollout: nothing is called healthy that nobody
// sees, and both go on when it is back.
func TestTheKubeletIsFrozen(t *testing.T) {
	beside(t, breaksCluster)
	shop := newStall(t)
	recovery := shop.recovers(t, "restart")
	other := newStall(t, "hooks=true")
	other.stack.Configure(t, strings.Replace(other.target("compatible"), "timeout: 20s", "timeout: 10m", 1))
	release := other.rollsOut(t, "good")
	own(t, "freeze", "kubelet")
	t.Cleanup(func() { own(t, "thaw", "kubelet"); nodeIs(t, "True") })
	begun := []running{recovery.begins(t), release.begins(t)}
	for i, step := range []string{"Wait until the service is healthy", "Upgrade the release"} {
		begun[i].stack.Until(t, begun[i].id, func(d *run.Document) bool {
			_, err := named(d, step)
			return err == nil
		})
	}
	if long() { // until the cluster knows it too
		nodeIs(t, "Unknown")
	}
	for _, r := range begun {
		doc, err := r.stack.Starter.Show(t.Context(), r.id)
		require.NoError(t, err)
		require.Equal(t, run.Running, doc.Outcome, doc.Summary)
		require.Empty(t, doc.Steps[len(doc.Steps)-1].Verdict, "%+v", doc.Steps)
	}
	own(t, "thaw", "kubelet")
	for _, r := range begun {
		r.holds(t, r.stack.Await(t, r.id), 1)
	}
}

// TestTheKubeletStaysFrozen until a recovery has nothing left to do but to ask whether the node is off.
func TestTheKubeletStaysFrozen(t *testing.T) {
	beside(t, breaksCluster)
	if !long() {
		t.Skip("it takes minutes; FAILPOINTS=all runs it")
	}
	s := newStall(t)
	x := s.recovers(t, "restart")
	own(t, "freeze", "kubelet")
	t.Cleanup(func() { own(t, "thaw", "kubelet"); nodeIs(t, "True") })
	nodeIs(t, "Unknown")
	serve(t, x.stack, "first")
	id := x.stack.Start(t, x.procedure, `{"wait":1}`)
	doc := x.stack.Until(t, id, func(d *run.Document) bool { return d.AsksApproval() || d.Outcome.Ended() })
	require.NotEqual(t, run.Succeeded, doc.Outcome, doc.Summary)
	t.Log(doc.Outcome, doc.WaitingFor, doc.Summary)
	own(t, "thaw", "kubelet")
	nodeIs(t, "True")
	go approving(t, x.stack, id)
	if doc.Outcome.Ended() { // it has said what a person must see to
		require.Contains(t, doc.Summary, "node")
		id = x.start(t)
	}
	x.holds(t, x.stack.Await(t, id), 2)
}

// nodeIs waits until the nodes' readiness is so.
func nodeIs(t *testing.T, want string) {
	t.Helper()
	require.NoError(t, until(2*time.Minute, func() error {
		is, err := kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")
		if err == nil && is != want {
			err = fmt.Errorf("the node is %s", is)
		}
		return err
	}))
}
