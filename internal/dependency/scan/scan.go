// Package scan looks up all dependencies of a repository at once and decides what is proposed for each. One
// that cannot be looked up is a problem of its own; the others go on.
package scan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/advisory"
	"github.com/upkeep-run/upkeep/internal/dependency/choose"
	"github.com/upkeep-run/upkeep/internal/dependency/version"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	atOnce    = 256 // packages under way; how many requests that makes is the client's business
	maxRounds = 100 // of completing what is open for one dependency
)

// Options of a scan.
type Options struct {
	Sources    map[string]dependency.Datasource // by their names
	Advisories advisory.Source                  // nil: none are looked up
	Policy     choose.Policy
}

// Entry is what there is to say of one dependency.
type Entry struct {
	Manager string              `json:"manager"`
	File    string              `json:"file"`
	Name    string              `json:"name"`
	Current string              `json:"current"`
	Updates []dependency.Update `json:"updates"`
	Held    []choose.Held       `json:"held,omitempty"`
	// Skipped says why nothing is ever proposed for it.
	Skipped string `json:"skipped,omitempty"`
	// Problem says why it is not known what there is, and what to do.
	Problem string `json:"problem,omitempty"`

	Dependency dependency.Dependency `json:"-"`
}

// Report is the outcome of a scan, in the order of the dependencies.
type Report struct {
	Entries  []Entry
	Problems []dependency.Problem // of files, and of what concerns all
	Looked   int                  // how many dependencies were looked up
	Failed   int                  // how many of these could not be
}

// Scan looks up and decides. The dependencies and problems are what the managers have found.
func Scan(ctx context.Context, found []dependency.Dependency, problems []dependency.Problem, o Options) Report {
	s := scanner{Options: o, lookups: make(map[dependency.Package]*lookup), ready: make(chan struct{})}
	report := Report{Entries: make([]Entry, len(found)), Problems: slices.Clone(problems)}
	s.ask(ctx, found)
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, d := range found {
		report.Entries[i] = Entry{
			Manager: d.Manager, File: d.File, Name: d.Name, Current: d.Current, Updates: []dependency.Update{},
			Skipped: d.Skip, Dependency: d,
		}
		if d.Skip != "" {
			continue
		}
		group.Go(func() error {
			s.decide(inner, d, &report.Entries[i])
			return nil
		})
	}
	_ = group.Wait() // no part of it fails
	<-s.ready
	if s.trouble != nil {
		what := "security updates are not known: "
		if s.advisories != nil {
			what = "not all security updates are known: "
		}
		report.Problems = append(report.Problems, dependency.Problem{File: ".", What: what + s.trouble.Error()})
	}
	for _, e := range report.Entries {
		if e.Skipped == "" {
			report.Looked++
		}
		if e.Problem != "" {
			report.Failed++
		}
	}
	return report
}

type scanner struct {
	Options
	mu      sync.Mutex
	lookups map[dependency.Package]*lookup

	ready      chan struct{} // closed when the advisories are known, or not
	advisories map[advisory.Package][]advisory.Advisory
	trouble    error
}

// ask begins to look the advisories up.
func (s *scanner) ask(ctx context.Context, found []dependency.Dependency) {
	var packages []advisory.Package
	for _, d := range found {
		if p, ok := advisory.Of(d.Package); ok && d.Skip == "" {
			packages = append(packages, p)
		}
	}
	if s.Advisories == nil || len(packages) == 0 {
		close(s.ready)
		return
	}
	slices.SortFunc(packages, func(a, b advisory.Package) int {
		return cmp.Or(cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.Name, b.Name))
	})
	packages = slices.Compact(packages)
	go func() {
		defer close(s.ready)
		s.advisories, s.trouble = s.Advisories.Find(ctx, packages)
	}()
}

func (s *scanner) known(ctx context.Context, p dependency.Package) []advisory.Advisory {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	of, ok := advisory.Of(p)
	if !ok {
		return nil
	}
	return s.advisories[of]
}

// decide looks one dependency up, and fills its entry.
func (s *scanner) decide(ctx context.Context, d dependency.Dependency, e *Entry) {
	if d.Indirect && !s.vulnerable(ctx, d) {
		return
	}
	l := s.of(d.Package)
	if err := l.begin(ctx, s.Sources[d.Package.Datasource]); err != nil {
		e.Problem = words(err)
		return
	}
	advisories := s.known(ctx, d.Package)
	for range maxRounds {
		out := choose.Choose(d, l.releases(), advisories, s.Policy)
		if len(out.Open) == 0 {
			e.Problem = out.Trouble
			e.Updates, e.Held = append(e.Updates, out.Updates...), out.Held
			return
		}
		if err := l.complete(ctx, out.Open); err != nil {
			e.Problem = words(err)
			return
		}
	}
	e.Problem = "its registry gives no end of what has to be asked"
}

// vulnerable says whether the version in use has an advisory: only then is a package looked up that nobody
// in the repository names.
func (s *scanner) vulnerable(ctx context.Context, d dependency.Dependency) bool {
	if len(s.Policy.Types) > 0 && !slices.Contains(s.Policy.Types, dependency.Security) {
		return false
	}
	v, ok := version.Of(d.Package.Versioning)
	if !ok {
		return false
	}
	current, ok := v.Parse(d.Current)
	return ok && slices.ContainsFunc(s.known(ctx, d.Package), func(a advisory.Advisory) bool { return a.Affects(current) })
}

// words are an error as a person may see it.
func words(err error) string {
	if f, ok := failure.As(err); ok {
		return f.Error()
	}
	return err.Error()
}

// lookup is what is known of one package.
type lookup struct {
	p      dependency.Package
	source dependency.Datasource

	once  sync.Once
	err   error
	mu    sync.Mutex
	known []choose.Release
	index map[string]int
	// completing lets who needs the same release wait for who asks.
	completing map[string]*sync.Mutex
}

func (s *scanner) of(p dependency.Package) *lookup {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lookups[p]
	if l == nil {
		l = &lookup{p: p, index: make(map[string]int), completing: make(map[string]*sync.Mutex)}
		s.lookups[p] = l
	}
	return l
}

func (l *lookup) begin(ctx context.Context, source dependency.Datasource) error {
	l.once.Do(func() {
		if source == nil {
			l.err = fmt.Errorf("nobody knows the releases of %q", l.p.Datasource)
			return
		}
		l.source = source
		releases, err := source.Releases(ctx, l.p)
		l.err = err
		l.known = make([]choose.Release, len(releases))
		for i, r := range releases {
			l.known[i] = choose.Release{Release: r}
			l.index[r.Version] = i
		}
	})
	return l.err
}

func (l *lookup) releases() []choose.Release {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.known)
}

// complete fills in what is missing of some releases.
func (l *lookup) complete(ctx context.Context, versions []string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, v := range versions {
		group.Go(func() error {
			l.mu.Lock()
			i, known := l.index[v]
			turn := l.completing[v]
			if turn == nil {
				turn = new(sync.Mutex)
				l.completing[v] = turn
			}
			l.mu.Unlock()
			if !known {
				return fmt.Errorf("there is no release %q", dependency.Printable(v))
			}
			turn.Lock()
			defer turn.Unlock()
			l.mu.Lock()
			r := l.known[i]
			l.mu.Unlock()
			if r.Complete {
				return nil
			}
			done, err := l.source.Complete(ctx, l.p, r.Release)
			if err != nil {
				return err //nolint:wrapcheck // a failure that names what it is about
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.known[i] = choose.Release{Release: done, Complete: true}
			return nil
		})
	}
	return group.Wait() //nolint:wrapcheck // see above
}

// Updates is how many are proposed.
func (r Report) Updates() int {
	n := 0
	for _, e := range r.Entries {
		n += len(e.Updates)
	}
	return n
}

// Telling are the entries that have something to say, in order.
func (r Report) Telling() []Entry {
	telling := []Entry{}
	for _, e := range r.Entries {
		if len(e.Updates) > 0 || len(e.Held) > 0 || e.Problem != "" {
			telling = append(telling, e)
		}
	}
	slices.SortStableFunc(telling, func(a, b Entry) int {
		return cmp.Or(strings.Compare(a.File, b.File), strings.Compare(a.Manager, b.Manager), strings.Compare(a.Name, b.Name))
	})
	return telling
}
