package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

// looked is what is found of the repository octo/shop, by the checks' names; no secret is in it.
func looked(t *testing.T, hub *githubtest.Server, secret string, r config.Repository) map[string]Finding {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(secret), 0o600))
	r.GitHub, r.API = "octo/shop", hub.APIURL()
	if r.App != nil {
		r.App.Key = config.Secret{File: file}
	} else {
		r.Token = config.Secret{File: file}
	}
	found := make(map[string]Finding)
	for _, f := range examineRepository(t.Context(), "code", r) {
		require.Equal(t, "target code: repository octo/shop", f.Subject)
		found[f.Name] = f
		if secret != "" {
			require.NotContains(t, f.Detail+f.Remedy, strings.TrimSpace(secret)[:12])
		}
	}
	return found
}

func verdicts(found map[string]Finding) map[string]run.Verdict {
	all := make(map[string]run.Verdict)
	for name, f := range found {
		all[name] = f.Verdict
	}
	return all
}

func TestARepositoryAndItsToken(t *testing.T) {
	hub := githubtest.New(t, githubtest.NewClock())
	repo := hub.Repository("octo/shop", map[string]string{"a": "b"})

	found := looked(t, hub, hub.Classic("bot", "repo, workflow"), config.Repository{})
	require.Equal(t, map[string]run.Verdict{checkToken: run.Pass, checkLimit: run.Pass, checkRepository: run.Pass, checkPermissions: run.Pass, checkWorkflows: run.Pass}, verdicts(found), "%+v", found)
	require.Contains(t, found[checkRepository].Detail, "branch main at ")
	require.Contains(t, found[checkLimit].Detail, "of 5000")
	require.Zero(t, hub.Writes())

	found = looked(t, hub, hub.Classic("bot", "read:org"), config.Repository{})
	require.Equal(t, run.Fail, found[checkPermissions].Verdict)
	require.Contains(t, found[checkPermissions].Detail, "lacks the scope repo")
	require.Equal(t, run.NotProven, found[checkWorkflows].Verdict)
	require.True(t, found[checkWorkflows].Optional)

	found = looked(t, hub, hub.FineGrained("bot", "issues", "checks"), config.Repository{})
	require.Equal(t, failure.GitHubForbids, found[checkPermissions].Code)
	require.Contains(t, found[checkPermissions].Detail, "lacks issues, checks")

	found = looked(t, hub, hub.FineGrained("bot"), config.Repository{})
	require.Equal(t, run.NotProven, found[checkPermissions].Verdict, "what it may write is not known")
	require.True(t, found[checkPermissions].Optional)

	repo.Reader("guest")
	found = looked(t, hub, hub.Classic("guest", "repo"), config.Repository{})
	require.Contains(t, found[checkPermissions].Detail, "may not push")

	found = looked(t, hub, "ghp_of-nobody-at-all", config.Repository{})
	require.Equal(t, failure.GitHubLogin, found[checkLimit].Code)
	require.Equal(t, run.NotProven, found[checkRepository].Verdict)
	found = looked(t, hub, "", config.Repository{})
	require.Equal(t, failure.MissingSecret, found[checkToken].Code)
	found = looked(t, hub, hub.Classic("bot", "repo"), config.Repository{Base: "releases"})
	require.Contains(t, found[checkRepository].Detail, "no branch releases")
	require.NotContains(t, found[checkRepository].Remedy, "resume the run")
	require.Empty(t, hub.Violations())
}

func TestARepositoryAndItsApp(t *testing.T) {
	hub := githubtest.New(t, githubtest.Machine{})
	hub.Repository("octo/shop", map[string]string{"a": "b"})
	app := hub.App("upkeep")
	of := func() map[string]Finding {
		return looked(t, hub, app.PrivateKey, config.Repository{App: &config.GitHubApp{ID: int(app.ID)}})
	}
	found := of()
	require.Equal(t, map[string]run.Verdict{checkToken: run.Pass, checkInstallation: run.Pass, checkLimit: run.Pass, checkRepository: run.Pass, checkPermissions: run.Pass, checkWorkflows: run.Pass}, verdicts(found), "%+v", found)

	app.Permissions = map[string]string{"metadata": "read", "contents": "read", "pull_requests": "write", "issues": "write"}
	found = of()
	require.Equal(t, failure.GitHubForbids, found[checkPermissions].Code)
	require.Contains(t, found[checkPermissions].Detail, "lacks contents: write, checks: read, statuses: read")
	require.Equal(t, run.NotProven, found[checkWorkflows].Verdict)

	app.Suspended = true
	require.Contains(t, of()[checkInstallation].Detail, "suspended")
	app.Absent = true
	found = of()
	require.Contains(t, found[checkInstallation].Detail, "not installed at octo/shop")
	require.Equal(t, run.NotProven, found[checkRepository].Verdict)
	found = looked(t, hub, "no key, and not even PEM", config.Repository{App: &config.GitHubApp{ID: int(app.ID)}})
	require.Equal(t, failure.GitHubLogin, found[checkInstallation].Code)
}
