package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/trend"
)

// Markdown writes the page's content as Markdown.
func Markdown(doc run.Document, ended time.Time, past trend.Past) string {
	v := lay(doc, ended)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s of %s: %s\n\n", plain(doc.Procedure), plain(doc.Target), doc.Outcome)
	if v.Verdict != "" {
		fmt.Fprintf(&b, "**%s**\n\n", plain(string(v.Verdict)))
	}
	fmt.Fprintf(&b, "%s\n\nRun %s, ended %s.\n", plain(doc.Summary), plain(doc.RunID), v.EndedAt)
	if doc.DryRun {
		b.WriteString("\nA dry run: nothing was changed.\n")
	}
	if doc.Error != nil {
		fmt.Fprintf(&b, "\n## Why\n\n%s\n", plain(doc.Error.What))
		if doc.Error.Remedy != "" {
			fmt.Fprintf(&b, "\nWhat to do: %s\n", plain(doc.Error.Remedy))
		}
	}
	if len(v.Checks) > 0 {
		b.WriteString("\n## What was checked\n\n| check | verdict | what was found |\n| --- | --- | --- |\n")
		for _, c := range v.Checks {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", plain(c.Name), plain(string(c.Verdict)), plain(c.Detail))
		}
	}
	b.WriteString("\n## Steps\n\n| step | verdict | time | |\n| --- | --- | ---: | --- |\n")
	for _, s := range doc.Steps {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", plain(s.Name), plain(string(s.Verdict)), Seconds(s.Seconds), plain(s.Detail))
	}
	if len(v.Facts) > 0 {
		b.WriteString("\n## Figures\n\n| | |\n| --- | --- |\n")
		for _, f := range v.Facts {
			fmt.Fprintf(&b, "| %s | %s |\n", plain(f.Name), plain(f.Value))
		}
	}
	if h := look(doc, ended, past); h != nil {
		h.markdown(&b)
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
	if v.Restore != "" {
		fmt.Fprintf(&b, "\n## Bring it back\n\nBeside the original: `%s`\n\nWithout Upkeep: the store's folder `%s` holds RESTORE.md and restore.sh.\n", v.Restore, v.Folder)
	}
	return b.String()
}

// markdown writes the trend as a table.
func (h *history) markdown(b *strings.Builder) {
	b.WriteString("\n## Trend\n\n")
	head, rule := "| ended (UTC) | |", "| --- | --- |"
	for _, c := range h.Charts {
		fmt.Fprintf(b, "- %s: %s\n", c.Name, plain(c.Says))
		head, rule = head+" "+c.Name+" |", rule+" ---: |"
	}
	if len(h.Charts) > 0 {
		fmt.Fprintf(b, "\n%s\n%s\n", head, rule)
	}
	for i, r := range h.Rows {
		if i == len(h.Rows)-1 {
			r.Ended = "this run"
		}
		fmt.Fprintf(b, "| %s | %s |", r.Ended, plain(r.Status))
		for _, v := range r.Values {
			fmt.Fprintf(b, " %s |", plain(v))
		}
		b.WriteString("\n")
	}
	for _, n := range h.Notes {
		fmt.Fprintf(b, "\n%s\n", plain(n))
	}
}

// escapes are what Markdown or HTML would read.
var escapes = strings.NewReplacer(`\`, `\\`, "|", `\|`, "&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "\\`", "[", `\[`, "]", `\]`, "*", `\*`, "_", `\_`)

// plain keeps a text from being read as Markdown or HTML, and in one line.
func plain(s string) string { return escapes.Replace(line(s)) }
