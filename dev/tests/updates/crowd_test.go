package updates

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

// TestACrowd has 500 pull requests of one identity, with a clock of GitHub's that is 60 times as fast: GitHub's
// limits are kept, and there is one of each.
func TestACrowd(t *testing.T) {
	if os.Getenv("FAILPOINTS") != "all" {
		t.Skip("FAILPOINTS=all has 500 pull requests made at once")
	}
	const repositories, each, fast = 10, 50, 60
	began := time.Now().Truncate(time.Second)
	g := githubtest.New(t, &githubtest.Fast{Times: fast, Began: began})
	r := newRegistry(t)
	var targets strings.Builder
	repos := make([]*githubtest.Repo, repositories)
	for n := range repos {
		var packages []string
		for p := range each {
			name := fmt.Sprintf("part-%d-%d", n, p)
			r.publish(name, "1.0.0", "1.0.1")
			packages = append(packages, fmt.Sprintf("    %q: \"1.0.0\"", name))
		}
		name := fmt.Sprintf("shop-%d", n)
		repos[n] = g.Repository("octo/"+name, map[string]string{"package.json": "{\n  \"dependencies\": {\n" + strings.Join(packages, ",\n") + "\n  }\n}\n"})
		fmt.Fprintf(&targets, `  - name: %s
    repositories:
      - {github: octo/%[1]s, apiURL: %q, tokenFrom: {env: GITHUB_TOKEN}, advisories: %q, limits: {open: 500, perHour: 500}}
`, name, g.APIURL(), t.TempDir())
	}
	s := harness.New(t, targets.String())
	s.Worker(t, "w", "GITHUB_TOKEN="+g.Token("upkeep-bot"), "npm_config_registry="+r.url, fmt.Sprintf("UPKEEP_FAULT_CLOCK=%d@%d", fast, began.Unix()))

	scan := func() {
		var all sync.WaitGroup
		docs := make([]*run.Document, repositories)
		for n := range repos {
			id := s.Start(t, update, fmt.Sprintf(`{"target": "shop-%d"}`, n))
			all.Go(func() {
				for docs[n] == nil || !docs[n].Outcome.Ended() {
					if d, err := s.Starter.Show(t.Context(), id); err == nil {
						docs[n] = d
					}
					select {
					case <-time.After(200 * time.Millisecond):
					case <-t.Context().Done():
						return
					}
				}
			})
		}
		all.Wait()
		for _, d := range docs {
			require.Equal(t, run.Succeeded, d.Outcome, d.Summary)
		}
	}
	scan()
	took := time.Since(began)
	writes := g.Writes()
	scan()
	require.Equal(t, writes, g.Writes(), "nothing is new, and nothing is written")
	require.Zero(t, g.Limited(), "no limit of GitHub's was hit")
	for _, repo := range repos {
		heads := make(map[string]bool)
		for _, p := range repo.Pulls() {
			require.False(t, heads[p.Head], "%s has two pull requests", p.Head)
			require.Equal(t, []string{"dependencies"}, p.Labels)
			require.Empty(t, p.Comments)
			heads[p.Head] = true
		}
		require.Len(t, heads, each)
		require.Len(t, repo.Refs("refs/upkeep/"), each)
		require.Len(t, repo.Branches(), each+1)
		require.Len(t, repo.Issues(), 1)
	}
	t.Logf("%d pull requests in %d repositories: %s of the machine's time, %s of GitHub's; %d writes, %d requests of the last hour that counted, no limit hit",
		repositories*each, repositories, took.Round(time.Second), (took * time.Duration(fast)).Round(time.Minute), writes, g.Spent("upkeep-bot"))
}
