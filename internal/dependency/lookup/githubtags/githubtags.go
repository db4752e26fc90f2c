// Package githubtags knows the tags of repositories on GitHub.
//
// The tags come as git itself asks for them, in one answer without a login and outside of the API's limits.
// Only a tag that is to be proposed costs a request of the API, for the time of its commit.
package githubtags

import (
	"bufio"
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

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	defaultURL = "https://github.com"
	defaultAPI = "https://api.github.com"
	maxRefs    = 64 << 20 // bytes
	maxTags    = 100_000
	maxCommit  = 16 << 20 // bytes; it lists the files that were changed
)

// Config is the operator's.
type Config struct {
	URL   string // of GitHub, if it is one of your own
	API   string
	Token string // may be empty: then GitHub answers 60 questions for times in an hour
}

func (c Config) url() string {
	if c.URL == "" {
		return defaultURL
	}
	return strings.TrimSuffix(c.URL, "/")
}

func (c Config) api() string {
	if c.API == "" {
		return defaultAPI
	}
	return strings.TrimSuffix(c.API, "/")
}

// Hosts are those that the configuration names.
func (c Config) Hosts() []string {
	var hosts []string
	for _, u := range []string{c.URL, c.API} {
		if _, rest, found := strings.Cut(u, "://"); found {
			host, _, _ := strings.Cut(rest, "/")
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// Source asks GitHub.
type Source struct {
	client *httpcache.Client
	config Config
}

// New returns the source.
func New(client *httpcache.Client, c Config) *Source { return &Source{client, c} }

// Name implements dependency.Datasource.
func (*Source) Name() string { return dependency.SourceGitHubTags }

// Releases implements dependency.Datasource. Each has the commit that its tag stands for.
func (s *Source) Releases(ctx context.Context, p dependency.Package) ([]dependency.Release, error) {
	if why := dependency.CheckPackage(dependency.Package{Datasource: dependency.SourceGitHubTags, Name: p.Name}); why != "" {
		return nil, failure.New(failure.BadInput, "%s is not looked up: %s", dependency.Printable(p.Name), why)
	}
	data, err := s.client.Get(ctx, httpcache.Request{
		URL: s.config.url() + "/" + p.Name + ".git/info/refs?service=git-upload-pack", Form: "tags 1", Limit: maxRefs, Distil: distil,
	})
	if errors.Is(err, httpcache.ErrMissing) || failure.Is(err, failure.RegistryRefuses) { // a private one is not there for who has no login
		return nil, failure.New(failure.UnknownPackage, "GitHub shows no repository %s", p.Name).
			Do("see that the name is right; tags of private repositories are not looked up")
	}
	if err != nil {
		return nil, err
	}
	var releases []dependency.Release
	for line := range strings.Lines(string(data)) {
		if commit, tag, found := strings.Cut(strings.TrimSpace(line), " "); found {
			releases = append(releases, dependency.Release{Version: tag, Digest: commit})
		}
	}
	return releases, nil
}

// Complete implements dependency.Datasource: the time is that of the commit.
func (s *Source) Complete(ctx context.Context, p dependency.Package, r dependency.Release) (dependency.Release, error) {
	if !r.Time.IsZero() || !commit.MatchString(r.Digest) {
		return r, nil
	}
	q := httpcache.Request{
		URL: s.config.api() + "/repos/" + p.Name + "/commits/" + r.Digest, Accept: "application/vnd.github+json",
		Form: "commit 1", Limit: maxCommit, Enough: httpcache.Always, Distil: distilCommit,
	}
	if s.config.Token != "" {
		q.Authorization = "Bearer " + s.config.Token
	}
	data, err := s.client.Get(ctx, q)
	if failure.Is(err, failure.RegistryRefuses) {
		return r, failure.New(failure.RegistryRefuses, "GitHub does not say when %s %s was made", p.Name, r.Version).
			Do("set GITHUB_TOKEN where Upkeep runs; without it, GitHub answers 60 such questions in an hour")
	}
	if errors.Is(err, httpcache.ErrMissing) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if t, err := time.Parse(time.RFC3339, string(data)); err == nil {
		r.Time = t
	}
	return r, nil
}

var commit = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// distil reads what a git server says of its references, in packets with their lengths before them, and
// keeps the tags, each with its commit.
func distil(r io.Reader) ([]byte, error) {
	in := bufio.NewReader(r)
	commits := make(map[string]string)
	for first := true; ; first = false {
		line, err := packet(in)
		if errors.Is(err, io.EOF) && !first {
			break
		}
		if err != nil {
			return nil, err
		}
		if first && !strings.HasPrefix(line, "# service=git-upload-pack") {
			return nil, errors.New("it is no git server")
		}
		line, _, _ = strings.Cut(line, "\x00")
		id, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		tag, found := strings.CutPrefix(ref, "refs/tags/")
		if !found || !commit.MatchString(id) {
			continue
		}
		// A tag with a message is an object of its own; the line after it says what it stands for.
		tag, peeled := strings.CutSuffix(tag, "^{}")
		if _, known := commits[tag]; (!known || peeled) && dependency.CheckWritten(tag) == "" && !strings.Contains(tag, " ") {
			commits[tag] = id
		}
		if len(commits) > maxTags {
			return nil, fmt.Errorf("there are more than %d tags", maxTags)
		}
	}
	var lines []string
	for tag, id := range commits {
		lines = append(lines, id+" "+tag)
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "\n")), nil
}

// packet reads one packet; one that only separates is empty.
func packet(in *bufio.Reader) (string, error) {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return "", errors.New("it ends in the middle")
		}
		return "", err //nolint:wrapcheck // io.EOF must stay what it is
	}
	n, err := strconv.ParseUint(string(length[:]), 16, 16)
	switch {
	case err != nil:
		return "", errors.New("it is no git server")
	case n < 4:
		return "", nil
	}
	line := make([]byte, n-4)
	if _, err := io.ReadFull(in, line); err != nil {
		return "", errors.New("it ends in the middle")
	}
	return string(line), nil
}

func distilCommit(r io.Reader) ([]byte, error) {
	var c struct {
		Commit struct {
			Committer struct {
				Date time.Time `json:"date"`
			} `json:"committer"`
		} `json:"commit"`
	}
	if err := json.NewDecoder(r).Decode(&c); err != nil {
		return nil, errors.New("it is no commit")
	}
	return []byte(c.Commit.Committer.Date.UTC().Format(time.RFC3339)), nil
}
