package advisory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Source finds the advisories of packages.
type Source interface {
	// Find gives the advisories of all versions of the packages. An error says that they are not known,
	// and never that there are none.
	Find(ctx context.Context, packages []Package) (map[Package][]Advisory, error)
}

// DefaultAPI is the API of osv.dev.
const DefaultAPI = "https://api.osv.dev"

const (
	batch       = 1000      // queries in one request, as the API has it
	maxReply    = 64 << 20  // bytes of an answer of a batch
	maxPages    = 20        // of one batch
	maxFound    = 50_000    // advisories of all packages
	maxFiles    = 2_000_000 // of a directory
	maxProblems = 20
)

// API asks api.osv.dev, or a server that is like it.
type API struct {
	Client *httpcache.Client
	URL    string // DefaultAPI if empty
}

type query struct {
	Package struct {
		Name      string `json:"name"`
		Ecosystem string `json:"ecosystem"`
	} `json:"package"`
	PageToken string `json:"page_token,omitempty"`
}

type result struct {
	Vulns []struct {
		ID       string `json:"id"`
		Modified string `json:"modified"`
	} `json:"vulns"`
	NextPageToken string `json:"next_page_token"`
}

// Find implements Source.
func (a API) Find(ctx context.Context, packages []Package) (map[Package][]Advisory, error) {
	ids := make(map[string]string) // and when each was changed
	for some := range slices.Chunk(packages, batch) {
		if err := a.batch(ctx, some, ids); err != nil {
			return nil, err
		}
	}
	if len(ids) > maxFound {
		return nil, failure.New(failure.BadAnswer, "there are more than %d advisories", maxFound)
	}
	var mu sync.Mutex
	found := make(map[Package][]Advisory)
	wanted := set(packages)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(httpcache.DefaultInFlight)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		g.Go(func() error {
			data, err := a.document(ctx, id, ids[id])
			if err != nil {
				return err
			}
			parsed, err := Parse(data)
			if err != nil {
				return failure.New(failure.BadAnswer, "advisory %s of %s cannot be understood", id, a.url()).Because(err)
			}
			mu.Lock()
			defer mu.Unlock()
			add(found, parsed, wanted)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // a failure already
	}
	sorted(found)
	return found, nil
}

func (a API) url() string {
	if a.URL == "" {
		return DefaultAPI
	}
	return strings.TrimSuffix(a.URL, "/")
}

// batch collects the ids of the advisories of some packages.
func (a API) batch(ctx context.Context, packages []Package, ids map[string]string) error {
	queries := make([]query, len(packages))
	for i, p := range packages {
		queries[i].Package.Name, queries[i].Package.Ecosystem = p.Name, p.Ecosystem
	}
	for page := 0; len(queries) > 0; page++ {
		if page == maxPages {
			return failure.New(failure.BadAnswer, "%s has no end of advisories", a.url())
		}
		body, err := json.Marshal(map[string]any{"queries": queries})
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		data, err := a.Client.Get(ctx, httpcache.Request{URL: a.url() + "/v1/querybatch", Body: body, Form: "osv batch 1", Limit: maxReply, Distil: io.ReadAll})
		if errors.Is(err, httpcache.ErrMissing) {
			return failure.New(failure.BadAnswer, "there is no API of OSV at %s", a.url())
		}
		if err != nil {
			return err
		}
		var reply struct {
			Results []result `json:"results"`
		}
		if json.Unmarshal(data, &reply) != nil || len(reply.Results) != len(queries) {
			return failure.New(failure.BadAnswer, "%s answers what cannot be understood", a.url())
		}
		var more []query
		for i, r := range reply.Results {
			for _, v := range r.Vulns {
				if validID(v.ID) {
					ids[v.ID] = v.Modified
				}
			}
			if r.NextPageToken != "" {
				q := queries[i]
				q.PageToken = r.NextPageToken
				more = append(more, q)
			}
		}
		queries = more
	}
	return nil
}

// document is one advisory. As long as it has not changed, it is not asked for again.
func (a API) document(ctx context.Context, id, modified string) ([]byte, error) {
	data, err := a.Client.Get(ctx, httpcache.Request{
		URL: a.url() + "/v1/vulns/" + url.PathEscape(id), Form: "osv 1 " + modified, Limit: maxDocument, Enough: httpcache.Always, Distil: io.ReadAll,
	})
	if errors.Is(err, httpcache.ErrMissing) {
		return nil, failure.New(failure.BadAnswer, "%s names advisory %s and does not have it", a.url(), id)
	}
	return data, err
}

// Directory reads a directory of OSV documents, such as an unpacked all.zip of osv.dev. Those of other
// ecosystems may lie there too.
type Directory struct {
	FS   fs.FS
	Name string // for people
}

// Find implements Source.
func (d Directory) Find(ctx context.Context, packages []Package) (map[Package][]Advisory, error) {
	var mu sync.Mutex
	var problems []error
	found, files, wanted := make(map[Package][]Advisory), 0, set(packages)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	err := fs.WalkDir(d.FS, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !entry.Type().IsRegular() || path.Ext(name) != ".json" {
			return nil
		}
		if files++; files > maxFiles {
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		g.Go(func() error {
			parsed, err := d.read(name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			}
			add(found, parsed, wanted)
			return nil
		})
		return nil
	})
	_ = g.Wait() // no part of it fails
	if err == nil && files == 0 {
		err = errors.New("it has no files that end in .json")
	}
	if err == nil {
		err = errors.Join(problems[:min(len(problems), maxProblems)]...)
	}
	if err != nil {
		return nil, failure.New(failure.BadConfig, "the advisories in %s cannot all be read", d.Name).Because(err).
			Do("unpack them anew from osv.dev, and name the directory that holds the .json files")
	}
	sorted(found)
	return found, nil
}

func (d Directory) read(name string) (map[Package]Advisory, error) {
	file, err := d.FS.Open(name)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the file
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the file
	}
	return Parse(data)
}

func set(packages []Package) map[Package]bool {
	wanted := make(map[Package]bool, len(packages))
	for _, p := range packages {
		wanted[p] = true
	}
	return wanted
}

func add(found map[Package][]Advisory, parsed map[Package]Advisory, wanted map[Package]bool) {
	for p, a := range parsed {
		if wanted[p] {
			found[p] = append(found[p], a)
		}
	}
}

// sorted orders advisories by id.
func sorted(found map[Package][]Advisory) {
	for p, list := range found {
		slices.SortFunc(list, func(a, b Advisory) int { return strings.Compare(a.ID, b.ID) })
		found[p] = list
	}
}
