package lock

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// proxy is a module proxy in a folder.
func proxy(t *testing.T, modules map[string]map[string]string) Tools {
	t.Helper()
	dir := t.TempDir()
	list := make(map[string][]string)
	for id, files := range modules {
		name, version, _ := strings.Cut(id, "@")
		escaped, err := module.EscapePath(name)
		require.NoError(t, err)
		at := filepath.Join(dir, escaped, "@v")
		require.NoError(t, os.MkdirAll(at, 0o755))
		list[at] = append(list[at], version)
		write := func(ext, content string) {
			require.NoError(t, os.WriteFile(filepath.Join(at, version+ext), []byte(content), 0o600))
		}
		write(".info", fmt.Sprintf(`{"Version": %q, "Time": "2026-01-01T00:00:00Z"}`, version))
		write(".mod", files["go.mod"])
		out, err := os.Create(filepath.Join(at, version+".zip"))
		require.NoError(t, err)
		var all []zip.File
		for file, content := range files {
			all = append(all, zipped{file, content})
		}
		require.NoError(t, zip.Create(out, module.Version{Path: name, Version: version}, all))
		require.NoError(t, out.Close())
	}
	for at, versions := range list {
		require.NoError(t, os.WriteFile(filepath.Join(at, "list"), []byte(strings.Join(versions, "\n")), 0o600))
	}
	return Tools{GoEnv: []string{"GOPROXY=file://" + dir, "GOSUMDB=off"}}
}

type zipped struct{ file, content string }

func (z zipped) Path() string { return z.file }
func (z zipped) Lstat() (os.FileInfo, error) {
	return fstest.MapFS{z.file: {Data: []byte(z.content)}}.Lstat(z.file)
}
func (z zipped) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(z.content)), nil
}

func modules(t *testing.T) Tools {
	return proxy(t, map[string]map[string]string{
		"example.com/lib@v1.0.0":    {"go.mod": "module example.com/lib\n", "lib.go": "package lib\n"},
		"example.com/lib@v1.1.0":    {"go.mod": "module example.com/lib\nrequire example.com/deep v1.2.0\n", "lib.go": "package lib\nimport _ \"example.com/deep\"\n"},
		"example.com/deep@v1.2.0":   {"go.mod": "module example.com/deep\n", "deep.go": "package deep\n"},
		"example.com/deep@v1.2.1":   {"go.mod": "module example.com/deep\n", "deep.go": "package deep\n"},
		"example.com/lib/v2@v2.0.0": {"go.mod": "module example.com/lib/v2\n", "lib.go": "package lib\n"},
		"example.com/other@v1.0.0":  {"go.mod": "module example.com/other\n", "other.go": "package other\n"},
	})
}

func files(content map[string]string) fstest.MapFS {
	repository := make(fstest.MapFS)
	for name, text := range content {
		repository[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return repository
}

// update edits a dependency of a file, by the manager that finds it there.
func update(t *testing.T, repository fstest.MapFS, file, name, written, version string) (map[string][]byte, Change) {
	t.Helper()
	all, problems := manager.Find(t.Context(), repository)
	require.Empty(t, problems)
	for _, d := range all {
		if d.File != file || d.Name != name {
			continue
		}
		to := dependency.Update{Version: version, Written: written}
		m, _ := manager.Named(d.Manager)
		edited, err := m.Edit(repository[file].Data, d, to)
		if d.Indirect && d.Manager == "npm" {
			require.ErrorIs(t, err, dependency.ErrLockFile)
			return nil, Change{d, to}
		}
		require.NoError(t, err)
		return map[string][]byte{file: edited}, Change{d, to}
	}
	require.Fail(t, "not found", "%s in %s", name, file)
	return nil, Change{}
}

func names(made map[string][]byte) []string { return slices.Sorted(maps.Keys(made)) }

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// tidied is the go.sum of a module as go makes it.
func tidied(t *testing.T, tools Tools, repository fstest.MapFS) string {
	t.Helper()
	d := dependency.Dependency{Manager: "gomod", File: "go.mod"}
	made, err := tools.Refresh(deadline(t), repository, map[string][]byte{"go.sum": []byte("\n")}, []Change{{Dependency: d}})
	require.NoError(t, err)
	return string(made["go.sum"])
}

const app = "module example.com/app\n\ngo 1.24.0\n\nrequire example.com/lib v1.0.0 // the library\n"

func TestAGoModule(t *testing.T) {
	tools := modules(t)
	repository := files(map[string]string{"go.mod": app, "main.go": "package main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n", "note.txt": "of no concern"})
	repository["go.sum"] = &fstest.MapFile{Data: []byte(tidied(t, tools, repository))}
	require.NotEmpty(t, repository["go.sum"].Data)

	edited, change := update(t, repository, "go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"go.mod", "go.sum"}, names(made))
	require.Equal(t, "module example.com/app\n\ngo 1.24.0\n\nrequire example.com/lib v1.1.0 // the library\n\nrequire example.com/deep v1.2.0 // indirect\n", string(made["go.mod"]))
	require.Contains(t, string(made["go.sum"]), "example.com/deep v1.2.0 h1:")
	require.NotContains(t, string(made["go.sum"]), "example.com/lib v1.0.0")

	// An indirect one is written to go.mod too, and may be raised alone.
	for name, content := range made {
		repository[name] = &fstest.MapFile{Data: content}
	}
	edited, change = update(t, repository, "go.mod", "example.com/deep", "v1.2.1", "v1.2.1")
	require.True(t, change.Dependency.Indirect)
	made, err = tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"go.sum"}, names(made), "go.mod is as it was edited")
	require.Contains(t, string(made["go.sum"]), "example.com/deep v1.2.1 h1:")

	// What was fetched is kept where the operator says.
	cached := tools
	cached.Cache = t.TempDir()
	_, err = cached.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	cached.GoEnv = []string{"GOPROXY=off", "GOSUMDB=off"}
	again, err := cached.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, made, again)

	// Once more changes nothing.
	maps.Copy(edited, made)
	made, err = tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Empty(t, made)
}

// A module beside it takes another's place, and a workspace is around both.
func TestAGoModuleOfAWorkspace(t *testing.T) {
	tools := modules(t)
	repository := files(map[string]string{
		"go.work":      "go 1.24.0\n\nuse (\n\t./app\n\t./near\n)\n",
		"app/go.mod":   app + "\nrequire example.com/near v0.0.0\n\nreplace example.com/near => ../near\n",
		"app/main.go":  "package main\n\nimport (\n\t_ \"example.com/lib\"\n\t_ \"example.com/near\"\n)\n\nfunc main() {}\n",
		"near/go.mod":  "module example.com/near\n\ngo 1.24.0\n",
		"near/near.go": "package near\n",
	})
	edited, change := update(t, repository, "app/go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"app/go.mod", "app/go.sum"}, names(made))
	require.Contains(t, string(made["app/go.mod"]), "replace example.com/near => ../near\n")
}

// The next major version is another module: with the imports renamed, it takes the place of the old one.
func TestAMajorVersionOfAGoModule(t *testing.T) {
	tools := modules(t)
	repository := files(map[string]string{"go.mod": app, "main.go": "package main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n"})
	repository["go.sum"] = &fstest.MapFile{Data: []byte(tidied(t, tools, repository))}
	edited, change := update(t, repository, "go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	m, _ := manager.Named("gomod")
	change.Update = dependency.Update{Version: "v2.0.0", Written: "v2.0.0", Package: "example.com/lib/v2"}
	var err error
	edited["go.mod"], err = m.Edit([]byte(app), change.Dependency, change.Update)
	require.NoError(t, err)
	_, err = tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.ErrorContains(t, err, "nothing imports example.com/lib/v2")

	follows, err := m.(dependency.Follower).Follow(t.Context(), repository, change.Dependency, change.Update)
	require.NoError(t, err)
	maps.Copy(edited, follows)
	made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"go.sum"}, names(made))
	require.Contains(t, string(made["go.sum"]), "example.com/lib/v2 v2.0.0 h1:")
	require.NotContains(t, string(made["go.sum"]), "example.com/lib v1.0.0")
}

// A module that was not tidy is not tidied on the way: what nothing imports stays, and what is needed is added.
func TestAnUntidyGoModule(t *testing.T) {
	tools := modules(t)
	repository := files(map[string]string{
		"sub/go.mod":  "module example.com/app\n\ngo 1.24.0\n\nrequire (\n\texample.com/other v1.0.0\n\texample.com/lib v1.0.0\n)\n",
		"sub/main.go": "package main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n",
	})
	edited, change := update(t, repository, "sub/go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Contains(t, string(made["sub/go.mod"]), "example.com/other v1.0.0")
	require.Contains(t, string(made["sub/go.sum"]), "example.com/deep v1.2.0 h1:")
}

func TestGoIsToldNothingByTheRepository(t *testing.T) {
	tools := modules(t)
	marks := t.TempDir()
	mark := filepath.Join(marks, "ran")
	evil := filepath.Join(marks, "evil.sh")
	require.NoError(t, os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+mark+"\nexec \"$@\"\n"), 0o700))
	t.Setenv("GOFLAGS", "-toolexec="+evil)
	t.Setenv("GOPROXY", "https://127.0.0.1:1")
	t.Setenv("GIT_SSH_COMMAND", evil)
	repository := files(map[string]string{
		"go.mod": app, "main.go": "//go:generate " + evil + "\npackage main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n",
		"go.env": "GOFLAGS=-toolexec=" + evil, "home/.config/go/env": "GOFLAGS=-toolexec=" + evil, "bin/git": evil,
	})
	edited, change := update(t, repository, "go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	made, err := tools.Refresh(deadline(t), repository, edited, []Change{change})
	require.NoError(t, err)
	require.Equal(t, []string{"go.mod", "go.sum"}, names(made))
	require.NoFileExists(t, mark)

	_, err = Tools{GoEnv: []string{"GOFLAGS=-toolexec=" + evil}}.Refresh(deadline(t), repository, edited, []Change{change})
	require.True(t, failure.Is(err, failure.BadConfig), "%v", err)
}

func TestGoRefuses(t *testing.T) {
	tools := modules(t)
	main := "package main\n\nimport _ \"example.com/lib\"\n\nfunc main() {}\n"
	for _, c := range []struct {
		name, says string
		code       failure.Code
		content    map[string]string
	}{
		{"a newer Go, which is not fetched", "go >= 1.99", failure.LockFailed, map[string]string{"go.mod": strings.Replace(app, "1.24.0", "1.99.0", 1), "main.go": main}},
		{"vendored", "vendor/", failure.LockFailed, map[string]string{"go.mod": app, "main.go": main, "vendor/modules.txt": "# example.com/lib v1.0.0\n"}},
		{"source that nobody can read", "main.go", failure.LockFailed, map[string]string{"go.mod": app, "main.go": "package main\nimport (\n"}},
		{"a package that is not there", "not/there", failure.LockFailed, map[string]string{"go.mod": app, "main.go": strings.Replace(main, "func", "import _ \"example.com/not/there\"\n\nfunc", 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			repository := files(c.content)
			edited := map[string][]byte{"go.mod": []byte(strings.Replace(c.content["go.mod"], "lib v1.0.0", "lib v1.1.0", 1))}
			d := dependency.Dependency{Manager: "gomod", File: "go.mod", Name: "example.com/lib", Package: dependency.Package{Datasource: dependency.SourceGo, Name: "example.com/lib"}}
			_, err := tools.Refresh(deadline(t), repository, edited, []Change{{d, dependency.Update{Version: "v1.1.0"}}})
			require.True(t, failure.Is(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
	repository := files(map[string]string{"go.mod": app, "main.go": main})
	edited, change := update(t, repository, "go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	_, err := Tools{Go: path.Join(t.TempDir(), "go")}.Refresh(deadline(t), repository, edited, []Change{change})
	require.True(t, failure.Is(err, failure.MissingProgram), "%v", err)

	_, err = Tools{GoEnv: tools.GoEnv, Within: time.Millisecond}.Refresh(deadline(t), repository, edited, []Change{change})
	require.True(t, failure.Is(err, failure.LockFailed), "%v", err)
	require.ErrorContains(t, err, "did not end within")
}

// A run that is ended ends the tool, and what the tool has started.
func TestARunThatIsEnded(t *testing.T) {
	dir := t.TempDir()
	slow, pid := filepath.Join(dir, "go"), filepath.Join(dir, "pid")
	require.NoError(t, os.WriteFile(slow, []byte("#!/bin/sh\n/bin/sleep 600 &\necho $! > "+pid+".new\n/bin/mv "+pid+".new "+pid+"\nwait\n"), 0o700))
	repository := files(map[string]string{"go.mod": app, "main.go": "package main\n"})
	edited, change := update(t, repository, "go.mod", "example.com/lib", "v1.1.0", "v1.1.0")
	ctx, cancel := context.WithCancel(deadline(t))
	ended := make(chan error)
	go func() {
		_, err := Tools{Go: slow}.Refresh(ctx, repository, edited, []Change{change})
		ended <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(pid); return err == nil }, time.Minute, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	content, err := os.ReadFile(pid)
	require.NoError(t, err)
	number, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", number))
		return err != nil || strings.Contains(string(state), ") Z ") // a zombie, until somebody asks for it
	}, time.Minute, 10*time.Millisecond)
}

// The real module proxy.
func TestARealGoModule(t *testing.T) {
	repository := files(map[string]string{
		"go.mod": "module example.com/app\n\ngo 1.24.0\n\nrequire rsc.io/quote v1.5.1\n", "main.go": "package main\n\nimport _ \"rsc.io/quote\"\n\nfunc main() {}\n",
	})
	edited, change := update(t, repository, "go.mod", "rsc.io/quote", "v1.5.2", "v1.5.2")
	made, err := Tools{}.Refresh(deadline(t), repository, edited, []Change{change})
	if failure.Is(err, failure.RegistrySilent) {
		t.Skip("there is no network here: ", err)
	}
	require.NoError(t, err)
	require.Contains(t, string(made["go.sum"]), "rsc.io/quote v1.5.2 h1:")
}
