package configuration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const one = `version: 1
store: file:///var/lib/upkeep
targets:
  - name: shop
    database:
      url: postgres://app@127.0.0.1:5432/shop
      passwordFrom: {env: SHOP_DB_PASSWORD}
`

const two = one + `  - name: stock
    database:
      url: postgres://app@127.0.0.1:5432/stock
`

// resolver resolves by a file that holds the text.
func resolver(t *testing.T, text string) (a *Activities, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "upkeep.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return &Activities{
		Load:       func() (*config.Config, error) { return config.Load(path) },
		Attributes: func() (bool, string) { return false, "the server does not let the worker add them" },
	}, path
}

func TestResolveTarget(t *testing.T) {
	t.Setenv("SHOP_DB_PASSWORD", "canary-password")
	a, path := resolver(t, one)
	for _, name := range []string{"shop", ""} {
		got, err := a.ResolveTarget(t.Context(), Request{Target: name})
		require.NoError(t, err)
		require.Equal(t, "shop", got.Name)
		require.Equal(t, config.Secret{Env: "SHOP_DB_PASSWORD"}, got.Password)
		require.Len(t, got.ConfigSHA256, 64)
		require.Positive(t, got.Connections)
		require.Equal(t, "the server does not let the worker add them", got.AttributeWhy)
		data, err := json.Marshal(got)
		require.NoError(t, err)
		require.NotContains(t, string(data), "canary", "a reference goes into history, never the secret")
	}
	before, err := a.ResolveTarget(t.Context(), Request{})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(two), 0o600))
	after, err := a.ResolveTarget(t.Context(), Request{Target: "stock"})
	require.NoError(t, err, "the file is read anew")
	require.NotEqual(t, before.ConfigSHA256, after.ConfigSHA256)
}

func TestTargetThatIsNotThere(t *testing.T) {
	a, path := resolver(t, two)
	_, err := a.ResolveTarget(t.Context(), Request{Target: "shpo"})
	require.True(t, failure.Is(err, failure.UnknownTarget), "%v", err)
	require.ErrorContains(t, err, `"shop"`)
	_, err = a.ResolveTarget(t.Context(), Request{})
	require.Error(t, err, "which of two?")
	require.ErrorContains(t, err, "shop")
	require.ErrorContains(t, err, "stock")
	require.NoError(t, os.Remove(path))
	_, err = a.ResolveTarget(t.Context(), Request{})
	require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
}
