package gomod

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
)

func TestFollow(t *testing.T) {
	main := "// a.org/b is why.\npackage main\r\n\nimport (\n\tb   \"a.org/b\" // a.org/b\n\t_ \"a.org/b/sub\"\n\t_ `a.org/b/raw`\n\t_ \"a.org/b/v3/new\"\n\t_ \"a.org/b/other/x\"\n\t_ \"a.org/bc\"\n)\n\nvar s = \"a.org/b\"\nfunc   main() {}"
	repository := fstest.MapFS{
		"m/go.mod":              {Data: []byte("module x.org/x\nrequire (\n\ta.org/b v1.0.0\n\ta.org/b/other v1.0.0\n\ta.org/b/v3 v3.0.0\n)\n")},
		"m/main.go":             {Data: []byte(main)},
		"m/none.go":             {Data: []byte("package main\n// a.org/b\n")},
		"m/nested/go.mod":       {Data: []byte("module x.org/x/nested\n")},
		"m/nested/main.go":      {Data: []byte(main)},
		"m/vendor/c.org/c/c.go": {Data: []byte(main)},
		"main.go":               {Data: []byte(main)},
	}
	d := managertest.Extract(t, Manager{}, "m/go.mod", string(repository["m/go.mod"].Data))[0]
	changed, err := Manager{}.Follow(t.Context(), repository, d, dependency.Update{Version: "v2.0.0", Written: "v2.0.0", Package: "a.org/b/v2"})
	require.NoError(t, err)
	want := strings.NewReplacer("\"a.org/b\" //", "\"a.org/b/v2\" //", "\"a.org/b/sub\"", "\"a.org/b/v2/sub\"", "`a.org/b/raw`", "`a.org/b/v2/raw`").Replace(main)
	require.Equal(t, map[string][]byte{"m/main.go": []byte(want)}, changed)

	changed, err = Manager{}.Follow(t.Context(), repository, d, dependency.Update{Version: "v1.1.0", Written: "v1.1.0"})
	require.NoError(t, err)
	require.Empty(t, changed, "the same module")

	repository["m/main.go"].Data = []byte("package main\nimport (\n\"a.org/b\n")
	_, err = Manager{}.Follow(t.Context(), repository, d, dependency.Update{Version: "v2.0.0", Package: "a.org/b/v2"})
	require.ErrorContains(t, err, "m/main.go: ")
}

func FuzzRename(f *testing.F) {
	f.Add([]byte("package a\nimport (\n\t\"a.org/b\"\n\tx `a.org/b/c`\n)\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		after, err := rename(content, "a.org/b", "a.org/b/v2", nil)
		if err != nil {
			return
		}
		require.Equal(t, strings.ReplaceAll(string(content), "a.org/b/v2", "a.org/b"), strings.ReplaceAll(string(after), "a.org/b/v2", "a.org/b"), "nothing but the name")
		_, err = parser.ParseFile(token.NewFileSet(), "", content, parser.ImportsOnly)
		if err == nil {
			_, err = parser.ParseFile(token.NewFileSet(), "", after, parser.ImportsOnly)
			require.NoError(t, err)
		}
	})
}
