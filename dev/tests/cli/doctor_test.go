package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/devserver"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/doctor"
	"github.com/upkeep-run/upkeep/internal/pgserver/pgservertest"
	"github.com/upkeep-run/upkeep/starter"
	"github.com/upkeep-run/upkeep/worker"
)

// TestDoctor looks at a whole stack as a person does, before a worker serves it and after.
func TestDoctor(t *testing.T) {
	server := pgservertest.Server(t, pgservertest.Default)
	_, url := pgservertest.Database(t, server)
	pgservertest.Exec(t, url, "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
	s := &shell{Stack: harness.New(t, harness.Target("shop", url, ""))}
	s.address = s.Temporal.Address
	require.NoError(t, os.Mkdir(s.Store, 0o755))
	examine := func(t *testing.T, more ...string) (int, map[string]doctor.Finding) {
		t.Helper()
		got := s.call(t, append([]string{"doctor", "--data", s.Dir + "/data-w", "-o", "json"}, more...)...)
		require.Empty(t, got.Err)
		one(t, got)
		var report doctor.Report
		require.NoError(t, json.Unmarshal([]byte(got.Out), &report))
		found := make(map[string]doctor.Finding)
		for _, f := range report.Findings {
			found[f.Subject+", "+f.Name] = f
		}
		return got.Code, found
	}

	code, found := examine(t)
	require.Equal(t, starter.ExitFailed, code)
	for name, f := range found {
		want := run.Pass
		if strings.HasPrefix(name, "Temporal, a worker serves") {
			want = run.Fail
		}
		require.Equal(t, want, f.Verdict, "%s: %+v", name, f)
	}

	s.Worker(t, "w")
	require.Equal(t, run.Succeeded, s.Run(t, "BackupDatabase", `{}`).Outcome)
	code, found = examine(t)
	require.Zero(t, code, "%+v", found)
	require.Contains(t, found["Temporal, a worker serves upkeep-database"].Detail, "upkeep-worker")
	text := s.call(t, "doctor", "--data", s.Dir+"/data-w")
	require.Zero(t, text.Code, text.Out)
	require.NotContains(t, text.Out, "To do")
	require.Contains(t, text.Out, "PASS: of ")

	t.Run("the database of a real Temporal is known", func(t *testing.T) {
		persistence, visibility, err := devserver.PostgresSchema()
		require.NoError(t, err)
		for _, schema := range []string{persistence, visibility} {
			name, url := pgservertest.Database(t, server)
			pgservertest.Exec(t, url, schema)
			_, found := examine(t)
			require.Contains(t, found["target shop: database, what Upkeep itself runs on"].Detail, `in database "`+name+`" of this server`)
			pgservertest.Exec(t, url, "DROP SCHEMA public CASCADE")
		}
	})

	t.Run("a target in a cluster needs a worker that serves it", func(t *testing.T) {
		const served = "Temporal, a worker serves upkeep-cluster"
		require.NotContains(t, found, served, "no target is in a cluster")
		apart := &shell{Stack: harness.New(t, harness.Target("shop", url, "")+"    kubernetes: {namespace: shop, release: shop, kubeconfigFrom: {file: /none}}\n")}
		apart.address = apart.Temporal.Address
		apart.WorkerOf(t, []string{worker.Workflows, worker.Database}, "apart")
		look := func() doctor.Finding {
			var report doctor.Report
			require.NoError(t, json.Unmarshal([]byte(apart.call(t, "doctor", "--data", apart.Dir+"/data-apart", "-o", "json").Out), &report))
			for _, f := range report.Findings {
				if f.Subject+", "+f.Name == served {
					return f
				}
			}
			return doctor.Finding{}
		}
		f := look()
		require.Equal(t, run.Fail, f.Verdict)
		require.Contains(t, f.Remedy, "capability cluster")
		apart.WorkerOf(t, []string{worker.Cluster}, "clusters")
		require.Eventually(t, func() bool { return look().Verdict == run.Pass }, time.Minute, 200*time.Millisecond)
	})

	t.Run("a namespace that is not there", func(t *testing.T) {
		cmd, out, errOut := s.Command(t, []string{"TEMPORAL_NAMESPACE=nowhere"}, "doctor", "--data", s.Dir+"/data-w")
		got := harness.Finish(t, cmd.Run(), cmd, out, errOut)
		require.Equal(t, starter.ExitFailed, got.Code)
		require.Contains(t, got.Out, "temporal operator namespace create --namespace nowhere")
	})

	t.Run("what a run keeps is not touched", func(t *testing.T) {
		entries, err := os.ReadDir(s.Store)
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		require.Equal(t, []string{"audit", "runs", "shop"}, names)
	})
}
