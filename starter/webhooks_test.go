package starter

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/webhook"
)

// TestAWebhookThatCannotBeKept: with Temporal away, what would wake a run is no success, and what wakes nobody is.
func TestAWebhookThatCannotBeKept(t *testing.T) {
	c, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1"})
	require.NoError(t, err)
	defer c.Close()
	s := &Starter{Client: c}
	known := &config.Config{Targets: []config.Target{{Name: "code", Repositories: []config.Repository{{GitHub: "octo/shop"}}}}}
	for name, d := range map[string]webhook.Delivery{
		"a check of a branch of Upkeep's":    {Event: "check_run", Repository: "Octo/Shop", Default: "main", Branches: []string{"upkeep/x"}},
		"a push to the base":                 {Event: "push", Repository: "octo/shop", Default: "main", Branches: []string{"main"}},
		"a commit whose branch is not known": {Event: "check_suite", Repository: "octo/shop", Default: "main"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := s.Wake(ctx, known, d)
		cancel()
		require.Error(t, err, name)
	}
	for name, d := range map[string]webhook.Delivery{
		"another repository": {Event: "push", Repository: "octo/other", Default: "main", Branches: []string{"main"}},
		"a person's branch":  {Event: "push", Repository: "octo/shop", Default: "main", Branches: []string{"ada/x"}},
		"a tag":              {Event: "push", Repository: "octo/shop", Default: "main"},
		"another event":      {Event: "issues", Repository: "octo/shop", Default: "main"},
	} {
		n, err := s.Wake(t.Context(), known, d)
		require.NoError(t, err, name)
		require.Zero(t, n, name)
	}
}

func TestWebhooksNeedASecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "upkeep.yaml")
	text := "version: 1\nstore: file:///tmp\ntargets:\n  - {name: code, repositories: [{github: octo/shop, tokenFrom: {env: GITHUB_TOKEN}}]}\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	code, _, errOut := call(t, "webhooks", "--config", path)
	require.Equal(t, ExitUsage, code)
	require.Contains(t, errOut, "webhooks: {secretFrom:")
	require.NoError(t, os.WriteFile(path, []byte(text+"webhooks: {secretFrom: {env: NO_SUCH_HOOK}}\n"), 0o600))
	code, _, errOut = call(t, "webhooks", "--config", path)
	require.Equal(t, ExitFailed, code)
	require.Contains(t, errOut, "NO_SUCH_HOOK")
}
