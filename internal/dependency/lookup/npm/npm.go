// Package npm knows the versions of npm packages from their registries.
//
// The abbreviated document of a package has all versions and what is deprecated, but no times. The full
// one, which is often ten times as long, is asked for only where a version is to be proposed, and not again
// while that version's time is known. A registry that sends the full one anyway is not asked twice. Either
// is read as a stream, of which the few things that matter are kept.
package npm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// DefaultRegistry is asked where nobody has said otherwise.
const DefaultRegistry = "https://registry.npmjs.org"

const (
	maxDocument = 192 << 20 // the largest of today have about 100 MB
	maxVersions = 100_000
	maxText     = 300

	abbreviated = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"
	full        = "application/json"
)

// Config is the operator's; a repository's .npmrc has no part in it, since it can lead tokens astray.
type Config struct {
	Registry string            // a URL; DefaultRegistry if empty
	Scopes   map[string]string // "@scope" -> URL of its registry
	// Authorization are the headers of that name, by the URL that they are for, without its scheme.
	Authorization map[string]string
}

// Hosts are those that the configuration names.
func (c Config) Hosts() []string {
	var hosts []string
	for _, u := range append(values(c.Scopes), c.registry("")) {
		_, rest, _ := strings.Cut(u, "://")
		host, _, _ := strings.Cut(rest, "/")
		hosts = append(hosts, host)
	}
	return hosts
}

func values(m map[string]string) []string {
	var list []string
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

func (c Config) registry(name string) string {
	url := c.Registry
	if scope, _, found := strings.Cut(name, "/"); found && c.Scopes[scope] != "" {
		url = c.Scopes[scope]
	}
	if url == "" {
		url = DefaultRegistry
	}
	return strings.TrimSuffix(url, "/")
}

// authorization is the header for a URL: the one of the longest prefix that ends where a part of the path
// does.
func (c Config) authorization(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	best, header := -1, ""
	for prefix, h := range c.Authorization {
		prefix = strings.Trim(prefix, "/")
		if (rest == prefix || strings.HasPrefix(rest, prefix+"/")) && len(prefix) > best {
			best, header = len(prefix), h
		}
	}
	return header
}

// Source asks npm registries.
type Source struct {
	client *httpcache.Client
	config Config
}

// New returns the source.
func New(client *httpcache.Client, c Config) *Source { return &Source{client, c} }

// Name implements dependency.Datasource.
func (*Source) Name() string { return dependency.SourceNPM }

func (s *Source) request(p dependency.Package) (httpcache.Request, error) {
	// The file may name a registry; only the operator's count.
	if why := dependency.CheckPackage(dependency.Package{Datasource: dependency.SourceNPM, Name: p.Name}); why != "" {
		return httpcache.Request{}, failure.New(failure.BadInput, "%s is not looked up: %s", dependency.Printable(p.Name), why)
	}
	url := s.config.registry(p.Name) + "/" + strings.Replace(p.Name, "/", "%2f", 1)
	return httpcache.Request{URL: url, Authorization: s.config.authorization(url), Limit: maxDocument}, nil
}

// Releases implements dependency.Datasource.
func (s *Source) Releases(ctx context.Context, p dependency.Package) ([]dependency.Release, error) {
	r, err := s.request(p)
	if err != nil {
		return nil, err
	}
	r.Accept, r.Form, r.Distil = abbreviated, "releases 1", distil
	data, err := s.get(ctx, p.Name, r)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

// Complete implements dependency.Datasource: it finds the time in the full document.
func (s *Source) Complete(ctx context.Context, p dependency.Package, r dependency.Release) (dependency.Release, error) {
	if !r.Time.IsZero() {
		return r, nil
	}
	q, err := s.request(p)
	if err != nil {
		return r, err
	}
	q.Accept, q.Form, q.Distil = full, "full releases 1", distil
	q.Enough = func(kept []byte) bool { return !timeOf(kept, r.Version).IsZero() }
	data, err := s.get(ctx, p.Name, q)
	if err != nil {
		return r, err
	}
	r.Time = timeOf(data, r.Version)
	return r, nil
}

func (s *Source) get(ctx context.Context, name string, r httpcache.Request) ([]byte, error) {
	data, err := s.client.Get(ctx, r)
	if errors.Is(err, httpcache.ErrMissing) {
		return nil, failure.New(failure.UnknownPackage, "the npm registry has no package %q", name).
			Do("see that the name is right; a private package needs its registry in the .npmrc of who runs Upkeep")
	}
	return data, err
}

// What is kept of a document is a line for each version: the version, its time in seconds, whether it is
// the latest, why it is deprecated; with tabs between. It is read a hundred times as fast as the document.

type document struct {
	latest     string
	versions   []string
	deprecated map[string]string
	times      map[string]time.Time
}

func distil(r io.Reader) ([]byte, error) {
	d := document{deprecated: make(map[string]string), times: make(map[string]time.Time)}
	if err := d.read(jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, v := range d.versions {
		seconds, latest := int64(0), "-"
		if t := d.times[v]; !t.IsZero() {
			seconds = t.Unix()
		}
		if v == d.latest {
			latest = "latest"
		}
		_, _ = fmt.Fprintf(&b, "%s\t%d\t%s\t%s\n", v, seconds, latest, d.deprecated[v])
	}
	return b.Bytes(), nil
}

// object calls each for every member of the object that comes next, which must read its value.
func object(j *jsontext.Decoder, each func(key string) error) error {
	if j.PeekKind() != '{' {
		return errors.New("there is no object where one belongs")
	}
	if _, err := j.ReadToken(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for j.PeekKind() == '"' {
		t, err := j.ReadToken()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if err := each(t.String()); err != nil {
			return err
		}
	}
	if _, err := j.ReadToken(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// text reads a string, or skips what is none.
func text(j *jsontext.Decoder) (string, error) {
	if j.PeekKind() != '"' {
		return "", j.SkipValue() //nolint:wrapcheck // object's callers say what they read
	}
	t, err := j.ReadToken()
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return t.String(), nil
}

func (d *document) read(j *jsontext.Decoder) error {
	any := false
	err := object(j, func(key string) error {
		switch key {
		case "dist-tags":
			return object(j, func(tag string) error {
				v, err := text(j)
				if tag == "latest" {
					d.latest = v
				}
				return err
			})
		case "versions":
			any = true
			return object(j, func(v string) error { return d.version(j, v) })
		case "time":
			return object(j, func(v string) error {
				at, err := text(j)
				if t, bad := time.Parse(time.RFC3339, at); bad == nil && len(d.times) < maxVersions {
					d.times[v] = t
				}
				return err
			})
		}
		return j.SkipValue() //nolint:wrapcheck // see text
	})
	if err == nil && !any {
		return errors.New("it has no versions")
	}
	return err
}

func (d *document) version(j *jsontext.Decoder, v string) error {
	if len(d.versions) >= maxVersions {
		return fmt.Errorf("it has more than %d versions", maxVersions)
	}
	if !strings.ContainsAny(v, "\t\n\r ") {
		d.versions = append(d.versions, v)
	}
	if j.PeekKind() != '{' {
		return j.SkipValue() //nolint:wrapcheck // see text
	}
	return object(j, func(key string) error {
		if key != "deprecated" {
			return j.SkipValue() //nolint:wrapcheck // see text
		}
		if j.PeekKind() == 't' {
			d.deprecated[v] = "deprecated"
		}
		why, err := text(j)
		if why = clip(why); why != "" {
			d.deprecated[v] = "deprecated: " + why
		}
		return err
	})
}

// clip makes one bounded line of a maker's words.
func clip(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

func decode(data []byte) ([]dependency.Release, error) {
	releases := make([]dependency.Release, 0, bytes.Count(data, []byte{'\n'}))
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 4)
		if len(f) != 4 {
			return nil, failure.New(failure.BadAnswer, "what is kept of a package cannot be read")
		}
		releases = append(releases, dependency.Release{Version: f[0], Time: at(f[1]), Recommended: f[2] == "latest", Withdrawn: f[3]})
	}
	return releases, nil
}

func at(seconds string) time.Time {
	if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n > 0 {
		return time.Unix(n, 0).UTC()
	}
	return time.Time{}
}

// timeOf finds one version's time in what is kept.
func timeOf(data []byte, version string) time.Time {
	for line := range bytes.Lines(data) {
		if rest, found := bytes.CutPrefix(line, []byte(version+"\t")); found {
			seconds, _, _ := bytes.Cut(rest, []byte{'\t'})
			return at(string(seconds))
		}
	}
	return time.Time{}
}
