package choose

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// old is a release that is old enough for everything.
func old(v string) Release {
	return Release{dependency.Release{Version: v, Time: now.Add(-100 * day)}, true}
}

func aged(v string, days int) Release {
	return Release{dependency.Release{Version: v, Time: now.Add(-time.Duration(days) * day)}, true}
}

func with(r Release, change func(*Release)) Release { change(&r); return r }

func withdrawn(v, why string) Release {
	return with(old(v), func(r *Release) { r.Withdrawn = why })
}

func npmDependency(current, written string, locked bool) dependency.Dependency {
	return dependency.Dependency{Name: "x", Current: current, Written: written, Locked: locked, Package: dependency.Package{Datasource: dependency.SourceNPM, Name: "x", Versioning: dependency.VersioningNPM}}
}

func goDependency(current string) dependency.Dependency {
	return dependency.Dependency{Name: "example.com/x", Current: current, Written: current, Package: dependency.Package{Datasource: dependency.SourceGo, Name: "example.com/x", Versioning: dependency.VersioningGo}}
}

func imageDependency(tag, digest string) dependency.Dependency {
	return dependency.Dependency{Name: "x", Current: tag, Written: tag, Digest: digest, Package: dependency.Package{Datasource: dependency.SourceImage, Name: "x", Versioning: dependency.VersioningImage}}
}

func vulnerable(t *testing.T, p advisory.Package, id, introduced, fixed string) advisory.Advisory {
	t.Helper()
	end := ""
	if fixed != "" {
		end = fmt.Sprintf(`,{"fixed":%q}`, fixed)
	}
	all, err := advisory.Parse(fmt.Appendf(nil, `{"id":%q,"affected":[{"package":{"ecosystem":%q,"name":%q},"ranges":[{"type":"SEMVER","events":[{"introduced":%q}%s]}]}]}`, id, p.Ecosystem, p.Name, introduced, end))
	require.NoError(t, err)
	return all[p]
}

// said writes an outcome down.
func said(o Outcome) []string {
	var lines []string
	for _, u := range o.Updates {
		line := u.Type + " " + u.Version
		if u.Written != u.Version {
			line += " written " + u.Written
		}
		if u.Package != "" {
			line += " of " + u.Package
		}
		if u.Digest != "" {
			line += " @" + u.Digest
		}
		for _, a := range u.Advisories {
			line += " mends " + a
		}
		lines = append(lines, line)
	}
	for _, h := range o.Held {
		line := "held " + h.Type + " " + h.Version + ": " + h.Why
		if !h.Until.IsZero() {
			line += " from " + h.Until.Format(time.DateOnly)
		}
		lines = append(lines, line)
	}
	for _, v := range o.Open {
		lines = append(lines, "open "+v)
	}
	if o.Trouble != "" {
		lines = append(lines, "trouble "+o.Trouble)
	}
	return lines
}

func TestChoose(t *testing.T) {
	npm, golang := advisory.Package{Ecosystem: "npm", Name: "x"}, advisory.Package{Ecosystem: "Go", Name: "example.com/x"}
	all := []Release{old("1.0.0"), old("1.0.1"), old("1.0.2"), old("1.1.0"), old("1.2.0"), old("2.0.0"), old("3.0.0"), old("3.1.0-rc.1")}
	for name, c := range map[string]struct {
		d          dependency.Dependency
		releases   []Release
		advisories []advisory.Advisory
		types      []string
		want       []string
	}{
		"the newest of each type": {d: npmDependency("1.0.0", "1.0.0", false), releases: all, want: []string{"patch 1.0.2", "minor 1.2.0", "major 3.0.0"}},
		"only some types":         {d: npmDependency("1.0.0", "1.0.0", false), releases: all, types: []string{"patch", "major"}, want: []string{"patch 1.0.2", "major 3.0.0"}},
		"nothing newer":           {d: npmDependency("3.0.0", "3.0.0", false), releases: all},
		"a range without a lock file takes what is inside by itself": {
			d: npmDependency("1.0.0", "^1.0.0", false), releases: all, want: []string{"major 3.0.0 written ^3.0.0"},
		},
		"a range with a lock file": {
			d: npmDependency("1.0.1", "^1.0.0", true), releases: all, want: []string{"patch 1.0.2 written ^1.0.2", "minor 1.2.0 written ^1.2.0", "major 3.0.0 written ^3.0.0"},
		},
		"a range that names no place": {
			d: npmDependency("1.0.1", "1.x", true), releases: all, want: []string{"patch 1.0.2 written 1.x", "minor 1.2.0 written 1.x", "major 3.0.0 written 3.x"},
		},
		"a range that cannot be brought there": {
			d: npmDependency("1.2.0", ">=1.0.0 <2.0.0", true), releases: all,
			want: []string{"held major 3.0.0: >=1.0.0 <2.0.0 cannot be brought to it without being written anew"},
		},
		"too young, and an older one instead": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), aged("1.0.1", 3), aged("1.0.2", 2), aged("1.1.0", 8), aged("1.2.0", 6), aged("2.0.0", 13)},
			want: []string{
				"patch 1.0.1", "minor 1.1.0",
				"held patch 1.0.2: too young: it is proposed when it is 3 days old from 2026-06-02",
				"held minor 1.2.0: too young: it is proposed when it is 7 days old from 2026-06-02",
				"held major 2.0.0: too young: it is proposed when it is 14 days old from 2026-06-02",
			},
		},
		"no date is too young": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), {dependency.Release{Version: "1.0.1"}, true}},
			want: []string{"held patch 1.0.1: nobody says when it was released"},
		},
		"what is not complete is asked for": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), {dependency.Release{Version: "1.0.1"}, false}, {dependency.Release{Version: "2.0.0"}, false}},
			want: []string{"open 1.0.1", "open 2.0.0"},
		},
		"withdrawn": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), old("1.0.1"), withdrawn("1.0.2", "deprecated: it is broken"), withdrawn("2.0.0", "retracted")},
			want: []string{"patch 1.0.1", "held patch 1.0.2: deprecated: it is broken", "held major 2.0.0: retracted"},
		},
		"a package that is deprecated as a whole, for who uses it": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{withdrawn("1.0.0", "deprecated: use y"), withdrawn("1.0.1", "deprecated: use y"), withdrawn("1.0.2", "deprecated: and broken")},
			want: []string{"patch 1.0.1", "held patch 1.0.2: deprecated: and broken"},
		},
		"retracted alike is retracted": {
			d: goDependency("v1.0.0"), releases: []Release{withdrawn("v1.0.0", "retracted: oops"), withdrawn("v1.0.1", "retracted: oops")},
			want: []string{"held patch v1.0.1: retracted: oops"},
		},
		"nothing beyond what its maker points to": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: append(slices.Clone(all[:5]), with(old("2.0.0"), func(r *Release) { r.Recommended = true }), old("3.0.0")),
			want: []string{"patch 1.0.2", "minor 1.2.0", "major 2.0.0"},
		},
		"who is past it gets more": {
			d: npmDependency("2.0.0", "2.0.0", false), releases: []Release{with(old("1.0.0"), func(r *Release) { r.Recommended = true }), old("2.0.0"), old("2.0.1")},
			want: []string{"patch 2.0.1"},
		},
		"what the file rules out": {
			d: func() dependency.Dependency {
				d := goDependency("v1.0.0")
				d.Excluded = []string{"v1.0.2"}
				return d
			}(), releases: []Release{old("v1.0.0"), old("v1.0.1"), old("v1.0.2")},
			want: []string{"patch v1.0.1", "held patch v1.0.2: the file rules it out"},
		},
		"a major of Go is another module": {
			d: goDependency("v1.0.0"), releases: []Release{old("v1.0.0"), with(old("v2.0.0"), func(r *Release) { r.Package = "example.com/x/v2" })},
			want: []string{"major v2.0.0 of example.com/x/v2"},
		},
		"from a commit to a newer one": {
			d: goDependency("v0.0.0-20240101000000-abcdefabcdef"), releases: []Release{old("v0.0.0-20250101000000-abcdefabcdef")},
			want: []string{"digest v0.0.0-20250101000000-abcdefabcdef"},
		},
		"a tag stays on its variant": {
			d: imageDependency("15.3-alpine", ""), releases: []Release{old("15.3-alpine"), old("15.4"), old("15.4-alpine"), old("16.0-alpine"), old("16.0-alpine3.20"), old("latest")},
			want: []string{"minor 15.4-alpine", "major 16.0-alpine"},
		},
		"a tag that was made anew": {
			d:        imageDependency("15.3", "sha256:a"),
			releases: []Release{with(old("15.3"), func(r *Release) { r.Digest = "sha256:b" }), with(old("15.4"), func(r *Release) { r.Digest = "sha256:c" })},
			want:     []string{"digest 15.3 @sha256:b", "minor 15.4 @sha256:c"},
		},
		"a tag that was made anew just now": {
			d:        imageDependency("15.3", "sha256:a"),
			releases: []Release{with(aged("15.3", 1), func(r *Release) { r.Digest = "sha256:b" })},
			want:     []string{"held digest 15.3: too young: it is proposed when it is 3 days old from 2026-06-03"},
		},
		"a pinned tag is asked for its digest": {
			d: imageDependency("15.3", "sha256:a"), releases: []Release{{dependency.Release{Version: "15.3"}, false}},
			want: []string{"open 15.3"},
		},
		"the lowest that mends, however young": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), old("1.0.1"), aged("1.0.2", 0), aged("1.0.3", 0)},
			advisories: []advisory.Advisory{vulnerable(t, npm, "GHSA-1", "0", "1.0.2"), vulnerable(t, npm, "GHSA-2", "0", "1.0.1"), vulnerable(t, npm, "GHSA-3", "2.0.0", "2.0.1")},
			want: []string{
				"security 1.0.2 mends GHSA-1 mends GHSA-2", "patch 1.0.1",
				"held patch 1.0.3: too young: it is proposed when it is 3 days old from 2026-06-04",
			},
		},
		"only security": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: all, types: []string{"security"}, advisories: []advisory.Advisory{vulnerable(t, npm, "GHSA-1", "0", "2.0.0")},
			want: []string{"security 2.0.0 mends GHSA-1"},
		},
		"what mends one brings another": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), old("1.0.1"), old("1.0.2")}, types: []string{"security"},
			advisories: []advisory.Advisory{vulnerable(t, npm, "GHSA-1", "0", "1.0.1"), vulnerable(t, npm, "GHSA-2", "1.0.1", "1.0.2")},
			want:       []string{"security 1.0.2 mends GHSA-1"},
		},
		"some of it is not mended": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), old("1.0.1")}, types: []string{"security"},
			advisories: []advisory.Advisory{vulnerable(t, npm, "GHSA-1", "0", "1.0.1"), vulnerable(t, npm, "GHSA-2", "0", "")},
			want:       []string{"security 1.0.1 mends GHSA-1", "held security 1.0.0: no release mends GHSA-2"},
		},
		"nothing mends it": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), withdrawn("1.0.1", "deprecated: no")}, types: []string{"security"},
			advisories: []advisory.Advisory{vulnerable(t, npm, "GHSA-1", "0", "1.0.1")},
			want:       []string{"held security 1.0.0: no release mends GHSA-1"},
		},
		"a release that is an attack": {
			d: npmDependency("1.0.0", "1.0.0", false), releases: []Release{old("1.0.0"), old("1.0.1"), old("1.0.2")},
			advisories: []advisory.Advisory{vulnerable(t, npm, "MAL-2026-1", "1.0.2", "")},
			want:       []string{"patch 1.0.1", "held patch 1.0.2: it has MAL-2026-1"},
		},
		"what nobody names gets security only": {
			d: func() dependency.Dependency {
				d := goDependency("v1.0.0")
				d.Indirect = true
				return d
			}(), releases: []Release{old("v1.0.0"), old("v1.0.1"), old("v1.2.0")}, advisories: []advisory.Advisory{vulnerable(t, golang, "GO-2026-1", "0", "1.0.1")},
			want: []string{"security v1.0.1 mends GO-2026-1"},
		},
		"a word":  {d: npmDependency("latest", "latest", false), releases: all, want: []string{"trouble latest is no version that can be compared with others"}},
		"nothing": {d: npmDependency("", "", true), releases: all, want: []string{"trouble no version is written that could be compared with others"}},
		"a control character": {
			d: npmDependency("1.0\x1b[2J", "1.0\x1b[2J", false), releases: all, want: []string{`trouble "1.0\x1b[2J" is no version that can be compared with others`},
		},
		"a versioning that nobody knows": {d: dependency.Dependency{Package: dependency.Package{Versioning: "x"}}, want: []string{`trouble nobody knows how to compare versions of "x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Choose(c.d, c.releases, c.advisories, Policy{Types: c.types, Age: DefaultAge, Now: now})
			require.Equal(t, c.want, said(o))
			slices.Reverse(c.releases)
			require.Equal(t, c.want, said(Choose(c.d, c.releases, c.advisories, Policy{Types: c.types, Age: DefaultAge, Now: now})), "the order of releases must not matter")
		})
	}
}

// A maker of ten thousand releases, all of them too young, is not asked for the time of each.
func TestTenThousandReleases(t *testing.T) {
	releases := []Release{old("1.0.0")}
	for i := range 10_000 {
		releases = append(releases, Release{dependency.Release{Version: fmt.Sprintf("1.%d.0", i+1)}, false})
	}
	d, asked := npmDependency("1.0.0", "1.0.0", false), 0
	for {
		o := Choose(d, releases, nil, Policy{Age: DefaultAge, Now: now})
		if len(o.Open) == 0 {
			require.Empty(t, o.Updates)
			require.Len(t, o.Held, 1)
			break
		}
		for _, v := range o.Open {
			asked++
			i := slices.IndexFunc(releases, func(r Release) bool { return r.Version == v })
			releases[i].Complete, releases[i].Time = true, now
		}
	}
	require.LessOrEqual(t, asked, maxHeld)
}
