//go:build e2e

package helm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/upkeep-run/upkeep/dev/internal/between"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/helmrelease"
)

func TestAnUpgradeIsPlannedAndDoneOnce(t *testing.T) {
	t.Parallel()
	r := install(t, "plain", "password=correct-horse")
	before := kubectl(t, "get", "configmaps,secrets,leases", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`, "--selector", "app.kubernetes.io/managed-by=Helm")
	w := r.upgrade(t, "plain/blue", map[string]any{"color": "blue-and-white", "password": "battery-staple"})
	require.Equal(t, before, kubectl(t, "get", "configmaps,secrets,leases", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`, "--selector", "app.kubernetes.io/managed-by=Helm"))
	require.Len(t, r.history(t), 1, "a plan changes nothing")
	require.Equal(t, []int{0, 3, 0}, []int{w.Plan.Diff.Added, w.Plan.Diff.Changed, w.Plan.Diff.Removed})
	raw, err := json.Marshal(w.Plan)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "correct-horse")
	require.NotContains(t, string(raw), "battery-staple")
	require.Contains(t, string(raw), `+  password: (changed)`)
	require.Equal(t, []string{"Job plain-migrate (pre-upgrade)", "Job plain-after (post-upgrade)"}, w.Plan.Migrations)
	require.Empty(t, w.Plan.Blocked)

	did, err := w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Equal(t, helmrelease.Applied{Revision: 2, Status: "deployed"}, did)
	require.Equal(t, "blue-and-white", r.setting(t, "color"))
	again, err := w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Equal(t, helmrelease.Applied{Revision: 2, Status: "deployed", Before: true}, again)
	require.Len(t, r.seen("migrate"), 1)
	require.Len(t, r.seen("after"), 1)
	h := r.history(t)
	require.Equal(t, []string{"deployed", "superseded"}, []string{h[0].Status, h[1].Status})
	require.Equal(t, helmrelease.OperationID("plain/blue"), h[0].Operation)
	require.Len(t, h[0].Objects, 3)
	require.Len(t, h[0].Hooks, 2)

	stale := r.upgrade(t, "plain/green", map[string]any{"color": "green"})
	swapped := stale
	swapped.Request = r.request(map[string]any{"color": "green", "password": "of-somebody-else"})
	_, err = swapped.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.PlanVoid), "a Secret's value is not in the rendering's hash: %v", err)
	r.requireFree(t)
	_, err = stale.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.PlanVoid), "%v", err)
	again, err = w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Equal(t, helmrelease.Applied{Revision: 2, Status: "superseded", Before: true}, again, "done is done, whatever came after")
	require.Equal(t, "blue-and-white", r.setting(t, "color"))
}

// TestAnUpgradeThatIsKilled kills the process at each place. Done again it ends as if nothing had been:
// one revision more, each hook made once, nothing locked.
func TestAnUpgradeThatIsKilled(t *testing.T) {
	t.Parallel()
	for name, point := range map[string]string{
		"k-record-before": "helm/record/before", "k-record-after": "helm/record/after",
		"k-hook-before": "helm/hook/before", "k-hook-after": "helm/hook/after", "k-after-hook-after": "helm/hook/after:kill:2",
		"k-hookend-before": "helm/hookend/before", "k-hookend-after": "helm/hookend/after",
		"k-apply-first": "helm/apply/before", "k-apply-middle": "helm/apply/before:kill:4", "k-apply-after": "helm/apply/after",
		"k-done-before": "helm/done/before", "k-done-after": "helm/done/after",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := install(t, name)
			w := r.upgrade(t, name, map[string]any{"color": "blue", "extra": 3, "migration": "sleep 3"})
			r.killed(t, w, point)
			require.Equal(t, "blue", r.setting(t, "color"))
			require.Equal(t, "2", kubectl(t, "get", "configmap", name+"-extra-2", "-o", "jsonpath={.data.number}"))
			// The password is of one rendering: what was recorded first is what was applied.
			password, err := base64.StdEncoding.DecodeString(kubectl(t, "get", "secret", name+"-login", "-o", "jsonpath={.data.password}"))
			require.NoError(t, err)
			recorded, err := command("helm", "get", "manifest", name, "--namespace", namespace)
			require.NoError(t, err)
			require.Contains(t, recorded, string(password))
		})
	}
}

func TestARollbackThatIsKilled(t *testing.T) {
	t.Parallel()
	for name, point := range map[string]string{
		"b-record-after": "helm/record/after", "b-hook-after": "helm/hook/after", "b-apply-middle": "helm/apply/before:kill:2", "b-done-before": "helm/done/before",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := install(t, name)
			_, err := command("helm", "upgrade", name, r.chart, "--namespace", namespace, "--set", "color=blue,extra=2", "--no-hooks", "--wait", "--timeout", "1m")
			require.NoError(t, err)
			r.killed(t, r.rollback(t, name, 1), point)
			require.Equal(t, "red", r.setting(t, "color"))
			require.NotContains(t, kubectl(t, "get", "configmaps", "-o", "name"), name+"-extra-")
		})
	}
}

func (r *rig) killed(t *testing.T, w task, point string) {
	t.Helper()
	before := r.history(t)
	if !strings.Contains(point, ":") {
		point += ":kill"
	}
	r.hit(t, w, point)
	_, err := w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	h := r.history(t)
	require.Len(t, h, len(before)+1)
	require.Equal(t, "deployed", h[0].Status)
	for _, old := range h[1:] {
		require.Equal(t, "superseded", old.Status)
	}
	require.Eventually(t, func() bool { return len(r.seen("migrate")) > 0 && len(r.seen("after")) > 0 }, 10*time.Second, 100*time.Millisecond)
	require.Len(t, r.seen("migrate"), 1)
	require.Len(t, r.seen("after"), 1)
	_, err = w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Len(t, r.history(t), len(before)+1)
}

// hit does the task in a child that is killed at the point.
func (r *rig) hit(t *testing.T, w task, point string) {
	t.Helper()
	cmd, _ := w.start(t, "point="+point)
	err := cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "it was not killed: %v", err)
}

func stoppedNow(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(rest, "T")
}

// TestAStaleTwin freezes an attempt before it sends a change, lets another take over, and wakes it up.
func TestAStaleTwin(t *testing.T) {
	t.Parallel()
	for name, point := range map[string]string{"t-record": "helm/record/before", "t-hook": "helm/hook/before", "t-apply": "helm/apply/before", "t-done": "helm/done/before"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := install(t, name)
			w := r.upgrade(t, name, map[string]any{"color": "blue"})
			cmd, out := w.start(t, "point="+point+":stop")
			require.Eventually(t, func() bool { return stoppedNow(cmd.Process.Pid) }, time.Minute, 50*time.Millisecond)
			_, err := w.do(deadline(t), r.release, nil)
			require.NoError(t, err)
			r.requireFree(t) // the world goes on
			look := func() string {
				return kubectl(t, "get", "configmaps,secrets,deployments,jobs", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation} {.data}{"\n"}{end}`)
			}
			mine := func() (lines []string) {
				for _, line := range strings.Split(look(), "\n") {
					if strings.Contains(line, name) {
						lines = append(lines, line)
					}
				}
				return lines
			}
			is := mine()
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			require.Error(t, cmd.Wait())
			require.Equal(t, string(failure.Fenced), out.String())
			require.Equal(t, is, mine())
		})
	}
}

// TestALiveTwin asks for an operation while another attempt is at it, and for another operation.
func TestALiveTwin(t *testing.T) {
	t.Parallel()
	r := install(t, "twins")
	w := r.upgrade(t, "twins", map[string]any{"color": "blue", "migration": "sleep 12"})
	other := w
	other.Operation = "twins/other"
	cmd, out := w.start(t, "")
	require.Eventually(t, func() bool { return len(r.seen("migrate")) == 1 }, time.Minute, 100*time.Millisecond)
	_, err := other.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.ReleaseBusy), "%v", err)
	did, err := w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Equal(t, helmrelease.Applied{Revision: 2, Status: "deployed", Before: true}, did)
	require.NoError(t, cmd.Wait(), out.String())
	require.Len(t, r.seen("migrate"), 1)
	require.Len(t, r.history(t), 2)
}

// TestAMigrationWhoseEndNobodySaw deletes a hook's Job while no attempt looks.
func TestAMigrationWhoseEndNobodySaw(t *testing.T) {
	t.Parallel()
	r := install(t, "unseen")
	w := r.upgrade(t, "unseen", map[string]any{"color": "blue", "migration": "sleep 3"})
	r.hit(t, w, "helm/hookend/before:kill")
	kubectl(t, "delete", "job", "unseen-migrate")
	_, err := w.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.HookFailed), "%v", err)
	require.ErrorContains(t, err, "whether it did its work is unknown")
	require.Equal(t, "failed", r.history(t)[0].Status)
	require.Len(t, r.seen("migrate"), 1, "it is not done a second time")
}

func TestAHookThatFails(t *testing.T) {
	t.Parallel()
	r := install(t, "fails")
	w := r.upgrade(t, "fails", map[string]any{"password": "hunter2-hunter2", "migration": "echo cannot add the column; echo postgres://u:p4ss@db/x; echo hunter2-hunter2; exit 1"})
	for range 2 { // what failed stays failed
		_, err := w.do(deadline(t), r.release, nil)
		require.True(t, failure.Is(err, failure.HookFailed), "%v", err)
		require.ErrorContains(t, err, "cannot add the column")
		require.NotContains(t, err.Error(), "p4ss")
		require.NotContains(t, err.Error(), "hunter2")
	}
	h := r.history(t)
	require.Equal(t, []string{"failed", "deployed"}, []string{h[0].Status, h[1].Status})
	require.Contains(t, h[0].Description, "cannot add the column")
	require.Equal(t, "red", r.setting(t, "color"))
	require.Len(t, r.seen("migrate"), 1)
	require.Empty(t, r.seen("after"))
	r.requireFree(t)
}

func TestWhatDoesNotBecomeReady(t *testing.T) {
	t.Parallel()
	r := install(t, "unready")
	w := r.upgrade(t, "unready", map[string]any{"image": "upkeep.test/there-is-none:dev"})
	_, err := w.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.NotReady), "%v", err)
	require.ErrorContains(t, err, "Deployment unready-web")
	h := r.history(t)
	require.Equal(t, []string{"failed", "deployed"}, []string{h[0].Status, h[1].Status})
	_, err = r.rollback(t, "unready/back", 1).do(deadline(t), r.release, nil)
	require.NoError(t, err)
	h = r.history(t)
	require.Equal(t, []string{"deployed", "failed", "superseded"}, []string{h[0].Status, h[1].Status, h[2].Status})
	require.Equal(t, "upkeep.test/busybox:dev", kubectl(t, "get", "deployment", "unready-web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"))
}

// TestAMigrationOfAnothersIsWaitedFor starts an upgrade while a Job of the hook's name runs.
func TestAMigrationOfAnothersIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := install(t, "waits")
	none, no := int32(0), false
	other, err := r.set.BatchV1().Jobs(namespace).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "waits-migrate"},
		Spec: batchv1.JobSpec{BackoffLimit: &none, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: "Never", AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "main", Image: "upkeep.test/busybox:dev", ImagePullPolicy: "Never", Command: []string{"sleep", "8"}}},
		}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	var said strings.Builder
	_, err = r.upgrade(t, "waits", map[string]any{"color": "blue"}).do(deadline(t), r.release, func(s string) { said.WriteString(s + "\n") })
	require.NoError(t, err)
	require.Contains(t, said.String(), "waits for Job waits-migrate, which runs since")
	jobs := r.seen("migrate")
	require.Len(t, jobs, 2)
	for _, job := range jobs {
		if job.UID == other.UID {
			require.EqualValues(t, 1, job.Status.Succeeded, "it came to its end")
		}
	}
}

// TestAWorkerThatIsToldToStop cuts an attempt off in the middle of a migration; the next one waits for
// the same Job.
func TestAWorkerThatIsToldToStop(t *testing.T) {
	t.Parallel()
	r := install(t, "told")
	w := r.upgrade(t, "told", map[string]any{"color": "blue", "migration": "sleep 5"})
	ctx, cancel := context.WithCancel(deadline(t))
	_, err := w.do(ctx, r.release, func(s string) {
		if strings.Contains(s, "told-migrate runs") {
			cancel()
		}
	})
	require.True(t, failure.Is(err, failure.WorkerStopped), "%v", err)
	require.Equal(t, "pending-upgrade", r.history(t)[0].Status)
	require.Empty(t, kubectl(t, "get", "lease", "upkeep-told", "-o", "jsonpath={.spec.holderIdentity}"), "the lease was given back, not left to run out")
	_, err = w.do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Len(t, r.seen("migrate"), 1)
	require.Len(t, r.history(t), 2)
}

// TestALockThatSomebodyLeft kills Helm itself in the middle of an upgrade.
func TestALockThatSomebodyLeft(t *testing.T) {
	t.Parallel()
	r := install(t, "locked")
	w := r.upgrade(t, "locked/blue", map[string]any{"color": "blue"})
	helm := exec.CommandContext(t.Context(), "helm", "upgrade", r.name, r.chart, "--namespace", namespace, "--set", "color=green,migration=sleep 12")
	require.NoError(t, helm.Start())
	require.Eventually(t, func() bool { return len(r.seen("migrate")) == 1 }, time.Minute, 100*time.Millisecond)
	require.NoError(t, helm.Process.Kill())
	require.Error(t, helm.Wait())

	_, err := r.release.PlanUpgrade(deadline(t), r.request(nil))
	require.True(t, failure.Is(err, failure.ReleaseBusy), "%v", err)
	_, err = w.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.ReleaseBusy), "%v", err)
	locked := r.history(t)[0]
	require.True(t, locked.Pending())
	clear := helmrelease.ClearOrder{Revision: 2, Record: locked.Record, Operation: "locked/clear", Attempt: "test", By: "a test", Why: "helm was killed"}
	err = r.release.Clear(deadline(t), clear)
	require.True(t, failure.Is(err, failure.ReleaseBusy), "its migration still runs: %v", err)
	kubectl(t, "wait", "job/locked-migrate", "--for=condition=Complete", "--timeout=60s")
	other := clear
	other.Record.ResourceVersion = "1"
	err = r.release.Clear(deadline(t), other)
	require.True(t, failure.Is(err, failure.PlanVoid), "%v", err)
	require.NoError(t, r.release.Clear(deadline(t), clear))
	require.NoError(t, r.release.Clear(deadline(t), clear))
	h := r.history(t)
	require.Equal(t, []string{"failed", "deployed"}, []string{h[0].Status, h[1].Status})
	require.Contains(t, h[0].Description, "cleared by a test: helm was killed")
	_, err = w.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.PlanVoid), "%v", err)
	_, err = r.upgrade(t, "locked/blue again", map[string]any{"color": "blue"}).do(deadline(t), r.release, nil)
	require.NoError(t, err)
	require.Equal(t, "blue", r.setting(t, "color"))
}

func TestAVolumeThatGrew(t *testing.T) {
	t.Parallel()
	r := install(t, "grew", "volume=1Gi")
	plan, err := r.release.PlanUpgrade(deadline(t), r.request(map[string]any{"volume": "2Gi"}))
	require.NoError(t, err)
	require.Equal(t, []string{"StatefulSet grew-store: the size of its volumes cannot be changed from 1Gi to 2Gi"}, plan.Blocked)
	// As people do it: the StatefulSet is made anew with the larger size.
	kubectl(t, "delete", "statefulset", "grew-store")
	_, err = r.upgrade(t, "grew", map[string]any{"volume": "2Gi"}).do(deadline(t), r.release, nil)
	require.NoError(t, err)
	back := r.rollback(t, "grew/back", 1)
	require.Equal(t, []string{"StatefulSet grew-store: the size of its volumes cannot be changed from 2Gi to 1Gi"}, back.Plan.Blocked)
	_, err = back.do(deadline(t), r.release, nil)
	require.True(t, failure.Is(err, failure.ApplyFailed), "%v", err)
	require.Equal(t, "failed", r.history(t)[0].Status)
}

func TestWhatCannotBePlanned(t *testing.T) {
	t.Parallel()
	r := install(t, "odd")
	_, err := r.release.PlanUpgrade(deadline(t), r.request(map[string]any{"random": true}))
	require.True(t, failure.Is(err, failure.BadChart), "%v", err)
	require.ErrorContains(t, err, "ConfigMap odd-random")
	_, err = r.release.PlanUpgrade(deadline(t), r.request(map[string]any{"color": map[string]any{"a": []any{}}, "extra": "many"}))
	require.NoError(t, err, "what a chart makes of odd values is its own affair")
	_, err = r.release.PlanUpgrade(deadline(t), helmrelease.UpgradeRequest{Chart: helmrelease.Chart{Path: "/nowhere"}})
	require.True(t, failure.Is(err, failure.BadChart), "%v", err)
	_, err = r.release.PlanRollback(deadline(t), 7)
	require.True(t, failure.Is(err, failure.MissingRelease), "%v", err)
	c, err := config()
	require.NoError(t, err)
	none, err := helmrelease.Open(c, namespace, "there-is-none")
	require.NoError(t, err)
	_, err = none.History(deadline(t))
	require.True(t, failure.Is(err, failure.MissingRelease), "%v", err)
	plan, err := r.release.PlanUpgrade(deadline(t), r.request(nil))
	require.NoError(t, err)
	require.Contains(t, strings.Join(plan.Remarks, "\n"), "new random values come with each rendering: Secret odd-login")
}

// TestAPlanNeedsNoRightToWrite plans as somebody who may only read, and fails to do it.
func TestAPlanNeedsNoRightToWrite(t *testing.T) {
	t.Parallel()
	r := install(t, "reader")
	kubectl(t, "create", "role", "planner", "--verb=get,list", "--resource=secrets,configmaps,deployments.apps,jobs.batch,leases.coordination.k8s.io")
	kubectl(t, "create", "rolebinding", "planner", "--role=planner", "--user=planner")
	c, err := config()
	require.NoError(t, err)
	c.Impersonate.UserName = "planner"
	reader, err := helmrelease.Open(c, namespace, r.name)
	require.NoError(t, err)
	plan, err := reader.PlanUpgrade(deadline(t), r.request(map[string]any{"color": "blue", "extra": 1}))
	require.NoError(t, err)
	_, err = reader.PlanRollback(deadline(t), 1)
	require.NoError(t, err)
	w := task{Release: r.name, Plan: plan, Request: r.request(map[string]any{"color": "blue", "extra": 1}), Operation: "reader", Attempt: "test"}
	_, err = w.do(deadline(t), reader, nil)
	require.True(t, failure.Is(err, failure.ClusterForbids), "%v", err)
	require.Len(t, r.history(t), 1)
	_, err = w.do(deadline(t), r.release, nil) // resumed, with the right
	require.NoError(t, err)
}

// TestAnAPIServerInTrouble: some requests are turned away, some never arrive, and the answers to some are
// lost. Hit is every 17th that reads or is the lease's, and some of the first that change the release.
func TestAnAPIServerInTrouble(t *testing.T) {
	t.Parallel()
	r := install(t, "trouble")
	w := r.upgrade(t, "trouble", map[string]any{"color": "blue", "extra": 5, "migration": "sleep 2"})
	others, change := 0, 0
	kinds := []between.Kind{between.Never, between.Lost, between.Down, between.Busy}
	proxy := between.NewTrouble(t, os.Getenv("KUBECONFIG"), func(_ int, request *http.Request) between.Kind {
		if !between.Changes(request) || strings.Contains(request.URL.Path, "/leases") {
			if others++; others%17 == 0 {
				return kinds[others/17%len(kinds)]
			}
			return between.None
		}
		change++
		return map[int]between.Kind{1: between.Lost, 3: between.Down, 5: between.Never, 8: between.Lost, 12: between.Busy, 15: between.Lost}[change]
	})
	c, err := clientcmd.BuildConfigFromFlags("", proxy.Kubeconfig)
	require.NoError(t, err)
	release, err := helmrelease.Open(c, namespace, r.name)
	require.NoError(t, err)
	attempts := 0
	for ctx := deadline(t); ; attempts++ {
		_, err := w.do(ctx, release, nil)
		if err == nil {
			break
		}
		f, ok := failure.As(err)
		t.Log(err)
		require.True(t, ok && f.Class() == failure.Transient, "%v", err)
		require.NoError(t, ctx.Err())
	}
	t.Logf("%d attempts, %v", attempts+1, proxy.Given())
	require.Positive(t, attempts)
	require.Equal(t, "blue", r.setting(t, "color"))
	require.Len(t, r.history(t), 2)
	require.Len(t, r.seen("migrate"), 1)
	require.Len(t, r.seen("after"), 1)
	r.requireFree(t)
}

// TestARecordThatSomebodyChanges changes the operation's record while it waits for its migration.
func TestARecordThatSomebodyChanges(t *testing.T) {
	t.Parallel()
	r := install(t, "touched")
	w := r.upgrade(t, "touched", map[string]any{"color": "blue", "migration": "sleep 4"})
	touched := false
	_, err := w.do(deadline(t), r.release, func(s string) {
		if !touched && strings.Contains(s, "touched-migrate runs") {
			touched = true
			kubectl(t, "label", "secret", "sh.helm.release.v1.touched.v2", "somebody=was-here")
		}
	})
	require.True(t, failure.Is(err, failure.ReleaseBusy), "%v", err)
	require.Equal(t, "red", r.setting(t, "color"))
	_, err = w.do(deadline(t), r.release, nil) // resumed by a person who has looked
	require.NoError(t, err)
	require.Equal(t, "was-here", kubectl(t, "get", "secret", "sh.helm.release.v1.touched.v2", "-o", "jsonpath={.metadata.labels.somebody}"))
	require.Len(t, r.seen("migrate"), 1)
}
