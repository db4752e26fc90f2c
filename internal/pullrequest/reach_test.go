package pullrequest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

// mending is a security update of a module that ends vulnerabilities, each reached in some way.
func mending(name string, reach map[string]string) pullrequest.Change {
	c := change("gomod", name, "v1.0.0", "v1.0.1", dependency.Security)
	c.Update.Reach = reach
	for id := range reach {
		c.Update.Advisories = append(c.Update.Advisories, id)
	}
	return c
}

func TestWhatIsCalledComesFirst(t *testing.T) {
	changes := []pullrequest.Change{
		change("gomod", "example.com/z", "v1.0.0", "v1.0.1", dependency.Patch),
		mending("example.com/a", map[string]string{"GO-1": dependency.ReachRequired}),
		mending("example.com/b", map[string]string{"GO-2": dependency.ReachImported, "GO-3": dependency.ReachRequired}),
		mending("example.com/c", map[string]string{"GO-4": dependency.ReachImported, "GO-5": dependency.ReachNotProven}),
		mending("example.com/d", map[string]string{"GO-6": dependency.ReachImported, "GO-7": dependency.ReachCalled}),
		mending("example.com/e", nil),
	}
	var named []string
	for _, p := range pullrequest.Propose(changes, nil) {
		named = append(named, p.Named())
	}
	const title = "fix(deps): update example.com/"
	require.Equal(t, []string{
		title + "c to v1.0.1 [security] (whether the code calls it is not proven)", title + "d to v1.0.1 [security] (the code calls it)", title + "e to v1.0.1 [security]",
		title + "a to v1.0.1 [security] (no package with it is imported)", title + "b to v1.0.1 [security] (a package with it is imported, and nothing calls it)",
		"chore(deps): update example.com/z to v1.0.1",
	}, named, "none is left out")
}

func TestABodySaysWhatIsCalled(t *testing.T) {
	one := mending("example.com/a", map[string]string{"GO-1": dependency.ReachImported})
	two := mending("example.com/a", map[string]string{"GO-1": dependency.ReachCalled})
	two.Dependency.File = "tools/go.mod"
	three := mending("example.com/a", map[string]string{"GO-1": dependency.ReachRequired})
	three.Dependency.File = "x/go.mod"
	all := pullrequest.Propose([]pullrequest.Change{one, two, three}, nil)
	require.Len(t, all, 1)
	require.Contains(t, pullrequest.Body(all[0], pullrequest.Context{}), "- GO-1 (the code calls it)\n", "the worst of the modules counts")
	require.Contains(t, pullrequest.Body(pullrequest.Propose([]pullrequest.Change{one}, nil)[0], pullrequest.Context{}), "- GO-1 (a package with it is imported, and nothing calls it)\n")
	one.Update.Reach = nil
	require.Contains(t, pullrequest.Body(pullrequest.Propose([]pullrequest.Change{one}, nil)[0], pullrequest.Context{}), "- GO-1\n", "of other ecosystems nothing is said")
}
