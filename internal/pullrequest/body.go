package pullrequest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/strictjson"
)

// Mark is what a pull request's body says of itself to later runs, in a comment that nobody sees.
type Mark struct {
	Version int    `json:"upkeep"` // of this format: 1
	Changes string `json:"changes"`
	Means   string `json:"means"`
	Text    string `json:"text"` // hash of what people see, as it was rendered
	// Severity is the proposal's, so that what has become graver since it was closed is known.
	Severity float64 `json:"severity,omitempty"`
}

const (
	markOpens  = "<!-- "
	markCloses = " -->"
	maxBody    = 60000 // GitHub takes 65,536
	maxRows    = 200
)

// Context is what a body tells besides the changes.
type Context struct {
	Notes  map[string]string // what the makers say of a package's release, by "package version"
	Merges string            // when it is merged, and by whom
}

// NotesKey is the key of a change's notes.
func NotesKey(c Change) string { return c.Dependency.Package.Name + " " + c.Update.Version }

// Body renders the description of a pull request, and its mark. It tells the day of a release and not its
// age: rendered again a day later, it is the same.
func Body(p Proposal, x Context) string {
	var b strings.Builder
	b.WriteString("| package | in | from | to | released |\n| --- | --- | --- | --- | --- |\n")
	for i, c := range p.Changes {
		if i == maxRows {
			fmt.Fprintf(&b, "\n%d more: see the files changed.\n", len(p.Changes)-maxRows)
			break
		}
		to := Plain(c.Update.Version)
		if c.Update.Digest != "" {
			to += " (" + Plain(short(c.Update.Digest)) + ")"
		}
		released := "not known"
		if !c.Update.Released.IsZero() {
			released = c.Update.Released.UTC().Format(time.DateOnly)
		}
		name := Plain(c.Dependency.Name)
		if c.Update.Package != "" && c.Update.Package != c.Dependency.Package.Name {
			name += " → " + Plain(c.Update.Package)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, Plain(c.Dependency.File), Plain(c.Dependency.Current), to, released)
	}
	b.WriteString("\n" + x.Merges + "\n")
	advise(&b, p)
	seen := make(map[string]bool)
	for _, c := range p.Changes {
		notes := Notes(x.Notes[NotesKey(c)])
		if notes == "" || seen[NotesKey(c)] {
			continue
		}
		seen[NotesKey(c)] = true
		section := fmt.Sprintf("\n<details><summary>What the makers of %s say of %s</summary>\n\n%s\n\n</details>\n", Plain(c.Dependency.Package.Name), Plain(c.Update.Version), notes)
		if b.Len()+len(section) > maxBody-2000 {
			b.WriteString("\nMore notes would not fit.\n")
			break
		}
		b.WriteString(section)
	}
	b.WriteString("\nUpkeep leaves this alone for good once anybody has pushed to its branch. Closed, it is not proposed again.\n")
	text := b.String()
	return text + "\n" + mark(Mark{Version: 1, Changes: p.Hash(), Means: p.Means(), Text: hash(text), Severity: p.Severity}) + "\n"
}

// advise says which vulnerabilities a proposal ends.
func advise(b *strings.Builder, p Proposal) {
	lines, levels := make(map[string]string), make(map[string]dependency.Update)
	for _, c := range p.Changes {
		for _, id := range c.Update.Advisories {
			lines[id] = c.Update.Summaries[id]
			if level := c.Update.Reach[id]; level != "" { // of several modules, the worst
				levels[id] = dependency.Update{Reach: map[string]string{"before": levels[id].Worst(), "now": level}}
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	b.WriteString("\nIt ends:\n")
	ids := slices.Sorted(maps.Keys(lines))
	for i, id := range ids {
		if i == maxRows {
			fmt.Fprintf(b, "- and %d more\n", len(ids)-maxRows)
			return
		}
		fmt.Fprintf(b, "- %s", Plain(id))
		if line := lines[id]; line != "" {
			fmt.Fprintf(b, ": %s", Plain(line))
		}
		if words, ok := reaches[levels[id].Worst()]; ok {
			fmt.Fprintf(b, " (%s)", words)
		}
		b.WriteString("\n")
	}
}

func short(digest string) string {
	_, hexes, ok := strings.Cut(digest, ":")
	if !ok {
		hexes = digest
	}
	return hexes[:min(12, len(hexes))]
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

func mark(m Mark) string {
	data, err := json.Marshal(m)
	if err != nil { // of strings and a number alone
		panic(err)
	}
	return markOpens + string(data) + markCloses
}

// ReadMark reads the mark of a body. A body without one, or with one that was tampered with, has none:
// the second result says so.
func ReadMark(body string) (m Mark, ok bool) {
	at := strings.LastIndex(body, markOpens+`{"upkeep":`)
	if at < 0 {
		return Mark{}, false
	}
	data, _, closed := strings.Cut(body[at+len(markOpens):], markCloses)
	if !closed || strictjson.Decode([]byte(data), &m) != nil || m.Version != 1 {
		return Mark{}, false
	}
	return m, true
}

// SameBody reports whether a body needs no change to say what another says. GitHub gives a body back with
// other ends of lines, and a person may have ticked or added something: only the marks are compared.
func SameBody(have, want string) bool {
	a, ok := ReadMark(have)
	b, fine := ReadMark(want)
	return ok && fine && a == b
}

// Merges says in the body when a proposal is merged.
func Merges(p Proposal, types []string) string {
	if slices.Contains(types, p.Type) {
		return "It is merged by Upkeep once its checks have passed on the newest base."
	}
	if p.Type == dependency.Major {
		return "A person decides: a major version may need changes of the code."
	}
	return "A person decides."
}
