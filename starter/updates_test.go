package starter

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
)

// operator serves a module proxy and an npm registry, and makes them the ones of who runs the command.
func operator(t *testing.T) *atomic.Int64 {
	t.Helper()
	answers := map[string]string{
		"/example.com/a/@v/list": "v1.0.0\nv1.0.1\nv1.0.2\n", "/example.com/a/@v/v1.0.2.mod": "module example.com/a\nretract v1.0.2 // oops\n",
		"/example.com/a/@v/v1.0.1.info": `{"Version":"v1.0.1","Time":"2024-01-01T00:00:00Z"}`,
		"/left":                         `{"dist-tags":{"latest":"2.0.0"},"versions":{"1.0.0":{},"1.0.1":{},"2.0.0":{}},"time":{"1.0.1":"2024-01-01T00:00:00Z","2.0.0":"2999-01-01T00:00:00Z"}}`,
	}
	asked := new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		text, known := answers[r.URL.EscapedPath()]
		if !known {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(s.Close)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	t.Setenv("GOPROXY", s.URL)
	t.Setenv("GOPRIVATE", "")
	t.Setenv("GONOPROXY", "")
	t.Setenv("npm_config_registry", "")
	t.Setenv("NPM_CONFIG_REGISTRY", "")
	t.Setenv("npm_config_userconfig", "")
	t.Setenv("NPM_CONFIG_USERCONFIG", "")
	require.NoError(t, os.WriteFile(filepath.Join(home, ".npmrc"), []byte("registry="+s.URL+"/\n"), 0o600))
	return asked
}

// checkout is a folder with everything that a hostile repository has.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o700)) //nolint:gosec // hooks are executable
	}
	return dir
}

func updates(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), append([]string{"updates"}, args...), &o, &e)
	return code, o.String(), e.String()
}

const (
	goMod       = "module example.com/m\n\ngo 1.24\n\nrequire (\n\texample.com/a v1.0.0\n\texample.com/gone v1.0.0\n)\n"
	packageJSON = `{"name":"m","scripts":{"preinstall":"touch /tmp/upkeep-was-here"},"dependencies":{"left":"1.0.0"}}`
)

func TestUpdates(t *testing.T) {
	asked := operator(t)
	dir := checkout(t, map[string]string{"go.mod": goMod, "web/package.json": packageJSON})
	code, out, errOut := updates(t, dir, "--advisories", "off", "--type", "patch,major", "--manager", "gomod,npm", "-o", "json")
	require.Equal(t, ExitPartially, code, errOut) // one module is nowhere
	var list []struct {
		Manager, File, Name, Current string
		Updates                      []map[string]any
		Held                         []struct{ Type, Version, Why string }
		Problem                      string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &list), out)
	require.Len(t, list, 3)
	require.Equal(t, "example.com/a", list[0].Name)
	require.Equal(t, map[string]any{"type": "patch", "version": "v1.0.1", "written": "v1.0.1", "released": "2024-01-01T00:00:00Z"}, list[0].Updates[0])
	require.Equal(t, "retracted: oops", list[0].Held[0].Why)
	require.Equal(t, "example.com/gone", list[1].Name)
	require.NotEmpty(t, list[1].Problem)
	require.Equal(t, "web/package.json", list[2].File)
	require.Equal(t, "1.0.1", list[2].Updates[0]["version"])
	require.Equal(t, "2.0.0", list[2].Held[0].Version)

	before := asked.Load()
	code, out, _ = updates(t, dir, "--advisories", "off")
	require.Equal(t, ExitPartially, code)
	require.Equal(t, before, asked.Load(), "fresh answers are not asked for again")
	for _, says := range []string{"example.com/a", "v1.0.1", "2024-01-01", "Held back:", "retracted: oops", "too young", "Not known:", "no module proxy has"} {
		require.Contains(t, out, says)
	}
}

func TestAllIsKnown(t *testing.T) {
	operator(t)
	code, out, errOut := updates(t, checkout(t, map[string]string{"package.json": packageJSON}), "--advisories", "off", "--cache", "off", "--age", "0")
	require.Equal(t, ExitSucceeded, code, errOut)
	require.Contains(t, out, "2.0.0")
	code, out, _ = updates(t, checkout(t, nil), "--advisories", "off")
	require.Equal(t, ExitSucceeded, code)
	require.Contains(t, out, "No updates for 0 dependencies.")
	code, out, _ = updates(t, checkout(t, nil), "--advisories", "off", "-o", "json")
	require.Equal(t, ExitSucceeded, code)
	require.Equal(t, "[]\n", out)
}

func TestAdvisoriesOfAFolder(t *testing.T) {
	operator(t)
	folder := checkout(t, map[string]string{"a.json": `{"id":"GHSA-1","affected":[{"package":{"ecosystem":"npm","name":"left"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}]}]}`})
	code, out, errOut := updates(t, checkout(t, map[string]string{"package.json": packageJSON}), "--advisories", folder, "--type", "security")
	require.Equal(t, ExitSucceeded, code, errOut)
	require.Regexp(t, `left +1\.0\.0 +security +2\.0\.0 +2999-01-01 +GHSA-1`, out)
}

// TestAdvisoriesAsTheWorkerHasThem: by the configuration, a folder, or OSV and the repository's own GitHub.
func TestAdvisoriesAsTheWorkerHasThem(t *testing.T) {
	operator(t)
	folder := checkout(t, map[string]string{"a.json": `{"id":"GHSA-1","affected":[{"package":{"ecosystem":"npm","name":"left"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}]}]}`})
	var asked atomic.Int64
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer hunter2" || r.URL.Path != "/advisories" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		answer := "[]"
		if r.URL.Query().Get("ecosystem") == "npm" && r.URL.Query().Get("type") == "reviewed" {
			answer = `[{"ghsa_id":"GHSA-2","summary":"bad","severity":"high","vulnerabilities":[{"package":{"ecosystem":"npm","name":"left"},"vulnerable_version_range":"< 1.0.1"}]}]`
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(hub.Close)
	t.Setenv("HUB_TOKEN", "hunter2")
	t.Setenv("HTTPS_PROXY", hub.URL) // api.osv.dev cannot be reached
	repository := func(name, more string) string {
		return "{github: " + name + ", tokenFrom: {env: HUB_TOKEN}" + more + "}"
	}
	files := map[string]string{
		"package.json": packageJSON,
		"upkeep.yaml":  "version: 1\nstore: file:///var/lib/upkeep\ntargets:\n  - name: code\n    repositories: [" + repository("shop/web", ", apiURL: \""+hub.URL+"\"") + ", " + repository("shop/kept", ", advisories: "+folder) + "]\n",
	}
	dir, mine := checkout(t, map[string]string{"package.json": packageJSON}), filepath.Join(checkout(t, files), "upkeep.yaml")

	code, out, errOut := updates(t, dir, "--repository", "Shop/kept", "--config", mine, "--type", "security")
	require.Equal(t, ExitSucceeded, code, errOut)
	require.Regexp(t, `left +1\.0\.0 +security +2\.0\.0 +2999-01-01 +GHSA-1`, out)
	require.Zero(t, asked.Load(), "a folder stands in for both")

	code, out, errOut = updates(t, dir, "--repository", "shop/web", "--config", mine, "--type", "security")
	require.Equal(t, ExitPartially, code, errOut)
	require.Regexp(t, `left +1\.0\.0 +security +1\.0\.1 +2024-01-01 +GHSA-2`, out)
	require.Contains(t, out, "not all security updates are known", "OSV was asked too, and did not answer")
	require.NotContains(t, out+errOut, "hunter2")

	before := asked.Load()
	hostile := checkout(t, files)
	t.Chdir(hostile)
	for says, args := range map[string][]string{
		"is part of the checkout":  {".", "--repository", "shop/web"},
		"exclude each other":       {".", "--repository", "shop/web", "--config", mine, "--advisories", "osv"},
		`no repository "shop/foo"`: {".", "--repository", "shop/foo", "--config", mine},
	} {
		code, _, errOut = updates(t, args...)
		require.Equal(t, ExitUsage, code, errOut)
		require.Contains(t, errOut, says)
	}
	require.Equal(t, before, asked.Load(), "a checkout does not say to whom a token is sent")
}

func TestWhoseAdvisories(t *testing.T) {
	for _, c := range []struct {
		flag, token string
		want        advisory.Source
	}{
		{"", "", advisory.API{}}, {"osv", "t", advisory.API{}}, {"off", "t", nil}, {"", "t", advisory.Both{}}, {"github", "t", advisory.GitHub{}},
	} {
		got, err := updatesOptions{advisories: c.flag}.source(".", nil, c.token)
		require.NoError(t, err)
		require.IsType(t, c.want, got, "%q %q", c.flag, c.token)
	}
	_, err := updatesOptions{advisories: "github"}.source(".", nil, "")
	require.ErrorContains(t, err, "GITHUB_TOKEN")
}

// Nothing of a checkout is executed, obeyed or followed.
func TestACheckoutIsOnlyRead(t *testing.T) {
	operator(t)
	marker := filepath.Join(t.TempDir(), "was-here")
	touch := "#!/bin/sh\ntouch " + marker + "\n"
	var evil atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { evil.Add(1) }))
	t.Cleanup(s.Close)
	dir := checkout(t, map[string]string{
		"go.mod": goMod, "package.json": strings.ReplaceAll(packageJSON, "/tmp/upkeep-was-here", marker),
		".npmrc": "registry=" + s.URL + "\n//127.0.0.1/:_authToken=${HOME}\n", ".git/hooks/post-checkout": touch, ".git/config": "[core]\n\tfsmonitor = " + marker + "\n",
		".envrc": "export GOPROXY=" + s.URL, "go.env": "GOPROXY=" + s.URL, "Makefile": "all:\n\ttouch " + marker,
		"broken/package.json": "{", "broken/go.mod": "require (",
	})
	require.NoError(t, os.Symlink("/etc", filepath.Join(dir, "etc")))
	t.Chdir(dir)
	code, out, _ := updates(t, ".", "--advisories", "off")
	require.Equal(t, ExitPartially, code)
	require.Contains(t, out, "broken/package.json")
	require.Contains(t, out, "broken/go.mod")
	require.NoFileExists(t, marker)
	require.Zero(t, evil.Load())
}

func TestWrongUseOfUpdates(t *testing.T) {
	operator(t)
	dir := checkout(t, nil)
	for _, args := range [][]string{
		{}, {dir, dir}, {filepath.Join(dir, "nothing")}, {dir, "--type", "huge"}, {dir, "--age", "x"}, {dir, "--age", "-1"}, {dir, "--age", "patch=x"}, {dir, "--age", "big=3"},
		{dir, "--advisories", filepath.Join(dir, "nothing")}, {dir, "--manager", "maven"}, {dir, "-o", "yaml"},
	} {
		code, _, errOut := updates(t, args...)
		require.Equal(t, ExitUsage, code, "%v: %s", args, errOut)
	}
}
