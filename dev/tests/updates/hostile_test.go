package updates

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/dev/internal/harness"
	"github.com/upkeep-run/upkeep/internal/github/githubtest"
)

// document is what an npm registry says of a package whose versions would run something when it is installed.
func document(base, name, run string, versions ...string) []byte {
	all, at := make(map[string]any), make(map[string]string)
	for _, v := range versions {
		all[v] = map[string]any{
			"name": name, "version": v, "hasInstallScript": true, "scripts": map[string]string{"preinstall": run, "install": run, "postinstall": run, "prepare": run},
			"dist": map[string]string{"tarball": base + "/" + name + "/-/" + v + ".tgz", "integrity": "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="},
		}
		at[v] = "2026-01-02T03:04:05Z"
	}
	data, _ := json.Marshal(map[string]any{"name": name, "dist-tags": map[string]string{"latest": versions[len(versions)-1]}, "versions": all, "time": at})
	return data
}

// TestAHostileRepositoryAndItsRegistry is a whole run over all that a repository and a registry can do: what is
// wrong is a problem of its own, which the dashboard names; the rest is proposed; nothing of it is run, nobody
// else is asked, and nothing is left outside of the clone.
func TestAHostileRepositoryAndItsRegistry(t *testing.T) {
	marks := t.TempDir()
	mark := "touch " + filepath.Join(marks, "ran")
	var strangers atomic.Int64
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		strangers.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(stranger.Close)

	var many []string
	for n := range 10_000 {
		many = append(many, fmt.Sprintf("1.%d.%d", n/100, n%100))
	}
	mega := bytes.Repeat([]byte("x"), 1<<20)
	var registry *httptest.Server
	registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name := strings.TrimPrefix(r.URL.Path, "/"); name {
		case "good", "scripted":
			_, _ = w.Write(document(registry.URL, name, mark, "1.0.0", "1.0.1"))
		case "many":
			_, _ = w.Write(document(registry.URL, name, mark, many...))
		case "busy":
			w.WriteHeader(http.StatusTooManyRequests)
		case "broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "garbage":
			_, _ = w.Write([]byte("\x00\xff<html>{[\x1b[2J"))
		case "huge":
			for range 100 {
				if _, err := w.Write(mega); err != nil {
					return
				}
			}
		case "silent":
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(registry.Close)

	named, silent := []string{"gone", "busy", "broken", "garbage", "huge"}, ""
	if os.Getenv("FAILPOINTS") == "all" { // it is waited for: a minute and more
		named, silent = append(named, "silent"), `"silent": "1.0.0",`
	}
	g := githubtest.New(t, timer{})
	repo := g.Repository("octo/shop", map[string]string{
		"package.json": `{"name": "shop", "dependencies": {
  "good": "1.0.0", "many": "1.0.0", "gone": "1.0.0", "busy": "1.0.0", "broken": "1.0.0", "garbage": "1.0.0", "huge": "1.0.0", ` + silent + `
  "../up": "1.0.0", "--upload-pack=x": "1.0.0", "esc\u001b[31m": "1.0.0", "g\u043e\u043ed": "1.0.0", "good ": "1.0.0"
}}`,
		"scripted/package.json": `{"name": "scripted-shop", "version": "1.0.0", "dependencies": {"scripted": "1.0.0"}, "scripts": {"preinstall": "` + mark + `", "prepare": "` + mark + `"}}`,
		"scripted/package-lock.json": `{"name": "scripted-shop", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {
  "": {"name": "scripted-shop", "version": "1.0.0", "dependencies": {"scripted": "1.0.0"}},
  "node_modules/scripted": {"version": "1.0.0", "resolved": "` + registry.URL + `/scripted/-/1.0.0.tgz", "integrity": "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==", "hasInstallScript": true}
}}`,
		"bad/package.json":                 `{"dependencies": {"good": `,
		"locked/package.json":              `{"dependencies": {"good": "1.0.0"}}`,
		"locked/package-lock.json":         `{"lockfileVersion": 3, "packages": [`,
		"go/go.mod":                        "module x\n\nrequire (\n",
		"chart/Chart.yaml":                 "apiVersion: v2\ndependencies: [\n",
		"compose.yaml":                     "services: &a [*a]\n",
		".github/workflows/ci.yml":         "jobs: {a: {steps: [{uses: '../../x@v1'}, {uses: '--upload-pack=x@v1'}]}}\n",
		".npmrc":                           "registry=" + stranger.URL + "/\n//127.0.0.1/:_authToken=${GITHUB_TOKEN}\nnode-options=--require /tmp/evil.js\nignore-scripts=false\n",
		"scripted/.npmrc":                  "registry=" + stranger.URL + "/\nignore-scripts=false\nscript-shell=/bin/sh\n",
		"go.env":                           "GOPROXY=" + stranger.URL + "\n",
		"deploy/kustomization/values.yaml": "image: \"evil:1.0.0\\u0000\"\n",
	})
	repo.PushEntries("main", "mallory", "hostile", map[string]githubtest.Entry{
		".gitattributes":            {Content: "* filter=evil diff=evil merge=evil eol=crlf working-tree-encoding=UTF-16\n"},
		".gitconfig":                {Content: "[filter \"evil\"]\n\tsmudge = " + mark + "\n[core]\n\tfsmonitor = " + mark + "\n\thooksPath = hooks\n"},
		".gitmodules":               {Content: "[submodule \"evil\"]\n\tpath = evil\n\turl = " + stranger.URL + "/x\n"},
		"evil":                      {Mode: "160000", Content: strings.Repeat("a", 40)},
		"hooks/post-checkout":       {Mode: "100755", Content: "#!/bin/sh\n" + mark + "\n"},
		"linked/package.json":       {Mode: "120000", Content: "/etc/passwd"},
		"out":                       {Mode: "120000", Content: "../../.."},
		"--upload-pack=touch owned": {Content: "1"},
		"new\nline/package.json":    {Content: "{}"},
	})
	s := harness.New(t, fmt.Sprintf("  - name: code\n    repositories:\n      - {github: octo/shop, apiURL: %q, tokenFrom: {env: GITHUB_TOKEN}, advisories: %q, limits: {open: 10, perHour: 10}}\n", g.APIURL(), t.TempDir()))
	temporary := filepath.Join(s.Dir, "tmp")
	require.NoError(t, os.Mkdir(temporary, 0o700))
	w := s.Worker(t, "w", "GITHUB_TOKEN="+g.Token("upkeep-bot"), "npm_config_registry="+registry.URL, "TMPDIR="+temporary)
	doc := s.Run(t, update, `{}`)
	require.Contains(t, []run.Outcome{run.Succeeded, run.PartiallySucceeded}, doc.Outcome, doc.Summary)

	changed := make(map[string]string)
	for _, p := range repo.Pulls() {
		changed[p.Title] = p.Head
	}
	var good string
	for title, head := range changed {
		if strings.Contains(title, "good") {
			good = head
		}
	}
	require.NotEmpty(t, good, "the rest goes on: %v\n%s", changed, doc.Result)
	require.Contains(t, repo.File(good, "package.json"), `"good": "1.0.1", "many": "1.0.0"`)
	require.Equal(t, "120000", repo.Mode(good, "linked/package.json"))
	for title, head := range changed {
		if strings.Contains(title, "scripted") {
			require.Contains(t, repo.File(head, "scripted/package-lock.json"), `"version": "1.0.1"`, title)
		}
	}
	require.Len(t, repo.Issues(), 1)
	board := repo.Issues()[0].Body
	for _, what := range append(named,
		"bad/package.json", "locked/package-lock.json", "go/go.mod", "chart/Chart.yaml",
		"linked/package.json", "evil", "symbolic link", "submodule",
	) {
		require.Contains(t, board, what)
	}
	require.NotContains(t, board, "\x1b")
	require.NotContains(t, board, "g\u043e\u043ed 1.0.0")
	w.Stop()
	ran, err := os.ReadDir(marks)
	require.NoError(t, err)
	require.Empty(t, ran, "something was run")
	require.Zero(t, strangers.Load(), "somebody was asked whom the repository names")
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left, "nothing is left of the clones")
}
