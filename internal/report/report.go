// Package report writes what a run did for people: a page that a browser shows without a network or
// a script, and the same as Markdown. Both follow from the run's document alone.
package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"sort"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
)

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"verdict": func(v run.Verdict) string { return strings.ToLower(strings.ReplaceAll(string(v), "_", "-")) },
	"seconds": func(s float64) string { return fmt.Sprintf("%.1f s", s) },
}).Parse(pageText))

// view is a document with its result laid out.
type view struct {
	run.Document
	EndedAt string
	Verdict run.Verdict
	Checks  []run.Check
	Facts   []fact
	Scope   string
	Longest float64
}

// fact is one value of a result.
type fact struct{ Name, Value string }

// Percent is a step's share of the longest step, for its bar.
func (v view) Percent(s run.Step) int {
	if v.Longest <= 0 {
		return 0
	}
	return int(s.Seconds / v.Longest * 100)
}

func lay(doc run.Document, ended time.Time) view {
	v := view{Document: doc, EndedAt: ended.UTC().Format(time.RFC1123)}
	var result map[string]any
	d := json.NewDecoder(bytes.NewReader(doc.Result))
	d.UseNumber()
	if d.Decode(&result) == nil {
		var known struct {
			Verdict run.Verdict `json:"verdict"`
			Checks  []run.Check `json:"checks"`
			Scope   string      `json:"scope"`
		}
		if json.Unmarshal(doc.Result, &known) == nil {
			v.Verdict, v.Checks, v.Scope = known.Verdict, known.Checks, known.Scope
		}
		for name, value := range result {
			if name == "checks" || name == "verdict" || name == "scope" {
				continue
			}
			text := fmt.Sprint(value)
			if n, ok := value.(json.Number); ok && strings.HasPrefix(name, "bytes") {
				if i, err := n.Int64(); err == nil {
					text = Bytes(i)
				}
			}
			v.Facts = append(v.Facts, fact{name, text})
		}
		sort.Slice(v.Facts, func(i, j int) bool { return v.Facts[i].Name < v.Facts[j].Name })
	}
	for _, s := range doc.Steps {
		v.Longest = max(v.Longest, s.Seconds)
	}
	return v
}

// HTML writes the page.
func HTML(doc run.Document, ended time.Time) ([]byte, error) {
	var out bytes.Buffer
	if err := page.Execute(&out, lay(doc, ended)); err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return out.Bytes(), nil
}

// Markdown writes the same as text.
func Markdown(doc run.Document, ended time.Time) string {
	v := lay(doc, ended)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s of %s: %s\n\n", plain(doc.Procedure), plain(doc.Target), doc.Outcome)
	if v.Verdict != "" {
		fmt.Fprintf(&b, "**%s**\n\n", v.Verdict)
	}
	fmt.Fprintf(&b, "%s\n\nRun `%s`, ended %s.\n", plain(doc.Summary), code(doc.RunID), v.EndedAt)
	if doc.DryRun {
		b.WriteString("\nA dry run: nothing was changed.\n")
	}
	if len(v.Checks) > 0 {
		b.WriteString("\n| check | verdict | what was found |\n| --- | --- | --- |\n")
		for _, c := range v.Checks {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", plain(c.Name), c.Verdict, plain(c.Detail))
		}
	}
	b.WriteString("\n| step | verdict | seconds |\n| --- | --- | --- |\n")
	for _, s := range doc.Steps {
		fmt.Fprintf(&b, "| %s | %s | %.1f |\n", plain(s.Name), s.Verdict, s.Seconds)
	}
	if len(v.Facts) > 0 {
		b.WriteString("\n| | |\n| --- | --- |\n")
		for _, f := range v.Facts {
			fmt.Fprintf(&b, "| %s | %s |\n", plain(f.Name), plain(f.Value))
		}
	}
	if len(doc.Left) > 0 {
		b.WriteString("\n## Left over, for a person to clear away\n\n")
		for _, l := range doc.Left {
			fmt.Fprintf(&b, "- %s\n", plain(l))
		}
	}
	if v.Scope != "" {
		fmt.Fprintf(&b, "\n## Scope\n\n%s\n", plain(v.Scope))
	}
	return b.String()
}

// plain keeps a text from being read as Markdown or HTML.
func plain(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "\r", " ", "<", "&lt;", ">", "&gt;", "`", "\\`", "[", "\\[", "*", "\\*").Replace(s)
}

func code(s string) string { return strings.NewReplacer("`", "'", "\n", " ").Replace(s) }

// Bytes writes a size for people.
func Bytes(n int64) string {
	const k = 1024
	switch f := float64(n); {
	case n < k:
		return fmt.Sprintf("%d B", n)
	case n < k*k:
		return fmt.Sprintf("%.1f KiB", f/k)
	case n < k*k*k:
		return fmt.Sprintf("%.1f MiB", f/k/k)
	default:
		return fmt.Sprintf("%.2f GiB", f/k/k/k)
	}
}
