// Package report writes what a run did for people: a page that a browser shows without a network or
// a script, the same as Markdown, and a short text for a terminal. All follow from the run's document
// and, where the run is held against those before it, from what these measured; so writing them twice
// gives the same bytes.
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
	"unicode"

	"github.com/upkeep-run/upkeep/api/run"
	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/trend"
)

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"css":     func(v run.Verdict) string { return strings.ToLower(strings.ReplaceAll(string(v), "_", "-")) },
	"words":   words,
	"seconds": Seconds,
}).Parse(pageText))

// view is a document with its result laid out.
type view struct {
	run.Document
	EndedAt string
	Verdict run.Verdict
	Checks  []run.Check
	Facts   []fact
	Scope   string
	Restore string // the command that brings the run's backup back
	Folder  string // of the run's backup, in the store
	Trend   *history
	longest float64
}

// fact is one value of a result.
type fact struct{ Name, Value string }

// Share is a step's part of the longest step in percent, for its bar.
func (v view) Share(s run.Step) int {
	if v.longest <= 0 {
		return 0
	}
	return int(s.Seconds / v.longest * 100)
}

func lay(doc run.Document, ended time.Time) view {
	v := view{Document: doc, EndedAt: ended.UTC().Format(time.RFC1123)}
	var known struct {
		Verdict run.Verdict `json:"verdict"`
		Checks  []run.Check `json:"checks"`
		Scope   string      `json:"scope"`
		Backup  string      `json:"backupId"`
	}
	// A result of another shape has none of these: that is no error, it has only figures.
	_ = json.Unmarshal(doc.Result, &known)
	v.Verdict, v.Checks, v.Scope = known.Verdict, known.Checks, known.Scope
	if format.ValidID(known.Backup) && format.ValidID(doc.Target) {
		v.Restore = fmt.Sprintf("upkeep run RestoreDatabase --target %s --set backup=%s --wait", doc.Target, known.Backup)
		v.Folder = strings.TrimSuffix(format.BackupKey(doc.Target, known.Backup, ""), "/")
	}
	v.Facts = facts(doc.Result)
	for _, s := range doc.Steps {
		v.longest = max(v.longest, s.Seconds)
	}
	return v
}

// facts are the plain values of a result, by name.
func facts(result json.RawMessage) []fact {
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(result))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil
	}
	var out []fact
	for name, value := range values {
		switch name {
		case "checks", "verdict", "scope":
			continue // they have their own place
		}
		if text := plainValue(name, value); text != "" {
			out = append(out, fact{words(name), text})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// plainValue writes a value for people; "" for what has no short form.
func plainValue(name string, value any) string {
	switch v := value.(type) {
	case string:
		return v
	case bool:
		return fmt.Sprint(v)
	case json.Number:
		whole, err := v.Int64()
		if err != nil {
			return v.String()
		}
		if strings.Contains(strings.ToLower(name), "bytes") {
			if whole < 0 {
				return "" // not known
			}
			return Bytes(whole)
		}
		return Count(whole)
	case []any:
		var parts []string
		for _, p := range v {
			if text := plainValue("", p); text != "" {
				parts = append(parts, text)
			}
		}
		return strings.Join(parts, ", ")
	}
	return ""
}

// HTML writes the page.
func HTML(doc run.Document, ended time.Time, past trend.Past) ([]byte, error) {
	v := lay(doc, ended)
	v.Trend = look(doc, ended, past)
	var out bytes.Buffer
	if err := page.Execute(&out, v); err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return out.Bytes(), nil
}

// words writes a field's name as words: "bytesStored" becomes "bytes stored".
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.TrimSuffix(b.String(), " id")
}

// Seconds writes a duration for people.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", s)
	}
	return d.Round(time.Second).String()
}

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

// Count writes a whole number with its thousands apart.
func Count(n int64) string {
	digits := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}
