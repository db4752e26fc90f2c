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
	edited, err := edit.Apply(repository, changes)
	require.NoError(t, err)
	diff, err := edit.Diff(repository, edited)
	require.NoError(t, err)
	require.Equal(t, "--- a/go.mod\n+++ b/go.mod\n@@ -5,4 +5,4 @@\n require (\n-\texample.com/a v1.0.0 // why\n-\texample.com/b v1.0.0\n+\texample.com/a v1.0.1 // why\n+\texample.com/b v1.0.1\n )\n", diff)

	changes[1].Dependency.Written, changes[1].Dependency.Current = "v0.9.0", "v0.9.0"
	_, err = edit.Apply(repository, changes)
	require.ErrorContains(t, err, "example.com/b", "all or nothing")
	changes[1].Dependency.File = "../go.mod"
	_, err = edit.Apply(repository, changes)
	require.Error(t, err)
}
