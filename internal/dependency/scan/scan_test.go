package scan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/dependency/choose"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/goproxy"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/npm"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func goModule(file, name, current string) dependency.Dependency {
	return dependency.Dependency{Manager: "gomod", File: file, Name: name, Current: current, Written: current, Package: dependency.Package{Datasource: dependency.SourceGo, Name: name, Versioning: dependency.VersioningGo}}
}

func npmPackage(name, current string) dependency.Dependency {
	return dependency.Dependency{Manager: "npm", File: "package.json", Name: name, Current: current, Written: current, Package: dependency.Package{Datasource: dependency.SourceNPM, Name: name, Versioning: dependency.VersioningNPM}}
}

func module(name string, versions ...string) map[string]string {
	files := map[string]string{"/" + name + "/@v/list": strings.Join(versions, "\n")}
	for _, v := range versions {
		files["/"+name+"/@v/"+v+".mod"] = "module " + name + "\n"
		files["/"+name+"/@v/"+v+".info"] = fmt.Sprintf(`{"Version":%q,"Time":"2024-01-01T00:00:00Z"}`, v)
	}
	return files
}

func sources(url string, client *httpcache.Client) map[string]dependency.Datasource {
	modules, _ := goproxy.New(client, goproxy.Config{Proxy: url})
	return map[string]dependency.Datasource{dependency.SourceGo: modules, dependency.SourceNPM: npm.New(client, npm.Config{Registry: url})}
}

var policy = choose.Policy{Age: choose.DefaultAge, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}

type advisories map[advisory.Package][]advisory.Advisory

func (a advisories) Find(context.Context, []advisory.Package) (map[advisory.Package][]advisory.Advisory, error) {
	return a, nil
}

type unknown struct{}

func (unknown) Find(context.Context, []advisory.Package) (map[advisory.Package][]advisory.Advisory, error) {
	return nil, failure.New(failure.RegistrySilent, "osv does not answer")
}

func TestOneThatCannotBeLookedUpDoesNotKeepTheOthers(t *testing.T) {
	files := module("example.com/good", "v1.0.0", "v1.0.1")
	files["/garbage"] = "<html>"
	files["/good"] = `{"versions":{"1.0.0":{},"2.0.0":{}},"time":{"2.0.0":"2024-01-01T00:00:00Z"}}`
	url, client := lookuptest.Serve(t, lookuptest.Files(files), 0)
	found := []dependency.Dependency{
		goModule("go.mod", "example.com/good", "v1.0.0"), goModule("go.mod", "example.com/missing", "v1.0.0"), goModule("go.mod", "../../etc", "v1.0.0"),
		npmPackage("garbage", "1.0.0"), npmPackage("good", "1.0.0"), npmPackage("--upload-pack", "1.0.0"),
		{Manager: "npm", Name: "mine", Skip: "it is a workspace of this repository"},
		{Manager: "x", Name: "y", Package: dependency.Package{Datasource: "z"}},
	}
	r := Scan(t.Context(), found, []dependency.Problem{{File: "bad/package.json", What: "it is no JSON"}}, Options{Sources: sources(url, client), Policy: policy})
	require.Len(t, r.Entries, len(found))
	require.Equal(t, 2, r.Updates())
	require.Equal(t, 7, r.Looked)
	require.Equal(t, 5, r.Failed)
	require.Len(t, r.Problems, 1)
	for i, says := range []string{"", "no module proxy has", "is no module path", "cannot be understood", "", "its name is none", "", "nobody knows the releases"} {
		if says == "" {
			require.Empty(t, r.Entries[i].Problem, i)
		} else {
			require.Contains(t, r.Entries[i].Problem, says, i)
		}
	}
	require.Equal(t, "it is a workspace of this repository", r.Entries[6].Skipped)
	require.Len(t, r.Telling(), 7)
}

// counting counts the questions for one package.
type counting struct {
	releases, completes atomic.Int64
}

func (*counting) Name() string { return dependency.SourceGo }

func (c *counting) Releases(context.Context, dependency.Package) ([]dependency.Release, error) {
	c.releases.Add(1)
	return []dependency.Release{{Version: "v1.0.0"}, {Version: "v1.0.1"}}, nil
}

func (c *counting) Complete(_ context.Context, _ dependency.Package, r dependency.Release) (dependency.Release, error) {
	c.completes.Add(1)
	r.Time = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	return r, nil
}

func TestAPackageOfManyFilesIsLookedUpOnce(t *testing.T) {
	c := &counting{}
	var found []dependency.Dependency
	for i := range 500 {
		found = append(found, goModule(fmt.Sprintf("%d/go.mod", i), "example.com/x", "v1.0.0"))
	}
	r := Scan(t.Context(), found, nil, Options{Sources: map[string]dependency.Datasource{dependency.SourceGo: c}, Policy: policy})
	require.Equal(t, 500, r.Updates())
	require.EqualValues(t, 1, c.releases.Load())
	require.EqualValues(t, 1, c.completes.Load())
}

func TestWhatNobodyNamesIsLookedUpOnlyForSecurity(t *testing.T) {
	all, err := advisory.Parse([]byte(`{"id":"GO-1","affected":[{"package":{"ecosystem":"Go","name":"example.com/bad"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.0.1"}]}]}]}`))
	require.NoError(t, err)
	known := advisories{}
	for p, a := range all {
		known[p] = append(known[p], a)
	}
	bad, fine := goModule("go.mod", "example.com/bad", "v1.0.0"), goModule("go.mod", "example.com/fine", "v1.0.0")
	bad.Indirect, fine.Indirect = true, true
	c := &counting{}
	o := Options{Sources: map[string]dependency.Datasource{dependency.SourceGo: c}, Policy: policy, Advisories: known}
	r := Scan(t.Context(), []dependency.Dependency{bad, fine}, nil, o)
	require.EqualValues(t, 1, c.releases.Load())
	require.Equal(t, []dependency.Update{{Type: "security", Version: "v1.0.1", Written: "v1.0.1", Released: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Advisories: []string{"GO-1"}}}, r.Entries[0].Updates)
	require.Empty(t, r.Entries[1].Updates)
}

// That advisories are not known is said, and never taken for there being none.
func TestAdvisoriesThatAreNotKnownAreAProblem(t *testing.T) {
	c := &counting{}
	r := Scan(t.Context(), []dependency.Dependency{goModule("go.mod", "example.com/x", "v1.0.0")}, nil, Options{Sources: map[string]dependency.Datasource{dependency.SourceGo: c}, Policy: policy, Advisories: unknown{}})
	require.Equal(t, 1, r.Updates(), "the rest goes on")
	require.Len(t, r.Problems, 1)
	require.Contains(t, r.Problems[0].What, "security updates are not known: osv does not answer")
}

type failing struct{ counting }

func (f *failing) Complete(context.Context, dependency.Package, dependency.Release) (dependency.Release, error) {
	return dependency.Release{}, errors.New("no time today")
}

func TestATimeThatCannotBeAskedForIsAProblem(t *testing.T) {
	r := Scan(t.Context(), []dependency.Dependency{goModule("go.mod", "example.com/x", "v1.0.0")}, nil, Options{Sources: map[string]dependency.Datasource{dependency.SourceGo: &failing{}}, Policy: policy})
	require.Equal(t, "no time today", r.Entries[0].Problem)
	require.Equal(t, 1, r.Failed)
}
