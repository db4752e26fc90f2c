//go:build e2e

// Package e2e tests on a real cluster. "make e2e" runs it: on the cluster of KUBECONFIG, or on one that
// it brings up. Without a cluster it fails; it never skips.
package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
)

const (
	release = stack.Release
	chart   = "../../stack/chart"
)

// namespace has a name of its own in every run: on somebody's cluster nothing else is touched.
var namespace = fmt.Sprintf("upkeep-e2e-%d", time.Now().Unix())

// clients are pods from which the tests call: one that the policies let in to the service, one that
// they let in to Prometheus, and one that they do not know.
const clients = `
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "friend", "labels": {"access": "langfuse"}}, "spec": %[1]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "watcher", "labels": {"access": "prometheus"}}, "spec": %[1]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": %[1]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "open", "labels": {"app": "open"}}, "spec": %[2]s}
]}`

const client = `{"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main",
  "image": "upkeep.test/busybox:dev", "imagePullPolicy": "Never", "command": ["sh", "-c", %q]}]}`

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		log.Fatal("no cluster: KUBECONFIG is not set; \"make e2e\" brings one up")
	}
	if err := setUp(); err != nil {
		log.Print(err)
		describe()
		tearDown()
		os.Exit(1)
	}
	code := m.Run()
	harness.RemoveBinaries()
	if code != 0 {
		describe()
	}
	if err := tearDown(); err != nil && code == 0 {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

func setUp() error {
	here := stack.Namespace(namespace)
	if err := here.Create(); err != nil {
		return err
	}
	pods := fmt.Sprintf(clients, fmt.Sprintf(client, "sleep 100000"), fmt.Sprintf(client, "mkdir /tmp/www; echo open > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"))
	if err := here.Apply(pods); err != nil {
		return err
	}
	if err := here.Install(chart, "--set", "langfuse.schema=1"); err != nil {
		return err
	}
	_, err := kubectl("wait", "--for=condition=Ready", "pod/friend", "pod/watcher", "pod/stranger", "pod/open", "--timeout=60s")
	return err
}

// tearDown removes the namespaces and waits, so that their volumes are gone too.
func tearDown() error {
	err := errors.Join(stack.Namespace(namespace).Remove(), stack.Namespace(home).Remove())
	if all, made := charts(); made == nil {
		err = errors.Join(err, os.RemoveAll(all))
	}
	return err
}

// describe shows what a person would look at first after a failure.
func describe() {
	for _, args := range [][]string{{"get", "pods,pvc,jobs", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"}} {
		if output, err := kubectl(args...); err == nil {
			lines := strings.Split(strings.TrimSpace(output), "\n")
			log.Printf("kubectl %s:\n%s", strings.Join(args, " "), strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
}

func kubectl(args ...string) (string, error) { return stack.Namespace(namespace).Kubectl(args...) }

func helm(args ...string) (string, error) { return stack.Namespace(namespace).Helm(args...) }

func command(within time.Duration, stdin, name string, args ...string) (string, error) {
	return stack.Command(within, stdin, name, args...)
}

// fetch gets a URL from within a pod.
func fetch(pod, url string) (string, error) {
	return kubectl("exec", pod, "--", "timeout", "5", "wget", "-qO-", url)
}

func until(within time.Duration, look func() error) error { return stack.Until(within, look) }

// count is what the service says of its database.
type count struct{ Count, Schema int }

func counted() (c count, err error) {
	answer, err := fetch("friend", "http://"+release+"-langfuse:3000/traces/count")
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(answer), &c)
}

func write(name string) error {
	answer, err := kubectl("exec", "friend", "--", "timeout", "5", "wget", "-qO-", "--post-data", fmt.Sprintf(`{"name": %q}`, name), "http://"+release+"-langfuse:3000/traces")
	if err == nil && !strings.Contains(answer, `"id"`) {
		err = errors.New("a trace was written and has no id: " + answer)
	}
	return err
}
