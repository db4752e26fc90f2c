package lock

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
)

// registry is an npm registry with packages in their versions, by their package.json.
type registry struct {
	*httptest.Server
	asked atomic.Int64
}

func npmRegistry(t *testing.T, packages map[string][]map[string]any) *registry {
	t.Helper()
	r := new(registry)
	tarballs := make(map[string][]byte)
	documents := make(map[string][]byte)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		if content, ok := tarballs[q.URL.Path]; ok {
			_, _ = w.Write(content)
			return
		}
		if content, ok := documents[strings.TrimPrefix(q.URL.Path, "/")]; ok {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(content)
			return
		}
		http.Error(w, `{"error": "not found"}`, http.StatusNotFound)
	}))
	t.Cleanup(r.Close)
	for name, versions := range packages {
		all := make(map[string]any)
		latest := ""
		for _, manifest := range versions {
			manifest["name"] = name
			latest = manifest["version"].(string)
			raw, err := json.Marshal(manifest)
			require.NoError(t, err)
			packed := pack(t, raw)
			at := "/" + name + "/-/" + path.Base(name) + "-" + latest + ".tgz"
			tarballs[at] = packed
			sum := sha512.Sum512(packed)
			entry := map[string]any{"dist": map[string]any{"tarball": r.URL + at, "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}}
			for k, v := range manifest {
				entry[k] = v
			}
			if _, ok := manifest["scripts"]; ok {
				entry["hasInstallScript"] = true
			}
			all[latest] = entry
		}
		raw, err := json.Marshal(map[string]any{"name": name, "dist-tags": map[string]string{"latest": latest}, "versions": all})
		require.NoError(t, err)
		documents[name] = raw
	}
	return r
}

func pack(t *testing.T, manifest []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(manifest))}))
	_, err := w.Write(manifest)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return out.Bytes()
}

func version(v string, more ...any) map[string]any {
	m := map[string]any{"version": v}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// tools is npm with an operator's .npmrc that names the registry.
func (r *registry) tools(t *testing.T) Tools {
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatal("npm is needed: ", err)
	}
	file := filepath.Join(t.TempDir(), "npmrc")
	require.NoError(t, os.WriteFile(file, []byte("registry="+r.URL+"/\n"), 0o600))
	return Tools{NPMRC: file}
}

// locks is a repository with a lock file that npm has made.
func (r *registry) locks(t *testing.T, content map[string]string) fstest.MapFS {
	t.Helper()
	dir := t.TempDir()
	repository := files(content)
	for name, text := range content {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, path.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	cmd := exec.CommandContext(deadline(t), "npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--registry="+r.URL, "--cache="+t.TempDir(), "--userconfig=/dev/null")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	require.NoError(t, err)
	repository["package-lock.json"] = &fstest.MapFile{Data: lock}
	return repository
}

func parsed(t *testing.T, lock []byte) map[string]string {
	t.Helper()
	var l struct {
		Packages map[string]struct{ Version string }
	}
	require.NoError(t, json.Unmarshal(lock, &l))
	versions := make(map[string]string)
	for key, p := range l.Packages {
		versions[key] = p.Version
	}
	return versions
}

func stack(t *testing.T) *registry {
	return npmRegistry(t, map[string][]map[string]any{
		"left":  {version("1.0.0"), version("1.1.0", "dependencies", map[string]string{"deep": "^2.0.0"}), version("1.2.0", "dependencies", map[string]string{"deep": "^2.0.0"}), version("2.0.0")},
		"right": {version("1.0.0", "dependencies", map[string]string{"deep": "^1.0.0"}), version("1.1.0")},
		"deep":  {version("1.0.0"), version("1.0.1"), version("1.0.9"), version("2.0.0"), version("2.1.0")},
		"rigid": {version("1.0.0", "dependencies", map[string]string{"deep": "1.0.0"})},
		"@s/p":  {version("3.0.0"), version("3.0.1")},
		"evil":  {version("1.0.0"), version("1.0.1", "scripts", map[string]string{"preinstall": "node -e 'require(\"fs\").writeFileSync(process.env.MARK, \"\")'"})},
	})
}

func TestNPM(t *testing.T) {
	r := stack(t)
	tools := r.tools(t)
	repository := r.locks(t, map[string]string{
		"package.json":            `{"name": "app", "version": "1.0.0", "workspaces": ["packages/*"], "dependencies": {"left": "1.0.0", "right": "1.0.0"}}`,
		"packages/a/package.json": `{"name": "a", "version": "1.0.0", "dependencies": {"@s/p": "3.0.0", "alias": "npm:left@1.0.0"}}`,
	})
	require.Equal(t, "1.0.9", parsed(t, repository["package-lock.json"].Data)["node_modules/deep"])

	t.Run("the chosen version, and not the newest", func(t *testing.T) {
		edited, change := update(t, repository, "package.json", "left", "^1.1.0", "1.1.0")
		require.True(t, change.Dependency.Locked)
		made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
		require.NoError(t, err)
		require.Equal(t, []string{"package-lock.json"}, names(made))
		is := parsed(t, made["package-lock.json"])
		require.Equal(t, "1.1.0", is["node_modules/left"])
		require.Equal(t, "1.0.0", is["node_modules/right"], "nothing else moves")
		require.Contains(t, string(made["package-lock.json"]), `"left": "^1.1.0"`)
		require.Contains(t, string(made["package-lock.json"]), `"integrity": "sha512-`)

		done := maps.Clone(repository)
		done["package.json"], done["package-lock.json"] = &fstest.MapFile{Data: edited["package.json"]}, &fstest.MapFile{Data: made["package-lock.json"]}
		made, err = tools.Refresh(deadline(t), done, edited, []Change{change})
		require.NoError(t, err)
		require.Empty(t, made, "once more changes nothing")
	})
	t.Run("of workspaces, a scope and an alias", func(t *testing.T) {
		edited, one := update(t, repository, "packages/a/package.json", "@s/p", "3.0.1", "3.0.1")
		made, err := tools.Refresh(deadline(t), repository, edited, []Change{one})
		require.NoError(t, err)
		require.Equal(t, "3.0.1", parsed(t, made["package-lock.json"])["node_modules/@s/p"])

		edited, two := update(t, repository, "packages/a/package.json", "alias", "1.2.0", "1.2.0")
		made, err = tools.Refresh(deadline(t), repository, edited, []Change{two})
		require.NoError(t, err)
		require.Equal(t, "1.2.0", parsed(t, made["package-lock.json"])["node_modules/alias"])
	})
	t.Run("a version inside of the range that is written", func(t *testing.T) {
		ranged := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"left": "^1.0.0"}}`})
		edited, change := update(t, ranged, "package.json", "left", "^1.0.0", "1.1.0")
		require.Equal(t, "1.2.0", change.Dependency.Current)
		require.Equal(t, string(ranged["package.json"].Data), string(edited["package.json"]))
		made, err := tools.Refresh(deadline(t), ranged, edited, []Change{change})
		require.NoError(t, err)
		require.Equal(t, "1.1.0", parsed(t, made["package-lock.json"])["node_modules/left"])
		require.Contains(t, string(made["package-lock.json"]), `"left": "^1.0.0"`)
	})
	t.Run("several at once", func(t *testing.T) {
		edited, one := update(t, repository, "packages/a/package.json", "@s/p", "3.0.1", "3.0.1")
		more, two := update(t, repository, "package.json", "right", "1.1.0", "1.1.0")
		maps.Copy(edited, more)
		made, err := tools.Refresh(deadline(t), repository, edited, []Change{one, two})
		require.NoError(t, err)
		is := parsed(t, made["package-lock.json"])
		require.Equal(t, "3.0.1", is["node_modules/@s/p"])
		require.Equal(t, "1.1.0", is["node_modules/right"])
		require.NotContains(t, is, "node_modules/deep", "nothing asks for it any more")
	})
	t.Run("what only the lock file names", func(t *testing.T) {
		lock := repository["package-lock.json"].Data
		old := maps.Clone(repository)
		// As it was locked a while ago.
		old["package-lock.json"] = &fstest.MapFile{Data: bytes.ReplaceAll(lock, []byte("1.0.9"), []byte("1.0.0"))}
		_, change := update(t, old, "package-lock.json", "deep", "1.0.1", "1.0.1")
		require.True(t, change.Dependency.Indirect)
		made, err := tools.Refresh(deadline(t), old, nil, []Change{change})
		require.NoError(t, err)
		require.Equal(t, "1.0.1", parsed(t, made["package-lock.json"])["node_modules/deep"], "the lowest that mends it")
		require.NotContains(t, string(made["package-lock.json"]), "overrides")
	})
	t.Run("what is not to be had", func(t *testing.T) {
		edited, change := update(t, repository, "package.json", "left", "9.9.9", "9.9.9")
		_, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
		require.True(t, failure.Is(err, failure.LockFailed), "%v", err)
		require.ErrorContains(t, err, "9.9.9")

		pinned := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"rigid": "1.0.0"}}`})
		_, change = update(t, pinned, "package-lock.json", "deep", "1.0.9", "1.0.9")
		_, err = tools.Refresh(deadline(t), pinned, nil, []Change{change})
		require.True(t, failure.Is(err, failure.LockFailed), "%v", err)
		require.ErrorContains(t, err, "another package asks for deep 1.0.0")
	})
}

// A package whose install script would run is locked, and its script does not run. That it would, a plain npm
// install shows.
func TestNPMRunsNothing(t *testing.T) {
	r := stack(t)
	mark := filepath.Join(t.TempDir(), "ran")
	t.Setenv("MARK", mark)
	repository := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"evil": "1.0.0"}, "scripts": {"preinstall": "node -e 'require(\"fs\").writeFileSync(process.env.MARK, \"\")'"}}`})
	edited, change := update(t, repository, "package.json", "evil", "1.0.1", "1.0.1")
	made, err := r.tools(t).Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, "1.0.1", parsed(t, made["package-lock.json"])["node_modules/evil"])
	require.NoFileExists(t, mark)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"name": "app", "dependencies": {"evil": "1.0.1"}}`), 0o600))
	cmd := exec.CommandContext(deadline(t), "npm", "install", "--no-audit", "--no-fund", "--registry="+r.URL, "--cache="+t.TempDir(), "--userconfig=/dev/null")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.FileExists(t, mark, "the control: a plain npm install runs the script")
}

// A repository's .npmrc may name a registry that answers with other packages, and programs that npm runs.
func TestNPMIsToldNothingByTheRepository(t *testing.T) {
	r := stack(t)
	evil := npmRegistry(t, map[string][]map[string]any{"left": {version("1.0.0"), version("1.1.0")}})
	dir := t.TempDir()
	mark := filepath.Join(dir, "ran")
	script := filepath.Join(dir, "evil.js")
	require.NoError(t, os.WriteFile(script, []byte("require('fs').writeFileSync("+fmt.Sprintf("%q", mark)+", '')"), 0o600))
	npmrc := "registry=" + evil.URL + "/\nnode-options=--require " + script + "\nignore-scripts=false\ngit=" + script + "\nscript-shell=" + script + "\nuserconfig=" + script + "\n"
	repository := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"left": "1.0.0"}}`})
	repository[".npmrc"] = &fstest.MapFile{Data: []byte(npmrc)}
	repository["home/.npmrc"] = &fstest.MapFile{Data: []byte(npmrc)}
	t.Setenv("npm_config_registry", evil.URL)
	t.Setenv("NODE_OPTIONS", "--require "+script)
	edited, change := update(t, repository, "package.json", "left", "1.1.0", "1.1.0")
	made, err := r.tools(t).Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Contains(t, string(made["package-lock.json"]), r.URL)
	require.Zero(t, evil.asked.Load(), "the repository's registry was asked")
	require.NoFileExists(t, mark)

	// The control: npm in the repository itself does as it is told.
	at := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(at, "package.json"), edited["package.json"], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, ".npmrc"), []byte("registry="+evil.URL+"/\n"), 0o600))
	cmd := exec.CommandContext(deadline(t), "npm", "install", "--package-lock-only", "--no-audit", "--no-fund", "--cache="+t.TempDir())
	cmd.Dir, cmd.Env = at, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + at}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotZero(t, evil.asked.Load())
}

// A package.json may ask for a package by any URL. npm would fetch it, from inside of the operator's network.
func TestNPMReachesNothingInside(t *testing.T) {
	r := stack(t)
	inside := npmRegistry(t, map[string][]map[string]any{"x": {version("1.0.0")}})
	secure := httptest.NewTLSServer(inside.Config.Handler)
	t.Cleanup(secure.Close)
	repository := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"left": "1.0.0"}}`})
	for _, url := range []string{inside.URL, secure.URL} {
		repository["package.json"].Data = fmt.Appendf(nil, `{"name": "app", "dependencies": {"left": "1.0.0", "x": "%s/x/-/x-1.0.0.tgz"}}`, url)
		edited, change := update(t, repository, "package.json", "left", "1.1.0", "1.1.0")
		_, err := r.tools(t).Refresh(deadline(t), repository, edited, []Change{change})
		require.True(t, failure.Is(err, failure.LockFailed), "%v", err)
		require.ErrorContains(t, err, strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://"))
	}
	require.Zero(t, inside.asked.Load())

	// The control: the operator may name it.
	tools := r.tools(t)
	f, err := os.OpenFile(tools.NPMRC, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, "@inside:registry=%s/\n", inside.URL)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	repository["package.json"].Data = fmt.Appendf(nil, `{"name": "app", "dependencies": {"left": "1.0.0", "x": "%s/x/-/x-1.0.0.tgz"}}`, inside.URL)
	edited, change := update(t, repository, "package.json", "left", "1.1.0", "1.1.0")
	_, err = tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.NotZero(t, inside.asked.Load())
}

// A registry that does not answer is not the lock file's fault, and passes.
func TestNPMWithoutARegistry(t *testing.T) {
	r := stack(t)
	tools := r.tools(t)
	repository := r.locks(t, map[string]string{"package.json": `{"name": "app", "dependencies": {"left": "1.0.0"}}`})
	edited, change := update(t, repository, "package.json", "left", "1.1.0", "1.1.0")
	r.Close()
	_, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.True(t, failure.Is(err, failure.RegistrySilent), "%v", err)
}

// The real registry.
func TestRealNPM(t *testing.T) {
	repository := files(map[string]string{
		"package.json":      "{\n\t\"name\": \"app\",\n\t\"dependencies\": {\n\t\t\"ms\": \"2.1.2\"\n\t}\n}\n",
		"package-lock.json": "{\n\t\"name\": \"app\",\n\t\"lockfileVersion\": 2,\n\t\"requires\": true,\n\t\"packages\": {\n\t\t\"\": {\n\t\t\t\"name\": \"app\",\n\t\t\t\"dependencies\": {\n\t\t\t\t\"ms\": \"2.1.2\"\n\t\t\t}\n\t\t},\n\t\t\"node_modules/ms\": {\n\t\t\t\"version\": \"2.1.2\"\n\t\t}\n\t}\n}\n",
	})
	edited, change := update(t, repository, "package.json", "ms", "2.1.3", "2.1.3")
	made, err := Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	if failure.Is(err, failure.RegistrySilent) {
		t.Skip("there is no network here: ", err)
	}
	require.NoError(t, err)
	require.Equal(t, "2.1.3", parsed(t, made["package-lock.json"])["node_modules/ms"])
	require.Contains(t, string(made["package-lock.json"]), "\n\t\"lockfileVersion\": 2,", "its version and its indentation stay")
}
