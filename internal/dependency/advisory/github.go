package advisory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/upkeep-run/upkeep/internal/dependency/version"
	"github.com/upkeep-run/upkeep/internal/failure"
)

// Entry is an advisory as GitHub's database has it.
type Entry struct {
	ID        string // GHSA-...
	CVE       string // or nothing
	Summary   string
	Severity  string // low, medium, high, critical, unknown
	Malicious bool
	Withdrawn bool
	Affected  []Affected
}

// Affected is a package with a range of versions, such as ">= 1.0.0, < 1.2.3".
type Affected struct{ Ecosystem, Name, Range string }

// GitHub is GitHub's own database of advisories.
type GitHub struct {
	// List gives the entries that affect packages of an ecosystem, as GitHub names it.
	List func(ctx context.Context, ecosystem string, packages []string) ([]Entry, error)
}

// maxAsked bounds the names in one question, in bytes: they are part of a URL.
const maxAsked = 4000

// ecosystems are GitHub's names of those of OSV.
var ecosystems = map[string]string{"Go": "go", "npm": "npm"}

// Find implements Source.
func (g GitHub) Find(ctx context.Context, packages []Package) (map[Package][]Advisory, error) {
	found, wanted := make(map[Package][]Advisory), set(packages)
	seen := make(map[string]bool)
	for _, ours := range slices.Sorted(maps.Keys(ecosystems)) {
		for _, some := range questions(ours, packages) {
			entries, err := g.List(ctx, ecosystems[ours], some)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if seen[e.ID] || e.Withdrawn || !validID(e.ID) {
					continue
				}
				seen[e.ID] = true
				parsed, err := e.parse()
				if err != nil {
					return nil, failure.New(failure.BadAnswer, "GitHub's advisory %s cannot be understood", e.ID).Because(err)
				}
				add(found, parsed, wanted)
			}
		}
	}
	sorted(found)
	return found, nil
}

// questions are the names of an ecosystem's packages in parts that fit into a URL each. What would be more than
// one name there is not asked for.
func questions(ecosystem string, packages []Package) (all [][]string) {
	size := maxAsked + 1
	for _, p := range packages {
		if p.Ecosystem != ecosystem || p.Name == "" || strings.ContainsAny(p.Name, ", ") {
			continue
		}
		if size += len(p.Name) + 1; size > maxAsked {
			all, size = append(all, nil), len(p.Name)
		}
		all[len(all)-1] = append(all[len(all)-1], p.Name)
	}
	return all
}

func (e Entry) parse() (map[Package]Advisory, error) {
	if len(e.Affected) > maxAffected {
		return nil, fmt.Errorf("it names more than %d ranges", maxAffected)
	}
	found := make(map[Package]Advisory)
	for _, affected := range e.Affected {
		var p Package
		for ours, theirs := range ecosystems {
			if theirs == affected.Ecosystem {
				p = Package{ours, affected.Name}
			}
		}
		if p.Name == "" {
			continue
		}
		a, known := found[p]
		if !known {
			a = Advisory{ID: e.ID, Summary: clip(e.Summary), Malicious: e.Malicious, versions: make(map[string]bool)}
			if _, ok := ratings[strings.ToUpper(e.Severity)]; ok {
				a.Severity = strings.ToUpper(e.Severity)
			}
			if validID(e.CVE) {
				a.Aliases = []string{e.CVE}
			}
		}
		events, err := p.within(affected.Range)
		if err != nil {
			return nil, err
		}
		a.ranges = append(a.ranges, events)
		found[p] = a
	}
	return found, nil
}

// within reads a range of GitHub's: conditions that all hold, or one version.
func (p Package) within(text string) ([]event, error) {
	from := event{start: true, vulnerable: true}
	var until []event
	for condition := range strings.SplitSeq(text, ",") {
		sign, number, ok := strings.Cut(strings.TrimSpace(condition), " ")
		v, valid := p.parse(strings.TrimSpace(number))
		if !ok || !valid || len(number) > version.MaxLength {
			return nil, fmt.Errorf("its range %.100q is none", text)
		}
		switch sign {
		case ">=":
			from = event{at: v, vulnerable: true}
		case ">":
			from = event{at: v, vulnerable: true, after: true}
		case "<":
			until = append(until, event{at: v})
		case "<=":
			until = append(until, event{at: v, after: true})
		case "=":
			return []event{{at: v, vulnerable: true}, {at: v, after: true}}, nil
		default:
			return nil, fmt.Errorf("its range %.100q is none", text)
		}
	}
	return append([]event{from}, until...), nil
}

// Both asks two sources at once. What one alone knows counts as well; what both know is said once, as the first
// has it, and as grave as one of them says. When only one answers, what it knows comes with an error.
type Both struct{ First, Second Source }

// Find implements Source.
func (b Both) Find(ctx context.Context, packages []Package) (map[Package][]Advisory, error) {
	var first, second map[Package][]Advisory
	var wrong [2]error
	var g errgroup.Group
	g.Go(func() error { first, wrong[0] = b.First.Find(ctx, packages); return nil })
	g.Go(func() error { second, wrong[1] = b.Second.Find(ctx, packages); return nil })
	_ = g.Wait() // see wrong
	if wrong[0] != nil && wrong[1] != nil {
		return nil, wrong[0]
	}
	found := make(map[Package][]Advisory)
	maps.Copy(found, first)
	for p, more := range second {
		found[p] = merged(slices.Clone(found[p]), more)
	}
	sorted(found)
	return found, errors.Join(wrong[:]...)
}

// merged adds what is not known yet by any of its names.
func merged(known, more []Advisory) []Advisory {
	for _, a := range more {
		same := false
		for i, k := range known {
			if !k.same(a) {
				continue
			}
			same = true
			if known[i].Rating() == 0 && a.Rating() > 0 {
				known[i].Severity = a.Severity
			}
		}
		if !same {
			known = append(known, a)
		}
	}
	return known
}

// same reports whether two advisories are of one vulnerability.
func (a Advisory) same(b Advisory) bool {
	names := append([]string{b.ID}, b.Aliases...)
	return slices.ContainsFunc(append([]string{a.ID}, a.Aliases...), func(n string) bool { return slices.Contains(names, n) })
}
