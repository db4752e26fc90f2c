package lock

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// built is where govulncheck is built.
var built string

// govulncheck is built once, of the version that the image has.
var govulncheck = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "upkeep-govulncheck-"); err != nil {
		return "", err
	}
	path = filepath.Join(built, "govulncheck")
	cmd := exec.Command("go", "build", "-o", path, "golang.org/x/vuln/cmd/govulncheck")
	cmd.Dir = "../../../dev/kit/parts/govulncheck"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestMain removes what was built.
func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(built) // nothing where none was needed
	os.Exit(code)
}

// looking is a module proxy with a library that has vulnerabilities, and govulncheck.
func looking(t *testing.T) Tools {
	t.Helper()
	path, err := govulncheck()
	require.NoError(t, err, "govulncheck cannot be built")
	tools := proxy(t, map[string]map[string]string{
		"example.com/lib@v1.0.0": {
			"go.mod": "module example.com/lib\n\ngo 1.24\n", "lib.go": "package lib\n\nfunc Bad() { worse() }\n\nfunc worse() {}\n\nfunc Other() {}\n",
			"sub/sub.go": "package sub\n\nfunc Sub() {}\n",
		},
	})
	tools.Govulncheck = path
	return tools
}

// vulnerability is one of example.com/lib, mended by v1.0.1.
type vulnerability struct {
	id      string
	aliases []string
	imports []map[string]any
}

// vulnerabilities writes a database in the format of Go's.
func vulnerabilities(t *testing.T, all ...vulnerability) string {
	t.Helper()
	const changed = "2026-01-02T03:04:05Z"
	dir := t.TempDir()
	write := func(name string, content any) {
		data, err := json.Marshal(content)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	var index []map[string]string
	for _, v := range all {
		index = append(index, map[string]string{"id": v.id, "modified": changed, "fixed": "1.0.1"})
		write("ID/"+v.id+".json", map[string]any{
			"schema_version": "1.3.1", "id": v.id, "aliases": v.aliases, "modified": changed, "published": changed, "details": "bad",
			"affected": []any{map[string]any{
				"package":            map[string]string{"name": "example.com/lib", "ecosystem": "Go"},
				"ranges":             []any{map[string]any{"type": "SEMVER", "events": []any{map[string]string{"introduced": "0"}, map[string]string{"fixed": "1.0.1"}}}},
				"ecosystem_specific": map[string]any{"imports": v.imports},
			}},
		})
	}
	write("index/db.json", map[string]string{"modified": changed})
	write("index/modules.json", []any{map[string]any{"path": "example.com/lib", "vulns": index}})
	return dir
}

func within(pkg string, symbols ...string) []map[string]any {
	return []map[string]any{{"path": pkg, "symbols": symbols}}
}

// summed gives a module the go.sum that it needs.
func summed(t *testing.T, tools Tools, content map[string]string) fstest.MapFS {
	t.Helper()
	repository := files(content)
	plain := files(map[string]string{"go.mod": content["go.mod"], "main.go": "package main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n"})
	repository["go.sum"] = &fstest.MapFile{Data: []byte(tidied(t, tools, plain))}
	return repository
}

// caller is a module that calls one of the library's functions, and embeds a file.
func caller() map[string]string {
	return map[string]string{
		"go.mod":  "module example.com/app\n\ngo 1.24\n\nrequire example.com/lib v1.0.0\n",
		"main.go": "package main\n\nimport (\n\t_ \"embed\"\n\n\t\"example.com/lib\"\n)\n\n//go:embed words.txt\nvar words string\n\nfunc main() { lib.Bad() }\n", "words.txt": "hello\n",
	}
}

func TestReach(t *testing.T) {
	tools := looking(t)
	database := vulnerabilities(t,
		vulnerability{"GO-2026-0001", []string{"GHSA-aaaa-bbbb-cccc", "CVE-2026-1"}, within("example.com/lib", "worse")},
		vulnerability{"GO-2026-0002", nil, within("example.com/lib", "Other")},
		vulnerability{"GO-2026-0003", nil, within("example.com/lib/sub", "Sub")},
		vulnerability{"GO-2026-0004", nil, nil},
	)
	reached, err := tools.Reach(deadline(t), summed(t, tools, caller()), "go.mod", database)
	require.NoError(t, err)
	for id, level := range map[string]string{
		"GO-2026-0001": dependency.ReachCalled, "GHSA-aaaa-bbbb-cccc": dependency.ReachCalled, "CVE-2026-1": dependency.ReachCalled,
		"GO-2026-0002": dependency.ReachImported, "GO-2026-0003": dependency.ReachRequired,
		"GO-2026-0004": dependency.ReachNotProven, // it does not say where
		"GO-2026-9999": dependency.ReachNotProven, // the database does not have it
	} {
		require.Equal(t, level, reached.Of(id), "%s: %v", id, reached)
	}
}

func TestReachThatCannotBeProven(t *testing.T) {
	tools := looking(t)
	database := vulnerabilities(t, vulnerability{"GO-2026-0001", nil, within("example.com/lib", "Bad")})
	good := summed(t, tools, caller())
	with := func(name, content string) fstest.MapFS {
		changed := make(fstest.MapFS)
		for n, f := range good {
			changed[n] = f
		}
		changed[name] = &fstest.MapFile{Data: []byte(content)}
		return changed
	}
	hurried, gone := tools, tools
	hurried.Within, gone.Govulncheck = time.Millisecond, "/nowhere/govulncheck"
	for name, c := range map[string]struct {
		tools      Tools
		repository fstest.MapFS
		database   string
		code       failure.Code
		says       string
	}{
		"no database":       {tools, good, "", failure.BadConfig, "no database"},
		"a strange one":     {tools, good, "ftp://example.com", failure.BadConfig, "no database"},
		"a lost database":   {tools, good, filepath.Join(t.TempDir(), "none"), failure.NotAnalysed, "govulncheck says"},
		"no time":           {hurried, good, database, failure.NotAnalysed, "did not end within 1ms"},
		"no program":        {gone, good, database, failure.MissingProgram, "govulncheck"},
		"broken code":       {tools, with("main.go", "package main\n\nfunc main() {"), database, failure.NotAnalysed, "govulncheck says"},
		"broken go.mod":     {tools, with("go.mod", "module x\nrequire (\n"), database, failure.NotAnalysed, "no go.mod"},
		"newer than Go":     {tools, with("go.mod", "module x\n\ngo 1.999\n"), database, failure.NotAnalysed, "govulncheck says"},
		"no sum":            {tools, with("go.sum", ""), database, failure.NotAnalysed, "go.sum"},
		"a climbing folder": {tools, with("go.mod", "module x\n\ngo 1.24\n\nrequire example.com/lib v1.0.0\n\nreplace example.com/lib => ../../etc\n"), database, failure.NotAnalysed, "outside of the repository"},
		"a folder of ours":  {tools, with("go.mod", "module x\n\ngo 1.24\n\nrequire example.com/lib v1.0.0\n\nreplace example.com/lib => /etc\n"), database, failure.NotAnalysed, "outside of the repository"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.tools.Reach(deadline(t), c.repository, "go.mod", c.database)
			require.True(t, failure.Is(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// TestReachRunsNothingOfARepository that would like it to.
func TestReachRunsNothingOfARepository(t *testing.T) {
	tools := looking(t)
	marks := t.TempDir()
	run := "#!/bin/sh\ntouch " + filepath.Join(marks, "ran") + "\n"
	content := caller()
	content["evil.sh"], content["gopackagesdriver"], content["bin/gopackagesdriver"], content["go"], content["git"] = run, run, run, run, run
	content["go.env"] = "GOFLAGS=-toolexec=./evil.sh\nGOPACKAGESDRIVER=./gopackagesdriver\n"
	content["go.work"] = "go 1.24\n\nuse ./evil\n"
	content["gen.go"] = "package main\n\n//go:generate ./evil.sh\n"
	content["c.go"] = "package main\n\n// #cgo CFLAGS: -fplugin=./evil.so\n// #cgo pkg-config: --define-variable=x evil\n// int x;\nimport \"C\"\n\nfunc init() { _ = C.x }\n"
	content["init.go"] = "package main\n\nimport \"os\"\n\nfunc init() { _ = os.WriteFile(\"" + filepath.Join(marks, "init") + "\", nil, 0o600) }\n"
	content["vendor/modules.txt"], content["vendor/example.com/lib/lib.go"] = "# example.com/lib v1.0.0\n## explicit\nexample.com/lib\n", "package lib\n\nfunc Bad() {}\n"
	t.Setenv("GOFLAGS", "-toolexec="+filepath.Join(marks, "none"))
	t.Setenv("UPKEEP_SECRET", "hunter2")
	reached, err := tools.Reach(deadline(t), summed(t, tools, content), "go.mod", vulnerabilities(t, vulnerability{"GO-2026-0001", nil, within("example.com/lib", "worse")}))
	require.NoError(t, err)
	require.Equal(t, dependency.ReachCalled, reached.Of("GO-2026-0001"), "the modules are the proxy's, and not those of vendor/")
	ran, err := os.ReadDir(marks)
	require.NoError(t, err)
	require.Empty(t, ran)
}

// TestReachHasABoundOfMemory that is really set: what has too little ends, and says so.
func TestReachHasABoundOfMemory(t *testing.T) {
	require.EqualValues(t, 1<<30, memoryFor([]byte("2147483648\n"), nil))
	require.EqualValues(t, reachMemory, memoryFor([]byte("max\n"), nil))
	require.EqualValues(t, reachMemory, memoryFor([]byte("68719476736\n"), nil))
	require.EqualValues(t, reachMemory, memoryFor(nil, os.ErrNotExist))
	tools := looking(t)
	out := &bounded{limit: reachOutput}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module x\n\ngo 1.24\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport _ \"net/http\"\n\nfunc main() {}\n"), 0o600))
	said, err := tools.run(deadline(t), call{
		path: tools.Govulncheck, args: []string{"-format", "json", "-db", "file://" + vulnerabilities(t), "./..."}, dir: dir,
		env: append(os.Environ(), "GOTRACEBACK=none", "GOFLAGS="), out: out, data: 64 << 20,
	})
	require.Error(t, err)
	require.Regexp(t, hungry, said)
}

func TestWhatGovulncheckSaysIsBounded(t *testing.T) {
	b := &bounded{limit: 8}
	n, err := b.Write([]byte("12345678"))
	require.NoError(t, err)
	require.Equal(t, 8, n)
	_, err = b.Write([]byte("9"))
	require.ErrorIs(t, err, errTooMuch)
	require.True(t, b.full)
	_, err = readReach("go.mod", strings.NewReader(`{"finding": {"osv": 1}}`))
	require.True(t, failure.Is(err, failure.NotAnalysed), "%v", err)
}
