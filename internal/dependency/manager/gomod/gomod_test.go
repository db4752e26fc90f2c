package gomod

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/manager/managertest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const mod = `// The shop.
module example.com/shop // not v2 yet

go 1.24.0
toolchain go1.24.3

require github.com/one/alone v1.0.0 // why it is alone
require (
	github.com/a/a   v1.2.3   //   far   away
	github.com/a/a/v2 v2.0.1 // indirect; and a word
	"github.com/quoted/q" v1.1.1

	github.com/old/incompatible v3.1.0+incompatible
	github.com/pseudo/p v0.0.0-20240102030405-0123456789ab
	github.com/replaced/local v1.0.0
	github.com/replaced/other v1.0.0
	github.com/replaced/elsewhere v1.5.0
	example.com/placeholder v0.0.0-00010101000000-000000000000
)

exclude github.com/a/a v1.2.4
exclude (
	github.com/a/a v1.2.5
)
retract v0.1.0
replace github.com/replaced/local => ../local
replace (
	github.com/replaced/other v1.0.0 => github.com/fork/other v1.0.1
	github.com/replaced/elsewhere v1.0.0 => github.com/fork/elsewhere v1.0.2
)
tool github.com/a/a/cmd/x
`

func TestExtract(t *testing.T) {
	require.Equal(t, []string{
		"go 1.24.0 skip: it is the oldest Go that will do, and not what is used",
		"toolchain 1.24.3 of=go",
		"github.com/one/alone v1.0.0",
		"github.com/a/a v1.2.3 excluded=[v1.2.4 v1.2.5]",
		"github.com/a/a/v2 v2.0.1 indirect",
		"github.com/quoted/q v1.1.1",
		"github.com/old/incompatible v3.1.0+incompatible",
		"github.com/pseudo/p v0.0.0-20240102030405-0123456789ab",
		"github.com/replaced/local v1.0.0 skip: it is replaced by ../local",
		"github.com/replaced/other v1.0.0 skip: it is replaced by github.com/fork/other",
		"github.com/replaced/elsewhere v1.5.0",
		"example.com/placeholder v0.0.0-00010101000000-000000000000 skip: its version stands for one that is replaced",
		`../local  skip: it is a folder`,
		"github.com/fork/other v1.0.1",
		"github.com/fork/elsewhere v1.0.2",
	}, managertest.Lines(managertest.Extract(t, Manager{}, "sub/go.mod", mod)))
}

func TestEdit(t *testing.T) {
	managertest.Edits(t, Manager{}, "go.mod", mod)
	managertest.Edits(t, Manager{}, "go.mod", strings.ReplaceAll(mod, "\n", "\r\n"))
	managertest.Edits(t, Manager{}, "go.mod", strings.TrimSuffix("module x.org/x\nrequire a.org/b v1.0.0\n", "\n"))
}

const work = "go 1.24\n\ntoolchain go1.24.1\n\nuse (\n\t./a\n\t./b // this too\n)\n\nreplace example.com/x => example.com/y v1.2.3\n"

func TestWork(t *testing.T) {
	require.Equal(t, []string{
		"go 1.24 skip: it is the oldest Go that will do, and not what is used",
		"toolchain 1.24.1 of=go",
		"example.com/y v1.2.3",
	}, managertest.Lines(managertest.Extract(t, Manager{}, "go.work", work)))
	managertest.Edits(t, Manager{}, "go.work", work)
}

// The next major version of a module is another module, so its path changes with it.
func TestEditToTheNextMajor(t *testing.T) {
	all := managertest.Extract(t, Manager{}, "go.mod", "module x.org/x\n\nrequire a.org/b v1.0.0 // a.org/b v1.0.0\n")
	to := dependency.Update{Version: "v2.3.4", Written: "v2.3.4", Package: "a.org/b/v2"}
	after, err := Manager{}.Edit([]byte("module x.org/x\n\nrequire a.org/b v1.0.0 // a.org/b v1.0.0\n"), all[0], to)
	require.NoError(t, err)
	require.Equal(t, "module x.org/x\n\nrequire a.org/b/v2 v2.3.4 // a.org/b v1.0.0\n", string(after))
	twice, err := Manager{}.Edit(after, all[0], to)
	require.NoError(t, err)
	require.Equal(t, string(after), string(twice))
}

func TestEditRefuses(t *testing.T) {
	d := managertest.Extract(t, Manager{}, "go.mod", "module x.org/x\nrequire a.org/b v1.0.0\n")[0]
	for _, c := range []struct {
		name, content string
		to            dependency.Update
	}{
		{"not there", "module x.org/x\n", dependency.Update{Written: "v1.0.1"}},
		{"another version", "module x.org/x\nrequire a.org/b v1.0.9\n", dependency.Update{Written: "v1.0.1"}},
		{"a version that is an option", "module x.org/x\nrequire a.org/b v1.0.0\n", dependency.Update{Written: "--upload-pack=x"}},
		{"a version with a line", "module x.org/x\nrequire a.org/b v1.0.0\n", dependency.Update{Written: "v1.0.1\nreplace a => ./b"}},
		{"a version with a comment", "module x.org/x\nrequire a.org/b v1.0.0\n", dependency.Update{Written: "v1.0.1 // indirect"}},
		{"a package that climbs", "module x.org/x\nrequire a.org/b v1.0.0\n", dependency.Update{Written: "v2.0.0", Package: "a.org/../b"}},
		{"no version", "module x.org/x\nrequire a.org/b v1.0.0\n", dependency.Update{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Manager{}.Edit([]byte(c.content), d, c.to)
			require.True(t, failure.Is(err, failure.NotEditable), "%v", err)
		})
	}
}

func TestMalformed(t *testing.T) {
	_, err := Manager{}.Extract(t.Context(), fstest.MapFS{"go.mod": {Data: []byte("module x.org/x\n\nrequire (\n\ta.org/b\n)\n")}}, "go.mod")
	require.ErrorContains(t, err, "go.mod:4: ")
}

func FuzzGoMod(f *testing.F) { managertest.Fuzz(f, Manager{}, "go.mod", mod) }
func FuzzGoWork(f *testing.F) {
	managertest.Fuzz(f, Manager{}, "go.work", work)
}
