// Package advisory knows which versions of packages have known vulnerabilities, from documents in the OSV
// format: those of api.osv.dev, or those in a directory.
package advisory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/version"
)

const (
	maxDocument = 4 << 20 // bytes of one advisory
	maxAffected = 5_000   // packages, ranges, events or versions of one
	maxText     = 300
)

// Advisory is what one document says of one package.
type Advisory struct {
	ID       string   `json:"id"`
	Aliases  []string `json:"aliases,omitempty"`
	Summary  string   `json:"summary,omitempty"`
	Severity string   `json:"severity,omitempty"` // the database's own word (HIGH), or the vector
	// Malicious says that the release itself is the attack.
	Malicious bool `json:"malicious,omitempty"`

	ranges   [][]event
	versions map[string]bool
}

// event is a version from which on a package is vulnerable, or is not any more.
type event struct {
	at         version.Version
	vulnerable bool
	after      bool // at itself is still as before: last_affected
	start      bool // before everything
}

// Package is what an advisory is about, as OSV calls it.
type Package struct{ Ecosystem, Name string }

// Of is what OSV calls a package, or false for what it does not know.
func Of(p dependency.Package) (Package, bool) {
	switch p.Datasource {
	case dependency.SourceGo:
		return Package{"Go", p.Name}, true
	case dependency.SourceGoRelease:
		return Package{"Go", "stdlib"}, true
	case dependency.SourceNPM:
		return Package{"npm", p.Name}, true
	}
	return Package{}, false
}

func (p Package) versioning() version.Versioning {
	name := dependency.VersioningGo
	if p.Ecosystem == "npm" {
		name = dependency.VersioningNPM
	}
	v, _ := version.Of(name)
	return v
}

// parse reads a version as the advisory writes it: those of Go modules are without their v.
func (p Package) parse(text string) (version.Version, bool) {
	if p.Ecosystem == "Go" && p.Name != "stdlib" && p.Name != "toolchain" && !strings.HasPrefix(text, "v") {
		text = "v" + text
	}
	return p.versioning().Parse(text)
}

// Affects says whether a version has the vulnerability.
func (a Advisory) Affects(v version.Version) bool {
	if a.versions[strings.TrimPrefix(v.Text, "v")] {
		return true
	}
	for _, events := range a.ranges {
		vulnerable := false
		for _, e := range events {
			if c := -1; !e.start {
				if c = v.Compare(e.at); c < 0 || c == 0 && e.after {
					break
				}
			}
			vulnerable = e.vulnerable
		}
		if vulnerable {
			return true
		}
	}
	return false
}

// document is the part of OSV's format that matters.
type document struct {
	ID        string    `json:"id"`
	Aliases   []string  `json:"aliases"`
	Summary   string    `json:"summary"`
	Withdrawn time.Time `json:"withdrawn"`
	Severity  []struct {
		Score string `json:"score"`
	} `json:"severity"`
	DatabaseSpecific struct {
		Severity any `json:"severity"`
	} `json:"database_specific"`
	Affected []struct {
		Package struct {
			Ecosystem string `json:"ecosystem"`
			Name      string `json:"name"`
		} `json:"package"`
		Ranges []struct {
			Type   string `json:"type"`
			Events []struct {
				Introduced   string `json:"introduced"`
				Fixed        string `json:"fixed"`
				LastAffected string `json:"last_affected"`
			} `json:"events"`
		} `json:"ranges"`
		Versions []string `json:"versions"`
	} `json:"affected"`
}

// Parse reads a document, and gives what it says of each package. One that was taken back says nothing.
func Parse(data []byte) (map[Package]Advisory, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("it has more than %d MB", maxDocument>>20)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, errors.New("it is no advisory in the OSV format")
	}
	if !validID(d.ID) {
		return nil, errors.New("it has no id")
	}
	if !d.Withdrawn.IsZero() {
		return nil, nil
	}
	found := make(map[Package]Advisory)
	entries := 0
	for _, affected := range d.Affected {
		p := Package{affected.Package.Ecosystem, affected.Package.Name}
		if p.Ecosystem != "Go" && p.Ecosystem != "npm" || p.Name == "" {
			continue
		}
		a, known := found[p]
		if !known {
			a = Advisory{ID: d.ID, Summary: clip(d.Summary), Severity: d.severity(), Malicious: strings.HasPrefix(d.ID, "MAL-"), versions: make(map[string]bool)}
			for _, alias := range d.Aliases[:min(len(d.Aliases), 20)] {
				if validID(alias) {
					a.Aliases = append(a.Aliases, alias)
				}
			}
		}
		for _, v := range affected.Versions {
			if entries++; len(v) <= version.MaxLength {
				a.versions[strings.TrimPrefix(v, "v")] = true
			}
		}
		for _, r := range affected.Ranges {
			if r.Type != "SEMVER" && r.Type != "ECOSYSTEM" {
				continue // commits
			}
			var events []event
			for _, e := range r.Events {
				entries++
				events = append(events, p.events(e.Introduced, e.Fixed, e.LastAffected)...)
			}
			slices.SortStableFunc(events, compare)
			a.ranges = append(a.ranges, events)
		}
		if entries > maxAffected {
			return nil, fmt.Errorf("it names more than %d versions", maxAffected)
		}
		found[p] = a
	}
	return found, nil
}

func (p Package) events(introduced, fixed, lastAffected string) []event {
	var events []event
	if introduced == "0" {
		events = append(events, event{start: true, vulnerable: true})
	} else if v, ok := p.parse(introduced); ok {
		events = append(events, event{at: v, vulnerable: true})
	}
	if v, ok := p.parse(fixed); ok {
		events = append(events, event{at: v})
	}
	if v, ok := p.parse(lastAffected); ok {
		events = append(events, event{at: v, after: true})
	}
	return events
}

func compare(a, b event) int {
	switch {
	case a.start || b.start:
		return boolToInt(b.start) - boolToInt(a.start)
	case a.at.Compare(b.at) != 0:
		return a.at.Compare(b.at)
	}
	return boolToInt(a.after) - boolToInt(b.after)
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ratings are the upper ends of the bands that CVSS gives names to.
var ratings = map[string]float64{"LOW": 3.9, "MODERATE": 6.9, "MEDIUM": 6.9, "HIGH": 8.9, "CRITICAL": 10}

// Rating is how grave it is by the database's word; 0 where that gives none, or only a vector.
func (a Advisory) Rating() float64 { return ratings[strings.ToUpper(a.Severity)] }

// severity is the database's own word, or the first vector.
func (d document) severity() string {
	if word, ok := d.DatabaseSpecific.Severity.(string); ok && word != "" {
		return clip(word)
	}
	if len(d.Severity) > 0 {
		return clip(d.Severity[0].Score)
	}
	return ""
}

// validID keeps out what would not be an id where it is shown.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == ':' || r == '.')
	})
}

// clip makes one bounded line of somebody's words.
func clip(text string) string {
	text = dependency.Printable(strings.Join(strings.Fields(text), " "))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}
