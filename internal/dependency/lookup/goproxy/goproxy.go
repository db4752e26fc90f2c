// Package goproxy knows the versions of Go modules, and of Go itself, from module proxies.
//
// A module costs one list, the go.mod of its newest version (which says what is retracted), and two
// questions for majors that are not there; only a version that is to be proposed is asked for its time.
package goproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// DefaultProxy is asked where nobody has said otherwise.
const DefaultProxy = "https://proxy.golang.org"

const (
	maxList     = 16 << 20
	maxFile     = 4 << 20
	maxVersions = 50_000
	maxMajors   = 40 // major versions of one module that are asked for
	maxText     = 300
)

// Config is the operator's; a repository's files have no part in it.
type Config struct {
	Proxy   string // as GOPROXY
	Private string // as GOPRIVATE and GONOPROXY: modules whose names are told to no proxy
}

type proxy struct {
	url      string
	onAnyErr bool // go on to the next proxy after any error, and not only after "not found"
}

// Source asks module proxies.
type Source struct {
	client  *httpcache.Client
	proxies []proxy
	private string
	goes    bool // for Go itself
}

// New returns the source of modules, and the one of Go itself.
func New(client *httpcache.Client, c Config) (modules, goItself *Source) {
	s := Source{client: client, proxies: parse(c.Proxy), private: c.Private}
	g := s
	g.goes = true
	return &s, &g
}

// parse reads a list as GOPROXY has it. What cannot be asked over HTTP ends it.
func parse(list string) []proxy {
	if list == "" {
		list = DefaultProxy
	}
	var proxies []proxy
	for list != "" {
		i := strings.IndexAny(list, ",|")
		var p proxy
		if i < 0 {
			p.url, list = list, ""
		} else {
			p.url, p.onAnyErr, list = list[:i], list[i] == '|', list[i+1:]
		}
		p.url = strings.TrimSuffix(strings.TrimSpace(p.url), "/")
		if p.url == "off" || p.url == "direct" {
			break
		}
		if strings.HasPrefix(p.url, "https://") || strings.HasPrefix(p.url, "http://") {
			proxies = append(proxies, p)
		}
	}
	return proxies
}

// Hosts are those that the configuration names.
func (c Config) Hosts() []string {
	var hosts []string
	for _, p := range parse(c.Proxy) {
		_, rest, _ := strings.Cut(p.url, "://")
		host, _, _ := strings.Cut(rest, "/")
		hosts = append(hosts, host)
	}
	return hosts
}

// Name implements dependency.Datasource.
func (s *Source) Name() string {
	if s.goes {
		return dependency.SourceGoRelease
	}
	return dependency.SourceGo
}

// Releases implements dependency.Datasource. Those of newer majors are among them, each with its own path.
func (s *Source) Releases(ctx context.Context, p dependency.Package) ([]dependency.Release, error) {
	if s.goes {
		return s.goReleases(ctx)
	}
	if err := module.CheckPath(p.Name); err != nil {
		return nil, failure.New(failure.BadInput, "%q is no module path", p.Name)
	}
	prefix, suffix, ok := module.SplitPathVersion(p.Name)
	if !ok {
		return nil, failure.New(failure.BadInput, "%q is no module path", p.Name)
	}
	major := 1
	if n, err := strconv.Atoi(strings.TrimLeft(suffix, "/.v")); err == nil {
		major = n
	}
	var own []dependency.Release
	var newer [][]dependency.Release
	both, inner := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		own, err = s.ofPath(inner, p.Name)
		return err
	})
	both.Go(func() (err error) {
		newer, err = s.newer(inner, prefix, major+1)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	// A module of the time before modules may be at v3 without a /v3; its next is /v4.
	if highest := highestMajor(own); highest > major && len(newer) == 0 {
		more, err := s.newer(ctx, prefix, highest+1)
		if err != nil {
			return nil, err
		}
		newer = more
	}
	return slices.Concat(append([][]dependency.Release{own}, newer...)...), nil
}

func highestMajor(releases []dependency.Release) int {
	highest := 0
	for _, r := range releases {
		if n, err := strconv.Atoi(strings.TrimPrefix(semver.Major(r.Version), "v")); err == nil {
			highest = max(highest, n)
		}
	}
	return highest
}

// newer finds the releases of majors from the given one on. One may be left out in a row.
func (s *Source) newer(ctx context.Context, prefix string, from int) ([][]dependency.Release, error) {
	var found [][]dependency.Release
	for n := from; n < from+maxMajors; n += 2 {
		pair := make([][]dependency.Release, 2)
		g, inner := errgroup.WithContext(ctx)
		for i := range pair {
			g.Go(func() (err error) {
				pair[i], err = s.ofPath(inner, withMajor(prefix, n+i))
				if failure.Is(err, failure.UnknownPackage) || failure.Is(err, failure.RegistryRefuses) {
					return nil // it refuses what it does not have, too
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		if pair[0] == nil && pair[1] == nil {
			break
		}
		found = append(found, pair...)
	}
	return found, nil
}

func withMajor(prefix string, n int) string {
	if strings.HasPrefix(prefix, "gopkg.in/") {
		return fmt.Sprintf("%s.v%d", prefix, n)
	}
	return fmt.Sprintf("%s/v%d", prefix, n)
}

// ofPath finds the releases of one module path.
func (s *Source) ofPath(ctx context.Context, path string) ([]dependency.Release, error) {
	versions, err := s.list(ctx, path)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(versions, func(v string) bool { return !module.IsPseudoVersion(v) }) {
		latest, err := s.latest(ctx, path)
		if err != nil {
			return nil, err
		}
		if latest != "" && !slices.Contains(versions, latest) {
			versions = append(versions, latest)
		}
	}
	if len(versions) == 0 {
		return nil, unknown(path)
	}
	gone, err := s.withdrawals(ctx, path, newest(versions))
	if err != nil {
		return nil, err
	}
	releases := make([]dependency.Release, 0, len(versions))
	for _, v := range versions {
		releases = append(releases, dependency.Release{Version: v, Package: path, Withdrawn: gone.of(v)})
	}
	return releases, nil
}

func unknown(name string) error {
	return failure.New(failure.UnknownPackage, "no module proxy has %q", name).
		Do("see that the name is right; a private module needs a proxy that has it, in GOPROXY of who runs Upkeep")
}

// newest is the version whose go.mod says what is retracted: the highest release, or else the highest.
func newest(versions []string) string {
	best := ""
	for _, v := range versions {
		better := semver.Compare(v, best) > 0
		if stable, bestStable := semver.Prerelease(v) == "", semver.Prerelease(best) == "" && best != ""; stable != bestStable {
			better = stable
		}
		if best == "" || better {
			best = v
		}
	}
	return best
}

func (s *Source) list(ctx context.Context, path string) ([]string, error) {
	data, err := s.get(ctx, path, "/@v/list", httpcache.Request{Form: "versions 1", Limit: maxList, Distil: func(r io.Reader) ([]byte, error) {
		all, err := io.ReadAll(r)
		if err != nil {
			return nil, err //nolint:wrapcheck // the client says what it was
		}
		return distilList(path, all)
	}})
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(data)), nil
}

// distilList keeps the versions of a list, and refuses what is none.
func distilList(path string, list []byte) ([]byte, error) {
	_, major, _ := module.SplitPathVersion(path)
	var kept []string
	lines := 0
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line) // some proxies add a time
		if len(fields) == 0 {
			continue
		}
		if lines++; lines > maxVersions {
			return nil, fmt.Errorf("more than %d versions", maxVersions)
		}
		if v := fields[0]; module.Check(path, v) == nil && module.CheckPathMajor(v, major) == nil {
			kept = append(kept, v)
		}
	}
	if lines > 0 && len(kept) == 0 && !bytes.HasPrefix(list, []byte("v")) {
		return nil, errors.New("it is no list of versions")
	}
	return []byte(strings.Join(kept, "\n")), nil
}

// latest is the newest commit's version of a module without releases, or nothing.
func (s *Source) latest(ctx context.Context, path string) (string, error) {
	info, err := s.info(ctx, path, "/@latest", nil)
	if failure.Is(err, failure.UnknownPackage) || failure.Is(err, failure.RegistryRefuses) {
		return "", nil
	}
	if err != nil || module.Check(path, info.Version) != nil {
		return "", err
	}
	return info.Version, nil
}

type info struct {
	Version string
	Time    time.Time
}

func (s *Source) info(ctx context.Context, path, what string, enough func([]byte) bool) (info, error) {
	var i info
	data, err := s.get(ctx, path, what, httpcache.Request{Form: "info 1", Limit: maxFile, Enough: enough, Distil: func(r io.Reader) ([]byte, error) {
		var i info
		if err := json.NewDecoder(r).Decode(&i); err != nil {
			return nil, errors.New("it is no JSON of a version")
		}
		return json.Marshal(i)
	}})
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, failure.New(failure.BadAnswer, "what is kept of %q cannot be read", path)
	}
	return i, nil
}

// gone is what the newest go.mod of a module says of its versions.
type gone struct {
	Deprecated string       `json:"deprecated,omitempty"`
	Retracted  []retraction `json:"retracted,omitempty"`
}

type retraction struct{ Low, High, Why string }

func (g gone) of(v string) string {
	for _, r := range g.Retracted {
		if semver.Compare(r.Low, v) <= 0 && semver.Compare(v, r.High) <= 0 {
			return strings.TrimSuffix("retracted: "+r.Why, ": ")
		}
	}
	return g.Deprecated
}

func (s *Source) withdrawals(ctx context.Context, path, version string) (gone, error) {
	var g gone
	escaped, err := module.EscapeVersion(version)
	if err != nil {
		return g, failure.New(failure.BadAnswer, "%q has a version %q", path, version)
	}
	data, err := s.get(ctx, path, "/@v/"+escaped+".mod", httpcache.Request{Form: "withdrawals 1", Limit: maxFile, Enough: httpcache.Always, Distil: func(r io.Reader) ([]byte, error) {
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, err //nolint:wrapcheck // the client says what it was
		}
		return distilModFile(text)
	}})
	if err != nil {
		if failure.Is(err, failure.UnknownPackage) || failure.Is(err, failure.RegistryRefuses) {
			return g, nil // a version that is listed and not given out retracts nothing
		}
		return g, err
	}
	if err := json.Unmarshal(data, &g); err != nil {
		return g, failure.New(failure.BadAnswer, "what is kept of %q cannot be read", path)
	}
	return g, nil
}

func distilModFile(text []byte) ([]byte, error) {
	file, err := modfile.ParseLax("go.mod", text, nil)
	if err != nil {
		return []byte("{}"), nil // the go command would not obey it either
	}
	var g gone
	if file.Module != nil && file.Module.Deprecated != "" {
		g.Deprecated = "deprecated: " + clip(file.Module.Deprecated)
	}
	for _, r := range file.Retract {
		g.Retracted = append(g.Retracted, retraction{r.Low, r.High, clip(r.Rationale)})
	}
	return json.Marshal(g)
}

// clip makes one bounded line of a maker's words.
func clip(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

// Complete implements dependency.Datasource.
func (s *Source) Complete(ctx context.Context, p dependency.Package, r dependency.Release) (dependency.Release, error) {
	if !r.Time.IsZero() {
		return r, nil
	}
	path, version := p.Name, r.Version
	if r.Package != "" {
		path = r.Package
	}
	if s.goes {
		path, version = toolchain, toolchainVersion(r.Version)
	}
	escaped, err := module.EscapeVersion(version)
	if err != nil {
		return r, failure.New(failure.BadAnswer, "%q has a version %q", path, version)
	}
	i, err := s.info(ctx, path, "/@v/"+escaped+".info", httpcache.Always)
	if err != nil {
		return r, err
	}
	if i.Version == version {
		r.Time = i.Time
	}
	return r, nil
}

// get asks the proxies one after the other.
func (s *Source) get(ctx context.Context, path, what string, r httpcache.Request) ([]byte, error) {
	escaped, err := module.EscapePath(path)
	if err != nil {
		return nil, failure.New(failure.BadInput, "%q is no module path", path)
	}
	if module.MatchPrefixPatterns(s.private, path) {
		return nil, failure.New(failure.RegistryRefuses, "%q is private by GOPRIVATE or GONOPROXY, and only a proxy can be asked", path).
			Do("have it served by a proxy of your own, and name that in GOPROXY where Upkeep runs")
	}
	if len(s.proxies) == 0 {
		return nil, failure.New(failure.RegistryRefuses, "GOPROXY of who runs Upkeep names no proxy that can be asked over HTTP").
			Do("set GOPROXY, for example to %s", DefaultProxy)
	}
	for i, p := range s.proxies {
		r.URL = p.url + "/" + escaped + what
		var data []byte
		if data, err = s.client.Get(ctx, r); err == nil {
			return data, nil
		}
		if !errors.Is(err, httpcache.ErrMissing) && (!p.onAnyErr || i == len(s.proxies)-1) {
			return nil, err
		}
	}
	return nil, unknown(path)
}

const toolchain = "golang.org/toolchain"

var ofGo = regexp.MustCompile(`^v0\.0\.1-go(1\.[0-9]+(?:\.[0-9]+)?(?:(?:rc|beta)[0-9]+)?)\.linux-amd64$`)

func toolchainVersion(v string) string { return "v0.0.1-go" + v + ".linux-amd64" }

// goReleases are the releases of Go: those for which there is a toolchain. From 1.21 on, all have one.
func (s *Source) goReleases(ctx context.Context) ([]dependency.Release, error) {
	versions, err := s.list(ctx, toolchain)
	if err != nil {
		return nil, err
	}
	var releases []dependency.Release
	for _, v := range versions {
		if m := ofGo.FindStringSubmatch(v); m != nil {
			releases = append(releases, dependency.Release{Version: m[1]})
		}
	}
	return releases, nil
}
