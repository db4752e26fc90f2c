//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.temporal.io/sdk/client"

	api "github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/stack"
	"github.com/upkeep-run/upkeep/internal/evidence"
	"github.com/upkeep-run/upkeep/internal/procread"
	"github.com/upkeep-run/upkeep/internal/quarantine"
)

// scene is a namespace of its own: a database's stand-in, which a policy guards, those who may talk to it, each
// of another kind, one of them an intruder that holds a connection open, and policies that let everybody through
// for want of a label.
const scene = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"selector": {"app": "db"}, "ports": [{"port": 80, "targetPort": 8080}]}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "guard"}, "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"access": "db"}}}]}]}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "all-out"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "not-db-in"}, "spec": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}, "ingress": [{}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}}, "spec": %[1]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "intruder", "labels": {"access": "db", "note": "kept"}}, "spec": %[2]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour", "labels": {"access": "db"}}, "spec": %[2]s},
  {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web", "access": "db"}}, "spec": %[1]s}}},
  {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "store"}, "spec": {"serviceName": "store", "selector": {"matchLabels": {"app": "store"}}, "template": {"metadata": {"labels": {"app": "store", "access": "db"}}, "spec": %[1]s}}},
  {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent", "access": "db"}}, "spec": %[1]s}}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host", "labels": {"access": "db"}}, "spec": %[3]s}
]}`

// talks is a pod that holds one connection open and talks over it: its log has a line for each connection, and
// for each answer.
const talks = `while :; do echo opened; (while :; do echo hello; sleep 0.2; done) | nc db 81 | while read l; do echo "answer $l $(date +%s)"; done; sleep 0.2; done`

// scened is the target of a scene, with pods that probe and pods that read.
func scened(here stack.Namespace) string {
	return fmt.Sprintf("  - name: crime\n    kubernetes: {namespace: %s, network: {prober: {image: \"upkeep:%[2]s\"}}, incidents: {reader: {image: \"upkeep:%[2]s\"}}}\n", here, imageTag())
}

// crime sets the scene.
func crime(t *testing.T) stack.Namespace {
	t.Helper()
	here := stack.Namespace(fmt.Sprintf("%s-crime-%d", namespace, time.Now().UnixNano()%1e6))
	require.NoError(t, here.Create())
	t.Cleanup(func() { require.NoError(t, here.Remove()) })
	serve := fmt.Sprintf(client, "mkdir /tmp/www; echo open > /tmp/www/index.html; nc -ll -p 8081 -e cat & httpd -f -p 8080 -h /tmp/www")
	sleep := fmt.Sprintf(client, talks)
	host := strings.Replace(fmt.Sprintf(client, "sleep 100000"), "{", `{"hostNetwork": true, `, 1)
	text := strings.Replace(fmt.Sprintf(scene, serve, sleep, host), `"targetPort": 8080}]`, `"targetPort": 8080, "name": "http"}, {"port": 81, "targetPort": 8081, "name": "echo"}]`, 1)
	require.NoError(t, here.Apply(text))
	for _, what := range []string{"deployment/web", "statefulset/store", "daemonset/agent"} {
		_, err := here.Kubectl("rollout", "status", what, "--timeout=80s")
		require.NoError(t, err)
	}
	_, err := here.Kubectl("wait", "--for=condition=Ready", "pod/db", "pod/intruder", "pod/neighbour", "pod/host", "--timeout=80s")
	require.NoError(t, err)
	return here
}

// fetches gets the database's page from within a pod.
func fetches(here stack.Namespace, pod string) error {
	answer, err := here.Kubectl("exec", pod, "--", "timeout", "3", "wget", "-qO-", "http://db/index.html")
	if err == nil && strings.TrimSpace(answer) != "open" {
		err = errors.New("it answers " + answer)
	}
	return err
}

// talk is how many connections a pod has opened so far, and how many answers it has had.
type talk struct{ opened, answered int }

func talked(t *testing.T, here stack.Namespace, pod string) talk {
	t.Helper()
	log, err := here.Kubectl("logs", pod)
	require.NoError(t, err)
	return talk{strings.Count(log, "opened"), strings.Count(log, "answer hello")}
}

// goesOn waits until a pod has had so many more answers, and returns what it has had then.
func goesOn(t *testing.T, here stack.Namespace, pod string, answers int) (now talk) {
	t.Helper()
	was := talked(t, here, pod)
	require.NoError(t, until(time.Minute, func() error {
		if now = talked(t, here, pod); now.answered < was.answered+answers {
			return fmt.Errorf("%s has had %+v, and now %+v", pod, was, now)
		}
		return nil
	}))
	return now
}

// begins waits until a pod has answers over a connection, and returns what it has had then. One that was opened while
// the network was still learning of the pods may hang: it is ended, and the pod opens another.
func begins(t *testing.T, here stack.Namespace, pod string) (now talk) {
	t.Helper()
	was, looks := talked(t, here, pod), 0
	require.NoError(t, until(time.Minute, func() error {
		if now = talked(t, here, pod); now.answered > was.answered {
			return nil
		}
		if looks++; looks%20 == 0 {
			_, _ = here.Kubectl("exec", pod, "--", "killall", "nc") // it may open one just now
		}
		return fmt.Errorf("%s has had %+v, and now %+v", pod, was, now)
	}))
	return now
}

// one names a pod of a workload.
func one(t *testing.T, here stack.Namespace, app string) string {
	t.Helper()
	name, err := here.Kubectl("get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[0].metadata.name}")
	require.NoError(t, err)
	return strings.TrimSpace(name)
}

// decides decides on the plan that a run waits with; not is one that was decided on before.
func decides(t *testing.T, s *harness.Stack, id, update, not string) *run.Document {
	t.Helper()
	doc := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() && d.Approval.Hash != not })
	require.True(t, doc.AsksApproval(), doc.Summary)
	h, err := s.Client.UpdateWorkflow(t.Context(), sdk.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: update, WaitForStage: sdk.WorkflowUpdateStageCompleted,
		Args: []any{run.PlanDecision{Plan: doc.Approval.Hash, By: "test", Reason: "seen to"}},
	})
	require.NoError(t, err)
	require.NoError(t, h.Get(t.Context(), nil))
	return doc
}

// shapes is what of a namespace a quarantine changes: the labels of pods by their names, and the policies.
func shapes(t *testing.T, here stack.Namespace, names ...string) string {
	t.Helper()
	pods, err := here.Kubectl(append([]string{"get", "pod", "-o", "jsonpath={range .items[*]}{.metadata.name} {.metadata.labels}{\"\\n\"}{end}"}, names...)...)
	require.NoError(t, err)
	policies, err := here.Kubectl("get", "networkpolicies", "-o", "jsonpath={range .items[*]}{.metadata.name} {.spec}{\"\\n\"}{end}")
	require.NoError(t, err)
	return pods + policies
}

func TestContainIncident(t *testing.T) {
	beside(t, ownAccounts)
	t.Parallel()
	here := crime(t)
	s := harness.New(t, scened(here))
	who := narrow(t, s, "incident", "--procedure", api.WorkflowType)
	// What pods may do in the whole cluster is asked of it besides, as what "upkeep rbac" prints says.
	everywhere := string(here)
	_, err := kubectl("create", "clusterrole", everywhere, "--verb=list", "--resource=clusterroles,clusterrolebindings")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "clusterrole,clusterrolebinding", everywhere)
		require.NoError(t, err)
	})
	_, err = kubectl("create", "clusterrolebinding", everywhere, "--clusterrole="+everywhere, "--serviceaccount="+namespace+":incident")
	require.NoError(t, err)
	s.Worker(t, "w", who.env())
	for _, pod := range []string{"intruder", "neighbour"} {
		require.NoError(t, until(time.Minute, func() error { return fetches(here, pod) }))
	}
	begins(t, here, "intruder")
	opened := begins(t, here, "neighbour").opened
	suspects := []string{"intruder", one(t, here, "web"), "store-0", one(t, here, "agent")}
	before := shapes(t, here, suspects...)
	input := fmt.Sprintf(`{"reason":"it talks \u001b[31mtoo much","pods":"%s,host"}`, strings.Join(suspects, ","))

	dry := s.Run(t, api.WorkflowType, strings.Replace(input, "{", `{"dryRun":true,`, 1))
	require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
	require.Equal(t, before, shapes(t, here, suspects...), "a dry run changes nothing")

	input = strings.Replace(input, "{", `{"event":"alert-7",`, 1)
	id := s.Start(t, api.WorkflowType, input)
	require.Equal(t, id, s.Start(t, api.WorkflowType, input), "an event is one case, however often it is reported")
	asks := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() })
	require.True(t, asks.AsksApproval(), asks.Summary)
	var found api.Result
	require.NoError(t, json.Unmarshal(asks.Result, &found))
	t.Logf("cut off %.3f s after the run was opened", found.ContainSeconds)
	require.Len(t, found.Contained, len(suspects))
	require.Len(t, found.Narrowed, 2, "the policies that need no label")
	require.Len(t, found.NotContained, 1)
	require.Contains(t, found.NotContained[0], "its node's network")
	verdicts, details := map[string]run.Verdict{}, map[string]string{}
	for _, c := range found.Checks {
		verdicts[c.Name], details[c.Name] = c.Verdict, c.Detail
		t.Log(c.Name, c.Verdict, c.Detail)
	}
	require.Equal(t, run.Pass, verdicts["policies"])
	require.Equal(t, run.Pass, verdicts["what goes out"], "by pods with the labels of each, which could before")
	require.Equal(t, run.NotProven, verdicts["what comes in"], "some have no port, or nobody like them")
	require.Equal(t, run.NotProven, verdicts["pod "+string(here)+"/host"])
	left, err := here.Kubectl("get", "pods,configmaps", "-l", "upkeep.run/probe", "-o", "name")
	require.NoError(t, err)
	require.Empty(t, left)

	ends := run.PartiallySucceeded
	t.Run("nothing new gets through, and its neighbours notice nothing", func(t *testing.T) {
		require.NoError(t, until(20*time.Second, func() error {
			if fetches(here, "intruder") == nil {
				return errors.New("it reaches the database")
			}
			return nil
		}))
		require.NoError(t, fetches(here, "neighbour"))
		was := talked(t, here, "intruder")
		require.Equal(t, opened, goesOn(t, here, "neighbour", 10).opened, "it has the connection that it had")
		now := talked(t, here, "intruder")
		t.Logf("the connection that the intruder had open: %+v, then %+v", was, now)
		// Whether the network has ended it is the network's affair: the report must say which.
		lives := now.opened == was.opened && now.answered > was.answered
		require.Equal(t, lives, verdicts[quarantine.OldConnections] == run.Fail, "%s", details[quarantine.OldConnections])
		require.Equal(t, lives, len(found.Urgent) > 0)
		if lives {
			old := fmt.Sprintf("an old connection of %s/intruder to ", here)
			require.Contains(t, found.Urgent[0], old)
			require.Contains(t, found.Urgent[0], fmt.Sprintf(":81 (Service %s/db) lives on: delete the pod now", here))
			require.Contains(t, asks.Summary, old)
			require.Contains(t, asks.Approval.Words, old)
			require.Contains(t, fmt.Sprint(found.FollowUps), old)
			require.Equal(t, run.Fail, found.Verdict)
			ends = run.Failed
		} else {
			require.Equal(t, run.Pass, verdicts[quarantine.OldConnections], "it was seen to end, or to send in vain: %s", details[quarantine.OldConnections])
			require.Equal(t, run.NotProven, found.Verdict, "host is at large")
		}
		labels, err := here.Kubectl("get", "pod", "intruder", "-o", "jsonpath={.metadata.labels}")
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"note":"kept","upkeep.run/quarantine":%q}`, found.Case), labels)
		_, err = here.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		require.NoError(t, err, "another is made in its place")
	})

	t.Run("the evidence is whole, and whatever is done to it is found", func(t *testing.T) {
		folder := strings.TrimPrefix(found.Evidence, "file://")
		whole := s.Upkeep(t, "evidence", "verify", folder, "--head", found.EvidenceHead)
		require.Equal(t, 0, whole.Code, "%s%s", whole.Out, whole.Err)
		items, err := filepath.Glob(filepath.Join(folder, "items", "*"))
		require.NoError(t, err)
		require.NotEmpty(t, items)
		read := processes(t, folder)
		require.Len(t, read, len(suspects)+1, "those of host are evidence too")
		intruder := read["processes/"+string(here)+"/intruder.json"]
		require.True(t, slices.ContainsFunc(intruder.First.Processes, func(p procread.Process) bool {
			return slices.Equal(p.Argv, []string{"nc", "db", "81"}) && strings.Contains(p.Exe, "busybox") && p.Container != ""
		}), "%+v", intruder.First.Processes)
		require.True(t, slices.ContainsFunc(intruder.First.Sockets, func(s procread.Socket) bool { return s.Remote.Port() == 81 }), "%+v", intruder.First.Sockets)
		copied := t.TempDir()
		require.NoError(t, os.CopyFS(copied, os.DirFS(folder)))
		require.NoError(t, os.Remove(filepath.Join(copied, "items", filepath.Base(items[0]))))
		require.Equal(t, 1, s.Upkeep(t, "evidence", "verify", copied, "--head", found.EvidenceHead).Code)
	})

	rejected := decides(t, s, id, run.RejectUpdate, "")
	asks = decides(t, s, id, run.ApproveUpdate, rejected.Approval.Hash)
	require.Contains(t, asks.Approval.Words, "one too many")
	require.Contains(t, asks.Approval.Words, "takes it back as the pod of its name")
	doc := s.Await(t, id)
	require.Equal(t, ends, doc.Outcome, doc.Summary)
	require.NoError(t, until(20*time.Second, func() error { return fetches(here, "intruder") }))
	bare := shapes(t, here, "intruder", "store-0")
	require.NotContains(t, bare, "quarantine", "policies and labels are what they were")
	owner, err := here.Kubectl("get", "pod", "store-0", "-o", "jsonpath={.metadata.ownerReferences[0].kind}")
	require.NoError(t, err)
	require.Equal(t, "StatefulSet", strings.TrimSpace(owner))
	page, err := os.ReadFile(strings.TrimSuffix(strings.TrimPrefix(doc.Report, "file://"), "html") + "md")
	require.NoError(t, err)
	require.NotContains(t, string(page), "\x1b")

	t.Run("another case ends with the pods deleted", func(t *testing.T) {
		id := s.Start(t, api.WorkflowType, `{"reason":"again","pods":"intruder,store-0"}`)
		decides(t, s, id, run.ApproveUpdate, "")
		doc := s.Await(t, id)
		require.Equal(t, ends, doc.Outcome, doc.Summary)
		_, err := here.Kubectl("get", "pod", "intruder")
		require.ErrorContains(t, err, "NotFound")
		_, err = here.Kubectl("rollout", "status", "statefulset/store", "--timeout=60s")
		require.NoError(t, err)
		require.NotContains(t, shapes(t, here, "store-0", "neighbour"), "quarantine")
		require.Equal(t, opened, goesOn(t, here, "neighbour", 5).opened, "from the beginning to the end")
	})
	who.audited(t, "create networkpolicies.networking.k8s.io") // asked for by a patch that makes it
}

// processes are those of the suspects that are among the evidence in a folder, by the names of the items.
func processes(t *testing.T, folder string) map[string]procread.Seen {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(folder, "custody", "*"))
	require.NoError(t, err)
	all := map[string]procread.Seen{}
	for _, segment := range segments {
		data, err := os.ReadFile(segment)
		require.NoError(t, err)
		for line := range strings.Lines(string(data)) {
			var e evidence.Entry
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			if e.Kind != evidence.KindItem || !strings.HasPrefix(e.Name, "processes/") {
				continue
			}
			item, err := os.ReadFile(filepath.Join(folder, "items", e.SHA256))
			require.NoError(t, err)
			var seen procread.Seen
			require.NoError(t, json.Unmarshal(item, &seen))
			all[e.Name] = seen
		}
	}
	return all
}

// TestAReaderThatPodSecurityForbidsHoldsNothingUp: what cannot be read is said, and the rest is as ever.
func TestAReaderThatPodSecurityForbidsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	here := stack.Namespace(fmt.Sprintf("%s-guarded-%d", namespace, time.Now().UnixNano()%1e6))
	require.NoError(t, here.Create())
	t.Cleanup(func() { require.NoError(t, here.Remove()) })
	_, err := kubectl("label", "namespace", string(here), "pod-security.kubernetes.io/enforce=baseline")
	require.NoError(t, err)
	plain := fmt.Sprintf(client, "sleep 100000")
	require.NoError(t, here.Apply(fmt.Sprintf(small, plain, plain, here)))
	_, err = here.Kubectl("wait", "--for=condition=Ready", "pod/db", "pod/intruder", "--timeout=80s")
	require.NoError(t, err)
	s := harness.New(t, scened(here))
	serve(t, s, "w")
	id := s.Start(t, api.WorkflowType, `{"reason":"a trial","pods":"intruder"}`)
	decides(t, s, id, run.ApproveUpdate, "")
	doc := s.Await(t, id)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	var r api.Result
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	require.Equal(t, api.Deleted, r.Ended)
	require.Empty(t, r.Urgent)
	i := slices.IndexFunc(r.Checks, func(c run.Check) bool { return c.Name == quarantine.OldConnections })
	require.Equal(t, run.NotProven, r.Checks[i].Verdict)
	require.Contains(t, r.Checks[i].Detail, "PodSecurity")
	require.Contains(t, r.Checks[i].Detail, "delete the pods to be sure")
	if !allInPods {
		require.Empty(t, processes(t, strings.TrimPrefix(r.Evidence, "file://")))
		require.NotZero(t, r.EvidenceGaps)
	}
	left, err := here.Kubectl("get", "pods,configmaps", "-l", "upkeep.run/probe", "-o", "name")
	require.NoError(t, err)
	require.Empty(t, left)
}

// small is a scene for one suspect, among what a quarantine changes and what it leaves alone. Its account is in a
// binding with another's, and a neighbour runs as it too.
const small = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "friend"}},
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "intruder", "annotations": {"note": "kept"}}, "imagePullSecrets": [{"name": "registry"}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reads"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    "subjects": [{"kind": "ServiceAccount", "name": "intruder", "namespace": %[3]q}, {"kind": "ServiceAccount", "name": "friend", "namespace": %[3]q}]},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"selector": {"app": "db"}, "ports": [{"port": 8080}]}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "all-out"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}}, "spec": %[1]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour", "labels": {"app": "neighbour"}}, "spec": %[2]s},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "intruder", "labels": {"app": "db", "note": "kept"}}, "spec": %[2]s}
]}`

// setSmall sets the small scene.
func setSmall(t *testing.T) stack.Namespace {
	t.Helper()
	here := stack.Namespace(fmt.Sprintf("%s-crime-%d", namespace, time.Now().UnixNano()%1e9))
	require.NoError(t, here.Create())
	t.Cleanup(func() { require.NoError(t, here.Remove()) })
	plain := fmt.Sprintf(client, "sleep 100000")
	require.NoError(t, here.Apply(fmt.Sprintf(small, plain, strings.Replace(plain, "{", `{"serviceAccountName": "intruder", `, 1), here)))
	_, err := here.Kubectl("wait", "--for=condition=Ready", "pod/db", "pod/intruder", "pod/neighbour", "--timeout=80s")
	require.NoError(t, err)
	return here
}

// bound is who is in the binding of the small scene.
func bound(t *testing.T, here stack.Namespace) string {
	t.Helper()
	names, err := here.Kubectl("get", "rolebinding", "reads", "-o", "jsonpath={.subjects[*].name}")
	require.NoError(t, err)
	return strings.TrimSpace(names)
}

// withAccess is the configuration of a target that lets a case change what the small scene has of access.
const withAccess = "  - name: crime\n    kubernetes: {namespace: %[1]s, incidents: {reader: {image: %[2]q}, access: {roles: [reader], accounts: [intruder]}}, network: {prober: {image: %[2]q}}}\n    database: {url: \"postgres://nobody@127.0.0.1:1/none\"}\n"

// contains is a trial of ContainIncident, whose suspect is deleted in the end, and whose account is made anew.
func contains(t *testing.T) trial {
	t.Helper()
	here := setSmall(t)
	before := shapes(t, here, "db")
	s := harness.New(t, fmt.Sprintf(withAccess, here, "upkeep:"+imageTag()))
	return trial{
		stack: s, procedure: api.WorkflowType, input: `{"reason":"a trial","pods":"intruder","access":"withdraw","giveAccessBack":true,"recreateAccount":true}`,
		look: func(t *testing.T) string {
			account, err := here.Kubectl("get", "serviceaccount", "intruder", "-o", "jsonpath={.metadata.uid} {.metadata.annotations} {.imagePullSecrets}")
			require.NoError(t, err)
			return shapes(t, here, "db") + bound(t, here) + account
		},
		holds: func(t *testing.T, doc *run.Document, _ int) {
			require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
			_, err := here.Kubectl("get", "pod", "intruder")
			require.ErrorContains(t, err, "NotFound")
			require.Equal(t, before, shapes(t, here, "db"), "nothing of the quarantine is left")
			require.ElementsMatch(t, []string{"friend", "intruder"}, strings.Fields(bound(t, here)))
			left, err := here.Kubectl("get", "pods,configmaps", "-l", "upkeep.run/probe", "-o", "name")
			require.NoError(t, err)
			require.Empty(t, left)
			var r api.Result
			require.NoError(t, json.Unmarshal(doc.Result, &r))
			require.Equal(t, api.Deleted, r.Ended)
			if !allInPods {
				whole := s.Upkeep(t, "evidence", "verify", strings.TrimPrefix(r.Evidence, "file://"), "--head", r.EvidenceHead)
				require.Equal(t, 0, whole.Code, "%s%s", whole.Out, whole.Err)
			}
		},
	}
}

// may reports whether an account may do what the binding of the small scene gives.
func may(t *testing.T, here stack.Namespace, account string) bool {
	t.Helper()
	answer, err := here.Kubectl("auth", "can-i", "get", "configmaps", "--as", fmt.Sprintf("system:serviceaccount:%s:%s", here, account))
	answer = strings.TrimSpace(answer)
	require.True(t, answer == "yes" || answer == "no" || err != nil, answer)
	return answer == "yes"
}

// verdicts are the checks of a case by their names.
func verdicts(t *testing.T, doc *run.Document) (r api.Result, of map[string]run.Verdict) {
	t.Helper()
	require.NoError(t, json.Unmarshal(doc.Result, &r))
	of = map[string]run.Verdict{}
	for _, c := range r.Checks {
		of[c.Name] = c.Verdict
		t.Log(c.Name, c.Verdict, c.Detail)
	}
	return r, of
}

// good reports whether the API server takes a token.
func good(t *testing.T, token string) bool {
	t.Helper()
	review := fmt.Sprintf(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": %q}}`, token)
	answer, err := command(time.Minute, review, "kubectl", "create", "-f", "-", "-o", "jsonpath={.status.authenticated}")
	require.NoError(t, err)
	return strings.TrimSpace(answer) == "true"
}

// TestASuspectsAccessIsWithdrawnAndItsAccountMadeAnew: by a worker that has what "upkeep rbac" prints.
func TestASuspectsAccessIsWithdrawnAndItsAccountMadeAnew(t *testing.T) {
	beside(t, ownAccounts)
	t.Parallel()
	here := setSmall(t)
	config := strings.NewReplacer(`reader: {image: "x"}, `, "", `, network: {prober: {image: "x"}}`, "").Replace(fmt.Sprintf(withAccess, here, "x"))
	s := harness.New(t, config)
	who := narrow(t, s, "access", "--procedure", api.WorkflowType)
	everywhere := string(here)
	_, err := kubectl("create", "clusterrole", everywhere, "--verb=list", "--resource=clusterroles") // for the evidence
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "clusterrole,clusterrolebinding", everywhere)
		require.NoError(t, err)
	})
	_, err = kubectl("create", "clusterrolebinding", everywhere, "--clusterrole="+everywhere, "--serviceaccount="+namespace+":access")
	require.NoError(t, err)
	s.Worker(t, "w", who.env())
	token, err := here.Kubectl("create", "token", "intruder")
	require.NoError(t, err)
	token = strings.TrimSpace(token)
	require.True(t, good(t, token))
	require.True(t, may(t, here, "intruder"))
	had, err := here.Kubectl("get", "serviceaccount", "intruder", "-o", "jsonpath={.metadata.uid}")
	require.NoError(t, err)

	dry := s.Run(t, api.WorkflowType, `{"dryRun":true,"reason":"a token is out","pods":"intruder","access":"withdraw"}`)
	require.Equal(t, run.Succeeded, dry.Outcome, dry.Summary)
	require.Contains(t, dry.Summary, "out of RoleBinding "+string(here)+"/reads")
	require.Contains(t, dry.Summary, "is also what neighbour runs as")
	require.Equal(t, "intruder friend", bound(t, here))

	id := s.Start(t, api.WorkflowType, `{"reason":"a token is out","pods":"intruder","access":"withdraw","recreateAccount":true}`)
	asks := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() })
	require.True(t, asks.AsksApproval(), asks.Summary)
	r, of := verdicts(t, asks)
	require.Equal(t, []string{"RoleBinding " + string(here) + "/reads"}, r.Withdrawn)
	require.Equal(t, run.Pass, of["what the accounts may do"])
	require.NotContains(t, of, "what others may do")
	require.Equal(t, "friend", bound(t, here))
	require.False(t, may(t, here, "intruder"))
	require.True(t, may(t, here, "friend"), "who else is in the binding keeps its rights")
	require.Contains(t, asks.Approval.Words, "anew, which ends every token of it, also those of neighbour")

	decides(t, s, id, run.ApproveUpdate, "")
	doc := s.Await(t, id)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	r, _ = verdicts(t, doc)
	require.Equal(t, []string{string(here) + "/intruder"}, r.Renewed)
	require.Contains(t, strings.Join(r.FollowUps, "\n"), "the tokens of neighbour ended")
	account, err := here.Kubectl("get", "serviceaccount", "intruder", "-o", "jsonpath={.metadata.uid} {.metadata.annotations.note} {.imagePullSecrets[0].name}")
	require.NoError(t, err)
	require.NotContains(t, account, strings.TrimSpace(had))
	require.Contains(t, account, " kept registry")
	require.NoError(t, until(30*time.Second, func() error { // the API server remembers for ten seconds what it has found good
		if good(t, token) {
			return errors.New("a token that was copied is still good")
		}
		return nil
	}))
	_, err = here.Kubectl("get", "pod", "neighbour")
	require.NoError(t, err)

	require.False(t, may(t, here, "intruder"), "it stays out")
	i := slices.IndexFunc(r.FollowUps, func(f string) bool { return strings.Contains(f, "stay out of RoleBinding") })
	require.GreaterOrEqual(t, i, 0, r.FollowUps)
	_, byHand, _ := strings.Cut(r.FollowUps[i], "is mended: ")
	_, err = command(time.Minute, "", "sh", "-c", byHand)
	require.NoError(t, err, byHand)
	require.Equal(t, "friend intruder", bound(t, here), "the command of the report gives it back")
	who.audited(t, "create networkpolicies.networking.k8s.io", "bind roles.rbac.authorization.k8s.io", "update serviceaccounts")
}

// TestAWorkerThatMayNotBind leaves the access, and says with what an admin takes it away or grants the right; granted,
// the case goes on with it. Let go of, the suspect gets it back beside what somebody has changed.
func TestAWorkerThatMayNotBind(t *testing.T) {
	beside(t, ownAccounts)
	t.Parallel()
	here := setSmall(t)
	s := harness.New(t, fmt.Sprintf("  - name: crime\n    kubernetes: {namespace: %s}\n    database: {url: \"postgres://nobody@127.0.0.1:1/none\"}\n", here))
	who := narrow(t, s, "unbound", "--procedure", api.WorkflowType)
	s.Worker(t, "w", who.env())
	id := s.Start(t, api.WorkflowType, `{"reason":"a token is out","pods":"intruder","access":"withdraw"}`)
	asks := s.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.AsksApproval() })
	require.True(t, asks.AsksApproval(), asks.Summary)
	r, of := verdicts(t, asks)
	require.Equal(t, run.NotProven, of["access that is left"])
	require.Empty(t, r.Withdrawn)
	require.Equal(t, "intruder friend", bound(t, here))
	i := slices.IndexFunc(r.FollowUps, func(f string) bool { return strings.Contains(f, "to take them out: kubectl patch rolebinding reads") })
	require.GreaterOrEqual(t, i, 0, r.FollowUps)
	words, allow, _ := strings.Cut(r.FollowUps[i], "; or let Upkeep do it the next time: ")
	_, byHand, _ := strings.Cut(words, "to take them out: ")
	_, err := command(time.Minute, "", "sh", "-c", byHand+" --dry-run=server")
	require.NoError(t, err, byHand)
	_, err = command(time.Minute, "", "sh", "-c", allow)
	require.NoError(t, err, allow)

	rejected := decides(t, s, id, run.RejectUpdate, "")
	asks = s.Until(t, id, func(d *run.Document) bool {
		return d.Outcome.Ended() || d.AsksApproval() && d.Approval.Hash != rejected.Approval.Hash
	})
	r, _ = verdicts(t, asks)
	require.Equal(t, []string{"RoleBinding " + string(here) + "/reads"}, r.Withdrawn)
	require.Equal(t, "friend", bound(t, here))
	_, err = here.Kubectl("patch", "rolebinding", "reads", "--type=json", "-p",
		fmt.Sprintf(`[{"op":"add","path":"/subjects/-","value":{"kind":"ServiceAccount","name":"default","namespace":%q}}]`, here))
	require.NoError(t, err)
	// Asked once more for both, so that the plan is made of what is there now.
	before := asks.Approval.Hash
	decides(t, s, id, run.RejectUpdate, rejected.Approval.Hash)
	again := decides(t, s, id, run.RejectUpdate, before)
	asks = decides(t, s, id, run.ApproveUpdate, again.Approval.Hash)
	require.Contains(t, asks.Approval.Words, "somebody has changed who else is in it, and that stays")
	doc := s.Await(t, id)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	require.Equal(t, "friend default intruder", bound(t, here))
}

func TestAKilledContainmentGoesOn(t *testing.T) {
	t.Parallel()
	every(t, containCases(), []string{"quarantine/pod/after"}, func(t *testing.T, point string) {
		contains(t).killed(t, point)
	})
}

func TestATwinOfAContainmentChangesNothing(t *testing.T) {
	t.Parallel()
	every(t, before(slices.DeleteFunc(containCases(), func(c string) bool { return !strings.HasPrefix(c, "quarantine/") })), []string{"quarantine/pod/before"}, func(t *testing.T, point string) {
		contains(t).doubled(t, point)
	})
}

func TestTheButtonsPressedOnAContainment(t *testing.T) {
	t.Parallel()
	every(t, either(containCases()), []string{"terminate/quarantine/delete/after"}, func(t *testing.T, c string) {
		how, point, _ := strings.Cut(c, "/")
		contains(t).pressed(t, how, point)
	})
}
