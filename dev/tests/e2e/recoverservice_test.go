//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// A service that can be broken: wedged, its page is gone until it is started anew; crashed, it ends at
// each start for as long as its pod lives.
const shopChart = `apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-web, annotations: {image: {{ .Values.image }}, round: {{ .Values.round }}}}
spec: {selector: {app: {{ .Release.Name }}-web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}-web}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}-web}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 0
      volumes: [{name: state, emptyDir: {}}]
      containers:
      - name: web
        image: {{ .Values.image }}
        imagePullPolicy: Never
        command: [sh, -c, "test -e /state/crash && exit 1; mkdir -p /tmp/www; echo open > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www & wait $!"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: state, mountPath: /state}]
`

// shop installs the service, and has Temporal and a target for it.
func shop(t *testing.T, name string) (s *harness.Stack, chart string) {
	t.Helper()
	chart = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(chart, "templates"), 0o755))
	for file, text := range map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n", "values.yaml": "image: upkeep.test/busybox:dev\nreplicas: 1\nround: first\n", "templates/all.yaml": shopChart} {
		require.NoError(t, os.WriteFile(filepath.Join(chart, file), []byte(text), 0o600))
	}
	_, err := helm("install", name, chart, "--wait", "--timeout", "1m")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := helm("uninstall", name, "--wait")
		require.NoError(t, err)
	})
	target := fmt.Sprintf(`  - name: shop
    kubernetes:
      namespace: %s
      release: %s
      probes: [{name: front, service: %s-web, port: 80, path: /index.html, contains: open}]
    database: {url: "postgres://nobody@127.0.0.1:1/none"}
`, namespace, name, name)
	return harness.New(t, target), chart
}

func recovered(t *testing.T, doc *run.Document) (r recoverservice.Result, steps string) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	for _, taken := range r.Taken {
		steps += taken.Step + " "
	}
	t.Log(doc.Outcome, doc.Summary, doc.Error)
	return r, strings.TrimSpace(steps)
}

func shopPod(t *testing.T, name string) string {
	t.Helper()
	pod, err := kubectl("get", "pods", "-l", "app="+name+"-web", "-o", "jsonpath={.items[0].metadata.name}")
	require.NoError(t, err)
	return pod
}

// breakShop breaks the service, and waits until it is seen.
func breakShop(t *testing.T, name, how string) {
	t.Helper()
	_, err := kubectl("exec", shopPod(t, name), "--", "sh", "-c", how)
	if err != nil { // the shell may end with what it breaks
		t.Log(err)
	}
	require.NoError(t, until(30*time.Second, func() error {
		ready, err := kubectl("get", "deployment", name+"-web", "-o", "jsonpath={.status.readyReplicas}")
		if err == nil && ready != "" {
			err = fmt.Errorf("%s pods are ready", ready)
		}
		return err
	}))
}

const (
	wedge = "rm /tmp/www/index.html"
	crash = "touch /state/crash; kill -9 $(pidof httpd)"
)

func TestAServiceIsRecovered(t *testing.T) {
	const name = "shop-a"
	s, chart := shop(t, name)
	inside := s.Worker(t, "inside", "KUBECONFIG="+os.Getenv("KUBECONFIG"), "POD_NAME="+shopPod(t, name), "POD_NAMESPACE="+namespace)
	itself := s.Run(t, "RecoverService", `{}`)
	require.Equal(t, run.Refused, itself.Outcome, itself.Summary)
	require.Equal(t, "NotItself", itself.Error.Code, "the worker is one of its pods")
	inside.Kill()
	manyRevisions(t, name, chart, "round")
	who := narrow(t, s, "rescuer", "--procedure", "RecoverService")
	serve(t, s, "w", who.env())

	calm := s.Run(t, "RecoverService", `{"wait":1}`)
	r, steps := recovered(t, calm)
	require.Equal(t, run.Succeeded, calm.Outcome, calm.Summary)
	require.Empty(t, steps)
	require.Equal(t, 10, r.Revision)

	for how, what := range map[string]string{wedge: "NotReady", crash: "CrashLoop"} {
		before := shopPod(t, name)
		breakShop(t, name, how)
		doc := s.Run(t, "RecoverService", `{"wait":1}`)
		r, steps := recovered(t, doc)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Equal(t, "restart", steps, what)
		require.Contains(t, r.Taken[0].What, what)
		require.Equal(t, run.Pass, r.Verdict)
		require.NotEqual(t, before, shopPod(t, name))
		require.NotEmpty(t, r.Before)
		require.Empty(t, r.After)
	}

	_, err := helm("upgrade", name, chart, "--set", "image=upkeep.test/nothing:dev")
	require.NoError(t, err)
	require.NoError(t, until(30*time.Second, func() error {
		reasons, err := kubectl("get", "pods", "-l", "app="+name+"-web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if err == nil && !strings.Contains(reasons, "ErrImageNeverPull") {
			err = fmt.Errorf("the image is not missed yet: %s", reasons)
		}
		return err
	}))
	foreseen := s.Run(t, "RecoverService", `{"dryRun":true}`)
	r, _ = recovered(t, foreseen)
	require.Contains(t, r.Next, "proven healthy")
	doc := s.Run(t, "RecoverService", `{"wait":1}`)
	r, steps = recovered(t, doc)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "rollback", steps)
	require.Contains(t, r.Taken[0].What, "proven healthy")
	require.Equal(t, 12, r.Revision)

	// Pods that are ready and do not work: no restart is tried first.
	require.NoError(t, os.WriteFile(filepath.Join(chart, "templates", "all.yaml"), []byte(strings.Replace(shopChart, "echo open", "echo shut", 1)), 0o600))
	_, err = helm("upgrade", name, chart, "--wait", "--timeout", "1m")
	require.NoError(t, err)
	doc = s.Run(t, "RecoverService", `{"wait":1}`)
	r, steps = recovered(t, doc)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "rollback", steps)
	require.Contains(t, r.Taken[0].What, "no restart is tried first, since the pods that do not serve came with revision 13")
	require.Equal(t, 14, r.Revision)
	who.audited(t)
}

// TestAStuckReleaseIsCleared: helm was killed in the middle, lately, so a person is asked.
func TestAStuckReleaseIsCleared(t *testing.T) {
	const name = "shop-b"
	s, chart := shop(t, name)
	serve(t, s, "w")
	killed := exec.Command("helm", "--namespace", namespace, "upgrade", name, chart, "--set", "image=upkeep.test/nothing:dev", "--wait")
	require.NoError(t, killed.Start())
	require.NoError(t, until(30*time.Second, func() error {
		_, err := kubectl("get", "secret", "sh.helm.release.v1."+name+".v2")
		return err
	}))
	require.NoError(t, until(30*time.Second, func() error {
		reasons, err := kubectl("get", "pods", "-l", "app="+name+"-web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if err == nil && !strings.Contains(reasons, "ErrImageNeverPull") {
			err = fmt.Errorf("the image is not missed yet: %s", reasons)
		}
		return err
	}))
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait() // it was killed
	id := s.Start(t, "RecoverService", `{"wait":1}`)
	require.Contains(t, approve(t, s, id).WaitingFor, "somebody's helm may still run")
	doc := s.Await(t, id)
	_, steps := recovered(t, doc)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Equal(t, "clear rollback", steps)
}

// TestADryRunNeedsNoRightToWrite: it succeeds under a role that has none.
func TestADryRunNeedsNoRightToWrite(t *testing.T) {
	const name = "shop-c"
	s, _ := shop(t, name)
	who := narrow(t, s, "looker", "--procedure", "RecoverService", "--dry-run-only")
	if allInPods {
		serveAs(t, s, []string{"--procedure", "RecoverService", "--dry-run-only"})
	} else {
		serve(t, s, "w", who.env())
	}
	calm := s.Run(t, "RecoverService", `{"dryRun":true}`)
	require.Equal(t, run.Succeeded, calm.Outcome, calm.Summary)
	breakShop(t, name, wedge)
	doc := s.Run(t, "RecoverService", `{"dryRun":true}`)
	r, steps := recovered(t, doc)
	require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
	require.Empty(t, steps)
	require.Contains(t, r.Next, "restart pod")
	require.Equal(t, run.Fail, r.Verdict)
	who.audited(t)
}

func revisions(t *testing.T, name string) int {
	t.Helper()
	text, err := helm("history", name, "-o", "json")
	require.NoError(t, err)
	var all []struct{ Revision int }
	require.NoError(t, json.Unmarshal([]byte(text), &all))
	return all[len(all)-1].Revision
}
