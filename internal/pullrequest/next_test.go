package pullrequest_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/pullrequest"
)

var (
	patch = pullrequest.Propose([]pullrequest.Change{change("gomod", "example.com/a", "v1.0.0", "v1.0.1", dependency.Patch)}, nil)[0]
	newer = pullrequest.Propose([]pullrequest.Change{change("gomod", "example.com/a", "v1.0.0", "v1.0.2", dependency.Patch)}, nil)[0]
	allow = pullrequest.Policy{Base: "main", Merge: []string{dependency.Patch}}
)

func change(manager, name, from, to, kind string) pullrequest.Change {
	return pullrequest.Change{
		Dependency: dependency.Dependency{Manager: manager, File: "go.mod", Name: name, Current: from, Written: from,
			Package: dependency.Package{Datasource: "goproxy", Name: name, Versioning: "go"}},
		Update: dependency.Update{Type: kind, Version: to, Written: to},
	}
}

// green is a pull request that stands, as Upkeep left it, with checks that passed on the newest base.
func green() pullrequest.Seen {
	return pullrequest.Seen{
		Number: 7, Open: true, Head: "ours", Pushed: "ours", Parent: "tip", BaseHead: "tip", BaseRef: "main",
		Changes: patch.Hash(), Checks: pullrequest.Passed,
	}
}

func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		see        func(*pullrequest.Seen)
		superseded string
		policy     *pullrequest.Policy
		act        pullrequest.Act
		why        string
	}{
		"nothing is there": {func(s *pullrequest.Seen) { *s = pullrequest.Seen{BaseHead: "tip"} }, "", nil, pullrequest.Push, "proposed"},
		"the branch is there, and the process died before it asked": {func(s *pullrequest.Seen) { s.Number, s.Open, s.BaseRef = 0, false, "" }, "", nil, pullrequest.Open, "pushed"},
		"green": {func(*pullrequest.Seen) {}, "", nil, pullrequest.Merge, "passed"},
		"green, and the policy does not merge its type": {func(*pullrequest.Seen) {}, "", &pullrequest.Policy{Base: "main"}, pullrequest.Await, "a person decides"},
		"nothing has checked it":                        {func(s *pullrequest.Seen) { s.Checks = pullrequest.NoChecks }, "", nil, pullrequest.Await, "nothing has checked"},
		"nobody knows of checks":                        {func(s *pullrequest.Seen) { s.Checks = "" }, "", nil, pullrequest.Await, "nothing has checked"},
		"its checks run":                                {func(s *pullrequest.Seen) { s.Checks = pullrequest.Pending }, "", nil, pullrequest.Await, "run"},
		"a check failed":                                {func(s *pullrequest.Seen) { s.Checks, s.Failed = pullrequest.Broken, "unit" }, "", nil, pullrequest.Await, "unit"},
		"a review is required":                          {func(s *pullrequest.Seen) { s.Blocked = "a review is required" }, "", nil, pullrequest.Await, "review"},
		"a draft":                                       {func(s *pullrequest.Seen) { s.Draft = true }, "", nil, pullrequest.Await, "draft"},
		"the base has moved":                            {func(s *pullrequest.Seen) { s.BaseHead = "new" }, "", nil, pullrequest.Push, "moved"},
		"the base has moved under one that is left until it conflicts": {func(s *pullrequest.Seen) { s.BaseHead, s.Checks = "new", pullrequest.Pending }, "", &pullrequest.Policy{Base: "main", Merge: allow.Merge, RebaseOnConflict: true}, pullrequest.Await, "run"},
		"and it is tested again before it is merged":                   {func(s *pullrequest.Seen) { s.BaseHead = "new" }, "", &pullrequest.Policy{Base: "main", Merge: allow.Merge, RebaseOnConflict: true}, pullrequest.Push, "moved"},
		"it conflicts":                               {func(s *pullrequest.Seen) { s.Conflict = true }, "", &pullrequest.Policy{Base: "main", RebaseOnConflict: true}, pullrequest.Push, "moved"},
		"there are newer releases":                   {func(s *pullrequest.Seen) { s.Changes = newer.Hash() }, "", nil, pullrequest.Push, "newer"},
		"a person pushed":                            {func(s *pullrequest.Seen) { s.Head = "theirs" }, "", nil, pullrequest.Leave, "pushed"},
		"a person pushed, and it is superseded":      {func(s *pullrequest.Seen) { s.Head = "theirs" }, "other", nil, pullrequest.Leave, "pushed"},
		"a branch of its name that is not Upkeep's":  {func(s *pullrequest.Seen) { *s = pullrequest.Seen{Head: "theirs", BaseHead: "tip"} }, "", nil, pullrequest.Leave, "has not made"},
		"a person removed its branch":                {func(s *pullrequest.Seen) { s.Head = "" }, "", nil, pullrequest.Refuse, "removed"},
		"a person retargeted it":                     {func(s *pullrequest.Seen) { s.BaseRef = "release" }, "", nil, pullrequest.Leave, "release"},
		"a person set the label":                     {func(s *pullrequest.Seen) { s.Stop = true }, "", nil, pullrequest.Leave, "label"},
		"superseded":                                 {func(*pullrequest.Seen) {}, "the minor update holds it", nil, pullrequest.Close, "minor"},
		"superseded before it was opened":            {func(s *pullrequest.Seen) { s.Number, s.Open = 0, false }, "the minor update holds it", nil, pullrequest.Tidy, "minor"},
		"merged":                                     {func(s *pullrequest.Seen) { s.Merged, s.Open = true, false }, "", nil, pullrequest.Tidy, "merged"},
		"a person closed it":                         {func(s *pullrequest.Seen) { s.Open, s.ClosedBy = false, "ada" }, "", nil, pullrequest.Tidy, "ada closed"},
		"a person had closed the same":               {func(s *pullrequest.Seen) { *s = before(patch.Means(), 0) }, "", nil, pullrequest.Refuse, "ada closed"},
		"a person had closed an older one":           {func(s *pullrequest.Seen) { *s = before("another", 0) }, "", nil, pullrequest.Push, "proposed"},
		"a person had closed what was graver":        {func(s *pullrequest.Seen) { *s = before(patch.Means(), 9.8) }, "", nil, pullrequest.Refuse, "ada closed"},
		"what a person had closed has become graver": {func(s *pullrequest.Seen) { *s = before(patch.Means(), -1) }, "", nil, pullrequest.Push, "proposed"},
		"closed before, and its branch is left over": {func(s *pullrequest.Seen) { *s = before(patch.Means(), 0); s.Head, s.Pushed = "ours", "ours" }, "", nil, pullrequest.Refuse, "ada closed"},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := green(), allow
			c.see(&s)
			if c.policy != nil {
				p = *c.policy
			}
			got := pullrequest.Next(pullrequest.Follower{Proposal: patch, Superseded: c.superseded}, s, p)
			require.Equal(t, c.act, got.Act, got.Why)
			require.Contains(t, got.Why, c.why)
		})
	}
}

// before is a branch whose pull request ada has closed.
func before(means string, severity float64) pullrequest.Seen {
	return pullrequest.Seen{BaseHead: "tip", ClosedBy: "ada", ClosedAt: time.Unix(1e9, 0), Mark: pullrequest.Mark{Version: 1, Means: means, Severity: severity}}
}

// TestAPersonsBranchIsNeverTouched tries a hundred thousand combinations of what may be seen.
func TestAPersonsBranchIsNeverTouched(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	acts := make(map[pullrequest.Act]int)
	for range 100000 {
		s := pullrequest.Seen{
			Number: r.IntN(2), Open: r.IntN(2) == 0, Merged: r.IntN(8) == 0, Draft: r.IntN(8) == 0,
			Head: pick("", "ours", "theirs"), Pushed: pick("", "ours"), Parent: pick("tip", "old"), BaseHead: "tip", BaseRef: pick("main", "main", "release"),
			Changes: pick(patch.Hash(), newer.Hash()), Conflict: r.IntN(8) == 0, Blocked: pick("", "", "a review is required"),
			Checks:   pullrequest.Checks(pick("", "none", "pending", "passed", "passed", "failed")),
			ClosedBy: pick("", "", "ada"), Stop: r.IntN(8) == 0, Mark: pullrequest.Mark{Means: pick(patch.Means(), "")},
		}
		p := pullrequest.Policy{Base: "main", Merge: []string{pick(dependency.Patch, dependency.Minor)}, RebaseOnConflict: r.IntN(2) == 0}
		got := pullrequest.Next(pullrequest.Follower{Proposal: patch, Superseded: pick("", "", "another")}, s, p)
		acts[got.Act]++
		require.NotEmpty(t, got.Why)
		switch got.Act {
		case pullrequest.Push, pullrequest.Open, pullrequest.Close, pullrequest.Merge:
			require.Equal(t, s.Pushed, s.Head, "%+v", s)
			require.Equal(t, s.Head, got.Expect)
			require.False(t, s.Merged)
		case pullrequest.Tidy, pullrequest.Refuse:
			require.True(t, got.Expect == "" || got.Expect == s.Pushed, "%+v", s)
		}
		if got.Act == pullrequest.Merge {
			require.Equal(t, pullrequest.Passed, s.Checks)
			require.Equal(t, s.BaseHead, s.Parent, "what was tested is what is merged")
			require.Contains(t, p.Merge, patch.Type)
			require.True(t, s.Open && !s.Stop && !s.Draft && s.BaseRef == "main")
		}
	}
	for _, act := range []pullrequest.Act{pullrequest.Push, pullrequest.Open, pullrequest.Await, pullrequest.Leave, pullrequest.Merge, pullrequest.Close, pullrequest.Tidy, pullrequest.Refuse} {
		require.Positive(t, acts[act], "%s: %v", act, acts)
	}
}

func TestPropose(t *testing.T) {
	groups := []pullrequest.Group{{Name: "kubernetes", Packages: []string{"k8s.io/*"}}, {Name: "all of it", Packages: []string{"example.com/tools/**"}, Types: []string{dependency.Major}}}
	changes := []pullrequest.Change{
		change("gomod", "example.com/a", "v1.0.0", "v2.1.0", dependency.Major),
		change("gomod", "example.com/a", "v1.0.0", "v1.0.1", dependency.Patch),
		change("npm", "example.com/a", "1.0.0", "1.0.1", dependency.Patch),
		change("gomod", "k8s.io/api", "v0.35.3", "v0.35.4", dependency.Patch),
		change("gomod", "k8s.io/client-go", "v0.35.3", "v0.35.4", dependency.Patch),
		change("gomod", "k8s.io/api", "v0.35.3", "v0.35.4", dependency.Security),
		change("gomod", "example.com/tools/x", "v1.0.0", "v2.0.0", dependency.Major),
		change("github-actions", "actions/checkout", "v4", "v5", dependency.Major),
	}
	other := change("gomod", "example.com/a", "v1.0.0", "v1.0.1", dependency.Patch)
	other.Dependency.File = "tools/go.mod"
	changes = append(changes, other)
	all := pullrequest.Propose(changes, groups)
	require.Equal(t, dependency.Security, all[0].Type, "first what is urgent")
	titles := make(map[string]int)
	for _, p := range all {
		titles[p.Title] = len(p.Changes)
		require.Regexp(t, `^upkeep/[a-z]+/[a-z0-9.-]+-[0-9a-f]{8}$`, p.Branch)
		require.True(t, pullrequest.Ours(p.Branch))
	}
	require.Equal(t, map[string]int{
		"fix(deps): update k8s.io/api to v0.35.4 [security]": 1,
		"chore(deps): update example.com/a to v1.0.1":        2,
		"chore(deps): update example.com/a to 1.0.1":         1,
		"chore(deps): update kubernetes (patch)":             2,
		"chore(deps): update example.com/a to v2.1.0":        1,
		"chore(deps): update all of it (major)":              1,
		"ci(deps): update actions/checkout to v5":            1,
	}, titles)
	slices.Reverse(changes)
	require.Equal(t, all, pullrequest.Propose(changes, groups), "in whatever order they are found")
}

func TestAlikeNamesAreOtherBranches(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"github.com/a/b", "github.com/a-b", "github.com/a.b", "GITHUB.com/a/b", "../../main", "..", "@a/b", "a.lock", "ünïcode"} {
		b := pullrequest.Propose([]pullrequest.Change{change("npm", name, "1.0.0", "1.0.1", dependency.Patch)}, nil)[0].Branch
		require.Empty(t, seen[b], name)
		require.NotContains(t, b, "..")
		seen[b] = name
	}
}

func TestWhatAProposalMeans(t *testing.T) {
	major := func(to string) string {
		return pullrequest.Propose([]pullrequest.Change{change("npm", "a", "1.0.0", to, dependency.Major)}, nil)[0].Means()
	}
	require.Equal(t, major("2.0.0"), major("2.3.1"), "who has refused version 2 has refused all of it")
	require.NotEqual(t, major("2.0.0"), major("3.0.0"))
	require.NotEqual(t, patch.Means(), newer.Means())
	require.NotEqual(t, patch.Hash(), newer.Hash())
}
