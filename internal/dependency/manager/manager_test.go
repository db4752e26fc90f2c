package manager

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

func files(content map[string]string) fstest.MapFS {
	repository := make(fstest.MapFS)
	for name, text := range content {
		repository[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return repository
}

func found(all []dependency.Dependency) []string {
	var lines []string
	for _, d := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", d.Manager, d.File, d.Name, d.Written))
	}
	return lines
}

func TestFind(t *testing.T) {
	all, problems := Find(t.Context(), files(map[string]string{
		"go.mod":                           "module x.org/x\nrequire a.org/b v1.0.0\n",
		"web/package.json":                 `{"dependencies": {"ms": "1.0.0"}}`,
		"web/node_modules/ms/package.json": `{"dependencies": {"not": "1.0.0"}}`,
		"vendor/a.org/b/go.mod":            "module a.org/b\nrequire c.org/d v1.0.0\n",
		"internal/testdata/go.mod":         "broken (",
		".git/Dockerfile":                  "FROM not:1\n",
		"Dockerfile":                       "FROM alpine:3.20\n",
		"compose.yaml":                     "services: {a: {image: redis:7}}\n",
		"deploy/app/Chart.yaml":            "apiVersion: v2\ndependencies: [{name: a, version: 1.0.0, repository: https://charts.example.com}]\n",
		"deploy/app/values.yaml":           "image: {repository: nginx, tag: 1.27.0}\n",
		"deploy/app/templates/pod.yaml":    "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: {{ .Values.x }}}]}\n",
		"k8s/pod.yml":                      "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: busybox:1.36}]}\n",
		".github/workflows/ci.yml":         "jobs: {a: {steps: [{uses: actions/checkout@v4}]}}\n",
		// What is broken is said, and the rest goes on.
		"broken/go.mod":            "module x.org/x\nrequire (\n",
		"broken/package.json":      "{\n",
		"broken/compose.yaml":      "a: [\n",
		"broken/package-lock.json": `{"lockfileVersion": 3, "packages": {"": {"dependencies": 1}}}`,
		"large/Dockerfile":         "FROM alpine:" + strings.Repeat("1", 10<<20),
		"odd\x1b[2Jname/go.mod":    "module x.org/x\nrequire not.org/this v1.0.0\n",
	}))
	require.Equal(t, []string{
		"github-actions .github/workflows/ci.yml actions/checkout v4",
		"dockerfile Dockerfile alpine 3.20",
		"compose compose.yaml redis 7",
		"helm deploy/app/Chart.yaml a 1.0.0",
		"helm-values deploy/app/values.yaml nginx 1.27.0",
		"gomod go.mod a.org/b v1.0.0",
		"kubernetes k8s/pod.yml busybox 1.36",
		"npm web/package.json ms 1.0.0",
	}, found(all))
	var said []string
	for _, p := range problems {
		said = append(said, fmt.Sprintf("%s:%d", p.File, p.Line))
		require.NotEmpty(t, p.What)
	}
	require.Equal(t, []string{
		`"odd\x1b[2Jname/go.mod":0`, "broken/compose.yaml:1", "broken/go.mod:3", "broken/package-lock.json:1", "broken/package.json:2", "large/Dockerfile:0",
	}, said)
}

// A link may lead out of the repository, to a file whose content an error or a pull request would show.
func TestLinksAreNotFollowed(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "go.mod"), []byte("module x.org/x\nrequire secret.org/word v1.0.0\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "package-lock.json"), []byte(`{"lockfileVersion": 3, "packages": {"": {}, "node_modules/a": {"version": "6.6.6"}}}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(inside, "package.json"), []byte(`{"dependencies": {"a": "1.0.0"}}`), 0o600))
	require.NoError(t, os.Symlink(filepath.Join(outside, "go.mod"), filepath.Join(inside, "go.mod")))
	require.NoError(t, os.Symlink(outside, filepath.Join(inside, "folder")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "package-lock.json"), filepath.Join(inside, "package-lock.json")))
	root, err := os.OpenRoot(inside)
	require.NoError(t, err)
	defer func() { _ = root.Close() }()
	all, problems := Find(t.Context(), root.FS())
	require.Equal(t, []string{"npm package.json a 1.0.0"}, found(all))
	require.Equal(t, "1.0.0", all[0].Current, "the lock file is somebody else's")
	require.Empty(t, problems)
}

func TestABoundedWalk(t *testing.T) {
	deep := strings.Repeat("d/", maxDepth+1) + "go.mod"
	all, problems := Find(t.Context(), files(map[string]string{deep: "module x.org/x\nrequire a.org/b v1.0.0\n", "go.mod": "module x.org/x\n"}))
	require.Empty(t, all)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].What, "deeper")

	many := make(map[string]string)
	for i := range maxFiles + 10 {
		many[fmt.Sprintf("Dockerfile.%05d", i)] = "FROM scratch\n"
	}
	_, problems = Find(t.Context(), files(many))
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].What, "files")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, problems = Find(ended, files(map[string]string{"go.mod": "module x.org/x\n"}))
	require.Len(t, problems, 1, "a search that was ended says so")
}

// broken is a manager with a fault.
type broken struct{ dependency.Manager }

func (broken) Name() string            { return "broken" }
func (broken) Claims(file string) bool { return file == "a" }
func (broken) Extract(context.Context, fs.FS, string) ([]dependency.Dependency, error) {
	panic("at a fault")
}

func TestAFaultOfAManagerIsAProblemOfTheFile(t *testing.T) {
	all, problems := FindBy(t.Context(), files(map[string]string{"a": "", "go.mod": "module x.org/x\nrequire a.org/b v1.0.0\n"}), append(All(), broken{}))
	require.Len(t, all, 1)
	require.Equal(t, []dependency.Problem{{File: "a", What: "broken cannot bear it: at a fault"}}, problems)
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range All() {
		require.False(t, seen[m.Name()], m.Name())
		seen[m.Name()] = true
		again, ok := Named(m.Name())
		require.True(t, ok)
		require.Equal(t, m, again)
	}
	_, ok := Named("nothing")
	require.False(t, ok)
}
