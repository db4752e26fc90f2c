package oci

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/dependency/lookup/lookuptest"
	"github.com/upkeep-run/upkeep/internal/failure"
)

func pkg(url, name string) dependency.Package {
	return dependency.Package{Datasource: dependency.SourceImage, Name: name, Registry: strings.TrimPrefix(url, "http://"), Versioning: dependency.VersioningImage}
}

var made = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// fill pushes real images to a real registry: some alone, some for two platforms.
func fill(t *testing.T, url string, client *httpcache.Client, repository string, tags ...string) map[string]v1.Hash {
	t.Helper()
	digests := make(map[string]v1.Hash)
	for i, tag := range tags {
		ref, err := name.NewTag(strings.TrimPrefix(url, "http://") + "/" + repository + ":" + tag)
		require.NoError(t, err)
		img, err := random.Image(100, 1)
		require.NoError(t, err)
		created := v1.Time{Time: made}
		if strings.HasPrefix(tag, "0.") {
			created = v1.Time{Time: time.Unix(0, 0)}
		}
		img, err = mutate.CreatedAt(img, created)
		require.NoError(t, err)
		to := remote.WithTransport(client.Transport(64 << 20))
		if i%2 == 0 {
			require.NoError(t, remote.Write(ref, img, to))
			digests[tag], err = img.Digest()
			require.NoError(t, err)
			continue
		}
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
		require.NoError(t, remote.WriteIndex(ref, index, to))
		digests[tag], err = index.Digest()
		require.NoError(t, err)
	}
	return digests
}

func TestARealRegistry(t *testing.T) {
	url, client := lookuptest.ServePlain(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))), 0)
	digests := fill(t, url, client, "team/web", "15.3-alpine", "15.4-alpine", "latest", "0.9.0")
	s := New(client, Config{})
	releases, err := s.Releases(t.Context(), pkg(url, "team/web"))
	require.NoError(t, err)
	var tags []string
	for _, r := range releases {
		tags = append(tags, r.Version)
		done, err := s.Complete(t.Context(), pkg(url, "team/web"), r)
		require.NoError(t, err)
		require.Equal(t, digests[r.Version].String(), done.Digest)
		if r.Version == "0.9.0" {
			require.Zero(t, done.Time, "1970 is no date")
		} else {
			require.Equal(t, made, done.Time, r.Version)
		}
	}
	slices.Sort(tags)
	require.Equal(t, []string{"0.9.0", "15.3-alpine", "15.4-alpine", "latest"}, tags)
	_, err = s.Releases(t.Context(), pkg(url, "team/other"))
	require.True(t, failure.Is(err, failure.UnknownPackage), "%v", err)
}

func TestChartsThatAreKeptLikeImages(t *testing.T) {
	url, client := lookuptest.ServePlain(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))), 0)
	fill(t, url, client, "charts/shop", "1.0.0_build.1")
	p := pkg(url, "charts/shop")
	p.Versioning = dependency.VersioningHelm
	releases, err := New(client, Config{}).Releases(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, "1.0.0+build.1", releases[0].Version)
	done, err := New(client, Config{}).Complete(t.Context(), p, releases[0])
	require.NoError(t, err)
	require.NotEmpty(t, done.Digest)
}

func TestTenThousandTagsOverManyPages(t *testing.T) {
	url, client := lookuptest.ServePlain(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		page := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("last"), &page)
		if page < 9 {
			w.Header().Set("Link", fmt.Sprintf(`</v2/web/tags/list?last=%d&n=1000>; rel="next"`, page+1))
		}
		var tags []string
		for i := range 1000 {
			tags = append(tags, fmt.Sprintf(`"1.%d.%d"`, page, i))
		}
		_, _ = fmt.Fprintf(w, `{"name":"web","tags":[%s]}`, strings.Join(tags, ","))
	}), 0)
	releases, err := New(client, Config{}).Releases(t.Context(), pkg(url, "web"))
	require.NoError(t, err)
	require.Len(t, releases, 10_000)
}

func TestHostileRegistries(t *testing.T) {
	lookuptest.Hostile(t, lookuptest.ServePlain, func(t *testing.T, url string, client *httpcache.Client) error {
		_, err := New(client, Config{}).Releases(t.Context(), pkg(url, "web"))
		return err
	})
}

// A registry that sends who asks to a place inside of the network for a token.
func TestATokenIsNotFetchedFromInside(t *testing.T) {
	var inside atomic.Bool
	victim, _ := lookuptest.ServePlain(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Store(true) }), 0)
	url, client := lookuptest.ServePlain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+victim+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}), 0)
	_, err := New(client, Config{}).Releases(t.Context(), pkg(url, "web"))
	require.ErrorContains(t, err, "realm")
	require.False(t, inside.Load())
}

type login struct{ host string }

func (l login) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() == l.host {
		return &authn.Basic{Username: "upkeep", Password: "secret"}, nil
	}
	return authn.Anonymous, nil
}

func TestALoginGoesToItsRegistryOnly(t *testing.T) {
	var seen atomic.Value
	seen.Store("")
	url, client := lookuptest.ServePlain(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := r.Header.Get("Authorization"); h != "" {
			seen.Store(h)
		} else {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"name":"web","tags":["1.0.0"]}`)
	}), 0)
	host := strings.TrimPrefix(url, "http://")
	_, err := New(client, Config{Logins: login{"another"}}).Releases(t.Context(), pkg(url, "web"))
	require.True(t, failure.Is(err, failure.RegistryRefuses), "%v", err)
	require.Equal(t, "", seen.Load())
	releases, err := New(client, Config{Logins: login{host}}).Releases(t.Context(), pkg(url, "web"))
	require.NoError(t, err)
	require.Len(t, releases, 1)
}

func TestAHostInsideOfANetworkIsNotAsked(t *testing.T) {
	s := New(httpcache.New(httpcache.Options{}), Config{})
	for _, host := range []string{"localhost:5000", "127.0.0.1:5000", "169.254.169.254", "10.1.2.3", "[::1]:5000"} {
		_, err := s.Releases(context.Background(), pkg(host, "web"))
		require.True(t, failure.Is(err, failure.HostRefused), "%s: %v", host, err)
	}
	for _, n := range []string{"", "../x", "UPPER", "a b", "-x", "a//b"} {
		_, err := s.Releases(context.Background(), pkg("example.com", n))
		require.True(t, failure.Is(err, failure.BadInput), "%q: %v", n, err)
	}
}
