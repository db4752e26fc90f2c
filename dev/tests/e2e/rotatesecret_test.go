//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	api "github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
)

// tenant is a program of its own on the stack's database, with a Secret of its own: its role and password in
// two keys, and a salt that nobody may touch. Its pods always have a session.
type tenant struct {
	name  string
	stack *harness.Stack
}

var tenants atomic.Int64

const tenantObjects = `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "%[1]s-db"}, "stringData": {"user": "%[1]s", "password": "first-%[1]s", "SALT": "pepper"}},
  {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "%[1]s"}, "spec": {"replicas": %[4]d, "selector": {"matchLabels": {"app": "%[1]s"}},
    "template": {"metadata": {"labels": {"app": "%[1]s", "app.kubernetes.io/name": "langfuse-migrate"}}, "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "securityContext": {"runAsUser": 999},
      "containers": [{"name": "main", "image": "upkeep.test/postgres:dev", "imagePullPolicy": "Never",
        "command": ["sh", "-c", "PGOPTIONS='-c client_connection_check_interval=500' exec psql -h %[2]s-postgresql -U $USER_OF -d %[3]s -v ON_ERROR_STOP=1 -c 'SELECT pg_sleep(36000)'"],
        "readinessProbe": {"periodSeconds": 2, "timeoutSeconds": 5, "exec": {"command": ["sh", "-c", "psql -h %[2]s-postgresql -U $USER_OF -d %[3]s -XAtc 'INSERT INTO %[1]s.beats DEFAULT VALUES'"]}},
        "env": [{"name": "USER_OF", "valueFrom": {"secretKeyRef": {"name": "%[1]s-db", "key": "user"}}}, {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "%[1]s-db", "key": "password"}}}]}]}}}}
]}`

func newTenant(t *testing.T, replicas int) tenant {
	t.Helper()
	x := tenant{name: fmt.Sprintf("tenant%d", tenants.Add(1))}
	x.sql(t, fmt.Sprintf("CREATE ROLE %[1]s LOGIN PASSWORD 'first-%[1]s'; CREATE SCHEMA %[1]s AUTHORIZATION %[1]s; CREATE TABLE %[1]s.beats (at timestamptz DEFAULT now()); ALTER TABLE %[1]s.beats OWNER TO %[1]s", x.name))
	_, err := command(time.Minute, fmt.Sprintf(tenantObjects, x.name, release, "langfuse", replicas), "kubectl", "--namespace", namespace, "apply", "-f", "-")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "--ignore-not-found", "deployment/"+x.name, "secret/"+x.name+"-db", "secret/"+x.name+"-upkeep-pending", "--wait=true")
		require.NoError(t, err)
		x.sql(t, fmt.Sprintf("DROP SCHEMA %[1]s CASCADE; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%[1]s%%'", x.name))
		x.sql(t, fmt.Sprintf("DROP ROLE IF EXISTS %[1]s_a, %[1]s_b, %[1]s", x.name))
	})
	x.ready(t, replicas)
	x.stack = harness.New(t, x.target("", fmt.Sprintf("owner: %[1]s, roles: [%[1]s_a, %[1]s_b], keys: {username: user, password: password}", x.name)))
	return x
}

// target is the stack as a target, with the tenant's secret.
func (x tenant) target(kubernetes, entry string) string {
	in := inPod("observatory", fmt.Sprintf("    secrets: [{name: %[1]s, secret: %[1]s-db, %[2]s}]\n    schedules: []\n", x.name, entry))
	return strings.Replace(in, "{namespace:", "{"+kubernetes+"namespace:", 1)
}

func (x tenant) sql(t *testing.T, text string) string {
	t.Helper()
	out, err := command(time.Minute, text, "kubectl", "--namespace", namespace, "exec", "-i", database, "--", "psql", "-XAtqU", "postgres", "-d", "langfuse", "-v", "ON_ERROR_STOP=1")
	require.NoError(t, err)
	return strings.TrimSpace(out)
}

func (x tenant) ready(t *testing.T, replicas int) {
	t.Helper()
	require.NoError(t, until(90*time.Second, func() error {
		got, err := kubectl("get", "deployment", x.name, "-o", "jsonpath={.status.readyReplicas}/{.status.updatedReplicas}/{.status.replicas}")
		if want := fmt.Sprintf("%[1]d/%[1]d/%[1]d", replicas); err == nil && got != want {
			err = fmt.Errorf("replicas: %s", got)
		}
		return err
	}))
}

// secret reads the values of the tenant's Secret.
func (x tenant) secret(t *testing.T) map[string]string {
	t.Helper()
	text, err := kubectl("get", "secret", x.name+"-db", "-o", "jsonpath={.data}")
	require.NoError(t, err)
	values := map[string]string{}
	require.NoError(t, json.Unmarshal([]byte(text), &values))
	for key, value := range values {
		raw, err := base64.StdEncoding.DecodeString(value)
		require.NoError(t, err)
		values[key] = string(raw)
	}
	return values
}

// logsIn reports whether a role is let in with a password, from another pod.
func (x tenant) logsIn(role, password string) error {
	_, err := kubectl("exec", database, "--", "env", "PGPASSWORD="+password, "psql", "-h", release+"-postgresql", "-U", role, "-d", "langfuse", "-XAtc", "SELECT 1")
	return err
}

func (x tenant) pending(t *testing.T) string {
	t.Helper()
	found, err := kubectl("get", "secret", x.name+"-upkeep-pending", "--ignore-not-found", "-o", "name")
	require.NoError(t, err)
	return strings.TrimSpace(found)
}

// look is all that a twin must not touch.
func (x tenant) look(t *testing.T) string {
	t.Helper()
	objects, err := kubectl("get", "deployment/"+x.name, "secret/"+x.name+"-db", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.uid} {.metadata.generation} {.metadata.annotations} {.data}{"\n"}{end}`)
	require.NoError(t, err)
	return objects + x.pending(t) + x.sql(t, fmt.Sprintf("SELECT rolname, rolcanlogin, rolpassword, (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid) FROM pg_authid a WHERE rolname LIKE '%s%%' ORDER BY 1", x.name))
}

// rotated checks that the Secret names the role, that it alone is let in, and that nothing is left over.
func (x tenant) rotated(t *testing.T, before map[string]string, to string) map[string]string {
	t.Helper()
	after := x.secret(t)
	require.Equal(t, to, after["user"])
	require.NotEqual(t, before["password"], after["password"])
	require.Equal(t, "pepper", after["SALT"], "no other key is written")
	require.NoError(t, x.logsIn(after["user"], after["password"]))
	require.Error(t, x.logsIn(before["user"], before["password"]))
	require.Empty(t, x.pending(t))
	require.Equal(t, "0", x.sql(t, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE usename = '%s'", before["user"])))
	require.Equal(t, x.name, x.sql(t, fmt.Sprintf("SELECT tableowner FROM pg_tables WHERE schemaname = '%s'", x.name)))
	return after
}

// asBefore checks that all is as it was before a rotation.
func (x tenant) asBefore(t *testing.T, before map[string]string, to string) {
	t.Helper()
	require.Equal(t, before, x.secret(t))
	require.NoError(t, x.logsIn(before["user"], before["password"]))
	require.Equal(t, "0", x.sql(t, fmt.Sprintf("SELECT count(*) FROM pg_roles WHERE rolname = '%s' AND rolcanlogin", to)))
	require.Empty(t, x.pending(t))
	x.ready(t, 1)
}

// nowhere checks that no value is in a history, a document, the store, a worker's log or its arguments.
func (x tenant) nowhere(t *testing.T, values ...string) {
	t.Helper()
	for _, value := range values {
		out, err := exec.Command("grep", "-rlF", "--", value, x.stack.Dir).CombinedOutput()
		require.Error(t, err, "a password is in %s", out)
		b64, err := exec.Command("grep", "-rlF", "--", strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(value)), "="), x.stack.Dir).CombinedOutput()
		require.Error(t, err, "a password is in %s", b64)
	}
}

func TestRotateSecret(t *testing.T) {
	t.Parallel()
	x := newTenant(t, 2)
	first := x.secret(t)

	t.Run("a dry run writes nothing and needs no right to", func(t *testing.T) {
		looker := x.stack.Worker(t, "looks", narrow(t, x.stack, x.name+"-looks", "--procedure", api.WorkflowType, "--dry-run-only").env())
		was := x.look(t)
		doc := x.stack.Run(t, api.WorkflowType, `{"dryRun":true}`)
		require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
		require.Contains(t, doc.Summary, "make role "+x.name+"_a with a new password, acting as "+x.name)
		require.Contains(t, doc.Summary, "restart Deployment "+x.name)
		require.Equal(t, was, x.look(t))
		looker.Kill()
	})
	serve(t, x.stack, "w")

	t.Run("keys that nobody knows to be rotatable are refused by default", func(t *testing.T) {
		was := x.look(t)
		for key, says := range map[string]string{"SALT": "a salt", "ENCRYPTION_KEY": "could never be read again", "other": "not known to be a password"} {
			doc := x.stack.Run(t, api.WorkflowType, `{"secret":"`+x.name+`-db/`+key+`"}`)
			require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
			require.Contains(t, doc.Summary, says)
		}
		require.Equal(t, was, x.look(t))
	})

	values := []string{first["password"]}
	before := first
	for _, to := range []string{"_a", "_b", "_a"} {
		id := x.stack.Start(t, api.WorkflowType, `{}`)
		approve(t, x.stack, id)
		doc := x.stack.Await(t, id)
		require.Equal(t, run.PartiallySucceeded, doc.Outcome, "without probes the service is not proven: %s", doc.Summary)
		t.Log(doc.Summary)
		var got api.Result
		require.NoError(t, json.Unmarshal(doc.Result, &got))
		require.True(t, got.Withdrawn)
		require.Equal(t, []api.Untouched{{Key: "SALT", Why: got.Untouched[0].Why}}, got.Untouched)
		before = x.rotated(t, before, x.name+to)
		values = append(values, before["password"])
	}
	x.ready(t, 2)

	t.Run("consumers that do not come up have it undone", func(t *testing.T) {
		x.sql(t, fmt.Sprintf("ALTER ROLE %[1]s_a SET search_path = %[1]s", x.name)) // which the other gets too
		_, err := kubectl("set", "env", "deployment/"+x.name, "PGCONNECT_TIMEOUT=5")
		require.NoError(t, err)
		x.ready(t, 2)
		require.NoError(t, x.breaks(t))
		id := x.stack.Start(t, api.WorkflowType, `{"wait":1}`)
		approve(t, x.stack, id)
		doc := x.stack.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() })
		require.Equal(t, run.Failed, doc.Outcome, doc.Summary)
		require.Equal(t, "NotReady", doc.Error.Code, doc.Summary)
		require.Equal(t, before, x.secret(t))
		require.NoError(t, x.logsIn(before["user"], before["password"]))
		require.Equal(t, "0", x.sql(t, fmt.Sprintf("SELECT count(*) FROM pg_roles WHERE rolname = '%s_b' AND rolcanlogin", x.name)))
		require.Empty(t, x.pending(t))
	})
	x.nowhere(t, values...)
}

// breaks has the tenant's programs take no other role than the one that they have.
func (x tenant) breaks(t *testing.T) error {
	t.Helper()
	role := x.secret(t)["user"]
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["sh", "-c", "test $USER_OF = %s || exit 1; PGOPTIONS='-c client_connection_check_interval=500' exec psql -h %s-postgresql -U $USER_OF -d langfuse -c 'SELECT pg_sleep(36000)'"]}]`, role, release)
	_, err := kubectl("patch", "deployment", x.name, "--type=json", "-p", patch)
	if err == nil {
		x.ready(t, 2)
	}
	return err
}

// TestRotateSecretWithoutOverlap: one role that keeps its name, and an operator that owns the Secret.
func TestRotateSecretWithoutOverlap(t *testing.T) {
	t.Parallel()
	x := newTenant(t, 1)
	x.stack.Configure(t, x.target("", fmt.Sprintf("role: %s, withoutOverlap: true, keys: {password: password}", x.name)))
	serve(t, x.stack, "w")
	before := x.secret(t)
	_, err := kubectl("label", "secret", x.name+"-db", "reconcile.external-secrets.io/managed=true")
	require.NoError(t, err)
	doc := x.stack.Run(t, api.WorkflowType, `{}`)
	require.Equal(t, run.Refused, doc.Outcome, doc.Summary)
	require.Contains(t, doc.Summary, "External Secrets would take it back")
	_, err = kubectl("label", "secret", x.name+"-db", "reconcile.external-secrets.io/managed-")
	require.NoError(t, err)

	id := x.stack.Start(t, api.WorkflowType, `{}`)
	require.Contains(t, approve(t, x.stack, id).WaitingFor, "There is no overlap")
	doc = x.stack.Await(t, id)
	require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
	x.rotated(t, map[string]string{"user": "nobody", "password": before["password"]}, x.name)
	require.Error(t, x.logsIn(x.name, before["password"]))

	t.Run("sessions that stay wait for a person, who undoes it", func(t *testing.T) {
		before := x.secret(t)
		// Policies may let a new pod through only after a moment, so it tries again.
		pod := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "%[1]s-stays", "labels": {"app.kubernetes.io/name": "langfuse-migrate"}}, "spec": {"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0,
			"automountServiceAccountToken": false, "securityContext": {"runAsUser": 999}, "containers": [{"name": "main", "image": "upkeep.test/postgres:dev", "imagePullPolicy": "Never", "env": [{"name": "PGPASSWORD", "value": %[2]q}],
			"command": ["sh", "-c", "PGOPTIONS='-c client_connection_check_interval=500' exec psql -h %[3]s-postgresql -U %[1]s -d langfuse -c 'SELECT pg_sleep(36000)'"]}]}}`, x.name, before["password"], release)
		_, err := command(time.Minute, pod, "kubectl", "--namespace", namespace, "apply", "-f", "-")
		require.NoError(t, err)
		t.Cleanup(func() {
			_, err := kubectl("delete", "pod", x.name+"-stays", "--wait=true")
			require.NoError(t, err)
		})
		require.NoError(t, until(time.Minute, func() error {
			if n := x.sql(t, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE usename = '%s' AND query LIKE '%%pg_sleep%%'", x.name)); n != "2" {
				return fmt.Errorf("%s sessions", n)
			}
			return nil
		}))
		id := x.stack.Start(t, api.WorkflowType, `{"wait":1}`)
		approve(t, x.stack, id)
		doc := x.stack.Until(t, id, func(d *run.Document) bool { return d.Outcome.Ended() || d.Outcome == run.Waiting && !d.AsksApproval() })
		require.Equal(t, run.Waiting, doc.Outcome, doc.Summary)
		require.Contains(t, doc.WaitingFor, "1 sessions of role "+x.name)
		decide(t, x.stack, id, run.AbandonUpdate)
		doc = x.stack.Await(t, id)
		require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
		require.Empty(t, doc.Left)
		require.Equal(t, before, x.secret(t))
		require.NoError(t, x.logsIn(x.name, before["password"]))
		require.Empty(t, x.pending(t))
		x.ready(t, 1)
	})
}

// rotates is RotateSecret's trial: forward, or in programs that do not take the new role, back.
func (x tenant) rotates(t *testing.T, kind string) trial {
	t.Helper()
	before, roles := x.secret(t), map[string]string{x.name: x.name + "_a", x.name + "_a": x.name + "_b", x.name + "_b": x.name + "_a"}
	to, input := roles[before["user"]], `{}`
	return trial{
		stack: x.stack, procedure: api.WorkflowType, input: input, look: x.look,
		holds: func(t *testing.T, doc *run.Document, begun int) {
			t.Helper()
			t.Log(doc.Outcome, doc.Summary)
			if kind == "undo" {
				require.Equal(t, run.Cancelled, doc.Outcome, doc.Summary)
				x.asBefore(t, before, to)
				return
			}
			// Begun anew after its end, it finds that it was done, or as another run rotates once more.
			if begun == 1 || doc.Outcome != run.Succeeded {
				require.Equal(t, run.PartiallySucceeded, doc.Outcome, doc.Summary)
			}
			require.Empty(t, doc.Left)
			last := to
			if is := x.secret(t)["user"]; begun > 1 && is == roles[to] {
				last = is
			}
			x.rotated(t, before, last)
			x.ready(t, 1)
		},
	}
}

// TestRotateSecretInTrouble kills and doubles its worker, and terminates and resets it, at each side of each
// effect.
func TestRotateSecretInTrouble(t *testing.T) {
	t.Parallel()
	const n = 2
	free := make(chan tenant, n)
	for range n {
		free <- newTenant(t, 1)
	}
	each := func(t *testing.T, all, sample []string, hit func(t *testing.T, x tenant, kind, c string)) {
		every(t, all, sample, func(t *testing.T, c string) {
			x := <-free
			t.Cleanup(func() { free <- x })
			for _, old := range []string{"first", "next"} { // each case reads its own workers' logs
				_ = os.Remove(filepath.Join(x.stack.Dir, old+".log"))
			}
			kind, point, _ := strings.Cut(c, "/")
			hit(t, x, kind, point)
		})
	}
	t.Run("killed", func(t *testing.T) {
		each(t, rotateCases(), []string{"on/rotate/switch/after", "on/rotate/withdraw/after"}, func(t *testing.T, x tenant, kind, point string) {
			x.rotates(t, kind).killed(t, point)
		})
	})
	t.Run("doubled", func(t *testing.T) {
		each(t, before(rotateCases()), []string{"on/rotate/switch/before"}, func(t *testing.T, x tenant, kind, point string) {
			x.rotates(t, kind).doubled(t, point)
		})
	})
	t.Run("pressed", func(t *testing.T) {
		each(t, either(rotateCases()), []string{"reset/on/rotate/seal/after", "terminate/on/rotate/withdraw/after"}, func(t *testing.T, x tenant, how, c string) {
			kind, point, _ := strings.Cut(c, "/")
			x.rotates(t, kind).pressed(t, how, point)
		})
	})
	t.Run("cancelled", func(t *testing.T) { // frozen at a point on the way, and hit again on the way back
		var all []string
		for _, back := range undoPoints() {
			all = append(all, "undo/"+back)
		}
		each(t, all, []string{"undo/rotate/retire/after"}, func(t *testing.T, x tenant, kind, point string) {
			y := x.rotates(t, kind)
			first := serve(t, x.stack, "first", "UPKEEP_FAULT=point=rotate/switch/after:stop")
			id := y.start(t)
			frozen(t, first)
			require.NoError(t, x.stack.Client.CancelWorkflow(t.Context(), id, ""))
			first.Kill()
			second := serve(t, x.stack, "second", "UPKEEP_FAULT=point="+at(point, "kill"))
			require.NoError(t, until(harness.Patience, func() error {
				select {
				case <-second.Done():
					return nil
				default:
					return fmt.Errorf("the point is not reached")
				}
			}))
			serve(t, x.stack, "next")
			y.holds(t, x.stack.Await(t, id), 1)
		})
	})
}
