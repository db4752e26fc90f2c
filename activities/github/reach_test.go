package github

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/config"
	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/lock"
	"github.com/upkeep-run/upkeep/internal/dependency/scan"
)

// entry is a dependency with a patch, and an update that mends a vulnerability.
func entry(source, file string) scan.Entry {
	return scan.Entry{File: file, Dependency: dependency.Dependency{File: file, Package: dependency.Package{Datasource: source}}, Updates: []dependency.Update{
		{Type: dependency.Patch, Version: "v1.0.2"}, {Type: dependency.Security, Version: "v1.0.1", Advisories: []string{"GO-2026-0001", "GHSA-x"}},
	}}
}

// TestWhatCannotBeReachedIsNotProven: without govulncheck, or a database, the updates are proposed all the same, and
// the dashboard says why.
func TestWhatCannotBeReachedIsNotProven(t *testing.T) {
	tree := fstest.MapFS{"go.mod": {Data: []byte("module x\n")}, "tools/go.mod": {Data: []byte("module y\n")}}
	for says, c := range map[string]struct {
		repository config.Repository
		tools      lock.Tools
	}{
		"is not installed":     {config.Repository{}, lock.Tools{Go: "/nowhere/go", Govulncheck: "/nowhere/govulncheck"}},
		"there is no database": {config.Repository{Advisories: "/var/lib/osv"}, lock.Tools{}},
	} {
		report := scan.Report{Entries: []scan.Entry{
			entry(dependency.SourceGo, "tools/go.mod"), entry(dependency.SourceGo, "go.mod"), entry(dependency.SourceGo, "go.mod"),
			entry(dependency.SourceNPM, "package.json"), entry(dependency.SourceGoRelease, "go.mod"),
		}}
		var out Scanned
		require.NoError(t, (&Activities{Tools: c.tools}).reach(t.Context(), tree, c.repository, &report, &out))
		require.Len(t, out.Unread, 2, "once for each module")
		require.Equal(t, "what is called in go.mod", out.Unread[0].What)
		require.Contains(t, out.Unread[0].Why, says)
		for i, e := range report.Entries {
			require.Nil(t, e.Updates[0].Reach, "it mends nothing")
			if i < 3 {
				require.Equal(t, map[string]string{"GO-2026-0001": dependency.ReachNotProven, "GHSA-x": dependency.ReachNotProven}, e.Updates[1].Reach)
			} else {
				require.Nil(t, e.Updates[1].Reach, "only modules are looked at")
			}
		}
	}
	report, out := scan.Report{Entries: []scan.Entry{entry(dependency.SourceGo, "go.mod")}}, Scanned{}
	require.NoError(t, (&Activities{}).reach(t.Context(), tree, config.Repository{Reachability: config.ReachabilityOff}, &report, &out))
	require.Empty(t, out.Unread)
	require.Nil(t, report.Entries[0].Updates[1].Reach)
}

func TestWhichDatabase(t *testing.T) {
	require.Equal(t, lock.GoVulnerabilities, database(config.Repository{}))
	require.Equal(t, "/var/lib/vulndb", database(config.Repository{Reachability: "/var/lib/vulndb", Advisories: "/var/lib/osv"}))
	require.Empty(t, database(config.Repository{Advisories: "/var/lib/osv"}))
}
