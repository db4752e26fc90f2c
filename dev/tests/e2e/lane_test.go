//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/dev/internal/reconciler"
)

// more is what a database has beside the stack's table, so that each effect of a restore comes to pass.
const more = `
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE notes (id bigserial PRIMARY KEY, person int REFERENCES people, text text CHECK (text <> ''));
CREATE INDEX notes_person ON notes (person);
CREATE VIEW named AS SELECT name, text FROM notes JOIN people ON people.id = person;
INSERT INTO people SELECT g, 'person ' || g FROM generate_series(1, 100) g;
INSERT INTO notes (person, text) SELECT 1 + g % 100, 'note ' || g FROM generate_series(1, 2000) g;
SELECT lo_from_bytea(0, repeat('large object', 1000)::bytea);
CREATE ROLE clerk; GRANT SELECT ON notes TO clerk;
`

// lane is a stack of its own with a proven backup, in which one case after the other loses the data. A
// HelmRelease owns the service, and is to be suspended.
type lane struct {
	place
	stack *harness.Stack
	rows  string
}

// lanes makes some, for cases that run side by side.
func lanes(t *testing.T, n int) chan *lane {
	t.Helper()
	_, err := command(time.Minute, reconciler.CRD, "kubectl", "apply", "-f", "-")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl("delete", "crd", "helmreleases.helm.toolkit.fluxcd.io")
		require.NoError(t, err)
	})
	free := make(chan *lane, n)
	for i := range n {
		free <- newLane(t, fmt.Sprintf("lane-%d", i+1))
	}
	return free
}

func newLane(t *testing.T, name string) *lane {
	t.Helper()
	l := &lane{place: install(t, name)}
	l.sql(t, "postgres", "langfuse", more)
	l.sql(t, "langfuse", "langfuse", "INSERT INTO traces (name) SELECT 'trace ' || g FROM generate_series(1, 500) g")
	object := fmt.Sprintf(`{"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": "web"}, "spec": {"deployment": %q}}`, release+"-langfuse")
	require.NoError(t, until(time.Minute, func() error {
		_, err := command(time.Minute, object, "kubectl", "--namespace", string(l.place), "apply", "-f", "-")
		return err
	}))
	for _, args := range [][]string{
		{"label", web, "helm.toolkit.fluxcd.io/name=web", "helm.toolkit.fluxcd.io/namespace=" + string(l.place)},
		{"scale", web, "--replicas=2"},
		{"rollout", "status", web, "--timeout=80s"},
	} {
		_, err := l.run("kubectl", args...)
		require.NoError(t, err)
	}
	target := strings.ReplaceAll(strings.Replace(probed(), "{namespace:", "{owners: suspend, namespace:", 1), namespace, string(l.place))
	l.stack = harness.New(t, target)
	w := serve(t, l.stack, "calm")
	drilled := l.stack.Run(t, "DrillRecovery", `{}`)
	require.Equal(t, run.Succeeded, drilled.Outcome, drilled.Summary)
	w.Stop()
	l.rows = l.count(t)
	return l
}

func (l *lane) sql(t *testing.T, role, database, text string) string {
	t.Helper()
	out, err := command(time.Minute, text, "kubectl", "--namespace", string(l.place), "exec", "-i", release+"-postgresql-0", "--", "psql", "-XAtqU", role, "-d", database, "-v", "ON_ERROR_STOP=1")
	require.NoError(t, err)
	return strings.TrimSpace(out)
}

func (l *lane) count(t *testing.T) string {
	t.Helper()
	return l.sql(t, "postgres", "langfuse", "SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM notes), (SELECT count(*) FROM pg_largeobject_metadata)")
}

// loses is RecoverData's trial.
func (l *lane) loses(t *testing.T) trial {
	t.Helper()
	l.sql(t, "postgres", "langfuse", "TRUNCATE traces, notes")
	t.Cleanup(func() { // for the next, as it was
		for _, old := range strings.Fields(l.sql(t, "postgres", "postgres", "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'langfuse') AND NOT datistemplate")) {
			l.sql(t, "postgres", "postgres", fmt.Sprintf("DROP DATABASE %q WITH (FORCE)", old))
		}
	})
	return trial{
		stack: l.stack, procedure: recoverdata.WorkflowType, input: `{"confirm":"langfuse","clients":"Deployment/` + release + `-langfuse"}`, look: l.look,
		holds: func(t *testing.T, doc *run.Document, begun int) {
			t.Helper()
			t.Log(doc.Outcome, doc.Summary)
			require.Equal(t, run.Succeeded, doc.Outcome, doc.Summary)
			require.Empty(t, doc.Left)
			require.NoError(t, until(time.Minute, func() error {
				got, err := l.run("kubectl", "get", web, "-o", "jsonpath={.spec.replicas}/{.status.readyReplicas}")
				if err == nil && got != "2/2" {
					err = fmt.Errorf("replicas are %s", got)
				}
				return err
			}))
			require.Equal(t, l.rows, l.count(t))
			suspended, err := l.run("kubectl", "get", "helmrelease", "web", "-o", "jsonpath={.spec.suspend}")
			require.NoError(t, err)
			require.Empty(t, suspended, "it has what it had: nothing")
			if begun == 1 {
				require.Empty(t, l.sql(t, "postgres", "postgres", `SELECT datname FROM pg_database WHERE datname LIKE 'upkeep\_%'`), "no half database is left")
				require.Equal(t, "1", l.sql(t, "postgres", "postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'langfuse_%'"), "it was replaced once")
			}
		},
	}
}

// look is all that a twin must not touch.
func (l *lane) look(t *testing.T) string {
	t.Helper()
	objects, err := l.run("kubectl", "get", "deployments,statefulsets,helmreleases", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation} {.metadata.annotations} {.spec.replicas} {.spec.suspend}{"\n"}{end}`)
	require.NoError(t, err)
	return objects + l.sql(t, "postgres", "postgres", "SELECT oid, datname FROM pg_database ORDER BY 1") + l.count(t)
}

// TestRecoverDataInTrouble kills and doubles its worker, and terminates and resets it, at each side of each
// effect.
func TestRecoverDataInTrouble(t *testing.T) {
	if !long() {
		t.Skip("it takes minutes; FAILPOINTS=all runs it")
	}
	t.Parallel()
	n := 1
	if long() {
		n = 3
	}
	free := lanes(t, n)
	each := func(t *testing.T, all, sample []string, hit func(t *testing.T, x trial, c string)) {
		every(t, all, sample, func(t *testing.T, c string) {
			l := <-free
			t.Cleanup(func() { free <- l })
			hit(t, l.loses(t), c)
		})
	}
	t.Run("killed", func(t *testing.T) {
		each(t, recoverDataCases(), []string{"client-stop/after", "swap/after"}, func(t *testing.T, x trial, c string) { x.killed(t, c) })
	})
	t.Run("doubled", func(t *testing.T) {
		each(t, before(recoverDataCases()), []string{"client-start/before"}, func(t *testing.T, x trial, c string) { x.doubled(t, c) })
	})
	t.Run("pressed", func(t *testing.T) {
		each(t, either(recoverDataCases()), []string{"terminate/restore/chunk/after"}, func(t *testing.T, x trial, c string) {
			how, point, _ := strings.Cut(c, "/")
			x.pressed(t, how, point)
		})
	})
}
