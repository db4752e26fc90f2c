package lookup

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
)

func from(t *testing.T, env map[string]string) Operator {
	t.Helper()
	o, err := FromEnvironment(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	require.NoError(t, err)
	return o
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestTheOperatorsOwnSettings(t *testing.T) {
	npmrc := write(t, `
; a comment=1
registry = https://npm.corp.example/public/
@mine:registry="https://npm.corp.example/mine"
//npm.corp.example/mine/:_authToken=${NPM_TOKEN}
//npm.corp.example/basic/:_auth=YTpi
//npm.corp.example/old/:username=u
//npm.corp.example/old/:_password=`+base64.StdEncoding.EncodeToString([]byte("p"))+`
//npm.corp.example/half/:username=u
cafile=/etc/ssl/x
script-shell=/bin/evil
`)
	goenv := write(t, "# written by go env -w\nGOPROXY=https://go.corp.example/a,direct\nGOPRIVATE=*.corp.example\n")
	o := from(t, map[string]string{"NPM_CONFIG_USERCONFIG": npmrc, "NPM_TOKEN": "t0ken", "GOENV": goenv, "GH_TOKEN": "gh"})
	require.Equal(t, "https://npm.corp.example/public/", o.NPM.Registry)
	require.Equal(t, map[string]string{"@mine": "https://npm.corp.example/mine"}, o.NPM.Scopes)
	require.Equal(t, map[string]string{
		"npm.corp.example/mine": "Bearer t0ken", "npm.corp.example/basic": "Basic YTpi",
		"npm.corp.example/old": "Basic " + base64.StdEncoding.EncodeToString([]byte("u:p")),
	}, o.NPM.Authorization)
	require.Equal(t, "https://go.corp.example/a,direct", o.Go.Proxy)
	require.Equal(t, "*.corp.example", o.Go.Private)
	require.Equal(t, "gh", o.GitHub.Token)
	require.Equal(t, []string{"go.corp.example"}, o.Go.Hosts())
	require.Equal(t, []string{"npm.corp.example", "npm.corp.example"}, o.NPM.Hosts())

	o = from(t, map[string]string{"NPM_CONFIG_USERCONFIG": npmrc, "npm_config_registry": "https://other.example", "GOENV": goenv, "GOPROXY": "https://env.example", "GONOPROXY": "none", "GITHUB_TOKEN": "a", "GH_TOKEN": "b"})
	require.Equal(t, "https://other.example", o.NPM.Registry)
	require.Equal(t, "https://env.example", o.Go.Proxy)
	require.Equal(t, "none", o.Go.Private)
	require.Equal(t, "a", o.GitHub.Token)
}

// The folder in which Upkeep runs is the repository's, and its files are not settings.
func TestTheSettingsOfARepositoryAreNotRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".npmrc", "npmrc", "go.env", "env"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("registry=https://evil.example\nGOPROXY=https://evil.example\n"), 0o600))
	}
	t.Chdir(dir)
	o := from(t, map[string]string{"GOENV": "off"})
	require.Empty(t, o.NPM.Registry)
	require.Empty(t, o.Go.Proxy)
	require.Equal(t, []string{"proxy.golang.org"}, o.Go.Hosts())
	require.Equal(t, []string{"registry.npmjs.org"}, o.NPM.Hosts())
}

func TestEveryDatasourceThatAManagerNamesIsThere(t *testing.T) {
	var o Operator
	sources := o.Sources(o.Client(httpcache.Options{}))
	for _, name := range []string{dependency.SourceGo, dependency.SourceGoRelease, dependency.SourceNPM, dependency.SourceImage, dependency.SourceHelm, dependency.SourceGitHubTags} {
		require.Contains(t, sources, name)
	}
	require.Len(t, sources, 6)
}
