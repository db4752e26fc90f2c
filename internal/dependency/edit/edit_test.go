package edit_test

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/edit"
	"github.com/upkeep-run/upkeep/internal/dependency/manager"
)

func TestApply(t *testing.T) {
	repository := fstest.MapFS{"go.mod": {Data: []byte("module example.com/m\n\ngo 1.26\n\nrequire (\n\texample.com/a v1.0.0 // why\n\texample.com/b v1.0.0\n)\n")}}
	found, problems := manager.Find(t.Context(), repository)
	require.Empty(t, problems)
	var changes []edit.Change
	for _, d := range found {
		if d.Name == "example.com/a" || d.Name == "example.com/b" {
			changes = append(changes, edit.Change{Dependency: d, Update: dependency.Update{Type: dependency.Patch, Version: "v1.0.1", Written: "v1.0.1"}})
		}
	}
	require.Len(t, changes, 2)
	edited, err := edit.Apply(t.Context(), repository, changes)
	require.NoError(t, err)
	diff, err := edit.Diff(repository, edited)
	require.NoError(t, err)
	require.Equal(t, "--- a/go.mod\n+++ b/go.mod\n@@ -5,4 +5,4 @@\n require (\n-\texample.com/a v1.0.0 // why\n-\texample.com/b v1.0.0\n+\texample.com/a v1.0.1 // why\n+\texample.com/b v1.0.1\n )\n", diff)

	changes[1].Dependency.Written, changes[1].Dependency.Current = "v0.9.0", "v0.9.0"
	_, err = edit.Apply(t.Context(), repository, changes)
	require.ErrorContains(t, err, "example.com/b", "all or nothing")
	changes[1].Dependency.File = "../go.mod"
	_, err = edit.Apply(t.Context(), repository, changes)
	require.Error(t, err)
}

// TestTwoMajorsInOneFile: two changes that both rename imports of the same file see what the other has made.
func TestTwoMajorsInOneFile(t *testing.T) {
	repository := fstest.MapFS{
		"go.mod":  {Data: []byte("module example.com/m\n\ngo 1.26\n\nrequire (\n\texample.com/a v1.0.0\n\texample.com/b v1.0.0\n)\n")},
		"main.go": {Data: []byte("package m\n\nimport (\n\t\"example.com/a\"\n\t\"example.com/b/c\"\n)\n\nvar A, C = a.A, c.C\n")},
	}
	found, _ := manager.Find(t.Context(), repository)
	var changes []edit.Change
	for _, d := range found {
		if d.Package.Datasource == dependency.SourceGo {
			changes = append(changes, edit.Change{Dependency: d, Update: dependency.Update{Type: dependency.Major, Version: "v2.0.0", Written: "v2.0.0", Package: d.Name + "/v2"}})
		}
	}
	edited, err := edit.Apply(t.Context(), repository, changes)
	require.NoError(t, err)
	require.Equal(t, "package m\n\nimport (\n\t\"example.com/a/v2\"\n\t\"example.com/b/v2/c\"\n)\n\nvar A, C = a.A, c.C\n", string(edited["main.go"]))
	require.Contains(t, string(edited["go.mod"]), "example.com/b/v2 v2.0.0")
}
