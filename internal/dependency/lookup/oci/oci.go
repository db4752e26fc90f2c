// Package oci knows the tags of images, and of charts that are kept like images, in OCI registries.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	maxAnswer = 16 << 20 // bytes
	maxTags   = 100_000
	within    = 2 * time.Minute // for one question, all its requests together
	dockerHub = "index.docker.io"
)

// Config is the operator's.
type Config struct {
	// Logins finds the operator's logins; nil asks as nobody. A login goes to the registry that it is for.
	Logins authn.Keychain
}

// Source asks registries.
type Source struct {
	client    *httpcache.Client
	config    Config
	transport http.RoundTripper
}

// New returns the source.
func New(client *httpcache.Client, c Config) *Source {
	if c.Logins == nil {
		c.Logins = authn.NewMultiKeychain() // of none
	}
	return &Source{client, c, client.Transport(maxAnswer)}
}

// Name implements dependency.Datasource.
func (*Source) Name() string { return dependency.SourceImage }

func (s *Source) repository(p dependency.Package) (name.Repository, error) {
	if why := dependency.CheckPackage(p); why != "" {
		return name.Repository{}, failure.New(failure.BadInput, "%s is not looked up: %s", dependency.Printable(p.Name), why)
	}
	registry := p.Registry
	if registry == "" || registry == "docker.io" {
		registry = dockerHub
	}
	host, err := name.NewRegistry(registry, name.StrictValidation)
	if err != nil {
		return name.Repository{}, failure.New(failure.BadInput, "%s is not looked up: its registry is no host", dependency.Printable(p.Name))
	}
	return host.Repo(p.Name), nil
}

func (s *Source) options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(s.transport), remote.WithAuthFromKeychain(s.config.Logins), remote.WithUserAgent("upkeep"),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}),
	}
}

// Releases implements dependency.Datasource. Digests and times are left to Complete.
func (s *Source) Releases(ctx context.Context, p dependency.Package) ([]dependency.Release, error) {
	repository, err := s.repository(p)
	if err != nil {
		return nil, err
	}
	data, err := s.client.Remember(ctx, repository.Name()+" tags", nil, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return s.tags(ctx, repository)
	})
	if errors.Is(err, httpcache.ErrMissing) {
		return nil, failure.New(failure.UnknownPackage, "%s has no image %s", repository.RegistryStr(), repository.RepositoryStr()).
			Do("see that the name is right; a private image needs a login where Upkeep runs")
	}
	if err != nil {
		return nil, err
	}
	var releases []dependency.Release
	for tag := range strings.Lines(string(data)) {
		tag = strings.TrimSuffix(tag, "\n")
		if p.Versioning == dependency.VersioningHelm {
			tag = strings.ReplaceAll(tag, "_", "+") // a tag has no +
		}
		releases = append(releases, dependency.Release{Version: tag})
	}
	return releases, nil
}

func (s *Source) tags(ctx context.Context, repository name.Repository) ([]byte, error) {
	puller, err := remote.NewPuller(s.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("ask a registry: %w", err)
	}
	lister, err := puller.Lister(ctx, repository)
	if err != nil {
		return nil, classify(repository, err)
	}
	var b strings.Builder
	for n := 0; lister.HasNext(); {
		page, err := lister.Next(ctx)
		if err != nil {
			return nil, classify(repository, err)
		}
		if n += len(page.Tags); n > maxTags {
			return nil, failure.New(failure.BadAnswer, "%s has more than %d tags", repository.Name(), maxTags)
		}
		for _, tag := range page.Tags {
			if dependency.CheckWritten(tag) == "" && !strings.ContainsAny(tag, " \n") {
				b.WriteString(tag)
				b.WriteByte('\n')
			}
		}
	}
	return []byte(b.String()), nil
}

// image is what is kept of one tag.
type image struct {
	Digest string    `json:"digest"`
	Time   time.Time `json:"time,omitzero"`
}

// Complete implements dependency.Datasource. A tag can be moved, so its digest is asked for again when it is
// not fresh; the time of what a digest names never changes.
func (s *Source) Complete(ctx context.Context, p dependency.Package, r dependency.Release) (dependency.Release, error) {
	repository, err := s.repository(p)
	if err != nil {
		return r, err
	}
	tag := r.Version
	if p.Versioning == dependency.VersioningHelm {
		tag = strings.ReplaceAll(tag, "+", "_")
	}
	digest, err := s.client.Remember(ctx, repository.Name()+":"+tag, nil, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		d, err := remote.Head(repository.Tag(tag), s.options(ctx)...)
		if err != nil {
			return nil, classify(repository, err)
		}
		return []byte(d.Digest.String()), nil
	})
	if err != nil {
		return r, missing(err, repository, tag)
	}
	data, err := s.client.Remember(ctx, repository.Name()+"@"+string(digest), httpcache.Always, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return s.describe(ctx, repository, string(digest))
	})
	if err != nil {
		return r, missing(err, repository, tag)
	}
	var i image
	if err := json.Unmarshal(data, &i); err != nil {
		return r, failure.New(failure.BadAnswer, "what is kept of %s cannot be read", repository.Name())
	}
	r.Digest, r.Time = i.Digest, i.Time
	return r, nil
}

func missing(err error, repository name.Repository, tag string) error {
	if errors.Is(err, httpcache.ErrMissing) {
		return failure.New(failure.UnknownPackage, "%s lists the tag %s and does not have it", repository.Name(), tag)
	}
	return err
}

// describe finds out when an image was made: as its configuration says, or a chart's annotation.
func (s *Source) describe(ctx context.Context, repository name.Repository, digest string) ([]byte, error) {
	d, err := remote.Get(repository.Digest(digest), s.options(ctx)...)
	if err != nil {
		return nil, classify(repository, err)
	}
	found := image{Digest: digest}
	var manifest struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(d.Manifest, &manifest) == nil {
		found.Time, _ = time.Parse(time.RFC3339, manifest.Annotations["org.opencontainers.image.created"])
	}
	if found.Time.IsZero() {
		if img, err := d.Image(); err == nil {
			file, err := img.ConfigFile()
			if err != nil && ctx.Err() != nil {
				return nil, classify(repository, err)
			}
			if err == nil {
				found.Time = file.Created.Time
			}
		}
	}
	if found.Time.Year() < 2000 { // builds that are to be the same every time say 1970
		found.Time = time.Time{}
	}
	found.Time = found.Time.UTC()
	return json.Marshal(found)
}

func classify(repository name.Repository, err error) error {
	if f, ok := failure.As(err); ok {
		return f
	}
	host := repository.RegistryStr()
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch s := answer.StatusCode; {
		case s == http.StatusNotFound:
			return httpcache.ErrMissing
		case s == http.StatusUnauthorized || s == http.StatusForbidden:
			return failure.New(failure.RegistryRefuses, "%s does not show %s (%d)", host, repository.RepositoryStr(), s).
				Do("see that the name is right, and configure a login for it where Upkeep runs")
		case s != http.StatusTooManyRequests && s < http.StatusInternalServerError:
			return failure.New(failure.BadAnswer, "%s answers %d", host, s)
		default:
			err = fmt.Errorf("it answers %d", s)
		}
		return failure.New(failure.RegistrySilent, "%s does not answer", host).Because(err).Do("try again later")
	}
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &mistyped) || errors.Is(err, httpcache.ErrTooLarge) {
		return failure.New(failure.BadAnswer, "%s answers what cannot be understood", host)
	}
	return failure.New(failure.RegistrySilent, "%s does not answer", host).Because(err).Do("see that it is up and can be reached from here, and try again")
}
