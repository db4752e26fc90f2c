//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// stallChart is a service that can be broken, with hooks and a volume where they are asked for.
const stallChart = shopChart + `
{{- if .Values.hooks }}
{{- range $name, $hook := dict "before" (list "pre-upgrade,pre-rollback" .Values.migration "before-hook-creation") "after" (list "post-upgrade,post-rollback" "true" "before-hook-creation,hook-succeeded") }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $.Release.Name }}-{{ $name }}
  annotations: {helm.sh/hook: {{ index $hook 0 | quote }}, helm.sh/hook-delete-policy: {{ index $hook 2 | quote }}}
spec:
  backoffLimit: {{ $.Values.again }}
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "upkeep.test/busybox:dev", imagePullPolicy: Never, command: [sh, -c, {{ index $hook 1 | quote }}]}]
{{- end }}
{{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {color: {{ .Values.color | quote }}}
{{- if .Values.volume }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: {{ .Release.Name }}-store}
spec:
  replicas: 0
  serviceName: {{ .Release.Name }}-store
  selector: {matchLabels: {app: {{ .Release.Name }}-store}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}-store}}
    spec: {containers: [{name: store, image: "upkeep.test/busybox:dev", imagePullPolicy: Never, command: [sleep, "100000"]}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: {{ .Values.volume }}}}}
{{- end }}
`

const stallValues = `image: upkeep.test/busybox:dev
replicas: 1
round: first
hooks: false
migration: "true"
again: 0
color: red
volume: ""
`

// badImage is one that no node has.
const badImage = "upkeep.test/nothing:dev"

// stall is one such release, and what is needed to work on it.
type stall struct {
	name, chart string
	at          string // where the workers find the chart
	stack       *harness.Stack
}

var stalls atomic.Int64

// newStall installs one under a name of its own. Rollout is added to its target.
func newStall(t *testing.T, set ...string) stall {
	t.Helper()
	x := stall{name: fmt.Sprintf("stall-%d", stalls.Add(1)), chart: t.TempDir()}
	chart := strings.Replace(stallChart, "replicas: 1", "replicas: {{ .Values.replicas }}", 1)
	require.NoError(t, os.Mkdir(filepath.Join(x.chart, "templates"), 0o755))
	for file, text := range map[string]string{"Chart.yaml": "apiVersion: v2\nname: stall\nversion: 1.0.0\n", "values.yaml": stallValues, "templates/all.yaml": chart} {
		require.NoError(t, os.WriteFile(filepath.Join(x.chart, file), []byte(text), 0o600))
	}
	args := []string{"install", x.name, x.chart, "--wait", "--timeout", "2m"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	_, err := helm(args...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			x.describe(t)
		}
		_, err := helm("uninstall", x.name, "--no-hooks")
		require.NoError(t, err)
	})
	x.at = chartFor(t, allInPods, x.chart)
	x.stack = harness.New(t, x.target("compatible"))
	if allInPods { // before it is broken
		c := crewFor(t, x.stack)
		_, parsed := c.read()
		c.grants(parsed.Targets)
	}
	return x
}

func (x stall) target(migrations string) string {
	return fmt.Sprintf(`  - name: stall
    kubernetes:
      namespace: %s
      release: %s
      probes: [{name: front, service: %[2]s-web, port: 80, path: /index.html, contains: open}]
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
    rollout: {chart: %[3]s, bake: 10s, timeout: 20s, migrations: %[4]s}
`, namespace, x.name, x.at, migrations)
}

// describe shows what a person would look at first.
func (x stall) describe(t *testing.T) {
	for _, args := range [][]string{{"get", "pods,jobs", "-o", "wide"}, {"get", "lease", "upkeep-" + x.name, "-o", "yaml"}} {
		out, _ := kubectl(args...) // only to be seen
		t.Log(out)
	}
	out, _ := helm("history", x.name)
	t.Log(out)
}

func (x stall) history(t *testing.T) (all []revision) {
	t.Helper()
	out, err := helm("history", x.name, "-o", "json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	return all
}

// wedge takes the page from every pod, and waits until none is ready.
func (x stall) wedge(t *testing.T) {
	t.Helper()
	pods, err := kubectl("get", "pods", "-l", "app="+x.name+"-web", "-o", "jsonpath={.items[*].metadata.name}")
	require.NoError(t, err)
	for _, pod := range strings.Fields(pods) {
		_, err := kubectl("exec", pod, "--", "sh", "-c", wedge)
		require.NoError(t, err)
	}
	require.NoError(t, until(time.Minute, func() error {
		ready, err := kubectl("get", "deployment", x.name+"-web", "-o", "jsonpath={.status.readyReplicas}")
		if err == nil && ready != "" {
			err = fmt.Errorf("%s pods are ready", ready)
		}
		return err
	}))
}

// missesImage waits until a pod is seen to miss its image.
func (x stall) missesImage(t *testing.T) {
	t.Helper()
	require.NoError(t, until(time.Minute, func() error {
		reasons, err := kubectl("get", "pods", "-l", "app="+x.name+"-web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if err == nil && !strings.Contains(reasons, "ErrImageNeverPull") {
			err = fmt.Errorf("the image is not missed yet: %s", reasons)
		}
		return err
	}))
}

// spoil lets somebody upgrade the release to what cannot run.
func (x stall) spoil(t *testing.T) {
	t.Helper()
	_, err := helm("upgrade", x.name, x.chart, "--reuse-values", "--no-hooks", "--set", "image="+badImage)
	require.NoError(t, err)
	x.missesImage(t)
}

// stick is spoil by a helm that is killed in the middle, which leaves the release locked.
func (x stall) stick(t *testing.T) {
	t.Helper()
	killed := exec.Command("helm", "--namespace", namespace, "upgrade", x.name, x.chart, "--reuse-values", "--no-hooks", "--set", "image="+badImage, "--wait")
	require.NoError(t, killed.Start())
	x.missesImage(t)
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait() // it was killed
}

// age makes more revisions than are kept.
func (x stall) age(t *testing.T) {
	t.Helper()
	for i := range 10 {
		_, err := helm("upgrade", x.name, x.chart, "--reuse-values", "--no-hooks", "--history-max", "0", "--set", fmt.Sprintf("color=shade-%d", i))
		require.NoError(t, err)
	}
}

// sound checks that the release is at its newest revision, that nothing locks it, and that it has so many
// replicas, all ready and of that revision.
func (x stall) sound(t *testing.T, replicas string) {
	t.Helper()
	all := x.history(t)
	require.Equal(t, "deployed", all[len(all)-1].Status, "%+v", all)
	for _, r := range all[:len(all)-1] {
		require.Contains(t, []string{"superseded", "failed"}, r.Status, "%+v", all)
	}
	require.NoError(t, until(time.Minute, func() error {
		got, err := kubectl("get", "deployment", x.name+"-web", "-o", "jsonpath={.spec.replicas}/{.status.replicas}/{.status.readyReplicas}/{.status.updatedReplicas}")
		if want := strings.Join([]string{replicas, replicas, replicas, replicas}, "/"); err == nil && got != want {
			err = fmt.Errorf("replicas are %s, not %s", got, want)
		}
		return err
	}))
	x.free(t)
}

// free checks that nobody keeps the lease beside the release: it was given back, or its holder is dead.
func (x stall) free(t *testing.T) {
	t.Helper()
	require.NoError(t, until(time.Minute, func() error {
		out, err := kubectl("get", "lease", "upkeep-"+x.name, "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity} {.spec.renewTime}")
		if err != nil {
			return err
		}
		holder, renewed, held := strings.Cut(out, " ")
		if !held || holder == "" {
			return nil
		}
		when, err := time.Parse(time.RFC3339Nano, renewed)
		if err == nil && time.Since(when) < 15*time.Second {
			err = fmt.Errorf("%s holds the lease", holder)
		}
		return err
	}))
}

// event is one of the cluster's.
type event struct {
	InvolvedObject struct{ Kind, Name, UID string }
	Message        string
	Count          int
}

// made counts the pods that were made for the service, and the Jobs that were made for a hook.
func (x stall) made(t *testing.T, hook string) (pods, jobs int) {
	t.Helper()
	out, err := kubectl("get", "events", "--field-selector", "reason=SuccessfulCreate", "-o", "json")
	require.NoError(t, err)
	var list struct{ Items []event }
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	seen := make(map[string]bool)
	for _, e := range list.Items {
		switch of := e.InvolvedObject; {
		case of.Kind == "ReplicaSet" && strings.HasPrefix(of.Name, x.name+"-web-"):
			pods += max(1, e.Count)
		case of.Kind == "Job" && of.Name == x.name+"-"+hook && !seen[of.UID]:
			seen[of.UID] = true
			jobs++
		}
	}
	return pods, jobs
}

// look is everything of the release that nobody may touch any more.
func (x stall) look(t *testing.T) string {
	t.Helper()
	out, err := kubectl("get", "configmaps,secrets,deployments,statefulsets,jobs,pods", "-o",
		`jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation} {.metadata.deletionTimestamp} {.data}{"\n"}{end}`)
	require.NoError(t, err)
	var mine []string
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, " "+x.name+"-") || strings.Contains(line, "."+x.name+".") {
			mine = append(mine, line)
		}
	}
	require.NotEmpty(t, mine)
	return strings.Join(mine, "\n")
}

// recovers is RecoverService's trial: the service is broken in a way whose cure passes the point.
func (x stall) recovers(t *testing.T, how string) trial {
	t.Helper()
	replicas := "1"
	if how == "rollout" || how == "recreate" {
		replicas = "2"
	}
	if how == "prune" {
		x.age(t)
	}
	podsBefore, _ := x.made(t, "")
	before := x.history(t)
	switch how {
	case "restart", "rollout":
		x.wedge(t)
	case "recreate": // nothing is rolled out by a Deployment whose rollouts are paused
		_, err := kubectl("rollout", "pause", "deployment/"+x.name+"-web")
		require.NoError(t, err)
		x.wedge(t)
	case "stuck":
		x.stick(t)
	default:
		x.spoil(t)
	}
	steps := map[string]string{"stuck": "clear rollback", "rollback": "rollback", "prune": "rollback"}
	return trial{
		stack: x.stack, procedure: "RecoverService", input: `{}`, look: x.look,
		holds: func(t *testing.T, doc *run.Document, begun int) {
			t.Helper()
			r, taken := recovered(t, doc)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			require.Equal(t, run.Pass, r.Verdict)
			x.sound(t, replicas)
			pods, jobs := x.made(t, "before")
			switch after := x.history(t); how {
			case "restart", "rollout", "recreate":
				require.Len(t, after, len(before), "a new revision is not needed")
				require.Equal(t, fmt.Sprint(podsBefore)+"+"+replicas, fmt.Sprintf("%d+%d", podsBefore, pods-podsBefore), "each pod was made anew, once")
				if begun == 1 {
					require.Contains(t, []string{how, "wait", ""}, taken, "a run that was reset may find it done")
				}
			default:
				// Of the run that was terminated a revision may be left, as one that failed.
				require.GreaterOrEqual(t, after[len(after)-1].Revision, before[len(before)-1].Revision+2)
				require.LessOrEqual(t, after[len(after)-1].Revision, before[len(before)-1].Revision+1+begun)
				require.LessOrEqual(t, jobs, begun, "a hook is not made twice by one run")
				if begun == 1 {
					require.Contains(t, []string{steps[how], "wait", ""}, taken)
				}
			}
		},
	}
}

// rollsOut is RolloutRelease's trial: a good release, or a bad one, which is rolled back.
func (x stall) rollsOut(t *testing.T, how string) trial {
	t.Helper()
	set := map[string]any{"color": "blue", "replicas": 2}
	if how == "bad" {
		set["image"] = badImage
	}
	if how == "prune" {
		x.age(t)
	}
	input, err := json.Marshal(map[string]any{"override": "the test has no data", "set": set})
	require.NoError(t, err)
	before := x.history(t)
	return trial{
		stack: x.stack, procedure: "RolloutRelease", input: string(input), look: x.look,
		holds: func(t *testing.T, doc *run.Document, begun int) {
			t.Helper()
			t.Log(doc.Outcome, doc.Summary, doc.Error)
			after := x.history(t)
			newest, was := after[len(after)-1].Revision, before[len(before)-1].Revision
			_, jobs := x.made(t, "before")
			color, err := kubectl("get", "configmap", x.name+"-settings", "-o", "jsonpath={.data.color}")
			require.NoError(t, err)
			switch {
			case how == "bad":
				require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
				require.Contains(t, doc.Summary, "was rolled back")
				require.Equal(t, "red", color)
				require.LessOrEqual(t, newest, was+2*begun)
				require.LessOrEqual(t, jobs, 2*begun, "each hook was made once by each operation")
				x.sound(t, "1")
				return
			case doc.Outcome == run.Failed: // reset in the middle, the run takes back what it had begun
				require.Contains(t, doc.Summary, "begun again in the middle", doc.Summary)
				require.Contains(t, doc.Summary, "was rolled back")
				require.NotEqual(t, "blue", color)
				require.Equal(t, was+2, newest)
				require.LessOrEqual(t, jobs, 2)
				x.sound(t, "1")
				return
			case doc.Outcome == run.Refused: // reset when it was over
				require.Equal(t, "PlanVoid", cmp.Or(doc.Error, &run.Error{}).Code, doc.Summary)
			default:
				require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			}
			require.Equal(t, "blue", color)
			require.LessOrEqual(t, newest, was+begun)
			require.LessOrEqual(t, jobs, begun)
			x.sound(t, "2")
		},
	}
}

// named finds a run's step by the beginning of its name; it errs until it is there.
func named(doc *run.Document, name string) (run.Step, error) {
	for _, s := range doc.Steps {
		if strings.HasPrefix(s.Name, name) {
			return s, nil
		}
	}
	return run.Step{}, errors.New("there is no step " + name)
}
