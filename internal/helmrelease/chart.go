package helmrelease

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/registry"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

const (
	// maxChart bounds a chart, packed or in a folder, in bytes; what it unpacks to is bounded by Helm.
	maxChart = 20 << 20
	// maxFiles bounds the files of a chart's folder.
	maxFiles = 5000
	// maxIndex bounds the index of a repository of charts, in bytes.
	maxIndex = 50 << 20
	// fetchWithin bounds the fetching of a chart.
	fetchWithin = 2 * time.Minute
)

// Chart says where a chart is; one of Path, OCI and Repository is set.
type Chart struct {
	Path       string `json:"path,omitempty"`       // absolute, of a folder or an archive on the worker
	OCI        string `json:"oci,omitempty"`        // oci://host/repository, with Version
	Repository string `json:"repository,omitempty"` // https://..., with Name and Version
	Name       string `json:"name,omitempty"`
	Version    string `json:"version,omitempty"`
}

func (c Chart) String() string {
	switch {
	case c.Path != "":
		return c.Path
	case c.OCI != "":
		return c.OCI + ":" + c.Version
	}
	return fmt.Sprintf("%s %s of %s", c.Name, c.Version, c.Repository)
}

func badChart(c Chart, cause error) *failure.Error {
	return failure.New(failure.BadChart, "the chart %s cannot be used: %s", c, clip(cause.Error(), 2000))
}

// load returns the chart's files. A tag or an archive can be replaced, so what counts is their digest.
func (c Chart) load(ctx context.Context) (bundle, error) {
	var ways int
	for _, way := range []string{c.Path, c.OCI, c.Repository} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		return nil, failure.New(failure.BadInput, "a chart has one of path, oci and repository").Do("say once where the chart is")
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	var files bundle
	var err error
	switch {
	case c.Path != "":
		files, err = loadPath(c.Path)
	case c.OCI != "":
		files, err = c.loadOCI(ctx)
	default:
		files, err = c.loadRepository(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, kube.Classify(ctx.Err(), fmt.Sprintf("fetch the chart %s", c))
		}
		return nil, badChart(c, err).Do("see that the chart is there and that helm show chart can read it")
	}
	return files, nil
}

// bundle is the files of a chart. Rendering changes a chart, so each one makes its own of them.
type bundle []*loader.BufferedFile

func (b bundle) chart() (*chart.Chart, error) {
	c, err := loader.LoadFiles(b)
	if err != nil {
		return nil, err
	}
	if c.Metadata.Type != "" && c.Metadata.Type != "application" {
		return nil, fmt.Errorf("a chart of the type %q cannot be installed", c.Metadata.Type)
	}
	return c, action.CheckDependencies(c, c.Metadata.Dependencies)
}

func (b bundle) digest() string {
	files := slices.SortedFunc(slices.Values(b), func(x, y *loader.BufferedFile) int { return cmp.Compare(x.Name, y.Name) })
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%q %d\n", f.Name, len(f.Data))
		sum.Write(f.Data)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

func loadPath(path string) (bundle, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("its path is not absolute")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return unarchive(f)
	}
	var size, count int64
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() { // the loader would follow a link out of the folder
			return fmt.Errorf("%s is no regular file", name)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		count++
		if size += info.Size(); size > maxChart || count > maxFiles {
			return fmt.Errorf("it has more than %d bytes or %d files", maxChart, maxFiles)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadDir(path) // which leaves out what .helmignore says
	if err != nil {
		return nil, err
	}
	var files bundle
	for _, f := range c.Raw {
		files = append(files, &loader.BufferedFile{Name: f.Name, Data: f.Data})
	}
	return files, nil
}

func unarchive(r io.Reader) (bundle, error) {
	packed, err := readAll(r, maxChart)
	if err != nil {
		return nil, err
	}
	return loader.LoadArchiveFiles(bytes.NewReader(packed))
}

// readAll reads to the end, which must come within so many bytes.
func readAll(r io.Reader, most int64) ([]byte, error) {
	all, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(all)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return all, err
}

// loopback reports whether a host is this machine, to which alone plain HTTP goes.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// fetcher is a client for charts, whose replies are bounded and which is not led from HTTPS to HTTP.
func fetcher(ctx context.Context, most int64) *http.Client {
	return &http.Client{
		Timeout:   fetchWithin,
		Transport: fetching{ctx, most},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 5 {
				return errors.New("it is redirected again and again")
			}
			return nil
		},
	}
}

type fetching struct {
	ctx  context.Context
	most int64
}

func (f fetching) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if r.URL.Scheme != "https" && !loopback(r.URL.Host) {
		return nil, fmt.Errorf("%s is not asked without TLS", r.URL.Host)
	}
	reply, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		reply.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(reply.Body, f.most+1), reply.Body}
	}
	return reply, err
}

func (c Chart) loadOCI(ctx context.Context) (bundle, error) {
	if !strings.HasPrefix(c.OCI, registry.OCIScheme+"://") || c.Version == "" {
		return nil, errors.New("it needs oci://host/repository and a version")
	}
	ref := strings.TrimPrefix(c.OCI, registry.OCIScheme+"://")
	host, _, _ := strings.Cut(ref, "/")
	options := []registry.ClientOption{registry.ClientOptHTTPClient(fetcher(ctx, maxChart)), registry.ClientOptWriter(io.Discard)}
	if loopback(host) {
		options = append(options, registry.ClientOptPlainHTTP())
	}
	client, err := registry.NewClient(options...)
	if err != nil {
		return nil, err
	}
	pulled, err := client.Pull(ref + ":" + c.Version)
	if err != nil {
		return nil, err
	}
	return unarchive(bytes.NewReader(pulled.Chart.Data))
}

func (c Chart) loadRepository(ctx context.Context) (bundle, error) {
	base, err := url.Parse(strings.TrimSuffix(c.Repository, "/") + "/")
	if err != nil || base.Host == "" || c.Name == "" || c.Version == "" {
		return nil, errors.New("it needs the repository's URL, a name and a version")
	}
	raw, err := fetch(ctx, base.JoinPath("index.yaml"), maxIndex)
	if err != nil {
		return nil, err
	}
	var index repo.IndexFile
	if err := yaml.Unmarshal(raw, &index); err != nil {
		return nil, errors.New("the repository's index.yaml cannot be read")
	}
	for _, entry := range index.Entries[c.Name] {
		if entry == nil || entry.Metadata == nil || entry.Version != c.Version || len(entry.URLs) == 0 {
			continue
		}
		at, err := base.Parse(entry.URLs[0])
		if err != nil {
			return nil, err
		}
		packed, err := fetch(ctx, at, maxChart)
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(packed); entry.Digest != "" && strings.TrimPrefix(entry.Digest, "sha256:") != hex.EncodeToString(sum[:]) {
			return nil, errors.New("the archive is not the one of the repository's index")
		}
		return unarchive(bytes.NewReader(packed))
	}
	return nil, errors.New("the repository does not have it")
}

func fetch(ctx context.Context, at *url.URL, most int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	reply, err := fetcher(ctx, most).Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = reply.Body.Close() }()
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", at.Redacted(), reply.Status)
	}
	return readAll(reply.Body, most)
}
